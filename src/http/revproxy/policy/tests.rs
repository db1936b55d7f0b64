//! The decisions, case by case.

use super::*;
use std::time::UNIX_EPOCH;

const SECOND: Duration = Duration::from_secs(1);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(784_111_777)
}

fn h(list: &[(&str, &str)]) -> Headers {
    list.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()
}

fn kept(cache_control: &str) -> Keep {
    kept_with(cache_control, &[])
}

fn kept_with(cache_control: &str, more: &[(&str, &str)]) -> Keep {
    let mut headers = h(more);
    headers.push(("cache-control".into(), cache_control.into()));
    keep(&terms("GET", &h(&[])), 200, &headers, now())
}

fn memory(seconds: u64) -> Keep {
    Keep::Memory(Freshness { initial_age: Duration::ZERO, lifetime: SECOND * seconds as u32 })
}

#[test]
fn the_reference_s_choice_of_stores() {
    assert_eq!(kept("public, max-age=31536000, immutable"), Keep::Disk);
    assert_eq!(kept("immutable"), Keep::Disk);
    assert_eq!(kept("Max-Age=5184001 , MUST-REVALIDATE"), Keep::Disk);
    assert_eq!(kept("max-age=3599"), memory(3599));
    assert_eq!(kept("max-age=\"60\""), memory(60));
    // what lies between
    for between in
        ["max-age=3600", "max-age=5184000, must-revalidate", "must-revalidate", "public", "", "max-age=31536000"]
    {
        assert!(matches!(kept(between), Keep::No(_)), "{between:?}");
    }
}

#[test]
fn nothing_meant_for_one_person_is_kept() {
    for cc in [
        "no-store, immutable",
        "immutable, No-Store",
        "private, immutable",
        "private=\"set-cookie, x\", immutable",
        "no-cache, immutable",
        "no-cache=\"x\", max-age=60",
    ] {
        assert!(matches!(kept(cc), Keep::No(_)), "{cc:?}");
    }
    assert!(matches!(kept_with("immutable", &[("Set-Cookie", "a=b")]), Keep::No(_)));
    for header in ["Authorization", "Cookie", "Range", "If-Range"] {
        let t = terms("GET", &h(&[(header, "x")]));
        assert!(!t.lookup && !t.store, "{header}");
        assert!(matches!(keep(&t, 200, &h(&[("cache-control", "immutable")]), now()), Keep::No(_)));
    }
}

#[test]
fn only_whole_answers_to_plain_gets_are_kept() {
    let immutable = h(&[("cache-control", "immutable")]);
    for status in [201, 203, 206, 301, 304, 404, 500] {
        assert!(matches!(keep(&terms("GET", &h(&[])), status, &immutable, now()), Keep::No(_)));
    }
    for method in ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"] {
        assert!(!terms(method, &h(&[])).store, "{method}");
        assert_eq!(terms(method, &h(&[])).lookup, method == "HEAD");
    }
    assert!(!terms("GET", &h(&[("content-length", "3")])).lookup);
    assert!(!terms("GET", &h(&[("transfer-encoding", "chunked")])).store);
    assert!(terms("GET", &h(&[("content-length", "0")])).store);
}

#[test]
fn what_varies_is_kept_in_memory_with_its_variant_or_not_at_all() {
    assert_eq!(kept_with("immutable", &[("Vary", "accept-ENCODING")]), Keep::Disk);
    assert!(matches!(
        kept_with("immutable", &[("Vary", "Accept-Encoding"), ("Content-Encoding", "gzip")]),
        Keep::No(_)
    ));
    assert!(matches!(kept_with("immutable", &[("Content-Encoding", "br")]), Keep::No(_)));
    assert!(matches!(kept_with("immutable", &[("Vary", "Origin")]), Keep::No(_)));
    assert!(matches!(kept_with("max-age=60", &[("Vary", "Origin, *")]), Keep::No(_)));
    assert_eq!(kept_with("max-age=60", &[("Vary", "Origin")]), memory(60));

    let request = h(&[("accept", "text/html,  text/plain"), ("Origin", "http://a")]);
    let v = variant(&h(&[("vary", "Origin, Accept"), ("vary", "origin")]), &request);
    assert_eq!(v.len(), 2);
    assert!(same_variant(&v, &request));
    assert!(same_variant(&v, &h(&[("ACCEPT", "text/html"), ("accept", "text/plain"), ("origin", "http://a")])));
    assert!(!same_variant(&v, &h(&[("accept", "text/html, text/plain")])));
    assert!(!same_variant(&v, &h(&[("accept", "text/html"), ("origin", "http://a")])));
    // absent is not empty, and a value cannot pretend to be an absent header
    let absent = variant(&h(&[("vary", "origin")]), &h(&[]));
    assert!(!same_variant(&absent, &h(&[("origin", "")])) && !same_variant(&absent, &h(&[("origin", "absent")])));
    // an unencoded answer suits all, an encoded one only who asked alike
    assert!(variant(&h(&[("vary", "Accept-Encoding")]), &request).is_empty());
    let gzip =
        variant(&h(&[("vary", "Accept-Encoding"), ("content-encoding", "gzip")]), &h(&[("accept-encoding", "gzip")]));
    assert!(!same_variant(&gzip, &h(&[])));
}

#[test]
fn a_shared_cache_goes_by_s_maxage_and_by_age() {
    assert_eq!(kept("max-age=31536000, s-maxage=60"), memory(60));
    assert!(matches!(kept("max-age=60, s-maxage=0"), Keep::No(_)));
    assert!(matches!(kept("max-age=60, max-age=0"), Keep::No(_)));
    assert!(matches!(kept("max-age=tomorrow"), Keep::No(_)));
    assert!(matches!(kept("max-age=-1"), Keep::No(_)));
    assert_eq!(kept("max-age=99999999999999999999, must-revalidate"), Keep::Disk);
    let aged = |age| kept_with("max-age=60", &[("Age", age)]);
    assert_eq!(aged("59"), Keep::Memory(Freshness { initial_age: 59 * SECOND, lifetime: 60 * SECOND }));
    assert!(matches!(aged("60"), Keep::No(_)));
    let dated = kept_with("max-age=60", &[("Date", "Sun, 06 Nov 1994 08:49:27 GMT"), ("age", "3")]);
    assert_eq!(dated, Keep::Memory(Freshness { initial_age: 10 * SECOND, lifetime: 60 * SECOND }));
    // a server whose clock is ahead of ours
    assert_eq!(kept_with("max-age=60", &[("Date", "Sun, 06 Nov 1994 09:49:27 GMT")]), memory(60));
}

#[test]
fn requests_may_narrow_what_serves_them() {
    let f = Freshness { initial_age: 10 * SECOND, lifetime: 60 * SECOND };
    let any = terms("GET", &h(&[]));
    assert_eq!(f.age(5 * SECOND), 15 * SECOND);
    assert!(f.serves(49 * SECOND, &any));
    assert!(!f.serves(50 * SECOND, &any));
    assert!(!f.serves(Duration::MAX, &any));
    let young = terms("GET", &h(&[("cache-control", "max-age=20")]));
    assert!(f.serves(10 * SECOND, &young) && !f.serves(11 * SECOND, &young));
    let lasting = terms("GET", &h(&[("cache-control", "min-fresh=30")]));
    assert!(f.serves(19 * SECOND, &lasting) && !f.serves(20 * SECOND, &lasting));
    let reload = terms("GET", &h(&[("cache-control", "no-cache")]));
    assert!(!reload.lookup && reload.store);
    assert!(!terms("GET", &h(&[("pragma", "no-cache")])).lookup);
    assert!(terms("GET", &h(&[("pragma", "no-cache"), ("cache-control", "max-age=9")])).lookup);
    assert!(!terms("GET", &h(&[("cache-control", "no-store")])).store);
    assert!(terms("GET", &h(&[("cache-control", "only-if-cached")])).only_if_cached);
}

#[test]
fn conditions_of_clients() {
    let tag = |value| client_has_it(&h(&[("if-none-match", value)]), Some("\"a,b\""), None);
    assert!(tag("\"x\", W/\"a,b\""));
    assert!(tag("*"));
    assert!(!tag("\"a\""));
    assert!(!tag("a,b"));
    assert!(!client_has_it(&h(&[("if-none-match", "\"a\"")]), None, None));
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    let since = h(&[("If-Modified-Since", date)]);
    assert!(client_has_it(&since, None, Some(date)));
    assert!(client_has_it(&since, None, Some("Sun, 06 Nov 1994 08:49:36 GMT")));
    assert!(!client_has_it(&since, None, Some("Sun, 06 Nov 1994 08:49:38 GMT")));
    assert!(!client_has_it(&since, None, None));
    // a tag that does not match is the end of it
    let both = h(&[("If-Modified-Since", date), ("if-none-match", "\"x\"")]);
    assert!(!client_has_it(&both, Some("\"y\""), Some(date)));
    assert!(!client_has_it(&h(&[]), Some("\"y\""), Some(date)));
}
