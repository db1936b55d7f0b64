//! `prune`: applies the limits to the local cache now.

use std::time::SystemTime;

use super::stack;
use crate::cache::prune::{self, Limits};
use crate::config::Config;
use crate::error::{Error, Exit};
use crate::text;

/// Prunes, and says what went.
pub(super) fn execute(config: &Config) -> Result<Exit, Error> {
    let now = SystemTime::now();
    let granularity = stack::granularity(config.expiry);
    let limits = Limits { expiry: config.expiry, max_size: config.max_size, keep_since: now, granularity };
    let report = prune::prune(&config.cache_dir, &limits, now)
        .map_err(|e| Error::failed(format!("{}: {e}", config.cache_dir.display())))?;
    super::print(&format!(
        "removed {} outputs ({}) and {} actions; {} outputs ({}) are left\n",
        text::count(report.removed_outputs),
        text::bytes(report.removed_bytes),
        text::count(report.removed_actions),
        text::count(report.outputs),
        text::bytes(report.bytes),
    ))
}
