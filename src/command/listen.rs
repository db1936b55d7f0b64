//! Plugin clients over TCP and Unix sockets: an accept loop, a named thread a session.
//!
//! Invariants: TCP means loopback; a Unix socket is born with mode 0600; a socket file left by a
//! dead server is replaced, a live one's is not. Stopping accepts no more, lets sessions end by
//! themselves for a while, then ends their input, which they take as the client's end.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::stack::Stack;
use crate::cache::Client;
use crate::config::PluginAddr;
use crate::error::Error;
use crate::platform::{self, UnixListener};
use crate::session::{self, Options};

/// How long sessions whose input was ended may take to end: their manifests are written meanwhile.
const LAST_ANSWERS: Duration = Duration::from_secs(15);

/// Ends one direction of a connection or both; a client that is gone has ended it already.
fn shutdown(conn: &TcpStream, how: Shutdown) {
    let _ = conn.shutdown(how);
}

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
    sessions: Mutex<Sessions>,
    ended: Condvar,
}

#[derive(Default)]
struct Sessions {
    next: u64,
    open: HashMap<u64, TcpStream>,
    /// Theirs, and the one that accepts.
    threads: Vec<JoinHandle<()>>,
}

impl Listener {
    /// Binds `addr` and starts to accept clients of `stack`. `default_scope` is that of clients
    /// which name none.
    pub fn start(addr: &PluginAddr, stack: &Arc<Stack>, default_scope: Option<String>) -> Result<Arc<Self>, Error> {
        let socket = bind(addr).map_err(|e| Error::failed(format!("--plugin {addr}: {e}")))?;
        let (sessions, ended) = (Mutex::default(), Condvar::new());
        let listener = Arc::new(Listener { socket, stopping: AtomicBool::new(false), sessions, ended });
        let (inner, stack) = (listener.clone(), stack.clone());
        let thread = thread::Builder::new()
            .name("accept".into())
            .spawn(move || inner.accept(&stack, default_scope.as_deref()))
            .map_err(|e| Error::failed(format!("starting a thread: {e}")))?;
        listener.lock().threads.push(thread);
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
        self.lock().open.len()
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
        if !self.wait_for_sessions(deadline) {
            self.lock().open.values().for_each(|conn| shutdown(conn, Shutdown::Read));
            // a client that does not read its answers would hold us for ever
            if !self.wait_for_sessions(Instant::now() + LAST_ANSWERS) {
                self.lock().open.values().for_each(|conn| shutdown(conn, Shutdown::Both));
            }
        }
        let threads = std::mem::take(&mut self.lock().threads);
        for thread in threads {
            let _ = thread.join();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().expect("no holder panics")
    }

    /// Waits for every session to end; `false` when some have not by `deadline`.
    fn wait_for_sessions(&self, deadline: Instant) -> bool {
        let mut sessions = self.lock();
        while !sessions.open.is_empty() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            sessions = self.ended.wait_timeout(sessions, left).expect("no holder panics").0;
        }
        true
    }

    fn accept(self: Arc<Self>, stack: &Arc<Stack>, default_scope: Option<&str>) {
        loop {
            let accepted = self.socket.accept(|| self.stopping.load(Ordering::SeqCst));
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            match accepted.and_then(|conn| self.begin(conn, stack, default_scope)) {
                Ok(()) => {}
                // out of descriptors or threads: wait for a session to end rather than spin
                Err(e) => {
                    log::warn!("a plugin client was turned away: {e}");
                    let sessions = self.lock();
                    let _ = self.ended.wait_timeout(sessions, Duration::from_millis(200)).expect("no holder panics");
                }
            }
        }
    }

    fn begin(self: &Arc<Self>, conn: TcpStream, stack: &Arc<Stack>, default_scope: Option<&str>) -> io::Result<()> {
        let (kept, output) = (conn.try_clone()?, conn.try_clone()?);
        let mut sessions = self.lock();
        // who stops looks at the sessions once
        if self.stopping.load(Ordering::SeqCst) {
            return Ok(());
        }
        sessions.threads.retain(|t| !t.is_finished());
        let id = sessions.next;
        sessions.next += 1;
        let client = Arc::new(Client::new(stack.cache.clone(), default_scope));
        let (options, listener) = (stack.session_options(default_scope.is_none()), self.clone());
        let stack = stack.clone();
        let thread = thread::Builder::new().name(format!("session-{id}")).spawn(move || {
            serve(conn, output, &client, &options);
            // `go` waits until the connection ends, and not for the manifest
            listener.lock().open.get(&id).into_iter().for_each(|conn| shutdown(conn, Shutdown::Both));
            client.close(stack.close_deadline());
            listener.lock().open.remove(&id);
            listener.ended.notify_all();
        })?;
        sessions.open.insert(id, kept);
        sessions.threads.push(thread);
        Ok(())
    }
}

fn serve(input: TcpStream, output: TcpStream, client: &Arc<Client>, options: &Options) {
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
        PluginAddr::Port(port) => match TcpListener::bind((Ipv4Addr::LOCALHOST, *port)) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                Err(io::Error::other("the port is in use; choose another"))
            }
            bound => bound.map(Socket::Tcp),
        },
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
