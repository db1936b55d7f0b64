//! Actions with their outputs as entries of a bucket, and their uploading.

use std::io;
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
    fn send(&self, action: &ActionId, hit: &Hit, bucket: &Bucket) -> Result<(), RemoteError> {
        let host = &self.metrics.host;
        match self.layout {
            Layout::Single => {
                // on the root's file system, and outside of what is scanned for entries
                let body = self.codec.encode(action, hit, self.disk.root())?;
                bucket.put(&entry::single_key(action), &body)?;
            }
            Layout::Classic => {
                let key = entry::classic_output_key(&hit.output);
                let (output, said, signature) = self.codec.encode_classic(action, hit)?;
                // whatever is there: it may be damaged
                bucket.put(&key, &output)?;
                bucket.put_if(&entry::classic_action_key(action), &said, None, signature.as_deref())?;
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
        let hit = self.disk.get(&action)?.filter(|hit| value.is_none_or(|value| value == hit.output));
        let Some(hit) = hit else { return Ok(()) };
        match self.send(&action, &hit, bucket) {
            // damaged, and removed
            Err(RemoteError::Io(e)) if e.kind() == io::ErrorKind::InvalidData => Ok(()),
            sent => sent.inspect_err(|_| self.metrics.host.put_s3_error.inc()),
        }
    }
}
