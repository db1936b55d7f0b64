//! A bounded pool of named worker threads; threads that each talk with one client.
//!
//! Invariants: a job waits only while `limit` others run; threads are started as jobs need them,
//! so that a quiet session has few; the queue is bounded, and a full one makes the submitter wait.
//! Closing the queue is the stop signal, and every thread is joined.
//!
//! The queue is a lock and two condition variables rather than a channel: a channel's receivers
//! spin before they sleep, which costs a warm build as much processor time as all of its gets.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Stack of a thread that talks with a client or for one: TLS to an upstream is the deepest that happens on
/// it. Untouched pages cost nothing.
pub const STACK: usize = 256 << 10;

type Job = Box<dyn FnOnce() + Send>;

/// The pool; owned by the one thread that submits to it.
pub struct Pool {
    name: String,
    limit: usize,
    bound: usize,
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    emptied: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    running: usize,
    closed: bool,
}

impl Pool {
    /// At most `limit` threads called `name-0`, `name-1`, …, and `bound` jobs waiting for them.
    pub fn new(name: &str, limit: usize, bound: usize) -> Self {
        Pool { name: name.into(), limit: limit.max(1), bound: bound.max(1), queue: Arc::default(), threads: vec![] }
    }

    /// Queues a job; waits while the queue is full.
    pub fn submit(&mut self, job: impl FnOnce() + Send + 'static) {
        let full = |state: &mut State| state.jobs.len() >= self.bound;
        let mut state = self.queue.emptied.wait_while(self.queue.lock(), full).expect("no holder panics");
        state.jobs.push_back(Box::new(job));
        let wanted = state.jobs.len() + state.running;
        drop(state);
        self.queue.filled.notify_one();
        if wanted > self.threads.len() && self.threads.len() < self.limit {
            self.start();
        }
        // a cgroup may be short of threads for a moment; without a single one nothing is answered
        for _ in 0..50 {
            if !self.threads.is_empty() {
                return;
            }
            thread::sleep(Duration::from_millis(100));
            self.start();
        }
        assert!(!self.threads.is_empty(), "this system lets us start no thread at all");
    }

    /// Waits for every job, and ends the threads.
    pub fn finish(self) {
        self.queue.lock().closed = true;
        self.queue.filled.notify_all();
        for thread in self.threads {
            if thread.join().is_err() {
                log::error!("a worker panicked");
            }
        }
    }

    fn start(&mut self) {
        let queue = self.queue.clone();
        let name = format!("{}-{}", self.name, self.threads.len());
        match thread::Builder::new().name(name).spawn(move || queue.work()) {
            Ok(thread) => self.threads.push(thread),
            Err(e) => log::warn!("cannot start a worker: {e}"),
        }
    }
}

/// Does `work` for each of `items`, on the caller's thread and up to `limit` - 1 more, called `name`: the outcomes, in
/// their order.
pub fn each<T: Send, R: Send>(name: &str, limit: usize, items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let (threads, done) = (limit.min(items.len()), Mutex::new(Vec::with_capacity(items.len())));
    let items = Mutex::new(items.into_iter().enumerate());
    let next = || items.lock().expect("no holder panics").next();
    let one = |(at, item)| {
        let outcome = work(item);
        done.lock().expect("no holder panics").push((at, outcome));
    };
    let run = || std::iter::from_fn(next).for_each(one);
    thread::scope(|scope| {
        // where there are none to be had, the caller does it all
        (1..threads).for_each(|_| drop(thread::Builder::new().name(name.into()).spawn_scoped(scope, run)));
        run();
    });
    let mut done = done.into_inner().expect("no holder panics");
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.running += 1;
                drop(state);
                self.emptied.notify_one();
                job();
                state = self.lock();
                state.running -= 1;
            } else if state.closed {
                return;
            } else {
                state = self.filled.wait(state).expect("no holder panics");
            }
        }
    }
}

/// Those that talk with clients.
pub type Threads = Vec<JoinHandle<()>>;

/// Has `accept` begin a thread for each client until it has `stopped`; these threads. Where that fails, which is
/// warned of once, `wait` sees to it that it may go better.
pub fn accept_all(
    what: &str,
    stopped: impl Fn() -> bool,
    accept: impl Fn() -> io::Result<JoinHandle<()>>,
    wait: impl Fn(),
) -> Threads {
    let (mut threads, mut troubled) = (Threads::new(), false);
    while !stopped() {
        match accept() {
            Ok(thread) => {
                troubled = false;
                threads.retain(|thread| !thread.is_finished());
                threads.push(thread);
            }
            // the client gave up before we came
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(_) if stopped() => {}
            Err(e) => {
                if !std::mem::replace(&mut troubled, true) {
                    log::warn!("cannot accept {what}, trying again: {e}");
                }
                wait();
            }
        }
    }
    threads
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_job_runs_before_finish_returns() {
        let done = Arc::new(AtomicUsize::new(0));
        let mut pool = Pool::new("t", 3, 2);
        for _ in 0..500 {
            let done = done.clone();
            pool.submit(move || {
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        pool.finish();
        assert_eq!(done.load(Ordering::Relaxed), 500);
    }

    #[test]
    fn a_job_does_not_wait_while_there_may_be_another_thread() {
        // each of the four can only end while the other three run
        let barrier = Arc::new(Barrier::new(4));
        let mut pool = Pool::new("t", 4, 4);
        for _ in 0..4 {
            let barrier = barrier.clone();
            pool.submit(move || {
                barrier.wait();
            });
        }
        pool.finish();
    }

    #[test]
    fn threads_come_with_work() {
        let mut pool = Pool::new("t", 64, 4);
        assert!(pool.threads.is_empty());
        pool.submit(|| {});
        assert_eq!(pool.threads.len(), 1);
        pool.finish();
    }
}
