//! Fetching ahead of `go`: the reason that a far bucket is fast.
//!
//! The scope's manifest is loaded in the background at the first get that the local directory
//! misses; the frames behind its index are unpacked into the disk cache while they arrive. From then on
//! every get moves a window over the recorded order, and the fetchers, one pool for all scopes of a
//! process, bring what lies in it, runs of frames and large entries, into the disk cache, where the get
//! then finds it. A scope that has no manifest
//! yet goes by the fleet's, to which every new scope's first build is added: what they have in
//! common, the standard library before all, is then fetched ahead all the same: without that the bucket
//! bench's row "first sight of the scope, 20 ms" takes ten times as long.
//!
//! Invariants: gets never wait for the manifest nor for a fetcher's turn, only for a fetch of the
//! very frame or action they ask for; a frame that fails leaves its entries to be fetched by themselves.
//! Bytes fetched and not used are bounded (see `window`), the index included, so that a small build in a
//! large scope moves little. Memory: the manifest's bounds, some 60 bytes of state and index an entry,
//! and one entry or frame in flight for each of the fetchers.

mod frames;
mod pull;
mod stored;
mod window;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use super::fetch::Fetcher;
use super::id::{ActionId, OutputId};
use super::manifest::{self, Entry, Manifest};
use crate::pool::Pool;
use crate::sign::from_nanos;
use crate::text::{bytes, things};
use stored::Found;
pub use stored::{Loading, read};
use window::{Claim, Window};

/// Fetches ahead at a time, for all scopes of a process.
const FETCHERS: usize = 24;
/// What waits for them; each window is bounded by itself.
const QUEUE: usize = usize::MAX;
/// Frames unpacked at a time, and those waiting for it: who fetches waits where there are more.
const UNPACKERS: (usize, usize) = (8, 16);

/// The threads that the readaheads of a process share; they come with work.
#[derive(Clone)]
pub struct Fetchers {
    fetch: Arc<Mutex<Pool>>,
    unpack: Arc<Mutex<Pool>>,
}

impl Default for Fetchers {
    fn default() -> Self {
        let pool = |name, limit, bound| Arc::new(Mutex::new(Pool::new(name, limit, bound)));
        let unpack = pool("unpack", UNPACKERS.0, UNPACKERS.1);
        Fetchers { fetch: pool("readahead", FETCHERS, QUEUE), unpack }
    }
}

impl Fetchers {
    /// Has `job` done when its turn comes.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) {
        self.fetch.lock().expect("no holder panics").submit(job);
    }
}

/// The scope that no client can name, whose manifest is the fleet's.
const FLEET: &str = "";

/// Gets remembered until the manifest is there.
const EARLY: usize = 16;
/// How long a get waits for another's fetch of its frame.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a close waits to hear what is listed; else it lists nothing anew.
const LOADING: Duration = Duration::from_secs(2);

/// What is known of an action that the bucket should have.
#[derive(Debug)]
pub struct Advice {
    /// Its output and put time, where they are listed.
    pub known: Option<(OutputId, SystemTime)>,
    /// What to [`Readahead::bring`], where it is in a pack.
    pub piece: Option<usize>,
}

/// Readahead for one scope.
pub struct Readahead {
    shared: Arc<Shared>,
    /// The key of the scope's manifest.
    key: String,
    started: Instant,
}

struct Shared {
    fetcher: Arc<Fetcher>,
    fetchers: Fetchers,
    state: Mutex<State>,
    /// A piece was fetched, or the manifest was loaded. Each piece has one of them: woken up for every piece,
    /// 64 gets in flight are slower than 4.
    landed: [Condvar; 16],
}

#[derive(Default)]
struct State {
    phase: Phase,
    closing: bool,
    /// Clients that share this readahead.
    users: usize,
    /// The bucket says that the scope has no manifest.
    new_scope: bool,
    /// Everything is to be fetched, whether or not it is asked for.
    whole: bool,
    /// What was asked for last, while the manifest is not there yet.
    early: VecDeque<[u8; 32]>,
}

#[derive(Default)]
enum Phase {
    #[default]
    Idle,
    Loading,
    /// There is none, or it cannot be used; the reason, where the bucket did not say so itself.
    Without(Option<String>),
    Loaded(Box<Loaded>),
}

struct Loaded {
    listed: Arc<Listed>,
    index: HashMap<[u8; 32], u32>,
    window: Window,
    /// Packs that are not to be had: whether the bucket has none, rather than not in parts.
    lost: HashMap<u32, bool>,
    /// Entries that are not where the manifest says.
    misplaced: Vec<u32>,
}

/// A manifest as it was loaded.
pub struct Listed {
    /// Its key.
    pub key: String,
    /// What it says.
    pub manifest: Manifest,
    /// Its tag.
    pub etag: String,
}

/// What a readahead leaves for one of the manifests that come after it.
pub struct Left {
    /// The manifest's key.
    pub key: String,
    /// What was loaded.
    pub base: Option<Arc<Listed>>,
    /// Entries fetched and not used.
    pub wasted: Vec<[u8; 32]>,
    /// Entries that are not where the manifest says.
    pub misplaced: Vec<[u8; 32]>,
}

impl Readahead {
    /// Readahead for `scope` through `fetcher`. Nothing is asked of the bucket yet.
    pub fn new(fetcher: Arc<Fetcher>, fetchers: Fetchers, scope: &str) -> Self {
        let shared = Shared { fetcher, fetchers, state: Mutex::default(), landed: Default::default() };
        Readahead { shared: Arc::new(shared), key: manifest_key(scope), started: Instant::now() }
    }

    /// How long ago this was made.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Adds a client; `false` when the last one has left already. Each leaves by [`Self::close`].
    pub fn join(&self) -> bool {
        let mut state = self.shared.lock();
        state.users += !state.closing as usize;
        !state.closing
    }

    /// Starts to load the manifest, the first time it is called.
    pub fn begin(&self) {
        let mut state = self.shared.lock();
        if !matches!(state.phase, Phase::Idle) || state.closing {
            return;
        }
        state.phase = Phase::Loading;
        drop(state);
        let (shared, key) = (self.shared.clone(), self.key.clone());
        self.shared.fetchers.submit(move || shared.load(&key));
    }

    /// Takes note that `go` asked for `action`, moves the window, and tells what is listed of it.
    /// `local` is the output that the disk cache has for it. The flag returned tells that it was fetched
    /// ahead and is used for the first time.
    pub fn note(&self, action: &ActionId, local: Option<OutputId>) -> (Option<Advice>, bool) {
        let Some(id) = manifest::listed_id(action) else { return (None, false) };
        let mut state = self.shared.lock();
        if matches!(state.phase, Phase::Idle | Phase::Loading) {
            if state.early.len() == EARLY {
                state.early.pop_front();
            }
            state.early.push_back(id);
        }
        let Phase::Loaded(loaded) = &mut state.phase else { return (None, false) };
        let Some(&i) = loaded.index.get(&id) else { return (None, false) };
        let used = loaded.window.ask(i as usize);
        let piece = loaded.window.piece_in_pack(i as usize);
        let entry = &loaded.listed.manifest.entries[i as usize];
        let (known, day) = (known(entry), entry.day);
        drop(state);
        let fetcher = &self.shared.fetcher;
        // who signs vouches for what the list says, and for nothing else that the directory may have
        let sound = |output: &OutputId| {
            !fetcher.entries.codec.signer().signs() || known.is_some_and(|(listed, _)| listed == *output)
        };
        // what a pack brings comes with no age
        if let Some(output) = local.filter(sound).or(piece.and(known.map(|(output, _)| output))) {
            fetcher.used(action, output, day);
        }
        used.iter().for_each(|bytes| self.shared.count_used(1, *bytes));
        self.shared.fetch_ahead();
        (Some(Advice { known, piece }), used.is_some())
    }

    /// Fetches a frame, or waits for who does. What is in it is in the directory then, if all went well.
    pub fn bring(&self, piece: usize) {
        let deadline = Instant::now() + PATIENCE;
        let (mut state, mut asked) = (self.shared.lock(), false);
        while let Phase::Loaded(loaded) = &mut state.phase {
            match loaded.window.claim(piece) {
                // it was given back: from a bucket that is off it would be asked for over and over
                Claim::Ours if asked => return loaded.window.give_back(piece),
                Claim::Ours => {
                    asked = true;
                    let listed = loaded.listed.clone();
                    drop(state);
                    self.shared.fetch_frames(&listed, &[piece]);
                    state = self.shared.lock();
                }
                Claim::Over => return,
                Claim::Flying => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return;
                    }
                    state = self.shared.landed(piece).wait_timeout(state, left).expect("no holder panics").0;
                }
            }
        }
    }

    /// Takes note that a get moved `bytes` itself.
    pub fn moved(&self, bytes: u64) {
        self.shared.with(|loaded| loaded.window.demand(bytes));
        self.shared.fetch_ahead();
    }

    /// Takes a client out and returns what the manifests to write need to know: the scope's and,
    /// where that is its first, the fleet's. With the last one, fetching stops; fetches under way end by
    /// themselves.
    pub fn close(&self) -> Vec<Left> {
        let mut state = self.shared.lock();
        state.users = state.users.saturating_sub(1);
        state.closing = state.users == 0;
        state.left(&self.key, state.closing)
    }

    /// Whether it is known what the bucket lists, once that was waited for: what could not be read must not be
    /// replaced, and who was kept waiting for it once is not to be so again.
    pub fn is_told(&self, deadline: Instant) -> bool {
        let until = deadline.min(Instant::now() + LOADING);
        let mut state = self.shared.lock();
        while let (Phase::Loading, Some(left)) = (&state.phase, until.checked_duration_since(Instant::now())) {
            state = self.shared.landed(0).wait_timeout(state, left).expect("no holder panics").0;
        }
        matches!(state.phase, Phase::Loaded(_) | Phase::Without(None))
    }
}

impl Drop for Readahead {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
    }
}

impl State {
    /// What is left; `wasted` is for the last client to say, others may still use the entries.
    fn left(&self, key: &str, wasted: bool) -> Vec<Left> {
        let fleet = self.new_scope.then(|| manifest_key(FLEET));
        let keys = [Some(key.to_string()), fleet].into_iter().flatten();
        keys.map(|key| match &self.phase {
            Phase::Loaded(loaded) if loaded.listed.key == key => {
                let action = |i: usize| loaded.listed.manifest.entries[i].action;
                let wasted = loaded.window.wasted().filter(|_| wasted).map(action).collect();
                let misplaced = loaded.misplaced.iter().map(|i| action(*i as usize)).collect();
                Left { key, base: Some(loaded.listed.clone()), wasted, misplaced }
            }
            _ => Left { key, base: None, wasted: Vec::new(), misplaced: Vec::new() },
        })
        .collect()
    }
}

fn manifest_key(scope: &str) -> String {
    format!("manifest/{}", OutputId::of(scope.as_bytes()))
}

/// What is listed of an entry's value.
fn known(entry: &Entry) -> Option<(OutputId, SystemTime)> {
    entry.known.map(|(output, time)| (output, from_nanos(time)))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn landed(&self, piece: usize) -> &Condvar {
        &self.landed[piece % self.landed.len()]
    }

    fn load(self: &Arc<Self>, key: &str) {
        let mut loading = read(&self.fetcher, key);
        let mut key = key.to_string();
        let new_scope = matches!(loading, Loading::None);
        self.lock().new_scope = new_scope;
        if new_scope && !self.lock().whole {
            key = manifest_key(FLEET);
            loading = read(&self.fetcher, &key);
        }
        let without = match loading {
            Loading::Found(found) => return self.take_in(key, *found),
            Loading::Bad(_, why) => {
                let (bucket, signer) = (self.fetcher.bucket.target(), self.fetcher.entries.codec.signer());
                signer.refused(format_args!("{bucket}: {key} is not used, so nothing is fetched ahead: {why}"));
                None
            }
            Loading::Failed(why) => Some(format!("{}: {why}", self.fetcher.bucket.target())),
            Loading::None => None,
        };
        let mut state = self.lock();
        state.early.clear();
        state.phase = Phase::Without(without);
        self.landed.iter().for_each(Condvar::notify_all);
    }

    fn take_in(self: &Arc<Self>, key: String, found: Found) {
        let Found { manifest, etag, len, frames } = found;
        let metrics = &self.fetcher.entries.metrics.readahead;
        metrics.manifest_loads.inc();
        metrics.manifest_entries.add(manifest.entries.len() as u64);
        let (entries, in_frames) = (manifest.entries.len() as u64, manifest.frames.len() as u64);
        log::debug!("{key}: {} in {}, {}", things(entries, "entry"), things(in_frames, "frame"), bytes(len));
        let index: HashMap<_, _> = manifest.entries.iter().enumerate().map(|(i, e)| (e.action, i as u32)).collect();
        let mut window = Window::new(&manifest, len);
        let first = window.first(&manifest);
        let listed = Arc::new(Listed { key, manifest, etag });
        let mut state = self.lock();
        if state.whole {
            window.open();
        }
        // the window opens around them without waiting for the next
        for i in std::mem::take(&mut state.early).iter().filter_map(|id| index.get(id)) {
            window.ask(*i as usize);
        }
        state.phase = Phase::Loaded(Box::new(Loaded {
            listed: listed.clone(),
            index,
            window,
            lost: HashMap::new(),
            misplaced: Vec::new(),
        }));
        self.landed.iter().for_each(Condvar::notify_all);
        drop(state);
        self.fetch_ahead();
        self.take_frames(&listed, &first, Some(frames));
    }

    /// Hands what the window has room for to the fetchers: entries by themselves, frames in runs.
    fn fetch_ahead(self: &Arc<Self>) {
        let mut state = self.lock();
        // one that is left alone is asked again when a get moves the window
        if state.closing || !self.fetcher.bucket.available() {
            return;
        }
        let Phase::Loaded(loaded) = &mut state.phase else { return };
        if !loaded.window.is_due() {
            return;
        }
        let next: Vec<(usize, Option<u32>)> =
            std::iter::from_fn(|| loaded.window.next().map(|p| (p, loaded.window.frame(p)))).collect();
        let listed = loaded.listed.clone();
        drop(state);
        let mut run = frames::Run::default();
        for (piece, frame) in next {
            let ended = match frame {
                Some(frame) => run.extend(piece, &listed.manifest.frames[frame as usize]),
                None => {
                    let (shared, listed) = (self.clone(), listed.clone());
                    self.fetchers.submit(move || shared.fetch_one(&listed, piece));
                    None
                }
            };
            ended.into_iter().for_each(|run| self.submit_run(&listed, run));
        }
        self.submit_run(&listed, run);
    }

    /// Fetches the entry that is by itself in `piece`, and takes note of the bytes moved.
    fn fetch_one(self: &Arc<Self>, listed: &Listed, piece: usize) {
        if !self.claim(piece) {
            return;
        }
        let i = self.members(piece)[0];
        let entry = &listed.manifest.entries[i as usize];
        let action = ActionId::new(&entry.action);
        let moved = action.and_then(|action| self.fetcher.fetch_ahead(&action, known(entry)));
        self.fetcher.entries.metrics.readahead.fetched.add(u64::from(moved.is_some()));
        self.done(piece, moved);
    }

    /// Whether a piece, handed out before, is still to be fetched; by the caller then.
    fn claim(&self, piece: usize) -> bool {
        match &mut *self.lock() {
            State { phase: Phase::Loaded(loaded), closing: false, .. } => loaded.window.claim(piece) == Claim::Ours,
            _ => false,
        }
    }

    /// Takes note of what came of a piece, and of the bytes moved for it.
    fn done(self: &Arc<Self>, piece: usize, moved: Option<u64>) {
        self.fetcher.entries.metrics.readahead.fetched_bytes.add(moved.unwrap_or(0));
        let mut used = (0, 0);
        if let Phase::Loaded(loaded) = &mut self.lock().phase {
            if moved.is_none() && !self.fetcher.bucket.available() {
                loaded.window.give_back(piece);
            } else {
                used = loaded.window.done(piece, moved);
            }
        }
        self.landed(piece).notify_all();
        self.count_used(used.0, used.1);
        // room for the next may have come up
        self.fetch_ahead();
    }

    fn count_used(&self, entries: u64, bytes: u64) {
        self.fetcher.entries.metrics.readahead.used.add(entries);
        self.fetcher.entries.metrics.readahead.used_bytes.add(bytes);
    }
}
