//! What servers answer us; and bodies that go on where they broke off, from a server that takes ranges: the same
//! bytes, as far as what it says of them is the same.

use std::io::{self, ErrorKind, Read};

use ureq::http::{Response, Version};

use super::headers::{self, HeaderMap, first};

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

/// Times that one body is asked for again.
const TRIES: u32 = 5;

/// What an answer says of its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Its length in bytes.
    pub len: Option<u64>,
    /// ETag, or nothing.
    pub etag: String,
    /// Last-Modified, or nothing.
    pub modified: String,
}

impl Whole {
    /// The body of `len` bytes that these headers speak of.
    pub fn of(headers: &HeaderMap, len: Option<u64>) -> Self {
        let text = |name| first(headers, name).unwrap_or_default().to_string();
        Whole { len, etag: text("etag"), modified: text("last-modified") }
    }

    /// What a part of the same body may be asked for by; empty where there is nothing.
    pub fn validator(&self) -> &str {
        [&self.etag, &self.modified].into_iter().find(|v| !v.is_empty() && !v.starts_with("W/")).map_or("", |v| v)
    }
}

/// The stream: it ends at its length, or with an error.
pub struct Resumed<F> {
    body: Box<dyn Read + Send>,
    whole: Whole,
    got: u64,
    /// What the last attempt began with.
    begun: u64,
    tries: u32,
    /// Asks for a range, of what has that validator.
    ask: F,
}

impl<F: FnMut(&str, &str) -> Result<Received, String>> Resumed<F> {
    /// `body`, which is as `whole` says; what is left of it is asked for by `ask`, where it `may` be.
    pub fn new(body: Box<dyn Read + Send>, whole: Whole, may: bool, ask: F) -> Self {
        Resumed { body, whole, got: 0, begun: 0, tries: if may { TRIES } else { 0 }, ask }
    }

    /// The rest of the body; the error says why it is not to be had.
    fn rest(&mut self) -> Result<Box<dyn Read + Send>, String> {
        let Received { status, headers, len, mut body, .. } =
            (self.ask)(&format!("bytes={}-", self.got), self.whole.validator())?;
        let whole = self.whole.len.unwrap_or_default();
        let part = format!("bytes {}-{}/{whole}", self.got, whole.saturating_sub(1));
        // whoever heeds the validator says it again; who does not may have another body of that length
        let now = Whole::of(&headers, self.whole.len);
        let same = now.etag == self.whole.etag && (now.modified.is_empty() || now.modified == self.whole.modified);
        match status {
            206 if same && first(&headers, "content-range") == Some(&part) => Ok(body),
            200 if Whole::of(&headers, len) == self.whole => {
                let skipped = io::copy(&mut (&mut body).take(self.got), &mut io::sink());
                skipped.map(|_| body).map_err(|e| e.to_string())
            }
            _ => Err(format!("status {status}")),
        }
    }
}

impl<F: FnMut(&str, &str) -> Result<Received, String>> Read for Resumed<F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let why = match (self.body.read(buf), self.whole.len) {
                (Ok(n), len) if n > 0 || buf.is_empty() || len.is_none_or(|len| self.got >= len) => {
                    self.got += n as u64;
                    return Ok(n);
                }
                (Err(e), _) if e.kind() == ErrorKind::Interrupted => return Err(e),
                (Ok(_), len) => format!("{} of {} bytes", self.got, len.unwrap_or_default()),
                (Err(e), _) => format!("broke off after {} bytes: {e}", self.got),
            };
            let broken = |why: String| io::Error::new(ErrorKind::UnexpectedEof, why);
            // an attempt that brought nothing is the last
            if self.tries == 0 || self.got == self.begun {
                return Err(broken(why));
            }
            (self.begun, self.tries) = (self.got, self.tries - 1);
            match self.rest() {
                Ok(body) => self.body = body,
                Err(then) => {
                    self.tries = 0;
                    return Err(broken(format!("{why}, then {then}")));
                }
            }
        }
    }
}
