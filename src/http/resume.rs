//! Bodies that go on where they broke off, from a server that takes ranges: the same bytes, as far as what it says of
//! them is the same.

use std::io::{self, ErrorKind, Read};

use crate::client::Received;
use crate::headers::{HeaderMap, first};

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
