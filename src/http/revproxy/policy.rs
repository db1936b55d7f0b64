//! What may be kept, where, and when it may be used: the decisions of RFC 9111 with the reference
//! program's choice of stores. Pure; the clock is an argument.
//!
//! On disk and in the bucket, for good: `immutable`, and `must-revalidate` for longer than
//! [`LONG_LIVED`]. In memory: what is fresh for less than [`SHORT_LIVED`]. Nothing else, and
//! nothing at all that may be meant for one person: answers to requests with Authorization, Cookie
//! or Range, answers with Set-Cookie, `private`, `no-store` or `no-cache`. Such requests are not
//! answered from the cache either. Stored answers on disk keep no header that would tell variants
//! apart, so what varies there is not kept, except that plain (unencoded) answers which vary by
//! Accept-Encoding alone suit every client.

use std::time::{Duration, SystemTime};

use super::headers::{self, Headers};

/// `must-revalidate` answers that are fresh for longer are kept for good.
pub const LONG_LIVED: Duration = Duration::from_secs(60 * 24 * 3600);
/// Answers that are fresh for less than this are kept in memory.
pub const SHORT_LIVED: Duration = Duration::from_secs(3600);

/// The directives of Cache-Control that matter to a shared cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheControl {
    /// `no-store`.
    pub no_store: bool,
    /// `no-cache`, with field names or without.
    pub no_cache: bool,
    /// `private`, with field names or without.
    pub private: bool,
    /// `immutable` (RFC 8246).
    pub immutable: bool,
    /// `must-revalidate`.
    pub must_revalidate: bool,
    /// `only-if-cached` (requests).
    pub only_if_cached: bool,
    /// `max-age`; the smallest where there are several, 0 where it is no number.
    pub max_age: Option<Duration>,
    /// `s-maxage`, likewise.
    pub s_maxage: Option<Duration>,
    /// `min-fresh` (requests), likewise.
    pub min_fresh: Option<Duration>,
}

impl CacheControl {
    /// The directives of all Cache-Control headers.
    pub fn of(headers: &Headers) -> Self {
        let mut cc = CacheControl::default();
        for value in headers::all(headers, "cache-control") {
            for directive in split_quoted(value) {
                let (name, arg) = directive.split_once('=').unwrap_or((directive, ""));
                match name.trim().to_ascii_lowercase().as_str() {
                    "no-store" => cc.no_store = true,
                    "no-cache" => cc.no_cache = true,
                    "private" => cc.private = true,
                    "immutable" => cc.immutable = true,
                    "must-revalidate" => cc.must_revalidate = true,
                    "only-if-cached" => cc.only_if_cached = true,
                    "max-age" => least(&mut cc.max_age, arg),
                    "s-maxage" => least(&mut cc.s_maxage, arg),
                    "min-fresh" => least(&mut cc.min_fresh, arg),
                    _ => {}
                }
            }
        }
        cc
    }
}

/// Keeps the smaller of two ages. What is no number counts as 0; what is too large for us, as the
/// 2³¹ seconds of RFC 9111, 1.2.2.
fn least(age: &mut Option<Duration>, arg: &str) {
    let arg = arg.trim().trim_matches('"');
    let seconds = match arg.parse::<u64>() {
        Ok(n) => n.min(1 << 31),
        Err(_) if !arg.is_empty() && arg.bytes().all(|b| b.is_ascii_digit()) => 1 << 31,
        Err(_) => 0,
    };
    let new = Duration::from_secs(seconds);
    *age = Some(age.map_or(new, |old| old.min(new)));
}

/// Splits at commas outside of quoted strings.
fn split_quoted(value: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    value
        .split(move |c| {
            let escape = quoted && c == '\\' && !escaped;
            if c == '"' && !escaped {
                quoted = !quoted;
            }
            escaped = escape;
            c == ',' && !quoted
        })
        .map(str::trim)
        .filter(|s| !s.is_empty())
}

/// What a request lets the cache do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// A stored answer may be used.
    pub lookup: bool,
    /// The answer may be stored.
    pub store: bool,
    /// How old a stored answer may be at most.
    pub max_age: Option<Duration>,
    /// How long a stored answer must stay fresh at least.
    pub min_fresh: Duration,
    /// Answer 504 rather than forward.
    pub only_if_cached: bool,
}

/// What a request of this method (upper case) with these headers lets the cache do.
pub fn terms(method: &str, headers: &Headers) -> Terms {
    const PERSONAL: [&str; 6] = ["authorization", "cookie", "range", "if-range", "if-match", "if-unmodified-since"];
    let cc = CacheControl::of(headers);
    let pragma = !headers::has(headers, "cache-control")
        && headers::list(headers, "pragma").any(|p| p.eq_ignore_ascii_case("no-cache"));
    let read = matches!(method, "GET" | "HEAD");
    // a body may change what a GET means to a server that reads it
    let plain = !PERSONAL.iter().any(|name| headers::has(headers, name))
        && !headers::has(headers, "transfer-encoding")
        && headers::first(headers, "content-length").is_none_or(|n| n.trim() == "0");
    Terms {
        lookup: read && plain && !cc.no_cache && !cc.no_store && !pragma,
        store: method == "GET" && plain && !cc.no_store,
        max_age: cc.max_age,
        min_fresh: cc.min_fresh.unwrap_or_default(),
        only_if_cached: cc.only_if_cached && read,
    }
}

/// Where an answer is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// On disk and in the bucket, for good.
    Disk,
    /// In memory.
    Memory(Freshness),
    /// Nowhere, for this reason.
    No(&'static str),
}

/// How long a stored answer may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// Its age when it came.
    pub initial_age: Duration,
    /// The age at which it goes stale.
    pub lifetime: Duration,
}

impl Freshness {
    /// Its age after `resident` in the store.
    pub fn age(&self, resident: Duration) -> Duration {
        self.initial_age.saturating_add(resident)
    }

    /// Whether a request on these terms may be answered with it as it is.
    pub fn serves(&self, resident: Duration, terms: &Terms) -> bool {
        let age = self.age(resident);
        age.saturating_add(terms.min_fresh) < self.lifetime && age_allowed(age, terms)
    }
}

/// Whether a request on these terms takes an answer of this age.
pub fn age_allowed(age: Duration, terms: &Terms) -> bool {
    terms.max_age.is_none_or(|max| age <= max)
}

/// The age of an answer that arrives at `now`: what Age says, or the time since Date.
pub fn initial_age(headers: &Headers, now: SystemTime) -> Duration {
    let told = headers::first(headers, "age").and_then(|a| a.trim().parse().ok()).unwrap_or(0);
    let dated = headers::first(headers, "date").and_then(headers::parse_date);
    let apparent = dated.and_then(|d| now.duration_since(d).ok()).unwrap_or_default();
    apparent.max(Duration::from_secs(told))
}

/// Where to keep an answer with this status and these headers that arrives at `now`.
pub fn keep(terms: &Terms, status: u16, headers: &Headers, now: SystemTime) -> Keep {
    if !terms.store {
        return Keep::No("the request forbids it");
    }
    if status != 200 {
        return Keep::No("status is not 200");
    }
    let cc = CacheControl::of(headers);
    if cc.no_store || cc.no_cache || cc.private {
        return Keep::No("no-store, no-cache or private");
    }
    if headers::has(headers, "set-cookie") {
        return Keep::No("sets a cookie");
    }
    if headers::list(headers, "vary").any(|v| v == "*") {
        return Keep::No("varies by more than the request");
    }
    let told = cc.s_maxage.or(cc.max_age);
    match told {
        Some(lifetime) if lifetime < SHORT_LIVED => {
            let initial_age = initial_age(headers, now);
            if initial_age < lifetime {
                Keep::Memory(Freshness { initial_age, lifetime })
            } else {
                Keep::No("stale on arrival")
            }
        }
        _ if cc.immutable || (cc.must_revalidate && told.is_some_and(|t| t > LONG_LIVED)) => {
            if !encoding_is_plain(headers) {
                Keep::No("encoded")
            } else if headers::list(headers, "vary").any(|v| !v.eq_ignore_ascii_case("accept-encoding")) {
                Keep::No("varies")
            } else {
                Keep::Disk
            }
        }
        _ => Keep::No("neither immutable nor short-lived"),
    }
}

/// Whether the body is as it is, not compressed for a client that asked for that.
pub fn encoding_is_plain(headers: &Headers) -> bool {
    headers::list(headers, "content-encoding").all(|e| e.eq_ignore_ascii_case("identity"))
}

/// The request headers that an answer varies by, with what this request says in them; two
/// requests that agree in them may share the answer.
pub fn variant(answer: &Headers, request: &Headers) -> Headers {
    let plain = encoding_is_plain(answer);
    let mut names: Vec<String> = headers::list(answer, "vary")
        .map(str::to_ascii_lowercase)
        .filter(|name| !(plain && name == "accept-encoding"))
        .collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .map(|name| {
            let said = said(request, &name);
            (name, said)
        })
        .collect()
}

/// Whether `request` says the same as the request that `variant` was made from.
pub fn same_variant(variant: &Headers, request: &Headers) -> bool {
    variant.iter().all(|(name, said_then)| *said_then == said(request, name))
}

/// All that a request says in one header, without insignificant spaces. A header that is absent
/// and one that is empty say different things.
fn said(request: &Headers, name: &str) -> String {
    if !headers::has(request, name) {
        return "absent".to_string();
    }
    format!("={}", headers::list(request, name).collect::<Vec<_>>().join(","))
}

/// Whether the client already has what these validators name: If-None-Match by weak comparison,
/// else If-Modified-Since. `etag` and `modified` are the stored answer's ETag and Last-Modified.
pub fn client_has_it(request: &Headers, etag: Option<&str>, modified: Option<&str>) -> bool {
    if headers::has(request, "if-none-match") {
        let Some(etag) = etag else { return false };
        return headers::all(request, "if-none-match")
            .flat_map(split_quoted)
            .any(|tag| tag == "*" || opaque(tag) == opaque(etag));
    }
    let since = headers::first(request, "if-modified-since").and_then(headers::parse_date);
    let modified = modified.and_then(headers::parse_date);
    matches!((since, modified), (Some(since), Some(modified)) if modified <= since)
}

fn opaque(tag: &str) -> &str {
    let tag = tag.trim();
    tag.strip_prefix("W/").unwrap_or(tag)
}

#[cfg(test)]
mod tests;
