//! Answers at hand: those in memory, and what is known better of those on disk. Least recently used
//! first out, within a budget of bytes.
//!
//! Invariants: the sum of the costs of what is held never exceeds the capacity; a body of more than
//! [`Memory::max_body`] bytes is not taken; of one URL, a variant is held once, the latest first; the
//! lock is held for look-ups and exchanges only, never while a body is read or written.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use super::headers::HeaderMap;
use super::rules::{Rules, Variant, same_variant};

/// What an entry costs beside its bytes.
const OVERHEAD: usize = 512;
/// Variants held of one URL.
const VARIANTS: usize = 8;

/// An answer as it came.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Its headers, without those for one hop only.
    pub headers: HeaderMap,
    /// The request headers it varies by, with what the request said in them.
    pub variant: Variant,
    /// How it may be used.
    pub rules: Rules,
    /// The body, encoded as its headers say.
    pub body: Kept,
}

/// Where a body is.
#[derive(Clone, Debug)]
pub enum Kept {
    /// Here.
    Bytes(Arc<[u8]>),
    /// In the blob of that name, as long as its head is the one with that hash.
    Blob(String, [u8; 32]),
}

impl Answer {
    fn cost(&self) -> usize {
        let body = if let Kept::Bytes(bytes) = &self.body { bytes.len() } else { 0 };
        let headers: usize = self.headers.iter().map(|(n, v)| n.as_str().len() + v.len() + OVERHEAD / 8).sum();
        // the rules hold some of them once more
        body + 2 * headers + self.variant.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>() + OVERHEAD
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

#[derive(Default)]
struct Held {
    answers: Vec<Arc<Answer>>,
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

    /// The answer under `key`, fresh or stale, that suits `request`.
    pub fn get(&self, key: &str, request: &HeaderMap) -> Option<Arc<Answer>> {
        let mut state = self.lock();
        let held = state.entries.get(key)?;
        let answer = held.answers.iter().find(|answer| same_variant(&answer.variant, request))?.clone();
        state.touch(key);
        Some(answer)
    }

    /// Keeps an answer, in place of what was there of its variant. Returns false when it is too large.
    pub fn put(&self, key: &str, answer: Answer) -> bool {
        let cost = answer.cost();
        let mut state = self.lock();
        state.take_out(key, Some(&answer.variant));
        let too_large = matches!(&answer.body, Kept::Bytes(bytes) if bytes.len() > self.max_body());
        if too_large || cost > self.capacity {
            return false;
        }
        state.bytes += cost;
        let answers = &mut state.entries.entry(key.to_string()).or_default().answers;
        answers.insert(0, Arc::new(answer));
        if let Some(last) = (answers.len() > VARIANTS).then(|| answers.pop()).flatten() {
            state.bytes -= last.cost();
        }
        state.touch(key);
        while state.bytes > self.capacity {
            let oldest = state.order.first_key_value().map(|(_, k)| k.clone()).expect("bytes are those of entries");
            state.take_out(&oldest, None);
        }
        true
    }

    /// Drops what is under `key`, or of it the one variant.
    pub fn remove(&self, key: &str, variant: Option<&Variant>) {
        self.lock().take_out(key, variant);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

impl State {
    /// Takes note that `key` is used.
    fn touch(&mut self, key: &str) {
        self.clock += 1;
        if let Some(held) = self.entries.get_mut(key) {
            self.order.remove(&held.used);
            held.used = self.clock;
            self.order.insert(self.clock, key.to_string());
        }
    }

    fn take_out(&mut self, key: &str, variant: Option<&Variant>) {
        let Some(held) = self.entries.get_mut(key) else { return };
        let goes = |answer: &Arc<Answer>| variant.is_none_or(|variant| answer.variant == *variant);
        self.bytes -= held.answers.iter().filter(|answer| goes(answer)).map(|answer| answer.cost()).sum::<usize>();
        held.answers.retain(|answer| !goes(answer));
        if held.answers.is_empty() {
            self.order.remove(&held.used);
            self.entries.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::revproxy::tests::headers;
    use std::time::SystemTime;

    fn answer(bytes: usize) -> Answer {
        let rules = Rules::new(200, &HeaderMap::new(), SystemTime::now());
        let body = Kept::Bytes(vec![0; bytes].into());
        Answer { status: 200, headers: HeaderMap::new(), variant: Variant::new(), rules, body }
    }

    #[test]
    fn the_least_recently_used_go_first() {
        let (m, none) = (Memory::new(10_000), HeaderMap::new());
        for key in ["a", "b", "c", "d"] {
            assert!(m.put(key, answer(1_900)));
        }
        assert!(m.get("a", &none).is_some());
        assert!(m.put("e", answer(1_900)));
        assert!(m.get("b", &none).is_none(), "b was used longest ago");
        for key in ["a", "c", "d", "e"] {
            assert!(m.get(key, &none).is_some(), "{key}");
        }
        assert_eq!(m.lock().bytes, 4 * (1_900 + OVERHEAD));
    }

    #[test]
    fn bytes_are_accounted_for_when_entries_are_replaced_or_too_large() {
        let m = Memory::new(10_000);
        for n in 0..100 {
            m.put("same", answer(n * 10));
            m.put("many", Answer { variant: vec![("a".into(), n.to_string())], ..answer(10) });
            m.put(&format!("k{n}"), answer(700));
            assert!(m.lock().bytes <= 10_000);
        }
        assert!(m.lock().entries["many"].answers.len() <= VARIANTS);
        assert!(!m.put("same", answer(2_501)), "more than a quarter");
        assert!(m.get("same", &HeaderMap::new()).is_none(), "what was there is outdated");
        m.remove("many", None);
        for n in 0..100 {
            m.remove(&format!("k{n}"), None);
        }
        assert_eq!(m.lock().bytes, 0);
        assert!(m.lock().order.is_empty());
    }

    #[test]
    fn each_variant_is_for_who_asks_alike() {
        let m = Memory::new(10_000);
        let (a, b) = (headers(&[("origin", "a")]), headers(&[("origin", "b")]));
        let varies = headers(&[("vary", "origin")]);
        for (request, size) in [(&a, 1), (&b, 2), (&a, 3)] {
            m.put("k", Answer { variant: super::super::rules::variant(&varies, request), ..answer(size) });
        }
        let size = |request| match &m.get("k", request)?.body {
            Kept::Bytes(bytes) => Some(bytes.len()),
            Kept::Blob(..) => None,
        };
        assert_eq!((size(&a), size(&b), size(&HeaderMap::new())), (Some(3), Some(2), None));
    }
}
