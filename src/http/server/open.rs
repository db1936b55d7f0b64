//! Which connections are open, for counting them and for cutting them off.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

use super::lock;

/// The connections that are open.
#[derive(Default)]
pub(super) struct Open {
    table: Arc<(Mutex<Sockets>, Condvar)>,
    next: AtomicU64,
}

/// By number: the socket, and whether a reply has taken it over.
type Sockets = HashMap<u64, (Weak<TcpStream>, bool)>;

/// A connection's place in the table; dropping it gives the place up.
pub(super) struct Entry {
    table: Arc<(Mutex<Sockets>, Condvar)>,
    id: u64,
}

impl Open {
    /// Takes `socket` in.
    pub(super) fn add(&self, socket: &Arc<TcpStream>) -> Entry {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.table.0).insert(id, (Arc::downgrade(socket), false));
        Entry { table: self.table.clone(), id }
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        lock(&self.table.0).len()
    }

    /// Shuts down those for which `which` is true, given whether a reply has taken them over.
    pub(super) fn shut_down(&self, how: Shutdown, which: impl Fn(bool) -> bool) {
        let sockets: Vec<_> =
            lock(&self.table.0).values().filter(|s| which(s.1)).filter_map(|s| s.0.upgrade()).collect();
        for socket in sockets {
            let _ = socket.shutdown(how); // an error says that it is closed
        }
    }

    /// Waits until none is open; false when `timeout` is over.
    pub(super) fn wait_closed(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut table = lock(&self.table.0);
        while !table.is_empty() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            table = self.table.1.wait_timeout(table, left).expect("no holder panics").0;
        }
        true
    }
}

impl Entry {
    /// Notes that a reply has taken the connection over.
    pub(super) fn set_taken(&mut self) {
        if let Some(socket) = lock(&self.table.0).get_mut(&self.id) {
            socket.1 = true;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut table = lock(&self.table.0);
        table.remove(&self.id);
        if table.is_empty() {
            self.table.1.notify_all();
        }
    }
}
