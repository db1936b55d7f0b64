//! Reading a manifest from the bucket.

use std::io::Read;

use crate::cache::fetch::Fetcher;
use crate::cache::manifest::{self, Manifest};
use crate::remote::RemoteError;

/// What reading a manifest brought.
pub enum Loading {
    /// The manifest, its tag, and its length as stored.
    Found(Manifest, String, u64),
    /// It still has the tag asked about.
    Unchanged,
    /// There is one that cannot be used: its tag, and why.
    Bad(Option<String>, String),
    /// There is none.
    None,
    /// It could not be read, and so must not be replaced.
    Failed,
}

/// Reads the manifest under `key`, unless it still has the tag `known`.
pub fn read(fetcher: &Fetcher, key: &str, known: Option<&str>) -> Loading {
    let object = match fetcher.bucket().ask(key, known) {
        Ok(Some(object)) => object,
        Ok(None) | Err(RemoteError::Forbidden(_)) => return Loading::None,
        Err(RemoteError::NotModified) => return Loading::Unchanged,
        Err(_) => return Loading::Failed,
    };
    let etag = object.etag;
    let mut stored = Vec::new();
    if let Err(e) = object.body.take(manifest::MAX_STORED + 1).read_to_end(&mut stored) {
        log::debug!("reading the manifest: {e}");
        return Loading::Failed;
    }
    let decoded = if stored.len() as u64 > manifest::MAX_STORED {
        Err(format!("longer than {} bytes", manifest::MAX_STORED))
    } else {
        Manifest::decode(&stored, key, fetcher.codec().signer())
    };
    match decoded {
        Ok(manifest) => Loading::Found(manifest, etag.unwrap_or_default(), stored.len() as u64),
        Err(why) => {
            fetcher.metrics().readahead.manifest_bad.inc();
            Loading::Bad(etag, why)
        }
    }
}
