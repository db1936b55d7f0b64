//! What clients of the module proxy and of the sum databases are told.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use crate::http::exchange::{Body, Reply};
use crate::http::upstream::FetchError;
use crate::store::Blob;

/// How long others may keep an answer.
pub(super) struct Caching {
    /// Whether it is of a private module.
    pub(super) private: bool,
    /// How long it is fresh, where it can change.
    pub(super) ttl: Option<Duration>,
}

/// What a client is told of the outcome.
pub(super) fn reply(outcome: Result<Blob, FetchError>, content_type: &str, caching: Caching) -> Reply {
    match outcome {
        Ok(blob) => {
            let who = if caching.private { "private" } else { "public" };
            let cache_control = match caching.ttl {
                None => format!("{who}, max-age=31536000, immutable"),
                Some(ttl) => format!("{who}, max-age={}", ttl.as_secs()),
            };
            Reply::status(200)
                .header("Content-Type", content_type)
                .header("Cache-Control", cache_control)
                .body(Body::File(blob.file, blob.len))
        }
        // go tries its next proxy after these, and stops after others
        Err(FetchError::Absent(status, why)) => refusal(status, format!("{why}\n")),
        Err(FetchError::Failed(status, why)) => refusal(status, format!("{why}\n")),
    }
}

pub(super) fn refusal(status: u16, text: impl Into<String>) -> Reply {
    Reply::text(status, text).header("Cache-Control", "no-store").header("X-Content-Type-Options", "nosniff")
}

/// The whole file, whose size was limited as it was fetched.
pub(super) fn text(mut file: &File) -> Result<String, String> {
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|e| e.to_string())?;
    Ok(text)
}
