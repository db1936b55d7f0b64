//! How many fetches may be under way, so that upstreams that hang cost no more than that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::places::{Place, Places};

/// From one upstream.
const EACH: usize = 32;
/// From all of them.
const ALL: usize = 128;
/// For so long a fetch waits for its turn.
const TURN: Duration = Duration::from_secs(30);

/// The fetches under way, of all and by upstream.
pub(super) struct Slots {
    all: Arc<Places>,
    each: Mutex<HashMap<String, Arc<Places>>>,
}

impl Default for Slots {
    fn default() -> Self {
        Slots { all: Places::new(ALL), each: Mutex::default() }
    }
}

impl Slots {
    /// Waits for a turn to fetch from `upstream`, which is held during the fetch; `None` where none comes in time.
    pub(super) fn enter(&self, upstream: String) -> Option<[Place; 2]> {
        let (begun, mut each) = (Instant::now(), self.each.lock().expect("no holder panics"));
        let one = each.entry(upstream).or_insert_with(|| Places::new(EACH)).clone();
        drop(each);
        let one = one.within(TURN)?;
        Some([one, self.all.within(TURN.saturating_sub(begun.elapsed()))?])
    }
}
