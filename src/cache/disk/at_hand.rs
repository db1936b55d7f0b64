//! Looking an action up in what the kernel holds in memory.
//!
//! A warm build asks for thousands of actions one after the other, and handing each to another
//! thread costs more than looking it up. So whoever reads the requests looks here first.
//!
//! Invariant: nothing here waits for the disk. What would have to wait, is not there, or is not as
//! it should be, is `None`, which says nothing about the cache.

use std::fs::{File, Metadata};
use std::io::IoSliceMut;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{ReadWriteFlags, preadv2};

/// The directories whose files are looked up.
pub struct AtHand {
    actions: OwnedFd,
    outputs: OwnedFd,
}

impl AtHand {
    /// `None` where the system cannot look without waiting.
    pub fn open(actions: &Path, outputs: &Path) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |dir: &Path| openat2(CWD, dir, flags, Mode::empty(), ResolveFlags::empty()).ok();
        Some(AtHand { actions: open(actions)?, outputs: open(outputs)? })
    }

    /// Reads the action file called `hex` into `text`; returns how much that is, and its metadata.
    pub fn action(&self, hex: &str, text: &mut [u8]) -> Option<(usize, Metadata)> {
        // should it be no plain file, opening it must not wait either
        let file = File::from(lookup(&self.actions, hex, OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK)?);
        let len = preadv2(&file, &mut [IoSliceMut::new(text)], 0, ReadWriteFlags::NOWAIT).ok()?;
        Some((len, file.metadata().ok()?))
    }

    /// The metadata of the output file called `hex`.
    pub fn output(&self, hex: &str) -> Option<Metadata> {
        File::from(lookup(&self.outputs, hex, OFlags::PATH)?).metadata().ok()
    }
}

fn lookup(dir: &OwnedFd, hex: &str, flags: OFlags) -> Option<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = [&hex[..2], "/", hex].concat();
    openat2(dir, path, flags, Mode::empty(), ResolveFlags::CACHED | ResolveFlags::NO_SYMLINKS).ok()
}
