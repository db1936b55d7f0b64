//! A bound on how many are at one thing at a time: requests that wait for upstreams, tunnels.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bounded number of places.
#[derive(Debug)]
pub struct Places {
    taken: AtomicUsize,
    limit: AtomicUsize,
}

/// One of them, until it is dropped.
pub struct Place(Arc<Places>);

impl Default for Places {
    /// As many places as anybody wants.
    fn default() -> Self {
        Places { taken: AtomicUsize::new(0), limit: AtomicUsize::new(usize::MAX) }
    }
}

impl Places {
    /// So many places.
    pub fn new(limit: usize) -> Arc<Self> {
        let places = Places::default();
        places.set_limit(limit);
        Arc::new(places)
    }

    /// From now on there are `limit` places.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Takes a place, if one is free.
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        let more = |n| (n < self.limit.load(Ordering::Relaxed)).then_some(n + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Place(self.clone()))
    }

    /// How many are taken, and how many there are.
    pub fn state(&self) -> (usize, usize) {
        (self.taken.load(Ordering::Relaxed), self.limit.load(Ordering::Relaxed))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let places = Places::new(2);
        let (a, b) = (places.take(), places.take());
        assert!(a.is_some() && b.is_some() && places.take().is_none());
        drop(a);
        assert_eq!(places.state(), (1, 2));
        assert!(places.take().is_some());
    }
}
