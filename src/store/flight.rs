//! One does the work, the others wait for it.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// Work under way, by name. `T` is what the others are told of its outcome.
pub struct Flights<T> {
    table: Mutex<HashMap<String, Arc<Flight<T>>>>,
}

struct Flight<T> {
    state: Mutex<State<T>>,
    landed: Condvar,
}

enum State<T> {
    Flying,
    /// `None`: the leader gave up without a word.
    Landed(Option<T>),
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Flights { table: Mutex::default() }
    }
}

impl<T: Clone> Flights<T> {
    /// Does `work` for `name`, unless someone is at it: then waits for them and returns what they
    /// were left with.
    pub fn once(&self, name: &str, work: impl Fn() -> T) -> T {
        loop {
            let flight = {
                let mut table = lock(&self.table);
                match table.get(name) {
                    Some(flight) => flight.clone(),
                    None => {
                        let flight = Arc::new(Flight { state: Mutex::new(State::Flying), landed: Condvar::new() });
                        table.insert(name.to_string(), flight.clone());
                        drop(table);
                        let mut leader = Leader { flights: self, name, flight, outcome: None };
                        let outcome = work();
                        leader.outcome = Some(outcome.clone());
                        return outcome;
                    }
                }
            };
            let mut state = lock(&flight.state);
            loop {
                match &*state {
                    State::Flying => state = flight.landed.wait(state).expect("no holder panics"),
                    State::Landed(Some(outcome)) => return outcome.clone(),
                    State::Landed(None) => break, // our turn, perhaps
                }
            }
        }
    }
}

/// Lands the flight, on panic too.
struct Leader<'a, T: Clone> {
    flights: &'a Flights<T>,
    name: &'a str,
    flight: Arc<Flight<T>>,
    outcome: Option<T>,
}

impl<T: Clone> Drop for Leader<'_, T> {
    fn drop(&mut self) {
        lock(&self.flights.table).remove(self.name);
        *lock(&self.flight.state) = State::Landed(self.outcome.take());
        self.flight.landed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    #[test]
    fn one_works_for_all_who_came_meanwhile() {
        let flights = Flights::default();
        let worked = AtomicUsize::new(0);
        let (go, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        std::thread::scope(|s| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    s.spawn(|| {
                        flights.once("x", || {
                            gate.lock().unwrap().recv().unwrap();
                            worked.fetch_add(1, Ordering::SeqCst)
                        })
                    })
                })
                .collect();
            // all eight hold the flight: the table's reference, the leader's and seven waiters'
            while lock(&flights.table).get("x").is_none_or(|f| Arc::strong_count(f) < 9) {
                std::thread::yield_now();
            }
            go.send(()).unwrap();
            assert!(threads.into_iter().all(|t| t.join().unwrap() == 0));
        });
        assert_eq!(worked.load(Ordering::SeqCst), 1);
        assert_eq!(flights.once("x", || worked.fetch_add(1, Ordering::SeqCst)), 1, "what has landed is forgotten");
    }
}
