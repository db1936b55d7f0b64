//! What requests are served over and tunnels carry: a socket, and as many layers of TLS as there are over it:
//! none, the server's own, that of an intercepted CONNECT, or one in the other.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{Connection, ServerConfig, ServerConnection};

use super::{ServerLimits, Socket, WRITE};
use crate::connections::Entry;
use crate::platform::{self, FileExt};

/// A connection.
pub struct Stream {
    /// What was read of it already, and is read again.
    early: VecDeque<u8>,
    layer: Layer,
}

enum Layer {
    Bare(Socket),
    Tls(Box<Tls>),
}

struct Tls {
    session: Connection,
    below: Stream,
}

impl Stream {
    /// The client that `entry` stands for, waited for as long as `limits` say.
    pub fn client(entry: Entry, limits: ServerLimits) -> io::Result<Self> {
        Socket::new(entry.tcp.clone(), Some(entry), limits).map(|socket| Self::over(Layer::Bare(socket)))
    }

    /// A server that was connected to.
    pub fn server(tcp: TcpStream) -> io::Result<Self> {
        Socket::new(Arc::new(tcp), None, ServerLimits::default()).map(|socket| Self::over(Layer::Bare(socket)))
    }

    fn over(layer: Layer) -> Self {
        Stream { early: VecDeque::new(), layer }
    }

    /// TLS over this, towards a client, who has as long to shake hands as for a head.
    pub fn secured(mut self, config: Arc<ServerConfig>) -> io::Result<Self> {
        self.socket().await_head(true);
        self.shake_hands(ServerConnection::new(config).map_err(io::Error::other)?.into())
    }

    /// TLS over this, as `session` speaks it.
    pub fn shake_hands(self, session: Connection) -> io::Result<Self> {
        let mut tls = Tls { session, below: self };
        while tls.session.is_handshaking() {
            tls.session.complete_io(&mut tls.below)?;
        }
        Ok(Self::over(Layer::Tls(Box::new(tls))))
    }

    /// The socket below all.
    pub fn socket(&mut self) -> &mut Socket {
        match &mut self.layer {
            Layer::Bare(socket) => socket,
            Layer::Tls(tls) => tls.below.socket(),
        }
    }

    /// Hands the connection over to a reply; `early` was read from it already.
    pub fn hand_over(&mut self, early: &[u8]) {
        self.early.extend(early);
        self.socket().has_moved();
    }

    /// Says that no more is sent. Where an answer broke off, sees to it instead that the coming
    /// close does not look like the answer's end. An error says that the connection is gone already.
    pub fn end(&mut self, broken: bool) {
        match &mut self.layer {
            // with no time to linger, closing sends a reset
            Layer::Bare(socket) if broken => {
                let _ = rustix::net::sockopt::set_socket_linger(&*socket.tcp, Some(Duration::ZERO));
            }
            Layer::Bare(socket) => drop(socket.tcp.shutdown(Shutdown::Write)),
            Layer::Tls(_) if broken => {}
            Layer::Tls(tls) => {
                tls.session.send_close_notify();
                let _ = tls.flush();
                tls.below.end(false);
            }
        }
    }

    /// Sends some of the `len` bytes of `file` from `at` on; 0 at the end of the file.
    pub fn send_file(&mut self, file: &File, at: u64, len: u64) -> io::Result<u64> {
        if let Layer::Bare(socket) = &mut self.layer {
            // the pages go out uncopied: fine, for files of the cache are replaced, never changed
            let most = len.min(4 << 20) as usize;
            let sent = socket.patiently(WRITE, |tcp| platform::send_file(tcp, file, at, most))?;
            return Ok(sent as u64);
        }
        let mut piece = vec![0; len.min(64 << 10) as usize];
        let n = file.read_at(&mut piece, at)?;
        self.write_all(&piece[..n])?;
        Ok(n as u64)
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match (self.early.read(buf)?, &mut self.layer) {
            (0, Layer::Bare(socket)) => socket.read(buf),
            (0, Layer::Tls(tls)) => loop {
                match tls.session.reader().read(buf) {
                    Err(e) if e.kind() == ErrorKind::WouldBlock => tls.session.complete_io(&mut tls.below)?,
                    // many leave without a word
                    Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                    read => return read,
                };
            },
            (n, _) => Ok(n),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.layer {
            Layer::Bare(socket) => socket.write(buf),
            Layer::Tls(tls) => {
                tls.flush()?;
                let n = tls.session.writer().write(buf)?;
                // what this says is said again by the next write, or the flush
                let _ = tls.flush();
                Ok(n)
            }
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.layer {
            Layer::Bare(_) => Ok(()),
            Layer::Tls(tls) => tls.flush(),
        }
    }
}

impl Tls {
    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.below)?;
        }
        self.below.flush()
    }
}
