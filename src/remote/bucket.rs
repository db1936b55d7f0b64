//! The policy around a backend: prefixes, retries, breaker, counters.

use std::sync::Arc;

use super::{Object, ObjectInfo, PutBody, Remote, RemoteError};
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

/// A bucket as the rest of the program uses it. Keys given to it carry no prefix.
pub struct Bucket {
    remote: Box<dyn Remote>,
    policy: BucketPolicy,
    #[expect(dead_code, reason = "skeleton")]
    metrics: Arc<Metrics>,
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

impl Bucket {
    /// Puts the policy around `remote`.
    pub fn new(remote: Box<dyn Remote>, policy: BucketPolicy, metrics: Arc<Metrics>) -> Self {
        Bucket { remote, policy, metrics }
    }

    /// Opens the bucket that the configuration names.
    pub fn open(_config: &crate::config::BucketConfig, _metrics: Arc<Metrics>) -> Result<Self, RemoteError> {
        Err(RemoteError::Config("no backend is linked in".into()))
    }

    fn key(prefix: &str, key: &str) -> String {
        if prefix.is_empty() { key.to_string() } else { format!("{prefix}/{key}") }
    }

    /// Opens `key`. Every failure is a miss, logged and counted here. Reading the body may still
    /// fail; such failures count for the breaker too.
    pub fn get(&self, key: &str) -> Option<Object> {
        self.remote.get(&Self::key(&self.policy.prefix, key), None).ok().flatten()
    }

    /// Opens `key` unless it still has the tag `etag`.
    pub fn get_if_changed(&self, key: &str, etag: &str) -> Fetched {
        match self.remote.get(&Self::key(&self.policy.prefix, key), Some(etag)) {
            Ok(Some(o)) => Fetched::Found(o),
            Err(RemoteError::NotModified) => Fetched::Unchanged,
            _ => Fetched::Missing,
        }
    }

    /// Tells whether `key` is there under the prefix that puts go to. Failures are `None`.
    pub fn head(&self, key: &str) -> Option<ObjectInfo> {
        self.remote.head(&Self::key(&self.policy.prefix, key)).ok().flatten()
    }

    /// Stores `body` under `key`.
    pub fn put(&self, key: &str, body: &PutBody) -> Result<(), RemoteError> {
        self.put_if(key, body, None)
    }

    /// Stores `body` under `key` on a condition, see [`Remote::put`].
    pub fn put_if(&self, key: &str, body: &PutBody, if_match: Option<&str>) -> Result<(), RemoteError> {
        if self.policy.read_only {
            return Err(RemoteError::ReadOnly);
        }
        self.remote.put(&Self::key(&self.policy.prefix, key), body, if_match)
    }

    /// Whether puts go anywhere at all.
    pub fn writable(&self) -> bool {
        !self.policy.read_only
    }

    /// Whether requests are sent at present (the breaker is not open).
    pub fn available(&self) -> bool {
        true
    }

    /// The bucket and where puts go in it, as people name it; two processes with the same
    /// identity may finish each other's uploads.
    pub fn identity(&self) -> String {
        let prefix = self.policy.write_prefix.as_ref().unwrap_or(&self.policy.prefix);
        format!("{}/{}", self.remote.describe(), prefix)
    }
}
