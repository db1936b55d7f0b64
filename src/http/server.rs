//! The HTTP server: accepts connections and answers their requests, a thread a connection.
//!
//! Invariants:
//! - Connections are capped; at the cap the one that has been idle for longest makes room. A thread
//!   has a small stack, so that a thousand idle connections cost little.
//! - Every wait for a client has a time-out. Only a reply that takes its connection over (CONNECT)
//!   waits as it likes.
//! - Threads are named, and joined by [`Server::stop`].

mod answer;
mod body;
mod conn;
mod head;
mod open;
#[cfg(test)]
mod tests;
mod transport;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use self::body::Wire;
use self::conn::Conn;
use self::open::{Entry, Open, State};
use self::transport::{Blocking, Socket, TakenOver, Transport};
use super::exchange::{Handler, Stream};

pub use self::head::Context;

/// What the server allows its clients.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// Connections at a time. Default: 2,048, or half the files that the process may open.
    pub max_connections: usize,
    /// How long a connection may wait between requests. Default: 60 s.
    pub idle_timeout: Duration,
    /// How long the rest of a head may take once it has begun. Default: 10 s.
    pub head_timeout: Duration,
    /// How long a body may pause, in either direction. Default: 30 s.
    pub io_timeout: Duration,
    /// How long [`Server::stop`] waits for answers under way. Default: 10 s.
    pub grace: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let half = files.map_or(usize::MAX, |n| usize::try_from(n / 2).unwrap_or(usize::MAX));
        ServerLimits {
            max_connections: half.clamp(16, 2048),
            idle_timeout: Duration::from_secs(60),
            head_timeout: Duration::from_secs(10),
            io_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(10),
        }
    }
}

/// What takes a connection over.
type Taker = Box<dyn FnOnce(Box<dyn Stream>) + Send>;

/// Stack of every thread here: TLS to an upstream is the deepest that happens on one. Untouched
/// pages cost nothing.
const STACK: usize = 512 << 10;
/// How often reads of a connection that was taken over come up for air.
const TICK: Duration = Duration::from_secs(5);

/// A listening socket and everything behind it.
pub struct Server {
    addr: SocketAddr,
    shared: Arc<Shared>,
    /// Taken by the accept thread.
    listener: Mutex<Option<TcpListener>>,
    acceptor: Mutex<Option<Acceptor>>,
}

struct Acceptor {
    /// Closing it ends the thread.
    stop: io::PipeWriter,
    thread: JoinHandle<()>,
}

/// What the threads share.
struct Shared {
    limits: ServerLimits,
    open: Arc<Open>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Server {
    /// Listens on `addr`; port 0 takes a free one. Nothing is answered before [`Self::start`].
    pub fn bind(addr: SocketAddr, limits: ServerLimits) -> io::Result<Server> {
        let listener = TcpListener::bind(addr).map_err(|e| {
            let hint = match e.kind() {
                io::ErrorKind::AddrInUse => "; another program listens there: stop it or choose another port",
                io::ErrorKind::PermissionDenied => "; choose a port above 1023",
                io::ErrorKind::AddrNotAvailable => "; that is no address of this machine",
                _ => "",
            };
            io::Error::new(e.kind(), format!("cannot listen on {addr}: {e}{hint}"))
        })?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared { limits, open: Arc::default(), threads: Mutex::default() });
        Ok(Server { addr, shared, listener: Mutex::new(Some(listener)), acceptor: Mutex::default() })
    }

    /// Where it listens, the port chosen if it was 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts to answer with `handler`. Once.
    pub fn start(&self, handler: Arc<dyn Handler>) -> io::Result<()> {
        let listener = lock(&self.listener).take().ok_or_else(|| io::Error::other("the server was started before"))?;
        let (stopped, stop) = io::pipe()?;
        let shared = self.shared.clone();
        let thread = spawn("http-accept", move || accept_loop(&shared, &handler, &listener, &stopped))?;
        *lock(&self.acceptor) = Some(Acceptor { stop, thread });
        Ok(())
    }

    /// Stops accepting, closes idle connections, lets answers under way finish within the grace
    /// time, cuts off the rest, and joins every thread. Calling it again does nothing.
    pub fn stop(&self) {
        let Shared { limits, open, threads } = &*self.shared;
        drop(lock(&self.listener).take());
        if let Some(Acceptor { stop, thread }) = lock(&self.acceptor).take() {
            drop(stop);
            join(thread);
        }
        open.stop();
        if !open.wait_closed(limits.grace) {
            log::warn!("{} HTTP connections were cut off: not done within {:?}", open.count(), limits.grace);
            open.cut_off();
        }
        if open.wait_closed(Duration::from_secs(2)) {
            std::mem::take(&mut *lock(threads)).into_iter().for_each(join);
        } else {
            log::warn!("left behind: HTTP requests whose upstream does not answer");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Serves the requests of one connection until either side closes it: what [`Server`] does for its
/// sockets, for any stream, on the caller's thread. Reads and writes of `stream` should give up
/// with `WouldBlock` or `TimedOut` after some seconds, so that time-outs can be kept.
pub fn serve_connection<S: io::Read + io::Write + Send + 'static>(
    stream: S,
    handler: &dyn Handler,
    limits: &ServerLimits,
    context: Context,
) {
    conn(Blocking(stream), context, handler, limits, None).run();
}

fn conn<'a, T: Transport>(
    stream: T,
    context: Context,
    handler: &'a dyn Handler,
    limits: &'a ServerLimits,
    entry: Option<&'a Entry>,
) -> Conn<'a, T> {
    Conn { wire: Arc::new(Mutex::new(Wire::new(stream))), context, handler, limits, entry }
}

/// Accepts until `stopped` is closed.
fn accept_loop(shared: &Arc<Shared>, handler: &Arc<dyn Handler>, listener: &TcpListener, stopped: &io::PipeReader) {
    let mut troubled = false;
    loop {
        let mut fds = [PollFd::new(stopped, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        // out of files, the listener stays readable: wait for a moment instead
        let (watched, timeout) = if troubled { (1, Some(Duration::from_millis(50))) } else { (2, None) };
        let timeout = timeout.map(transport::timespec);
        if let Err(e) = poll(&mut fds[..watched], timeout.as_ref())
            && e != rustix::io::Errno::INTR
        {
            log::error!("cannot wait for HTTP connections: {e}");
            return;
        }
        if !fds[0].revents().is_empty() {
            return;
        }
        let was_troubled = std::mem::replace(&mut troubled, false);
        loop {
            match listener.accept() {
                Ok((socket, peer)) => shared.admit(socket, peer, handler.clone()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // the client gave up before we came
                Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
                Err(e) => {
                    if !was_troubled {
                        log::warn!("cannot accept an HTTP connection, trying again: {e}");
                    }
                    shared.open.evict();
                    troubled = true;
                    break;
                }
            }
        }
    }
}

impl Shared {
    /// Takes a new connection in.
    fn admit(self: &Arc<Self>, socket: TcpStream, peer: SocketAddr, handler: Arc<dyn Handler>) {
        let open = self.open.count();
        if open >= self.limits.max_connections {
            self.open.evict();
            // the eviction takes a moment; if there is nothing to evict, no more come in
            if open >= self.limits.max_connections + self.limits.max_connections / 8 {
                return;
            }
        }
        if socket.set_nodelay(true).is_err() || socket.set_nonblocking(true).is_err() {
            return; // it is gone already
        }
        let socket = Arc::new(socket);
        let (shared, entry) = (self.clone(), self.open.add(&socket));
        let spawned = spawn("http", move || {
            if let Err(e) = attend(&*handler, &shared.limits, socket, peer, &entry) {
                log::warn!("a CONNECT was dropped: {e}");
            }
        });
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        match spawned {
            Ok(thread) => threads.push(thread),
            Err(e) => log::warn!("cannot start a thread for an HTTP connection: {e}"),
        }
    }
}

/// What a connection's thread does.
fn attend(
    handler: &dyn Handler,
    limits: &ServerLimits,
    socket: Arc<TcpStream>,
    peer: SocketAddr,
    entry: &Entry,
) -> io::Result<()> {
    let context = Context { peer: Some(peer), origin: None };
    let Some((taker, early)) = conn(Socket(socket.clone()), context, handler, limits, Some(entry)).run() else {
        return Ok(());
    };
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(TICK))?;
    socket.set_write_timeout(Some(limits.io_timeout))?;
    if entry.set(State::Taken) {
        taker(Box::new(TakenOver { early: io::Cursor::new(early), socket }));
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_string()).stack_size(STACK).spawn(work)
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        log::error!("an HTTP thread panicked");
    }
}
