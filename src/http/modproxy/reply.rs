//! What clients of the module proxy and of the sum databases are told.

use std::fs::File;
use std::time::Duration;

use super::upstream::FetchError;
use crate::http::exchange::{Body, Reply};
use crate::platform::FileExt;
use crate::store::Blob;

/// What a client is told of the outcome: of a `private` module perhaps, which is fresh for `ttl` where it can
/// change.
pub(super) fn reply(
    outcome: Result<Body, FetchError>,
    content_type: &'static str,
    private: bool,
    ttl: Option<Duration>,
) -> Reply {
    match outcome {
        Ok(body) => {
            let who = if private { "private" } else { "public" };
            let cache_control = match ttl {
                None => format!("{who}, max-age=31536000, immutable"),
                Some(ttl) => format!("{who}, max-age={}", ttl.as_secs()),
            };
            let reply = Reply::status(200).header("Content-Type", content_type);
            reply.header("Cache-Control", cache_control).body(body)
        }
        // go tries its next proxy after 404 and 410, and stops after others
        Err(FetchError::Absent(status, why) | FetchError::Failed(status, why) | FetchError::Refused(status, why)) => {
            refusal(status, format!("{why}\n"))
        }
    }
}

impl From<Blob> for Body {
    fn from(blob: Blob) -> Self {
        Body::File(blob.file, 0, blob.len)
    }
}

pub(super) fn refusal(status: u16, text: impl Into<String>) -> Reply {
    Reply::text(status, text).header("Cache-Control", "no-store").header("X-Content-Type-Options", "nosniff")
}

/// The whole file, whose size was limited as it was fetched, and which has to be text. Others may be reading it.
pub(crate) fn text(file: &File) -> Result<String, String> {
    let read = file.metadata().and_then(|meta| {
        let mut bytes = vec![0; meta.len() as usize];
        file.read_exact_at(&mut bytes, 0).map(|()| bytes)
    });
    String::from_utf8(read.map_err(|e| e.to_string())?).map_err(|_| "it is no text".into())
}
