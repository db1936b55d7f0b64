//! Tunnels: bytes carried both ways.
//!
//! Invariant: a tunnel ends when both directions have ended, one breaks, or nothing has moved for
//! [`IDLE`].

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::client::Reach;
use crate::http::exchange::Body;
use crate::http::socket::{Socket, is_pause};
use crate::places::Place;

/// A tunnel in which nothing moves is closed after this.
const IDLE: Duration = Duration::from_secs(300);
const CONNECT: Duration = Duration::from_secs(10);

/// The status that says why a target could not be connected to.
pub fn status(e: &io::Error) -> u16 {
    match e.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => 504,
        ErrorKind::PermissionDenied => 403,
        _ => 502,
    }
}

/// Connects to `port` of `host`, trying those of its addresses in turn that `reach` allows.
pub fn dial(reach: &Reach, host: &str, port: &str) -> io::Result<TcpStream> {
    let deadline = Instant::now() + CONNECT;
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for addr in format!("{host}:{port}").to_socket_addrs()? {
        if let Err(why) = reach.check(host, addr) {
            last = io::Error::new(ErrorKind::PermissionDenied, why);
            continue;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(ErrorKind::TimedOut, "no answer in time"));
        }
        match TcpStream::connect_timeout(&addr, left) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(IDLE))?;
                return Ok(stream);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// What carries bytes between the client and `target`, from which `came` was read already, and holds
/// `place` meanwhile; `what` is called so in the log.
pub fn takeover(place: Place, target: TcpStream, came: Vec<u8>, what: String) -> Body {
    Body::Takeover(Box::new(move |client| {
        let _place = place;
        if let Err(e) = carry_both(client, &target, &came) {
            log::debug!("{what} broke: {e}");
        }
    }))
}

/// Carries bytes both ways until both directions have ended, one breaks, or nothing moves; `came` was
/// read from the target already.
fn carry_both(mut client: Socket, target: &TcpStream, came: &[u8]) -> io::Result<()> {
    let (client, early) = client.parts();
    client.set_write_timeout(Some(IDLE))?;
    let clock = Clock { begin: Instant::now(), moved: AtomicU64::new(0) };
    let carry = |early: &[u8], from: &TcpStream, to: &TcpStream| {
        carry(early, from, to, &clock).inspect_err(|_| cut(client, target))
    };
    std::thread::scope(|scope| {
        let back = std::thread::Builder::new().name("http-tunnel".to_string()).stack_size(128 << 10);
        let back = back.spawn_scoped(scope, || carry(came, target, client))?;
        let there = carry(&early, client, target);
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
    /// How long nothing more may move.
    fn left(&self) -> Option<Duration> {
        let still = Duration::from_millis(self.now().saturating_sub(self.moved.load(Ordering::Relaxed)));
        IDLE.checked_sub(still).filter(|left| !left.is_zero())
    }
}

/// Copies one direction to its end, after what was read `early`, and says the end to the other side.
fn carry(early: &[u8], mut from: &TcpStream, mut to: &TcpStream, clock: &Clock) -> io::Result<()> {
    to.write_all(early)?;
    let mut piece = vec![0; 32 << 10];
    while let Some(left) = clock.left() {
        from.set_read_timeout(Some(left))?;
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
            Err(e) if e.kind() == ErrorKind::Interrupted || is_pause(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::new(ErrorKind::TimedOut, "nothing has moved for too long"))
}
