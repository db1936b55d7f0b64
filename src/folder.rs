//! The cache directory's folders: one table of them, one walk over what they hold.
//!
//! Invariants: only names that this program writes are reported, and only through real directories;
//! what others remove meanwhile is no error.

use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};

use crate::atomic::{TEMP_PREFIX, at};

/// The actions: `<output-id> <size>\n`; mtime: when it was put.
pub const ACTION: &str = "action";
/// The outputs; mtime: last use.
pub const OUTPUT: &str = "output";
/// What the module proxy keeps, and beside each file its sum.
pub const MODULE: &str = "module";
/// What the reverse proxy keeps, likewise.
pub const REVPROXY: &str = "revproxy";

/// The folders that hold files in 256 shards. Actions first: one without its output is a miss, but an
/// output without an action is waste.
pub const FOLDERS: [&str; 4] = [ACTION, OUTPUT, MODULE, REVPROXY];

/// What is in these only saves time: it is swept and cleared with the others, and not counted.
pub const HINTS: [&str; 1] = [RECALL];

/// What was read of the actions, a file for each scope.
pub const RECALL: &str = "recall";

/// What ends the name of a blob's sum, beside it.
const SUM: &str = ".sum";

/// What a file in a shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held<'a> {
    /// A file of ours: its id, lower-case hex.
    Id(&'a str),
    /// The sum of the blob of that id.
    Sum(&'a str),
    /// A temporary file: its name.
    Temp(&'a str),
}

/// Calls `each` for every plain file of ours in the shards of the folder `dir`.
pub fn each_file(dir: &Path, mut each: impl FnMut(&DirEntry, Held)) -> io::Result<()> {
    if !is_real_dir(dir) {
        return Ok(());
    }
    for shard in read_dir(dir)? {
        let shard = shard?;
        let is_shard = shard.file_name().to_str().is_some_and(|n| n.len() == 2 && is_id(n));
        if is_shard && shard.file_type()?.is_dir() {
            each_in(&shard.path(), &mut each)?;
        }
    }
    Ok(())
}

/// As [`each_file`], in one shard or another directory without shards.
pub fn each_in(dir: &Path, mut each: impl FnMut(&DirEntry, Held)) -> io::Result<()> {
    for entry in read_dir(dir)? {
        let entry = entry?;
        if entry.file_type().is_ok_and(|t| t.is_file())
            && let Some(name) = entry.file_name().to_str()
        {
            match name.strip_suffix(SUM) {
                Some(id) if is_id(id) => each(&entry, Held::Sum(id)),
                None if is_id(name) => each(&entry, Held::Id(name)),
                None if name.starts_with(TEMP_PREFIX) => each(&entry, Held::Temp(name)),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Whether a name is one that we give: lower-case hex.
pub fn is_id(name: &str) -> bool {
    name.len() >= 2 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Where the sum of the blob at `path` is.
pub fn sum_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(SUM);
    name.into()
}

/// Makes `dir` and its parents, mode 0755, and refuses a symbolic link in its place.
pub fn make_real_dir(dir: &Path) -> io::Result<()> {
    let made = match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => fs::create_dir_all(dir),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && is_real_dir(dir) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(io::ErrorKind::NotADirectory.into()),
        made => made,
    };
    made.map_err(at(dir))
}

/// Whether it is a directory, and no link to one.
pub fn is_real_dir(dir: &Path) -> bool {
    fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir())
}

fn read_dir(dir: &Path) -> io::Result<Box<dyn Iterator<Item = io::Result<DirEntry>>>> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(Box::new(entries)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Box::new(std::iter::empty())),
        Err(e) => Err(at(dir)(e)),
    }
}
