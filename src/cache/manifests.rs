//! Saving what a session used in its scope's manifest, and the small outputs in its packs.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use super::Tier;
use super::id::ActionId;
use super::manifest::{self, Manifest, Used};
use super::packing;
use super::readahead::{self, Left, Listed, Loading};
use super::refresh::today;
use crate::config::Layout;
use crate::pool;
use crate::remote::{PutBody, RemoteError};

/// Attempts to write a manifest that others keep changing.
const SAVE_ATTEMPTS: usize = 4;

/// Merges what was `used` into the manifests that `left` names and writes those that it changes enough.
/// Failures cost the next build some speed and are only logged.
pub fn save(tier: &Tier, left: Vec<Left>, mut used: Vec<Used>) {
    for used in &mut used {
        let since = |action: ActionId| tier.fetcher.young_since(&action, used.output);
        used.young_since = ActionId::new(&used.action).and_then(since);
    }
    if !used.is_empty() {
        pool::each("save", 2, left, |left| save_one(tier, left, &used));
    }
}

fn save_one(tier: &Tier, left: Left, used: &[Used]) {
    let fetcher = &tier.fetcher;
    let bucket = &fetcher.bucket;
    if !bucket.accepts_writes() {
        return;
    }
    let key = &left.key;
    let today = today();
    let know = fetcher.entries.layout == Layout::Classic;
    // nothing, where this session changes little
    let misplaced: HashSet<&[u8; 32]> = left.misplaced.iter().collect();
    let merged = |mut manifest: Manifest| {
        let wrong = manifest.entries.iter_mut().filter(|entry| misplaced.contains(&entry.action));
        wrong.for_each(|entry| entry.place = None);
        manifest.merge(used, &left.wasted, today, know).then_some(manifest)
    };
    // most sessions do not, and need not ask
    let mut ours = None;
    if let Some(base) = &left.base {
        ours = merged(base.manifest.clone());
        if ours.is_none() {
            return;
        }
    }
    let sent = Mutex::default();
    for _ in 0..SAVE_ATTEMPTS {
        // others may have written since we loaded it: merge with what is there now
        let is_there = |base: &&Arc<Listed>| {
            !base.etag.is_empty() && matches!(bucket.head(key), Ok(Some(head)) if head.etag == base.etag)
        };
        let (manifest, etag) = match left.base.as_ref().filter(is_there) {
            Some(base) => (ours.take().or_else(|| merged(base.manifest.clone())), Some(base.etag.clone())),
            None => match readahead::read(fetcher, key) {
                Loading::Found(found) => (merged(found.manifest), Some(found.etag)),
                // one that cannot be used is replaced
                Loading::Bad(_, why) if why == manifest::NEWER => return,
                Loading::Bad(etag, _) => (merged(Manifest::default()), etag),
                Loading::None => (merged(Manifest::default()), None),
                Loading::Failed(_) => return,
            },
        };
        let Some(mut manifest) = manifest else { return };
        let before = manifest.packs.clone();
        let frames = packing::pack(&mut manifest, fetcher, key, &sent);
        let stored = match manifest.encode(&frames, key, fetcher.entries.codec.signer()) {
            Ok(stored) => PutBody::Bytes(stored.into()),
            Err(e) => return log::warn!("packing the manifest: {e}"),
        };
        match bucket.put_if(key, &stored, Some(etag.as_deref().unwrap_or_default()), None) {
            Ok(()) => {
                fetcher.entries.metrics.readahead.manifest_saves.inc();
                let sent = sent.into_inner().unwrap_or_default();
                let ours = before.into_iter().filter(|pack| !pack.main).map(|pack| pack.id).chain(sent);
                let named = |id: &_| manifest.packs.iter().any(|pack| pack.id == *id);
                return packing::remove(bucket, key, ours.filter(|id| !named(id)));
            }
            Err(RemoteError::Precondition) => continue,
            Err(e) => return log::debug!("writing the manifest: {e}"),
        }
    }
    log::debug!("the manifest was changed by others {SAVE_ATTEMPTS} times while it was being written; left as it is");
}
