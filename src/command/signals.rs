//! SIGINT, SIGTERM and SIGHUP: the first asks for an orderly end, the second ends at once. A SIGHUP
//! that somebody sends, rather than a terminal that goes away, may mean something else. `run` hears more.

use std::io;
use std::thread;

use crate::error::Error;
use crate::platform::{self, Caught, SIGHUP, SIGINT, SIGTERM};

/// Calls `each` for every one of these signals, on a thread of its own.
pub fn each(of: &[i32], mut each: impl FnMut(Caught) + Send + 'static) -> Result<(), Error> {
    let failed = |e: io::Error| Error::failed(format!("signal handlers: {e}"));
    let wait = platform::signals(of).map_err(failed)?;
    thread::Builder::new().name("signals".into()).spawn(move || wait(&mut each)).map_err(failed)?;
    Ok(())
}

/// Calls `first` at the first signal; the second ends the process with the code that a shell gives
/// to one that a signal ended. A SIGHUP that was sent calls `reload` instead, where there is one.
pub fn first_then_exit(
    first: impl FnOnce() + Send + 'static,
    reload: Option<Box<dyn Fn() + Send>>,
) -> Result<(), Error> {
    let mut first = Some(first);
    each(&[SIGINT, SIGTERM, SIGHUP], move |caught| match (first.take(), &reload) {
        (Some(kept), Some(reload)) if caught.signal == SIGHUP && !caught.from_terminal => {
            reload();
            first = Some(kept);
        }
        (Some(first), _) => {
            // the end may take a while, and the second signal must be heard meanwhile
            if let Err(e) = thread::Builder::new().name("stop".into()).spawn(first) {
                log::error!("cannot start the stop thread: {e}");
            }
        }
        (None, _) => std::process::exit(128 + caught.signal),
    })
}
