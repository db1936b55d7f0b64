//! Who may ask the HTTP server for what, and what it answers while its upstreams hang: the real
//! program, with curl, go and raw requests as clients.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use serde_json::json;

use crate::support::browser::{self, Browser};
use crate::support::env::{Plugin, Running, TempDir, binary, free_port, poll, run, scrubbed, serve_http};
use crate::support::origin::{Origin, answer, self_signed};
use crate::support::upstream::{Tree, Upstream};

/// A running `serve`.
struct Server {
    child: Running,
    port: u16,
}

impl Server {
    fn start(dir: &TempDir, args: &[&str]) -> Self {
        Self::at(dir, "127.0.0.1", args)
    }

    fn at(dir: &TempDir, host: &str, args: &[&str]) -> Self {
        let (child, port) = serve_http(dir, host, |plugin| plugin.args(args).env("GOCACHE_MOD_VERIFY", "off"));
        Server { child, port }
    }

    /// The answer to a head whose first line and headers are given.
    fn send(&self, to: impl Into<IpAddr>, line: &str, headers: &[&str]) -> Answer {
        let mut socket = TcpStream::connect(SocketAddr::new(to.into(), self.port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        write!(socket, "{line} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n").unwrap();
        let mut text = Vec::new();
        let _ = socket.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{line} {headers}: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_string(), body: body.to_string() }
    }

    /// GET over loopback.
    fn get(&self, path: &str, headers: &[&str]) -> Answer {
        self.send(Ipv4Addr::LOCALHOST, &format!("GET {path}"), headers)
    }

    /// The status of [`Self::get`].
    #[track_caller]
    fn expect(&self, status: u16, path: &str, headers: &[&str]) -> Answer {
        let got = self.get(path, headers);
        assert_eq!(got.status, status, "{path} {headers:?}: {}\n{}", got.head, got.body);
        got
    }

    /// What it said, but for where it listens.
    fn stop(mut self) -> String {
        self.child.signal(Signal::TERM);
        let stderr = self.child.wait().ok().stderr;
        stderr.lines().filter(|line| !line.contains(": listening plugin=")).map(|line| format!("{line}\n")).collect()
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

const LOCAL: &str = "Host: localhost";

/// A tree with a public and a private module.
fn modules(dir: &TempDir) -> Upstream {
    let mut tree = Tree::new(dir.dir("upstream"));
    tree.add("pub.example/a", "v1.0.0", &[("a.go", b"package a\n")]);
    tree.add("corp.example/b", "v1.0.0", &[("b.go", b"package b\n")]);
    Upstream::start(&tree.root)
}

fn of_upstream(upstream: &Upstream) -> [String; 3] {
    // a private module is asked of upstreams that are named for it; no sum database knows ours
    [format!("--upstream=http://{}#private", upstream.addr), "--mod-private=corp.example/*".into(), "--modproxy".into()]
}

const PUBLIC: &str = "/mod/pub.example/a/@v/v1.0.0.info";
const PRIVATE: &str = "/mod/corp.example/b/@v/v1.0.0.info";

/// An address of this machine that is not loopback.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // nothing is sent: the system only says from where it would be
    socket.connect("192.0.2.1:9").expect("this test needs a network interface besides loopback");
    socket.local_addr().unwrap().ip()
}

/// Makes a token; it, and its line with `role`.
fn keygen(dir: &TempDir, name: &str, role: &str) -> (String, String) {
    let out = Plugin::new(dir).args(["keygen", "--token", name]).output().ok().quiet();
    let (token, line) = (out.stdout.lines().next().unwrap(), out.stdout.lines().last().unwrap());
    assert!(token.len() == 64 && line.starts_with(&format!("{name} modules ")) && !line.contains(token), "{line}");
    (token.to_string(), line.replace(" modules ", &format!(" {role} ")) + "\n")
}

#[test]
fn a_name_that_was_rebound_to_this_machine_gets_nothing() {
    let dir = TempDir::new();
    let upstream = modules(&dir);
    let args = of_upstream(&upstream);
    let server =
        Server::start(&dir, &[&args[0], &args[1], &args[2], "--http-host=Cache.corp.example", "--http-host=b.example"]);
    for host in ["evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example", "evil@localhost", ""] {
        let host = format!("Host: {host}");
        for path in ["/", "/debug/", "/debug/status.json", "/debug/vars", "/metrics", PUBLIC, PRIVATE, "/none"] {
            let got = server.expect(421, path, &[&host]);
            assert!(got.body.contains("--http-host"), "{}", got.body);
        }
        server.expect(200, "/healthz", &[&host]);
        assert!([200, 503].contains(&server.get("/readyz", &[&host]).status));
    }
    let machine = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for host in ["localhost", "127.0.0.1", "[::1]:1", "10.9.8.7", "cache.corp.example:99", "b.example", machine.trim()]
    {
        let host = format!("Host: {host}");
        server.expect(200, "/debug/", &[&host]);
        server.expect(200, PUBLIC, &[&host]);
    }
    server.stop();
}

#[test]
fn what_was_forwarded_is_from_another_machine() {
    let dir = TempDir::new();
    let (upstream, origin) = (modules(&dir), Origin::http(|_| answer("", "proxied")));
    let (args, hosts) = (of_upstream(&upstream), format!("--revproxy={}", origin.host()));
    let server = Server::start(&dir, &[&args[0], &args[1], &args[2], &hosts]);
    let (url, target) = (format!("http://{}/", origin.host()), origin.host());
    for forwarded in [
        "X-Forwarded-For: 127.0.0.1",
        "x-forwarded-for:",
        "Forwarded: for=127.0.0.1",
        "X-Real-IP: 127.0.0.1",
        "X-Forwarded-Host: localhost",
        "Via: 1.1 proxy",
    ] {
        for path in ["/", "/debug/", "/debug/vars", "/metrics", PRIVATE] {
            server.expect(403, path, &[LOCAL, forwarded]);
        }
        server.expect(200, PUBLIC, &[LOCAL, forwarded]);
        server.expect(200, "/healthz", &[LOCAL, forwarded]);
        server.expect(403, &url, &[LOCAL, forwarded]);
        let connect = format!("CONNECT {target}");
        assert_eq!(server.send(Ipv4Addr::LOCALHOST, &connect, &[LOCAL, forwarded]).status, 403, "{forwarded}");
    }
    assert_eq!(origin.seen().len(), 0);
    server.expect(200, PRIVATE, &[LOCAL]);
    assert_eq!(server.expect(200, &url, &[LOCAL]).body, "proxied");
    server.stop();
}

#[test]
fn other_machines_get_public_modules_and_are_told_of_at_the_start() {
    let dir = TempDir::new();
    let (upstream, origin) = (modules(&dir), Origin::http(|_| answer("", "proxied")));
    let (args, hosts) = (of_upstream(&upstream), format!("--revproxy={}", origin.host()));
    let server = Server::at(&dir, "0.0.0.0", &[&args[0], &args[1], &args[2], &hosts]);
    let own = own_address();
    let get = |path: &str| server.send(own, &format!("GET {path}"), &["Host: 10.1.1.1"]).status;
    assert_eq!((get(PUBLIC), get(PRIVATE), get("/healthz"), get("/debug/")), (200, 403, 200, 403));
    assert_eq!((get("/metrics"), get(&format!("http://{}/", origin.host()))), (403, 403));
    assert_eq!(server.send(own, &format!("CONNECT {}", origin.host()), &[LOCAL]).status, 403);
    server.expect(200, PRIVATE, &[LOCAL]);
    assert_eq!(origin.seen().len(), 0);
    let stderr = server.stop();
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
    assert!(stderr.contains("is open to other machines") && stderr.contains("--http-tls-cert"), "{stderr}");
    assert!(stderr.contains("other machines may not use it without --http-auth-file"), "{stderr}");
}

#[test]
fn tokens_open_what_their_roles_say_and_are_read_again() {
    let dir = TempDir::new();
    let (upstream, origin) = (modules(&dir), Origin::http(|_| answer("", "proxied")));
    let tokens: Vec<_> = ["modules", "debug", "proxy", "admin"].map(|role| keygen(&dir, role, role)).into();
    let file =
        dir.write("tokens", &format!("# ours\n{}", tokens.iter().map(|(_, line)| line.as_str()).collect::<String>()));
    let (args, hosts) = (of_upstream(&upstream), format!("--revproxy={}", origin.host()));
    let auth = format!("--http-auth-file={}", file.display());
    let server = Server::start(&dir, &[&args[0], &args[1], &args[2], &hosts, &auth]);
    let url = format!("http://{}/", origin.host());
    let connect = format!("CONNECT {}", origin.host());
    for (n, (token, _)) in tokens.iter().enumerate() {
        let bearer = format!("Authorization: Bearer {token}");
        let pair = base64_simd::STANDARD.encode_to_string(format!("x:{token}"));
        let basic = format!("Authorization: Basic {pair}");
        for credentials in [&bearer, &basic] {
            server.expect(200, PRIVATE, &[LOCAL, credentials]);
            server.expect(if n % 2 == 1 { 200 } else { 403 }, "/debug/", &[LOCAL, credentials]);
            server.expect(if n % 2 == 1 { 200 } else { 403 }, "/metrics", &[LOCAL, credentials]);
            // what is for the target is not for us
            server.expect(407, &url, &[LOCAL, credentials]);
        }
        let proxy = format!("Proxy-Authorization: Basic {pair}");
        server.expect(if n > 1 { 200 } else { 403 }, &url, &[LOCAL, &proxy]);
        let status = if n > 1 { 200 } else { 403 };
        assert_eq!(server.send(Ipv4Addr::LOCALHOST, &connect, &[LOCAL, &proxy]).status, status);
        server.expect(401, "/debug/", &[LOCAL, &proxy]);
    }
    // without one, on this machine neither
    for credentials in ["X: y", "Authorization: Bearer no", "Authorization: Bearer", "Authorization: Basic eDp5"] {
        let got = server.expect(401, PRIVATE, &[LOCAL, credentials]);
        assert!(got.head.contains("WWW-Authenticate: Basic"), "{}", got.head);
        server.expect(401, "/debug/status.json", &[LOCAL, credentials]);
        server.expect(200, PUBLIC, &[LOCAL, credentials]);
        server.expect(200, "/healthz", &[LOCAL, credentials]);
    }
    let got = server.expect(407, &url, &[LOCAL]);
    assert!(got.head.contains("Proxy-Authenticate: Basic"), "{}", got.head);
    // the target sees no token of ours
    let seen = origin.seen().join("\n").to_ascii_lowercase();
    assert!(seen.contains("get / ") && !seen.contains("proxy-authorization"), "{seen}");

    // a file that is wrong changes nothing, one that is right does, both ways
    let with = |n: usize| format!("Authorization: Bearer {}", tokens[n].0);
    fs::write(&file, format!("{}oops\n", tokens[1].1)).unwrap();
    server.child.signal(Signal::HUP);
    poll("the line", || server.child.stderr().contains("tokens:2: ").then_some(()));
    server.expect(200, PRIVATE, &[LOCAL, &with(0)]);
    // nor does a pipe that nobody writes to, which is not waited for
    fs::remove_file(&file).unwrap();
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    server.child.signal(Signal::HUP);
    poll("the line", || server.child.stderr().contains("no plain file").then_some(()));
    server.expect(200, PRIVATE, &[LOCAL, &with(0)]);
    fs::remove_file(&file).unwrap();
    fs::write(&file, &tokens[1].1).unwrap();
    server.child.signal(Signal::HUP);
    poll("the new file", || (server.get(PRIVATE, &[LOCAL, &with(0)]).status == 401).then_some(()));
    server.expect(200, "/debug/", &[LOCAL, &with(1)]);
    let stderr = server.stop();
    assert!(tokens.iter().all(|(token, _)| !stderr.contains(token)), "{stderr}");
}

#[test]
fn a_download_under_way_outlives_a_reload() {
    let dir = TempDir::new();
    let ((_, old), (token, new)) = (keygen(&dir, "old", "modules"), keygen(&dir, "new", "debug"));
    let file = dir.write("tokens", &old);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = format!("--upstream=http://{}", listener.local_addr().unwrap());
    let (body, (begun, has_begun), (go_on, goes_on)) = ("module pub.example/a\n", channel(), channel());
    let slow = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        assert!(socket.read(&mut [0; 4096]).unwrap() > 0);
        write!(socket, "HTTP/1.1 200 x\r\nContent-Length: {}\r\n\r\n{}", body.len(), &body[..9]).unwrap();
        begun.send(()).unwrap();
        goes_on.recv().unwrap();
        socket.write_all(&body.as_bytes()[9..]).unwrap();
    });
    let server = Server::start(&dir, &["--modproxy", &upstream, &format!("--http-auth-file={}", file.display())]);
    std::thread::scope(|s| {
        let download = s.spawn(|| server.expect(200, "/mod/pub.example/a/@v/v1.0.0.mod", &[LOCAL]).body);
        has_begun.recv().unwrap();
        fs::write(&file, &new).unwrap();
        server.child.signal(Signal::HUP);
        let bearer = format!("Authorization: Bearer {token}");
        poll("the new file", || (server.get("/debug/", &[LOCAL, &bearer]).status == 200).then_some(()));
        go_on.send(()).unwrap();
        assert_eq!(download.join().unwrap(), body);
    });
    slow.join().unwrap();
    server.stop();
}

#[test]
fn go_brings_its_token_along() {
    let dir = TempDir::new();
    let upstream = modules(&dir);
    let (token, line) = keygen(&dir, "ci", "modules");
    let auth = format!("--http-auth-file={}", dir.write("tokens", &line).display());
    let args = of_upstream(&upstream);
    // go passes a token on over https alone
    certificate(&dir, "own");
    let (cert, key) = (dir.join("own.pem"), dir.join("own.key"));
    let tls = [format!("--http-tls-cert={}", cert.display()), format!("--http-tls-key={}", key.display())];
    let server = Server::start(&dir, &[&args[0], &args[1], &args[2], &auth, &tls[0], &tls[1]]);
    let go = |user: &str, module: &str| {
        let mut go = scrubbed("go", dir.path());
        go.env("GOPROXY", format!("https://{user}localhost:{}/mod", server.port)).env("GONOSUMDB", "*");
        go.env("SSL_CERT_FILE", &cert).env("no_proxy", "localhost");
        go.env("GOFLAGS", "-modcacherw").env("GOTOOLCHAIN", "local").env("GO111MODULE", "on");
        go.args(["mod", "download", "-json", module]);
        run(go)
    };
    go(&format!("ci:{token}@"), "corp.example/b@v1.0.0").ok();
    go("", "pub.example/a@v1.0.0").ok();
    fs::remove_dir_all(dir.join("go")).unwrap();
    let refused = go("", "corp.example/b@v1.0.0").code(1);
    assert!(refused.stdout.contains("401"), "{}", refused.describe());
    server.stop();
}

#[test]
fn wrong_files_are_one_line_at_the_start() {
    let dir = TempDir::new();
    let (_, pem) = self_signed(&["localhost"]);
    let cert = dir.write("cert.pem", &pem).display().to_string();
    let tokens = dir.write("tokens", "a b\n").display().to_string();
    let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let of_nothing = dir.write("of-nothing", &format!("ci admin {nothing}\n")).display().to_string();
    for (args, want) in [
        (vec![format!("--http-auth-file={tokens}")], "tokens:1: not a name, a role"),
        (vec![format!("--http-auth-file={of_nothing}")], "of-nothing:1: the hash is no SHA-256 of a token"),
        (vec![format!("--http-auth-file={tokens}.none")], "No such file"),
        (vec![format!("--http-tls-cert={cert}"), format!("--http-tls-key={cert}")], "cert.pem"),
        (vec![format!("--http-tls-cert={cert}")], "need each other"),
        (vec!["--http-host=a:80".into()], "without a port"),
        (vec!["--revproxy=a.example,b.example".into(), "--ca-domains=a.example".into()], "outside of --ca-domains"),
        (
            vec!["--revproxy=a.example".into(), format!("--ca-dir={}", dir.join("cache/x").display())],
            "in the cache directory",
        ),
    ] {
        let plugin = Plugin::new(&dir).args(["serve", "--plugin=0", "--http=127.0.0.1:0"]).args(&args);
        let out = plugin.output();
        assert!(!out.status.success(), "{args:?}");
        assert!(out.stderr.lines().count() == 1 && out.stderr.contains(want), "{args:?}: {}", out.stderr);
    }
}

/// A certificate for localhost and its key in files of that name; the certificate in PEM form.
pub fn certificate(dir: &TempDir, name: &str) -> String {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_string()]).unwrap();
    dir.write(&format!("{name}.key"), &made.signing_key.serialize_pem());
    dir.write(&format!("{name}.pem"), &made.cert.pem());
    made.cert.pem()
}

#[test]
fn https_is_served_and_its_certificate_read_again() {
    let dir = TempDir::new();
    certificate(&dir, "own");
    let (cert, key) = (dir.join("own.pem"), dir.join("own.key"));
    let args = [format!("--http-tls-cert={}", cert.display()), format!("--http-tls-key={}", key.display())];
    let server = Server::start(&dir, &[&args[0], &args[1]]);
    let curl = |ca: &Path, args: &[&str]| {
        let mut curl = scrubbed("curl", dir.path());
        curl.args(["-sS", "-i", "--max-time", "60", "--noproxy", "", "--cacert"]).arg(ca).args(args);
        run(curl)
    };
    let url = format!("https://localhost:{}/debug/vars", server.port);
    // keep-alive too
    assert_eq!(curl(&cert, &[&url, &url]).ok().stdout.matches("HTTP/1.1 200").count(), 2);
    let plain = curl(&cert, &[&format!("http://localhost:{}/healthz", server.port)]);
    assert!(!plain.status.success() && !plain.stdout.contains(" 200 "), "{}", plain.stdout);
    // a new certificate
    let old = dir.write("old.pem", &fs::read_to_string(&cert).unwrap());
    certificate(&dir, "own");
    server.child.signal(Signal::HUP);
    poll("the new certificate", || curl(&cert, &[&url]).status.success().then_some(()));
    assert!(!curl(&old, &[&url]).status.success());
    // a half-written one changes nothing
    fs::write(&cert, "junk").unwrap();
    server.child.signal(Signal::HUP);
    poll("the line", || server.child.stderr().contains("the certificate stays").then_some(()));
    server.stop();
}

#[test]
fn a_client_that_drips_over_tls_is_ended() {
    let dir = TempDir::new();
    certificate(&dir, "own");
    let args = [
        format!("--http-tls-cert={}", dir.join("own.pem").display()),
        format!("--http-tls-key={}", dir.join("own.key").display()),
    ];
    let server = Server::start(&dir, &[&args[0], &args[1]]);
    let begun = Instant::now();
    let mut socket = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    // the start of a hello of 16 KiB
    let mut hello = [22, 3, 1, 63, 0].into_iter().chain(std::iter::repeat(1));
    while begun.elapsed() < Duration::from_secs(40) {
        if socket.write_all(&[hello.next().unwrap()]).is_err() {
            break;
        }
        match socket.read(&mut [0; 64]) {
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            _ => break,
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(35), "it lives on");
    server.stop();
}

#[test]
fn the_page_says_what_fails_and_what_is_full_in_a_real_browser() {
    if browser::excused() {
        return;
    }
    let dir = TempDir::new();
    let (stuck, held) = Hung::start();
    let gone = free_port();
    let hosts = format!("--revproxy={},127.0.0.1:{gone},a-very-long-name-that-nobody-has.invalid", stuck.addr);
    let server = Server::start(&dir, &[&hosts]);
    for host in [format!("127.0.0.1:{gone}"), "a-very-long-name-that-nobody-has.invalid".into()] {
        server.expect(502, &format!("http://{host}/x/%3Cimg%20src=x%20onerror=alert(1)%3E?s3cr3t"), &[LOCAL]);
    }
    let mut waits = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    write!(waits, "GET http://{}/ HTTP/1.1\r\nHost: localhost\r\n\r\n", stuck.addr).unwrap();
    let mut page = Browser::start();
    let mut colours = Vec::new();
    for width in [400, 1400] {
        for dark in [false, true] {
            page.dark(dark);
            page.open(&format!("http://127.0.0.1:{}/debug/", server.port), width);
            page.wait("document.getElementById('upstreams').rows.length === 3");
            let widths = page.eval("[document.documentElement.scrollWidth, window.innerWidth]");
            assert_eq!(widths, json!([width, width]), "dark: {dark}");
            let text = page.eval("document.getElementById('upstreams').innerText").to_string();
            for want in [&format!("127.0.0.1:{gone}"), "Connection refused", "a-very-long-name", "1 for "] {
                assert!(text.contains(want), "{text}");
            }
            let failing = "document.querySelectorAll('#upstreams [data-mood=warn]').length >= 2";
            assert_eq!(page.eval(failing), json!(true));
            let full = page.eval("document.getElementById('full').innerText").to_string();
            for want in ["HTTP connections", "Waiting for upstreams", "Open files", "Disk", "Upload queue"] {
                assert!(full.contains(want), "{full}");
            }
            let all = page.eval("document.body.innerText + document.body.innerHTML").to_string();
            assert!(!all.contains("s3cr3t"), "{all}");
            colours.push(
                page.eval("getComputedStyle(document.body).backgroundColor + getComputedStyle(document.body).color"),
            );
        }
    }
    assert!(colours[0] == colours[2] && colours[1] == colours[3] && colours[0] != colours[1], "{colours:?}");
    assert!(page.complaints.is_empty(), "{:#?}", page.complaints);
    drop(waits);
    held.lock().unwrap().clear();
    server.stop();
}

/// A server that takes requests and never answers.
struct Hung {
    addr: SocketAddr,
}

impl Hung {
    fn start() -> (Self, std::sync::Arc<std::sync::Mutex<Vec<TcpStream>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let held = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let hold = held.clone();
        std::thread::spawn(move || listener.incoming().flatten().for_each(|socket| hold.lock().unwrap().push(socket)));
        (Hung { addr }, held)
    }
}

/// Requests to a hung upstream and a hung target, and what is answered beside them.
fn beside(hung: usize) {
    let dir = TempDir::new();
    let good = modules(&dir);
    let (stuck, held) = Hung::start();
    let args = of_upstream(&good);
    let server = Server::start(&dir, &[&args[0], &args[1], &args[2]]);
    server.expect(200, PUBLIC, &[LOCAL]);
    server.stop();
    let upstream = format!("--upstream=http://{}", stuck.addr);
    let proxied = format!("--revproxy={}", stuck.addr);
    let server = Server::start(&dir, &[&upstream, "--modproxy", &proxied]);
    let clients: Vec<_> = (0..hung)
        .map(|n| {
            let mut socket = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
            let what = match n % 2 {
                0 => format!("/mod/hung.example/m{n}/@v/v1.0.0.zip"),
                _ => format!("http://{}/{n}", stuck.addr),
            };
            write!(socket, "GET {what} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            socket
        })
        .collect();
    let status =
        || -> serde_json::Value { serde_json::from_str(&server.get("/debug/status.json", &[LOCAL]).body).unwrap() };
    poll("the requests that wait", || (status()["status"]["http_waiting"] == hung).then_some(()));
    assert!(!held.lock().unwrap().is_empty());
    for path in ["/healthz", "/readyz", PUBLIC, "/debug/", "/debug/status.json", "/metrics"] {
        let mut took: Vec<_> = (0..20)
            .map(|_| {
                let begun = Instant::now();
                server.expect(200, path, &[LOCAL]);
                begun.elapsed()
            })
            .collect();
        took.sort();
        // others use the machine too: the slowest of them are not about us
        assert!(took[10] < Duration::from_millis(50), "{path} beside {hung}: {took:?}");
    }
    let status = status();
    assert_eq!(status["status"]["http_waiting"], hung, "{}", status["status"]);
    let waiting: u64 =
        status["page"]["upstreams"].as_array().unwrap().iter().map(|u| u["waiting"].as_u64().unwrap()).sum();
    assert_eq!(waiting, hung as u64, "{}", status["page"]["upstreams"]);
    drop(clients);
    held.lock().unwrap().clear();
    server.stop();
}

#[test]
fn what_need_not_wait_is_answered_beside_64_requests_that_hang() {
    beside(64);
}

#[test]
fn what_need_not_wait_is_answered_beside_128_requests_that_hang() {
    beside(128);
}

/// A server that may have 160 files open: 40 connections, and 20 of their requests may wait.
fn few_files(dir: &TempDir, args: &[&str]) -> Server {
    let port = free_port();
    let mut sh = scrubbed("sh", dir.path());
    sh.env("GOCACHE_DIR", dir.join("cache")).env("no_proxy", "127.0.0.1").env("HOME", dir.path());
    sh.arg("-c").arg("ulimit -n 160 && exec \"$0\" \"$@\"").arg(binary()).arg("serve").args(args);
    sh.arg(format!("--plugin={}", dir.join("plugin.sock").display())).arg(format!("--http=127.0.0.1:{port}"));
    let server = Server { child: Running::start(sh, Stdio::null()), port };
    poll("the server", || TcpStream::connect(("127.0.0.1", port)).ok());
    server
}

#[test]
fn requests_that_wait_leave_room_for_those_that_do_not() {
    let dir = TempDir::new();
    let (stuck, held) = Hung::start();
    let [from, hosts] = ["--upstream=http://", "--revproxy="].map(|flag| format!("{flag}{}", stuck.addr));
    let server = few_files(&dir, &["--modproxy", &from, &hosts]);
    // the same thing asked for again and again waits too
    let module = |n: usize| format!("/mod/hung.example/m{}/@v/v1.0.0.zip HTTP/1.1\r\nHost: localhost", n % 50);
    let switch = |_| format!("http://{}/ HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket", stuck.addr);
    for what in [&module as &dyn Fn(usize) -> String, &switch] {
        let clients: Vec<_> = (0..100)
            .map(|n| {
                let mut socket = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
                write!(socket, "GET {}\r\n\r\n", what(n)).unwrap();
                socket
            })
            .collect();
        let all_wait = || server.get("/metrics", &[LOCAL]).body.contains("\ngocache_http_waiting 20\n");
        poll("the requests upstream", || all_wait().then_some(()));
        let begun = Instant::now();
        server.expect(200, "/healthz", &[LOCAL]);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        server.expect(503, "/mod/hung.example/more/@v/v1.0.0.zip", &[LOCAL]);
        drop(clients);
        held.lock().unwrap().clear();
    }
    server.stop();
}

#[test]
fn bodies_of_which_no_more_comes_leave_room_too() {
    let dir = TempDir::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let begin = |mut socket: TcpStream| {
            assert!(socket.read(&mut [0; 4096]).unwrap() > 0);
            write!(socket, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx").unwrap();
            socket
        };
        listener.incoming().flatten().map(begin).collect::<Vec<_>>()
    });
    let server = few_files(&dir, &[&format!("--revproxy={target}")]);
    // one after the other: none waits for the head of its answer any more
    let _clients: Vec<_> = (0..100)
        .map(|n| {
            let mut client = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            write!(client, "GET http://{target}/{n} HTTP/1.1\r\nHost: {target}\r\n\r\n").unwrap();
            client.read_exact(&mut [0; 9]).unwrap_or_else(|e| panic!("request {n}: {e}"));
            client
        })
        .collect();
    server.expect(200, "/healthz", &[LOCAL]);
    server.stop();
}

#[test]
fn a_download_under_way_goes_on_beside_all_that_may_wait() {
    // more than there is room for on the way
    const LEN: usize = 128 << 20;
    let dir = TempDir::new();
    let (stuck, held) = Hung::start();
    let big = Origin::http(|_| answer("Cache-Control: no-store", &"x".repeat(LEN)));
    let hosts = format!("--revproxy={},{}", stuck.addr, big.host());
    let server = few_files(&dir, &[&hosts]);
    let ask = |host: &str| {
        let mut client = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        write!(client, "GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        client
    };
    let mut download = ask(&big.host());
    download.read_exact(&mut vec![0; 1 << 20]).unwrap();
    // it stalls at some time, and holds no place then
    let mut clients = Vec::new();
    poll("the requests", || {
        clients.push(ask(&stuck.addr.to_string()));
        (held.lock().unwrap().len() == 20).then_some(())
    });
    let rest = std::io::copy(&mut download, &mut std::io::sink()).unwrap();
    assert!(rest > (LEN - (1 << 20)) as u64, "{rest} bytes");
    held.lock().unwrap().clear();
    server.stop();
}

#[test]
fn readiness_follows_the_disk() {
    let dir = TempDir::new();
    let server = Server::start(&dir, &[]);
    poll("ready", || (server.get("/readyz", &["Host: any.example"]).status == 200).then_some(()));
    fs::rename(dir.join("cache"), dir.join("away")).unwrap();
    poll("no longer", || {
        let got = server.get("/readyz", &[LOCAL]);
        (got.status == 503 && got.body.contains("disk: takes nothing")).then_some(())
    });
    server.expect(200, "/healthz", &[LOCAL]);
    fs::rename(dir.join("away"), dir.join("cache")).unwrap();
    poll("ready again", || (server.get("/readyz", &[LOCAL]).status == 200).then_some(()));
    assert_eq!(server.stop().matches("nothing can be written").count(), 1);
}

#[test]
fn queries_and_passwords_are_shown_nowhere() {
    let dir = TempDir::new();
    let origin = Origin::http(|request| match request.split(' ').nth(1).unwrap() {
        path if path.starts_with("/break") => b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx".to_vec(),
        path if path.starts_with("/junk") => b"junk\r\n\r\n".to_vec(),
        path if path.starts_with("/fails") => b"HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => answer("Cache-Control: immutable", "x"),
    });
    let gone = free_port();
    let upstream = format!("--upstream=http://someone:s3cr3t-upstream@127.0.0.1:{gone}");
    let hosts = format!("--revproxy={},127.0.0.1:{gone}", origin.host());
    let server = Server::start(&dir, &[&upstream, "--modproxy", "-v", "--debug=7", &hosts]);
    let secret = "a=(b),'c'&X-Amz-Signature=s3cr3t-query";
    for path in ["kept", "break", "junk", "fails"] {
        let got = server.get(&format!("http://{}/{path}?{secret}", origin.host()), &[LOCAL]);
        assert!(!got.body.contains("s3cr3t"), "{}", got.body);
    }
    // what should have been escaped is no exception
    for odd in ["", "a=<b>,\"|"] {
        let got = server.expect(502, &format!("http://127.0.0.1:{gone}/x?{odd}{secret}"), &[LOCAL]);
        assert!(got.body.contains("/x") && !got.body.contains("s3cr3t"), "{}", got.body);
    }
    let got = server.get(&format!("{PUBLIC}?{secret}"), &[LOCAL]);
    assert!(got.status == 502 && !got.body.contains("s3cr3t"), "{} {}", got.status, got.body);
    for path in ["/debug/status.json", "/debug/vars", "/metrics", "/readyz"] {
        let got = server.expect(200, path, &[LOCAL]);
        assert!(!got.body.contains("s3cr3t"), "{path}: {}", got.body);
    }
    let page = server.get("/debug/status.json", &[LOCAL]).body;
    assert!(page.contains(&format!("http://{}/kept\"", origin.host())) && page.contains("status 500"), "{page}");
    let stderr = server.stop();
    assert!(stderr.contains("/kept") && !stderr.contains("s3cr3t"), "{stderr}");
}

#[test]
fn the_authority_is_nowhere_in_the_cache_and_an_old_one_is_replaced() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new();
    dir.write("cache/ca-key.pem", "an old key");
    dir.write("cache/ca.pem", "an old certificate");
    let server = Server::start(&dir, &["--revproxy=example.com,127.0.0.1:8443"]);
    let state = dir.join(".local/state/go-cache-plugin");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&state), mode(&state.join("ca-key.pem"))), (0o700, 0o600));
    let kept: Vec<_> = fs::read_dir(dir.join("cache")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(kept.iter().all(|name| !name.to_string_lossy().contains("ca")), "{kept:?}");
    let cert = fs::read_to_string(state.join("ca.pem")).unwrap();
    assert!(cert.contains("\n# for example.com, 127.0.0.1\n"), "{cert}");
    let stderr = server.stop();
    assert!(stderr.lines().count() == 1 && stderr.contains("is removed, trust it no more"), "{stderr}");
    assert!(stderr.contains(&state.join("ca.pem").display().to_string()), "{stderr}");
    // what openssl reads in it
    let mut openssl = scrubbed("openssl", dir.path());
    openssl.args(["x509", "-noout", "-text", "-in"]).arg(state.join("ca.pem"));
    let text = run(openssl).ok().stdout;
    assert!(
        text.contains("Name Constraints: critical")
            && text.contains("DNS:example.com")
            && text.contains("IP:127.0.0.1/255.255.255.255"),
        "{text}"
    );
    // other hosts, other constraints, the same key; then nothing changes
    let key = fs::read(state.join("ca-key.pem")).unwrap();
    let stderr = Server::start(&dir, &["--revproxy=a.example.com", "--ca-domains=example.com"]).stop();
    assert!(stderr.contains("renewed, for example.com: install it anew"), "{stderr}");
    let renewed = fs::read(state.join("ca.pem")).unwrap();
    let stderr = Server::start(&dir, &["--revproxy=b.example.com", "--ca-domains=example.com"]).stop();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert_eq!((fs::read(state.join("ca.pem")).unwrap(), fs::read(state.join("ca-key.pem")).unwrap()), (renewed, key));
    // one that was made while the clock was years ahead is not valid yet
    let (ends, rest) = cert.split_once('\n').unwrap();
    fs::write(state.join("ca.pem"), format!("# valid until 2999-01-01T00:00:00Z\n{rest}")).unwrap();
    let stderr = Server::start(&dir, &["--revproxy=example.com,127.0.0.1:8443"]).stop();
    assert!(stderr.contains("the authority was renewed"), "{stderr}");
    let renewed = fs::read_to_string(state.join("ca.pem")).unwrap();
    assert_eq!(renewed.lines().next().map(|line| &line[..18]), Some(&ends[..18]), "{renewed}");
}

#[test]
#[cfg(target_os = "linux")]
fn two_thousand_clients_that_say_nothing_or_little_cost_little() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let dir = TempDir::new();
    let port = free_port();
    let mut sh = scrubbed("sh", dir.path());
    sh.env("GOCACHE_DIR", dir.join("cache"));
    sh.arg("-c").arg("ulimit -n 4096 && exec \"$0\" \"$@\"").arg(binary()).arg("serve");
    sh.arg(format!("--plugin={}", dir.join("plugin.sock").display())).arg(format!("--http=127.0.0.1:{port}"));
    let server = Server { child: Running::start(sh, Stdio::null()), port };
    let connect = || TcpStream::connect(("127.0.0.1", port));
    poll("the server", || connect().ok());
    let rss = || {
        let status = fs::read_to_string(format!("/proc/{}/status", server.child.pid())).unwrap();
        let kib =
            status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.unwrap()
    };
    let mut crowd: Vec<_> = (0..1000).map(|_| connect().unwrap()).collect();
    server.expect(200, "/healthz", &[LOCAL]);
    for n in 0..1000 {
        let mut socket = connect().unwrap();
        socket.write_all(format!("GET /{n} HTTP/1.1\r\nA: ").as_bytes()).unwrap();
        crowd.push(socket);
    }
    // one byte more from each, while somebody asks
    for socket in &mut crowd[1000..] {
        let _ = socket.write_all(b"x");
    }
    let begun = Instant::now();
    server.expect(200, "/healthz", &[LOCAL]);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(rss() <= 64 << 10, "{} KiB", rss());
    // the oldest made room, the latest did not
    assert!(matches!(crowd[0].read(&mut [0]), Ok(0) | Err(_)));
    drop(crowd);
    server.stop();
}
