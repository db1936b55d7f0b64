//! The module proxy: the GOPROXY protocol below /mod/, sum databases included.
//!
//! Invariants: a request that is not of the protocol, letter for letter, touches neither disk nor
//! upstream; what is kept was verified, by its form and, where it is public, by the sum database, or is
//! noted as still to be (`verify`); a private module is asked of those upstreams alone that were named
//! for it, and no sum database is asked for it.

mod depot;
mod fetch;
pub(crate) mod path;
mod probe;
mod reply;
mod sumdb;
mod upstream;
mod verify;
mod zip;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::sync::Arc;

use serde_json::Value;

use self::depot::Depot;
use self::path::{ModFile, ModPath, is_pseudo};
pub use self::probe::probe;
pub(crate) use self::reply::text;
use self::reply::{refusal, reply};
use self::sumdb::Database;
use self::upstream::FetchError;
pub(crate) use self::verify::UNVERIFIED;
use self::verify::Verifier;
pub(crate) use self::zip::MAX_ZIP;
use super::auth::Access;
use super::exchange::{Body, Reply, Request, TEXT};
use crate::config::ModProxyConfig;
use crate::flight::Flights;
use crate::id::OutputId;
use crate::metrics::Metrics;
use crate::places::Places;
use crate::store::{Blob, BlobStore};

/// Answers that are renewed at a time while they are served, and records of the sum database that are asked for before
/// there is a module to compare.
const BESIDE: usize = 32;

/// Answers what is asked below /mod/.
pub struct ModProxy {
    depot: Arc<Depot>,
    /// The sum databases that are proxied; the first says what modules must be.
    databases: Vec<Database>,
    verifier: Verifier,
    flights: Arc<Flights<String, Result<Blob, FetchError>>>,
    beside: Arc<Places>,
}

/// Names of files and what is in them, on their way out.
pub type Put<'a> = &'a mut dyn FnMut(&str, &[u8]) -> io::Result<()>;

impl ModProxy {
    /// A proxy over `store`, which is of [`crate::store::Kind::Module`]. The error is one line for
    /// people.
    pub fn new(config: &ModProxyConfig, store: Arc<BlobStore>, metrics: Arc<Metrics>) -> Result<Arc<Self>, String> {
        let depot = Arc::new(Depot::new(config, store, metrics)?);
        Ok(Arc::new(ModProxy {
            databases: config.sumdb.iter().map(|database| Database::new(database, &depot)).collect(),
            depot,
            verifier: Verifier::new(),
            flights: Arc::default(),
            beside: Places::new(BESIDE),
        }))
    }

    /// The file, kept, checked as always.
    pub fn get(self: &Arc<Self>, wanted: &ModPath) -> Result<Blob, FetchError> {
        self.found(wanted).and_then(|found| self.verified(wanted, found))
    }

    /// What is kept, of the sum databases too.
    pub fn store(&self) -> &BlobStore {
        &self.depot.store
    }

    /// Gives `put` what the sum database says of the modules whose files these are, with all that it takes to
    /// verify that.
    pub fn sums(&self, files: &BTreeSet<ModPath>, put: Put<'_>) -> io::Result<()> {
        let summed = files.iter().filter(|path| self.judge(path).is_some());
        let modules = summed.map(|path| (path.module.clone(), path.version.clone())).collect();
        self.databases.first().map_or(Ok(()), |database| database.export(&modules, put))
    }

    /// The answer to `request`, which is of a path below /mod/.
    pub fn handle(self: &Arc<Self>, request: Request<'_>) -> Reply {
        let Some(path) = request.path.strip_prefix("/mod/").and_then(path::decode) else {
            self.depot.metrics.modcache.path_error.inc();
            return refusal(400, "bad request: malformed escapes or bytes that no module path has\n");
        };
        if let Some(rest) = path.strip_prefix("sumdb/") {
            return sumdb::answer(&self.databases, rest, &|module| self.is_private(module));
        }
        match ModPath::parse(&path) {
            Ok(wanted) => self.module(&wanted, request.access),
            Err((status, why)) => {
                self.depot.metrics.modcache.path_error.inc();
                let what = if status == 400 { "bad request" } else { "not found" };
                refusal(status, format!("{what}: {why}\n"))
            }
        }
    }

    fn is_private(&self, module: &str) -> bool {
        path::matches_prefix(&self.depot.config.private, module)
    }

    fn module(self: &Arc<Self>, wanted: &ModPath, access: Access) -> Reply {
        let private = self.is_private(&wanted.module);
        if private && !access.private_modules {
            return access.refusal(false, "a private module");
        }
        let found = self.get(wanted);
        if let Err(FetchError::Refused(_, why)) = &found {
            self.verifier.tell(why);
        }
        // what the sum database has yet to vouch for is not for others to keep for good
        let unsure = self.judge(wanted).is_some() && found.as_ref().is_ok_and(|blob| blob.note == UNVERIFIED);
        let ttl = (wanted.is_mutable() || unsure).then_some(self.depot.config.ttl);
        let outcome: Result<Body, _> = match (wanted.file, found) {
            (ModFile::List, found) if self.depot.config.offline => self.list(wanted, found),
            (ModFile::Latest, Err(e)) if self.depot.config.offline => {
                self.latest(wanted).and_then(|info| self.get(&info).ok()).map(Body::from).ok_or(e)
            }
            (_, found) => found.map(Body::from),
        };
        let (_, content_type) = form(wanted.file);
        reply(outcome, content_type, private, ttl)
    }

    /// The versions of a module, where nobody may be asked: those of the list that was `found`, and what else is here.
    fn list(&self, wanted: &ModPath, found: Result<Blob, FetchError>) -> Result<Body, FetchError> {
        let all = self.depot.versions();
        let here = all.get(&wanted.module);
        let kept = match found {
            Err(e) if here.is_none() => return Err(e),
            found => found.ok().and_then(|blob| text(&blob.file).ok()).unwrap_or_default(),
        };
        Ok(Body::Bytes(list(here.into_iter().flatten(), &kept).into_bytes()))
    }

    /// The `.info` of the version that `go` would choose of those that are kept.
    fn latest(&self, wanted: &ModPath) -> Option<ModPath> {
        let all = self.depot.versions();
        let best = path::latest(all.get(&wanted.module)?.iter().map(String::as_str))?;
        ModPath::parse(&path::name(&wanted.module, best, "info")).ok()
    }

    /// Has `work` done for `wanted` beside what is answered, where there is room for it.
    fn aside(self: &Arc<Self>, name: &str, wanted: &ModPath, work: impl FnOnce(&Arc<Self>, &ModPath) + Send + 'static) {
        let (this, wanted) = (self.clone(), wanted.clone());
        self.beside.aside(name, move || work(&this, &wanted));
    }
}

/// How many bytes such a file has at most, and what is said of its type.
fn form(file: ModFile) -> (u64, &'static str) {
    match file {
        ModFile::List => (16 << 20, TEXT),
        ModFile::Latest | ModFile::Info => (1 << 20, "application/json"),
        // this and the next are the limits of go
        ModFile::Mod => (16 << 20, TEXT),
        ModFile::Zip => (MAX_ZIP, "application/zip"),
    }
}

/// A list of versions: of those that are here the ones that have a tag, and those of another list.
pub fn list<'a>(here: impl Iterator<Item = &'a String>, other: &'a str) -> String {
    let tagged = here.map(String::as_str).filter(|version| !is_pseudo(version));
    let mut versions: Vec<_> = tagged.chain(other.lines()).collect();
    versions.sort_by_cached_key(|version| (path::canonical(version), version.to_string()));
    versions.dedup();
    versions.iter().map(|version| format!("{version}\n")).collect()
}

/// The canonical version in a `.info`.
pub(crate) fn version_in(info: &str) -> Result<String, String> {
    let info: Value = serde_json::from_str(info).map_err(|e| format!("not the JSON that go expects: {e}"))?;
    let version = info["Version"].as_str().unwrap_or_default();
    if path::is_canonical(version) { Ok(version.to_string()) } else { Err(format!("{version:?} is no version")) }
}

/// A `.info` of the version asked for, if one was. go.sum has no hash of it.
fn check_info(file: &File, asked: Option<&String>) -> Result<String, String> {
    let version = version_in(&text(file)?)?;
    match asked {
        Some(asked) if *asked != version => Err(format!("it is for version {version}")),
        _ => Ok(String::new()),
    }
}

/// A go.mod with a module directive. Which module that names is not compared: for old modules it
/// is another than the path they are known by, and `go` sorts that out.
/// The hash is go.sum's.
fn check_mod(file: &File) -> Result<String, String> {
    let text = text(file)?;
    if directives(&text, "module").iter().all(Vec::is_empty) {
        return Err("a go.mod without a module directive".into());
    }
    Ok(zip::hash(vec![("go.mod".into(), OutputId::of(text.as_bytes()))]))
}

/// The words of each `name` directive of a go.mod, alone or in a block.
pub(crate) fn directives(text: &str, name: &str) -> Vec<Vec<String>> {
    let (mut found, mut inside) = (Vec::new(), false);
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or_default().trim_end();
        // it may follow the name at once
        let (line, opens) = line.strip_suffix('(').map_or((line, false), |line| (line, true));
        let words = line.split(|c: char| c.is_whitespace() || matches!(c, '"' | '`'));
        let words: Vec<String> = words.filter(|word| !word.is_empty()).map(str::to_string).collect();
        match words.first().map(String::as_str) {
            Some(")") => inside = false,
            Some(first) if first == name && opens => inside = true,
            Some(first) if first == name => found.push(words[1..].to_vec()),
            Some(_) if inside => found.push(words),
            _ => {}
        }
    }
    found
}

/// Lines that begin with a version, or nothing. go.sum has no hash of it.
fn check_list(file: &File) -> Result<String, String> {
    let text = text(file)?;
    let version =
        |word: &str| word.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    match text.lines().filter_map(|line| line.split_whitespace().next()).find(|word| !version(word)) {
        Some(word) => Err(format!("not a list of versions: {:?}", word.chars().take(40).collect::<String>())),
        None => Ok(String::new()),
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
