//! Much of the same in a bucket: a request for each of many objects, several at a time, with a sign of
//! life now and then.
//!
//! Invariants: bounded memory; a bucket that is left alone for a while is waited for, one that says no
//! or stays away is not: then what is left is skipped, and counts as failed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::say;
use crate::error::Error;
use crate::pool::Pool;
use crate::remote::{Bucket, ObjectInfo, RemoteError};
use crate::text::{count, things};

/// Jobs waiting for a thread.
const QUEUE: usize = 256;
/// Time between signs of life.
const TELL: Duration = Duration::from_secs(2);
/// So long a bucket that is left alone is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The requests.
pub struct Bulk {
    what: &'static str,
    bucket: Arc<Bucket>,
    pool: Pool,
    /// Jobs a second at most; 0 for any number.
    rate: u64,
    begun: Instant,
    told: Instant,
    jobs: u64,
    seen: u64,
    outcome: Arc<Outcome>,
}

#[derive(Default)]
struct Outcome {
    done: AtomicU64,
    failed: AtomicU64,
    why: OnceLock<String>,
    hopeless: AtomicBool,
}

/// What a [`Bulk::removal`] came to.
#[derive(Default)]
pub struct Removal {
    /// Objects that went, or would.
    pub gone: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects of ours that stay.
    pub kept: u64,
    /// Objects of other names, which stay too.
    pub others: u64,
}

impl Bulk {
    /// `limit` requests to `bucket` at a time, and `rate` a second, by the command `what`.
    pub fn new(what: &'static str, bucket: Arc<Bucket>, limit: usize, rate: u64) -> Self {
        let (pool, begun) = (Pool::new(what, limit, QUEUE), Instant::now());
        Bulk { what, bucket, pool, rate, begun, told: begun, jobs: 0, seen: 0, outcome: Arc::default() }
    }

    /// Counts one more that was looked at, of `all` where that is known.
    pub fn look(&mut self, all: Option<u64>) {
        self.seen += 1;
        if self.told.elapsed() >= TELL {
            self.told = Instant::now();
            let all = all.map_or_else(String::new, |all| format!(" of {}", count(all)));
            let done = count(self.outcome.done.load(Ordering::Relaxed));
            say(format_args!("{}: {}{all} looked at, {done} done", self.what, count(self.seen)));
        }
    }

    /// Does `work` when its turn comes; waits while there is much to do.
    pub fn submit(&mut self, work: impl Fn(&Bucket) -> Result<(), RemoteError> + Send + 'static) {
        if self.rate > 0 {
            let due = self.begun + Duration::from_secs_f64(self.jobs as f64 / self.rate as f64);
            sleep(due.saturating_duration_since(Instant::now()));
        }
        self.jobs += 1;
        let (bucket, outcome) = (self.bucket.clone(), self.outcome.clone());
        self.pool.submit(move || outcome.take(|| work(&bucket)));
    }

    /// Removes what lies below `prefixes` where `goes` says so, or only counts it; `goes` says nothing of other names
    /// than ours. It removes as it lists, so that it can be stopped at any time.
    pub fn removal(
        mut self,
        prefixes: &[&str],
        count_only: bool,
        goes: impl Fn(&ObjectInfo) -> Option<bool>,
    ) -> Result<Removal, Error> {
        let (bucket, mut removal) = (self.bucket.clone(), Removal::default());
        let mut each = |object: ObjectInfo| {
            self.look(None);
            match goes(&object) {
                None => removal.others += 1,
                Some(false) => removal.kept += 1,
                Some(true) => {
                    removal.gone += 1;
                    removal.bytes += object.len;
                    if !count_only {
                        self.submit(move |bucket| bucket.delete(&object.key));
                    }
                }
            }
        };
        let listed = prefixes.iter().try_for_each(|prefix| bucket.list(prefix, &mut each));
        let deleted = self.finish();
        listed.map_err(|e| Error::failed(format!("bucket: {e}; run it again to go on")))?;
        deleted.map(|()| removal)
    }

    /// Waits for all. The error is the first, with how many there were.
    pub fn finish(self) -> Result<(), Error> {
        self.pool.finish();
        let failed = self.outcome.failed.load(Ordering::Relaxed);
        self.outcome.why.get().map_or(Ok(()), |why| {
            let (what, failed) = (self.what, things(failed, "object"));
            Err(Error::failed(format!("{what}: {failed} left out: {why}; run it again to go on")))
        })
    }
}

impl Outcome {
    fn take(&self, work: impl Fn() -> Result<(), RemoteError>) {
        let begun = Instant::now();
        while !self.hopeless.load(Ordering::Relaxed) {
            let e = match work() {
                Ok(()) => {
                    self.done.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err(e) => e,
            };
            let off = matches!(e, RemoteError::Off(_));
            if off && begun.elapsed() < PATIENCE && !self.hopeless.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(500));
                continue;
            }
            self.hopeless.fetch_or(off || e.is_refusal(), Ordering::Relaxed);
            let _ = self.why.set(e.to_string());
            break;
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}
