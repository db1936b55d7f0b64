//! Where the answers of the module proxy and the sum database come from, and when they are
//! fetched anew.
//!
//! Invariants: nothing is kept that the caller's check does not pass; several who want one missing
//! answer cause one fetch; what cannot change is fetched once; what can is revalidated when it is
//! older than the time-to-live, and served stale while that is done or where it fails. The order is:
//! local directory, then for immutable answers the bucket, then upstream, then for mutable ones what
//! there is. That there is no such thing is remembered for a minute.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use super::path::{ModPath, is_canonical};
use super::upstream::{Ask, FetchError, Fetcher, Got, Upstream, Upstreams};
use crate::bounded::Bounded;
use crate::flight::{Flights, Role};
use crate::metrics::Metrics;
use crate::platform::FileExt;
use crate::store::{Blob, BlobStore};

/// After a time-out, answers that may be served stale are, for so long, without asking again: a
/// client should not wait for time-outs over and over.
const LEAVE_ALONE: Duration = Duration::from_secs(5);
/// For so long it is remembered that there is no such thing: an upstream may take as long to say so.
const ABSENT: Duration = Duration::from_secs(60);
/// Of so many things.
const ABSENCES: usize = 4096;
/// How old the index of what is kept may be.
const INDEX: Duration = Duration::from_secs(30);

/// The store, the upstreams and the rules between them.
pub struct Depot {
    pub(super) store: Arc<BlobStore>,
    pub(super) upstreams: Upstreams,
    fetcher: Fetcher,
    pub(super) metrics: Arc<Metrics>,
    /// Upstreams are never asked.
    pub(super) offline: bool,
    /// How long a mutable answer is fresh.
    pub(super) ttl: Duration,
    stale: Duration,
    flights: Arc<Flights<String, Result<Blob, FetchError>>>,
    absent: Bounded<String, (Instant, FetchError)>,
    last_timeout: Mutex<Option<Instant>>,
    index: Mutex<Option<(Instant, Arc<Index>)>>,
}

/// The versions that are kept, with their `.info`, by escaped module path.
type Index = BTreeMap<String, Vec<String>>;

/// Says whether a file is fit to be kept, and what is to be noted of it.
pub type Check<'a> = &'a dyn Fn(&File) -> Result<&'static str, FetchError>;

/// An answer that is wanted.
pub struct Wanted<'a> {
    /// Its name in the store, and below an upstream's URL.
    pub name: &'a str,
    /// Whether it may change.
    pub mutable: bool,
    /// Whether it may be served stale while it is renewed.
    pub lags: bool,
    /// Its length at most, in bytes.
    pub limit: u64,
    /// What it has to be like. An empty answer is left to it, but an immutable one is never empty.
    pub check: Check<'a>,
    /// Called before an upstream is asked.
    pub ahead: &'a dyn Fn(),
    /// How long an upstream may think.
    pub patience: Duration,
    /// Whether it belongs to a private module: then only those upstreams are asked that were named for them.
    pub private: bool,
}

/// An answer.
#[derive(Debug)]
pub struct Found {
    /// Its bytes.
    pub blob: Blob,
    /// Whether it is to be renewed.
    pub lags: bool,
}

impl Depot {
    /// Rules between `store` and `upstreams`; what can change is fresh for `ttl`, and then stale for
    /// `stale` at most while it is renewed.
    pub fn new(
        store: Arc<BlobStore>,
        upstreams: Upstreams,
        offline: bool,
        (ttl, stale): (Duration, Duration),
        metrics: Arc<Metrics>,
    ) -> Self {
        Depot {
            store,
            upstreams,
            fetcher: Fetcher::default(),
            metrics,
            offline,
            ttl,
            stale,
            flights: Arc::default(),
            absent: Bounded::new(ABSENCES),
            last_timeout: Mutex::default(),
            index: Mutex::default(),
        }
    }

    /// The answer, from wherever it is to be had.
    pub fn get(&self, wanted: &Wanted<'_>) -> Result<Found, FetchError> {
        if let Some(blob) = self.store.local(wanted.name) {
            let lags = !self.suffices(wanted, &blob, Duration::ZERO);
            if !lags || wanted.lags && !self.offline && self.suffices(wanted, &blob, self.stale) {
                return Ok(Found { blob, lags });
            }
        }
        // what waits leaves room for what does not
        let place = self.metrics.waiting.take();
        let _place = place.ok_or_else(|| FetchError::Failed(503, "too many requests wait for upstreams".into()))?;
        let blob = self.flights.once(&wanted.name.to_string(), || self.refresh(wanted))?;
        Ok(Found { blob, lags: false })
    }

    /// Renews an answer that lags, unless somebody is at it.
    pub fn renew(&self, wanted: &Wanted<'_>) {
        if let Role::Lead(leader) = self.flights.join(&wanted.name.to_string(), Some(Duration::ZERO)) {
            let _ = leader.land(self.refresh(wanted));
        }
    }

    /// Fetches `path` from `upstream` past the store.
    pub fn ask(&self, upstream: &Upstream, path: &str, limit: u64, patience: Duration) -> Result<Vec<u8>, FetchError> {
        let mut bytes = Vec::new();
        let ask = Ask { path, limit, known: "", patience, beside: &|_, _| {} };
        self.fetch_timed(upstream, &ask, &mut bytes).map(|_| bytes)
    }

    /// What is kept under that name, here or in the bucket, and small. Nothing says that it is right.
    pub fn kept(&self, name: &str) -> Option<Vec<u8>> {
        let blob = self.store.reopen(name).or_else(|| self.store.from_bucket(name, false, &|_| Ok(())))?;
        let mut bytes = vec![0; blob.len.min(1 << 20) as usize];
        blob.file.read_exact_at(&mut bytes, 0).ok()?;
        Some(bytes).filter(|bytes| !bytes.is_empty() && bytes.len() as u64 == blob.len)
    }

    /// Keeps `bytes` under that name, if that can be done.
    pub fn keep(&self, name: &str, mut bytes: impl io::Read) {
        let kept = self.store.writer(name).and_then(|mut writer| {
            io::copy(&mut bytes, &mut writer)?;
            writer.commit()
        });
        if let Err(e) = kept {
            log::debug!("{name}: not kept: {e}");
        }
    }

    /// The canonical versions whose `.info` is kept, of the module of that escaped path.
    pub fn versions(&self, escaped: &str) -> Vec<String> {
        let mut index = self.index.lock().expect("no holder panics");
        if index.as_ref().is_none_or(|(at, _)| at.elapsed() > INDEX) {
            let mut found = Index::new();
            let walked = self.store.each(|kept| {
                if let Some(rest) = kept.name.strip_suffix(".info")
                    && let (Some((escaped, _)), Ok(path)) = (rest.split_once("/@v/"), ModPath::parse(&kept.name))
                    && let Some(version) = path.version().filter(|v| is_canonical(v))
                {
                    found.entry(escaped.to_string()).or_default().push(version.to_string());
                }
            });
            if let Err(e) = walked {
                log::warn!("what is kept cannot be listed: {e}");
            }
            *index = Some((Instant::now(), Arc::new(found)));
        }
        let index = index.as_ref().map(|(_, index)| index.clone());
        index.and_then(|index| index.get(escaped).cloned()).unwrap_or_default()
    }

    fn fetch_timed(&self, upstream: &Upstream, ask: &Ask<'_>, to: &mut dyn Write) -> Result<Got, FetchError> {
        self.metrics.modcache.upstream_requests.inc();
        let begin = Instant::now();
        let mut call = self.metrics.upstreams.begin(&upstream.to_string());
        let got = self.fetcher.get(upstream, ask, to);
        self.metrics.latency.upstream_request.observe(begin.elapsed());
        if let Err(FetchError::Failed(status, why)) = &got {
            log::debug!("{why}");
            call.failed(why);
            self.metrics.modcache.upstream_errors.inc();
            if *status == 504 {
                *self.last_timeout.lock().expect("no holder panics") = Some(Instant::now());
            }
        }
        got
    }

    /// Whether `blob` is an answer, perhaps one that was fresh until `grace` ago.
    fn suffices(&self, wanted: &Wanted<'_>, blob: &Blob, grace: Duration) -> bool {
        if !wanted.mutable {
            // an empty one is what a crash of the machine leaves
            return blob.len > 0;
        }
        // a time in the future is no sign of freshness
        SystemTime::now().duration_since(blob.modified).is_ok_and(|age| age < self.ttl.saturating_add(grace))
    }

    /// The answer, as fresh as it can be had; kept, if it can be.
    fn refresh(&self, wanted: &Wanted<'_>) -> Result<Blob, FetchError> {
        let local = match self.store.reopen(wanted.name) {
            // someone was faster
            Some(blob) if self.suffices(wanted, &blob, Duration::ZERO) => return Ok(blob),
            local => local.filter(|_| wanted.mutable),
        };
        if let Some(absent) = self.known_absent(wanted.name) {
            return Err(absent);
        }
        if !self.offline {
            (wanted.ahead)();
        }
        if !wanted.mutable
            && let Some(blob) = self.take_shared(wanted)
        {
            return Ok(blob);
        }
        let stale = |local: Option<Blob>| local.or_else(|| self.take_shared(wanted));
        if self.offline {
            let kept = if wanted.mutable { stale(local) } else { None };
            return kept.ok_or_else(|| absent("not in the cache, and --offline never asks an upstream"));
        }
        if local.is_some() && self.timed_out_lately() {
            self.metrics.modcache.stale_served.inc();
            return stale(local).ok_or_else(|| absent("removed while it was served"));
        }
        let fetched = self.upstreams.ask(wanted.private, |upstream| self.fetch(wanted, upstream, local.as_ref()));
        let can_ask = self.upstreams.has_any(wanted.private);
        match fetched {
            Err(e) if wanted.mutable && e.passes() => {
                let blob = stale(local).ok_or_else(|| e.clone())?;
                log::info!("{}: served from the cache: {e}", wanted.name);
                self.metrics.modcache.stale_served.inc();
                Ok(blob)
            }
            // nobody may be asked: what there is has to do
            Err(e @ FetchError::Absent(..)) if wanted.mutable && !can_ask => stale(local).ok_or(e),
            Err(e @ FetchError::Absent(..)) if can_ask => Err(self.remember_absent(wanted.name, e)),
            fetched => fetched,
        }
    }

    /// What was said lately of what is not there.
    pub fn known_absent(&self, name: &str) -> Option<FetchError> {
        self.absent.get(name).filter(|(at, _)| at.elapsed() < ABSENT).map(|(_, e)| e)
    }

    /// Remembers that `name` is not there, as `e` says.
    pub fn remember_absent(&self, name: &str, e: FetchError) -> FetchError {
        self.absent.insert(name.to_string(), (Instant::now(), e.clone()));
        e
    }

    /// The answer, from the bucket.
    fn take_shared(&self, wanted: &Wanted<'_>) -> Option<Blob> {
        let note = Cell::new("");
        let check = |file: &File| (wanted.check)(file).map(|noted| note.set(noted)).map_err(|e| e.to_string());
        let mut blob = self.store.from_bucket(wanted.name, wanted.mutable, &check)?;
        if !note.get().is_empty() {
            self.store.set_note(wanted.name, note.get());
            blob.note = note.get().to_string();
        }
        Some(blob)
    }

    /// Fetches, checks and keeps what one upstream has; or confirms what is there.
    fn fetch(&self, wanted: &Wanted<'_>, upstream: &Upstream, local: Option<&Blob>) -> Result<Blob, FetchError> {
        let path = wanted.name;
        let ours = |e: io::Error| FetchError::Failed(500, format!("cannot be stored: {e}"));
        let mut writer = self.store.writer(wanted.name).map_err(ours)?;
        let known = local.map_or("", |blob| blob.note.as_str());
        let beside = |name: &str, file: File| self.keep(name, file);
        let ask = Ask { path, limit: wanted.limit, known, patience: wanted.patience, beside: &beside };
        let (len, validators) = match self.fetch_timed(upstream, &ask, &mut writer)? {
            Got::Body(len, validators) => (len, validators),
            Got::Same => {
                let blob = self.store.reopen(wanted.name);
                let blob = blob.ok_or_else(|| FetchError::Failed(500, "removed while it was served".into()))?;
                // in a directory that is not ours it is asked for again
                let _ = blob.file.set_modified(SystemTime::now());
                return Ok(blob);
            }
        };
        let checked = if len == 0 && !wanted.mutable {
            Err(FetchError::Refused(502, "refused: it is empty".into()))
        } else {
            writer.written().map_err(ours).and_then(wanted.check)
        };
        let note = checked.map_err(|e| match e {
            FetchError::Refused(status, why) => {
                self.metrics.modcache.rejected.inc();
                FetchError::Refused(status, format!("{upstream}/{path}: {why}"))
            }
            e => e,
        })?;
        writer.note(if wanted.mutable { &validators } else { note });
        writer.commit().map_err(ours)
    }

    fn timed_out_lately(&self) -> bool {
        self.last_timeout.lock().expect("no holder panics").is_some_and(|at| at.elapsed() < LEAVE_ALONE)
    }
}

fn absent(why: &str) -> FetchError {
    FetchError::Absent(404, format!("not found: {why}"))
}
