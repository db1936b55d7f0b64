//! Several who want one thing at once: one works for it, the others wait and are told what came
//! of it.
//!
//! Invariant: while a leader lives, no other leads for the same key; when it is gone, in whatever
//! way, everyone who waited goes on.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Work under way, by key. `T` is what the others are told of its outcome.
pub struct Flights<K, T = ()> {
    table: Mutex<HashMap<K, Arc<Flight<T>>>>,
}

struct Flight<T> {
    state: Mutex<State<T>>,
    landed: Condvar,
}

enum State<T> {
    Flying,
    Landed(Option<T>),
}

/// Who does the work.
pub enum Role<K: Hash + Eq, T> {
    /// The caller; the others wait until it lands or is dropped.
    Lead(Leader<K, T>),
    /// Someone else did it meanwhile, with that outcome; `None` when it ended without a word.
    Landed(Option<T>),
    /// Someone else is still at it, and the caller's patience is at its end.
    Late,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Flights { table: Mutex::default() }
    }
}

impl<K: Hash + Eq + Clone, T: Clone> Flights<K, T> {
    /// Leads the work for `key`, or waits for who does: for ever, or at most `patience`.
    pub fn join(self: &Arc<Self>, key: &K, patience: Option<Duration>) -> Role<K, T> {
        let flight = {
            let mut table = lock(&self.table);
            match table.get(key) {
                Some(flight) => flight.clone(),
                None => {
                    let flight = Arc::new(Flight { state: Mutex::new(State::Flying), landed: Condvar::new() });
                    table.insert(key.clone(), flight.clone());
                    return Role::Lead(Leader { flights: self.clone(), key: key.clone(), flight, outcome: None });
                }
            }
        };
        let (state, flying) = (lock(&flight.state), |state: &mut State<T>| matches!(state, State::Flying));
        let patience = patience.unwrap_or(Duration::MAX);
        let (state, _) = flight.landed.wait_timeout_while(state, patience, flying).expect("no holder panics");
        if let State::Landed(outcome) = &*state { Role::Landed(outcome.clone()) } else { Role::Late }
    }

    /// Does `work` for `key`, unless someone is at it: then waits for them and returns what they
    /// were left with.
    pub fn once(self: &Arc<Self>, key: &K, work: impl Fn() -> T) -> T {
        loop {
            match self.join(key, None) {
                Role::Lead(leader) => return leader.land(work()),
                Role::Landed(Some(outcome)) => return outcome,
                Role::Landed(None) | Role::Late => {} // our turn, perhaps
            }
        }
    }
}

/// Held by who works for all.
pub struct Leader<K: Hash + Eq, T> {
    flights: Arc<Flights<K, T>>,
    key: K,
    flight: Arc<Flight<T>>,
    outcome: Option<T>,
}

impl<K: Hash + Eq, T: Clone> Leader<K, T> {
    /// Tells the others what came of it.
    pub fn land(mut self, outcome: T) -> T {
        self.outcome = Some(outcome.clone());
        outcome
    }
}

impl<K: Hash + Eq, T> Drop for Leader<K, T> {
    fn drop(&mut self) {
        lock(&self.flights.table).remove(&self.key);
        *lock(&self.flight.state) = State::Landed(self.outcome.take());
        self.flight.landed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // whoever panicked did so while working, not while holding this
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn one_works_for_all_who_came_meanwhile() {
        let flights = Arc::new(Flights::default());
        let worked = AtomicUsize::new(0);
        let Role::Lead(leader) = flights.join(&"x", None) else { panic!("nobody else is there") };
        let work = || worked.fetch_add(1, Ordering::SeqCst) + 10;
        std::thread::scope(|s| {
            let waiting: Vec<_> = (0..8).map(|_| s.spawn(|| flights.once(&"x", work))).collect();
            // the table's reference, the leader's and eight waiters'
            while lock(&flights.table).get("x").is_none_or(|f| Arc::strong_count(f) < 10) {
                std::thread::yield_now();
            }
            leader.land(7);
            assert!(waiting.into_iter().all(|t| t.join().unwrap() == 7));
        });
        assert_eq!(worked.load(Ordering::SeqCst), 0);
        assert_eq!(flights.once(&"x", || 8), 8, "what has landed is forgotten");
        assert!(lock(&flights.table).is_empty());
    }

    #[test]
    fn patience_ends_and_other_keys_do_not_wait() {
        let flights = Arc::new(Flights::<_, ()>::default());
        let Role::Lead(leader) = flights.join(&1, None) else { panic!("nobody else is there") };
        assert!(matches!(flights.join(&1, Some(Duration::ZERO)), Role::Late));
        assert!(matches!(flights.join(&2, Some(Duration::ZERO)), Role::Lead(_)));
        drop(leader);
        assert!(matches!(flights.join(&1, Some(Duration::ZERO)), Role::Lead(_)), "ended without a word");
    }
}
