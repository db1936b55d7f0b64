//! Plugin clients over TCP and Unix sockets: an accept loop, a named thread a session.
//!
//! Invariants: TCP means loopback; a Unix socket is born with mode 0600; a socket file left by a
//! dead server is replaced, a live one's is not. Stopping accepts no more, lets sessions end by
//! themselves for a while, then ends their input, which they take as the client's end.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::stack::Stack;
use crate::cache::Client;
use crate::config::PluginAddr;
use crate::connections::{Open, listen};
use crate::error::Error;
use crate::platform::{self, UnixListener};
use crate::pool::{Threads, accept_all};
use crate::session::{self, Options};

/// How long sessions whose input was ended may take to end: their manifests are written meanwhile.
const LAST_ANSWERS: Duration = Duration::from_secs(15);

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Socket {
    /// A client's connection, of either kind; any or none once `stopped` says so.
    fn accept(&self, stopped: impl Fn() -> bool) -> io::Result<TcpStream> {
        match self {
            Socket::Tcp(l) => {
                platform::await_client(l, stopped)?;
                let (stream, _) = l.accept()?;
                stream.set_nodelay(true)?;
                Ok(stream)
            }
            Socket::Unix(l, _) => {
                platform::await_client(l, stopped)?;
                platform::accept(l)
            }
        }
    }
}

/// A listener with its sessions.
pub struct Listener {
    socket: Socket,
    stopping: AtomicBool,
    open: Arc<Open>,
    /// Ends with those of the sessions.
    acceptor: Mutex<Option<JoinHandle<Threads>>>,
}

impl Listener {
    /// Binds `addr` and starts to accept clients of `stack`. `default_scope` is that of clients
    /// which name none.
    pub fn start(addr: &PluginAddr, stack: &Arc<Stack>, default_scope: Option<String>) -> Result<Arc<Self>, Error> {
        let socket = bind(addr).map_err(|e| Error::failed(format!("--plugin {addr}: {e}")))?;
        let (open, acceptor) = (Open::new(usize::MAX), Mutex::default());
        let listener = Arc::new(Listener { socket, stopping: AtomicBool::new(false), open, acceptor });
        let (inner, stack) = (listener.clone(), stack.clone());
        let thread = thread::Builder::new()
            .name("accept".into())
            .spawn(move || inner.accept(&stack, default_scope.as_deref()))
            .map_err(|e| Error::failed(format!("starting a thread: {e}")))?;
        *listener.acceptor.lock().expect("no holder panics") = Some(thread);
        Ok(listener)
    }

    /// The address as `connect` takes it.
    pub fn address(&self) -> String {
        match &self.socket {
            Socket::Tcp(l) => l.local_addr().map_or_else(|_| String::new(), |a| a.to_string()),
            Socket::Unix(_, path) => path.display().to_string(),
        }
    }

    /// Sessions that are open.
    pub fn sessions(&self) -> usize {
        self.open.state().0
    }

    /// Stops accepting, waits for the sessions to end until `deadline`, then ends their input and
    /// waits for what they were doing.
    pub fn stop(&self, deadline: Instant) {
        self.stopping.store(true, Ordering::SeqCst);
        match &self.socket {
            Socket::Tcp(l) => platform::wake(l),
            Socket::Unix(l, _) => platform::wake(l),
        }
        if let Socket::Unix(_, path) = &self.socket {
            let _ = fs::remove_file(path);
        }
        let acceptor = self.acceptor.lock().expect("no holder panics").take();
        let threads = acceptor.and_then(|thread| thread.join().ok()).unwrap_or_default();
        if !self.open.wait_closed(deadline.saturating_duration_since(Instant::now())) {
            self.open.stop();
            // a client that does not read its answers would hold us for ever
            if !self.open.wait_closed(LAST_ANSWERS) {
                self.open.cut_off();
            }
        }
        for thread in threads {
            let _ = thread.join();
        }
    }

    /// Accepts until the listener stops; the threads of the sessions.
    fn accept(&self, stack: &Arc<Stack>, default_scope: Option<&str>) -> Threads {
        let stopped = || self.stopping.load(Ordering::SeqCst);
        let begin = || self.begin(self.socket.accept(stopped)?, stack, default_scope);
        // out of descriptors or threads: some end soon, perhaps
        accept_all("a plugin client", stopped, begin, || thread::sleep(Duration::from_millis(200)))
    }

    fn begin(&self, conn: TcpStream, stack: &Arc<Stack>, default_scope: Option<&str>) -> io::Result<JoinHandle<()>> {
        let (output, entry) = (conn.try_clone()?, self.open.admit(conn)?);
        let client = Arc::new(Client::new(stack.cache.clone(), default_scope));
        let (options, stack) = (stack.session_options(default_scope.is_none()), stack.clone());
        thread::Builder::new().name(format!("session-{}", entry.id)).spawn(move || {
            serve(entry.taken_over(), output, &client, &options);
            // `go` waits until the connection ends, and not for the manifest; one that is gone has ended it already
            let _ = entry.taken_over().shutdown(Shutdown::Both);
            client.close(stack.close_deadline());
        })
    }
}

fn serve(input: &TcpStream, output: TcpStream, client: &Arc<Client>, options: &Options) {
    let result = session::run(input, output, client, options, || {}, || {});
    // a reset is how a killed client ends
    match result {
        Err(crate::protocol::ProtocolError::Io(e)) => log::debug!("a client is gone: {e}"),
        Err(e) => log::warn!("a plugin client was dropped: {e}"),
        Ok(()) => {}
    }
}

fn bind(addr: &PluginAddr) -> io::Result<Socket> {
    match addr {
        PluginAddr::Port(port) => listen((Ipv4Addr::LOCALHOST, *port).into()).map(Socket::Tcp),
        PluginAddr::Unix(path) => {
            make_way(path)?;
            platform::listen(path).map(|listener| Socket::Unix(listener, path.clone()))
        }
    }
}

/// Removes a socket that nobody listens on any more.
fn make_way(path: &Path) -> io::Result<()> {
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok(()) };
    if !platform::is_socket(&meta) {
        return Err(io::Error::other("there is a file that is not a socket"));
    }
    match platform::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(e) => Err(e),
        Ok(_) => Err(io::Error::other("a server is listening there")),
    }
}
