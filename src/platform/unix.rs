//! What every Unix offers beyond std.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::{Cause, Origin};

pub use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::consts::{SIGUSR1, SIGUSR2, SIGXFSZ};
pub use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
pub use std::os::unix::net::UnixListener;

use super::Caught;

/// The variable that names the home directory.
pub const HOME: &str = "HOME";
/// Where a user's programs keep what can be made anew: the variable that says so, and the folder of the home
/// directory that it is without.
pub const CACHES: (&str, &str) = ("XDG_CACHE_HOME", ".cache");
/// The same for what is to stay.
pub const STATES: (&str, &str) = ("XDG_STATE_HOME", ".local/state");
/// What no key of an object may hold that is to be a file, besides slashes between its parts.
pub const NO_NAME: &[char] = &['\0', '\\'];
/// What a command that is run for somebody is told of.
pub const PASSED_ON: &[i32] = &[SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2];
/// Whether there are Unix sockets.
pub const HAS_UNIX_SOCKETS: bool = true;

/// How to open a file that others may have put something else in the place of: no link is followed, and
/// no pipe waited for.
pub fn careful() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
    options
}

/// Whether `file` is what has the name `path`.
pub fn is_at(file: &File, path: &Path) -> bool {
    let id = |m: Metadata| (m.dev(), m.ino());
    file.metadata().is_ok_and(|ours| path.symlink_metadata().is_ok_and(|there| id(there) == id(ours)))
}

/// Whether an error means that there is no such plain file.
pub fn is_absent(e: &io::Error) -> bool {
    let e = Errno::from_io_error(e);
    matches!(e, Some(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::AGAIN | Errno::NXIO))
}

/// Opens the file `path`, made if need be, and holds it: once nobody else does, until it is closed.
pub fn hold(path: &Path) -> io::Result<File> {
    let file = careful().write(true).create(true).open(path)?;
    file.lock()?;
    Ok(file)
}

/// Whether somebody [`hold`]s the file `path`, which was opened as `file`.
pub fn is_held(file: &File, _: &Path) -> bool {
    matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock))
}

/// Whether `to` takes bytes within so long, or cannot tell.
pub fn takes(to: &impl AsFd, patience: Duration) -> bool {
    let limit = Timespec::try_from(patience).ok();
    !matches!(poll(&mut [PollFd::new(to, PollFlags::OUT)], limit.as_ref()), Ok(0))
}

/// Makes the file `path` as young as one that is written now, by its file system's own clock: who may write it
/// can, whoever made it, as long as both of its times become now.
pub fn touch(path: &Path) -> io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    Ok(rustix::fs::futimens(careful().open(path)?, &Timestamps { last_access: now, last_modification: now })?)
}

/// Inode and time of change (seconds, nanoseconds), which differ where a file or folder was changed in between.
pub fn state(meta: &Metadata) -> (u64, i64, i64) {
    (meta.ino(), meta.ctime(), meta.ctime_nsec())
}

/// Whether an open file still has a name.
pub fn has_name(meta: &Metadata) -> bool {
    meta.nlink() > 0
}

/// The permission bits.
pub fn mode(meta: &Metadata) -> u32 {
    meta.mode() & 0o777
}

/// Whether it is ours.
pub fn is_own(meta: &Metadata) -> bool {
    meta.uid() == rustix::process::geteuid().as_raw()
}

/// Lets nobody but us read `file`.
pub fn make_private(file: &File) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(0o600))
}

/// Whether it is a socket.
pub fn is_socket(meta: &Metadata) -> bool {
    meta.file_type().is_socket()
}

/// Listens on a Unix socket of mode 0600. Best called while no other thread makes files.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let mask = rustix::process::umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(mask);
    bound
}

/// The next client of a Unix socket; the stream is one in all but its addresses.
pub fn accept(listener: &UnixListener) -> io::Result<TcpStream> {
    Ok(OwnedFd::from(listener.accept()?.0).into())
}

/// Connects to a Unix socket, as [`accept`].
pub fn connect(path: &Path) -> io::Result<TcpStream> {
    Ok(OwnedFd::from(UnixStream::connect(path)?).into())
}

/// Stdout without a buffer.
pub fn stdout() -> io::Result<File> {
    io::stdout().as_fd().try_clone_to_owned().map(File::from)
}

/// Ends stdout for who reads it, where it is a pipe that nobody else holds.
pub fn close_stdout() {
    if let Ok(nowhere) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(nowhere);
    }
}

/// Bytes that are free for us on the disk of `path`, and its size.
pub fn disk(path: &Path) -> Option<(u64, u64)> {
    let s = rustix::fs::statvfs(path).ok()?;
    Some((s.f_bavail.saturating_mul(s.f_frsize), s.f_blocks.saturating_mul(s.f_frsize)))
}

/// Processor time that this process has used.
pub fn processor_time() -> Option<Duration> {
    rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime).try_into().ok()
}

/// This machine's name.
pub fn machine() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Files that this process may open; `None` for any number.
pub fn max_files() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Lets the process open as many files as it may: many systems start programs with a limit that is
/// low for the sake of old ones.
pub fn raise_max_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(e) = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        log::debug!("the limit of open files stays at {:?}: {e}", limit.current);
    }
}

/// Has a write fail that would make a file larger than files may be, instead of ending the process. Whom we start it
/// ends as before: a handler, unlike a signal that is ignored, is not handed down.
pub fn outlive_file_size_limit() {
    if getrlimit(Resource::Fsize).current.is_some() && !super::ignored()(SIGXFSZ) {
        let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
    }
}

/// What runs a line of the user's.
pub fn shell(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", line]);
    command
}

/// Lets `command` be ended with all that it starts, by [`kill_group`].
pub fn in_own_group(command: &mut Command) -> &mut Command {
    command.process_group(0)
}

/// Ends at once the process that was started [`in_own_group`], with its children.
pub fn kill_group(id: u32) {
    let _ = Pid::from_raw(id as i32).map(|group| rustix::process::kill_process_group(group, Signal::KILL));
}

/// Sends `child` a signal. It may have ended just now.
pub fn pass_on(child: u32, signal: i32) {
    let _ = Pid::from_raw(child as i32)
        .zip(Signal::from_named_raw(signal))
        .map(|(child, signal)| rustix::process::kill_process(child, signal));
}

/// The code that a shell gives to what ended so.
pub fn exit_code(status: ExitStatus) -> i32 {
    status.code().or(status.signal().map(|s| 128 + s)).unwrap_or(1)
}

/// Returns what waits for these signals and calls its argument for each, without end.
pub fn signals(of: &[i32]) -> io::Result<impl FnOnce(&mut dyn FnMut(Caught)) + Send + 'static> {
    let mut signals = SignalsInfo::<WithOrigin>::new(of)?;
    let caught = |o: Origin| Caught { signal: o.signal, from_terminal: matches!(o.cause, Cause::Kernel) };
    Ok(move |each: &mut dyn FnMut(Caught)| signals.forever().for_each(|origin| each(caught(origin))))
}
