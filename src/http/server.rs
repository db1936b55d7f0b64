//! The HTTP server: accepts connections and answers their requests, a named thread for each.
//!
//! Invariants:
//! - A build host has tens of clients, and a thousand that say nothing cost their threads' small
//!   stacks: nothing is polled, parked or handed to another thread, CONNECT included.
//! - Connections are capped; over the cap the one that has been longest without a whole request
//!   makes room, or else the slowest of many slow ones, never one that takes its answer as it comes.
//! - Each wait for a client has a bound (see [`super::socket`]).
//! - Accepting goes on until [`Server::stop`], whatever fails; every thread is joined there.

mod answer;
mod body;
mod conn;
mod head;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::ServerConfig;

use super::exchange::Handler;
use super::reloaded::Reloaded;
use super::socket::Stream;
use crate::connections::{Entry, Open, listen};
use crate::platform;
use crate::pool::{STACK, Threads, accept_all};

pub use self::conn::serve;
pub use self::head::Context;
pub use super::socket::ServerLimits;

/// A listening socket and everything behind it.
pub struct Server {
    /// Where it listens, the port chosen if it was 0.
    pub addr: SocketAddr,
    open: Arc<Open>,
    grace: Duration,
    /// The socket, and the accept thread, which ends with those of the connections.
    running: Mutex<Option<(Arc<TcpListener>, JoinHandle<Threads>)>>,
}

impl Server {
    /// Listens on `addr` and answers with `handler`, over TLS as `identity` where there is one; port 0
    /// takes a free one. Connections are those of `open`, and are waited for as long as `limits` say.
    pub fn start(
        addr: SocketAddr,
        open: Arc<Open>,
        limits: ServerLimits,
        identity: Option<Arc<Reloaded<ServerConfig>>>,
        handler: Arc<Handler>,
    ) -> io::Result<Server> {
        let listener = listen(addr)?;
        let (addr, listener) = (listener.local_addr()?, Arc::new(listener));
        let (accepting, admitting) = (listener.clone(), open.clone());
        let (grace, shared) = (limits.grace, Arc::new((limits, identity, handler)));
        let acceptor = spawn("http-accept".into(), move || {
            let admit = || {
                platform::await_client(&*accepting, || admitting.is_stopping())?;
                let (tcp, peer) = accepting.accept()?;
                let (entry, shared) = (admitting.admit(tcp)?, shared.clone());
                spawn(format!("http-{}", entry.id), move || {
                    let (limits, identity, handler) = &*shared;
                    converse(entry, peer, limits.clone(), identity.as_deref(), &**handler);
                })
            };
            accept_all("an HTTP connection", || admitting.is_stopping(), admit, || admitting.make_room())
        })?;
        Ok(Server { addr, open, grace, running: Mutex::new(Some((listener, acceptor))) })
    }

    /// Stops accepting, closes idle connections, lets answers under way finish within the grace
    /// time, cuts off the rest, and joins every thread. Calling it again does nothing.
    pub fn stop(&self) {
        let Some((listener, acceptor)) = self.running.lock().expect("no holder panics").take() else { return };
        self.open.stop();
        // lets a blocked accept return
        platform::wake(&*listener);
        let threads = join(acceptor).unwrap_or_default();
        let grace = self.grace;
        if !self.open.wait_closed(grace) {
            log::warn!("{} HTTP connections were cut off: not done within {grace:?}", self.open.state().0);
            self.open.cut_off();
        }
        if self.open.wait_closed(Duration::from_secs(2)) {
            for thread in threads {
                join(thread);
            }
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

/// Answers the requests of one connection, over TLS as `identity` where there is one, to its end.
fn converse(
    entry: Entry,
    peer: SocketAddr,
    limits: ServerLimits,
    identity: Option<&Reloaded<ServerConfig>>,
    handler: &Handler,
) {
    let secured = |stream: Stream| match identity {
        None => Ok(stream),
        Some(identity) => stream.secured(identity.get()),
    };
    match Stream::client(entry, limits).and_then(secured) {
        Ok(stream) => serve(stream, handler, &Context { peer: Some(peer), origin: None }),
        Err(e) => log::debug!("handshake with {peer}: {e}"),
    }
}

fn spawn<T: Send + 'static>(name: String, work: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name).stack_size(STACK).spawn(work)
}

fn join<T>(thread: JoinHandle<T>) -> Option<T> {
    thread.join().inspect_err(|_| log::error!("an HTTP thread panicked")).ok()
}

#[cfg(test)]
mod tests;
