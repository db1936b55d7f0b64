//! Running the program under test: as `go` starts it, watched by a process between the two that
//! measures it, and by hand over pipes.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use memchr::memmem;
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

use super::{Result, table};

/// The hidden argument that makes a bench the watcher: report file, `tap` or `plain`, program, arguments.
pub const WATCH: &str = "--watch-plugin";

/// How the watcher stands between `go` and the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// The program has the pipes of `go` itself.
    Plain,
    /// Requests pass through the watcher, which notes when puts and the close went by. Costs some
    /// CPU, which counts against the program.
    Tap,
}

/// What the watcher saw.
#[derive(Debug)]
pub struct Report {
    /// User and system time, seconds.
    pub cpu: f64,
    /// Peak resident memory, bytes.
    pub peak_memory: u64,
    /// With [`Watch::Tap`]: from the last put to the program's exit.
    pub after_last_put: Option<Duration>,
    /// With [`Watch::Tap`]: from the close to the program's exit.
    pub after_close: Option<Duration>,
    /// What `--metrics` printed.
    pub metrics: Value,
    /// All of stderr.
    pub stderr: String,
}

/// CPU seconds of all processes that this one started, directly or not, and that have been waited for.
pub fn children_cpu() -> f64 {
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or(0.0, |u| {
        [u.user_time(), u.system_time()].iter().map(|t| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6).sum()
    })
}

/// The watcher's main function.
pub fn watch(argv: &[String]) -> ExitCode {
    let [report, mode, program, args @ ..] = argv else { return ExitCode::from(2) };
    match run(Path::new(report), mode == "tap", program, args) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            table::progress(&format!("{program}: {e}"));
            ExitCode::FAILURE
        }
    }
}

fn run(report: &Path, tap: bool, program: &str, args: &[String]) -> io::Result<u8> {
    let stderr = File::create(report.with_extension("stderr"))?;
    let stdin = if tap { Stdio::piped() } else { Stdio::inherit() };
    let mut child = Command::new(program).args(args).stdin(stdin).stderr(stderr).spawn()?;
    let (mut put, mut close) = (0, 0);
    if let Some(mut to) = child.stdin.take() {
        (put, close) = relay(&mut io::stdin().lock(), &mut to)?;
    }
    let status = child.wait()?;
    let exit = now();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let since = |t: u64| (t > 0).then(|| exit - t);
    // kilobytes on Linux
    let peak = usage.max_rss() * 1024;
    let line = json!({"cpu": children_cpu(), "peak": peak, "after_put": since(put), "after_close": since(close)});
    fs::write(report, line.to_string())?;
    Ok(status.code().unwrap_or(1) as u8)
}

/// Copies all of `from`, and tells when the last put and the close passed.
fn relay(from: &mut impl Read, to: &mut impl Write) -> io::Result<(u64, u64)> {
    const OVERLAP: usize = 32;
    let put_finder = memmem::Finder::new(br#""Command":"put""#);
    let close_finder = memmem::Finder::new(br#""Command":"close""#);
    let mut buf = vec![0; OVERLAP + (64 << 10)];
    let (mut put, mut close) = (0, 0);
    loop {
        let n = from.read(&mut buf[OVERLAP..])?;
        if n == 0 {
            return Ok((put, close));
        }
        to.write_all(&buf[OVERLAP..OVERLAP + n])?;
        let seen = &buf[..OVERLAP + n];
        if put_finder.find(seen).is_some() {
            put = now();
        }
        if close_finder.find(seen).is_some() {
            close = now();
        }
        buf.copy_within(n..n + OVERLAP, 0);
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// Reads what the watcher wrote to `report`.
pub fn read_report(report: &Path) -> Result<Report> {
    let v: Value = serde_json::from_slice(&fs::read(report)?)?;
    let stderr = fs::read_to_string(report.with_extension("stderr"))?;
    Ok(Report {
        cpu: v["cpu"].as_f64().unwrap_or(0.0),
        peak_memory: v["peak"].as_u64().unwrap_or(0),
        after_last_put: v["after_put"].as_u64().map(Duration::from_nanos),
        after_close: v["after_close"].as_u64().map(Duration::from_nanos),
        metrics: metrics_in(&stderr),
        stderr,
    })
}

/// The JSON object that `--metrics` printed among other lines.
fn metrics_in(stderr: &str) -> Value {
    let starts = stderr.match_indices('{').map(|(i, _)| i).filter(|i| *i == 0 || stderr[..*i].ends_with('\n'));
    let mut found = Value::Null;
    for start in starts {
        let mut values = serde_json::Deserializer::from_str(&stderr[start..]).into_iter::<Value>();
        if let Some(Ok(v)) = values.next() {
            found = v;
        }
    }
    found
}

impl Report {
    /// A counter of `--metrics`, 0 where there is none.
    pub fn metric(&self, group: &str, name: &str) -> f64 {
        self.metrics[group][name].as_f64().unwrap_or(0.0)
    }

    /// What was printed beside the metrics; a healthy run prints nothing.
    pub fn complaints(&self) -> Vec<&str> {
        let prefixes = ["{", "}", " ", "\t"];
        self.stderr.lines().filter(|l| !l.is_empty() && !prefixes.iter().any(|p| l.starts_with(p))).collect()
    }
}
