//! `prune`: applies the limits to the local cache now. Only what live sessions may use is spared.

use super::stack;
use crate::cache::prune;
use crate::cache::size::Size;
use crate::config::Config;
use crate::error::{Error, Exit};
use crate::lease::{Census, prune_turn};

/// Prunes, and says what went and what was spared.
pub(super) fn execute(config: &Config) -> Result<Exit, Error> {
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
