//! `push`: what the local cache has goes to the bucket, which may have been added to it later.
//!
//! Invariants: nothing that is there is replaced; what is pushed counts as used neither here nor there; an
//! interrupted push goes on where it was, since what the bucket has is listed first and left out.

use std::collections::HashSet;
use std::fmt::Display;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::bulk::Bulk;
use super::{names, open_bucket};
use crate::cache::ActionSource;
use crate::cache::disk::DiskCache;
use crate::cache::entry::Codec;
use crate::cache::prune::output_of;
use crate::config::{Layout, PushConfig};
use crate::error::{Error, ExitCode};
use crate::folder::{ACTION, Held, MODULE, REVPROXY, each_file, sum_of};
use crate::id::sharded;
use crate::lease::Lease;
use crate::metrics::Metrics;
use crate::store::{BlobStore, Kind};
use crate::text::{bytes, count, things};
use crate::upload::Source;

/// Pushes, and says what was sent.
pub(super) fn execute(config: &PushConfig) -> Result<ExitCode, Error> {
    let PushConfig { cache, bucket: shared, since, unsigned } = config;
    if *unsigned {
        log::warn!("what is pushed is not signed, for there is no --sign: who verifies will not take it");
    }
    let (dir, metrics) = (&cache.cache_dir, Arc::new(Metrics::default()));
    super::of_cache_dir(dir, dir.metadata())?;
    let local = |e: &dyn Display| Error::failed(format!("{}: {e}", dir.display()));
    let bucket = open_bucket(shared, metrics.clone(), None)?;
    let disk = Arc::new(DiskCache::open(dir, Duration::MAX).map_err(|e| local(&e))?);
    // tells whose the temporary files are that it leaves if it is killed
    let lease = Lease::take(dir, Duration::ZERO);
    let (layout, codec) = (shared.layout, Codec::new(cache.compression_level, shared.signer.clone()));
    let actions: Arc<dyn Source> =
        Arc::new(ActionSource { disk: disk.clone(), layout, codec, metrics: metrics.clone() });
    let blobs = |kind| BlobStore::new(kind, dir, None, None, shared.signer.clone(), metrics.clone()).source();
    let entries = if layout == Layout::Single { "v1" } else { ACTION };
    let kinds = [
        (ACTION, entries, actions),
        (MODULE, MODULE, blobs(Kind::Module)),
        (REVPROXY, REVPROXY, blobs(Kind::RevProxy)),
    ];
    let mut all = 0;
    for (folder, ..) in &kinds {
        all += names::held(dir, folder).map_err(|e| local(&e))?.files;
    }
    let mut bulk = Bulk::new("push", bucket.clone(), cache.upload_concurrency, 0);
    let (hash, mut there, mut unused) = (RandomState::new(), 0u64, 0u64);
    let oldest = since.and_then(|age| SystemTime::now().checked_sub(age));
    for (folder, kind, source) in kinds {
        let mut known = HashSet::new();
        let listed = bucket.list(&format!("{kind}/"), &mut |object| known.extend([hash.hash_one(object.key)]));
        if let Err(e) = listed {
            log::debug!("{}: what it has cannot be listed: {e}", bucket.target());
        }
        let walked = each_file(&dir.join(folder), |entry, held| {
            let Held::Id(name) = held else { return };
            bulk.look(Some(all));
            if known.contains(&hash.hash_one(sharded(kind, name))) {
                there += 1;
                return;
            }
            // the file that keeps the time of last use
            let path = entry.path();
            let output = || output_of(&path).map(|output| disk.output_path(&output));
            let Some(keeper) = (if folder == ACTION { output() } else { Some(sum_of(&path)) }) else { return };
            let meta = fs::metadata(&keeper);
            let used = meta.as_ref().ok().and_then(|m| m.modified().ok());
            let small = folder == ACTION && meta.is_ok_and(|m| m.len() < cache.min_upload_size);
            if small || oldest.is_some_and(|oldest| used.is_some_and(|used| used < oldest)) {
                unused += 1;
                return;
            }
            let (source, name) = (source.clone(), name.to_string());
            bulk.submit(move |bucket| {
                let sent = source.upload(&name, None, bucket);
                if folder != ACTION {
                    set_back(&keeper, used);
                }
                sent
            });
        });
        walked.map_err(|e| local(&e))?;
    }
    let done = bulk.finish();
    lease.give_back();
    done?;
    super::print(&format!(
        "{}: sent {}, {}; {} were there, {} left out as too old or too small\n",
        bucket.target(),
        things(metrics.bucket.put_objects.get(), "object"),
        bytes(metrics.bucket.put_bytes.get()),
        count(there + metrics.bucket.present.get()),
        count(unused),
    ))
}

/// Undoes that a look counted as a use.
fn set_back(keeper: &Path, used: Option<SystemTime>) {
    if let Some(used) = used
        && let Ok(file) = fs::File::open(keeper)
    {
        let _ = file.set_modified(used);
    }
}
