//! Where the files of modules come from, and when they are fetched anew.
//!
//! Invariants: nothing is kept that does not pass the check; several who want one missing file cause one fetch;
//! what cannot change is fetched once; what can is revalidated when it is older than the time-to-live, and
//! served stale while that is done or where it fails. The order is: local directory, then for immutable
//! answers the bucket, then upstream, then for mutable ones what there is.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::path::{ModFile, ModPath};
use super::upstream::{Ask, FetchError, Upstream};
use super::{ModProxy, form};
use crate::flight::Role;
use crate::store::Blob;

/// How long an upstream may think: one that has to fetch from the origin first takes its time.
const PATIENCE: Duration = Duration::from_secs(120);
/// After a time-out, answers that may be served stale are, for so long, without asking again: a
/// client should not wait for time-outs over and over.
const LEAVE_ALONE: Duration = Duration::from_secs(5);

impl ModProxy {
    /// The file, from wherever it is to be had.
    pub(super) fn found(self: &Arc<Self>, wanted: &ModPath) -> Result<Blob, FetchError> {
        if let Some(blob) = self.depot.store.local(&wanted.name) {
            if self.suffices(wanted, &blob, Duration::ZERO) {
                return Ok(blob);
            }
            let lags = matches!(wanted.file, ModFile::List | ModFile::Latest);
            if lags && !self.depot.config.offline && self.suffices(wanted, &blob, self.depot.config.stale) {
                self.aside("renew", wanted, |this, wanted| {
                    // unless somebody is at it
                    if let Role::Lead(leader) = this.flights.join(&wanted.name, Some(Duration::ZERO)) {
                        let _ = leader.land(this.refresh(wanted));
                    }
                });
                return Ok(blob);
            }
        }
        // what waits leaves room for what does not
        let place = self.depot.metrics.waiting.take();
        let _place = place.ok_or_else(|| FetchError::Failed(503, "too many requests wait for upstreams".into()))?;
        self.flights.once(&wanted.name, || self.refresh(wanted))
    }

    /// Whether `blob` is an answer, perhaps one that was fresh until `grace` ago.
    fn suffices(&self, wanted: &ModPath, blob: &Blob, grace: Duration) -> bool {
        if !wanted.is_mutable() {
            // an empty one is what a crash of the machine leaves
            return blob.len > 0;
        }
        // a time in the future is no sign of freshness
        SystemTime::now()
            .duration_since(blob.modified)
            .is_ok_and(|age| age < self.depot.config.ttl.saturating_add(grace))
    }

    /// The answer, as fresh as it can be had; kept, if it can be.
    fn refresh(self: &Arc<Self>, wanted: &ModPath) -> Result<Blob, FetchError> {
        let (depot, mutable) = (&self.depot, wanted.is_mutable());
        let local = match depot.store.reopen(&wanted.name) {
            // someone was faster
            Some(blob) if self.suffices(wanted, &blob, Duration::ZERO) => return Ok(blob),
            local => local.filter(|_| mutable),
        };
        if let Some(absent) = depot.known_absent(&wanted.name) {
            return Err(absent);
        }
        self.look_ahead(wanted);
        if !mutable && let Some(blob) = self.take_shared(wanted) {
            return Ok(blob);
        }
        let private = self.is_private(&wanted.module);
        let can_ask = !depot.config.offline && depot.upstreams.each(private).next().is_some();
        let timed_out = *depot.last_timeout.lock().expect("no holder panics");
        let fetched = if depot.config.offline {
            Err(FetchError::absent("not in the cache, and --offline never asks an upstream"))
        } else if local.is_some() && timed_out.is_some_and(|at| at.elapsed() < LEAVE_ALONE) {
            Err(FetchError::Failed(504, "an upstream gave no answer in time just now".into()))
        } else {
            depot.upstreams.ask(private, |upstream| self.fetch(wanted, upstream, local.as_ref()))
        };
        match fetched {
            // where nobody may be asked, too, what there is has to do
            Err(e) if mutable && (!can_ask || e.passes()) => {
                let blob = local.or_else(|| self.take_shared(wanted)).ok_or_else(|| e.clone())?;
                if can_ask {
                    log::info!("{}: served from the cache: {e}", wanted.name);
                    depot.metrics.modcache.stale_served.inc();
                }
                Ok(blob)
            }
            Err(e @ FetchError::Absent(..)) if can_ask => Err(depot.remember_absent(&wanted.name, e)),
            fetched => fetched,
        }
    }

    /// The answer, from the bucket.
    fn take_shared(&self, wanted: &ModPath) -> Option<Blob> {
        let check = |file: &File| self.check(wanted, file).map_err(|e| e.to_string());
        self.depot.store.from_bucket(&wanted.name, wanted.is_mutable(), &check)
    }

    /// Fetches, checks and keeps what one upstream has; or confirms what is there.
    fn fetch(&self, wanted: &ModPath, upstream: &Upstream, local: Option<&Blob>) -> Result<Blob, FetchError> {
        let (depot, path) = (&self.depot, &wanted.name);
        let ours = |e: io::Error| FetchError::Failed(500, format!("cannot be stored: {e}"));
        let mut writer = depot.store.writer(path).map_err(ours)?;
        let known = local.map_or("", |blob| blob.note.as_str());
        let beside = |name: &str, file: File| depot.keep(name, file);
        let (limit, _) = form(wanted.file);
        let ask = Ask { upstream, path, limit, known, patience: PATIENCE, beside: &beside };
        let Some((len, validators)) = depot.fetch_timed(&ask, &mut writer)? else {
            let blob = depot.store.reopen(path);
            let blob = blob.ok_or_else(|| FetchError::Failed(500, "removed while it was served".into()))?;
            // in a directory that is not ours it is asked for again
            let _ = blob.file.set_modified(SystemTime::now());
            return Ok(blob);
        };
        let checked = if len == 0 && !wanted.is_mutable() {
            Err(FetchError::refused("it is empty"))
        } else {
            writer.written().map_err(ours).and_then(|file| self.check(wanted, file))
        };
        let note = checked.map_err(|e| match e {
            FetchError::Refused(status, why) => {
                depot.metrics.modcache.rejected.inc();
                FetchError::Refused(status, format!("{upstream}/{path}: {why}"))
            }
            e => e,
        })?;
        writer.note(if wanted.is_mutable() { &validators } else { note });
        writer.commit().map_err(ours)
    }
}
