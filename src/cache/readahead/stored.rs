//! Reading a manifest from the bucket.

use std::io::Read;

use crate::cache::fetch::Fetcher;
use crate::cache::manifest::{self, Manifest};
use crate::remote::{Object, RemoteError};

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

/// Reads the manifest under `key`, unless it still has the tag `known`. One of our own prefix that
/// cannot be used does not hide the main one's.
pub fn read(fetcher: &Fetcher, key: &str, known: Option<&str>) -> Loading {
    match take(fetcher, key, fetcher.bucket.ask(key, known)) {
        (Loading::Bad(etag, why), true) => match take(fetcher, key, fetcher.bucket.ask_main(key)).0 {
            // what is written replaces the bad one
            Loading::Found(manifest, _, len) => Loading::Found(manifest, etag.unwrap_or_default(), len),
            _ => Loading::Bad(etag, why),
        },
        (loading, _) => loading,
    }
}

/// What the answer brings, and whether that is of our own prefix.
fn take(fetcher: &Fetcher, key: &str, answer: Result<Option<Object>, RemoteError>) -> (Loading, bool) {
    let object = match answer {
        Ok(Some(object)) => object,
        Ok(None) | Err(RemoteError::Forbidden(_)) => return (Loading::None, false),
        Err(RemoteError::NotModified) => return (Loading::Unchanged, false),
        Err(_) => return (Loading::Failed, false),
    };
    let (etag, own_prefix) = (object.etag, object.own_prefix);
    let mut stored = Vec::new();
    if let Err(e) = object.body.take(manifest::MAX_STORED + 1).read_to_end(&mut stored) {
        log::debug!("reading the manifest: {e}");
        return (Loading::Failed, own_prefix);
    }
    let signer = fetcher.codec.signer();
    let decoded = if stored.len() as u64 > manifest::MAX_STORED {
        Err(format!("longer than {} bytes", manifest::MAX_STORED).into())
    } else {
        Manifest::decode(&stored, key, signer, signer.demands(own_prefix))
    };
    let loading = match decoded {
        Ok(manifest) => Loading::Found(manifest, etag.unwrap_or_default(), stored.len() as u64),
        Err(e) => {
            fetcher.metrics.readahead.manifest_bad.inc();
            Loading::Bad(etag, e.to_string())
        }
    };
    (loading, own_prefix)
}
