//! Latencies, counted into fixed buckets without a lock.
//!
//! Invariant: the count of a [`Snapshot`] is the sum of its buckets, whatever was observed while
//! it was taken; only its sum may lag behind by the observations in flight.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets in microseconds; the last bucket, without a bound, follows.
pub const BOUNDS_MICROS: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// A latency distribution.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_MICROS.len() + 1],
    sum_nanos: AtomicU64,
}

/// A histogram at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Observations in each bucket (not cumulative); the last is unbounded.
    pub buckets: [u64; BOUNDS_MICROS.len() + 1],
    /// Sum of all observations.
    pub sum: Duration,
}

impl Histogram {
    /// Counts one observation.
    pub fn observe(&self, d: Duration) {
        let nanos = d.as_nanos().min(u64::MAX as u128) as u64;
        let bucket = BOUNDS_MICROS.partition_point(|bound| bound * 1_000 < nanos);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// The distribution now.
    pub fn snapshot(&self) -> Snapshot {
        let mut s =
            Snapshot { sum: Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)), ..Snapshot::default() };
        for (to, from) in s.buckets.iter_mut().zip(&self.buckets) {
            *to = from.load(Ordering::Relaxed);
        }
        s
    }
}

impl Snapshot {
    /// How many observations there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The duration that a share `q` (0 to 1) of the observations does not exceed, interpolated
    /// within its bucket; the largest bound for what lies beyond it. `None` without observations.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = (q.clamp(0.0, 1.0) * count as f64).max(1.0);
        let mut below = 0u64;
        for (i, &n) in self.buckets.iter().enumerate() {
            if n > 0 && (below + n) as f64 >= rank {
                let low = if i == 0 { 0 } else { BOUNDS_MICROS[i - 1] };
                let high = BOUNDS_MICROS.get(i).copied().unwrap_or(low);
                let share = (rank - below as f64) / n as f64;
                return Some(Duration::from_secs_f64((low as f64 + (high - low) as f64 * share) / 1e6));
            }
            below += n;
        }
        // rank is at most count, so a bucket reaches it
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let h = Histogram::default();
        h.observe(Duration::ZERO);
        h.observe(Duration::from_micros(100));
        h.observe(Duration::from_nanos(100_001));
        h.observe(Duration::from_secs(60));
        h.observe(Duration::from_secs(61));
        h.observe(Duration::MAX);
        let s = h.snapshot();
        assert_eq!(s.buckets[0], 2);
        assert_eq!(s.buckets[1], 1);
        assert_eq!(s.buckets[BOUNDS_MICROS.len() - 1], 1);
        assert_eq!(s.buckets[BOUNDS_MICROS.len()], 2);
        assert_eq!(s.count(), 6);
    }

    #[test]
    fn quantiles_interpolate_and_stay_within_the_bounds() {
        let h = Histogram::default();
        assert_eq!(h.snapshot().quantile(0.5), None);
        for _ in 0..100 {
            h.observe(Duration::from_micros(2_000));
        }
        let p50 = h.snapshot().quantile(0.5).unwrap();
        assert!(p50 > Duration::from_millis(1) && p50 < Duration::from_micros(2_500), "{p50:?}");
        h.observe(Duration::from_secs(1000));
        assert_eq!(h.snapshot().quantile(1.0), Some(Duration::from_secs(60)));
        assert!(h.snapshot().quantile(0.0).unwrap() <= p50);
    }

    #[test]
    fn observations_of_many_threads_all_count() {
        let h = Histogram::default();
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| (0..10_000).for_each(|i| h.observe(Duration::from_micros(i))));
            }
        });
        assert_eq!(h.snapshot().count(), 40_000);
        assert_eq!(h.snapshot().sum, Duration::from_micros(4 * (10_000 * 9_999 / 2)));
    }
}
