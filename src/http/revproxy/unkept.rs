//! What turned out not to be kept is remembered for a while: nobody waits for another's fetch of
//! it, and the bucket is not asked for it.
//!
//! Invariant: bounded, by forgetting everything when it is full.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard};

/// Names remembered.
const REMEMBER: usize = 4096;

/// The names.
#[derive(Default)]
pub struct Unkept(Mutex<HashSet<String>>);

impl Unkept {
    /// Whether `name` was not to be kept when it was fetched last.
    pub fn contains(&self, name: &str) -> bool {
        self.lock().contains(name)
    }

    /// Remembers whether `name` is kept.
    pub fn remember(&self, name: &str, kept: bool) {
        let mut names = self.lock();
        if kept {
            names.remove(name);
        } else {
            if names.len() >= REMEMBER {
                names.clear();
            }
            names.insert(name.to_string());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().expect("no holder panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_counts_and_memory_is_bounded() {
        let unkept = Unkept::default();
        unkept.remember("x", false);
        assert!(unkept.contains("x"));
        unkept.remember("x", true);
        assert!(!unkept.contains("x"));
        for n in 0..REMEMBER * 2 {
            unkept.remember(&n.to_string(), false);
        }
        assert!(unkept.lock().len() <= REMEMBER);
    }
}
