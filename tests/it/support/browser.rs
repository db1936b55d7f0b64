//! A real headless Chromium, driven over its DevTools protocol by a minimal WebSocket client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::env::{PATIENCE, Running, TempDir, poll};

/// Whether the environment says explicitly that there is no browser.
pub fn excused() -> bool {
    std::env::var_os("GOCACHE_TEST_NO_BROWSER").is_some_and(|v| v == "1")
}

/// A browser with one page.
pub struct Browser {
    _child: Running,
    socket: BufReader<TcpStream>,
    next: u64,
    /// What the page complained about.
    pub complaints: Vec<String>,
    _profile: TempDir,
}

impl Browser {
    /// Starts the browser; panics with what to install when there is none.
    pub fn start() -> Self {
        let profile = TempDir::new();
        let mut command = Command::new("chromium");
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        command.args(["--no-proxy-server", "--hide-scrollbars", "--remote-debugging-port=0", "about:blank"]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        let there = Command::new("chromium").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(
            there.is_ok(),
            "this test needs a browser: apt-get install chromium (or say GOCACHE_TEST_NO_BROWSER=1)"
        );
        let child = Running::start(command, Stdio::null());
        let port_file = profile.join("DevToolsActivePort");
        let port: u16 = poll("the browser", || std::fs::read_to_string(&port_file).ok()?.lines().next()?.parse().ok());
        let path = poll("the browser's page", || {
            let pages: Value = serde_json::from_str(&http_get(port, "/json/list")?).ok()?;
            let page = pages.as_array()?.iter().find(|p| p["type"] == "page")?;
            Some(page["webSocketDebuggerUrl"].as_str()?.splitn(4, '/').nth(3)?.to_string())
        });
        let socket = handshake(port, &path);
        let mut browser = Browser { _child: child, socket, next: 0, complaints: Vec::new(), _profile: profile };
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Shows `url` in a window of that width.
    pub fn open(&mut self, url: &str, width: u32) {
        let screen = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", screen);
        self.call("Page.navigate", json!({"url": url}));
        let deadline = Instant::now() + PATIENCE;
        while self.eval("document.readyState") != json!("complete") || self.eval("location.href") != json!(url) {
            assert!(Instant::now() < deadline, "the page does not load");
        }
    }

    /// Says which colours its user likes.
    pub fn dark(&mut self, on: bool) {
        let scheme = if on { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Lets pages run scripts, or not, from the next one on.
    pub fn scripts(&mut self, on: bool) {
        self.call("Emulation.setScriptExecutionDisabled", json!({"value": !on}));
    }

    /// The value of an expression on the page.
    pub fn eval(&mut self, expression: &str) -> Value {
        let answer = self.call("Runtime.evaluate", json!({"expression": expression, "returnByValue": true}));
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true on the page.
    pub fn wait(&mut self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.eval(expression) != json!(true) {
            assert!(Instant::now() < deadline, "never true: {expression}");
        }
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = self.next;
        self.send(&json!({"id": id, "method": method, "params": params}).to_string());
        loop {
            let message: Value = serde_json::from_str(&self.receive()).expect("DevTools speaks JSON");
            match message["method"].as_str() {
                None if message["id"] == id => {
                    assert!(message["error"].is_null(), "{method}: {message}");
                    return message["result"].clone();
                }
                Some("Runtime.exceptionThrown") => self.complaints.push(message.to_string()),
                Some("Log.entryAdded") => self.complaints.push(message.to_string()),
                Some("Runtime.consoleAPICalled") => self.complaints.push(message.to_string()),
                _ => {}
            }
        }
    }

    fn send(&mut self, text: &str) {
        let mut frame = vec![0x81];
        match text.len() {
            n @ 0..126 => frame.push(0x80 | n as u8),
            n => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&u16::try_from(n).expect("commands are short").to_be_bytes());
            }
        }
        frame.extend_from_slice(&[0; 4]); // a mask that changes nothing
        frame.extend_from_slice(text.as_bytes());
        self.socket.get_mut().write_all(&frame).expect("the browser listens");
    }

    /// The next text message; its frames put together.
    fn receive(&mut self) -> String {
        let mut message = Vec::new();
        loop {
            let mut head = [0; 2];
            self.socket.read_exact(&mut head).expect("the browser answers");
            let mut len = u64::from(head[1] & 0x7f);
            if len >= 126 {
                let mut wide = [0; 8];
                let from = if len == 126 { 6 } else { 0 };
                self.socket.read_exact(&mut wide[from..]).expect("the browser answers");
                len = u64::from_be_bytes(wide);
            }
            let mut body = vec![0; len as usize];
            self.socket.read_exact(&mut body).expect("the browser answers");
            if head[0] & 0x0f <= 2 {
                message.extend_from_slice(&body);
                if head[0] & 0x80 != 0 {
                    return String::from_utf8(message).expect("DevTools speaks UTF-8");
                }
            }
        }
    }
}

fn http_get(port: u16, path: &str) -> Option<String> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n").ok()?;
    let mut reader = BufReader::new(socket);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().ok()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    String::from_utf8(body).ok()
}

fn handshake(port: u16, path: &str) -> BufReader<TcpStream> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("the browser listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
    write!(
        socket,
        "GET /{path} HTTP/1.1\r\nHost: localhost:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    .expect("the browser listens");
    let mut reader = BufReader::new(socket);
    let mut status = String::new();
    reader.read_line(&mut status).expect("the browser answers");
    assert!(status.contains(" 101 "), "{status}");
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("the browser answers");
        if line.trim().is_empty() {
            return reader;
        }
    }
}
