//! Answers at hand: those in memory, and what is known better of those on disk, within a bound of bytes.
//!
//! Invariants: a body of more than [`Memory::max_body`] bytes is not taken; of one URL, a variant is held
//! once, the latest first.

use std::sync::Arc;
use std::time::SystemTime;

use super::rules::{Rules, Terms, Variant, same_variant, variant};
use crate::bounded::Bounded;
use crate::headers::HeaderMap;
use crate::id::OutputId;

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
    /// The body, encoded as its headers say; empty where it is in a blob.
    pub body: Arc<[u8]>,
    /// The name of that blob, and the hash of the head that it has there.
    pub blob: Option<(String, OutputId)>,
}

impl Answer {
    /// The answer to a request on these terms that came at `at`, without a body as yet.
    pub fn new(status: u16, headers: HeaderMap, terms: &Terms, at: SystemTime) -> Self {
        let (rules, variant) = (Rules::new(status, &headers, at), variant(&headers, &terms.headers));
        Answer { status, headers, variant, rules, body: Arc::new([]), blob: None }
    }

    fn cost(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(n, v)| n.as_str().len() + v.len() + OVERHEAD / 8).sum();
        // the rules hold some of them once more
        self.body.len() + 2 * headers + self.variant.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>() + OVERHEAD
    }
}

/// The store.
pub struct Memory {
    capacity: usize,
    held: Bounded<String, Arc<[Arc<Answer>]>>,
}

impl Memory {
    /// A store for `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Memory { capacity, held: Bounded::new(capacity) }
    }

    /// The largest body taken: a small part of the capacity, since each answer on its way to a client, however
    /// slow, holds as much beside that.
    pub fn max_body(&self) -> usize {
        self.capacity / 40
    }

    /// The answer under `key`, fresh or stale, that suits `request`.
    pub fn get(&self, key: &str, request: &HeaderMap) -> Option<Arc<Answer>> {
        self.held.get(key)?.iter().find(|answer| same_variant(&answer.variant, request)).cloned()
    }

    /// Keeps an answer, in place of what was there of its variant. Returns false when it is too large.
    pub fn put(&self, key: &str, answer: &Answer) -> bool {
        let too_large = answer.body.len() > self.max_body();
        self.change(key, Some(&answer.variant), (!too_large).then(|| Arc::new(answer.clone())));
        !too_large
    }

    /// Drops what is under `key`, or of it the one variant.
    pub fn remove(&self, key: &str, variant: Option<&Variant>) {
        self.change(key, variant, None);
    }

    fn change(&self, key: &str, goes: Option<&Variant>, new: Option<Arc<Answer>>) {
        let stays = |answer: &&Arc<Answer>| goes.is_some_and(|goes| answer.variant != *goes);
        self.held.change(key.to_string(), |held| {
            let held = held.iter().flat_map(|held| held.iter()).filter(stays).cloned();
            let answers: Arc<[_]> = new.into_iter().chain(held).take(VARIANTS).collect();
            let cost = answers.iter().map(|answer| answer.cost()).sum();
            (!answers.is_empty()).then_some((answers, cost))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::revproxy::tests::headers;
    fn answer(bytes: usize) -> Answer {
        let rules = Rules::new(200, &HeaderMap::new(), SystemTime::now());
        let body = vec![0; bytes].into();
        Answer { status: 200, headers: HeaderMap::new(), variant: Variant::new(), rules, body, blob: None }
    }

    #[test]
    fn each_variant_is_for_who_asks_alike() {
        let m = Memory::new(10_000);
        let (a, b) = (headers(&[("origin", "a")]), headers(&[("origin", "b")]));
        let varies = headers(&[("vary", "origin")]);
        for (request, size) in [(&a, 1), (&b, 2), (&a, 3)] {
            m.put("k", &Answer { variant: variant(&varies, request), ..answer(size) });
        }
        let size = |request| m.get("k", request).map(|answer| answer.body.len());
        assert_eq!((size(&a), size(&b), size(&HeaderMap::new())), (Some(3), Some(2), None));
    }

    #[test]
    fn variants_are_few_and_what_is_too_large_takes_the_old_one_along() {
        let m = Memory::new(100_000);
        for n in 0..100 {
            m.put("many", &Answer { variant: vec![("a".into(), n.to_string())], ..answer(10) });
        }
        assert_eq!(m.held.get("many").unwrap().len(), VARIANTS);
        assert!(m.put("same", &answer(2_500)) && !m.put("same", &answer(2_501)), "more than its part");
        assert!(m.get("same", &HeaderMap::new()).is_none(), "what was there is outdated");
    }
}
