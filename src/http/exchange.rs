//! One request and its reply, without sockets: handlers are `fn handle(&self, Request) -> Reply`.
//!
//! The only file that names tiny_http. The server parses heads (httparse) into [`Request`] and
//! writes the head of a [`Reply`] with tiny_http's `Response::raw_print`. Bodies are the server's:
//! `raw_print` would end a chunked body that broke off as if it were whole (its encoder sends the
//! last chunk when dropped), hold a whole body of unknown length in memory for HTTP/1.0, and panic
//! on a request's `TE: x;q=NaN`.

use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;

use tiny_http::{HTTPVersion, Response, StatusCode};
pub use tiny_http::{Header, HeaderField, Method};
use ureq::http::HeaderMap;

use super::auth::Access;
use super::socket::Socket;

/// Answers requests. Called from many threads at once; the request's body has to be read, as far as
/// it is wanted, before the call returns.
pub trait Handler: Send + Sync {
    /// The answer to `request`.
    fn handle(&self, request: Request) -> Reply;
}

impl<F: Fn(Request) -> Reply + Send + Sync> Handler for F {
    fn handle(&self, request: Request) -> Reply {
        self(request)
    }
}

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
    /// The same of a request to a proxy, whatever bytes their values hold; of others empty.
    pub fields: HeaderMap,
    /// Where the client is; `None` inside an intercepted CONNECT, whose peer was checked before.
    pub peer: Option<SocketAddr>,
    /// What it may do, as far as somebody has judged that.
    pub access: Access,
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
}

/// What takes a connection over, on the connection's thread; it is closed when the call returns.
pub type Taker = Box<dyn FnOnce(Socket) + Send>;

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
    /// Answer 200 to CONNECT, then hand the connection over.
    Takeover(Taker),
}

impl Body {
    /// Its length, where it is known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Body::Empty | Body::Takeover(_) => Some(0),
            Body::Bytes(bytes) => Some(bytes.len() as u64),
            Body::File(_, len) => Some(*len),
            Body::Stream(_, len) => *len,
        }
    }
}

/// What a handler answers.
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Headers, without those that frame the body (Content-Length, Transfer-Encoding, Connection).
    pub headers: Vec<(String, String)>,
    /// The headers of an answer that another server made, in their place; without those for one hop.
    pub proxied: Option<Box<HeaderMap>>,
    /// The body; dropped unsent for HEAD, 204 and 304, its length told all the same.
    pub body: Body,
}

impl Reply {
    /// A reply without a body.
    pub fn status(status: u16) -> Self {
        Reply { status, headers: Vec::new(), proxied: None, body: Body::Empty }
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
    /// The reply, whose body keeps `held` for as long as it comes from elsewhere.
    pub fn holding(mut self, held: impl Send + 'static) -> Self {
        if let Body::Stream(stream, len) = self.body {
            self.body = Body::Stream(Box::new(Holding(stream, held)), len);
        }
        self
    }
    /// Sets the body.
    pub fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }
}

/// A body, and what goes with it.
struct Holding<T>(Box<dyn Read + Send>, T);

impl<T> Read for Holding<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is no body, and no length either: 204, 304, an answer to CONNECT.
    None,
    /// Content-Length.
    Length(u64),
    /// Chunks.
    Chunked,
    /// The connection's end.
    ToEnd,
}

/// What the answer says of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persistence {
    /// Nothing: HTTP/1.1 stays open by default.
    Implied,
    /// It stays open; HTTP/1.0 wants that said.
    KeepAlive,
    /// It closes after this answer.
    Close,
}

impl Persistence {
    /// It as the last lines of a head.
    fn lines(self) -> &'static [u8] {
        match self {
            Persistence::Implied => b"\r\n",
            Persistence::KeepAlive => b"Connection: keep-alive\r\n\r\n",
            Persistence::Close => b"Connection: close\r\n\r\n",
        }
    }
}

/// The head of an answer that another server made: tiny_http's values are ASCII, and it adds a Date.
pub(super) fn proxied_head(status: u16, headers: &HeaderMap, framing: Framing, stay: Persistence) -> Vec<u8> {
    let reason = StatusCode(status).default_reason_phrase();
    let mut head = format!("HTTP/1.1 {status} {reason}\r\n").into_bytes();
    for (name, value) in headers {
        head.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    match framing {
        Framing::Length(n) => head.extend_from_slice(format!("content-length: {n}\r\n").as_bytes()),
        Framing::Chunked => head.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::None | Framing::ToEnd => {}
    }
    head.extend_from_slice(stay.lines());
    head
}

/// The head of a reply, from status line to empty line. Headers that frame the body or the
/// connection are ours to set, and those that would break the head are left out.
pub(super) fn head_bytes(status: u16, headers: &[(String, String)], framing: Framing, stay: Persistence) -> Vec<u8> {
    const OURS: [&str; 5] = ["Content-Length", "Transfer-Encoding", "Connection", "Trailer", "Upgrade"];
    let length = match framing {
        Framing::Length(n) => usize::try_from(n).ok(),
        Framing::Chunked => None,
        Framing::None | Framing::ToEnd => Some(0),
    };
    let mut response =
        Response::new(StatusCode(status), Vec::new(), io::empty(), length, None).with_chunked_threshold(usize::MAX);
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("Server")) {
        response.add_header(Header {
            field: HeaderField::from_bytes("Server").expect("the name is ASCII"),
            value: "go-cache-plugin".parse().expect("the value is ASCII"),
        });
    }
    // tiny_http's values are ASCII; others (a proxied file name, say) follow after its own
    let mut others = Vec::new();
    for (name, value) in headers.iter().filter(|(name, _)| !OURS.iter().any(|n| name.eq_ignore_ascii_case(n))) {
        if name.is_empty()
            || !name.bytes().all(is_token_byte)
            || value.bytes().any(|b| matches!(b, 0..=8 | 10..=31 | 127))
        {
            log::debug!("left out of an answer: header {name:?}: {value:?}");
        } else if let Ok(header) = Header::from_bytes(name.as_bytes(), value.as_bytes()) {
            response.add_header(header);
        } else {
            others.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
    }
    let mut head = Vec::with_capacity(512);
    response.raw_print(&mut head, HTTPVersion(1, 1), &[], true, None).expect("writing to memory does not fail");
    // the framing header comes last
    let cut = match framing {
        Framing::None | Framing::ToEnd => b"Content-Length: 0\r\n\r\n".len(),
        Framing::Length(_) | Framing::Chunked => b"\r\n".len(),
    };
    head.truncate(head.len() - cut);
    head.extend_from_slice(&others);
    head.extend_from_slice(stay.lines());
    head
}

/// Whether `b` may be part of a header's name.
fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Request {
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
                headers: Vec::new(),
                fields: HeaderMap::new(),
                peer: None,
                access: Access::ALL,
                body: Box::new(io::empty()),
                body_len: None,
            }
        }
    }

    fn head(status: u16, headers: &[(&str, &str)], framing: Framing, stay: Persistence) -> String {
        let headers: Vec<_> = headers.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        let head = String::from_utf8(head_bytes(status, &headers, framing, stay)).unwrap();
        head.lines().filter(|l| !l.starts_with("Date: ")).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn heads_are_framed_as_asked() {
        let got = head(200, &[("Content-Type", "text/plain")], Framing::Length(70_000), Persistence::Implied);
        assert_eq!(got, "HTTP/1.1 200 OK\nServer: go-cache-plugin\nContent-Type: text/plain\nContent-Length: 70000\n");
        let got = head(200, &[], Framing::Chunked, Persistence::Close);
        assert_eq!(got, "HTTP/1.1 200 OK\nServer: go-cache-plugin\nTransfer-Encoding: chunked\nConnection: close\n");
        let got = head(304, &[("Etag", "x")], Framing::None, Persistence::KeepAlive);
        assert_eq!(got, "HTTP/1.1 304 Not Modified\nServer: go-cache-plugin\nEtag: x\nConnection: keep-alive\n");
    }

    #[test]
    fn a_header_cannot_reframe_or_split_the_answer() {
        let bad = [
            ("Content-Length", "7"),
            ("transfer-encoding", "chunked"),
            ("A", "x\r\nSet-Cookie: y"),
            ("B\r\nC", "x"),
            ("", "x"),
        ];
        let got = head(200, &bad, Framing::Length(1), Persistence::Implied);
        assert_eq!(got, "HTTP/1.1 200 OK\nServer: go-cache-plugin\nContent-Length: 1\n");
    }

    #[test]
    fn values_beyond_ascii_pass() {
        let got = head(200, &[("X-Name", "naïve")], Framing::Length(0), Persistence::Implied);
        assert!(got.ends_with("\nContent-Length: 0\nX-Name: naïve\n"), "{got}");
    }
}
