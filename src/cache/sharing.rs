//! What a host gives to the fleet: uploaded entries, and the scope's manifest.

use std::fs;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Tier;
use super::disk::Hit;
use super::entry;
use super::fetch::Fetcher;
use super::id::ActionId;
use super::manifest::{self, Manifest, Record};
use super::readahead::{self, Left, Loading};
use crate::config::Layout;
use crate::remote::{Bucket, PutBody, RemoteError};
use crate::upload::Source;

/// The upload queue's name for actions.
pub const ACTION_KIND: &str = "action";

/// Attempts to write a manifest that others keep changing.
const SAVE_ATTEMPTS: usize = 4;

/// Uploads actions with their outputs.
pub struct ActionSource(Arc<Fetcher>);

impl ActionSource {
    /// Uploads from the disk cache of `fetcher`, as its layout and codec say.
    pub fn new(fetcher: Arc<Fetcher>) -> Self {
        ActionSource(fetcher)
    }

    fn send(&self, action: &ActionId, hit: &Hit, bucket: &Bucket) -> Result<(), RemoteError> {
        let host = &self.0.metrics().host;
        match self.0.layout() {
            Layout::Single => {
                // on the root's file system, and outside of what is scanned for entries
                let body = self.0.codec().encode(action, hit, self.0.disk().root())?;
                bucket.put(&entry::single_key(action), &body)?;
                host.put_s3_object.inc();
            }
            Layout::Classic => {
                let key = entry::classic_output_key(&hit.output);
                if bucket.head(&key).is_some_and(|info| info.len == hit.size) {
                    host.put_s3_found.inc();
                } else {
                    bucket.put(&key, &PutBody::File(Arc::new(fs::File::open(&hit.path)?), hit.size))?;
                    host.put_s3_object.inc();
                }
                bucket.put(&entry::classic_action_key(action), &entry::encode_classic_action(hit))?;
            }
        }
        host.put_s3_action.inc();
        Ok(())
    }
}

impl Source for ActionSource {
    fn upload(&self, name: &str, bucket: &Bucket) -> Result<(), RemoteError> {
        // what is gone or damaged, or was never a name of ours, has nothing to be uploaded
        let Some(action) = ActionId::from_hex(name) else { return Ok(()) };
        let Some(hit) = self.0.disk().get(&action)? else { return Ok(()) };
        self.send(&action, &hit, bucket).inspect_err(|_| self.0.metrics().host.put_s3_error.inc())
    }
}

/// Merges `record` into the manifests that `left` names and writes those that it changes.
/// Failures cost the next build some speed and are only logged.
pub fn save_manifests(tier: &Tier, left: Vec<Left>, mut record: Record) {
    for left in left {
        save_manifest(tier, left, &record);
        // the first is the scope's own; what its builds ask for in vain means nothing to others
        record.absent.clear();
    }
}

fn save_manifest(tier: &Tier, left: Left, record: &Record) {
    let fetcher = &tier.fetcher;
    let bucket = fetcher.bucket();
    if record.is_empty() || !bucket.accepts_writes() {
        return;
    }
    let key = &left.key;
    let today = today();
    let know = fetcher.layout() == Layout::Classic;
    let body = |output: &_| fs::read(fetcher.disk().output_path(output)).ok();
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
        let stored = match manifest.encode(key, fetcher.codec().signer()) {
            Ok(stored) => stored,
            Err(e) => return log::warn!("packing the manifest: {e}"),
        };
        let stored = PutBody::Bytes(stored.into());
        match bucket.put_if(key, &stored, Some(etag.as_deref().unwrap_or_default())) {
            Ok(()) => return fetcher.metrics().readahead.manifest_saves.inc(),
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
