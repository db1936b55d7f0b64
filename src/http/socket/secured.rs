//! TLS towards a client.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{Socket, Stream};

/// TLS towards the client.
pub struct Secured(StreamOwned<ServerConnection, Socket>);

impl Secured {
    /// Shakes hands with the client, who has as long for it as for a head.
    pub fn accept(mut socket: Socket, config: Arc<ServerConfig>) -> io::Result<Self> {
        let connection = ServerConnection::new(config).map_err(io::Error::other)?;
        socket.await_head(true);
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Secured(stream))
    }
}

impl Read for Secured {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buf) {
            // many clients leave without a word
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(0),
            other => other,
        }
    }
}

impl Write for Secured {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Stream for Secured {
    fn socket(&mut self) -> &mut Socket {
        &mut self.0.sock
    }
    fn end(&mut self, broken: bool) {
        if !broken {
            self.0.conn.send_close_notify();
            let _ = self.0.flush(); // the client may be gone
            self.0.sock.end(false);
        }
    }
}
