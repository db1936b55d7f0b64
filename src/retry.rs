//! Whether to send a request again, and after how long: pure decisions, the randomness is an
//! argument.
//!
//! A get stands in the build's way, so it is tried again at most twice and waits a fifth of a
//! second at most; an upload runs in the background and may wait seconds, but for a bucket that takes
//! others meanwhile: the end of a build waits for it. A time-out has cost its
//! time already, and who cannot connect is not helped by trying: neither is sent again, since an
//! upload stays marked for a better time.

use std::time::Duration;

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The connection was there and broke: a keep-alive connection that the server had given up,
    /// or a crash. A new connection is likely to help, at once.
    ConnectionLost,
    /// The server said that it cannot at present: 429, 500, 502, 503, 504, 408.
    Busy,
    /// There is no connection to be had: refused, no route, no such host.
    Unreachable,
    /// Nothing came within the time allowed.
    TimedOut,
    /// The same request would fail again.
    Fatal,
}

/// How long a request may be kept waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Somebody waits for the answer.
    Get,
    /// It runs in the background.
    Upload,
    /// It runs in the background, and others like it have just succeeded.
    Beside,
}

/// How long to wait before sending again, after the `attempt`-th attempt (the first is 0) failed;
/// `None` to give up. `jitter` is random, from 0 to 1, and spreads clients that failed together
/// over the upper half of the wait.
pub fn wait_before_retry(patience: Patience, attempt: u32, failure: Failure, jitter: f64) -> Option<Duration> {
    let millis: u64 = match (patience, failure, attempt) {
        (_, Failure::Fatal | Failure::Unreachable | Failure::TimedOut, _) => return None,
        (_, Failure::ConnectionLost, 0) => 0,
        (Patience::Get, Failure::ConnectionLost | Failure::Busy, 0 | 1) => 100 << attempt,
        (Patience::Get, _, _) => return None,
        (Patience::Upload, _, 0..4) => 200 << (2 * attempt).min(4),
        (Patience::Beside, _, 0..7) => 50 << attempt,
        (Patience::Upload | Patience::Beside, _, _) => return None,
    };
    Some(Duration::from_millis(millis).mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0)))
}

/// Random, from 0 to 1.
pub fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(()) as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(patience: Patience, failure: Failure) -> (u32, Duration) {
        let mut sum = Duration::ZERO;
        for attempt in 0.. {
            match wait_before_retry(patience, attempt, failure, 1.0) {
                Some(wait) => sum += wait,
                None => return (attempt, sum),
            }
        }
        unreachable!("every patience ends")
    }

    #[test]
    fn gets_are_tried_again_twice_and_hardly_wait() {
        assert_eq!(total(Patience::Get, Failure::Busy), (2, Duration::from_millis(300)));
        assert_eq!(total(Patience::Get, Failure::ConnectionLost), (2, Duration::from_millis(200)));
        for failure in [Failure::TimedOut, Failure::Unreachable, Failure::Fatal] {
            assert_eq!(total(Patience::Get, failure), (0, Duration::ZERO));
        }
    }

    #[test]
    fn uploads_are_patient_but_not_for_ever() {
        assert_eq!(total(Patience::Upload, Failure::Busy), (4, Duration::from_millis(200 + 800 + 3200 + 3200)));
        assert_eq!(
            total(Patience::Beside, Failure::Busy),
            (7, Duration::from_millis(50 + 100 + 200 + 400 + 800 + 1600 + 3200))
        );
        for failure in [Failure::TimedOut, Failure::Unreachable, Failure::Fatal] {
            assert_eq!(total(Patience::Upload, failure), (0, Duration::ZERO));
            assert_eq!(total(Patience::Beside, failure), (0, Duration::ZERO));
        }
    }

    #[test]
    fn a_lost_connection_is_replaced_at_once() {
        assert_eq!(wait_before_retry(Patience::Get, 0, Failure::ConnectionLost, 0.3), Some(Duration::ZERO));
    }

    #[test]
    fn jitter_stays_in_the_upper_half() {
        for jitter in [-1.0, 0.0, 0.5, 1.0, 7.0] {
            let wait = wait_before_retry(Patience::Get, 1, Failure::Busy, jitter).unwrap();
            assert!((100..=200).contains(&wait.as_millis()), "{jitter}: {wait:?}");
        }
    }
}
