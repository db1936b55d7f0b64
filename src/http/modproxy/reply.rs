//! What clients of the module proxy and of the sum databases are told.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use super::depot::Found;
use super::upstream::FetchError;
use super::verify::UNVERIFIED;
use crate::http::exchange::{Body, Reply};
use crate::platform::FileExt;

/// What an answer is, and how long others may keep it.
pub(super) struct Caching {
    pub(super) content_type: &'static str,
    /// Whether it is of a private module.
    pub(super) private: bool,
    /// How long it is fresh, where it can change.
    pub(super) ttl: Option<Duration>,
}

/// What a client is told of the outcome.
pub(super) fn reply(outcome: Result<impl Into<Body>, FetchError>, caching: Caching) -> Reply {
    match outcome {
        Ok(body) => {
            let who = if caching.private { "private" } else { "public" };
            let cache_control = match caching.ttl {
                None => format!("{who}, max-age=31536000, immutable"),
                Some(ttl) => format!("{who}, max-age={}", ttl.as_secs()),
            };
            let reply = Reply::status(200).header("Content-Type", caching.content_type);
            reply.header("Cache-Control", cache_control).body(body.into())
        }
        // go tries its next proxy after 404 and 410, and stops after others
        Err(FetchError::Absent(status, why) | FetchError::Failed(status, why) | FetchError::Refused(status, why)) => {
            refusal(status, format!("{why}\n"))
        }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Body::Bytes(bytes)
    }
}

impl From<Found> for Body {
    fn from(found: Found) -> Self {
        Body::File(found.blob.file, 0, found.blob.len)
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

impl Found {
    /// Whether nobody has vouched for it yet.
    pub fn is_unverified(&self) -> bool {
        self.blob.note == UNVERIFIED
    }

    /// All of it, which has to be text.
    pub fn text(&self) -> Result<String, String> {
        let mut bytes = vec![0; self.blob.len as usize];
        self.blob.file.read_exact_at(&mut bytes, 0).map_err(|e| e.to_string())?;
        String::from_utf8(bytes).map_err(|_| "it is no text".into())
    }
}
