//! The HTTP server: accepts connections and answers their requests on a bounded set of threads.
//!
//! Invariants:
//! - A connection is in one place at a time: in the queue or at a worker (something can be done),
//!   or parked (it waits for its client). Parked connections cost no thread: one poller watches
//!   them. Idle clients, those that dribble a head and those that read an answer slowly are
//!   parked. Only a handler, a request body it reads and a streamed answer hold a worker.
//! - A worker lingers at its connection for some milliseconds before parking it, as long as others
//!   are free, so that a busy keep-alive connection costs no hand-over.
//! - Connections are capped; at the cap the one that has been idle for longest makes room. Every
//!   wait for a client has a time-out.
//! - Threads are named, started as work comes, bounded, and joined by [`Server::stop`].
//! - A connection that a reply takes over (CONNECT) gets a thread of its own, counted and capped.

mod answer;
mod body;
mod conn;
mod head;
mod open;
mod park;
#[cfg(test)]
mod tests;
mod transport;
mod workers;

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use self::conn::{Conn, Host, Turn};
use self::open::{Entry, Open};
use self::park::Parking;
use self::transport::{Blocking, Socket, TakenOver};
use self::workers::Workers;
use super::exchange::{Handler, Stream};

pub use self::head::Context;

/// What the server allows its clients.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// Connections at a time. Default: 2,048, or half the files that the process may open.
    pub max_connections: usize,
    /// Threads that answer requests, started as needed. Default: 128.
    pub workers: usize,
    /// Connections that replies have taken over (CONNECT), a thread each. Default: 256.
    pub max_takeovers: usize,
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
            workers: 128,
            max_takeovers: 256,
            idle_timeout: Duration::from_secs(60),
            head_timeout: Duration::from_secs(10),
            io_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(10),
        }
    }
}

/// How the server is doing, for the status page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerState {
    /// Connections open.
    pub open: usize,
    /// Those that wait for their client.
    pub parked: usize,
    /// Requests being answered, connections lingered at included.
    pub busy: usize,
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
    poller: Mutex<Option<JoinHandle<()>>>,
}

struct Acceptor {
    /// Closing it ends the thread.
    stop: io::PipeWriter,
    thread: JoinHandle<()>,
}

/// What the threads share.
struct Shared {
    limits: ServerLimits,
    stopping: AtomicBool,
    parking: Parking,
    workers: Workers,
    open: Open,
    takers: Mutex<Vec<JoinHandle<()>>>,
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
        let shared = Shared {
            stopping: AtomicBool::new(false),
            parking: Parking::new()?,
            workers: Workers::new(limits.workers),
            open: Open::default(),
            takers: Mutex::default(),
            limits,
        };
        Ok(Server {
            addr,
            shared: Arc::new(shared),
            listener: Mutex::new(Some(listener)),
            acceptor: Mutex::default(),
            poller: Mutex::default(),
        })
    }

    /// Where it listens, the port chosen if it was 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts to answer with `handler`. Once.
    pub fn start(&self, handler: Arc<dyn Handler>) -> io::Result<()> {
        let listener = lock(&self.listener).take().ok_or_else(|| io::Error::other("the server was started before"))?;
        let (stopped, stop) = io::pipe()?;
        self.shared.workers.set_handler(handler);
        let shared = self.shared.clone();
        let poller = spawn("http-poll", move || park::run(&shared))?;
        *lock(&self.poller) = Some(poller);
        let shared = self.shared.clone();
        let thread = spawn("http-accept", move || accept_loop(&shared, &listener, &stopped))?;
        *lock(&self.acceptor) = Some(Acceptor { stop, thread });
        Ok(())
    }

    /// How it is doing.
    pub fn state(&self) -> ServerState {
        ServerState {
            open: self.shared.open.count(),
            parked: self.shared.parking.count(),
            busy: self.shared.workers.busy(),
        }
    }

    /// Stops accepting, closes idle connections, lets answers under way finish within the grace
    /// time, cuts off the rest, and joins every thread. Calling it again does nothing.
    pub fn stop(&self) {
        let shared = &self.shared;
        shared.stopping.store(true, Ordering::SeqCst);
        drop(lock(&self.listener).take());
        if let Some(Acceptor { stop, thread }) = lock(&self.acceptor).take() {
            drop(stop);
            join(thread);
        }
        shared.parking.wake();
        // connections that were taken over see their client leave
        shared.open.shut_down(Shutdown::Read, |taken| taken);
        if !shared.open.wait_closed(shared.limits.grace) {
            log::warn!(
                "{} HTTP connections were cut off: not done within {:?}",
                shared.open.count(),
                shared.limits.grace
            );
            shared.open.shut_down(Shutdown::Both, |_| true);
        }
        let all_closed = shared.open.wait_closed(Duration::from_secs(2));
        shared.workers.stop(all_closed);
        shared.parking.finish();
        if let Some(poller) = lock(&self.poller).take() {
            join(poller);
        }
        let takers = std::mem::take(&mut *lock(&shared.takers));
        if all_closed {
            takers.into_iter().for_each(join);
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
    let mut conn = Conn::new(Blocking(stream), context);
    loop {
        match conn.run(handler, limits, &Alone) {
            Turn::Wait(_) if Instant::now() < conn.deadline(limits) => {}
            _ => return,
        }
    }
}

/// The host of a connection that has the thread to itself.
struct Alone;

impl Host for Alone {
    fn keeps_connections(&self) -> Option<(u16, &'static str)> {
        Some((501, "CONNECT cannot be nested"))
    }
}

impl Host for Shared {
    fn linger(&self, wait: &mut dyn FnMut(Duration) -> bool) -> bool {
        !self.is_stopping() && self.workers.linger(wait)
    }
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
    fn keeps_connections(&self) -> Option<(u16, &'static str)> {
        let mut takers = lock(&self.takers);
        takers.retain(|t| !t.is_finished());
        (takers.len() >= self.limits.max_takeovers).then_some((503, "too many CONNECTs are open"))
    }
}

/// Accepts until `stopped` is closed.
fn accept_loop(shared: &Arc<Shared>, listener: &TcpListener, stopped: &io::PipeReader) {
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
                Ok((socket, peer)) => shared.admit(socket, peer),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // the client gave up before we came
                Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
                Err(e) => {
                    if !was_troubled {
                        log::warn!("cannot accept an HTTP connection, trying again: {e}");
                    }
                    shared.parking.evict();
                    troubled = true;
                    break;
                }
            }
        }
    }
}

impl Shared {
    /// Takes a new connection in.
    fn admit(self: &Arc<Self>, socket: TcpStream, peer: SocketAddr) {
        let open = self.open.count();
        if open >= self.limits.max_connections {
            self.parking.evict();
            // the eviction takes a moment; if there is nothing to evict, no more come in
            if open >= self.limits.max_connections + self.limits.max_connections / 8 {
                return;
            }
        }
        if socket.set_nodelay(true).is_err() || socket.set_nonblocking(true).is_err() {
            return; // it is gone already
        }
        let socket = Arc::new(socket);
        let entry = self.open.add(&socket);
        let conn = Conn::new(Socket(socket.clone()), Context { peer: Some(peer), origin: None });
        self.workers.push(self, Client { conn, socket, entry });
    }

    /// What a worker does with a connection that is ready.
    fn attend(&self, handler: &dyn Handler, mut client: Client) {
        match client.conn.run(handler, &self.limits, self) {
            Turn::Wait(interest) => self.parking.park(client, interest, &self.limits),
            Turn::Close => {}
            Turn::TakeOver(taker) => {
                if let Err(e) = self.hand_over(client, taker) {
                    log::warn!("a CONNECT was dropped: {e}");
                }
            }
        }
    }

    /// Gives a connection to a reply, on a thread of its own.
    fn hand_over(&self, client: Client, taker: Taker) -> io::Result<()> {
        let Client { conn, socket, mut entry } = client;
        let Some((_, early)) = conn.into_parts() else {
            return Err(io::Error::other("its request is still being read"));
        };
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(TICK))?;
        socket.set_write_timeout(Some(self.limits.io_timeout))?;
        let mut takers = lock(&self.takers);
        entry.set_taken();
        if self.stopping.load(Ordering::SeqCst) {
            return Ok(());
        }
        let thread = spawn("http-connect", move || {
            let _entry = entry;
            taker(Box::new(TakenOver { early: io::Cursor::new(early), socket }));
        })?;
        takers.push(thread);
        Ok(())
    }
}

/// A connection on its way through the server. The entry goes after the socket.
struct Client {
    conn: Conn<Socket>,
    socket: Arc<TcpStream>,
    entry: Entry,
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
