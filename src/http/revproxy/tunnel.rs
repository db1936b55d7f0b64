//! The streams of CONNECT: TLS towards the client, and bytes carried both ways.
//!
//! Invariant: a tunnel ends when both directions have ended, one breaks, or nothing has moved for
//! [`IDLE`].

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::http::exchange::{Stream, is_pause};

/// A tunnel in which nothing moves is closed after this.
const IDLE: Duration = Duration::from_secs(300);
/// A handshake that takes longer is given up.
const HANDSHAKE: Duration = Duration::from_secs(15);
const CONNECT: Duration = Duration::from_secs(10);
/// How often a tunnel's reads look at the clock.
const TICK: Duration = Duration::from_secs(5);

/// TLS towards the client.
pub struct Secured {
    stream: StreamOwned<ServerConnection, Box<dyn Stream>>,
    /// Set when an answer broke off: then the end of the connection must not look like one.
    broken: Arc<AtomicBool>,
}

impl Secured {
    /// Shakes hands with the client.
    pub fn accept(stream: Box<dyn Stream>, config: Arc<ServerConfig>) -> io::Result<Self> {
        let connection = ServerConnection::new(config).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        let deadline = Instant::now() + HANDSHAKE;
        while stream.conn.is_handshaking() {
            match stream.conn.complete_io(&mut stream.sock) {
                Ok(_) => {}
                Err(e) if is_pause(&e) && Instant::now() < deadline => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Secured { stream, broken: Arc::default() })
    }

    /// To be set when an answer breaks off.
    pub fn broken(&self) -> Arc<AtomicBool> {
        self.broken.clone()
    }
}

impl Read for Secured {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.stream.read(buf) {
            // many clients leave without a word
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(0),
            other => other,
        }
    }
}

impl Write for Secured {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        if !self.broken.load(Ordering::Relaxed) {
            self.stream.conn.send_close_notify();
            // the client may be gone
            let _ = self.stream.flush();
        }
    }
}

/// A body that tells when it breaks off.
pub struct Watched {
    /// The body.
    pub body: Box<dyn Read + Send>,
    /// Set on an error.
    pub broken: Arc<AtomicBool>,
}

impl Read for Watched {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.body.read(buf).inspect_err(|e| {
            if e.kind() != ErrorKind::Interrupted {
                self.broken.store(true, Ordering::Relaxed);
            }
        })
    }
}

/// A bounded number of places.
pub struct Places {
    taken: AtomicUsize,
    limit: usize,
}

/// One of them, until it is dropped.
pub struct Place(Arc<Places>);

impl Places {
    /// `limit` free places.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Places { taken: AtomicUsize::new(0), limit })
    }

    /// Takes a place, if one is free.
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        let more = |n| (n < self.limit).then_some(n + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Place(self.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connects to `authority`, `host:port`, trying its addresses in turn.
pub fn dial(authority: &str) -> io::Result<TcpStream> {
    let deadline = Instant::now() + CONNECT;
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for addr in authority.to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(ErrorKind::TimedOut, "no answer in time"));
        }
        match TcpStream::connect_timeout(&addr, left) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(TICK))?;
                stream.set_write_timeout(Some(IDLE))?;
                return Ok(stream);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Carries bytes both ways until both directions have ended, one breaks, or nothing moves.
pub fn carry_both(mut client: Box<dyn Stream>, target: TcpStream) -> io::Result<()> {
    let socket = client.socket().ok_or_else(|| io::Error::other("not a socket"))?;
    let (to_client, stop_client) = (socket.try_clone()?, socket.try_clone()?);
    let (from_target, to_target) = (target.try_clone()?, target.try_clone()?);
    let clock = Clock { begin: Instant::now(), moved: AtomicU64::new(0) };
    std::thread::scope(|scope| {
        let back = std::thread::Builder::new().name("http-tunnel".to_string()).stack_size(256 << 10).spawn_scoped(
            scope,
            || {
                let done = carry(&mut &from_target, &to_client, &clock);
                if done.is_err() {
                    cut(&stop_client, &from_target);
                }
                done
            },
        );
        let back = back.inspect_err(|_| cut(&stop_client, &target))?;
        let there = carry(&mut *client, &to_target, &clock);
        if there.is_err() {
            cut(&stop_client, &target);
        }
        let back = back.join().map_err(|_| io::Error::other("a tunnel's thread panicked"))?;
        there.and(back)
    })
}

/// Ends both directions of both connections, so that whoever reads from them wakes up.
fn cut(client: &TcpStream, target: &TcpStream) {
    for socket in [client, target] {
        let _ = socket.shutdown(Shutdown::Both); // an error says that it is closed
    }
}

/// When something moved last, in either direction.
struct Clock {
    begin: Instant,
    moved: AtomicU64,
}

impl Clock {
    fn now(&self) -> u64 {
        self.begin.elapsed().as_millis() as u64
    }
    fn idle(&self) -> bool {
        self.now().saturating_sub(self.moved.load(Ordering::Relaxed)) > IDLE.as_millis() as u64
    }
}

/// Copies one direction to its end, and says the end to the other side.
fn carry(from: &mut dyn Read, mut to: &TcpStream, clock: &Clock) -> io::Result<()> {
    let mut piece = vec![0; 32 << 10];
    loop {
        match from.read(&mut piece) {
            Ok(0) => {
                // the other direction may go on for long
                let _ = to.shutdown(Shutdown::Write);
                return Ok(());
            }
            Ok(n) => {
                to.write_all(&piece[..n])?;
                clock.moved.store(clock.now(), Ordering::Relaxed);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if is_pause(&e) && !clock.idle() => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let places = Places::new(2);
        let (a, b) = (places.take(), places.take());
        assert!(a.is_some() && b.is_some() && places.take().is_none());
        drop(a);
        assert!(places.take().is_some());
    }
}
