//! SIGINT, SIGQUIT, SIGTERM and SIGHUP: the first asks for an orderly end, the second ends at once. A SIGHUP
//! that somebody sends, rather than a terminal that goes away, may mean something else, and ^C may be for `go`. `run`
//! hears more.

use std::io;
use std::thread;

use crate::error::Error;
use crate::platform::{self, Caught};

/// Calls `each` for every one of these signals, on a thread of its own.
pub fn each(of: &[i32], mut each: impl FnMut(Caught) + Send + 'static) -> Result<(), Error> {
    let failed = |e: io::Error| Error::failed(format!("signal handlers: {e}"));
    let wait = platform::signals(of).map_err(failed)?;
    thread::Builder::new().name("signals".into()).spawn(move || wait(&mut each)).map_err(failed)?;
    Ok(())
}

/// Those of these signals that this process was not started to ignore, as `nohup` has it.
pub fn heard(of: &[i32]) -> Vec<i32> {
    let ignored = platform::ignored();
    of.iter().copied().filter(|signal| !ignored(*signal)).collect()
}

/// Calls `first` at the first of these signals that `spares` does not take; the one after it ends the process with
/// the code that a shell gives to one that a signal ended.
pub fn first_then_exit(
    of: &[i32],
    spares: impl Fn(Caught) -> bool + Send + 'static,
    first: impl FnOnce() + Send + 'static,
) -> Result<(), Error> {
    let mut first = Some(first);
    each(of, move |caught| {
        if spares(caught) {
            return;
        }
        let Some(first) = first.take() else { std::process::exit(128 + caught.signal) };
        // the end may take a while, and the second signal must be heard meanwhile
        if let Err(e) = thread::Builder::new().name("stop".into()).spawn(first) {
            log::error!("cannot start the stop thread: {e}");
        }
    })
}
