//! The cache directory, beside the same files written and read straight with `std::fs`: a put is
//! hashed and written to a temporary file, output and action, and both are renamed; a get reads the
//! action and asks for the output's size.
//!
//! `cargo bench --bench disk -- --files 2000 --runs 5`

mod support;

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use std::io::Write;

use go_cache_plugin::cache::disk::DiskCache;
use go_cache_plugin::cache::id::{ActionId, OutputId};
use support::args::Args;
use support::files::{get, put};
use support::scratch::Scratch;
use support::table::{Bound, Samples, row, section};
use support::{Result, bodies};

fn main() -> ExitCode {
    support::main(bench)
}

fn bench(args: &Args) -> Result<()> {
    args.check(&["files", "runs"])?;
    let (files, runs) = (args.number("files", 2000)?, args.number("runs", 5)?);
    section("disk: one thread, as a library");
    for (name, size, files) in
        [("0 B", 0, files), ("1 KiB", 1 << 10, files), ("64 KiB", 64 << 10, files), ("4 MiB", 4 << 20, files / 50)]
    {
        sized(name, size, files.max(1), runs)?;
    }
    Ok(())
}

struct Entry {
    action: [u8; 32],
    output: [u8; 32],
    body: Vec<u8>,
}

fn sized(name: &str, size: usize, files: usize, runs: usize) -> Result<()> {
    let scratch = Scratch::open()?;
    let entries: Vec<Entry> = (0..files as u64)
        .map(|i| {
            let body = bodies::body(i, size);
            Entry { action: bodies::sha256(&i.to_le_bytes()), output: bodies::sha256(&body), body }
        })
        .collect();
    let mut times: [Samples; 4] = Default::default();
    for i in 0..=runs {
        let dir = scratch.fresh("disk-ours")?;
        let cache = DiskCache::open(&dir, std::time::Duration::from_secs(3600))?;
        let our_put = each(&entries, |e| {
            let (action, output) = ids(e)?;
            let mut writer = cache.write_output(output, e.body.len() as u64)?;
            writer.write_all(&e.body)?;
            let mut written = writer.commit()?;
            cache.link(&action, &written, SystemTime::now())?;
            Ok(cache.ensure(&mut written)?)
        })?;
        let our_get = each(&entries, |e| cache.get(&ids(e)?.0)?.map(drop).ok_or_else(|| "a put was lost".into()))?;
        let dir = scratch.fresh("disk-straight")?;
        let straight_put = each(&entries, |e| Ok(put(&dir, &e.action, &e.output, &e.body)?))?;
        let straight_get = each(&entries, |e| Ok(get(&dir, &e.action)?))?;
        if i > 0 {
            times.iter_mut().zip([our_put, straight_put, our_get, straight_get]).for_each(|(s, t)| s.push_time(t));
        }
        rustix::fs::sync();
    }
    let show = |s: &Samples| s.map(|t| t / files as f64).show("µs");
    for (what, ours, base) in [("put", &times[0], &times[1]), ("get", &times[2], &times[3])] {
        row(&format!("{what} of {name}"), &show(ours), &show(base), ours.by(base).median(), Bound::Free);
    }
    Ok(())
}

fn ids(entry: &Entry) -> Result<(ActionId, OutputId)> {
    Ok((ActionId::new(&entry.action).ok_or("no action id")?, OutputId(entry.output)))
}

fn each(entries: &[Entry], mut work: impl FnMut(&Entry) -> Result<()>) -> Result<Duration> {
    let begin = Instant::now();
    entries.iter().try_for_each(&mut work)?;
    Ok(begin.elapsed())
}
