//! A client of the program over pipes, as `go` is one.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Result, s3, turns};

/// A running program in direct mode.
pub struct Client {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    last_id: u64,
    /// From before its start to its greeting.
    pub greeted: Duration,
}

impl Client {
    /// Starts the program and waits for its greeting. Nothing of the caller's environment is
    /// passed on, so HOME must not matter: give it a cache directory.
    pub fn start(flags: &[String]) -> Result<Self> {
        let mut command = Command::new(turns::program());
        command.args(flags).env_clear().envs(s3::credentials()).env("HOME", "/nonexistent");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let begin = Instant::now();
        let mut child = command.spawn()?;
        let mut stdout = BufReader::with_capacity(64 << 10, child.stdout.take().ok_or("no stdout")?);
        let mut greeting = String::new();
        stdout.read_line(&mut greeting)?;
        let greeted = begin.elapsed();
        if !greeting.contains("KnownCommands") {
            return Err(format!("the program greets with {greeting:?}").into());
        }
        let stdin = child.stdin.take().ok_or("no stdin")?;
        Ok(Client { child, stdin, stdout, last_id: 0, greeted })
    }

    /// Sends `requests` while a second thread reads as many answers; how long the answers took.
    pub fn replay(&mut self, requests: &[u8], answers: usize) -> Result<Duration> {
        let begin = Instant::now();
        let (stdin, stdout) = (&mut self.stdin, &mut self.stdout);
        std::thread::scope(|scope| {
            let sender = scope.spawn(move || stdin.write_all(requests).and_then(|()| stdin.flush()));
            let mut line = String::new();
            for _ in 0..answers {
                line.clear();
                if stdout.read_line(&mut line)? == 0 {
                    return Err("the program ended early".into());
                }
                if line.contains("\"Err\"") || line.contains("\"Miss\"") {
                    return Err(format!("the program answered {line}").into());
                }
            }
            let took = begin.elapsed();
            sender.join().map_err(|_| "the sender panicked")??;
            Ok(took)
        })
    }

    /// Asks for `actions` with `window` gets in flight; how long all took, and each.
    pub fn in_flight(&mut self, actions: &[[u8; 32]], window: usize) -> Result<(Duration, Vec<Duration>)> {
        let begin = Instant::now();
        let (stdin, stdout) = (&mut self.stdin, &mut self.stdout);
        let (answered, room) = std::sync::mpsc::channel();
        let mut took = vec![Duration::ZERO; actions.len()];
        std::thread::scope(|scope| {
            let sender = scope.spawn(move || {
                let mut sent = Vec::with_capacity(actions.len());
                for (id, action) in (1..).zip(actions) {
                    if sent.len() >= window && room.recv().is_err() {
                        break;
                    }
                    sent.push(begin.elapsed());
                    stdin.write_all(&get_request(id, action)).and_then(|()| stdin.flush())?;
                }
                std::io::Result::Ok(sent)
            });
            let mut line = String::new();
            for _ in actions {
                line.clear();
                stdout.read_line(&mut line)?;
                let answer: Value = serde_json::from_str(&line)?;
                let id = answer["ID"].as_u64().filter(|_| answer["DiskPath"].is_string());
                took[id.ok_or_else(|| format!("the program answered {line}"))? as usize - 1] = begin.elapsed();
                let _ = answered.send(());
            }
            let all = begin.elapsed();
            let sent = sender.join().map_err(|_| "the sender panicked")??;
            took.iter_mut().zip(sent).for_each(|(took, sent)| *took -= sent);
            Ok((all, took))
        })
    }

    /// Asks for an action and waits for the answer.
    pub fn get(&mut self, action: &[u8]) -> Result<Value> {
        self.last_id += 1;
        self.stdin.write_all(&get_request(self.last_id, action))?;
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Closes the session and waits for the program's exit.
    pub fn close(self) -> Result<()> {
        self.end().map(drop)
    }

    /// The same; how long it took until the program's stdout ended, which `go` waits for, and until
    /// it was gone.
    pub fn end(mut self) -> Result<[Duration; 2]> {
        let begin = Instant::now();
        self.stdin.write_all(b"{\"ID\":1000000,\"Command\":\"close\"}\n")?;
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        drop(self.stdin);
        self.stdout.read_to_string(&mut line)?;
        let ended = begin.elapsed();
        let status = self.child.wait()?;
        if status.success() {
            Ok([ended, begin.elapsed()])
        } else {
            Err(format!("the program ended with {status}").into())
        }
    }
}

/// A get, as `go` sends it.
pub fn get_request(id: u64, action: &[u8]) -> Vec<u8> {
    format!("{{\"ID\":{id},\"Command\":\"get\",\"ActionID\":\"{}\"}}\n\n", base64(action)).into_bytes()
}

/// A put, as `go` sends it.
pub fn put_request(id: u64, action: &[u8], output: &[u8], body: &[u8]) -> Vec<u8> {
    let (action, output, size) = (base64(action), base64(output), body.len());
    let mut out = format!(
        "{{\"ID\":{id},\"Command\":\"put\",\"ActionID\":\"{action}\",\"OutputID\":\"{output}\",\"BodySize\":{size}}}\n\n"
    )
    .into_bytes();
    if size > 0 {
        out.push(b'"');
        out.extend(base64(body).bytes());
        out.extend(b"\"\n");
    }
    out
}

/// Base64, padded.
pub fn base64(data: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(data)
}
