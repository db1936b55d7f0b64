//! Memory for put bodies: a reader that would go over the budget waits for the workers.
//!
//! Invariants: the pieces alive together hold at most the limit, and one piece more for each session: a client who
//! takes no answers holds up its own workers, and with what these have not come to nobody else. A piece is charged
//! for once its bytes are there, so that a client who stops in the middle of a body holds up nobody;
//! beside the budget each reader has one buffer that it fills.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};

use crate::spare::Lent;

/// The budget, shared by the sessions of a process.
pub struct Budget {
    limit: usize,
    used: Mutex<usize>,
    freed: Condvar,
}

/// A session's part in it.
pub struct Share {
    budget: Arc<Budget>,
    /// Bytes of its pieces. Changed while those of all are locked.
    held: AtomicUsize,
}

/// A piece of a body; its memory goes back to the budget when it is dropped.
pub struct Piece {
    /// The bytes.
    pub bytes: Lent,
    charged: usize,
    share: Arc<Share>,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Arc::new(Budget { limit, used: Mutex::default(), freed: Condvar::new() })
    }

    /// The part of a session that begins.
    pub fn share(self: &Arc<Self>) -> Arc<Share> {
        Arc::new(Share { budget: self.clone(), held: AtomicUsize::new(0) })
    }
}

impl Share {
    /// The bytes as a piece, once the budget allows for them, or the session has no other.
    pub fn charge(self: &Arc<Self>, bytes: Lent) -> Piece {
        let (charged, Budget { limit, used, freed }) = (bytes.len(), &*self.budget);
        let over = |used: &mut usize| self.held.load(Relaxed) > 0 && used.saturating_add(charged) > *limit;
        let used = used.lock().expect("no holder panics");
        let mut used = freed.wait_while(used, over).expect("no holder panics");
        *used += charged;
        self.held.fetch_add(charged, Relaxed);
        Piece { bytes, charged, share: self.clone() }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let Budget { used, freed, .. } = &*self.share.budget;
        let mut used = used.lock().expect("no holder panics");
        *used -= self.charged;
        self.share.held.fetch_sub(self.charged, Relaxed);
        freed.notify_all();
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
        let budget = Budget::new(100).share();
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
        let _other = budget.share().charge(filled(1000));
        assert_eq!(budget.share().charge(filled(1000)).charged, 1000);
    }
}
