//! Saving what a session used in its scope's manifest.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Tier;
use super::manifest::{self, Manifest, Record};
use super::readahead::{self, Left, Loading};
use crate::config::Layout;
use crate::remote::{PutBody, RemoteError};

/// Attempts to write a manifest that others keep changing.
const SAVE_ATTEMPTS: usize = 4;

/// Merges `record` into the manifests that `left` names and writes those that it changes.
/// Failures cost the next build some speed and are only logged.
pub fn save(tier: &Tier, left: Vec<Left>, mut record: Record) {
    for left in left {
        save_one(tier, left, &record);
        // the first is the scope's own; what its builds ask for in vain means nothing to others
        record.absent.clear();
    }
}

fn save_one(tier: &Tier, left: Left, record: &Record) {
    let fetcher = &tier.fetcher;
    let bucket = &fetcher.bucket;
    if record.is_empty() || !bucket.accepts_writes() {
        return;
    }
    let key = &left.key;
    let today = today();
    let know = fetcher.layout == Layout::Classic;
    let body = |output: &_| fs::read(fetcher.disk.output_path(output)).ok();
    // nothing, where this session changes nothing
    let merged = |mut manifest: Manifest| manifest.merge(record, &left.wasted, today, know, body).then_some(manifest);
    // most sessions change nothing, and need not ask
    let mut ours = None;
    if let Some((base, _)) = &left.base {
        ours = merged(Manifest::clone(base));
        if ours.is_none() {
            return;
        }
    }
    for _ in 0..SAVE_ATTEMPTS {
        // others may have written since we loaded it: merge with what is there now
        let known = left.base.as_ref().map(|(_, etag)| etag.as_str()).filter(|etag| !etag.is_empty());
        let (manifest, etag) = match readahead::read(fetcher, key, known) {
            Loading::Found(manifest, etag, _) => (merged(manifest), Some(etag)),
            Loading::Unchanged => {
                let (base, etag) = left.base.as_ref().expect("only what was loaded can be unchanged");
                (ours.take().or_else(|| merged(Manifest::clone(base))), Some(etag.clone()))
            }
            // one that cannot be used is replaced
            Loading::Bad(_, why) if why == manifest::NEWER => return,
            Loading::Bad(etag, _) => (merged(Manifest::default()), etag),
            Loading::None => (merged(Manifest::default()), None),
            Loading::Failed => return,
        };
        let Some(manifest) = manifest else { return };
        let stored = match manifest.encode(key, fetcher.codec.signer()) {
            Ok(stored) => stored,
            Err(e) => return log::warn!("packing the manifest: {e}"),
        };
        let stored = PutBody::Bytes(stored.into());
        match bucket.put_if(key, &stored, Some(etag.as_deref().unwrap_or_default())) {
            Ok(()) => return fetcher.metrics.readahead.manifest_saves.inc(),
            Err(RemoteError::Precondition) => continue,
            Err(e) => return log::debug!("writing the manifest: {e}"),
        }
    }
    log::debug!("the manifest was changed by others {SAVE_ATTEMPTS} times while it was being written; left as it is");
}

/// Days since 1970.
fn today() -> u16 {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400;
    u16::try_from(days).unwrap_or(u16::MAX)
}
