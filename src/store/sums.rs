//! What blobs on disk must be: beside each, `<name>.sum` holds a line for it, the text form of a
//! [`Claim`]; where it was replaced, a second line for what was there before.
//!
//! Invariants: the line of a blob is there before the blob, beside that of the blob that it
//! replaces, so that a kill in between leaves one of the two, and it is right. A blob that no line
//! fits is damaged, and goes; one without lines (from another program, or an older version) is taken
//! as it is, and gets one. The time of the `.sum` file is when the blob was last used, kept to
//! within [`USE_GRANULARITY`].

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::atomic::{self, TempFile, careful, is_at, read_text};
use crate::folder::sum_of;
use crate::id::Hashing;
use crate::sign::{Claim, nanos};

/// Two lines are shorter than this.
const LIMIT: u64 = 1024;
/// How exactly the time of last use is kept.
const USE_GRANULARITY: Duration = Duration::from_secs(3600);
/// File systems' clocks are at least this exact.
const TICK: Duration = Duration::from_millis(20);
/// Files remembered as whole at most.
const REMEMBERED: usize = 4096;

/// A file as it was when its hash was right: inode, change time, length.
type State = (u64, i64, i64, u64);

/// The files that this process has found whole.
#[derive(Default)]
pub(super) struct Sums(Mutex<HashMap<PathBuf, (State, Claim)>>);

impl Sums {
    /// Checks the open `file` that is called `path`, and leaves it at its start: its line, or
    /// `None` where it is damaged; then it is gone.
    pub(super) fn check(&self, path: &Path, file: &mut File) -> io::Result<Option<Claim>> {
        let (meta, sum_path) = (file.metadata()?, sum_of(path));
        let known = self.0.lock().expect("no holder panics").get(path).copied();
        if let Some((_, claim)) = known.filter(|(then, _)| *then == state(&meta) && used(&sum_path)) {
            return Ok(Some(claim));
        }
        let (lines, mut hasher) = (read(&sum_path), Hashing::new(io::sink()));
        let whole = lines.is_empty() || lines.iter().any(|line| line.size == meta.len());
        if whole {
            io::copy(file, &mut hasher)?;
            io::Seek::rewind(file)?;
        }
        let hash = hasher.hash();
        let claim = if lines.is_empty() {
            let claim = Claim { hash, size: meta.len(), time: nanos(meta.modified()?) };
            // in the place of nobody else's, who may just be replacing the blob; in a directory that is
            // not ours there is none
            match File::create_new(&sum_path) {
                Ok(mut sum) => writeln!(sum, "{claim}")?,
                Err(_) if read(&sum_path).is_empty() => drop(write(path, claim, None)),
                Err(_) => {}
            }
            claim
        } else if let Some(claim) = lines.into_iter().find(|line| whole && (line.hash, line.size) == (hash, meta.len()))
        {
            used(&sum_path);
            claim
        } else {
            if is_at(file, path) {
                fs::remove_file(path)?;
                let _ = fs::remove_file(&sum_path);
            }
            return Ok(None);
        };
        self.remember(path, &meta, claim);
        Ok(Some(claim))
    }

    /// Gives the finished `temp`, which is as `claim` says, the name `path`.
    pub(super) fn persist(&self, path: &Path, temp: TempFile, claim: Claim) -> io::Result<File> {
        // one without lines gets one here, to stand beside the new one
        let before = match careful().open(path) {
            Ok(mut file) => self.check(path, &mut file)?,
            Err(_) => None,
        };
        write(path, claim, before)?;
        temp.persist(path)
    }

    /// Takes note that a file is whole, unless another change so soon might not show.
    fn remember(&self, path: &Path, meta: &fs::Metadata, claim: Claim) {
        let changed = UNIX_EPOCH + Duration::new(meta.ctime().max(0) as u64, meta.ctime_nsec().max(0) as u32);
        if !SystemTime::now().duration_since(changed).is_ok_and(|age| age > TICK) {
            return;
        }
        let mut known = self.0.lock().expect("no holder panics");
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(path.to_path_buf(), (state(meta), claim));
    }
}

/// Replaces the lines of `path`.
fn write(path: &Path, claim: Claim, before: Option<Claim>) -> io::Result<()> {
    let before = before.map_or_else(String::new, |before| format!("{before}\n"));
    atomic::write(&sum_of(path), format!("{claim}\n{before}").as_bytes())
}

fn state(meta: &fs::Metadata) -> State {
    (meta.ino(), meta.ctime(), meta.ctime_nsec(), meta.len())
}

/// The lines in a `.sum` file; none where there is no such file, or nothing that we wrote.
fn read(path: &Path) -> Vec<Claim> {
    let text = read_text(path, LIMIT).unwrap_or_default();
    text.lines().filter_map(Claim::parse).map(|(claim, _)| claim).collect()
}

/// Takes note of a use; `false` where there is no such plain file.
fn used(path: &Path) -> bool {
    let Some(meta) = fs::symlink_metadata(path).ok().filter(|meta| meta.is_file()) else { return false };
    let now = SystemTime::now();
    if matches!(meta.modified().map(|t| now.duration_since(t)), Ok(Ok(age)) if age > USE_GRANULARITY) {
        // somebody else's file in a shared directory: then its owner's uses have to do
        let _ = careful().open(path).and_then(|file| file.set_modified(now));
    }
    true
}
