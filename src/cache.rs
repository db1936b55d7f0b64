//! The build cache: the local directory, behind it the bucket.
//!
//! Invariants: a put is answered once its output and action are in the directory; before the
//! action appears, a marker names it for the upload queue. A get is answered from the directory,
//! from the manifest's inline bodies, or from the bucket, in that order; what comes from the
//! bucket passes through the directory. Trouble with the bucket is never an error here.

pub mod disk;
pub mod entry;
pub mod fetch;
mod haste;
pub mod id;
pub mod manifest;
pub mod prune;
pub mod readahead;
mod sharing;
mod usage;

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::bounded;

use crate::metrics::Metrics;
use crate::upload::Uploader;
use disk::{DiskCache, Hit, OutputWriter};
use fetch::{Fetched, Fetcher};
use haste::{Background, Streak};
use id::{ActionId, OutputId};
use readahead::{Advice, Readahead};
pub use sharing::{ACTION_KIND, ActionSource};
use usage::Usage;

/// How long the end of a session waits for the manifest to be written.
pub const SAVE_TIMEOUT: Duration = Duration::from_secs(10);
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
        let client = Client {
            cache: self.clone(),
            readahead: OnceLock::new(),
            usage: Mutex::default(),
            streak: Arc::default(),
            closed: AtomicBool::new(false),
        };
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

/// One session's view of the cache. Dropped without [`Client::close`], it leaves no trace in the
/// manifest.
pub struct Client {
    cache: Arc<BuildCache>,
    readahead: OnceLock<Arc<Readahead>>,
    usage: Mutex<Usage>,
    streak: Arc<Streak>,
    closed: AtomicBool,
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(readahead) = self.readahead.get()
            && !self.closed.load(Ordering::Relaxed)
        {
            readahead.close();
        }
    }
}

impl Client {
    /// The cache.
    pub fn cache(&self) -> &Arc<BuildCache> {
        &self.cache
    }

    /// Names the scope; the first call counts, and only one before the first get is of full use.
    pub fn set_scope(&self, scope: &str) {
        if let Some(tier) = self.cache.tier.as_ref().filter(|t| t.readahead) {
            self.readahead.get_or_init(|| tier.readahead(scope));
        }
    }

    /// Looks `action` up in the local directory without waiting for anything, the disk included.
    /// `None` says nothing: then [`Self::get`] it.
    pub fn get_at_hand(&self, action: &ActionId) -> Option<Hit> {
        let hit = self.cache.disk.get_at_hand(action)?;
        self.local_hit(action, &hit);
        Some(hit)
    }

    /// Looks `action` up. Errors are the local disk's.
    pub fn get(&self, action: &ActionId) -> io::Result<Option<Hit>> {
        if let Some(hit) = self.cache.disk.get(action)? {
            self.local_hit(action, &hit);
            return Ok(Some(hit));
        }
        let Some(tier) = &self.cache.tier else { return Ok(None) };
        let mut advice = Advice::Unlisted;
        if let Some(r) = self.readahead.get() {
            advice = r.note(action, false).0;
            r.begin();
        }
        let hit = self.fault(tier, action, advice)?;
        let host = &self.cache.metrics.host;
        match &hit {
            Some(hit) => {
                host.get_fault_hit.inc();
                self.record(|usage| usage.hit(action, hit, true));
            }
            None => {
                host.get_fault_miss.inc();
                // a bucket that cannot be asked says nothing of what it has
                let absent = tier.fetcher.bucket().available();
                self.record(|usage| usage.miss(action, absent));
            }
        }
        Ok(hit)
    }

    /// Counts what the directory had.
    fn local_hit(&self, action: &ActionId, hit: &Hit) {
        let ahead = self.readahead.get().is_some_and(|r| r.note(action, true).1);
        let host = &self.cache.metrics.host;
        if ahead {
            host.get_fault_hit.inc()
        } else {
            host.get_local_hit.inc()
        }
        self.record(|usage| usage.hit(action, hit, ahead));
    }

    /// Gets `action` from behind the directory.
    fn fault(&self, tier: &Tier, action: &ActionId, advice: Advice) -> io::Result<Option<Hit>> {
        let listed = !matches!(advice, Advice::Unlisted | Advice::Absent);
        let doubtful = matches!(advice, Advice::Absent) || !listed && self.streak.is_long();
        if doubtful && tier.fetcher.bucket().available() {
            self.cache.metrics.bucket.unwaited.inc();
            tier.background.ask(&tier.fetcher, *action, &self.streak);
            return Ok(None);
        }
        let known = match advice {
            Advice::Inline(output, time, body) => {
                if let Ok(hit) = self.store(action, output, &body, time) {
                    self.cache.metrics.readahead.used.inc();
                    self.cache.metrics.readahead.inline_used.inc();
                    return Ok(Some(hit));
                }
                Some((output, time)) // damaged in the manifest
            }
            Advice::Listed(known) => known,
            Advice::Unlisted | Advice::Absent => None,
        };
        let start = Instant::now();
        let fetched = tier.fetcher.fetch(action, known);
        self.cache.metrics.bucket.wait_nanos.add_nanos(start.elapsed());
        if !listed {
            match fetched {
                // a bucket that cannot be asked says nothing of what it has
                Fetched::Missing if !tier.fetcher.bucket().available() => {}
                Fetched::Missing => self.streak.miss(),
                Fetched::Here(..) => self.streak.hit(),
                Fetched::ByAnother => {}
            }
        }
        match fetched {
            Fetched::Here(hit, moved) => {
                if let Some(r) = self.readahead.get() {
                    r.moved(moved);
                }
                Ok(Some(hit))
            }
            Fetched::ByAnother => {
                self.cache.metrics.readahead.waited.inc();
                let hit = self.cache.disk.get(action)?;
                if hit.is_some() {
                    self.cache.metrics.readahead.used.inc();
                }
                Ok(hit)
            }
            Fetched::Missing => Ok(None),
        }
    }

    /// Records that the output just committed is `action`'s, and queues its upload. Returns where
    /// the bytes are.
    pub fn link(&self, action: &ActionId, output: &OutputId, size: u64) -> io::Result<Hit> {
        let time = SystemTime::now();
        let Some(tier) = &self.cache.tier else { return self.cache.disk.link(action, output, size, time) };
        let uploader = match &tier.uploader {
            Some(_) if size < tier.min_upload_size => {
                self.cache.metrics.host.put_skip_small.inc();
                None
            }
            other => other.as_ref(),
        };
        // go puts some things in every build and never asks for them
        if uploader.is_some()
            && let Some(sent) = self.readahead.get().and_then(|r| r.sent_before(action, output))
        {
            self.cache.metrics.host.put_s3_found.inc();
            let hit = self.cache.disk.link(action, output, size, time)?;
            self.record(|usage| usage.put(action, &Hit { time: sent, ..hit.clone() }, true));
            return Ok(hit);
        }
        let name = action.to_string();
        if let Some(uploader) = uploader
            && let Err(e) = uploader.mark(ACTION_KIND, &name)
        {
            // not marked, it is uploaded all the same unless we are killed
            log::warn!("{}: cannot mark an upload: {e}", self.cache.disk.root().display());
        }
        let hit = match self.cache.disk.link(action, output, size, time) {
            Ok(hit) => hit,
            Err(e) => {
                if let Some(uploader) = uploader {
                    uploader.unmark(ACTION_KIND, &name);
                }
                return Err(e);
            }
        };
        if let Some(uploader) = uploader {
            uploader.enqueue(ACTION_KIND, &name);
        }
        if let Some(r) = self.readahead.get() {
            r.begin();
        }
        self.record(|usage| usage.put(action, &hit, uploader.is_some()));
        Ok(hit)
    }

    /// Writes what this session used into its scope's manifest, and the fleet's where that is the
    /// scope's first. Call it when the session has ended; it asks the bucket twice at most for each,
    /// unless others write at the same time, and returns after [`SAVE_TIMEOUT`] whatever the bucket does.
    pub fn close(&self) {
        let Some(readahead) = self.readahead.get() else { return };
        if self.closed.swap(true, Ordering::Relaxed) {
            return;
        }
        let left = readahead.close();
        if !readahead.begun() {
            return;
        }
        let mut usage = self.usage.lock().expect("no holder panics");
        for (action, hit) in self.streak.take_found() {
            usage.hit(&action, &hit, true);
        }
        let record = usage.take();
        drop(usage);
        let (cache, (done, wait)) = (self.cache.clone(), bounded::<()>(1));
        let save = move || {
            if let Some(tier) = &cache.tier {
                sharing::save_manifests(tier, left, record);
            }
            drop(done);
        };
        match thread::Builder::new().name("save".into()).spawn(save) {
            // closed, when the thread is done
            Ok(_) => drop(wait.recv_timeout(SAVE_TIMEOUT)),
            Err(e) => log::warn!("cannot write the manifest: {e}"),
        }
    }

    fn store(&self, action: &ActionId, output: OutputId, body: &[u8], time: SystemTime) -> io::Result<Hit> {
        let mut writer = self.cache.disk.write_output(output, body.len() as u64)?;
        writer.write_all(body)?;
        writer.commit()?;
        self.cache.disk.link(action, &output, body.len() as u64, time)
    }

    /// Notes what the manifest should know, where there is one.
    fn record(&self, note: impl FnOnce(&mut Usage)) {
        if self.readahead.get().is_some() {
            note(&mut self.usage.lock().expect("no holder panics"));
        }
    }
}
