//! What servers answer us.

use std::io::Read;

use ureq::http::{Response, Version};

use crate::headers::{self, HeaderMap, first};

/// A server's answer.
pub struct Received {
    /// Status code.
    pub status: u16,
    /// Headers, without those for one hop only.
    pub headers: HeaderMap,
    /// The body as it is sent. A read fails when it breaks off, as far as that can be told.
    pub body: Box<dyn Read + Send>,
    /// Length of the body, where the server tells it; for HEAD, of the body that GET would have.
    pub len: Option<u64>,
    /// Whether the end of the body can be told from the connection breaking off.
    pub framed: bool,
}

impl Received {
    /// What `answer` to a request of this `method` is; the error says why it is none.
    pub fn of(method: &str, answer: Response<ureq::Body>) -> Result<Self, &'static str> {
        let (parts, body) = answer.into_parts();
        let (status, mut headers) = (parts.status.as_u16(), parts.headers);
        let told = first(&headers, "content-length").and_then(|n| n.parse().ok());
        let codings: Vec<_> = headers::list(&headers, "transfer-encoding").map(|c| c.to_ascii_lowercase()).collect();
        let known = match &codings[..] {
            [] => true,
            [one] => (one == "chunked" || one == "identity") && parts.version != Version::HTTP_10,
            _ => false,
        };
        if status < 200 || !known {
            return Err("it answers in another protocol or coding than it was asked in");
        }
        let len = match status {
            204 => Some(0),
            _ if method == "HEAD" => told,
            // of a body that is empty ureq tells no length
            _ => body.content_length().or(told.filter(|len| *len == 0 && codings.is_empty())),
        };
        headers::drop_hop_by_hop(&mut headers);
        let body = body.into_with_config().limit(u64::MAX).reader();
        let framed = len.is_some() || codings.iter().any(|coding| coding == "chunked");
        Ok(Received { status, headers, body: Box::new(body), len, framed })
    }
}
