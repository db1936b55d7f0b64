//! Direct mode: `go` starts us and speaks the protocol on stdin and stdout.
//!
//! ^C and ^\ reach us as well as `go`, which may go on for long, with a server that `go run` started say: it would
//! end at once if we did. We end when it has, or has closed the session.

use std::env;
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::thread;

use super::stack::Stack;
use super::{scope, signals, summary};
use crate::cache::Client;
use crate::config::Config;
use crate::error::{Error, ExitCode};
use crate::platform::{self, Caught, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use crate::session;
use crate::text;

/// Bytes that the pipe from `go` may hold: the most that anyone may ask for by default.
const PIPE: usize = 1 << 20;

/// Serves one session.
pub fn execute(config: &Config) -> Result<ExitCode, Error> {
    let stack = Arc::new(Stack::open(config)?);
    let scope = scope::resolve(config.scope.as_deref(), &env::current_dir().unwrap_or_default());
    stack.cache.disk.recall(&scope);
    log::info!("{} scope={}", stack.describe(), text::word(&scope));
    let client = Arc::new(Client::new(stack.cache.clone(), Some(&scope)));
    let ending = Arc::new(AtomicBool::new(false));
    let end = {
        let (stack, client, ending) = (stack.clone(), client.clone(), ending.clone());
        // the session's end and a signal may come together: the second waits for the first
        let once = Once::new();
        Arc::new(move || {
            let first = !ending.swap(true, Ordering::Relaxed);
            once.call_once(|| {
                let deadline = stack.close_deadline();
                stack.drain(deadline);
                client.close(deadline);
                log::info!("{}", summary::line(&stack));
                stack.last_words();
            });
            first
        })
    };
    let (stop, stopped) = (end.clone(), stack.clone());
    let greeted = || {
        // no later than the first request could come, and no sooner than the greeting is out
        let stop_now = move || {
            if stop() {
                stopped.close();
                // the reader is blocked on stdin and cannot be joined
                std::process::exit(0);
            }
            // else the session was first, and answers the close that it was asked for
        };
        // nor is it for go where somebody types what go would say
        let typed = io::stdin().is_terminal();
        let gos = move |caught: Caught| {
            matches!(caught.signal, SIGINT | SIGQUIT) && !typed && !ending.load(Ordering::Relaxed)
        };
        let of = signals::heard(&[SIGINT, SIGQUIT, SIGTERM, SIGHUP]);
        if let Err(e) = signals::first_then_exit(&of, gos, stop_now) {
            log::warn!("{e}");
        }
        if stack.uploader.is_some() {
            let stack = stack.clone();
            let spawned = thread::Builder::new().name("adopt".into()).spawn(move || stack.adopt());
            if let Err(e) = spawned {
                log::warn!("cannot look for unfinished uploads: {e}");
            }
        }
    };
    let options = stack.session_options(false);
    // go waits less while it writes bodies
    platform::widen_stdin(PIPE);
    let stdin = io::stdin().lock();
    // `StdinLock` is buffered, the reader is too: large reads pass through
    let result = session::run(stdin, io::stdout(), &client, &options, greeted, || {
        end();
    });
    // `go` waits until our stdout ends, and for nothing that comes after
    platform::close_stdout();
    stack.close();
    result.map(|()| ExitCode::SUCCESS).map_err(|e| Error::failed(e.to_string()))
}
