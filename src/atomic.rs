//! Files that appear whole or not at all: a temporary file beside the target, then a rename.
//!
//! Invariants: a temporary file is created exclusively and never through a symbolic link; its name
//! is `.tmp-<token>-<n>` with the token of the process that made it, which no id and no key begins
//! with, so that who finds it can tell whether its maker lives. It is removed on drop unless it was
//! renamed, and by [`abandon`] at the end of a process whose threads may still hold some. No fsync:
//! a crash of the machine may lose or truncate recent files, which readers detect by size; a kill of
//! the process may not.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, mpsc};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::platform::careful;

/// Start of every temporary file's name.
pub const TEMP_PREFIX: &str = ".tmp-";

/// How long a pipe that a user names may say nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// The temporary files that this process has now.
#[derive(Default)]
struct Made {
    paths: HashSet<PathBuf>,
    closed: bool,
}

static MADE: LazyLock<Mutex<Made>> = LazyLock::new(Mutex::default);

/// A file on its way to its name.
#[derive(Debug)]
pub struct TempFile {
    file: Option<File>,
    path: PathBuf,
}

impl TempFile {
    /// Creates a temporary file in `dir`, for whom the umask lets in. `NotFound` when `dir` is not there.
    pub fn create(dir: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("{TEMP_PREFIX}{}-{n}", process_token()));
        let mut made = made();
        if made.closed {
            return Err(io::Error::other("this process is at its end"));
        }
        made.paths.insert(path.clone());
        drop(made);
        // from now on, dropped, it goes
        let mut temp = TempFile { file: None, path };
        temp.file = Some(OpenOptions::new().read(true).write(true).create_new(true).open(&temp.path)?);
        Ok(temp)
    }

    /// The open file, for writing and for reading back.
    pub fn file(&mut self) -> &mut File {
        self.file.as_mut().expect("only persist takes the file, and it takes self")
    }

    /// The open file, to be read.
    pub fn opened(&self) -> &File {
        self.file.as_ref().expect("only persist takes the file, and it takes self")
    }

    /// Renames the file to `dest`, in the same file system, replacing what is there, and returns
    /// it still open.
    pub fn persist(mut self, dest: &Path) -> io::Result<File> {
        fs::rename(&self.path, dest)?;
        Ok(self.file.take().expect("only persist takes the file, and it takes self"))
    }

    /// Gives the file the name `dest` unless there is something already; tells whether it did.
    pub fn persist_new(self, dest: &Path) -> io::Result<bool> {
        match fs::hard_link(&self.path, dest) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            // a file system without hard links: then the race is ours to lose
            Err(_) if dest.symlink_metadata().is_err() => self.persist(dest).map(|_| true),
            Err(e) => Err(e),
        }
    }
}

impl Write for TempFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file().write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // not there any more where it was renamed: then this is one look in vain less
        if self.file.take().is_some() {
            let _ = fs::remove_file(&self.path);
        }
        made().paths.remove(&self.path);
    }
}

/// Removes every temporary file that this process has, and makes no more: for its end, when threads
/// that nobody waits for may be writing some.
pub fn abandon() {
    let mut made = made();
    made.closed = true;
    for path in made.paths.drain() {
        let _ = fs::remove_file(path);
    }
}

/// An error with the file that it is about, and what there is to do.
pub fn at(path: &Path) -> impl Fn(io::Error) -> io::Error + '_ {
    use io::ErrorKind::*;
    move |e| {
        let advice = match e.kind() {
            IsADirectory | NotADirectory | NotSeekable => "; remove what is in its place",
            PermissionDenied | ReadOnlyFilesystem => "; give this user access",
            _ if is_full(&e) => "; make room",
            _ if e.raw_os_error().is_some() && path.is_symlink() => "; remove the link in its place",
            _ => "",
        };
        io::Error::new(e.kind(), format!("{}: {e}{advice}", path.display()))
    }
}

/// Whether an error means that there is no room, on the disk or in what this user may have of it.
pub fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What the plain file `path` holds, at most `limit` bytes of it.
pub fn read_small(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    careful().open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// As [`read_small`], where it is text.
pub fn read_text(path: &Path, limit: u64) -> Option<String> {
    String::from_utf8(read_small(path, limit).ok()?).ok()
}

/// What a file that a user names holds, at most `limit` bytes of it. It may be a pipe, and whoever was to
/// write to that may never come: that is an error.
pub fn read_named(path: &Path, limit: u64) -> io::Result<String> {
    let read = move |path: &Path| -> io::Result<String> {
        let mut bytes = Vec::new();
        File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    if fs::metadata(path)?.is_file() {
        return read(path);
    }
    let ((done, text), path) = (mpsc::channel(), path.to_path_buf());
    thread::Builder::new().name("pipe".into()).spawn(move || done.send(read(&path)))?;
    let silent = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "is no plain file, and nothing comes out of it"));
    text.recv_timeout(PATIENCE).unwrap_or_else(silent)
}

fn made() -> MutexGuard<'static, Made> {
    MADE.lock().expect("no holder panics")
}

/// Puts `bytes` into the file `path`, whole, in place of what is there.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temp = TempFile::create(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
    temp.file().write_all(bytes)?;
    temp.persist(path).map(drop)
}

/// This process's name among all that ever use a directory: `<pid>-<start and chance, hex>`.
pub fn process_token() -> &'static str {
    static TOKEN: LazyLock<String> = LazyLock::new(|| {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        // two containers may begin at one instant with one process id
        format!("{}-{nanos:x}{:08x}", std::process::id(), RandomState::new().hash_one(()) as u32)
    });
    &TOKEN
}

/// The token in a temporary file's name; empty in one that an earlier version has made, `None` where
/// it is no temporary file.
pub fn token_of(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(TEMP_PREFIX)?;
    Some(rest.rsplit_once('-').map_or("", |(token, _)| token))
}
