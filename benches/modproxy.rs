//! The module proxy beside its baselines: `go mod download` against GOPROXY=file://, files against
//! nginx, and with a thousand connections that say nothing or little; a graph of modules from an upstream and
//! a sum database that are 20 ms away, by way of us and straight, and when they are gone; what need not wait,
//! beside requests that hang.
//!
//! `cargo bench --bench modproxy -- --modules 300 --rounds 5 --seconds 5 [--only crowd|far|hung|nginx]`
//!
//! Install nginx first (Debian: nginx-light); it is looked for at /usr/sbin/nginx and on PATH. The
//! modules are made up (incompressible, 60 MB), unless BENCH_GOPROXY_DIR names a tree in the layout
//! of GOPROXY=file:// (`$GOMODCACHE/cache/download`) and BENCH_GOMOD a go.mod that wants modules of
//! it. Baseline and ours take turns; ratios are taken within a round. `--against PATH`: what stands beside nginx
//! takes turns with another build of the program, too.

mod support;
#[allow(dead_code)] // the tests use more of it
#[path = "../tests/it/support/upstream.rs"]
mod upstream;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::args::Args;
use support::scratch::Scratch;
use support::table::{self, Bound, Samples, Turns, measured, paired, progress, row, section};
use support::{PLUGIN, Result, turns};

const CONNECTIONS: usize = 32;
const IDLE: usize = 1000;
const BIG: usize = 100 << 20;
const MIB: f64 = (1 << 20) as f64;

fn main() -> ExitCode {
    support::main(bench)
}

fn bench(args: &Args) -> Result<()> {
    args.check(&["modules", "rounds", "seconds", "only", "against"])?;
    turns::choose(args)?;
    let (modules, rounds) = (args.number("modules", 300)?, args.number("rounds", 5)?);
    let time = Duration::from_secs(args.number("seconds", 5)? as u64);
    let (only, scratch) = (args.text("only", ""), Scratch::open()?);
    let wanted = |part: &str| only.is_empty() || only == part;
    let dir = scratch.fresh("modproxy")?;
    progress("making up modules");
    let (tree, go_mod) = make_up(&dir.join("tree"), modules, false);
    let given = std::env::var("BENCH_GOPROXY_DIR").ok().zip(std::env::var("BENCH_GOMOD").ok());
    let (files, go_mod) = match given {
        Some((dir, file)) => (PathBuf::from(dir), fs::read_to_string(file)?),
        None => (tree.clone(), go_mod),
    };
    section(&format!("module proxy: {modules} modules"));
    if wanted("crowd") {
        downloads(&dir, &files, &go_mod, rounds)?;
    }
    if wanted("far") {
        far(&dir, modules.max(400), rounds)?;
    }
    if wanted("hung") {
        hung(&dir, &tree, rounds, time)?;
    }
    if !wanted("nginx") {
        return Ok(());
    }

    let nginx = Nginx::start(&dir, &tree).ok_or("nginx cannot be started; it is the baseline of these figures")?;
    let mut servers = Turns::default();
    turns::each(0, || {
        servers.push(Ours::start(&dir.join(turns::own("cache")), &by_file(&tree), None)?);
        Ok(())
    })?;
    zip(&servers, &nginx, rounds)?;
    small(&servers, &nginx, rounds, time)?;
    table::worst();
    Ok(())
}

/// Modules of 20 files each, each of which requires two others in a `graph`, and a big one; where they are, and
/// a go.mod that wants the former.
fn make_up(root: &Path, modules: usize, graph: bool) -> (PathBuf, String) {
    let mut tree = upstream::Tree::new(root.into());
    let mut random = Random(1);
    let mut go_mod = "module example.com/bench\n\ngo 1.21\n\nrequire (\n".to_string();
    for n in 0..modules {
        let name = format!("example.com/Mod{n:03}/pkg");
        let files: Vec<(String, Vec<u8>)> =
            (0..20).map(|f| (format!("dir{}/file{f}.go", f % 4), random.bytes(1 << (9 + f % 6)))).collect();
        let mut files: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (n.as_str(), &b[..])).collect();
        let other = |n: usize| format!("require example.com/Mod{n:03}/pkg v1.0.0\n");
        let requires = format!("module {name}\n\ngo 1.21\n\n{}{}", other(n / 2), other(n / 3));
        if graph && n > 1 {
            files.push(("go.mod", requires.as_bytes()));
        }
        tree.add(&name, "v1.0.0", &files);
        go_mod += &format!("\t{name} v1.0.0\n");
    }
    tree.add("example.com/big", "v1.0.0", &[("blob", &random.bytes(BIG))]);
    (tree.root.clone(), go_mod + ")\n")
}

fn downloads(dir: &Path, files: &Path, go_mod: &str, rounds: usize) -> Result<()> {
    let server = Ours::start(&dir.join("cache-modules"), &by_file(files), None)?;
    let download = |proxy: &str| download(dir, go_mod, proxy, "off");
    let (mut base, mut ours, mut alone, mut crowded, mut dribbled) = Default::default();
    for i in 0..=rounds {
        let straight = download(&by_file(files))?;
        // the first also fills our cache
        let warm = download(&server.url())?;
        let idle: Vec<TcpStream> =
            (0..IDLE).map(|_| TcpStream::connect(server.addr)).collect::<std::io::Result<_>>()?;
        let among = download(&server.url())?;
        drop(idle);
        let after = download(&server.url())?;
        let stop = AtomicBool::new(false);
        let beside = std::thread::scope(|s| {
            s.spawn(|| dribble(server.addr, &stop));
            std::thread::sleep(Duration::from_secs(2));
            let beside = download(&server.url());
            stop.store(true, Ordering::SeqCst);
            beside
        })?;
        if i > 0 {
            let push = |s: &mut Samples, t| s.push_time(t);
            push(&mut base, straight);
            push(&mut ours, warm);
            push(&mut crowded, among);
            push(&mut alone, after);
            push(&mut dribbled, beside);
        }
    }
    paired("go mod download from warm disk, by GOPROXY=file://", &ours, &base, Bound::Most(1.3));
    paired(&format!("the same among {IDLE} idle connections, by without"), &crowded, &alone, Bound::Most(1.2));
    paired(&format!("the same beside {IDLE} dribbling clients, by without"), &dribbled, &alone, Bound::Most(1.2));
    let peak = server.peak() as f64 / MIB;
    row("— peak resident memory, MiB", &format!("{peak:.1}"), "", peak, Bound::Most(64.0));
    Ok(())
}

/// Clients that send a byte of a head each second, and come again when they are sent away.
fn dribble(addr: SocketAddr, stop: &AtomicBool) {
    let mut crowd: Vec<Option<TcpStream>> = (0..IDLE).map(|_| None).collect();
    while !stop.load(Ordering::SeqCst) {
        let begun = Instant::now();
        for client in &mut crowd {
            if client.as_mut().is_none_or(|socket| socket.write_all(b"x").is_err()) {
                *client = TcpStream::connect(addr).ok();
                client.iter_mut().for_each(|socket| drop(socket.write_all(b"GET / HTTP/1.1\r\nA: ")));
            }
        }
        std::thread::sleep(Duration::from_secs(1).saturating_sub(begun.elapsed()));
    }
}

/// A graph of modules from an upstream and a sum database that are 20 ms away: by way of an empty cache, and
/// straight; then with both gone, by GOPROXY=file:// of what was exported.
fn far(dir: &Path, modules: usize, rounds: usize) -> Result<()> {
    let (tree, go_mod) = make_up(&dir.join("graph"), modules, true);
    let (upstream, sumdb) = (upstream::Upstream::start(&tree), upstream::SumDb::start(&tree));
    let (modules_far, sums_far) = (Far::start(upstream.addr)?, Far::start(sumdb.url[7..].parse()?)?);
    let straight = format!("http://{}", modules_far.addr);
    // with an address `go` goes there itself, and without one by way of its proxy
    let (database, by_proxy) = (format!("{} http://{}", sumdb.key, sums_far.addr), sumdb.key.as_str());
    let verify = format!("{}=http://{}", sumdb.key, sums_far.addr);
    let (mut base, mut ours, mut file, mut kept) = Default::default();
    let cache = dir.join("cache-far");
    for i in 0..=rounds {
        let _ = fs::remove_dir_all(&cache);
        let server = Ours::start(&cache, &straight, Some(&verify))?;
        let times = (download(dir, &go_mod, &straight, &database)?, download(dir, &go_mod, &server.url(), by_proxy)?);
        if i > 0 {
            Samples::push_time(&mut base, times.0);
            Samples::push_time(&mut ours, times.1);
        }
    }
    let what = format!("go mod download of a graph of {modules} through an empty cache, by straight, 20 ms away");
    paired(&what, &ours, &base, Bound::Most(1.05));

    let (archive, unpacked) = (dir.join("far.tar.zst"), dir.join("far"));
    fs::create_dir_all(&unpacked)?;
    let mut export = Command::new(PLUGIN);
    export.args(["mod", "export", &format!("--cache-dir={}", cache.display()), &format!("--upstream={straight}")]);
    let exported = export_to(export.arg(format!("--sumdb={verify}")).arg(&archive), &archive, &unpacked)?;
    let server = Ours::start(&cache, &straight, Some(&verify))?;
    // it has asked for what it asks for once
    download(dir, &go_mod, &server.url(), by_proxy)?;
    [&modules_far, &sums_far].iter().for_each(|far| far.go_away());
    for i in 0..=rounds {
        let times = (download(dir, &go_mod, &exported, by_proxy)?, download(dir, &go_mod, &server.url(), by_proxy)?);
        if i > 0 {
            Samples::push_time(&mut file, times.0);
            Samples::push_time(&mut kept, times.1);
        }
    }
    paired("— the same with both gone, by GOPROXY=file:// of an export", &kept, &file, Bound::Most(1.3));
    let out = modules_far.met_since() + sums_far.met_since();
    row("— requests out meanwhile", &out.to_string(), "", out as f64, Bound::Most(0.0));
    Ok(())
}

/// Exports, and unpacks that; the GOPROXY of what is there.
fn export_to(export: &mut Command, archive: &Path, to: &Path) -> Result<String> {
    let unpacked = export.status()?.success()
        && Command::new("tar").arg("--zstd").arg("-xf").arg(archive).arg("-C").arg(to).status()?.success();
    if unpacked { Ok(by_file(&to.join("cache/download"))) } else { Err("what is kept cannot be exported".into()) }
}

/// A way of 10 ms to a server, and as long back.
struct Far {
    addr: SocketAddr,
    /// How many came once there was nobody any more.
    late: Arc<AtomicUsize>,
    gone: Arc<AtomicBool>,
}

impl Far {
    fn start(to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let far = Far { addr: listener.local_addr()?, late: Arc::default(), gone: Arc::default() };
        let (late, gone) = (far.late.clone(), far.gone.clone());
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if gone.load(Ordering::SeqCst) {
                    late.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                let (gone, late) = (gone.clone(), late.clone());
                std::thread::spawn(move || -> std::io::Result<()> {
                    std::thread::sleep(2 * WAY);
                    let far = TcpStream::connect(to)?;
                    let asked = Some((gone, late));
                    let (there, back) = ((near.try_clone()?, far.try_clone()?), (far, near));
                    std::thread::spawn(move || carry(there.0, there.1, asked));
                    carry(back.0, back.1, None);
                    Ok(())
                });
            }
        });
        Ok(far)
    }

    fn go_away(&self) {
        self.gone.store(true, Ordering::SeqCst);
    }

    fn met_since(&self) -> usize {
        self.late.load(Ordering::SeqCst)
    }
}

/// Time one way to what is far.
const WAY: Duration = Duration::from_millis(10);

/// What counts where nobody should come any more.
type Watched = Option<(Arc<AtomicBool>, Arc<AtomicUsize>)>;

/// Carries bytes one way, late.
fn carry(mut from: TcpStream, mut to: TcpStream, watched: Watched) {
    let (queue, due) = std::sync::mpsc::channel::<(Instant, Vec<u8>)>();
    let _ = to.set_nodelay(true);
    std::thread::spawn(move || {
        for (at, bytes) in due {
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let mut piece = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut piece) {
        if let Some((gone, late)) = &watched
            && gone.load(Ordering::SeqCst)
        {
            late.fetch_add(1, Ordering::SeqCst);
            return;
        }
        if queue.send((Instant::now() + WAY, piece[..n].to_vec())).is_err() {
            return;
        }
    }
}

/// What is kept, and health, beside requests that hang upstream, by idle.
fn hung(dir: &Path, tree: &Path, rounds: usize, time: Duration) -> Result<()> {
    const HUNG: usize = 64;
    let (cache, name) = (dir.join("cache-hung"), "/mod/example.com/!mod001/pkg/@v/v1.0.0.info");
    fetch(Ours::start(&cache, &by_file(tree), None)?.addr, name)?;
    let stuck = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let server = Ours::start(&cache, &format!("http://{}", stuck.local_addr()?), None)?;
    let (mut idle, mut beside): ([Samples; 2], [Samples; 2]) = Default::default();
    let paths = [name, "/healthz"];
    let each = time / (4 * rounds as u32);
    for _ in 0..rounds {
        for (samples, path) in idle.iter_mut().zip(paths) {
            samples.push(hammer(server.addr, path, each)?.p99);
        }
        let clients = (0..HUNG).map(|n| {
            let mut socket = TcpStream::connect(server.addr)?;
            write!(socket, "GET /mod/hung.example/m{n}/@v/list HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
            Ok(socket)
        });
        let clients = clients.collect::<std::io::Result<Vec<_>>>()?;
        // as many at a time as one upstream is asked
        let held: Vec<_> = (0..HUNG / 2).map(|_| stuck.accept()).collect::<std::io::Result<_>>()?;
        for (samples, path) in beside.iter_mut().zip(paths) {
            samples.push(hammer(server.addr, path, each)?.p99);
        }
        drop((clients, held));
        // those that waited for their turn come now, and are sent away, too
        stuck.set_nonblocking(true)?;
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            drop(stuck.accept());
            std::thread::sleep(Duration::from_millis(1));
        }
        stuck.set_nonblocking(false)?;
    }
    for ((idle, beside), what) in idle.iter().zip(&beside).zip(["a kept .info", "/healthz"]) {
        let (us, base, ratio) = (beside.show("µs"), idle.show("µs"), beside.by(idle).median());
        row(&format!("{what} beside {HUNG} requests that hang, p99, by idle"), &us, &base, ratio, Bound::Most(1.2));
        row("— ms", "", "", beside.median() * 1e3, Bound::Most(50.0));
    }
    Ok(())
}

/// The GOPROXY of a tree.
fn by_file(tree: &Path) -> String {
    format!("file://{}", tree.display())
}

/// The server of the program whose turn it is.
fn server(servers: &Turns<Ours>) -> &Ours {
    let of_one = if turns::is_other() { &servers.1 } else { &servers.0 };
    &of_one[0]
}

fn zip(servers: &Turns<Ours>, nginx: &Nginx, rounds: usize) -> Result<()> {
    let big = "example.com/big/@v/v1.0.0.zip";
    for round in 0..3 {
        turns::each(round, || fetch(server(servers).addr, &format!("/mod/{big}")).map(drop))?;
        fetch(nginx.addr, &format!("/{big}"))?;
    }
    let ours = server(servers);
    let before = ours.resident();
    let speed = |t: Duration| BIG as f64 / t.as_secs_f64();
    let (mut us, mut base) = (Samples::default(), Samples::default());
    for round in 0..rounds {
        turns::each(round, || {
            base.push(speed(fetch(nginx.addr, &format!("/{big}"))?));
            us.push(speed(fetch(server(servers).addr, &format!("/mod/{big}"))?));
            Ok(())
        })?;
    }
    let ratio = us.by(&base).median();
    measured("cached 100 MB zip, one client, by nginx", &us, "MB/s", &base.show("MB/s"), ratio, Bound::Least(0.5));
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

fn small(servers: &Turns<Ours>, nginx: &Nginx, rounds: usize, time: Duration) -> Result<()> {
    for file in ["v1.0.0.info", "v1.0.0.mod"] {
        let path = format!("example.com/!mod001/pkg/@v/{file}");
        let mut loads: [[Samples; 3]; 2] = Default::default();
        turns::each(0, || fetch(server(servers).addr, &format!("/mod/{path}")).map(drop))?;
        for round in 0..rounds {
            turns::each(round, || {
                let base = hammer(nginx.addr, &format!("/{path}"), time / rounds as u32)?;
                let us = hammer(server(servers).addr, &format!("/mod/{path}"), time / rounds as u32)?;
                for (to, from) in loads.iter_mut().zip([base, us]) {
                    to.iter_mut().zip([from.rate, from.p50, from.p99]).for_each(|(s, v)| s.push(v));
                }
                Ok(())
            })?;
        }
        let [base, us] = &loads;
        let figure = |what: String, i: usize, unit: &str, bound| {
            measured(&what, &us[i], unit, &base[i].show(unit), us[i].by(&base[i]).median(), bound);
        };
        let what = format!("cached .{}, {CONNECTIONS} keep-alive connections, requests, by nginx", &file[7..]);
        figure(what, 0, "/s", Bound::Least(0.3));
        figure("— p50".into(), 1, "µs", Bound::Free);
        figure("— p99".into(), 2, "µs", Bound::Most(5.0));
    }
    Ok(())
}

/// `go mod download` with a fresh module cache.
fn download(dir: &Path, go_mod: &str, proxy: &str, sumdb: &str) -> Result<Duration> {
    let work = dir.join("work");
    fs::create_dir_all(&work)?;
    fs::write(work.join("go.mod"), go_mod)?;
    let begin = Instant::now();
    let out = Command::new("go")
        .args(["mod", "download", "all"])
        .current_dir(&work)
        .envs([("GOPROXY", proxy), ("GOSUMDB", sumdb), ("GOFLAGS", "-mod=mod -modcacherw"), ("GOTOOLCHAIN", "local")])
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
    /// `serve` with its module proxy, in front of `upstream`, and 4,096 files to open. It asks `sumdb`, or verifies
    /// nothing.
    fn start(cache: &Path, upstream: &str, sumdb: Option<&str>) -> Result<Self> {
        let (addr, plugin) = (free_address()?, free_address()?);
        let child = Command::new("/bin/sh")
            .args(["-c", "ulimit -n 4096 && exec \"$0\" \"$@\"", turns::program()])
            .args(["serve", "--modproxy", "--mod-ttl=1h", &format!("--plugin={}", plugin.port())])
            .args([format!("--http={addr}"), format!("--cache-dir={}", cache.display())])
            .arg(format!("--upstream={upstream}"))
            .args(sumdb.map(|sumdb| format!("--sumdb={sumdb}")))
            .env_clear()
            // no flag: there were versions that verified nothing and did not know it
            .env("GOCACHE_MOD_VERIFY", if sumdb.is_some() { "on" } else { "off" })
            .spawn()?;
        let mut ours = Ours { child, addr };
        wait_for(addr, &mut ours.child)?;
        Ok(ours)
    }

    fn url(&self) -> String {
        format!("http://{}/mod", self.addr)
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
