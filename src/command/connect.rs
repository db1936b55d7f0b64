//! `connect`: bridges stdin and stdout to a server.
//!
//! The greeting is read first: only a server that lists the command `scope` is told ours, so that
//! either side works with the reference program. Then bytes are copied both ways, unread.

use std::env;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use serde_json::{Value, json};

use super::scope;
use crate::config::{ConnectAddr, ConnectConfig};
use crate::error::{Error, Exit};

/// Longer than any greeting.
const MAX_GREETING: u64 = 64 * 1024;

/// Connects and copies until the server closes the connection.
pub fn execute(config: &ConnectConfig) -> Result<Exit, Error> {
    let stream = match &config.addr {
        ConnectAddr::Tcp(host, port) => TcpStream::connect((host.as_str(), *port))
            .and_then(|stream| stream.set_nodelay(true).map(|()| OwnedFd::from(stream)))
            .map_err(|e| refused(&format!("{host}:{port}"), &e))?,
        ConnectAddr::Unix(path) => {
            UnixStream::connect(path).map_err(|e| refused(&path.display().to_string(), &e))?.into()
        }
    };
    let mut writer = File::from(stream);
    let reader = writer.try_clone().map_err(|e| lost(&e))?;
    let mut reader = BufReader::new(reader);
    // unbuffered, so that an answer never waits for the next one
    let mut stdout = io::stdout().as_fd().try_clone_to_owned().map(File::from).map_err(|e| stdout_failed(&e))?;
    let mut greeting = Vec::new();
    reader.by_ref().take(MAX_GREETING).read_until(b'\n', &mut greeting).map_err(|e| lost(&e))?;
    if greeting.is_empty() {
        return Err(Error::failed("the server closed the connection without a greeting"));
    }
    if let Some(plain) = without_scope(&greeting) {
        let dir = env::current_dir().unwrap_or_default();
        let scope = scope::resolve(config.scope.as_deref(), &dir);
        let line = json!({ "ID": 0, "Command": "scope", "Scope": scope });
        writeln!(writer, "{line}").map_err(|e| lost(&e))?;
        greeting = plain;
    }
    stdout.write_all(&greeting).map_err(|e| stdout_failed(&e))?;
    // ends with stdin, or with the process when the server went first
    let upward = move || {
        let copied = copy(&mut io::stdin().lock(), &mut writer);
        if let Err(e) = copied.and_then(|()| Ok(rustix::net::shutdown(&writer, rustix::net::Shutdown::Write)?)) {
            log::debug!("to the server: {e}");
        }
    };
    thread::Builder::new()
        .name("stdin".into())
        .spawn(upward)
        .map_err(|e| Error::failed(format!("starting a thread: {e}")))?;
    match copy(&mut reader, &mut stdout) {
        Ok(()) => Ok(Exit::Success),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Success),
        Err(e) => Err(lost(&e)),
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

/// The greeting as `go` gets to see it, where the server knows the command `scope`.
fn without_scope(greeting: &[u8]) -> Option<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(greeting).ok()?;
    let commands = value.get_mut("KnownCommands")?.as_array_mut()?;
    let before = commands.len();
    commands.retain(|c| c != "scope");
    (commands.len() < before).then(|| format!("{value}\n").into_bytes())
}

fn refused(addr: &str, e: &io::Error) -> Error {
    Error::failed(format!("{addr}: {e}; is `go-cache-plugin serve` running there?"))
}

fn stdout_failed(e: &io::Error) -> Error {
    Error::failed(format!("stdout: {e}"))
}

fn lost(e: &io::Error) -> Error {
    Error::failed(format!("connection to the server: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_is_told_only_to_who_knows_it() {
        let reference = br#"{"ID":0,"KnownCommands":["get","put","close"]}"#;
        assert_eq!(without_scope(reference), None);
        assert_eq!(without_scope(b"rubbish"), None);
        let plain = without_scope(br#"{"ID":0,"KnownCommands":["get","scope","close"]}"#).unwrap();
        let plain: Value = serde_json::from_slice(&plain).unwrap();
        assert_eq!(plain, json!({ "ID": 0, "KnownCommands": ["get", "close"] }));
    }
}
