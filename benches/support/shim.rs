//! The network that the bench's server pretends to be behind: a round trip per request and per new
//! connection, and a bandwidth that all connections share. Waiting is sleeping, it costs no CPU.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Delays below this are owed, not slept: a sleep is some 60 µs late.
const OWED: Duration = Duration::from_micros(500);

/// The network. Changed while connections are served.
#[derive(Default)]
pub struct Shim {
    /// Microseconds.
    round_trip: AtomicU64,
    /// Bytes a second in each direction, 0 for no limit.
    bandwidth: AtomicU64,
    up: Line,
    down: Line,
}

impl Shim {
    pub fn set_round_trip(&self, micros: u64) {
        self.round_trip.store(micros, Relaxed);
    }

    pub fn set_bandwidth(&self, bytes_per_second: u64) {
        self.bandwidth.store(bytes_per_second, Relaxed);
    }

    /// Waits a round trip.
    pub fn round_trip(&self) {
        match self.round_trip.load(Relaxed) {
            0 => {}
            micros => std::thread::sleep(Duration::from_micros(micros)),
        }
    }

    /// Waits until `bytes` have come through from the client.
    pub fn receive(&self, bytes: usize) {
        self.up.carry(bytes, self.bandwidth.load(Relaxed));
    }

    /// Waits until `bytes` have gone out to the client.
    pub fn send(&self, bytes: usize) {
        self.down.carry(bytes, self.bandwidth.load(Relaxed));
    }
}

/// One direction: when what was sent so far will have gone through.
#[derive(Default)]
struct Line(Mutex<Option<Instant>>);

impl Line {
    fn carry(&self, bytes: usize, bandwidth: u64) {
        if bandwidth == 0 {
            return;
        }
        let now = Instant::now();
        let until = {
            let mut busy = self.0.lock().expect("no holder panics");
            let from = busy.filter(|t| *t > now).unwrap_or(now);
            *busy.insert(from + Duration::from_secs_f64(bytes as f64 / bandwidth as f64))
        };
        let wait = until - now;
        if wait > OWED {
            std::thread::sleep(wait);
        }
    }
}
