//! The last minutes, second by second, and the thread that records them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::Sources;
use super::size::{Size, SizeWalk};

/// Samples kept, one a second.
pub const KEEP: usize = 300;
const EVERY: Duration = Duration::from_secs(1);
/// The cache's size is looked after for this long after someone asked for it.
const ATTENTION: Duration = Duration::from_secs(60);

/// The program at one moment: counters since its start, and gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Requests that could be answered from the cache: gets, module and proxy look-ups.
    pub lookups: u64,
    /// Those that were.
    pub hits: u64,
    /// Bytes served from the cache.
    pub served_bytes: u64,
    /// Bytes stored in it.
    pub stored_bytes: u64,
    /// Nanoseconds spent waiting for the bucket.
    pub wait_nanos: u64,
    /// Uploads waiting and under way.
    pub queue: u64,
    /// The bucket is left alone because it failed.
    pub breaker_open: bool,
    /// Size of the cache directory.
    pub cache: Size,
}

impl Sample {
    /// Reads all that is counted; the size is the walk's.
    pub fn take(sources: &Sources, cache: Size) -> Self {
        let m = &sources.metrics;
        let sum = |counters: &[&crate::metrics::Counter]| counters.iter().map(|c| c.get()).sum();
        let r = &m.revcache;
        let queue = sources.uploader.as_ref().map(|u| u.state()).unwrap_or_default();
        Sample {
            lookups: sum(&[&m.server.get_requests, &m.modcache.get_request, &r.req_received]),
            hits: sum(&[
                &m.server.get_hits,
                &m.modcache.get_local_hit,
                &m.modcache.get_fault_hit,
                &r.req_memory_hit,
                &r.req_local_hit,
                &r.req_fault_hit,
            ]),
            served_bytes: sum(&[&m.server.get_hit_bytes, &m.modcache.get_local_bytes, &m.modcache.get_s3_bytes]),
            stored_bytes: sum(&[&m.server.put_bytes, &m.modcache.put_local_bytes, &r.rsp_save_bytes]),
            wait_nanos: m.bucket.wait_nanos.get(),
            queue: (queue.waiting + queue.busy) as u64,
            breaker_open: sources.bucket.as_ref().is_some_and(|b| !b.available()),
            cache,
        }
    }
}

/// The samples so far, the oldest first.
pub struct Samples {
    state: Arc<Mutex<State>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    ring: VecDeque<Sample>,
    size: Size,
    asked: Option<Instant>,
}

impl Samples {
    /// Starts to record. The thread ends, and is joined, when this is dropped.
    pub fn start(sources: Arc<Sources>) -> std::io::Result<Self> {
        let state = Arc::new(Mutex::new(State { ring: VecDeque::new(), size: Size::default(), asked: None }));
        let (stop, stopped) = bounded(0);
        let shared = state.clone();
        let thread = std::thread::Builder::new().name("status".to_string()).stack_size(256 << 10).spawn(move || {
            let mut walk = SizeWalk::new(&sources.cache_dir);
            loop {
                let first = lock(&shared).ring.is_empty();
                if first || lock(&shared).asked.is_some_and(|at| at.elapsed() < ATTENTION) {
                    walk.step();
                }
                let sample = Sample::take(&sources, walk.size());
                lock(&shared).add(sample);
                if stopped.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        })?;
        Ok(Samples { state, stop: Some(stop), thread: Some(thread) })
    }

    /// The samples, and the size of the cache as far as it is known; it will be looked after for a
    /// while now.
    pub fn look(&self) -> (Vec<Sample>, Size) {
        let mut state = lock(&self.state);
        state.asked = Some(Instant::now());
        (state.ring.iter().copied().collect(), state.size)
    }
}

impl Drop for Samples {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            log::error!("the status thread panicked");
        }
    }
}

impl State {
    fn add(&mut self, sample: Sample) {
        if self.ring.len() == KEEP {
            self.ring.pop_front();
        }
        self.size = sample.cache;
        self.ring.push_back(sample);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no holder panics")
}
