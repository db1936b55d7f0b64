//! Headers: one map, from who sent them to who is sent them, whatever bytes the values hold.

use std::borrow::Cow;
use std::time::SystemTime;

pub use ureq::http::{HeaderMap, HeaderName, HeaderValue};

/// Meant for the next hop only (RFC 9110, 7.6.1), or naming how a body is framed, which the
/// server and the HTTP client each say for themselves.
const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A parsed head's; `None` where a line is none.
pub fn parsed(lines: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let header = |h: &httparse::Header<'_>| {
        Some((HeaderName::from_bytes(h.name.as_bytes()).ok()?, HeaderValue::from_bytes(h.value).ok()?))
    };
    lines.iter().map(header).collect()
}

/// The first value of `name`, where it is text.
pub fn first<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim)
}

/// The trimmed, non-empty elements of the comma-separated lists that the values of `name` are; what is no text
/// in one is something else than what anybody knows.
pub fn list<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = Cow<'a, str>> {
    headers.get_all(name).into_iter().flat_map(|value| split_quoted(value.as_bytes()))
}

/// Splits at commas outside of quoted strings.
fn split_quoted(value: &[u8]) -> impl Iterator<Item = Cow<'_, str>> {
    let (mut quoted, mut escaped) = (false, false);
    value
        .split(move |b| {
            let escape = quoted && *b == b'\\' && !escaped;
            if *b == b'"' && !escaped {
                quoted = !quoted;
            }
            escaped = escape;
            *b == b',' && !quoted
        })
        .map(|element| String::from_utf8_lossy(element.trim_ascii()))
        .filter(|element| !element.is_empty())
}

/// Drops what is not for the next hop: the fixed names and those that Connection lists.
pub fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<String> = list(headers, "connection").map(|name| name.to_ascii_lowercase()).collect();
    for name in listed.iter().map(String::as_str).chain(HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// The HTTP date that `name` holds, in any of the three forms.
pub fn date(headers: &HeaderMap, name: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(first(headers, name)?).ok()
}

/// A value that is known to be text.
pub fn value(text: impl AsRef<str>) -> HeaderValue {
    HeaderValue::from_str(text.as_ref()).expect("it is plain text")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        list.iter().map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.parse::<HeaderValue>().unwrap())).collect()
    }

    #[test]
    fn what_connection_lists_is_dropped_too() {
        let mut h = headers(&[
            ("Connection", "close, X-Secret"),
            ("connection", " x-other , \x22odd name\x22"),
            ("X-Secret", "1"),
            ("X-OTHER", "2"),
            ("Transfer-Encoding", "chunked"),
            ("TE", "trailers"),
            ("Proxy-Authorization", "Basic Zm9v"),
            ("Accept", "*/*"),
        ]);
        drop_hop_by_hop(&mut h);
        assert_eq!(h, headers(&[("Accept", "*/*")]));
    }

    #[test]
    fn lists_split_outside_of_quotes() {
        let mut h = headers(&[("x", "a, \"b,c\\\"d,\" , ,e"), ("x", "f")]);
        h.append("x", HeaderValue::from_bytes(b"g=\"\xe9,\", \xe9, h").unwrap());
        assert_eq!(
            list(&h, "x").collect::<Vec<_>>(),
            ["a", "\"b,c\\\"d,\"", "e", "f", "g=\"\u{fffd},\"", "\u{fffd}", "h"]
        );
    }
}
