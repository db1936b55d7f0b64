//! What the environment says reaches those who need it, and nobody else.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rustls::{ServerConnection, StreamOwned};

use crate::support::env::{Plugin, TempDir};
use crate::support::go;
use crate::support::origin::self_signed;
use crate::support::s3::S3Server;
use crate::support::script::{Session, noise};

/// A forward proxy on 127.0.0.1: takes CONNECT to any name, and sends everything to one
/// place. It ends with the process.
struct ForwardProxy {
    /// `127.0.0.1:port`.
    addr: String,
    /// The heads of requests to it.
    seen: Arc<Mutex<Vec<String>>>,
}

impl ForwardProxy {
    fn start(target: impl Fn(TcpStream) + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("the port bound").to_string();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = seen.clone();
        std::thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let (log, target) = (log.clone(), target.clone());
                std::thread::spawn(move || {
                    let head = head(&mut client);
                    log.lock().unwrap().push(head.clone());
                    assert!(head.starts_with("CONNECT "), "{head}");
                    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
                    target(client);
                });
            }
        });
        ForwardProxy { addr, seen }
    }

    /// One that leads to the server at `endpoint`, whatever it is asked for.
    fn to(endpoint: &str) -> Self {
        let addr = endpoint.trim_start_matches("http://").to_string();
        Self::start(move |client| {
            let Ok(server) = TcpStream::connect(&addr) else { return };
            let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || carry(from, to));
            carry(server, client);
        })
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

/// Reads to the end of a head, and no further; empty at the end of the stream.
fn head(from: &mut impl Read) -> String {
    let (mut text, mut byte) = (Vec::new(), [0]);
    while !text.ends_with(b"\r\n\r\n") && matches!(from.read(&mut byte), Ok(1)) {
        text.push(byte[0]);
    }
    String::from_utf8(text).expect("heads are ASCII")
}

const NAMED: &str = "http://bucket.test:9000";

fn bodies() -> Vec<Vec<u8>> {
    (0..3).map(|n| noise(n, 2000)).collect()
}

/// Puts three bodies, and gets them from another directory.
fn there_and_back(server: &S3Server, plugin: impl Fn(&TempDir) -> Plugin) {
    let (one, two) = (TempDir::new(), TempDir::new());
    let mut session = Session::start(plugin(&one));
    session.put_all(&bodies());
    session.end().quiet();
    assert_eq!(server.keys().iter().filter(|key| key.starts_with("v1/")).count(), 3, "{:?}", server.keys());
    let mut session = Session::start(plugin(&two));
    assert_eq!(session.get_all(&bodies()), 3);
    session.end().quiet();
}

#[test]
fn requests_to_the_bucket_go_through_the_proxy() {
    for (variable, login) in [("HTTP_PROXY", ""), ("http_proxy", "us%40er:pa%3Ass@")] {
        let server = S3Server::in_process();
        let proxy = ForwardProxy::to(&server.endpoint);
        there_and_back(&server, |dir| {
            let plugin = Plugin::new(dir).envs(&server.env_through(NAMED));
            plugin
                .env(variable, format!("http://{login}{}", proxy.addr))
                .env("NO_PROXY", "other.test,ket.test,10.0.0.1")
        });
        let seen = proxy.seen();
        assert!(!seen.is_empty() && seen.iter().all(|h| h.starts_with("CONNECT bucket.test:9000 ")), "{seen:?}");
        // us@er:pa:ss
        let credentials = "Proxy-Authorization: Basic dXNAZXI6cGE6c3M=\r\n";
        assert!(login.is_empty() || seen.iter().all(|h| h.contains(credentials)), "{seen:?}");
    }
}

#[test]
fn a_service_is_known_by_its_host() {
    let server = S3Server::in_process();
    let proxy = ForwardProxy::to(&server.endpoint);
    let dir = TempDir::new();
    let doctor = |endpoint: &str, more: &[&str]| {
        let mut vars = server.env_through(endpoint);
        vars.retain(|(name, _)| !["GOCACHE_S3_REGION", "GOCACHE_S3_PATH_STYLE"].contains(&name.as_str()));
        let path = std::env::join_paths([go::any().root.join("bin")]).unwrap();
        let plugin = Plugin::new(&dir).arg("doctor").args(more).envs(&vars).env("PATH", path);
        let plugin = plugin.env("AWS_REGION", "eu-west-1").env("http_proxy", format!("http://{}", proxy.addr));
        plugin.output().ok().stdout
    };
    let says = |out: &str, all: [&str; 3]| {
        let line = out.lines().find(|line| line.starts_with("ok    endpoint: ")).expect(out);
        all.iter().for_each(|part| assert!(line.contains(part), "{part}: {line}"));
    };
    // Amazon's region is not R2's, and a bucket's name is no part of this host
    let r2 = "http://0123.r2.cloudflarestorage.com";
    says(&doctor(r2, &[]), [r2, "Cloudflare R2: signed for auto", "the bucket in the path"]);
    assert!(proxy.seen().iter().all(|head| head.starts_with("CONNECT 0123.r2.cloudflarestorage.com:80 ")));
    let given = doctor(r2, &["--region=eu-central-1", "--s3-path-style=true"]);
    says(&given, [r2, "signed for eu-central-1", "the bucket in the path"]);
    // a host of one word has no subdomains; what to sign for is for its owner to say
    let local = server.endpoint.replace("127.0.0.1", "localhost");
    says(&doctor(&local, &[]), [&local, "signed for eu-west-1", "the bucket in the path"]);
    // what nobody knows is as it was
    let other = Plugin::new(&dir).arg("doctor").envs(&server.env_through("http://s3.example.com"));
    let out = other.env("GOCACHE_S3_PATH_STYLE", "").env("http_proxy", "http://127.0.0.1:1").output().stdout;
    says(&out, ["http://s3.example.com: signed for us-east-1", "the bucket in the host name", "--s3-path-style"]);
    let paths: Vec<String> = server.requests().into_iter().map(|seen| seen.path).collect();
    assert!(!paths.is_empty() && paths.iter().all(|path| path.starts_with("/cache-bucket")), "{paths:?}");
}

#[test]
fn https_goes_through_its_proxy_and_trusts_the_named_file() {
    let (config, pem) = self_signed(&["bucket.test"]);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    let proxy = ForwardProxy::start(move |client| {
        let connection = ServerConnection::new(config.clone()).expect("the configuration is complete");
        let mut tls = StreamOwned::new(connection, client);
        loop {
            let head = head(&mut tls);
            if head.is_empty() {
                return;
            }
            let len = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
            let _ = tls.read_exact(&mut vec![0; len.unwrap_or(0)]);
            log.lock().unwrap().push(head.lines().next().unwrap_or_default().to_string());
            let answer: &[u8] = if head.starts_with("PUT") {
                b"HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Length: 0\r\n\r\n"
            } else {
                b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
            };
            if tls.write_all(answer).is_err() {
                return;
            }
        }
    });
    let server = S3Server::in_process();
    // a name with dots cannot be part of the host's, for no certificate covers it
    for (bucket, path_style) in [("cache-bucket", "1"), ("cache.bucket", ""), ("cache.bucket", "0")] {
        let dir = TempDir::new();
        let file = dir.write("ca.pem", &pem);
        let plugin = Plugin::new(&dir).envs(&server.env_through("https://bucket.test"));
        let plugin = plugin.env("GOCACHE_S3_BUCKET", bucket).env("GOCACHE_S3_PATH_STYLE", path_style);
        // HTTP_PROXY is not for https
        let plugin = plugin.env("HTTPS_PROXY", &proxy.addr).env("HTTP_PROXY", "http://127.0.0.1:1");
        let mut session = Session::start(plugin.env("SSL_CERT_FILE", file));
        session.put_all(&bodies());
        session.end().quiet();
        assert!(proxy.seen().iter().all(|head| head.starts_with("CONNECT bucket.test:443 ")), "{:?}", proxy.seen());
        let asked = std::mem::take(&mut *asked.lock().unwrap());
        let puts = asked.iter().filter(|l| l.starts_with(&format!("PUT /{bucket}/pre/fix/v1/"))).count();
        assert_eq!(puts, 3, "{asked:?}");
    }
}

#[test]
fn no_proxy_and_this_machine_are_spared() {
    let server = S3Server::in_process();
    let proxy = ForwardProxy::to(&server.endpoint);
    let url = format!("http://{}", proxy.addr);
    // the name cannot be looked up, so nothing arrives, but nothing goes to the proxy either
    for (variable, list) in [("NO_PROXY", "BUCKET.test"), ("no_proxy", "a, .test"), ("NO_PROXY", "*")] {
        let dir = TempDir::new();
        let plugin = Plugin::new(&dir).envs(&server.env_through(NAMED)).env("HTTP_PROXY", &url).env(variable, list);
        let out = plugin.arg("status").output();
        assert!(proxy.seen().is_empty(), "{variable}={list}: {:?}{}", proxy.seen(), out.describe());
    }
    there_and_back(&server, |dir| Plugin::new(dir).envs(&server.env()).env("HTTP_PROXY", &url));
    assert!(proxy.seen().is_empty(), "{:?}", proxy.seen());
}

#[test]
fn a_proxy_that_is_no_url_is_one_line() {
    let (dir, server) = (TempDir::new(), S3Server::in_process());
    let plugin = Plugin::new(&dir).envs(&server.env_through(NAMED)).env("HTTP_PROXY", "socks5://user:secret@h");
    let out = plugin.output().code(1);
    assert_eq!(out.stderr.lines().count(), 1, "{}", out.describe());
    assert!(out.stderr.contains("HTTP_PROXY") && !out.stderr.contains("secret"), "{}", out.describe());
}

#[test]
fn the_endpoint_and_the_region_of_aws_are_used_and_checked() {
    let server = S3Server::in_process();
    let with = |endpoint: &str, region: &str| {
        let mut env = server.env();
        env.retain(|(name, _)| !["GOCACHE_S3_ENDPOINT_URL", "GOCACHE_S3_REGION"].contains(&name.as_str()));
        env.extend(
            [("AWS_ENDPOINT_URL_S3", endpoint), ("AWS_REGION", region)].map(|(n, v)| (n.to_string(), v.to_string())),
        );
        env
    };
    let env = with(&server.endpoint, "us-east-1");
    there_and_back(&server, |dir| Plugin::new(dir).envs(&env));
    for (env, want) in [
        (with("h:1", "us-east-1"), "AWS_ENDPOINT_URL_S3 \"h:1\": not an endpoint"),
        (with(&server.endpoint, "a b"), "AWS_REGION \"a b\": not a region"),
    ] {
        let dir = TempDir::new();
        let out = Plugin::new(&dir).envs(&env).output().code(2);
        assert!(out.stderr.starts_with(&format!("go-cache-plugin: {want}")), "{}", out.describe());
        // a flag wins, and what it replaces is not looked at
        let flags = ["status", "--s3-endpoint-url=http://127.0.0.1:1", "--region=r"];
        // (nobody listens there, which is no usage error)
        Plugin::new(&dir).envs(&env).args(flags).output().code(1);
    }
}

#[test]
fn the_endpoint_of_the_profile_is_used() {
    let server = S3Server::in_process();
    let dir = TempDir::new();
    let own = format!("endpoint_url = {}", server.endpoint);
    let dead = "endpoint_url = http://127.0.0.1:1";
    let services = |own: &str| {
        format!("services = here\n[services here]\nec2 =\n  {dead}\ns3 =\n  {own}\n[services x]\ns3 =\n  {dead}\n")
    };
    let profile = |name: &str, text: &str| {
        let file = dir.write("config", &format!("[profile other]\n{dead}\n[{name}]\nregion = us-east-1\n{text}\n"));
        let mut env = server.env();
        env.retain(|(name, _)| !["GOCACHE_S3_ENDPOINT_URL", "GOCACHE_S3_REGION"].contains(&name.as_str()));
        env.extend([("AWS_CONFIG_FILE".to_string(), file.display().to_string())]);
        env.extend(name.strip_prefix("profile ").map(|name| ("AWS_PROFILE".to_string(), name.to_string())));
        // what earlier processes learnt of it is kept by its address
        move || Plugin::new(&TempDir::new()).envs(&env)
    };
    let shown = |plugin: Plugin, code: i32| plugin.arg("status").output().code(code);
    for (name, text) in [
        ("default", own.clone()),
        ("profile mine", own.clone()),
        ("profile mine", format!("{dead}\n{}", services(&own))),
    ] {
        let plugin = profile(name, &text);
        there_and_back(&server, |_| plugin());
        let out = shown(plugin(), 0);
        assert!(out.stdout.contains(&server.endpoint), "{}", out.describe());
        // variables win, and so does our own flag
        shown(plugin().env("AWS_ENDPOINT_URL", "http://127.0.0.1:1"), 1);
        let ignoring = plugin().env("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true");
        let out = shown(ignoring.env("HTTPS_PROXY", "http://127.0.0.1:1"), 1);
        assert!(!out.stdout.contains(&server.endpoint), "{}", out.describe());
    }
    let plugin = profile("default", dead);
    shown(plugin(), 1);
    shown(plugin().args(["--s3-endpoint-url", &server.endpoint]), 0);
    // how the bucket is addressed there, too
    for (style, flag, want) in [
        ("path", "--s3-path-style", "the path"),
        ("path", "-v=false", "the path"),
        ("path", "--s3-path-style=false", "the host name"),
        ("virtual", "-v=false", "the host name"),
        ("virtual", "--s3-path-style", "the path"),
        ("auto", "-v=false", "the path"),
    ] {
        // which is known to want the path, unless it is told
        let text = format!("endpoint_url = http://storage.googleapis.com\ns3 =\n  addressing_style = {style}");
        let plugin = profile("default", &text)().env("HTTP_PROXY", "http://127.0.0.1:1").args(["doctor", flag]);
        let out = plugin.env("GOCACHE_S3_PATH_STYLE", "").output().code(1);
        let want = format!("signed for auto (--region), the bucket in {want} (--s3-path-style)\n");
        assert!(out.stdout.contains(&want), "{style} {flag}{}", out.describe());
    }
    let out = profile("profile p", "endpoint_url = h:1")().output().code(1);
    let want = "go-cache-plugin: bucket: AWS profile \"p\": endpoint_url \"h:1\": not an endpoint";
    assert!(out.stderr.starts_with(want) && out.stderr.lines().count() == 1, "{}", out.describe());
}

#[test]
fn clear_needs_nothing_that_is_meant_for_builds() {
    let dir = TempDir::new();
    let bucket = format!("--bucket=file://{}", dir.dir("bucket").display());
    let put = |prefix: &str| {
        let mut session = Session::start(Plugin::new(&dir).arg(&bucket).arg(format!("--prefix={prefix}")));
        session.put_all(&bodies());
        session.end().quiet();
    };
    let objects = || {
        let shards = std::fs::read_dir(dir.join("bucket/pr/v1")).into_iter().flatten().flatten();
        shards.map(|shard| std::fs::read_dir(shard.path()).expect("a shard").count()).sum::<usize>()
    };
    for (name, value) in [
        ("GOCACHE_WRITE_PREFIX", "pr"),
        ("GOCACHE_WRITE_PREFIX", "other"),
        ("GOCACHE_WRITE_PREFIX", "a/../b"),
        ("GOCACHE_KEY_PREFIX", "a/../b"),
        ("GOCACHE_READ_ONLY", "true"),
        ("GOCACHE_SIGNING_KEY_FILE", "/nonexistent"),
        ("GOCACHE_S3_LAYOUT", "classic"),
        ("GOCACHE_S3_BUCKET", "no bucket"),
        ("GOCACHE_EXPIRY", "nonsense"),
        ("GOCACHE_CONCURRENCY", "nonsense"),
    ] {
        put("pr");
        assert_eq!(objects(), 3, "{name}={value}");
        let out = Plugin::new(&dir).env(name, value).args(["clear", &bucket, "--prefix=pr"]).output().ok().quiet();
        assert!(!out.stdout.contains("removed 0 "), "{}", out.describe());
        assert_eq!(objects(), 0, "{name}={value}");
        let local = Plugin::new(&dir).env(name, value).args(["clear", "--local"]).output().ok().quiet();
        assert!(local.stdout.contains("removed "), "{}", local.describe());
        let prune = Plugin::new(&dir).env("GOCACHE_S3_BUCKET", "no bucket").args(["prune", "--max-cache-size=1k"]);
        prune.output().ok().quiet();
    }
}
