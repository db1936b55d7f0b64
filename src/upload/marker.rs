//! A marker: one upload that is owed, as a file.
//!
//! ```text
//! pending/<token of the process>/<number, hex>:
//! gcp-upload 1
//! <endpoint, bucket, prefix, layout>
//! <kind> <name> signed|unsigned
//! ```
//!
//! Its time of change is when the thing was put. An earlier version had `pending/<hash of bucket and
//! prefix>-<pid>-<nanoseconds>/<kind>-<name>`, empty files beside a locked `.lock`; these are read too.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Target;
use crate::id::{OutputId, hex};
use crate::lease::Census;

/// Folder of the markers.
pub const PENDING: &str = "pending";

const MAGIC: &str = "gcp-upload 1";
/// A marker is never longer than this.
const LIMIT: u64 = 16 << 10;
/// The lock file of an earlier version.
const LOCK: &str = ".lock";

/// What a marker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Where it is to go; of an earlier version's, the hash of it.
    target: String,
    /// What kind of thing it is.
    pub kind: String,
    /// What it is called.
    pub name: String,
    /// Whether it is to be signed; an earlier version did not say.
    signed: Option<bool>,
}

/// A marker that was found.
#[derive(Debug)]
pub struct Found {
    /// Its file.
    pub path: PathBuf,
    /// Who made it; nobody, where an earlier version did.
    token: Option<String>,
    /// When the thing was put.
    pub modified: SystemTime,
    /// What it says; `None` where that is cut off or of a later version.
    pub marker: Option<Marker>,
    /// Whether its maker was killed before it was written: then nothing was put.
    pub cut: bool,
}

impl Marker {
    /// The marker for the thing `name` of `kind`, bound for `target`.
    pub fn new(target: &Target, kind: &str, name: &str) -> Self {
        let (kind, name) = (kind.to_string(), name.to_string());
        Marker { target: target.name.clone(), kind, name, signed: Some(target.signed) }
    }

    /// The file's text.
    pub fn encode(&self) -> String {
        let signed = if self.signed == Some(true) { "signed" } else { "unsigned" };
        format!("{MAGIC}\n{}\n{} {} {signed}\n", self.target, self.kind, self.name)
    }

    fn decode(text: &str) -> Option<Self> {
        let (target, job) = text.strip_prefix(MAGIC)?.strip_prefix('\n')?.strip_suffix('\n')?.split_once('\n')?;
        let mut words = job.split(' ');
        let (kind, name) = (words.next()?.to_string(), words.next()?.to_string());
        let signed = match words.next()? {
            "signed" => true,
            "unsigned" => false,
            _ => return None,
        };
        Some(Marker { target: target.to_string(), kind, name, signed: Some(signed) })
    }

    /// Reads a marker of this version.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        text(path).map(|text| Self::decode(&text))
    }

    /// Whether a process that sends to `target` sends what is asked for.
    pub fn is_for(&self, target: &Target) -> bool {
        match self.signed {
            Some(signed) => signed == target.signed && self.target == target.name,
            None => self.target == legacy_tag(&target.legacy),
        }
    }
}

impl Found {
    /// Whether who made it is dead.
    pub fn is_dead(&self, census: &Census) -> bool {
        match &self.token {
            Some(token) => census.is_dead(token, self.modified),
            // the lock of an earlier version's process
            None => match File::open(self.path.with_file_name(LOCK)) {
                Ok(lock) => lock.try_lock().is_ok(),
                Err(e) => e.kind() == io::ErrorKind::NotFound,
            },
        }
    }

    /// Whether an earlier version made it.
    pub fn is_legacy(&self) -> bool {
        self.token.is_none()
    }
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LIMIT).read_to_string(&mut text)?;
    Ok(text)
}

/// Calls `each` for every marker below the cache directory `root`, whoever made it, in the order of each
/// process's puts. Folders that are empty by then go.
pub fn each(root: &Path, mut each: impl FnMut(&Found)) -> io::Result<()> {
    let dirs = match fs::read_dir(root.join(PENDING)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for dir in dirs {
        let dir = dir?;
        let Ok(owner) = dir.file_name().into_string() else { continue };
        if !dir.file_type()?.is_dir() {
            continue;
        }
        let mut parts = owner.split('-');
        let (first, legacy) = (parts.next().unwrap_or_default(), parts.count() == 2);
        let names = fs::read_dir(dir.path())?.flatten().filter_map(|e| e.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort_unstable();
        for name in names {
            let path = dir.path().join(&name);
            // another may have taken it
            let Ok(modified) = fs::symlink_metadata(&path).and_then(|m| m.modified()) else { continue };
            let mut found = Found { path, token: (!legacy).then(|| owner.clone()), modified, marker: None, cut: false };
            if legacy {
                let (target, signed) = (first.to_string(), None);
                found.marker = name.split_once('-').map(|(kind, name)| {
                    let (kind, name) = (kind.to_string(), name.to_string());
                    Marker { target, kind, name, signed }
                });
            } else if let Ok(text) = text(&found.path) {
                (found.marker, found.cut) = (Marker::decode(&text), !text.ends_with('\n'));
            }
            each(&found);
        }
        if legacy && fs::read_dir(dir.path()).is_ok_and(|left| left.count() == 1) {
            let lock = dir.path().join(LOCK);
            if File::open(&lock).is_ok_and(|l| l.try_lock().is_ok()) {
                let _ = fs::remove_file(lock);
            }
        }
        // one that holds something, or is in use, stays
        if owner != crate::atomic::process_token() {
            let _ = fs::remove_dir(dir.path());
        }
    }
    Ok(())
}

/// Drops the markers that have waited for longer than `age`, with a line that says how many.
pub fn expire(root: &Path, age: Duration) -> io::Result<()> {
    let (now, mut dropped) = (SystemTime::now(), 0u64);
    each(root, |found| {
        // a time in the future is no age
        if now.duration_since(found.modified).is_ok_and(|waited| waited > age) && fs::remove_file(&found.path).is_ok() {
            dropped += 1;
        }
    })?;
    if dropped > 0 {
        let hours = age.as_secs() / 3600;
        log::warn!(
            "{}: {dropped} uploads were given up that had waited for more than {hours} h (--pending-expiry)",
            root.display()
        );
    }
    Ok(())
}

/// How an earlier version named its folders after the bucket and prefix.
fn legacy_tag(identity: &str) -> String {
    hex(&OutputId::of(identity.as_bytes()).0[..6])
}
