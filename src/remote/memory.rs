//! What a process learnt of a bucket, left to the next for a minute: a job of fifty `go` commands
//! pays for a dead bucket once.
//!
//! One small file `bucket-<hash>` for each bucket and key id, with a line `reads|writes|parts <seconds
//! since 1970> <why>` for each side that is off; none where the bucket is well. A line that is
//! older than [`KEPT`], or of the future, is void. The file is replaced whole and never written
//! through a symbolic link; what cannot be read or written is only forgotten.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::atomic::{self, read_text};
use crate::id::{OutputId, hex};

/// How long it is believed.
const KEPT: Duration = Duration::from_secs(60);
/// The names of the sides, in their order.
const SIDES: [&str; 3] = ["reads", "writes", "parts"];

/// The file of one bucket.
pub struct Memory(PathBuf);

impl Memory {
    /// The file in `dir` for the bucket called `target` as the holder of `key_id` sees it.
    pub fn new(dir: &Path, target: &str, key_id: &str) -> Self {
        let hash = OutputId::of(format!("{target}\n{key_id}").as_bytes());
        Memory(dir.join(format!("bucket-{}", hex(&hash.0[..8]))))
    }

    /// Why each side is off, `None` where it is not known to be.
    pub fn load(&self) -> [Option<String>; 3] {
        let text = read_text(&self.0, 4096).unwrap_or_default();
        SIDES.map(|side| parse(&text, side, SystemTime::now()))
    }

    /// Keeps why each side is off as of now; nothing is kept where none is.
    pub fn save(&self, off: &[Option<String>; 3]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let line = |(side, why): (&str, &Option<String>)| {
            Some(format!("{side} {now} {:.500}\n", why.as_ref()?.replace('\n', " ")))
        };
        let text: String = SIDES.into_iter().zip(off).filter_map(line).collect();
        let dir = self.0.parent().expect("it was joined");
        let done = if text.is_empty() {
            fs::remove_file(&self.0)
        } else {
            let _ = fs::create_dir(dir);
            atomic::write(&self.0, text.as_bytes())
        };
        if let Err(e) = done {
            log::debug!("{}: {e}", self.0.display());
        }
    }
}

fn parse(text: &str, side: &str, now: SystemTime) -> Option<String> {
    let rest = text.lines().find_map(|line| line.strip_prefix(side)?.strip_prefix(' '))?;
    let (seconds, why) = rest.split_once(' ')?;
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(seconds.parse().ok()?))?;
    now.duration_since(at).is_ok_and(|age| age < KEPT).then(|| why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_minute_counts() {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        let text = "writes 1000 status 403: no\nreads 990 cannot connect\n";
        assert_eq!(parse(text, "writes", at(1000)).as_deref(), Some("status 403: no"));
        assert_eq!(parse(text, "writes", at(1059)).as_deref(), Some("status 403: no"));
        assert_eq!(parse(text, "reads", at(1050)), None, "a minute old");
        assert_eq!(parse(text, "writes", at(999)), None, "of the future");
        for text in ["", "reads", "reads x y", "reads 99999999999999999999 y", "reads 18446744073709551615 y"] {
            assert_eq!(parse(text, "reads", at(1000)), None, "{text:?}");
        }
    }

    #[test]
    fn it_is_kept_whole_and_not_through_links() {
        let dir = std::env::temp_dir().join(format!("bucket-memory-{}", std::process::id()));
        let memory = Memory::new(&dir, "s3://b", "id");
        let none = [None, None, None];
        assert_eq!(memory.load(), none);
        let why = [None, Some("status 403: no".to_string()), Some("silent".to_string())];
        memory.save(&why);
        assert_eq!(memory.load(), why);
        assert_eq!(Memory::new(&dir, "s3://b", "other").load(), none);
        memory.save(&none);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        fs::write(dir.join("mine"), "reads").unwrap();
        std::os::unix::fs::symlink(dir.join("mine"), &memory.0).unwrap();
        memory.save(&why);
        assert_eq!((memory.load(), fs::read_to_string(dir.join("mine")).unwrap().as_str()), (why, "reads"));
        fs::remove_dir_all(dir).unwrap();
    }
}
