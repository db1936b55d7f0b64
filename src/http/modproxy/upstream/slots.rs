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

/// The fetches under way, by upstream, and those of all without a name.
#[derive(Default)]
pub(super) struct Slots(Mutex<HashMap<String, Arc<Places>>>);

impl Slots {
    /// Waits for a turn to fetch from `upstream`, which is held during the fetch; `None` where none comes in time.
    pub(super) fn enter(&self, upstream: String) -> Option<[Place; 2]> {
        let end = Instant::now() + TURN;
        let enter = |name, most| {
            let mut all = self.0.lock().expect("no holder panics");
            let places = all.entry(name).or_insert_with(|| Places::new(most)).clone();
            drop(all); // others need not wait along
            places.within(end.saturating_duration_since(Instant::now()))
        };
        Some([enter(upstream, EACH)?, enter(String::new(), ALL)?])
    }
}
