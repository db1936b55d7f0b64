//! What requests are signed with, and why there is nothing to sign with: below those who ask for
//! keys and those who keep them.

use std::fmt;
use std::time::{Duration, SystemTime};

/// What requests are signed with.
#[derive(Clone, PartialEq)]
pub struct Keys {
    /// The key id.
    pub access: String,
    /// The secret.
    pub secret: String,
    /// The session token, of temporary keys.
    pub token: Option<String>,
    /// When they end.
    pub expires: Option<SystemTime>,
}

impl Keys {
    /// How long they are good for yet; `None` for keys that do not end.
    pub fn left(&self) -> Option<Duration> {
        self.expires.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default())
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({}, …, expires {:?})", self.access, self.expires)
    }
}

/// Why there are no keys.
#[derive(Clone, Debug, PartialEq)]
pub enum CredentialError {
    /// None are configured, or what is configured is wrong or refused: asking again is no use.
    Missing(String),
    /// The source cannot be reached at present.
    Unreachable(String),
}

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CredentialError::Missing(why) | CredentialError::Unreachable(why) => f.write_str(why),
        }
    }
}
