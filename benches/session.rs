//! A `go build std cmd`-sized session replayed over a pipe, beside the same work done straight
//! with `std::fs` on as many threads: put bodies decoded, hashed, written to a temporary file and
//! renamed, with the action file likewise; gets by reading the action file and a stat of the output.
//!
//! `cargo bench --bench session -- --puts 3715 --gets 2650 --megabytes 730 --runs 5`
//! (`--against PATH`: beside another build of the program, taking turns)

mod support;

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use support::args::Args;
use support::client::{Client, base64, get_request, put_request};
use support::scratch::Scratch;
use support::table::{self, Bound, Samples, measured, section};
use support::{Result, bodies, files, turns};

fn main() -> ExitCode {
    support::main(bench)
}

/// A put as the baseline gets it: the body still in base64.
struct Task {
    action: [u8; 32],
    output: [u8; 32],
    body: String,
}

fn bench(args: &Args) -> Result<()> {
    args.check(&["puts", "gets", "megabytes", "runs", "against"])?;
    let (puts, gets) = (args.number("puts", 3715)?, args.number("gets", 2650)?);
    let total = args.number("megabytes", 730)? as u64 * 1_000_000;
    let runs = args.number("runs", 5)?;
    // what the program works with by default
    let threads = (4 * std::thread::available_parallelism()?.get()).max(8);
    let scratch = Scratch::open()?;

    table::progress("making up the session");
    let (mut tasks, mut requests, mut bytes) = (Vec::new(), Vec::new(), 0);
    for (i, put) in bodies::session(puts, total).enumerate() {
        requests.extend(put_request(i as u64 + 1, &put.action, &put.output, &put.body));
        bytes += put.body.len();
        tasks.push(Task { action: put.action, output: put.output, body: base64(&put.body) });
    }
    let asked: Vec<&Task> = (0..gets).map(|i| &tasks[i % tasks.len()]).collect();
    let asking: Vec<u8> =
        asked.iter().enumerate().flat_map(|(i, t)| get_request((puts + i) as u64 + 1, &t.action)).collect();

    let (mut ours, mut straightly) = (Figures::default(), Figures::default());
    for i in 0..=runs {
        turns::each(i, || {
            let dir = scratch.fresh(turns::own("session-ours"))?;
            rustix::fs::sync();
            let mut client = Client::start(&[format!("--cache-dir={}", dir.display())])?;
            let put = client.replay(&requests, puts)?;
            let got = client.replay(&asking, gets)?;
            let begin = Instant::now();
            for t in &asked {
                client.get(&t.action)?;
            }
            let single = begin.elapsed();
            client.close()?;
            table::progress(&format!("  put {put:.2?}, get {got:.2?}"));
            // the first round warms up
            if i > 0 {
                ours.add([put, got, single]);
            }
            Ok(())
        })?;
        let dir = scratch.fresh("session-straight")?;
        rustix::fs::sync();
        let straight_put = straight(threads, &tasks, |t| put_straight(&dir, t))?;
        let straight_got = straight(threads, &asked, |t| files::get(&dir, &t.action))?;
        let straight_single = straight(1, &asked, |t| files::get(&dir, &t.action))?;
        table::progress(&format!("  straight: put {straight_put:.2?}, get {straight_got:.2?}"));
        if i > 0 {
            straightly.add([straight_put, straight_got, straight_single]);
        }
    }

    section(&format!("session: {puts} puts of {} MB, {gets} gets, over a pipe, {threads} threads", bytes / 1_000_000));
    let [put, got, single] = &ours.0;
    let [straight_put, straight_got, straight_single] = &straightly.0;
    let speed = |t: &Samples| t.map(|t| bytes as f64 / t);
    let (ours, base) = (speed(put), speed(straight_put));
    measured("puts", &ours, "MB/s", &base.show("MB/s"), ours.by(&base).median(), Bound::Least(0.7));
    let gets_row = |what: &str, ours: &Samples, base: &Samples, bound| {
        let each = |t: &Samples| t.map(|t| t / gets as f64);
        measured(what, &each(ours), "µs", &each(base).show("µs"), ours.by(base).median(), bound);
    };
    gets_row("gets, sent without waiting, each", got, straight_got, Bound::Most(2.5));
    gets_row("gets, one after another, each", single, straight_single, Bound::Free);
    Ok(())
}

/// Times of all rounds: puts, gets, gets in sequence.
#[derive(Default)]
struct Figures([Samples; 3]);

impl Figures {
    fn add(&mut self, times: [Duration; 3]) {
        self.0.iter_mut().zip(times).for_each(|(s, t)| s.push_time(t));
    }
}

/// Does `each` of `tasks` on so many threads.
fn straight<T: Sync>(threads: usize, tasks: &[T], each: impl Fn(&T) -> std::io::Result<()> + Sync) -> Result<Duration> {
    let next = AtomicUsize::new(0);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let work = || -> std::io::Result<()> {
            while let Some(task) = tasks.get(next.fetch_add(1, Relaxed)) {
                each(task)?;
            }
            Ok(())
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|w| w.join().map_err(|_| "a worker panicked")?.map_err(Into::into))
    })
    .map(|()| begin.elapsed())
}

fn put_straight(dir: &Path, task: &Task) -> std::io::Result<()> {
    let body = base64_simd::STANDARD.decode_to_vec(&task.body).map_err(std::io::Error::other)?;
    files::put(dir, &task.action, &task.output, &body)
}
