//! Buckets: the trait a backend implements, and the policy around it.
//!
//! Invariants: keys are `/`-separated ASCII names without empty, `.` or `..` segments, prefix
//! included; an absent object is `Ok(None)`; a backend neither retries nor logs, [`Bucket`] does
//! both; every error path returns its connection to the pool or closes it.

mod bucket;
mod dir;
mod error;
mod guard;
mod memory;
mod s3;

pub use bucket::Bucket;
pub use dir::Dir;
pub use error::RemoteError;
pub use memory::Memory;
pub use s3::{S3, Site};

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ureq::http::{HeaderName, HeaderValue};

use crate::platform::FileExt;

/// An object that is being read.
pub struct Object {
    /// Length of the body in bytes, where the backend tells it.
    pub len: Option<u64>,
    /// The entity tag, where the backend has one.
    pub etag: Option<String>,
    /// What was put beside it, see [`Remote::put`].
    pub signature: Option<String>,
    /// Whether it lies under one's own write prefix ([`Bucket`] knows), not the main one.
    pub own_prefix: bool,
    /// How long ago it was written or renewed, by the backend's own clock, where that tells.
    pub age: Option<Duration>,
    /// Whether whoever uses it is to have it renewed ([`Bucket`] knows).
    pub old: bool,
    /// The body. A read fails when the transfer breaks off, falls below the throughput floor, or
    /// ends short of `len`. Drop it only after reading to the end, or the connection is lost.
    pub body: Box<dyn Read + Send>,
}

impl Object {
    /// One of which no more is known than this.
    pub fn new(len: Option<u64>, age: Option<Duration>, body: Box<dyn Read + Send>) -> Self {
        Object { len, etag: None, signature: None, own_prefix: false, age, old: false, body }
    }
}

/// An object in a listing.
#[derive(Clone, Debug)]
pub struct ObjectInfo {
    /// The full key, prefix included (listings).
    pub key: String,
    /// Length in bytes.
    pub len: u64,
    /// As [`Object::age`].
    pub age: Option<Duration>,
}

/// What is known of an object without its body.
#[derive(Clone, Debug)]
pub struct Head {
    /// The entity tag.
    pub etag: String,
    /// As [`Object::age`].
    pub age: Option<Duration>,
    /// What a copy must repeat to be the same in all but its age.
    pub kept: Vec<(HeaderName, HeaderValue)>,
}

/// A body to be stored: rewindable, so that a put can be sent again.
#[derive(Clone)]
pub enum PutBody {
    /// Bytes in memory.
    Bytes(Arc<[u8]>),
    /// A whole file, read from its start with positioned reads; its length at the time of the put.
    File(Arc<File>, u64),
}

impl PutBody {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            PutBody::Bytes(b) => b.len() as u64,
            PutBody::File(_, n) => *n,
        }
    }
    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// A reader over the body from its start.
    pub fn reader(&self) -> Box<dyn Read + Send> {
        match self {
            PutBody::Bytes(b) => Box::new(io::Cursor::new(b.clone())),
            PutBody::File(f, n) => Box::new(FileReader { file: f.clone(), at: 0, end: *n }),
        }
    }
}

struct FileReader {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for FileReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = buf.len().min((self.end - self.at).min(usize::MAX as u64) as usize);
        let n = self.file.read_at(&mut buf[..want], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// A backend: S3 or a directory.
pub trait Remote: Send + Sync {
    /// Opens the object `key`; `Ok(None)` when there is none.
    fn get(&self, key: &str) -> Result<Option<Object>, RemoteError>;
    /// Opens those bytes of the object `key`; `Ok(None)` also where it has no such bytes;
    /// [`RemoteError::Unsupported`] where the backend can only read the whole.
    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Object>, RemoteError>;
    /// Stores `body` under `key`, replacing what was there. With `if_match`, only where the
    /// object still has that tag (`Some("")`: only where there is none), else
    /// [`RemoteError::Precondition`]; a backend that cannot do that ignores it. `beside`, a line of
    /// ASCII (a signature), is kept beside the object and comes with it.
    fn put(&self, key: &str, body: &PutBody, if_match: Option<&str>, beside: Option<&str>) -> Result<(), RemoteError>;
    /// What is known of the object `key`; `Ok(None)` when there is none.
    fn head(&self, key: &str) -> Result<Option<Head>, RemoteError>;
    /// Makes the object `key` as young as a put would, and leaves all else as it is; `false` where it is
    /// gone. One that is no longer what was `seen` is young already. [`RemoteError::Unsupported`] where
    /// the backend will not, or has spoilt it in the attempt: then it is to be put.
    fn renew(&self, key: &str, seen: &Head) -> Result<bool, RemoteError>;
    /// Lists objects whose key starts with `prefix`, calling `each` for one after another: a page, from
    /// the start or `from` where the page before ended. Returns where this one did, but for the last.
    fn list(
        &self,
        prefix: &str,
        from: Option<&str>,
        each: &mut dyn FnMut(ObjectInfo),
    ) -> Result<Option<String>, RemoteError>;
    /// Deletes `key`; an absent object is no error.
    fn delete(&self, key: &str) -> Result<(), RemoteError>;
    /// Removes temporary files of ours whose token is `dead`. Default: nothing, there are none.
    fn sweep(&self, dead: &dyn Fn(&str) -> bool) {
        let _ = dead;
    }
    /// What time it is there, asked without credentials; `None` where it does not tell, and by default.
    fn clock(&self) -> Option<SystemTime> {
        None
    }
    /// What lies below `prefix`, for messages: `s3://name/prefix at endpoint (region)`, or
    /// `file:///dir/prefix`.
    fn describe(&self, prefix: &str) -> String;
}
