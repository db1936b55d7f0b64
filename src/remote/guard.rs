//! The one guard around a backend. [`Guard::attempt`] sends every request, again where that is
//! likely to help, and counts itself what came of it, the reading of a body included: found,
//! missing, refused, an answer that can never work, unreachable. Nobody else reports.
//!
//! Invariants: a bucket never fails a build and never holds one up for long. Reads and writes are
//! turned off apart, but what turns reads off stops writes too; while a side is off, one probe
//! every [`PROBE_INTERVAL`], in the background, may turn it on again. The probe of writes is a put
//! that was asked for, so that nothing is written that nobody wanted. Results of requests sent
//! before a side went off change nothing. People hear of changes of state, one line each. What was
//! learnt is left to the next process ([`Memory`]).

use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::memory::Memory;
use super::{Object, PutBody, Remote, RemoteError};
use crate::metrics::Metrics;
use crate::retry::{Failure, Patience, wait_before_retry};

/// Time between probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// A probe that said nothing for so long is given up.
const PROBE_LIMIT: Duration = Duration::from_secs(60);
/// A read whose answer takes longer has held a build up as one that failed.
const SLOW: Duration = Duration::from_secs(5);
/// So much trouble in a row turns a side off: ten useless answers, five failures to reach it.
const LIMIT: u32 = 10;
/// An answer that the same request will get for ever.
const USELESS: u32 = 1;
/// It was not reached, or cannot answer at present.
const UNREACHED: u32 = 2;
/// A time-out has held somebody up for seconds. Where no other request succeeded meanwhile, one is
/// enough.
const TIMED_OUT: u32 = 6;

/// What can be turned off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Side {
    /// Gets and listings, and with them everything else.
    Reads,
    /// Puts and deletes.
    Writes,
}

/// What a request is for.
#[derive(Clone, Copy)]
pub enum Kind<'a> {
    /// GET or HEAD: somebody waits.
    Get,
    /// A listing; never sent again, because part of it was handed out.
    List,
    /// The look-up of credentials and region; that it works says nothing of the bucket.
    LookUp,
    /// PUT of a body.
    Put(&'a PutBody),
    /// PUT on a condition.
    PutIf,
    /// DELETE.
    Delete,
}

impl Kind<'_> {
    fn side(self) -> Side {
        match self {
            Kind::Get | Kind::List | Kind::LookUp => Side::Reads,
            Kind::Put(_) | Kind::PutIf | Kind::Delete => Side::Writes,
        }
    }
}

/// How the bucket is doing: pure decisions, the clock is an argument.
#[derive(Default)]
struct State {
    reads: Tally,
    writes: Tally,
    /// A read was answered, with an object or by there being none.
    answered: bool,
    /// Reads refused for want of permission.
    refused: u64,
}

#[derive(Default)]
struct Tally {
    failures: u32,
    weight: u32,
    success: Option<Instant>,
    /// What went wrong since the last success.
    trouble: Option<String>,
    off: Option<Off>,
    /// It is off for what one request finds out and people mend, which no other process is told:
    /// the first that finds it mended must not begin with doubts.
    refused: bool,
}

struct Off {
    next_probe: Instant,
    /// People were told.
    said: bool,
}

/// What changed, and is to be said or remembered.
#[derive(Debug, PartialEq)]
enum Change {
    Off(Side, String),
    StillOff,
    On(Side, bool),
}

impl State {
    /// A state that begins with what another process learnt less than a minute ago.
    fn new([reads, writes]: [Option<String>; 2], now: Instant) -> Self {
        let tally = |trouble: Option<String>| {
            let off = trouble.is_some().then_some(Off { next_probe: now, said: false });
            Tally { trouble, off, ..Tally::default() }
        };
        State { reads: tally(reads), writes: tally(writes), ..State::default() }
    }

    fn of(&mut self, side: Side) -> &mut Tally {
        match side {
            Side::Reads => &mut self.reads,
            Side::Writes => &mut self.writes,
        }
    }

    /// Why a request is not sent, and the probe that is due, which is the caller's to make.
    fn admit(&mut self, side: Side, now: Instant) -> Result<(), (String, Option<Side>)> {
        let off = |s: &Side| if *s == Side::Reads { self.reads.off.is_some() } else { self.writes.off.is_some() };
        let Some(side) = [Side::Reads, side].into_iter().find(off) else { return Ok(()) };
        let tally = self.of(side);
        let why = tally.trouble.clone().unwrap_or_default();
        let off = tally.off.as_mut().filter(|off| now >= off.next_probe);
        let due = off.map(|off| off.next_probe = now + PROBE_LIMIT);
        Err((why, due.map(|()| side)))
    }

    /// Whether a put would be sent now, or become the probe that is due.
    fn takes_writes(&self, now: Instant) -> bool {
        self.reads.off.is_none() && self.writes.off.as_ref().is_none_or(|off| now >= off.next_probe)
    }

    /// Takes note of what a request, sent at `from`, came to.
    fn record(
        &mut self,
        side: Side,
        from: Instant,
        now: Instant,
        outcome: Result<(), &RemoteError>,
        probe: bool,
    ) -> Option<Change> {
        let side = if let Err(RemoteError::Denied(_) | RemoteError::Config(_)) = outcome { Side::Reads } else { side };
        let weight = weigh(side, outcome, self.of(side).success.is_some_and(|at| at >= from))?;
        if side == Side::Reads && weight == 0 {
            let refused = matches!(outcome, Err(RemoteError::Forbidden(_)));
            self.refused += u64::from(refused);
            self.answered |= !refused;
        }
        let tally = self.of(side);
        if tally.off.is_some() && !probe {
            return None;
        }
        if weight == 0 {
            let before = std::mem::replace(tally, Tally { success: Some(now), ..Tally::default() });
            return before.off.map(|off| Change::On(side, off.said));
        }
        let error = outcome.map_or_else(ToString::to_string, |()| String::new());
        tally.failures += 1;
        tally.weight += weight;
        let why = match tally.failures {
            1 => error.clone(),
            n => format!("{n} failures in a row, last: {error}"),
        };
        tally.trouble = Some(error);
        tally.refused = outcome.is_err_and(RemoteError::is_refusal);
        let said = tally.off.as_ref().is_some_and(|off| off.said);
        if tally.off.is_none() && tally.weight < LIMIT {
            return None;
        }
        tally.off = Some(Off { next_probe: now + PROBE_INTERVAL, said: true });
        Some(if said { Change::StillOff } else { Change::Off(side, why) })
    }
}

/// What an outcome counts for; 0 where it is an answer, `None` where it says nothing of the bucket.
fn weigh(side: Side, outcome: Result<(), &RemoteError>, succeeded_meanwhile: bool) -> Option<u32> {
    let Err(error) = outcome else { return Some(0) };
    match (error, error.failure()) {
        (RemoteError::Off(_) | RemoteError::ReadOnly, _) => None,
        (RemoteError::NotModified | RemoteError::Precondition, _) => Some(0),
        (RemoteError::Forbidden(_), _) if side == Side::Reads => Some(0),
        _ if error.is_refusal() => Some(LIMIT),
        (RemoteError::Status(..), Failure::Fatal) => Some(USELESS),
        // of our own making: a key, a local file
        (RemoteError::Io(_), Failure::Fatal) => None,
        (_, Failure::TimedOut) => Some(if succeeded_meanwhile { TIMED_OUT } else { LIMIT }),
        _ => Some(UNREACHED),
    }
}

/// A backend and how it is doing.
pub struct Guard {
    remote: Box<dyn Remote>,
    metrics: Arc<Metrics>,
    /// The bucket as people name it.
    name: String,
    /// The key that probes ask for; no such object is ever written.
    probe_key: String,
    state: Mutex<State>,
    /// Locked before `state`.
    memory: Mutex<Option<Memory>>,
}

impl Guard {
    /// Guards `remote`, called `name`.
    pub fn new(
        remote: Box<dyn Remote>,
        metrics: Arc<Metrics>,
        name: String,
        probe_key: String,
        memory: Option<Memory>,
    ) -> Self {
        let learnt = memory.as_ref().map(Memory::load).unwrap_or_default();
        let state = Mutex::new(State::new(learnt, Instant::now()));
        Guard { remote, metrics, name, probe_key, state, memory: Mutex::new(memory) }
    }

    /// The bucket as people name it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The backend, for what is no request.
    pub fn remote(&self) -> &dyn Remote {
        &*self.remote
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Whether requests of that side are sent at present. Starts the probe of reads that is due.
    pub fn sends(self: &Arc<Self>, side: Side) -> bool {
        self.admit(Kind::LookUp, "").is_ok() && (side == Side::Reads || self.state().takes_writes(Instant::now()))
    }

    /// Why writes are not sent, or what went wrong with the last.
    pub fn write_trouble(&self) -> Option<String> {
        let state = self.state();
        let reads = state.reads.trouble.as_ref().filter(|_| state.reads.off.is_some());
        reads.or(state.writes.trouble.as_ref()).cloned()
    }

    /// What is left to say when the program ends: conditions that only the whole of it shows.
    pub fn last_words(&self) -> Vec<String> {
        let state = self.state();
        let mut lines = Vec::new();
        if state.reads.off.as_ref().is_some_and(|off| !off.said) {
            let why = state.reads.trouble.as_deref().unwrap_or_default();
            lines.push(format!("bucket {} was left alone: less than a minute before: {why}", self.name));
        }
        if !state.answered && state.refused > 0 {
            lines.push(format!(
                "bucket {}: all {} reads were refused (status 403), as AWS does for absent objects without \
                 s3:ListBucket; if the bucket has what was asked for, s3:GetObject is lacking",
                self.name, state.refused
            ));
        }
        lines
    }

    fn admit(self: &Arc<Self>, kind: Kind, key: &str) -> Result<(), RemoteError> {
        let Err((why, due)) = self.state().admit(kind.side(), Instant::now()) else { return Ok(()) };
        match (due, kind) {
            (Some(Side::Reads), _) => {
                let key = self.probe_key.clone();
                self.probe(Side::Reads, move |remote| remote.get(&key, None).map(drop));
            }
            (Some(Side::Writes), Kind::Put(body)) => {
                let (key, body) = (key.to_string(), body.clone());
                self.probe(Side::Writes, move |remote| remote.put(&key, &body, None));
            }
            _ => {}
        }
        Err(RemoteError::Off(why))
    }

    /// Asks in the background, so that nobody waits; not joined, because it may sit out a time-out
    /// that the end of the process should not wait for, and leaves nothing behind.
    fn probe(self: &Arc<Self>, side: Side, ask: impl FnOnce(&dyn Remote) -> Result<(), RemoteError> + Send + 'static) {
        let guard = self.clone();
        let probe = move || {
            let from = Instant::now();
            guard.metrics.bucket.requests.inc();
            let outcome = ask(&*guard.remote);
            guard.record(side, "probe", from, outcome.as_ref().map(drop), true);
        };
        if let Err(e) = std::thread::Builder::new().name("bucket-probe".into()).spawn(probe) {
            log::debug!("cannot start a probe: {e}");
        }
    }

    /// Sends a request, and counts what comes of it. `body` finds the object in an answer whose
    /// body is still to be read; it is counted once that is done.
    pub fn attempt<T>(
        self: &Arc<Self>,
        kind: Kind,
        key: &str,
        mut send: impl FnMut(&dyn Remote) -> Result<T, RemoteError>,
        body: impl Fn(&mut T) -> Option<&mut Object>,
    ) -> Result<T, RemoteError> {
        let counters = &self.metrics.bucket;
        let patience = if kind.side() == Side::Reads { Patience::Get } else { Patience::Upload };
        for attempt in 0.. {
            self.admit(kind, key).inspect_err(|_| counters.breaker_skipped.inc())?;
            match kind {
                Kind::Get => counters.get_requests.inc(),
                Kind::Put(_) | Kind::PutIf => counters.put_requests.inc(),
                _ => {}
            }
            let from = Instant::now();
            let mut outcome = send(&*self.remote);
            if !matches!(kind, Kind::LookUp) {
                counters.requests.inc();
                self.metrics.latency.bucket_request.observe(from.elapsed());
            }
            let wait = match (&outcome, kind) {
                (Ok(_), _) | (_, Kind::List) => None,
                (Err(e), _) => wait_before_retry(patience, attempt, e.failure(), jitter()),
            };
            if let Some(wait) = wait {
                counters.retries.inc();
                log::debug!("{}: {key}: trying again", self.name);
                std::thread::sleep(wait);
                continue;
            }
            match (&mut outcome, kind) {
                (Ok(_), Kind::LookUp) => {}
                (Ok(value), Kind::Get) if from.elapsed() >= SLOW => {
                    let text = format!("an answer took {} s", from.elapsed().as_secs());
                    self.record(Side::Reads, key, from, Err(&io::Error::other(text).into()), false);
                    self.watch(body(value), true);
                }
                (Ok(value), _) => {
                    if !self.watch(body(value), false) {
                        self.record(kind.side(), key, from, Ok(()), false);
                    }
                }
                (Err(e), _) => self.record(kind.side(), key, from, Err(e), false),
            }
            return outcome;
        }
        unreachable!("every patience ends")
    }

    fn record(&self, side: Side, key: &str, from: Instant, outcome: Result<(), &RemoteError>, probe: bool) {
        let fine = matches!(outcome, Ok(()) | Err(RemoteError::NotModified | RemoteError::Precondition));
        if let Err(e) = outcome.as_ref().map_err(|e| e.to_string())
            && !fine
        {
            log::debug!("{}: {key}: {e}", self.name);
            self.metrics.bucket.errors.inc();
        }
        let Some(change) = self.state().record(side, from, Instant::now(), outcome, probe) else { return };
        let name = &self.name;
        let next = PROBE_INTERVAL.as_secs();
        match &change {
            Change::Off(Side::Reads, why) => {
                self.metrics.bucket.breaker_opened.inc();
                log::warn!("bucket {name}: {why}; building from the local cache, next try in {next} s");
            }
            Change::Off(Side::Writes, why) => log::warn!("bucket {name} takes no writes: {why}; reading from it alone"),
            Change::On(Side::Reads, true) => log::warn!("bucket {name} answers again"),
            Change::On(Side::Writes, true) => log::warn!("bucket {name} takes writes again"),
            Change::On(_, false) | Change::StillOff => {}
        }
        if let Some(memory) = &*self.memory.lock().expect("no holder panics") {
            let off = {
                let state = self.state();
                [&state.reads, &state.writes].map(|t| t.trouble.clone().filter(|_| t.off.is_some() && !t.refused))
            };
            memory.save(&off);
        }
    }

    /// Has the reading of a body counted and watched; `false` where there is nothing to read.
    fn watch(self: &Arc<Self>, object: Option<&mut Object>, settled: bool) -> bool {
        let Some(object) = object.filter(|o| o.len != Some(0)) else { return false };
        let body = std::mem::replace(&mut object.body, Box::new(io::empty()));
        let (guard, from) = (self.clone(), Instant::now());
        object.body = Box::new(Watched { body, guard, from, left: object.len, settled });
        true
    }
}

/// Random, from 0 to 1.
fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(()) as f64 / u64::MAX as f64
}

/// A body whose bytes are counted, and whose end, good or bad, the guard hears of.
struct Watched {
    body: Box<dyn Read + Send>,
    guard: Arc<Guard>,
    from: Instant,
    left: Option<u64>,
    settled: bool,
}

impl Read for Watched {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.body.read(buf);
        let ended = match &read {
            Ok(n) => {
                self.guard.metrics.bucket.get_bytes.add(*n as u64);
                self.left = self.left.map(|left| left.saturating_sub(*n as u64));
                (self.left == Some(0) || *n == 0 && !buf.is_empty()).then_some(Ok(()))
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => None,
            Err(e) => Some(Err(RemoteError::Io(io::Error::new(e.kind(), e.to_string())))),
        };
        if let Some(outcome) = ended
            && !std::mem::replace(&mut self.settled, true)
        {
            self.guard.record(Side::Reads, "reading a body", self.from, outcome.as_ref().map(drop), false);
        }
        read
    }
}
