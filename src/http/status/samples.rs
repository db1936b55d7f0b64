//! The last hour, sample by sample, and the thread that records them and tries the disk.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::Sources;
use crate::atomic::TempFile;
use crate::cache::size::Size;
use crate::metrics::Metrics;
use crate::pool::STACK;

/// The latest samples are at most so many: those of an hour.
const KEEP: usize = 361;
/// One sample is taken in so much time.
const INTERVAL: Duration = Duration::from_secs(10);

/// What a sample holds.
const COLUMNS: usize = 13;

/// The program at one moment: counters since its start, and gauges, by name. First the milliseconds since the
/// start; then, of the build cache, the module proxy and the reverse proxy, the requests that could be answered
/// from the cache and those that were; bytes served from it and stored in it; nanoseconds that gets waited for the
/// bucket; uploads waiting and under way; 1 while the bucket is left alone because it failed; the cache's size.
pub fn take(sources: &Sources) -> [(&'static str, u64); COLUMNS] {
    let Metrics { server, modcache: m, revcache: r, bucket, .. } = &*sources.metrics;
    let queue = sources.uploader.as_ref().map(|u| u.state()).unwrap_or_default();
    [
        ("millis", sources.started.elapsed().unwrap_or_default().as_millis() as u64),
        ("gets", server.get_requests.get()),
        ("get_hits", server.get_hits.get()),
        ("modules", m.get_request.get()),
        ("module_hits", m.get_local_hit.get() + m.get_fault_hit.get()),
        ("proxied", r.req_received.get()),
        ("proxied_hits", r.req_memory_hit.get() + r.req_local_hit.get() + r.req_fault_hit.get()),
        ("served_bytes", server.get_hit_bytes.get() + m.get_local_bytes.get() + m.get_s3_bytes.get()),
        ("stored_bytes", server.put_bytes.get() + m.put_local_bytes.get() + r.rsp_save_bytes.get()),
        ("wait_nanos", bucket.wait_nanos.get()),
        ("queue", (queue.waiting + queue.busy) as u64),
        ("left_alone", u64::from(sources.bucket.as_ref().is_some_and(|b| !b.available()))),
        ("cache_bytes", Size::read(&sources.cache_dir)),
    ]
}

/// What is kept of it.
pub type Sample = [u64; COLUMNS];

/// The samples so far.
pub struct Samples {
    recorded: Arc<Mutex<Recorded>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Recorded {
    ring: VecDeque<Sample>,
    /// When the disk was last tried, and whether it took what was written.
    tried: Option<(Instant, bool)>,
}

impl Samples {
    /// Starts to record. The thread ends, and is joined, when this is dropped.
    pub fn start(sources: Arc<Sources>) -> std::io::Result<Self> {
        let recorded = Arc::new(Mutex::new(Recorded::default()));
        let (stop, stopped) = bounded(0);
        let shared = recorded.clone();
        let record = move || loop {
            let (outcome, sample) = (try_disk(&sources.cache_dir), take(&sources).map(|(_, value)| value));
            let mut recorded = lock(&shared);
            let before = recorded.tried.replace((Instant::now(), outcome.is_ok()));
            if recorded.ring.len() == KEEP {
                recorded.ring.pop_front();
            }
            recorded.ring.push_back(sample);
            drop(recorded);
            if let (Err(e), None | Some((_, true))) = (outcome, before) {
                log::warn!("{}: nothing can be written: {e}", sources.cache_dir.display());
            }
            if stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        };
        let thread = std::thread::Builder::new().name("status".to_string()).stack_size(STACK).spawn(record)?;
        Ok(Samples { recorded, stop: Some(stop), thread: Some(thread) })
    }

    /// Whether the disk takes what is written, or why not.
    pub fn disk(&self) -> Result<(), &'static str> {
        match lock(&self.recorded).tried {
            None => Err("not tried yet"),
            Some((_, false)) => Err("takes nothing"),
            Some((at, true)) if at.elapsed() > 3 * INTERVAL => Err("does not answer"),
            Some((_, true)) => Ok(()),
        }
    }

    /// The samples, the oldest first.
    pub fn look(&self) -> Vec<Sample> {
        lock(&self.recorded).ring.iter().copied().collect()
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

/// Writes as much as makes the disk find room for it.
fn try_disk(dir: &Path) -> io::Result<()> {
    TempFile::create(dir)?.file().write_all(&[0; 4096])
}

fn lock(recorded: &Mutex<Recorded>) -> MutexGuard<'_, Recorded> {
    recorded.lock().expect("no holder panics")
}
