//! The upload queue: what was stored locally goes to the bucket in the background, and survives
//! our end.
//!
//! Invariants: an upload is known by its kind and name. Before the thing is stored locally, a
//! marker file `pending/<session>/<kind>-<name>` names it; the marker goes when the bucket has it
//! or when it can never have it. The queue in memory is bounded, the work is not: what does not
//! fit stays a marker and is found again when the queue has run dry. A session directory holds a
//! locked file `.lock` while its process lives; directories whose lock is free are adopted, by one
//! process at a time. Fresh uploads go before adopted ones, and draining waits for fresh ones only.
//!
//! No file or bucket is touched while the state's lock is held.

use std::collections::{HashSet, VecDeque};
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::metrics::Metrics;
use crate::remote::{Bucket, RemoteError};

/// Uploads held in memory at most; more stay markers.
const QUEUE_LIMIT: usize = 8192;

/// How one kind of thing is uploaded.
pub trait Source: Send + Sync {
    /// Sends the thing called `name` to the bucket. `Ok` also where there is nothing left to send
    /// (the local file is gone, or the bucket has it): the marker goes. On an error it stays.
    fn upload(&self, name: &str, bucket: &Bucket) -> Result<(), RemoteError>;
}

/// The queue and its workers.
pub struct Uploader {
    shared: Arc<Shared>,
    /// The workers that were started so far.
    workers: Mutex<Vec<JoinHandle<()>>>,
    limit: usize,
}

struct Shared {
    bucket: Arc<Bucket>,
    metrics: Arc<Metrics>,
    pending: PathBuf,
    bucket_tag: String,
    session: OnceLock<Session>,
    session_init: Mutex<()>,
    sources: Mutex<Vec<(&'static str, Arc<dyn Source>)>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    fresh: VecDeque<Job>,
    adopted: VecDeque<Job>,
    /// Names queued or under way, so that a rescan does not queue them twice.
    known: HashSet<String>,
    /// Fresh uploads that did not fit in memory.
    spilled: bool,
    busy_fresh: usize,
    busy_adopted: usize,
    idle: usize,
    /// Names that were put again while their upload was under way.
    again: HashSet<String>,
    stopping: bool,
}

struct Job {
    kind: &'static str,
    name: String,
    fresh: bool,
}

impl Job {
    fn marker(&self) -> String {
        format!("{}-{}", self.kind, self.name)
    }
}

/// Our directory below `pending/`, ours while `_lock` is open.
struct Session {
    dir: PathBuf,
    _lock: File,
}

/// How the queue looks, for the status page.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueueState {
    /// Uploads waiting in memory.
    pub waiting: usize,
    /// Uploads under way.
    pub busy: usize,
}

impl Uploader {
    /// A queue for `bucket` with its markers below `cache_dir/pending`, worked on by at most
    /// `limit` threads, which are started as work comes.
    pub fn new(bucket: Arc<Bucket>, cache_dir: &Path, limit: usize, metrics: Arc<Metrics>) -> Self {
        let digest = Sha256::digest(bucket.target().as_bytes());
        let bucket_tag = digest[..6].iter().map(|b| format!("{b:02x}")).collect();
        let shared = Shared {
            bucket,
            metrics,
            pending: cache_dir.join("pending"),
            bucket_tag,
            session: OnceLock::new(),
            session_init: Mutex::new(()),
            sources: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        Uploader { shared: Arc::new(shared), workers: Mutex::default(), limit: limit.max(1) }
    }

    /// Says how things of `kind` (lower-case letters) are uploaded. Before the first mark of it.
    pub fn register(&self, kind: &'static str, source: Arc<dyn Source>) {
        self.shared.sources.lock().expect("no holder panics").push((kind, source));
    }

    /// Marks `name` (a plain file name) as waiting for upload. Call it before the thing itself
    /// appears under its name.
    pub fn mark(&self, kind: &'static str, name: &str) -> io::Result<()> {
        let session = self.shared.session()?;
        match File::create_new(session.dir.join(format!("{kind}-{name}"))) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Ok(()),
        }
    }

    /// Removes a mark whose thing was not stored after all.
    pub fn unmark(&self, kind: &'static str, name: &str) {
        if let Some(s) = self.shared.session.get() {
            let _ = fs::remove_file(s.dir.join(format!("{kind}-{name}")));
        }
    }

    /// Queues the upload of something marked and stored.
    pub fn enqueue(&self, kind: &'static str, name: &str) {
        self.shared.metrics.upload.queued.inc();
        let job = Job { kind, name: name.to_string(), fresh: true };
        let start = {
            let mut state = self.shared.lock();
            if state.fresh.len() >= QUEUE_LIMIT {
                state.spilled = true;
                return;
            }
            if !state.known.insert(job.marker()) {
                state.again.insert(job.marker());
                return;
            }
            state.fresh.push_back(job);
            state.idle < state.fresh.len()
        };
        self.shared.changed.notify_one();
        if start {
            self.start_worker();
        }
    }

    /// Takes over what dead processes left marked for this bucket, and queues it behind
    /// everything fresh. Returns how many uploads that is.
    pub fn adopt(&self) -> usize {
        let found = self.shared.adopt().unwrap_or_else(|e| {
            log::warn!("{}: cannot look for unfinished uploads: {e}", self.shared.pending.display());
            0
        });
        for _ in 0..found.min(self.limit) {
            self.start_worker();
        }
        found
    }

    /// Waits until every fresh upload was tried, but not past `deadline`. Returns how many are
    /// still marked.
    pub fn drain(&self, deadline: Instant) -> usize {
        let mut state = self.shared.lock();
        while !state.fresh.is_empty() || state.busy_fresh > 0 || state.spilled {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            state = self.shared.changed.wait_timeout(state, left).expect("no holder panics").0;
        }
        drop(state);
        self.shared.session.get().map_or(0, |s| markers(&s.dir).map_or(0, |m| m.len()))
    }

    /// Tries again what has failed and stayed marked, where the bucket can be asked and nothing
    /// else is to do.
    pub fn retry(&self) {
        if !self.shared.bucket.available() || self.shared.session.get().is_none() {
            return;
        }
        {
            let mut state = self.shared.lock();
            if !state.known.is_empty() || state.stopping {
                return;
            }
            state.spilled = true;
        }
        self.shared.changed.notify_one();
        self.start_worker();
    }

    /// Ends the workers after the uploads they are at, and joins them, unless one of those takes
    /// longer than a moment: it may take as long as its time-outs, and nothing is lost by leaving
    /// it. Call [`Self::drain`] first.
    pub fn stop(&self) {
        let deadline = Instant::now() + LAST_MOMENT;
        let mut state = self.shared.lock();
        state.stopping = true;
        self.shared.changed.notify_all();
        while state.busy_fresh + state.busy_adopted > 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            state = self.shared.changed.wait_timeout(state, left).expect("no holder panics").0;
        }
        drop(state);
        for worker in self.workers.lock().expect("no holder panics").drain(..) {
            if worker.join().is_err() {
                log::error!("an upload worker panicked");
            }
        }
        if let Some(s) = self.shared.session.get() {
            // only an empty directory goes; one that a late put has marked in is adopted
            if markers(&s.dir).is_ok_and(|m| m.is_empty()) {
                let _ = fs::remove_file(s.dir.join(LOCK));
                let _ = fs::remove_dir(&s.dir);
            }
        }
    }

    /// How the queue looks now.
    pub fn state(&self) -> QueueState {
        let s = self.shared.lock();
        QueueState { waiting: s.fresh.len() + s.adopted.len(), busy: s.busy_fresh + s.busy_adopted }
    }

    fn start_worker(&self) {
        let mut workers = self.workers.lock().expect("no holder panics");
        if workers.len() >= self.limit || self.shared.lock().stopping {
            return;
        }
        let shared = self.shared.clone();
        match std::thread::Builder::new().name(format!("upload-{}", workers.len())).spawn(move || shared.work()) {
            Ok(w) => workers.push(w),
            Err(e) => log::error!("cannot start an upload worker: {e}"),
        }
    }
}

const LOCK: &str = ".lock";
/// Names tried for a session directory.
const NAMES: usize = 16;
/// How long stopping waits for uploads under way, most of which are done in less.
const LAST_MOMENT: Duration = Duration::from_millis(250);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return;
            }
            let job = state.fresh.pop_front().or_else(|| state.adopted.pop_front());
            if let Some(job) = job {
                let count = if job.fresh { &mut state.busy_fresh } else { &mut state.busy_adopted };
                *count += 1;
                drop(state);
                self.run(&job);
                state = self.lock();
                let count = if job.fresh { &mut state.busy_fresh } else { &mut state.busy_adopted };
                *count -= 1;
                let marker = job.marker();
                if state.again.remove(&marker) {
                    state.fresh.push_back(Job { fresh: true, ..job });
                } else {
                    state.known.remove(&marker);
                }
                self.changed.notify_all();
            } else if state.spilled {
                state.spilled = false;
                // counts as busy, so that draining does not end between the flag and the queue
                state.busy_fresh += 1;
                drop(state);
                // what a bucket that is left alone did not take stays marked
                let again = if self.bucket.available() { self.rescan() } else { Vec::new() };
                state = self.lock();
                state.busy_fresh -= 1;
                for job in again {
                    if state.fresh.len() >= QUEUE_LIMIT {
                        state.spilled = true;
                        break;
                    }
                    if state.known.insert(job.marker()) {
                        state.fresh.push_back(job);
                    }
                }
                self.changed.notify_all();
            } else {
                state.idle += 1;
                state = self.changed.wait(state).expect("no holder panics");
                state.idle -= 1;
            }
        }
    }

    fn run(&self, job: &Job) {
        let Some(source) = self.source(job.kind) else { return };
        let unmark = || {
            if let Some(s) = self.session.get() {
                let _ = fs::remove_file(s.dir.join(job.marker()));
            }
        };
        if !self.bucket.accepts_writes() {
            // nothing is read and compressed for nothing; asking lets the guard try the bucket
            self.metrics.upload.failed.inc();
            return;
        }
        match source.upload(&job.name, &self.bucket) {
            Ok(()) => {
                self.metrics.upload.done.inc();
                unmark();
            }
            Err(e) => {
                self.metrics.upload.failed.inc();
                log::debug!("upload of {} {} put off: {e}", job.kind, job.name);
            }
        }
    }

    fn source(&self, kind: &str) -> Option<Arc<dyn Source>> {
        self.sources.lock().expect("no holder panics").iter().find(|(k, _)| *k == kind).map(|(_, s)| s.clone())
    }

    fn parse(&self, marker: &str, fresh: bool) -> Option<Job> {
        let (kind, name) = marker.split_once('-')?;
        let sources = self.sources.lock().expect("no holder panics");
        let kind = sources.iter().find(|(k, _)| *k == kind)?.0;
        Some(Job { kind, name: name.to_string(), fresh })
    }

    /// The jobs that our directory's markers stand for.
    fn rescan(&self) -> Vec<Job> {
        let Some(session) = self.session.get() else { return Vec::new() };
        let names = markers(&session.dir).unwrap_or_default();
        names.iter().filter_map(|m| self.parse(m, true)).collect()
    }

    /// Our session directory, made on first use.
    fn session(&self) -> io::Result<&Session> {
        if let Some(s) = self.session.get() {
            return Ok(s);
        }
        let _one = self.session_init.lock().expect("no holder panics");
        if let Some(s) = self.session.get() {
            return Ok(s);
        }
        fs::create_dir_all(&self.pending)?;
        for _ in 0..NAMES {
            let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
            let dir = self.pending.join(format!("{}-{}-{nanos}", self.bucket_tag, std::process::id()));
            match fs::create_dir(&dir) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other?,
            }
            match lock_session(&dir) {
                Ok(Some(lock)) => return Ok(self.session.get_or_init(|| Session { dir, _lock: lock })),
                // before it was locked, it was taken for one that a dead process has left
                Ok(None) => {}
                Err(e) => {
                    let _ = fs::remove_file(dir.join(LOCK));
                    let _ = fs::remove_dir(&dir);
                    return Err(e);
                }
            }
        }
        Err(io::Error::other("others remove each directory before it can be locked"))
    }

    fn adopt(&self) -> io::Result<usize> {
        let dirs = match fs::read_dir(&self.pending) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            other => other?,
        };
        let mut found = 0;
        for dir in dirs {
            let dir = dir?;
            let name = dir.file_name();
            let Some(name) = name.to_str() else { continue };
            let path = dir.path();
            if !dir.file_type()?.is_dir() || self.session.get().is_some_and(|s| s.dir == path) {
                continue;
            }
            if name.split('-').next() != Some(&self.bucket_tag) {
                continue;
            }
            // one without a lock file was left between the steps of its making or its removal
            let Ok(Some(_lock)) = lock_session(&path) else { continue };
            found += self.take_over(&path)?;
        }
        self.metrics.upload.adopted.add(found as u64);
        Ok(found)
    }

    /// Moves the markers of a dead session, whose lock the caller holds, into ours.
    fn take_over(&self, dead: &Path) -> io::Result<usize> {
        let names = match markers(dead) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0), // another was faster
            other => other?,
        };
        let mut taken = Vec::new();
        if !names.is_empty() {
            let ours = self.session()?;
            for name in &names {
                fs::rename(dead.join(name), ours.dir.join(name))?;
                taken.extend(self.parse(name, false));
            }
        }
        let _ = fs::remove_file(dead.join(LOCK));
        let _ = fs::remove_dir(dead);
        let count = taken.len();
        let mut state = self.lock();
        for job in taken {
            // past the limit they stay markers, for the next to adopt
            if state.adopted.len() < QUEUE_LIMIT && state.known.insert(job.marker()) {
                state.adopted.push_back(job);
            }
        }
        self.changed.notify_all();
        Ok(count)
    }
}

/// The names of the markers in a session directory.
fn markers(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        if let Some(name) = entry?.file_name().to_str()
            && !name.starts_with('.')
        {
            names.push(name.to_string());
        }
    }
    Ok(names)
}

/// Locks the session directory `dir`. `None` where a living process holds it, or another was faster
/// at removing it: the lock must be that of the file that is there.
fn lock_session(dir: &Path) -> io::Result<Option<File>> {
    let path = dir.join(LOCK);
    let lock = match File::options().create(true).append(true).open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(e)) => return Err(e),
        Ok(()) => {}
    }
    let ours = lock.metadata()?;
    let same = fs::metadata(&path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
    Ok(same.then_some(lock))
}
