//! One request and its reply, without sockets.
//!
//! The only file that names tiny_http. The server parses heads (httparse) into [`Request`] and
//! writes the head of a [`Reply`] with tiny_http's `Response::raw_print`. Bodies are the server's:
//! `raw_print` would end a chunked body that broke off as if it were whole (its encoder sends the
//! last chunk when dropped), hold a whole body of unknown length in memory for HTTP/1.0, and panic
//! on a request's `TE: x;q=NaN`.

use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::Arc;

pub use tiny_http::Method;
use tiny_http::{HTTPVersion, Header, Response, StatusCode};
use ureq::http::HeaderMap;

use super::auth::Access;
use super::socket::Stream;
use crate::config::HostPort;

/// The type of what is text.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// Answers requests. Called from many threads at once.
pub type Handler = dyn Fn(Request<'_>) -> Reply + Send + Sync;

/// What a request line asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `/path?query`: a request to this server.
    Origin,
    /// `http://host/path?query`: a request to a proxy. The scheme, then whom it is for, without the scheme's own port.
    Absolute(&'static str, HostPort),
    /// CONNECT `host:port`.
    Authority(HostPort),
}

/// The port of a URL that names none.
pub fn default_port(scheme: &str) -> u16 {
    if scheme == "https" { 443 } else { 80 }
}

/// A parsed request.
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// The form of the request target.
    pub target: Target,
    /// The path as it was sent, still escaped, beginning with a slash (empty for CONNECT).
    pub path: String,
    /// What follows the first `?`, still escaped.
    pub query: Option<String>,
    /// The headers, whatever bytes their values hold.
    pub headers: HeaderMap,
    /// Where the client is; `None` inside an intercepted CONNECT, whose peer was checked before.
    pub peer: Option<SocketAddr>,
    /// What it may do, as far as somebody has judged that.
    pub access: Access,
    /// The body: length-limited by Content-Length or decoded from chunks, empty without either.
    pub body: Box<dyn Read + 'a>,
    /// Length of the body where the client promised one.
    pub body_len: Option<u64>,
}

/// What takes a connection over, on the connection's thread; it is closed when the call returns.
pub type Taker = Box<dyn FnOnce(Stream) + Send>;

/// The body of a reply.
pub enum Body {
    /// Bytes in memory.
    Bytes(Vec<u8>),
    /// A part of a file, which others may be reading: where it begins, and how many bytes it has.
    File(Arc<File>, u64, u64),
    /// A stream; of known length, or sent chunked (HTTP/1.0: to the end of the connection). A read
    /// error breaks the connection off, so that the client sees a short answer as an error.
    Stream(Box<dyn Read + Send>, Option<u64>),
    /// The head alone, then the connection is handed over.
    Takeover(Taker),
}

impl Body {
    /// Its length, where it is known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Body::Takeover(_) => Some(0),
            Body::Bytes(bytes) => Some(bytes.len() as u64),
            Body::File(_, _, len) => Some(*len),
            Body::Stream(_, len) => *len,
        }
    }
}

/// What a handler answers.
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Headers, without those that frame the body (Content-Length, Transfer-Encoding, Connection).
    pub headers: Vec<Header>,
    /// Those of an answer that another server made, without those for one hop: what a server says of itself is not added.
    pub proxied: Option<Box<HeaderMap>>,
    /// The body; dropped unsent for HEAD, 204 and 304, its length told all the same.
    pub body: Body,
}

impl Reply {
    /// A reply without a body.
    pub fn status(status: u16) -> Self {
        Reply { status, headers: Vec::new(), proxied: None, body: Body::Bytes(Vec::new()) }
    }
    /// A line of plain text.
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Reply::status(status).header("Content-Type", TEXT).body(Body::Bytes(text.into().into_bytes()))
    }
    /// Adds a header.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push(ours(name, value));
        self
    }
    /// Sets the body.
    pub fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }
}

/// The head of a reply, from status line to empty line; `last` are the lines that frame the body and speak
/// of the connection.
pub(super) fn head_of(reply: &Reply, last: &str) -> Vec<u8> {
    const FRAMED: &[u8] = b"Content-Length: 0\r\n\r\n";
    let (mut head, status) = (Vec::with_capacity(512), StatusCode(reply.status));
    if let Some(headers) = &reply.proxied {
        // tiny_http's values are ASCII, and it adds a Date
        head.extend_from_slice(format!("HTTP/1.1 {} {}\r\n", status.0, status.default_reason_phrase()).as_bytes());
        reply.headers.iter().for_each(|header| head.extend_from_slice(format!("{header}\r\n").as_bytes()));
        for (name, value) in &**headers {
            head.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
    } else {
        let response = Response::new(status, reply.headers.clone(), io::empty(), Some(0), None);
        let response = response.with_header(ours("Server", "go-cache-plugin"));
        response.raw_print(&mut head, HTTPVersion(1, 1), &[], true, None).expect("writing to memory does not fail");
        head.truncate(head.len() - FRAMED.len());
    }
    head.extend_from_slice(&[last.as_bytes(), b"\r\n"].concat());
    head
}

fn ours(name: &'static str, value: impl Into<String>) -> Header {
    Header::from_bytes(name, value.into()).expect("what we say of ourselves is ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Request<'_> {
        /// A request without headers and body, from this machine, for `target`, a path and perhaps a
        /// query.
        pub fn new(method: Method, target: &str) -> Self {
            let (path, query) = match target.split_once('?') {
                Some((path, query)) => (path, Some(query.to_string())),
                None => (target, None),
            };
            Request {
                method,
                target: Target::Origin,
                path: path.to_string(),
                query,
                headers: HeaderMap::new(),
                peer: None,
                access: Access::ALL,
                body: Box::new(io::empty()),
                body_len: None,
            }
        }
    }

    fn lines(reply: &Reply, last: &str) -> String {
        let head = head_of(reply, last).escape_ascii().to_string();
        head.split("\\r\\n").filter(|l| !l.starts_with("Date: ")).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn heads_end_with_what_frames_them() {
        let reply = Reply::text(200, "x").header("A", "b");
        let got = lines(&reply, "Content-Length: 70000\r\n");
        let ours = "Content-Type: text/plain; charset=utf-8\nA: b\nServer: go-cache-plugin\n";
        assert_eq!(got, format!("HTTP/1.1 200 OK\n{ours}Content-Length: 70000\n\n"));
        for status in [200, 204, 304, 416] {
            let got = lines(&Reply::status(status), "");
            assert!(got.ends_with("\nServer: go-cache-plugin\n\n") && !got.contains("Content-Length"), "{got}");
        }
        let mut reply = Reply::status(304);
        let value = ureq::http::HeaderValue::from_bytes(b"na\xefve").unwrap();
        reply.proxied = Some(Box::new(HeaderMap::from_iter([("etag".parse().unwrap(), value)])));
        assert_eq!(
            lines(&reply, "Connection: close\r\n"),
            "HTTP/1.1 304 Not Modified\netag: na\\xefve\nConnection: close\n\n"
        );
    }
}
