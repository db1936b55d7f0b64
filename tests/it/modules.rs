//! The module proxy where upstreams are slow, wrong or gone and disks full, private modules, and `mod`.

use std::fs;
use std::io::{Read, Write};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::env::{Output, Plugin, Running, TempDir, may_mount, mount, poll, serve_http};
use crate::support::origin::Origin;
use crate::support::script::{files, noise};
use crate::support::upstream::{Fault, SumDb, Tree, Upstream};

/// `serve` with a module proxy.
pub(super) struct Server {
    child: Running,
    port: u16,
}

impl Server {
    pub(super) fn start(dir: &TempDir, args: &[&str]) -> Self {
        Self::with(dir, args, &[])
    }

    pub(super) fn with(dir: &TempDir, args: &[&str], vars: &[(&str, &str)]) -> Self {
        let set = |plugin: Plugin| vars.iter().fold(plugin.args(args), |plugin, (name, value)| plugin.env(name, value));
        let (child, port) = serve_http(dir, "127.0.0.1", set);
        Server { child, port }
    }

    pub(super) fn get_bytes(&self, path: &str) -> (u16, Vec<u8>) {
        let mut got = agent().get(format!("{}/{path}", self.url())).call().unwrap();
        let mut bytes = Vec::new();
        got.body_mut().as_reader().read_to_end(&mut bytes).unwrap();
        (got.status().as_u16(), bytes)
    }

    pub(super) fn get(&self, path: &str) -> (u16, String) {
        let (status, bytes) = self.get_bytes(path);
        (status, String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) fn header(&self, path: &str, name: &str) -> String {
        let got = agent().get(format!("{}/{path}", self.url())).call().unwrap();
        got.headers().get(name).map(|value| value.to_str().unwrap().to_string()).unwrap_or_default()
    }

    pub(super) fn status(&self, path: &str) -> u16 {
        self.get_bytes(path).0
    }

    pub(super) fn stderr(&self) -> String {
        self.child.stderr()
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/mod", self.port)
    }

    #[cfg(target_os = "linux")]
    pub(super) fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.child.pid())).unwrap().count()
    }

    /// From now on, once it has all threads that it begins with, it has but so many bytes of address space more.
    #[cfg(target_os = "linux")]
    pub(super) fn limit_memory(&self, more: u64) {
        poll("its start", || self.stderr().contains("listening").then_some(()));
        let pid = self.child.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let size = status
            .lines()
            .find_map(|line| line.strip_prefix("VmSize:")?.split_whitespace().next()?.parse::<u64>().ok());
        let most = Some(size.unwrap() * 1024 + more);
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap());
        let limit = rustix::process::Rlimit { current: most, maximum: most };
        rustix::process::prlimit(pid, rustix::process::Resource::As, limit).unwrap();
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).proxy(None).build().new_agent()
}

/// An answer of a server that says no more than this.
pub(super) fn answer(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} x\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// The names of what the cache of `dir` keeps.
pub(super) fn kept_files(dir: &TempDir) -> Vec<String> {
    let mut names = Vec::new();
    for shard in fs::read_dir(dir.join("cache/module")).into_iter().flatten().flatten() {
        for file in fs::read_dir(shard.path()).unwrap().flatten().map(|f| f.path()) {
            if file.extension().is_some() && file.with_extension("").exists() {
                let text = fs::read_to_string(&file).unwrap_or_default();
                names.extend(text.lines().find_map(|line| line.strip_prefix("name ")).map(str::to_string));
            }
        }
    }
    names.sort();
    names
}

/// The program as `command`, where `go` finds a machine of its own in `home`.
pub(super) fn go(home: &TempDir, command: &str) -> Plugin {
    let at = |name: &str| home.join(name).display().to_string();
    let plugin = Plugin::new(home).arg(command).env("GOPATH", at("gopath")).env("GOMODCACHE", at("modcache"));
    let plugin = plugin.env("GOCACHE", at("gocache")).env("GOFLAGS", "-modcacherw -mod=mod").env("GOENV", "off");
    plugin.env("GOTOOLCHAIN", "local").env("GOWORK", "off").env("no_proxy", "127.0.0.1")
}

/// `mod` with these words.
pub(super) fn command(home: &TempDir, words: &[&str]) -> Output {
    go(home, "mod").args(words).output()
}

/// `go` itself.
fn plain_go(home: &TempDir, proxy: &str, sumdb: &str) -> Command {
    let mut command = crate::support::env::scrubbed("go", home.path());
    for (name, dir) in [("GOPATH", "go-path"), ("GOMODCACHE", "go-modcache"), ("GOCACHE", "go-cache")] {
        command.env(name, home.dir(dir));
    }
    command.envs([("GOPROXY", proxy), ("GOSUMDB", sumdb), ("GOFLAGS", "-modcacherw -mod=mod"), ("GOENV", "off")]);
    command.envs([("GOTOOLCHAIN", "local"), ("GOWORK", "off"), ("GOVCS", "*:off"), ("no_proxy", "127.0.0.1")]);
    command
}

fn tree(dir: &TempDir) -> Tree {
    let mut tree = Tree::new(dir.dir("tree"));
    for version in ["v1.0.0", "v1.1.0", "v1.2.0-rc.1", "v1.2.1-0.20240102030405-abcdefabcdef"] {
        tree.add("example.com/Upper/m", version, &[("m.go", b"package m\n")]);
    }
    tree
}

fn serve(dir: &TempDir, upstream: &str, more: &[&str]) -> Server {
    let upstream = format!("--upstream={upstream}");
    Server::start(dir, &[&["--modproxy", "--mod-verify=off", &upstream], more].concat())
}

#[test]
fn a_query_is_asked_as_it_is() {
    let dir = TempDir::new();
    let info = br#"{"Version":"v1.2.1-0.20240102030405-abcdefabcdef","Time":"2024-01-02T03:04:05Z"}"#;
    let origin = Origin::http(|_| answer(200, "", info));
    let server = serve(&dir, &format!("http://{}", origin.host()), &[]);
    for (sent, asked) in [
        ("feature%231", "feature%231"),
        ("a%20b", "a%20b"),
        ("50%25", "50%25"),
        ("a%252e", "a%252e"),
        ("x+y~z", "x+y~z"),
        ("%5Bq%5D", "%5Bq%5D"),
        ("v2.0.0+incompatible-x", "v2.0.0+incompatible-x"),
        ("!upper", "%21upper"),
    ] {
        assert_eq!(server.status(&format!("example.com/m/@v/{sent}.info")), 200, "{sent}");
        assert_eq!(origin.count(&format!("/example.com/m/@v/{asked}.info")), 1, "{sent}: {:?}", origin.seen());
    }
    for (bad, status) in
        [("a%2Fb.info", 400), ("..info", 400), ("a%5Cb.info", 400), ("v1.0.0.ziphash", 404), ("v1.0.0.lock", 404)]
    {
        assert_eq!(server.status(&format!("example.com/m/@v/{bad}")), status, "{bad}");
    }
}

#[test]
fn a_version_of_another_major_is_answered_as_the_upstream_says() {
    let dir = TempDir::new();
    let info = br#"{"Version":"v2.0.0+incompatible","Time":"2024-01-02T03:04:05Z"}"#;
    let origin = Origin::http(|_| answer(200, "", info));
    let server = serve(&dir, &format!("http://{}", origin.host()), &[]);
    let (status, text) = server.get("rsc.io/breaker/@v/v2.0.0.info");
    assert_eq!((status, text.as_bytes()), (200, &info[..]));
    assert_eq!(server.status("rsc.io/breaker/@v/v2.0.0+incompatible.info"), 200);
    // of a version that the module may have, another is no answer
    assert_eq!(server.status("rsc.io/breaker/v2/@v/v2.0.0.info"), 502);
}

#[test]
fn absences_are_remembered() {
    let dir = TempDir::new();
    let origin = Origin::http(|request| {
        std::thread::sleep(Duration::from_millis(300));
        answer(if request.contains("gone") { 410 } else { 404 }, "", b"no such thing")
    });
    let server = serve(&dir, &format!("http://{}", origin.host()), &["--mod-ttl=0"]);
    for (name, status) in [
        ("example.com/m/@v/v1.0.0.zip", 404),
        ("example.com/gone/@v/list", 410),
        ("example.com/m/@v/main.info", 404),
        ("example.com/m/@latest", 404),
    ] {
        for _ in 0..3 {
            assert_eq!(server.get(name), (status, "no such thing\n".into()), "{name}");
        }
        assert_eq!(origin.count(&format!("/{name}")), 1, "{name}");
    }
}

#[test]
fn an_upstream_s_words_show_no_secret_and_forge_no_line() {
    let dir = TempDir::new();
    let words = "git fetch https://bob:hunter2@git.example/x?token=hunter2: no\ngo-cache-plugin: forged\x1b[2J";
    let origin =
        Origin::http(move |request| answer(if request.contains("v1.0.0") { 403 } else { 404 }, "", words.as_bytes()));
    let server = serve(&dir, &format!("http://{}", origin.host()), &["-v"]);
    for (name, status) in [("example.com/m/@v/v1.0.0.zip", 403), ("example.com/m/@latest", 404)] {
        let (got, text) = server.get(name);
        assert_eq!((got, text.contains("hunter2")), (status, false), "{text}");
        assert!(text.starts_with("git fetch https://git.example/x: no\n"), "{text}");
    }
    let log = server.stderr();
    assert!(log.contains("git.example") && !log.contains("hunter2") && !log.contains('\x1b'), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("go-cache-plugin: forged")), "{log}");
}

#[test]
fn what_can_change_is_revalidated_and_served_meanwhile() {
    let dir = TempDir::new();
    let list = Arc::new(std::sync::Mutex::new(("v1.0.0\n", "\"one\"")));
    let (now, slow) = (list.clone(), Arc::new(AtomicBool::new(false)));
    let slowly = slow.clone();
    let origin = Origin::http(move |request| {
        if slowly.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_secs(2));
        }
        let (body, tag) = *now.lock().unwrap();
        let head = request.to_ascii_lowercase();
        if head.contains(&format!("if-none-match: {tag}\r\n")) {
            return answer(304, "", b"");
        }
        let headers = if head.contains("/dated/") {
            "Last-Modified: Tue, 02 Jan 2024 03:04:05 GMT\r\n".to_string()
        } else {
            format!("ETag: {tag}\r\n")
        };
        match request.contains("@latest") || request.contains("main.info") {
            true => answer(200, &headers, format!("{{\"Version\":\"{}\"}}", body.trim()).as_bytes()),
            false => answer(200, &headers, body.as_bytes()),
        }
    });
    let asked = |name: &str, how: &str| {
        origin.seen().iter().filter(|r| r.contains(name) && r.to_ascii_lowercase().contains(how)).count()
    };
    let upstream = format!("http://{}", origin.host());
    let server = serve(&dir, &upstream, &["--mod-ttl=0", "--mod-stale=0"]);
    let names = ["example.com/m/@v/list", "example.com/m/@latest", "example.com/m/@v/main.info"];
    for name in names {
        let first = server.get(name);
        assert_eq!(server.get(name), first);
        assert_eq!((first.0, asked(name, "if-none-match: \"one\"")), (200, 1), "{name}");
    }
    drop(server);
    // what was noted outlives the process
    let server = serve(&dir, &upstream, &["--mod-ttl=0", "--mod-stale=0"]);
    for name in names {
        assert_eq!((server.status(name), asked(name, "if-none-match: \"one\"")), (200, 2), "{name}");
    }
    *list.lock().unwrap() = ("v1.1.0\n", "\"two\"");
    assert_eq!(server.get(names[0]).1, "v1.1.0\n");
    assert_eq!(server.get(names[0]).1, "v1.1.0\n");
    assert_eq!(asked(names[0], "if-none-match: \"two\""), 1);
    server.status("example.com/dated/@v/list");
    server.status("example.com/dated/@v/list");
    assert_eq!(asked("/dated/", "if-modified-since: tue, 02 jan 2024 03:04:05 gmt"), 1);
    drop(server);

    // a slow upstream keeps nobody waiting who has an answer
    let server = serve(&dir, &upstream, &["--mod-ttl=0"]);
    slow.store(true, Ordering::SeqCst);
    *list.lock().unwrap() = ("v1.2.0\n", "\"three\"");
    let begin = Instant::now();
    for _ in 0..20 {
        assert_eq!(server.get(names[0]).1, "v1.1.0\n");
    }
    assert!(begin.elapsed() < Duration::from_millis(1900), "{:?}", begin.elapsed());
    poll("the new list", || (server.get(names[0]).1 == "v1.2.0\n").then_some(()));
    assert_eq!(asked(names[0], "if-none-match: \"two\""), 2, "one renews for all");
    // a branch is what it is now
    assert!(server.get(names[2]).1.contains("v1.2.0"));
}

#[test]
fn passwords_go_over_https_alone_and_no_further() {
    let dir = TempDir::new();
    let (other, trusted) = Origin::https(&dir.dir("other"), |_| answer(200, "", b"v1.0.0\n"));
    let elsewhere = format!("Location: https://localhost:{}/x\r\n", other.port());
    let (origin, pem) = Origin::https(dir.path(), move |request| match request.contains("/moved/") {
        true => answer(302, &elsewhere, b""),
        false => answer(200, "", b"v1.0.0\n"),
    });
    fs::write(&pem, fs::read_to_string(&pem).unwrap() + &fs::read_to_string(trusted).unwrap()).unwrap();
    dir.write(".netrc", "machine localhost login netrc password secret\n");
    let upstream = format!("--upstream=https://localhost:{}", origin.port());
    let vars = [("SSL_CERT_FILE", pem.to_str().unwrap()), ("no_proxy", "localhost,127.0.0.1")];
    let server = Server::with(&dir, &["--modproxy", "--mod-verify=off", &upstream], &vars);
    assert_eq!(server.status("example.com/m/@v/list"), 200, "{}", server.stderr());
    let sent = |o: &Origin| o.seen().iter().filter(|r| r.to_ascii_lowercase().contains("authorization:")).count();
    assert_eq!(sent(&origin), 1);
    let (status, text) = server.get("example.com/moved/@v/list");
    assert!(status == 200, "{text}");
    assert_eq!((sent(&other), other.seen().len()), (0, 1));
    // the same machine without TLS
    let plain = Origin::http(|_| answer(200, "", b"v1.0.0\n"));
    let upstream = format!("--upstream=http://localhost:{}", plain.port());
    let netrc = dir.join(".netrc");
    let vars = [("NETRC", netrc.to_str().unwrap()), vars[1]];
    let server = Server::with(&TempDir::new(), &["--modproxy", "--mod-verify=off", &upstream], &vars);
    assert_eq!((server.status("example.com/m/@v/list"), sent(&plain), plain.seen().len()), (200, 0, 1));
}

#[test]
fn redirects_lead_neither_to_metadata_services_nor_out_of_http() {
    let dir = TempDir::new();
    let other = Origin::http(|_| answer(200, "", b"v1.0.0\n"));
    let good = format!("http://localhost:{}/x", other.port());
    let origin = Origin::http(move |request| {
        let path = request.split([' ', '?']).nth(1).unwrap();
        let to = match path.split('/').nth(2).unwrap_or_default() {
            "good" => &good,
            "plain" => "http://169.254.169.254/latest/meta-data/?token=secret",
            "mapped" => "http://[::ffff:a9fe:a9fe]/?token=secret",
            "decimal" => "http://2852039166/?token=secret",
            "other" => "http://100.100.100.200/?token=secret",
            "file" => "file:///etc/passwd?token=secret",
            "ftp" => "ftp://localhost/?token=secret",
            _ => path,
        };
        answer(302, &format!("Location: {to}\r\n"), b"")
    });
    let server = serve(&dir, &format!("http://{}", origin.host()), &[]);
    let metadata = "is link-local or a cloud's metadata service, which is never reached";
    let elsewhere = "it redirects to what is neither http nor https";
    for (module, why) in [
        ("plain", metadata),
        ("mapped", metadata),
        ("decimal", metadata),
        ("other", metadata),
        ("file", elsewhere),
        ("ftp", elsewhere),
        ("loop", "too many redirects"),
    ] {
        let (status, text) = server.get(&format!("example.com/{module}/@v/list"));
        assert!(status == 502 && text.contains(why) && !text.contains("secret"), "{module}: {status} {text}");
    }
    assert_eq!(server.get("example.com/good/@v/list"), (200, "v1.0.0\n".into()));
}

/// A server of `body` that breaks each answer off after `piece` bytes.
fn breaking(body: Vec<u8>, piece: usize, headers: &'static str, ranges: bool) -> Origin {
    Origin::http(move |request| {
        let head = request.to_ascii_lowercase();
        let range = head.split("\r\nrange: bytes=").nth(1).and_then(|r| r.split('-').next()?.parse::<usize>().ok());
        let from = range.filter(|_| ranges).unwrap_or(0);
        let total = body.len();
        let status = if from > 0 { 206 } else { 200 };
        let part =
            if from > 0 { format!("Content-Range: bytes {from}-{}/{total}\r\n", total - 1) } else { String::new() };
        let end = (from + piece).min(total);
        let head = format!("HTTP/1.1 {status} x\r\n{headers}{part}Content-Length: {}\r\n\r\n", total - from);
        [head.as_bytes(), &body[from..end]].concat()
    })
}

#[test]
fn downloads_go_on_where_they_broke_off() {
    let dir = TempDir::new();
    let mut tree = Tree::new(dir.dir("tree"));
    tree.add("example.com/m", "v1.0.0", &[("data", &noise(1, 100_000))]);
    let zip = "example.com/m/@v/v1.0.0.zip";
    let whole = fs::read(tree.root.join(zip)).unwrap();
    for (headers, ranges, status, requests) in [
        ("ETag: \"x\"\r\n", true, 200, 4),
        ("Last-Modified: Tue, 02 Jan 2024 03:04:05 GMT\r\n", true, 200, 4),
        ("", true, 200, 4),
        // it begins anew each time, and never gets further
        ("ETag: \"x\"\r\n", false, 502, 2),
    ] {
        let origin = breaking(whole.clone(), whole.len() / 4 + 1, headers, ranges);
        let home = TempDir::new();
        let server = serve(&home, &format!("http://{}", origin.host()), &[]);
        let (got, body) = server.get_bytes(zip);
        assert_eq!(got, status, "{headers} {ranges}: {}", String::from_utf8_lossy(&body[..body.len().min(200)]));
        assert_eq!((origin.seen().len(), body == whole), (requests, status == 200), "{headers} {ranges}");
        assert_eq!(kept_files(&home).len(), usize::from(status == 200));
    }
    // another body meanwhile is none of the first
    let turn = AtomicUsize::new(0);
    let body = whole.clone();
    let origin = Origin::http(move |_| {
        let n = turn.fetch_add(1, Ordering::SeqCst);
        let head = format!("HTTP/1.1 200 x\r\nETag: \"{n}\"\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), &body[..body.len() / 2]].concat()
    });
    let home = TempDir::new();
    let server = serve(&home, &format!("http://{}", origin.host()), &[]);
    assert_eq!((server.status(zip), kept_files(&home).len()), (502, 0));
}

#[test]
fn a_full_or_read_only_disk_costs_nothing_but_the_keeping() {
    if !may_mount("modules::a_full_or_read_only_disk_costs_nothing_but_the_keeping") {
        return;
    }
    let dir = TempDir::new();
    let mut tree = Tree::new(dir.dir("tree"));
    tree.add("example.com/m", "v1.0.0", &[("data", &noise(1, 3 << 20))]);
    let names = ["list", "v1.0.0.info", "v1.0.0.mod", "v1.0.0.zip"].map(|f| format!("example.com/m/@v/{f}"));
    let upstream = Upstream::start(&tree.root);
    let database = SumDb::start(&tree.root);
    let sumdb = format!("--sumdb={}={}", database.key, database.url);
    let check = |home: &TempDir, server: &Server| {
        for name in &names {
            let want = fs::read(tree.root.join(name)).unwrap();
            std::thread::scope(|s| {
                let all: Vec<_> = (0..4).map(|_| s.spawn(|| server.get_bytes(name))).collect();
                for got in all {
                    let (status, body) = got.join().unwrap();
                    assert!(
                        (status, &body) == (200, &want),
                        "{name}: {status}, {} bytes: {}",
                        body.len(),
                        server.stderr()
                    );
                }
            });
        }
        let said = server.stderr();
        assert_eq!(said.lines().filter(|line| line.contains("cannot be written")).count(), 1, "{said}");
        assert!(!kept_files(home).contains(&names[3]));
        // and checked it is all the same
        let path = tree.root.join(&names[3]);
        let honest = fs::read(&path).unwrap();
        let mut other = Tree::new(dir.dir("other"));
        other.add("example.com/m", "v1.0.0", &[("data", b"changed")]);
        fs::copy(other.root.join(&names[3]), &path).unwrap();
        assert_eq!(server.status(&names[3]), 502, "{}", server.stderr());
        fs::write(&path, honest).unwrap();
    };
    let arguments = ["--modproxy", "--mod-ttl=0", "--mod-stale=0", &format!("--upstream={}", upstream.url()), &sumdb];
    let home = TempDir::new();
    mount("tmpfs", "size=1m", &home.dir("cache"));
    check(&home, &Server::start(&home, &arguments));
    // what is not kept was not fetched for later
    let out = command(&home, &["fetch", arguments[3], &sumdb, "example.com/m@v1.0.0"]).code(1);
    assert!(out.stderr.contains("example.com/m@v1.0.0: it came, but could not be kept\n"), "{}", out.describe());
    // from its start it takes nothing at all
    let home = TempDir::new();
    mount("tmpfs", "size=1m", &home.dir("cache"));
    assert_eq!(Server::start(&home, &arguments).status(&names[1]), 200);
    mount("tmpfs", "remount,ro", &home.join("cache"));
    check(&home, &Server::start(&home, &[&arguments[..], &["--revproxy=example.com"]].concat()));
    let out = command(&home, &["rm", "example.com/m@v1.0.0"]).code(1);
    assert!(out.stderr.contains("example.com/m@v1.0.0 cannot be removed"), "{}", out.describe());
}

#[test]
fn offline_lists_are_those_of_what_is_kept() {
    let dir = TempDir::new();
    let tree = tree(&dir);
    let upstream = Upstream::start(&tree.root);
    let module = "example.com/!upper/m";
    let server = serve(&dir, &upstream.url(), &[]);
    for version in ["v1.0.0", "v1.2.0-rc.1", "v1.2.1-0.20240102030405-abcdefabcdef"] {
        for kind in ["info", "mod", "zip"] {
            assert_eq!(server.status(&format!("{module}/@v/{version}.{kind}")), 200);
        }
    }
    drop(server);
    let before = upstream.seen().len();
    let server = serve(&dir, &upstream.url(), &["--offline"]);
    assert_eq!(server.get(&format!("{module}/@v/list")), (200, "v1.0.0\nv1.2.0-rc.1\n".into()));
    assert!(server.get(&format!("{module}/@latest")).1.contains("\"v1.0.0\""));
    assert_eq!(server.status("example.com/none/@v/list"), 404);
    assert_eq!(server.status("example.com/none/@latest"), 404);
    let work = TempDir::new();
    work.write("go.mod", "module example.com/app\n");
    let mut get = plain_go(&work, &server.url(), "off");
    let out = get.args(["get", "example.com/Upper/m@latest"]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(upstream.seen().len(), before);
}

#[test]
fn what_is_kept_does_not_wait_for_an_upstream_that_hangs() {
    let dir = TempDir::new();
    let tree = tree(&dir);
    (0..64).for_each(|n| tree.name("example.com/Upper/m", &format!("b{n}"), "v1.2.1-0.20240102030405-abcdefabcdef"));
    let upstream = Upstream::start(&tree.root);
    let server = serve(&dir, &upstream.url(), &[]);
    let kept = "example.com/!upper/m/@v/v1.0.0.zip";
    assert_eq!(server.status(kept), 200);
    upstream.set(Fault::Slow(Duration::from_secs(8)));
    std::thread::scope(|s| {
        let hanging: Vec<_> = (0..64)
            .map(|n| {
                let server = &server;
                s.spawn(move || server.status(&format!("example.com/!upper/m/@v/b{n}.info")))
            })
            .collect();
        poll("the first to hang", || (upstream.seen().len() > 16).then_some(()));
        let begin = Instant::now();
        assert_eq!(server.status(kept), 200);
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        assert!(upstream.seen().len() <= 33, "{} at a time", upstream.seen().len());
        assert!(hanging.into_iter().all(|t| t.join().unwrap() == 200));
    });
}

/// A repository that `git` finds under `https://git.corp.example/m.git`, and the variables that say so.
fn repository(dir: &TempDir) -> Vec<(String, String)> {
    let repo = dir.dir("repo");
    fs::write(repo.join("go.mod"), "module git.corp.example/m.git\n\ngo 1.21\n").unwrap();
    fs::write(repo.join("m.go"), "package m\n").unwrap();
    let git = |args: &[&str]| {
        let mut command = crate::support::env::scrubbed("git", dir.path());
        let out =
            command.current_dir(&repo).args(["-c", "user.name=n", "-c", "user.email=e"]).args(args).output().unwrap();
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "first"]);
    git(&["tag", "v1.0.0"]);
    let to = format!("url.file://{}.insteadOf", repo.display());
    let vars =
        [("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", &to), ("GIT_CONFIG_VALUE_0", "https://git.corp.example/m")];
    vars.map(|(name, value)| (name.to_string(), value.to_string())).to_vec()
}

#[test]
fn private_modules_come_from_their_origin_and_nobody_else_hears_of_them() {
    let dir = TempDir::new();
    let public = tree(&dir);
    let (other, database) = (Upstream::start(&public.root), SumDb::start(&public.root));
    let variables = repository(&dir);
    let mut vars: Vec<(&str, &str)> = variables.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    vars.push(("GIT_ALLOW_PROTOCOL", "https:file"));
    let upstream = format!("--upstream={},direct", other.url());
    let sumdb = format!("--sumdb={}={}", database.key, database.url);
    let arguments =
        ["--modproxy", "--mod-ttl=0", "--mod-stale=0", "--mod-private=git.corp.example/*", &upstream, &sumdb];
    let server = Server::with(&dir, &arguments, &vars);
    let module = "git.corp.example/m.git";
    assert_eq!(server.get(&format!("{module}/@v/list")), (200, "v1.0.0\n".into()), "{}", server.stderr());
    let latest = server.get(&format!("{module}/@latest"));
    assert!(latest.0 == 200 && latest.1.contains("\"v1.0.0\""), "{latest:?}");
    for kind in ["info", "mod", "zip"] {
        assert_eq!(server.status(&format!("{module}/@v/v1.0.0.{kind}")), 200, "{kind}");
    }
    assert_eq!(server.status(&format!("{module}/@v/main.info")), 200);
    let (status, text) = server.get(&format!("{module}/@v/v9.9.9.info"));
    assert_eq!(status, 404, "{text}");
    assert_eq!(other.seen(), [], "the public upstream heard of it");
    // others are not fetched from their origin
    assert_eq!(server.status("git.corp.example.org/m.git/@v/list"), 404);
    assert_eq!(other.seen().len(), 1);
    drop(server);
    // one that is killed meanwhile leaves a folder, which goes with the next
    let (slow, temp) = (dir.dir("slow"), dir.dir("temp"));
    dir.write("slow/go", "#!/bin/sh\necho $$ > pid\nexec sleep 600\n");
    Command::new("chmod").arg("+x").arg(slow.join("go")).status().unwrap();
    let path = format!("{}:{}", slow.display(), std::env::var("PATH").unwrap());
    let mut slowly = vars.clone();
    slowly.extend([("PATH", path.as_str()), ("TMPDIR", temp.to_str().unwrap())]);
    let server = Server::with(&TempDir::new(), &arguments, &slowly);
    let folders = || fs::read_dir(&temp).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let mut asking = std::net::TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    write!(asking, "GET /mod/{module}/@v/v1.0.0.info HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let left = poll("go's folder", || {
        folders().into_iter().find(|folder| fs::read_to_string(folder.join("pid")).is_ok_and(|pid| pid.ends_with('\n')))
    });
    drop(server);
    let pid = fs::read_to_string(left.join("pid")).expect("the kill left it").trim().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    let lock = fs::File::open(left.join("lock")).unwrap();
    lock.set_modified(std::time::SystemTime::now() - Duration::from_secs(60)).unwrap();
    slowly.retain(|(name, _)| *name != "PATH");
    let server = Server::with(&TempDir::new(), &arguments, &slowly);
    assert_eq!(server.status(&format!("{module}/@v/v1.0.0.info")), 200);
    assert!(!left.exists());
    drop(server);
    let empty = dir.dir("empty");
    let server = Server::with(&TempDir::new(), &arguments, &[("PATH", empty.to_str().unwrap())]);
    let (status, text) = server.get(&format!("{module}/@v/list"));
    assert!(status == 502 && text.contains("go and git have to be on PATH"), "{status} {text}");
}

#[test]
fn modules_travel_to_machines_without_a_network() {
    let dir = TempDir::new();
    let mut tree = tree(&dir);
    let long = format!("example.com/{}/deep", "a-long-name/".repeat(9).trim_end_matches('/'));
    tree.add(&long, "v1.0.0", &[("d.go", b"package d\n")]);
    let require =
        format!("module example.com/top\n\ngo 1.16\n\nrequire (\n\texample.com/Upper/m v1.0.0\n\t{long} v1.0.0\n)\n");
    tree.add("example.com/top", "v0.1.0", &[("go.mod", require.as_bytes()), ("t.go", b"package t\n")]);
    let newer = "module example.com/other\n\ngo 1.16\n\nrequire example.com/Upper/m v1.1.0\n";
    tree.add("example.com/other", "v0.1.0", &[("go.mod", newer.as_bytes()), ("t.go", b"package t\n")]);
    let (upstream, database) = (Upstream::start(&tree.root), SumDb::start(&tree.root));
    let from = format!("--upstream={}", upstream.url());
    let sumdb = format!("--sumdb={}={}", database.key, database.url);
    let home = TempDir::new();
    let work =
        home.write("app/go.mod", "module app\n\nrequire (\n\texample.com/top v0.1.0\n\texample.com/other v0.1.0\n)\n");
    let out =
        command(&home, &["fetch", "-r", &from, &sumdb, work.to_str().unwrap(), "example.com/Upper/m@v1.2.0-rc.1"]).ok();
    assert!(out.stdout.starts_with("4 modules") || out.stdout.starts_with("5 modules"), "{}", out.describe());
    let zips = |home: &TempDir| kept_files(home).into_iter().filter(|n| n.ends_with(".zip")).collect::<Vec<_>>();
    assert!(
        zips(&home).iter().any(|n| n.contains("v1.2.0-rc.1")) && !zips(&home).iter().any(|n| n.contains("m/@v/v1.0.0"))
    );
    let failed =
        command(&home, &["fetch", &from, &sumdb, "example.com/none@v1.0.0", "example.com/Upper/m@latest"]).code(1);
    assert_eq!(failed.stderr.matches("example.com/none@v1.0.0: ").count(), 1, "{}", failed.describe());
    assert!(failed.stderr.contains("; 1 module and 0 more go.mod are kept"), "{}", failed.describe());
    assert!(zips(&home).iter().any(|n| n.contains("v1.1.0")), "the others are fetched all the same");
    let archive = dir.join("modules.tar.zst");
    let file = archive.to_str().unwrap();
    command(&home, &["export", &sumdb, &from, file]).ok();
    drop((upstream, database));

    // go reads it unpacked, sums included
    let unpacked = dir.dir("unpacked");
    let tar = Command::new("tar").args(["--zstd", "-xf", file, "-C"]).arg(&unpacked).output().unwrap();
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    let gone = "--upstream=http://127.0.0.1:9";
    let key = sumdb.strip_prefix("--sumdb=").unwrap().split('=').next().unwrap().to_string();
    let nowhere = format!("--sumdb={key}=http://127.0.0.1:9");
    let download = |proxy: &str| {
        let work = TempDir::new();
        work.write("go.mod", &fs::read_to_string(work_mod(&home)).unwrap());
        let out = plain_go(&work, proxy, &key).args(["mod", "download", "all"]).output().unwrap();
        assert!(out.status.success(), "{proxy}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(fs::read_to_string(work.join("go.sum")).unwrap().contains("example.com/top v0.1.0 h1:"));
    };
    download(&format!("file://{}/cache/download", unpacked.display()));

    // through a pipe, which is not replaced
    let (there, pipe) = (TempDir::new(), dir.join("pipe"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::thread::scope(|s| {
        s.spawn(|| command(&home, &["export", &sumdb, gone, pipe.to_str().unwrap()]).ok());
        command(&there, &["import", gone, &nowhere, pipe.to_str().unwrap()]).ok();
    });
    assert_eq!((zips(&there), pipe.is_file()), (zips(&home), false));

    // and so does another machine
    let there = TempDir::new();
    let out = command(&there, &["import", gone, &nowhere, file]).ok();
    assert!(!out.stdout.contains("unverified"), "{}", out.describe());
    assert_eq!(zips(&there), zips(&home));
    let server = Server::start(&there, &["--modproxy", "--offline", gone, &nowhere]);
    download(&server.url());
    drop(server);
    let listed = command(&there, &["list"]).ok().stdout;
    assert!(
        listed.contains("example.com/Upper/m@v1.1.0  ") && listed.contains(&format!("{long}@v1.0.0  ")),
        "{listed}"
    );
    command(&there, &["rm", "example.com/Upper/m@v1.1.0"]).ok();
    assert!(!zips(&there).iter().any(|n| n.contains("v1.1.0")));
    command(&there, &["rm", "example.com/Upper/m@v1.1.0"]).code(1);

    // one that was changed on its way is refused, and what leads elsewhere stays there
    let zip = unpacked.join("cache/download/example.com/top/@v/v0.1.0.zip");
    let mut other = Tree::new(dir.dir("other"));
    other.add("example.com/top", "v0.1.0", &[("go.mod", require.as_bytes()), ("t.go", b"package t // changed\n")]);
    fs::copy(other.root.join("example.com/top/@v/v0.1.0.zip"), &zip).unwrap();
    let evil = dir.join("evil.tar.zst");
    fs::write(dir.join("escape"), "x").unwrap();
    let tar = Command::new("tar")
        .args(["--zstd", "-P", "-cf", evil.to_str().unwrap(), "--transform", "s,escape,sumdb/../../escaped,", "-C"])
        .arg(&unpacked)
        .args(["cache", "cache"])
        .arg("-C")
        .arg(dir.path())
        .arg("escape")
        .output()
        .unwrap();
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    let third = TempDir::new();
    let out = command(&third, &["import", gone, &nowhere, evil.to_str().unwrap()]).code(1);
    assert!(out.stderr.contains("example.com/top@v0.1.0: "), "{}", out.describe());
    assert_eq!(out.stderr.matches("refused: ").count(), 1, "{}", out.describe());
    // and what is there twice counts once
    assert!(out.stderr.contains(&format!(": {} modules", zips(&home).len())), "{}", out.describe());
    assert!(!zips(&third).iter().any(|n| n.contains("/top/")) && zips(&third).len() == zips(&home).len() - 1);
    // nor one with links instead of modules for one with none, or half of one for whole
    fs::remove_dir_all(unpacked.join("cache")).unwrap();
    fs::create_dir_all(unpacked.join("cache/download/example.com/m/@v")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", unpacked.join("cache/download/example.com/m/@v/v1.0.0.info")).unwrap();
    let tar =
        Command::new("tar").args(["--zstd", "-cf", evil.to_str().unwrap(), "cache"]).current_dir(&unpacked).output();
    assert!(tar.unwrap().status.success());
    let out = command(&TempDir::new(), &["import", gone, &nowhere, evil.to_str().unwrap()]).code(1);
    assert!(out.stderr.contains("no module in it"), "{}", out.describe());
    // or with a file where a folder would have to be
    let [one, two] = ["one", "two"].map(|name| dir.dir(name));
    fs::create_dir_all(one.join("sumdb")).unwrap();
    fs::create_dir_all(two.join("sumdb/a")).unwrap();
    [one.join("sumdb/a"), two.join("sumdb/a/b")].iter().for_each(|file| fs::write(file, "x").unwrap());
    let mut tar = Command::new("tar");
    tar.args(["--zstd", "-cf", evil.to_str().unwrap(), "-C"]).arg(&one).args(["sumdb/a", "-C"]).arg(&two);
    assert!(tar.arg("sumdb/a/b").status().unwrap().success());
    let out = command(&TempDir::new(), &["import", gone, &nowhere, evil.to_str().unwrap()]).code(1);
    assert!(out.stderr.contains("sumdb/a/b: ") && out.stderr.lines().count() == 1, "{}", out.describe());
    let whole = fs::read(file).unwrap();
    fs::write(&evil, &whole[..whole.len() / 2]).unwrap();
    let out = command(&TempDir::new(), &["import", gone, &nowhere, evil.to_str().unwrap()]).code(1);
    assert_eq!(out.stderr.lines().count(), 1, "{}", out.describe());
    // a name as long as memory is none
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(20 << 20);
    header.set_cksum();
    let mut endless = header.as_bytes().to_vec();
    endless.resize(512 + (20 << 20), b'n');
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(0);
    header.set_cksum();
    endless.extend_from_slice(header.as_bytes());
    fs::write(&evil, zstd::encode_all(&endless[..], 3).unwrap()).unwrap();
    let out = command(&TempDir::new(), &["import", gone, &nowhere, evil.to_str().unwrap()]).code(1);
    assert!(out.stderr.contains("a name without end") && out.stderr.lines().count() == 1, "{}", out.describe());
    // a small one that would fill the disk does not, kept or left out
    for name in ["cache/download/example.com/m/@v/v1.0.0.zip", "other"] {
        let bomb = unpacked.join(name);
        fs::create_dir_all(bomb.parent().unwrap()).unwrap();
        fs::File::create(&bomb).unwrap().set_len(200 << 20).unwrap();
        let mut tar = Command::new("tar");
        assert!(
            tar.args(["--zstd", "-cf", evil.to_str().unwrap(), name])
                .current_dir(&unpacked)
                .status()
                .unwrap()
                .success()
        );
        let out = command(&TempDir::new(), &["import", gone, &nowhere, evil.to_str().unwrap()]).code(1);
        assert!(out.stderr.contains("unpack to ") && out.stderr.lines().count() == 1, "{}", out.describe());
    }
}

#[test]
fn an_export_says_what_is_in_it_and_lists_no_more() {
    let (dir, home, other) = (TempDir::new(), TempDir::new(), TempDir::new());
    let upstream = format!("--upstream=file://{}", tree(&dir).root.display());
    let module = |version: &str| format!("example.com/Upper/m@{version}");
    let off = "--mod-verify=off";
    command(&home, &["fetch", off, &upstream, &module("v1.0.0"), &module("v1.1.0")]).ok();
    // nobody has noticed yet that one is damaged
    let damaged = files(&home.join("cache/module")).into_iter().filter(|file| {
        let sum = fs::read_to_string(file.with_extension("sum")).unwrap_or_default();
        file.extension().is_none() && ["info", "zip"].iter().any(|kind| sum.contains(&format!("v1.1.0.{kind}\n")))
    });
    for file in damaged {
        fs::write(file, "damaged").unwrap();
    }
    let file = dir.join("modules.tar.zst").display().to_string();
    let out = command(&home, &["export", &file]).ok();
    let said = out.stdout.contains(": 1 module,") && out.stderr.contains("it lacks 2 files, removed meanwhile");
    assert!(said, "{}", out.describe());
    // offline, whom nobody may ask is not asked
    let database = Origin::http(|_| answer(500, "", b""));
    let sumdb = format!(
        "--sumdb=sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8=http://{}",
        database.host()
    );
    let out = command(&TempDir::new(), &["import", "--offline", &sumdb, &file]).ok();
    assert!(
        out.stdout.contains("; 3 files unverified") || out.stdout.contains("; 2 files unverified"),
        "{}",
        out.describe()
    );
    assert_eq!(database.seen().len(), 0);
    command(&other, &["import", off, &file]).ok();
    let server = Server::start(&other, &["--modproxy", off, "--offline"]);
    assert_eq!(server.get("example.com/!upper/m/@v/list"), (200, "v1.0.0\n".into()));
}

#[test]
fn what_a_go_mod_excludes_is_as_if_nobody_required_it() {
    let (dir, home) = (TempDir::new(), TempDir::new());
    let mut tree = Tree::new(dir.dir("tree"));
    // the excluded one is gone
    for (module, requires) in
        [("dep", ""), ("old", "require example.com/dep v1.0.0"), ("new", "require example.com/dep v1.1.0")]
    {
        let text = format!("module example.com/{module}\n\ngo 1.16\n\n{requires}\n");
        tree.add(&format!("example.com/{module}"), "v1.0.0", &[("go.mod", text.as_bytes()), ("m.go", b"package m\n")]);
    }
    let require = "require (\n\texample.com/old v1.0.0\n\texample.com/new v1.0.0\n)\n";
    let work = home.write("app/go.mod", &format!("module app\n\n{require}\nexclude example.com/dep v1.1.0\n"));
    let upstream = format!("--upstream=file://{}", tree.root.display());
    // and is of no matter to another's go.mod
    tree.add("example.com/fork", "v1.0.0", &[("m.go", b"package m\n")]);
    let forks = "replace example.com/dep => example.com/fork v1.0.0";
    let other = home.write("other/go.mod", &format!("module other\n\nrequire example.com/new v1.0.0\n{forks}\n"));
    let [work, other] = [work, other].map(|file| file.display().to_string());
    command(&home, &["fetch", "-r", "--mod-verify=off", &upstream, &work, &other]).ok();
    let kept = |module: &str| kept_files(&home).contains(&format!("example.com/{module}/@v/v1.0.0.zip"));
    assert!(kept("dep") && kept("fork"), "{:?}", kept_files(&home));
}

#[test]
fn a_graph_without_end_is_not_followed_to_it() {
    let home = TempDir::new();
    let origin = Origin::http(|request| {
        let path = request.split(' ').nth(1).unwrap();
        let n: usize = path.rsplit_once("v1.0.").unwrap().1.strip_suffix(".mod").unwrap().parse().unwrap();
        let (module, most) =
            if path.contains("/wide/") { ("example.com/wide", 60_000) } else { ("example.com/deep", 1) };
        let all: String = (1..=most).map(|more| format!("require {module} v1.0.{}\n", n + more)).collect();
        answer(200, "", format!("module {module}\n{all}").as_bytes())
    });
    let from = format!("--upstream=http://{}", origin.host());
    for module in ["example.com/deep@v1.0.1", "example.com/wide@v1.0.1"] {
        let out = command(&home, &["fetch", "-r", "--mod-verify=off", &from, module]).code(1);
        assert!(
            out.stderr.contains("an upstream makes them up") && out.stderr.lines().count() == 1,
            "{}",
            out.describe()
        );
    }
    assert!(origin.seen().len() < 1000, "{}", origin.seen().len());
}

fn work_mod(home: &TempDir) -> String {
    home.join("app/go.mod").display().to_string()
}

#[test]
fn the_command_says_how_it_is_used() {
    let dir = TempDir::new();
    for words in [&["fetch"][..], &["export"], &["import", "a", "b"], &["list", "x"], &["rm"], &["frobnicate"]] {
        let out = command(&dir, words).code(2);
        assert!(out.stderr.contains("mod takes fetch") && out.stderr.lines().count() == 1, "{}", out.describe());
    }
    let out = command(&dir, &["fetch", "nonsense"]).code(2);
    assert!(out.stderr.contains("write MODULE@VERSION"), "{}", out.describe());
    let out = command(&dir, &["export", "empty.tar.zst"]).code(1);
    assert!(out.stderr.contains("no module is kept") && !dir.join("empty.tar.zst").exists(), "{}", out.describe());
    let out = command(&dir, &["import", "nothing.tar.zst"]).code(1);
    assert!(out.stderr.contains("nothing.tar.zst"), "{}", out.describe());
}
