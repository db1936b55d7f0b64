//! A server behind the reverse proxy: plain or TLS, one answer a connection, written by the test.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// From a request (head and body, as they came) to the bytes of the answer.
type Answer = dyn Fn(&str) -> Vec<u8> + Send + Sync;

/// The server; ends with the value.
pub struct Origin {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Origin {
    /// A plain server.
    pub fn http(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::start(None, Arc::new(answer))
    }

    /// A TLS server for 127.0.0.1 and localhost, and the file with the certificate to trust.
    pub fn https(dir: &Path, answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> (Self, PathBuf) {
        let (config, pem) = self_signed(&["localhost", "127.0.0.1"]);
        let path = dir.join("origin.pem");
        std::fs::write(&path, pem).expect("a certificate file");
        (Self::start(Some(config), Arc::new(answer)), path)
    }

    fn start(tls: Option<Arc<ServerConfig>>, answer: Arc<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (log, stopped) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                // what is sent is on its way when we close, whatever is left unread
                let _ = socket.set_nodelay(true);
                let (tls, answer, log) = (tls.clone(), answer.clone(), log.clone());
                std::thread::spawn(move || match tls {
                    None => serve(socket, &*answer, &log),
                    Some(config) => {
                        let connection = ServerConnection::new(config).expect("the configuration is complete");
                        serve(StreamOwned::new(connection, socket), &*answer, &log);
                    }
                });
            }
        });
        Origin { addr, seen, stop, thread: Some(thread) }
    }

    /// `127.0.0.1:port`.
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// The requests so far, head and body.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("no holder panics").clone()
    }

    /// How many requests for `path` came.
    pub fn count(&self, path: &str) -> usize {
        self.seen().iter().filter(|r| r.split(' ').nth(1) == Some(path)).count()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: impl Read + Write, answer: &Answer, log: &Mutex<Vec<String>>) {
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok());
            let chunked = head.contains("transfer-encoding: chunked");
            let whole = body.len() >= length.unwrap_or(0) && (!chunked || body.ends_with("0\r\n\r\n"));
            // it may be asked to answer at once, and to read no further
            if whole || head.contains("\r\nx-early:") {
                log.lock().expect("no holder panics").push(text.clone());
                let _ = stream.write_all(&answer(&text));
                let _ = stream.flush();
                return;
            }
        }
        match stream.read(&mut piece) {
            Ok(n @ 1..) => request.extend_from_slice(&piece[..n]),
            _ => return,
        }
    }
}

/// An answer with these header lines and this body, its length told.
pub fn answer(headers: &str, body: &str) -> Vec<u8> {
    let lines: String = headers.lines().map(|l| format!("{}\r\n", l.trim())).collect();
    format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).into_bytes()
}

/// What a TLS server called `names` needs, and its certificate in PEM form, to be trusted.
pub fn self_signed(names: &[&str]) -> (Arc<ServerConfig>, String) {
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .expect("key and certificate belong together");
    (Arc::new(config), made.cert.pem())
}
