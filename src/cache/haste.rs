//! When to stop waiting for a bucket that has nothing for this build.
//!
//! `go` waits for each get, two to a few at a time, so a cold build pays one round trip for each of
//! its thousands of misses. After [`PATIENCE`] unlisted gets in a row have missed, the chance that
//! the next one hits is so small that waiting costs more than a needless compilation now and then:
//! the get is answered as a miss at once, and the bucket is asked in the background all the same.
//! The first find there ends the haste, and the output is in the local directory for the next get.
//! Without it the bucket bench's row "cold build that uploads all, 50 ms" is a fifth slower.
//!
//! Invariants: still at most one request a get; a get of a listed entry always waits; requests in
//! the background are bounded, and what exceeds the bound is not asked.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::fetch::Fetcher;
use super::id::ActionId;
use crate::places::Places;
use crate::pool::Pool;

/// Unlisted gets in a row that must miss before haste begins.
const PATIENCE: u32 = 16;
/// Threads that ask in the background.
const THREADS: usize = 8;
/// Gets waiting for them at most.
const QUEUE: usize = 64;

/// How many unlisted gets of one session have missed in a row.
#[derive(Default)]
pub struct Streak(AtomicU32);

impl Streak {
    /// Whether the next unlisted get should not wait.
    pub fn is_long(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= PATIENCE
    }

    /// An unlisted get has missed.
    pub fn miss(&self) {
        // far from the end of the range in any session, and a wrap would only end the haste
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The bucket had something that was not listed.
    pub fn hit(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Asks the bucket in the background.
pub struct Background {
    pool: Mutex<Pool>,
    waiting: Arc<Places>,
}

impl Default for Background {
    fn default() -> Self {
        Background { pool: Mutex::new(Pool::new("ask", THREADS, QUEUE)), waiting: Places::new(QUEUE) }
    }
}

impl Background {
    /// Asks for `action`, unless there is too much to ask already; a find ends `streak`.
    pub fn ask(&self, fetcher: &Arc<Fetcher>, action: ActionId, streak: &Arc<Streak>) {
        let Some(place) = self.waiting.take() else { return };
        let (fetcher, streak) = (fetcher.clone(), streak.clone());
        self.pool.lock().expect("no holder panics").submit(move || {
            let _place = place;
            // what `go` has put itself in the meantime says nothing of the bucket
            if fetcher.fetch_ahead(&action, None).is_some() {
                streak.hit();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn haste_begins_after_enough_misses_and_ends_with_a_find() {
        let streak = Streak::default();
        for _ in 0..PATIENCE {
            assert!(!streak.is_long());
            streak.miss();
        }
        assert!(streak.is_long());
        streak.hit();
        assert!(!streak.is_long());
    }
}
