//! Kills at random instants under load: no acknowledged put is lost, nothing is wrong, nothing is
//! left over.
//!
//! All rounds of a test share one cache directory and one bucket. Each starts the program, sends
//! puts of 1 B to 5 MB and gets, many in flight, and kills it; some rounds had sent `close` before.
//! After them one run in health, and then a fresh machine reads everything. `KILL_ROUNDS` says how
//! many rounds (10), `KILL_SEED` repeats what an earlier run printed.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ChildStdin;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64_simd::STANDARD;
use rustix::process::Signal;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::client::{get_request, put_request};
use crate::support::env::{Plugin, Running, TempDir};
use crate::support::fault::FaultProxy;
use crate::support::s3::S3Server;
use crate::support::script::{Dice, Session, action, files, hex, noise, said};

/// Requests in flight at most.
const WINDOW: usize = 24;
/// A round is killed within this, from its start.
const ROUND_MS: u64 = 700;
/// How long the healthy run may take to send what is left.
const HEALING: Duration = Duration::from_secs(60);

#[test]
fn kills_with_a_bucket_that_fails_one_request_in_ten() {
    through_a_proxy(false, 1);
}

#[test]
fn kills_with_a_directory_bucket() {
    in_a_directory(false, 2);
}

#[test]
fn kills_while_the_same_actions_get_new_values() {
    through_a_proxy(true, 3);
}

#[test]
fn kills_while_the_same_actions_get_new_values_in_a_directory_bucket() {
    in_a_directory(true, 4);
}

#[test]
fn a_kill_while_the_dead_are_swept_leaves_the_rest_to_the_next() {
    let (dir, bucket) = (TempDir::new(), TempDir::new());
    let plugin = || Plugin::new(&dir).env("GOCACHE_S3_BUCKET", format!("file://{}", bucket.path().display()));
    let dead = "77-18eccd3520612038cd78f0b5";
    dir.write(&format!("cache/lease/{dead}"), &" ".repeat(20));
    (0..4000).for_each(|n| drop(bucket.write(&format!(".tmp-files/.tmp-{dead}-{n}"), "")));
    let left = || fs::read_dir(bucket.path().join(".tmp-files")).expect("a folder").count();
    let mut s = Session::start(plugin());
    s.client.send_close();
    let begun = Instant::now();
    while left() == 4000 && begun.elapsed() < HEALING {}
    s.child.signal(Signal::KILL);
    s.child.wait();
    Session::start(plugin()).end();
    assert_eq!(left(), 0);
}

/// Rounds with a server that fails one request in ten; `again`: actions are put with several values.
fn through_a_proxy(again: bool, salt: u64) {
    let server = S3Server::in_process();
    let proxy = FaultProxy::start(&server.endpoint);
    let bucket = server.root().join(&server.bucket);
    let mut trial = Trial::new(server.env_through(&proxy.endpoint), bucket, salt);
    proxy.fail_one_in(10, trial.seed);
    trial.rounds(again);
    proxy.fail_one_in(0, 0);
    trial.verdict();
}

/// As [`through_a_proxy`], with a directory, which does not fail.
fn in_a_directory(again: bool, salt: u64) {
    let dir = TempDir::new();
    let vars = vec![("GOCACHE_S3_BUCKET".into(), format!("file://{}", dir.path().display()))];
    let mut trial = Trial::new(vars, dir.path().to_path_buf(), salt);
    trial.rounds(again);
    trial.verdict();
}

/// A value that an action was put with.
#[derive(Clone)]
struct Put {
    len: usize,
    /// In hex.
    output: String,
    round: usize,
    acknowledged: bool,
}

impl Debug for Put {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Put { len, output, round, acknowledged } = self;
        let state = if *acknowledged { "acknowledged" } else { "not acknowledged" };
        write!(f, "the put of {len} B ({output}) in round {round}, {state}")
    }
}

/// What every action was put with, in the order sent.
type Ledger = BTreeMap<u32, Vec<Put>>;

/// The first value that may still be found: the newest acknowledged, or one sent after it.
fn oldest_allowed(puts: &[Put]) -> Option<usize> {
    puts.iter().rposition(|p| p.acknowledged)
}

/// Rounds on one cache directory and one bucket, and all that was wrong.
struct Trial {
    dir: TempDir,
    vars: Vec<(String, String)>,
    /// Where the bucket's objects are files.
    bucket: PathBuf,
    seed: u64,
    ledger: Ledger,
    wrong: Vec<String>,
}

impl Trial {
    fn new(vars: Vec<(String, String)>, bucket: PathBuf, salt: u64) -> Self {
        let seed = number("KILL_SEED").unwrap_or_else(|| {
            SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64 % 1_000_000
        });
        eprintln!("KILL_SEED={seed} repeats these rounds, but for the machine's timing");
        let seed = seed * 10 + salt;
        Trial { dir: TempDir::new(), vars, bucket, seed, ledger: Ledger::new(), wrong: Vec::new() }
    }

    fn plugin(&self, dir: &TempDir) -> Plugin {
        Plugin::new(dir).envs(&self.vars)
    }

    /// All rounds; with `again`, most puts give a new value to an action that has one.
    fn rounds(&mut self, again: bool) {
        let mut dice = Dice::new(self.seed);
        for round in 0..number("KILL_ROUNDS").unwrap_or(10) as usize {
            let kill_after = Duration::from_millis(dice.below(ROUND_MS));
            let close_after = if dice.below(4) == 0 { dice.below(40) as usize } else { usize::MAX };
            let mut child = self.plugin(&self.dir).arg("--scope=kill").spawn();
            let (stdin, stdout) = (child.stdin(), BufReader::new(child.stdout()));
            let begun = Instant::now();
            let ledger = std::mem::take(&mut self.ledger);
            let load =
                Load { round, state: Mutex::new(State { ledger, ..State::default() }), answered: Condvar::new() };
            std::thread::scope(|scope| {
                scope.spawn(|| load.read(stdout));
                scope.spawn(|| load.send(stdin, &mut dice, again, close_after));
                std::thread::sleep(kill_after.saturating_sub(begun.elapsed()));
                child.signal(Signal::KILL);
                // ends its side, and with it the two threads
                let status = child.wait().status;
                load.end(status.code());
            });
            let State { ledger, wrong, sent, .. } = load.state.into_inner().expect("no holder panics");
            eprintln!("round {round}: killed after {kill_after:?}, {sent} requests sent");
            self.ledger = ledger;
            let stderr = said_by(&mut child);
            let broken = stderr.iter().filter(|l| l.contains("panicked") || l.contains("corrupt"));
            self.wrong.extend(wrong.into_iter().chain(broken.map(|l| format!("round {round}: it said: {l}"))));
        }
    }

    /// The healthy run, the fresh machine, and what is left over; panics with all that is wrong.
    fn verdict(mut self) {
        let s = Session::start(self.plugin(&self.dir).arg("--scope=kill"));
        let begun = Instant::now();
        while !self.markers().is_empty() && begun.elapsed() < HEALING {
            std::thread::sleep(Duration::from_millis(5));
        }
        let left = self.markers();
        let out = s.end();
        self.complain(&left, |n, first| format!("{n} markers left after {HEALING:?} of health, such as {first}"));
        for line in said(&out) {
            self.wrong.push(format!("the healthy run said: {line}"));
        }
        // with its maker's process id, which a directory bucket's own lock has not
        let is_temporary = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.strip_prefix(".tmp-").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        for place in [self.dir.join("cache"), self.bucket.clone()] {
            let left: Vec<PathBuf> = files(&place).into_iter().filter(is_temporary).collect();
            let named = |n, first| format!("{n} temporary files left below {}, such as {first}", place.display());
            self.complain(&left, named);
        }
        self.read_back("--no-readahead", true);
        // by the manifest of the rounds, which may know an older value, or of none yet
        self.read_back("--scope=kill", false);
        let acknowledged = self.ledger.values().flatten().filter(|p| p.acknowledged).count();
        let sent = self.ledger.values().flatten().count();
        eprintln!("{acknowledged} of {sent} puts were acknowledged");
        assert!(acknowledged > 0, "no round got as far as an answer");
        assert!(self.wrong.is_empty(), "{} things wrong:\n{}", self.wrong.len(), self.wrong.join("\n"));
    }

    /// What a fresh machine reads of every action, with this flag: with `newest`, the newest value.
    fn read_back(&mut self, flag: &str, newest: bool) {
        let fresh = TempDir::new();
        let mut s = Session::start(self.plugin(&fresh).arg(flag));
        let (mut missing, mut stale) = (Vec::new(), Vec::new());
        for (n, puts) in &self.ledger {
            let name = hex(&action(*n));
            let Some(oldest) = oldest_allowed(puts) else { continue };
            let (oldest, acknowledged) = (if newest { oldest } else { 0 }, &puts[oldest]);
            match s.client.get(&action(*n)) {
                None if newest => missing.push(format!("action {n} ({name}), {acknowledged:?}")),
                None => {}
                Some(hit) => {
                    let output = hex(&hit.output_id);
                    if !puts[oldest..].iter().any(|p| p.output == output) {
                        let at = puts.iter().position(|p| p.output == output);
                        let which = at.map_or("none ever put".into(), |at| format!("{:?}", puts[at]));
                        stale.push(format!("action {n} ({name}) is {which} and should be {acknowledged:?}"));
                    }
                    if let Err(why) = check(&hit.path, hit.size, &output) {
                        self.wrong.push(format!("the fresh machine ({flag}) got wrong bytes for action {n}: {why}"));
                    }
                }
            }
        }
        s.end();
        let line = |what: &str| {
            let what = format!("{what}, read with {flag}, such as");
            move |n, first| format!("{n} {what} {first}")
        };
        self.complain(&missing, line("acknowledged puts missing from the bucket"));
        self.complain(&stale, line("actions with another value in the bucket"));
    }

    /// One line for a kind of trouble.
    fn complain<T: Debug>(&mut self, found: &[T], line: impl Fn(usize, String) -> String) {
        if let Some(first) = found.first() {
            self.wrong.push(line(found.len(), format!("{first:?}")));
        }
    }

    fn markers(&self) -> Vec<PathBuf> {
        let mut found = files(&self.dir.join("cache/pending"));
        found.retain(|path| !path.ends_with(".lock"));
        found
    }
}

/// The two ends of one round's connection.
struct Load {
    round: usize,
    state: Mutex<State>,
    /// Something was answered, or it is over.
    answered: Condvar,
}

#[derive(Default)]
struct State {
    ledger: Ledger,
    wrong: Vec<String>,
    in_flight: HashMap<i64, Sent>,
    over: bool,
    sent: usize,
}

enum Sent {
    /// The place in the ledger.
    Put(u32, usize),
    /// The first value that may be answered, if one must be.
    Get(u32, Option<usize>),
    Close,
}

impl State {
    fn busy(&self, n: u32) -> bool {
        self.in_flight.values().any(|sent| matches!(sent, Sent::Put(of, _) if *of == n))
    }
}

impl Load {
    /// Sends until the program is gone, or `close_after` requests and then close.
    fn send(&self, mut stdin: ChildStdin, dice: &mut Dice, again: bool, close_after: usize) {
        for id in 1.. {
            let mut state = self.state.lock().expect("no holder panics");
            while state.in_flight.len() >= WINDOW && !state.over {
                state = self.answered.wait(state).expect("no holder panics");
            }
            if state.over {
                return;
            }
            state.sent += 1;
            let (sent, bytes) = if id as usize > close_after {
                (Sent::Close, format!("{{\"ID\":{id},\"Command\":\"close\"}}\n").into_bytes())
            } else if dice.below(3) == 0 && !state.ledger.is_empty() {
                let n = dice.below(state.ledger.len() as u64 + 5) as u32;
                let oldest = state.ledger.get(&n).and_then(|puts| oldest_allowed(puts));
                (Sent::Get(n, oldest), get_request(id, &action(n)))
            } else {
                self.put(&mut state, dice, again, id)
            };
            let closing = matches!(sent, Sent::Close);
            state.in_flight.insert(id, sent);
            drop(state);
            if stdin.write_all(&bytes).is_err() {
                return;
            }
            if closing {
                // the program ends by itself, unless it is killed before
                return;
            }
        }
    }

    fn put(&self, state: &mut State, dice: &mut Dice, again: bool, id: i64) -> (Sent, Vec<u8>) {
        let known = state.ledger.len() as u64;
        let old = known > 0 && dice.below(8) < if again { 7 } else { 1 };
        let mut n = if old { (known - 1 - dice.below(known.min(30))) as u32 } else { known as u32 };
        // as `go` does it: never two puts of one action at a time
        if state.busy(n) {
            n = known as u32;
        }
        let len = match dice.below(16) {
            0 => 1_000_000 + dice.below(4_000_000),
            1..4 => 1 + dice.below(200_000),
            _ => 1 + dice.below(5_000),
        };
        let seed = match dice.below(10) {
            // an output that others have
            0 => dice.below(4),
            _ => dice.roll(),
        };
        let len = if seed < 4 { 700 + seed as usize } else { len as usize };
        let body = noise(seed, len);
        let output = Sha256::digest(&body);
        let puts = state.ledger.entry(n).or_default();
        puts.push(Put { len, output: hex(&output), round: self.round, acknowledged: false });
        (Sent::Put(n, puts.len() - 1), put_request(id, &action(n), &output, &body))
    }

    /// Reads answers to the end, and looks at each file that one names.
    fn read(&self, stdout: BufReader<std::process::ChildStdout>) {
        for line in stdout.lines() {
            // the last one may be half a line
            let Some(answer) = line.ok().and_then(|l| serde_json::from_str::<Value>(&l).ok()) else { break };
            let mut state = self.state.lock().expect("no holder panics");
            let Some(sent) = state.in_flight.remove(&answer["ID"].as_i64().unwrap_or(-1)) else { continue };
            self.answered.notify_all();
            if let (Sent::Put(n, at), false) = (&sent, answer.get("Err").is_some()) {
                state.ledger.get_mut(n).expect("it was put")[*at].acknowledged = true;
            }
            let puts = match &sent {
                Sent::Put(n, at) => vec![state.ledger[n][*at].clone()],
                Sent::Get(n, oldest) => state.ledger.get(n).map_or(vec![], |p| p[oldest.unwrap_or(0)..].to_vec()),
                Sent::Close => vec![],
            };
            drop(state);
            if let Err(why) = judge(&sent, &puts, &answer) {
                self.wrong(why);
            }
        }
        // stdout may end before the process does
        self.state.lock().expect("no holder panics").over = true;
        self.answered.notify_all();
    }

    /// The program is gone, with this exit code unless it was killed.
    fn end(&self, code: Option<i32>) {
        if code.is_some_and(|code| code != 0) {
            self.wrong(format!("it ended by itself with exit code {code:?}"));
        }
    }

    fn wrong(&self, why: String) {
        self.state.lock().expect("no holder panics").wrong.push(format!("round {}: {why}", self.round));
    }
}

/// Whether `answer` is right, when `puts` are the values that it may give.
fn judge(sent: &Sent, puts: &[Put], answer: &Value) -> Result<(), String> {
    if answer.get("Err").is_some() {
        return Err(format!("an error was answered: {answer}"));
    }
    let path = Path::new(answer["DiskPath"].as_str().unwrap_or_default());
    match sent {
        Sent::Close => Ok(()),
        Sent::Put(n, _) => check(path, puts[0].len as u64, &puts[0].output)
            .map_err(|why| format!("the acknowledged put of action {n}, {:?}: {why}", puts[0])),
        Sent::Get(_, None) if answer["Miss"] == true => Ok(()),
        Sent::Get(n, _) if answer["Miss"] == true => {
            Err(format!("a get of action {n} missed; {:?} was there", puts[0]))
        }
        Sent::Get(n, _) => {
            let output = STANDARD.decode_to_vec(answer["OutputID"].as_str().unwrap_or_default()).unwrap_or_default();
            let output = hex(&output);
            if !puts.iter().any(|p| p.output == output) {
                return Err(format!("a get of action {n} gave {answer}, which is none of {puts:?}"));
            }
            // a later put may have replaced the file, by the same bytes alone
            check(path, answer["Size"].as_u64().unwrap_or(0), &output)
                .map_err(|why| format!("a get of action {n}, {answer}: {why}"))
        }
    }
}

/// Whether the file at `path` has this size and hash.
fn check(path: &Path, size: u64, output: &str) -> Result<(), String> {
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let found = hex(&Sha256::digest(&bytes));
    if bytes.len() as u64 != size || found != output {
        let (path, len) = (path.display(), bytes.len());
        return Err(format!("{path} has {len} bytes with hash {found}, not {size} with {output}"));
    }
    Ok(())
}

fn said_by(child: &mut Running) -> Vec<String> {
    child.stderr().lines().map(str::to_string).collect()
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}
