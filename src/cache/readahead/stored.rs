//! Reading a manifest from the bucket.

use std::io::Read;

use crate::cache::entry::DecodeError;
use crate::cache::fetch::Fetcher;
use crate::cache::manifest::{self, Manifest};
use crate::remote::{Object, RemoteError};

/// What reading a manifest brought.
pub enum Loading {
    /// It was found.
    Found(Box<Found>),
    /// There is one that cannot be used: its tag, and why.
    Bad(Option<String>, String),
    /// There is none.
    None,
    /// It could not be read, for this reason, and so must not be replaced.
    Failed(String),
}

/// A manifest that was found.
pub struct Found {
    /// The manifest.
    pub manifest: Manifest,
    /// Its tag; empty where it is another's, which puts do not replace.
    pub etag: String,
    /// Bytes read for it.
    pub len: u64,
    /// Its frames, still to be read.
    pub frames: Box<dyn Read + Send>,
}

/// Reads the manifest under `key`. One of our own prefix that cannot be used does not hide the main one's.
pub fn read(fetcher: &Fetcher, key: &str) -> Loading {
    let begin = &manifest::MAGIC[..3];
    match take(fetcher, key, fetcher.bucket.ask(key, begin, false)) {
        (Loading::Bad(etag, why), true) => match take(fetcher, key, fetcher.bucket.ask(key, begin, true)).0 {
            // what is written replaces the bad one
            Loading::Found(found) => Loading::Found(Box::new(Found { etag: etag.unwrap_or_default(), ..*found })),
            _ => Loading::Bad(etag, why),
        },
        (loading, _) => loading,
    }
}

/// What the answer brings, and whether that is of our own prefix.
fn take(fetcher: &Fetcher, key: &str, answer: Result<Option<Object>, RemoteError>) -> (Loading, bool) {
    let mut object = match answer {
        Ok(Some(object)) => object,
        Ok(None) | Err(RemoteError::Forbidden(_)) => return (Loading::None, false),
        Err(e) => return (Loading::Failed(e.to_string()), false),
    };
    let (etag, own_prefix, old) = (object.etag, object.own_prefix, object.old);
    let signer = fetcher.entries.codec.signer();
    let loading = match Manifest::decode(&mut object.body, key, signer, signer.demands(own_prefix)) {
        Ok((mut manifest, len)) => {
            fetcher.renew(key, old, None);
            let of_others = fetcher.bucket.has_write_prefix() && !own_prefix;
            manifest.packs.iter_mut().for_each(|pack| pack.main |= of_others);
            Loading::Found(Box::new(Found { manifest, etag: etag.unwrap_or_default(), len, frames: object.body }))
        }
        Err(DecodeError::Transfer(e)) => Loading::Failed(e.to_string()),
        Err(e) => {
            fetcher.entries.metrics.readahead.manifest_bad.inc();
            Loading::Bad(etag, e.to_string())
        }
    };
    (loading, own_prefix)
}
