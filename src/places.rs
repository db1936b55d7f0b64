//! A bound on how many are at one thing at a time: requests that wait for upstreams, fetches from one, what is done
//! beside them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::Duration;

use crate::pool::STACK;

/// A number of places: as many as anybody wants, until it is bounded.
#[derive(Debug, Default)]
pub struct Places {
    taken: Mutex<usize>,
    freed: Condvar,
    bound: OnceLock<usize>,
}

/// One of them, until it is dropped.
pub struct Place(Arc<Places>);

impl Places {
    /// So many places.
    pub fn new(limit: usize) -> Arc<Self> {
        let places = Places::default();
        places.bound(limit);
        Arc::new(places)
    }

    /// From now on there are `limit` places. Said once.
    pub fn bound(&self, limit: usize) {
        let _ = self.bound.set(limit);
    }

    /// Takes a place, if one is free.
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        self.within(Duration::ZERO)
    }

    /// Takes a place as soon as one is free; `None` where none is in that time.
    pub fn within(self: &Arc<Self>, time: Duration) -> Option<Place> {
        self.one_of(self.state().1, time)
    }

    /// As [`Self::within`], for who goes on with what has begun: for these there are half as many places more.
    pub fn again(self: &Arc<Self>, time: Duration) -> Option<Place> {
        let most = self.state().1;
        self.one_of(most.saturating_add(most / 2), time)
    }

    /// Has `work` done by a thread called `name`, where a place is free: what hangs takes no more. Nobody waits for it,
    /// not even at the end.
    pub fn aside(self: &Arc<Self>, name: &str, work: impl FnOnce() + Send + 'static) {
        let Some(place) = self.take() else { return };
        let work = move || {
            let _place = place;
            work();
        };
        let spawned = thread::Builder::new().name(name.into()).stack_size(STACK).spawn(work);
        drop(spawned.inspect_err(|e| log::debug!("{name}: not done now: {e}")));
    }

    fn one_of(self: &Arc<Self>, most: usize, time: Duration) -> Option<Place> {
        let full = |taken: &mut usize| *taken >= most;
        let (mut taken, _) = self.freed.wait_timeout_while(self.lock(), time, full).expect("no holder panics");
        if full(&mut taken) {
            return None;
        }
        *taken += 1;
        Some(Place(self.clone()))
    }

    /// How many are taken, and how many there are.
    pub fn state(&self) -> (usize, usize) {
        (*self.lock(), *self.bound.get().unwrap_or(&usize::MAX))
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.taken.lock().expect("no holder panics")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.freed.notify_one();
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
        let more = places.again(Duration::ZERO);
        assert!(more.is_some() && places.again(Duration::ZERO).is_none());
        drop((a, more));
        assert_eq!(places.state(), (1, 2));
        assert!(places.take().is_some());
    }
}
