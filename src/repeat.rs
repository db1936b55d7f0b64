//! A condition that repeats: its first instance is told, the others are counted, and the end says
//! how many there were.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};

/// How often something happened; see the module.
#[derive(Debug)]
pub struct Repeat {
    what: &'static str,
    count: AtomicU64,
}

impl Repeat {
    /// `what` follows a number in the line at the end: `objects were not used`.
    pub const fn new(what: &'static str) -> Self {
        Repeat { what, count: AtomicU64::new(0) }
    }

    /// It has happened; `instance` is one line, which is warned of the first time.
    pub fn tell(&self, instance: impl Display) {
        if self.count.fetch_add(1, Ordering::Relaxed) == 0 {
            log::warn!("{instance}");
        } else {
            log::debug!("{instance}");
        }
    }

    /// Whether it has happened since the last [`Self::end`].
    pub fn happened(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Says how often it happened, where that is more than the first line tells. Starts anew.
    pub fn end(&self) {
        let count = self.count.load(Ordering::Relaxed);
        if count > 1 {
            // what comes later is no first again
            self.count.store(1, Ordering::Relaxed);
            log::warn!("{count} {}", self.what);
        }
    }
}

impl Drop for Repeat {
    fn drop(&mut self) {
        self.end();
    }
}
