//! The body of a request: read on demand by the handler, decoded, and never past its end.

use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::head::BodyLength;
use super::transport::{Interest, Transport};
use crate::http::exchange::is_pause;

/// Bytes of a chunk's size line, extensions included.
const MAX_CHUNK_LINE: usize = 1024;
/// Trailer lines that are read and dropped.
const MAX_TRAILERS: usize = 100;
/// A body that comes more slowly than this is given up...
const FLOOR_BYTES_PER_SECOND: u64 = 512;
/// ...once it has been waited for so long.
const FLOOR_AFTER: Duration = Duration::from_secs(30);

/// A connection's input: the stream, what was read ahead of it, and where in a body it is.
pub(super) struct Wire<T> {
    pub(super) stream: T,
    /// Bytes read but not consumed are `buf[at..]`.
    pub(super) buf: Vec<u8>,
    at: usize,
    body: State,
    /// Counts requests, so that a body kept beyond its request cannot eat the next one.
    turn: u64,
    /// 100 Continue is still owed before the body is read.
    owes_continue: bool,
    /// How long one read of the body waits.
    patience: Duration,
    started: Instant,
    received: u64,
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

impl<T: Transport> Wire<T> {
    pub(super) fn new(stream: T) -> Self {
        Wire {
            stream,
            buf: Vec::new(),
            at: 0,
            body: State::Done,
            turn: 0,
            owes_continue: false,
            patience: Duration::ZERO,
            started: Instant::now(),
            received: 0,
        }
    }

    /// The bytes read but not consumed.
    pub(super) fn ahead(&self) -> &[u8] {
        &self.buf[self.at..]
    }

    /// Consumes `n` bytes of [`Self::ahead`].
    pub(super) fn consume(&mut self, n: usize) {
        self.at += n;
        if self.at == self.buf.len() {
            self.buf.clear();
            self.at = 0;
        }
    }

    /// Reads some more bytes; 0 at the end of the stream.
    pub(super) fn fill(&mut self) -> io::Result<usize> {
        if self.at > 0 {
            self.buf.drain(..self.at);
            self.at = 0;
        }
        let have = self.buf.len();
        self.buf.resize(have + 4096, 0);
        let got = loop {
            match self.stream.read(&mut self.buf[have..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                got => break got,
            }
        };
        self.buf.truncate(have + *got.as_ref().unwrap_or(&0));
        got
    }

    /// Begins the body of the request whose head was consumed. Returns its turn.
    pub(super) fn begin(&mut self, length: BodyLength, owes_continue: bool, patience: Duration) -> u64 {
        self.body = match length {
            BodyLength::Known(0) => State::Done,
            BodyLength::Known(n) => State::Length(n),
            BodyLength::Chunked => State::ChunkSize,
        };
        self.owes_continue = owes_continue && self.body != State::Done;
        self.patience = patience;
        self.started = Instant::now();
        self.received = 0;
        self.turn += 1;
        self.turn
    }

    /// Reads what is left of the body, as far as it arrives within `patience` and `limit` bytes.
    /// Whether the next request follows then.
    pub(super) fn finish(&mut self, patience: Duration, limit: u64) -> bool {
        self.turn += 1;
        if self.owes_continue {
            return false; // the client may or may not send it
        }
        self.patience = patience;
        let mut scrap = [0; 4096];
        let mut left = limit;
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
            self.write_now(b"HTTP/1.1 100 Continue\r\n\r\n", self.patience)?;
        }
        self.step(out).inspect_err(|_| self.body = State::Broken)
    }

    fn step(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.body {
                State::Done => return Ok(0),
                State::Broken => return Err(malformed("the request's body is broken")),
                State::Length(left) => {
                    let n = self.some(left, out)?;
                    let left = left - n as u64;
                    self.body = if left == 0 { State::Done } else { State::Length(left) };
                    return Ok(n);
                }
                State::Chunk(left) => {
                    let n = self.some(left, out)?;
                    let left = left - n as u64;
                    self.body = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
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
        let n = self.patiently(|wire| wire.stream.read(&mut out[..want]))?;
        self.received += n as u64;
        Ok(n)
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
            self.patiently(Self::fill)?;
        }
    }

    /// Does `read` until it yields bytes, the patience is over or the body comes too slowly.
    fn patiently(&mut self, mut read: impl FnMut(&mut Self) -> io::Result<usize>) -> io::Result<usize> {
        let deadline = Instant::now() + self.patience;
        loop {
            match read(self) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the request's body is cut short")),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if is_pause(&e) => {}
                got => return got,
            }
            let now = Instant::now();
            let spent = now - self.started;
            let slow = spent > FLOOR_AFTER && self.received < spent.as_secs() * FLOOR_BYTES_PER_SECOND;
            if slow || now >= deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the request's body comes too slowly"));
            }
            self.stream.wait(Interest::Read, deadline - now)?;
        }
    }

    /// Writes all of `bytes`, waiting for the client for `patience` at a time.
    pub(super) fn write_now(&mut self, bytes: &[u8], patience: Duration) -> io::Result<()> {
        let len = bytes.len() as u64;
        self.send(len, patience, |stream, left| stream.write(&bytes[(len - left) as usize..]).map(|n| n as u64))
    }

    /// Has `some` send some of what is left, until `len` bytes are sent.
    pub(super) fn send(
        &mut self,
        mut len: u64,
        patience: Duration,
        mut some: impl FnMut(&mut T, u64) -> io::Result<u64>,
    ) -> io::Result<()> {
        let mut deadline = Instant::now() + patience;
        while len > 0 {
            match some(&mut self.stream, len) {
                // a file that is shorter than it was, or a connection that takes nothing more
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    len -= n;
                    deadline = Instant::now() + patience;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_pause(&e) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() || !self.stream.wait(Interest::Write, left)? {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(e) => return Err(e),
            }
        }
        self.stream.flush()
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

impl<T: Transport> Read for BodyReader<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut wire = self.wire.lock().expect("no holder panics");
        if wire.turn != self.turn {
            return Err(io::Error::other("the request is over"));
        }
        wire.read_body(buf)
    }
}
