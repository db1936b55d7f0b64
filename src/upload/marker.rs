//! A marker: one upload that is owed, as a file.
//!
//! ```text
//! pending/<token of the process>/<number, hex>:
//! gcp-upload 1
//! <endpoint, bucket, prefix, layout>
//! <kind> <name> <hash of what it was when it was put, or any> signed|unsigned
//! ```
//!
//! Its time of change is when the thing was put. An earlier version had `pending/<hash of bucket and
//! prefix>-<pid>-<nanoseconds>/<kind>-<name>`, empty files beside a locked `.lock`; these are read too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Target;
use crate::atomic::{at, read_small};
use crate::folder::{is_id, is_real_dir};
use crate::id::{OutputId, hex};
use crate::lease::{Census, LEASE, is_token};
use crate::platform::careful;
use crate::text::things;

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
    /// The hash of what it was when it was put; an earlier version did not say.
    pub value: Option<OutputId>,
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
    pub fn new(target: &Target, kind: &str, name: &str, value: Option<OutputId>) -> Self {
        let (kind, name) = (kind.to_string(), name.to_string());
        Marker { target: target.name.clone(), kind, name, value, signed: Some(target.signed) }
    }

    /// The file's text.
    pub fn encode(&self) -> String {
        let signed = if self.signed == Some(true) { "signed" } else { "unsigned" };
        let value = self.value.map_or_else(|| "any".to_string(), |value| value.to_string());
        format!("{MAGIC}\n{}\n{} {} {value} {signed}\n", self.target, self.kind, self.name)
    }

    fn decode(text: &str) -> Option<Self> {
        let (target, job) = text.strip_prefix(MAGIC)?.strip_prefix('\n')?.strip_suffix('\n')?.split_once('\n')?;
        let mut words = job.split(' ');
        let (kind, name) = (words.next()?.to_string(), words.next()?.to_string());
        let value = OutputId::from_hex(words.next()?);
        let signed = match words.next()? {
            "signed" => true,
            "unsigned" => false,
            _ => return None,
        };
        Some(Marker { target: target.to_string(), kind, name, value, signed: Some(signed) })
    }

    /// Reads a marker of this version.
    pub fn read(path: &Path) -> Option<Self> {
        Self::decode(&text(path).ok()?)
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
            None => match careful().open(self.path.with_file_name(LOCK)) {
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
    read_small(path, LIMIT).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Calls `each` for every marker below the cache directory `root`, whoever made it, in the order of each
/// process's puts. Folders that are empty by then go.
pub fn each(root: &Path, mut each: impl FnMut(&Found)) -> io::Result<()> {
    let pending = root.join(PENDING);
    if !is_real_dir(&pending) {
        return Ok(());
    }
    for dir in fs::read_dir(&pending).map_err(at(&pending))? {
        let dir = dir?;
        let Ok(owner) = dir.file_name().into_string() else { continue };
        let mut parts = owner.split('-');
        let (first, legacy) = (parts.next().unwrap_or_default(), parts.count() == 2);
        if !(legacy || is_token(&owner)) || !is_real_dir(&dir.path()) {
            continue;
        }
        // one that is gone by now has been dealt with
        let names = fs::read_dir(dir.path()).into_iter().flatten().flatten();
        let names = names.filter_map(|e| e.file_name().into_string().ok());
        let ours = |name: &String| if legacy { !name.starts_with('.') } else { name.len() == 12 && is_id(name) };
        let mut names: Vec<String> = names.filter(ours).collect();
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
                    Marker { target, kind, name, value: None, signed }
                });
            } else if let Ok(text) = text(&found.path) {
                (found.marker, found.cut) = (Marker::decode(&text), !text.ends_with('\n'));
            }
            each(&found);
        }
        if legacy && fs::read_dir(dir.path()).is_ok_and(|left| left.count() == 1) {
            let lock = dir.path().join(LOCK);
            if careful().open(&lock).is_ok_and(|l| l.try_lock().is_ok()) {
                let _ = fs::remove_file(lock);
            }
        }
        // one that holds something stays, and so does that of a process that is not yet swept
        if !root.join(LEASE).join(&owner).exists() {
            let _ = fs::remove_dir(dir.path());
        }
    }
    Ok(())
}

/// Drops the markers that have waited for longer than `age`, with a line that says how many, and calls
/// `left` for the others; none goes before the directory was `ours` for that long by the same clock.
pub fn expire(root: &Path, age: Duration, ours: Option<Duration>, mut left: impl FnMut(&Found)) -> io::Result<()> {
    let (now, mut dropped) = (SystemTime::now(), 0u64);
    let known = ours.is_some_and(|ours| ours > age);
    each(root, |found| {
        // a time in the future is no age
        let expired = known && now.duration_since(found.modified).is_ok_and(|waited| waited > age);
        if expired && fs::remove_file(&found.path).is_ok() {
            dropped += 1;
        } else {
            left(found);
        }
    })?;
    if dropped > 0 {
        let hours = age.as_secs() / 3600;
        let (root, dropped) = (root.display(), things(dropped, "upload"));
        log::warn!("{root}: {dropped} given up after more than {hours} h (--pending-expiry)");
    }
    Ok(())
}

/// How an earlier version named its folders after the bucket and prefix.
fn legacy_tag(identity: &str) -> String {
    hex(&OutputId::of(identity.as_bytes()).0[..6])
}
