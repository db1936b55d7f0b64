//! `run`: the cache in this process for one command and its children.
//!
//! They reach it through `connect` on a Unix socket in a directory of mode 0700, so that several
//! `go` processes share it. The command's exit code is ours; one line sums the run up. The
//! directory goes with the run: at its end, when a signal ends it, and else with the next run, which
//! knows by a lock that nobody is there.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use signal_hook::consts::SIGINT;

use super::listen::Listener;
use super::stack::Stack;
use super::web::{Gate, Web};
use super::{scope, signals, summary};
use crate::atomic::{careful, process_token};
use crate::config::{HttpConfig, PluginAddr, RunConfig};
use crate::error::{Error, Exit};
use crate::lease::is_token;

/// How long sessions may outlive the command: its children that go on in the background are not
/// waited for.
const GRACE: Duration = Duration::from_secs(2);

/// Runs the command.
pub fn execute(config: &RunConfig) -> Result<Exit, Error> {
    let start = Instant::now();
    let stack = Arc::new(Stack::open(&config.cache)?);
    let dir = PrivateDir::new()?;
    let child = Arc::new(Mutex::new(None));
    pass_signals_on(child.clone(), dir.path.clone())?;
    let socket = PluginAddr::Unix(dir.path.join("plugin"));
    // every client of this run is of one scope, wherever its working directory is
    let here = env::current_dir().unwrap_or_default();
    let scope = scope::resolve(config.cache.scope.as_deref(), &here);
    stack.cache.disk().recall(&scope);
    let listener = Arc::new(Listener::start(&socket, &stack, Some(scope))?);
    let sessions = listener.clone();
    let serve = |http: &HttpConfig| Web::start(http, Gate::open(&http.access)?, &stack, move || sessions.sessions());
    let web = config.http.as_ref().map(serve).transpose()?;
    stack.adopt();
    let mut command = Command::new(&config.command[0]);
    command.args(&config.command[1..]);
    command.env("GOCACHEPROG", plugin_command(&listener.address())?);
    if let (Some(web), Some(modproxy)) = (&web, config.http.as_ref().and_then(|h| h.mod_proxy.as_ref())) {
        let base = format!("http://{}/mod", web.address());
        command.env("GOPROXY", &base);
        // none where GOSUMDB says off, which is then left to go
        if let Some(database) = modproxy.sumdb.first() {
            command.env("GOSUMDB", format!("{} {base}/sumdb/{}", database.verifier(), database.name));
        }
    }
    let status = wait(command, &config.command[0], &child);
    let deadline = stack.close_deadline();
    listener.stop(Instant::now() + GRACE);
    web.iter().for_each(Web::stop);
    stack.drain(deadline);
    stack.last_words();
    stack.close();
    let status = status?;
    super::say(summary::line(&stack, start.elapsed()));
    let code = status.code().or(status.signal().map(|s| 128 + s)).unwrap_or(1);
    Ok(Exit::Child(u8::try_from(code).unwrap_or(1)))
}

/// Passes signals on to the command while `child` names it. Before it starts and after it has ended
/// they end this process: what is not uploaded stays marked.
fn pass_signals_on(child: Arc<Mutex<Option<Pid>>>, dir: PathBuf) -> Result<(), Error> {
    signals::each(move |caught| {
        // held while the command starts, so that no signal can come in between
        let child = child.lock().expect("no holder panics");
        let Some(pid) = *child else {
            let _ = fs::remove_dir_all(&dir);
            process::exit(128 + caught.signal);
        };
        // the terminal's ^C went to the command too
        if caught.signal == SIGINT && caught.from_terminal {
            return;
        }
        if let Some(signal) = Signal::from_named_raw(caught.signal) {
            // it may have ended just now
            let _ = kill_process(pid, signal);
        }
    })
}

/// Starts the command and waits for its end.
fn wait(mut command: Command, name: &OsString, running: &Mutex<Option<Pid>>) -> Result<process::ExitStatus, Error> {
    let failed = |what: &str, e: io::Error| Error::failed(format!("{what}{}: {e}", name.to_string_lossy()));
    let mut child = {
        let mut running = running.lock().expect("no holder panics");
        let child = command.spawn().map_err(|e| failed("", e))?;
        *running = Some(Pid::from_child(&child));
        child
    };
    let status = child.wait().map_err(|e| failed("waiting for ", e));
    *running.lock().expect("no holder panics") = None;
    status
}

/// This program's file: as the kernel says, or, where /proc is not mounted, as we were called.
fn own_file() -> io::Result<PathBuf> {
    env::current_exe().or_else(|e| {
        let called = PathBuf::from(env::args_os().next().unwrap_or_default());
        if called.components().count() > 1 {
            return called.canonicalize();
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let found = env::split_paths(&path).map(|dir| dir.join(&called)).find(|file| file.is_file());
        found.ok_or(e)
    })
}

/// What GOCACHEPROG says: this program and `connect`. `go` splits it at spaces, outside of quotes.
fn plugin_command(address: &str) -> Result<String, Error> {
    let exe = own_file().map_err(|e| Error::failed(format!("finding this program's own file: {e}")))?;
    let exe = exe.to_str().ok_or_else(|| Error::failed(format!("{}: not UTF-8", exe.display())))?;
    Ok(format!("{} connect {}", quote(exe)?, quote(address)?))
}

fn quote(word: &str) -> Result<String, Error> {
    if !word.contains([' ', '\t', '\n', '\'', '"']) {
        Ok(word.to_string())
    } else if !word.contains('\'') {
        Ok(format!("'{word}'"))
    } else if !word.contains('"') {
        Ok(format!("\"{word}\""))
    } else {
        Err(Error::failed(format!("{word}: GOCACHEPROG cannot hold a path with both kinds of quotes")))
    }
}

/// A directory that nobody else may enter, removed in the end.
pub(super) struct PrivateDir {
    pub(super) path: PathBuf,
    /// A locked file in it says that it is in use.
    _lock: File,
}

/// What the directories' names begin with; a process id, a dash and a number follow.
const DIR_PREFIX: &str = "go-cache-plugin-";
const LOCK: &str = "lock";
/// For so long a lock may not be taken yet.
const NEWBORN: Duration = Duration::from_secs(1);

impl PrivateDir {
    pub(super) fn new() -> Result<Self, Error> {
        let base = env::temp_dir();
        let failed =
            |e| Error::failed(format!("{}: {e}; set TMPDIR to a directory that can be written", base.display()));
        sweep(&base);
        // short, for so must a socket's path be
        let path =
            base.join(format!("{DIR_PREFIX}{}-{}", process::id(), &process_token()[process_token().len() - 8..]));
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        let lock = File::create_new(path.join(LOCK)).map_err(failed)?;
        lock.lock().map_err(failed)?;
        Ok(PrivateDir { path, _lock: lock })
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what runs that were killed have left in `base`.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !name.strip_prefix(DIR_PREFIX).is_some_and(is_token)
            || !entry.metadata().is_ok_and(|m| m.is_dir() && m.uid() == geteuid().as_raw())
        {
            continue;
        }
        // one without a lock is just being made, and so is one whose lock nobody has had the time to take
        let Ok(lock) = careful().open(entry.path().join(LOCK)) else { continue };
        if !lock.metadata().and_then(|m| m.modified()).is_ok_and(|t| t.elapsed().is_ok_and(|age| age > NEWBORN)) {
            continue;
        }
        if lock.try_lock().is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_go_splits_them() {
        assert_eq!(quote("/usr/bin/x").unwrap(), "/usr/bin/x");
        assert_eq!(quote("/my bin/x").unwrap(), "'/my bin/x'");
        assert_eq!(quote("/my'bin/x").unwrap(), "\"/my'bin/x\"");
        assert!(quote("a'b\"c").is_err());
    }
}
