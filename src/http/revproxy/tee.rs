//! A body on its way to the client, kept at the same time.
//!
//! Invariants: the client's stream never fails for what goes wrong with keeping; what is kept is
//! kept only when the body came to its end, and to the length promised where one was. Dropping
//! the stream before that (the client left) keeps nothing.

use std::io::{self, Read};

/// Where a body is kept.
pub trait Keeper: Send {
    /// Takes the next bytes. After an error nothing more comes.
    fn take(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Keeps what was taken: it is whole.
    fn finish(&mut self) -> io::Result<()>;
    /// Takes note of why nothing is kept after all.
    fn lost(&self, why: &io::Error);
}

/// The stream.
pub struct Tee {
    from: Box<dyn Read + Send>,
    keeper: Option<Box<dyn Keeper>>,
    left: Option<u64>,
    ended: bool,
}

impl Tee {
    /// Reads `from`, of length `len` where that is known, and gives it to `keeper`.
    pub fn new(from: Box<dyn Read + Send>, len: Option<u64>, keeper: Box<dyn Keeper>) -> Self {
        Tee { from, keeper: Some(keeper), left: len, ended: false }
    }
}

impl Read for Tee {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.ended || buf.is_empty() {
            return Ok(0);
        }
        let n = if self.left == Some(0) { 0 } else { self.from.read(buf)? };
        if n == 0 && self.left.is_some_and(|left| left > 0) {
            self.keeper = None;
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer ends short of its length"));
        }
        if let Some(keeper) = &mut self.keeper
            && let Err(e) = keeper.take(&buf[..n])
        {
            keeper.lost(&e);
            self.keeper = None;
        }
        self.left = self.left.map(|left| left.saturating_sub(n as u64));
        if n > 0 && self.left == Some(0) {
            // who knows the length does not read on to the end: what it has read is kept now,
            // and the connection can be used again
            let _ = self.from.read(&mut [0]);
        }
        self.ended = n == 0 || self.left == Some(0);
        if let Some(mut keeper) = self.keeper.take_if(|_| self.ended)
            && let Err(e) = keeper.finish()
        {
            keeper.lost(&e);
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<(Vec<u8>, &'static str)>>);

    impl Keeper for Log {
        fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
            if bytes.contains(&b'!') {
                return Err(io::Error::other("full"));
            }
            self.0.lock().unwrap().0.extend_from_slice(bytes);
            Ok(())
        }
        fn finish(&mut self) -> io::Result<()> {
            self.0.lock().unwrap().1 = "kept";
            Ok(())
        }
        fn lost(&self, _: &io::Error) {
            self.0.lock().unwrap().1 = "lost";
        }
    }

    fn tee(body: &'static [u8], len: Option<u64>) -> (Tee, Log) {
        let log = Log::default();
        (Tee::new(Box::new(body), len, Box::new(log.clone())), log)
    }

    fn outcome(log: &Log) -> &'static str {
        log.0.lock().unwrap().1
    }

    #[test]
    fn whole_bodies_are_kept() {
        let (mut t, log) = tee(b"hello", None);
        let mut got = Vec::new();
        t.read_to_end(&mut got).unwrap();
        assert_eq!((got.as_slice(), outcome(&log)), (&b"hello"[..], "kept"));
        // a reader that stops at the promised length
        let (mut t, log) = tee(b"hello", Some(5));
        t.read_exact(&mut [0; 5]).unwrap();
        assert_eq!(*log.0.lock().unwrap(), (b"hello".to_vec(), "kept"));
        let (mut t, log) = tee(b"", Some(0));
        t.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(outcome(&log), "kept");
    }

    #[test]
    fn parts_are_not_kept() {
        let (mut t, log) = tee(b"hell", Some(5));
        assert_eq!(t.read_to_end(&mut Vec::new()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(outcome(&log), "");
        let (mut t, log) = tee(b"hello", None);
        t.read_exact(&mut [0; 4]).unwrap();
        drop(t);
        assert_eq!(outcome(&log), "");
    }

    #[test]
    fn trouble_with_keeping_does_not_reach_the_client() {
        let (mut t, log) = tee(b"hello!", Some(6));
        let mut got = Vec::new();
        t.read_to_end(&mut got).unwrap();
        assert_eq!((got.as_slice(), outcome(&log)), (&b"hello!"[..], "lost"));
    }
}
