//! What the program does beside answering: pruning very large directories, getting along without a
//! bucket, checking signatures, settling checkouts.
//!
//! `cargo bench --bench maintenance -- --rows close,prune,job,signatures,settle --entries 1000000 --runs 5 --seconds 5`
//! (those are the defaults; `--against PATH`: beside another build of the program, taking turns)

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use support::args::Args;
use support::client::{Client, get_request, put_request};
use support::crowd::{self, Crowd};
use support::golang::{Cache, Go};
use support::plugin::{self, WATCH};
use support::scratch::Scratch;
use support::table::{self, Bound, Turns, measured, section};
use support::{Result, bodies, turns};

fn main() -> ExitCode {
    support::main(bench)
}

const MIB: f64 = (1 << 20) as f64;

fn bench(args: &Args) -> Result<()> {
    args.check(&["rows", "entries", "runs", "seconds", "against"])?;
    let (entries, runs) = (args.number("entries", 1_000_000)? as u64, args.number("runs", 5)?);
    section(&format!("maintenance, {entries} entries"));
    for rows in args.text("rows", "close,prune,job,signatures,settle").split(',') {
        match rows {
            "close" => close(entries, runs)?,
            "prune" => prune(entries, Duration::from_secs(args.number("seconds", 5)? as u64))?,
            "job" => job(runs)?,
            "signatures" => signatures(runs)?,
            "settle" => settle(runs)?,
            other => return Err(format!("--rows {other}: there are close, prune, job, signatures, settle").into()),
        }
    }
    Ok(())
}

/// From `go`'s close to the end of our stdout, with and without a limit that nothing reaches.
fn close(entries: u64, runs: usize) -> Result<()> {
    let scratch = Scratch::open()?;
    let [mut with, mut without, mut gone] = [const { Turns(vec![], vec![]) }; 3];
    for i in 0..runs {
        for limited in [i % 2 == 0, i % 2 == 1] {
            turns::each(i, || {
                let dir = Crowd::open(&scratch, entries)?.dir;
                let mut flags = vec![format!("--cache-dir={}", dir.display())];
                flags.extend(limited.then(|| "--max-cache-size=1000GB".to_string()));
                let mut client = Client::start(&flags)?;
                client.get(&crowd::action(i as u64))?;
                let body = format!("close {i} {limited}").into_bytes();
                let put = put_request(500_000, &bodies::sha256(&body), &bodies::sha256(&body), &body);
                client.replay(&put, 1)?;
                let [ended, exit] = client.end()?;
                let whose = if turns::is_other() { "the other" } else { "ours" };
                table::progress(&format!("  {whose}, limit {limited}: stdout ends after {ended:.2?}, exit {exit:.2?}"));
                if limited {
                    with.push_time(ended);
                    gone.push_time(exit);
                } else {
                    without.push_time(ended);
                }
                Ok(())
            })?;
        }
    }
    let more: Vec<f64> = with.0.iter().zip(&without.0).map(|(a, b)| (a - b) * 1e3).collect();
    let what = "close to the end of stdout with --max-cache-size, nothing to prune, by without; ratio: ms more";
    measured(what, &with, "ms", &without.show("ms"), Turns(more, vec![]).median(), Bound::Most(10.0));
    measured("— to our exit", &gone, "ms", "", f64::NAN, Bound::Free);
    Ok(())
}

/// The command `prune` while a server answers.
fn prune(entries: u64, time: Duration) -> Result<()> {
    let scratch = Scratch::open()?;
    let [mut alone, mut beside, mut peak, mut took] = [const { Turns(vec![], vec![]) }; 4];
    turns::each(0, || {
        let crowd = Crowd::open(&scratch, entries)?;
        let cache = format!("--cache-dir={}", crowd.dir.display());
        let server = Server::start(&scratch, &cache)?;
        crowd.age()?;
        let (report, count, ending) = (scratch.join("prune.json"), AtomicU64::new(0), AtomicBool::new(false));
        let rate = |work: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
            let (begin, before) = (Instant::now(), count.load(Relaxed));
            work()?;
            Ok((count.load(Relaxed) - before) as f64 / begin.elapsed().as_secs_f64())
        };
        let sleep = || {
            std::thread::sleep(time);
            Ok(())
        };
        std::thread::scope(|scope| -> Result<()> {
            // as many as `go` has in flight, of the entries that stay
            let ask = |seed| server.ask(entries, bodies::Numbers::new(seed), &count, &ending);
            let clients: Vec<_> = (0..2).map(|seed| scope.spawn(move || ask(seed))).collect();
            let mut measure = || -> Result<[f64; 3]> {
                // the first gets find cold directories
                rate(&mut sleep.clone())?;
                let first = rate(&mut sleep.clone())?;
                let during = rate(&mut || {
                    let words = ["plain", turns::program(), "prune", &cache, "--expiry=72h"];
                    let mut command = Command::new(std::env::current_exe()?);
                    command.arg(WATCH).arg(&report).args(words).env_clear().env("HOME", "/nonexistent");
                    let begin = Instant::now();
                    let out = command.output()?;
                    took.push_time(begin.elapsed());
                    table::progress(&format!("  prune said: {}", String::from_utf8_lossy(&out.stdout).trim_end()));
                    if out.status.success() { Ok(()) } else { Err(format!("prune: {}", out.status).into()) }
                })?;
                Ok([first, during, rate(&mut sleep.clone())?])
            };
            let figures = measure();
            ending.store(true, Relaxed);
            clients
                .into_iter()
                .try_for_each(|c| Ok::<_, Box<dyn std::error::Error>>(c.join().map_err(|_| "a client panicked")??))?;
            let [first, during, last] = figures?;
            alone.push((first + last) / 2.0);
            beside.push(during);
            Ok(())
        })?;
        let report = plugin::read_report(&report)?;
        report.stderr.lines().for_each(|line| table::progress(&format!("  prune said: {line}")));
        peak.push(report.peak_memory as f64);
        let id = support::sigv4::hex(&crowd::action(0));
        if crowd.dir.join("action").join(&id[..2]).join(id).exists() {
            return Err("prune did not remove an entry of 40 days".into());
        }
        Ok(())
    })?;
    let what = format!("prune of {} of {entries} entries by age; ratio: MiB of memory at most", entries / 2);
    measured(&what, &took, "s", "", peak.median() / MIB, Bound::Most(64.0));
    measured("— memory at most", &peak, "MiB", "", f64::NAN, Bound::Free);
    let what = "— gets per second of two clients of `serve` meanwhile, by before and after";
    measured(what, &beside, "/s", &alone.show("/s"), beside.by(&alone).median(), Bound::Least(0.8));
    Ok(())
}

/// A running `serve`.
struct Server {
    child: Child,
    socket: std::path::PathBuf,
}

impl Server {
    /// Starts it on a cache directory; it prunes nothing by itself.
    fn start(scratch: &Scratch, cache: &str) -> Result<Self> {
        let socket = scratch.fresh("serve")?.join("socket");
        let mut command = Command::new(turns::program());
        command.args(["serve", cache, "--expiry=0s"]).arg("--plugin").arg(&socket);
        let child = command.env_clear().env("HOME", "/nonexistent").stdin(Stdio::null()).spawn()?;
        let server = Server { child, socket };
        let begin = Instant::now();
        while UnixStream::connect(&server.socket).is_err() {
            if begin.elapsed() > Duration::from_secs(30) {
                return Err("serve does not listen".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    /// Gets one entry after the other, every one a hit, until `ending`.
    fn ask(
        &self,
        entries: u64,
        mut numbers: bodies::Numbers,
        count: &AtomicU64,
        ending: &AtomicBool,
    ) -> std::io::Result<()> {
        let mut to = UnixStream::connect(&self.socket)?;
        let mut from = BufReader::new(to.try_clone()?);
        let mut line = String::new();
        from.read_line(&mut line)?;
        for id in 1.. {
            if ending.load(Relaxed) {
                break;
            }
            // an odd one, which does not age
            let n = (numbers.next() >> 16) % (entries / 2) * 2 + 1;
            to.write_all(&get_request(id, &crowd::action(n)))?;
            line.clear();
            from.read_line(&mut line)?;
            if !line.contains("DiskPath") {
                return Err(std::io::Error::other(format!("entry {n}, used today: {line}")));
            }
            count.fetch_add(1, Relaxed);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Five `go` commands, one after the other, whose bucket does not work.
fn job(runs: usize) -> Result<()> {
    const COMMANDS: [&str; 5] = ["errors", "bufio", "net/url", "text/template", "go/parser"];
    let go = Go::find()?;
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let silent_port = silent.local_addr()?.port();
    // whoever connects is held and never answered
    std::thread::spawn(move || {
        let mut held = Vec::new();
        held.extend(silent.incoming().flatten());
    });
    // nobody listens there once it is dropped
    let refusing_port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let commands = |bucket: &[String]| -> Result<Vec<Duration>> {
        let dir = go.scratch.fresh(turns::own("job"))?;
        let mut flags = vec![format!("--cache-dir={}", dir.display())];
        flags.extend_from_slice(bucket);
        COMMANDS.iter().map(|package| Ok(go.build(&[package], &Cache::Plugin(&flags))?.wall)).collect()
    };
    for (what, port, bound) in [
        ("accepts and never answers", silent_port, Bound::Most(3.0)),
        // nothing, but for the machine's noise
        ("refuses connections", refusing_port, Bound::Most(0.3)),
    ] {
        let [mut with, mut without, mut lost, mut first] = [const { Turns(vec![], vec![]) }; 4];
        for i in 0..runs {
            turns::each(i, || {
                let endpoint = format!("--s3-endpoint-url=http://127.0.0.1:{port}");
                let bucket =
                    ["--bucket=bench".to_string(), "--region=us-east-1".into(), endpoint, "--s3-path-style".into()];
                let plain = commands(&[])?;
                let walls = commands(&bucket)?;
                table::progress(&format!("  {}, {what}: {walls:.2?}, without {plain:.2?}", turns::own("job")));
                let rest = |walls: &[Duration]| walls[1..].iter().sum::<Duration>().as_secs_f64();
                with.push(rest(&walls));
                without.push(rest(&plain));
                lost.push(rest(&walls) - rest(&plain));
                first.push(walls[0].as_secs_f64() - plain[0].as_secs_f64());
                Ok(())
            })?;
        }
        let what = format!("five go commands, a bucket that {what}: the last four; ratio: seconds lost in all");
        measured(&what, &with, "s", &without.show("s"), lost.median(), bound);
        measured("— lost by the first", &first, "s", "", f64::NAN, Bound::Free);
    }
    Ok(())
}

/// What checking a signature costs a get, from a directory bucket.
fn signatures(runs: usize) -> Result<()> {
    const ENTRIES: usize = 2000;
    let scratch = Scratch::open()?;
    let key = turns::key()?;
    let (sign, verify) =
        (format!("--signing-key-file={}", key.display()), format!("--verify-key-file={}.pub", key.display()));
    let start = |cache: &str, name: &str, key: Option<&String>| {
        let mut flags = vec![format!("--cache-dir={}", scratch.fresh(cache)?.display()), "--no-readahead".into()];
        flags.push(format!("--bucket=file://{}", scratch.join(name).display()));
        flags.extend(key.cloned());
        Client::start(&flags)
    };
    let ids: Vec<[u8; 32]> = (0..ENTRIES).map(|n| bodies::sha256(format!("signed {n}").as_bytes())).collect();
    let mut requests = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        let body = bodies::body(n as u64, 2000);
        requests.extend(put_request(n as u64 + 1, id, &bodies::sha256(&body), &body));
    }
    for (name, key) in [("unsigned", None), ("signed", Some(&sign))] {
        scratch.fresh(name)?;
        let mut client = start("writer", name, key)?;
        client.replay(&requests, ENTRIES)?;
        client.close()?;
    }
    let [mut signed, mut unsigned] = [const { Turns(vec![], vec![]) }; 2];
    for i in 0..=runs {
        for (name, key, times) in [("unsigned", None, &mut unsigned), ("signed", Some(&verify), &mut signed)] {
            let mut client = start("reader", name, key)?;
            let begin = Instant::now();
            for id in &ids {
                if client.get(id)?["DiskPath"].is_null() {
                    return Err(format!("{name}: an entry of the bucket is a miss").into());
                }
            }
            if i > 0 {
                times.push(begin.elapsed().as_secs_f64() / ENTRIES as f64);
            }
            client.close()?;
        }
    }
    let more = signed.0.iter().zip(&unsigned.0).map(|(a, b)| (a - b) * 1e6).collect();
    let what = "a get from a directory bucket with --verify-key-file, by without; ratio: µs more";
    measured(what, &signed, "µs", &unsigned.show("µs"), Turns(more, vec![]).median(), Bound::Most(100.0));
    Ok(())
}

/// `settle` on what was just checked out, and once more.
fn settle(runs: usize) -> Result<()> {
    const FILES: u64 = 50_000;
    let dir = Scratch::open()?.fresh("settle")?;
    let git = |args: &[&str]| -> Result<()> {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=b", "-c", "user.email=b", "-c", "gc.auto=0"]).args(args).current_dir(&dir);
        if git.status()?.success() { Ok(()) } else { Err(format!("git {args:?} failed").into()) }
    };
    let files = || (0..FILES).map(|n| dir.join(format!("p{}/q{}", n / 500, n / 25)).join(format!("f{n}.go")));
    table::progress("  writing 50,000 files of 200 MB");
    let mut sizes = bodies::Numbers::new(1);
    for (n, file) in files().enumerate() {
        std::fs::create_dir_all(file.parent().ok_or("no folder")?)?;
        std::fs::write(file, bodies::body(n as u64, (sizes.share() * 8000.0) as usize + 1))?;
    }
    git(&["init", "--quiet"])?;
    git(&["add", "--all"])?;
    git(&["commit", "--quiet", "--message=all"])?;
    let [mut first, mut second] = [const { Turns(vec![], vec![]) }; 2];
    for i in 0..runs {
        turns::each(i, || {
            let now = std::time::SystemTime::now();
            files().try_for_each(|file| std::fs::File::open(file)?.set_modified(now))?;
            git(&["update-index", "-q", "--refresh"])?;
            for times in [&mut first, &mut second] {
                let begin = Instant::now();
                let out = Command::new(turns::program()).arg("settle").current_dir(&dir).output()?;
                times.push_time(begin.elapsed());
                table::progress(&format!(
                    "  {:.2?}: {}",
                    begin.elapsed(),
                    String::from_utf8_lossy(&out.stdout).trim_end()
                ));
                if !out.status.success() {
                    return Err(String::from_utf8_lossy(&out.stderr).into());
                }
            }
            Ok(())
        })?;
    }
    measured(
        "settle 50,000 files of 200 MB, git's index included; ratio: s",
        &first,
        "s",
        "",
        first.median(),
        Bound::Most(2.5),
    );
    measured("— again, with nothing to do; ratio: s", &second, "s", "", second.median(), Bound::Most(0.5));
    Ok(())
}
