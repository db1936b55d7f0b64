//! Private modules from their origin, by the `go` and `git` on PATH, with git's own credentials.

use std::env;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::FetchError;
use crate::atomic::read_text;
use crate::http::modproxy::path::{ModFile, ModPath, name};
use crate::platform;
use crate::private_dir::PrivateDir;

/// How long `go` may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes of what it says.
const SAID: u64 = 16 << 20;
/// What `go` and `git` say of what is not there.
const ABSENT: [&str; 6] =
    ["unknown revision", "no matching versions", "not found", "does not exist", "invalid version", "malformed"];

/// What `go` says of a module.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Said {
    version: String,
    versions: Vec<String>,
    error: String,
    info: PathBuf,
    go_mod: PathBuf,
    zip: PathBuf,
}

/// The file at `path`, as a proxy would have it; the others of that version go to `beside`.
pub(super) fn fetch(path: &str, beside: &dyn Fn(&str, File)) -> Result<Box<dyn Read>, FetchError> {
    let ended = |(status, why): (u16, String)| FetchError::Failed(status, format!("direct/{path}: {why}"));
    let failed = |why: String| ended((502, why));
    let wanted = ModPath::parse(path).map_err(|(_, why)| failed(why))?;
    let query = if wanted.version.is_empty() { "latest" } else { &wanted.version };
    // one for each run of `go`
    let folder = PrivateDir::new(&env::temp_dir(), |_| true).map_err(|e| failed(e.to_string()))?;
    let args: &[&str] = match wanted.file {
        ModFile::List => &["list", "-m", "-versions", "-json"],
        _ => &["mod", "download", "-json"],
    };
    let (said, errors) = run(args, &format!("{}@{query}", wanted.module), &folder.path).map_err(ended)?;
    let said: Said = serde_json::from_str(&said).unwrap_or_default();
    if said.version.is_empty() || !said.error.is_empty() {
        let why = if said.error.is_empty() { errors.trim() } else { said.error.trim() };
        let why = why.lines().collect::<Vec<_>>().join("; ");
        let absent = ABSENT.iter().any(|words| why.contains(words));
        return Err(if absent { FetchError::absent(why) } else { failed(why) });
    }
    let open = |file: &Path| File::open(file).map_err(|e| failed(format!("{}: {e}", file.display())));
    let file = match wanted.file {
        ModFile::List => {
            let lines: String = said.versions.iter().map(|v| format!("{v}\n")).collect();
            return Ok(Box::new(Cursor::new(lines)));
        }
        ModFile::Latest | ModFile::Info => open(&said.info)?,
        ModFile::Mod => open(&said.go_mod)?,
        ModFile::Zip => open(&said.zip)?,
    };
    for (kind, made) in [("info", &said.info), ("mod", &said.go_mod), ("zip", &said.zip)] {
        let name = name(&wanted.module, &said.version, kind);
        if name != path {
            beside(&name, open(made)?);
        }
    }
    Ok(Box::new(file))
}

/// Runs `go` on `what` in `dir`: its stdout and stderr. The error is a status, and why.
fn run(args: &[&str], what: &str, dir: &Path) -> Result<(String, String), (u16, String)> {
    let [out, err] = ["out", "err"].map(|name| dir.join(name));
    let file = |path: &Path| File::create(path).map_err(|e| (502, format!("{}: {e}", path.display())));
    let mut command = Command::new("go");
    command.args(args).arg(what).current_dir(dir).stdin(Stdio::null()).stdout(file(&out)?).stderr(file(&err)?);
    command.envs([
        ("GOPROXY", "direct"),
        ("GOSUMDB", "off"),
        ("GOCACHEPROG", ""),
        ("GOTOOLCHAIN", "local"),
        ("GOFLAGS", "-modcacherw"),
        ("GOWORK", "off"),
        ("GO111MODULE", "on"),
        ("GOVCS", "*:git"),
        ("GIT_TERMINAL_PROMPT", "0"),
    ]);
    command.env("GOMODCACHE", dir.join("mod")).env("GOPATH", dir.join("path"));
    let child = platform::in_own_group(&mut command).spawn().map_err(|e| {
        (502, format!("go: {e}: to fetch private modules from their origin, go and git have to be on PATH"))
    })?;
    wait(child).ok_or_else(|| (504, format!("go did not end within {PATIENCE:?}")))?;
    Ok((read_text(&out, SAID).unwrap_or_default(), read_text(&err, SAID).unwrap_or_default()))
}

/// Waits for the end of `child`; past its time, it goes with all that it started.
fn wait(mut child: Child) -> Option<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            Ok(None) => {
                platform::kill_group(child.id());
                let _ = child.wait();
                return None;
            }
            Ok(Some(_)) | Err(_) => return Some(()),
        }
    }
}
