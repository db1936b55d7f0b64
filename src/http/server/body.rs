//! The body of a request: read on demand by the handler, decoded, and never past its end.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::time::Duration;

use crate::http::socket::Stream;

/// Bytes that are read ahead.
const AHEAD: usize = 4 << 10;
/// Bytes of a chunk's size line, extensions included.
const MAX_CHUNK_LINE: u64 = 1024;
/// Trailer lines that are read and dropped.
const MAX_TRAILERS: usize = 100;
/// Bytes of an unread request body that are read and dropped to keep a connection.
const DRAIN: u64 = 64 << 10;
/// How long the rest of an unread request body is waited for.
const DRAIN_PATIENCE: Duration = Duration::from_millis(20);

/// A connection's input: the stream, what was read ahead of it, and where in a body it is.
pub(super) struct Wire {
    pub(super) from: BufReader<Stream>,
    body: State,
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
    /// So many bytes of a chunk to come, then the end of its line.
    Chunk(u64),
    /// Malformed or cut short: nothing after it can be trusted.
    Broken,
}

impl Wire {
    pub(super) fn new(stream: Stream) -> Self {
        let from = BufReader::with_capacity(AHEAD, stream);
        Wire { from, body: State::Done, owes_continue: false }
    }

    pub(super) fn stream(&mut self) -> &mut Stream {
        self.from.get_mut()
    }

    /// The stream, which yields again what was read ahead of it.
    pub(super) fn hand_over(self) -> Stream {
        let ahead = self.from.buffer().to_vec();
        let mut stream = self.from.into_inner();
        stream.hand_over(&ahead);
        stream
    }

    /// Begins the body of the request whose head was consumed: of so many bytes, or of chunks.
    pub(super) fn begin(&mut self, len: Option<u64>, owes_continue: bool) {
        self.body = match len {
            Some(0) => State::Done,
            Some(n) => State::Length(n),
            None => State::ChunkSize,
        };
        self.owes_continue = owes_continue && self.body != State::Done;
        self.stream().socket().pace();
    }

    /// Reads what is left of the body, as far as it arrives at once and is not long. Whether the next
    /// request follows then.
    pub(super) fn finish(&mut self) -> bool {
        if self.owes_continue {
            return false; // the client may or may not send it
        }
        self.stream().socket().within(DRAIN_PATIENCE);
        let mut scrap = [0; 4096];
        let mut left = DRAIN;
        while self.body != State::Done {
            match self.read(&mut scrap) {
                Ok(0) => {}
                Ok(n) if (n as u64) < left => left -= n as u64,
                _ => return false,
            }
        }
        true
    }

    fn step(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.body {
                State::Done => return Ok(0),
                State::Broken => return Err(malformed("the request's body is broken")),
                State::Chunk(0) => {
                    if !self.line()?.is_empty() {
                        return Err(malformed("a chunk is longer than its size"));
                    }
                    self.body = State::ChunkSize;
                }
                State::Length(left) | State::Chunk(left) => {
                    let want = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let n = not_cut(self.from.read(&mut out[..want])?)?;
                    self.body = match (self.body, left - n as u64) {
                        (State::Chunk(_), left) => State::Chunk(left),
                        (_, 0) => State::Done,
                        (_, left) => State::Length(left),
                    };
                    return Ok(n);
                }
                State::ChunkSize => {
                    let line = self.line()?;
                    self.body = match chunk_size(&line).ok_or_else(|| malformed("malformed chunk size"))? {
                        0 => self.trailers()?,
                        n => State::Chunk(n),
                    };
                }
            }
        }
    }

    /// Reads what follows the last chunk.
    fn trailers(&mut self) -> io::Result<State> {
        for _ in 0..=MAX_TRAILERS {
            if self.line()?.is_empty() {
                return Ok(State::Done);
            }
        }
        Err(malformed("too many trailers"))
    }

    /// The next line without its end.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        (&mut self.from).take(MAX_CHUNK_LINE).read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r")) {
            Some(Some(line)) => Ok(line.to_vec()),
            Some(None) => Err(malformed("a line ends without CR")),
            None if line.len() as u64 == MAX_CHUNK_LINE => Err(malformed("a chunk's size line is too long")),
            None => not_cut(0).map(|_| line),
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

/// Reads the body.
impl Read for Wire {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        if self.owes_continue {
            self.owes_continue = false;
            self.stream().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            self.stream().flush()?;
        }
        self.step(out).inspect_err(|_| self.body = State::Broken)
    }
}
