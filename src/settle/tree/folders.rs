//! Folders: their times follow from what they hold, where all of that is settled.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::git::split;
use super::look::{Found, Held, Thing};
use super::stamp::{Seen, time_of};
use super::{Options, Report, shown};

/// What is tracked in a folder by name; `None` for what keeps its time.
type Children = BTreeMap<Vec<u8>, Option<Held>>;

/// The folders of a work tree by path; empty is the root.
#[derive(Default)]
pub struct Folders(BTreeMap<Vec<u8>, Children>);

impl Folders {
    /// Notes what is at `path`.
    pub fn put(&mut self, path: &[u8], held: Option<Held>) {
        let (folder, name) = split(path);
        self.folder(folder).insert(name.to_vec(), held);
    }

    /// The folder at `path`, made known with those above it.
    pub fn folder(&mut self, path: &[u8]) -> &mut Children {
        if !self.0.contains_key(path) {
            if !path.is_empty() {
                self.folder(split(path).0);
            }
            self.0.insert(path.to_vec(), Children::new());
        }
        self.0.get_mut(path).expect("it was made known above")
    }

    /// Settles them, from the innermost outwards, and returns what the root is. The work tree is at `at`.
    pub fn settle(mut self, root: BorrowedFd, at: &[u8], options: &Options, report: &mut Report) -> Option<Held> {
        loop {
            // whatever is below a folder comes after it
            let (path, children) = self.0.pop_last()?;
            let found = settle(root, &path, &children, options).unwrap_or_else(Found::of_error);
            let held = found.held();
            if matches!(found, Found::Absent) {
                continue;
            }
            report.folders.count(&found);
            if let Found::Failed(why) = found {
                report.failures.push(format!("{}: {why}", shown(&[at, &path].concat())));
            }
            if path.is_empty() {
                return held;
            }
            self.put(&path, held);
        }
    }
}

fn settle(root: BorrowedFd, path: &[u8], children: &Children, options: &Options) -> Result<Found, Errno> {
    let folder = open_folder(root, path)?;
    let (seen, names) = (Seen::from(fstat(&folder)?), names(&folder, path)?);
    let mut hash = Sha256::new();
    for name in &names {
        let Some(Some(held)) = children.get(name) else { return Ok(Found::Kept) };
        hash.update(name);
        hash.update(format!("\0{:o} {} {}\n", held.mode, held.time.0, held.time.1));
    }
    let time = time_of(&hash.finalize());
    let mode = if options.modes { 0o755 } else { seen.mode };
    let wrote = (seen.modified, seen.mode) != (time, mode);
    if wrote && !options.dry_run {
        let thing = Thing::File(folder.try_clone().map_err(|_| Errno::MFILE)?);
        thing.write(time, mode, &seen)?;
        // what came in between has lost its time to us
        if self::names(&folder, path)? != names {
            thing.set(None)?;
            return Ok(Found::Kept);
        }
    }
    Ok(Found::Settled { held: Held { mode, time }, wrote, seen: None })
}

/// The names in a folder, in order; the repository of the root is none of what it holds.
fn names(folder: &OwnedFd, path: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    let ours = |name: &Vec<u8>| name != b"." && name != b".." && !(path.is_empty() && name == b".git");
    let all = Dir::read_from(folder)?.map(|entry| Ok(entry?.file_name().to_bytes().to_vec()));
    let mut names = all.filter(|name| name.as_ref().is_ok_and(ours) || name.is_err()).collect::<Result<Vec<_>, _>>()?;
    names.sort_unstable();
    Ok(names)
}

/// Opens the folder at `path` below `root` without following a symbolic link.
pub fn open_folder(root: BorrowedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut folder = openat(root, c".", flags, Mode::empty())?;
    for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        folder = openat(folder.as_fd(), name, flags, Mode::empty())?;
    }
    Ok(folder)
}
