//! `pull`: fills the cache directory with what a scope's builds used, before any `go` runs.

use std::env;
use std::time::Instant;

use super::stack::Stack;
use super::{Progress, scope};
use crate::config::Config;
use crate::error::{Error, ExitCode};
use crate::text::{bytes, things};

/// Fetches all that the scope lists; fails where the bucket cannot be asked for all of that, or the directory takes not
/// all of it. What the bucket has lost is no failure.
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
    let mut failed = stack.cache.disk.trouble.happened();
    stack.last_words();
    stack.close();
    let line = match pulled.map_err(|why| Error::failed(format!("pull: {why}")))? {
        None => format!("scope {scope}: the bucket has no list of what it uses; a build of it leaves one"),
        Some((listed, there)) => {
            failed |= there < listed && stack.metrics.bucket.errors.get() > 0;
            format!(
                "scope {scope}: {there} of {} are there; {} fetched in {:.1} s",
                things(listed as u64, "output"),
                bytes(stack.metrics.bucket.get_bytes.get()),
                start.elapsed().as_secs_f64()
            )
        }
    };
    if failed {
        return Err(Error::failed(format!("pull: not all was to be had: {line}")));
    }
    super::print(&format!("{line}\n"))
}
