//! Real builds from a bucket that is some milliseconds away, beside Go's own warm cache.
//!
//! `cargo bench --bench bucket -- --rtt 0,20,50 --packages std,cmd --runs 3 --slow-runs 1 --cold-runs 1`
//! (those are the defaults). Every round runs each kind of build once, one after another, and
//! ratios are taken within a round. The S3 server runs in a process of its own and shares the CPUs
//! with the build; what it costs is in the table.
//!
//! `--rows tarball` (`build`, `first`, `flight`, `rewritten`, `tarball`; all by default): what to measure. The rows `tarball` have the
//! same bandwidth for both sides, beside builds from Go's own cache, packed by `tar -I zstd`, that
//! is fetched by one request and unpacked while it arrives. `--kubernetes v1.37.0` adds kube-apiserver
//! to them; with its cold builds that takes 25 minutes.
//!
//! `--against PATH`: beside another build of the program, taking turns. `--signed`: the builds from
//! cold and from afar alone, with signatures beside the same without.

mod support;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use support::args::Args;
use support::change::Change;
use support::client::{Client, put_request};
use support::golang::{Cache, Go};
use support::plugin::Watch;
use support::s3::S3;
use support::setup::{Outcome, Setup};
use support::table::{self, Bound, Samples, Turns, measured, paired, row, section};
use support::{Result, bodies, tarball, turns};

fn main() -> ExitCode {
    support::main(bench)
}

/// The round trip of the rows that name none, in ms.
const USUAL: u64 = 20;
/// The round trip that cold builds upload over, in ms.
const COLD: u64 = 50;
/// 1 Gbit/s in bytes.
const GIGABIT: u64 = 125_000_000;
const MIB: f64 = (1 << 20) as f64;
const SCOPE: &str = "--scope=bench";

fn bench(args: &Args) -> Result<()> {
    args.check(&["rtt", "packages", "runs", "slow-runs", "cold-runs", "rows", "kubernetes", "against", "signed"])?;
    let rtts = args.text("rtt", "0,20,50").split(',').map(str::parse).collect::<std::result::Result<Vec<u64>, _>>();
    let packages: Vec<&str> = args.text("packages", "std,cmd").split(',').collect();
    let go = Go::find()?;
    let mut bench =
        Bench { at: Setup { native: go.scratch.join("native"), go, s3: S3::start()?, build: packages.clone() } };
    let wanted =
        |rows: &str| args.text("rows", "build,first,flight,rewritten,tarball").split(',').any(|wanted| wanted == rows);
    if wanted("flight") {
        bench.in_flight(args.number("runs", 3)?)?;
    }
    let home = bench.at.go.dir.clone();
    if wanted("first") {
        bench.first(args.number("runs", 3)?)?;
    }
    if wanted("tarball") {
        bench.tarballs(args)?;
    }
    (bench.at.go.dir, bench.at.go.verb, bench.at.build) = (home, "build", packages.clone());
    if wanted("rewritten") {
        bench.rewritten()?;
    }
    if !wanted("build") {
        return Ok(());
    }
    section(&format!("bucket: go build {}", packages.join(" ")));
    bench.cold(args.number("cold-runs", 1)?)?;
    let runs = args.number("runs", 3)?;
    let rtts = rtts.map_err(|e| format!("--rtt: {e}"))?;
    if !args.text("signed", "").is_empty() {
        return bench.far(runs, &rtts);
    }
    bench.warm(runs)?;
    bench.far(runs, &rtts)?;
    bench.changed(runs)?;
    bench.unseen(args.number("slow-runs", 1)?)?;
    bench.one_package()?;
    bench.misses()
}

struct Bench<'a> {
    at: Setup<'a>,
}

impl<'a> Bench<'a> {
    /// Gets in flight as from a machine with many cores, with and without a manifest.
    fn in_flight(&mut self, runs: usize) -> Result<()> {
        const ACTIONS: usize = 4000;
        section(&format!("bucket: {ACTIONS} gets, {USUAL} ms away"));
        let puts: Vec<bodies::Put> = bodies::session(ACTIONS, 60_000_000).collect();
        let actions: Vec<[u8; 32]> = puts.iter().map(|put| put.action).collect();
        self.at.s3.round_trip(Duration::ZERO)?;
        let flags = |at: &Setup, dir: &std::path::Path| {
            let mut flags = vec![format!("--cache-dir={}", dir.display()), SCOPE.to_string()];
            flags.extend(at.s3.flags());
            flags
        };
        turns::each(0, || {
            self.at.s3.clear()?;
            let dir = self.at.go.scratch.fresh(turns::own("local"))?;
            let mut client = Client::start(&flags(&self.at, &dir))?;
            for (id, put) in (1..).zip(&puts) {
                client.replay(&put_request(id, &put.action, &put.output, &put.body), 1)?;
            }
            client.close()?;
            self.at.s3.save()
        })?;
        for (how, more) in [("without a manifest", Some("--no-readahead")), ("with one", None)] {
            let [mut few, mut many, mut late] = [const { Turns(vec![], vec![]) }; 3];
            for i in 0..runs {
                turns::each(i, || {
                    for window in [4, 64] {
                        self.at.s3.restore()?;
                        let dir = self.at.go.scratch.fresh(turns::own("fresh"))?;
                        let mut flags = flags(&self.at, &dir);
                        flags.extend(more.map(String::from));
                        self.at.s3.round_trip(Duration::from_millis(USUAL))?;
                        let mut client = Client::start(&flags)?;
                        let (all, mut took) = client.in_flight(&actions, window)?;
                        client.close()?;
                        took.sort();
                        let (all, p99) = (ACTIONS as f64 / all.as_secs_f64(), took[ACTIONS * 99 / 100]);
                        table::progress(&format!("  {window} in flight, {how}: {all:.0}/s, p99 {p99:.2?}"));
                        if window == 64 {
                            many.push(all);
                            late.push(p99.as_secs_f64() * 1e3);
                        } else {
                            few.push(all);
                        }
                    }
                    Ok(())
                })?;
            }
            let least = Bound::Least(if more.is_some() { 8.0 } else { 1.0 });
            let what = format!("{how}: 64 gets in flight by 4");
            measured(&what, &many, "/s", &few.show("/s"), many.by(&few).median(), least);
            let p99 = Turns(late.0.iter().map(|ms| ms / 1e3).collect(), late.1.iter().map(|ms| ms / 1e3).collect());
            let bound = if more.is_some() { Bound::Most(250.0) } else { Bound::Free };
            measured("— 99th percentile, ms", &p99, "ms", "", late.median(), bound);
        }
        Ok(())
    }

    /// A fresh machine beside the tarball, for each program.
    fn tarballs(&mut self, args: &'a Args) -> Result<()> {
        let runs = args.number("runs", 3)?;
        let home = self.at.go.dir.clone();
        section("bucket: a fresh machine by the tarball of GOCACHE");
        let (small, packages) = (tarball::small_program(&self.at)?, args.text("packages", "std,cmd"));
        self.beside_tarball("vet", vec!["./..."], small, runs)?;
        self.beside_tarball("build", packages.split(',').collect(), home.clone(), runs)?;
        let kubernetes = args.text("kubernetes", "");
        if !kubernetes.is_empty() {
            let dir = tarball::kubernetes(&self.at, kubernetes)?;
            self.beside_tarball("build", vec!["-o=/dev/null", "./cmd/kube-apiserver"], dir, 1)?;
        }
        Ok(())
    }

    /// From a machine that has `go` alone to the end of its first build, whose outputs the bucket has.
    fn first(&mut self, runs: usize) -> Result<()> {
        section("bucket: from nothing to the first cached build, by install.sh");
        let dir = tarball::small_program(&self.at)?;
        (self.at.go.dir, self.at.build) = (dir, vec!["-o=/dev/null", "."]);
        let (mut ours, mut native) = (Turns::default(), Samples::default());
        for i in 0..runs {
            self.at.go.scratch.fresh("native")?;
            native.push_time(self.at.native()?.wall);
            turns::each(i, || {
                self.at.s3.clear()?;
                let local = self.at.go.scratch.fresh(turns::own("local"))?;
                self.at.ours(&local, 0, &[SCOPE], Watch::Plain)?;
                self.at.s3.save()?;
                let releases = tarball::release(&mut self.at)?;
                self.at.s3.bandwidth(GIGABIT / 10)?;
                let installed = tarball::install(&mut self.at, &releases, USUAL)?;
                let built = self.at.fresh(USUAL, &[SCOPE], Watch::Plain)?.wall;
                self.at.s3.bandwidth(0)?;
                table::progress(&format!("  installed in {installed:.2?}, built in {built:.2?}"));
                ours.push((installed + built).as_secs_f64());
                Ok(())
            })?;
        }
        let what = format!("install.sh and a build of net/http, {USUAL} ms, 100 Mbit/s, by a cold build; ratio: s");
        measured(&what, &ours, "s", &native.show("s"), ours.quantile(1.0), Bound::Most(5.0));
        Ok(())
    }

    /// Builds from nothing, unmeasured, which fills the native cache, our local cache, and the bucket.
    fn fill(&mut self) -> Result<()> {
        self.at.go.scratch.fresh("native")?;
        self.at.native()?;
        turns::each(0, || {
            self.at.s3.clear()?;
            let dir = self.at.go.scratch.fresh(turns::own("local"))?;
            self.at.ours(&dir, 0, &[SCOPE], Watch::Plain)?;
            self.at.s3.save()
        })
    }

    fn beside_tarball(
        &mut self,
        verb: &'static str,
        words: Vec<&'a str>,
        dir: std::path::PathBuf,
        runs: usize,
    ) -> Result<()> {
        (self.at.go.verb, self.at.go.dir, self.at.build) = (verb, dir, words);
        self.fill()?;
        let url = tarball::pack(&mut self.at)?;
        let what = format!("go {verb} {}", self.at.build.join(" "));
        let mut warm = Samples::default();
        for _ in 0..runs {
            warm.push_time(self.at.native()?.wall);
        }
        measured(&format!("{what}: Go's own cache, warm"), &warm, "s", "", f64::NAN, Bound::Free);
        for (rtt, bandwidth) in [(0, GIGABIT), (20, GIGABIT), (50, GIGABIT), (20, GIGABIT / 10)] {
            let what = format!("{what}: {rtt} ms, {} Mbit/s", bandwidth * 8 / 1_000_000);
            let bound = if rtt == 0 || bandwidth < GIGABIT { Bound::Free } else { Bound::Most(0.5) };
            self.against_tarball(&what, &url, rtt, bandwidth, runs, bound)?;
        }
        if verb == "build" && self.at.build.iter().all(|word| !word.starts_with('-')) {
            let change = Change::plan(&self.at.go, &self.at.native, &self.at.build, 0.05)?;
            change.apply(0)?;
            // somebody has built the change before, but the tarball is of the day before
            turns::each(0, || {
                self.at.s3.restore()?;
                let dir = self.at.local();
                self.at.ours(&dir, 0, &[SCOPE], Watch::Plain)?;
                self.at.s3.save()
            })?;
            let what = format!("{what}: 20 ms, a tarball without {} of {} packages", change.rebuilt, change.of);
            self.against_tarball(&what, &url, 20, GIGABIT, runs, Bound::Most(0.4))?;
        }
        Ok(())
    }

    /// What packs and manifests add to the bytes that builds send which change a twentieth each.
    fn rewritten(&mut self) -> Result<()> {
        const BUILDS: usize = 20;
        section(&format!("bucket: bytes that {BUILDS} builds in a row send, each with 5 % of the packages changed"));
        self.fill()?;
        let change = Change::plan(&self.at.go, &self.at.native, &self.at.build, 0.05)?;
        let [mut all, mut entries] = [const { Turns(vec![], vec![]) }; 2];
        turns::each(0, || {
            let mut sums = [0.0; 2];
            for i in 1..=BUILDS {
                change.apply(i)?;
                // into an empty bucket goes what was changed, and nothing else
                self.at.s3.clear()?;
                let dir = self.at.local();
                sums[1] +=
                    self.at.ours(&dir, 0, &[SCOPE, "--no-readahead"], Watch::Plain)?.server.get("received") as f64;
                sums[0] += self.at.fresh(0, &[SCOPE], Watch::Plain)?.server.get("received") as f64;
                self.at.s3.save()?;
            }
            all.push(sums[0]);
            entries.push(sums[1]);
            Ok(())
        })?;
        let what =
            format!("{} of {} packages: all that is sent, by the changed outputs alone", change.rebuilt, change.of);
        measured(&what, &all, "MB", &entries.show("MB"), all.by(&entries).median(), Bound::Most(1.5));
        Ok(())
    }

    fn against_tarball(
        &mut self,
        what: &str,
        url: &str,
        rtt: u64,
        bandwidth: u64,
        runs: usize,
        bound: Bound,
    ) -> Result<()> {
        let (mut ours, mut theirs, mut outcomes) = (Samples::default(), Samples::default(), Turns::default());
        self.at.s3.bandwidth(bandwidth)?;
        for i in 0..runs {
            theirs.push_time(tarball::build(&mut self.at, url, rtt)?);
            turns::each(i, || {
                let o = self.at.fresh(rtt, &[SCOPE], Watch::Plain)?;
                ours.push_time(o.wall);
                outcomes.push(o);
                Ok(())
            })?;
        }
        self.at.s3.bandwidth(0)?;
        paired(what, &ours, &theirs, bound);
        let (requests, gets) = (outcomes.map(|o| o.server.requests() as f64), outcomes.map(Outcome::gets));
        let base = format!("{} gets", gets.median());
        measured("— S3 requests per get", &requests, "", &base, requests.by(&gets).median(), Bound::Most(0.2));
        let raw = outcomes.map(|o| o.report.metric("gocache_server", "get_hit_bytes"));
        let down = outcomes.map(|o| o.server.get("sent") as f64);
        let share = down.by(&raw).median();
        measured("— bytes moved by raw outputs", &down, "MB", &raw.show("MB"), share, Bound::Most(0.27));
        let peak = outcomes.map(|o| o.report.peak_memory as f64);
        measured("— resident memory; ratio: MiB", &peak, "MiB", "", peak.quantile(1.0) / MIB, Bound::Most(48.0));
        Ok(())
    }

    /// Builds from nothing, which fills the native cache, our local cache, and the bucket.
    fn cold(&mut self, runs: usize) -> Result<()> {
        let (mut ours, mut native, mut after) = (Samples::default(), Samples::default(), Samples::default());
        let mut outcomes = Turns::default();
        for i in 0..runs.max(1) {
            table::progress(&format!("cold build {i}"));
            self.at.go.scratch.fresh("native")?;
            native.push_time(self.at.native()?.wall);
            turns::each(i, || {
                self.at.s3.clear()?;
                let dir = self.at.go.scratch.fresh(turns::own("local"))?;
                let o = self.at.ours(&dir, COLD, &[SCOPE], Watch::Tap)?;
                ours.push_time(o.wall);
                after.push_time(o.report.after_last_put.ok_or("go put nothing")?);
                outcomes.push(o);
                self.at.s3.save()
            })?;
        }
        let all = |f: &dyn Fn(&Outcome) -> f64| outcomes.map(f);
        let by = |what: &str, ours: &Samples, base: &Samples, unit: &str, of: &str, bound| {
            measured(what, ours, unit, &format!("{}{of}", base.show(unit)), ours.by(base).median(), bound);
        };
        paired(&format!("cold build that uploads all, {COLD} ms"), &ours, &native, Bound::Most(1.05));
        let close = after.quantile(1.0);
        measured("— from go's last put to our exit, s", &after, "s", "", close, Bound::Most(1.0));
        let puts = all(&|o| o.report.metric("gocache_server", "put_requests"));
        by("— PUT requests per put", &all(&|o| o.server.get("put") as f64), &puts, "", "puts", Bound::Free);
        let asked = all(&|o| (o.server.get("get") + o.server.get("head")) as f64);
        by("— GET and HEAD requests per get", &asked, &all(&Outcome::gets), "", "gets", Bound::Free);
        measured("— gets waited for the bucket, added up", &all(&Outcome::waited), "s", "", f64::NAN, Bound::Free);
        let (sent, raw) =
            (all(&|o| o.server.get("received") as f64), all(&|o| o.report.metric("gocache_server", "put_bytes")));
        by("— bytes sent by raw bytes", &sent, &raw, "MB", "", Bound::Free);
        let connections = all(&|o| o.server.get("connections") as f64);
        measured("— connections opened", &connections, "", "", f64::NAN, Bound::Free);
        Ok(())
    }

    /// From the local cache.
    fn warm(&mut self, runs: usize) -> Result<()> {
        let (mut native, mut without, mut with) = (Samples::default(), Samples::default(), Samples::default());
        // the first round warms the page cache
        let timed = |i: usize, samples: &mut Samples, wall: Duration| {
            if i > 0 {
                samples.push_time(wall)
            }
        };
        for i in 0..=runs {
            // each takes its turn at going first
            for kind in (0..3).map(|k| (k + i) % 3) {
                match kind {
                    0 => timed(i, &mut native, self.at.native()?.wall),
                    1 => turns::each(i, || {
                        let flags = [format!("--cache-dir={}", self.at.local().display()), SCOPE.to_string()];
                        let cache = Cache::Watched(&flags, Watch::Plain);
                        timed(i, &mut without, self.at.go.build(&self.at.build, &cache)?.wall);
                        Ok(())
                    })?,
                    _ => turns::each(i, || {
                        self.at.s3.restore()?;
                        let local = self.at.local();
                        timed(i, &mut with, self.at.ours(&local, USUAL, &[SCOPE], Watch::Plain)?.wall);
                        Ok(())
                    })?,
                }
            }
        }
        paired("local, warm, no bucket, by native warm", &without, &native, Bound::Free);
        paired("local, warm, bucket configured, by the same without", &with, &without, Bound::Most(1.02));
        Ok(())
    }

    /// From the bucket, at each distance.
    fn far(&mut self, runs: usize, rtts: &[u64]) -> Result<()> {
        let mut native = Samples::default();
        let mut walls: BTreeMap<u64, Samples> = BTreeMap::new();
        let mut capped = Samples::default();
        let mut capped_base = Samples::default();
        let mut last: BTreeMap<u64, Turns<Outcome>> = BTreeMap::new();
        for &rtt in rtts {
            // warms up, and is watched more closely than a timed run may be
            turns::each(0, || {
                let o = self.at.fresh(rtt, &[SCOPE], Watch::Tap)?;
                last.entry(rtt).or_default().push(o);
                Ok(())
            })?;
        }
        for i in 0..runs {
            native.push_time(self.at.native()?.wall);
            for &rtt in rtts {
                turns::each(i, || {
                    let o = self.at.fresh(rtt, &[SCOPE], Watch::Plain)?;
                    walls.entry(rtt).or_default().push_time(o.wall);
                    last.entry(rtt).or_default().push(o);
                    Ok(())
                })?;
            }
            if [0, USUAL].iter().all(|rtt| rtts.contains(rtt)) {
                turns::each(i, || {
                    self.at.s3.bandwidth(GIGABIT)?;
                    let o = self.at.fresh(USUAL, &[SCOPE], Watch::Plain);
                    self.at.s3.bandwidth(0)?;
                    let o = o?;
                    capped.push_time(o.wall);
                    let near = if turns::is_other() { &walls[&0].1 } else { &walls[&0].0 }[i];
                    capped_base.push(near + o.server.get("sent") as f64 / GIGABIT as f64);
                    Ok(())
                })?;
            }
        }
        for (&rtt, wall) in &walls {
            let (by_near, by_native) = match rtt {
                20 => (Bound::Most(1.10), Bound::Most(1.5)),
                50 => (Bound::Most(1.15), Bound::Most(1.6)),
                _ => (Bound::Free, Bound::Free),
            };
            paired(&format!("fresh directory, {rtt} ms, by native warm"), wall, &native, by_native);
            if let Some(near) = walls.get(&0).filter(|_| rtt > 0) {
                paired(&format!("fresh directory, {rtt} ms, by 0 ms"), wall, near, by_near);
            }
            details(&last[&rtt]);
        }
        if !capped.0.is_empty() {
            let what = format!("fresh directory, {USUAL} ms, 1 Gbit/s, by 0 ms and the time of the bytes");
            paired(&what, &capped, &capped_base, Bound::Most(1.15));
        }
        Ok(())
    }

    /// After a change that rebuilds 5 % of the packages.
    fn changed(&mut self, runs: usize) -> Result<()> {
        let change = Change::plan(&self.at.go, &self.at.native, &self.at.build, 0.05)?;
        let (mut ours, mut native) = (Samples::default(), Samples::default());
        let mut puts = 0.0;
        for i in 0..runs {
            change.apply(i)?;
            native.push_time(self.at.native()?.wall);
            turns::each(i, || {
                let o = self.at.fresh(USUAL, &[SCOPE], Watch::Plain)?;
                puts = o.report.metric("gocache_server", "put_requests");
                ours.push_time(o.wall);
                Ok(())
            })?;
            change.revert()?;
        }
        let what = format!(
            "fresh directory, {USUAL} ms, {} of {} packages rebuilt ({puts} puts), by native doing the same",
            change.rebuilt, change.of
        );
        paired(&what, &ours, &native, Bound::Most(1.3));
        Ok(())
    }

    /// The first build of a scope, and builds without any manifest, beside two requests in sequence.
    fn unseen(&mut self, runs: usize) -> Result<()> {
        let (mut ours, mut without, mut sequence) = (Samples::default(), Samples::default(), Samples::default());
        let (mut seen, mut one, mut two) = (Turns::default(), Turns::default(), Turns::default());
        for i in 0..runs {
            let scope = format!("--scope=unseen-{i}");
            turns::each(i, || {
                let o = self.at.fresh(USUAL, &[&scope], Watch::Plain)?;
                ours.push_time(o.wall);
                seen.push(o);
                let o = self.at.fresh(USUAL, &[SCOPE, "--no-readahead"], Watch::Plain)?;
                without.push_time(o.wall);
                one.push(o);
                self.at.s3.clear()?;
                self.at.s3.load_classic(&self.at.local())?;
                let dir = self.at.go.scratch.fresh(turns::own("fresh"))?;
                let o = self.at.ours(&dir, USUAL, &[SCOPE, "--s3-layout=classic", "--no-readahead"], Watch::Plain)?;
                sequence.push_time(o.wall);
                two.push(o);
                // the classic bucket once more, and then the other
                self.compiles("classic", &[SCOPE, "--s3-layout=classic"])
            })?;
        }
        let waited_in_sequence = two.map(Outcome::waited);
        let rows = |what: &str, wall: &Samples, outcomes: &Turns<Outcome>, least| {
            let what = format!("{what}: speed by two requests in sequence");
            measured(&what, wall, "s", &sequence.show("s"), sequence.by(wall).median(), least);
            let waited = outcomes.map(Outcome::waited);
            let ratio = waited_in_sequence.by(&waited).median();
            let base = waited_in_sequence.show("s");
            measured("— seconds of waiting, as speed", &waited, "s", &base, ratio, Bound::Free);
            // but for the looks for manifests
            let requests =
                outcomes.map(|o| (o.server.get("get") + o.server.get("head") - o.server.get("manifest")) as f64);
            let gets = outcomes.map(Outcome::gets);
            let (base, ratio) = (format!("{}gets", gets.show("")), requests.by(&gets).median());
            measured("— requests per get", &requests, "", &base, ratio, Bound::Most(1.0));
        };
        rows(&format!("first sight of the scope, {USUAL} ms"), &ours, &seen, Bound::Least(1.9));
        rows(&format!("no manifest at all (--no-readahead), {USUAL} ms"), &without, &one, Bound::Free);
        Ok(())
    }

    /// Counts what an empty cache directory makes `go` compile; the bucket is as it is.
    fn compiles(&mut self, layout: &str, flags: &[&str]) -> Result<()> {
        let dir = self.at.go.scratch.fresh(turns::own("fresh"))?;
        let verbose: Vec<&str> = ["-x"].into_iter().chain(self.at.build.iter().copied()).collect();
        let o = self.at.ours_of(&verbose, &dir, 0, flags, Watch::Plain)?;
        let compiled = o.stderr.lines().filter(|l| l.contains("/compile -o ")).count();
        if !turns::is_other() {
            let what = format!("packages compiled, fresh directory, layout {layout}");
            row(&what, &compiled.to_string(), "", compiled as f64, Bound::Most(0.0));
        }
        Ok(())
    }

    /// One small package out of a large manifest.
    fn one_package(&mut self) -> Result<()> {
        self.at.s3.restore()?;
        self.compiles("single", &[SCOPE])?;
        let (mut down, mut may, mut size) = (Samples::default(), Samples::default(), Samples::default());
        turns::each(0, || {
            self.at.s3.restore()?;
            let dir = self.at.go.scratch.fresh(turns::own("fresh"))?;
            let o = self.at.ours_of(&["errors"], &dir, USUAL, &[SCOPE], Watch::Plain)?;
            let (_, manifest) = self.at.s3.size("manifest/")?;
            let m = |name: &str| o.report.metric("readahead", name);
            let sent = o.server.get("sent") as f64;
            let used = sent - manifest as f64 - (m("fetched_bytes") - m("used_bytes"));
            size.push(manifest as f64);
            down.push(sent);
            may.push(2.0 * used + 8.0 * MIB);
            Ok(())
        })?;
        let manifest = Samples::one(size.median()).show("MB");
        let what = format!("go build errors in this scope (manifest {manifest}): bytes down by 2 × used + 8 MiB");
        measured(&what, &down, "MB", &may.show("MB"), down.by(&may).median(), Bound::Most(1.0));
        Ok(())
    }

    /// Gets of actions that are nowhere.
    fn misses(&mut self) -> Result<()> {
        const GETS: usize = 200;
        self.at.s3.restore()?;
        let dir = self.at.go.scratch.fresh("fresh")?;
        let mut flags = vec![format!("--cache-dir={}", dir.display()), SCOPE.into(), "--no-readahead".into()];
        flags.extend(self.at.s3.flags());
        self.at.s3.round_trip(Duration::ZERO)?;
        let mut client = Client::start(&flags)?;
        let ask = |client: &mut Client, kind: &str, n: usize| -> Result<()> {
            for i in 0..n {
                client.get(&bodies::sha256(format!("{kind} {i}").as_bytes()))?;
            }
            Ok(())
        };
        ask(&mut client, "absent", GETS)?;
        let per_get = self.at.s3.counters()?.requests() as f64 / GETS as f64;
        row("a get that misses everywhere: requests", "", "", per_get, Bound::Most(1.0));
        client.close()?;
        // a session whose gets wait for their answers: after so many misses they no longer do
        let mut client = Client::start(&flags)?;
        self.at.s3.fail(true)?;
        ask(&mut client, "failing", 20)?;
        self.at.s3.round_trip(Duration::ZERO)?;
        ask(&mut client, "open", GETS)?;
        let per_get = self.at.s3.counters()?.requests() as f64 / GETS as f64;
        row("the same while the breaker is open", "", "", per_get, Bound::Most(0.0));
        self.at.s3.fail(false)?;
        client.close()
    }
}

/// What runs at one distance had to move and to wait for. The first of them was tapped.
fn details(runs: &Turns<Outcome>) {
    let all = |f: &dyn Fn(&Outcome) -> f64| runs.map(f);
    let free = |what: &str, figure: &dyn Fn(&Outcome) -> f64, unit: &str| {
        measured(what, &all(figure), unit, "", f64::NAN, Bound::Free);
    };
    let (requests, gets) = (all(&|o| o.server.requests() as f64), all(&Outcome::gets));
    let (base, per_get) = (format!("{} gets", gets.median()), requests.by(&gets).median());
    measured("— S3 requests per get", &requests, "", &base, per_get, Bound::Most(0.6));
    let connections = all(&|o| o.server.get("connections") as f64);
    let used = connections.median() / POOL as f64;
    measured("— connections by pool size", &connections, "", &POOL.to_string(), used, Bound::Most(1.0));
    let (down, raw) =
        (all(&|o| o.server.get("sent") as f64), all(&|o| o.report.metric("gocache_server", "get_hit_bytes")));
    let share = down.by(&raw).median();
    measured("— bytes moved by raw outputs", &down, "MB", &raw.show("MB"), share, Bound::Most(0.3));
    free("— gets waited for the bucket, added up", &Outcome::waited, "s");
    free("— CPU of our process", &|o| o.report.cpu, "s");
    free("— CPU of the bench's server", &|o| o.server_cpu, "s");
    // the first alone was tapped
    let first = |runs: &[Outcome]| runs.first().and_then(|o| o.report.after_close).map(|t| t.as_secs_f64());
    let close = Turns(first(&runs.0).into_iter().collect(), first(&runs.1).into_iter().collect());
    measured("— from go's close to our exit", &close, "ms", "", f64::NAN, Bound::Free);
}

/// Connections that the program keeps at most.
const POOL: usize = 64;
