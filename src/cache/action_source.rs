//! Actions with their outputs as entries of a bucket, and their uploading.

use std::sync::Arc;

use super::disk::{DiskCache, Hit};
use super::entry::{self, Codec};
use super::id::{ActionId, OutputId};
use crate::config::Layout;
use crate::metrics::Metrics;
use crate::remote::{Bucket, RemoteError};
use crate::upload::Source;

/// What entries are made of, and made into; uploads them.
pub struct ActionSource {
    /// Where they are.
    pub disk: Arc<DiskCache>,
    /// The layout of their objects.
    pub layout: Layout,
    /// Their codec.
    pub codec: Codec,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl ActionSource {
    /// Puts an entry, on this condition where there is one.
    fn send(&self, action: &ActionId, hit: &Hit, bucket: &Bucket, if_match: Option<&str>) -> Result<(), RemoteError> {
        let host = &self.metrics.host;
        match self.layout {
            Layout::Single => {
                // on the root's file system, and outside of what is scanned for entries
                let body = self.codec.encode(action, hit, self.disk.root())?;
                bucket.put_if(&entry::single_key(action), &body, if_match, None)?;
            }
            Layout::Classic => {
                let key = entry::classic_output_key(&hit.output);
                let (output, said, signature) = self.codec.encode_classic(action, hit)?;
                // whatever is there: it may be damaged
                bucket.put(&key, &output)?;
                bucket.put_if(&entry::classic_action_key(action), &said, if_match, signature.as_deref())?;
            }
        }
        host.put_s3_object.inc();
        host.put_s3_action.inc();
        Ok(())
    }
}

impl Source for ActionSource {
    fn upload(&self, name: &str, value: Option<OutputId>, bucket: &Bucket) -> Result<(), RemoteError> {
        // what is gone or damaged, or was never a name of ours, has nothing to be uploaded
        let Some(action) = ActionId::from_hex(name) else { return Ok(()) };
        let (mut hit, mut if_match) = (self.disk.get(&action)?, None);
        if let Some(value) = value.filter(|value| hit.as_ref().is_none_or(|hit| hit.output != *value)) {
            // what was put since then is owed by itself, maybe elsewhere: this replaces nothing
            (hit, if_match) = (self.disk.output(&value)?, Some(""));
        }
        let Some(hit) = hit else { return Ok(()) };
        match self.send(&action, &hit, bucket, if_match) {
            Err(RemoteError::Precondition) => Ok(()),
            // it was damaged, and removed, or is gone for another reason
            Err(_) if hit.path.try_exists().is_ok_and(|there| !there) => Ok(()),
            sent => sent.inspect_err(|_| self.metrics.host.put_s3_error.inc()),
        }
    }
}
