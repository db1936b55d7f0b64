//! About how large the cache directory is, so that it need not be walked to know that there is room:
//! the file `size` holds the bytes of outputs and blobs; its time of change is that of the last walk.
//!
//! Invariants: who writes adds what it wrote, under the file's lock; a walk sets it right. A file that
//! cannot be read says that nothing is known. A symbolic link in its place is not followed.

use std::fs::{self, Metadata, TryLockError};
use std::io::{self, Read};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::atomic::{at, read_text};
use crate::platform::{FileExt, careful};

/// How long those that have it locked, each for a moment, are waited for: one may be stopped.
const TURN: Duration = Duration::from_secs(5);
/// How often it is tried meanwhile.
const TICK: Duration = Duration::from_millis(1);

/// Its name.
pub const SIZE: &str = "size";

/// What is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Bytes of outputs and blobs.
    pub bytes: u64,
    /// When they were last counted; never where `None`.
    walked: Option<SystemTime>,
}

impl Size {
    /// The bytes that are known of the directory `root`; none where that cannot be read.
    pub fn read(root: &Path) -> u64 {
        read_text(&root.join(SIZE), 64).and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Adds `bytes` to what is known of the directory `root`, and returns it.
    pub fn add(root: &Path, bytes: u64) -> io::Result<Size> {
        update(root, |size| size.bytes = size.bytes.saturating_add(bytes))
    }

    /// Notes that a walk, ended just now, has found `bytes`.
    pub fn set(root: &Path, bytes: u64) -> io::Result<Size> {
        update(root, |size| *size = Size { bytes, walked: Some(SystemTime::now()) })
    }

    /// Whether the last walk was longer ago than `age`, or never, or in the future.
    pub fn is_older_than(&self, age: Duration) -> bool {
        self.walked.is_none_or(|t| SystemTime::now().duration_since(t).map_or(true, |passed| passed >= age))
    }

    /// Whether the directory was ever walked.
    pub fn is_known(&self) -> bool {
        self.walked.is_some()
    }
}

fn update(root: &Path, change: impl Fn(&mut Size)) -> io::Result<Size> {
    let path = root.join(SIZE);
    let updated = update_at(&path, &change).or_else(|e| {
        // another user's, who alone may give it a time: one of ours takes its place
        let theirs = path.symlink_metadata().ok().filter(|_| e.kind() == io::ErrorKind::PermissionDenied).ok_or(e)?;
        let known = Size { bytes: Size::read(root), walked: walked(&theirs) };
        fs::remove_file(&path)?;
        update_at(&path, |size| {
            *size = known;
            change(size);
        })
    });
    updated.map_err(at(&path))
}

fn walked(meta: &Metadata) -> Option<SystemTime> {
    meta.modified().ok().filter(|t| *t > UNIX_EPOCH)
}

fn update_at(path: &Path, change: impl Fn(&mut Size)) -> io::Result<Size> {
    let mut file = careful().write(true).create(true).open(path)?;
    let begun = Instant::now();
    while let Err(e) = file.try_lock() {
        match e {
            TryLockError::WouldBlock if begun.elapsed() <= TURN => thread::sleep(TICK),
            TryLockError::WouldBlock => return Err(io::Error::other("another process has it locked")),
            TryLockError::Error(e) => return Err(e),
        }
    }
    let known = file.metadata()?;
    // what may not be given a time is left as it is
    file.set_modified(known.modified()?)?;
    let mut text = String::new();
    // damaged, it is as good as none
    let _ = (&mut file).take(64).read_to_string(&mut text);
    let mut size = match text.trim().parse() {
        Ok(bytes) => Size { bytes, walked: walked(&known) },
        Err(_) => Size::default(),
    };
    change(&mut size);
    let text = format!("{:20}\n", size.bytes);
    file.write_all_at(text.as_bytes(), 0)?;
    // always as long, but for what was damaged
    file.set_len(text.len() as u64)?;
    file.set_modified(size.walked.unwrap_or(UNIX_EPOCH))?;
    Ok(size)
}
