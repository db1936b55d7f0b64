//! Memory for put bodies: a reader that would go over the budget waits for the workers.
//!
//! Invariant: the pieces alive together hold at most the limit, or are a single one.

use std::sync::{Arc, Condvar, Mutex};

/// Buffers kept for the next piece.
const SPARE: usize = 16;

/// The budget, shared by the sessions of a process.
pub struct Budget {
    limit: usize,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    used: usize,
    spare: Vec<Vec<u8>>,
}

/// A piece of a body; its memory goes back to the budget when it is dropped.
pub struct Piece {
    /// The bytes.
    pub bytes: Vec<u8>,
    charged: usize,
    budget: Arc<Budget>,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Arc::new(Budget { limit, state: Mutex::default(), freed: Condvar::new() })
    }

    /// An empty piece with room for `size` bytes, once the budget allows it.
    pub fn piece(self: &Arc<Self>, size: usize) -> Piece {
        let mut state = self.state.lock().expect("no holder panics");
        while state.used > 0 && state.used.saturating_add(size) > self.limit {
            state = self.freed.wait(state).expect("no holder panics");
        }
        state.used += size;
        // small bodies are many and cheap to allocate
        let bytes = if size >= 64 * 1024 { state.spare.pop() } else { None };
        drop(state);
        // a decoder may write a group of three past the end
        let bytes = bytes.unwrap_or_else(|| Vec::with_capacity(size + 3));
        Piece { bytes, charged: size, budget: self.clone() }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut state = self.budget.state.lock().expect("no holder panics");
        state.used -= self.charged;
        if self.charged >= 64 * 1024 && state.spare.len() < SPARE {
            state.spare.push(std::mem::take(&mut self.bytes));
        }
        drop(state);
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn who_would_go_over_waits() {
        let budget = Budget::new(100);
        let (a, _b) = (budget.piece(60), budget.piece(40));
        let other = budget.clone();
        let waiting = thread::spawn(move || drop(other.piece(50)));
        assert!(!waiting.is_finished());
        drop(a);
        waiting.join().unwrap();
    }

    #[test]
    fn one_piece_always_passes() {
        let budget = Budget::new(10);
        assert_eq!(budget.piece(1000).charged, 1000);
    }
}
