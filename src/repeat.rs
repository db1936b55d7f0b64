//! A condition that repeats: its first instance is told, the others are counted, and the end says
//! how many there were. A server that runs for weeks tells of it again when it has not for [`AGAIN`].

use std::fmt::Display;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// For so long, one line is enough.
const AGAIN: Duration = Duration::from_secs(3600);

/// How often something happened; see the module.
#[derive(Debug)]
pub struct Repeat {
    what: &'static str,
    count: AtomicU64,
    told: Mutex<Option<Instant>>,
}

impl Repeat {
    /// `what` follows a number in the line at the end: `objects were not used`.
    pub const fn new(what: &'static str) -> Self {
        Repeat { what, count: AtomicU64::new(0), told: Mutex::new(None) }
    }

    /// It has happened; `instance` is one line, which is warned of the first time, and then once in a while.
    pub fn tell(&self, instance: impl Display) {
        self.count.fetch_add(1, Ordering::Relaxed);
        if self.is_due(Instant::now()) {
            log::warn!("{instance}");
        } else {
            log::debug!("{instance}");
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        let mut told = self.told.lock().expect("no holder panics");
        let due = told.is_none_or(|at| now.saturating_duration_since(at) >= AGAIN);
        if due {
            *told = Some(now);
        }
        due
    }

    /// Whether it has happened since the last [`Self::end`].
    pub fn happened(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Says how often it happened, where that is more than the first line tells. What comes after that, from a thread
    /// that nobody waits for, has been told.
    pub fn end(&self) {
        let count = self.count.swap(0, Ordering::Relaxed);
        if count > 1 {
            log::warn!("{count} {}", self.what);
        }
    }
}

impl Drop for Repeat {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_that_comes_back_is_told_of_again() {
        let (repeat, begin) = (Repeat::new("troubles"), Instant::now());
        let due =
            [0, 1, 3599, 3600, 3601, 7199, 7200].map(|seconds| repeat.is_due(begin + Duration::from_secs(seconds)));
        assert_eq!(due, [true, false, false, true, false, false, true]);
    }
}
