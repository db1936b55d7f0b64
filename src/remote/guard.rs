//! The one guard around a backend. [`Guard::attempt`] sends every request, again where that is
//! likely to help, and counts itself what came of it, the reading of a body included: found,
//! missing, refused, an answer that can never work, unreachable. Nobody else reports. A body that begins as
//! ours and is damaged further on is found, however many there are: the put that follows mends its object, and
//! would not be sent to a bucket that is off.
//!
//! Invariants: a bucket never fails a build and never holds one up for long. Reads, writes and the reading of
//! parts are turned off apart, but what turns reads off stops all; while a side is off, one probe
//! every [`PROBE_INTERVAL`], in the background, may turn it on again. The probe of reads asks for what is
//! asked for now, or could not be read before, and reads of it; that of another side is a request
//! that was asked for, so that nothing is written that nobody wanted. Results of requests sent
//! before a side went off change nothing. People hear of changes of state, one line each: that writes
//! went off, from whoever knows what waits for them ([`Guard::refuses_writes`]); that parts did, which
//! costs speed alone, at the end. What was learnt is left to the next process ([`Memory`]).

use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::memory::Memory;
use super::{Object, PutBody, Remote, RemoteError};
use crate::metrics::{Counter, Metrics};
use crate::retry::{Failure, Patience, jitter, wait_before_retry};
use crate::text::{bytes, things};

/// Time between probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// A probe that said nothing for so long is given up.
const PROBE_LIMIT: Duration = Duration::from_secs(60);
/// A read whose answer takes longer, or its body at less than [`FLOOR`], has held a build up. Several that wait together have waited once, and
/// where another succeeded meanwhile it says nothing; two in a row are as bad as a time-out.
pub const LATE: Duration = Duration::from_secs(2);
/// One that takes longer is as bad as one that failed, and for as many seconds.
const SLOW: Duration = Duration::from_secs(5);
/// Bodies that have let somebody wait for [`SLOW`], parts for [`LATE`], must have come at this rate, all that
/// are on their way together, in bytes a second.
const FLOOR: u64 = 128 << 10;
/// And each by itself at this, after twice that time.
const OWN_FLOOR: u64 = 16 << 10;
/// A probe reads no more of a body.
const ENOUGH: u64 = FLOOR * SLOW.as_secs();
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
    /// Gets, heads and listings, and with them everything else.
    Reads,
    /// Puts and deletes.
    Writes,
    /// Gets of parts of objects, which some servers hang on that do all else.
    Parts,
}

/// What a request is for.
#[derive(Clone, Copy)]
pub enum Kind<'a> {
    /// GET: somebody waits, for what must begin with this.
    Get(&'static [u8]),
    /// GET of the bytes from here to there.
    Part(u64, u64),
    /// HEAD, or a page of a listing, for which no build waits.
    Look,
    /// PUT of a body, and of what is to stand beside it.
    Put(&'a PutBody, Option<&'a str>),
    /// PUT on a condition, or a copy.
    PutIf,
    /// DELETE.
    Delete,
}

impl Kind<'_> {
    fn side(self) -> Side {
        match self {
            Kind::Get(_) | Kind::Look => Side::Reads,
            Kind::Put(..) | Kind::PutIf | Kind::Delete => Side::Writes,
            Kind::Part(..) => Side::Parts,
        }
    }

    /// This, where somebody waits for the answer, and what its body must begin with.
    fn awaited(self) -> Option<(Kind<'static>, &'static [u8])> {
        match self {
            Kind::Get(begin) => Some((Kind::Get(begin), begin)),
            Kind::Part(from, to) => Some((Kind::Part(from, to), b"")),
            _ => None,
        }
    }
}

/// How the bucket is doing: pure decisions, the clock is an argument.
#[derive(Default)]
struct State {
    /// In the order of [`Side`].
    sides: [Tally; 3],
    /// A read was answered, with an object or by there being none.
    answered: bool,
    /// Reads refused for want of permission, and how the last was.
    refused: (u64, String),
    /// What could not be read last, and must begin with this.
    failed: Option<(String, &'static [u8])>,
}

#[derive(Default)]
struct Tally {
    failures: u32,
    weight: u32,
    success: Option<Instant>,
    failure: Option<Instant>,
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

/// What a request came to.
type Outcome<'a> = Result<(), &'a RemoteError>;

/// What changed, and is to be said or remembered.
#[derive(Debug, PartialEq)]
enum Change {
    Off(String),
    On(Side),
    /// One that is said later, or that only the next process need know.
    Unsaid,
}

impl State {
    /// A state that begins with what another process learnt less than a minute ago.
    fn new(learnt: [Option<String>; 3], now: Instant) -> Self {
        let tally = |trouble: Option<String>| {
            let off = trouble.is_some().then_some(Off { next_probe: now, said: false });
            Tally { trouble, off, ..Tally::default() }
        };
        State { sides: learnt.map(tally), ..State::default() }
    }

    fn of(&mut self, side: Side) -> &mut Tally {
        &mut self.sides[side as usize]
    }

    /// Why a side is off though reads are not, as this process has found out, the first time that this is asked.
    fn tell(&mut self, side: Side) -> Option<String> {
        let reads = self.of(Side::Reads).off.is_some();
        let Tally { off: Some(off), trouble, failures: 1.., .. } = self.of(side) else { return None };
        trouble.clone().filter(|_| !reads && !std::mem::replace(&mut off.said, true))
    }

    /// Why a request is not sent, and the probe that is due, which is the caller's to make.
    fn admit(&mut self, side: Side, now: Instant) -> Result<(), (String, Option<Side>)> {
        for side in [Side::Reads, side] {
            let Tally { trouble, off: Some(off), .. } = self.of(side) else { continue };
            let due = now >= off.next_probe;
            if due {
                off.next_probe = now + PROBE_LIMIT;
            }
            return Err((trouble.clone().unwrap_or_default(), due.then_some(side)));
        }
        Ok(())
    }

    /// Whether a put would be sent now, or become the probe that is due.
    fn takes_writes(&self, now: Instant) -> bool {
        let [reads, writes, _] = &self.sides;
        reads.off.is_none() && writes.off.as_ref().is_none_or(|off| now >= off.next_probe)
    }

    /// Takes note of what a request, sent at `from`, came to.
    fn record(&mut self, side: Side, from: Instant, now: Instant, outcome: Outcome, probe: bool) -> Option<Change> {
        let side = if let Err(RemoteError::Denied(_) | RemoteError::Config(_)) = outcome { Side::Reads } else { side };
        let Tally { success, failure, .. } = *self.of(side);
        let mut weight = match weigh(side, outcome, success >= Some(from), failure >= Some(from)) {
            // it says nothing of the bucket but that it is there
            None if probe => 0,
            weight => weight?,
        };
        if side != Side::Writes && weight == UNREACHED {
            // as heavy as the seconds that somebody has waited for it
            weight = weight.max((now - from).as_secs() as u32);
        }
        if side != Side::Writes && weight == 0 {
            match outcome {
                Err(RemoteError::Forbidden(why)) => self.refused = (self.refused.0 + 1, why.clone()),
                _ => self.answered = true,
            }
        }
        let tally = self.of(side);
        if tally.off.is_some() && !probe {
            return None;
        }
        if weight == 0 {
            let before = std::mem::replace(tally, Tally { success: Some(now), ..Tally::default() });
            return before.off.map(|off| if off.said { Change::On(side) } else { Change::Unsaid });
        }
        let error = outcome.map_or_else(ToString::to_string, |()| String::new());
        tally.failure = Some(now);
        tally.failures += 1;
        tally.weight += weight;
        let count =
            if tally.failures > 1 { format!("{} failures in a row, last: ", tally.failures) } else { String::new() };
        let why = format!("{count}{error}");
        tally.trouble = Some(why.clone());
        tally.refused = outcome.is_err_and(RemoteError::is_refusal);
        let said = tally.off.as_ref().is_some_and(|off| off.said);
        if tally.off.is_none() && tally.weight < LIMIT {
            return None;
        }
        let tells = side == Side::Reads;
        tally.off = Some(Off { next_probe: now + PROBE_INTERVAL, said: said || tells });
        Some(if said || !tells { Change::Unsaid } else { Change::Off(why) })
    }
}

/// What an outcome counts for; 0 where it is an answer, `None` where it says nothing of the bucket.
fn weigh(side: Side, outcome: Outcome, succeeded_meanwhile: bool, failed_meanwhile: bool) -> Option<u32> {
    let Err(error) = outcome else { return Some(0) };
    Some(match (error, error.failure()) {
        (RemoteError::Precondition, _) => 0,
        (RemoteError::Forbidden(_), _) if side != Side::Writes => 0,
        (RemoteError::Late(took), _) if succeeded_meanwhile || failed_meanwhile && *took < SLOW => return None,
        (RemoteError::Late(took), _) => (took.as_secs() as u32).max(LIMIT / 2),
        _ if error.is_refusal() => LIMIT,
        (RemoteError::Status(..), Failure::Fatal) => USELESS,
        // of our own making: a key, a local file
        (_, Failure::Fatal) => return None,
        (_, Failure::TimedOut) if !succeeded_meanwhile => LIMIT,
        (_, Failure::TimedOut) => TIMED_OUT,
        _ => UNREACHED,
    })
}

/// A backend and how it is doing.
pub struct Guard {
    /// The backend; requests go through [`Guard::attempt`].
    pub remote: Box<dyn Remote>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The bucket as people name it.
    pub name: String,
    /// The key that probes ask for; no such object is ever written.
    probe_key: String,
    state: Mutex<State>,
    /// Locked before `state`, and until what a failure has come to is told.
    memory: Mutex<Option<Memory>>,
    /// Bytes that parts have brought.
    parts: Counter,
}

impl Guard {
    /// Guards `remote`, called `name`; begins with what `memory` holds.
    pub fn new(
        remote: Box<dyn Remote>,
        metrics: Arc<Metrics>,
        name: String,
        key: String,
        memory: Option<Memory>,
    ) -> Self {
        let state = State::new(memory.as_ref().map(Memory::load).unwrap_or_default(), Instant::now());
        let (state, memory) = (Mutex::new(state), Mutex::new(memory));
        Guard { remote, metrics, name, probe_key: key, state, memory, parts: Counter::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn memory(&self) -> MutexGuard<'_, Option<Memory>> {
        self.memory.lock().expect("no holder panics")
    }

    /// Whether requests of that side are sent at present. Starts the probe of reads that is due.
    pub fn sends(self: &Arc<Self>, side: Side) -> bool {
        self.admit(Kind::Look, "").is_ok() && (side == Side::Reads || self.state().takes_writes(Instant::now()))
    }

    /// Why the bucket is read alone, the first time that this is asked since it is.
    pub fn refuses_writes(&self) -> Option<String> {
        self.state().tell(Side::Writes)
    }

    /// What is left to say when the program ends: conditions that only the whole of it shows.
    pub fn last_words(&self) -> Vec<String> {
        // who found the bucket to be off a moment ago may still be about to say so
        let _told = self.memory();
        let mut state = self.state();
        let mut lines = Vec::new();
        if let Tally { off: Some(Off { said: false, .. }), trouble: Some(why), .. } = state.of(Side::Reads) {
            lines.push(format!("bucket {} was left alone: less than a minute before: {why}", self.name));
        }
        if let Some(why) = state.tell(Side::Parts) {
            lines.push(format!(
                "bucket {}: no packs were read, but entries one by one, since parts do not come: {why}",
                self.name
            ));
        }
        let (refused, why) = &state.refused;
        if !state.answered && *refused > 0 {
            let (name, reads) = (&self.name, things(*refused, "read"));
            lines.push(format!(
                "bucket {name}: {reads} refused and none answered, last: {why} (AccessDenied is what AWS says of absent \
                 objects without s3:ListBucket, and of all without s3:GetObject)"
            ));
        }
        lines
    }

    fn admit(self: &Arc<Self>, kind: Kind, key: &str) -> Result<(), RemoteError> {
        let Err((why, due)) = self.state().admit(kind.side(), Instant::now()) else { return Ok(()) };
        match (due, kind) {
            (Some(Side::Reads), _) => {
                let asked = if let Kind::Get(begin) = kind { Some((key.to_string(), begin)) } else { None };
                let asked = asked.or_else(|| self.state().failed.clone());
                let (key, begin) = asked.unwrap_or_else(|| (self.probe_key.clone(), b""));
                self.probe(Kind::Get(begin), key, |remote, key| remote.get(key));
            }
            (Some(Side::Parts), Kind::Part(from, to)) => {
                self.probe(Kind::Part(from, to), key.to_string(), move |remote, key| remote.get_range(key, from..to));
            }
            (Some(Side::Writes), Kind::Put(body, beside)) => {
                let (body, beside) = (body.clone(), beside.map(str::to_string));
                self.probe(Kind::PutIf, key.to_string(), move |remote, key| {
                    remote.put(key, &body, None, beside.as_deref()).map(|()| None)
                });
            }
            _ => {}
        }
        Err(RemoteError::Off(why))
    }

    /// Asks in the background, so that nobody waits; not joined, because it may sit out a time-out
    /// that the end of the process should not wait for, and leaves nothing behind.
    fn probe(
        self: &Arc<Self>,
        kind: Kind<'static>,
        key: String,
        ask: impl FnOnce(&dyn Remote, &str) -> Result<Option<Object>, RemoteError> + Send + 'static,
    ) {
        let guard = self.clone();
        let probe = move || {
            let from = Instant::now();
            guard.metrics.bucket.requests.inc();
            let mut outcome = ask(&*guard.remote, &key);
            if let Ok(Some(Object { len, .. })) = &mut outcome {
                *len = Some(len.map_or(ENOUGH, |len| len.min(ENOUGH)));
            }
            guard.judge(kind, &key, from, &mut outcome, Option::as_mut, true);
            if let Ok(Some(object)) = outcome {
                let _ = io::copy(&mut object.body.take(ENOUGH), &mut io::sink());
            }
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
        for attempt in 0.. {
            self.admit(kind, key).inspect_err(|_| counters.breaker_skipped.inc())?;
            match kind {
                Kind::Get(_) | Kind::Part(..) => counters.get_requests.inc(),
                Kind::Put(..) | Kind::PutIf => counters.put_requests.inc(),
                _ => {}
            }
            let from = Instant::now();
            let mut outcome = send(&*self.remote);
            counters.requests.inc();
            self.metrics.latency.bucket_request.observe(from.elapsed());
            if let Err(e) = &outcome
                && let Some(wait) = self.wait(kind, attempt, from, e)
            {
                counters.retries.inc();
                log::debug!("{}: {key}: {e}; trying again", self.name);
                std::thread::sleep(wait);
                continue;
            }
            self.judge(kind, key, from, &mut outcome, body, false);
            return outcome;
        }
        unreachable!("every patience ends")
    }

    /// How long to wait before a request is sent again that was sent at `from` and failed; `None` where it is not.
    fn wait(&self, kind: Kind, attempt: u32, from: Instant, e: &RemoteError) -> Option<Duration> {
        let (failures, success) = {
            let mut state = self.state();
            let tally = state.of(kind.side());
            (tally.failures, tally.success)
        };
        let (patience, late) = match kind.awaited() {
            Some(_) => (Patience::Get, LATE),
            None if success.is_some_and(|at| at.elapsed() < LATE) => (Patience::Beside, SLOW),
            None => (Patience::Upload, SLOW),
        };
        // where others have failed in vain, trying again would only make them wait
        let in_vain = attempt > 0 && failures > 0;
        (from.elapsed() < late && !in_vain).then(|| wait_before_retry(patience, attempt, e.failure(), jitter()))?
    }

    /// Counts what came of a request, or has it counted when the body was read.
    fn judge<T>(
        self: &Arc<Self>,
        kind: Kind,
        key: &str,
        from: Instant,
        outcome: &mut Result<T, RemoteError>,
        body: impl FnOnce(&mut T) -> Option<&mut Object>,
        probe: bool,
    ) {
        let took = from.elapsed();
        let late = took >= LATE;
        let counted = match (outcome, kind.awaited()) {
            (Ok(value), Some((awaited, begin))) => {
                if let Some(object) = body(value).filter(|object| object.len != Some(0) || !begin.is_empty()) {
                    let body = std::mem::replace(&mut object.body, Box::new(io::empty()));
                    object.body = Box::new(Watched {
                        body,
                        guard: self.clone(),
                        key: key.to_string(),
                        kind: awaited,
                        begin,
                        from: Instant::now(),
                        waited: took,
                        before: self.brought(awaited),
                        read: 0,
                        len: object.len,
                        settled: late,
                        probe,
                    });
                    if !late {
                        return;
                    }
                }
                if late { Err(&RemoteError::Late(took)) } else { Ok(()) }
            }
            (Ok(_), _) => Ok(()),
            // whoever keeps a build waiting for a refusal is as bad
            (Err(RemoteError::Status(500.., _) | RemoteError::Forbidden(_)), Some(_)) if late => {
                Err(&RemoteError::Late(took))
            }
            (Err(e), _) => Err(&*e),
        };
        self.record(kind, key, from, counted, probe);
    }

    /// Bytes that all bodies have brought that one of this `kind` is measured with.
    fn brought(&self, kind: Kind) -> u64 {
        if kind.side() == Side::Parts { self.parts.get() } else { self.metrics.bucket.get_bytes.get() }
    }

    fn record(&self, kind: Kind, key: &str, from: Instant, outcome: Outcome, probe: bool) {
        let side = kind.side();
        if let Err(e) = outcome
            && weigh(side, outcome, false, false) != Some(0)
        {
            log::debug!("{}: {key}: {e}", self.name);
            self.metrics.bucket.errors.inc();
            if let (Kind::Get(begin), false) = (kind, probe) {
                self.state().failed = Some((key.to_string(), begin));
            }
        }
        let telling = outcome.is_err().then(|| self.memory());
        let Some(change) = self.state().record(side, from, Instant::now(), outcome, probe) else { return };
        let (name, next) = (&self.name, PROBE_INTERVAL.as_secs());
        match &change {
            Change::Off(why) => {
                self.metrics.bucket.breaker_opened.inc();
                log::warn!("bucket {name}: {why}; building from the local cache, next try in {next} s");
            }
            Change::On(Side::Reads) => log::warn!("bucket {name} answers again"),
            Change::On(Side::Writes) => log::warn!("bucket {name} takes writes again"),
            Change::On(Side::Parts) | Change::Unsaid => {}
        }
        if let Some(memory) = &*telling.unwrap_or_else(|| self.memory()) {
            let learnt = |t: &Tally| t.trouble.clone().filter(|_| t.off.is_some() && !t.refused);
            let off = self.state().sides.each_ref().map(learnt);
            memory.save(&off);
        }
    }
}

/// A body whose bytes are counted, and whose end, good or bad, the guard hears of.
struct Watched {
    body: Box<dyn Read + Send>,
    guard: Arc<Guard>,
    key: String,
    kind: Kind<'static>,
    begin: &'static [u8],
    from: Instant,
    /// How long its reader has waited for it, and for the head before it.
    waited: Duration,
    /// [`Guard::brought`] before it.
    before: u64,
    /// Bytes of its own.
    read: u64,
    len: Option<u64>,
    settled: bool,
    probe: bool,
}

impl Watched {
    /// Whether it, and all others with it, have let somebody wait for so long.
    fn crawls(&self, time: Duration) -> bool {
        self.is_below(time, self.guard.brought(self.kind) - self.before, FLOOR)
    }

    fn is_below(&self, time: Duration, read: u64, floor: u64) -> bool {
        self.waited >= time && (read as f64) < self.waited.as_secs_f64() * floor as f64
    }
}

impl Read for Watched {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let begin = Instant::now();
        let mut read = self.body.read(buf);
        self.waited += begin.elapsed();
        let mut ended = false;
        let mut foreign = false;
        if let Ok(n) = read {
            let seen = n.min(self.begin.len());
            let none = n == 0 && !buf.is_empty() && !self.begin.is_empty();
            foreign = self.read == 0 && (none || buf[..seen] != self.begin[..seen]);
            self.read += n as u64;
            self.guard.metrics.bucket.get_bytes.add(n as u64);
            self.guard.parts.add(if self.kind.side() == Side::Parts { n as u64 } else { 0 });
            ended = self.len.is_some_and(|len| self.read >= len) || n == 0 && !buf.is_empty();
            let time = if self.kind.side() == Side::Parts { LATE } else { SLOW };
            if !ended && (self.crawls(time) || self.is_below(2 * SLOW, self.read, OWN_FLOOR)) {
                let text = format!("too slow: {} in {} s", bytes(self.read), self.waited.as_secs());
                read = Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
        }
        let outcome = match &read {
            _ if foreign => Some(Err(RemoteError::Status(200, "the body is not of this program".into()))),
            Ok(_) if ended && self.crawls(LATE) => Some(Err(RemoteError::Late(self.waited))),
            Ok(_) => ended.then_some(Ok(())),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => None,
            // one that stalls beside others that come is no sign that none do
            Err(e) if self.kind.side() == Side::Parts && !self.crawls(LATE) => {
                Some(Err(RemoteError::Io(io::Error::other(e.to_string()))))
            }
            Err(e) => Some(Err(RemoteError::Io(io::Error::new(e.kind(), e.to_string())))),
        };
        if let Some(outcome) = outcome
            && !std::mem::replace(&mut self.settled, true)
        {
            self.guard.record(self.kind, &self.key, self.from, outcome.as_ref().map(drop), self.probe);
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn io(kind: io::ErrorKind) -> RemoteError {
        io::Error::new(kind, "no luck").into()
    }

    /// What the n-th of such failures in a row changes, all at `now`.
    fn fail(state: &mut State, side: Side, error: &RemoteError, times: u32, now: Instant) -> Option<Change> {
        (0..times).map(|_| state.record(side, now, now, Err(error), false)).last().flatten()
    }

    fn off(why: &str) -> Option<Change> {
        Some(Change::Off(why.into()))
    }

    #[test]
    fn so_many_in_a_row_turn_a_side_off_once() {
        let t = Instant::now();
        for (error, times) in [(io(io::ErrorKind::ConnectionRefused), 5), (RemoteError::Status(405, "no".into()), 10)] {
            let mut s = State::default();
            for _ in 0..3 {
                assert_eq!(fail(&mut s, Side::Reads, &error, times - 1, t), None);
                s.record(Side::Reads, t, t, Ok(()), false);
            }
            let why = format!("{times} failures in a row, last: {error}");
            assert_eq!(fail(&mut s, Side::Reads, &error, times, t), off(&why));
            assert_eq!(fail(&mut s, Side::Reads, &error, 1, t), None, "late results change nothing");
            assert_eq!(s.record(Side::Reads, t, t, Ok(()), false), None, "good ones neither");
            assert!(s.admit(Side::Reads, t).is_err() && s.admit(Side::Writes, t).is_err());
        }
    }

    #[test]
    fn reads_and_writes_go_off_apart() {
        let (t, mut s) = (Instant::now(), State::default());
        let refused = RemoteError::Forbidden("status 403".into());
        assert_eq!(fail(&mut s, Side::Reads, &refused, 1000, t), None, "absent objects are refused too");
        assert_eq!((s.refused.0, s.answered), (1000, false));
        assert_eq!(fail(&mut s, Side::Writes, &refused, 1, t), Some(Change::Unsaid));
        assert!(s.admit(Side::Reads, t).is_ok() && s.admit(Side::Writes, t).is_err());
        assert!(!s.takes_writes(t + 9 * SECOND) && s.takes_writes(t + 10 * SECOND));
        let denied = RemoteError::Denied("status 403: ExpiredToken".into());
        let change = fail(&mut s, Side::Writes, &denied, 1, t);
        assert_eq!(change, off("status 403: ExpiredToken"), "whoever hears of it");
        let own = io(io::ErrorKind::InvalidInput);
        assert_eq!(fail(&mut State::default(), Side::Writes, &own, 1000, t), None);
    }

    #[test]
    fn parts_go_off_at_the_first_time_out_and_are_told_once() {
        let (t, slow) = (Instant::now(), io(io::ErrorKind::TimedOut));
        let mut s = State::default();
        s.record(Side::Reads, t, t + SECOND, Ok(()), false);
        assert_eq!(fail(&mut s, Side::Parts, &slow, 1, t + SECOND), Some(Change::Unsaid));
        assert!(s.admit(Side::Reads, t).is_ok() && s.admit(Side::Writes, t).is_ok());
        let due = |s: &mut State, at| s.admit(Side::Parts, at).unwrap_err().1;
        assert_eq!((due(&mut s, t + 10 * SECOND), due(&mut s, t + 11 * SECOND)), (None, Some(Side::Parts)));
        assert_eq!((s.tell(Side::Parts).as_deref(), s.tell(Side::Parts)), (Some("no luck"), None));
        s.record(Side::Parts, t, t + SECOND, Ok(()), true);
        assert!(s.admit(Side::Parts, t).is_ok());
        // nothing beside what stops all
        fail(&mut s, Side::Parts, &slow, 1, t + SECOND);
        fail(&mut s, Side::Reads, &slow, 2, t + SECOND);
        assert_eq!((due(&mut s, t + SECOND), s.tell(Side::Parts)), (None, None));
    }

    #[test]
    fn two_time_outs_and_one_where_nothing_else_went_through() {
        let (t, slow) = (Instant::now(), io(io::ErrorKind::TimedOut));
        let mut s = State::default();
        s.record(Side::Reads, t, t + 5 * SECOND, Ok(()), false);
        assert_eq!(s.record(Side::Reads, t, t + 10 * SECOND, Err(&slow), false), None);
        assert!(s.record(Side::Reads, t, t + 10 * SECOND, Err(&slow), false).is_some());
        let mut s = State::default();
        s.record(Side::Reads, t, t, Ok(()), false);
        let from = t + SECOND;
        assert_eq!(s.record(Side::Reads, from, from + 10 * SECOND, Err(&slow), false), off("no luck"));
    }

    #[test]
    fn late_answers_count_once_a_round_and_not_beside_others() {
        let (t, late) = (Instant::now(), |seconds| RemoteError::Late(Duration::from_secs(seconds)));
        let mut s = State::default();
        let at = |s: &mut State, from: u32, now: u32, error: &RemoteError| {
            s.record(Side::Reads, t + from * SECOND, t + now * SECOND, Err(error), false)
        };
        for now in [3, 3, 4] {
            assert_eq!(at(&mut s, 0, now, &late(3)), None, "one round");
        }
        assert!(matches!(at(&mut s, 5, 8, &late(3)), Some(Change::Off(_))));
        let mut s = State::default();
        assert_eq!(at(&mut s, 0, 6, &late(6)), None);
        assert!(matches!(at(&mut s, 0, 6, &late(6)), Some(Change::Off(_))), "as bad as no answer");
        let mut s = State::default();
        for n in 0..100 {
            assert_eq!(at(&mut s, n, n + 3, &late(3)), None);
            s.record(Side::Reads, t, t + (n + 4) * SECOND, Ok(()), false);
        }
    }

    #[test]
    fn one_probe_every_ten_seconds_may_turn_it_on() {
        let (t, slow) = (Instant::now(), io(io::ErrorKind::TimedOut));
        let mut s = State::default();
        fail(&mut s, Side::Reads, &slow, 1, t);
        let due = |s: &mut State, at| s.admit(Side::Writes, at).unwrap_err().1;
        assert_eq!(due(&mut s, t + 9 * SECOND), None);
        let at = t + 10 * SECOND;
        assert_eq!((due(&mut s, at), due(&mut s, at)), (Some(Side::Reads), None), "one at a time");
        assert_eq!(s.record(Side::Reads, at, at + SECOND, Err(&slow), true), Some(Change::Unsaid), "renews the minute");
        assert_eq!((due(&mut s, at + 10 * SECOND), due(&mut s, at + 11 * SECOND)), (None, Some(Side::Reads)));
        assert_eq!(s.record(Side::Reads, at, at + 12 * SECOND, Ok(()), true), Some(Change::On(Side::Reads)));
        assert!(s.admit(Side::Writes, at).is_ok());
    }

    #[test]
    fn what_another_learnt_is_probed_at_once_and_said_when_it_holds() {
        let (t, slow) = (Instant::now(), io(io::ErrorKind::TimedOut));
        let learnt = || State::new([Some("silent".into()), None, None], t);
        assert_eq!(learnt().admit(Side::Reads, t), Err(("silent".into(), Some(Side::Reads))));
        assert_eq!(learnt().record(Side::Reads, t, t, Ok(()), true), Some(Change::Unsaid));
        assert_eq!(learnt().record(Side::Reads, t, t, Err(&slow), true), off("no luck"));
    }
}
