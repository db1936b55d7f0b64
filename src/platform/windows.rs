//! Windows: what std has of it. There are no Unix sockets, no signals but the console's, no modes and no limit of
//! open files; of disks and processor time nothing is told. What a user may see of another's files is for the
//! access lists that a folder hands down, those of the user's own by default.

use std::convert::Infallible;
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::net::TcpStream;
use std::os::windows::fs::{FileExt as _, MetadataExt, OpenOptionsExt as _};
use std::os::windows::io::{AsHandle, AsSocket, BorrowedSocket};
use std::os::windows::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use winapi_util::file::information;
use winapi_util::sysinfo::{ComputerNameKind, get_computer_name};

pub use signal_hook::consts::{SIGINT, SIGTERM};

use super::Caught;

/// The variable that names the home directory.
pub const HOME: &str = "USERPROFILE";
/// Where a user's programs keep what can be made anew: the variable that says so, and the folder of the home
/// directory that it is without.
pub const CACHES: (&str, &str) = ("LOCALAPPDATA", r"AppData\Local");
/// The same for what is to stay.
pub const STATES: (&str, &str) = CACHES;
/// What no key of an object may hold that is to be a file, besides slashes between its parts.
pub const NO_NAME: &[char] = &['\0', '\\', ':', '<', '>', '"', '|', '?', '*'];
/// Whether there are Unix sockets.
pub const HAS_UNIX_SOCKETS: bool = false;
/// What a command that is run for somebody is told of.
pub const PASSED_ON: &[i32] = &[SIGINT, SIGTERM];
/// Never comes.
pub const SIGHUP: i32 = 1;
/// Never comes.
pub const SIGQUIT: i32 = 3;

const FILE_SHARE_READ: u32 = 1;
const FILE_SHARE_DELETE: u32 = 4;
const FILE_WRITE_ATTRIBUTES: u32 = 0x100;
const FILE_FLAG_OPEN_REPARSE_POINT: u32 = 0x20_0000;
const CREATE_NEW_PROCESS_GROUP: u32 = 0x200;
const ERROR_SHARING_VIOLATION: i32 = 32;
/// How often it is looked whether the console was told to end us.
const TICK: Duration = Duration::from_millis(100);

/// Reading and writing at a place, which leaves the file where it stands.
pub trait FileExt {
    /// Reads some bytes at `at`.
    fn read_at(&self, to: &mut [u8], at: u64) -> io::Result<usize>;
    /// Fills `to` from `at` on.
    fn read_exact_at(&self, mut to: &mut [u8], mut at: u64) -> io::Result<()> {
        while !to.is_empty() {
            let n = self.read_at(to, at)?;
            if n == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            (to, at) = (&mut to[n..], at + n as u64);
        }
        Ok(())
    }
    /// Writes all of `from` at `at`.
    fn write_all_at(&self, from: &[u8], at: u64) -> io::Result<()>;
}

impl FileExt for File {
    fn read_at(&self, to: &mut [u8], at: u64) -> io::Result<usize> {
        let stands = { self }.stream_position()?;
        let read = self.seek_read(to, at);
        { self }.seek(SeekFrom::Start(stands))?;
        read
    }
    fn write_all_at(&self, mut from: &[u8], mut at: u64) -> io::Result<()> {
        let stands = { self }.stream_position()?;
        while !from.is_empty() {
            let n = self.seek_write(from, at)?;
            (from, at) = (&from[n..], at + n as u64);
        }
        { self }.seek(SeekFrom::Start(stands)).map(drop)
    }
}

/// The mode of what is made: there are none.
pub trait OpenOptionsExt {
    /// Changes nothing.
    fn mode(&mut self, _: u32) -> &mut Self {
        self
    }
}
impl OpenOptionsExt for OpenOptions {}

/// The same of a folder.
pub trait DirBuilderExt {
    /// Changes nothing.
    fn mode(&mut self, _: u32) -> &mut Self {
        self
    }
}
impl DirBuilderExt for DirBuilder {}

/// How to open a file that others may have put something else in the place of: no link is followed.
pub fn careful() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(FILE_FLAG_OPEN_REPARSE_POINT);
    options
}

/// Whether `file` is what has the name `path`.
pub fn is_at(file: &File, path: &Path) -> bool {
    let id = |file: &File| information(file).map(|i| (i.volume_serial_number(), i.file_index())).ok();
    careful().open(path).is_ok_and(|there| id(file).is_some() && id(file) == id(&there))
}

/// Whether an error means that there is no such plain file.
pub fn is_absent(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory)
}

/// Opens the file `path`, made if need be, and holds it until it is closed: others may read it, which they could
/// not if it were locked.
pub fn hold(path: &Path) -> io::Result<File> {
    careful().write(true).create(true).share_mode(FILE_SHARE_READ | FILE_SHARE_DELETE).open(path)
}

/// Whether somebody [`hold`]s the file `path`.
pub fn is_held(_: &File, path: &Path) -> bool {
    let opened = OpenOptions::new().write(true).open(path);
    opened.is_err_and(|e| e.raw_os_error() == Some(ERROR_SHARING_VIOLATION))
}

/// Whether `to` takes bytes within so long, or cannot tell.
pub fn takes<T>(_: &T, _: Duration) -> bool {
    true
}

/// Makes the file `path` as young as one that is written now.
pub fn touch(path: &Path) -> io::Result<()> {
    careful().access_mode(FILE_WRITE_ATTRIBUTES).open(path)?.set_modified(SystemTime::now())
}

/// What differs where a file or folder was changed in between, unless somebody has set its times.
pub fn state(meta: &Metadata) -> (u64, i64, i64) {
    (meta.creation_time(), meta.last_write_time() as i64, 0)
}

/// Whether an open file still has a name: nobody knows.
pub fn has_name(_: &Metadata) -> bool {
    false
}

/// The permission bits that come nearest.
pub fn mode(_: &Metadata) -> u32 {
    0o700
}

/// Whether it is ours: what is in our folders.
pub fn is_own(_: &Metadata) -> bool {
    true
}

/// Lets nobody but us read `file`: its folder sees to that.
pub fn make_private(_: &File) -> io::Result<()> {
    Ok(())
}

/// Whether it is a socket.
pub fn is_socket(_: &Metadata) -> bool {
    false
}

/// A Unix socket that is listened on: there is none.
pub struct UnixListener(Infallible);

impl AsSocket for UnixListener {
    fn as_socket(&self) -> BorrowedSocket<'_> {
        match self.0 {}
    }
}

/// Would listen on a Unix socket.
pub fn listen(_: &Path) -> io::Result<UnixListener> {
    Err(no_sockets())
}

/// The next client of a Unix socket.
pub fn accept(listener: &UnixListener) -> io::Result<TcpStream> {
    match listener.0 {}
}

/// Would connect to a Unix socket.
pub fn connect(_: &Path) -> io::Result<TcpStream> {
    Err(no_sockets())
}

fn no_sockets() -> io::Error {
    io::Error::other("there are no Unix sockets on Windows: give a port instead")
}

/// Stdout without a buffer.
pub fn stdout() -> io::Result<File> {
    io::stdout().as_handle().try_clone_to_owned().map(File::from)
}

/// Would end stdout for who reads it: it ends with us.
pub fn close_stdout() {}

/// Bytes that are free for us on the disk of `path`, and its size: not told.
pub fn disk(_: &Path) -> Option<(u64, u64)> {
    None
}

/// Processor time that this process has used: not told.
pub fn processor_time() -> Option<Duration> {
    None
}

/// This machine's name.
pub fn machine() -> String {
    get_computer_name(ComputerNameKind::DnsHostname).unwrap_or_default().to_string_lossy().into_owned()
}

/// Files that this process may open; `None` for any number.
pub fn max_files() -> Option<u64> {
    None
}

/// Lets the process open as many files as it may: it does.
pub fn raise_max_files() {}

/// Has a write fail that would make a file larger than files may be: it does.
pub fn outlive_file_size_limit() {}

/// What runs a line of the user's.
pub fn shell(line: &str) -> Command {
    let mut command = Command::new("cmd");
    command.arg("/C").raw_arg(line);
    command
}

/// Lets `command` be ended with all that it starts, by [`kill_group`].
pub fn in_own_group(command: &mut Command) -> &mut Command {
    command.creation_flags(CREATE_NEW_PROCESS_GROUP)
}

/// Ends at once the process that was started [`in_own_group`], with its children.
pub fn kill_group(id: u32) {
    let mut kill = Command::new("taskkill");
    let _ = kill.args(["/T", "/F", "/PID", &id.to_string()]).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// Would send `child` a signal: it is on the same console, and has heard of it.
pub fn pass_on(_: u32, _: i32) {}

/// The code that a shell gives to what ended so.
pub fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or(1)
}

/// Returns what waits for those of these signals that can come, ^C above all, and calls its argument for each, without end.
pub fn signals(of: &[i32]) -> io::Result<impl FnOnce(&mut dyn FnMut(Caught)) + Send + 'static> {
    let came = Arc::new(AtomicUsize::new(0));
    for &signal in of.iter().filter(|signal| PASSED_ON.contains(signal)) {
        signal_hook::flag::register_usize(signal, came.clone(), signal as usize)?;
    }
    Ok(move |each: &mut dyn FnMut(Caught)| {
        loop {
            thread::sleep(TICK);
            match came.swap(0, Ordering::SeqCst) {
                0 => {}
                signal => each(Caught { signal: signal as i32, from_terminal: true }),
            }
        }
    })
}
