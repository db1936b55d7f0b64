//! A scripted client of the protocol: what `go` does, one step at a time.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};

use base64_simd::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::env::{PATIENCE, Running};

/// A connection to the program, in the place of `go`.
pub struct Client {
    writer: Option<Box<dyn Write + Send>>,
    half_close: Box<dyn Fn() + Send>,
    answers: Receiver<Value>,
    /// Answers that came before anyone waited for them.
    early: HashMap<i64, Value>,
    next_id: i64,
}

/// A get that was answered with an output.
#[derive(Debug)]
pub struct Hit {
    /// The output's id.
    pub output_id: Vec<u8>,
    /// Its size as told.
    pub size: u64,
    /// When it was put, RFC 3339.
    pub time: String,
    /// Where it lies.
    pub path: PathBuf,
}

impl Client {
    /// Over the stdin and stdout of a child.
    pub fn stdio(child: &mut Running) -> Self {
        let (stdin, stdout) = (child.stdin(), child.stdout());
        Client::new(stdin, stdout, Box::new(|| ()))
    }

    /// Over TCP, once somebody listens on that port of 127.0.0.1.
    pub fn tcp(port: u16) -> Self {
        let stream = super::env::poll("a listener", || TcpStream::connect(("127.0.0.1", port)).ok());
        let (reader, closer) = (stream.try_clone().expect("clone"), stream.try_clone().expect("clone"));
        Client::new(stream, reader, Box::new(move || drop(closer.shutdown(Shutdown::Write))))
    }

    /// Over a Unix socket, once somebody listens there.
    pub fn unix(path: &Path) -> Self {
        let stream = super::env::poll("a listener", || UnixStream::connect(path).ok());
        let (reader, closer) = (stream.try_clone().expect("clone"), stream.try_clone().expect("clone"));
        Client::new(stream, reader, Box::new(move || drop(closer.shutdown(Shutdown::Write))))
    }

    fn new(
        writer: impl Write + Send + 'static,
        reader: impl Read + Send + 'static,
        half_close: Box<dyn Fn() + Send>,
    ) -> Self {
        let (send, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines() {
                let Ok(line) = line else { return };
                let value = serde_json::from_str(&line)
                    .unwrap_or_else(|e| json!({ "ID": -1, "Garbage": line, "Why": e.to_string() }));
                if send.send(value).is_err() {
                    return;
                }
            }
        });
        Client { writer: Some(Box::new(writer)), half_close, answers, early: HashMap::new(), next_id: 1 }
    }

    /// Waits for the greeting and gives the commands it lists.
    pub fn greeting(&mut self) -> Vec<String> {
        let value = self.wait(0);
        let known = value["KnownCommands"].as_array().unwrap_or_else(|| panic!("no greeting: {value}"));
        known.iter().map(|v| v.as_str().expect("a command is a string").to_string()).collect()
    }

    /// Writes bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        let writer = self.writer.as_mut().expect("not at the end yet");
        writer.write_all(bytes).and_then(|()| writer.flush()).unwrap_or_else(|e| panic!("the program hung up: {e}"));
    }

    /// An id that was not used before.
    pub fn id(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Sends a get; its id.
    pub fn send_get(&mut self, action: &[u8]) -> i64 {
        let id = self.id();
        self.raw(&get_request(id, action));
        id
    }

    /// Sends a put under the true output id of `body`; its id.
    pub fn send_put(&mut self, action: &[u8], body: &[u8]) -> i64 {
        self.send_put_as(action, &Sha256::digest(body), body)
    }

    /// Sends a put with any output id; its id.
    pub fn send_put_as(&mut self, action: &[u8], output: &[u8], body: &[u8]) -> i64 {
        let id = self.id();
        self.raw(&put_request(id, action, output, body));
        id
    }

    /// Sends close; its id.
    pub fn send_close(&mut self) -> i64 {
        let id = self.id();
        self.raw(format!("{}\n", json!({ "ID": id, "Command": "close" })).as_bytes());
        id
    }

    /// Waits for the answer to `id`.
    pub fn wait(&mut self, id: i64) -> Value {
        loop {
            if let Some(value) = self.early.remove(&id) {
                return value;
            }
            match self.answers.recv_timeout(PATIENCE) {
                Ok(value) => {
                    let id = value["ID"].as_i64().unwrap_or_else(|| panic!("an answer without an id: {value}"));
                    assert!(id >= 0, "not an answer: {value}");
                    let twice = self.early.insert(id, value);
                    assert!(twice.is_none(), "answered twice: {twice:?}");
                }
                Err(RecvTimeoutError::Timeout) => panic!("no answer to {id} in {PATIENCE:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the program ended without an answer to {id}"),
            }
        }
    }

    /// A get and its answer.
    pub fn get(&mut self, action: &[u8]) -> Option<Hit> {
        let id = self.send_get(action);
        let value = self.wait(id);
        assert_eq!(value.get("Err"), None, "{value}");
        if value["Miss"] == json!(true) {
            return None;
        }
        let text = |name: &str| value[name].as_str().unwrap_or_else(|| panic!("{name} in {value}")).to_string();
        Some(Hit {
            output_id: STANDARD.decode_to_vec(text("OutputID")).expect("base64"),
            size: value["Size"].as_u64().unwrap_or(0),
            time: text("Time"),
            path: text("DiskPath").into(),
        })
    }

    /// A put and its answer: where the output lies.
    pub fn put(&mut self, action: &[u8], body: &[u8]) -> PathBuf {
        let id = self.send_put(action, body);
        let value = self.wait(id);
        value["DiskPath"].as_str().unwrap_or_else(|| panic!("put: {value}")).into()
    }

    /// close and its answer.
    pub fn close(&mut self) {
        let id = self.send_close();
        let value = self.wait(id);
        assert_eq!(value.get("Err"), None, "{value}");
    }

    /// Ends our side, as `go` does when it exits.
    pub fn eof(&mut self) {
        self.writer = None;
        (self.half_close)();
    }

    /// Waits until the program ended its side, and gives the answers that were left.
    pub fn rest(mut self) -> Vec<Value> {
        self.eof();
        let mut left: Vec<Value> = self.early.drain().map(|(_, value)| value).collect();
        loop {
            match self.answers.recv_timeout(PATIENCE) {
                Ok(value) => left.push(value),
                Err(RecvTimeoutError::Disconnected) => return left,
                Err(RecvTimeoutError::Timeout) => panic!("the program did not end its side in {PATIENCE:?}"),
            }
        }
    }
}

/// A get as `go` sends it.
pub fn get_request(id: i64, action: &[u8]) -> Vec<u8> {
    let line = json!({ "ID": id, "Command": "get", "ActionID": STANDARD.encode_to_string(action) });
    format!("{line}\n").into_bytes()
}

/// A put as `go` sends it.
pub fn put_request(id: i64, action: &[u8], output: &[u8], body: &[u8]) -> Vec<u8> {
    let encode = |bytes: &[u8]| STANDARD.encode_to_string(bytes);
    let line = json!({
        "ID": id, "Command": "put", "ActionID": encode(action), "OutputID": encode(output), "BodySize": body.len(),
    });
    let mut bytes = format!("{line}\n").into_bytes();
    if !body.is_empty() {
        bytes.extend_from_slice(format!("\"{}\"\n", encode(body)).as_bytes());
    }
    bytes
}
