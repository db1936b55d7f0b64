//! One connection: reads heads, calls the handler, sends answers, and says when it has to wait.
//!
//! Invariants: [`Conn::run`] waits for the client only for as long as it is told to, except while
//! a handler reads a request's body and while a streamed answer is sent; requests are answered in
//! order, one at a time; after an error in framing the connection closes, and what it sends then is
//! complete or visibly cut short.

use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::body::{BodyReader, Wire};
use super::head::{self, BodyLength, Context, Head, Refused};
use super::transport::{Interest, Transport, is_pause};
use super::{ServerLimits, Taker};
use crate::http::exchange::{Body, Framing, Handler, Method, Persistence, Reply, Request, head_bytes};

/// Files up to this size leave in one write with their head.
const SMALL_FILE: u64 = 64 << 10;
/// Bytes of an unread request body that are read and dropped to keep a connection.
const DRAIN: u64 = 64 << 10;
/// How long the rest of an unread request body is waited for.
const DRAIN_PATIENCE: Duration = Duration::from_millis(20);
/// How long a closing connection lingers, so that the client can read the last answer.
const CLOSE_TIME: Duration = Duration::from_secs(2);
/// Bytes that a closing connection reads and drops.
const CLOSE_BYTES: usize = 1 << 20;

/// A connection between turns.
pub(super) struct Conn<T: Transport> {
    wire: Arc<Mutex<Wire<T>>>,
    context: Context,
    stage: Stage,
    /// Bytes to send, then those of `file`.
    out: Vec<u8>,
    sent: usize,
    file: Option<(File, u64)>,
    /// Close once everything is sent.
    last: bool,
    /// When the present wait began: for a request, a head's rest, or room to send.
    waiting_since: Instant,
    /// When the last request was answered, or the connection made.
    idle_since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Between requests, nothing of the next one read.
    Idle,
    /// Part of a head was read.
    Head,
    /// Sending an answer.
    Answer,
    /// Everything sent; reading until the client closes too. So many bytes were dropped.
    Closing(usize),
}

/// Offered a wait of a duration yet to be chosen, decides whether to do it; whether the client
/// became ready.
pub(super) type Linger<'a> = dyn Fn(&mut dyn FnMut(Duration) -> bool) -> bool + 'a;

/// Why [`Conn::run`] returned.
pub(super) enum Turn {
    /// Run it again when it is ready for this.
    Wait(Interest),
    /// It is over.
    Close,
    /// Hand it over.
    TakeOver(Taker),
}

impl<T: Transport> Conn<T> {
    pub(super) fn new(stream: T, context: Context) -> Self {
        let now = Instant::now();
        Conn {
            wire: Arc::new(Mutex::new(Wire::new(stream))),
            context,
            stage: Stage::Idle,
            out: Vec::new(),
            sent: 0,
            file: None,
            last: false,
            waiting_since: now,
            idle_since: now,
        }
    }

    /// When the last request was answered, or the connection made.
    pub(super) fn idle_since(&self) -> Instant {
        self.idle_since
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle | Stage::Head | Stage::Closing(_))
    }

    /// When the present wait has lasted too long.
    pub(super) fn deadline(&self, limits: &ServerLimits) -> Instant {
        self.waiting_since
            + match self.stage {
                Stage::Idle => limits.idle_timeout,
                Stage::Head => limits.head_timeout,
                Stage::Answer => limits.io_timeout,
                Stage::Closing(_) => CLOSE_TIME,
            }
    }

    fn wire(&self) -> MutexGuard<'_, Wire<T>> {
        self.wire.lock().expect("no holder panics")
    }

    /// The stream, and what was read from it too early.
    pub(super) fn into_parts(self) -> Option<(T, Vec<u8>)> {
        let wire = Arc::into_inner(self.wire)?.into_inner().ok()?;
        let ahead = wire.ahead().to_vec();
        Some((wire.stream, ahead))
    }

    /// Goes on until the client has to be waited for. `linger` is offered a short wait right here
    /// and tells whether the client became ready; `stopping` whether this answer is to be the last.
    pub(super) fn run(
        &mut self,
        handler: &dyn Handler,
        limits: &ServerLimits,
        linger: &Linger<'_>,
        stopping: &dyn Fn() -> bool,
    ) -> Turn {
        loop {
            let step = match self.stage {
                Stage::Idle | Stage::Head => self.request(handler, limits, stopping),
                Stage::Answer => self.send(),
                Stage::Closing(_) => self.close(),
            };
            let interest = match step {
                Ok(Step::Go) => continue,
                Ok(Step::TakeOver(taker)) => return Turn::TakeOver(taker),
                Ok(Step::Wait(interest)) => interest,
                Ok(Step::End) | Err(_) => return Turn::Close,
            };
            let ready = linger(&mut |patience| self.wire().stream.wait(interest, patience).unwrap_or(true));
            if !ready {
                if self.stage == Stage::Idle {
                    self.wire().buf = Vec::new(); // an idle connection holds no memory
                }
                return Turn::Wait(interest);
            }
        }
    }

    /// Reads a head, calls the handler.
    fn request(
        &mut self,
        handler: &dyn Handler,
        limits: &ServerLimits,
        stopping: &dyn Fn() -> bool,
    ) -> io::Result<Step> {
        let mut wire = self.wire.lock().expect("no holder panics");
        let parsed = if wire.ahead().is_empty() { Ok(None) } else { head::parse(wire.ahead(), &self.context) };
        let (head, used) = match parsed {
            Ok(Some(whole)) => whole,
            Ok(None) => {
                let got = wire.fill();
                if self.stage == Stage::Idle && !wire.ahead().is_empty() {
                    self.stage = Stage::Head;
                    self.waiting_since = Instant::now();
                }
                return match got {
                    Ok(0) => Ok(Step::End),
                    Ok(_) => Ok(Step::Go),
                    Err(e) if is_pause(&e) => Ok(Step::Wait(Interest::Read)),
                    Err(e) => Err(e),
                };
            }
            Err(Refused(status, why)) => {
                drop(wire);
                self.begin_answer(Reply::text(status, format!("{why}\n")), Framed::REFUSED);
                return Ok(Step::Go);
            }
        };
        wire.consume(used);
        let connect = head.method == Method::Connect;
        let length = if connect { BodyLength::Known(0) } else { head.length };
        let turn = wire.begin(length, head.expect_continue, limits.io_timeout);
        drop(wire);

        let mut framed = Framed { http10: head.http10, head_only: head.method == Method::Head, keep: head.keep_alive };
        let reply = handler.handle(self.to_request(head, length, turn));
        if let Body::Takeover(taker) = reply.body {
            if connect && T::SOCKET {
                self.out = head_bytes(200, &reply.headers, Framing::None, Persistence::Implied);
                self.flush_now(limits)?;
                return Ok(Step::TakeOver(taker));
            }
            self.begin_answer(Reply::text(501, "CONNECT cannot be nested\n"), Framed { keep: false, ..framed });
            return Ok(Step::Go);
        }
        framed.keep &= self.wire().finish(DRAIN_PATIENCE, DRAIN) && !connect && !stopping();
        match reply.body {
            Body::Stream(stream, len) if !framed.bodiless(reply.status) => {
                self.stream(reply.status, &reply.headers, stream, len, framed, limits)
                    .inspect_err(|_| self.wire().stream.abort())?;
            }
            _ => self.begin_answer(reply, framed),
        }
        Ok(Step::Go)
    }

    fn to_request(&self, head: Head, length: BodyLength, turn: u64) -> Request {
        let (body, body_len): (Box<dyn Read + Send>, _) = match length {
            BodyLength::Known(0) => (Box::new(io::empty()), Some(0)),
            BodyLength::Known(n) => (Box::new(BodyReader { wire: self.wire.clone(), turn }), Some(n)),
            BodyLength::Chunked => (Box::new(BodyReader { wire: self.wire.clone(), turn }), None),
        };
        Request {
            method: head.method,
            target: head.target,
            path: head.path,
            query: head.query,
            headers: head.headers,
            peer: self.context.peer,
            body,
            body_len,
        }
    }

    /// Queues an answer that can be sent without blocking.
    fn begin_answer(&mut self, reply: Reply, framed: Framed) {
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
    fn send(&mut self) -> io::Result<Step> {
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
    fn flush_now(&mut self, limits: &ServerLimits) -> io::Result<()> {
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
    fn stream(
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

    /// Says that nothing more comes, and reads until the client has seen it: closing with unread
    /// input would destroy the last answer on its way.
    fn close(&mut self) -> io::Result<Step> {
        let Stage::Closing(mut dropped) = self.stage else { return Ok(Step::End) };
        let mut wire = self.wire.lock().expect("no holder panics");
        if !T::SOCKET {
            return Ok(Step::End);
        }
        if dropped == 0 {
            wire.stream.end_output()?;
        }
        let mut scrap = [0; 4096];
        loop {
            match wire.stream.read(&mut scrap) {
                Ok(0) => return Ok(Step::End),
                Ok(n) => dropped += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_pause(&e) => break,
                Err(e) => return Err(e),
            }
            if dropped > CLOSE_BYTES {
                return Ok(Step::End);
            }
        }
        drop(wire);
        self.stage = Stage::Closing(dropped.max(1));
        Ok(Step::Wait(Interest::Read))
    }
}

enum Step {
    Go,
    Wait(Interest),
    TakeOver(Taker),
    End,
}

/// What of a request decides how its answer is framed.
#[derive(Clone, Copy)]
struct Framed {
    http10: bool,
    head_only: bool,
    keep: bool,
}

impl Framed {
    /// An answer to something that is no request.
    const REFUSED: Framed = Framed { http10: false, head_only: false, keep: false };

    fn bodiless(self, status: u16) -> bool {
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
