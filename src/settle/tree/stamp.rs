//! Times that follow from what something holds, and what is seen of a file.
//!
//! Invariants: a time is in the years 2000 to 2019, spread over their nanoseconds, so that it is always
//! past, distinct for distinct contents, and the same on every machine.

use rustix::fs::{FileType, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use sha2::digest::DynDigest;

/// Seconds and nanoseconds since 1970.
pub type Time = (i64, i64);

/// 1 January 2000.
const FROM: i64 = 946_684_800;
/// Seconds to 1 January 2020.
const SPAN: i64 = 631_152_000;
const NANOS: u128 = 1_000_000_000;

/// The time that follows from `id`, a hash of 16 bytes or more.
pub fn time_of(id: &[u8]) -> Time {
    let bytes = id[..16].try_into().expect("a hash has 16 bytes");
    let nanos = u128::from_be_bytes(bytes) % (SPAN as u128 * NANOS);
    (FROM + (nanos / NANOS) as i64, (nanos % NANOS) as i64)
}

/// Whether a time can be one of ours, as those of archives and of other programs, in whole seconds, cannot.
pub fn is_ours(time: Time) -> bool {
    (FROM..FROM + SPAN).contains(&time.0) && time.1 != 0
}

/// What sets the time of last modification to `time`, or to the present one.
pub fn to_set(time: Option<Time>) -> Timestamps {
    let of = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let last_modification = time.map_or(of(0, UTIME_NOW), |(seconds, nanos)| of(seconds, nanos));
    Timestamps { last_access: of(0, UTIME_OMIT), last_modification }
}

/// Begins a hash as the repository has them: SHA-1 or SHA-256.
pub type Algorithm = fn() -> Box<dyn DynDigest>;

/// What is seen of a file from outside; equal as long as nobody has changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub kind: FileType,
    /// The permission bits.
    pub mode: u32,
    pub size: i64,
    pub modified: Time,
    pub changed: Time,
    /// Device and number.
    pub node: (u64, u64),
    /// User and group.
    pub owner: (u32, u32),
    /// How many names it has.
    pub names: u64,
}

impl From<Stat> for Seen {
    #[allow(clippy::unnecessary_cast)] // the types of a stat's fields are not the same everywhere
    fn from(stat: Stat) -> Self {
        Seen {
            kind: FileType::from_raw_mode(stat.st_mode),
            mode: stat.st_mode as u32 & 0o7777,
            size: stat.st_size as i64,
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
            node: (stat.st_dev as u64, stat.st_ino as u64),
            owner: (stat.st_uid, stat.st_gid),
            names: stat.st_nlink as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn times_are_past_and_spread_to_the_nanosecond() {
        let mut times: Vec<Time> = (0..10_000u64).map(|n| time_of(&Sha256::digest(n.to_be_bytes()))).collect();
        assert!(times.iter().all(|time| is_ours(*time)));
        times.sort_unstable();
        times.dedup();
        assert_eq!(times.len(), 10_000);
        assert_eq!((times[0].0 - FROM) / 86_400 / 100, 0);
        assert_eq!((FROM + SPAN - times[9_999].0) / 86_400 / 100, 0);
        assert_eq!(time_of(&[0; 20]), (FROM, 0));
        assert!(!is_ours((FROM - 1, 1)) && !is_ours((FROM + SPAN, 1)) && !is_ours((FROM, 0)));
    }
}
