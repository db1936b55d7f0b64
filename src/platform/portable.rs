//! Any system: nothing can be looked up without waiting, files are copied through memory, and accept is not woken.

use std::fs::File;
use std::io::{self, Write};
use std::net::TcpStream;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;

use super::{FileExt, Wanted};
use crate::atomic::TempFile;

/// How late it may be seen that accepting is to end.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Whether no other machine can have the file system of `path` mounted.
#[cfg(target_os = "macos")]
pub fn is_local(path: &Path) -> bool {
    /// `MNT_LOCAL` of mount.h
    const LOCAL: u32 = 0x1000;
    rustix::fs::statfs(path).is_ok_and(|s| s.f_flags & LOCAL != 0)
}

/// Whether no other machine can have the file system of `path` mounted, or its locks are seen here, as they are
/// where Windows shares one: elsewhere nobody knows.
#[cfg(not(target_os = "macos"))]
pub fn is_local(_: &Path) -> bool {
    cfg!(windows)
}

/// A folder for [`look_up`]; `None`, since there is no looking without waiting.
pub fn open_folder(_: &Path) -> Option<File> {
    None
}

/// Opens what the kernel has at hand: nothing, as far as we know.
pub fn look_up(_: Option<&File>, _: impl AsRef<Path>, _: Wanted) -> Option<File> {
    None
}

/// Reads what the kernel has in memory: nothing, as far as we know.
pub fn read_at_hand(_: &File, _: &mut [u8], _: u64) -> Option<usize> {
    None
}

/// Whether there is room for as many files: for what is looked up there need not be.
pub fn make_room(_: &File, _: usize) -> bool {
    false
}

/// Asks for a pipe of that many bytes, which only Linux grants.
pub fn widen_stdin(_: usize) {}

/// Whether this process was started to ignore a signal: no, as far as we know.
pub fn ignored() -> impl Fn(i32) -> bool {
    |_| false
}

/// Sends at most `most` bytes of `file` from `at` on.
pub fn send_file(mut to: &TcpStream, file: &File, at: u64, most: usize) -> io::Result<usize> {
    let mut piece = vec![0; most.min(64 << 10)];
    let read = file.read_at(&mut piece, at)?;
    to.write(&piece[..read])
}

/// A file without a name in the folder for temporary files, which may lie in memory.
pub fn memory() -> io::Result<File> {
    TempFile::create(&std::env::temp_dir())?.opened().try_clone()
}

/// Before a blocking accept, which would not end by itself: waits for a client; an error once accepting is to end.
pub fn await_client(listener: impl AsFd, stopped: impl Fn() -> bool) -> io::Result<()> {
    let mut one = [PollFd::new(&listener, PollFlags::IN)];
    while !stopped() {
        if !matches!(poll(&mut one, Some(&TICK)), Ok(0) | Err(rustix::io::Errno::INTR)) {
            return Ok(());
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// Would let a blocked accept return: here nobody waits there, see [`await_client`].
pub fn wake(_: impl AsFd) {}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_file_is_sent_whole_by_a_socket_that_takes_little_at_a_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut from, _) = listener.accept().unwrap();
        let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n / 7) as u8).collect();
        let mut file = memory().unwrap();
        file.write_all(&bytes).unwrap();
        to.set_write_timeout(Some(Duration::from_millis(1))).unwrap();
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            from.read_to_end(&mut got).map(|_| got)
        });
        let mut sent = 0;
        while sent < bytes.len() {
            match send_file(&to, &file, sent as u64, bytes.len() - sent) {
                Ok(n) => sent += n,
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
            }
        }
        drop(to);
        assert_eq!(reader.join().unwrap().unwrap(), bytes);
    }

    #[test]
    fn waiting_for_a_client_ends_with_one_or_when_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        await_client(&listener, || false).unwrap();
        listener.accept().unwrap();
        let stopped = AtomicBool::new(false);
        await_client(&listener, || stopped.swap(true, Ordering::SeqCst)).expect_err("nobody comes any more");
    }
}
