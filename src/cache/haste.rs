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
//! the background, which those who fetch ahead make, are bounded, and what exceeds the bound is not asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Tier;
use super::id::ActionId;

/// Unlisted gets in a row that must miss before haste begins.
const PATIENCE: u32 = 16;
/// Gets asked about in the background at most.
pub const ASKING: usize = 64;

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

impl Tier {
    /// Asks for `action` in the background, unless there is too much to ask already; a find ends `streak`.
    pub fn ask(&self, action: ActionId, streak: &Arc<Streak>) {
        let Some(place) = self.asking.take() else { return };
        let (fetcher, streak) = (self.fetcher.clone(), streak.clone());
        self.fetchers.submit(move || {
            let _place = place;
            // what `go` has put itself in the meantime says nothing of the bucket
            if fetcher.fetch_ahead(&action, None).is_some() {
                streak.hit();
            }
        });
    }
}
