//! How many fetches may be under way, so that upstreams that hang cost no more than that.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// From one upstream.
const EACH: usize = 32;
/// From all of them.
const ALL: usize = 128;
/// For so long a fetch waits for its turn.
const TURN: Duration = Duration::from_secs(30);

/// The fetches under way, by upstream.
#[derive(Default)]
pub(super) struct Slots {
    taken: Mutex<HashMap<String, usize>>,
    freed: Condvar,
}

/// Held during a fetch.
pub(super) struct Slot<'a>(&'a Slots, String);

impl Slots {
    /// Waits for a turn to fetch from `upstream`; `None` where none comes in time.
    pub(super) fn enter(&self, upstream: &str) -> Option<Slot<'_>> {
        let end = Instant::now() + TURN;
        let mut taken = self.taken.lock().expect("no holder panics");
        while taken.get(upstream).is_some_and(|n| *n >= EACH) || taken.values().sum::<usize>() >= ALL {
            let left = end.checked_duration_since(Instant::now())?;
            taken = self.freed.wait_timeout(taken, left).expect("no holder panics").0;
        }
        *taken.entry(upstream.to_string()).or_default() += 1;
        Some(Slot(self, upstream.to_string()))
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if let Some(n) = self.0.taken.lock().expect("no holder panics").get_mut(&self.1) {
            *n -= 1;
        }
        // who waits for another upstream cannot go on
        self.0.freed.notify_all();
    }
}
