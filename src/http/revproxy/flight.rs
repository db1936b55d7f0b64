//! Several clients that ask for one thing at once: one fetches, the others wait for it, but not
//! for long, since its client may be slow.
//!
//! What turned out not to be kept is remembered for a while: nobody waits for it, and the bucket is
//! not asked for it. The memory is bounded by forgetting everything when it is full.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Names remembered as not kept.
const REMEMBER: usize = 4096;

/// Fetches under way, by name.
#[derive(Default)]
pub struct Flights {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    flying: HashMap<String, Arc<Flight>>,
    not_kept: HashSet<String>,
}

#[derive(Default)]
struct Flight {
    landed: Mutex<bool>,
    changed: Condvar,
}

/// What to do about a name that the cache does not have.
pub enum Role {
    /// Fetch it; the others wait until this is dropped.
    Lead(Leader),
    /// Someone fetched it meanwhile: look again.
    LookAgain,
    /// Fetch it without anyone waiting.
    Alone,
}

/// Held by who fetches for all.
pub struct Leader {
    flights: Arc<Flights>,
    name: String,
}

impl Flights {
    /// Whether `name` was not to be kept when it was fetched last.
    pub fn is_not_kept(&self, name: &str) -> bool {
        lock(&self.table).not_kept.contains(name)
    }

    /// Joins the fetch of `name`: leads it, or waits for who does, at most `patience`.
    pub fn join(self: &Arc<Self>, name: &str, patience: Duration) -> Role {
        let flight = {
            let mut table = lock(&self.table);
            if table.not_kept.contains(name) {
                return Role::Alone;
            }
            match table.flying.get(name) {
                Some(flight) => flight.clone(),
                None => {
                    table.flying.insert(name.to_string(), Arc::default());
                    return Role::Lead(Leader { flights: self.clone(), name: name.to_string() });
                }
            }
        };
        let deadline = Instant::now() + patience;
        let mut landed = lock(&flight.landed);
        while !*landed {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return Role::Alone };
            landed = flight.changed.wait_timeout(landed, left).expect("no holder panics").0;
        }
        Role::LookAgain
    }

    /// Remembers whether `name` is kept.
    pub fn remember(&self, name: &str, kept: bool) {
        let mut table = lock(&self.table);
        if kept {
            table.not_kept.remove(name);
        } else {
            if table.not_kept.len() >= REMEMBER {
                table.not_kept.clear();
            }
            table.not_kept.insert(name.to_string());
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        let flight = lock(&self.flights.table).flying.remove(&self.name);
        if let Some(flight) = flight {
            *lock(&flight.landed) = true;
            flight.changed.notify_all();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_leads_and_the_others_wait_until_it_is_done() {
        let flights = Arc::new(Flights::default());
        let Role::Lead(leader) = flights.join("x", Duration::ZERO) else { panic!() };
        assert!(matches!(flights.join("x", Duration::ZERO), Role::Alone), "not for ever");
        assert!(matches!(flights.join("y", Duration::ZERO), Role::Lead(_)));
        std::thread::scope(|s| {
            let waiting = s.spawn(|| flights.join("x", Duration::from_secs(60)));
            while Arc::strong_count(&lock(&flights.table).flying["x"]) < 2 {
                std::thread::yield_now();
            }
            drop(leader);
            assert!(matches!(waiting.join().unwrap(), Role::LookAgain));
        });
        assert!(lock(&flights.table).flying.is_empty());
    }

    #[test]
    fn nobody_waits_for_what_is_not_kept() {
        let flights = Arc::new(Flights::default());
        flights.remember("x", false);
        assert!(flights.is_not_kept("x") && matches!(flights.join("x", Duration::MAX), Role::Alone));
        flights.remember("x", true);
        assert!(matches!(flights.join("x", Duration::ZERO), Role::Lead(_)));
        for n in 0..REMEMBER * 2 {
            flights.remember(&n.to_string(), false);
        }
        assert!(lock(&flights.table).not_kept.len() <= REMEMBER);
    }
}
