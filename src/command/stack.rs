//! The cache with everything below it, put together as the configuration says, and taken down in
//! order: uploads drain to the deadline, metrics, then what nobody waits for: sweeping and pruning.
//! (Manifests are written by the sessions as they end.)

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::summary;
use crate::atomic;
use crate::cache::disk::DiskCache;
use crate::cache::entry::Codec;
use crate::cache::fetch::Fetcher;
use crate::cache::prune::{self, Report};
use crate::cache::size::Size;
use crate::cache::{ActionSource, BuildCache, Tier};
use crate::config::{BucketLocation, Config};
use crate::error::Error;

use crate::folder::ACTION;
use crate::lease::{Census, LEASE, Lease, prune_turn};
use crate::metrics::Metrics;
use crate::remote::Bucket;
use crate::session::{Budget, Options};
use crate::text;
use crate::upload::{Target, Uploader};

/// What was used within this time may still be open: tools open paths after their session has closed.
/// A use shows as late as the granularity of last use.
const IN_USE: Duration = Duration::from_secs(2 * 3600);
/// The directory is walked no more often than this.
const WALK: Duration = Duration::from_secs(3600);
/// It is walked at least this often for the sake of ages.
const WALK_FOR_AGE: Duration = Duration::from_secs(24 * 3600);

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
    /// When it was opened.
    pub begun: Instant,
    config: Config,
    /// Bytes added when the directory's size was last brought up to date.
    counted: AtomicU64,
}

impl Stack {
    /// Opens the cache. Nothing is asked of the bucket yet.
    pub fn open(config: &Config) -> Result<Self, Error> {
        let dir = &config.cache_dir;
        if dir.to_str().is_none() {
            return Err(Error::failed(format!("cache directory {}: its name is not UTF-8", dir.display())));
        }
        super::of_cache_dir(dir, fs::create_dir_all(dir))?;
        let granularity = config.granularity();
        let disk = Arc::new(super::of_cache_dir(dir, DiskCache::open(dir, granularity))?);
        if let Err(e) = prune::stamp(dir) {
            log::debug!("{}: {e}", dir.display());
        }
        let (lease, metrics) = (Lease::take(dir, granularity), Arc::new(Metrics::default()));
        let (mut bucket, mut uploader, mut tier) = (None, None, None);
        if let Some(shared) = &config.bucket {
            let opened = super::open_bucket(shared, metrics.clone(), Some(&dir.join(LEASE)))?;
            let codec = Codec::new(config.compression_level, shared.signer.clone());
            let (disk, layout, metrics) = (disk.clone(), shared.layout, metrics.clone());
            let entries = Arc::new(ActionSource { disk, layout, codec, metrics: metrics.clone() });
            if opened.writable() {
                let target = target(shared, &opened);
                let queue = Uploader::new(opened.clone(), target, dir, config.upload_concurrency, metrics);
                queue.register(ACTION, entries.clone());
                uploader = Some(Arc::new(queue));
            }
            let fetcher = Arc::new(Fetcher::new(opened.clone(), entries, uploader.clone()));
            tier = Some(Tier::new(fetcher, config.min_upload_size, config.readahead));
            bucket = Some(opened);
        }
        Ok(Stack {
            cache: Arc::new(BuildCache { disk, tier, lease, metrics: metrics.clone() }),
            bucket,
            uploader,
            budget: Budget::new(config.body_memory),
            begun: Instant::now(),
            config: config.clone(),
            counted: AtomicU64::new(0),
            metrics,
        })
    }

    /// What the stack was opened with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where everything is kept, in words of `name=value` that a script can read.
    pub fn describe(&self) -> String {
        let cache = text::word(&self.config.cache_dir.display().to_string());
        let Some((bucket, config)) = self.bucket.as_ref().zip(self.config.bucket.as_ref()) else {
            return format!("cache={cache} bucket=none");
        };
        let access = if bucket.writable() { "read-write" } else { "read-only" };
        let (bucket, layout) = (text::word(&bucket.target()), config.layout.name());
        format!("cache={cache} bucket={bucket} layout={layout} access={access}")
    }

    /// How sessions over this cache work.
    pub fn session_options(&self, scope_command: bool) -> Options {
        Options {
            concurrency: self.config.concurrency,
            budget: self.budget.clone(),
            debug: self.config.debug.build_cache(),
            tests: self.config.tests,
            scope_command,
        }
    }

    /// What was `started`; where it was not, nothing of this process stays behind.
    pub fn begin<T>(&self, started: Result<T, Error>) -> Result<T, Error> {
        started.inspect_err(|_| self.cache.lease.give_back())
    }

    /// Takes over the uploads of processes that have ended. Call it off the start's critical path.
    pub fn adopt(&self) {
        // who tidies says why it cannot be told who is dead
        if let (Some(uploader), Ok(census)) = (&self.uploader, Census::take(&self.config.cache_dir)) {
            uploader.adopt(&census);
        }
    }

    /// When the close that begins now must be over.
    pub fn close_deadline(&self) -> Instant {
        Instant::now() + self.config.close_timeout
    }

    /// Waits for uploads until `deadline`. What is left is uploaded by the next start.
    pub fn drain(&self, deadline: Instant) {
        self.uploader.iter().for_each(|uploader| uploader.drain(deadline));
    }

    /// Says that the bucket takes no writes, once, and what is left to be written; at the `end` also where
    /// it only takes them too slowly.
    fn tell_owed(&self, end: bool) {
        // while the bucket is down, its own line has said so
        let Some(bucket) = self.bucket.as_ref().filter(|bucket| bucket.available()) else { return };
        let refused = bucket.refuses_writes().map(|why| format!("takes no writes: {why}; reading from it alone"));
        let left = self.uploader.as_ref().map(|uploader| (uploader.left() as u64, uploader));
        let Some((left, uploader)) = left.filter(|(left, _)| *left > 0) else {
            return refused.into_iter().for_each(|why| log::warn!("bucket {}: {why}", bucket.target()));
        };
        let queue = uploader.state();
        let trouble = || uploader.trouble().filter(|_| queue.waiting + queue.busy == 0 || !uploader.owes());
        let late = || match bucket.accepts_writes() {
            true => format!("took no more uploads within --close-timeout ({:?})", self.config.close_timeout),
            false => "took no writes less than a minute before".to_string(),
        };
        let slow = || uploader.owes().then(late);
        let Some(why) = refused.or_else(|| if end { trouble().or_else(slow) } else { None }) else { return };
        let (verb, left) = (text::verb(left, "stays", "stay"), text::things(left, "upload"));
        log::warn!("bucket {}: {why}; {left} {verb} marked for the next start", bucket.target());
    }

    /// Says what there is to say of the whole run.
    pub fn last_words(&self) {
        self.tell_owed(true);
        self.cache.disk.trouble.end();
        self.config.bucket.iter().for_each(|bucket| bucket.signer.end());
        self.bucket.iter().flat_map(|bucket| bucket.last_words()).for_each(|line| log::warn!("{line}"));
        if self.config.metrics {
            super::say(self.metrics.to_json());
        }
        if let Some(file) = &self.config.summary
            && let Err(e) = summary::append(file, self)
        {
            log::warn!("{}: {e}; see --summary or GOCACHE_SUMMARY", file.display());
        }
    }

    /// Takes the stack down after its sessions have ended, their uploads were drained and nobody waits.
    pub fn close(&self) {
        if let Some(uploader) = &self.uploader {
            uploader.stop();
        }
        self.cache.disk.save_recall();
        self.tidy(Census::take(&self.config.cache_dir));
        atomic::abandon();
        self.cache.lease.give_back();
    }

    /// What a running server does now and then: finishes uploads, its own that have failed and
    /// those of dead processes, sweeps, and prunes what nobody has used for a while.
    pub fn maintain(&self) {
        let census = Census::take(&self.config.cache_dir);
        if let Some(uploader) = &self.uploader {
            census.iter().for_each(|census| uploader.adopt(census));
            uploader.retry();
        }
        self.tell_owed(false);
        self.tidy(census);
    }

    /// Sweeps what the dead have left, and prunes where that is due.
    fn tidy(&self, census: std::io::Result<Census>) {
        let Config { cache_dir, .. } = &self.config;
        let tidied = census.and_then(|census| {
            if census.dead().next().is_some() {
                prune::sweep(cache_dir, &census)?;
                if let Some(bucket) = &self.bucket {
                    bucket.sweep(&|token| census.dead().any(|dead| dead == token));
                }
                // last: what is left by who is killed before is the next one's to find
                census.bury();
            }
            self.prune(&census)
        });
        if let Err(e) = tidied {
            // who puts something has been told
            let told = atomic::is_full(&e) || !self.cache.lease.is_held();
            log::log!(if told { log::Level::Debug } else { log::Level::Warn }, "pruning: {e}");
        }
    }

    /// Prunes as the configuration says, where the size that is known or the time says so.
    fn prune(&self, census: &Census) -> std::io::Result<()> {
        let Config { expiry, max_size, cache_dir, .. } = &self.config;
        let added = self.added();
        let size = Size::add(cache_dir, added - self.counted.swap(added, Ordering::Relaxed))?;
        let over = max_size.is_some_and(|max| !size.is_known() || size.bytes > max) && size.is_older_than(WALK);
        // nothing expires before the directory was ours for that long
        let may_expire = expiry.filter(|age| prune::opened(cache_dir).is_none_or(|open_for| open_for > *age));
        let old = may_expire.is_some_and(|age| size.is_older_than((age / 10).clamp(WALK, WALK_FOR_AGE)));
        let Some(_turn) = (if over || old { prune_turn(cache_dir, false)? } else { None }) else { return Ok(()) };
        let spare_since = SystemTime::now().checked_sub(IN_USE);
        let report = prune::prune(&self.config, spare_since, census)?;
        Size::set(cache_dir, report.bytes)?;
        log::info!("{}", pruned(&report));
        if max_size.is_some_and(|max| report.bytes > max) {
            log::warn!("{}: {}", cache_dir.display(), above(&report));
        }
        Ok(())
    }

    /// Bytes that this process has added to the directory.
    fn added(&self) -> u64 {
        let (modules, proxied) = (&self.metrics.modcache, &self.metrics.revcache);
        let blobs = modules.put_local_bytes.get() + modules.get_s3_bytes.get() + proxied.rsp_save_bytes.get();
        self.cache.disk.added() + blobs
    }
}

/// What uploads to `bucket` are for, as markers say it.
fn target(config: &crate::config::BucketConfig, bucket: &Bucket) -> Target {
    let layout = config.layout.name();
    let place = match &config.location {
        BucketLocation::S3 { bucket, .. } => format!("s3://{bucket}"),
        BucketLocation::Dir(root) => format!("file://{}", root.display()),
    };
    Target {
        name: format!("{} {layout}", bucket.target()),
        signed: config.signer.signs(),
        legacy: format!("{place}/{}", config.target()),
    }
}

/// What went.
pub(super) fn pruned(report: &Report) -> String {
    format!(
        "removed {} ({}) and {}; {} ({}) {} left",
        text::things(report.removed_files, "file"),
        text::bytes(report.removed_bytes),
        text::things(report.removed_actions, "action"),
        text::things(report.files, "file"),
        text::bytes(report.bytes),
        text::verb(report.files, "is", "are"),
    )
}

/// Why the directory stays larger than it may be.
pub(super) fn above(report: &Report) -> String {
    format!(
        "{} are more than --max-cache-size: {} may be in use, {} wait for upload",
        text::bytes(report.bytes),
        text::bytes(report.in_use),
        text::bytes(report.owed)
    )
}
