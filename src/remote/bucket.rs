//! A bucket as the program uses it: prefixes, and what may be written, over a guarded backend.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::breaker::Status;
use super::guard::{Guard, Kind};
use super::{Dir, Object, ObjectInfo, PutBody, Remote, RemoteError, S3};
use crate::config::{BucketConfig, BucketLocation, KeyPrefix};
use crate::metrics::Metrics;

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
    guard: Arc<Guard>,
    policy: BucketPolicy,
}

/// Outcome of a conditional get.
pub enum Fetched {
    /// There is no such object.
    Missing,
    /// It could not be had; logged and counted.
    Failed,
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
                let (region, endpoint) = (region.as_ref(), endpoint.as_ref());
                Box::new(S3::new(bucket, region, endpoint, *path_style, aws, metrics.clone())?)
            }
            BucketLocation::Dir(root) => Box::new(Dir::new(root)?),
        };
        let policy = BucketPolicy {
            prefix: config.prefix.to_string(),
            write_prefix: config.write_prefix.as_ref().map(KeyPrefix::to_string),
            read_only: config.read_only,
        };
        Ok(Bucket::new(remote, policy, metrics))
    }

    /// Puts the policy around `remote`.
    pub fn new(remote: Box<dyn Remote>, policy: BucketPolicy, metrics: Arc<Metrics>) -> Self {
        Bucket { guard: Arc::new(Guard::new(remote, metrics)), policy }
    }

    /// Finds credentials and region, which the first request would wait for otherwise. For a
    /// thread in the background at the start of a session.
    pub fn warm_up(&self) {
        let from = Instant::now();
        if self.guard.admit("").is_ok()
            && let Err(e) = self.guard.remote.warm_up()
        {
            self.guard.failed(&e, "look-up of credentials and region", Some(from));
        }
    }

    /// Opens `key`. Every failure is a miss, logged and counted here. Reading the body may still
    /// fail; such failures count for the breaker too.
    pub fn get(&self, key: &str) -> Option<Object> {
        match self.fetch(key, None) {
            Fetched::Found(object) => Some(object),
            Fetched::Missing | Fetched::Unchanged | Fetched::Failed => None,
        }
    }

    /// As [`Self::get`], but tells an absent object from one that could not be had.
    pub fn try_get(&self, key: &str) -> Fetched {
        self.fetch(key, None)
    }

    /// Opens `key` unless it still has the tag `etag`.
    pub fn get_if_changed(&self, key: &str, etag: &str) -> Fetched {
        self.fetch(key, Some(etag))
    }

    fn fetch(&self, key: &str, etag: Option<&str>) -> Fetched {
        let policy = &self.policy;
        let mut outcome = Fetched::Missing;
        for prefix in policy.write_prefix.iter().chain([&policy.prefix]) {
            let fallback = policy.write_prefix.is_some() && std::ptr::eq(prefix, &policy.prefix);
            let key = join(prefix, key);
            // the tag is that of the object that puts replace
            let etag = etag.filter(|_| !fallback);
            match self.guard.attempt(Kind::Get, &key, |remote| remote.get(&key, etag)) {
                Ok(Some(mut object)) => {
                    if fallback {
                        object.etag = None;
                    }
                    return Fetched::Found(Guard::watch(&self.guard, object));
                }
                Ok(None) => self.guard.breaker().success(Instant::now()),
                Err(RemoteError::NotModified) => return Fetched::Unchanged,
                // who may not list is told 403 of what is not there: the next prefix may have it
                Err(RemoteError::Forbidden(_)) => outcome = Fetched::Failed,
                Err(_) => return Fetched::Failed,
            }
        }
        outcome
    }

    /// Tells whether `key` is there under the prefix that puts go to. Failures are `None`.
    pub fn head(&self, key: &str) -> Option<ObjectInfo> {
        let key = join(self.policy.target(), key);
        let found = self.guard.attempt(Kind::Get, &key, |remote| remote.head(&key)).ok()?;
        self.guard.breaker().success(Instant::now());
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
        let key = join(self.policy.target(), key);
        self.guard.attempt(Kind::Put, &key, |remote| remote.put(&key, body, if_match))?;
        self.guard.breaker().success(Instant::now());
        self.guard.metrics.bucket.put_bytes.add(body.len());
        Ok(())
    }

    /// Lists what lies under `prefix` where puts go, with keys as the other methods take them.
    pub fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), RemoteError> {
        let target = self.policy.target();
        let skip = if target.is_empty() { 0 } else { target.len() + 1 };
        let full = join(target, prefix);
        self.guard.admit(&full)?;
        self.guard.metrics.bucket.requests.inc();
        let listed = self.guard.remote.list(&full, &mut |mut object| {
            if object.key.starts_with(&full) {
                object.key.drain(..skip);
                each(object);
            }
        });
        match &listed {
            Ok(()) => self.guard.breaker().success(Instant::now()),
            Err(e) => self.guard.failed(e, &full, None),
        }
        listed
    }

    /// Deletes `key` where puts go.
    pub fn delete(&self, key: &str) -> Result<(), RemoteError> {
        if !self.writable() {
            return Err(RemoteError::ReadOnly);
        }
        let key = join(self.policy.target(), key);
        self.guard.attempt(Kind::Delete, &key, |remote| remote.delete(&key))?;
        self.guard.breaker().success(Instant::now());
        Ok(())
    }

    /// Whether puts go anywhere at all.
    pub fn writable(&self) -> bool {
        !self.policy.read_only && !self.guard.writes_refused()
    }

    /// Whether requests are sent at present (the breaker is not open).
    pub fn available(&self) -> bool {
        self.guard.breaker().status().0 == Status::Closed
    }

    /// How the bucket is doing.
    pub fn state(&self) -> BucketState {
        let breaker = self.guard.breaker();
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
        format!("{}/{}", self.guard.remote.describe(), self.policy.target())
    }
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
