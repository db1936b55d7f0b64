//! Which connections of clients are open, of HTTP as of plugins, what each of them is at, and which goes when there are
//! too many.
//!
//! Invariants: there are never more than the cap, but for some that were told to leave; room is made by the
//! connection that has been longest without a whole request, and only where all have one by a client that is
//! slow with its answer or request, the slowest, or the tunnel in which nothing has moved for longest, never by
//! one that takes or sends what it can; one that was told to leave begins no answer.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long who waits for room sleeps before it looks again.
const TICK: Duration = Duration::from_millis(50);

/// Where there is no room, a client counts as slow below so many bytes a second,
const CROWDED: u64 = 16 << 10;
/// once that has cost so much time.
const SLOW: Duration = Duration::from_secs(5);

/// Listens on `addr`. The error says what to do.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(addr).map_err(|e| {
        let hint = match e.kind() {
            io::ErrorKind::AddrInUse => "; another program listens there: stop it or choose another port",
            io::ErrorKind::PermissionDenied => "; choose a port above 1023",
            io::ErrorKind::AddrNotAvailable => "; that is no address of this machine",
            _ => "",
        };
        io::Error::new(e.kind(), format!("cannot listen on {addr}: {e}{hint}"))
    })
}

/// The connections that are open.
pub struct Open {
    /// There may be so many at a time.
    pub most: usize,
    table: Mutex<Table>,
    /// Told when a connection is gone, and when the server stops.
    changed: Condvar,
}

#[derive(Default)]
struct Table {
    slots: HashMap<u64, Slot>,
    next: u64,
    stopping: bool,
}

struct Slot {
    tcp: Arc<TcpStream>,
    /// What a tunnel leads to.
    tied: Option<Arc<TcpStream>>,
    state: State,
    behind: Arc<AtomicU64>,
}

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Without a whole request since then.
    Waiting(Instant),
    /// A request is being answered.
    Answering,
    /// A reply has taken it over, and nothing has moved since then.
    TakenOver(Instant),
    /// Told to leave.
    Leaving,
}

/// A connection's place in the table; dropping it gives the place up.
pub struct Entry {
    pub open: Arc<Open>,
    pub tcp: Arc<TcpStream>,
    /// Microseconds that were waited for the client in this turn, beyond what one at [`CROWDED`] would need.
    behind: Arc<AtomicU64>,
    /// The connection's number.
    pub id: u64,
}

impl Open {
    /// None are open yet, and there may be `most` at a time.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Open { most, table: Mutex::default(), changed: Condvar::new() })
    }

    /// A place for a new connection, as soon as there is one; an error when the server stops.
    pub fn admit(self: &Arc<Self>, tcp: TcpStream) -> io::Result<Entry> {
        let (mut table, most) = (self.lock(), self.most);
        while table.slots.len() >= most && !table.stopping {
            // those on their way out count too, from some number on
            if table.slots.len() < most + most / 8 && table.dismiss_one() {
                break;
            }
            table = self.changed.wait_timeout(table, TICK).expect("no holder panics").0;
        }
        if table.stopping {
            return Err(io::Error::other("the server stops"));
        }
        let (tcp, id, behind) = (Arc::new(tcp), table.next, Arc::default());
        table.next += 1;
        let state = State::Waiting(Instant::now());
        table.slots.insert(id, Slot { tcp: tcp.clone(), tied: None, state, behind: Arc::clone(&behind) });
        Ok(Entry { open: self.clone(), tcp, behind, id })
    }

    /// The process is out of files, or of threads: sends one connection away, and waits for a moment.
    pub fn make_room(&self) {
        let mut table = self.lock();
        table.dismiss_one();
        drop(self.changed.wait_timeout(table, TICK).expect("no holder panics"));
    }

    /// How many are open, and how many of them are without a whole request at present.
    pub fn state(&self) -> (usize, usize) {
        let table = self.lock();
        let waiting = table.slots.values().filter(|slot| matches!(slot.state, State::Waiting(_))).count();
        (table.slots.len(), waiting)
    }

    /// From now on nobody is admitted, and connections leave as soon as no answer is under way.
    pub fn stop(&self) {
        let mut table = self.lock();
        table.stopping = true;
        table.slots.values_mut().for_each(Slot::dismiss);
        self.changed.notify_all();
    }

    /// Whether [`Self::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    /// Cuts every connection off.
    pub fn cut_off(&self) {
        self.lock().slots.values_mut().for_each(Slot::leave);
    }

    /// Waits until none is open; false when `timeout` is over.
    pub fn wait_closed(&self, timeout: Duration) -> bool {
        let (table, _) =
            self.changed.wait_timeout_while(self.lock(), timeout, |t| !t.slots.is_empty()).expect("no holder panics");
        table.slots.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no holder panics")
    }
}

impl Table {
    /// Sends the connection away that has been longest without a whole request, or else the slowest, if there is one.
    fn dismiss_one(&mut self) -> bool {
        let rank = |slot: &Slot| match slot.state {
            State::Waiting(since) => Some((true, since.elapsed())),
            State::Answering => Some((false, Duration::from_micros(slot.behind.load(Ordering::Relaxed)))),
            State::TakenOver(since) => Some((false, since.elapsed())),
            State::Leaving => None,
        };
        let ranked = self.slots.values_mut().filter_map(|slot| Some((rank(slot)?, slot)));
        let goes = ranked.filter(|((waits, time), _)| *waits || *time > SLOW).max_by_key(|(rank, _)| *rank);
        goes.map(|(_, slot)| slot.leave()).is_some()
    }
}

impl Slot {
    /// Lets a connection go on that is in the midst of an answer, and no other.
    fn dismiss(&mut self) {
        match self.state {
            State::Waiting(_) => self.leave(),
            // what took it over sees the client leave
            State::TakenOver(_) => drop(self.tcp.shutdown(Shutdown::Read)),
            State::Answering | State::Leaving => {}
        }
    }

    /// Wakes the connection's thread, where it waits for its client. An error of the shutdown says
    /// that the connection is closed.
    fn leave(&mut self) {
        self.state = State::Leaving;
        for tcp in self.tied.iter().chain([&self.tcp]) {
            let _ = tcp.shutdown(Shutdown::Both);
        }
    }
}

impl Entry {
    /// The connection, to be used by who answers no requests: told to end, it has no more input.
    pub fn taken_over(&self) -> &TcpStream {
        self.set(State::TakenOver(Instant::now()));
        &self.tcp
    }

    /// Notes that the client was waited for, and how many bytes that moved.
    pub fn note(&self, spent: Duration, moved: usize) {
        let behind = self.behind.load(Ordering::Relaxed) + spent.as_micros() as u64;
        self.behind.store(behind.saturating_sub(moved as u64 * 1_000_000 / CROWDED), Ordering::Relaxed);
    }

    /// Notes what ends with the connection.
    pub fn tie(&self, tcp: &Arc<TcpStream>) {
        let mut table = self.open.lock();
        table.slots.get_mut(&self.id).expect("an entry has its slot until it is dropped").tied = Some(tcp.clone());
    }

    /// Notes what the connection is at; false when it has to leave.
    pub fn set(&self, state: State) -> bool {
        let mut table = self.open.lock();
        let stopping = table.stopping;
        let slot = table.slots.get_mut(&self.id).expect("an entry has its slot until it is dropped");
        match (slot.state, state) {
            (State::Leaving, _) => return false,
            (State::Waiting(_), State::Waiting(_)) => {} // since then still
            _ => slot.state = state,
        }
        self.behind.store(0, Ordering::Relaxed);
        if stopping {
            slot.dismiss();
        }
        true
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.open.lock().slots.remove(&self.id);
        self.open.changed.notify_all();
    }
}
