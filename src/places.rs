//! A bound on how many are at one thing at a time: requests that wait for upstreams, fetches from one, tunnels.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

/// How long a place is waited for that somebody was told to give up.
const SOON: Duration = Duration::from_secs(2);

/// Has one who holds a place and is slow with it give it up; false where nobody is.
type MakeRoom = dyn Fn() -> bool + Send + Sync;

/// A number of places: as many as anybody wants, until it is bounded.
#[derive(Default)]
pub struct Places {
    taken: Mutex<usize>,
    freed: Condvar,
    bound: OnceLock<(usize, Box<MakeRoom>)>,
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.state())
    }
}

/// One of them, until it is dropped.
pub struct Place(Arc<Places>);

impl Places {
    /// So many places, which nobody has to give up.
    pub fn new(limit: usize) -> Arc<Self> {
        let places = Places::default();
        places.bound(limit, || false);
        Arc::new(places)
    }

    /// From now on there are `limit` places, and who finds none has `make_room` called. Said once.
    pub fn bound(&self, limit: usize, make_room: impl Fn() -> bool + Send + Sync + 'static) {
        let _ = self.bound.set((limit, Box::new(make_room)));
    }

    /// Takes a place, if one is free, or is soon.
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        let make_room = || self.bound.get().is_some_and(|(_, make_room)| make_room());
        self.within(Duration::ZERO).or_else(|| make_room().then(|| self.within(SOON))?)
    }

    /// Takes a place as soon as one is free; `None` where none is in that time.
    pub fn within(self: &Arc<Self>, time: Duration) -> Option<Place> {
        let most = self.state().1;
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
        (*self.lock(), self.bound.get().map_or(usize::MAX, |(limit, _)| *limit))
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
        drop(a);
        assert_eq!(places.state(), (1, 2));
        assert!(places.take().is_some());
    }

    #[test]
    fn who_is_slow_makes_room() {
        let (places, held) = (Arc::new(Places::default()), Arc::new(Mutex::new(Vec::new())));
        let slow = held.clone();
        // gives it up later, as another thread does
        places.bound(2, move || slow.lock().unwrap().pop().map(|place| std::thread::spawn(|| drop(place))).is_some());
        let fast = places.take();
        held.lock().unwrap().extend(places.take());
        assert!(fast.is_some() && places.take().is_some_and(|_| held.lock().unwrap().is_empty()));
        let _other = places.take();
        assert!(places.take().is_none(), "nobody is slow");
    }
}
