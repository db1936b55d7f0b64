//! How an answer is written, to whatever it is written to.

use std::io::{self, Read, Write};

use crate::http::exchange::{Body, Reply, head_of};
use crate::http::socket::Stream;
use crate::platform::FileExt;

/// Bodies up to this size leave in one write with their head, where their length is known.
const SMALL: u64 = 64 << 10;

/// What of a request decides how its answer is framed; the default is for what is no request.
#[derive(Clone, Copy, Default)]
pub(super) struct Framed {
    pub(super) http10: bool,
    pub(super) head_only: bool,
    pub(super) keep: bool,
}

/// Sends an answer, or the head of one that takes the connection over; whether the connection may be kept. After an
/// error it has to end, visibly short of the answer's end.
pub(super) fn send(to: &mut Stream, reply: &mut Reply, framed: Framed) -> io::Result<bool> {
    let taken = matches!(reply.body, Body::Takeover(_));
    let no_body = taken || matches!(reply.status, 100..=199 | 204 | 304);
    let (length, chunked) = (reply.body.length(), !framed.http10);
    let (framing, ends) = match length {
        _ if no_body => (String::new(), true),
        Some(n) => (format!("Content-Length: {n}\r\n"), true),
        None if chunked => ("Transfer-Encoding: chunked\r\n".to_string(), true),
        // with the connection
        None => (String::new(), false),
    };
    let keep = framed.keep && ends;
    let stay = match (keep, framed.http10) {
        _ if taken => "",
        (false, _) => "Connection: close\r\n",
        (true, true) => "Connection: keep-alive\r\n",
        (true, false) => "",
    };
    let head = head_of(reply, &(framing + stay));
    match &mut reply.body {
        _ if no_body || framed.head_only => to.write_all(&head)?,
        Body::Takeover(_) => {}
        Body::Bytes(b) => to.write_all(&[&head, &b[..]].concat())?,
        Body::File(file, at, n) if *n > SMALL => {
            to.write_all(&head)?;
            let (mut at, end) = (*at, *at + *n);
            while at < end {
                match to.send_file(file, at, end - at)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()), // shorter than it was
                    sent => at += sent,
                }
            }
        }
        Body::File(file, at, n) => {
            let mut all = head;
            let begin = all.len();
            all.resize(begin + *n as usize, 0);
            let read = file.read_exact_at(&mut all[begin..], *at);
            to.write_all(if read.is_ok() { &all } else { &all[..begin] })?;
            read?;
        }
        Body::Stream(stream, _) => {
            if !copy(to, head, stream, length, chunked)? {
                return send(to, &mut Reply::text(502, "the answer broke off before its first byte\n"), framed);
            }
        }
    }
    to.flush()?;
    Ok(keep)
}

/// Sends `out`, then what `body` yields: `length` bytes, or all of it, in chunks perhaps; false where that broke off
/// before anything was sent.
fn copy(
    to: &mut Stream,
    mut out: Vec<u8>,
    body: &mut dyn Read,
    length: Option<u64>,
    chunked: bool,
) -> io::Result<bool> {
    let chunked = chunked && length.is_none();
    let mut left = length.unwrap_or(u64::MAX);
    // the head leaves with the first of its bytes
    let mut piece = vec![0; length.map_or(16 << 10, |n| n.min(SMALL)) as usize];
    while left > 0 {
        let want = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = match body.read(&mut piece[..want]) {
            Ok(0) if length.is_none() => break,
            Ok(n @ 1..) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            broken => {
                let e = broken.err().unwrap_or(io::ErrorKind::UnexpectedEof.into());
                log::debug!("an answer broke off: {e}");
                return if out.is_empty() { Err(e) } else { Ok(false) };
            }
        };
        left -= n as u64;
        if left == 0 {
            // whoever keeps it sees its end before the client does, and the connection it came by can be used again
            let _ = body.read(&mut [0]);
        }
        if chunked {
            out.extend_from_slice(format!("{n:x}\r\n").as_bytes());
        }
        out.extend_from_slice(&piece[..n]);
        if chunked {
            out.extend_from_slice(b"\r\n");
        }
        to.write_all(&out)?;
        out.clear();
    }
    if chunked {
        out.extend_from_slice(b"0\r\n\r\n");
    }
    to.write_all(&out)?;
    Ok(true)
}
