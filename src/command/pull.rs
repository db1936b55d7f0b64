//! `pull`: fills the cache directory with what a scope's builds used, before any `go` runs.

use std::env;
use std::time::Instant;

use super::stack::Stack;
use super::{Progress, scope};
use crate::config::Config;
use crate::error::{Error, ExitCode};
use crate::text::{bytes, things};

/// Fetches all that the scope lists; fails where the bucket cannot be asked, or the directory takes not all of it.
pub(super) fn execute(config: &Config) -> Result<ExitCode, Error> {
    let start = Instant::now();
    let stack = Stack::open(config)?;
    let tier = stack.cache.tier.as_ref().ok_or_else(|| Error::usage("pull needs a bucket: give --bucket"))?;
    let scope = scope::resolve(config.scope.as_deref(), &env::current_dir().unwrap_or_default());
    let readahead = tier.readahead(&scope);
    let progress = Progress::new("part");
    let pulled = readahead.pull(|done, all| progress.tell(done, all));
    drop(progress);
    readahead.close();
    let kept = !stack.cache.disk.trouble.happened();
    stack.last_words();
    stack.close();
    let line = match pulled.map_err(|why| Error::failed(format!("pull: {why}: cannot be asked")))? {
        None => format!("scope {scope}: the bucket has no list of what it uses; a build of it leaves one"),
        Some((listed, there)) => format!(
            "scope {scope}: {there} of {} are there; {} fetched in {:.1} s",
            things(listed as u64, "output"),
            bytes(stack.metrics.bucket.get_bytes.get()),
            start.elapsed().as_secs_f64()
        ),
    };
    if kept {
        super::print(&format!("{line}\n"))
    } else {
        Err(Error::failed(format!("pull: not all was kept: {line}")))
    }
}
