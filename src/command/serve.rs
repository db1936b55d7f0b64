//! `serve`: one cache for many clients, until a signal.
//!
//! Stop order: accept no more, sessions end, HTTP workers join, uploads drain to the deadline,
//! prune, metrics. The close time-out counts once for sessions and once for uploads.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::listen::Listener;
use super::stack::Stack;
use super::web::{Gate, Web};
use super::{signals, summary};
use crate::cli::PROGRAM;
use crate::config::ServeConfig;
use crate::error::{Error, ExitCode};
use crate::platform::{self, Caught, SIGHUP, SIGINT, SIGTERM};
use crate::text;

/// How often unfinished uploads are looked for, and pruning is considered.
const MAINTENANCE: Duration = Duration::from_secs(60);

/// Serves until SIGINT or SIGTERM.
pub fn execute(config: &ServeConfig) -> Result<ExitCode, Error> {
    platform::raise_max_files();
    let (sender, stop) = bounded::<()>(1);
    let gate = config.http.as_ref().map(|http| Gate::open(&http.access)).transpose()?;
    let reload = gate.clone().filter(Gate::has_files);
    let of = [SIGINT, SIGTERM, SIGHUP];
    let heard = signals::heard(&of);
    let spares = move |caught: Caught| match &reload {
        Some(gate) if caught.signal == SIGHUP && !caught.from_terminal => {
            gate.reload();
            true
        }
        _ => !heard.contains(&caught.signal) && (caught.signal == SIGHUP || caught.from_terminal),
    };
    signals::first_then_exit(&of, spares, move || drop(sender))?;
    let stack = Arc::new(Stack::open(&config.cache)?);
    let listener = stack.begin(Listener::start(&config.plugin, &stack, config.cache.scope.clone()))?;
    let sessions = listener.clone();
    let web = config.http.as_ref().zip(gate);
    let web = web.map(|(http, gate)| Web::start(http, gate, &stack, move || sessions.sessions())).transpose();
    let web = stack.begin(web)?;
    let http = web.as_ref().map_or_else(|| "none".into(), |web| web.address().to_string());
    super::say(format_args!(
        "{PROGRAM}: listening plugin={} http={http} {}",
        text::word(&listener.address()),
        stack.describe()
    ));
    // the HTTP side has told the upload queue of its kinds by now
    stack.adopt();
    while stop.recv_timeout(MAINTENANCE) == Err(RecvTimeoutError::Timeout) {
        stack.maintain();
    }
    log::info!("stopping; a second signal ends at once");
    web.iter().for_each(Web::announce_stop);
    let deadline = stack.close_deadline();
    listener.stop(deadline);
    web.iter().for_each(Web::stop);
    stack.drain(deadline);
    log::info!("{}", summary::line(&stack));
    stack.last_words();
    stack.close();
    Ok(ExitCode::SUCCESS)
}
