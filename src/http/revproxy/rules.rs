//! What may be kept, for whom, and when it may be used: RFC 9111, as http-cache-semantics decides it.
//! Pure; the clock is an argument.
//!
//! The library is shown what headers say in a form that it reads right: one Cache-Control in lower
//! case with numbers in range, dates of one form, an Age that counts what Date tells. Stricter than
//! it, and than the RFC: what was made for a request with a cookie is kept only where that holds for one
//! with Authorization (3.5), what sets a cookie only where it says how long caches may keep it; a
//! malformed Age counts as old.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use http_cache_semantics::{BeforeRequest, CacheOptions, CachePolicy};
use ureq::http::{Request, Response};

use crate::headers::{self, HeaderMap, HeaderName, value};
use crate::id::OutputId;
use crate::text::{first_of, number};

/// Seconds that stand for any longer time (RFC 9111, 1.2.2).
const LONGEST: u64 = 1 << 31;
/// Statuses whose meaning for a cache is known here, for `must-understand`.
const UNDERSTOOD: [u16; 14] = [200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501];
/// Requests with a header that begins so go past the cache: it is about one client's own copy; or it may choose
/// the answer, of a server that goes by it and does not say so in Vary, and so would choose it for everybody.
const PAST: [&str; 11] = [
    "if-match", "if-unmodified-since", "forwarded", "front-end-https", "x-forwarded-", "x-host", "x-http-",
    "x-method-override", "x-original-", "x-rewrite-", "x-url-scheme",
];
/// `immutable` answers that say nothing else are fresh for so long.
const FOR_GOOD: Duration = Duration::from_secs(LONGEST);

/// So far an origin's clock may be ahead of ours.
const SKEW: Duration = Duration::from_secs(86_400);

/// The directives of Cache-Control, in lower case.
#[derive(Clone, Debug, Default)]
pub struct Directives(BTreeMap<String, u64>);

impl Directives {
    /// Those of all Cache-Control headers; where one has several numbers, the smallest counts.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut all = BTreeMap::new();
        for directive in headers::list(headers, "cache-control") {
            let (name, arg) = directive.split_once('=').unwrap_or((&directive, ""));
            let name = name.trim().to_ascii_lowercase();
            // without a number, a client takes any stale answer
            let none = if name == "max-stale" && arg.is_empty() { LONGEST } else { 0 };
            let seconds = seconds(arg.trim().trim_matches('"')).unwrap_or(none);
            all.entry(name).and_modify(|old: &mut u64| *old = (*old).min(seconds)).or_insert(seconds);
        }
        Directives(all)
    }

    /// Whether `name` is among them, with an argument or without.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.has(name))
    }

    /// They in one line that holds only what the library knows.
    fn line(&self) -> String {
        let known = |(name, seconds): (&String, &u64)| match name.as_str() {
            "max-age" | "s-maxage" | "min-fresh" | "max-stale" => Some(format!("{name}={seconds}")),
            "no-store" | "no-cache" | "private" | "public" | "must-revalidate" | "immutable" => Some(name.clone()),
            _ => None,
        };
        self.0.iter().filter_map(known).collect::<Vec<_>>().join(", ")
    }
}

/// A number of seconds; too large ones are [`LONGEST`].
fn seconds(text: &str) -> Option<u64> {
    number(text).map(|seconds| seconds.min(LONGEST))
}

/// What a request lets the cache do.
pub struct Terms {
    /// Its headers for the target.
    pub headers: HeaderMap,
    /// A stored answer may be used.
    pub lookup: bool,
    /// The answer may be stored.
    pub store: bool,
    /// It is a GET, of which there are ranges.
    pub get: bool,
    /// Answer 504 rather than forward.
    pub only_if_cached: bool,
    told: Directives,
    view: Request<()>,
}

impl Terms {
    /// The terms of a request with these headers, those for one hop dropped; `body` says whether
    /// it has one, which may change what a GET means to its server.
    pub fn new(method: &str, headers: HeaderMap, body: bool) -> Self {
        let mut told = Directives::of(&headers);
        // what stands in for Cache-Control where there is none
        if !headers.contains_key("cache-control") && headers::list(&headers, "pragma").any(|p| p == "no-cache") {
            told.0.insert("no-cache".to_string(), 0);
        }
        let (get, read) = (method == "GET", matches!(method, "GET" | "HEAD"));
        // who asks by way of another proxy asks the same
        let past = |name: &str| name != "x-forwarded-for" && PAST.iter().any(|start| name.starts_with(start));
        let plain = !body && !headers.keys().any(|name| past(name.as_str()));
        let mut view = Request::new(());
        view.headers_mut().insert("cache-control", value(told.line()));
        Terms {
            lookup: read && plain && !told.has("no-store"),
            store: get && plain && !told.has("no-store"),
            get,
            only_if_cached: read && told.has("only-if-cached"),
            headers,
            told,
            view,
        }
    }
}

/// What holds for one answer.
#[derive(Clone, Debug)]
pub struct Rules {
    policy: CachePolicy,
    told: Directives,
    /// Whether it may be stored, as far as that is for the answer itself to say, or why not.
    storable: Result<(), &'static str>,
    /// When it came.
    at: SystemTime,
}

impl Rules {
    /// The rules of an answer that came at `at`.
    pub fn new(status: u16, headers: &HeaderMap, at: SystemTime) -> Self {
        let told = Directives::of(headers);
        let mut view = HeaderMap::new();
        let lifetime = told.any(&["max-age", "s-maxage"]) || headers.contains_key("expires");
        view.insert("cache-control", value(told.line()));
        for name in ["date", "expires", "last-modified"].into_iter().filter(|name| headers.contains_key(*name)) {
            // malformed, Expires says that the answer has expired, and the others say nothing
            let date = headers::date(headers, name).map_or("0".to_string(), httpdate::fmt_http_date);
            view.insert(name, value(date));
        }
        view.insert("age", value(initial_age(headers, at).to_string()));
        let says_how_long = lifetime || told.has("public");
        let known = (200..600).contains(&status) && !matches!(status, 206 | 304);
        let mut response = Response::new(());
        // what says itself how long it is fresh may be kept whatever its status
        let plain = if known && says_how_long { 200 } else { status };
        *response.status_mut() = plain.try_into().unwrap_or_default();
        *response.headers_mut() = view;
        // immutable is an answer for as long as it is fresh (RFC 8246, 2)
        let immutable_min_time_to_live = if lifetime { Duration::ZERO } else { FOR_GOOD };
        let options = CacheOptions { immutable_min_time_to_live, ..CacheOptions::default() };
        let policy = CachePolicy::new_options(&Request::new(()), &response, at, options);
        let useful = !policy.is_stale(at) || ["etag", "last-modified"].iter().any(|v| headers.contains_key(*v));
        let mut varies_by = headers::list(headers, "vary");
        let storable = first_of(&[
            (!known || !policy.is_storable(), "its server forbids it"),
            (told.has("must-understand") && !UNDERSTOOD.contains(&status), "its status is not understood"),
            (headers.contains_key("set-cookie") && !says_how_long, "it sets a cookie"),
            (!varies_by.all(|v| v != "*" && v.parse::<HeaderName>().is_ok()), "it varies by more than the request"),
            (!useful && !told.any(&["stale-while-revalidate", "stale-if-error"]), "it is stale on arrival"),
        ]);
        Rules { policy, told, storable, at }
    }

    /// Whether the answer may be stored, where it is one to a request on these terms. The error says why not.
    pub fn storable(&self, terms: &Terms) -> Result<(), &'static str> {
        let personal = ["authorization", "cookie"].iter().any(|name| terms.headers.contains_key(*name));
        let by_request = first_of(&[
            (!terms.store, "the request forbids it"),
            (personal && !self.for_all(), "it may be meant for who asked"),
        ]);
        by_request.and(self.storable)
    }

    /// Whether it is for all, even where it was made for a request with Authorization.
    pub fn for_all(&self) -> bool {
        self.told.any(&["public", "must-revalidate", "s-maxage"])
    }

    /// Whether it may be used for a request on these terms as it is.
    pub fn serves(&self, terms: &Terms, now: SystemTime) -> bool {
        matches!(self.policy.before_request(&terms.view, now), BeforeRequest::Fresh(_))
            && !(self.policy.is_stale(now) && self.strict())
            // of a clock that was set back since then, nobody knows how old it is
            && self.at <= now + SKEW
            && (!terms.headers.contains_key("authorization") || self.for_all())
    }

    /// Whether, gone stale, it may be used all the same, as `name` (`stale-while-revalidate`,
    /// `stale-if-error`) says here or, of the latter, in the request.
    pub fn serves_stale(&self, name: &str, terms: &Terms, now: SystemTime) -> bool {
        let over = self.age(now).saturating_sub(self.lifetime());
        let asked = terms.told.0.get(name).filter(|_| name == "stale-if-error");
        let most = self.told.0.get(name).max(asked).copied().unwrap_or(0);
        !self.strict()
            && over.as_secs() < most
            && !terms.told.any(&["no-cache", "max-age", "min-fresh"])
            && (!terms.headers.contains_key("authorization") || self.for_all())
    }

    /// Whether it is never used stale.
    fn strict(&self) -> bool {
        self.told.any(&["must-revalidate", "proxy-revalidate", "s-maxage", "no-cache"])
    }

    /// Its age.
    pub fn age(&self, now: SystemTime) -> Duration {
        self.policy.age(now)
    }

    /// The age at which it goes stale.
    pub fn lifetime(&self) -> Duration {
        // at the beginning of time it is as old as it came
        let at = SystemTime::UNIX_EPOCH;
        if self.policy.is_stale(at) { Duration::ZERO } else { self.policy.time_to_live(at) + self.policy.age(at) }
    }

    /// Whether it is said to be immutable, or fresh for so long and to be checked then that nothing
    /// else is meant.
    pub fn for_good(&self) -> bool {
        const LONG: u64 = 60 * 24 * 3600;
        let told = self.told.0.get("s-maxage").or(self.told.0.get("max-age"));
        self.told.has("immutable") || self.told.has("must-revalidate") && told.is_some_and(|t| *t > LONG)
    }
}

/// The age in seconds of an answer that came at `at`: what Age says, or the time since Date. An Age
/// that is not one number is a very high one.
fn initial_age(headers: &HeaderMap, at: SystemTime) -> u64 {
    let mut ages = headers.get_all("age").into_iter();
    let told = match (ages.next(), ages.next()) {
        (None, _) => 0,
        (Some(one), None) => one.to_str().ok().and_then(|age| seconds(age.trim())).unwrap_or(LONGEST),
        _ => LONGEST,
    };
    let apparent = headers::date(headers, "date").and_then(|date| at.duration_since(date).ok()).unwrap_or_default();
    told.max(apparent.as_secs()).min(LONGEST)
}

/// Whether the body is as it is, not compressed for a client that asked for that.
pub fn encoding_is_plain(headers: &HeaderMap) -> bool {
    headers::list(headers, "content-encoding").all(|e| e.eq_ignore_ascii_case("identity"))
}

/// The request headers that an answer varies by, with what a request says in them, as [`said`] tells it; two
/// requests that agree in them may share the answer.
pub type Variant = Vec<(String, String)>;

/// The variant that the answer to `request` is. A plain answer that varies by Accept-Encoding suits
/// every client.
pub fn variant(answer: &HeaderMap, request: &HeaderMap) -> Variant {
    let plain = encoding_is_plain(answer);
    let names = headers::list(answer, "vary").map(|name| name.to_ascii_lowercase());
    let mut names: Vec<String> = names.filter(|name| !(plain && name == "accept-encoding")).collect();
    names.sort();
    names.dedup();
    names.into_iter().map(|name| (name.clone(), said(request, &name))).collect()
}

/// Whether `request` says the same as the request that `variant` was made from.
pub fn same_variant(variant: &Variant, request: &HeaderMap) -> bool {
    variant.iter().all(|(name, said_then)| *said_then == said(request, name))
}

/// The SHA-256 of all that a request says in one header, without insignificant spaces: it may be a secret, and
/// is written to disk. A header that is absent and one that is empty say different things.
fn said(request: &HeaderMap, name: &str) -> String {
    if !request.contains_key(name) {
        return "absent".to_string();
    }
    let mut text = request.get_all(name).iter().map(|v| v.as_bytes()).collect::<Vec<_>>().join(&b',');
    let is_set = matches!(name, "accept-language" | "accept-encoding");
    if is_set {
        text.make_ascii_lowercase();
        text.retain(|b| *b != b' ');
    }
    let mut parts: Vec<_> = text.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|p| !p.is_empty()).collect();
    if is_set {
        parts.sort_unstable();
    }
    OutputId::of(&parts.join(&b',')).to_string()
}

/// Whether the client already has what an answer with these headers holds: If-None-Match by weak
/// comparison, else If-Modified-Since.
pub fn client_has_it(request: &HeaderMap, answer: &HeaderMap) -> bool {
    if request.contains_key("if-none-match") {
        let Some(etag) = headers::first(answer, "etag") else { return false };
        let opaque = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_string();
        return headers::list(request, "if-none-match").any(|tag| tag == "*" || opaque(&tag) == opaque(etag));
    }
    let modified = headers::date(answer, "last-modified").or_else(|| headers::date(answer, "date"));
    matches!((headers::date(request, "if-modified-since"), modified), (Some(since), Some(at)) if at <= since)
}

#[cfg(test)]
mod tests;
