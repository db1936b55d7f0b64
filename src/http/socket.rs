//! A connection: the socket, the TLS over it, how long its client may be waited for, and its place among
//! the others.
//!
//! Invariant: the time-out of each read and write of the socket itself is what its stage has left,
//! so that nothing above it (TLS) lets a client that drips live on.

mod stream;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::stream::Stream;
use crate::connections::{Entry, State};
use crate::platform;

/// Bytes a second at which a body is not too slow, in either direction, whatever its length.
pub const FLOOR: u64 = 1 << 10;
/// How often a blocked write tries again: the kernel wakes it only when much of its buffer is free,
/// which would make a slow reader look like one that has stopped.
const TICK: Duration = Duration::from_secs(2);

/// What the server allows its clients.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// Connections at a time, a thread each; each may need one to a server and a file beside its own. Default:
    /// 1,024, or a quarter of the files that the process may open.
    pub max_connections: usize,
    /// Requests that may wait for upstreams at a time. Default: 512, or an eighth of the files.
    pub max_waiting: usize,
    /// How long a connection may wait between requests. Default: 60 s.
    pub idle_timeout: Duration,
    /// How long a head may take from its first byte, and a TLS handshake in all. Default: 10 s.
    pub head_timeout: Duration,
    /// How long a body may pause, in either direction, or be slower than [`FLOOR`].
    /// Default: 30 s.
    pub io_timeout: Duration,
    /// How long [`Server::stop`](crate::http::server::Server::stop) waits for answers under way.
    /// Default: 10 s.
    pub grace: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        let files = platform::max_files().map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        ServerLimits {
            max_connections: (files / 4).clamp(16, 1024),
            max_waiting: (files / 8).clamp(4, 512),
            idle_timeout: Duration::from_secs(60),
            head_timeout: Duration::from_secs(10),
            io_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(10),
        }
    }
}

/// A socket, of a client or, without an entry, towards a server. A read or write that waits too long fails
/// with `TimedOut`.
pub struct Socket {
    tcp: Arc<TcpStream>,
    entry: Option<Entry>,
    limits: ServerLimits,
    patience: Patience,
    /// The time-outs that are set, of [`READ`] and [`WRITE`].
    set: [Duration; 2],
    /// Nothing is waited for here: who uses it polls.
    polled: bool,
}

const READ: usize = 0;
const WRITE: usize = 1;

/// How long a client may still be waited for. Time that others take (handlers, upstreams) does not
/// count.
#[derive(Default)]
struct Patience {
    left: Duration,
    /// Up to so much, each [`FLOOR`] bytes that move earn a second.
    most: Duration,
    /// The time in all that begins with the first byte.
    then: Option<Duration>,
}

impl Patience {
    fn note(&mut self, spent: Duration, moved: usize) {
        self.left = self.left.saturating_sub(spent);
        if moved > 0 {
            let earned = Duration::from_micros(moved as u64 * 1_000_000 / FLOOR);
            self.left = self.then.take().unwrap_or(self.left.max(self.most.min(self.left + earned)));
        }
    }
}

impl Socket {
    fn new(tcp: Arc<TcpStream>, entry: Option<Entry>, limits: ServerLimits) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        Ok(Socket { tcp, entry, limits, patience: Patience::default(), set: [Duration::ZERO; 2], polled: false })
    }

    /// A head is waited for: for [`ServerLimits::idle_timeout`], then, once it has `begun`, for
    /// [`ServerLimits::head_timeout`] in all.
    pub fn await_head(&mut self, begun: bool) {
        let (idle, head) = (self.limits.idle_timeout, self.limits.head_timeout);
        self.within(if begun { head } else { idle });
        self.patience.then = (!begun).then_some(head);
        self.set(State::Waiting(Instant::now()));
    }

    /// A request is there and will be answered, or the answer is; false when the connection has to leave instead.
    pub fn begin_answer(&mut self) -> bool {
        self.pace();
        self.set(State::Answering)
    }

    /// Something moves on a connection that a reply has taken over.
    pub fn has_moved(&self) {
        self.set(State::TakenOver(Instant::now()));
    }

    /// Who is told to leave takes `other` along.
    pub fn tie(&self, other: &Socket) {
        self.entry.iter().for_each(|entry| entry.tie(&other.tcp));
    }

    /// A body begins, of a request or an answer: it may pause for [`ServerLimits::io_timeout`], and
    /// has to be faster than [`FLOOR`].
    pub fn pace(&mut self) {
        let time = self.limits.io_timeout;
        self.patience = Patience { left: time, most: time, then: None };
    }

    /// All that follows may take `time`.
    pub fn within(&mut self, time: Duration) {
        self.patience = Patience { left: time, ..Patience::default() };
    }

    /// Whether the server stops.
    pub fn is_stopping(&self) -> bool {
        self.entry.as_ref().is_some_and(|entry| entry.open.is_stopping())
    }

    /// From now on a read or write that would wait fails with `WouldBlock`.
    pub fn poll(&mut self) -> io::Result<()> {
        self.polled = true;
        self.tcp.set_nonblocking(true)
    }

    /// The bare socket, to be polled.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    fn set(&self, state: State) -> bool {
        self.entry.as_ref().is_none_or(|entry| entry.set(state))
    }

    /// Does `io` until it moves something, within what is left of the patience.
    fn patiently(&mut self, way: usize, mut io: impl FnMut(&TcpStream) -> io::Result<usize>) -> io::Result<usize> {
        if self.polled {
            return io(&self.tcp);
        }
        loop {
            let left = self.patience.left;
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the other side is too slow"));
            }
            let time = if way == READ { left } else { left.min(TICK) };
            // most of the time it is the same, and that is a system call for each answer less
            if std::mem::replace(&mut self.set[way], time) != time {
                [TcpStream::set_read_timeout, TcpStream::set_write_timeout][way](&self.tcp, Some(time))?;
            }
            let begun = Instant::now();
            let got = io(&self.tcp);
            let (spent, moved) = (begun.elapsed(), *got.as_ref().unwrap_or(&0));
            self.patience.note(spent, moved);
            self.entry.iter().for_each(|entry| entry.note(spent, moved));
            match got {
                Err(e) if is_pause(&e) => {}
                got => return got,
            }
        }
    }
}

/// Whether an error only says that nothing moves at present.
pub fn is_pause(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.patiently(READ, |mut tcp| tcp.read(buf))
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.patiently(WRITE, |mut tcp| tcp.write(buf))
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
