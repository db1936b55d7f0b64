//! Replies to the client, from what is kept.

use std::fmt;
use std::io::{self, Cursor, Seek, SeekFrom};
use std::time::{Instant, SystemTime};

use super::headers::{self, Headers};
use super::memory::Answer;
use super::policy::{self, Terms};
use super::{hosts, stored};
use crate::http::exchange::{Body, Reply};
use crate::store::{Blob, Origin};

/// What X-Cache says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// From memory.
    Memory,
    /// From the local directory.
    Local,
    /// From the bucket.
    Remote,
    /// Forwarded, and being stored on disk.
    Cached,
    /// Forwarded, and being kept in memory.
    Volatile,
    /// Forwarded.
    Uncached,
}

impl Outcome {
    /// As the reference program says it.
    pub fn text(self) -> &'static str {
        match self {
            Outcome::Memory => "hit, memory",
            Outcome::Local => "hit, local",
            Outcome::Remote => "hit, remote",
            Outcome::Cached => "fetch, cached",
            Outcome::Volatile => "fetch, cached, volatile",
            Outcome::Uncached => "fetch, uncached",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// The headers that tell where an answer came from.
pub struct Tags {
    id: String,
    outcome: Outcome,
}

impl Tags {
    /// The tags of the answer for `url`.
    pub fn new(url: &str, outcome: Outcome) -> Self {
        Tags { id: hosts::cache_id(url), outcome }
    }

    /// Sets them, in place of what other caches said.
    pub fn on(&self, mut reply: Reply) -> Reply {
        let ours = |name: &str| name.eq_ignore_ascii_case("x-cache") || name.eq_ignore_ascii_case("x-cache-id");
        reply.headers.retain(|(name, _)| !ours(name));
        reply.header("X-Cache", self.outcome.text()).header("X-Cache-Id", self.id.as_str())
    }
}

/// The reply from an answer in memory.
pub fn from_memory(url: &str, answer: &Answer, request: &Headers, now: Instant) -> Reply {
    let age = answer.freshness.age(answer.resident(now)).as_secs();
    let mut reply = Reply::status(200);
    reply.headers = answer.headers.clone();
    reply.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("age"));
    let reply = reply.header("Age", age.to_string());
    let etag = headers::first(&answer.headers, "etag");
    let body = if policy::client_has_it(request, etag, headers::first(&answer.headers, "last-modified")) {
        None
    } else {
        // shared, not copied
        Some(Body::Stream(Box::new(Cursor::new(answer.body.clone())), Some(answer.body.len() as u64)))
    };
    finish(reply, body, &Tags::new(url, Outcome::Memory))
}

/// The reply from a stored answer, unless it is older than the terms allow. Errors say that it is
/// damaged.
pub fn from_blob(
    url: &str,
    mut blob: Blob,
    request: &Headers,
    terms: &Terms,
    now: SystemTime,
) -> io::Result<Option<(Reply, Outcome)>> {
    let (kept, head) = stored::decode_head(&mut blob.file)?;
    blob.file.seek(SeekFrom::Start(head))?;
    let age = policy::initial_age(&kept, now);
    if !policy::age_allowed(age, terms) {
        return Ok(None);
    }
    let outcome = match blob.origin {
        Origin::Local => Outcome::Local,
        Origin::Bucket => Outcome::Remote,
    };
    let known = policy::client_has_it(request, headers::first(&kept, "etag"), None);
    let mut reply = Reply::status(200).header("Age", age.as_secs().to_string());
    reply.headers.extend(kept);
    let body = (!known).then(|| Body::File(blob.file, blob.len.saturating_sub(head)));
    Ok(Some((finish(reply, body, &Tags::new(url, outcome)), outcome)))
}

/// A reply with a body, or 304 without.
fn finish(mut reply: Reply, body: Option<Body>, tags: &Tags) -> Reply {
    match body {
        Some(body) => reply.body = body,
        None => {
            reply.status = 304;
            reply.headers.retain(|(name, _)| !name.to_ascii_lowercase().starts_with("content-"));
        }
    }
    tags.on(reply)
}

/// Makes a request ask whether `stale` is still right, in place of what the client asked.
pub fn revalidate(request: &mut Headers, stale: &Answer) {
    let etag = headers::first(&stale.headers, "etag");
    let modified = headers::first(&stale.headers, "last-modified");
    if etag.is_none() && modified.is_none() {
        return;
    }
    request.retain(|(n, _)| !n.eq_ignore_ascii_case("if-none-match") && !n.eq_ignore_ascii_case("if-modified-since"));
    request.extend(etag.map(|tag| ("If-None-Match".to_string(), tag.to_string())));
    request.extend(modified.map(|date| ("If-Modified-Since".to_string(), date.to_string())));
}

/// Stored headers brought up to date by those of a 304 (RFC 9111, 3.2); Age is the latter's alone.
pub fn merge(stored: &Headers, news: Headers) -> Headers {
    let stays = |name: &str| !name.eq_ignore_ascii_case("age") && !headers::has(&news, name);
    let mut merged: Headers = stored.iter().filter(|(name, _)| stays(name)).cloned().collect();
    // a 304 tells nothing of the body that we have
    let of_body = |name: &str| name.to_ascii_lowercase().starts_with("content-");
    merged.extend(stored.iter().filter(|(name, _)| of_body(name) && headers::has(&news, name)).cloned());
    merged.extend(news.into_iter().filter(|(name, _)| !of_body(name)));
    merged
}

/// Length of a reply's body, where it is known.
pub fn body_len(reply: &Reply) -> Option<u64> {
    reply.body.length().filter(|_| !matches!(reply.body, Body::Empty | Body::Takeover(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h(list: &[(&str, &str)]) -> Headers {
        list.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()
    }

    #[test]
    fn a_304_brings_headers_up_to_date_but_not_those_of_the_body() {
        let stored =
            h(&[("etag", "1"), ("age", "5"), ("content-type", "a"), ("content-encoding", "gzip"), ("x", "old")]);
        let merged = merge(&stored, h(&[("X", "new"), ("Date", "d"), ("Content-Type", "b")]));
        let want = [("etag", "1"), ("content-encoding", "gzip"), ("content-type", "a"), ("X", "new"), ("Date", "d")];
        assert_eq!(merged, h(&want));
    }

    #[test]
    fn what_other_caches_said_is_replaced() {
        let mut reply = Reply::status(200);
        reply.headers = h(&[("x-cache", "HIT from cdn"), ("X-CACHE-ID", "1"), ("x-cache-hits", "2")]);
        let reply = Tags::new("http://example.com/", Outcome::Volatile).on(reply);
        let want = [("x-cache-hits", "2"), ("X-Cache", "fetch, cached, volatile"), ("X-Cache-Id", "2a1b402420ef")];
        assert_eq!(reply.headers, h(&want));
    }
}
