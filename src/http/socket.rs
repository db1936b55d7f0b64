//! A client's connection: the socket, how long it may be waited for, and its place among the others.
//!
//! Invariant: the time-out of each read and write of the socket itself is what its stage has left,
//! so that nothing above it (TLS) lets a client that drips live on.

mod open;
mod secured;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use self::open::State;
pub use self::open::{Entry, Open, ServerLimits};
pub use self::secured::Secured;
use crate::platform;

/// Bytes a second at which a body is not too slow, in either direction, whatever its length.
pub const FLOOR: u64 = 1 << 10;
/// How often a blocked write tries again: the kernel wakes it only when much of its buffer is free,
/// which would make a slow reader look like one that has stopped.
const TICK: Duration = Duration::from_secs(2);

/// What requests are served over: a socket, or TLS over one.
pub trait Stream: Read + Write + Send + Sized {
    /// Whether it is a bare socket, which can be taken over.
    const BARE: bool = false;

    /// The socket below.
    fn socket(&mut self) -> &mut Socket;

    /// Says that no more is sent. Where an answer broke off, sees to it instead that the coming
    /// close does not look like the answer's end.
    fn end(&mut self, broken: bool);

    /// The socket, where there is nothing above it.
    fn take_over(self) -> Option<Socket> {
        None
    }

    /// Sends some of the next `len` bytes of `file` and moves the file's position past them; 0 at
    /// the end of the file.
    fn send_file(&mut self, mut file: &File, len: u64) -> io::Result<u64> {
        let mut piece = vec![0; len.min(64 << 10) as usize];
        let n = file.read(&mut piece)?;
        self.write_all(&piece[..n])?;
        Ok(n as u64)
    }
}

/// A client's socket. A read or write that waits too long fails with `TimedOut`.
pub struct Socket {
    entry: Entry,
    /// Bytes that were read before the connection was handed over.
    early: VecDeque<u8>,
    patience: Patience,
}

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
    /// The connection that `entry` stands for.
    pub fn new(entry: Entry) -> io::Result<Self> {
        entry.tcp.set_nodelay(true)?;
        Ok(Socket { entry, early: VecDeque::new(), patience: Patience::default() })
    }

    /// A head is waited for: for [`ServerLimits::idle_timeout`], then, once it has `begun`, for
    /// [`ServerLimits::head_timeout`] in all.
    pub fn await_head(&mut self, begun: bool) {
        let limits = &self.entry.open.limits;
        let (idle, head) = (limits.idle_timeout, limits.head_timeout);
        self.within(if begun { head } else { idle });
        self.patience.then = (!begun).then_some(head);
        self.entry.set(State::Waiting(Instant::now()));
    }

    /// A request is there and will be answered; false when the connection has to leave instead.
    pub fn begin_answer(&mut self) -> bool {
        self.pace();
        self.entry.set(State::Answering)
    }

    /// A body begins, of a request or an answer: it may pause for [`ServerLimits::io_timeout`], and
    /// has to be faster than [`FLOOR`].
    pub fn pace(&mut self) {
        let time = self.entry.open.limits.io_timeout;
        self.patience = Patience { left: time, most: time, then: None };
    }

    /// All that follows may take `time`.
    pub fn within(&mut self, time: Duration) {
        self.patience = Patience { left: time, ..Patience::default() };
    }

    /// Whether the server stops.
    pub fn is_stopping(&self) -> bool {
        self.entry.open.is_stopping()
    }

    /// Hands the connection over to a reply; `early` was read from it already.
    pub fn hand_over(&mut self, early: &[u8]) {
        self.early.extend(early);
        self.entry.set(State::TakenOver);
    }

    /// The bare socket, and what was read from it early, for who keeps time-outs by itself.
    pub fn parts(&mut self) -> (&TcpStream, Vec<u8>) {
        (&self.entry.tcp, self.early.drain(..).collect())
    }

    /// Does `io` until it moves something, within what is left of the patience.
    fn patiently(
        &mut self,
        set_timeout: fn(&TcpStream, Option<Duration>) -> io::Result<()>,
        at_a_time: Duration,
        mut io: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            let left = self.patience.left;
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the client is too slow"));
            }
            set_timeout(&self.entry.tcp, Some(left.min(at_a_time)))?;
            let begun = Instant::now();
            let got = io(&self.entry.tcp);
            self.patience.note(begun.elapsed(), *got.as_ref().unwrap_or(&0));
            match got {
                Err(e) if is_pause(&e) || e.kind() == io::ErrorKind::Interrupted => {}
                got => return got,
            }
        }
    }

    fn patient_write(&mut self, io: impl FnMut(&TcpStream) -> io::Result<usize>) -> io::Result<usize> {
        self.patiently(TcpStream::set_write_timeout, TICK, io)
    }
}

/// Whether an error only says that a time-out was over.
pub fn is_pause(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.early.read(buf)? {
            0 => self.patiently(TcpStream::set_read_timeout, Duration::MAX, |mut tcp| tcp.read(buf)),
            n => Ok(n),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.patient_write(|mut tcp| tcp.write(buf))
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Socket {
    const BARE: bool = true;

    fn socket(&mut self) -> &mut Socket {
        self
    }

    fn end(&mut self, broken: bool) {
        let tcp = &*self.entry.tcp;
        // an error says that the connection is gone already; with no time to linger, closing sends a reset
        if broken {
            let _ = rustix::net::sockopt::set_socket_linger(tcp, Some(Duration::ZERO));
        } else {
            let _ = tcp.shutdown(Shutdown::Write);
        }
    }

    fn take_over(self) -> Option<Socket> {
        Some(self)
    }

    fn send_file(&mut self, file: &File, len: u64) -> io::Result<u64> {
        // the pages go out uncopied: fine, for files of the cache are replaced, never changed
        let most = len.min(4 << 20) as usize;
        let sent = self.patient_write(|tcp| platform::send_file(tcp, file, most))?;
        Ok(sent as u64)
    }
}
