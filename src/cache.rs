//! The build cache: the local directory, behind it the bucket.
//!
//! Invariants: a put is answered once its output and action are in the directory; before the
//! action appears, a marker names it for the upload queue. A get is answered from the directory,
//! from the manifest's inline bodies, or from the bucket, in that order; what comes from the
//! bucket passes through the directory. Trouble with the bucket is never an error here.

mod client;
mod cursor;
pub mod disk;
pub mod entry;
pub mod fetch;
mod haste;
pub mod manifest;
pub mod prune;
pub mod readahead;
mod sharing;
mod usage;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

pub use crate::id;
use crate::metrics::Metrics;
use crate::upload::Uploader;
pub use client::Client;
use disk::{DiskCache, OutputWriter};
use fetch::Fetcher;
use haste::Background;
use id::OutputId;
use readahead::Readahead;
pub use sharing::{ACTION_KIND, ActionSource};

/// A readahead is shared by the clients of its scope that come within this time.
const SHARE_READAHEAD: Duration = Duration::from_secs(600);

/// The cache that all sessions of a process share.
pub struct BuildCache {
    disk: Arc<DiskCache>,
    tier: Option<Tier>,
    metrics: Arc<Metrics>,
}

/// The bucket behind the directory.
pub struct Tier {
    /// Fetches entries.
    pub fetcher: Arc<Fetcher>,
    /// Where puts go; `None` when the bucket is only read.
    pub uploader: Option<Arc<Uploader>>,
    /// Outputs of fewer bytes are not uploaded.
    pub min_upload_size: u64,
    /// Whether manifests are read and written.
    pub readahead: bool,
    scopes: Mutex<HashMap<String, Weak<Readahead>>>,
    background: Background,
}

impl Tier {
    /// A bucket reached through `fetcher`, written through `uploader`.
    pub fn new(fetcher: Arc<Fetcher>, uploader: Option<Arc<Uploader>>, min_upload_size: u64, readahead: bool) -> Self {
        Tier {
            fetcher,
            uploader,
            min_upload_size,
            readahead,
            scopes: Mutex::default(),
            background: Background::default(),
        }
    }

    fn readahead(&self, scope: &str) -> Arc<Readahead> {
        let mut scopes = self.scopes.lock().expect("no holder panics");
        scopes.retain(|_, r| r.strong_count() > 0);
        if let Some(shared) = scopes.get(scope).and_then(Weak::upgrade)
            && shared.age() < SHARE_READAHEAD
            && shared.join()
        {
            return shared;
        }
        let new = Arc::new(Readahead::new(self.fetcher.clone(), scope));
        new.join();
        scopes.insert(scope.to_string(), Arc::downgrade(&new));
        new
    }
}

impl BuildCache {
    /// A cache over `disk` and, behind it, `tier`.
    pub fn new(disk: Arc<DiskCache>, tier: Option<Tier>, metrics: Arc<Metrics>) -> Self {
        BuildCache { disk, tier, metrics }
    }

    /// The local directory.
    pub fn disk(&self) -> &Arc<DiskCache> {
        &self.disk
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// A client of the cache: one session of `go`, whose uses are recorded for `scope`.
    pub fn client(self: &Arc<Self>, scope: Option<&str>) -> Client {
        let client = Client::new(self.clone());
        if let Some(scope) = scope {
            client.set_scope(scope);
        }
        client
    }

    /// Starts to take in the output of a put, `size` bytes of it.
    pub fn write_output(&self, output: OutputId, size: u64) -> io::Result<OutputWriter<'_>> {
        self.disk.write_output(output, size)
    }
}
