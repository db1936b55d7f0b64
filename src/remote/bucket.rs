//! A bucket as the program uses it: prefixes, and what may be written, over a guarded backend.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use super::guard::{Guard, Kind, Side};
use super::memory::Memory;
use super::{Dir, Head, Object, ObjectInfo, PutBody, Remote, RemoteError, S3, Site};
use crate::atomic::process_token;
use crate::config::{BucketConfig, BucketLocation};
use crate::metrics::Metrics;

/// Objects whose age is remembered at most; of others nothing is known.
const KNOWN: usize = 1 << 18;
/// Bodies longer than this are not sent to be refused.
const LONG: u64 = 64 << 10;
/// Pages of a listing in a row that may be empty: of what was deleted, a server may keep a note.
const EMPTY_PAGES: usize = 1000;
/// After so long at most it is looked at again how old an object is of which no answer tells.
const LOOK_AGAIN: Duration = Duration::from_secs(7 * 86_400);

/// A bucket as the rest of the program uses it, from any thread. Keys given to it carry no prefix.
/// Nobody need report what came of a request: the guard below sees it itself.
pub struct Bucket {
    guard: Arc<Guard>,
    config: BucketConfig,
    /// Objects by the hash of their keys: when they were looked at, and how old they were then.
    known: Mutex<HashMap<u64, (Instant, Duration)>>,
    /// Whether the backend renewed the first that it was asked to.
    renews: OnceLock<bool>,
    /// Whether the backend keeps the condition that nothing is there.
    keeps_conditions: Mutex<Option<bool>>,
}

impl Bucket {
    /// The bucket that `config` describes. What it learns of the bucket's state is left in the
    /// folder `memory` for a minute, and begun with. No I/O but for reading that; the only error
    /// is [`RemoteError::Config`].
    pub fn open(config: &BucketConfig, metrics: Arc<Metrics>, memory: Option<&Path>) -> Result<Bucket, RemoteError> {
        let (remote, key_id): (Box<dyn Remote>, _) = match &config.location {
            BucketLocation::S3 { bucket, region, endpoint, path_style, aws } => {
                let site = Site::find(bucket, endpoint.as_ref(), region.as_ref(), *path_style, aws)?;
                let s3 = S3::new(bucket, &site, aws, metrics.clone())?;
                (Box::new(s3), aws.var("AWS_ACCESS_KEY_ID").or(aws.var("AWS_PROFILE")).unwrap_or_default())
            }
            BucketLocation::Dir(root) => (Box::new(Dir::new(root)?), ""),
        };
        let memory = memory.map(|dir| Memory::new(dir, &remote.describe(config.target()), key_id));
        Ok(Bucket::new(remote, config.clone(), metrics, memory))
    }

    /// Does with `remote` what `config` lets it do.
    pub fn new(remote: Box<dyn Remote>, config: BucketConfig, metrics: Arc<Metrics>, memory: Option<Memory>) -> Self {
        let (name, probe) = (remote.describe(config.target()), join(config.prefix.as_str(), "v1/probe"));
        Bucket {
            guard: Arc::new(Guard::new(remote, metrics, name, probe, memory)),
            config,
            known: Mutex::default(),
            renews: OnceLock::new(),
            keeps_conditions: Mutex::default(),
        }
    }

    /// Opens `key`, which is no object of ours unless it begins with `begin`. Every failure is a miss,
    /// logged and counted below. Reading the body may still fail.
    pub fn get(&self, key: &str, begin: &'static [u8]) -> Option<Object> {
        self.ask(key, begin, false).ok().flatten()
    }

    /// Opens those bytes of an object that is of the main prefix, or of where puts go. Failures are logged and
    /// counted below.
    pub fn get_range(&self, key: &str, range: Range<u64>, main: bool) -> Result<Option<Object>, RemoteError> {
        let key = join(if main { self.config.prefix.as_str() } else { self.config.target() }, key);
        let send = |remote: &dyn Remote| remote.get_range(&key, range.clone());
        let kind = Kind::Part(range.start, range.end);
        let mut object = self.guard.attempt(kind, &key, send, Option::as_mut)?;
        if let Some(object) = object.as_mut().filter(|_| !main || self.config.write_prefix.is_none()) {
            object.old = object.age.is_some_and(|age| self.is_first_sight(&key, age));
        }
        Ok(object)
    }

    /// As [`Self::get`], of the `main` prefix alone where what was under one's own was no good. Says why there
    /// is none: [`RemoteError::Forbidden`] is also what those hear of an absent object who may not list the bucket.
    pub fn ask(&self, key: &str, begin: &'static [u8], main: bool) -> Result<Option<Object>, RemoteError> {
        let BucketConfig { prefix: main_prefix, write_prefix, .. } = &self.config;
        let mut outcome = Ok(None);
        for prefix in write_prefix.iter().filter(|_| !main).chain([main_prefix]) {
            let fallback = write_prefix.is_some() && std::ptr::eq(prefix, main_prefix);
            let key = join(prefix.as_str(), key);
            match self.guard.attempt(Kind::Get(begin), &key, |remote| remote.get(&key), Option::as_mut) {
                Ok(Some(mut object)) => {
                    object.own_prefix = write_prefix.is_some() && !fallback;
                    if fallback {
                        // the tag is that of the object that puts replace
                        object.etag = None;
                    } else if let Some(age) = object.age {
                        object.old = self.is_first_sight(&key, age);
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
        self.put_if(key, body, None, None)
    }

    /// Stores `body` under `key` on a condition, and a signature beside it, see [`Remote::put`].
    pub fn put_if(
        &self,
        key: &str,
        body: &PutBody,
        if_match: Option<&str>,
        beside: Option<&str>,
    ) -> Result<(), RemoteError> {
        if !self.writable() {
            return Err(RemoteError::ReadOnly);
        }
        let only_new = if_match.is_none() && self.config.replace_nothing;
        let if_match = if only_new { Some("") } else { if_match };
        // who is not known to keep the condition is asked before; so is who would refuse a long body for it, and may
        // hang up before that can be read
        let look = only_new && !self.keeps_conditions()? || if_match == Some("") && body.len() > LONG;
        let there = look && self.head(key)?.is_some();
        let sent = if there { Err(RemoteError::Precondition) } else { self.send(key, body, if_match, beside) };
        if only_new && matches!(sent, Err(RemoteError::Precondition)) {
            self.guard.metrics.bucket.present.inc();
            return Ok(());
        }
        sent
    }

    fn send(&self, key: &str, body: &PutBody, if_match: Option<&str>, beside: Option<&str>) -> Result<(), RemoteError> {
        let key = join(self.config.target(), key);
        // what is under a condition is no probe: it could undo what another has written
        let kind = if if_match.is_none() { Kind::Put(body, beside) } else { Kind::PutIf };
        self.guard.attempt(kind, &key, |remote| remote.put(&key, body, if_match, beside), |()| None)?;
        self.guard.metrics.bucket.put_objects.inc();
        self.guard.metrics.bucket.put_bytes.add(body.len());
        self.note(&key, Duration::ZERO);
        Ok(())
    }

    /// Whether the backend refuses what is to be put only where nothing is. It is tried once, on an
    /// object of our own.
    fn keeps_conditions(&self) -> Result<bool, RemoteError> {
        let mut known = self.keeps_conditions.lock().expect("no holder panics");
        if let Some(keeps) = *known {
            return Ok(keeps);
        }
        let (key, body) = (format!("doctor/{}", process_token()), PutBody::Bytes(b"probe"[..].into()));
        let full = join(self.config.target(), &key);
        let put = |remote: &dyn Remote| remote.put(&full, &body, Some(""), None);
        let put = || self.guard.attempt(Kind::PutIf, &full, put, |()| None);
        let twice = put().and_then(|()| put());
        // only what cannot be deleted stays, and `prune` knows it
        let _ = self.delete(&key);
        let keeps = matches!(twice, Err(RemoteError::Precondition));
        if !keeps {
            twice?;
        }
        *known = Some(keeps);
        Ok(keeps)
    }

    /// What is known of the object `key` where puts go.
    pub fn head(&self, key: &str) -> Result<Option<Head>, RemoteError> {
        let key = join(self.config.target(), key);
        self.guard.attempt(Kind::Look, &key, |remote| remote.head(&key), |_| None)
    }

    /// Renews the object `key` where puts go, if it is old; `false` where there is none, and
    /// [`RemoteError::Unsupported`] where it must be put for that.
    pub fn refresh(&self, key: &str) -> Result<bool, RemoteError> {
        let Some(seen) = self.head(key)? else { return Ok(false) };
        let full = join(self.config.target(), key);
        let mut age = seen.age.unwrap_or_default();
        if age >= self.config.refresh_after {
            if self.renews.get() == Some(&false) {
                return Err(RemoteError::Unsupported("it did not renew the first".into()));
            }
            let renewed = self.guard.attempt(Kind::PutIf, &full, |remote| remote.renew(&full, &seen), |_| None);
            if let Ok(true) | Err(RemoteError::Unsupported(_)) = renewed {
                self.renews.get_or_init(|| renewed.is_ok());
            }
            if !renewed? {
                return Ok(false);
            }
            age = Duration::ZERO;
        }
        self.note(&full, age);
        Ok(true)
    }

    /// Takes note that the object `key` was used, which is as old as `age` at least, by what was said of
    /// it some time; whether it is to be refreshed. What is read from two prefixes may be of either.
    pub fn is_due(&self, key: &str, age: Duration) -> bool {
        let BucketConfig { prefix, write_prefix, refresh_after, .. } = &self.config;
        let due = write_prefix.is_none() && age >= LOOK_AGAIN.min(*refresh_after);
        due && self.is_first_sight(&join(prefix.as_str(), key), Duration::MAX)
    }

    /// How old the object `key` is where puts go, if it is known to be young; where that is looked at now
    /// and then, it counts from there.
    pub fn young(&self, key: &str) -> Option<Duration> {
        let after = self.config.refresh_after;
        let age = if after.is_zero() { Duration::ZERO } else { self.known(&join(self.config.target(), key))? };
        (age <= after).then_some(if after > LOOK_AGAIN { Duration::ZERO } else { age })
    }

    /// Takes note of how old an object is, the first time; whether it is to be refreshed.
    fn is_first_sight(&self, key: &str, age: Duration) -> bool {
        let renews = self.writable() && !self.config.refresh_after.is_zero();
        let first = renews && self.known(key).is_none();
        if first {
            self.note(key, age);
        }
        first && age >= self.config.refresh_after
    }

    /// How old an object was when it was last looked at, unless that was long ago.
    fn known(&self, key: &str) -> Option<Duration> {
        let known = self.known.lock().expect("no holder panics");
        let (at, age) = *known.get(&known.hasher().hash_one(key))?;
        (at.elapsed() < self.config.refresh_after).then_some(age)
    }

    fn note(&self, key: &str, age: Duration) {
        let mut known = self.known.lock().expect("no holder panics");
        let key = known.hasher().hash_one(key);
        if known.len() < KNOWN || known.contains_key(&key) {
            known.insert(key, (Instant::now(), age));
        }
    }

    /// Lists what lies under `prefix` where puts go, with keys as the other methods take them.
    pub fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), RemoteError> {
        let target = self.config.target();
        let skip = if target.is_empty() { 0 } else { target.len() + 1 };
        let full = join(target, prefix);
        let (mut from, mut begun, mut empty) = (None, HashSet::new(), 0);
        loop {
            let mut first = None;
            let mut below = |mut object: ObjectInfo| {
                first.get_or_insert_with(|| begun.hasher().hash_one(&object.key));
                if object.key.starts_with(&full) {
                    object.key.drain(..skip);
                    each(object);
                }
            };
            let page = |remote: &dyn Remote| remote.list(&full, from.as_deref(), &mut below);
            from = self.guard.attempt(Kind::Look, &full, page, |_| None)?;
            empty = if first.is_none() { empty + 1 } else { 0 };
            match &from {
                None => return Ok(()),
                Some(_) if empty <= EMPTY_PAGES && first.is_none_or(|key| begun.insert(key)) => {}
                Some(_) => {
                    return Err(RemoteError::Status(200, "a listing that does not go on where it says so".into()));
                }
            }
        }
    }

    /// Deletes `key` where puts go.
    pub fn delete(&self, key: &str) -> Result<(), RemoteError> {
        if !self.writable() {
            return Err(RemoteError::ReadOnly);
        }
        let key = join(self.config.target(), key);
        self.guard.attempt(Kind::Delete, &key, |remote| remote.delete(&key), |()| None)
    }

    /// Whether puts go to another prefix than the main one.
    pub fn has_write_prefix(&self) -> bool {
        self.config.write_prefix.is_some()
    }

    /// Whether puts go anywhere at all: what is configured, not the bucket's state.
    pub fn writable(&self) -> bool {
        !self.config.read_only
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

    /// Why the bucket is read alone, the first time that this is asked since it is; for the caller to log.
    pub fn refuses_writes(&self) -> Option<String> {
        self.guard.refuses_writes()
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

    /// What time it is there, where that can be told, be the credentials good or not.
    pub fn clock(&self) -> Option<SystemTime> {
        self.guard.remote.clock()
    }

    /// Endpoint, bucket, and the prefix that puts go to, in one line: what messages name, and what
    /// two processes must have in common to finish each other's uploads.
    pub fn target(&self) -> String {
        self.guard.name.clone()
    }
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_string() } else { format!("{prefix}/{key}") }
}
