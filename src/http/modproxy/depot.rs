//! The store, the upstreams, and what is noted of both: what the module proxy and the sum databases stand on.
//!
//! Invariant: that there is no such thing is remembered for a minute.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::path::{ModFile, ModPath};
use super::upstream::{Ask, FetchError, Got, Upstream, Upstreams};
use crate::bounded::Bounded;
use crate::config::ModProxyConfig;
use crate::metrics::Metrics;
use crate::platform::FileExt;
use crate::store::BlobStore;

/// For so long it is remembered that there is no such thing: an upstream may take as long to say so.
const ABSENT: Duration = Duration::from_secs(60);
/// Of so many things.
const ABSENCES: usize = 4096;
/// How long a sum database may think: it may have to fetch a module first.
const PATIENCE: Duration = Duration::from_secs(60);
/// How old the index of what is kept may be.
const INDEX: Duration = Duration::from_secs(30);

/// The store and the upstreams.
pub(super) struct Depot {
    pub(super) config: ModProxyConfig,
    pub(super) store: Arc<BlobStore>,
    pub(super) upstreams: Upstreams,
    pub(super) metrics: Arc<Metrics>,
    absent: Bounded<String, (Instant, FetchError)>,
    pub(super) last_timeout: Mutex<Option<Instant>>,
    index: Mutex<Option<(Instant, Arc<Index>)>>,
}

/// Versions, in no order, by module path.
type Index = BTreeMap<String, Vec<String>>;

impl Depot {
    /// Of `store` and the upstreams of `config`. The error is one line for people.
    pub(super) fn new(config: &ModProxyConfig, store: Arc<BlobStore>, metrics: Arc<Metrics>) -> Result<Self, String> {
        Ok(Depot {
            config: config.clone(),
            store,
            upstreams: Upstreams::new(config)?,
            metrics,
            absent: Bounded::new(ABSENCES),
            last_timeout: Mutex::default(),
            index: Mutex::default(),
        })
    }

    /// Fetches `path` of a sum database from `upstream`, past the store.
    pub(super) fn ask(&self, upstream: &Upstream, path: &str, limit: u64) -> Result<Vec<u8>, FetchError> {
        let mut bytes = Vec::new();
        self.fetch_timed(&Ask::small(upstream, path, limit, PATIENCE), &mut bytes).map(|_| bytes)
    }

    /// What is kept under that name, here or in the bucket, and small. Nothing says that it is right.
    pub(super) fn kept(&self, name: &str) -> Option<Vec<u8>> {
        let blob = self.store.reopen(name).or_else(|| self.store.from_bucket(name, false, &|_| Ok("")))?;
        let mut bytes = vec![0; blob.len.min(1 << 20) as usize];
        blob.file.read_exact_at(&mut bytes, 0).ok()?;
        Some(bytes).filter(|bytes| !bytes.is_empty() && bytes.len() as u64 == blob.len)
    }

    /// Keeps `bytes` under that name, if that can be done.
    pub(super) fn keep(&self, name: &str, mut bytes: impl io::Read) {
        let kept = self.store.writer(name).and_then(|mut writer| {
            io::copy(&mut bytes, &mut writer)?;
            writer.commit()
        });
        if let Err(e) = kept {
            log::debug!("{name}: not kept: {e}");
        }
    }

    /// The versions whose `.info` is kept, by module path.
    pub(super) fn versions(&self) -> Arc<Index> {
        let mut index = self.index.lock().expect("no holder panics");
        if index.as_ref().is_none_or(|(at, _)| at.elapsed() > INDEX) {
            let mut found = Index::new();
            let walked = self.store.each(|kept| match ModPath::parse(&kept.name) {
                Ok(path) if path.file == ModFile::Info && !path.is_mutable() => {
                    found.entry(path.module).or_default().push(path.version);
                }
                _ => {}
            });
            if let Err(e) = walked {
                log::warn!("what is kept cannot be listed: {e}");
            }
            *index = Some((Instant::now(), Arc::new(found)));
        }
        index.as_ref().map(|(_, index)| index.clone()).unwrap_or_default()
    }

    /// Asks an upstream, and takes note of how that went.
    pub(super) fn fetch_timed(&self, ask: &Ask<'_>, to: &mut dyn Write) -> Result<Got, FetchError> {
        self.metrics.modcache.upstream_requests.inc();
        let mut call = self.metrics.upstreams.begin(&ask.upstream.to_string());
        let got = self.upstreams.get(ask, to);
        self.metrics.latency.upstream_request.observe(call.begun.elapsed());
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

    /// What was said lately of what is not there.
    pub(super) fn known_absent(&self, name: &str) -> Option<FetchError> {
        self.absent.get(name).filter(|(at, _)| at.elapsed() < ABSENT).map(|(_, e)| e)
    }

    /// Remembers that `name` is not there, as `e` says.
    pub(super) fn remember_absent(&self, name: &str, e: FetchError) -> FetchError {
        self.absent.insert(name.to_string(), (Instant::now(), e.clone()));
        e
    }
}
