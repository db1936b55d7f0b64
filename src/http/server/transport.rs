//! What a connection runs over: a socket of ours that never blocks, or any stream whose reads
//! give up after a while.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::http::exchange::Stream;

/// Which readiness a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    Read,
    Write,
}

impl Interest {
    fn flags(self) -> PollFlags {
        match self {
            Interest::Read => PollFlags::IN,
            Interest::Write => PollFlags::OUT,
        }
    }
}

/// Both directions of a connection. Reads and writes fail with `WouldBlock` or `TimedOut` when
/// nothing can be done at present.
pub(super) trait Transport: Read + Write + Send + 'static {
    /// Whether closing it with unread input destroys what was sent.
    const SOCKET: bool;

    /// Waits for readiness; false when `timeout` is over. May return true too early.
    fn wait(&mut self, interest: Interest, timeout: Duration) -> io::Result<bool>;

    /// Sends some of the next `len` bytes of `file` and moves the file's position past them; 0 at
    /// the end of the file.
    fn send_file(&mut self, file: &mut File, len: u64) -> io::Result<u64>;

    /// Says that no more is sent.
    fn end_output(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Makes the coming close look like a failure to the client, where it would not anyway.
    fn abort(&mut self) {}
}

/// A client's socket, in non-blocking mode.
pub(super) struct Socket(pub(super) Arc<TcpStream>);

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buf)
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self.0).write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Socket {
    const SOCKET: bool = true;

    fn wait(&mut self, interest: Interest, timeout: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + timeout;
        let mut fds = [PollFd::new(&*self.0, interest.flags())];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match poll(&mut fds, Some(&timespec(left))) {
                Ok(n) => return Ok(n > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn end_output(&mut self) -> io::Result<()> {
        self.0.shutdown(std::net::Shutdown::Write)
    }

    fn abort(&mut self) {
        // closing sends a reset
        let _ = rustix::net::sockopt::set_socket_linger(&*self.0, Some(Duration::ZERO));
    }

    #[cfg(target_os = "linux")]
    fn send_file(&mut self, file: &mut File, len: u64) -> io::Result<u64> {
        // the pages go out uncopied: fine, for files of the cache are replaced, never changed
        const MOST: u64 = 1 << 30;
        match rustix::fs::sendfile(&*self.0, &*file, None, len.min(MOST) as usize) {
            Ok(n) => Ok(n as u64),
            Err(e) => Err(e.into()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn send_file(&mut self, file: &mut File, len: u64) -> io::Result<u64> {
        copy_some(file, len, self)
    }
}

/// A duration as the system calls take it.
pub(super) fn timespec(d: Duration) -> Timespec {
    Timespec { tv_sec: d.as_secs().min(86_400) as i64, tv_nsec: d.subsec_nanos().into() }
}

/// A stream whose reads and writes block, but not for long: TLS over a socket with time-outs.
pub(super) struct Blocking<S>(pub(super) S);

impl<S: Read> Read for Blocking<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<S: Write> Write for Blocking<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<S: Read + Write + Send + 'static> Transport for Blocking<S> {
    const SOCKET: bool = false;

    fn wait(&mut self, _: Interest, _: Duration) -> io::Result<bool> {
        Ok(true) // the read or write itself waits
    }

    fn send_file(&mut self, file: &mut File, len: u64) -> io::Result<u64> {
        copy_some(file, len, self)
    }
}

/// Sends a piece of a file through memory. The piece is written whole or the file's position set
/// back, so that a pause loses nothing.
fn copy_some(file: &mut File, len: u64, to: &mut impl Write) -> io::Result<u64> {
    use std::io::Seek;
    let mut piece = vec![0; len.min(64 << 10) as usize];
    let n = file.read(&mut piece)?;
    let sent = match to.write(&piece[..n]) {
        Ok(sent) => sent,
        Err(e) => {
            file.seek_relative(-(n as i64))?;
            return Err(e);
        }
    };
    if sent < n {
        file.seek_relative(sent as i64 - n as i64)?;
    }
    Ok(sent as u64)
}

/// The connection as a reply takes it over: what was read too early comes first.
pub(super) struct TakenOver {
    pub(super) early: io::Cursor<Vec<u8>>,
    pub(super) socket: Arc<TcpStream>,
}

impl Read for TakenOver {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.early.read(buf)? {
            0 => (&*self.socket).read(buf),
            n => Ok(n),
        }
    }
}

impl Write for TakenOver {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self.socket).write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for TakenOver {
    fn socket(&self) -> Option<&TcpStream> {
        Some(&self.socket)
    }
}
