//! How a connection sends its answers: queued and sent as far as they go, or streamed.

use std::io::{self, Read};
use std::time::Instant;

use super::ServerLimits;
use super::conn::{Conn, Stage, Step};
use super::transport::{Interest, Transport, is_pause};
use crate::http::exchange::{Body, Framing, Persistence, Reply, head_bytes};

/// Files up to this size leave in one write with their head.
const SMALL_FILE: u64 = 64 << 10;

impl<T: Transport> Conn<T> {
    /// Queues an answer that can be sent without blocking.
    pub(super) fn begin_answer(&mut self, reply: Reply, framed: Framed) {
        let length = match &reply.body {
            Body::Empty | Body::Takeover(_) => Some(0),
            Body::Bytes(b) => Some(b.len() as u64),
            Body::File(_, n) => Some(*n),
            Body::Stream(_, n) => *n,
        };
        let bodiless = framed.bodiless(reply.status);
        let framing = match length {
            _ if matches!(reply.status, 100..=199 | 204 | 304) => Framing::None,
            Some(n) => Framing::Length(n),
            None if framed.http10 => Framing::None,
            None => Framing::Chunked,
        };
        self.last = !framed.keep;
        self.out = head_bytes(reply.status, &reply.headers, framing, framed.persistence());
        self.sent = 0;
        match reply.body {
            Body::Bytes(b) if !bodiless => self.out.extend_from_slice(&b),
            Body::File(mut file, n) if !bodiless && n > 0 => {
                if n > SMALL_FILE {
                    self.file = Some((file, n));
                } else if (&mut file).take(n).read_to_end(&mut self.out).is_ok_and(|got| got as u64 == n) {
                    // sent with the head
                } else {
                    // the length is told already: a cut is all that is left to say
                    self.last = true;
                }
            }
            _ => {}
        }
        self.stage = Stage::Answer;
        self.waiting_since = Instant::now();
    }

    /// Sends what is queued, as far as it goes.
    pub(super) fn send(&mut self) -> io::Result<Step> {
        let mut wire = self.wire.lock().expect("no holder panics");
        let mut progress = false;
        let done = loop {
            let sent = if self.sent < self.out.len() {
                wire.stream.write(&self.out[self.sent..]).map(|n| {
                    self.sent += n;
                    n as u64
                })
            } else if let Some((file, left)) = &mut self.file {
                let sent = wire.stream.send_file(file, *left);
                if let Ok(n) = sent {
                    *left -= n;
                    if *left == 0 {
                        self.file = None;
                    }
                }
                sent
            } else {
                break Ok(Step::Go);
            };
            match sent {
                // a file that is shorter than it was, or a connection that takes nothing more
                Ok(0) => break Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => progress = true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_pause(&e) => break Ok(Step::Wait(Interest::Write)),
                Err(e) => break Err(e),
            }
        };
        if matches!(done, Ok(Step::Go)) {
            wire.stream.flush()?;
        }
        drop(wire);
        let now = Instant::now();
        if progress {
            self.waiting_since = now;
        }
        if matches!(done, Ok(Step::Go)) {
            self.out = Vec::new();
            self.sent = 0;
            self.idle_since = now;
            self.waiting_since = now;
            self.stage = if self.last { Stage::Closing(0) } else { Stage::Idle };
        }
        done
    }

    /// Sends all that is queued, waiting for the client.
    pub(super) fn flush_now(&mut self, limits: &ServerLimits) -> io::Result<()> {
        self.waiting_since = Instant::now();
        loop {
            match self.send()? {
                Step::Wait(interest) => {
                    let left = (self.waiting_since + limits.io_timeout).saturating_duration_since(Instant::now());
                    if left.is_zero() || !self.wire().stream.wait(interest, left)? {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    /// Sends an answer whose body is a stream. An error breaks the connection off.
    pub(super) fn stream(
        &mut self,
        status: u16,
        headers: &[(String, String)],
        mut body: Box<dyn Read + Send>,
        len: Option<u64>,
        mut framed: Framed,
        limits: &ServerLimits,
    ) -> io::Result<()> {
        let framing = match len {
            Some(n) => Framing::Length(n),
            None if framed.http10 => Framing::ToEnd,
            None => Framing::Chunked,
        };
        framed.keep &= framing != Framing::ToEnd;
        self.last = !framed.keep;
        self.out = head_bytes(status, headers, framing, framed.persistence());
        self.sent = 0;
        let mut left = len.unwrap_or(u64::MAX);
        // small at first: many streams are, and the head leaves with their first bytes
        let mut piece = vec![0; 16 << 10];
        while left > 0 {
            let want = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let n = match body.read(&mut piece[..want]) {
                Ok(0) if len.is_some() => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    log::debug!("an answer broke off: {e}");
                    return Err(e);
                }
            };
            left -= n as u64;
            if framing == Framing::Chunked {
                self.out.extend_from_slice(format!("{n:x}\r\n").as_bytes());
            }
            self.out.extend_from_slice(&piece[..n]);
            if framing == Framing::Chunked {
                self.out.extend_from_slice(b"\r\n");
            }
            self.flush_now(limits)?;
            if n == piece.len() && n < 256 << 10 {
                piece.resize(256 << 10, 0);
            }
        }
        if framing == Framing::Chunked {
            self.out.extend_from_slice(b"0\r\n\r\n");
        }
        self.stage = Stage::Answer;
        Ok(())
    }
}

/// What of a request decides how its answer is framed.
#[derive(Clone, Copy)]
pub(super) struct Framed {
    pub(super) http10: bool,
    pub(super) head_only: bool,
    pub(super) keep: bool,
}

impl Framed {
    /// An answer to something that is no request.
    pub(super) const REFUSED: Framed = Framed { http10: false, head_only: false, keep: false };

    pub(super) fn bodiless(self, status: u16) -> bool {
        self.head_only || matches!(status, 100..=199 | 204 | 304)
    }

    fn persistence(self) -> Persistence {
        match (self.keep, self.http10) {
            (false, _) => Persistence::Close,
            (true, true) => Persistence::KeepAlive,
            (true, false) => Persistence::Implied,
        }
    }
}
