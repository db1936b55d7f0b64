//! Where the answers of the module proxy and the sum database come from, and when they are
//! fetched anew.
//!
//! Invariants: nothing is kept that the caller's check does not pass; several who want one missing
//! answer cause one fetch; what cannot change is fetched once; what can is fetched again when it is
//! older than the time-to-live, and served stale where that fails. The order is: local directory,
//! then for immutable answers the bucket, then upstream, then for mutable ones what there is.

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use super::upstream::{FetchError, Fetcher, Upstream, Upstreams};
use crate::flight::Flights;
use crate::metrics::Metrics;
use crate::places::Place;
use crate::store::{Blob, BlobStore, BlobWriter};

/// After a time-out, answers that may be served stale are, for so long, without asking again: a
/// client should not wait for time-outs over and over.
const LEAVE_ALONE: Duration = Duration::from_secs(5);

/// The store, the upstreams and the rules between them.
pub struct Depot {
    store: Arc<BlobStore>,
    pub(super) upstreams: Upstreams,
    fetcher: Fetcher,
    metrics: Arc<Metrics>,
    offline: bool,
    ttl: Duration,
    flights: Arc<Flights<String, Result<(), FetchError>>>,
    last_timeout: Mutex<Option<Instant>>,
}

/// An answer that is wanted.
pub struct Wanted<'a> {
    /// Its name in the store.
    pub name: &'a str,
    /// Whether it may change.
    pub mutable: bool,
    /// Its length at most, in bytes.
    pub limit: u64,
    /// What it has to be like. An empty answer is left to it, but an immutable one is never empty.
    pub check: &'a dyn Fn(&File) -> Result<(), String>,
    /// Where to fetch it.
    pub source: Source<'a>,
}

/// Whom to ask for an answer.
pub enum Source<'a> {
    /// The list of upstreams, for this path; only those that own private modules if it is one.
    List {
        /// The path below the upstream's URL.
        path: &'a str,
        /// Whether it belongs to a private module.
        private: bool,
    },
    /// One upstream, for this path.
    One(&'a Upstream, &'a str),
    /// Nobody, for this reason.
    Nobody(&'a str),
}

impl Depot {
    /// Rules between `store` and `upstreams`.
    pub fn new(
        store: Arc<BlobStore>,
        upstreams: Upstreams,
        offline: bool,
        ttl: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        Depot {
            store,
            upstreams,
            fetcher: Fetcher::default(),
            metrics,
            offline,
            ttl,
            flights: Arc::default(),
            last_timeout: Mutex::default(),
        }
    }

    /// Whether upstreams are never asked.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// How long a mutable answer is fresh.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Whether the local directory has something of that name.
    pub fn has(&self, name: &str) -> bool {
        self.store.reopen(name).is_some_and(|blob| blob.len > 0)
    }

    /// The answer, from wherever it is to be had.
    pub fn get(&self, wanted: &Wanted<'_>) -> Result<Blob, FetchError> {
        match self.store.local(wanted.name) {
            Some(blob) if self.suffices(wanted, &blob) => return Ok(blob),
            _ => {}
        }
        let _place = self.place()?;
        self.flights.once(&wanted.name.to_string(), || self.refresh(wanted))?;
        self.store.reopen(wanted.name).ok_or_else(|| FetchError::Failed(500, "removed while it was served".into()))
    }

    /// Fetches `path` from `upstream` past the store.
    pub fn ask(&self, upstream: &Upstream, path: &str, to: &mut dyn Write) -> Result<u64, FetchError> {
        let _place = self.place()?;
        let got = self.fetch_timed(upstream, path, 1 << 20, to);
        self.note(&got);
        got
    }

    /// A place for a request that may have to wait: what waits leaves room for what does not.
    fn place(&self) -> Result<Place, FetchError> {
        self.metrics
            .waiting
            .take()
            .ok_or_else(|| FetchError::Failed(503, "too many requests wait for upstreams".into()))
    }

    fn fetch_timed(&self, upstream: &Upstream, path: &str, limit: u64, to: &mut dyn Write) -> Result<u64, FetchError> {
        self.metrics.modcache.upstream_requests.inc();
        let begin = Instant::now();
        let mut call = self.metrics.upstreams.begin(&upstream.to_string());
        let got = self.fetcher.get(upstream, path, limit, to);
        if let Err(FetchError::Failed(_, why)) = &got {
            call.failed(why);
        }
        self.metrics.latency.upstream_request.observe(begin.elapsed());
        got
    }

    fn suffices(&self, wanted: &Wanted<'_>, blob: &Blob) -> bool {
        if !wanted.mutable {
            // an empty one is what a crash of the machine leaves
            return blob.len > 0;
        }
        // a time in the future is no sign of freshness
        SystemTime::now().duration_since(blob.modified).is_ok_and(|age| age < self.ttl)
    }

    /// Makes the local directory hold the answer, as fresh as it can be had.
    fn refresh(&self, wanted: &Wanted<'_>) -> Result<(), FetchError> {
        let local = self.store.reopen(wanted.name);
        if local.as_ref().is_some_and(|blob| self.suffices(wanted, blob)) {
            return Ok(()); // someone was faster
        }
        let from_bucket = || self.store.from_bucket(wanted.name, wanted.mutable, wanted.check).is_some();
        let stale = |local: Option<Blob>| wanted.mutable && (local.is_some() || from_bucket());
        if !wanted.mutable && from_bucket() {
            return Ok(());
        }
        if self.offline {
            return if stale(local) {
                Ok(())
            } else {
                Err(absent("not in the cache, and --offline never asks an upstream"))
            };
        }
        if wanted.mutable && local.is_some() && self.timed_out_lately() {
            self.metrics.modcache.stale_served.inc();
            return Ok(());
        }
        let fetched = match &wanted.source {
            Source::Nobody(why) => Err(absent(why)),
            Source::One(upstream, path) => self.fetch(wanted, upstream, path),
            Source::List { path, private } => {
                self.upstreams.ask(*private, |upstream| self.fetch(wanted, upstream, path))
            }
        };
        match fetched {
            Err(FetchError::Failed(_, why)) if stale(local) => {
                log::info!("{}: served from the cache: {why}", wanted.name);
                self.metrics.modcache.stale_served.inc();
                Ok(())
            }
            // nobody may be asked: what there is has to do
            Err(FetchError::Absent(..)) if !self.can_ask(&wanted.source) && stale(self.store.reopen(wanted.name)) => {
                Ok(())
            }
            fetched => fetched,
        }
    }

    fn can_ask(&self, source: &Source<'_>) -> bool {
        match source {
            Source::Nobody(_) => false,
            Source::One(..) => true,
            Source::List { private, .. } => self.upstreams.has_any(*private),
        }
    }

    /// Fetches, checks and keeps what one upstream has.
    fn fetch(&self, wanted: &Wanted<'_>, upstream: &Upstream, path: &str) -> Result<(), FetchError> {
        let ours = |e: std::io::Error| FetchError::Failed(500, format!("cannot be stored: {e}"));
        let mut writer: BlobWriter = self.store.writer(wanted.name).map_err(ours)?;
        let got = self.fetch_timed(upstream, path, wanted.limit, &mut writer);
        self.note(&got);
        let len = got?;
        let sound = if len == 0 && !wanted.mutable {
            Err("it is empty".to_string())
        } else {
            writer.written().map_err(ours).map(wanted.check)?
        };
        if let Err(why) = sound {
            self.metrics.modcache.rejected.inc();
            return Err(FetchError::Failed(502, format!("{upstream}/{path}: refused: {why}")));
        }
        writer.commit().map_err(ours)?;
        Ok(())
    }

    fn note(&self, outcome: &Result<u64, FetchError>) {
        if let Err(FetchError::Failed(status, why)) = outcome {
            log::debug!("{why}");
            self.metrics.modcache.upstream_errors.inc();
            if *status == 504 {
                *self.last_timeout.lock().expect("no holder panics") = Some(Instant::now());
            }
        }
    }

    fn timed_out_lately(&self) -> bool {
        self.last_timeout.lock().expect("no holder panics").is_some_and(|at| at.elapsed() < LEAVE_ALONE)
    }
}

fn absent(why: &str) -> FetchError {
    FetchError::Absent(404, format!("not found: {why}"))
}
