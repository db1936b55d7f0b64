//! A read buffer that hands out what is there up to a delimiter, so that nobody waits for more
//! input than has been promised.

use std::io::{self, Read};

const SIZE: usize = 256 * 1024;

pub struct Input<R> {
    inner: R,
    buf: Box<[u8]>,
    pos: usize,
    end: usize,
}

impl<R: Read> Input<R> {
    pub fn new(inner: R) -> Self {
        Input { inner, buf: vec![0; SIZE].into(), pos: 0, end: 0 }
    }

    /// What is buffered, after reading once if nothing was. Empty at the end of input.
    pub fn fill(&mut self) -> io::Result<&[u8]> {
        if self.pos == self.end {
            self.pos = 0;
            self.end = 0; // a failed read leaves nothing
            self.end = loop {
                match self.inner.read(&mut self.buf) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    other => break other?,
                }
            };
        }
        Ok(&self.buf[self.pos..self.end])
    }

    /// What is buffered.
    pub fn buffered(&self) -> &[u8] {
        &self.buf[self.pos..self.end]
    }

    /// Marks `n` bytes of what [`Self::fill`] returned as read.
    pub fn consume(&mut self, n: usize) {
        self.pos += n;
        debug_assert!(self.pos <= self.end);
    }

    /// Skips white space and returns the next byte without reading it; `None` at the end.
    pub fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            let buf = self.fill()?;
            if buf.is_empty() {
                return Ok(None);
            }
            match buf.iter().position(|b| !b.is_ascii_whitespace()) {
                Some(at) => {
                    let byte = buf[at];
                    self.consume(at);
                    return Ok(Some(byte));
                }
                None => {
                    let n = buf.len();
                    self.consume(n);
                }
            }
        }
    }

    /// Reads up to the next `delimiter` or the end of input into `line`, without the delimiter;
    /// `false` when `line` would grow over `limit`.
    pub fn read_until(&mut self, delimiter: u8, limit: usize, line: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            let buf = self.fill()?;
            if buf.is_empty() {
                return Ok(true);
            }
            let found = memchr::memchr(delimiter, buf);
            let part = &buf[..found.unwrap_or(buf.len())];
            if line.len() + part.len() > limit {
                return Ok(false);
            }
            line.extend_from_slice(part);
            let n = part.len() + found.is_some() as usize;
            self.consume(n);
            if found.is_some() {
                return Ok(true);
            }
        }
    }
}
