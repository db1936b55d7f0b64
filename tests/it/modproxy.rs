//! The module proxy and the sum database, with the real `go` as client, and with raw requests
//! where `go` is too polite.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::support::env::{Running, binary, free_port, poll, scrubbed};
use crate::support::script::metrics;
use crate::support::upstream::{Fault, SumDb, Tree, Upstream};

/// A directory of this test's own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("gcp-modproxy-{name}-{}-{n}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }

    fn sub(&self, name: &str) -> PathBuf {
        let dir = self.0.join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // module caches are read-only
        let _ = Command::new("chmod").args(["-R", "u+w"]).arg(&self.0).status();
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server under test: the real program, with its module proxy.
struct Proxy {
    process: Running,
    addr: SocketAddr,
}

/// How a server is told to behave.
#[derive(Clone)]
struct Config {
    upstream: String,
    ttl: u64,
    offline: bool,
    sumdb: Vec<String>,
    private: &'static str,
    more: &'static [&'static str],
}

fn config(upstream: &str) -> Config {
    Config { upstream: upstream.into(), ttl: 0, offline: false, sumdb: Vec::new(), private: "", more: &[] }
}

impl Proxy {
    /// Serves from `cache`, and from the bucket directory behind it.
    fn start(cache: &Path, bucket: Option<&Path>, config: &Config) -> Self {
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = scrubbed(binary(), cache);
        command.args(["serve", "--metrics", "--modproxy", "--plugin"]).arg(free_port().to_string());
        command.arg(format!("--http={addr}")).arg(format!("--cache-dir={}", cache.display()));
        command.arg(format!("--upstream={}", config.upstream)).arg(format!("--mod-ttl={}s", config.ttl));
        command.arg(format!("--mod-private={}", config.private)).env("no_proxy", "127.0.0.1");
        if let Some(dir) = bucket {
            command.arg(format!("--bucket=file://{}", dir.display()));
        }
        if config.offline {
            command.arg("--offline");
        }
        if config.sumdb.is_empty() {
            command.arg("--mod-verify=off");
        } else {
            command.arg(format!("--sumdb={}", config.sumdb.join(",")));
        }
        command.arg("--mod-stale=0").args(config.more);
        let process = Running::start(command, Stdio::null());
        poll("the server", || TcpStream::connect(addr).ok());
        Proxy { process, addr }
    }

    fn url(&self) -> String {
        format!("http://{}/mod", self.addr)
    }

    fn get(&self, path: &str) -> (u16, String) {
        let mut answer = agent().get(format!("{}/{path}", self.url())).call().unwrap();
        let mut text = Vec::new();
        answer.body_mut().as_reader().read_to_end(&mut text).unwrap();
        (answer.status().as_u16(), String::from_utf8_lossy(&text).into_owned())
    }

    fn status(&self, path: &str) -> u16 {
        self.get(path).0
    }

    /// Stops, with every upload done, and returns what it counted.
    fn stop(mut self) -> BTreeMap<String, u64> {
        self.process.signal(rustix::process::Signal::TERM);
        let out = self.process.wait().ok();
        let counts = metrics(&out)["modcache"].clone();
        serde_json::from_value(counts).unwrap()
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).proxy(None).build().new_agent()
}

/// `go` in a module of its own.
struct Go {
    dir: PathBuf,
    env: Vec<(String, String)>,
}

impl Go {
    fn new(dir: &Path, proxy: &str, sumdb: &str) -> Self {
        let own = |name: &str| {
            let path = dir.join(name);
            fs::create_dir_all(&path).unwrap();
            path.display().to_string()
        };
        let env = [
            ("GOPROXY", proxy.to_string()),
            ("GOSUMDB", sumdb.to_string()),
            ("GOPATH", own("gopath")),
            ("GOMODCACHE", own("modcache")),
            // shared by the machines of one test: what is built is not what they are about
            ("GOCACHE", dir.with_file_name("gocache").display().to_string()),
            ("GOFLAGS", "-mod=mod -modcacherw".into()),
            ("GOTOOLCHAIN", "local".into()),
            ("GOENV", "off".into()),
            ("GOWORK", "off".into()),
            ("GOCACHEPROG", String::new()),
            ("GONOSUMDB", String::new()),
            ("GONOPROXY", String::new()),
            ("GOPRIVATE", String::new()),
            ("GOVCS", "*:off".into()),
            ("no_proxy", "127.0.0.1".into()),
        ];
        Go { dir: dir.into(), env: env.map(|(k, v)| (k.to_string(), v)).to_vec() }
    }

    fn try_run(&self, args: &[&str]) -> Result<String, String> {
        let out = Command::new("go").args(args).current_dir(&self.dir).envs(self.env.iter().cloned()).output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        if out.status.success() { Ok(stdout.into_owned()) } else { Err(format!("go {args:?}:\n{stdout}{stderr}")) }
    }

    fn run(&self, args: &[&str]) -> String {
        self.try_run(args).unwrap_or_else(|e| panic!("{e}"))
    }
}

const TOOLCHAIN: &str = "v0.0.1-go1.99.0.linux-amd64";
const PSEUDO: &str = "v1.1.1-0.20240102030405-abcdefabcdef";

/// Modules of every kind of name and version.
fn lay_out(root: PathBuf) -> Tree {
    let mut tree = Tree::new(root);
    let source = |pkg: &str| format!("package {pkg}\n\nfunc Name() string {{ return \"{pkg}\" }}\n").into_bytes();
    tree.add("example.com/Upper/Lib", "v1.0.0", &[("lib.go", &source("lib"))]);
    tree.add("example.com/Upper/Lib", "v1.1.0", &[("lib.go", &source("lib")), ("LICENSE", b"free")]);
    tree.add("example.com/Upper/Lib", PSEUDO, &[("lib.go", &source("lib"))]);
    tree.name("example.com/Upper/Lib", "main", PSEUDO);
    tree.add("example.com/major/v2", "v2.3.4-rc.1", &[("m.go", &source("major"))]);
    tree.add("example.com/old", "v3.0.0+incompatible", &[("old.go", &source("old"))]);
    tree.add("example.com/untagged", "v0.0.0-20240102030405-abcdefabcdef", &[("u.go", &source("untagged"))]);
    tree.name("example.com/untagged", "@latest", "v0.0.0-20240102030405-abcdefabcdef");
    tree.add("golang.org/toolchain", TOOLCHAIN, &[("bin/go", b"a program")]);
    tree
}

/// Everything that `go` does with a proxy, in a module cache of its own.
fn exercise(dir: &Path, proxy: &str, sumdb: &str) {
    fs::write(dir.join("go.mod"), "module example.com/app\n\ngo 1.21\n").unwrap();
    fs::write(
        dir.join("main.go"),
        "package main\n\nimport (\n\t\"example.com/Upper/Lib\"\n\t\"example.com/major/v2\"\n\t\"example.com/old\"\n\t\
         \"example.com/untagged\"\n)\n\nfunc main() { println(lib.Name(), major.Name(), old.Name(), untagged.Name()) }\n",
    )
    .unwrap();
    let go = Go::new(dir, proxy, sumdb);
    assert_eq!(
        go.run(&["list", "-m", "-versions", "example.com/Upper/Lib"]).trim(),
        "example.com/Upper/Lib v1.0.0 v1.1.0"
    );
    go.run(&["get", "example.com/Upper/Lib@v1.0.0", "example.com/major/v2@latest", "example.com/old@latest"]);
    go.run(&["get", "example.com/untagged@latest"]);
    go.run(&["get", "example.com/Upper/Lib@main"]);
    let wanted = fs::read_to_string(dir.join("go.mod")).unwrap();
    for version in [PSEUDO, "v2.3.4-rc.1", "v3.0.0+incompatible", "v0.0.0-20240102030405-abcdefabcdef"] {
        assert!(wanted.contains(version), "{version} is not in {wanted}");
    }
    go.run(&["mod", "download"]);
    go.run(&["build", "-o", "app", "."]);
    let out = Command::new(dir.join("app")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stderr).trim(), "lib major old untagged");
    if sumdb != "off" {
        assert!(fs::read_to_string(dir.join("go.sum")).unwrap().contains("example.com/old v3.0.0+incompatible h1:"));
    }
}

/// The blobs in a folder, of a cache or of a bucket, by name.
fn blobs(module: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let fans = fs::read_dir(module).unwrap().map(|fan| fan.unwrap().path()).filter(|fan| fan.is_dir());
    fans.flat_map(|fan| fs::read_dir(fan).unwrap())
        .map(|file| file.unwrap().path())
        .filter(|file| file.extension().is_none())
        .map(|file| (file.strip_prefix(module).unwrap().to_path_buf(), fs::read(&file).unwrap()))
        .collect()
}

#[test]
fn go_works_through_us_then_without_upstream_then_from_the_bucket() {
    let dir = Dir::new("go");
    let tree = lay_out(dir.sub("tree"));
    let upstream = Upstream::start(&tree.root);
    let database = SumDb::start(&tree.root);
    let entry = format!("{}={}", database.key, database.url);
    let config = Config { sumdb: vec![entry], ..config(&upstream.url()) };
    let bucket = dir.sub("bucket");

    let gosumdb = database.key.clone();
    let proxy = Proxy::start(&dir.sub("cache"), Some(&bucket), &config);
    exercise(&dir.sub("first"), &proxy.url(), &gosumdb);
    let fetched = upstream.seen().len();
    assert!(fetched > 10);
    exercise(&dir.sub("second"), &proxy.url(), &gosumdb);
    let zips = |seen: Vec<(String, Option<String>)>| {
        let mut zips: Vec<_> = seen.into_iter().map(|s| s.0).filter(|p| p.ends_with(".zip")).collect();
        let all = zips.len();
        zips.sort();
        zips.dedup();
        (all, zips.len())
    };
    let (all, different) = zips(upstream.seen());
    assert_eq!(all, different, "a zip was fetched twice");

    // the network goes
    upstream.set(Fault::Down);
    drop(database);
    exercise(&dir.sub("third"), &proxy.url(), &gosumdb);
    let counts = proxy.stop();
    assert!(counts["stale_served"] > 0 && counts["rejected"] == 0 && counts["path_error"] == 0, "{counts:?}");
    assert_eq!(counts["put_s3_error"], 0);
    // what a newer value overtook in the queue is not sent, and the bucket has the newest of all
    assert!(counts["put_s3_bytes"] <= counts["put_local_bytes"], "{counts:?}");
    let stored = blobs(&dir.0.join("cache/module"));
    assert!(stored.len() > 10);
    assert_eq!(stored, blobs(&bucket.join("module")));

    // another machine, the same bucket
    let other = Proxy::start(&dir.sub("cache2"), Some(&bucket), &config);
    exercise(&dir.sub("fourth"), &other.url(), &gosumdb);
    let counts = other.stop();
    assert!(counts["get_fault_hit"] > 0 && counts["put_request"] == 0, "{counts:?}");

    // and one that may not even try
    let offline = Config { offline: true, ..config };
    let before = upstream.seen().len();
    let alone = Proxy::start(&dir.sub("cache2"), None, &offline);
    exercise(&dir.sub("fifth"), &alone.url(), &gosumdb);
    let (status, text) = alone.get("example.com/never/@v/list");
    assert_eq!((status, text.contains("--offline")), (404, true), "{text}");
    assert_eq!(upstream.seen().len(), before);
}

#[test]
fn a_module_that_the_sum_database_does_not_vouch_for_is_refused() {
    let dir = Dir::new("tampered");
    let tree = lay_out(dir.sub("tree"));
    let database = SumDb::start(&tree.root);
    let mut other = Tree::new(dir.sub("other"));
    other.add("example.com/old", "v3.0.0+incompatible", &[("old.go", b"package old // changed\n")]);
    let upstream = Upstream::start(&other.root);
    let entry = format!("{}={}", database.key, database.url);
    let proxy = Proxy::start(&dir.sub("cache"), None, &Config { sumdb: vec![entry], ..config(&upstream.url()) });
    let go = Go::new(&dir.sub("go"), &proxy.url(), &database.key);
    fs::write(go.dir.join("go.mod"), "module example.com/app\n\ngo 1.21\n").unwrap();
    let refused = go.try_run(&["get", "example.com/old@v3.0.0+incompatible"]).unwrap_err();
    assert!(refused.contains("refused: example.com/old@v3.0.0+incompatible is h1:"), "{refused}");
}

#[test]
fn many_who_want_one_file_cause_one_fetch() {
    let dir = Dir::new("flight");
    let tree = lay_out(dir.sub("tree"));
    let upstream = Upstream::start(&tree.root);
    upstream.set(Fault::Slow(Duration::from_millis(300)));
    let proxy = Proxy::start(&dir.sub("cache"), None, &config(&upstream.url()));
    let zip = "example.com/!upper/!lib/@v/v1.1.0.zip";
    std::thread::scope(|s| {
        let all: Vec<_> = (0..16).map(|_| s.spawn(|| proxy.status(zip))).collect();
        assert!(all.into_iter().all(|t| t.join().unwrap() == 200));
        // those who want what is not there share the answer too
        let all: Vec<_> = (0..16).map(|_| s.spawn(|| proxy.status("example.com/none/@v/v1.0.0.zip"))).collect();
        assert!(all.into_iter().all(|t| t.join().unwrap() == 404));
    });
    assert_eq!(upstream.count(&format!("/{zip}")), 1);
    let counts = proxy.stop();
    assert_eq!((counts["put_request"], counts["put_local_error"]), (1, 0));
}

#[test]
fn bad_answers_are_errors_and_are_not_kept() {
    let dir = Dir::new("bad");
    let tree = lay_out(dir.sub("tree"));
    let v = tree.root.join("example.com/!upper/!lib/@v");
    // a wrong version, a zip of another module, a go.mod that is none
    fs::copy(v.join("v1.0.0.info"), v.join("v1.2.0.info")).unwrap();
    fs::copy(v.join("v1.0.0.zip"), v.join("v1.2.0.zip")).unwrap();
    fs::write(v.join("v1.2.0.mod"), "nothing of the kind\n").unwrap();
    let upstream = Upstream::start(&tree.root);
    let cache = dir.sub("cache");
    let proxy = Proxy::start(&cache, None, &config(&upstream.url()));
    for kind in ["info", "mod", "zip"] {
        let (status, text) = proxy.get(&format!("example.com/!upper/!lib/@v/v1.2.0.{kind}"));
        assert_eq!(status, 502, "{kind}: {text}");
        assert!(text.contains("refused") && text.lines().count() == 1, "{text}");
    }
    let files = ["v1.0.0.info", "v1.0.0.mod", "v1.0.0.zip", "list", "main.info"];
    // what it says of itself reaches the client
    let said = [400, 403, 429, 500, 503].map(|status| (Fault::Status(status), status));
    let faults = [Fault::Down, Fault::Status(401), Fault::Status(200), Fault::Truncated, Fault::Html];
    for (fault, want) in said.into_iter().chain(faults.map(|fault| (fault, 502))) {
        upstream.set(fault.clone());
        for file in files {
            let (status, text) = proxy.get(&format!("example.com/!upper/!lib/@v/{file}"));
            assert_eq!(status, want, "{file} with {fault:?}");
            assert!(want == 502 || text.trim() == format!("made to say {want}"), "{text}");
        }
    }
    upstream.set(Fault::Half);
    for file in ["v1.0.0.info", "v1.0.0.zip", "main.info"] {
        assert_eq!(proxy.status(&format!("example.com/!upper/!lib/@v/{file}")), 502, "half of {file}");
    }
    let kept = fs::read_dir(cache.join("module"))
        .map_or(0, |d| d.flatten().map(|shard| fs::read_dir(shard.path()).unwrap().count()).sum::<usize>());
    assert_eq!(kept, 0, "something bad was kept, or a temporary file left");
    for (status, kind) in [(404, "zip"), (410, "mod")] {
        upstream.set(Fault::Status(status));
        let (got, text) = proxy.get(&format!("example.com/!upper/!lib/@v/v1.1.0.{kind}"));
        assert_eq!((got, text.trim()), (status, format!("made to say {status}").as_str()));
    }
    upstream.set(Fault::None);
    for file in files {
        assert_eq!(proxy.status(&format!("example.com/!upper/!lib/@v/{file}")), 200, "{file}");
    }
    assert!(proxy.stop()["rejected"] > 0);
}

#[test]
fn lists_of_upstreams_fall_through_as_in_go() {
    let dir = Dir::new("lists");
    let tree = lay_out(dir.sub("tree"));
    let (first, second) = (Upstream::start(&tree.root), Upstream::start(&tree.root));
    let file = "example.com/old/@v/v3.0.0+incompatible.mod";
    for (separator, fault, status) in [
        (',', Fault::Status(404), 200),
        (',', Fault::Status(410), 200),
        (',', Fault::Status(500), 500),
        (',', Fault::Down, 502),
        ('|', Fault::Status(500), 200),
        ('|', Fault::Down, 200),
        ('|', Fault::Html, 200),
    ] {
        first.set(fault.clone());
        let list = format!("{}{separator}{}", first.url(), second.url());
        let proxy = Proxy::start(&dir.sub(&format!("cache{separator}{fault:?}")), None, &config(&list));
        assert_eq!(proxy.status(file), status, "{separator} {fault:?}");
    }
    let by_file = Proxy::start(&dir.sub("file"), None, &config(&format!("file://{}", tree.root.display())));
    assert_eq!((by_file.status(file), by_file.status("example.com/none/@v/list")), (200, 404));
    let off = Proxy::start(&dir.sub("off"), None, &config("off"));
    let (status, text) = off.get(file);
    assert_eq!((status, text.contains("off")), (404, true), "{text}");
}

#[test]
fn private_modules_are_asked_of_their_own_upstreams_alone() {
    let dir = Dir::new("private");
    let tree = lay_out(dir.sub("tree"));
    let own = Upstream::start(&tree.root);
    let file = "example.com/!upper/!lib/@v/v1.0.0.mod";
    // were the public one asked, its 404 would come first, or its being out of reach
    for separator in [',', '|'] {
        let list = format!("https://proxy.golang.org{separator}{}#private", own.url());
        let config = Config { private: "example.com/Upper/*", sumdb: vec!["sum.golang.org".into()], ..config(&list) };
        let proxy = Proxy::start(&dir.sub(&format!("cache-{}", own.seen().len())), None, &config);
        assert_eq!(proxy.status(file), 200, "{list}");
        let (status, text) = proxy.get("sumdb/sum.golang.org/lookup/example.com/!upper/!lib@v1.0.0");
        assert_eq!((status, text.contains("private")), (404, true), "{text}");
    }
    // nobody is named for them
    let before = own.seen().len();
    let config = Config { private: "example.com", ..config(&own.url()) };
    let (status, text) = Proxy::start(&dir.sub("none"), None, &config).get(file);
    assert_eq!((status, text.contains("private")), (404, true), "{text}");
    assert_eq!(own.seen().len(), before);
}

#[test]
fn toolchains_are_modules_too() {
    let dir = Dir::new("toolchain");
    let tree = lay_out(dir.sub("tree"));
    let upstream = Upstream::start(&tree.root);
    let proxy = Proxy::start(&dir.sub("cache"), None, &config(&upstream.url()));
    for file in [format!("{TOOLCHAIN}.info"), format!("{TOOLCHAIN}.mod"), format!("{TOOLCHAIN}.zip"), "list".into()] {
        assert_eq!(proxy.status(&format!("golang.org/toolchain/@v/{file}")), 200, "{file}");
    }
}

#[test]
fn passwords_go_to_their_own_host_only() {
    let dir = Dir::new("auth");
    let tree = lay_out(dir.sub("tree"));
    let (upstream, other) = (Upstream::start(&tree.root), Upstream::start(&tree.root));
    let with_login = format!("http://user:secret@{}", upstream.addr);
    let proxy = Proxy::start(&dir.sub("cache"), None, &config(&with_login));
    assert_eq!(proxy.status("example.com/old/@v/list"), 200);
    // anyone could read it on its way
    assert_eq!(upstream.seen()[0].1, None);
    assert!(proxy.process.stderr().contains("use https"), "{}", proxy.process.stderr());
    upstream.set(Fault::Redirect(other.url()));
    assert_eq!(proxy.status("example.com/old/@v/v3.0.0+incompatible.zip"), 200);
    assert_eq!(other.seen(), [("/example.com/old/@v/v3.0.0+incompatible.zip".to_string(), None)]);
    upstream.set(Fault::Status(401));
    let (status, text) = proxy.get("example.com/old/@v/v3.0.0+incompatible.mod");
    assert_eq!(status, 502);
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn mutable_answers_are_refreshed_and_others_are_not() {
    let dir = Dir::new("mutable");
    let mut tree = lay_out(dir.sub("tree"));
    let upstream = Upstream::start(&tree.root);
    let fresh = Proxy::start(&dir.sub("a"), None, &config(&upstream.url()));
    let lazy = Proxy::start(&dir.sub("b"), None, &Config { ttl: 3600, ..config(&upstream.url()) });
    let list = "example.com/!upper/!lib/@v/list";
    for proxy in [&fresh, &lazy] {
        assert_eq!(proxy.get(list).1, "v1.0.0\nv1.1.0\n");
    }
    tree.add("example.com/Upper/Lib", "v1.9.0", &[("x.go", b"package x\n")]);
    assert_eq!(fresh.get(list).1, "v1.0.0\nv1.1.0\nv1.9.0\n");
    assert_eq!(lazy.get(list).1, "v1.0.0\nv1.1.0\n");
    upstream.set(Fault::Status(500));
    assert_eq!(fresh.get(list), (200, "v1.0.0\nv1.1.0\nv1.9.0\n".into()));
    // a definite answer is not papered over with an old one
    upstream.set(Fault::Status(410));
    assert_eq!(fresh.status(list), 410);
    let counts = lazy.stop();
    assert_eq!((counts["get_request"], counts["get_local_hit"], counts["get_local_miss"]), (2, 1, 1));
    assert_eq!((counts["upstream_requests"], counts["put_request"], counts["put_local_bytes"]), (1, 1, 14));
}

#[test]
fn a_damaged_bucket_is_fetched_anew() {
    let dir = Dir::new("damaged");
    let tree = lay_out(dir.sub("tree"));
    let upstream = Upstream::start(&tree.root);
    let bucket = dir.sub("bucket");
    let zip = "example.com/old/@v/v3.0.0+incompatible.zip";
    let proxy = Proxy::start(&dir.sub("a"), Some(&bucket), &config(&upstream.url()));
    assert_eq!(proxy.status(zip), 200);
    proxy.stop();
    let shard = fs::read_dir(bucket.join("module")).unwrap().next().unwrap().unwrap().path();
    let object = fs::read_dir(shard).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&object).unwrap();
    fs::write(&object, &whole[..whole.len() - 10]).unwrap();
    let proxy = Proxy::start(&dir.sub("b"), Some(&bucket), &config(&upstream.url()));
    assert_eq!(proxy.status(zip), 200);
    assert_eq!(proxy.stop()["get_fault_error"], 1);
    assert_eq!(upstream.count(&format!("/{zip}")), 2);
    assert_eq!(fs::read(&object).unwrap(), whole, "the bucket was mended");
}

#[test]
fn requests_that_are_none_touch_neither_disk_nor_upstream() {
    let dir = Dir::new("hostile");
    let tree = lay_out(dir.sub("tree"));
    let upstream = Upstream::start(&tree.root);
    let cache = dir.sub("cache");
    let config = Config { sumdb: vec!["sum.golang.org".into()], ..config(&upstream.url()) };
    let proxy = Proxy::start(&cache, None, &config);
    let long = format!("example.com/{}/@v/list", "x".repeat(9000));
    let requests = [
        ("../../etc/passwd", 404),
        ("%2e%2e/%2e%2e/etc/passwd", 404),
        ("example.com/..%2f..%2fx/@v/list", 400),
        ("example.com/a%5cb/@v/list", 400),
        ("example.com/a%00b/@v/list", 400),
        ("example.com/x/@v/%", 400),
        ("example.com/Upper/@v/list", 400),
        ("example.com//x/@v/list", 400),
        ("example.com/a%252fb/@v/list", 400),
        ("example.com/x/@v/v1.0.0.ziphash", 404),
        ("example.com/x/@v/v1.0.0.exe", 404),
        ("example.com/x/@v/master.zip", 404),
        ("sumdb/other.example/latest", 404),
        ("sumdb/sum.golang.org/../latest", 404),
        ("sumdb/sum.golang.org/tile/8/0/..", 404),
        (long.as_str(), 414),
        ("", 404),
    ];
    for (path, status) in requests {
        let mut socket = std::net::TcpStream::connect(proxy.addr).unwrap();
        io::Write::write_all(
            &mut socket,
            format!("GET /mod/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .unwrap();
        let mut got = String::new();
        socket.read_to_string(&mut got).unwrap();
        assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {got}");
    }
    assert_eq!(upstream.seen(), []);
    assert!(!cache.join("module").exists() && !cache.join("pending").exists());
    let post = agent().post(format!("{}/example.com/x/@v/list", proxy.url())).send("x").unwrap();
    assert_eq!((post.status().as_u16(), &post.headers()["allow"] == "GET, HEAD"), (405, true));
}

#[test]
fn head_and_headers() {
    let dir = Dir::new("head");
    let tree = lay_out(dir.sub("tree"));
    let upstream = Upstream::start(&tree.root);
    let proxy = Proxy::start(&dir.sub("cache"), None, &Config { ttl: 60, ..config(&upstream.url()) });
    let base = "example.com/!upper/!lib/@v";
    for (file, content_type, immutable) in [
        ("v1.0.0.info", "application/json", true),
        ("v1.0.0.mod", "text/plain; charset=utf-8", true),
        ("v1.0.0.zip", "application/zip", true),
        ("list", "text/plain; charset=utf-8", false),
        ("main.info", "application/json", false),
    ] {
        let on_disk = fs::metadata(tree.root.join(base).join(file)).unwrap().len();
        let mut answer = agent().head(format!("{}/{base}/{file}", proxy.url())).call().unwrap();
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_string();
        assert_eq!(answer.status().as_u16(), 200, "{file}");
        assert_eq!((header("content-type"), header("content-length")), (content_type.into(), on_disk.to_string()));
        assert_eq!(header("cache-control").contains("immutable"), immutable, "{file}");
        assert!(answer.body_mut().read_to_vec().unwrap().is_empty());
    }
}

/// Some two hundred modules, 170 MB.
const GRAPH: &str = "module example.com/graph\n\ngo 1.21\n\nrequire (\n\thelm.sh/helm/v3 v3.14.0\n\t\
                     github.com/cli/cli/v2 v2.40.0\n)\n";

#[test]
#[ignore = "downloads 170 MB from the machine's own GOPROXY"]
fn a_graph_of_real_modules_survives_its_upstream() {
    let dir = Dir::new("graph");
    let env = Command::new("go").args(["env", "GOPROXY"]).output().unwrap();
    let upstream = String::from_utf8(env.stdout).unwrap().trim().to_string();
    let config = Config { sumdb: vec!["sum.golang.org".into()], ..config(&upstream) };
    // nobody listens there
    let gone = Config { upstream: "http://127.0.0.1:9".into(), ..config.clone() };
    let (cache, bucket) = (dir.sub("cache"), dir.sub("bucket"));
    let mut sums = None;
    let mut download = |name: &str, proxy: Proxy| {
        let go = Go::new(&dir.sub(name), &proxy.url(), "sum.golang.org");
        fs::write(go.dir.join("go.mod"), GRAPH).unwrap();
        if let Some(sums) = &sums {
            fs::write(go.dir.join("go.sum"), sums).unwrap();
        }
        let listed = go.run(&["mod", "download", "-json", "all"]);
        let modules = listed.matches("\"Zip\": ").count();
        assert!(modules > 200 && !listed.contains("\"Error\": "), "{modules} modules");
        sums.get_or_insert_with(|| fs::read_to_string(go.dir.join("go.sum")).unwrap());
        fs::remove_dir_all(&go.dir).unwrap();
        let counts = proxy.stop();
        assert_eq!((counts["rejected"], counts["path_error"]), (0, 0), "{counts:?}");
        counts
    };
    download("first", Proxy::start(&cache, Some(&bucket), &config));
    let counts = download("second", Proxy::start(&cache, None, &gone));
    assert_eq!(counts["put_request"], 0);
    let counts = download("third", Proxy::start(&dir.sub("cache2"), Some(&bucket), &gone));
    assert!(counts["get_fault_hit"] > 400, "{counts:?}");
}
