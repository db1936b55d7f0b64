//! One session's view of the cache: what each get and put does, tier by tier.

use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Instant, SystemTime};

use crossbeam_channel::bounded;

use super::disk::{Hit, OutputWriter};
use super::fetch::Turn;
use super::haste::Streak;
use super::id::{ActionId, OutputId};
use super::readahead::{Advice, Readahead};
use super::usage::Usage;
use super::{BuildCache, Tier, manifests};
use crate::folder::ACTION;
use crate::lease::Open;
use crate::upload::Uploader;

/// One session's view of the cache. Dropped without [`Client::close`], it leaves no trace in the
/// manifest.
pub struct Client {
    /// The cache.
    pub cache: Arc<BuildCache>,
    readahead: OnceLock<Arc<Readahead>>,
    usage: Mutex<Usage>,
    streak: Arc<Streak>,
    /// While it is there, nothing that was handed out is pruned.
    open: Mutex<Option<Open>>,
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(readahead) = self.readahead.get()
            && self.open.lock().is_ok_and(|open| open.is_some())
        {
            readahead.close();
        }
    }
}

impl Client {
    /// A session of `go` over `cache`, whose uses are recorded for `scope`.
    pub fn new(cache: Arc<BuildCache>, scope: Option<&str>) -> Self {
        let (open, pruning) = cache.lease.open();
        cache.disk.note_every_use(pruning);
        let client = Client {
            cache,
            readahead: OnceLock::new(),
            usage: Mutex::default(),
            streak: Arc::default(),
            open: Mutex::new(Some(open)),
        };
        scope.into_iter().for_each(|scope| client.set_scope(scope));
        client
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

    /// Takes note that `go` gets or puts `action`, in the order in which it does so: many are worked on at a
    /// time, and end in any order.
    pub fn comes(&self, action: &ActionId) {
        self.record(action, None, false);
    }

    /// Looks `action` up. Errors are the local disk's.
    pub fn get(&self, action: &ActionId) -> io::Result<Option<Hit>> {
        let Some(tier) = &self.cache.tier else {
            let hit = self.cache.disk.get(action)?;
            hit.iter().for_each(|hit| self.local_hit(action, hit));
            return Ok(hit);
        };
        let turn = tier.fetcher.turn(action);
        let readahead = &self.cache.metrics.readahead;
        if !matches!(turn, Turn::Late)
            && let Some(hit) = self.cache.disk.get(action)?
        {
            if matches!(turn, Turn::Landed(_)) {
                readahead.waited.inc();
            }
            self.local_hit(action, &hit);
            return Ok(Some(hit));
        }
        let mut advice = None;
        if let Some(r) = self.readahead.get() {
            advice = r.note(action, None).0;
            r.begin();
        }
        let hit = self.fault(tier, action, advice, turn);
        let host = &self.cache.metrics.host;
        match &hit {
            Some(hit) => {
                host.get_fault_hit.inc();
                self.record(action, Some(hit), true);
            }
            None => host.get_fault_miss.inc(),
        }
        Ok(hit)
    }

    /// Counts what the directory had.
    fn local_hit(&self, action: &ActionId, hit: &Hit) {
        let ahead = self.readahead.get().is_some_and(|r| r.note(action, Some(hit.output)).1);
        let host = &self.cache.metrics.host;
        if ahead {
            host.get_fault_hit.inc()
        } else {
            host.get_local_hit.inc()
        }
        self.record(action, Some(hit), ahead);
    }

    /// Gets `action` from behind the directory.
    fn fault(&self, tier: &Tier, action: &ActionId, advice: Option<Advice>, turn: Turn) -> Option<Hit> {
        let Turn::Lead(turn) = turn else { return None };
        self.cache.lease.renew();
        let listed = advice.is_some();
        if !listed && self.streak.is_long() && tier.fetcher.bucket.available() {
            self.cache.metrics.bucket.unwaited.inc();
            drop(turn);
            tier.ask(*action, &self.streak);
            return None;
        }
        let mut start = Instant::now();
        let mut said = None;
        if let Some(Advice { known, piece }) = advice {
            said = known;
            if let Some((readahead, piece)) = self.readahead.get().zip(piece) {
                readahead.bring(piece);
                self.cache.metrics.bucket.wait_nanos.add_nanos(start.elapsed());
                if let Ok(Some(hit)) = self.cache.disk.get(action) {
                    return Some(hit);
                }
                start = Instant::now();
            }
        }
        let fetched = tier.fetcher.fetch(&turn, action, said);
        self.cache.metrics.bucket.wait_nanos.add_nanos(start.elapsed());
        match &fetched {
            _ if listed => {}
            // a bucket that cannot be asked says nothing of what it has
            None if !tier.fetcher.bucket.available() => {}
            None => self.streak.miss(),
            Some(_) => self.streak.hit(),
        }
        let (hit, moved) = fetched?;
        self.readahead.get().into_iter().for_each(|r| r.moved(moved));
        Some(hit)
    }

    /// Begins to put `output`, of `size` bytes, for `action`.
    pub fn put(&self, action: ActionId, output: OutputId, size: u64) -> io::Result<Put<'_>> {
        self.cache.lease.renew();
        Ok(Put { client: self, action, writer: self.cache.disk.write_output(output, size)? })
    }

    /// Writes what this session used into its scope's manifest, and the fleet's where that is the
    /// scope's first, and the small ones into packs. Call it when the session has ended and its uploads were
    /// tried; it returns at `deadline` whatever the bucket does.
    pub fn close(&self, deadline: Instant) {
        let open = self.open.lock().expect("no holder panics").take();
        let Some(readahead) = self.readahead.get().filter(|_| open.is_some()) else { return };
        let writes = self.cache.tier.as_ref().is_some_and(|tier| tier.fetcher.bucket.writable());
        let told = writes && readahead.is_told(deadline);
        let left = readahead.close();
        if !told {
            return;
        }
        let mut usage = self.usage.lock().expect("no holder panics");
        let used = usage.take();
        drop(usage);
        let (cache, (done, wait)) = (self.cache.clone(), bounded::<()>(1));
        let save = move || {
            if let Some(tier) = &cache.tier {
                manifests::save(tier, left, used);
            }
            drop(done);
        };
        match thread::Builder::new().name("save".into()).spawn(save) {
            // closed, when the thread is done
            Ok(_) => drop(wait.recv_deadline(deadline)),
            Err(e) => log::warn!("cannot write the manifest: {e}"),
        }
    }

    /// Notes what the manifest should know, where there is one.
    fn record(&self, action: &ActionId, hit: Option<&Hit>, shared: bool) {
        if self.readahead.get().is_some() {
            self.usage.lock().expect("no holder panics").record(action, hit, shared);
        }
    }
}

/// An output on its way in, and the action it is for.
pub struct Put<'a> {
    client: &'a Client,
    action: ActionId,
    /// Takes the bytes.
    pub writer: OutputWriter<'a>,
}

impl Put<'_> {
    /// Checks the output and gives it its name, links the action to it, and queues the upload. The hit's
    /// path is there, whole, at the moment of the return; else it is an error.
    pub fn commit(self) -> io::Result<Hit> {
        let cache = &self.client.cache;
        let mut written = self.writer.commit()?;
        let uploader = cache.tier.as_ref().and_then(|tier| {
            let small = written.size < tier.min_upload_size;
            let uploader = tier.fetcher.uploader.as_ref();
            if small && uploader.is_some() {
                cache.metrics.host.put_skip_small.inc();
            }
            uploader.filter(|_| !small)
        });
        let hit = Uploader::storing(uploader, ACTION, &self.action.to_string(), written.output, || {
            let hit = cache.disk.link(&self.action, &written, SystemTime::now())?;
            cache.disk.ensure(&mut written).map(|()| hit)
        })?;
        self.client.readahead.get().into_iter().for_each(|r| r.begin());
        self.client.record(&self.action, Some(&hit), uploader.is_some());
        Ok(hit)
    }
}
