//! `go build std` through direct mode beside Go's own cache, in pairs; and the program's start.
//!
//! `cargo bench --bench toolchain -- --packages std --runs 20 --cold-runs 1 --starts 50`
//! (`--against PATH`: beside another build of the program, taking turns)

mod support;

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use support::args::Args;
use support::client::Client;
use support::golang::{Cache, Go};
use support::plugin::Watch;
use support::s3::S3;
use support::table::{self, Bound, Samples, measured, paired, row, section};
use support::{Result, memory, turns};

fn main() -> ExitCode {
    support::main(bench)
}

const MIB: f64 = (1 << 20) as f64;

fn bench(args: &Args) -> Result<()> {
    args.check(&["packages", "runs", "cold-runs", "starts", "against"])?;
    let packages: Vec<&str> = args.text("packages", "std").split(',').collect();
    let go = Go::find()?;
    section(&format!("toolchain: go build {}", packages.join(" ")));
    builds(&go, &packages, args.number("runs", 20)?, args.number("cold-runs", 1)?)?;
    start(&go, args.number("starts", 50)?)?;
    let mut size = Samples::default();
    turns::each(0, || {
        size.push(std::fs::metadata(turns::program())?.len() as f64);
        Ok(())
    })?;
    measured("release binary", &size, "MiB", "", f64::NAN, Bound::Free);
    Ok(())
}

fn builds(go: &Go, packages: &[&str], runs: usize, cold_runs: usize) -> Result<()> {
    let native_dir = go.scratch.join("toolchain-native");
    let ours_dir = || go.scratch.join(turns::own("toolchain-ours"));
    let flags = || [format!("--cache-dir={}", ours_dir().display())];
    let native = || go.build(packages, &Cache::Native(&native_dir));

    let (mut ours, mut base) = (Samples::default(), Samples::default());
    for i in 0..cold_runs.max(1) {
        table::progress(&format!("cold build {i}"));
        go.scratch.fresh("toolchain-native")?;
        base.push_time(native()?.wall);
        turns::each(i, || {
            go.scratch.fresh(turns::own("toolchain-ours"))?;
            ours.push_time(go.build(packages, &Cache::Plugin(&flags()))?.wall);
            Ok(())
        })?;
    }
    paired("cold cache", &ours, &base, Bound::Most(1.03));

    let index = go.scratch.join("toolchain-index");
    memory::index(&ours_dir(), &index)?;
    let from_memory = || go.build(packages, &Cache::Memory(&index));
    let (mut ours, mut base, mut least) = (Samples::default(), Samples::default(), Samples::default());
    // the first round warms the page cache
    let timed = |i: usize, samples: &mut Samples, wall: Duration| {
        if i > 0 {
            samples.push_time(wall)
        }
    };
    for i in 0..=runs {
        // taking turns at going first
        for kind in (0..3).map(|k| (k + i) % 3) {
            match kind {
                0 => timed(i, &mut base, native()?.wall),
                1 => turns::each(i, || {
                    timed(i, &mut ours, go.build(packages, &Cache::Plugin(&flags()))?.wall);
                    Ok(())
                })?,
                _ => timed(i, &mut least, from_memory()?.wall),
            }
        }
    }
    paired("warm local cache", &ours, &base, Bound::Most(1.05));
    paired("— a program that answers from memory and looks at no file", &least, &base, Bound::Free);
    paired("— ours by that program", &ours, &least, Bound::Free);

    let (mut cpu, mut all, mut memory) = (Samples::default(), Samples::default(), Samples::default());
    for i in 0..runs {
        turns::each(i, || {
            let b = go.build(packages, &Cache::Watched(&flags(), Watch::Plain))?;
            let report = b.report.ok_or("no report")?;
            all.push(b.cpu);
            cpu.push(report.cpu);
            memory.push(report.peak_memory as f64);
            Ok(())
        })?;
    }
    let share = cpu.sum() / all.sum();
    measured("— our process's CPU by the build's", &cpu, "ms", &all.show("ms"), share, Bound::Most(0.05));
    let most = memory.quantile(1.0) / MIB;
    measured("— peak resident memory, ratio: MiB", &memory, "MiB", "", most, Bound::Most(16.0));
    Ok(())
}

/// From the program's start to its greeting, with a bucket.
fn start(go: &Go, starts: usize) -> Result<()> {
    let mut s3 = S3::start()?;
    turns::each(0, || go.scratch.fresh(turns::own("fresh")).map(drop))?;
    let mut bucket = vec!["--scope=bench".to_string()];
    bucket.extend(s3.flags());
    let (mut greeted, mut bare) = (Samples::default(), Samples::default());
    let mut early = 0;
    for i in 0..=starts {
        turns::each(i, || {
            s3.round_trip(Duration::ZERO)?;
            let mut flags = vec![format!("--cache-dir={}", go.scratch.join(turns::own("fresh")).display())];
            flags.extend_from_slice(&bucket);
            let begin = std::time::Instant::now();
            std::process::Command::new(turns::program()).arg("version").stdout(std::process::Stdio::null()).status()?;
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
            early += usize::from(!turns::is_other() && first > 0 && first < now);
            Ok(())
        })?;
    }
    let (median, late) = (greeted.median() * 1e3, greeted.quantile(0.95) * 1e3);
    let what = "start to greeting, bucket configured, beside `version` start to exit, ms";
    measured(what, &greeted, "ms", &bare.show("ms"), median, Bound::Most(4.0));
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
