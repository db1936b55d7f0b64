//! A body that goes on where it broke off, from a server that takes ranges: the same bytes, since the
//! strong tag of the answer is asked by.

use std::io::{self, Read};

/// Times that one body is asked for again.
const TRIES: u32 = 3;

/// Opens the body from this byte on.
pub type Reopen = Box<dyn FnMut(u64) -> io::Result<Box<dyn Read + Send>> + Send>;

/// The stream.
pub struct Resumed {
    body: Box<dyn Read + Send>,
    reopen: Reopen,
    got: u64,
    len: u64,
    tries: u32,
}

impl Resumed {
    /// `body`, of `len` bytes.
    pub fn new(body: Box<dyn Read + Send>, len: u64, reopen: Reopen) -> Self {
        Resumed { body, reopen, got: 0, len, tries: TRIES }
    }
}

impl Read for Resumed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.body.read(buf);
            match read {
                Ok(n) if n > 0 || buf.is_empty() || self.got >= self.len => {
                    self.got += n as u64;
                    return Ok(n);
                }
                // what broke off is told where it does not go on
                read if self.tries == 0 => return read,
                read => {
                    self.tries -= 1;
                    match (self.reopen)(self.got) {
                        Ok(body) => self.body = body,
                        Err(_) => {
                            self.tries = 0;
                            return read;
                        }
                    }
                }
            }
        }
    }
}
