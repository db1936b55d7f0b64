//! `prune`: applies the limits to the local cache now. Only what live sessions may use is spared.
//!
//! With `--bucket`, removes what a bucket has under names of ours, below the configured prefix alone,
//! and nobody has used for so long: an object's age is its last use (see `cache::refresh`), and the
//! bucket's own clock measures it. When it is stopped, the
//! next one goes on with what is left.

use std::fs;
use std::sync::Arc;

use super::bulk::{Bulk, Removal};
use super::{names, open_bucket, stack};
use crate::atomic::is_full;
use crate::cache::prune;
use crate::cache::size::{SIZE, Size};
use crate::config::{Config, PruneConfig};
use crate::error::{Error, ExitCode};
use crate::lease::{Census, prune_turn};
use crate::text::{self, count, things};

/// Prunes, and says what went and what was spared.
pub(super) fn execute(config: &Config) -> Result<ExitCode, Error> {
    let dir = &config.cache_dir;
    super::of_cache_dir(dir, dir.metadata())?;
    let prune = || {
        let turn = || prune_turn(dir, true);
        let full = |e: &std::io::Error| is_full(e) && fs::remove_file(dir.join(SIZE)).is_ok();
        let _turn = turn().or_else(|e| if full(&e) { turn() } else { Err(e) })?;
        let report = prune::prune(config, None, &Census::take(dir)?)?;
        Size::set(dir, report.bytes).map(|_| report)
    };
    let report = prune().map_err(|e| Error::failed(format!("{}: {e}", dir.display())))?;
    let mut text = stack::pruned(&report);
    if config.max_size.is_some_and(|max| report.bytes > max) {
        text = format!("{text}; {}", stack::above(&report));
    }
    super::print(&format!("{text}\n"))
}

/// Prunes a bucket, and says what went.
pub(super) fn bucket(config: &PruneConfig) -> Result<ExitCode, Error> {
    let bucket = open_bucket(&config.bucket, Arc::default(), None)?;
    let bulk = Bulk::new("prune", bucket.clone(), config.cache.upload_concurrency, config.rate);
    let proxied = if config.proxied { &names::PROXIED[..] } else { &[] };
    let Removal { gone, bytes, kept, others } =
        bulk.removal(&[&names::BUILDS[..], proxied].concat(), config.dry_run, |object| {
            names::is_key(&object.key).then(|| object.age.is_some_and(|age| age > config.expiry))
        })?;
    super::print(&format!(
        "{}: {} {}, {}; {} younger and {} of other names are left\n",
        bucket.target(),
        if config.dry_run { "would remove" } else { "removed" },
        things(gone, "object"),
        text::bytes(bytes),
        count(kept),
        count(others),
    ))
}
