//! `run`: the cache in this process for one command and its children.
//!
//! They reach it through `connect` on a Unix socket in a directory of mode 0700, so that several
//! `go` processes share it. The command's exit code is ours; one line sums the run up. The
//! directory goes with the run: at its end, when a signal ends it, and else with the next run, which
//! knows by a lock that nobody is there.

use std::env;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{self, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::listen::Listener;
use super::stack::Stack;
use super::web::{Gate, Web};
use super::{goenv, scope, signals, summary};
use crate::cli::PROGRAM;
use crate::config::{HttpConfig, PluginAddr, RunConfig, SOCKET_PATH_LIMIT};
use crate::error::{Error, ExitCode};
use crate::platform::{self, HAS_UNIX_SOCKETS, PASSED_ON, SIGINT, SIGQUIT};
use crate::private_dir::PrivateDir;
use crate::text;

/// How long sessions may outlive the command: its children that go on in the background are not
/// waited for.
const GRACE: Duration = Duration::from_secs(2);
/// What the socket is called in its directory.
const SOCKET: &str = "plugin";

/// Runs the command.
pub fn execute(config: &RunConfig) -> Result<ExitCode, Error> {
    if config.settle {
        super::settle::before_run();
    }
    let mut http = config.http.clone();
    let mut behind = "";
    if let Some(modules) = http.as_mut().and_then(|http| http.mod_proxy.as_mut()) {
        behind = goenv::take_over(modules, config.go_says)?;
    }
    let stack = Arc::new(Stack::open(&config.cache)?);
    let fits = |path: &str| path.len() + SOCKET.len() < SOCKET_PATH_LIMIT && quote(path).is_ok();
    let dir = PrivateDir::new(&config.cache.cache_dir, fits)?;
    let child = Arc::new(Mutex::new(None));
    pass_signals_on(child.clone(), dir.path.clone())?;
    let socket = if HAS_UNIX_SOCKETS { PluginAddr::Unix(dir.path.join(SOCKET)) } else { PluginAddr::Port(0) };
    // every client of this run is of one scope, wherever its working directory is
    let here = env::current_dir().unwrap_or_default();
    let scope = scope::resolve(config.cache.scope.as_deref(), &here);
    stack.cache.disk.recall(&scope);
    log::info!("{} scope={}", stack.describe(), text::word(&scope));
    let listener = stack.begin(Listener::start(&socket, &stack, Some(scope)))?;
    let sessions = listener.clone();
    let serve = |http: &HttpConfig| Web::start(http, Gate::open(&http.access)?, &stack, move || sessions.sessions());
    let web = stack.begin(http.as_ref().map(serve).transpose())?;
    stack.adopt();
    let mut command = Command::new(&config.command[0]);
    command.args(&config.command[1..]);
    command.env("GOCACHEPROG", plugin_command(&listener.address())?);
    if let (Some(web), Some(modproxy)) = (&web, http.as_ref().and_then(|h| h.mod_proxy.as_ref())) {
        let base = format!("http://{}/mod", web.address());
        command.env("GOPROXY", format!("{base}{behind}"));
        // none where GOSUMDB says off, which is then left to go
        if let Some(database) = modproxy.sumdb.first() {
            command.env("GOSUMDB", format!("{} {base}/sumdb/{}", database.verifier(), database.name));
        }
    }
    let status = wait(command, &child);
    let deadline = stack.close_deadline();
    listener.stop(Instant::now() + GRACE);
    web.iter().for_each(Web::stop);
    stack.drain(deadline);
    stack.last_words();
    stack.close();
    let status = match status {
        Ok(status) => status,
        Err((code, e)) => {
            super::say(format_args!("{PROGRAM}: {}: {e}", config.command[0].to_string_lossy()));
            return Ok(ExitCode::from(code));
        }
    };
    summary::of_run(&stack, config);
    Ok(ExitCode::from(u8::try_from(platform::exit_code(status)).unwrap_or(1)))
}

/// Passes signals on to the command while `child` names it. Before it starts and after it has ended
/// they end this process: what is not uploaded stays marked. What this process was started to ignore, as
/// `nohup` has it, the command ignores too.
fn pass_signals_on(child: Arc<Mutex<Option<u32>>>, dir: PathBuf) -> Result<(), Error> {
    signals::each(&signals::heard(PASSED_ON), move |caught| {
        // held while the command starts, so that no signal can come in between
        let child = child.lock().expect("no holder panics");
        let Some(pid) = *child else {
            let _ = fs::remove_dir_all(&dir);
            process::exit(128 + caught.signal);
        };
        // the terminal's ^C and ^\ went to the command too
        if matches!(caught.signal, SIGINT | SIGQUIT) && caught.from_terminal {
            return;
        }
        platform::pass_on(pid, caught.signal);
    })
}

/// Starts the command and waits for its end. An error comes with the code to exit with.
fn wait(mut command: Command, running: &Mutex<Option<u32>>) -> Result<process::ExitStatus, (u8, io::Error)> {
    let mut child = {
        let mut running = running.lock().expect("no holder panics");
        // as shells say that there is no such command, or that it cannot be started
        let code = |e: &io::Error| if e.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
        let child = command.spawn().map_err(|e| (code(&e), e))?;
        *running = Some(child.id());
        child
    };
    let status = child.wait();
    *running.lock().expect("no holder panics") = None;
    status.map_err(|e| (1, e))
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
    // past our end, nothing of this run's is to be had
    Ok(format!("{} connect --strict {}", quote(exe)?, quote(address)?))
}

/// `word` as one of GOCACHEPROG's.
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
