//! Who is alive: one locked file a process, `lease/<token>`.
//!
//! The lock says that the process lives. The content says since when files that it has handed out
//! must stay: the start of its oldest open session, less the granularity of last use, in nanoseconds
//! since 1970; nothing where no session is open. From these follow which markers and which
//! temporary files are left from the dead, and what a prune must spare.
//!
//! Invariants: the file is locked before anything carries its token, and goes only when nothing does.
//! A lease that cannot be read, or that begins in the future, spares everything. Where locks of other
//! machines may not be seen (any file system that is not known to be local), nothing younger than
//! [`FAR`] counts as left by the dead.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::atomic::{at, process_token};
use crate::folder::{is_real_dir, make_real_dir};
use crate::platform::{self, FileExt, careful, is_at, is_local};

/// Folder of the leases.
pub const LEASE: &str = "lease";
/// Locked by who prunes.
const PRUNE: &str = "prune";
/// For so long, what another machine may hold is taken for alive.
const FAR: Duration = Duration::from_secs(86_400);

/// What is to be said of a cache directory that other machines may use without our seeing their
/// locks; nothing where none can.
pub fn warning(root: &Path) -> &'static str {
    if root.is_dir() && !is_local(root) {
        "; on a network file system, where the locks of other machines may not be seen"
    } else {
        ""
    }
}

/// This process's lease.
pub struct Lease {
    /// The folder of all leases.
    dir: PathBuf,
    /// None in a directory that cannot be written: then nothing is pruned either, but by others.
    file: Mutex<Option<File>>,
    granularity: Duration,
    /// Starts of the open sessions, by number. Held while the file is written.
    open: Mutex<(u64, HashMap<u64, SystemTime>)>,
}

/// An open session; it ends when this is dropped.
pub struct Open(Arc<Lease>, u64);

impl Lease {
    /// Takes the lease of this process in the cache directory `root`, whose times of last use are
    /// kept to within `granularity`.
    pub fn take(root: &Path, granularity: Duration) -> Arc<Self> {
        let dir = root.join(LEASE);
        let lease = Lease { dir, file: Mutex::default(), granularity, open: Mutex::default() };
        lease.write(&HashMap::new());
        Arc::new(lease)
    }

    /// Begins a session: from now on, nothing that it may be handed is pruned. Tells also whether
    /// somebody prunes at this moment, who may not know of it yet.
    pub fn open(self: &Arc<Self>) -> (Open, bool) {
        let id = {
            let mut open = self.open.lock().expect("no holder panics");
            open.0 += 1;
            let id = open.0;
            open.1.insert(id, SystemTime::now());
            self.write(&open.1);
            id
        };
        let lock = careful().open(self.dir.join(PRUNE));
        let pruning = lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)));
        (Open(self.clone(), id), pruning)
    }

    fn write(&self, open: &HashMap<u64, SystemTime>) {
        let since = open.values().min().and_then(|t| t.checked_sub(self.granularity));
        let since = since.map(|t| t.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos());
        // always as long, so that a reader never sees a part of two
        let text = since.map_or_else(|| " ".repeat(20), |t| format!("{t:20}"));
        let there = self.is_held();
        let mut file = self.file.lock().expect("no holder panics");
        // somebody may have emptied the directory
        if !there {
            *file = lock_own(&self.dir).inspect_err(|e| log::debug!("{}: no lease: {e}", self.dir.display())).ok();
        }
        // one that says nothing spares everything
        if let Some(Err(e)) = file.as_ref().map(|file| file.write_all_at(text.as_bytes(), 0)) {
            log::debug!("{}: {e}", self.dir.display());
        }
    }

    /// Sees to it that it is there: somebody may have emptied the directory.
    pub fn renew(&self) {
        let open = self.open.lock().expect("no holder panics");
        if !self.is_held() {
            self.write(&open.1);
        }
    }

    /// Whether we have one: there is none in a directory that cannot be written.
    pub fn is_held(&self) -> bool {
        let path = self.dir.join(process_token());
        self.file.lock().expect("no holder panics").as_ref().is_some_and(|file| is_at(file, &path))
    }

    /// Gives the lease back: nothing of this process is left in the directory.
    pub fn give_back(&self) {
        let _ = fs::remove_file(self.dir.join(process_token()));
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut open = self.0.open.lock().expect("no holder panics");
        open.1.remove(&self.1);
        self.0.write(&open.1);
    }
}

fn lock_own(dir: &Path) -> io::Result<File> {
    make_real_dir(dir)?;
    let path = dir.join(process_token());
    loop {
        // who counts the leases holds it for a moment
        let file = platform::hold(&path)?;
        // before it was locked, it may have been taken for one of the dead and buried
        if is_at(&file, &path) {
            return Ok(file);
        }
    }
}

/// Takes the turn to prune below `root`, which ends when the file is closed; `None` while another has
/// it, unless the caller can `wait`.
pub fn prune_turn(root: &Path, wait: bool) -> io::Result<Option<File>> {
    let dir = root.join(LEASE);
    make_real_dir(&dir)?;
    let lock = prune_lock(&dir)?;
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) if wait => {
            log::warn!("{}: another process prunes it, and is waited for", root.display());
            lock.lock()?;
        }
        Err(TryLockError::WouldBlock) => return Ok(None),
        other => other?,
    }
    Ok(Some(lock))
}

/// Who has leases in a directory.
pub struct Census {
    dir: PathBuf,
    /// Whether other machines' locks are seen here.
    local: bool,
    /// When we looked.
    pub taken: SystemTime,
    /// Whether the process of each lease lives.
    leases: HashMap<String, bool>,
    /// What was used since then may be open somewhere.
    pub in_use_since: Option<SystemTime>,
}

impl Census {
    /// Looks at all leases below `root`.
    pub fn take(root: &Path) -> io::Result<Census> {
        let dir = root.join(LEASE);
        let now = SystemTime::now();
        let mut census =
            Census { dir: dir.clone(), local: true, taken: now, leases: HashMap::new(), in_use_since: None };
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(census),
            _ if !is_real_dir(&dir) => return Err(at(&dir)(ErrorKind::NotADirectory.into())),
            other => other.map_err(at(&dir))?,
        };
        census.local = is_local(&dir);
        let plain = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_file()));
        for name in plain.filter_map(|e| e.file_name().into_string().ok()) {
            if !is_token(&name) {
                continue;
            }
            let own = name == process_token();
            // one that is gone by now was given back
            let path = dir.join(&name);
            let Ok(file) = careful().open(&path) else { continue };
            let modified = file.metadata()?.modified()?;
            let held = own || platform::is_held(&file, &path);
            let alive = held || !census.local && is_young(modified, now);
            if alive {
                let since = since(&file).map(|t| if t > now { UNIX_EPOCH } else { t });
                census.in_use_since = [census.in_use_since, since].into_iter().flatten().min();
            }
            census.leases.insert(name, alive);
        }
        Ok(census)
    }

    /// Whether the file last changed at `modified` was left by the process called `token`, which is
    /// dead: its lease is free, or it has given it back. What has no such name was made by an earlier
    /// version, and is after a day.
    pub fn is_dead(&self, token: &str, modified: SystemTime) -> bool {
        let old = !is_young(modified, SystemTime::now());
        if !is_token(token) {
            return old;
        }
        let alive = self.leases.get(token) == Some(&true) || token == process_token() || self.lives(token);
        !alive && (self.local || old)
    }

    /// Whether the lease of `token` is locked now, or may be. One that was free when we looked may have been about to be
    /// locked: what carries its token came after that.
    fn lives(&self, token: &str) -> bool {
        let path = self.dir.join(token);
        match careful().open(&path) {
            Ok(file) => platform::is_held(&file, &path),
            Err(e) => e.kind() != ErrorKind::NotFound,
        }
    }

    /// The processes that are dead, whose leases are still there.
    pub fn dead(&self) -> impl Iterator<Item = &str> {
        let dead = self.leases.iter().filter(|(token, alive)| !**alive && !self.lives(token));
        dead.map(|(token, _)| token.as_str())
    }

    /// Forgets the dead, of whom nothing is left.
    pub fn bury(&self) {
        for path in self.dead().map(|token| self.dir.join(token)) {
            // who is about to lock it waits until we have looked, and then finds that it has gone
            if let Ok(file) = careful().open(&path)
                && !platform::is_held(&file, &path)
            {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// What a lease says; all of time where it says nothing that can be read.
fn since(file: &File) -> Option<SystemTime> {
    let mut text = String::new();
    let read = file.take(64).read_to_string(&mut text);
    if read.is_ok() && text.len() == 20 && text.trim().is_empty() {
        return None;
    }
    let nanos = text.trim().parse().unwrap_or(0);
    Some(UNIX_EPOCH + Duration::from_nanos(nanos))
}

/// Less than a day from `now`, before or after: clocks differ.
fn is_young(t: SystemTime, now: SystemTime) -> bool {
    now.duration_since(t).unwrap_or_else(|ahead| ahead.duration()) < FAR
}

/// What is locked to prune; another user's can be locked, too, where it may be read.
fn prune_lock(dir: &Path) -> io::Result<File> {
    let path = dir.join(PRUNE);
    let made = careful().write(true).create(true).open(&path);
    let others = |e: &io::Error| matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem);
    made.or_else(|e| if others(&e) { careful().open(&path).map_err(|_| e) } else { Err(e) }).map_err(at(&path))
}

/// `<pid>-<nanoseconds in hex>`.
pub fn is_token(name: &str) -> bool {
    let hex = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_hexdigit());
    name.split_once('-').is_some_and(|(pid, start)| pid.parse::<u32>().is_ok() && hex(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_is_locked_after_it_was_counted_is_of_the_living() {
        let dir = std::env::temp_dir().join(format!("go-cache-plugin-lease-{}", std::process::id()));
        let token = "1-ab";
        let path = dir.join(LEASE).join(token);
        fs::create_dir_all(dir.join(LEASE)).unwrap();
        fs::write(&path, "").unwrap();
        let census = Census::take(&dir).unwrap();
        let made = SystemTime::now() - FAR * 2;
        assert!(census.is_dead(token, made) && census.dead().eq([token]));
        let held = platform::hold(&path).unwrap();
        census.bury();
        assert!(!census.is_dead(token, made) && census.dead().next().is_none() && path.exists());
        drop(held);
        census.bury();
        assert!(census.is_dead(token, made) && !path.exists());
        fs::remove_dir_all(dir).unwrap();
    }
}
