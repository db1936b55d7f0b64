//! The policy around a backend: prefixes, retries, breaker, counters, and the lines people see.
//!
//! Invariants: a bucket never fails a build and never holds one up for long. Every failure of a
//! get is a miss. People hear of changes of state alone, one line each: the breaker opened or
//! closed, the bucket or writing to it was given up for this process.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::breaker::{Admission, Breaker, Change, Failed, PROBE_INTERVAL, Status};
use super::{Dir, Object, ObjectInfo, PutBody, Remote, RemoteError, S3};
use crate::config::{BucketConfig, BucketLocation};
use crate::metrics::Metrics;
use crate::retry::{Failure, Patience, wait_before_retry};

/// So many refused gets in a row, before any was answered, are no absent objects any more.
const FORBIDDEN_LIMIT: u32 = 16;

/// What may be done to a bucket, and under which names.
#[derive(Clone, Debug, Default)]
pub struct BucketPolicy {
    /// Prefix of every key; empty for none.
    pub prefix: String,
    /// Read this prefix first and write nowhere else.
    pub write_prefix: Option<String>,
    /// Write nothing.
    pub read_only: bool,
}

/// A bucket as the rest of the program uses it, from any thread. Keys given to it carry no prefix.
pub struct Bucket {
    inner: Arc<Inner>,
}

struct Inner {
    remote: Box<dyn Remote>,
    policy: BucketPolicy,
    metrics: Arc<Metrics>,
    breaker: Mutex<Breaker>,
    /// Writing was refused for want of permission.
    writes_refused: AtomicBool,
    /// Gets refused in a row; [`u32::MAX`] once one was answered.
    forbidden: AtomicU32,
}

/// Outcome of a conditional get.
pub enum Fetched {
    /// There is no such object, or the bucket cannot be asked now.
    Missing,
    /// It still has the tag asked about.
    Unchanged,
    /// Here it is.
    Found(Object),
}

/// How a bucket is doing, for a status page.
#[derive(Clone, Debug)]
pub struct BucketState {
    /// Whether requests are sent.
    pub status: Status,
    /// For how long it has been so.
    pub since: Duration,
    /// The last error seen, also one that has been overcome.
    pub last_error: Option<String>,
    /// Whether puts are tried.
    pub writable: bool,
}

impl Bucket {
    /// The bucket that `config` describes. No I/O: the only error is [`RemoteError::Config`].
    pub fn open(config: &BucketConfig, metrics: Arc<Metrics>) -> Result<Bucket, RemoteError> {
        let remote: Box<dyn Remote> = match &config.location {
            BucketLocation::S3 { bucket, region, endpoint, path_style, aws } => {
                let (region, endpoint) = (region.as_deref(), endpoint.as_deref());
                Box::new(S3::new(bucket, region, endpoint, *path_style, aws, metrics.clone())?)
            }
            BucketLocation::Dir(root) => Box::new(Dir::new(root)?),
        };
        let policy = BucketPolicy {
            prefix: config.prefix.clone(),
            write_prefix: config.write_prefix.clone(),
            read_only: config.read_only,
        };
        for prefix in std::iter::once(&policy.prefix).chain(&policy.write_prefix) {
            if !prefix.is_empty() && prefix.split('/').any(|s| matches!(s, "" | "." | "..")) {
                return Err(RemoteError::Config(format!(
                    "{prefix:?} is no key prefix: it has an empty or dot segment"
                )));
            }
        }
        Ok(Bucket::new(remote, policy, metrics))
    }

    /// Puts the policy around `remote`.
    pub fn new(remote: Box<dyn Remote>, policy: BucketPolicy, metrics: Arc<Metrics>) -> Self {
        let inner = Inner {
            remote,
            policy,
            metrics,
            breaker: Mutex::new(Breaker::new(Instant::now())),
            writes_refused: AtomicBool::new(false),
            forbidden: AtomicU32::new(0),
        };
        Bucket { inner: Arc::new(inner) }
    }

    /// Finds credentials and region, which the first request would wait for otherwise. For a
    /// thread in the background at the start of a session.
    pub fn warm_up(&self) {
        let from = Instant::now();
        if self.inner.admit("").is_ok()
            && let Err(e) = self.inner.remote.warm_up()
        {
            self.inner.failed(&e, "look-up of credentials and region", Some(from));
        }
    }

    /// Opens `key`. Every failure is a miss, logged and counted here. Reading the body may still
    /// fail; such failures count for the breaker too.
    pub fn get(&self, key: &str) -> Option<Object> {
        match self.fetch(key, None) {
            Fetched::Found(object) => Some(object),
            Fetched::Missing | Fetched::Unchanged => None,
        }
    }

    /// Opens `key` unless it still has the tag `etag`.
    pub fn get_if_changed(&self, key: &str, etag: &str) -> Fetched {
        self.fetch(key, Some(etag))
    }

    fn fetch(&self, key: &str, etag: Option<&str>) -> Fetched {
        let policy = &self.inner.policy;
        for prefix in policy.write_prefix.iter().chain([&policy.prefix]) {
            let key = join(prefix, key);
            let outcome = self.inner.attempt(Kind::Get, &key, |remote| remote.get(&key, etag));
            match outcome {
                Ok(Some(object)) => return Fetched::Found(Inner::watch(&self.inner, object)),
                Ok(None) => self.inner.breaker().success(Instant::now()),
                Err(RemoteError::NotModified) => return Fetched::Unchanged,
                Err(_) => return Fetched::Missing,
            }
        }
        Fetched::Missing
    }

    /// Tells whether `key` is there under the prefix that puts go to. Failures are `None`.
    pub fn head(&self, key: &str) -> Option<ObjectInfo> {
        let key = join(self.inner.policy.target(), key);
        let found = self.inner.attempt(Kind::Get, &key, |remote| remote.head(&key)).ok()?;
        self.inner.breaker().success(Instant::now());
        found
    }

    /// Stores `body` under `key`.
    pub fn put(&self, key: &str, body: &PutBody) -> Result<(), RemoteError> {
        self.put_if(key, body, None)
    }

    /// Stores `body` under `key` on a condition, see [`Remote::put`].
    pub fn put_if(&self, key: &str, body: &PutBody, if_match: Option<&str>) -> Result<(), RemoteError> {
        if !self.writable() {
            return Err(RemoteError::ReadOnly);
        }
        let key = join(self.inner.policy.target(), key);
        self.inner.attempt(Kind::Put, &key, |remote| remote.put(&key, body, if_match))?;
        self.inner.breaker().success(Instant::now());
        self.inner.metrics.bucket.put_bytes.add(body.len());
        Ok(())
    }

    /// Lists what lies under `prefix` where puts go, with keys as the other methods take them.
    pub fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), RemoteError> {
        let target = self.inner.policy.target();
        let skip = if target.is_empty() { 0 } else { target.len() + 1 };
        let full = join(target, prefix);
        self.inner.admit(&full)?;
        self.inner.metrics.bucket.requests.inc();
        let listed = self.inner.remote.list(&full, &mut |mut object| {
            if object.key.starts_with(&full) {
                object.key.drain(..skip);
                each(object);
            }
        });
        match &listed {
            Ok(()) => self.inner.breaker().success(Instant::now()),
            Err(e) => self.inner.failed(e, &full, None),
        }
        listed
    }

    /// Deletes `key` where puts go.
    pub fn delete(&self, key: &str) -> Result<(), RemoteError> {
        if !self.writable() {
            return Err(RemoteError::ReadOnly);
        }
        let key = join(self.inner.policy.target(), key);
        self.inner.attempt(Kind::Delete, &key, |remote| remote.delete(&key))?;
        self.inner.breaker().success(Instant::now());
        Ok(())
    }

    /// Whether puts go anywhere at all.
    pub fn writable(&self) -> bool {
        !self.inner.policy.read_only && !self.inner.writes_refused.load(Ordering::Relaxed)
    }

    /// Whether requests are sent at present (the breaker is not open).
    pub fn available(&self) -> bool {
        self.inner.breaker().status().0 == Status::Closed
    }

    /// How the bucket is doing.
    pub fn state(&self) -> BucketState {
        let breaker = self.inner.breaker();
        let (status, since, last_error) = breaker.status();
        BucketState {
            status,
            since: since.elapsed(),
            last_error: last_error.map(str::to_string),
            writable: self.writable(),
        }
    }

    /// The bucket and where puts go in it, as people name it; two processes with the same
    /// identity may finish each other's uploads.
    pub fn identity(&self) -> String {
        format!("{}/{}", self.inner.remote.describe(), self.inner.policy.target())
    }
}

/// What a request is for.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// GET or HEAD: somebody waits.
    Get,
    Put,
    Delete,
}

impl BucketPolicy {
    /// The prefix that is written to.
    fn target(&self) -> &str {
        self.write_prefix.as_ref().unwrap_or(&self.prefix)
    }
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_string() } else { format!("{prefix}/{key}") }
}

/// Random, from 0 to 1.
fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(()) as f64 / u64::MAX as f64
}

impl Inner {
    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().expect("no holder panics")
    }

    /// Asks the breaker, and starts the probe that is due.
    fn admit(self: &Arc<Self>, key: &str) -> Result<(), RemoteError> {
        let admission = self.breaker().admit(Instant::now());
        if admission == Admission::Send {
            return Ok(());
        }
        self.metrics.bucket.breaker_skipped.inc();
        if admission == Admission::SkipAndProbe {
            let (inner, key) = (self.clone(), if key.is_empty() { "probe" } else { key }.to_string());
            // in the background, so that nobody waits for it; not joined, because it may sit out a
            // time-out that the end of the process should not wait for, and leaves nothing behind
            let probe = std::thread::Builder::new().name("bucket-probe".into()).spawn(move || inner.probe(&key));
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
    fn attempt<T>(
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
    fn failed(&self, error: &RemoteError, what: &str, from: Option<Instant>) {
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
    fn watch(inner: &Arc<Inner>, mut object: Object) -> Object {
        let body = std::mem::replace(&mut object.body, Box::new(io::empty()));
        if object.len == Some(0) {
            inner.breaker().success(Instant::now());
        }
        object.body =
            Box::new(Watched { body, inner: inner.clone(), left: object.len, settled: object.len == Some(0) });
        object
    }
}

/// A body whose bytes are counted, and whose end, good or bad, the breaker hears of.
struct Watched {
    body: Box<dyn Read + Send>,
    inner: Arc<Inner>,
    left: Option<u64>,
    settled: bool,
}

impl Read for Watched {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.body.read(buf) {
            Ok(n) => {
                self.inner.metrics.bucket.get_bytes.add(n as u64);
                self.left = self.left.map(|left| left.saturating_sub(n as u64));
                let at_end = self.left == Some(0) || n == 0 && !buf.is_empty();
                if at_end && !std::mem::replace(&mut self.settled, true) {
                    self.inner.breaker().success(Instant::now());
                }
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                if !std::mem::replace(&mut self.settled, true) {
                    let copy = io::Error::new(e.kind(), e.to_string());
                    self.inner.failed(&RemoteError::Io(copy), "reading a body", None);
                }
                Err(e)
            }
        }
    }
}
