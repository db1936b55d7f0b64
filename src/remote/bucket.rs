//! A bucket as the program uses it: prefixes, and what may be written, over a guarded backend.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::guard::{Guard, Kind, Side};
use super::memory::Memory;
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
/// Nobody need report what came of a request: the guard below sees it itself.
pub struct Bucket {
    guard: Arc<Guard>,
    policy: BucketPolicy,
}

impl Bucket {
    /// The bucket that `config` describes. What it learns of the bucket's state is left in the
    /// folder `memory` for a minute, and begun with. No I/O but for reading that; the only error
    /// is [`RemoteError::Config`].
    pub fn open(config: &BucketConfig, metrics: Arc<Metrics>, memory: Option<&Path>) -> Result<Bucket, RemoteError> {
        let (remote, key_id): (Box<dyn Remote>, _) = match &config.location {
            BucketLocation::S3 { bucket, region, endpoint, path_style, aws } => {
                let s3 = S3::new(bucket, region.as_ref(), endpoint.as_ref(), *path_style, aws, metrics.clone())?;
                (Box::new(s3), aws.var("AWS_ACCESS_KEY_ID").or(aws.var("AWS_PROFILE")).unwrap_or_default())
            }
            BucketLocation::Dir(root) => (Box::new(Dir::new(root)?), ""),
        };
        let policy = BucketPolicy {
            prefix: config.prefix.to_string(),
            write_prefix: config.write_prefix.as_ref().map(KeyPrefix::to_string),
            read_only: config.read_only,
        };
        let memory = memory.map(|dir| Memory::new(dir, &remote.describe(policy.target()), key_id));
        Ok(Bucket::new(remote, policy, metrics, memory))
    }

    /// Puts the policy around `remote`.
    pub fn new(remote: Box<dyn Remote>, policy: BucketPolicy, metrics: Arc<Metrics>, memory: Option<Memory>) -> Self {
        let (name, probe) = (remote.describe(policy.target()), join(&policy.prefix, "v1/probe"));
        Bucket { guard: Arc::new(Guard::new(remote, metrics, name, probe, memory)), policy }
    }

    /// Opens `key`. Every failure is a miss, logged and counted below. Reading the body may still
    /// fail.
    pub fn get(&self, key: &str) -> Option<Object> {
        self.ask(key, None).ok().flatten()
    }

    /// As [`Self::ask`], but of the main prefix alone: for what was no good under one's own.
    pub fn ask_main(&self, key: &str) -> Result<Option<Object>, RemoteError> {
        self.fetch(key, None, true)
    }

    /// As [`Self::get`], but says why there is none: [`RemoteError::NotModified`] where it still has
    /// the tag `etag`; [`RemoteError::Forbidden`] is also what those hear of an absent object who may
    /// not list the bucket.
    pub fn ask(&self, key: &str, etag: Option<&str>) -> Result<Option<Object>, RemoteError> {
        self.fetch(key, etag, false)
    }

    /// Opens those bytes of an object that is of the main prefix, or of where puts go. Every failure is
    /// `None`, logged and counted below.
    pub fn get_range(&self, key: &str, range: Range<u64>, main: bool) -> Option<Object> {
        let key = join(if main { &self.policy.prefix } else { self.policy.target() }, key);
        let send = |remote: &dyn Remote| remote.get_range(&key, range.clone());
        self.guard.attempt(Kind::Get, &key, send, Option::as_mut).ok().flatten()
    }

    fn fetch(&self, key: &str, etag: Option<&str>, main_alone: bool) -> Result<Option<Object>, RemoteError> {
        let policy = &self.policy;
        let mut outcome = Ok(None);
        for prefix in policy.write_prefix.iter().filter(|_| !main_alone).chain([&policy.prefix]) {
            let fallback = policy.write_prefix.is_some() && std::ptr::eq(prefix, &policy.prefix);
            let key = join(prefix, key);
            // the tag is that of the object that puts replace
            let etag = etag.filter(|_| !fallback);
            match self.guard.attempt(Kind::Get, &key, |remote| remote.get(&key, etag), Option::as_mut) {
                Ok(Some(mut object)) => {
                    object.own_prefix = policy.write_prefix.is_some() && !fallback;
                    if fallback {
                        object.etag = None;
                    }
                    return Ok(Some(object));
                }
                Ok(None) => {}
                // who may not list is told 403 of what is not there: the next prefix may have it
                Err(e @ RemoteError::Forbidden(_)) => outcome = Err(e),
                Err(e) => return Err(e),
            }
        }
        outcome
    }

    /// Stores `body` under `key`; `Ok` is the bucket's acknowledgement of these very bytes.
    pub fn put(&self, key: &str, body: &PutBody) -> Result<(), RemoteError> {
        self.put_if(key, body, None)
    }

    /// Stores `body` under `key` on a condition, see [`Remote::put`].
    pub fn put_if(&self, key: &str, body: &PutBody, if_match: Option<&str>) -> Result<(), RemoteError> {
        self.put_signed(key, body, if_match, None)
    }

    /// As [`Self::put_if`], with a signature beside it.
    pub fn put_signed(
        &self,
        key: &str,
        body: &PutBody,
        if_match: Option<&str>,
        beside: Option<&str>,
    ) -> Result<(), RemoteError> {
        if !self.writable() {
            return Err(RemoteError::ReadOnly);
        }
        let key = join(self.policy.target(), key);
        // what is under a condition is no probe: it could undo what another has written
        let kind = if if_match.is_none() { Kind::Put(body, beside) } else { Kind::PutIf };
        self.guard.attempt(kind, &key, |remote| remote.put(&key, body, if_match, beside), |()| None)?;
        self.guard.metrics.bucket.put_bytes.add(body.len());
        Ok(())
    }

    /// Lists what lies under `prefix` where puts go, with keys as the other methods take them.
    pub fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), RemoteError> {
        let target = self.policy.target();
        let skip = if target.is_empty() { 0 } else { target.len() + 1 };
        let full = join(target, prefix);
        let mut below = |mut object: ObjectInfo| {
            if object.key.starts_with(&full) {
                object.key.drain(..skip);
                each(object);
            }
        };
        self.guard.attempt(Kind::List, &full, |remote| remote.list(&full, &mut below), |()| None)
    }

    /// Deletes `key` where puts go.
    pub fn delete(&self, key: &str) -> Result<(), RemoteError> {
        if !self.writable() {
            return Err(RemoteError::ReadOnly);
        }
        let key = join(self.policy.target(), key);
        self.guard.attempt(Kind::Delete, &key, |remote| remote.delete(&key), |()| None)
    }

    /// Whether puts go to another prefix than the main one.
    pub fn has_write_prefix(&self) -> bool {
        self.policy.write_prefix.is_some()
    }

    /// Whether puts go anywhere at all: the policy, not the bucket's state.
    pub fn writable(&self) -> bool {
        !self.policy.read_only
    }

    /// Whether reads are sent at present.
    pub fn available(&self) -> bool {
        self.guard.sends(Side::Reads)
    }

    /// Whether a put would be sent at present. While the bucket takes none, one put every 10 s is
    /// let through to try it: [`Self::put`] sends that one in the background and fails at once.
    pub fn accepts_writes(&self) -> bool {
        self.writable() && self.guard.sends(Side::Writes)
    }

    /// Why puts are not sent, or what went wrong with the last.
    pub fn write_trouble(&self) -> Option<String> {
        self.guard.write_trouble()
    }

    /// Lines that only the end of the program can say, for it to log: every read was refused, or
    /// the bucket was left alone from the start on.
    pub fn last_words(&self) -> Vec<String> {
        self.guard.last_words()
    }

    /// Removes the temporary files in the bucket whose token (see [`crate::atomic`]) is `dead`.
    pub fn sweep(&self, dead: &dyn Fn(&str) -> bool) {
        if self.writable() {
            self.guard.remote.sweep(dead);
        }
    }

    /// Endpoint, bucket, and the prefix that puts go to, in one line: what messages name, and what
    /// two processes must have in common to finish each other's uploads.
    pub fn target(&self) -> String {
        self.guard.name.clone()
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
