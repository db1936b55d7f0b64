//! One connection, on a thread of its own: reads heads, calls the handler, sends answers.
//!
//! Invariants: every wait for the client ends; requests are answered in order, one at a time; after
//! an error in framing the connection closes, and what it sends then is complete or visibly cut
//! short.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::answer::{self, Framed};
use super::body::{BodyReader, Wire};
use super::head::{self, BodyLength, Context, Head, Refused};
use super::open::{Entry, State};
use super::transport::{Interest, Transport};
use super::{ServerLimits, Taker, lock};
use crate::http::exchange::{Body, Framing, Handler, Method, Persistence, Reply, Request, head_bytes, is_pause};

/// Bytes of an unread request body that are read and dropped to keep a connection.
const DRAIN: u64 = 64 << 10;
/// How long the rest of an unread request body is waited for.
const DRAIN_PATIENCE: Duration = Duration::from_millis(20);
/// How long a closing connection lingers, so that the client can read the last answer.
const CLOSE_TIME: Duration = Duration::from_secs(2);
/// Bytes that a closing connection reads and drops.
const CLOSE_BYTES: usize = 1 << 20;

/// A connection.
pub(super) struct Conn<'a, T: Transport> {
    pub(super) wire: Arc<Mutex<Wire<T>>>,
    pub(super) context: Context,
    pub(super) handler: &'a dyn Handler,
    pub(super) limits: &'a ServerLimits,
    /// Its place among the server's connections; none inside a connection that was taken over.
    pub(super) entry: Option<&'a Entry>,
}

/// What comes next.
enum Next {
    Request,
    TakeOver(Taker),
    Close,
    End,
}

impl<T: Transport> Conn<'_, T> {
    /// Answers requests until either side closes the connection, or a reply takes it over: that,
    /// and what was read from the stream too early.
    pub(super) fn run(self) -> Option<(Taker, Vec<u8>)> {
        loop {
            match self.turn() {
                Ok(Next::Request) => {}
                Ok(Next::TakeOver(taker)) => {
                    let early = self.wire().ahead().to_vec();
                    return Some((taker, early));
                }
                Ok(Next::Close) => {
                    // an error says that it is closed
                    let _ = self.close();
                    return None;
                }
                Ok(Next::End) | Err(_) => return None,
            }
        }
    }

    fn wire(&self) -> MutexGuard<'_, Wire<T>> {
        lock(&self.wire)
    }

    fn set(&self, state: State) -> bool {
        self.entry.is_none_or(|entry| entry.set(state))
    }

    /// The next head, or why it is none; `None` at the end of the connection.
    fn head(&self) -> io::Result<Option<Result<Head, Refused>>> {
        let mut wire = self.wire();
        let mut deadline = Instant::now() + self.limits.idle_timeout;
        let mut begun = false;
        loop {
            if !wire.ahead().is_empty() {
                match head::parse(wire.ahead(), &self.context) {
                    Ok(Some((head, used))) => {
                        wire.consume(used);
                        return Ok(Some(Ok(head)));
                    }
                    Err(refused) => return Ok(Some(Err(refused))),
                    Ok(None) if !begun => {
                        begun = true;
                        deadline = Instant::now() + self.limits.head_timeout;
                    }
                    Ok(None) => {}
                }
            }
            match wire.fill() {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(e) if is_pause(&e) => {
                    if !begun {
                        wire.buf = Vec::new(); // an idle connection holds no memory
                    }
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() || !wire.stream.wait(Interest::Read, left)? {
                        return Ok(None);
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Answers one request.
    fn turn(&self) -> io::Result<Next> {
        let patience = self.limits.io_timeout;
        if !self.set(State::Idle(Instant::now())) {
            return Ok(Next::End);
        }
        let head = match self.head()? {
            None => return Ok(Next::End),
            Some(Ok(head)) => head,
            Some(Err(Refused(status, why))) => {
                answer::send(&self.wire, Reply::text(status, format!("{why}\n")), Framed::REFUSED, patience)?;
                return Ok(Next::Close);
            }
        };
        self.set(State::Busy);
        let connect = head.method == Method::Connect;
        let length = if connect { BodyLength::Known(0) } else { head.length };
        let turn = self.wire().begin(length, head.expect_continue, patience);
        let mut framed = Framed { http10: head.http10, head_only: head.method == Method::Head, keep: head.keep_alive };
        let mut reply = self.handler.handle(self.to_request(head, length, turn));
        if let Body::Takeover(taker) = reply.body {
            let refusal = match self.entry {
                Some(_) if connect => {
                    let head = head_bytes(200, &reply.headers, Framing::None, Persistence::Implied);
                    self.wire().write_now(&head, patience)?;
                    return Ok(Next::TakeOver(taker));
                }
                Some(_) => (500, "this is not a CONNECT\n"),
                None => (501, "CONNECT cannot be nested\n"),
            };
            framed.keep = false;
            reply = Reply::text(refusal.0, refusal.1);
        }
        let stopping = self.entry.is_some_and(Entry::is_stopping);
        framed.keep &= self.wire().finish(DRAIN_PATIENCE, DRAIN) && !connect && !stopping;
        let keep = answer::send(&self.wire, reply, framed, patience)?;
        Ok(if keep { Next::Request } else { Next::Close })
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
    fn close(&self) -> io::Result<()> {
        if !T::SOCKET {
            return Ok(());
        }
        let mut wire = self.wire();
        wire.stream.end_output()?;
        self.set(State::Idle(Instant::now()));
        let (deadline, mut dropped, mut scrap) = (Instant::now() + CLOSE_TIME, 0, [0; 4096]);
        while dropped <= CLOSE_BYTES {
            match wire.stream.read(&mut scrap) {
                Ok(0) => break,
                Ok(n) => dropped += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_pause(&e) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() || !wire.stream.wait(Interest::Read, left)? {
                        break;
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
