//! Fetching ahead of `go`: the reason that a far bucket is fast.
//!
//! The scope's manifest is loaded in the background at the first get that the local directory
//! misses. From then on every get moves a window over the recorded order, and the fetchers, one pool
//! for all scopes of a process, bring what lies in it into the disk cache, where the get then finds it. A scope that has no manifest
//! yet goes by the fleet's, to which every new scope's first build is added: what they have in
//! common, the standard library before all, is then fetched ahead all the same.
//!
//! Invariants: gets never wait for the manifest nor for a fetcher's turn, only for a fetch of the
//! very action they ask for. The bytes fetched and not used are at most those used and
//! `SPECULATION`, the manifest itself included, so that a small build in a large scope moves
//! little. The window starts at `WINDOW_MIN` entries, grows by one with each fetched entry that
//! is used (it doubles while all are), and halves when `go` leaves the recorded order. Memory: the
//! manifest's bounds, some 50 bytes of state and index an entry, and one entry in flight for each
//! of the fetchers.

mod stored;
mod window;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use super::fetch::Fetcher;
use super::id::{ActionId, OutputId};
use super::manifest::{self, Manifest};
use crate::pool::Pool;
use crate::sign::from_nanos;
pub use stored::{Loading, read};
use window::Window;

/// Fetches ahead at a time, for all scopes of a process.
const FETCHERS: usize = 24;
/// What waits for them; each window is bounded by itself.
const QUEUE: usize = usize::MAX;

/// The fetchers, which the readaheads of a process share.
pub type Fetchers = Arc<Mutex<Pool>>;

/// Fetchers for a process; threads come with work.
pub fn fetchers() -> Fetchers {
    Arc::new(Mutex::new(Pool::new("readahead", FETCHERS, QUEUE)))
}
/// The scope that no client can name, whose manifest is the fleet's.
const FLEET: &str = "";

/// Gets remembered until the manifest is there.
const EARLY: usize = 16;

/// What is known of an action that a get asks for.
#[derive(Debug)]
pub enum Advice {
    /// Nothing: ask the bucket.
    Unlisted,
    /// The bucket should have it.
    Listed(Option<(OutputId, SystemTime)>),
    /// Builds of this scope ask for it in vain.
    Absent,
    /// Here is its body.
    Inline(OutputId, SystemTime, Vec<u8>),
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
}

#[derive(Default)]
struct State {
    phase: Phase,
    closing: bool,
    /// Clients that share this readahead.
    users: usize,
    /// The bucket says that the scope has no manifest.
    new_scope: bool,
    /// What was asked for last, while the manifest is not there yet.
    early: VecDeque<[u8; 32]>,
}

#[derive(Default)]
enum Phase {
    #[default]
    Idle,
    Loading,
    /// There is none, or it cannot be used.
    Without,
    Loaded(Box<Loaded>),
}

struct Loaded {
    key: String,
    manifest: Arc<Manifest>,
    etag: String,
    index: HashMap<[u8; 32], u32>,
    absent: HashSet<[u8; 32]>,
    window: Window,
}

/// What a readahead leaves for one of the manifests that come after it.
pub struct Left {
    /// The manifest's key.
    pub key: String,
    /// What was loaded, and its tag.
    pub base: Option<(Arc<Manifest>, String)>,
    /// Entries fetched and not used.
    pub wasted: Vec<[u8; 32]>,
}

impl Readahead {
    /// Readahead for `scope` through `fetcher`. Nothing is asked of the bucket yet.
    pub fn new(fetcher: Arc<Fetcher>, fetchers: Fetchers, scope: &str) -> Self {
        let shared = Shared { fetcher, fetchers, state: Mutex::default() };
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
        self.shared.submit(move || shared.load(&key));
    }

    /// Takes note that `go` asked for `action`, moves the window, and tells what is known of it.
    /// `local` says that the disk cache has it. The flag returned tells that it was fetched ahead
    /// or inline and is used for the first time.
    pub fn note(&self, action: &ActionId, local: bool) -> (Advice, bool) {
        let Some(id) = manifest::listed_id(action) else { return (Advice::Unlisted, false) };
        let mut state = self.shared.lock();
        if matches!(state.phase, Phase::Idle | Phase::Loading) {
            if state.early.len() == EARLY {
                state.early.pop_front();
            }
            state.early.push_back(id);
        }
        let Phase::Loaded(loaded) = &mut state.phase else { return (Advice::Unlisted, false) };
        let Some(&i) = loaded.index.get(&id) else {
            let advice = if loaded.absent.contains(&id) { Advice::Absent } else { Advice::Unlisted };
            return (advice, false);
        };
        let metrics = &self.shared.fetcher.metrics;
        let used = loaded.window.ask(i as usize);
        let first = used.is_some();
        if let Some(bytes) = used {
            metrics.readahead.used.inc();
            metrics.readahead.used_bytes.add(bytes);
        }
        let manifest = loaded.manifest.clone();
        drop(state);
        self.shared.fetch_ahead();
        let entry = &manifest.entries[i as usize];
        let known = entry.known.map(|(output, time)| (output, from_nanos(time)));
        match (known, manifest.inline(entry)) {
            (Some((output, time)), Some(body)) if !local => (Advice::Inline(output, time, body.to_vec()), true),
            _ => (Advice::Listed(known), first),
        }
    }

    /// Takes note that a get moved `bytes` itself.
    pub fn moved(&self, bytes: u64) {
        if let Phase::Loaded(loaded) = &mut self.shared.lock().phase {
            loaded.window.demand(bytes);
        }
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

    /// Whether the bucket was turned to at all.
    pub fn begun(&self) -> bool {
        !matches!(self.shared.lock().phase, Phase::Idle)
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
            Phase::Loaded(loaded) if loaded.key == key => {
                let unused = loaded.window.wasted().filter(|_| wasted);
                let wasted = unused.map(|i| loaded.manifest.entries[i].action).collect();
                Left { key, base: Some((loaded.manifest.clone(), loaded.etag.clone())), wasted }
            }
            _ => Left { key, base: None, wasted: Vec::new() },
        })
        .collect()
    }
}

fn manifest_key(scope: &str) -> String {
    format!("manifest/{}", OutputId::of(scope.as_bytes()))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn load(self: &Arc<Self>, key: &str) {
        let (loaded, new_scope) = match read(&self.fetcher, key, None) {
            Loading::None => {
                let fleet = manifest_key(FLEET);
                (self.take_in(&fleet, read(&self.fetcher, &fleet, None)), true)
            }
            loading => (self.take_in(key, loading), false),
        };
        let mut state = self.lock();
        state.new_scope = new_scope;
        let early = std::mem::take(&mut state.early);
        let Some(mut loaded) = loaded else {
            state.phase = Phase::Without;
            return;
        };
        // the window opens around them without waiting for the next
        for i in early.iter().filter_map(|id| loaded.index.get(id)) {
            loaded.window.ask(*i as usize);
        }
        state.phase = Phase::Loaded(Box::new(loaded));
        drop(state);
        self.fetch_ahead();
    }

    fn take_in(&self, key: &str, loading: Loading) -> Option<Loaded> {
        match loading {
            Loading::Found(manifest, etag, stored) => {
                let metrics = &self.fetcher.metrics.readahead;
                metrics.manifest_loads.inc();
                metrics.manifest_entries.add(manifest.entries.len() as u64);
                log::debug!("{key}: {} entries, {stored} bytes", manifest.entries.len());
                let index = manifest.entries.iter().enumerate().map(|(i, e)| (e.action, i as u32)).collect();
                let absent = manifest.absent.actions().copied().collect();
                let window = Window::new(&manifest, stored);
                Some(Loaded { key: key.to_string(), manifest: Arc::new(manifest), etag, index, absent, window })
            }
            Loading::Bad(_, why) => {
                let (bucket, signer) = (self.fetcher.bucket.target(), self.fetcher.codec.signer());
                signer.refused(format_args!("{bucket}: {key} is not used, so nothing is fetched ahead: {why}"));
                None
            }
            Loading::Unchanged | Loading::None | Loading::Failed => None,
        }
    }

    /// Hands what the window has room for to the fetchers.
    fn fetch_ahead(self: &Arc<Self>) {
        let mut state = self.lock();
        // one that is left alone is asked again when a get moves the window
        if state.closing || !self.fetcher.bucket.available() {
            return;
        }
        let Phase::Loaded(loaded) = &mut state.phase else { return };
        let next: Vec<usize> = std::iter::from_fn(|| loaded.window.next()).collect();
        let manifest = loaded.manifest.clone();
        drop(state);
        for i in next {
            let (shared, manifest) = (self.clone(), manifest.clone());
            self.submit(move || shared.fetch_one(i, &manifest.entries[i]));
        }
    }

    /// Fetches entry `i`, and takes note of the bytes moved.
    fn fetch_one(self: &Arc<Self>, i: usize, entry: &manifest::Entry) {
        if self.lock().closing {
            return;
        }
        let known = entry.known.map(|(output, time)| (output, from_nanos(time)));
        let action = ActionId::new(&entry.action);
        let moved = action.and_then(|action| self.fetcher.fetch_ahead(&action, known, |_| ()));
        let metrics = &self.fetcher.metrics.readahead;
        metrics.fetched.add(u64::from(moved.is_some()));
        metrics.fetched_bytes.add(moved.unwrap_or(0));
        if let Phase::Loaded(loaded) = &mut self.lock().phase {
            if moved.is_none() && !self.fetcher.bucket.available() {
                loaded.window.give_back(i);
            } else if loaded.window.done(i, moved) {
                metrics.used_bytes.add(moved.unwrap_or(0));
            }
        }
        // room for the next may have come up
        self.fetch_ahead();
    }

    fn submit(&self, job: impl FnOnce() + Send + 'static) {
        self.fetchers.lock().expect("no holder panics").submit(job);
    }
}
