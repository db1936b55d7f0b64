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

use crate::config::{
    BucketConfig, ClearConfig, Config, ConnectConfig, DebugMask, Invocation, ModConfig, PruneConfig, PushConfig,
    RunConfig, ServeConfig, SettleConfig,
};
use crate::error::{Error, ExitCode};
use crate::metrics::Metrics;
use crate::platform;
use crate::remote::Bucket;
use crate::text;

/// Does what the command line asks for.
pub fn execute(invocation: Invocation) -> Result<ExitCode, Error> {
    use Invocation::*;
    platform::outlive_file_size_limit();
    match &invocation {
        Direct(cache)
        | Serve(ServeConfig { cache, .. })
        | Run(RunConfig { cache, .. })
        | Status(cache, _)
        | Prune(cache)
        | PruneBucket(PruneConfig { cache, .. })
        | Push(PushConfig { cache, .. })
        | Pull(cache)
        | Mod(ModConfig { cache, .. }) => begin(cache),
        Connect(ConnectConfig { verbose, fallback, .. }) => {
            let fallback = fallback.as_ref().and_then(|cache| cache.as_ref().ok());
            logging::init(*verbose, fallback.map(|cache| cache.debug).unwrap_or_default());
        }
        Settle(SettleConfig { verbose, .. }) | Clear(ClearConfig { verbose, .. }) => {
            logging::init(*verbose, DebugMask::default());
        }
        Doctor(_) | Help(_) | Summary(_) | Version(_) | Keygen(_) | Token(_) => {}
    }
    match invocation {
        Direct(config) => direct::execute(&config),
        Serve(config) => serve::execute(&config),
        Connect(config) => connect::execute(&config),
        Run(config) => run::execute(&config),
        Status(config, whole) => status::execute(&config, whole),
        Prune(config) => prune::execute(&config),
        PruneBucket(config) => prune::bucket(&config),
        Push(config) => push::execute(&config),
        Settle(config) => settle::execute(&config),
        Pull(config) => pull::execute(&config),
        Clear(config) => clear::execute(&config),
        Doctor(config) => doctor::execute(&config),
        Help(word) => help::execute(word.as_deref()),
        Summary(config) => summary::execute(&config),
        Version(how) => version::execute(how),
        Keygen(file) => keygen::execute(&file),
        Token(name) => keygen::token(&name),
        Mod(config) => modules::execute(&config),
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

/// What came of the cache directory `dir`.
fn of_cache_dir<T>(dir: &Path, outcome: io::Result<T>) -> Result<T, Error> {
    let failed = |e| Error::failed(format!("cache directory {}: {e}; choose another with --cache-dir", dir.display()));
    outcome.map_err(failed)
}

/// The bucket that `config` describes, see [`Bucket::open`].
fn open_bucket(config: &BucketConfig, metrics: Arc<Metrics>, memory: Option<&Path>) -> Result<Arc<Bucket>, Error> {
    let opened = Bucket::open(config, metrics, memory);
    opened.map(Arc::new).map_err(|e| Error::failed(format!("bucket: {e}")))
}

/// Writes what was asked for to stdout, which no protocol uses in these commands. A reader that
/// went away (`| head`) is no failure.
fn print(text: &str) -> Result<ExitCode, Error> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::failed(format!("stdout: {e}"))),
        _ => Ok(ExitCode::SUCCESS),
    }
}
