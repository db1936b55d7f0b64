//! The programs that a bench measures: ours, and with `--against PATH` another one, or with
//! `--signed` ours without signatures. They take turns, so that a busy minute meets both.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::args::Args;
use super::scratch::Scratch;
use super::{PLUGIN, Result};

struct Program {
    path: String,
    /// What it is started with, beside a bucket.
    flags: Vec<String>,
}

/// Ours, and the other one if there is one.
static PROGRAMS: OnceLock<(Program, Option<Program>)> = OnceLock::new();
/// Whether it is the other's turn.
static OTHER: AtomicBool = AtomicBool::new(false);

/// Takes the programs from a bench's arguments, before the first measurement.
pub fn choose(args: &Args) -> Result<()> {
    let plain = |path: &str| Program { path: path.into(), flags: vec![] };
    let against = args.text("against", "");
    let programs = match (against, args.text("signed", "")) {
        ("", "") => (plain(PLUGIN), None),
        ("", _) => (
            Program { flags: vec![format!("--signing-key-file={}", key()?.display())], ..plain(PLUGIN) },
            Some(plain(PLUGIN)),
        ),
        (path, "") => {
            let path = Path::new(path).canonicalize().map_err(|e| format!("--against {path}: {e}"))?;
            (plain(PLUGIN), Some(plain(&path.to_string_lossy())))
        }
        _ => return Err("--against and --signed: one of the two".into()),
    };
    let _ = PROGRAMS.set(programs);
    Ok(())
}

/// Makes a pair of keys: the private one's path; the public one has `.pub` behind it.
pub fn key() -> Result<PathBuf> {
    let key = Scratch::open()?.fresh("key")?.join("signing");
    let out = Command::new(PLUGIN).arg("keygen").arg(&key).env_clear().env("HOME", "/nonexistent").output()?;
    if !out.status.success() {
        return Err(format!("keygen: {}: {}", out.status, String::from_utf8_lossy(&out.stderr)).into());
    }
    Ok(key)
}

fn now() -> &'static Program {
    let (ours, other) = PROGRAMS.get_or_init(|| (Program { path: PLUGIN.into(), flags: vec![] }, None));
    other.as_ref().filter(|_| is_other()).unwrap_or(ours)
}

/// Whether there are two.
pub fn two() -> bool {
    PROGRAMS.get().is_some_and(|(_, other)| other.is_some())
}

/// Whether it is the other's turn.
pub fn is_other() -> bool {
    OTHER.load(Relaxed)
}

/// The path of the program whose turn it is.
pub fn program() -> &'static str {
    &now().path
}

/// What it is started with, beside a bucket.
pub fn flags() -> &'static [String] {
    &now().flags
}

/// `name`, or what stands for it while it is the other's turn: directories and buckets are not shared.
pub fn own(name: &str) -> String {
    format!("{name}{}", if is_other() { "-other" } else { "" })
}

/// Does `work` for each program; the one that goes first changes from round to round.
pub fn each(round: usize, mut work: impl FnMut() -> Result<()>) -> Result<()> {
    let order = [round % 2 == 1, round.is_multiple_of(2)];
    order.into_iter().filter(|other| !other || two()).try_for_each(|other| {
        OTHER.store(other, Relaxed);
        let outcome = work();
        OTHER.store(false, Relaxed);
        outcome
    })
}
