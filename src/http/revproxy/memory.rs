//! Short-lived answers in memory: least recently used first out, within a budget of bytes.
//!
//! Invariants: the sum of the costs of what is held never exceeds the capacity; an answer of more
//! than [`Memory::max_body`] bytes is not taken; the lock is held for look-ups and exchanges only,
//! never while a body is read or written.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::headers::Headers;
use super::policy::{self, Freshness};

/// What an entry costs beside its bytes.
const OVERHEAD: usize = 512;

/// An answer as it came.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its headers, without those for one hop only.
    pub headers: Headers,
    /// The request headers it varies by, see [`policy::variant`].
    pub variant: Headers,
    /// The body, encoded as its headers say.
    pub body: Arc<[u8]>,
    /// How long it may be used.
    pub freshness: Freshness,
    /// When it came.
    pub since: Instant,
}

impl Answer {
    /// How long it has been here.
    pub fn resident(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    fn cost(&self) -> usize {
        let text = |h: &Headers| h.iter().map(|(n, v)| n.len() + v.len() + OVERHEAD / 8).sum::<usize>();
        self.body.len() + text(&self.headers) + text(&self.variant) + OVERHEAD
    }
}

/// The store.
pub struct Memory {
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: HashMap<String, Held>,
    /// Keys by when they were used last.
    order: BTreeMap<u64, String>,
    clock: u64,
    bytes: usize,
}

struct Held {
    answer: Arc<Answer>,
    used: u64,
}

impl Memory {
    /// A store for `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Memory { capacity, state: Mutex::default() }
    }

    /// The largest body taken: a quarter of the capacity, so that one answer cannot push out all others.
    pub fn max_body(&self) -> usize {
        self.capacity / 4
    }

    /// The answer under `key`, fresh or stale, if it suits `request`.
    pub fn get(&self, key: &str, request: &Headers) -> Option<Arc<Answer>> {
        let mut state = self.lock();
        let state = &mut *state;
        let held = state.entries.get_mut(key)?;
        if !policy::same_variant(&held.answer.variant, request) {
            return None;
        }
        let key = state.order.remove(&held.used).expect("every entry is in the order");
        state.clock += 1;
        held.used = state.clock;
        state.order.insert(state.clock, key);
        Some(held.answer.clone())
    }

    /// Keeps an answer, in place of what was there. Returns false when it is too large.
    pub fn put(&self, key: &str, answer: Answer) -> bool {
        let cost = answer.cost();
        self.remove(key);
        if answer.body.len() > self.max_body() || cost > self.capacity {
            return false;
        }
        let mut state = self.lock();
        state.clock += 1;
        let used = state.clock;
        state.take_out(key); // another request may have put it meanwhile
        state.bytes += cost;
        state.order.insert(used, key.to_string());
        state.entries.insert(key.to_string(), Held { answer: Arc::new(answer), used });
        while state.bytes > self.capacity {
            let oldest = state.order.first_key_value().map(|(_, k)| k.clone()).expect("bytes are those of entries");
            state.take_out(&oldest);
        }
        true
    }

    /// Drops what is under `key`.
    pub fn remove(&self, key: &str) {
        self.lock().take_out(key);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

impl State {
    fn take_out(&mut self, key: &str) {
        if let Some(held) = self.entries.remove(key) {
            self.order.remove(&held.used);
            self.bytes -= held.answer.cost();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(bytes: usize) -> Answer {
        let freshness = Freshness { initial_age: Duration::ZERO, lifetime: Duration::from_secs(60) };
        let body = vec![0; bytes].into();
        Answer { headers: vec![], variant: vec![], body, freshness, since: Instant::now() }
    }

    #[test]
    fn the_least_recently_used_go_first() {
        let m = Memory::new(10_000);
        for key in ["a", "b", "c", "d"] {
            assert!(m.put(key, answer(1_900)));
        }
        assert!(m.get("a", &vec![]).is_some());
        assert!(m.put("e", answer(1_900)));
        assert!(m.get("b", &vec![]).is_none(), "b was used longest ago");
        for key in ["a", "c", "d", "e"] {
            assert!(m.get(key, &vec![]).is_some(), "{key}");
        }
        assert_eq!(m.lock().bytes, 4 * (1_900 + OVERHEAD));
    }

    #[test]
    fn bytes_are_accounted_for_when_entries_are_replaced_or_too_large() {
        let m = Memory::new(10_000);
        for n in 0..100 {
            m.put("same", answer(n * 10));
            m.put(&format!("k{n}"), answer(700));
            assert!(m.lock().bytes <= 10_000);
        }
        assert!(!m.put("same", answer(2_501)), "more than a quarter");
        assert!(m.get("same", &vec![]).is_none(), "what was there is outdated");
        for n in 0..100 {
            m.remove(&format!("k{n}"));
        }
        assert_eq!(m.lock().bytes, 0);
        assert!(m.lock().order.is_empty());
    }

    #[test]
    fn another_variant_is_a_miss() {
        let m = Memory::new(10_000);
        let request: Headers = vec![("origin".into(), "a".into())];
        let variant = policy::variant(&vec![("vary".into(), "origin".into())], &request);
        m.put("k", Answer { variant, ..answer(1) });
        assert!(m.get("k", &request).is_some());
        assert!(m.get("k", &vec![]).is_none());
    }
}
