//! The upload queue: what was stored locally goes to the bucket in the background, and survives
//! our end.
//!
//! Invariants: a marker is the job. Before a thing is stored locally, a file `pending/<token>/<n>`
//! says all that its upload needs (see [`Marker`]); the queue in memory is a list of markers, and
//! bounded, while the work is not: what does not fit is found again on disk when the queue has run
//! dry. A marker goes when the bucket has acknowledged what the thing was then or later, when the
//! thing is gone from disk, or when it has waited for longer than `--pending-expiry`; a refusal leaves
//! it. One thing is never sent twice at a time, so that the latest value is sent last. Markers of the
//! dead are taken over by renaming each, and only by who can send it as asked: to the same target,
//! signed or not as it was meant. Fresh uploads go before adopted ones, and draining waits for fresh
//! ones only.
//!
//! Behind all of these come hints: objects whose age is to be renewed because they were used. They owe
//! nobody anything: no marker, nobody waits, and what is not done by the end is left to the next use.
//! However slow they are, there are as many threads as ever for uploads.
//!
//! No file or bucket is touched while the state's lock is held.

mod marker;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::atomic::process_token;
use crate::folder::make_real_dir;
use crate::id::OutputId;
use crate::lease::Census;
use crate::metrics::Metrics;
use crate::remote::{Bucket, RemoteError};
use crate::repeat::Repeat;
pub use marker::{Found, Marker, PENDING, each, expire};

/// Uploads held in memory at most; more stay markers.
const QUEUE_LIMIT: usize = 8192;
/// Hints followed at a time.
const HINTS: usize = 8;
/// How long stopping waits for uploads under way, most of which are done in less.
const LAST_MOMENT: Duration = Duration::from_millis(250);
/// How often it is looked whether the bucket takes again what it did not.
const RECOVERY: Duration = Duration::from_secs(1);
/// How often a drain looks whether the bucket takes anything at all.
const LOOK: Duration = Duration::from_millis(50);

/// How one kind of thing is uploaded.
pub trait Source: Send + Sync {
    /// Sends the thing called `name`, as it was when its hash was `value`, to the bucket. `Ok` also where
    /// there is nothing left to send (that is gone or damaged here): the marker goes. On an error it stays.
    fn upload(&self, name: &str, value: Option<OutputId>, bucket: &Bucket) -> Result<(), RemoteError>;
}

/// What all uploads of a process have in common.
#[derive(Clone, Debug)]
pub struct Target {
    /// Endpoint, bucket, prefix and layout, as one line.
    pub name: String,
    /// Whether what is sent is signed.
    pub signed: bool,
    /// What earlier versions called the bucket and prefix in their markers.
    pub legacy: String,
}

/// The queue and its workers.
pub struct Uploader {
    shared: Arc<Shared>,
    /// The workers that were started so far.
    workers: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    bucket: Arc<Bucket>,
    target: Target,
    metrics: Arc<Metrics>,
    /// Uploads at a time.
    limit: usize,
    /// The cache directory.
    root: PathBuf,
    /// Our folder below `pending/`.
    dir: PathBuf,
    next: AtomicU64,
    unmarked: Repeat,
    sources: Mutex<Vec<(&'static str, Arc<dyn Source>)>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What is to be sent, in its turn.
    queue: BTreeMap<Turn, Thing>,
    hints: VecDeque<Hint>,
    /// Hints that are being followed.
    hinting: usize,
    /// What is being sent, by kind and name.
    busy: HashMap<(&'static str, String), Turn>,
    /// There may be markers of ours on disk that are not in memory, and could be sent.
    behind: bool,
    idle: usize,
    stopping: bool,
    /// Why the last that failed did.
    trouble: Option<String>,
}

/// When a thing is sent: last if nobody waits for it, and in the order of the numbers that are its markers' names.
type Turn = (bool, u64);

/// A thing as a [`Source`] knows it: its kind, its name, and the hash of what it was when it was put.
pub type Thing = (&'static str, String, Option<OutputId>);

/// An object that was used and is old, and the thing that it is made of, where there is one.
struct Hint(String, Option<Thing>);

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
    pub fn new(bucket: Arc<Bucket>, target: Target, cache_dir: &Path, limit: usize, metrics: Arc<Metrics>) -> Self {
        let shared = Shared {
            bucket,
            target,
            metrics,
            limit: limit.max(1),
            root: cache_dir.to_path_buf(),
            dir: cache_dir.join(PENDING).join(process_token()),
            next: AtomicU64::new(0),
            unmarked: Repeat::new("uploads could not be marked"),
            sources: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        Uploader { shared: Arc::new(shared), workers: Mutex::default() }
    }

    /// Says how things of `kind` (lower-case letters) are uploaded. Before the first mark of it.
    pub fn register(&self, kind: &'static str, source: Arc<dyn Source>) {
        self.shared.sources.lock().expect("no holder panics").push((kind, source));
    }

    /// Stores what `uploader`, if there is one, is to send, called `name` (a plain file name) and with the
    /// hash `value`: marked before, queued after, unmarked where it was not stored.
    pub fn storing<T>(
        uploader: Option<&Arc<Self>>,
        kind: &'static str,
        name: &str,
        value: OutputId,
        store: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let marked = uploader.map(|uploader| (uploader, uploader.mark(kind, name, value)));
        let stored = store();
        match (marked, &stored) {
            (Some((uploader, turn)), Ok(_)) => uploader.enqueue(turn, (kind, name.to_string(), Some(value))),
            // what was not stored after all
            (Some((uploader, turn)), Err(_)) => drop(fs::remove_file(uploader.shared.path(turn.1))),
            (None, _) => {}
        }
        stored
    }

    /// Marks `name` as waiting for upload. Call it before the thing itself
    /// appears under its name, with the hash of what it is to be. One that cannot be marked is uploaded all
    /// the same, unless we end.
    fn mark(&self, kind: &'static str, name: &str, value: OutputId) -> Turn {
        let turn = self.shared.turn(false);
        let path = self.shared.path(turn.1);
        let marker = Marker::new(&self.shared.target, kind, name, Some(value)).encode();
        let write = || File::create_new(&path)?.write_all(marker.as_bytes());
        let mut marked = write();
        // others may remove our folder, which is empty, at any moment
        for _ in 0..3 {
            if marked.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
                marked = self.shared.make_dir().and_then(|()| write());
            }
        }
        if let Err(e) = marked {
            let dir = self.shared.dir.display();
            self.shared.unmarked.tell(format_args!("{dir}: an upload cannot be marked, and is lost if it fails: {e}"));
        }
        turn
    }

    /// Queues the upload of something marked and stored.
    fn enqueue(&self, turn: Turn, thing: Thing) {
        self.shared.metrics.upload.queued.inc();
        let start = {
            let mut state = self.shared.lock();
            state.push(turn, thing);
            state.idle < state.queue.len()
        };
        self.shared.changed.notify_all();
        if start {
            self.start_worker();
        }
    }

    /// Has the object under `key` renewed when there is nothing else to do; where it is gone, or the bucket
    /// renews none, the `thing` that it is made of is put anew.
    pub fn refresh(&self, key: String, thing: Option<Thing>) {
        let start = {
            let mut state = self.shared.lock();
            if state.hints.len() < QUEUE_LIMIT {
                state.hints.push_back(Hint(key, thing));
            }
            state.idle < state.hints.len()
        };
        self.shared.changed.notify_one();
        if start {
            self.start_worker();
        }
    }

    /// Takes over what the dead have left marked for this very target, and queues it behind
    /// everything fresh.
    pub fn adopt(&self, census: &Census) {
        let mut jobs = Vec::new();
        let taken = each(&self.shared.root, |found| {
            // what does not fit in memory is left to the next who looks
            if jobs.len() < QUEUE_LIMIT {
                jobs.extend(self.shared.take_over(found, census));
            }
        });
        if let Err(e) = taken {
            log::warn!("cannot look for unfinished uploads: {e}");
        }
        let found = jobs.len();
        self.shared.metrics.upload.adopted.add(found as u64);
        {
            let mut state = self.shared.lock();
            jobs.into_iter().for_each(|(turn, thing)| state.push(turn, thing));
        }
        self.shared.changed.notify_all();
        for _ in 0..found.min(self.shared.limit) {
            self.start_worker();
        }
    }

    /// Waits until every fresh upload was tried, but not past `deadline`, and not while the bucket
    /// takes nothing.
    pub fn drain(&self, deadline: Instant) {
        drop(self.shared.wait_while(deadline, |state| state.owes()));
    }

    /// Whether there is still to do what [`Self::drain`] waits for: what others left is not.
    pub fn owes(&self) -> bool {
        self.shared.lock().owes()
    }

    /// How many are still marked.
    pub fn left(&self) -> usize {
        self.shared.numbers().len()
    }

    /// Tries again what has failed and stayed marked, where the bucket takes it and nothing else is
    /// to do.
    pub fn retry(&self) {
        if !self.shared.dir.exists() {
            return;
        }
        {
            let mut state = self.shared.lock();
            if !(state.queue.is_empty() && state.busy.is_empty()) || state.stopping {
                return;
            }
            state.behind = true;
        }
        self.shared.changed.notify_all();
        self.start_worker();
    }

    /// Ends the workers after the uploads they are at, and joins them, unless one of those takes
    /// longer than a moment: it may take as long as its time-outs, and nothing is lost by leaving
    /// it. Call [`Self::drain`] first.
    pub fn stop(&self) {
        self.shared.unmarked.end();
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
        let at_work = |state: &State| !state.busy.is_empty() || state.hinting > 0;
        if at_work(&self.shared.wait_while(Instant::now() + LAST_MOMENT, at_work)) {
            return;
        }
        for worker in self.workers.lock().expect("no holder panics").drain(..) {
            if worker.join().is_err() {
                log::error!("an upload worker panicked");
            }
        }
        // only an empty directory goes
        let _ = fs::remove_dir(&self.shared.dir);
    }

    /// Why the last upload that failed did.
    pub fn trouble(&self) -> Option<String> {
        self.shared.lock().trouble.clone()
    }

    /// How the queue looks now.
    pub fn state(&self) -> QueueState {
        let s = self.shared.lock();
        QueueState { waiting: s.queue.len(), busy: s.busy.len() }
    }

    fn start_worker(&self) {
        let mut workers = self.workers.lock().expect("no holder panics");
        if workers.len() >= self.shared.limit + HINTS || self.shared.lock().stopping {
            return;
        }
        let shared = self.shared.clone();
        match std::thread::Builder::new().name(format!("upload-{}", workers.len())).spawn(move || shared.work()) {
            Ok(w) => workers.push(w),
            Err(e) => log::error!("cannot start an upload worker: {e}"),
        }
    }
}

impl State {
    /// Takes a thing in, unless it is there; one that does not fit stays a marker.
    fn push(&mut self, turn: Turn, thing: Thing) {
        if self.queue.len() >= QUEUE_LIMIT {
            self.behind = true;
        } else if !self.has(turn.1) {
            self.queue.insert(turn, thing);
        }
    }

    fn has(&self, number: u64) -> bool {
        let queued = [false, true].iter().any(|last| self.queue.contains_key(&(*last, number)));
        queued || self.busy.values().any(|(_, busy)| *busy == number)
    }

    /// The next thing that is not being sent.
    fn next(&mut self) -> Option<(Turn, Thing)> {
        let is_idle = |(_, (kind, name, _)): &(&Turn, &Thing)| !self.busy.contains_key(&(*kind, name.clone()));
        let turn = *self.queue.iter().find(is_idle)?.0;
        let thing = self.queue.remove(&turn)?;
        self.busy.insert((thing.0, thing.1.clone()), turn);
        Some((turn, thing))
    }

    fn owes(&self) -> bool {
        let fresh = |turn: &Turn| !turn.0;
        self.behind || self.queue.keys().next().is_some_and(fresh) || self.busy.values().any(fresh)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Waits while `busy`, but not past `deadline`, and not while the bucket takes nothing.
    fn wait_while(&self, deadline: Instant, busy: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while busy(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.bucket.accepts_writes() {
                break;
            }
            state = self.changed.wait_timeout(state, left.min(LOOK)).expect("no holder panics").0;
            // the bucket may take again what it did not, and tells nobody
            self.changed.notify_all();
        }
        state
    }

    fn turn(&self, last: bool) -> Turn {
        (last, self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn make_dir(&self) -> io::Result<()> {
        make_real_dir(&self.root.join(PENDING)).and_then(|()| make_real_dir(&self.dir))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:012x}"))
    }

    fn work(&self) {
        let mut state = self.lock();
        while !state.stopping {
            let takes = self.bucket.accepts_writes();
            if !(takes || state.queue.is_empty()) {
                // they are left to their markers
                state.queue.clear();
                state.behind = true;
                self.changed.notify_all();
            } else if state.busy.len() < self.limit
                && let Some((turn, thing)) = state.next()
            {
                drop(state);
                let tried = self.run(turn, &thing);
                state = self.lock();
                state.behind |= !tried;
                state.busy.remove(&(thing.0, thing.1));
                self.changed.notify_all();
            } else if state.behind && takes {
                // while they are looked for, they count as there
                drop(state);
                let found = self.left_behind();
                state = self.lock();
                state.behind = false;
                found.into_iter().for_each(|(turn, thing)| state.push(turn, thing));
                self.changed.notify_all();
            } else if takes
                && state.hinting < HINTS
                && let Some(hint) = state.hints.pop_front()
            {
                state.hinting += 1;
                drop(state);
                let lost = self.follow(hint);
                state = self.lock();
                state.hinting -= 1;
                lost.into_iter().for_each(|thing| state.push(self.turn(true), thing));
                self.changed.notify_all();
            } else {
                state.idle += 1;
                // the bucket may take again what it did not, and tells nobody
                let patience = if state.behind { RECOVERY } else { Duration::MAX };
                state = self.changed.wait_timeout(state, patience).expect("no holder panics").0;
                state.idle -= 1;
            }
        }
    }

    /// Sends one thing. `false` where the bucket was not asked, and may soon be.
    fn run(&self, turn: Turn, (kind, name, value): &Thing) -> bool {
        let Some(source) = self.source(kind) else { return true };
        match source.1.upload(name, *value, &self.bucket) {
            Ok(()) => {
                self.metrics.upload.done.inc();
                let _ = fs::remove_file(self.path(turn.1));
                true
            }
            Err(e) => {
                self.metrics.upload.failed.inc();
                log::debug!("upload of {kind} {name} put off: {e}");
                let unsent = matches!(e, RemoteError::Off(_));
                if !unsent {
                    self.lock().trouble = Some(e.to_string());
                }
                !unsent
            }
        }
    }

    /// Renews an object; what is to be put for that is returned.
    fn follow(&self, Hint(key, thing): Hint) -> Option<Thing> {
        match self.bucket.refresh(&key) {
            Ok(true) => self.metrics.upload.refreshed.inc(),
            Ok(false) | Err(RemoteError::Unsupported(_)) => return thing,
            Err(e) => log::debug!("{key} is not renewed: {e}"),
        }
        None
    }

    fn source(&self, kind: &str) -> Option<(&'static str, Arc<dyn Source>)> {
        self.sources.lock().expect("no holder panics").iter().find(|(k, _)| *k == kind).cloned()
    }

    /// The numbers of our markers.
    fn numbers(&self) -> Vec<u64> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut numbers: Vec<u64> =
            entries.filter_map(|e| u64::from_str_radix(e.file_name().to_str()?, 16).ok()).collect();
        numbers.sort_unstable();
        numbers
    }

    /// What our markers say that is not in memory.
    fn left_behind(&self) -> Vec<(Turn, Thing)> {
        let mut numbers = self.numbers();
        {
            let state = self.lock();
            numbers.retain(|n| !state.has(*n));
        }
        let read = |number| {
            let Marker { kind, name, value, .. } = Marker::read(&self.path(number))?;
            Some(((false, number), (self.source(&kind)?.0, name, value)))
        };
        numbers.into_iter().filter_map(read).collect()
    }

    /// Makes a dead process's marker ours, where we can do what it asks for.
    fn take_over(&self, found: &Found, census: &Census) -> Option<(Turn, Thing)> {
        if found.cut && found.is_dead(census) {
            let _ = fs::remove_file(&found.path);
        }
        let marker = found.marker.as_ref()?;
        let (kind, _) = self.source(&marker.kind)?;
        if !marker.is_for(&self.target) || !found.is_dead(census) {
            return None;
        }
        self.make_dir().ok()?;
        let turn = self.turn(true);
        // whoever renames it first has it; one of an earlier version says what is to be done in its name
        let to = self.path(turn.1);
        if found.is_legacy() {
            fs::write(&to, Marker::new(&self.target, kind, &marker.name, None).encode()).ok()?;
            fs::remove_file(&found.path).ok()?;
        } else {
            fs::rename(&found.path, &to).ok()?;
        }
        Some((turn, (kind, marker.name.clone(), marker.value)))
    }
}
