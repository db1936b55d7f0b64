//! What is remembered within a bound: a map that forgets what has not been used for longest.
//!
//! Invariant: all that is held costs no more than the bound, and what was used since half of that came in
//! is held. It is two maps: what is used is in the young one, which, once it costs half of the bound, takes
//! the old one's place.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard};

/// The map. A value that is large wants to be an `Arc`.
#[derive(Debug)]
pub struct Bounded<K, V = ()> {
    most: usize,
    held: Mutex<Held<K, V>>,
}

#[derive(Debug)]
struct Held<K, V> {
    young: HashMap<K, (V, usize)>,
    old: HashMap<K, (V, usize)>,
    /// Of the young.
    cost: usize,
}

impl<K: Hash + Eq, V: Clone> Bounded<K, V> {
    /// One that holds what costs `most`.
    pub fn new(most: usize) -> Self {
        let held = Held { young: HashMap::new(), old: HashMap::new(), cost: 0 };
        Bounded { most, held: Mutex::new(held) }
    }

    /// What is held of `key`.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let mut held = self.lock();
        if let Some((value, _)) = held.young.get(key) {
            return Some(value.clone());
        }
        let (key, (value, cost)) = held.old.remove_entry(key)?;
        held.add(self.most, key, value.clone(), cost);
        Some(value)
    }

    /// Holds `value`, which costs 1; tells whether nothing was held of `key`.
    pub fn insert(&self, key: K, value: V) -> bool {
        let mut new = false;
        self.change(key, |before| {
            new = before.is_none();
            Some((value, 1))
        });
        new
    }

    /// Forgets what is held of `key`.
    pub fn remove<Q: Hash + Eq + ?Sized>(&self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.lock().take(key);
    }

    /// Holds what `to` makes of what is held of `key`, and its cost; what costs more than half is not held.
    pub fn change(&self, key: K, to: impl FnOnce(Option<V>) -> Option<(V, usize)>) {
        let mut held = self.lock();
        let before = held.take(&key);
        if let Some((value, cost)) = to(before).filter(|(_, cost)| *cost <= self.most / 2) {
            held.add(self.most, key, value, cost);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held<K, V>> {
        self.held.lock().expect("no holder panics")
    }
}

impl<K: Hash + Eq, V> Held<K, V> {
    fn take<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let young = self.young.remove(key).inspect(|(_, cost)| self.cost -= cost);
        young.or_else(|| self.old.remove(key)).map(|(value, _)| value)
    }

    fn add(&mut self, most: usize, key: K, value: V, cost: usize) {
        if self.cost + cost > most / 2 {
            self.old = std::mem::take(&mut self.young);
            self.cost = 0;
        }
        self.cost += cost;
        self.young.insert(key, (value, cost));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(map: &Bounded<u32>) -> usize {
        let held = map.lock();
        held.young.len() + held.old.len()
    }

    #[test]
    fn what_is_used_stays_and_the_bound_holds() {
        let map = Bounded::new(8);
        for n in 0..1000 {
            assert!(map.insert(n, ()));
            assert!(map.get(&0).is_some() && held(&map) <= 8, "{n}");
        }
        assert!(!map.insert(0, ()) && map.get(&999).is_some() && map.get(&900).is_none());
        map.remove(&0);
        assert!(map.get(&0).is_none());
    }

    #[test]
    fn costs_are_counted_and_given_back() {
        let map = Bounded::new(100);
        let put = |key: u32, cost| map.change(key, |_| Some(((), cost)));
        put(1, 51);
        assert_eq!(held(&map), 0, "too much for it");
        for round in 0..10 {
            put(1, 50 - round);
            put(1, 1);
            let cost = map.lock().cost;
            assert_eq!((cost, held(&map)), (1, 1));
        }
        put(2, 49);
        put(3, 50);
        assert_eq!(held(&map), 3);
        put(4, 1);
        assert_eq!(held(&map), 2, "what came before the 50 is gone");
    }
}
