//! The module proxy beside its baselines: `go mod download` against GOPROXY=file://, files against
//! nginx, and with a thousand connections that say nothing.
//!
//! `cargo bench --bench modproxy -- --modules 300 --rounds 5 --seconds 5`
//!
//! Install nginx first (Debian: nginx-light); it is looked for at /usr/sbin/nginx and on PATH. The
//! modules are made up (incompressible, 60 MB), unless BENCH_GOPROXY_DIR names a tree in the layout
//! of GOPROXY=file:// (`$GOMODCACHE/cache/download`) and BENCH_GOMOD a go.mod that wants modules of
//! it. Baseline and ours take turns; ratios are taken within a round.

mod support;
#[allow(dead_code)] // the tests use more of it
#[path = "../tests/it/support/upstream.rs"]
mod upstream;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use support::args::Args;
use support::scratch::Scratch;
use support::table::{Bound, Samples, paired, progress, row, section};
use support::{PLUGIN, Result};

const CONNECTIONS: usize = 32;
const IDLE: usize = 1000;
const BIG: usize = 100 << 20;
const MIB: f64 = (1 << 20) as f64;

fn main() -> ExitCode {
    support::main(bench)
}

fn bench(args: &Args) -> Result<()> {
    args.check(&["modules", "rounds", "seconds"])?;
    let (modules, rounds) = (args.number("modules", 300)?, args.number("rounds", 5)?);
    let time = Duration::from_secs(args.number("seconds", 5)? as u64);
    let scratch = Scratch::open()?;
    let dir = scratch.fresh("modproxy")?;
    progress("making up modules");
    let (tree, go_mod) = make_up(&dir.join("tree"), modules);
    let given = std::env::var("BENCH_GOPROXY_DIR").ok().zip(std::env::var("BENCH_GOMOD").ok());
    let (files, go_mod) = match given {
        Some((dir, file)) => (PathBuf::from(dir), fs::read_to_string(file)?),
        None => (tree.clone(), go_mod),
    };
    section(&format!("module proxy: {modules} modules"));
    downloads(&dir, &files, &go_mod, rounds)?;

    let nginx = Nginx::start(&dir, &tree).ok_or("nginx cannot be started; it is the baseline of these figures")?;
    let ours = Ours::start(&dir.join("cache"), &tree)?;
    zip(&ours, &nginx, rounds)?;
    small(&ours, &nginx, rounds, time)
}

/// Modules of 20 files each and a big one; where they are, and a go.mod that wants the former.
fn make_up(root: &Path, modules: usize) -> (PathBuf, String) {
    let mut tree = upstream::Tree::new(root.into());
    let mut random = Random(1);
    let mut go_mod = "module example.com/bench\n\ngo 1.21\n\nrequire (\n".to_string();
    for n in 0..modules {
        let name = format!("example.com/Mod{n:03}/pkg");
        let files: Vec<(String, Vec<u8>)> =
            (0..20).map(|f| (format!("dir{}/file{f}.go", f % 4), random.bytes(1 << (9 + f % 6)))).collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (n.as_str(), &b[..])).collect();
        tree.add(&name, "v1.0.0", &files);
        go_mod += &format!("\t{name} v1.0.0\n");
    }
    tree.add("example.com/big", "v1.0.0", &[("blob", &random.bytes(BIG))]);
    (tree.root.clone(), go_mod + ")\n")
}

fn downloads(dir: &Path, files: &Path, go_mod: &str, rounds: usize) -> Result<()> {
    let server = Ours::start(&dir.join("cache-modules"), files)?;
    let by_file = format!("file://{}", files.display());
    let by_us = format!("http://{}/mod", server.addr);
    let (mut base, mut ours, mut alone, mut crowded) = Default::default();
    for i in 0..=rounds {
        let straight = download(dir, go_mod, &by_file)?;
        // the first also fills our cache
        let warm = download(dir, go_mod, &by_us)?;
        let idle: Vec<TcpStream> =
            (0..IDLE).map(|_| TcpStream::connect(server.addr)).collect::<std::io::Result<_>>()?;
        let among = download(dir, go_mod, &by_us)?;
        drop(idle);
        let after = download(dir, go_mod, &by_us)?;
        if i > 0 {
            let push = |s: &mut Samples, t| s.push_time(t);
            push(&mut base, straight);
            push(&mut ours, warm);
            push(&mut crowded, among);
            push(&mut alone, after);
        }
    }
    paired("go mod download from warm disk, by GOPROXY=file://", &ours, &base, Bound::Most(1.3));
    paired(&format!("the same among {IDLE} idle connections, by without"), &crowded, &alone, Bound::Most(1.2));
    Ok(())
}

fn zip(ours: &Ours, nginx: &Nginx, rounds: usize) -> Result<()> {
    let big = "example.com/big/@v/v1.0.0.zip";
    for _ in 0..3 {
        fetch(ours.addr, &format!("/mod/{big}"))?;
        fetch(nginx.addr, &format!("/{big}"))?;
    }
    let before = ours.resident();
    let speed = |t: Duration| BIG as f64 / t.as_secs_f64();
    let (mut us, mut base) = (Samples::default(), Samples::default());
    for _ in 0..rounds {
        base.push(speed(fetch(nginx.addr, &format!("/{big}"))?));
        us.push(speed(fetch(ours.addr, &format!("/mod/{big}"))?));
    }
    let ratio = us.by(&base).median();
    row("cached 100 MB zip, one client, by nginx", &us.show("MB/s"), &base.show("MB/s"), ratio, Bound::Least(0.5));
    let grown = ours.resident().saturating_sub(before) as f64 / MIB;
    row("— resident memory grown by it, MiB", &format!("{grown:.2}"), "", grown, Bound::Most(8.0));
    let peak = ours.peak() as f64 / MIB;
    row(
        "— peak resident memory, fetching and checking it included, MiB",
        &format!("{peak:.1}"),
        "",
        f64::NAN,
        Bound::Free,
    );
    Ok(())
}

fn small(ours: &Ours, nginx: &Nginx, rounds: usize, time: Duration) -> Result<()> {
    for file in ["v1.0.0.info", "v1.0.0.mod"] {
        let path = format!("example.com/!mod001/pkg/@v/{file}");
        let mut loads: [[Samples; 3]; 2] = Default::default();
        fetch(ours.addr, &format!("/mod/{path}"))?;
        for _ in 0..rounds {
            let base = hammer(nginx.addr, &format!("/{path}"), time / rounds as u32)?;
            let us = hammer(ours.addr, &format!("/mod/{path}"), time / rounds as u32)?;
            for (to, from) in loads.iter_mut().zip([base, us]) {
                to.iter_mut().zip([from.rate, from.p50, from.p99]).for_each(|(s, v)| s.push(v));
            }
        }
        let [base, us] = &loads;
        let figure = |what: String, i: usize, unit: &str, bound| {
            row(&what, &us[i].show(unit), &base[i].show(unit), us[i].by(&base[i]).median(), bound);
        };
        let what = format!("cached .{}, {CONNECTIONS} keep-alive connections, requests/s, by nginx", &file[7..]);
        figure(what, 0, "", Bound::Least(0.3));
        figure("— p50".into(), 1, "µs", Bound::Free);
        figure("— p99".into(), 2, "µs", Bound::Most(5.0));
    }
    Ok(())
}

/// `go mod download` with a fresh module cache.
fn download(dir: &Path, go_mod: &str, proxy: &str) -> Result<Duration> {
    let work = dir.join("work");
    fs::create_dir_all(&work)?;
    fs::write(work.join("go.mod"), go_mod)?;
    let begin = Instant::now();
    let out = Command::new("go")
        .args(["mod", "download", "all"])
        .current_dir(&work)
        .envs([("GOPROXY", proxy), ("GOSUMDB", "off"), ("GOFLAGS", "-mod=mod -modcacherw"), ("GOTOOLCHAIN", "local")])
        .envs([("GOENV", "off"), ("GOWORK", "off"), ("GOCACHEPROG", ""), ("no_proxy", "127.0.0.1")])
        .env("GOMODCACHE", work.join("mod"))
        .env("GOPATH", work.join("gopath"))
        .output()?;
    let took = begin.elapsed();
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into());
    }
    fs::remove_dir_all(&work)?;
    Ok(took)
}

/// GETs a file over a connection of its own and drops it.
fn fetch(addr: SocketAddr, path: &str) -> Result<Duration> {
    let begin = Instant::now();
    let mut socket = TcpStream::connect(addr)?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut piece = vec![0; 256 << 10];
    let n = socket.read(&mut piece)?;
    if !piece[..n].starts_with(b"HTTP/1.1 200") {
        return Err(format!("{path}: {}", String::from_utf8_lossy(&piece[..n.min(200)])).into());
    }
    while socket.read(&mut piece)? > 0 {}
    Ok(begin.elapsed())
}

struct Load {
    rate: f64,
    p50: f64,
    p99: f64,
}

/// Asks for one small file again and again over keep-alive connections.
fn hammer(addr: SocketAddr, path: &str, time: Duration) -> Result<Load> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let begin = Instant::now();
    let client = || -> std::io::Result<Vec<f64>> {
        let mut socket = TcpStream::connect(addr)?;
        socket.set_nodelay(true)?;
        let mut times = Vec::new();
        let mut answer = vec![0; 16 << 10];
        while begin.elapsed() < time {
            let start = Instant::now();
            socket.write_all(request.as_bytes())?;
            let mut got = 0;
            while !is_whole(&answer[..got]) {
                match socket.read(&mut answer[got..])? {
                    0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                    n => got += n,
                }
            }
            times.push(start.elapsed().as_secs_f64());
        }
        Ok(times)
    };
    let mut all = Samples::default();
    std::thread::scope(|s| {
        let clients: Vec<_> = (0..CONNECTIONS).map(|_| s.spawn(client)).collect();
        for times in clients.into_iter().map(|c| c.join().expect("a client does not panic")) {
            all.0.extend(times?);
        }
        Result::Ok(())
    })?;
    let rate = all.0.len() as f64 / begin.elapsed().as_secs_f64();
    Ok(Load { rate, p50: all.quantile(0.5), p99: all.quantile(0.99) })
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
    /// `serve` with its module proxy, in front of the tree `upstream`.
    fn start(cache: &Path, upstream: &Path) -> Result<Self> {
        let (addr, plugin) = (free_address()?, free_address()?);
        let child = Command::new(PLUGIN)
            .args(["serve", "--modproxy", "--mod-ttl=1h", "--mod-verify=off", &format!("--plugin={}", plugin.port())])
            .args([format!("--http={addr}"), format!("--cache-dir={}", cache.display())])
            .arg(format!("--upstream=file://{}", upstream.display()))
            .env_clear()
            .spawn()?;
        let mut ours = Ours { child, addr };
        wait_for(addr, &mut ours.child)?;
        Ok(ours)
    }

    fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix(field));
        line.and_then(|l| l.trim_matches([':', '\t', ' ', 'k', 'B']).parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    /// Bytes at present.
    fn resident(&self) -> u64 {
        self.status("VmRSS")
    }

    /// Bytes at most so far.
    fn peak(&self) -> u64 {
        self.status("VmHWM")
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// Ends a server politely.
fn stop(child: &mut Child) {
    let _ = rustix::process::kill_process(rustix::process::Pid::from_child(child), rustix::process::Signal::TERM);
    let _ = child.wait();
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Waits until `server` listens.
fn wait_for(addr: SocketAddr, server: &mut Child) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(addr).is_err() {
        if Instant::now() > deadline || server.try_wait()?.is_some() {
            return Err("a server does not listen".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

struct Nginx {
    child: Child,
    addr: SocketAddr,
}

impl Nginx {
    /// Serves `root`; `None` where there is no nginx.
    fn start(dir: &Path, root: &Path) -> Option<Self> {
        let addr = free_address().ok()?;
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
        wait_for(addr, &mut nginx.child).ok()?;
        Some(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // its workers end with it only when asked politely
        stop(&mut self.child);
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
