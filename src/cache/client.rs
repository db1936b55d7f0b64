//! One session's view of the cache: what each get and put does, tier by tier.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::bounded;

use super::disk::Hit;
use super::fetch::Fetched;
use super::haste::Streak;
use super::id::{ActionId, OutputId};
use super::readahead::{Advice, Readahead};
use super::sharing::{self, ACTION_KIND};
use super::usage::Usage;
use super::{BuildCache, Tier};

/// How long the end of a session waits for the manifest to be written.
const SAVE_TIMEOUT: Duration = Duration::from_secs(10);

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
    pub(super) fn new(cache: Arc<BuildCache>) -> Self {
        Client {
            cache,
            readahead: OnceLock::new(),
            usage: Mutex::default(),
            streak: Arc::default(),
            closed: AtomicBool::new(false),
        }
    }

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
        let sent = uploader.and_then(|_| self.readahead.get()?.sent_before(action, output));
        let uploader = uploader.filter(|_| sent.is_none());
        if sent.is_some() {
            self.cache.metrics.host.put_s3_found.inc();
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
        self.record(|usage| match sent {
            Some(time) => usage.put(action, &Hit { time, ..hit.clone() }, true),
            None => usage.put(action, &hit, uploader.is_some()),
        });
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
