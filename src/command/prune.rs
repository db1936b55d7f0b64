//! `prune`: applies the limits to the local cache now. Only what live sessions may use is spared.
//!
//! With `--bucket`, removes what a bucket has under names of ours, below the configured prefix alone,
//! and nobody has used for so long: an object's age is its last use (see `cache::refresh`), and the
//! bucket's own clock measures it. It removes as it lists, so that it can be stopped at any time; the
//! next one goes on with what is left.

use std::fmt::Display;
use std::sync::Arc;

use super::bulk::Bulk;
use super::{names, open_bucket, stack};
use crate::cache::prune;
use crate::cache::size::Size;
use crate::config::{Config, PruneConfig};
use crate::error::{Error, ExitCode};
use crate::lease::{Census, prune_turn};
use crate::text::{bytes, count, things};

/// Prunes, and says what went and what was spared.
pub(super) fn execute(config: &Config) -> Result<ExitCode, Error> {
    let dir = &config.cache_dir;
    let prune = || {
        let _turn = prune_turn(dir, true)?;
        let report = prune::prune(dir, &stack::limits(config, None), &Census::take(dir)?)?;
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
    let failed = |e: &dyn Display| Error::failed(format!("bucket: {e}"));
    let bucket = open_bucket(&config.bucket, Arc::default(), None)?;
    let mut bulk = Bulk::new("prune", bucket.clone(), config.cache.upload_concurrency, config.rate);
    let (mut gone, mut gone_bytes, mut left, mut foreign) = (0, 0, 0, 0);
    let kinds = names::BUILDS.iter().chain(names::PROXIED.iter().filter(|_| config.proxied));
    let listed = kinds.map(|kind| {
        bucket.list(kind, &mut |object| {
            bulk.look(None);
            if !names::is_key(&object.key) {
                foreign += 1;
            } else if object.age.is_none_or(|age| age <= config.expiry) {
                left += 1;
            } else {
                gone += 1;
                gone_bytes += object.len;
                if !config.dry_run {
                    bulk.submit(move |bucket| bucket.delete(&object.key));
                }
            }
        })
    });
    let listed: Result<(), _> = listed.collect();
    let deleted = bulk.finish();
    listed.map_err(|e| failed(&format_args!("{e}; run it again to go on")))?;
    deleted?;
    super::print(&format!(
        "{}: {} {}, {}; {} younger and {} of other names are left\n",
        bucket.target(),
        if config.dry_run { "would remove" } else { "removed" },
        things(gone, "object"),
        bytes(gone_bytes),
        count(left),
        count(foreign),
    ))
}
