//! When to leave a bucket alone: pure decisions, the clock is an argument.
//!
//! The breaker is closed (requests go out), open (nothing goes out but one probe every
//! [`PROBE_INTERVAL`], made in the background), or off for the rest of the process, where the
//! credentials or the bucket's name are no good. It opens after [`LIMIT`] failures in a row, a
//! time-out counting for more, because each has held somebody up for seconds: two in a row are
//! enough, and one where no other request succeeded meanwhile. It also opens when answers are so slow that waiting for them took [`STALL_LIMIT`] of the last
//! [`STALL_WINDOW`]. Results that arrive while it is open are those of requests sent before, and
//! change nothing.

use std::time::{Duration, Instant};

/// Failures in a row that open the breaker.
pub const LIMIT: u32 = 5;
/// What a time-out counts for.
const TIMEOUT_WEIGHT: u32 = 3;
/// Time between probes.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// An answer within this is no stall; a probe must be answered within it to close the breaker.
const PROMPT: Duration = Duration::from_secs(2);
/// Wall-clock time lost to stalls, within [`STALL_WINDOW`], that opens the breaker.
const STALL_LIMIT: Duration = Duration::from_secs(20);
/// How long a stall is remembered.
const STALL_WINDOW: Duration = Duration::from_secs(60);

/// The state of one bucket.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    since: Instant,
    failures: u32,
    weight: u32,
    last_success: Option<Instant>,
    last_error: Option<String>,
    stalled: Duration,
    window_start: Instant,
    /// Until when stalls have been charged, so that parallel ones are charged once.
    charged_until: Instant,
}

#[derive(Debug)]
enum State {
    Closed,
    Open { next_probe: Instant },
    Off,
}

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Send it.
    Send,
    /// Do not send it.
    Skip,
    /// Do not send it, but start the probe that is due.
    SkipAndProbe,
}

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// Without much waiting.
    Fast,
    /// After waiting for a time-out, from the instant on where it is known.
    TimedOut(Option<Instant>),
}

/// A change of state that people should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It opened; the text says why.
    Opened(String),
    /// It closed.
    Closed,
    /// It is off from now on; the text says why.
    Off(String),
}

/// The state, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Requests are sent.
    Closed,
    /// The bucket failed repeatedly and is probed now and then.
    Open,
    /// The bucket is not used by this process any more.
    Off,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(now: Instant) -> Self {
        Breaker {
            state: State::Closed,
            since: now,
            failures: 0,
            weight: 0,
            last_success: None,
            last_error: None,
            stalled: Duration::ZERO,
            window_start: now,
            charged_until: now,
        }
    }

    /// Asks whether a request may be sent. Once [`Admission::SkipAndProbe`] was answered the probe
    /// is the caller's to make, and to report with [`Self::probed`].
    pub fn admit(&mut self, now: Instant) -> Admission {
        match &mut self.state {
            State::Closed => Admission::Send,
            State::Open { next_probe } if now >= *next_probe => {
                *next_probe = now + PROBE_INTERVAL;
                Admission::SkipAndProbe
            }
            State::Open { .. } | State::Off => Admission::Skip,
        }
    }

    /// A request succeeded (an absent object is a success too).
    pub fn success(&mut self, now: Instant) {
        self.last_success = Some(now);
        if matches!(self.state, State::Closed) {
            self.failures = 0;
            self.weight = 0;
        }
    }

    /// Somebody waited for an answer from `from` to `now`, whatever came of it.
    pub fn waited(&mut self, from: Instant, now: Instant) -> Option<Change> {
        if !matches!(self.state, State::Closed) {
            return None;
        }
        if now.duration_since(self.window_start) > STALL_WINDOW {
            self.window_start = now;
            self.stalled = Duration::ZERO;
        }
        let begin = (from + PROMPT).max(self.charged_until).max(self.window_start);
        if now > begin {
            self.stalled += now - begin;
            self.charged_until = now;
        }
        if self.stalled < STALL_LIMIT {
            return None;
        }
        let why = format!("too slow: {} s lost waiting within a minute", self.stalled.as_secs());
        Some(self.open(now, why))
    }

    /// A request failed; one that timed out says when it began, where that is known.
    pub fn failure(&mut self, now: Instant, failed: Failed, error: &str) -> Option<Change> {
        self.last_error = Some(error.to_string());
        if !matches!(self.state, State::Closed) {
            return None;
        }
        self.failures += 1;
        self.weight += match failed {
            Failed::Fast => 1,
            Failed::TimedOut(Some(from)) if self.last_success.is_none_or(|at| at < from) => LIMIT,
            Failed::TimedOut(_) => TIMEOUT_WEIGHT,
        };
        if self.weight < LIMIT {
            return None;
        }
        let why = match self.failures {
            1 => error.to_string(),
            n => format!("{n} failures in a row, last: {error}"),
        };
        Some(self.open(now, why))
    }

    /// The probe that began at `from` was answered, or failed with the error given.
    pub fn probed(&mut self, from: Instant, now: Instant, outcome: Result<(), &str>) -> Option<Change> {
        let State::Open { next_probe } = &mut self.state else { return None };
        *next_probe = now + PROBE_INTERVAL;
        match outcome {
            Ok(()) if now.duration_since(from) <= PROMPT => {
                *self = Breaker { last_error: self.last_error.take(), ..Breaker::new(now) };
                Some(Change::Closed)
            }
            Ok(()) => {
                self.last_error = Some("still too slow".into());
                None
            }
            Err(error) => {
                self.last_error = Some(error.to_string());
                None
            }
        }
    }

    /// Leaves the bucket alone for good.
    pub fn turn_off(&mut self, now: Instant, why: &str) -> Option<Change> {
        if matches!(self.state, State::Off) {
            return None;
        }
        self.state = State::Off;
        self.since = now;
        self.last_error = Some(why.to_string());
        Some(Change::Off(why.to_string()))
    }

    /// The state, since when, and the last error seen.
    pub fn status(&self) -> (Status, Instant, Option<&str>) {
        let status = match self.state {
            State::Closed => Status::Closed,
            State::Open { .. } => Status::Open,
            State::Off => Status::Off,
        };
        (status, self.since, self.last_error.as_deref())
    }

    fn open(&mut self, now: Instant, why: String) -> Change {
        self.state = State::Open { next_probe: now + PROBE_INTERVAL };
        self.since = now;
        Change::Opened(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn opened() -> (Breaker, Instant) {
        let t = Instant::now();
        let mut b = Breaker::new(t);
        for _ in 0..LIMIT {
            b.failure(t, Failed::Fast, "reset");
        }
        (b, t)
    }

    #[test]
    fn five_failures_in_a_row_open_it_once() {
        let t = Instant::now();
        let mut b = Breaker::new(t);
        for _ in 0..3 {
            for _ in 0..4 {
                assert_eq!(b.failure(t, Failed::Fast, "x"), None);
            }
            b.success(t);
        }
        for _ in 0..4 {
            assert_eq!(b.failure(t, Failed::Fast, "x"), None);
        }
        assert_eq!(b.admit(t), Admission::Send);
        assert_eq!(
            b.failure(t, Failed::Fast, "reset"),
            Some(Change::Opened("5 failures in a row, last: reset".into()))
        );
        assert_eq!(b.failure(t, Failed::Fast, "late"), None);
        assert_eq!(b.admit(t), Admission::Skip);
    }

    #[test]
    fn two_time_outs_open_it_and_one_where_nothing_else_went_through() {
        let t = Instant::now();
        let mut b = Breaker::new(t);
        let slow = Failed::TimedOut(Some(t));
        b.success(t + 5 * SECOND);
        assert_eq!(b.failure(t + 10 * SECOND, slow, "slow"), None);
        assert!(
            matches!(b.failure(t + 10 * SECOND, slow, "slow"), Some(Change::Opened(w)) if w.starts_with("2 failures"))
        );
        let mut b = Breaker::new(t);
        b.success(t);
        let slow = Failed::TimedOut(Some(t + SECOND));
        assert_eq!(b.failure(t + 11 * SECOND, slow, "slow"), Some(Change::Opened("slow".into())));
    }

    #[test]
    fn one_probe_every_ten_seconds_may_close_it() {
        let (mut b, t) = opened();
        assert_eq!(b.admit(t + 9 * SECOND), Admission::Skip);
        let at = t + 10 * SECOND;
        assert_eq!(b.admit(at), Admission::SkipAndProbe);
        assert_eq!(b.admit(at), Admission::Skip, "one probe at a time");
        assert_eq!(b.probed(at, at + SECOND, Err("reset")), None);
        assert_eq!(b.admit(at + 10 * SECOND), Admission::Skip);
        let at = at + 11 * SECOND;
        assert_eq!(b.admit(at), Admission::SkipAndProbe);
        assert_eq!(b.probed(at, at + 5 * SECOND, Ok(())), None, "a slow answer does not close it");
        let at = at + 20 * SECOND;
        assert_eq!(b.admit(at), Admission::SkipAndProbe);
        assert_eq!(b.probed(at, at + SECOND, Ok(())), Some(Change::Closed));
        assert_eq!(b.admit(at + SECOND), Admission::Send);
        assert_eq!(b.failure(at, Failed::Fast, "x"), None, "it counts from nothing again");
    }

    #[test]
    fn results_of_earlier_requests_do_not_close_it() {
        let (mut b, t) = opened();
        b.success(t);
        assert_eq!(b.admit(t), Admission::Skip);
    }

    #[test]
    fn slow_answers_open_it_by_wall_clock() {
        let t = Instant::now();
        let mut b = Breaker::new(t);
        // eight at a time, nine seconds each: seven lost a round
        for round in 0..2 {
            let from = t + round * 9 * SECOND;
            for _ in 0..8 {
                assert_eq!(b.waited(from, from + 9 * SECOND), None, "round {round}");
                b.success(t);
            }
        }
        let from = t + 18 * SECOND;
        assert!(matches!(b.waited(from, from + 9 * SECOND), Some(Change::Opened(w)) if w.contains("too slow: 21 s")));
    }

    #[test]
    fn prompt_answers_and_old_stalls_do_not_open_it() {
        let t = Instant::now();
        let mut b = Breaker::new(t);
        for i in 0..1000 {
            let from = t + i * SECOND;
            assert_eq!(b.waited(from, from + 2 * SECOND), None);
        }
        for i in 0..20 {
            let from = t + (2000 + i * 31) * SECOND;
            assert_eq!(b.waited(from, from + 10 * SECOND), None, "{i}");
        }
    }

    #[test]
    fn off_is_for_good_and_said_once() {
        let (mut b, t) = opened();
        assert_eq!(b.turn_off(t, "no credentials"), Some(Change::Off("no credentials".into())));
        assert_eq!(b.turn_off(t, "no credentials"), None);
        assert_eq!(b.admit(t + 1000 * SECOND), Admission::Skip);
        assert_eq!(b.probed(t, t, Ok(())), None);
        assert_eq!(b.status().0, Status::Off);
    }
}
