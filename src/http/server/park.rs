//! Where connections wait for their clients: one thread watches them all with poll(2).
//!
//! A connection that becomes ready goes to the workers, one whose wait has lasted too long is
//! closed. Work per wake-up is linear in the number parked, which the connection cap bounds.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};

use super::transport::{Interest, timespec};
use super::{Client, ServerLimits, Shared, lock};

/// The poller's letter box.
pub(super) struct Parking {
    inbox: Mutex<Vec<Parked>>,
    /// How many of the longest idle to close.
    evictions: AtomicUsize,
    finished: AtomicBool,
    count: AtomicUsize,
    /// Holds one byte at most: written by who sets the flag, read by the poller before it clears it.
    wake: (io::PipeReader, io::PipeWriter),
    woken: AtomicBool,
}

struct Parked {
    client: Client,
    interest: Interest,
    deadline: Instant,
}

impl Parking {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Parking {
            inbox: Mutex::default(),
            evictions: AtomicUsize::new(0),
            finished: AtomicBool::new(false),
            count: AtomicUsize::new(0),
            wake: io::pipe()?,
            woken: AtomicBool::new(false),
        })
    }

    /// Watches `client` until it is ready for `interest`.
    pub(super) fn park(&self, client: Client, interest: Interest, limits: &ServerLimits) {
        let deadline = client.conn.deadline(limits);
        lock(&self.inbox).push(Parked { client, interest, deadline });
        self.wake();
    }

    /// Closes the connection that has been idle for longest, of those that wait.
    pub(super) fn evict(&self) {
        self.evictions.fetch_add(1, Ordering::SeqCst);
        self.wake();
    }

    /// Makes the poller look again.
    pub(super) fn wake(&self) {
        if !self.woken.swap(true, Ordering::SeqCst) {
            // the pipe is empty, so this neither blocks nor fails
            let _ = (&self.wake.1).write_all(&[0]);
        }
    }

    /// Ends the poller.
    pub(super) fn finish(&self) {
        self.finished.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Connections that wait.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// The poller's thread: ends when told to.
pub(super) fn run(shared: &Arc<Shared>) {
    let parking = &shared.parking;
    let mut parked: Vec<Parked> = Vec::new();
    while !parking.finished.load(Ordering::SeqCst) {
        let ready = match wait(parking, &parked) {
            Ok(ready) => ready,
            Err(e) => {
                log::error!("cannot wait for HTTP clients: {e}");
                return;
            }
        };
        if parking.woken.load(Ordering::SeqCst) {
            // the byte may still be on its way; it comes
            let _ = (&parking.wake.0).read(&mut [0]);
            parking.woken.store(false, Ordering::SeqCst);
        }
        // from the back, so that what moves into a gap was looked at before
        for at in ready.into_iter().rev() {
            let client = parked.swap_remove(at).client;
            shared.workers.push(shared, client);
        }
        let now = Instant::now();
        parked.retain(|p| p.deadline > now);
        parked.append(&mut lock(&parking.inbox));
        if shared.stopping.load(Ordering::SeqCst) {
            parked.retain(|p| !p.client.conn.is_idle());
        }
        for _ in 0..parking.evictions.swap(0, Ordering::SeqCst) {
            let oldest = (0..parked.len()).min_by_key(|at| parked[*at].client.conn.idle_since());
            let Some(oldest) = oldest else { break };
            parked.swap_remove(oldest);
        }
        parking.count.store(parked.len(), Ordering::Relaxed);
    }
}

/// Waits until something happens; the positions of those that are ready, in order.
fn wait(parking: &Parking, parked: &[Parked]) -> io::Result<Vec<usize>> {
    let mut fds = Vec::with_capacity(parked.len() + 1);
    fds.push(PollFd::new(&parking.wake.0, PollFlags::IN));
    fds.extend(parked.iter().map(|p| PollFd::new(&*p.client.socket, p.interest.flags())));
    let next = parked.iter().map(|p| p.deadline).min();
    let timeout = next.map(|d| timespec(d.saturating_duration_since(Instant::now())));
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    }
    Ok((0..parked.len()).filter(|at| !fds[at + 1].revents().is_empty()).collect())
}
