//! The threads that answer requests: started as work comes, up to a bound.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Client, Shared, join, lock, spawn};
use crate::http::exchange::Handler;

/// How long a worker waits at a connection for its next request before it parks it.
const LINGER: Duration = Duration::from_millis(20);

/// The queue of connections that are ready, and who works on it. The connection cap bounds it.
pub(super) struct Workers {
    most: usize,
    handler: OnceLock<Arc<dyn Handler>>,
    state: Mutex<State>,
    changed: Condvar,
    /// Workers waiting at a connection.
    lingering: AtomicUsize,
    /// Connections in the queue.
    queued: AtomicUsize,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Client>,
    idle: usize,
    threads: Vec<JoinHandle<()>>,
    stopping: bool,
}

impl Workers {
    pub(super) fn new(most: usize) -> Self {
        Workers {
            most: most.max(1),
            handler: OnceLock::new(),
            state: Mutex::default(),
            changed: Condvar::new(),
            lingering: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
        }
    }

    /// Says who answers; before the first connection comes.
    pub(super) fn set_handler(&self, handler: Arc<dyn Handler>) {
        let _ = self.handler.set(handler); // the server starts once
    }

    /// Queues a connection that is ready. It is closed when the workers have stopped.
    pub(super) fn push(&self, shared: &Arc<Shared>, client: Client) {
        let mut state = lock(&self.state);
        if state.stopping {
            return;
        }
        state.ready.push_back(client);
        self.queued.store(state.ready.len(), Ordering::Relaxed);
        if state.idle < state.ready.len() && state.threads.len() < self.most {
            let shared = shared.clone();
            match spawn(&format!("http-{}", state.threads.len()), move || shared.workers.work(&shared)) {
                Ok(thread) => state.threads.push(thread),
                Err(e) => {
                    log::warn!("cannot start an HTTP worker: {e}");
                    if state.threads.is_empty() {
                        state.ready.clear(); // nobody would ever come for it
                    }
                }
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    fn work(&self, shared: &Shared) {
        let handler = self.handler.get().expect("the handler is set before the first connection is accepted");
        let mut state = lock(&self.state);
        loop {
            if let Some(client) = state.ready.pop_front() {
                self.queued.store(state.ready.len(), Ordering::Relaxed);
                drop(state);
                shared.attend(&**handler, client);
                state = lock(&self.state);
            } else if state.stopping {
                return;
            } else {
                state.idle += 1;
                state = self.changed.wait(state).expect("no holder panics");
                state.idle -= 1;
            }
        }
    }

    /// Waits at a connection for a moment, unless others wait for a worker or too few are free;
    /// whether it became ready.
    pub(super) fn linger(&self, wait: &mut dyn FnMut(Duration) -> bool) -> bool {
        let lingering = self.lingering.fetch_add(1, Ordering::Relaxed);
        let patient = lingering < self.most / 4 * 3 && self.queued.load(Ordering::Relaxed) == 0;
        let ready = patient && wait(LINGER);
        self.lingering.fetch_sub(1, Ordering::Relaxed);
        ready
    }

    /// Workers that are not waiting for work.
    pub(super) fn busy(&self) -> usize {
        let state = lock(&self.state);
        state.threads.len() - state.idle
    }

    /// Ends the threads after what they are at; waits for them if `all_done`.
    pub(super) fn stop(&self, all_done: bool) {
        let threads = {
            let mut state = lock(&self.state);
            state.stopping = true;
            state.ready.clear();
            std::mem::take(&mut state.threads)
        };
        self.changed.notify_all();
        if all_done {
            threads.into_iter().for_each(join);
        }
    }
}
