//! The HTTP server: accepts connections and answers their requests, a named thread for each.
//!
//! Invariants:
//! - A build host has tens of clients, and a thousand that say nothing cost their threads' small
//!   stacks: nothing is polled, parked or handed to another thread, CONNECT included.
//! - Connections are capped; over the cap the one that has been longest without a whole request
//!   makes room, never one whose answer is under way.
//! - Each wait for a client has a bound (see [`super::socket`]).
//! - Accepting goes on until [`Server::stop`], whatever fails; every thread is joined there.

mod answer;
mod body;
mod conn;
mod head;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use super::exchange::Handler;
use super::socket::{Open, Socket};

pub use self::conn::serve;
pub use self::head::Context;
pub use super::socket::{ServerLimits, ServerState};

/// Stack of a connection's thread: TLS to an upstream is the deepest that happens on one. Untouched
/// pages cost nothing.
const STACK: usize = 256 << 10;

/// A listening socket and everything behind it.
pub struct Server {
    addr: SocketAddr,
    shared: Arc<Shared>,
    /// Until the server stops.
    listener: Mutex<Option<Arc<TcpListener>>>,
    acceptor: Mutex<Option<JoinHandle<()>>>,
}

/// What the accept thread works with.
struct Shared {
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
        Ok(Server {
            addr: listener.local_addr()?,
            shared: Arc::new(Shared { open: Open::new(limits), threads: Mutex::default() }),
            listener: Mutex::new(Some(Arc::new(listener))),
            acceptor: Mutex::default(),
        })
    }

    /// Where it listens, the port chosen if it was 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts to answer with `handler`. Once.
    pub fn start(&self, handler: Arc<dyn Handler>) -> io::Result<()> {
        let listener = lock(&self.listener).clone().ok_or_else(|| io::Error::other("the server was stopped"))?;
        let shared = self.shared.clone();
        let thread = spawn("http-accept".into(), move || shared.accept(&listener, &handler))?;
        *lock(&self.acceptor) = Some(thread);
        Ok(())
    }

    /// How it is doing.
    pub fn state(&self) -> ServerState {
        self.shared.open.state()
    }

    /// Stops accepting, closes idle connections, lets answers under way finish within the grace
    /// time, cuts off the rest, and joins every thread. Calling it again does nothing.
    pub fn stop(&self) {
        let open = &self.shared.open;
        open.stop();
        if let Some(listener) = lock(&self.listener).take() {
            // lets a blocked accept return
            let _ = rustix::net::shutdown(&*listener, rustix::net::Shutdown::Both);
        }
        if let Some(thread) = lock(&self.acceptor).take() {
            join(thread);
        }
        let grace = open.limits().grace;
        if !open.wait_closed(grace) {
            log::warn!("{} HTTP connections were cut off: not done within {grace:?}", open.state().open);
            open.cut_off();
        }
        if open.wait_closed(Duration::from_secs(2)) {
            std::mem::take(&mut *lock(&self.shared.threads)).into_iter().for_each(join);
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

impl Shared {
    /// Accepts until the server stops.
    fn accept(&self, listener: &TcpListener, handler: &Arc<dyn Handler>) {
        let mut troubled = false;
        while !self.open.is_stopping() {
            match listener.accept().and_then(|(tcp, peer)| self.admit(tcp, peer, handler)) {
                Ok(()) => troubled = false,
                // the client gave up before we came
                Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
                Err(_) if self.open.is_stopping() => return,
                Err(e) => {
                    if !troubled {
                        log::warn!("cannot accept an HTTP connection, trying again: {e}");
                    }
                    troubled = true;
                    self.open.make_room();
                }
            }
        }
    }

    /// Takes a new connection in.
    fn admit(&self, tcp: TcpStream, peer: SocketAddr, handler: &Arc<dyn Handler>) -> io::Result<()> {
        let Some(entry) = self.open.admit(tcp) else { return Ok(()) };
        let (name, handler) = (format!("http-{}", entry.id()), handler.clone());
        let context = Context { peer: Some(peer), origin: None };
        let thread = spawn(name, move || {
            // an error says that the client is gone already
            if let Ok(socket) = Socket::new(entry) {
                serve(socket, &*handler, &context);
            }
        })?;
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name).stack_size(STACK).spawn(work)
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        log::error!("an HTTP thread panicked");
    }
}

#[cfg(test)]
mod tests;
