//! Files that appear whole or not at all: a temporary file beside the target, then a rename.
//!
//! Invariants: a temporary file is created exclusively and never through a symbolic link, its
//! name starts with [`TEMP_PREFIX`] (no id and no key does), and it is removed on drop unless it
//! was renamed. No fsync: a crash of the machine may lose or truncate recent files, which readers
//! detect by size; a kill of the process may not.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Start of every temporary file's name.
pub const TEMP_PREFIX: &str = ".tmp-";

/// A file on its way to its name.
#[derive(Debug)]
pub struct TempFile {
    file: Option<File>,
    path: PathBuf,
    renamed: bool,
}

impl TempFile {
    /// Creates a temporary file in `dir`, mode 0644. `NotFound` when `dir` is not there.
    pub fn create(dir: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        static PREFIX: LazyLock<String> = LazyLock::new(|| format!("{TEMP_PREFIX}{}-", std::process::id()));
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = dir.join(format!("{}{n}", *PREFIX));
            match OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(&path) {
                Ok(file) => return Ok(TempFile { file: Some(file), path, renamed: false }),
                // left by a dead process of our id, or another pid namespace on the same directory
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e),
            }
        }
    }

    /// The open file, for writing and for reading back.
    pub fn file(&mut self) -> &mut File {
        self.file.as_mut().expect("only persist takes the file, and it takes self")
    }

    /// Renames the file to `dest`, in the same file system, replacing what is there, and returns
    /// it still open.
    pub fn persist(mut self, dest: &Path) -> io::Result<File> {
        fs::rename(&self.path, dest)?;
        self.renamed = true;
        Ok(self.file.take().expect("only persist takes the file, and it takes self"))
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

/// Whether `file` is what has the name `path`.
pub fn is_at(file: &File, path: &Path) -> bool {
    let id = |m: fs::Metadata| (m.dev(), m.ino());
    file.metadata().is_ok_and(|ours| fs::symlink_metadata(path).is_ok_and(|there| id(there) == id(ours)))
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_file(&self.path);
        }
    }
}
