//! Tunnels: bytes carried both ways, through whatever TLS ends here.
//!
//! Invariant: a tunnel ends when both directions have ended, one breaks, as it does when its client is
//! told to leave, or nothing has moved for [`IDLE`]; one direction that is stuck does not hold up the other.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::ops::Range;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use crate::client::Reach;
use crate::config::HostPort;
use crate::http::exchange::Body;
use crate::http::socket::{Stream, is_pause};

/// A tunnel in which nothing moves is closed after this.
const IDLE: Duration = Duration::from_secs(300);
/// Time to connect, and again for TLS.
pub const CONNECT: Duration = Duration::from_secs(10);
/// Bytes that are under way each way.
const PIECE: usize = 32 << 10;

/// The status that says why a target could not be connected to.
pub fn status(e: &io::Error) -> u16 {
    match e.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => 504,
        ErrorKind::PermissionDenied => 403,
        _ => 502,
    }
}

/// Connects to `host`, on `port` where it names none, trying those of its addresses in turn that `reach` allows.
pub fn dial(reach: &Reach, host: &HostPort, port: u16) -> io::Result<Stream> {
    let deadline = Instant::now() + CONNECT;
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for addr in (host.bare(), host.port().unwrap_or(port)).to_socket_addrs()? {
        if let Err(why) = reach.check(host.name(), addr) {
            last = io::Error::new(ErrorKind::PermissionDenied, why);
            continue;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(ErrorKind::TimedOut, "no answer in time"));
        }
        match TcpStream::connect_timeout(&addr, left) {
            Ok(stream) => return Stream::server(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// What carries bytes between the client and `target`; `what` is called so in the log.
pub fn takeover(target: Stream, what: String) -> Body {
    Body::Takeover(Box::new(move |mut client| {
        let mut target = target;
        client.socket().tie(target.socket());
        if let Err(e) = carry_both([client, target]) {
            log::debug!("{what} broke: {e}");
        }
    }))
}

fn carry_both(mut ends: [Stream; 2]) -> io::Result<()> {
    ends.iter_mut().try_for_each(|end| end.socket().poll())?;
    let mut ways = [Way::default(), Way::default()];
    loop {
        let [client, target] = &mut ends;
        let moved = ways[0].carry(client, target)? | ways[1].carry(target, client)?;
        if ways.iter().all(|way| way.ended) {
            return Ok(());
        }
        if moved {
            client.socket().has_moved();
        } else {
            wait(&mut ends, &ways)?;
        }
    }
}

/// One direction.
#[derive(Default)]
struct Way {
    piece: Vec<u8>,
    /// What of the piece is still to be written.
    rest: Range<usize>,
    /// The receiver takes nothing at present.
    full: bool,
    /// Nothing more comes.
    last: bool,
    /// The receiver was told so.
    ended: bool,
}

impl Way {
    /// Carries what can be carried at once; tells whether anything could.
    fn carry(&mut self, from: &mut Stream, to: &mut Stream) -> io::Result<bool> {
        let mut moved = false;
        if self.rest.is_empty() && !self.last {
            self.piece.resize(PIECE, 0);
            match from.read(&mut self.piece) {
                Err(e) if is_pause(&e) => {}
                read => {
                    let n = read?;
                    self.rest = 0..n;
                    (moved, self.last) = (true, n == 0);
                }
            }
        }
        if self.ended {
            return Ok(moved);
        }
        // TLS may hold some of what was written
        let sent = if self.rest.is_empty() { to.flush().map(|()| 0) } else { to.write(&self.piece[self.rest.clone()]) };
        self.full = matches!(&sent, Err(e) if is_pause(e));
        if !self.full {
            self.rest.start += sent?;
            self.ended = self.last && self.rest.is_empty();
            moved |= self.ended || !self.rest.is_empty();
        }
        if self.ended {
            to.end(false);
        }
        Ok(moved)
    }
}

/// Waits until something can be carried.
fn wait(ends: &mut [Stream; 2], ways: &[Way; 2]) -> io::Result<()> {
    let mut wanted = [PollFlags::empty(); 2];
    for (at, way) in ways.iter().enumerate() {
        wanted[at].set(PollFlags::IN, !way.last && way.rest.is_empty());
        wanted[1 - at].set(PollFlags::OUT, way.full);
    }
    // one of which nothing is wanted would be told of over and over once it is gone
    let polled = ends.iter_mut().zip(wanted).filter(|(_, wanted)| !wanted.is_empty());
    let mut polled: Vec<_> = polled.map(|(end, wanted)| PollFd::new(end.socket().tcp(), wanted)).collect();
    match poll(&mut polled, Some(&IDLE.try_into().expect("it is short"))) {
        Ok(0) => Err(io::Error::new(ErrorKind::TimedOut, "nothing has moved for too long")),
        Err(e) if e != rustix::io::Errno::INTR => Err(e.into()),
        _ => Ok(()),
    }
}
