//! `clear`: empties the local cache, or what lies below an explicit prefix of the bucket, whatever prefixes
//! are in there.
//!
//! Only names that this program writes are touched; the reverse proxy's authority stays.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use super::bulk::{Bulk, Removal};
use super::{names, open_bucket};
use crate::cache::prune;
use crate::cache::size::Size;
use crate::config::{BucketConfig, ClearConfig};
use crate::error::{Error, ExitCode};
use crate::folder::{FOLDERS, HINTS, Held, each_file, each_in};
use crate::lease::Census;
use crate::text;

/// Objects that are removed at a time.
const AT_A_TIME: usize = 16;

/// Clears, and says how much went.
pub(super) fn execute(config: &ClearConfig) -> Result<ExitCode, Error> {
    match &config.bucket {
        None => local(&config.cache_dir),
        Some(shared) => bucket(shared, config.ask),
    }
}

fn local(root: &Path) -> Result<ExitCode, Error> {
    let failed = |e: io::Error| Error::failed(format!("{}: {e}", root.display()));
    let (mut files, mut bytes) = (0, 0);
    let census = Census::take(root).map_err(failed)?;
    for folder in FOLDERS.into_iter().chain(HINTS) {
        each_file(&root.join(folder), |entry, held| {
            if matches!(held, Held::Temp(_)) {
                return prune::sweep_one(entry, held, &census);
            }
            let len = entry.metadata().map_or(0, |m| m.len());
            if fs::remove_file(entry.path()).is_ok() {
                files += 1;
                bytes += len;
            }
        })
        .map_err(failed)?;
    }
    each_in(root, |entry, held| prune::sweep_one(entry, held, &census)).map_err(failed)?;
    // no directory is made to say that it is empty
    if root.exists() {
        Size::set(root, 0).map_err(|e| Error::failed(e.to_string()))?;
    }
    super::print(&format!("{}: removed {}, {}\n", root.display(), text::things(files, "file"), text::bytes(bytes)))
}

/// When it is stopped, the next one goes on with what is left.
fn bucket(shared: &BucketConfig, ask: bool) -> Result<ExitCode, Error> {
    let bucket = open_bucket(shared, Arc::default(), None)?;
    let walk = |count_only| {
        let bulk = Bulk::new("clear", bucket.clone(), AT_A_TIME, 0);
        bulk.removal(&[""], count_only, |object| names::ends_with_key(&object.key).then_some(true))
    };
    if ask && io::stdin().is_terminal() && io::stderr().is_terminal() {
        let Removal { gone, bytes, .. } = walk(true)?;
        let (things, bytes) = (text::things(gone, "object"), text::bytes(bytes));
        let _ = write!(io::stderr(), "{}: remove {things}, {bytes}? [y/N] ", bucket.target());
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map_err(|e| Error::failed(format!("clear: {e}")))?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Err(Error::failed("clear: nothing was removed"));
        }
    }
    let Removal { gone, bytes, others, .. } = walk(false)?;
    super::print(&format!(
        "{}: removed {}, {}; {} of other names are left\n",
        bucket.target(),
        text::things(gone, "object"),
        text::bytes(bytes),
        text::count(others),
    ))
}
