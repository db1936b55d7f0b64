//! A bounded pool of named worker threads.
//!
//! Invariants: a job waits only while `limit` others run; threads are started as jobs need them,
//! so that a quiet session has few; the queue is bounded, and a full one makes the submitter wait.
//! Closing the queue is the stop signal, and every thread is joined.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

type Job = Box<dyn FnOnce() + Send>;

/// The pool; owned by the one thread that submits to it.
pub struct Pool {
    name: String,
    limit: usize,
    queue: Sender<Job>,
    jobs: Receiver<Job>,
    /// Jobs queued or running.
    pending: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// At most `limit` threads called `name-0`, `name-1`, …, and `queue` jobs waiting for them.
    pub fn new(name: &str, limit: usize, queue: usize) -> Self {
        let (sender, jobs) = bounded(queue);
        Pool { name: name.into(), limit: limit.max(1), queue: sender, jobs, pending: Arc::default(), threads: vec![] }
    }

    /// Queues a job; waits while the queue is full.
    pub fn submit(&mut self, job: impl FnOnce() + Send + 'static) {
        let pending = self.pending.fetch_add(1, Ordering::Relaxed) + 1;
        if pending > self.threads.len() && self.threads.len() < self.limit {
            self.start();
        }
        // a cgroup may be short of threads for a moment; without a single one nothing is answered
        for _ in 0..50 {
            if !self.threads.is_empty() {
                break;
            }
            thread::sleep(Duration::from_millis(100));
            self.start();
        }
        assert!(!self.threads.is_empty(), "this system lets us start no thread at all");
        self.queue.send(Box::new(job)).expect("the pool holds a receiver");
    }

    /// Waits for every job, and ends the threads.
    pub fn finish(self) {
        let Pool { queue, threads, .. } = self;
        drop(queue);
        for thread in threads {
            if thread.join().is_err() {
                log::error!("a worker panicked");
            }
        }
    }

    fn start(&mut self) {
        let (jobs, pending) = (self.jobs.clone(), self.pending.clone());
        let work = move || {
            for job in jobs {
                job();
                pending.fetch_sub(1, Ordering::Relaxed);
            }
        };
        match thread::Builder::new().name(format!("{}-{}", self.name, self.threads.len())).spawn(work) {
            Ok(thread) => self.threads.push(thread),
            Err(e) => log::warn!("cannot start a worker: {e}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

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
