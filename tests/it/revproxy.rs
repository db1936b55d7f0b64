//! The reverse proxy of a running server, with curl as its client.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::env::{Plugin, Running, TempDir, free_port, poll, run, scrubbed};
use crate::support::origin::{Origin, answer};
use crate::support::script::files;

/// `serve` with a reverse proxy.
pub struct Proxy {
    pub child: Running,
    pub port: u16,
    ca: String,
}

impl Proxy {
    pub fn start(dir: &TempDir, hosts: &str, more: impl FnOnce(Plugin) -> Plugin) -> Self {
        let port = free_port();
        let plugin = Plugin::new(dir)
            .arg("serve")
            .arg(format!("--plugin={}", dir.join("plugin.sock").display()))
            .arg(format!("--http=127.0.0.1:{port}"))
            .arg(format!("--revproxy={hosts}"));
        let child = more(plugin).spawn();
        poll("the proxy", || TcpStream::connect(("127.0.0.1", port)).ok());
        Proxy { child, port, ca: dir.join(".local/state/go-cache-plugin/ca.pem").display().to_string() }
    }

    /// Curl through the proxy; its exit code, and head and body.
    pub fn try_curl(&self, dir: &TempDir, args: &[&str]) -> (i32, String) {
        let proxy = format!("http://127.0.0.1:{}", self.port);
        let mut curl = scrubbed("curl", dir.path());
        curl.args(["-sS", "-i", "--suppress-connect-headers", "--max-time", "60", "--proxy", &proxy, "--noproxy", ""]);
        curl.args(["--cacert", &self.ca]).args(args);
        let out = run(curl);
        (out.status.code().unwrap_or(-1), format!("{}{}", out.stdout, out.stderr))
    }

    pub fn curl(&self, dir: &TempDir, args: &[&str]) -> Got {
        let (code, text) = self.try_curl(dir, args);
        assert_eq!(code, 0, "curl {args:?}\n{text}\n{}", self.child.stderr());
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        Got { head: head.to_string(), body: body.to_string() }
    }

    pub fn counter(&self, group: &str, name: &str) -> u64 {
        let mut curl = Command::new("curl");
        let url = format!("http://127.0.0.1:{}/debug/vars", self.port);
        curl.args(["-sS", "--noproxy", "*", &url]);
        let vars: Value = serde_json::from_str(&run(curl).ok().stdout).unwrap();
        vars[group][name].as_u64().unwrap()
    }

    pub fn stop(mut self) {
        self.child.signal(Signal::TERM);
        self.child.wait().ok();
    }
}

pub struct Got {
    pub head: String,
    pub body: String,
}

impl Got {
    pub fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().filter_map(|l| l.split_once(": ")).find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }

    #[track_caller]
    pub fn cache(&self, want: &str) -> &Self {
        assert_eq!(self.header("X-Cache"), Some(want), "{}", self.head);
        self
    }
}

#[test]
fn an_answer_without_a_body_is_kept_and_says_so() {
    let dir = TempDir::new();
    let origin = Origin::http(|request| {
        let status = request.split(['/', ' ']).nth(2).unwrap();
        let head = "Location: /elsewhere\r\nCache-Control: max-age=7200\r\nContent-Length: 0\r\nConnection: close";
        format!("HTTP/1.1 {status} x\r\n{head}\r\n\r\n").into_bytes()
    });
    let proxy = Proxy::start(&dir, &origin.host(), |p| p);
    for status in ["200", "302", "404"] {
        for want in ["fetch, cached", "hit, local"] {
            let got = proxy.curl(&dir, &[&format!("http://{}/{status}", origin.host())]);
            got.cache(want);
            assert_eq!((got.status(), got.header("Content-Length"), got.body.as_str()), (status, Some("0"), ""));
        }
    }
    proxy.stop();
}

#[test]
fn answers_are_kept_where_their_servers_let_us() {
    let dir = TempDir::new();
    let origin = Origin::http(|request| {
        let policy = request.split(['/', '?', ' ']).nth(2).unwrap();
        answer(&format!("Cache-Control: {policy}\nETag: \"e\"\nContent-Type: text/x\nX-Cache: HIT elsewhere"), policy)
    });
    let bucket = dir.dir("bucket");
    let proxy = Proxy::start(&dir, &origin.host(), |p| p.arg(format!("--bucket=file://{}", bucket.display())));
    let url = |path: &str| format!("http://{}/{path}", origin.host());
    let get = |path: &str| proxy.curl(&dir, &[&url(path)]);

    for path in ["immutable", "must-revalidate,max-age=5184001"] {
        let first = get(path);
        first.cache("fetch, cached");
        assert_eq!(first.body, path);
        let id = first.header("X-Cache-Id").unwrap().to_string();
        assert_eq!(id.len(), 12);
        let again = get(path);
        again.cache("hit, local");
        assert_eq!(
            (again.body.as_str(), again.header("Content-Type"), again.header("Etag"), again.header("X-Cache-Id")),
            (path, Some("text/x"), Some("\"e\""), Some(id.as_str()))
        );
        assert!(again.header("Age").is_some());
        assert_eq!(origin.count(&format!("/{path}")), 1);
        let stored = fs::read_dir(dir.join(&format!("cache/revproxy/{}", &id[..2]))).unwrap();
        let stored = stored
            .map(|e| e.unwrap())
            .find(|e| e.file_name().to_str().is_some_and(|name| name.starts_with(&id) && name.len() == 64));
        let stored = stored.unwrap();
        let text = fs::read_to_string(stored.path()).unwrap();
        let (head, body) = text.split_once("\n\n").unwrap();
        assert!(head.starts_with("Content-Type: text/x\nDate: ") && head.contains("\nEtag: \"e\"\n"), "{head}");
        assert!(head.contains(&format!("\ncache-control: {path}")) && !head.contains("x-go-cache"), "{head}");
        assert_eq!(body, path);
        // the client has it already; HEAD tells the length alone
        assert_eq!(proxy.curl(&dir, &["-H", "If-None-Match: W/\"e\"", &url(path)]).status(), "304");
        let head = proxy.curl(&dir, &["--head", &url(path)]);
        assert_eq!((head.status(), head.body.as_str()), ("200", ""));
        assert_eq!(head.header("Content-Length"), Some(path.len().to_string().as_str()));
    }
    get("max-age=3599").cache("fetch, cached, volatile");
    let hit = get("max-age=3599");
    assert_eq!((hit.cache("hit, memory").body.as_str(), origin.count("/max-age=3599")), ("max-age=3599", 1));
    for path in ["max-age=3600", "max-age=31536000"] {
        get(path).cache("fetch, cached");
        assert_eq!((get(path).cache("hit, local").body.as_str(), origin.count(&format!("/{path}"))), (path, 1));
    }
    for path in ["immutable,no-store", "immutable,private"] {
        get(path).cache("fetch, uncached");
        get(path).cache("fetch, uncached");
        assert_eq!(origin.count(&format!("/{path}")), 2, "{path}");
    }
    // what was made for one is kept for none, and what is kept is not for who says who they are
    for (secret, then) in [("Authorization: Basic eA==", "fetch, uncached"), ("Cookie: a=b", "hit, local")] {
        let path = format!("immutable?{}", secret.len());
        proxy.curl(&dir, &["-H", secret, &url(&path)]).cache("fetch, uncached");
        get(&path).cache("fetch, cached");
        proxy.curl(&dir, &["-H", secret, &url(&path)]).cache(then);
    }
    assert_eq!(proxy.curl(&dir, &["-H", "Cache-Control: only-if-cached", &url("immutable?new")]).status(), "504");
    assert_eq!(proxy.counter("revcache", "rsp_save"), 6);
    assert_eq!(proxy.counter("revcache", "rsp_save_memory"), 1);
    assert_eq!(proxy.counter("revcache", "req_memory_hit"), 1);
    proxy.stop();
    // a long max-age alone stays on this disk
    assert_eq!(files(&bucket.join("revproxy")).len(), 4);
}

#[test]
fn a_head_that_is_too_large_is_called_so_and_not_asked_for_again() {
    let dir = TempDir::new();
    let origin = Origin::http(|request| {
        let (value, times) = if request.starts_with("GET /long ") { (40_000, 1) } else { (1, 200) };
        answer(&vec![format!("X-Some: {}", "x".repeat(value)); times].join("\n"), "x")
    });
    let proxy = Proxy::start(&dir, "127.0.0.1", |p| p);
    for (path, why) in [("/long", "the head of its answer is longer than 32 KiB"), ("/many", "too many headers")] {
        let got = proxy.curl(&dir, &[&format!("http://{}{path}", origin.host())]);
        assert!(got.status() == "502" && got.body.contains(why) && got.body.lines().count() == 1, "{}", got.body);
        assert_eq!(origin.count(path), 1);
    }
    proxy.stop();
}

#[test]
fn an_answer_whose_head_could_not_be_read_back_is_not_kept() {
    let dir = TempDir::new();
    let varies: Vec<_> = (0..2000).map(|n| format!("x-{n}")).collect();
    let head = format!("Cache-Control: max-age=99999\nVary: {}", varies.join(","));
    let origin = Origin::http(move |_| answer(&head, "x"));
    let proxy = Proxy::start(&dir, "127.0.0.1", |p| p);
    for _ in 0..2 {
        proxy.curl(&dir, &[&format!("http://{}/", origin.host())]).cache("fetch, uncached");
    }
    assert!(!proxy.child.stderr().contains("damaged"), "{}", proxy.child.stderr());
    proxy.stop();
}

#[test]
fn requests_are_forwarded_as_they_are() {
    let dir = TempDir::new();
    let origin = Origin::http(|request| match request.split(' ').nth(1).unwrap() {
        "/moved" => b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
        "/cookie" => answer("Cache-Control: immutable\nSet-Cookie: a=b\nSet-Cookie: c=d", "x"),
        "/gzip" => answer("Cache-Control: immutable\nContent-Encoding: gzip\nVary: Accept-Encoding", "raw"),
        "/hop" => answer("Connection: close, X-Hop\nX-Hop: 1\nKeep-Alive: 9\nProxy-Authenticate: x\nX-End: 2", "x"),
        _ => answer("", "done"),
    });
    let proxy = Proxy::start(&dir, "127.0.0.1", |p| p);
    let url = |path: &str| format!("http://{}{path}", origin.host());
    let posted = proxy.curl(&dir, &["-d", "a body", "-H", "Connection: x-mine", "-H", "X-Mine: 1", &url("/post?q")]);
    assert_eq!(posted.cache("fetch, uncached").body, "done");
    let seen = origin.seen().pop().unwrap();
    assert!(seen.starts_with("POST /post?q HTTP/1.1\r\n") && seen.ends_with("\r\n\r\na body"), "{seen}");
    let lower = seen.to_ascii_lowercase();
    assert!(lower.contains(&format!("host: {}\r\n", origin.host())) && lower.contains("user-agent: curl"), "{seen}");
    for no in ["x-mine", "proxy-", "via:", "x-forwarded", "accept-encoding", "transfer-encoding"] {
        assert!(!lower.contains(no), "{no}: {seen}");
    }
    proxy.curl(&dir, &["-T", "-", &url("/put")]);
    assert_eq!(proxy.curl(&dir, &["-X", "DELETE", &url("/gone")]).body, "done");
    let moved = proxy.curl(&dir, &[&url("/moved")]);
    assert_eq!((moved.status(), moved.header("Location")), ("302", Some("/x")));
    let cookie = proxy.curl(&dir, &[&url("/cookie")]);
    assert_eq!(cookie.cache("fetch, uncached").head.matches("set-cookie").count(), 2);
    // not decoded, and kept for clients that can read it alone
    for kept in ["fetch, cached", "hit, local"] {
        assert_eq!(proxy.curl(&dir, &["-H", "Accept-Encoding: gzip", &url("/gzip")]).cache(kept).body, "raw");
    }
    proxy.curl(&dir, &[&url("/gzip")]).cache("fetch, cached");
    let hop = proxy.curl(&dir, &[&url("/hop")]);
    assert_eq!((hop.header("X-End"), hop.header("X-Hop"), hop.header("Keep-Alive")), (Some("2"), None, None));
    assert_eq!(hop.header("Proxy-Authenticate"), None);
    // what should be escaped, and is not by curl, is by us
    let odd = proxy.curl(&dir, &["-g", &url("/odd/<a>`?q=\"b\"|<c>")]);
    assert_eq!((odd.status(), origin.count("/odd/%3Ca%3E%60?q=%22b%22|%3Cc%3E")), ("200", 1), "{}", odd.body);
    // a Host header does not decide where a request goes
    let count = origin.seen().len();
    assert_eq!(proxy.curl(&dir, &["-H", "Host: evil.example", &url("/h")]).status(), "200");
    assert!(origin.seen()[count].to_ascii_lowercase().contains(&format!("host: {}\r\n", origin.host())));
    let other = proxy.curl(&dir, &["http://other.example/"]);
    assert_eq!(other.status(), "502");
    assert!(other.body.contains("--revproxy"), "{}", other.body);
    let unreachable = format!("http://127.0.0.1:{}/", free_port());
    assert_eq!(proxy.curl(&dir, &[&unreachable]).status(), "502");
    proxy.stop();
}

#[test]
fn stale_answers_are_revalidated_by_their_etag() {
    let dir = TempDir::new();
    let origin = Origin::http(|request| {
        if request.to_ascii_lowercase().contains("if-none-match: \"v1\"") {
            return b"HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=3000\r\nConnection: close\r\n\r\n".to_vec();
        }
        // fresh for a second
        answer("Cache-Control: max-age=3000\nAge: 2999\nETag: \"v1\"\nX-Kept: yes", "body")
    });
    let proxy = Proxy::start(&dir, &origin.host(), |p| p);
    let url = format!("http://{}/", origin.host());
    proxy.curl(&dir, &[&url]).cache("fetch, cached, volatile");
    poll("the answer to go stale", || {
        let got = proxy.curl(&dir, &[&url]);
        assert_eq!((got.cache("hit, memory").body.as_str(), got.header("X-Kept")), ("body", Some("yes")));
        (origin.seen().len() > 1).then_some(())
    });
    // fresh again for long
    let age: u64 = proxy.curl(&dir, &[&url]).cache("hit, memory").header("Age").unwrap().parse().unwrap();
    assert!(age < 2999, "{age}");
    assert_eq!(origin.seen().len(), 2);
    proxy.stop();
}

#[test]
fn https_is_intercepted_for_listed_hosts_and_tunnelled_for_others() {
    let dir = TempDir::new();
    let (origin, trust) = Origin::https(dir.path(), |_| answer("Cache-Control: immutable", "secret"));
    let (other, _) = {
        let sub = dir.dir("other");
        Origin::https(&sub, |_| answer("", "other"))
    };
    let proxy = Proxy::start(&dir, &origin.host(), |p| p.arg("--tunnel=127.0.0.1").env("SSL_CERT_FILE", &trust));
    let url = format!("https://{}/x", origin.host());
    assert_eq!(proxy.curl(&dir, &[&url]).cache("fetch, cached").body, "secret");
    proxy.curl(&dir, &[&url]).cache("hit, local");
    // the same name as an absolute URL
    assert_eq!(origin.count("/x"), 1);
    // a connection is for its host alone
    let confused = proxy.curl(&dir, &["-H", "Host: evil.example", &url]);
    assert_eq!((confused.status(), origin.count("/x")), ("421", 1));
    // through a tunnel, the target shows its own certificate
    let other_url = format!("https://{}/", other.host());
    let own = dir.join("other/origin.pem").display().to_string();
    assert_eq!(proxy.curl(&dir, &["--cacert", &own, &other_url]).body, "other");
    assert_eq!(proxy.try_curl(&dir, &[&other_url]).0, 60, "our authority does not vouch for it");
    assert_eq!(proxy.counter("proxyconn", "intercepted"), 3);
    assert_eq!(proxy.counter("proxyconn", "tunnelled"), 2);
    let stderr = proxy.child.stderr();
    assert!(stderr.contains("ca.pem"), "{stderr}");
    proxy.stop();
}

#[test]
fn an_upstream_that_nobody_vouches_for_is_an_error() {
    let dir = TempDir::new();
    let (origin, _) = Origin::https(dir.path(), |_| answer("", "x"));
    let (_unused, trust) = Origin::https(&dir.dir("unused"), |_| Vec::new());
    let proxy = Proxy::start(&dir, &origin.host(), |p| p.env("SSL_CERT_FILE", &trust));
    assert_eq!(proxy.curl(&dir, &[&format!("https://{}/", origin.host())]).status(), "502");
    proxy.stop();
}

#[test]
fn answers_that_break_off_are_not_kept() {
    // more than what the system holds between us and a client
    const LARGE: usize = 16 << 20;
    let dir = TempDir::new();
    let origin = Origin::http(|request| match request.split(' ').nth(1).unwrap() {
        "/short" => {
            b"HTTP/1.1 200 OK\r\nCache-Control: immutable\r\nContent-Length: 100\r\nConnection: close\r\n\r\npart"
                .to_vec()
        }
        "/malformed" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\npart\r\n0\r\n\r\n".to_vec(),
        "/large" => {
            let head = format!("HTTP/1.1 200 OK\r\nCache-Control: immutable\r\nContent-Length: {LARGE}\r\n\r\n");
            [head.as_bytes(), &vec![b'x'; LARGE]].concat()
        }
        "/nothing" => b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\n".to_vec(),
        "/chunks" => {
            b"HTTP/1.1 200 OK\r\nCache-Control: immutable\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n".to_vec()
        }
        _ => b"HTTP/1.1 200 OK\r\nCache-Control: immutable\r\nConnection: close\r\n\r\nto the end".to_vec(),
    });
    let proxy = Proxy::start(&dir, &origin.host(), |p| p);
    for path in ["/short", "/chunks"] {
        for n in 1..=2 {
            let (code, text) = proxy.try_curl(&dir, &[&format!("http://{}{path}", origin.host())]);
            assert!(code != 0 && text.contains("part"), "{path}: curl must notice: {code} {text}");
            assert_eq!(origin.count(path), n, "{path}");
        }
    }
    // nor is what its client did not want to the end
    let mut client = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    write!(client, "GET http://{0}/large HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.host()).unwrap();
    client.read_exact(&mut [0; 1000]).unwrap();
    drop(client);
    let got = proxy.curl(&dir, &[&format!("http://{}/large", origin.host())]);
    assert_eq!((got.cache("fetch, cached").body.len(), origin.count("/large")), (LARGE, 2));
    // nothing was sent yet that says otherwise
    for path in ["/malformed", "/nothing"] {
        assert_eq!(proxy.curl(&dir, &[&format!("http://{}{path}", origin.host())]).status(), "502", "{path}");
    }
    let got = proxy.curl(&dir, &[&format!("http://{}/close", origin.host())]);
    assert_eq!(got.cache("fetch, uncached").body, "to the end");
    assert_eq!(proxy.counter("revcache", "rsp_save"), 1, "the large one alone");
    proxy.stop();
}

#[test]
fn a_server_that_answers_before_it_has_read_all_is_heard() {
    let dir = TempDir::new();
    let refusal = |_: &str| b"HTTP/1.1 413 x\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge".to_vec();
    let (plain, (secure, trust)) = (Origin::http(refusal), Origin::https(dir.path(), refusal));
    let proxy = Proxy::start(&dir, "127.0.0.1", |p| p.env("SSL_CERT_FILE", &trust));
    let file = format!("@{}", dir.write("large", &"x".repeat(32 << 20)).display());
    for url in [format!("http://{}/", plain.host()), format!("https://{}/", secure.host())] {
        for framing in ["A: b", "Transfer-Encoding: chunked"] {
            let args = ["-H", "X-Early: 1", "-H", "Expect:", "-H", framing, "--data-binary", &file, &url];
            let got = proxy.curl(&dir, &args);
            assert_eq!((got.status(), got.body.as_str()), ("413", "large"), "{url} {framing}");
        }
    }
    // whose body is malformed hears that it is the client's fault
    for (framing, body) in [("Transfer-Encoding: chunked", "zz\r\n"), ("Content-Length: 9", "short")] {
        let mut socket = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
        let host = plain.host();
        write!(socket, "POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{framing}\r\n\r\n{body}").unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let mut got = String::new();
        socket.read_to_string(&mut got).unwrap();
        assert!(got.starts_with("HTTP/1.1 400 ") && got.contains("Connection: close"), "{framing}: {got}");
    }
    proxy.stop();
}

#[test]
fn clients_that_ask_at_once_cause_one_fetch() {
    const CLIENTS: usize = 6;
    let dir = TempDir::new();
    let waiting = std::sync::Arc::new(AtomicUsize::new(0));
    let asked = waiting.clone();
    let (open, gate) = std::sync::mpsc::channel();
    let gate = std::sync::Mutex::new(gate);
    let origin = Origin::http(move |_| {
        asked.fetch_add(1, Ordering::SeqCst);
        // until all others have come
        gate.lock().unwrap().recv().unwrap();
        answer("Cache-Control: immutable", "once")
    });
    let proxy = Proxy::start(&dir, &origin.host(), |p| p);
    let url = format!("http://{}/", origin.host());
    let barrier = Barrier::new(CLIENTS);
    std::thread::scope(|s| {
        for _ in 0..CLIENTS {
            s.spawn(|| {
                barrier.wait();
                assert_eq!(proxy.curl(&dir, &[&url]).body, "once");
            });
        }
        poll("the clients", || (proxy.counter("revcache", "req_received") == CLIENTS as u64).then_some(()));
        open.send(()).unwrap();
    });
    assert_eq!(waiting.load(Ordering::SeqCst), 1);
    proxy.stop();
}

#[test]
fn another_machine_finds_answers_in_the_bucket() {
    let (one, two, bucket) = (TempDir::new(), TempDir::new(), TempDir::new());
    let origin = Origin::http(|_| answer("Cache-Control: immutable\nContent-Type: text/x", "shared"));
    let flag = format!("--bucket=file://{}", bucket.path().display());
    let url = format!("http://{}/", origin.host());
    let proxy = Proxy::start(&one, &origin.host(), |p| p.arg(&flag));
    proxy.curl(&one, &[&url]).cache("fetch, cached");
    poll("the upload", || (proxy.counter("revcache", "rsp_push") == 1).then_some(()));
    proxy.stop();
    let proxy = Proxy::start(&two, &origin.host(), |p| p.arg(&flag));
    let got = proxy.curl(&two, &[&url]);
    assert_eq!((got.cache("hit, remote").body.as_str(), got.header("Content-Type")), ("shared", Some("text/x")));
    proxy.curl(&two, &[&url]).cache("hit, local");
    assert_eq!(origin.seen().len(), 1);
    proxy.stop();
}

#[test]
fn tunnels_carry_both_directions_past_a_half_close() {
    let dir = TempDir::new();
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(&dir, "example.com", |p| p.arg("--tunnel=127.0.0.1"));
    let mut client = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    let addr = target.local_addr().unwrap();
    // the first bytes come along with the request
    write!(client, "CONNECT {addr} HTTP/1.1\r\nHost: {addr}\r\n\r\nearly ").unwrap();
    let (mut far, _) = target.accept().unwrap();
    let mut head = [0; 12];
    client.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    client.write_all(b"late").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut got = String::new();
    far.read_to_string(&mut got).unwrap();
    assert_eq!(got, "early late");
    far.write_all(b"answer after the end").unwrap();
    drop(far);
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("\r\n\r\nanswer after the end"), "{rest}");
    // nobody is there
    let mut client = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    let gone = free_port();
    write!(client, "CONNECT 127.0.0.1:{gone} HTTP/1.1\r\nHost: 127.0.0.1:{gone}\r\n\r\n").unwrap();
    client.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 502");
    proxy.stop();
}
