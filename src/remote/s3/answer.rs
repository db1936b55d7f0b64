//! What answers that carry no object say: statuses, error codes, hints.

use std::io::Read;

use super::address::Place;
use super::xml;
use crate::client::Received;
use crate::headers::{HeaderMap, first};
use crate::remote::RemoteError;

/// Longest error text that is read; a longer one costs its connection.
const ERROR_LIMIT: u64 = 64 * 1024;

/// The codes, with 400 or 403, that blame credentials rather than what they may do.
const KEYS: [&str; 12] = [
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "InvalidTokenId",
    "InvalidClientTokenId", "TokenRefreshRequired", "RequestExpired", "RequestTimeTooSkewed", "InvalidSecurity",
    "NotSignedUp", "AccountProblem",
];

/// An answer that is no success, read to its end so that its connection is used again.
pub struct Failed {
    status: u16,
    headers: HeaderMap,
    /// The body, as far as it is read.
    pub text: String,
}

impl Failed {
    /// Reads the answer's body, as much as is reasonable.
    pub fn read(answer: Received) -> Self {
        let mut bytes = Vec::new();
        // whatever came is better than nothing: the status decides
        let _ = answer.body.take(ERROR_LIMIT).read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Failed { status: answer.status, headers: answer.headers, text }
    }

    fn code(&self) -> String {
        xml::text(&self.text, "Code").unwrap_or_default()
    }

    /// The bucket's region, where the answer tells one other than was asked in.
    pub fn region_hint(&self, asked: &Place) -> Option<String> {
        if !matches!(self.status, 301 | 307 | 400 | 403) {
            return None;
        }
        let told = first(&self.headers, "x-amz-bucket-region").map(str::to_string);
        let told = told.or_else(|| xml::text(&self.text, "Region"))?;
        (!told.is_empty() && told != asked.region.to_string()).then_some(told)
    }

    /// Whether it blames the credentials.
    fn blames_keys(&self) -> bool {
        self.status == 401 || matches!(self.status, 400 | 403) && KEYS.contains(&self.code().as_str())
    }

    /// Whether other credentials may help; the answer to a HEAD says no more than that something is
    /// wrong with the request.
    pub fn may_blame_keys(&self, method: &str) -> bool {
        self.blames_keys() || method == "HEAD" && self.status == 400
    }

    /// What this means to the rest of the program.
    pub fn into_error(self) -> RemoteError {
        let (status, code) = (self.status, self.code());
        let words = match xml::text(&self.text, "Message") {
            Some(message) => format!("{code}: {}", one_line(&message)),
            None if !code.is_empty() => code.clone(),
            None if self.status < 300 && first(&self.headers, "etag").is_none() => {
                format!("not an answer of S3's, which has an ETag: {}", one_line(self.text.trim()))
            }
            None if self.is_foreign() => format!("not an answer of S3's: {}", one_line(self.text.trim())),
            None => one_line(self.text.trim()),
        };
        let words = words.trim_end_matches(": ").to_string();
        let full = || format!("status {status}: {words}").trim_end_matches(": ").to_string();
        match (status, code.as_str()) {
            (404, "NoSuchBucket") => RemoteError::Config(format!("there is no such bucket ({})", full())),
            _ if self.blames_keys() => RemoteError::Denied(full()),
            (403, _) => RemoteError::Forbidden(full()),
            _ => RemoteError::Status(status, words),
        }
    }

    /// Whether it is a page of somebody else's: S3 says nothing with a success or a 404, or XML.
    fn is_foreign(&self) -> bool {
        self.code().is_empty() && (self.status < 300 || self.status == 404 && !self.text.trim().is_empty())
    }
}

/// Whether a success with an object, or its acknowledgement, is S3's: those have an entity tag, and
/// are no page.
pub fn is_genuine(answer: &Received) -> bool {
    !is_page(answer) && first(&answer.headers, "etag").is_some_and(|tag| !tag.is_empty())
}

/// Whether it is a page, of somebody else's or with an error.
pub fn is_page(answer: &Received) -> bool {
    let kind = first(&answer.headers, "content-type").unwrap_or_default().to_ascii_lowercase();
    // where there is no content, its type says nothing
    answer.len != Some(0) && ["text/html", "application/xml", "text/xml"].iter().any(|page| kind.starts_with(page))
}

/// A 404: no object, or no bucket.
pub fn absent<T>(answer: Received) -> Result<Option<T>, RemoteError> {
    absent_text(Failed::read(answer))
}

/// As [`absent`], of one that was read.
pub fn absent_text<T>(failed: Failed) -> Result<Option<T>, RemoteError> {
    let foreign = failed.is_foreign();
    match failed.into_error() {
        RemoteError::Status(404, _) if !foreign => Ok(None),
        e => Err(e),
    }
}

/// Text from elsewhere, fit for a log line.
fn one_line(text: &str) -> String {
    text.chars().take(120).map(|c| if c.is_control() || c == char::REPLACEMENT_CHARACTER { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::address::Address;
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let failed = |status: u16, text: &str| Failed { status, headers: HeaderMap::new(), text: text.into() };
        let error = |status, code: &str| {
            failed(status, &format!("<Error><Code>{code}</Code><Message>m\nn</Message></Error>")).into_error()
        };
        assert!(matches!(error(404, "NoSuchBucket"), RemoteError::Config(_)));
        assert!(
            matches!(error(403, "SignatureDoesNotMatch"), RemoteError::Denied(w) if w == "status 403: SignatureDoesNotMatch: m n")
        );
        assert!(matches!(error(400, "ExpiredToken"), RemoteError::Denied(_)));
        assert!(matches!(error(403, "AccessDenied"), RemoteError::Forbidden(_)));
        assert!(matches!(error(503, "SlowDown"), RemoteError::Status(503, _)));
        let address = Address::new(&"some".parse().unwrap(), None, false);
        let place = address.place(&"us-east-1".parse().unwrap()).unwrap();
        let text = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>";
        assert_eq!(failed(400, text).region_hint(&place).as_deref(), Some("eu-west-1"));
        assert_eq!(failed(500, text).region_hint(&place), None);
        assert_eq!(failed(400, &text.replace("eu-west-1", "us-east-1")).region_hint(&place), None);
    }
}
