//! HTTP as the bench's S3 server needs it: requests from bytes, answers as values.

use std::io::{self, Read};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;

/// What is read and written at a time.
pub const CHUNK: usize = 64 << 10;

/// A request, read whole.
pub struct Request {
    pub method: String,
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// A header's value; the name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A query parameter, still percent-encoded.
    pub fn param(&self, name: &str) -> Option<&str> {
        let pairs = self.target.split_once('?')?.1.split('&');
        pairs.map(|p| p.split_once('=').unwrap_or((p, ""))).find(|(n, _)| *n == name).map(|(_, v)| v)
    }
}

/// An answer.
pub struct Reply {
    pub status: u16,
    pub etag: Option<String>,
    pub body: Arc<[u8]>,
    /// What of the body is sent, when it is not all.
    pub part: Option<Range<usize>>,
    pub xml: bool,
}

impl Reply {
    /// A body of bytes.
    pub fn bytes(status: u16, etag: Option<String>, body: Arc<[u8]>) -> Self {
        Reply { status, etag, body, part: None, xml: false }
    }

    /// The part of it that a `Range` header asks for (`bytes=FIRST-LAST`, `bytes=FIRST-`).
    pub fn ranged(mut self, range: Option<&str>) -> Self {
        let asked = range.and_then(|r| r.strip_prefix("bytes=")?.split_once('-'));
        if let Some((first, last)) = asked
            && let Ok(first) = first.parse::<usize>()
        {
            if first >= self.body.len() {
                return Self::error(416, "InvalidRange");
            }
            let end = last.parse::<usize>().map_or(self.body.len(), |last| self.body.len().min(last + 1));
            self.part = Some(first..end.max(first));
            self.status = 206;
        }
        self
    }

    /// An XML document.
    pub fn xml(status: u16, text: String) -> Self {
        Reply { status, etag: None, body: text.into_bytes().into(), part: None, xml: true }
    }

    /// An S3 error.
    pub fn error(status: u16, code: &str) -> Self {
        Self::xml(status, format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{code}</Message></Error>"))
    }
}

/// Parses a head, and tells its length; `None` when it is not complete.
pub fn parse(buf: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(buf).map_err(io::Error::other)? else { return Ok(None) };
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    let request = Request {
        method: head.method.unwrap_or_default().to_string(),
        target: head.path.unwrap_or_default().to_string(),
        headers: head.headers.iter().map(|h| (h.name.to_ascii_lowercase(), text(h.value))).collect(),
        body: Vec::new(),
    };
    Ok(Some((request, length)))
}

/// Undoes percent-encoding.
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let code = (bytes[i] == b'%').then(|| text.get(i + 1..i + 3)).flatten();
        match code.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(b) => {
                out.push(b);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// One read, appended to `buf`.
pub fn read_some(stream: &mut TcpStream, buf: &mut Vec<u8>) -> io::Result<usize> {
    let start = buf.len();
    buf.resize(start + CHUNK, 0);
    let n = stream.read(&mut buf[start..])?;
    buf.truncate(start + n);
    Ok(n)
}
