//! Memory for put bodies: a reader that would go over the budget waits for the workers.
//!
//! Invariants: the pieces alive together hold at most the limit, or are a single one. A piece is charged
//! for once its bytes are there, so that a client who stops in the middle of a body holds up nobody;
//! beside the budget each reader has one buffer that it fills.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// Buffers kept for the next piece.
const SPARE: usize = 16;
/// Buffers of fewer bytes are not kept.
const LARGE: usize = 64 * 1024;

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

    /// An empty buffer with room for `size` bytes.
    pub fn buffer(&self, size: usize) -> Vec<u8> {
        // small bodies are many and cheap to allocate
        let spare = if size >= LARGE { self.lock().spare.pop() } else { None };
        // a decoder may write a group of three past the end
        spare.unwrap_or_else(|| Vec::with_capacity(size + 3))
    }

    /// The bytes as a piece, once the budget allows for them.
    pub fn charge(self: &Arc<Self>, bytes: Vec<u8>) -> Piece {
        let charged = bytes.len();
        let over = |state: &mut State| state.used > 0 && state.used.saturating_add(charged) > self.limit;
        let mut state = self.freed.wait_while(self.lock(), over).expect("no holder panics");
        state.used += charged;
        Piece { bytes, charged, budget: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.used -= self.charged;
        if self.bytes.capacity() >= LARGE && state.spare.len() < SPARE {
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
        let piece = |n| budget.charge(vec![0; n]);
        let (a, _b) = (piece(60), piece(40));
        let other = budget.clone();
        let waiting = thread::spawn(move || drop(other.charge(vec![0; 50])));
        assert!(!waiting.is_finished());
        drop(a);
        waiting.join().unwrap();
    }

    #[test]
    fn one_piece_always_passes() {
        let budget = Budget::new(10);
        assert_eq!(budget.charge(vec![0; 1000]).charged, 1000);
    }
}
