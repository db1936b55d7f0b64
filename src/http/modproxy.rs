//! The module proxy: the GOPROXY protocol below /mod/, sum databases included.
//!
//! Invariants: a request that is not of the protocol, letter for letter, touches neither disk nor
//! upstream; what is kept was verified; a private module is asked of no public upstream, nor is the
//! public sum database asked for it.

mod path;
mod reply;
mod sumdb;
mod zip;

use std::fs::File;
use std::sync::Arc;

use serde::Deserialize;

use self::path::{ModFile, ModPath};
use self::reply::{Caching, refusal, reply, text};
use self::sumdb::SumDb;
use super::auth::Access;
use super::depot::{Depot, Source, Wanted};
use super::exchange::{Handler, Method, Reply, Request};
use super::upstream::Upstreams;
use crate::config::ModProxyConfig;
use crate::metrics::Metrics;
use crate::store::BlobStore;

/// Bytes of a `.info` or `@latest`.
const MAX_INFO: u64 = 1 << 20;
/// Bytes of a list of versions.
const MAX_LIST: u64 = 16 << 20;

/// Answers what is asked below /mod/.
pub struct ModProxy {
    depot: Depot,
    sumdb: SumDb,
    private: String,
    metrics: Arc<Metrics>,
}

impl ModProxy {
    /// A proxy over `store`, which is of [`crate::store::Kind::Module`]. The error is one line for
    /// people.
    pub fn new(config: &ModProxyConfig, store: Arc<BlobStore>, metrics: Arc<Metrics>) -> Result<Self, String> {
        let upstreams = Upstreams::new(&config.upstream, config.netrc.as_deref())?;
        let depot = Depot::new(store, upstreams, config.offline, config.ttl, metrics.clone());
        Ok(ModProxy { depot, sumdb: SumDb::new(&config.sumdb), private: config.private.clone(), metrics })
    }

    /// Answers for a path below /mod/, as it was sent.
    fn answer(&self, sent: &str, access: Access) -> Reply {
        let Some(path) = path::decode(sent) else {
            self.metrics.modcache.path_error.inc();
            return refusal(400, "bad request: malformed escapes or bytes that no module path has\n");
        };
        if let Some(rest) = path.strip_prefix("sumdb/") {
            let private = |module: &str| path::matches_prefix(&self.private, module);
            return self.sumdb.answer(&self.depot, &path, rest, &private, &self.metrics);
        }
        match ModPath::parse(&path) {
            Ok(wanted) => self.module(&path, &wanted, access),
            Err(why) => {
                self.metrics.modcache.path_error.inc();
                refusal(404, format!("not found: {why}\n"))
            }
        }
    }

    fn module(&self, name: &str, wanted: &ModPath, access: Access) -> Reply {
        let private = path::matches_prefix(&self.private, &wanted.module);
        if private && !access.private_modules {
            return access.refusal(false, "a private module");
        }
        let (content_type, limit) = match &wanted.file {
            ModFile::List => ("text/plain; charset=utf-8", MAX_LIST),
            ModFile::Latest | ModFile::Info(_) => ("application/json", MAX_INFO),
            ModFile::Mod(_) => ("text/plain; charset=utf-8", zip::MAX_SMALL),
            ModFile::Zip(_) => ("application/zip", zip::MAX_ZIP),
        };
        let check = |file: &File| match &wanted.file {
            ModFile::List => check_list(file),
            ModFile::Latest => check_info(file, None),
            ModFile::Info(version) => check_info(file, path::is_canonical(version).then_some(version)),
            ModFile::Mod(_) => check_mod(file),
            ModFile::Zip(version) => zip::check(file, &wanted.module, version),
        };
        let mutable = wanted.is_mutable();
        let source = Source::List { path: name, private };
        let caching = Caching { private, ttl: mutable.then_some(self.depot.ttl()) };
        reply(self.depot.get(&Wanted { name, mutable, limit, check: &check, source }), content_type, caching)
    }
}

impl Handler for ModProxy {
    fn handle(&self, request: Request) -> Reply {
        if !matches!(request.method, Method::Get | Method::Head) {
            return refusal(405, "the module proxy answers GET and HEAD\n").header("Allow", "GET, HEAD");
        }
        match request.path.strip_prefix("/mod/") {
            Some(path) => self.answer(path, request.access),
            None => refusal(404, "not found: the module proxy is below /mod/\n"),
        }
    }
}

/// What of a `.info` is looked at.
#[derive(Deserialize)]
struct Info {
    #[serde(rename = "Version")]
    version: String,
}

/// A JSON object with a canonical version, the one asked for if one was.
fn check_info(file: &File, asked: Option<&String>) -> Result<(), String> {
    let info: Info = serde_json::from_str(&text(file)?).map_err(|e| format!("not the JSON that go expects: {e}"))?;
    if !path::is_canonical(&info.version) {
        return Err(format!("{:?} is no version", info.version));
    }
    match asked {
        Some(asked) if *asked != info.version => Err(format!("it is for version {}", info.version)),
        _ => Ok(()),
    }
}

/// A go.mod with a module directive. Which module that names is not compared: for old modules it
/// is another than the path they are known by, and `go` sorts that out.
fn check_mod(file: &File) -> Result<(), String> {
    let text = text(file)?;
    let names_module = |line: &str| {
        let line = line.split("//").next().unwrap_or_default().trim();
        line.strip_prefix("module")
            .is_some_and(|rest| rest.starts_with([' ', '\t', '"', '`', '(']) && !rest.trim().is_empty())
    };
    if text.lines().any(names_module) { Ok(()) } else { Err("a go.mod without a module directive".into()) }
}

/// Lines that begin with a version, or nothing.
fn check_list(file: &File) -> Result<(), String> {
    let text = text(file)?;
    let version =
        |word: &str| word.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    match text.lines().filter_map(|line| line.split_whitespace().next()).find(|word| !version(word)) {
        Some(word) => Err(format!("not a list of versions: {:?}", word.chars().take(40).collect::<String>())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    fn file(text: &str) -> File {
        let mut temp = crate::atomic::TempFile::create(&std::env::temp_dir()).unwrap();
        temp.file().write_all(text.as_bytes()).unwrap();
        temp.file().rewind().unwrap();
        temp.file().try_clone().unwrap()
    }

    #[test]
    fn infos() {
        let v = "v1.2.3".to_string();
        check_info(&file(r#"{"Version":"v1.2.3","Time":"2020-01-01T00:00:00Z","Origin":{}}"#), Some(&v)).unwrap();
        check_info(&file(r#"{"Version":"v1.2.4"}"#), None).unwrap();
        for bad in [r#"{"Version":"v1.2.4"}"#, "{}", "", "<html>", r#"{"Version":"v1.2.3""#] {
            assert!(check_info(&file(bad), Some(&v)).is_err(), "{bad}");
        }
        assert!(check_info(&file(r#"{"Version":"master"}"#), None).is_err());
    }

    #[test]
    fn go_mods() {
        for good in ["module a.b/c\n", "// c\nmodule \"a.b/c\" // d\ngo 1.20", "module\ta", "module (\n a.b\n)\n"] {
            check_mod(&file(good)).unwrap();
        }
        for bad in ["", "// module a\n", "modules a\n", "<html>module</html>", "module\n", "require a.b v1.0.0\n"] {
            assert!(check_mod(&file(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn lists() {
        for good in ["", "\n", "v1.0.0\nv1.1.0-pre\n", "v1.0.0 2020-01-01T00:00:00Z\n"] {
            check_list(&file(good)).unwrap();
        }
        for bad in ["<html>\n", "v1.0.0\nlogin required\n", "vx\n"] {
            assert!(check_list(&file(bad)).is_err(), "{bad}");
        }
    }
}
