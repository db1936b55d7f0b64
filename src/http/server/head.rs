//! From bytes to the head of a request, within limits.
//!
//! Strict where leniency would let two programs read one request differently: lengths, transfer
//! encodings, the Host header.

use std::io;
use std::net::SocketAddr;

use super::answer::Framed;
use crate::config::HostPort;
use crate::headers::{HeaderMap, list, parsed};
use crate::http::auth::Access;
use crate::http::exchange::{Method, Request, Target, default_port};
use crate::text::number;

/// Bytes of a head, from its first byte to the empty line.
pub(super) const MAX_HEAD: usize = 16 << 10;
/// Bytes of a request target.
const MAX_URL: usize = 8 << 10;
/// Headers in a head.
const MAX_HEADERS: usize = 100;

/// A parsed head.
pub(super) struct Head {
    /// The request, whose body is yet to come.
    pub(super) request: Request<'static>,
    /// How it wants to be answered.
    pub(super) framed: Framed,
    /// Whether the client waits for 100 before it sends its body.
    pub(super) expect_continue: bool,
}

/// Why a head is refused: the status to answer and a line that says why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) u16, pub(super) &'static str);

/// What an intercepted connection was opened for, and who is at its other end.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Where the client is; `None` where that was checked before.
    pub peer: Option<SocketAddr>,
    /// What makes requests in origin form [`Target::Absolute`]; `None` for requests to this server.
    pub origin: Option<(&'static str, HostPort)>,
}

/// Parses the head that `bytes` begin with: the head and its length in bytes, or `None` while it
/// is not whole.
pub(super) fn parse(bytes: &[u8], context: &Context) -> Result<Option<(Head, usize)>, Refused> {
    let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut slots);
    let window = &bytes[..bytes.len().min(MAX_HEAD)];
    let used = match request.parse(window) {
        Ok(httparse::Status::Complete(n)) => Some(n),
        Ok(httparse::Status::Partial) => None,
        Err(httparse::Error::TooManyHeaders) => return Err(Refused(431, "the request has more than 100 headers")),
        Err(httparse::Error::Version) => return Err(Refused(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")),
        Err(_) => return Err(Refused(400, "malformed request")),
    };
    // a path that httparse has not got to is still on an unfinished first line
    if request.path.map_or(window.len().saturating_sub(MAX_METHOD), str::len) > MAX_URL {
        return Err(Refused(414, "the URL is longer than 8 KiB"));
    }
    let Some(used) = used else {
        let too_long = Refused(431, "the request's head is longer than 16 KiB");
        return if bytes.len() < MAX_HEAD { Ok(None) } else { Err(too_long) };
    };
    let (Some(method), Some(url), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Refused(400, "malformed request line"));
    };
    let method: Method = method.parse().map_err(|()| Refused(400, "malformed method"))?;
    let headers = parsed(request.headers).ok_or(Refused(400, "malformed header"))?;
    let (target, path, query) = target(&method, url, context)?;
    let http10 = version == 0;
    if !http10 && values(&headers, "host").count() != 1 {
        return Err(Refused(400, "HTTP/1.1 wants exactly one Host header"));
    }
    let connect = method == Method::Connect;
    let body_len = if connect { Some(0) } else { body_length(&headers, http10)? };
    let expect_continue = match values(&headers, "expect").next() {
        None => false,
        Some(v) if v.eq_ignore_ascii_case("100-continue") => !http10,
        Some(_) => return Err(Refused(417, "only 100-continue can be expected")),
    };
    let says = |word: &str| list(&headers, "connection").any(|token| token.eq_ignore_ascii_case(word));
    let keep = if http10 { says("keep-alive") } else { !says("close") };
    let framed = Framed { http10, head_only: method == Method::Head, keep: keep && !connect };
    let (peer, access, body) = (context.peer, Access::default(), Box::new(io::empty()));
    let request = Request { method, target, path, query, headers, peer, access, body, body_len };
    Ok(Some((Head { request, framed, expect_continue }, used)))
}

/// Bytes of the longest method, with its space, before a URL counts as too long.
const MAX_METHOD: usize = 32;

/// Form, path and query of a request target.
fn target(method: &Method, url: &str, context: &Context) -> Result<(Target, String, Option<String>), Refused> {
    if !url.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Err(Refused(400, "the URL holds bytes that should be escaped"));
    }
    if *method == Method::Connect {
        let host = url.parse::<HostPort>().ok().filter(|host| host.port().is_some());
        let host = host.ok_or(Refused(400, "CONNECT wants host:port"))?;
        return Ok((Target::Authority(host), String::new(), None));
    }
    let (target, rest) = if url.starts_with('/') {
        let target = match &context.origin {
            Some((scheme, host)) => Target::Absolute(scheme, host.clone()),
            None => Target::Origin,
        };
        (target, url)
    } else {
        let (scheme, rest) = url.split_once("://").ok_or(Refused(400, "the URL is neither a path nor absolute"))?;
        let known = ["http", "https"].into_iter().find(|known| scheme.eq_ignore_ascii_case(known));
        let scheme = known.ok_or(Refused(400, "the URL's scheme is neither http nor https"))?;
        let (host, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let host: HostPort = host.parse().map_err(|_| Refused(400, "malformed host in the URL"))?;
        (Target::Absolute(scheme, host.without_port(default_port(scheme))), rest)
    };
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query.to_string())),
        None => (rest, None),
    };
    let path = if path.is_empty() { "/" } else { path };
    Ok((target, path.to_string(), query))
}

/// Reads Content-Length and Transfer-Encoding, which must not leave two readings: the body's length, 0 where
/// nothing is said; `None` of chunks.
fn body_length(headers: &HeaderMap, http10: bool) -> Result<Option<u64>, Refused> {
    let mut length = None;
    for value in values(headers, "content-length") {
        let n = number(value).filter(|n| *n < u64::MAX).ok_or(Refused(400, "malformed Content-Length"))?;
        if length.is_some_and(|known| known != n) {
            return Err(Refused(400, "two different Content-Lengths"));
        }
        length = Some(n);
    }
    let mut encodings = values(headers, "transfer-encoding");
    match (encodings.next(), encodings.next()) {
        (None, _) => Ok(Some(length.unwrap_or(0))),
        (Some(_), _) if length.is_some() => Err(Refused(400, "both Content-Length and Transfer-Encoding")),
        (Some(_), _) if http10 => Err(Refused(400, "HTTP/1.0 has no Transfer-Encoding")),
        (Some(one), None) if one.eq_ignore_ascii_case("chunked") => Ok(None),
        _ => Err(Refused(501, "the only transfer encoding known here is chunked")),
    }
}

/// What the headers of that name say; nothing, where that is no text.
fn values<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).into_iter().map(|value| value.to_str().unwrap_or_default().trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<(Head, usize)>, Refused> {
        parse(text.as_bytes(), &Context::default())
    }

    fn head(text: &str) -> Head {
        read(text).map_err(|refused| refused.1).expect("accepted").expect("whole").0
    }

    fn request(text: &str) -> Request<'static> {
        head(text).request
    }

    fn status(text: &str) -> u16 {
        read(text).err().expect("refused").0
    }

    #[test]
    fn forms_of_the_target() {
        let h = request("GET /mod/a%2fb?x=1?2 HTTP/1.1\r\nHost: h\r\n\r\nrest");
        assert_eq!((h.target, h.path.as_str(), h.query.as_deref()), (Target::Origin, "/mod/a%2fb", Some("x=1?2")));
        let h = request("GET HTTP://Example.com:80?q HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(h.target, Target::Absolute("http", "example.com".parse().unwrap()));
        assert_eq!((h.path.as_str(), h.query.as_deref()), ("/", Some("q")));
        let h = request("CONNECT [::1]:443 HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(h.target, Target::Authority("[::1]:443".parse().unwrap()));
        let inside = Context { peer: None, origin: Some(("https", "a.example".parse().unwrap())) };
        let (h, _) = parse(b"GET /x HTTP/1.1\r\nHost: other\r\n\r\n", &inside).unwrap().unwrap();
        assert_eq!(h.request.target, Target::Absolute("https", "a.example".parse().unwrap()));
        for bad in [
            "CONNECT host HTTP/1.1\r\nHost: h\r\n\r\n",
            "CONNECT host:0 HTTP/1.1\r\nHost: h\r\n\r\n",
            "CONNECT u@host:1 HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET ftp://x/ HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET http:///x HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET http://u:p@h/ HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET http://[::zz]/ HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /\u{e9} HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /#x HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n",
            "\u{0}\u{1}\u{2}\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n",
        ] {
            assert_eq!(status(bad), 400, "{bad:?}");
        }
        assert_eq!(status("GET / HTTP/2.0\r\nHost: h\r\n\r\n"), 505);
    }

    #[test]
    fn lengths_have_one_reading() {
        let with = |h: &str| format!("POST / HTTP/1.1\r\nHost: h\r\n{h}\r\n\r\n");
        assert_eq!(request(&with("Content-Length: 5")).body_len, Some(5));
        assert_eq!(request(&with("Content-Length: 5\r\nContent-Length: 5")).body_len, Some(5));
        assert_eq!(request(&with("Transfer-Encoding: Chunked")).body_len, None);
        for bad in [
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 5, 5",
            "Content-Length: +5",
            "Content-Length: -1",
            "Content-Length: 0x5",
            "Content-Length:",
            "Content-Length: 99999999999999999999999",
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
        ] {
            assert_eq!(status(&with(bad)), 400, "{bad}");
        }
        for bad in ["Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"] {
            assert_eq!(status(&with(bad)), 501, "{bad}");
        }
        assert_eq!(status("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
        assert_eq!(status(&with("Expect: a-miracle")), 417);
    }

    #[test]
    fn persistence() {
        assert!(head("GET / HTTP/1.1\r\nHost: h\r\n\r\n").framed.keep);
        assert!(!head("GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n").framed.keep);
        assert!(!head("GET / HTTP/1.0\r\n\r\n").framed.keep);
        assert!(head("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").framed.keep);
    }

    #[test]
    fn limits() {
        assert!(read("GET / HTTP/1.1\r\nHost: h\r\n").unwrap().is_none());
        let long = "x".repeat(9 << 10);
        assert_eq!(status(&format!("GET /{long} HTTP/1.1\r\nHost: h\r\n\r\n")), 414);
        assert_eq!(status(&format!("GET /{long}")), 414, "the line is not over yet");
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: h\r\nA: {long}\r\nB: {long}\r\n\r\n")), 431);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "A: b\r\n".repeat(100))), 431);
        assert!(read(&format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "A: b\r\n".repeat(99))).unwrap().is_some());
    }
}
