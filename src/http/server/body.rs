//! The body of a request: read on demand by the handler, decoded, and never past its end.

use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::head::BodyLength;
use crate::http::socket::{Socket, Stream};

/// Bytes of a chunk's size line, extensions included.
const MAX_CHUNK_LINE: usize = 1024;
/// Trailer lines that are read and dropped.
const MAX_TRAILERS: usize = 100;
/// Bytes of an unread request body that are read and dropped to keep a connection.
const DRAIN: u64 = 64 << 10;
/// How long the rest of an unread request body is waited for.
const DRAIN_PATIENCE: Duration = Duration::from_millis(20);

/// A connection's input: the stream, what was read ahead of it, and where in a body it is.
pub(super) struct Wire<T> {
    pub(super) stream: T,
    /// Bytes read but not consumed are `buf[at..]`.
    buf: Vec<u8>,
    at: usize,
    body: State,
    /// Counts requests, so that a body kept beyond its request cannot eat the next one.
    turn: u64,
    /// 100 Continue is still owed before the body is read.
    owes_continue: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Read to its end.
    Done,
    /// So many bytes to come, at least one.
    Length(u64),
    /// The size line of a chunk comes next.
    ChunkSize,
    /// So many bytes of a chunk to come, at least one.
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    /// So many trailer lines were read.
    Trailers(usize),
    /// Malformed or cut short: nothing after it can be trusted.
    Broken,
}

impl<T: Stream> Wire<T> {
    pub(super) fn new(stream: T) -> Self {
        Wire { stream, buf: Vec::new(), at: 0, body: State::Done, turn: 0, owes_continue: false }
    }

    /// The bare socket, which yields again what was read ahead of it.
    pub(super) fn take_over(mut self) -> Option<Socket> {
        self.stream.socket().hand_over(&self.buf[self.at..]);
        self.stream.take_over()
    }

    /// The bytes read but not consumed.
    pub(super) fn ahead(&self) -> &[u8] {
        &self.buf[self.at..]
    }

    /// Consumes `n` bytes of [`Self::ahead`].
    pub(super) fn consume(&mut self, n: usize) {
        self.at += n;
        if self.at == self.buf.len() {
            // an idle connection holds no memory
            self.buf = Vec::new();
            self.at = 0;
        }
    }

    /// Reads some more bytes; 0 at the end of the stream.
    pub(super) fn fill(&mut self) -> io::Result<usize> {
        if self.at > 0 {
            self.buf.drain(..self.at);
            self.at = 0;
        }
        let mut piece = [0; 4096];
        let n = self.stream.read(&mut piece)?;
        self.buf.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    /// Begins the body of the request whose head was consumed. Returns its turn.
    pub(super) fn begin(&mut self, length: BodyLength, owes_continue: bool) -> u64 {
        self.body = match length {
            BodyLength::Known(0) => State::Done,
            BodyLength::Known(n) => State::Length(n),
            BodyLength::Chunked => State::ChunkSize,
        };
        self.owes_continue = owes_continue && self.body != State::Done;
        self.stream.socket().pace();
        self.turn += 1;
        self.turn
    }

    /// Reads what is left of the body, as far as it arrives at once and is not long. Whether the next
    /// request follows then.
    pub(super) fn finish(&mut self) -> bool {
        self.turn += 1;
        if self.owes_continue {
            return false; // the client may or may not send it
        }
        self.stream.socket().within(DRAIN_PATIENCE);
        let mut scrap = [0; 4096];
        let mut left = DRAIN;
        while self.body != State::Done {
            match self.read_body(&mut scrap) {
                Ok(0) => {}
                Ok(n) if (n as u64) < left => left -= n as u64,
                _ => return false,
            }
        }
        true
    }

    fn read_body(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        if self.owes_continue {
            self.owes_continue = false;
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            self.stream.flush()?;
        }
        self.step(out).inspect_err(|_| self.body = State::Broken)
    }

    fn step(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.body {
                State::Done => return Ok(0),
                State::Broken => return Err(malformed("the request's body is broken")),
                State::Length(left) | State::Chunk(left) => {
                    let n = self.some(left, out)?;
                    self.body = match (self.body, left - n as u64) {
                        (State::Length(_), 0) => State::Done,
                        (State::Length(_), left) => State::Length(left),
                        (_, 0) => State::ChunkEnd,
                        (_, left) => State::Chunk(left),
                    };
                    return Ok(n);
                }
                State::ChunkEnd => {
                    if !self.line()?.is_empty() {
                        return Err(malformed("a chunk is longer than its size"));
                    }
                    self.body = State::ChunkSize;
                }
                State::ChunkSize => {
                    let line = self.line()?;
                    self.body = match chunk_size(&line).ok_or_else(|| malformed("malformed chunk size"))? {
                        0 => State::Trailers(0),
                        n => State::Chunk(n),
                    };
                }
                State::Trailers(MAX_TRAILERS) => return Err(malformed("too many trailers")),
                State::Trailers(n) => {
                    self.body = if self.line()?.is_empty() { State::Done } else { State::Trailers(n + 1) };
                }
            }
        }
    }

    /// Some of the next `left` bytes, at least one.
    fn some(&mut self, left: u64, out: &mut [u8]) -> io::Result<usize> {
        let want = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let ahead = self.ahead();
        if !ahead.is_empty() {
            let n = want.min(ahead.len());
            out[..n].copy_from_slice(&ahead[..n]);
            self.consume(n);
            return Ok(n);
        }
        not_cut(self.stream.read(&mut out[..want])?)
    }

    /// The next line without its end.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut looked = 0;
        loop {
            if let Some(end) = self.ahead()[looked..].iter().position(|b| *b == b'\n') {
                let end = looked + end;
                let line =
                    self.ahead()[..end].strip_suffix(b"\r").ok_or_else(|| malformed("a line ends without CR"))?;
                let line = line.to_vec();
                self.consume(end + 1);
                return Ok(line);
            }
            looked = self.ahead().len();
            if looked > MAX_CHUNK_LINE {
                return Err(malformed("a chunk's size line is too long"));
            }
            not_cut(self.fill()?)?;
        }
    }
}

/// `n` bytes of a body were read, which 0 are not.
fn not_cut(n: usize) -> io::Result<usize> {
    match n {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the request's body is cut short")),
        n => Ok(n),
    }
}

fn malformed(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The number on a chunk's size line.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|b| *b == b';').next()?.trim_ascii_end();
    if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The handler's end of a body.
pub(super) struct BodyReader<T> {
    pub(super) wire: Arc<Mutex<Wire<T>>>,
    pub(super) turn: u64,
}

impl<T: Stream> Read for BodyReader<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // the connection holds its wire whenever no handler is at work
        match self.wire.try_lock() {
            Ok(mut wire) if wire.turn == self.turn => wire.read_body(buf),
            _ => Err(io::Error::other("the request is over")),
        }
    }
}
