//! Guards a backend: retries, breaker, counters, and the lines that people see.
//!
//! Invariants: a bucket never fails a build and never holds one up for long. People hear of
//! changes of state alone, one line each: the breaker opened or closed, the bucket or writing to
//! it was given up for this process.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::breaker::{Admission, Breaker, Change, Failed, PROBE_INTERVAL};
use super::{Object, Remote, RemoteError};
use crate::metrics::Metrics;
use crate::retry::{Failure, Patience, wait_before_retry};

/// So many refused gets in a row, before any was answered, are no absent objects any more.
const FORBIDDEN_LIMIT: u32 = 16;

/// A backend and how it is doing.
pub struct Guard {
    /// The backend.
    pub remote: Box<dyn Remote>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    breaker: Mutex<Breaker>,
    /// Writing was refused for want of permission.
    writes_refused: AtomicBool,
    /// Gets refused in a row; [`u32::MAX`] once one was answered.
    forbidden: AtomicU32,
}

/// What a request is for.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// GET or HEAD: somebody waits.
    Get,
    /// PUT.
    Put,
    /// DELETE.
    Delete,
}

/// Random, from 0 to 1.
fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(()) as f64 / u64::MAX as f64
}

impl Guard {
    /// Guards `remote`.
    pub fn new(remote: Box<dyn Remote>, metrics: Arc<Metrics>) -> Self {
        Guard {
            remote,
            metrics,
            breaker: Mutex::new(Breaker::new(Instant::now())),
            writes_refused: AtomicBool::new(false),
            forbidden: AtomicU32::new(0),
        }
    }

    /// Whether writing was given up for want of permission.
    pub fn writes_refused(&self) -> bool {
        self.writes_refused.load(Ordering::Relaxed)
    }

    /// The breaker, locked for a moment.
    pub fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().expect("no holder panics")
    }

    /// Asks the breaker, and starts the probe that is due.
    pub fn admit(self: &Arc<Self>, key: &str) -> Result<(), RemoteError> {
        let admission = self.breaker().admit(Instant::now());
        if admission == Admission::Send {
            return Ok(());
        }
        self.metrics.bucket.breaker_skipped.inc();
        if admission == Admission::SkipAndProbe {
            let (guard, key) = (self.clone(), if key.is_empty() { "probe" } else { key }.to_string());
            // in the background, so that nobody waits for it; not joined, because it may sit out a
            // time-out that the end of the process should not wait for, and leaves nothing behind
            let probe = std::thread::Builder::new().name("bucket-probe".into()).spawn(move || guard.probe(&key));
            if let Err(e) = probe {
                log::debug!("cannot start a probe: {e}");
            }
        }
        Err(RemoteError::Open)
    }

    fn probe(&self, key: &str) {
        let from = Instant::now();
        self.metrics.bucket.requests.inc();
        self.metrics.bucket.get_requests.inc();
        let outcome = self.remote.head(key);
        let now = Instant::now();
        let change = match &outcome {
            // an answer is an answer
            Ok(_) | Err(RemoteError::Forbidden(_)) => self.breaker().probed(from, now, Ok(())),
            Err(e @ (RemoteError::Denied(_) | RemoteError::Config(_))) => self.breaker().turn_off(now, &e.to_string()),
            Err(e) => {
                self.metrics.bucket.errors.inc();
                self.breaker().probed(from, now, Err(&e.to_string()))
            }
        };
        self.announce(change);
    }

    /// Sends a request, and again where that is likely to help. A success is the caller's to
    /// report to the breaker, once the body has come too.
    pub fn attempt<T>(
        self: &Arc<Self>,
        kind: Kind,
        key: &str,
        send: impl Fn(&dyn Remote) -> Result<T, RemoteError>,
    ) -> Result<T, RemoteError> {
        let counters = &self.metrics.bucket;
        let patience = if kind == Kind::Get { Patience::Get } else { Patience::Upload };
        for attempt in 0.. {
            self.admit(key)?;
            counters.requests.inc();
            match kind {
                Kind::Get => counters.get_requests.inc(),
                Kind::Put => counters.put_requests.inc(),
                Kind::Delete => {}
            }
            let from = Instant::now();
            let outcome = send(&*self.remote);
            self.metrics.latency.bucket_request.observe(from.elapsed());
            if kind == Kind::Get {
                let change = self.breaker().waited(from, Instant::now());
                self.announce(change);
            }
            let error = match outcome {
                Ok(value) => {
                    self.forbidden.store(u32::MAX, Ordering::Relaxed);
                    return Ok(value);
                }
                Err(e @ (RemoteError::NotModified | RemoteError::Precondition)) => {
                    self.breaker().success(Instant::now());
                    return Err(e);
                }
                Err(e) => e,
            };
            match wait_before_retry(patience, attempt, error.failure(), jitter()) {
                Some(wait) => {
                    counters.retries.inc();
                    log::debug!("{}: {key}: {error}; trying again", self.remote.describe());
                    std::thread::sleep(wait);
                }
                None => {
                    self.refused(kind, &error);
                    self.failed(&error, key, Some(from));
                    return Err(error);
                }
            }
        }
        unreachable!("every patience ends")
    }

    /// Takes note of a failure, of a request begun at `from`.
    pub fn failed(&self, error: &RemoteError, what: &str, from: Option<Instant>) {
        log::debug!("{}: {what}: {error}", self.remote.describe());
        self.metrics.bucket.errors.inc();
        let now = Instant::now();
        let change = match error {
            RemoteError::Denied(_) | RemoteError::Config(_) => self.breaker().turn_off(now, &error.to_string()),
            RemoteError::Io(_) | RemoteError::Status(..) if error.failure() != Failure::Fatal => {
                let timed_out = error.failure() == Failure::TimedOut;
                let how = if timed_out { Failed::TimedOut(from) } else { Failed::Fast };
                self.breaker().failure(now, how, &error.to_string())
            }
            _ => None,
        };
        self.announce(change);
    }

    /// Takes note of a lacking permission.
    fn refused(&self, kind: Kind, error: &RemoteError) {
        let RemoteError::Forbidden(why) = error else { return };
        let name = self.remote.describe();
        if kind != Kind::Get {
            if !self.writes_refused.swap(true, Ordering::Relaxed) {
                log::warn!("bucket {name}: may not be written ({why}); reading from it alone");
            }
            return;
        }
        let answered = |n: u32| (n != u32::MAX).then(|| n + 1);
        let Ok(before) = self.forbidden.fetch_update(Ordering::Relaxed, Ordering::Relaxed, answered) else { return };
        if before == 0 {
            log::warn!("bucket {name}: a get was refused ({why}); absent objects are, without s3:ListBucket");
        } else if before + 1 == FORBIDDEN_LIMIT {
            let change = self.breaker().turn_off(Instant::now(), &format!("every get is refused ({why})"));
            self.announce(change);
        }
    }

    /// Says what changed.
    fn announce(&self, change: Option<Change>) {
        let name = self.remote.describe();
        match change {
            None => {}
            Some(Change::Opened(why)) => {
                self.metrics.bucket.breaker_opened.inc();
                let next = PROBE_INTERVAL.as_secs();
                log::warn!("bucket {name}: {why}; building from the local cache, next try in {next} s");
            }
            Some(Change::Closed) => log::warn!("bucket {name} answers again"),
            Some(Change::Off(why)) => log::warn!("bucket {name}: {why}; building from the local cache alone"),
        }
    }

    /// Has the reading of a body counted and watched.
    pub fn watch(guard: &Arc<Guard>, mut object: Object) -> Object {
        let body = std::mem::replace(&mut object.body, Box::new(io::empty()));
        if object.len == Some(0) {
            guard.breaker().success(Instant::now());
        }
        object.body =
            Box::new(Watched { body, guard: guard.clone(), left: object.len, settled: object.len == Some(0) });
        object
    }
}

/// A body whose bytes are counted, and whose end, good or bad, the breaker hears of.
struct Watched {
    body: Box<dyn Read + Send>,
    guard: Arc<Guard>,
    left: Option<u64>,
    settled: bool,
}

impl Read for Watched {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.body.read(buf) {
            Ok(n) => {
                self.guard.metrics.bucket.get_bytes.add(n as u64);
                self.left = self.left.map(|left| left.saturating_sub(n as u64));
                let at_end = self.left == Some(0) || n == 0 && !buf.is_empty();
                if at_end && !std::mem::replace(&mut self.settled, true) {
                    self.guard.breaker().success(Instant::now());
                }
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                if !std::mem::replace(&mut self.settled, true) {
                    let copy = io::Error::new(e.kind(), e.to_string());
                    self.guard.failed(&RemoteError::Io(copy), "reading a body", None);
                }
                Err(e)
            }
        }
    }
}
