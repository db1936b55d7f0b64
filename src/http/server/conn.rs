//! One connection on its thread: reads a head, calls the handler, sends the answer, and again.
//!
//! Invariants: requests are answered in order, one at a time; after an error in framing the
//! connection closes, and what it sends then is complete or visibly cut short.

use std::io::{self, BufRead, Read};
use std::time::Duration;

use super::answer::{self, Framed};
use super::body::Wire;
use super::head::{Context, Head, Refused, parse};
use crate::http::exchange::{Body, Handler, Reply, Request, Taker};
use crate::http::socket::Stream;

/// How long a closing connection lingers, so that the client can read the last answer.
const CLOSE_TIME: Duration = Duration::from_secs(2);
/// Bytes that a closing connection reads and drops.
const CLOSE_BYTES: usize = 1 << 20;

/// What follows a turn.
enum Next {
    Request,
    TakeOver(Taker),
    /// The last answer was sent, or no request comes.
    Close,
}

/// Serves the requests of one connection on the caller's thread, until either side closes it.
pub fn serve(stream: Stream, handler: &Handler, context: &Context) {
    let mut wire = Wire::new(stream);
    loop {
        match turn(&mut wire, handler, context) {
            Ok(Next::Request) => {}
            Ok(Next::TakeOver(taker)) => return taker(wire.hand_over()),
            Ok(Next::Close) => return close(wire.stream()),
            Err(_) => return wire.stream().end(true),
        }
    }
}

/// One request and its answer. An error says that the answer broke off.
fn turn(wire: &mut Wire, handler: &Handler, context: &Context) -> io::Result<Next> {
    let head = read_head(wire, context).transpose();
    let Some(head) = head.filter(|_| wire.stream().socket().begin_answer()) else { return Ok(Next::Close) };
    let Head { request, mut framed, expect_continue } = match head {
        Ok(head) => head,
        Err(Refused(status, why)) => {
            answer::send(wire.stream(), &mut Reply::text(status, format!("{why}\n")), Framed::default())?;
            return Ok(Next::Close);
        }
    };
    wire.begin(request.body_len, expect_continue);
    let mut reply = handler(Request { body: Box::new(&mut *wire), ..request });
    framed.keep &= wire.finish() && !wire.stream().socket().is_stopping();
    wire.stream().socket().begin_answer();
    let keep = answer::send(wire.stream(), &mut reply, framed)?;
    Ok(match reply.body {
        Body::Takeover(taker) => Next::TakeOver(taker),
        _ if keep => Next::Request,
        _ => Next::Close,
    })
}

/// The next request's head; `None` when none comes, or not in time.
fn read_head(wire: &mut Wire, context: &Context) -> Result<Option<Head>, Refused> {
    let (mut head, begun) = (Vec::new(), !wire.from.buffer().is_empty());
    wire.stream().socket().await_head(begun);
    loop {
        let Ok(piece @ [_, ..]) = wire.from.fill_buf() else { return Ok(None) };
        let (before, len) = (head.len(), piece.len());
        head.extend_from_slice(piece);
        let parsed = parse(&head, context)?;
        wire.from.consume(parsed.as_ref().map_or(len, |(_, used)| used - before));
        if let Some((head, _)) = parsed {
            return Ok(Some(head));
        }
    }
}

/// Says that nothing more comes, and reads until the client has seen it: closing with unread input
/// would destroy the last answer on its way.
fn close(stream: &mut Stream) {
    stream.socket().await_head(true);
    stream.socket().within(CLOSE_TIME);
    stream.end(false);
    let (mut scrap, mut dropped) = ([0; 4096], 0);
    while let Ok(n @ 1..) = stream.socket().read(&mut scrap)
        && dropped < CLOSE_BYTES
    {
        dropped += n;
    }
}
