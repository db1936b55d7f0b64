//! The cache with everything below it, put together as the configuration says, and taken down in
//! order: uploads drain to the deadline, then prune, then metrics. (Manifests are written by the
//! sessions as they end.)

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::cache::disk::{DiskCache, make_real_dir};
use crate::cache::entry::{Codec, Signer};
use crate::cache::fetch::Fetcher;
use crate::cache::prune::{self, Limits};
use crate::cache::{ACTION_KIND, ActionSource, BuildCache, Tier};
use crate::config::Config;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::remote::Bucket;
use crate::session::{Budget, Options};
use crate::upload::Uploader;

/// The time of last use is kept at least this exactly.
const USE_GRANULARITY: Duration = Duration::from_secs(3600);
/// A server keeps what was used within this time, for the sessions that it was handed out to.
const IN_USE: Duration = Duration::from_secs(3600);
/// Its mtime is when the directory was last pruned by age.
const PRUNE_STAMP: &str = "last-prune";

/// Everything that a session needs.
pub struct Stack {
    /// The cache.
    pub cache: Arc<BuildCache>,
    /// The bucket, where there is one.
    pub bucket: Option<Arc<Bucket>>,
    /// The upload queue, where the bucket is written.
    pub uploader: Option<Arc<Uploader>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Memory for put bodies.
    budget: Arc<Budget>,
    config: Config,
    started: SystemTime,
    /// Puts and fetches counted when it was last pruned by size.
    pruned_at: AtomicU64,
}

impl Stack {
    /// Opens the cache. Nothing is asked of the bucket yet.
    pub fn open(config: &Config) -> Result<Self, Error> {
        let dir = &config.cache_dir;
        let failed =
            |e| Error::failed(format!("cache directory {}: {e}; choose another with --cache-dir", dir.display()));
        if dir.to_str().is_none() {
            return Err(Error::failed(format!("cache directory {}: its name is not UTF-8", dir.display())));
        }
        fs::create_dir_all(dir).map_err(failed)?;
        let disk = DiskCache::open(dir).map_err(failed)?.use_granularity(granularity(config.expiry));
        let (disk, metrics) = (Arc::new(disk), Arc::new(Metrics::default()));
        let mut stack = Stack {
            cache: Arc::new(BuildCache::new(disk.clone(), None, metrics.clone())),
            bucket: None,
            uploader: None,
            budget: Budget::new(config.body_memory),
            config: config.clone(),
            started: SystemTime::now(),
            pruned_at: AtomicU64::new(0),
            metrics: metrics.clone(),
        };
        let Some(shared) = &config.bucket else { return Ok(stack) };
        let bucket = Bucket::open(shared, metrics.clone()).map_err(|e| Error::failed(format!("bucket: {e}")))?;
        let bucket = Arc::new(bucket);
        let codec = Codec::new(config.compression_level, Signer::new(shared.signing_key.as_deref()));
        let fetcher = Arc::new(Fetcher::new(bucket.clone(), shared.layout, codec, disk.clone(), metrics.clone()));
        if bucket.writable() {
            make_real_dir(&dir.join("pending")).map_err(failed)?;
            let uploader = Uploader::new(bucket.clone(), dir, config.upload_concurrency, metrics.clone());
            uploader.register(ACTION_KIND, Arc::new(ActionSource::new(fetcher.clone())));
            stack.uploader = Some(Arc::new(uploader));
        }
        let tier = Tier::new(fetcher, stack.uploader.clone(), config.min_upload_size, config.readahead);
        stack.cache = Arc::new(BuildCache::new(disk, Some(tier), metrics));
        stack.bucket = Some(bucket);
        Ok(stack)
    }

    /// What the stack was opened with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How sessions over this cache work.
    pub fn session_options(&self, scope_command: bool) -> Options {
        Options {
            concurrency: self.config.concurrency,
            budget: self.budget.clone(),
            debug: self.config.debug.build_cache(),
            scope_command,
        }
    }

    /// Takes over the uploads of processes that were killed. Call it off the start's critical path.
    pub fn adopt(&self) {
        if let Some(uploader) = &self.uploader {
            uploader.adopt();
        }
    }

    /// Waits for uploads, at most the close time-out. What is left is uploaded by the next start.
    pub fn drain(&self) {
        let Some(uploader) = &self.uploader else { return };
        let left = uploader.drain(Instant::now() + self.config.close_timeout);
        // while the bucket is down, its own line has said so
        if left > 0 && self.bucket.as_ref().is_some_and(|b| b.available()) {
            log::warn!("{left} uploads are not done yet; they stay marked and go on with the next start");
        }
    }

    /// What a running server does now and then: finishes uploads, its own that have failed and
    /// those of dead processes, and prunes what nobody has used for a while.
    pub fn maintain(&self) {
        self.adopt();
        if let Some(uploader) = &self.uploader {
            uploader.retry();
        }
        self.prune(SystemTime::now() - IN_USE);
    }

    /// Prunes as the configuration says, but nothing used since `keep_since`: by age now and then,
    /// by size whenever something was added.
    fn prune(&self, keep_since: SystemTime) {
        let Config { expiry, max_size, cache_dir, .. } = &self.config;
        let total = self.metrics.server.put_requests.get() + self.metrics.host.get_fault_hit.get();
        let added = self.pruned_at.swap(total, Ordering::Relaxed) != total;
        let by_age = expiry.filter(|_| self.age_prune_due());
        let by_size = max_size.filter(|_| added);
        if by_age.is_none() && by_size.is_none() {
            return;
        }
        match prune::prune(cache_dir, &self.limits(by_age, by_size, keep_since), SystemTime::now()) {
            Ok(report) => log::info!(
                "pruned {} actions and {} outputs of {} bytes; {} bytes left",
                report.removed_actions,
                report.removed_outputs,
                report.removed_bytes,
                report.bytes
            ),
            Err(e) => log::warn!("{}: pruning: {e}", cache_dir.display()),
        }
        if by_age.is_some()
            && let Err(e) = fs::write(cache_dir.join(PRUNE_STAMP), "")
        {
            log::debug!("{}: {e}", cache_dir.display());
        }
    }

    /// Takes the stack down after its sessions have ended and their uploads were drained.
    pub fn close(&self) {
        if let Some(uploader) = &self.uploader {
            uploader.stop();
        }
        self.cache.disk().save_recall();
        self.prune(self.started);
        if self.config.metrics {
            super::say(self.metrics.to_json());
        }
    }

    fn limits(&self, expiry: Option<Duration>, max_size: Option<u64>, keep_since: SystemTime) -> Limits {
        Limits { expiry, max_size, keep_since, granularity: granularity(self.config.expiry) }
    }

    /// Whether it is time to look for what has expired: every tenth of the expiry, at most hourly.
    fn age_prune_due(&self) -> bool {
        let every = self.config.expiry.map_or(USE_GRANULARITY, |e| (e / 10).min(USE_GRANULARITY));
        let last = fs::metadata(self.config.cache_dir.join(PRUNE_STAMP)).and_then(|m| m.modified());
        last.map_or(true, |t| t.elapsed().map_or(true, |age| age >= every))
    }
}

/// How exactly the time of last use must be kept for `expiry` to mean something.
pub(super) fn granularity(expiry: Option<Duration>) -> Duration {
    expiry.map_or(USE_GRANULARITY, |e| (e / 8).min(USE_GRANULARITY))
}
