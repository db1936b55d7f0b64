//! `clear`: empties the local cache, or our names under an explicit prefix of the bucket.
//!
//! Only names that this program writes are touched; the reverse proxy's authority stays.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{names, open_bucket};
use crate::cache::prune;
use crate::cache::size::Size;
use crate::config::{BucketConfig, ClearConfig};
use crate::error::{Error, Exit};
use crate::folder::{FOLDERS, HINTS, Held, each_file, each_in};
use crate::lease::Census;
use crate::text;

/// Clears, and says how much went.
pub(super) fn execute(config: &ClearConfig) -> Result<Exit, Error> {
    match &config.bucket {
        None => local(&config.cache_dir),
        Some(shared) => bucket(shared),
    }
}

fn local(root: &Path) -> Result<Exit, Error> {
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
    Size::set(root, 0).map_err(failed)?;
    super::print(&format!("{}: removed {}, {}\n", root.display(), text::things(files, "file"), text::bytes(bytes)))
}

fn bucket(shared: &BucketConfig) -> Result<Exit, Error> {
    let failed = |e: &dyn std::fmt::Display| Error::failed(format!("bucket: {e}"));
    let bucket = open_bucket(shared, Arc::default(), None)?;
    let mut keys = Vec::new();
    let (mut bytes, mut foreign) = (0, 0u64);
    bucket
        .list("", &mut |object| {
            if names::is_key(&object.key) {
                bytes += object.len;
                keys.push(object.key);
            } else {
                foreign += 1;
            }
        })
        .map_err(|e| failed(&e))?;
    for key in &keys {
        bucket.delete(key).map_err(|e| failed(&format_args!("{key}: {e}")))?;
    }
    super::print(&format!(
        "{}: removed {}, {}; {} of other names are left\n",
        bucket.target(),
        text::things(keys.len() as u64, "object"),
        text::bytes(bytes),
        text::count(foreign),
    ))
}
