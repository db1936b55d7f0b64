//! The last hour, sample by sample, and the thread that records them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::Sources;
use super::size::{Size, SizeWalk};
use crate::metrics::Metrics;

/// The latest samples are at most so many: those of an hour.
const KEEP: usize = 361;
/// One sample is taken in so many seconds.
const SECONDS: u64 = 10;
/// The cache's size is looked after for this long after someone asked for it.
const ATTENTION: Duration = Duration::from_secs(60);

/// The program at one moment: counters since its start, and gauges, under the names of [`COLUMNS`].
pub type Sample = [u64; COLUMNS.len()];

/// What a sample holds. First the milliseconds since the start; then, of the build cache, the module
/// proxy and the reverse proxy, the requests that could be answered from the cache and those that
/// were; bytes served from it and stored in it; nanoseconds that gets waited for the bucket; uploads
/// waiting and under way; 1 while the bucket is left alone because it failed; the cache's size.
pub const COLUMNS: [&str; 14] = [
    "millis",
    "gets",
    "get_hits",
    "modules",
    "module_hits",
    "proxied",
    "proxied_hits",
    "served_bytes",
    "stored_bytes",
    "wait_nanos",
    "queue",
    "left_alone",
    "cache_bytes",
    "cache_files",
];

/// A sample of this moment; the size is the walk's.
pub fn take(sources: &Sources, cache: Size) -> Sample {
    let Metrics { server, modcache: m, revcache: r, bucket, .. } = &*sources.metrics;
    let queue = sources.uploader.as_ref().map(|u| u.state()).unwrap_or_default();
    [
        sources.started.elapsed().unwrap_or_default().as_millis() as u64,
        server.get_requests.get(),
        server.get_hits.get(),
        m.get_request.get(),
        m.get_local_hit.get() + m.get_fault_hit.get(),
        r.req_received.get(),
        r.req_memory_hit.get() + r.req_local_hit.get() + r.req_fault_hit.get(),
        server.get_hit_bytes.get() + m.get_local_bytes.get() + m.get_s3_bytes.get(),
        server.put_bytes.get() + m.put_local_bytes.get() + r.rsp_save_bytes.get(),
        bucket.wait_nanos.get(),
        (queue.waiting + queue.busy) as u64,
        u64::from(sources.bucket.as_ref().is_some_and(|b| !b.available())),
        cache.bytes,
        cache.files,
    ]
}

/// The samples so far.
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
            for second in 0.. {
                if second == 0 || lock(&shared).asked.is_some_and(|at| at.elapsed() < ATTENTION) {
                    walk.step();
                }
                let sample = (second % SECONDS == 0).then(|| take(&sources, walk.size()));
                let mut state = lock(&shared);
                state.size = walk.size();
                if sample.is_some() && state.ring.len() == KEEP {
                    state.ring.pop_front();
                }
                state.ring.extend(sample);
                drop(state);
                if stopped.recv_timeout(Duration::from_secs(1)) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        })?;
        Ok(Samples { state, stop: Some(stop), thread: Some(thread) })
    }

    /// The samples, the oldest first, and the size of the cache as far as it is known; it will be
    /// looked after for a while now.
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

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no holder panics")
}
