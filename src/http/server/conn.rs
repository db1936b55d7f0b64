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

use super::answer::Framed;
use super::body::{BodyReader, Wire};
use super::head::{self, BodyLength, Context, Head, Refused};
use super::transport::{Interest, Transport, is_pause};
use super::{ServerLimits, Taker};
use crate::http::exchange::{Body, Framing, Handler, Method, Persistence, Reply, Request, head_bytes};

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
    pub(super) wire: Arc<Mutex<Wire<T>>>,
    context: Context,
    pub(super) stage: Stage,
    /// Bytes to send, then those of `file`.
    pub(super) out: Vec<u8>,
    pub(super) sent: usize,
    pub(super) file: Option<(File, u64)>,
    /// Close once everything is sent.
    pub(super) last: bool,
    /// When the present wait began: for a request, a head's rest, or room to send.
    pub(super) waiting_since: Instant,
    /// When the last request was answered, or the connection made.
    pub(super) idle_since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Between requests, nothing of the next one read.
    Idle,
    /// Part of a head was read.
    Head,
    /// Sending an answer.
    Answer,
    /// Everything sent; reading until the client closes too. So many bytes were dropped.
    Closing(usize),
}

/// What a connection asks of whoever runs it.
pub(super) trait Host {
    /// Offered a short wait of a duration yet to be chosen, decides whether to do it; whether the
    /// client became ready.
    fn linger(&self, _wait: &mut dyn FnMut(Duration) -> bool) -> bool {
        false
    }
    /// Whether this answer is to be the last.
    fn is_stopping(&self) -> bool {
        false
    }
    /// Why a reply may not take the connection over, if it may not: status and text.
    fn keeps_connections(&self) -> Option<(u16, &'static str)>;
}

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

    pub(super) fn wire(&self) -> MutexGuard<'_, Wire<T>> {
        self.wire.lock().expect("no holder panics")
    }

    /// The stream, and what was read from it too early.
    pub(super) fn into_parts(self) -> Option<(T, Vec<u8>)> {
        let wire = Arc::into_inner(self.wire)?.into_inner().ok()?;
        let ahead = wire.ahead().to_vec();
        Some((wire.stream, ahead))
    }

    /// Goes on until the client has to be waited for.
    pub(super) fn run(&mut self, handler: &dyn Handler, limits: &ServerLimits, host: &dyn Host) -> Turn {
        loop {
            let step = match self.stage {
                Stage::Idle | Stage::Head => self.request(handler, limits, host),
                Stage::Answer => self.send(),
                Stage::Closing(_) => self.close(),
            };
            let interest = match step {
                Ok(Step::Go) => continue,
                Ok(Step::TakeOver(taker)) => return Turn::TakeOver(taker),
                Ok(Step::Wait(interest)) => interest,
                Ok(Step::End) | Err(_) => return Turn::Close,
            };
            let ready = host.linger(&mut |patience| self.wire().stream.wait(interest, patience).unwrap_or(true));
            if !ready {
                if self.stage == Stage::Idle {
                    self.wire().buf = Vec::new(); // an idle connection holds no memory
                }
                return Turn::Wait(interest);
            }
        }
    }

    /// Reads a head, calls the handler.
    fn request(&mut self, handler: &dyn Handler, limits: &ServerLimits, host: &dyn Host) -> io::Result<Step> {
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
            let refusal = if connect { host.keeps_connections() } else { Some((500, "this is not a CONNECT")) };
            if let Some((status, why)) = refusal {
                self.begin_answer(Reply::text(status, format!("{why}\n")), Framed { keep: false, ..framed });
                return Ok(Step::Go);
            }
            self.out = head_bytes(200, &reply.headers, Framing::None, Persistence::Implied);
            self.flush_now(limits)?;
            return Ok(Step::TakeOver(taker));
        }
        framed.keep &= self.wire().finish(DRAIN_PATIENCE, DRAIN) && !connect && !host.is_stopping();
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

/// What comes next.
pub(super) enum Step {
    Go,
    Wait(Interest),
    TakeOver(Taker),
    End,
}
