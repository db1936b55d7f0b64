//! What can go wrong between us and a bucket.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::client::is_disconnect;
use crate::retry::Failure;

/// A failed request to a bucket.
#[derive(Debug)]
pub enum RemoteError {
    /// Nothing was sent: the bucket is left alone for a while; the text says why.
    Off(String),
    /// The object is not, or no longer, what `if_match` asked for (conditional put).
    Precondition,
    /// The bucket may not be written: `--read-only`.
    ReadOnly,
    /// No usable credentials, or the bucket refuses them: no request will succeed.
    Denied(String),
    /// The credentials are good but lack a permission for this request (403), or a directory
    /// cannot be written. A get of an absent object is answered so where they lack s3:ListBucket.
    Forbidden(String),
    /// Any other status that is not a success, or a success that is no answer of S3's; status and
    /// a short text from the answer.
    Status(u16, String),
    /// Connecting, sending or receiving failed, time-outs included.
    Io(io::Error),
    /// It was answered, but so late that it does more harm than good.
    Late(Duration),
    /// The backend does not do this at all; the text is its answer.
    Unsupported(String),
    /// The bucket's name, region or endpoint cannot be used.
    Config(String),
}

impl RemoteError {
    /// Whether the bucket, or the lack of one or of credentials, says no.
    pub fn is_refusal(&self) -> bool {
        matches!(self, RemoteError::Denied(_) | RemoteError::Forbidden(_) | RemoteError::Config(_))
    }

    /// What [`crate::retry`] makes of it.
    pub fn failure(&self) -> Failure {
        use io::ErrorKind as Kind;
        match self {
            RemoteError::Io(e) if is_disconnect(e) => Failure::ConnectionLost,
            RemoteError::Io(e) => match e.kind() {
                // of our own making: a key, a local file
                Kind::InvalidInput => Failure::Fatal,
                Kind::TimedOut | Kind::WouldBlock => Failure::TimedOut,
                _ => Failure::Unreachable,
            },
            RemoteError::Status(408 | 429 | 500 | 502 | 503 | 504, _) => Failure::Busy,
            _ => Failure::Fatal,
        }
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RemoteError::Off(why) => write!(f, "not sent, the bucket is left alone for a while: {why}"),
            RemoteError::Precondition => f.write_str("changed by another writer"),
            RemoteError::ReadOnly => f.write_str("the bucket is used read-only"),
            RemoteError::Denied(why)
            | RemoteError::Forbidden(why)
            | RemoteError::Unsupported(why)
            | RemoteError::Config(why) => f.write_str(why),
            RemoteError::Status(code, text) if text.is_empty() => write!(f, "status {code}"),
            RemoteError::Status(code, text) => write!(f, "status {code}: {text}"),
            RemoteError::Io(e) => e.fmt(f),
            RemoteError::Late(took) => write!(f, "it is slow: an answer took {:.1} s", took.as_secs_f64()),
        }
    }
}

impl std::error::Error for RemoteError {}

impl From<io::Error> for RemoteError {
    fn from(e: io::Error) -> Self {
        RemoteError::Io(e)
    }
}
