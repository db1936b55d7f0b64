//! The module proxy beside its baselines: `go mod download` against GOPROXY=file://, files against
//! nginx. Prints one table.
//!
//! ```text
//! apt-get install nginx-light; cargo bench --bench modproxy [-- SECONDS]
//! ```
//!
//! nginx is looked for at /usr/sbin/nginx and on PATH; without it its columns stay empty. The
//! modules are made up (300, incompressible, 60 MB), unless BENCH_GOPROXY_DIR names a tree in the
//! layout of GOPROXY=file:// (`$GOMODCACHE/cache/download`) and BENCH_GOMOD a go.mod that wants
//! modules of it. Baseline and ours take turns; figures are medians.

#[allow(dead_code)] // the tests use more of it
#[path = "../tests/it/support/upstream.rs"]
mod upstream;

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use go_cache_plugin::config::ModProxyConfig;
use go_cache_plugin::http::Router;
use go_cache_plugin::http::modproxy::ModProxy;
use go_cache_plugin::http::server::{Server, ServerLimits};
use go_cache_plugin::metrics::Metrics;
use go_cache_plugin::store::{BlobStore, Kind};

/// Rounds of what is timed as a whole.
const ROUNDS: usize = 5;
const CONNECTIONS: usize = 32;
const IDLE: usize = 1000;
const BIG: usize = 100 << 20;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [flag, cache, tree] = &args[..]
        && flag == "serve"
    {
        return serve(Path::new(cache), Path::new(tree));
    }
    let seconds: u64 = args.first().and_then(|a| a.parse().ok()).unwrap_or(5);
    let dir = std::env::temp_dir().join(format!("gcp-bench-modproxy-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("temporary directory");
    bench(&dir, Duration::from_secs(seconds));
    fs::remove_dir_all(&dir).expect("temporary directory");
}

/// The proxy, in a process of its own, so that its memory can be told from the clients'.
fn serve(cache: &Path, tree: &Path) {
    let metrics = Arc::new(Metrics::default());
    let store = BlobStore::new(Kind::Module, cache, None, None, metrics.clone());
    let config = ModProxyConfig {
        upstream: format!("file://{}", tree.display()),
        private: String::new(),
        offline: false,
        ttl: Duration::from_secs(3600),
        sumdb: Vec::new(),
        netrc: None,
    };
    let proxy = ModProxy::new(&config, Arc::new(store), metrics).expect("configuration");
    let server = Server::bind((Ipv4Addr::LOCALHOST, 0).into(), ServerLimits::default()).expect("port");
    server.start(Arc::new(Router { modproxy: Some(Arc::new(proxy)), ..Router::default() })).expect("threads");
    writeln!(io::stdout().lock(), "{}", server.local_addr()).expect("stdout");
    let _ = io::stdin().read(&mut [0]); // until the bench closes it
    server.stop();
}

fn bench(dir: &Path, time: Duration) {
    let mut tree = upstream::Tree::new(dir.join("tree"));
    let mut random = Random(1);
    let mut go_mod = "module example.com/bench\n\ngo 1.21\n\nrequire (\n".to_string();
    for n in 0..300 {
        let name = format!("example.com/Mod{n:03}/pkg");
        let files: Vec<(String, Vec<u8>)> =
            (0..20).map(|f| (format!("dir{}/file{f}.go", f % 4), random.bytes(1 << (9 + f % 6)))).collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (n.as_str(), &b[..])).collect();
        tree.add(&name, "v1.0.0", &files);
        go_mod += &format!("\t{name} v1.0.0\n");
    }
    go_mod += ")\n";
    tree.add("example.com/big", "v1.0.0", &[("blob", &random.bytes(BIG))]);
    let given = std::env::var("BENCH_GOPROXY_DIR").ok().zip(std::env::var("BENCH_GOMOD").ok());
    let (files, go_mod) = match &given {
        Some((dir, file)) => (PathBuf::from(dir), fs::read_to_string(file).expect("BENCH_GOMOD")),
        None => (tree.root.clone(), go_mod),
    };
    let ours = Ours::start(&dir.join("cache"), &tree.root);
    let modules = Ours::start(&dir.join("cache-modules"), &files);
    let nginx = Nginx::start(dir, &tree.root);
    let say = |what: &str, base: String, ours: String, ratio: String| {
        writeln!(io::stdout().lock(), "| {what:<58} | {base:>16} | {ours:>16} | {ratio:>7} |").expect("stdout");
    };
    say("what", "baseline".into(), "ours".into(), "ratio".into());

    let by_file = format!("file://{}", files.display());
    let by_us = format!("http://{}/mod", modules.addr);
    download(dir, &go_mod, &by_us); // warms our cache and the kernel's
    let (base, warm) = pairs(|ours| download(dir, &go_mod, if ours { &by_us } else { &by_file }));
    say("go mod download, against file://", secs(base), secs(warm), ratio(warm, base));
    let (alone, crowded) = pairs(|crowd| {
        let connect = |_| TcpStream::connect(modules.addr).expect("idle connection");
        let _idle: Vec<TcpStream> = (0..if crowd { IDLE } else { 0 }).map(connect).collect();
        download(dir, &go_mod, &by_us)
    });
    say("the same, 1,000 idle connections, against without", secs(alone), secs(crowded), ratio(crowded, alone));

    let big = "example.com/big/@v/v1.0.0.zip";
    fetch(ours.addr, &format!("/mod/{big}"));
    for _ in 0..3 {
        fetch(ours.addr, &format!("/mod/{big}"));
    }
    let before = ours.resident();
    let (base, big_ours) = pairs(|us| match (us, &nginx) {
        (true, _) => fetch(ours.addr, &format!("/mod/{big}")),
        (false, Some(nginx)) => fetch(nginx.addr, &format!("/{big}")),
        (false, None) => f64::NAN,
    });
    let speed = |s: f64| format!("{:.0} MB/s", BIG as f64 / s / 1e6);
    say("100 MB zip, one client, against nginx", speed(base), speed(big_ours), ratio(base, big_ours));
    let grown = ours.peak().saturating_sub(before);
    say("memory grown by it", String::new(), format!("{grown} KiB"), String::new());

    for file in ["v1.0.0.info", "v1.0.0.mod"] {
        let path = format!("example.com/!mod001/pkg/@v/{file}");
        fetch(ours.addr, &format!("/mod/{path}"));
        let base = nginx.as_ref().map(|n| hammer(n.addr, &format!("/{path}"), time));
        let us = hammer(ours.addr, &format!("/mod/{path}"), time);
        let base = base.unwrap_or(Load { rate: f64::NAN, p50: f64::NAN, p99: f64::NAN });
        let what = format!("{file}, {CONNECTIONS} keep-alive connections, requests/s");
        say(&what, format!("{:.0}", base.rate), format!("{:.0}", us.rate), ratio(us.rate, base.rate));
        let micros = |s: f64| format!("{:.0} µs", s * 1e6);
        say("  p50", micros(base.p50), micros(us.p50), ratio(us.p50, base.p50));
        say("  p99", micros(base.p99), micros(us.p99), ratio(us.p99, base.p99));
    }
}

/// Runs baseline and ours by turns; the median of each, in seconds.
fn pairs(mut run: impl FnMut(bool) -> f64) -> (f64, f64) {
    let (mut base, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        base.push(run(false));
        ours.push(run(true));
    }
    (median(base), median(ours))
}

/// `go mod download` with a fresh module cache; seconds.
fn download(dir: &Path, go_mod: &str, proxy: &str) -> f64 {
    let work = dir.join("work");
    fs::create_dir_all(&work).expect("work directory");
    fs::write(work.join("go.mod"), go_mod).expect("go.mod");
    let begin = Instant::now();
    let out = Command::new("go")
        .args(["mod", "download", "all"])
        .current_dir(&work)
        .envs([("GOPROXY", proxy), ("GOSUMDB", "off"), ("GOFLAGS", "-mod=mod -modcacherw"), ("GOTOOLCHAIN", "local")])
        .envs([("GOENV", "off"), ("GOWORK", "off"), ("GOCACHEPROG", ""), ("no_proxy", "127.0.0.1")])
        .env("GOMODCACHE", work.join("mod"))
        .env("GOPATH", work.join("gopath"))
        .output()
        .expect("go is on PATH");
    let took = begin.elapsed().as_secs_f64();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    fs::remove_dir_all(&work).expect("work directory");
    took
}

/// GETs a file over a connection of its own and drops it; seconds.
fn fetch(addr: SocketAddr, path: &str) -> f64 {
    let begin = Instant::now();
    let mut socket = TcpStream::connect(addr).expect("connection");
    write!(socket, "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").expect("request");
    let mut piece = vec![0; 256 << 10];
    let n = socket.read(&mut piece).expect("answer");
    assert!(piece[..n].starts_with(b"HTTP/1.1 200"), "{path}: {}", String::from_utf8_lossy(&piece[..n.min(200)]));
    while socket.read(&mut piece).expect("body") > 0 {}
    begin.elapsed().as_secs_f64()
}

struct Load {
    rate: f64,
    p50: f64,
    p99: f64,
}

/// Asks for one small file again and again over keep-alive connections.
fn hammer(addr: SocketAddr, path: &str, time: Duration) -> Load {
    let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    let begin = Instant::now();
    let mut all: Vec<f64> = std::thread::scope(|s| {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                s.spawn(|| {
                    let mut socket = TcpStream::connect(addr).expect("connection");
                    socket.set_nodelay(true).expect("TCP_NODELAY");
                    let mut times = Vec::new();
                    let mut answer = vec![0; 16 << 10];
                    while begin.elapsed() < time {
                        let start = Instant::now();
                        socket.write_all(request.as_bytes()).expect("request");
                        let mut got = 0;
                        while !is_whole(&answer[..got]) {
                            let n = socket.read(&mut answer[got..]).expect("answer");
                            assert!(n > 0, "the connection was closed");
                            got += n;
                        }
                        times.push(start.elapsed().as_secs_f64());
                    }
                    times
                })
            })
            .collect();
        clients.into_iter().flat_map(|c| c.join().expect("client")).collect()
    });
    let took = begin.elapsed().as_secs_f64();
    all.sort_by(f64::total_cmp);
    Load { rate: all.len() as f64 / took, p50: all[all.len() / 2], p99: all[all.len() * 99 / 100] }
}

/// Whether head and Content-Length are there.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|w| w == b"\r\n\r\n") else { return false };
    let head = std::str::from_utf8(&answer[..end]).expect("head");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).expect("Content-Length");
    answer.len() >= end + 4 + length.trim().parse::<usize>().expect("a number")
}

struct Ours {
    child: Child,
    addr: SocketAddr,
}

impl Ours {
    fn start(cache: &Path, tree: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .arg("serve")
            .args([cache, tree])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the bench starts itself");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("address");
        Ours { child, addr: line.trim().parse().expect("address") }
    }

    fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix(field));
        line.and_then(|l| l.trim_matches([':', '\t', ' ', 'k', 'B']).parse().ok()).unwrap_or(0)
    }

    /// KiB at present.
    fn resident(&self) -> u64 {
        self.status("VmRSS")
    }

    /// KiB at most so far.
    fn peak(&self) -> u64 {
        self.status("VmHWM")
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

struct Nginx {
    child: Child,
    addr: SocketAddr,
}

impl Nginx {
    /// Serves `root`; `None` where there is no nginx.
    fn start(dir: &Path, root: &Path) -> Option<Self> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        let addr = free.local_addr().ok()?;
        drop(free);
        let dir = dir.join("nginx");
        fs::create_dir_all(&dir).ok()?;
        let config = format!(
            "daemon off; pid {0}/pid; error_log {0}/error.log; worker_processes 2;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; sendfile on; tcp_nodelay on; keepalive_requests 1000000000;\n\
             client_body_temp_path {0}/a; proxy_temp_path {0}/b; fastcgi_temp_path {0}/c; uwsgi_temp_path {0}/d;\n\
             scgi_temp_path {0}/e; server {{ listen {addr}; location / {{ root {1}; }} }} }}\n",
            dir.display(),
            root.display()
        );
        // workers may run as another user
        let _ = Command::new("chmod").args(["-R", "a+rX"]).arg(root).arg(root.parent()?).status();
        let file = dir.join("nginx.conf");
        fs::write(&file, config).ok()?;
        let binary = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
        let child = Command::new(binary).arg("-c").arg(&file).stderr(Stdio::null()).spawn().ok()?;
        let mut nginx = Nginx { child, addr };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(addr).is_err() {
            if Instant::now() > deadline || nginx.child.try_wait().is_ok_and(|s| s.is_some()) {
                return None;
            }
            std::thread::yield_now();
        }
        Some(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // its workers end with it only when asked politely
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

/// xorshift: bytes that do not compress, the same in every run.
struct Random(u64);

impl Random {
    fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(n + 8);
        while out.len() < n {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            out.extend_from_slice(&self.0.to_le_bytes());
        }
        out.truncate(n);
        out
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn secs(s: f64) -> String {
    format!("{s:.2} s")
}

fn ratio(a: f64, b: f64) -> String {
    format!("{:.2}", a / b)
}
