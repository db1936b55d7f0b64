//! What differs between the systems that we run on: the only room that asks which one it is.
//!
//! `unix` and `windows` offer the same. Linux is what we are measured on; what it has of its own, `portable` does
//! elsewhere (macOS, Windows) by what every system has, slower.

#[cfg(target_os = "linux")]
mod linux;
// on Linux it is tested, not used
#[cfg(any(test, not(target_os = "linux")))]
#[cfg_attr(target_os = "linux", allow(dead_code))]
mod portable;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::env::consts::ARCH;

#[cfg(target_os = "linux")]
pub use linux::*;
#[cfg(not(target_os = "linux"))]
pub use portable::*;
#[cfg(unix)]
pub use unix::*;
#[cfg(windows)]
pub use windows::*;

/// A signal that came.
#[derive(Clone, Copy, Debug)]
pub struct Caught {
    /// Its number.
    pub signal: i32,
    /// Whether the terminal sent it, and so to the whole process group.
    pub from_terminal: bool,
}

/// What is wanted of a file that is looked up without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A directory to look things up in.
    Folder,
    /// What it is, its size and times.
    Metadata,
    /// What is in it.
    Content,
}

/// The target triple that this binary was built for.
pub fn target() -> String {
    let system = match () {
        () if cfg!(target_os = "macos") => "apple-darwin",
        () if cfg!(windows) => "pc-windows-gnu",
        () if cfg!(target_env = "musl") => "unknown-linux-musl",
        () => "unknown-linux-gnu",
    };
    format!("{ARCH}-{system}")
}
