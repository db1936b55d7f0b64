//! One request and its reply, without sockets: handlers are `fn handle(&self, Request) -> Reply`.
//!
//! The only file that names tiny_http. The server parses heads (httparse) into [`Request`] and
//! writes [`Reply`] with tiny_http's `Response::raw_print`.

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;

pub use tiny_http::{Header, HeaderField, Method};

/// What a request line asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `/path?query`: a request to this server.
    Origin,
    /// `http://host/path?query`: a request to a proxy. Scheme, then `host[:port]` in lower case.
    Absolute(String, String),
    /// CONNECT `host:port`, in lower case.
    Authority(String),
}

/// A parsed request.
pub struct Request {
    /// The method.
    pub method: Method,
    /// The form of the request target.
    pub target: Target,
    /// The path as it was sent, still escaped, beginning with a slash (empty for CONNECT).
    pub path: String,
    /// What follows the first `?`, still escaped.
    pub query: Option<String>,
    /// The headers in the order they came.
    pub headers: Vec<Header>,
    /// Where the client is; `None` inside an intercepted CONNECT, whose peer was checked before.
    pub peer: Option<SocketAddr>,
    /// The body: length-limited by Content-Length or decoded from chunks, empty without either.
    pub body: Box<dyn Read + Send>,
    /// Length of the body where the client promised one.
    pub body_len: Option<u64>,
}

impl Request {
    /// The value of the first header of that name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|h| h.field.as_str().as_str().eq_ignore_ascii_case(name)).map(|h| h.value.as_str())
    }

    /// Whether the client is on this machine.
    pub fn from_loopback(&self) -> bool {
        self.peer.is_none_or(|p| p.ip().to_canonical().is_loopback())
    }
}

/// Both directions of a client's connection.
pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// The body of a reply.
pub enum Body {
    /// No bytes.
    Empty,
    /// Bytes in memory.
    Bytes(Vec<u8>),
    /// A file from its present position, and how many bytes of it.
    File(File, u64),
    /// A stream; of known length, or sent chunked (HTTP/1.0: to the end of the connection). A read
    /// error breaks the connection off, so that the client sees a short answer as an error.
    Stream(Box<dyn Read + Send>, Option<u64>),
    /// Answer 200 to CONNECT, then hand the connection over; it is closed when the call returns.
    Takeover(Box<dyn FnOnce(Box<dyn Stream>) + Send>),
}

/// What a handler answers.
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Headers, without those that frame the body (Content-Length, Transfer-Encoding, Connection).
    pub headers: Vec<(String, String)>,
    /// The body; dropped unsent for HEAD, 204 and 304, its length told all the same.
    pub body: Body,
}

impl Reply {
    /// A reply without a body.
    pub fn status(status: u16) -> Self {
        Reply { status, headers: Vec::new(), body: Body::Empty }
    }
    /// A line of plain text.
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Reply::status(status)
            .header("Content-Type", "text/plain; charset=utf-8")
            .body(Body::Bytes(text.into().into_bytes()))
    }
    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_string(), value.into()));
        self
    }
    /// Sets the body.
    pub fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }
}
