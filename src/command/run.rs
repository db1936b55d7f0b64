//! `run`: the cache in this process for one command and its children.
//!
//! They reach it through `connect` on a Unix socket in a directory of mode 0700, so that several
//! `go` processes share it. The command's exit code is ours; one line sums the run up.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::SIGINT;

use super::listen::Listener;
use super::stack::Stack;
use super::web::Web;
use super::{scope, signals, summary};
use crate::config::{PluginAddr, RunConfig};
use crate::error::{Error, Exit};

/// How long sessions may outlive the command: its children that go on in the background are not
/// waited for.
const GRACE: Duration = Duration::from_secs(2);

/// In place of a process id once the command has ended.
const ENDED: i32 = -1;

/// Runs the command.
pub fn execute(config: &RunConfig) -> Result<Exit, Error> {
    let start = Instant::now();
    let stack = Arc::new(Stack::open(&config.cache)?);
    let dir = PrivateDir::new()?;
    let socket = PluginAddr::Unix(dir.0.join("plugin"));
    // every client of this run is of one scope, wherever its working directory is
    let here = env::current_dir().unwrap_or_default();
    let scope = scope::resolve(config.cache.scope.as_deref(), &here);
    stack.cache.disk().recall(&scope);
    let listener = Arc::new(Listener::start(&socket, &stack, Some(scope))?);
    let sessions = listener.clone();
    let web = config.http.as_ref().map(|http| Web::start(http, &stack, move || sessions.sessions())).transpose()?;
    stack.adopt();
    let mut command = Command::new(&config.command[0]);
    command.args(&config.command[1..]);
    command.env("GOCACHEPROG", plugin_command(&listener.address())?);
    if let (Some(web), Some(modproxy)) = (&web, config.http.as_ref().and_then(|h| h.mod_proxy.as_ref())) {
        let base = format!("http://{}/mod", web.address());
        command.env("GOPROXY", &base);
        if let Some(name) = modproxy.sumdb.first().and_then(|entry| entry.split('=').next()) {
            command.env("GOSUMDB", format!("{name} {base}/sumdb/{name}"));
        }
    }
    let status = wait(command, &config.command[0]);
    listener.stop(Instant::now() + GRACE);
    web.iter().for_each(Web::stop);
    stack.drain(stack.close_deadline());
    stack.last_words();
    stack.close();
    let status = status?;
    eprintln!("{}", summary::line(&stack, start.elapsed()));
    let code = status.code().or(status.signal().map(|s| 128 + s)).unwrap_or(1);
    Ok(Exit::Child(u8::try_from(code).unwrap_or(1)))
}

/// Starts the command, passes signals on to it, and waits for its end.
fn wait(mut command: Command, name: &OsString) -> Result<process::ExitStatus, Error> {
    // 0: not started yet; the handlers come first, so that no signal can end us in between
    let pid = Arc::new(AtomicI32::new(0));
    let target = pid.clone();
    signals::each(move |caught| {
        let pid = target.load(Ordering::SeqCst);
        if pid == ENDED {
            // the command is done, and only uploads hold us up: they stay marked
            process::exit(128 + caught.signal);
        }
        // the terminal's ^C went to the command too
        if caught.signal == SIGINT && caught.from_terminal {
            return;
        }
        let pid = Pid::from_raw(pid);
        if let (Some(pid), Some(signal)) = (pid, Signal::from_named_raw(caught.signal)) {
            // it may have ended just now
            let _ = kill_process(pid, signal);
        }
    })?;
    let mut child: Child = command.spawn().map_err(|e| Error::failed(format!("{}: {e}", name.to_string_lossy())))?;
    pid.store(i32::try_from(child.id()).unwrap_or(0), Ordering::SeqCst);
    let status = child.wait().map_err(|e| Error::failed(format!("waiting for {}: {e}", name.to_string_lossy())))?;
    pid.store(ENDED, Ordering::SeqCst);
    Ok(status)
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

/// A directory for the socket that nobody else may enter, removed in the end.
struct PrivateDir(PathBuf);

impl PrivateDir {
    fn new() -> Result<Self, Error> {
        let base = env::temp_dir();
        for n in 0..1000 {
            let path = base.join(format!("go-cache-plugin-{}-{n}", process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(PrivateDir(path)),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(Self::failed(&path, &e)),
            }
        }
        Err(Self::failed(&base, &std::io::ErrorKind::AlreadyExists.into()))
    }

    fn failed(path: &Path, e: &std::io::Error) -> Error {
        Error::failed(format!("{}: {e}; set TMPDIR to a directory that can be written", path.display()))
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
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
