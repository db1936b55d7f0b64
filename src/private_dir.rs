//! Directories that nobody else may enter, for sockets, what is carried, and runs of `go`.
//!
//! Each has a locked file in it while somebody uses it, so that whoever makes the next one finds those
//! that were left behind. They are made in TMPDIR; where that will not do, because a socket's path in it
//! would be too long or it cannot be written, in `/tmp` or the cache directory.

use std::env;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::error::Error;
use crate::lease::is_token;
use crate::platform::{DirBuilderExt, careful, is_own, mode};

/// What the directories' names begin with; a process id, a dash and a number follow.
const PREFIX: &str = "go-cache-plugin-";
const LOCK: &str = "lock";
/// For so long one may have no lock yet.
const NEWBORN: Duration = Duration::from_secs(1);

/// A directory that nobody else may enter, removed in the end.
pub struct PrivateDir {
    /// Where it is.
    pub path: PathBuf,
    /// A locked file in it says that it is in use.
    _lock: File,
}

impl PrivateDir {
    /// One of a path that `fits`, in `cache_dir` at the worst. The error is one line.
    pub fn new(cache_dir: &Path, fits: impl Fn(&str) -> bool) -> Result<Self, Error> {
        // short, for so must a socket's path be
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let chance = RandomState::new().hash_one(NEXT.fetch_add(1, Ordering::Relaxed)) as u32;
        let name = format!("{PREFIX}{}-{chance:08x}", process::id());
        let (here, mut temp) = (env::current_dir().unwrap_or_default(), env::temp_dir());
        // set to nothing, TMPDIR is not set
        if temp.as_os_str().is_empty() {
            temp = "/tmp".into();
        }
        let (mut made, mut why) = (None, String::new());
        for base in [here.join(temp), "/tmp".into(), cache_dir.to_path_buf()] {
            sweep(&base);
            let path = base.join(&name);
            let fit = path.to_str().is_some_and(&fits);
            let make = || if fit { make(path) } else { Err(io::Error::other("too long, or an odd name")) };
            made = made.or_else(|| match make() {
                Ok(made) => Some(made),
                Err(e) => {
                    why += &format!("{}: {e}; ", base.display());
                    None
                }
            });
        }
        made.ok_or_else(|| Error::failed(format!("{why}set TMPDIR to a short directory that can be written")))
    }
}

fn make(path: PathBuf) -> io::Result<PrivateDir> {
    fs::DirBuilder::new().mode(0o700).create(&path)?;
    let lock = || {
        // under its name it is locked from the start
        let (unnamed, named) = (path.join("new"), path.join(LOCK));
        let lock = File::create_new(&unnamed)?;
        lock.lock()?;
        fs::rename(unnamed, named)?;
        Ok(lock)
    };
    match lock() {
        Ok(lock) => Ok(PrivateDir { path, _lock: lock }),
        Err(e) => {
            let _ = fs::remove_dir_all(&path);
            Err(e)
        }
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what those who were killed have left in `base`.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !name.strip_prefix(PREFIX).is_some_and(is_token) {
            continue;
        }
        let Ok(meta) = entry.metadata() else { continue };
        if !meta.is_dir() || !is_own(&meta) || mode(&meta) != 0o700 {
            continue;
        }
        let left = match careful().open(entry.path().join(LOCK)) {
            Ok(lock) => lock.try_lock().is_ok(),
            // one without a lock is just being made, unless its maker came no further
            Err(_) => meta.modified().is_ok_and(|t| t.elapsed().is_ok_and(|age| age > NEWBORN)),
        };
        if left {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
