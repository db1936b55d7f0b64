//! The decisions, case by case.

use super::*;
use crate::http::revproxy::tests::headers as h;
use std::time::UNIX_EPOCH;

const SECOND: Duration = Duration::from_secs(1);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(784_111_777)
}

fn terms(list: &[(&str, &str)]) -> Terms {
    Terms::new("GET", h(list), false)
}

fn rules(list: &[(&str, &str)]) -> Rules {
    Rules::new(200, &h(list), now())
}

/// Why an answer with these headers may not be stored.
fn refused(list: &[(&str, &str)]) -> Option<&'static str> {
    rules(list).storable(&terms(&[])).err()
}

fn lifetime(cache_control: &str) -> u64 {
    rules(&[("cache-control", cache_control)]).lifetime().as_secs()
}

#[test]
fn nothing_meant_for_one_person_is_kept() {
    for cc in
        ["no-store, max-age=9", "max-age=9, No-Store", "private, max-age=9", "private=\"set-cookie, x\", max-age=9"]
    {
        assert!(refused(&[("cache-control", cc)]).is_some(), "{cc}");
    }
    let fresh = ("cache-control", "max-age=9");
    assert!(refused(&[fresh]).is_none());
    for (cc, kept) in
        [("immutable", false), ("", false), ("max-age=9", true), ("public", true), ("private, max-age=9", false)]
    {
        let list = [("cache-control", cc), ("set-cookie", "a=b"), ("last-modified", "Sun, 06 Nov 1993 08:49:37 GMT")];
        assert_eq!(refused(&list).is_none(), kept, "{cc}");
    }
    for who in ["authorization", "cookie"] {
        let asked = terms(&[(who, "x")]);
        for (cc, kept) in
            [("immutable", false), ("max-age=9", false), ("public, max-age=9", true), ("s-maxage=9", true)]
        {
            let rules = rules(&[("cache-control", cc)]);
            assert_eq!(rules.storable(&asked).is_ok(), kept, "{who}, {cc}");
            // without Authorization made, it may still not be for who sends it
            assert_eq!(rules.serves(&asked, now()), kept || who == "cookie", "{who}, {cc}");
        }
    }
}

#[test]
fn only_answers_to_plain_gets_are_kept() {
    for method in ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"] {
        let terms = Terms::new(method, h(&[]), false);
        assert_eq!((terms.store, terms.lookup), (false, method == "HEAD"), "{method}");
    }
    assert!(!Terms::new("GET", h(&[]), true).lookup);
    for (name, value) in [("cache-control", "no-store"), ("if-match", "\"a\"")] {
        assert!(!terms(&[(name, value)]).store, "{name}");
    }
    let stored = |status, cc| Rules::new(status, &h(&[("cache-control", cc)]), now()).storable(&terms(&[])).is_ok();
    for status in [200, 204, 299, 301, 302, 404, 500, 599] {
        assert!(stored(status, "max-age=9"), "{status}");
    }
    assert!(!stored(206, "max-age=9") && !stored(304, "max-age=9") && !stored(599, "max-age=9, must-understand"));
    assert!(stored(404, "max-age=9, must-understand") && !stored(403, ""));
}

#[test]
fn how_long_answers_are_fresh() {
    assert_eq!(lifetime("Max-Age=\"60\""), 60);
    assert_eq!(lifetime("max-age=31536000, s-maxage=60"), 60);
    assert_eq!(lifetime("x=\"max-age=60\", max-age=007"), 7);
    assert_eq!(lifetime("max-age=60, max-age=0"), 0);
    assert_eq!(lifetime("max-age=60, no-cache"), 0);
    assert_eq!(lifetime("max-age=99999999999999999999"), LONGEST);
    for none in ["max-age=tomorrow", "max-age=-1", "max-age", "max-age='9'", "public", ""] {
        assert_eq!(lifetime(none), 0, "{none}");
    }
    assert!(lifetime("immutable") > 1 << 30);
    // immutable, but not for ever
    let expired = ("expires", "Sun, 06 Nov 1994 08:49:36 GMT");
    assert!(!rules(&[("cache-control", "immutable"), expired]).serves(&terms(&[]), now()));
    assert_eq!(lifetime("immutable, max-age=60"), 60);
    for date in ["Sun, 06 Nov 1994 08:50:37 GMT", "Sunday, 06-Nov-94 08:50:37 GMT", "Sun Nov  6 08:50:37 1994"] {
        assert_eq!(rules(&[("expires", date)]).lifetime(), 60 * SECOND, "{date}");
    }
    assert_eq!(
        rules(&[("expires", "0"), ("last-modified", "Sun, 06 Nov 1993 08:49:37 GMT")]).lifetime(),
        Duration::ZERO
    );
    // a tenth of the time since it was changed last
    assert_eq!(rules(&[("last-modified", "Sun, 06 Nov 1994 08:48:37 GMT")]).lifetime(), 6 * SECOND);
}

#[test]
fn how_old_answers_are() {
    let age = |list: &[(&str, &str)]| rules(list).age(now() + 5 * SECOND).as_secs();
    assert_eq!(age(&[]), 5);
    assert_eq!(age(&[("age", "7")]), 12);
    assert_eq!(age(&[("age", "3"), ("date", "Sun, 06 Nov 1994 08:49:27 GMT")]), 15);
    // a server whose clock is ahead of ours
    assert_eq!(age(&[("date", "Sun, 06 Nov 1994 09:49:27 GMT")]), 5);
    for odd in ["abc", "-1", "1.0", "0, 0", "7;a=b", "99999999999999999999999"] {
        assert!(age(&[("age", odd)]) > 1 << 30, "{odd}");
    }
    assert!(age(&[("age", "0"), ("age", "0")]) > 1 << 30);
}

#[test]
fn requests_may_narrow_and_widen_what_serves_them() {
    let aged = rules(&[("cache-control", "max-age=60"), ("age", "10")]);
    let serves = |cc: &str, after: u32| aged.serves(&terms(&[("cache-control", cc)]), now() + after * SECOND);
    assert!(serves("x", 49) && !serves("x", 50));
    assert!(serves("max-age=20", 10) && !serves("max-age=20", 11));
    assert!(serves("min-fresh=30", 20) && !serves("min-fresh=30", 21));
    assert!(serves("max-stale=10", 59) && !serves("max-stale=10", 60) && serves("Max-Stale", 9999));
    assert!(!serves("no-cache", 0));
    assert!(!aged.serves(&terms(&[("pragma", "no-cache")]), now()));
    assert!(aged.serves(&terms(&[("pragma", "no-cache"), ("cache-control", "max-age=90")]), now()));
    for strict in ["must-revalidate", "proxy-revalidate", "s-maxage=60", "no-cache"] {
        let rules = rules(&[("cache-control", &format!("max-age=60, stale-if-error=99, {strict}"))]);
        let later = now() + 61 * SECOND;
        assert!(!rules.serves(&terms(&[("cache-control", "max-stale")]), later), "{strict}");
        assert!(!rules.serves_stale("stale-if-error", &terms(&[]), later), "{strict}");
    }
    let soft = rules(&[("cache-control", "max-age=60, stale-while-revalidate=10")]);
    let stale = |name, terms, after: u32| soft.serves_stale(name, &terms, now() + after * SECOND);
    assert!(stale("stale-while-revalidate", terms(&[]), 69) && !stale("stale-while-revalidate", terms(&[]), 70));
    assert!(!stale("stale-while-revalidate", terms(&[("cache-control", "no-cache")]), 61));
    assert!(!stale("stale-if-error", terms(&[]), 61));
    assert!(stale("stale-if-error", terms(&[("cache-control", "stale-if-error=9")]), 68));
    assert!(terms(&[("cache-control", "only-if-cached")]).only_if_cached);
}

#[test]
fn variants_are_told_apart_by_what_requests_say() {
    let request = h(&[("accept", "text/html,  text/plain"), ("Origin", "http://a"), ("accept-language", "de, EN")]);
    let v = variant(&h(&[("vary", "Origin, Accept"), ("vary", "origin")]), &request);
    assert_eq!(v.len(), 2);
    assert!(same_variant(&v, &request));
    assert!(same_variant(&v, &h(&[("ACCEPT", "text/html"), ("accept", "text/plain"), ("origin", "http://a")])));
    assert!(!same_variant(&v, &h(&[("accept", "text/html, text/plain")])));
    let language = variant(&h(&[("vary", "Accept-Language")]), &request);
    assert!(same_variant(&language, &h(&[("accept-language", "en , De")])));
    // absent is not empty, and a value cannot pretend to be an absent header
    let absent = variant(&h(&[("vary", "origin")]), &h(&[]));
    assert!(!same_variant(&absent, &h(&[("origin", "")])) && !same_variant(&absent, &h(&[("origin", "absent")])));
    let odd = |bytes: &[u8]| HeaderMap::from_iter([("origin".parse().unwrap(), bytes.try_into().unwrap())]);
    assert!(!same_variant(&variant(&h(&[("vary", "origin")]), &odd(b"\xe9")), &odd(b"\xe8")));
    // an unencoded answer suits all, an encoded one only who asked alike
    assert!(variant(&h(&[("vary", "Accept-Encoding")]), &request).is_empty());
    let gzip =
        variant(&h(&[("vary", "Accept-Encoding"), ("content-encoding", "gzip")]), &h(&[("accept-encoding", "gzip")]));
    assert!(!same_variant(&gzip, &h(&[])));
    assert!(refused(&[("vary", "Origin, *"), ("cache-control", "max-age=9")]).is_some());
}

#[test]
fn conditions_of_clients() {
    let answer = h(&[("etag", "\"a,b\""), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")]);
    let has = |list: &[(&str, &str)]| client_has_it(&h(list), &answer);
    assert!(has(&[("if-none-match", "\"x\", W/\"a,b\"")]) && has(&[("if-none-match", "*")]));
    assert!(!has(&[("if-none-match", "\"a\"")]));
    let since = |time: &str| has(&[("if-modified-since", &format!("Sun, 06 Nov 1994 {time} GMT"))]);
    assert!(since("08:49:37") && since("09:49:37") && !since("08:49:36"));
    assert!(has(&[("if-modified-since", "Sunday, 06-Nov-94 08:49:37 GMT")]));
    assert!(!has(&[("if-none-match", "\"x\""), ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT")]));
}

#[test]
fn what_came_before_the_clock_was_set_back_far_is_stale() {
    let answer = rules(&[("cache-control", "max-age=90000, stale-if-error=9")]);
    assert!(answer.serves(&terms(&[]), now() - SECOND) && !answer.serves(&terms(&[]), now() - 2 * SKEW));
    assert!(answer.serves_stale("stale-if-error", &terms(&[]), now() - 2 * SKEW));
}
