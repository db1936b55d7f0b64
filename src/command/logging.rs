//! Where log lines go: stderr, `go-cache-plugin: text`, below warnings with their level.
//!
//! No line shows the query or the password of a URL, and each is one line, whatever it was made of.
//! No build waits for who reads them: see [`Stderr`].
//!
//! Warnings and errors always; info and debug with `-v`; lines of the target [`REQUEST`], one at
//! begin and end of each request, with `--debug` (which requests, their makers decide by the mask).

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use env_logger::Target;
use log::{Level, LevelFilter};

use crate::cli::PROGRAM;
use crate::config::DebugMask;
use crate::platform::takes;
use crate::text::without_secrets;

/// Target of the lines that `--debug` asks for, logged at level info.
pub const REQUEST: &str = "request";

/// How long a reader of stderr is waited for, once.
const PATIENCE: Duration = Duration::from_secs(1);
/// So much goes into a pipe at a time without waiting.
const PIECE: usize = 4096;

/// Stderr. While nobody takes what is written, it is lost.
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        static DEAF: AtomicBool = AtomicBool::new(false);
        let patience = if DEAF.load(Ordering::Relaxed) { Duration::ZERO } else { PATIENCE };
        let taken = takes(&io::stderr(), patience);
        DEAF.store(!taken, Ordering::Relaxed);
        if taken { io::stderr().write(&bytes[..bytes.len().min(PIECE)]) } else { Ok(bytes.len()) }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sets the logger up; a second call changes nothing.
pub(super) fn init(verbose: bool, debug: DebugMask) {
    let mut builder = env_logger::Builder::new();
    builder.target(Target::Pipe(Box::new(Stderr)));
    let general = if verbose { LevelFilter::Debug } else { LevelFilter::Warn };
    let requests = if debug == DebugMask::default() { LevelFilter::Off } else { LevelFilter::Info };
    builder.filter_level(LevelFilter::Warn).filter_module("go_cache_plugin", general).filter_module(REQUEST, requests);
    builder.format(|out, record| {
        let line = without_secrets(record.args().to_string().trim_end()).replace(char::is_control, " ");
        match record.level() {
            Level::Error | Level::Warn => writeln!(out, "{PROGRAM}: {line}"),
            _ if record.target() == REQUEST => writeln!(out, "{PROGRAM}: {line}"),
            level => writeln!(out, "{PROGRAM}: {}: {line}", level.as_str().to_ascii_lowercase()),
        }
    });
    // a test in this process may have set one up before
    let _ = builder.try_init();
}
