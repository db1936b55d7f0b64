//! Memory for put bodies: a reader that would go over the budget waits for the workers.
//!
//! Invariants: the pieces alive together hold at most the limit, or are a single one. A piece is charged
//! for once its bytes are there, so that a client who stops in the middle of a body holds up nobody;
//! beside the budget each reader has one buffer that it fills.

use std::sync::{Arc, Condvar, Mutex};

use crate::spare::Lent;

/// The budget, shared by the sessions of a process.
pub struct Budget {
    limit: usize,
    used: Mutex<usize>,
    freed: Condvar,
}

/// A piece of a body; its memory goes back to the budget when it is dropped.
pub struct Piece {
    /// The bytes.
    pub bytes: Lent,
    charged: usize,
    budget: Arc<Budget>,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Arc::new(Budget { limit, used: Mutex::default(), freed: Condvar::new() })
    }

    /// The bytes as a piece, once the budget allows for them.
    pub fn charge(self: &Arc<Self>, bytes: Lent) -> Piece {
        let charged = bytes.len();
        let over = |used: &mut usize| *used > 0 && used.saturating_add(charged) > self.limit;
        let used = self.used.lock().expect("no holder panics");
        *self.freed.wait_while(used, over).expect("no holder panics") += charged;
        Piece { bytes, charged, budget: self.clone() }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        *self.budget.used.lock().expect("no holder panics") -= self.charged;
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spare;
    use std::thread;

    fn filled(len: usize) -> Lent {
        let mut bytes = spare::buffer(len);
        bytes.resize(len, 0);
        bytes
    }

    #[test]
    fn who_would_go_over_waits() {
        let budget = Budget::new(100);
        let piece = |n| budget.charge(filled(n));
        let (a, _b) = (piece(60), piece(40));
        let other = budget.clone();
        let waiting = thread::spawn(move || drop(other.charge(filled(50))));
        assert!(!waiting.is_finished());
        drop(a);
        waiting.join().unwrap();
    }

    #[test]
    fn one_piece_always_passes() {
        let budget = Budget::new(10);
        assert_eq!(budget.charge(filled(1000)).charged, 1000);
    }
}
