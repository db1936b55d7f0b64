//! `go build std` through direct mode beside Go's own cache, in pairs; and the program's start.
//!
//! `cargo bench --bench toolchain -- --packages std --runs 20 --cold-runs 1 --starts 50`

mod support;

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use support::args::Args;
use support::client::Client;
use support::golang::{Cache, Go};
use support::plugin::Watch;
use support::s3::S3;
use support::table::{self, Bound, Samples, paired, row, section};
use support::{PLUGIN, Result, memory};

fn main() -> ExitCode {
    support::main(bench)
}

const MIB: f64 = (1 << 20) as f64;

fn bench(args: &Args) -> Result<()> {
    args.check(&["packages", "runs", "cold-runs", "starts"])?;
    let packages: Vec<&str> = args.text("packages", "std").split(',').collect();
    let go = Go::find()?;
    section(&format!("toolchain: go build {}", packages.join(" ")));
    builds(&go, &packages, args.number("runs", 20)?, args.number("cold-runs", 1)?)?;
    start(&go, args.number("starts", 50)?)?;
    row(
        "release binary, MiB",
        &format!("{:.2}", std::fs::metadata(PLUGIN)?.len() as f64 / MIB),
        "",
        f64::NAN,
        Bound::Free,
    );
    Ok(())
}

fn builds(go: &Go, packages: &[&str], runs: usize, cold_runs: usize) -> Result<()> {
    let (native_dir, ours_dir) = (go.scratch.join("toolchain-native"), go.scratch.join("toolchain-ours"));
    let flags = [format!("--cache-dir={}", ours_dir.display())];
    let native = || go.build(packages, &Cache::Native(&native_dir));

    let (mut ours, mut base) = (Samples::default(), Samples::default());
    for i in 0..cold_runs.max(1) {
        table::progress(&format!("cold build {i}"));
        go.scratch.fresh("toolchain-native")?;
        go.scratch.fresh("toolchain-ours")?;
        base.push_time(native()?.wall);
        ours.push_time(go.build(packages, &Cache::Plugin(&flags))?.wall);
    }
    paired("cold cache", &ours, &base, Bound::Most(1.03));

    let index = go.scratch.join("toolchain-index");
    memory::index(&ours_dir, &index)?;
    let from_memory = || go.build(packages, &Cache::Memory(&index));
    let (mut ours, mut base, mut least) = (Samples::default(), Samples::default(), Samples::default());
    let plain = || go.build(packages, &Cache::Plugin(&flags));
    for i in 0..=runs {
        // taking turns at going first
        let mut walls = [Duration::ZERO; 3];
        for kind in (0..3).map(|k| (k + i) % 3) {
            walls[kind] = match kind {
                0 => native()?.wall,
                1 => plain()?.wall,
                _ => from_memory()?.wall,
            };
        }
        if i > 0 {
            base.push_time(walls[0]);
            ours.push_time(walls[1]);
            least.push_time(walls[2]);
        }
    }
    paired("warm local cache", &ours, &base, Bound::Most(1.05));
    paired("— a program that answers from memory and looks at no file", &least, &base, Bound::Free);
    paired("— ours by that program", &ours, &least, Bound::Free);

    let (mut cpu, mut all, mut memory) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..runs {
        let b = go.build(packages, &Cache::Watched(&flags, Watch::Plain))?;
        let report = b.report.ok_or("no report")?;
        all.push(b.cpu);
        cpu.push(report.cpu);
        memory.push(report.peak_memory as f64 / MIB);
    }
    row(
        "— our process's CPU by the build's",
        &cpu.show("ms"),
        &all.show("ms"),
        cpu.sum() / all.sum(),
        Bound::Most(0.05),
    );
    row("— peak resident memory, MiB", &memory.show("MiB"), "", memory.quantile(1.0), Bound::Most(16.0));
    Ok(())
}

/// From the program's start to its greeting, with a bucket.
fn start(go: &Go, starts: usize) -> Result<()> {
    let mut s3 = S3::start()?;
    let dir = go.scratch.fresh("fresh")?;
    let mut flags = vec![format!("--cache-dir={}", dir.display()), "--scope=bench".to_string()];
    flags.extend(s3.flags());
    let (mut greeted, mut bare) = (Samples::default(), Samples::default());
    let mut early = 0;
    for i in 0..=starts {
        s3.round_trip(Duration::ZERO)?;
        let begin = std::time::Instant::now();
        std::process::Command::new(PLUGIN).arg("version").stdout(std::process::Stdio::null()).status()?;
        let version = begin.elapsed();
        let client = Client::start(&flags)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
        // the first start reads the program from disk
        if i > 0 {
            greeted.push_time(client.greeted);
            bare.push_time(version);
        }
        client.close()?;
        let first = s3.counters()?.get("first_request");
        early += usize::from(first > 0 && first < now);
    }
    let (median, late) = (greeted.median() * 1e3, greeted.quantile(0.95) * 1e3);
    row(
        "start to greeting, bucket configured, beside `version` start to exit, ms",
        &greeted.show("ms"),
        &bare.show("ms"),
        median,
        Bound::Most(4.0),
    );
    row("— 95th percentile, ms", "", "", late, Bound::Free);
    row(
        "— starts with a request to the bucket before the greeting",
        &early.to_string(),
        &starts.to_string(),
        early as f64,
        Bound::Most(0.0),
    );
    Ok(())
}
