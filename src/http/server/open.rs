//! Which connections are open, for counting them, for making room and for cutting them off.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

use super::lock;

/// The connections that are open.
#[derive(Default)]
pub(super) struct Open {
    table: Mutex<Table>,
    closed: Condvar,
}

#[derive(Default)]
struct Table {
    seats: HashMap<u64, (Weak<TcpStream>, State)>,
    next: u64,
    stopping: bool,
}

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It waits for its client, since then.
    Idle(Instant),
    /// A request is being answered.
    Busy,
    /// A reply has taken it over.
    Taken,
}

/// A connection's place in the table; dropping it gives the place up.
pub(super) struct Entry {
    open: Arc<Open>,
    id: u64,
}

impl Open {
    /// Takes `socket` in.
    pub(super) fn add(self: &Arc<Self>, socket: &Arc<TcpStream>) -> Entry {
        let mut table = lock(&self.table);
        let id = table.next;
        table.next += 1;
        table.seats.insert(id, (Arc::downgrade(socket), State::Idle(Instant::now())));
        Entry { open: self.clone(), id }
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        lock(&self.table).seats.len()
    }

    /// Ends the one that has been idle for longest.
    pub(super) fn evict(&self) {
        let mut table = lock(&self.table);
        let idle = table.seats.values_mut().filter_map(|(socket, state)| match state {
            State::Idle(since) => Some((*since, socket, state)),
            _ => None,
        });
        if let Some((_, socket, state)) = idle.min_by_key(|(since, ..)| *since) {
            // the next one is another's turn
            *state = State::Busy;
            end(socket, Shutdown::Both);
        }
    }

    /// From now on none waits for another request; those that wait for one, and those taken over,
    /// see their client leave.
    pub(super) fn stop(&self) {
        let mut table = lock(&self.table);
        table.stopping = true;
        table.seats.values().filter(|s| s.1 != State::Busy).for_each(|s| end(&s.0, Shutdown::Read));
    }

    /// Whether [`Self::stop`] was called.
    pub(super) fn is_stopping(&self) -> bool {
        lock(&self.table).stopping
    }

    /// Ends them all.
    pub(super) fn cut_off(&self) {
        lock(&self.table).seats.values().for_each(|s| end(&s.0, Shutdown::Both));
    }

    /// Waits until none is open; false when `timeout` is over.
    pub(super) fn wait_closed(&self, timeout: Duration) -> bool {
        let table = lock(&self.table);
        let waited = self.closed.wait_timeout_while(table, timeout, |t| !t.seats.is_empty());
        !waited.expect("no holder panics").1.timed_out()
    }
}

fn end(socket: &Weak<TcpStream>, how: Shutdown) {
    if let Some(socket) = socket.upgrade() {
        let _ = socket.shutdown(how); // an error says that it is closed
    }
}

impl Entry {
    /// Notes what the connection is at. Whether it may go on: not with waiting, while stopping.
    pub(super) fn set(&self, state: State) -> bool {
        let mut table = lock(&self.open.table);
        let may = !table.stopping || state == State::Busy;
        if let Some(seat) = table.seats.get_mut(&self.id) {
            seat.1 = state;
        }
        may
    }

    /// Whether this answer is to be the last.
    pub(super) fn is_stopping(&self) -> bool {
        self.open.is_stopping()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.open.table).seats.remove(&self.id);
        self.open.closed.notify_all();
    }
}
