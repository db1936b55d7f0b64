//! Replies to the client, from what is kept.

use std::fmt;
use std::fs::File;
use std::io::{self, Cursor};
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use super::memory::Answer;
use super::rules::{Terms, client_has_it};
use crate::headers::{self, HeaderMap, value};
use crate::http::exchange::{Body, Reply};
use crate::text::number;

/// What X-Cache says, in the reference program's words.
pub type Outcome = &'static str;

/// From memory.
pub const MEMORY: Outcome = "hit, memory";
/// From the local directory.
pub const LOCAL: Outcome = "hit, local";
/// From the bucket.
pub const REMOTE: Outcome = "hit, remote";
/// Forwarded, and being stored on disk.
pub const CACHED: Outcome = "fetch, cached";
/// Forwarded, and being kept in memory.
pub const VOLATILE: Outcome = "fetch, cached, volatile";
/// Forwarded.
pub const UNCACHED: Outcome = "fetch, uncached";

/// What is told to who finds no place among those that wait for servers.
pub const BUSY: &str = "too many requests wait for their servers";

/// A line of text of ours.
pub fn text(status: u16, text: impl fmt::Display) -> (Reply, Outcome) {
    (Reply::text(status, format!("{text}\n")), UNCACHED)
}

/// A kept answer that suits a request, fresh or stale.
#[derive(Clone)]
pub struct Found {
    /// It.
    pub answer: Arc<Answer>,
    /// The blob that its body is in, open, where that begins there, and the length of the whole.
    pub file: Option<(Arc<File>, u64, u64)>,
    /// Where it was.
    pub outcome: Outcome,
}

impl Found {
    /// The blob it lies in.
    pub fn blob(&self) -> Option<&str> {
        self.answer.blob.as_ref().map(|(name, _)| name.as_str())
    }

    /// The reply to a request on these terms: the body, a range of it, or that the client has it already.
    pub fn reply(&self, terms: &Terms, now: SystemTime) -> Reply {
        let answer = &self.answer;
        let mut headers = answer.headers.clone();
        headers.insert("age", value(answer.rules.age(now).as_secs().to_string()));
        let in_file = self.file.as_ref().map(|(_, begin, end)| end.saturating_sub(*begin));
        let len = in_file.unwrap_or(answer.body.len() as u64);
        let mut reply = Reply::status(answer.status);
        let mut part = 0..len;
        if answer.status == 200 && client_has_it(&terms.headers, &headers) {
            let of_body = |name: &&str| name.starts_with("content-") && *name != "content-location";
            let names: Vec<String> = headers.keys().map(|n| n.as_str()).filter(of_body).map(String::from).collect();
            names.iter().for_each(|name| drop(headers.remove(name)));
            reply.status = 304;
            part = 0..0;
        } else if answer.status == 200
            && terms.get
            && let Some(range) = range(&terms.headers, &headers, len)
        {
            let whole = part.clone();
            (reply.status, part) = range.map_or((416, 0..0), |range| (206, range));
            let told = if reply.status == 206 { format!("{}-{}", part.start, part.end - 1) } else { "*".to_string() };
            headers.insert("content-range", value(format!("bytes {told}/{}", whole.end)));
        }
        let length = part.end - part.start;
        reply.body = match &self.file {
            _ if length == 0 => Body::Bytes(Vec::new()),
            Some((file, begin, _)) => Body::File(file.clone(), begin + part.start, length),
            None => {
                // shared, not copied
                let mut from = Cursor::new(answer.body.clone());
                from.set_position(part.start);
                Body::Stream(Box::new(io::Read::take(from, length)), Some(length))
            }
        };
        reply.proxied = Some(Box::new(headers));
        reply
    }
}

/// The part of a body of `len` bytes that a request wants, `Err` where it has no such part; `None`
/// for all of it, which is also what several ranges at once get.
fn range(request: &HeaderMap, answer: &HeaderMap, len: u64) -> Option<Result<Range<u64>, ()>> {
    let (unit, spec) = headers::first(request, "range")?.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || request.get_all("range").iter().count() > 1 {
        return None;
    }
    if let Some(condition) = request.get("if-range") {
        let same = |name| answer.get(name).is_some_and(|v| v == condition && !v.as_bytes().starts_with(b"W/"));
        if !same("etag") && !same("last-modified") {
            return None;
        }
    }
    let (first, last) = spec.trim().split_once('-')?;
    let end = |text: &str| if text.is_empty() { Some(None) } else { number(text).map(Some) };
    Some(match (end(first.trim())?, end(last.trim())?) {
        (None, None) => return None,
        (Some(first), Some(last)) if last < first => return None,
        (Some(first), _) if first >= len => Err(()),
        (Some(first), last) => Ok(first..last.map_or(len, |last| last.saturating_add(1).min(len))),
        (None, Some(0)) => Err(()),
        (None, Some(_)) if len == 0 => Err(()),
        (None, Some(count)) => Ok(len.saturating_sub(count)..len),
    })
}

/// Makes a request ask whether `stale` is still right, in place of what the client asked; false where
/// it has nothing to ask by.
pub fn revalidate(request: &mut HeaderMap, stale: &HeaderMap) -> bool {
    let validators = [("etag", "if-none-match"), ("last-modified", "if-modified-since")];
    if !validators.iter().any(|(name, _)| stale.contains_key(*name)) {
        return false;
    }
    for (name, condition) in validators {
        request.remove(condition);
        if let Some(validator) = stale.get(name) {
            request.insert(condition, validator.clone());
        }
    }
    true
}

/// Stored headers brought up to date by those of a 304 that confirms them (RFC 9111, 3.2); Age is the
/// latter's alone. What tells of the body that we have stays, and so does the tag that was asked by.
pub fn merge(stored: &HeaderMap, news: &HeaderMap) -> HeaderMap {
    const STAY: [&str; 4] = ["content-encoding", "content-md5", "content-range", "etag"];
    let mut merged = stored.clone();
    merged.remove("age");
    for name in news.keys().filter(|name| !STAY.contains(&name.as_str())) {
        merged.remove(name);
        for v in news.get_all(name) {
            merged.append(name, v.clone());
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::revproxy::tests::headers as h;

    #[test]
    fn a_304_brings_headers_up_to_date_but_not_those_of_the_body() {
        let stored = h(&[
            ("etag", "1"),
            ("age", "5"),
            ("content-type", "a"),
            ("content-encoding", "gzip"),
            ("x", "old"),
            ("x", "2"),
        ]);
        let merged = merge(
            &stored,
            &h(&[("X", "new"), ("Date", "d"), ("Content-Type", "b"), ("etag", "2"), ("content-encoding", "br")]),
        );
        assert_eq!(
            merged,
            h(&[("etag", "1"), ("content-encoding", "gzip"), ("content-type", "b"), ("X", "new"), ("Date", "d")])
        );
    }

    #[test]
    fn ranges() {
        let answer = h(&[("etag", "\"a\""), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")]);
        let of = |spec: &str, len| range(&h(&[("range", spec)]), &answer, len);
        assert_eq!(of("bytes=0-1", 10), Some(Ok(0..2)));
        assert_eq!(of("Bytes= 8-99 ", 10), Some(Ok(8..10)));
        assert_eq!(of("bytes=9-", 10), Some(Ok(9..10)));
        assert_eq!(of("bytes=-3", 10), Some(Ok(7..10)));
        assert_eq!(of("bytes=-99999999999999999999", 10), Some(Ok(0..10)));
        for beyond in ["bytes=10-", "bytes=10-12", "bytes=-0", "bytes=99999999999999999999-"] {
            assert_eq!(of(beyond, 10), Some(Err(())), "{beyond}");
        }
        assert_eq!((of("bytes=0-", 0), of("bytes=-1", 0)), (Some(Err(())), Some(Err(()))));
        for whole in ["bytes=2-1", "bytes=0-1,4-5", "bytes=-", "bytes=a-b", "bytes", "lines=1-2", "bytes=+1-2"] {
            assert_eq!(of(whole, 10), None, "{whole}");
        }
        let conditional = |value| range(&h(&[("range", "bytes=0-1"), ("if-range", value)]), &answer, 10).is_some();
        assert!(conditional("\"a\"") && conditional("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert!(!conditional("\"b\"") && !conditional("W/\"a\"") && !conditional("Sun, 06 Nov 1994 08:49:38 GMT"));
    }
}
