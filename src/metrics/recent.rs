//! The latest requests of every kind, for people who look at the status page.
//!
//! Off until someone can look: then a push costs a short lock and one small allocation, before
//! that one atomic load. Bounded in number and in the length of each text; no text holds a query or a
//! password.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use crate::text;

/// Requests kept.
const KEEP: usize = 50;
/// Bytes kept of the text of one.
const MAX_TEXT: usize = 240;

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentRequest {
    /// When the answer was ready.
    pub at: SystemTime,
    /// What kind of request: `get`, `put`, `module`, `proxy`, …
    pub kind: &'static str,
    /// What it asked for.
    pub what: String,
    /// What came of it: `hit, local`, `miss`, `fetch, cached`, …
    pub outcome: &'static str,
    /// Bytes of the body, where known.
    pub bytes: Option<u64>,
    /// How long it took.
    pub took: Duration,
}

/// The ring of the latest requests.
#[derive(Debug, Default)]
pub struct Recent {
    on: AtomicBool,
    ring: Mutex<VecDeque<RecentRequest>>,
}

impl Recent {
    /// From now on requests are kept.
    pub fn enable(&self) {
        self.on.store(true, Ordering::Relaxed);
    }

    /// Adds a request that was answered just now; `what` is called only if it is kept.
    pub fn push(
        &self,
        kind: &'static str,
        what: impl FnOnce() -> String,
        outcome: &'static str,
        bytes: Option<u64>,
        took: Duration,
    ) {
        if !self.on.load(Ordering::Relaxed) {
            return;
        }
        let mut what = text::without_secrets(&what());
        if what.len() > MAX_TEXT {
            what.truncate(what.floor_char_boundary(MAX_TEXT));
            what.push('…');
        }
        let request = RecentRequest { at: SystemTime::now(), kind, what, outcome, bytes, took };
        let mut ring = self.ring.lock().expect("no holder panics");
        if ring.len() == KEEP {
            ring.pop_front();
        }
        ring.push_back(request);
    }

    /// The requests kept, the latest first.
    pub fn list(&self) -> Vec<RecentRequest> {
        self.ring.lock().expect("no holder panics").iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept_and_none_before_anyone_can_look() {
        let r = Recent::default();
        r.push("get", || unreachable!("off"), "miss", None, Duration::ZERO);
        r.enable();
        for n in 0..KEEP + 5 {
            r.push("get", || format!("{n}"), "hit", Some(1), Duration::ZERO);
        }
        r.push("get", || "é".repeat(MAX_TEXT), "hit", None, Duration::ZERO);
        let list = r.list();
        assert_eq!(list.len(), KEEP);
        assert_eq!(list[1].what, format!("{}", KEEP + 4));
        assert_eq!(list[0].what, "é".repeat(MAX_TEXT / 2) + "…");
    }
}
