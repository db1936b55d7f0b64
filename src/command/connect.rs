//! `connect`: bridges stdin and stdout to a server.
//!
//! The greeting is read first: only a server that lists the command `scope` is told ours, so that
//! either side works with the reference program. Then bytes are copied both ways, unread.
//!
//! Where no server greets, nothing was said to `go` yet: the build goes on in direct mode.

use std::env;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{direct, scope, signals};
use crate::cli::PROGRAM;
use crate::config::{ConnectAddr, ConnectConfig};
use crate::error::{Error, ExitCode};
use crate::platform::{self, SIGINT, SIGQUIT};

/// How long a server may take to let us in, and then to greet.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than any greeting.
const MAX_GREETING: u64 = 64 * 1024;

/// Connects and copies until the server closes the connection.
pub fn execute(config: &ConnectConfig) -> Result<ExitCode, Error> {
    let shown = address(&config.addr);
    let lost = |e: &io::Error| Error::failed(format!("connection to the server at {shown}: {e}"));
    let (mut reader, mut writer, mut greeting) = match (greeted(&config.addr), &config.fallback) {
        (Ok(greeted), _) => greeted,
        (Err(e), None) => {
            return Err(Error::failed(format!("{shown}: {e}; is `go-cache-plugin serve` running there?")));
        }
        (Err(e), Some(fallback)) => {
            super::say(format_args!("{PROGRAM}: {shown}: {e}; building with the local cache, as without `serve`"));
            let config = fallback.as_ref().map_err(Error::clone)?;
            super::begin(config);
            return direct::execute(config);
        }
    };
    // ^C and ^\ are for go, as in direct mode
    if !io::stdin().is_terminal() {
        let _ = signals::each(&signals::heard(&[SIGINT, SIGQUIT]), drop);
    }
    // unbuffered, so that an answer never waits for the next one
    let mut stdout = platform::stdout().map_err(|e| stdout_failed(&e))?;
    if hide_scope(&mut greeting) {
        let dir = env::current_dir().unwrap_or_default();
        let scope = scope::resolve(config.scope.as_deref(), &dir);
        let line = json!({ "ID": 0, "Command": "scope", "Scope": scope });
        writeln!(writer, "{line}").map_err(|e| lost(&e))?;
    }
    stdout.write_all(format!("{greeting}\n").as_bytes()).map_err(|e| stdout_failed(&e))?;
    // ends with stdin, or with the process when the server went first
    let upward = move || {
        let copied = copy(&mut io::stdin().lock(), &mut writer);
        if let Err(e) = copied.and_then(|()| writer.shutdown(Shutdown::Write)) {
            log::debug!("to the server: {e}");
        }
    };
    thread::Builder::new()
        .name("stdin".into())
        .spawn(upward)
        .map_err(|e| Error::failed(format!("starting a thread: {e}")))?;
    match copy(&mut reader, &mut stdout) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(e) => Err(lost(&e)),
    }
}

/// A server's connection, and its greeting.
fn greeted(addr: &ConnectAddr) -> io::Result<(BufReader<TcpStream>, TcpStream, Value)> {
    let writer = match addr {
        ConnectAddr::Tcp(host, port) => {
            let mut last = io::Error::other("the name has no address");
            let mut connect = |addr| TcpStream::connect_timeout(&addr, PATIENCE).map_err(|e| last = e).ok();
            let stream = (host.as_str(), *port).to_socket_addrs()?.find_map(&mut connect).ok_or(last)?;
            stream.set_nodelay(true)?;
            stream
        }
        ConnectAddr::Unix(path) => platform::connect(path)?,
    };
    let mut reader = BufReader::new(writer.try_clone()?);
    let mut greeting = Vec::new();
    // what listens there may be no server of ours, and wait for us to speak
    writer.set_read_timeout(Some(PATIENCE))?;
    reader.by_ref().take(MAX_GREETING).read_until(b'\n', &mut greeting).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => io::Error::other(format!("no greeting within {} s", PATIENCE.as_secs())),
        _ => e,
    })?;
    writer.set_read_timeout(None)?;
    if greeting.is_empty() {
        return Err(io::Error::other("the connection was closed without a greeting"));
    }
    let greeting: Value = serde_json::from_slice(&greeting).unwrap_or_default();
    // what else listens there may greet, too, and `go` would take that for answers
    let ours = greeting["KnownCommands"].as_array().is_some_and(|commands| !commands.is_empty());
    ours.then_some((reader, writer, greeting)).ok_or_else(|| io::Error::other("what answers there is no server for go"))
}

/// Where the server is, as people write it.
fn address(addr: &ConnectAddr) -> String {
    match addr {
        ConnectAddr::Tcp(host, port) if host.contains(':') => format!("[{host}]:{port}"),
        ConnectAddr::Tcp(host, port) => format!("{host}:{port}"),
        ConnectAddr::Unix(path) => path.display().to_string(),
    }
}

/// Copies to the end, passing on at once whatever has come. (`io::copy` would splice, and hold
/// answers back.)
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buf = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(&buf[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Takes the command `scope` out of the greeting, which `go` gets to see without; tells whether the server knows it.
fn hide_scope(greeting: &mut Value) -> bool {
    let Some(commands) = greeting["KnownCommands"].as_array_mut() else { return false };
    let before = commands.len();
    commands.retain(|c| c != "scope");
    commands.len() < before
}

fn stdout_failed(e: &io::Error) -> Error {
    Error::failed(format!("stdout: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_is_told_only_to_who_knows_it() {
        let plain = json!({ "ID": 0, "KnownCommands": ["get", "close"] });
        let mut greeting = plain.clone();
        assert!(!hide_scope(&mut greeting) && greeting == plain);
        greeting = json!({ "ID": 0, "KnownCommands": ["get", "scope", "close"] });
        assert!(hide_scope(&mut greeting) && greeting == plain);
    }
}
