//! A bound on how many requests are at one thing at a time: waiting for upstreams, or tunnels. Each has
//! a connection and its thread, and some have to be left for what is answered at once.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::exchange::{Body, Reply};

/// A bounded number of places.
pub struct Places {
    taken: AtomicUsize,
    limit: usize,
}

/// One of them, until it is dropped.
pub struct Place(Arc<Places>);

impl Places {
    /// `limit` free places.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Places { taken: AtomicUsize::new(0), limit })
    }

    /// Takes a place, if one is free.
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        let more = |n| (n < self.limit).then_some(n + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Place(self.clone()))
    }

    /// How many are taken, and how many there are.
    pub fn state(&self) -> (usize, usize) {
        (self.taken.load(Ordering::Relaxed), self.limit)
    }
}

impl Place {
    /// The reply, whose body keeps the place for as long as it comes from an upstream.
    pub fn hold(self, mut reply: Reply) -> Reply {
        reply.body = match reply.body {
            Body::Stream(stream, len) => Body::Stream(Box::new(Held(stream, self)), len),
            body => body,
        };
        reply
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Held(Box<dyn Read + Send>, #[expect(dead_code, reason = "it is held")] Place);

impl Read for Held {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
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
        let stream = Body::Stream(Box::new(io::empty()), None);
        let reply = places.take().unwrap().hold(Reply::status(200).body(stream));
        assert_eq!(places.state(), (2, 2));
        drop(reply);
        drop(places.take().unwrap().hold(Reply::text(200, "at hand")));
        assert_eq!(places.state(), (1, 2));
    }
}
