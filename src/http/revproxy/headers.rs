//! Header lists as the proxy handles them: names and values in the order they came.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::fmt::rfc2822;

/// Names (any case) and values.
pub type Headers = Vec<(String, String)>;

/// Meant for the next hop only (RFC 9110, 7.6.1), or naming how a body is framed, which the
/// server and the HTTP client each say for themselves.
const HOP_BY_HOP: [&str; 10] = [
    "connection", "content-length", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
    "te", "trailer", "transfer-encoding", "upgrade",
];

/// Every value of `name`, whatever its case.
pub fn all<'a>(headers: &'a Headers, name: &'a str) -> impl Iterator<Item = &'a str> {
    headers.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
}

/// The first value of `name`.
pub fn first<'a>(headers: &'a Headers, name: &'a str) -> Option<&'a str> {
    all(headers, name).next()
}

/// Whether there is a header `name`.
pub fn has(headers: &Headers, name: &str) -> bool {
    all(headers, name).next().is_some()
}

/// The trimmed, non-empty elements of the comma-separated lists that the values of `name` are.
pub fn list<'a>(headers: &'a Headers, name: &'a str) -> impl Iterator<Item = &'a str> {
    all(headers, name).flat_map(|v| v.split(',')).map(str::trim).filter(|v| !v.is_empty())
}

/// Drops what is not for the next hop: the fixed names and those that Connection lists.
pub fn drop_hop_by_hop(headers: &mut Headers) {
    let listed: Vec<String> = list(headers, "connection").map(str::to_ascii_lowercase).collect();
    headers.retain(|(name, _)| {
        let name = name.to_ascii_lowercase();
        !HOP_BY_HOP.contains(&name.as_str()) && !listed.contains(&name)
    });
}

/// An HTTP date as a time; `None` for anything else.
pub fn parse_date(date: &str) -> Option<SystemTime> {
    rfc2822::DateTimeParser::new().parse_timestamp(date.trim()).ok().map(SystemTime::from)
}

/// A time as an HTTP date, `Sun, 06 Nov 1994 08:49:37 GMT`; empty for years that HTTP cannot say.
pub fn format_date(at: SystemTime) -> String {
    let date = Timestamp::try_from(at).and_then(|t| rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&t));
    date.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn headers(list: &[(&str, &str)]) -> Headers {
        list.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()
    }

    #[test]
    fn what_connection_lists_is_dropped_too() {
        let mut h = headers(&[
            ("Connection", "close, X-Secret"),
            ("connection", " x-other "),
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
    fn dates_go_both_ways() {
        let t = UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(format_date(t), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(parse_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(t));
        assert_eq!(parse_date("0"), None);
        assert_eq!(parse_date(""), None);
    }
}
