//! The build cache: the local directory, behind it the bucket.
//!
//! Invariants: a put is answered once its output and action are in the directory; before the
//! action appears, a marker names it for the upload queue. A get is answered from the directory,
//! from the scope's packs, or from the entry itself in the bucket, in that order; what comes from the
//! bucket passes through the directory. Trouble with the bucket is never an error here.

mod action_source;
mod client;
mod cursor;
pub mod disk;
pub mod entry;
pub mod fetch;
mod haste;
pub mod manifest;
mod manifests;
pub mod pack;
mod packing;
pub mod prune;
pub mod readahead;
pub mod refresh;
pub mod size;

mod usage;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

pub use crate::id;
use crate::lease::Lease;
use crate::metrics::Metrics;
use crate::places::Places;
pub use action_source::ActionSource;
pub use client::{Client, Put};
use disk::DiskCache;
use fetch::Fetcher;
use readahead::{Fetchers, Readahead};

/// A readahead is shared by the clients of its scope that come within this time.
const SHARE_READAHEAD: Duration = Duration::from_secs(600);

/// The cache that all sessions of a process share.
pub struct BuildCache {
    /// The local directory.
    pub disk: Arc<DiskCache>,
    /// The bucket behind it.
    pub tier: Option<Tier>,
    /// What tells others of our sessions.
    pub lease: Arc<Lease>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// The bucket behind the directory.
pub struct Tier {
    /// Fetches entries, and knows where puts go.
    pub fetcher: Arc<Fetcher>,
    /// Outputs of fewer bytes are not uploaded.
    pub min_upload_size: u64,
    /// Whether manifests are read and written.
    pub readahead: bool,
    scopes: Mutex<HashMap<String, Weak<Readahead>>>,
    fetchers: Fetchers,
    /// Gets that are asked about and do not wait.
    asking: Arc<Places>,
}

impl Tier {
    /// A bucket reached through `fetcher`.
    pub fn new(fetcher: Arc<Fetcher>, min_upload_size: u64, readahead: bool) -> Self {
        Tier {
            fetcher,
            min_upload_size,
            readahead,
            scopes: Mutex::default(),
            fetchers: Fetchers::default(),
            asking: Places::new(haste::ASKING),
        }
    }

    /// The readahead of a scope, which is shared. Each who has it leaves by [`Readahead::close`].
    pub fn readahead(&self, scope: &str) -> Arc<Readahead> {
        let mut scopes = self.scopes.lock().expect("no holder panics");
        scopes.retain(|_, r| r.strong_count() > 0);
        if let Some(shared) = scopes.get(scope).and_then(Weak::upgrade)
            && shared.age() < SHARE_READAHEAD
            && shared.join()
        {
            return shared;
        }
        let new = Arc::new(Readahead::new(self.fetcher.clone(), self.fetchers.clone(), scope));
        new.join();
        scopes.insert(scope.to_string(), Arc::downgrade(&new));
        new
    }
}
