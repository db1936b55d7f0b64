//! The commands, one file each. They construct everything and hand it down; nothing below them
//! constructs its collaborators or reads the environment.

mod bulk;
mod clear;
mod connect;
mod direct;
mod doctor;
mod goenv;
mod help;
mod keygen;
mod listen;
mod logging;
mod modarchive;
mod modgraph;
mod modules;
mod names;
mod prune;
mod pull;
mod push;
mod run;
mod scope;
mod serve;
mod settle;
mod signals;
mod stack;
mod status;
mod summary;
mod version;
mod web;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use crate::config::{BucketConfig, Config, DebugMask, Invocation};
use crate::error::{Error, Exit};
use crate::metrics::Metrics;
use crate::remote::Bucket;
use crate::text;

/// Does what the command line asks for.
pub fn execute(invocation: Invocation) -> Result<Exit, Error> {
    match invocation {
        Invocation::Help(word) => help::execute(word.as_deref()),
        Invocation::Summary(config) => summary::execute(&config),
        Invocation::Version(how) => version::execute(how),
        Invocation::Keygen(file) => keygen::execute(&file),
        Invocation::Token(name) => keygen::token(&name),
        Invocation::Direct(config) => {
            begin(&config);
            direct::execute(&config)
        }
        Invocation::Serve(config) => {
            begin(&config.cache);
            serve::execute(&config)
        }
        Invocation::Connect(config) => {
            let debug = config.fallback.as_ref().and_then(|f| f.as_ref().ok()).map(|f| f.debug);
            logging::init(config.verbose, debug.unwrap_or_default());
            connect::execute(&config)
        }
        Invocation::Run(config) => {
            begin(&config.cache);
            run::execute(&config)
        }
        Invocation::Status(cache, whole) => {
            begin(&cache);
            status::execute(&cache, whole)
        }
        Invocation::Prune(cache) => {
            begin(&cache);
            prune::execute(&cache)
        }
        Invocation::PruneBucket(prune) => {
            begin(&prune.cache);
            prune::bucket(&prune)
        }
        Invocation::Push(push) => {
            begin(&push.cache);
            push::execute(&push)
        }
        Invocation::Settle(config) => {
            logging::init(config.verbose, DebugMask::default());
            settle::execute(&config)
        }
        Invocation::Pull(cache) => {
            begin(&cache);
            pull::execute(&cache)
        }
        Invocation::Clear(clear) => {
            logging::init(clear.verbose, DebugMask::default());
            clear::execute(&clear)
        }
        Invocation::Doctor(config) => doctor::execute(&config),
        Invocation::Mod(config) => {
            begin(&config.cache);
            modules::execute(&config)
        }
    }
}

/// Sets the log up, and says what was noticed of the configuration.
fn begin(config: &Config) {
    logging::init(config.verbose, config.debug);
    config.note.iter().for_each(|note| log::warn!("{note}"));
}

/// Writes one line to stderr. One that is closed, full or not read changes nothing: the work goes on.
pub fn say(line: impl Display) {
    let _ = logging::Stderr.write_all(text::without_secrets(&format!("{line}\n")).as_bytes());
}

/// How far something is, in one line on a terminal that is rewritten; it goes when this is dropped.
struct Progress(Option<&'static str>);

impl Progress {
    /// Of things called `what`.
    fn new(what: &'static str) -> Self {
        Progress(io::stderr().is_terminal().then_some(what))
    }

    /// So many of them are done.
    fn tell(&self, done: usize, all: usize) {
        if let Some(what) = self.0 {
            let _ = write!(io::stderr(), "\r{done} of {}\x1b[K", text::things(all as u64, what));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.0.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// The bucket that `config` describes, see [`Bucket::open`].
fn open_bucket(config: &BucketConfig, metrics: Arc<Metrics>, memory: Option<&Path>) -> Result<Arc<Bucket>, Error> {
    let opened = Bucket::open(config, metrics, memory);
    opened.map(Arc::new).map_err(|e| Error::failed(format!("bucket: {e}")))
}

/// Writes what was asked for to stdout, which no protocol uses in these commands. A reader that
/// went away (`| head`) is no failure.
fn print(text: &str) -> Result<Exit, Error> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::failed(format!("stdout: {e}"))),
        _ => Ok(Exit::Success),
    }
}
