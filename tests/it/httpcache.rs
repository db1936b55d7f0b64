//! What the reverse proxy keeps and when it uses that: the public HTTP cache tests, and attacks on what
//! others are given.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::revproxy::Proxy;
use crate::support::env::{TempDir, may_mount, mount, poll, run};
use crate::support::origin::{Origin, answer};

/// The version of http-cache-tests.
const VERSION: &str = "0.4.5";

/// Required tests that cannot pass, or are not meant to; README says why.
const KNOWN: [&str; 6] = [
    "age-parse-prefix",
    "headers-store-Transfer-Encoding",
    "stale-close-must-revalidate",
    "stale-close-no-cache",
    "stale-close-proxy-revalidate",
    "stale-close-s-maxage=2",
];

/// The unpacked package, fetched once.
fn package() -> PathBuf {
    let base = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it lies in target/");
    let home = base.join(format!("http-cache-tests-{VERSION}"));
    if home.join("package/cli.mjs").exists() {
        return home.join("package");
    }
    let making = base.join(format!(".http-cache-tests-{}", std::process::id()));
    fs::create_dir_all(&making).expect("target/ is writable");
    let out = Command::new("npm")
        .args(["pack", "--silent", &format!("http-cache-tests@{VERSION}")])
        .current_dir(&making)
        .output()
        .unwrap_or_else(|e| panic!("npm, to fetch http-cache-tests: {e}"));
    assert!(out.status.success(), "npm pack http-cache-tests: {}", String::from_utf8_lossy(&out.stderr));
    let tar = format!("http-cache-tests-{VERSION}.tgz");
    let status = Command::new("tar").args(["xzf", &tar]).current_dir(&making).status().expect("tar runs");
    assert!(status.success(), "{tar} is no archive");
    // another test process may have been faster
    if fs::rename(&making, &home).is_err() {
        let _ = fs::remove_dir_all(&making);
    }
    home.join("package")
}

#[test]
fn the_public_cache_tests_pass() {
    if Command::new("node").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "no node, which the HTTP cache tests need: install it");
        eprintln!("\n*** NOT RUN: the HTTP cache tests, for want of node: install nodejs and npm ***\n");
        return;
    }
    let dir = TempDir::new();
    let proxy = Proxy::start(&dir, "127.0.0.1", |p| p);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/httpcache/run.mjs");
    let ask = |ids: Option<String>| {
        let mut node = Command::new("node");
        node.arg(script).arg(package()).arg(format!("127.0.0.1:{}", proxy.port)).args(ids);
        serde_json::from_str::<serde_json::Map<String, Value>>(&run(node).ok().stdout).expect("the results are JSON")
    };
    let mut told = ask(None);
    // some want the next request within a second, which a busy machine may miss
    for _ in 0..3 {
        let failed = told.iter().filter(|(_, test)| test["result"] != true && test["kind"] != "check");
        let failed: Vec<_> = failed.map(|(id, _)| id.as_str()).filter(|id| !KNOWN.contains(id)).collect();
        let again = ask(Some(failed.join(",")));
        told.extend(again.into_iter().filter(|(_, test)| test["result"] == true));
    }
    let of = |kind: &str| {
        let all = told.iter().filter(|(_, test)| test["kind"] == kind);
        let (passed, failed): (Vec<_>, Vec<_>) = all.partition(|(_, test)| test["result"] == true);
        (passed.len(), failed.iter().map(|(id, test)| format!("{id}: {}", test["result"])).collect::<Vec<_>>())
    };
    let ((required, not), (optimal, missed)) = (of("required"), of("optimal"));
    assert_eq!((required + not.len(), optimal + missed.len()), (157, 86), "the tests themselves have changed");
    let odd: Vec<_> = not.iter().filter(|line| !KNOWN.contains(&line.split(": ").next().unwrap())).collect();
    assert!(odd.is_empty() && required >= 150, "{required} of 157 required: {odd:#?}");
    assert!(optimal >= 75, "{optimal} of 86 optimal: {missed:#?}");
    proxy.stop();
}

/// The path of a request.
fn path(request: &str) -> &str {
    request.split(' ').nth(1).unwrap()
}

fn lower(request: &str) -> String {
    request.to_ascii_lowercase()
}

#[test]
fn what_has_expired_is_not_served_however_it_says_so() {
    let dir = TempDir::new();
    let origin = Origin::http(|request| {
        let expired = match path(request) {
            "/expires" => "Cache-Control: immutable\nExpires: Sun, 06 Nov 1994 08:49:37 GMT",
            "/age" => "Cache-Control: immutable, max-age=7200\nAge: 7200",
            "/ages" => "Cache-Control: immutable, max-age=7200\nAge: 1\nAge: 2",
            "/date" => "Cache-Control: immutable, max-age=7200\nDate: Sun, 06 Nov 1994 08:49:37 GMT",
            "/zero" => "Cache-Control: immutable, s-maxage=0",
            _ => "Cache-Control: max-age=7200\nAge: 99999999999999999999999999",
        };
        answer(&format!("{expired}\nETag: \"a\""), "x")
    });
    let proxy = Proxy::start(&dir, &origin.host(), |p| p);
    for path in ["/expires", "/age", "/ages", "/date", "/zero", "/huge"] {
        for n in 1..=2 {
            assert_eq!(proxy.curl(&dir, &[&format!("http://{}{path}", origin.host())]).body, "x");
            assert_eq!(origin.count(path), n, "{path}");
        }
    }
    proxy.stop();
}

#[test]
fn a_client_s_own_condition_confirms_nothing_of_ours() {
    let dir = TempDir::new();
    let version = Arc::new(AtomicUsize::new(1));
    let now = version.clone();
    let origin = Origin::http(move |request| {
        let v = format!("v{}", now.load(Ordering::SeqCst));
        let tags = path(request) != "/bare";
        if lower(request).contains(&format!("if-none-match: \"{v}\"")) {
            return b"HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=3000\r\nConnection: close\r\n\r\n".to_vec();
        }
        let tag = if tags { format!("ETag: \"{v}\"\n") } else { "Last-Modified-Not: x\n".to_string() };
        answer(&format!("{tag}Cache-Control: max-age=3000, stale-if-error=1\nAge: 3000"), &v)
    });
    let proxy = Proxy::start(&dir, &origin.host(), |p| p);
    for path in ["/bare", "/tagged"] {
        version.store(1, Ordering::SeqCst);
        let url = format!("http://{}{path}", origin.host());
        assert_eq!(proxy.curl(&dir, &[&url]).body, "v1");
        version.store(2, Ordering::SeqCst);
        // who has v2 hears that it is right, or is given it again
        let got = proxy.curl(&dir, &["-H", "If-None-Match: \"v2\"", &url]);
        assert!(got.status() == "304" || got.body == "v2", "{path}: {} {}", got.head, got.body);
        assert_eq!(proxy.curl(&dir, &[&url]).body, "v2", "{path}");
    }
    proxy.stop();
}

#[test]
fn a_header_for_one_hop_decides_nothing() {
    let dir = TempDir::new();
    let origin = Origin::http(|request| {
        let who = if lower(request).contains("x-who: mallory") { "mallory" } else { "nobody" };
        answer("Cache-Control: max-age=3000\nVary: X-Who", who)
    });
    let proxy = Proxy::start(&dir, &origin.host(), |p| p);
    let url = format!("http://{}/", origin.host());
    // the origin never sees it, so that its answer is that for nobody
    let hop = ["-H", "Connection: X-Who", "-H", "X-Who: mallory", &url];
    assert_eq!(proxy.curl(&dir, &hop).body, "nobody");
    assert_eq!(proxy.curl(&dir, &["-H", "X-Who: mallory", &url]).cache("fetch, cached, volatile").body, "mallory");
    assert_eq!(proxy.curl(&dir, &[&url]).cache("hit, memory").body, "nobody");
    // and one that forbids caches does not when it is named so
    proxy.curl(&dir, &["-H", "Connection: Cache-Control", "-H", "Cache-Control: no-store", &url]).cache("hit, memory");
    proxy.stop();
}

#[test]
fn a_header_that_no_vary_tells_of_chooses_nothing_for_others() {
    let dir = TempDir::new();
    let (origin, trust) = Origin::https(dir.path(), |request| {
        let evil = ["evil.example", "url: /evil"].iter().any(|word| lower(request).contains(word));
        answer("Cache-Control: max-age=3000", if evil { "poison" } else { "plain" })
    });
    // inside of a CONNECT, which was judged before
    let proxy = Proxy::start(&dir, &origin.host(), |p| p.env("SSL_CERT_FILE", &trust));
    let headers = [
        "X-Forwarded-Host: evil.example",
        "Forwarded: host=evil.example",
        "X-Original-URL: /evil",
        "X-Original-Host: evil.example",
        "X-HTTP-Host-Override: evil.example",
    ];
    for (n, header) in headers.iter().enumerate() {
        let url = format!("https://{}/{n}", origin.host());
        assert_eq!(proxy.curl(&dir, &["-H", header, &url]).cache("fetch, uncached").body, "poison");
        assert_eq!(proxy.curl(&dir, &[&url]).cache("fetch, cached, volatile").body, "plain");
        assert_eq!(proxy.curl(&dir, &["-H", header, &url]).body, "poison");
        assert_eq!(proxy.curl(&dir, &[&url]).cache("hit, memory").body, "plain");
    }
    proxy.stop();
}

#[test]
fn a_line_with_bytes_beyond_ascii_is_read_all_the_same() {
    let dir = TempDir::new();
    let origin = Origin::http(|request| {
        let who = if lower(request).contains("x-who: mallory") { "mallory" } else { "nobody" };
        let line: &[u8] = match path(request) {
            "/private" => b"Cache-Control: private, x=\"\xe9\"\r\nExpires: Fri, 31 Dec 2100 23:59:59 GMT\r\n",
            "/vary" => b"Cache-Control: max-age=3000\r\nVary: Accept, \xe9\r\n",
            "/coded" => b"Cache-Control: max-age=3000\r\nTransfer-Encoding: \xe9\r\n",
            "/quoted" => b"Cache-Control: max-age=3000\r\nVary: \"accept\"\r\n",
            _ => b"Cache-Control: max-age=3000\r\n",
        };
        let rest = format!("Content-Length: {}\r\nConnection: close\r\n\r\n{who}", who.len());
        [&b"HTTP/1.1 200 OK\r\n"[..], line, rest.as_bytes()].concat()
    });
    let proxy = Proxy::start(&dir, &origin.host(), |p| p);
    let url = |path: &str| format!("http://{}{path}", origin.host());
    for path in ["/private", "/vary", "/quoted"] {
        proxy.curl(&dir, &[&url(path)]).cache("fetch, uncached");
    }
    assert_eq!(proxy.curl(&dir, &[&url("/coded")]).status(), "502");
    let mut client = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    write!(client, "GET {} HTTP/1.0\r\nX-Who: mallory\r\nConnection: X-Who, ", url("/")).unwrap();
    client.write_all(b"\xe9\r\n\r\n").unwrap();
    let mut got = String::new();
    client.read_to_string(&mut got).unwrap();
    assert!(got.ends_with("\r\n\r\nnobody"), "{got}");
    proxy.stop();
}

#[test]
fn conditions_ranges_and_heads_are_answered_from_what_is_kept() {
    let dir = TempDir::new();
    let body = "0123456789".repeat(10);
    let whole = body.clone();
    let origin = Origin::http(move |request| {
        let policy = if path(request) == "/disk" { "immutable" } else { "max-age=600" };
        answer(
            &format!("Cache-Control: {policy}\nETag: \"e\"\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\nX-Kept: yes"),
            &whole,
        )
    });
    let proxy = Proxy::start(&dir, &origin.host(), |p| p);
    for path in ["/disk", "/memory"] {
        let url = format!("http://{}{path}", origin.host());
        let get = |header: &str| proxy.curl(&dir, &["-H", header, &url]);
        get("X: y");
        for same in ["If-None-Match: W/\"e\"", "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"] {
            let got = get(same);
            assert_eq!(
                (got.status(), got.header("ETag"), got.body.as_str()),
                ("304", Some("\"e\""), ""),
                "{path} {same}"
            );
        }
        assert_eq!(get("If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT").status(), "200");
        let part = get("Range: bytes=5-14");
        assert_eq!((part.status(), part.body.as_str()), ("206", &body[5..15]));
        assert_eq!((part.header("Content-Range"), part.header("X-Kept")), (Some("bytes 5-14/100"), Some("yes")));
        assert_eq!(get("Range: bytes=-3").body, "789");
        let beyond = get("Range: bytes=100-");
        assert_eq!((beyond.status(), beyond.header("Content-Range")), ("416", Some("bytes */100")));
        assert_eq!(get("Range: bytes=0-1,5-6").body, body);
        let other = proxy.curl(&dir, &["-H", "Range: bytes=0-1", "-H", "If-Range: \"old\"", &url]);
        assert_eq!((other.status(), other.body.as_str()), ("200", body.as_str()));
        // ranges are of GET alone
        let head = proxy.curl(&dir, &["--head", "-H", "Range: bytes=0-1", &url]);
        assert_eq!((head.status(), head.header("Content-Length")), ("200", Some("100")));
        assert_eq!(origin.count(path), 1, "{path}");
    }
    proxy.stop();
}

#[test]
fn a_change_drops_what_is_kept() {
    let dir = TempDir::new();
    let changes = AtomicUsize::new(0);
    let origin = Origin::http(move |request| {
        if !request.starts_with("GET ") {
            changes.fetch_add(1, Ordering::SeqCst);
            let lost = path(request) == "/mem";
            return if lost { Vec::new() } else { answer("Location: /mem", "done") };
        }
        let policy = if path(request).starts_with("/disk") { "immutable" } else { "max-age=600" };
        answer(&format!("Cache-Control: {policy}"), &changes.load(Ordering::SeqCst).to_string())
    });
    let proxy = Proxy::start(&dir, &origin.host(), |p| p);
    let url = |path: &str| format!("http://{}{path}", origin.host());
    let mut count = 0;
    for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH"] {
        for path in ["/disk", "/mem"] {
            assert_eq!(proxy.curl(&dir, &[&url(path)]).body, count.to_string());
            assert!(proxy.curl(&dir, &[&url(path)]).header("X-Cache").unwrap().starts_with("hit"), "{path}");
        }
        // the other is named by Location
        assert_eq!(proxy.curl(&dir, &["-X", method, "-d", "x", &url("/disk")]).body, "done");
        count += 1;
        for path in ["/disk", "/mem"] {
            assert_eq!(proxy.curl(&dir, &[&url(path)]).body, count.to_string(), "{path} after {method}");
        }
    }
    // one whose answer is lost may have changed it
    assert_eq!(proxy.curl(&dir, &["-d", "x", &url("/mem")]).status(), "502");
    assert_eq!(proxy.curl(&dir, &[&url("/mem")]).body, (count + 1).to_string());
    proxy.stop();
}

#[test]
fn a_change_outlives_a_restart_whatever_the_bucket_has() {
    let (dir, bucket) = (TempDir::new(), TempDir::new());
    let changes = AtomicUsize::new(0);
    let origin = Origin::http(move |request| {
        if !request.starts_with("GET ") {
            changes.fetch_add(1, Ordering::SeqCst);
        }
        answer("Cache-Control: immutable", &changes.load(Ordering::SeqCst).to_string())
    });
    let (url, flag) = (format!("http://{}/", origin.host()), format!("--bucket=file://{}", bucket.path().display()));
    let start = || Proxy::start(&dir, &origin.host(), |p| p.arg(&flag));
    for (method, want) in [("POST", "1"), ("DELETE", "2")] {
        let proxy = start();
        proxy.curl(&dir, &[&url]);
        poll("the upload", || (crate::support::script::files(&bucket.join("revproxy")).len() == 1).then_some(()));
        proxy.curl(&dir, &["-X", method, &url]);
        proxy.stop();
        let proxy = start();
        assert_eq!(proxy.curl(&dir, &[&url]).cache("fetch, cached").body, want);
        proxy.stop();
        // the bucket has the new one now, which is as good as others
        let proxy = start();
        assert_eq!(proxy.curl(&dir, &[&url]).cache("hit, local").body, want);
        proxy.stop();
    }
    let other = TempDir::new();
    let proxy = Proxy::start(&other, &origin.host(), |p| p.arg(&flag));
    assert_eq!(proxy.curl(&other, &[&url]).cache("hit, remote").body, "2");
    proxy.stop();
}

#[test]
fn what_is_kept_on_disk_outlives_a_restart_with_its_headers() {
    let dir = TempDir::new();
    let origin = Origin::http(|request| match path(request) {
        "/lang" if lower(request).contains("accept-language: de") => {
            answer("Cache-Control: max-age=7200\nVary: Accept-Language\nContent-Language: de", "hallo")
        }
        "/lang" => answer("Cache-Control: max-age=7200\nVary: Accept-Language\nContent-Language: en", "hello"),
        "/gone" => {
            b"HTTP/1.1 410 Gone\r\nCache-Control: max-age=7200\r\nContent-Length: 4\r\nConnection: close\r\n\r\ngone"
                .to_vec()
        }
        _ => answer("Cache-Control: max-age=7200\nETag: \"e\"\nX-Kept: yes\nX-Go-Cache-Plugin-Status: 500", "x"),
    });
    let url = |path: &str| format!("http://{}{path}", origin.host());
    let first = Proxy::start(&dir, &origin.host(), |p| p);
    for path in ["/", "/gone"] {
        first.curl(&dir, &[&url(path)]).cache("fetch, cached");
    }
    for language in ["de", "en"] {
        first.curl(&dir, &["-H", &format!("Accept-Language: {language}"), &url("/lang")]).cache("fetch, cached");
    }
    first.stop();
    let again = Proxy::start(&dir, &origin.host(), |p| p);
    let got = again.curl(&dir, &[&url("/")]);
    assert_eq!(
        (got.cache("hit, local").status(), got.header("X-Kept"), got.header("ETag")),
        ("200", Some("yes"), Some("\"e\""))
    );
    assert!(!lower(&got.head).contains("x-go-cache-plugin"), "{}", got.head);
    let gone = again.curl(&dir, &[&url("/gone")]);
    assert_eq!((gone.cache("hit, local").status(), gone.body.as_str()), ("410", "gone"));
    for (language, body) in [("de", "hallo"), ("en", "hello")] {
        let got = again.curl(&dir, &["-H", &format!("Accept-Language: {language}"), &url("/lang")]);
        assert_eq!((got.cache("hit, local").body.as_str(), got.header("Content-Language")), (body, Some(language)));
    }
    assert_eq!(origin.seen().len(), 4);
    // cut on disk, it is fetched anew
    let blobs = crate::support::script::files(&dir.join("cache/revproxy"));
    for blob in blobs.iter().filter(|path| path.extension().is_none()) {
        let bytes = fs::read(blob).unwrap();
        fs::write(blob, &bytes[..bytes.len() - 1]).unwrap();
    }
    assert_eq!(again.curl(&dir, &[&url("/")]).cache("fetch, cached").body, "x");
    again.stop();
}

#[test]
fn what_a_request_says_of_who_asks_is_not_written_down() {
    let dir = TempDir::new();
    let origin = Origin::http(|_| answer("Cache-Control: public, max-age=7200\nVary: Authorization, Cookie", "x"));
    let proxy = Proxy::start(&dir, &origin.host(), |p| p);
    let url = format!("http://{}/", origin.host());
    for secret in ["Authorization: Bearer s3cret", "Cookie: id=s3cret", "Authorization: Bearer s3cret2"] {
        proxy.curl(&dir, &["-H", secret, &url]).cache("fetch, cached");
        proxy.curl(&dir, &["-H", secret, &url]).cache("hit, local");
    }
    let files = crate::support::script::files(&dir.join("cache"));
    let told = |file: &PathBuf| String::from_utf8_lossy(&fs::read(file).unwrap()).contains("s3cret");
    assert!(files.len() >= 6 && !files.iter().any(told), "{files:?}");
    proxy.stop();
}

#[test]
fn stale_answers_help_where_their_server_says_so() {
    let dir = TempDir::new();
    let down = Arc::new(Mutex::new(false));
    let is_down = down.clone();
    let origin = Origin::http(move |request| {
        if *is_down.lock().unwrap() {
            return match path(request) {
                "/error" => b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
                _ => Vec::new(),
            };
        }
        let policy = match path(request) {
            "/behind" => "max-age=1, stale-while-revalidate=600",
            "/strict" => "max-age=1, must-revalidate, stale-if-error=600",
            _ => "max-age=1, stale-if-error=600",
        };
        answer(&format!("Cache-Control: {policy}\nAge: 1\nETag: \"e\""), "old")
    });
    let proxy = Proxy::start(&dir, &origin.host(), |p| p);
    let url = |path: &str| format!("http://{}{path}", origin.host());
    for path in ["/error", "/closed", "/strict", "/behind"] {
        proxy.curl(&dir, &[&url(path)]).cache("fetch, cached, volatile");
    }
    // at once, and asked for beside it
    assert_eq!(proxy.curl(&dir, &[&url("/behind")]).cache("hit, memory").body, "old");
    poll("the answer to be made fresh", || (origin.count("/behind") > 1).then_some(()));
    *down.lock().unwrap() = true;
    for path in ["/error", "/closed"] {
        assert_eq!(proxy.curl(&dir, &[&url(path)]).cache("hit, memory").body, "old", "{path}");
    }
    assert_eq!(proxy.curl(&dir, &[&url("/strict")]).status(), "502");
    proxy.stop();
}

#[test]
fn a_body_that_breaks_off_goes_on_and_a_false_one_does_not() {
    let dir = TempDir::new();
    let origin = Origin::http(|request| {
        let head = |status: &str, more: &str, len: usize, body: &str| {
            format!("HTTP/1.1 {status}\r\nCache-Control: max-age=600\r\nETag: \"e\"\r\n{more}Content-Length: {len}\r\n\r\n{body}").into_bytes()
        };
        let asked = lower(request);
        if asked.contains("range: bytes=4-") && asked.contains("if-range: \"e\"") {
            return match path(request) {
                "/goes-on" => head("206 Part", "Content-Range: bytes 4-7/8\r\n", 4, "5678"),
                "/other" => head("206 Part", "Content-Range: bytes 0-7/8\r\n", 8, "abcdefgh"),
                "/mixed" => {
                    let part = head("206 Part", "Content-Range: bytes 4-7/8\r\n", 4, "abcd");
                    String::from_utf8(part).unwrap().replace("ETag: \"e\"", "ETag: \"f\"").into_bytes()
                }
                _ => head("200 OK", "", 8, "abcdefgh"),
            };
        }
        head("200 OK", "", 8, "1234")
    });
    let proxy = Proxy::start(&dir, &origin.host(), |p| p);
    let url = |path: &str| format!("http://{}{path}", origin.host());
    assert_eq!(proxy.curl(&dir, &[&url("/goes-on")]).body, "12345678");
    assert_eq!(proxy.curl(&dir, &[&url("/goes-on")]).cache("hit, memory").body, "12345678");
    for path in ["/other", "/mixed", "/changed"] {
        for _ in 0..2 {
            let (code, text) = proxy.try_curl(&dir, &[&url(path)]);
            assert!(code != 0 && text.contains("1234") && !text.contains("abcd"), "{path}: {code} {text}");
        }
        assert_eq!(origin.count(path), 4, "{path} is not kept");
    }
    proxy.stop();
}

#[test]
fn an_answer_in_another_form_than_it_was_asked_for_in_is_none() {
    let dir = TempDir::new();
    let origin = Origin::http(|request| {
        let (status, more) = match path(request) {
            "/switches" => ("1.1 101 Switching Protocols", "Upgrade: x\r\nConnection: upgrade"),
            // the body would reach clients as it is, and nothing would say what it is
            "/old" => ("1.0 200 OK", "Cache-Control: max-age=600\r\nTransfer-Encoding: chunked"),
            "/twice" => ("1.1 200 OK", "Cache-Control: max-age=600\r\nTransfer-Encoding: chunked, chunked"),
            _ => ("1.1 200 OK", "Cache-Control: max-age=600\r\nTransfer-Encoding: gzip, chunked\r\nConnection: close"),
        };
        format!("HTTP/{status}\r\n{more}\r\n\r\n4\r\nbody\r\n0\r\n\r\n").into_bytes()
    });
    let proxy = Proxy::start(&dir, &origin.host(), |p| p);
    for path in ["/switches", "/coded", "/old", "/twice"] {
        for n in 1..=2 {
            let got = proxy.curl(&dir, &[&format!("http://{}{path}", origin.host())]);
            assert_eq!((got.status(), got.body.contains("4\r\n"), origin.count(path)), ("502", false, n), "{path}");
        }
    }
    proxy.stop();
}

#[test]
fn what_was_asked_for_before_something_newer_is_not_kept() {
    let dir = TempDir::new();
    let held = Arc::new(Mutex::new(()));
    let (gate, version) = (held.clone(), AtomicUsize::new(0));
    let origin = Origin::http(move |request| {
        let v = version.fetch_add(1, Ordering::SeqCst);
        if lower(request).contains("x-slow") {
            drop(gate.lock());
        }
        // the first one lets nobody wait for another's
        answer(if v == 0 { "Cache-Control: no-store" } else { "Cache-Control: max-age=600" }, &format!("v{v}"))
    });
    let proxy = Proxy::start(&dir, &origin.host(), |p| p);
    let url = format!("http://{}/", origin.host());
    assert_eq!(proxy.curl(&dir, &[&url]).body, "v0");
    for (old, between, then) in [("v1", &["-X", "POST", "-d", "x"][..], "v3"), ("v5", &[], "v6")] {
        if old == "v5" {
            proxy.curl(&dir, &["-X", "DELETE", &url]);
        }
        let waits = held.lock().unwrap();
        let before = origin.seen().len();
        std::thread::scope(|s| {
            let slow = s.spawn(|| proxy.curl(&dir, &["-H", "X-Slow: 1", &url]).body);
            poll("the slow request", || (origin.seen().len() > before).then_some(()));
            proxy.curl(&dir, &[between, &[&url]].concat());
            drop(waits);
            assert_eq!(slow.join().unwrap(), old);
        });
        assert_eq!(proxy.curl(&dir, &[&url]).body, then);
    }
    proxy.stop();
}

#[test]
fn slow_clients_of_large_answers_cost_little_memory() {
    let dir = TempDir::new();
    let origin = Origin::http(|_| answer("Cache-Control: max-age=60", &"x".repeat(2_000_000)));
    let proxy = Proxy::start(&dir, &origin.host(), |p| p);
    let memory = || {
        let status = fs::read_to_string(format!("/proc/{}/status", proxy.child.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    };
    proxy.curl(&dir, &[&format!("http://{}/", origin.host())]);
    let before = memory();
    let clients: Vec<_> = (0..60)
        .map(|n| {
            let mut client = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
            write!(client, "GET http://{0}/{n} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.host()).unwrap();
            client.read_exact(&mut vec![0; 1_900_000]).unwrap();
            client
        })
        .collect();
    let grown = memory().saturating_sub(before);
    assert!(grown < 64 << 20, "{} clients cost {grown} bytes", clients.len());
    drop(clients);
    proxy.stop();
}

#[test]
fn a_disk_that_takes_nothing_stops_no_answer() {
    let dir = TempDir::new();
    let origin = Origin::http(|request| {
        let policy = if path(request).starts_with("/shared") { "immutable" } else { "max-age=7200" };
        answer(&format!("Cache-Control: {policy}"), &"x".repeat(100_000))
    });
    let proxy = Proxy::start(&dir, &origin.host(), |p| p);
    // a file where the folder belongs is the fault that root meets too
    let folder = dir.join("cache/revproxy");
    let _ = fs::remove_dir_all(&folder);
    fs::write(&folder, "").unwrap();
    for path in ["/shared/1", "/shared/2", "/own/1", "/own/2"] {
        for n in 1..=2 {
            let got = proxy.curl(&dir, &[&format!("http://{}{path}", origin.host())]);
            assert_eq!((got.status(), got.body.len(), origin.count(path)), ("200", 100_000, n), "{path}");
        }
    }
    let log = proxy.child.stderr();
    assert_eq!(log.matches("pass through, unkept").count(), 1, "{log}");
    proxy.stop();
}

#[test]
fn a_full_disk_cuts_no_answer_off() {
    if !may_mount("httpcache::a_full_disk_cuts_no_answer_off") {
        return;
    }
    let dir = TempDir::new();
    mount("tmpfs", "size=2m", &dir.dir("cache"));
    let origin = Origin::http(|request| {
        let policy = if path(request).starts_with("/shared") { "immutable" } else { "max-age=60" };
        answer(&format!("Cache-Control: {policy}"), &"x".repeat(6_000_000))
    });
    let proxy = Proxy::start(&dir, &origin.host(), |p| p);
    for path in ["/shared/1", "/large", "/shared/2"] {
        let got = proxy.curl(&dir, &[&format!("http://{}{path}", origin.host())]);
        assert_eq!((got.status(), got.body.len()), ("200", 6_000_000), "{path}");
    }
    // nor does it go into memory instead, whose end would be everybody's
    let mut client = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    write!(client, "GET http://{0}/shared/3 HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.host()).unwrap();
    client.read_exact(&mut vec![0; 5_000_000]).unwrap();
    let open = fs::read_dir(format!("/proc/{}/fd", proxy.child.pid())).unwrap();
    let open: Vec<_> = open.filter_map(|file| fs::read_link(file.ok()?.path()).ok()).collect();
    assert!(!open.iter().any(|file| file.to_string_lossy().contains("memfd")), "{open:?}");
    let log = proxy.child.stderr();
    assert_eq!(log.matches("pass through, unkept").count(), 1, "{log}");
    proxy.stop();
}

#[test]
fn queries_are_shown_nowhere() {
    let dir = TempDir::new();
    let origin = Origin::http(|request| match path(request) {
        p if p.starts_with("/bad") => Vec::new(),
        _ => answer("Cache-Control: immutable", "x"),
    });
    let proxy = Proxy::start(&dir, &origin.host(), |p| p.arg("--debug=4").arg("-v"));
    for path in ["/ok?X-Amz-Signature=s3cret", "/bad?token=s3cret", "/b%ad\"?token=s3cret"] {
        let got = proxy.curl(&dir, &["-g", &format!("http://{}{path}", origin.host())]);
        assert!(!got.body.contains("s3cret") && !got.head.contains("s3cret"), "{}\n{}", got.head, got.body);
    }
    proxy.curl(&dir, &["-g", &format!("http://{}/ok?X-Amz-Signature=s3cret", origin.host())]).cache("hit, local");
    proxy.curl(&dir, &["http://other.example/?s3cret"]);
    for page in ["/debug/", "/debug/status.json", "/debug/vars", "/metrics"] {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--noproxy", "*", &format!("http://127.0.0.1:{}{page}", proxy.port)]);
        assert!(!run(curl).ok().stdout.contains("s3cret"), "{page}");
    }
    let log = proxy.child.stderr();
    assert!(log.contains("/ok") && !log.contains("s3cret"), "{log}");
    proxy.stop();
}
