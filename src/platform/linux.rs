//! Linux: look-ups that do not wait, files copied inside the kernel, files that are memory alone.

use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{ReadWriteFlags, preadv2};

use super::Wanted;

/// The file systems that keep their locks and directories in this machine's memory, by the magic
/// numbers of statfs(2): ext2 to ext4, XFS, btrfs, F2FS, ZFS, tmpfs and overlayfs.
const LOCAL: &[u32] = &[0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x2fc1_2fc1, 0x0102_1994, 0x794c_7630];

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Whether no other machine can have the file system of `path` mounted.
pub fn is_local(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|s| LOCAL.contains(&(s.f_type as u32)))
}

/// A folder for [`look_up`]; `None` where the system cannot look without waiting.
pub fn open_folder(path: &Path) -> Option<File> {
    openat2(CWD, path, FOLDER, Mode::empty(), ResolveFlags::empty()).ok().map(File::from)
}

/// Opens what the kernel has at hand, itself no symbolic link; `None` for all that would have to wait. From a folder
/// that [`open_folder`] or this gave, nothing on the way may be a link either.
pub fn look_up(from: Option<&File>, path: impl AsRef<Path>, wanted: Wanted) -> Option<File> {
    let flags = match wanted {
        Wanted::Folder => FOLDER,
        Wanted::Metadata => OFlags::PATH,
        // should it be no plain file, opening it must not wait either
        Wanted::Content => OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK,
    };
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = path.as_ref();
    let found = match from {
        None => openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED),
        Some(dir) => openat2(dir, path, flags, Mode::empty(), ResolveFlags::CACHED | ResolveFlags::NO_SYMLINKS),
    };
    found.ok().map(File::from)
}

/// Reads at `offset` what the kernel has in memory; `None` where it would have to wait.
pub fn read_at_hand(file: &File, to: &mut [u8], offset: u64) -> Option<usize> {
    preadv2(file, &mut [IoSliceMut::new(to)], offset, ReadWriteFlags::NOWAIT).ok()
}

/// Whether there is room for as many files, in one piece. To make it later, when there are other threads, the
/// kernel waits for milliseconds.
pub fn make_room(file: &File, files: usize) -> bool {
    rustix::io::fcntl_dupfd_cloexec(file, files as i32 - 1).is_ok()
}

/// Asks for a pipe on stdin of that many bytes; no harm where it cannot be had or there is none.
pub fn widen_stdin(bytes: usize) {
    let _ = rustix::pipe::fcntl_setpipe_size(io::stdin(), bytes);
}

/// Whether this process was started to ignore a signal, as `nohup` has it.
pub fn ignored() -> impl Fn(i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    move |signal| mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Sends at most `most` bytes of `file` from `at` on.
pub fn send_file(to: &TcpStream, file: &File, mut at: u64, most: usize) -> io::Result<usize> {
    Ok(rustix::fs::sendfile(to, file, Some(&mut at), most)?)
}

/// A file that is in memory alone.
pub fn memory() -> io::Result<File> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    Ok(rustix::fs::memfd_create("go-cache-plugin", flags).map(File::from)?)
}

/// Before a blocking accept. Nothing to do: [`wake`] ends it.
pub fn await_client(_: impl AsFd, _: impl Fn() -> bool) -> io::Result<()> {
    Ok(())
}

/// Lets a blocked accept return, also where a Unix socket's file is gone.
pub fn wake(listener: impl AsFd) {
    let _ = rustix::net::shutdown(listener, rustix::net::Shutdown::Both);
}
