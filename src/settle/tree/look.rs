//! One file: what it holds, whether that is what git has, and its time.

use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fchmod, fstat, futimens, openat, readlinkat, statat, utimensat};
use rustix::io::{Errno, pread};

use super::git::split;
use super::stamp::{Algorithm, Seen, Time, is_ours, time_of, to_set};
use super::{Item, Task};

/// So often a file is read that changes while it is.
const ATTEMPTS: u32 = 5;

/// What is known of a file or folder.
#[derive(Debug)]
pub enum Found {
    /// Nothing yet.
    Unknown,
    /// It is not there, or something else is in its place.
    Absent,
    /// It has names that have not been looked for yet.
    Linked(Seen),
    /// It holds what has this hash, and git has something else.
    Other(Vec<u8>, Seen),
    /// It is changed, or not git's alone.
    Kept,
    /// It has its time; whether we wrote it, and what was seen then, unless git's index says so.
    Settled { held: Held, wrote: bool, seen: Option<Seen> },
    /// Why it could not be looked at or written.
    Failed(String),
}

/// The permission bits and the time of what is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub mode: u32,
    pub time: Time,
}

/// Under which circumstances a file settles.
#[derive(Clone, Copy, PartialEq)]
pub enum If {
    /// It holds the bytes that git has, under one name.
    Tracked,
    /// The same under several names, which all are tracked.
    AllTracked,
    /// Whatever it holds: a filter has made it of git's bytes.
    Filtered,
}

/// Something that has a time.
pub enum Thing<'a> {
    /// A file or folder.
    File(OwnedFd),
    /// A symbolic link: its folder and its name.
    Link(BorrowedFd<'a>, &'a [u8]),
}

impl Found {
    /// What an error of the system says.
    pub fn of_error(e: Errno) -> Self {
        match e {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Found::Absent,
            Errno::BUSY => Found::Failed("it changes whenever it is read".to_string()),
            Errno::NOTSUP => Found::Failed("this file system does not keep times to the nanosecond".to_string()),
            e => Found::Failed(e.to_string()),
        }
    }

    /// What it is now, where it is settled.
    pub fn held(&self) -> Option<Held> {
        if let Found::Settled { held, .. } = self { Some(*held) } else { None }
    }
}

/// Looks at a file, and settles it `if_` it is so.
pub fn look(folder: BorrowedFd, item: &mut Item, task: &Task, if_: If) {
    let mut attempts = (0..ATTEMPTS).map(|_| try_to(folder, item, task, if_));
    let found = attempts.find(|found| !matches!(found, Err(Errno::BUSY))).unwrap_or(Err(Errno::BUSY));
    item.found = found.unwrap_or_else(Found::of_error);
}

fn try_to(folder: BorrowedFd, item: &Item, task: &Task, if_: If) -> Result<Found, Errno> {
    let (entry, name) = (&item.entry, split(&item.entry.path).1);
    let seen = Seen::from(statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?);
    let is_link = seen.kind == FileType::Symlink;
    let as_git = if seen.mode & 0o100 != 0 { 0o755 } else { 0o644 };
    let alike = entry.mode == if is_link { 0o120_000 } else { 0o100_000 | as_git };
    let of_git = if entry.mode == 0o100_755 { 0o755 } else { 0o644 };
    let mode = if task.options.modes && !is_link { of_git } else { seen.mode };
    let settled = |time, wrote, seen| Found::Settled { held: Held { mode, time }, wrote, seen };
    let as_tracked = time_of(&entry.id);
    if alike && (seen.modified, seen.mode) == (as_tracked, mode) && entry.vouches(&seen, task.written) {
        return Ok(settled(as_tracked, false, None));
    }
    if seen.names > 1 && if_ == If::Tracked {
        return Ok(Found::Linked(seen));
    }
    let Some(thing) = Thing::open(folder, name, seen.kind)? else { return Ok(Found::Kept) };
    let id = match &item.found {
        Found::Other(id, before) if thing.seen()? == *before => id.clone(),
        _ => thing.read(task.algorithm, &seen)?,
    };
    if if_ != If::Filtered && !(alike && id == entry.id) {
        return Ok(Found::Other(id, seen));
    }
    let time = time_of(&id);
    let wrote = (seen.modified, seen.mode) != (time, mode);
    let mut now = seen;
    if wrote && !task.options.dry_run {
        now = thing.write(time, mode, &seen)?;
        // what came in between has lost its time to us
        if thing.read(task.algorithm, &now)? != id {
            thing.set(None)?;
            return Err(Errno::BUSY);
        }
    }
    Ok(settled(time, wrote, Some(now)))
}

/// Reads once more what git calls changed, or what is not as it was seen last: where it bears the time of other
/// bytes, because it was changed while it was settled or because somebody put the old time back, it gets that
/// of its own.
pub fn look_again(folder: BorrowedFd, item: &mut Item, task: &Task) {
    let name = split(&item.entry.path).1;
    let look = || -> Result<bool, Errno> {
        let seen = Seen::from(statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?);
        if matches!(&item.found, Found::Settled { seen: Some(before), .. } if *before == seen) {
            return Ok(true);
        }
        let Some(thing) = Thing::open(folder, name, seen.kind)?.filter(|_| is_ours(seen.modified)) else {
            return Ok(false);
        };
        // where it is being changed, the present one
        let time = thing.read(task.algorithm, &seen).map(|id| time_of(&id)).ok();
        let is_true = time == Some(seen.modified);
        if !is_true && !task.options.dry_run {
            thing.set(time)?;
        }
        Ok(is_true)
    };
    match look() {
        // git would have it otherwise, its line ends say, but it is what git has
        Ok(true) if item.found.held().is_some() => {}
        Ok(_) => item.found = Found::Kept,
        Err(e) => item.found = Found::of_error(e),
    }
}

impl<'a> Thing<'a> {
    /// Opens a plain file or a symbolic link; there is `None` where it is something else.
    fn open(folder: BorrowedFd<'a>, name: &'a [u8], kind: FileType) -> Result<Option<Self>, Errno> {
        Ok(match kind {
            FileType::Symlink => Some(Thing::Link(folder, name)),
            FileType::RegularFile => {
                let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                Some(Thing::File(openat(folder, name, flags, Mode::empty())?))
            }
            _ => None,
        })
    }

    fn seen(&self) -> Result<Seen, Errno> {
        Ok(Seen::from(match self {
            Thing::File(file) => fstat(file)?,
            Thing::Link(folder, name) => statat(folder, *name, AtFlags::SYMLINK_NOFOLLOW)?,
        }))
    }

    /// The hash of what it holds, as git makes it. It was `seen` before, and is `BUSY` where it is not so
    /// afterwards.
    fn read(&self, algorithm: Algorithm, seen: &Seen) -> Result<Vec<u8>, Errno> {
        let mut context = algorithm();
        context.update(format!("blob {}\0", seen.size).as_bytes());
        match self {
            Thing::File(file) => {
                let (mut buffer, mut at) = ([MaybeUninit::uninit(); 1 << 16], 0);
                while at < seen.size as u64 {
                    let (bytes, _) = pread(file, &mut buffer[..], at)?;
                    if bytes.is_empty() {
                        break;
                    }
                    context.update(bytes);
                    at += bytes.len() as u64;
                }
            }
            Thing::Link(folder, name) => context.update(readlinkat(folder, *name, Vec::new())?.as_bytes()),
        }
        if self.seen()? == *seen { Ok(context.finalize().to_vec()) } else { Err(Errno::BUSY) }
    }

    /// Gives it that mode and time; what is seen then. It was `seen` just now.
    pub fn write(&self, time: Time, mode: u32, seen: &Seen) -> Result<Seen, Errno> {
        if let (Thing::File(file), true) = (self, mode != seen.mode) {
            // of 16 bits on some systems
            fchmod(file, Mode::from_raw_mode(mode as _))?;
        }
        self.set(Some(time))?;
        let now = self.seen()?;
        if now.modified != time {
            // coarser times, which distinct contents would share
            self.set(Some(seen.modified))?;
            return Err(Errno::NOTSUP);
        }
        Ok(now)
    }

    /// Sets its time, or the present one.
    pub fn set(&self, time: Option<Time>) -> Result<(), Errno> {
        match self {
            Thing::File(file) => futimens(file, &to_set(time)),
            Thing::Link(folder, name) => utimensat(folder, *name, &to_set(time), AtFlags::SYMLINK_NOFOLLOW),
        }
    }
}
