//! How answers are framed and sent. An error means that the client cannot take it for whole.

use std::io::{self, Read};
use std::sync::Mutex;
use std::time::Duration;

use super::body::Wire;
use super::lock;
use super::transport::Transport;
use crate::http::exchange::{Body, Framing, Persistence, Reply, head_bytes};

/// Files up to this size leave in one write with their head.
const SMALL_FILE: u64 = 64 << 10;

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

    fn persistence(self) -> Persistence {
        match (self.keep, self.http10) {
            (false, _) => Persistence::Close,
            (true, true) => Persistence::KeepAlive,
            (true, false) => Persistence::Implied,
        }
    }
}

/// Sends `reply`, waiting for the client for `patience` at a time. Whether another may follow.
pub(super) fn send<T: Transport>(
    wire: &Mutex<Wire<T>>,
    reply: Reply,
    mut framed: Framed,
    patience: Duration,
) -> io::Result<bool> {
    let len = match &reply.body {
        Body::Empty | Body::Takeover(_) => Some(0),
        Body::Bytes(b) => Some(b.len() as u64),
        Body::File(_, n) => Some(*n),
        Body::Stream(_, n) => *n,
    };
    let without = matches!(reply.status, 100..=199 | 204 | 304);
    let framing = match len {
        _ if without => Framing::None,
        Some(n) => Framing::Length(n),
        None if !framed.http10 => Framing::Chunked,
        None if framed.head_only => Framing::None,
        None => Framing::ToEnd,
    };
    framed.keep &= framing != Framing::ToEnd;
    let mut out = head_bytes(reply.status, &reply.headers, framing, framed.persistence());
    match reply.body {
        _ if without || framed.head_only => {}
        Body::Bytes(b) => out.extend_from_slice(&b),
        // the length is told already: of a file that is shorter, a cut is all that is left to say
        Body::File(file, n) if n <= SMALL_FILE => {
            framed.keep &= file.take(n).read_to_end(&mut out).is_ok_and(|got| got as u64 == n);
        }
        Body::File(mut file, n) => {
            let mut wire = lock(wire);
            wire.write_now(&out, patience)?;
            wire.send(n, patience, |stream, left| stream.send_file(&mut file, left))?;
            return Ok(framed.keep);
        }
        Body::Stream(body, len) => {
            stream(wire, out, body, len, framing == Framing::Chunked, patience)
                .inspect_err(|_| lock(wire).stream.abort())?;
            return Ok(framed.keep);
        }
        Body::Empty | Body::Takeover(_) => {}
    }
    lock(wire).write_now(&out, patience)?;
    Ok(framed.keep)
}

/// Sends a head and then the body as it comes.
fn stream<T: Transport>(
    wire: &Mutex<Wire<T>>,
    mut out: Vec<u8>,
    mut body: Box<dyn Read + Send>,
    len: Option<u64>,
    chunked: bool,
    patience: Duration,
) -> io::Result<()> {
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
        if chunked {
            out.extend_from_slice(format!("{n:x}\r\n").as_bytes());
        }
        out.extend_from_slice(&piece[..n]);
        if chunked {
            out.extend_from_slice(b"\r\n");
        }
        lock(wire).write_now(&out, patience)?;
        out.clear();
        if n == piece.len() && n < 256 << 10 {
            piece.resize(256 << 10, 0);
        }
    }
    if chunked {
        out.extend_from_slice(b"0\r\n\r\n");
    }
    lock(wire).write_now(&out, patience)
}
