//! A TCP proxy that misbehaves: it stands before a server and, on demand, delays, falls silent,
//! resets, truncates, drips, or answers errors of its own.
//!
//! It understands just enough HTTP/1.1 to find where a request ends (head, then Content-Length).
//! A fault applies to requests that begin after it was set; connections stay open across faults
//! where the fault allows it, so that keep-alive clients are met on connections they believe in.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use super::script::Dice;

/// What happens to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// It is passed on.
    None,
    /// It is passed on after a wait.
    Delay(Duration),
    /// It is read and never answered.
    BlackHole,
    /// The connection is reset before an answer.
    Reset,
    /// The answer's head and this many bytes of its body are passed on, then the connection is
    /// reset.
    ResetAfter(usize),
    /// The answer's head and this many bytes of its body are passed on, then the connection is
    /// closed in good order.
    Truncate(usize),
    /// It is answered with this status, and not passed on.
    Status(u16),
    /// The body is passed on at this many bytes every 100 ms.
    Drip(usize),
    /// It is passed on, and the bytes of the answer's body are others.
    Garble,
    /// It is answered with this status and an HTML page, and not passed on.
    Page(u16),
    /// It is answered 403 with this code of S3's, and not passed on.
    Refuse(&'static str),
    /// It is passed on, but what is absent is refused, as AWS does to those who may not list.
    HideAbsent,
    /// It is passed on without the conditions that it is under, as if the server did not know them.
    Unconditional,
    /// It is passed on, and the answer's entity tag is made a weak one, as by who compresses on the way.
    Weaken,
    /// It is passed on, but what is put without its checksum is refused, as by a bucket that locks its objects.
    Locks,
    /// It is passed on without what it says of a range, as to a server that knows none.
    NoRanges,
    /// It is passed on, but asks for a range that begins with the object.
    OtherRange,
}

/// The proxy; it ends when dropped.
pub struct FaultProxy {
    /// `http://127.0.0.1:port`.
    pub endpoint: String,
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    upstream: Mutex<String>,
    /// The faults, each with how many more requests it applies to.
    faults: Mutex<VecDeque<(Fault, usize)>>,
    /// Faults meet requests alone that say this: a method, a header; empty for all.
    only: Mutex<&'static str>,
    /// Which requests fail by chance, of those that meet no fault.
    chance: Mutex<Option<(Dice, u64)>>,
    ending: AtomicBool,
    connections: AtomicU64,
    requests: AtomicU64,
    /// To end the connections by; weak, or a reset would wait for us to close them.
    open: Mutex<Vec<Weak<TcpStream>>>,
}

impl FaultProxy {
    /// Starts a proxy to `upstream`, `http://host:port`.
    pub fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for the proxy");
        let addr = listener.local_addr().expect("the port bound");
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream.trim_start_matches("http://").trim_end_matches('/').to_string()),
            faults: Mutex::default(),
            only: Mutex::default(),
            chance: Mutex::default(),
            ending: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            open: Mutex::default(),
        });
        let for_thread = shared.clone();
        let acceptor = std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if for_thread.ending.load(Ordering::SeqCst) {
                    break;
                }
                for_thread.connections.fetch_add(1, Ordering::SeqCst);
                let _ = client.set_nodelay(true);
                let client = Arc::new(client);
                for_thread.open.lock().unwrap().push(Arc::downgrade(&client));
                let shared = for_thread.clone();
                // an error here is the client's or the server's going away
                std::thread::spawn(move || serve(&client, &shared));
            }
        });
        FaultProxy { endpoint: format!("http://{addr}"), addr, shared, acceptor: Some(acceptor) }
    }

    /// Every request from now on meets `fault`.
    pub fn set(&self, fault: Fault) {
        self.set_for(fault, usize::MAX);
    }

    /// The next `count` requests meet `fault`, later ones none.
    pub fn set_for(&self, fault: Fault, count: usize) {
        self.series([(fault, count)]);
    }

    /// The next requests meet these faults, each for so many of them, later ones none.
    pub fn series(&self, faults: impl IntoIterator<Item = (Fault, usize)>) {
        *self.shared.faults.lock().unwrap() = faults.into_iter().collect();
    }

    /// From now on requests meet no fault whose head, of a method and lines of lower case, does not say this.
    pub fn only(&self, what: &'static str) {
        *self.shared.only.lock().unwrap() = what;
    }

    /// From now on one request in `n` fails, by dice that begin at `seed`: it is answered with 500,
    /// or its connection is reset before the server saw it, or in the answer's body. 0: none fails.
    pub fn fail_one_in(&self, n: u64, seed: u64) {
        *self.shared.chance.lock().unwrap() = (n > 0).then(|| (Dice::new(seed), n));
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Whether every request is over, those of clients that have died in the middle included.
    pub fn is_idle(&self) -> bool {
        self.shared.open.lock().unwrap().iter().all(|open| open.strong_count() == 0)
    }

    /// Requests received so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        for open in self.shared.open.lock().unwrap().drain(..).filter_map(|o| o.upgrade()) {
            let _ = open.shutdown(Shutdown::Both);
        }
        // wakes the acceptor
        let _ = TcpStream::connect(self.addr);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn next_fault(&self, head: &[u8]) -> Fault {
        if !String::from_utf8_lossy(head).contains(*self.only.lock().unwrap()) {
            return Fault::None;
        }
        let mut faults = self.faults.lock().unwrap();
        while faults.front().is_some_and(|(_, left)| *left == 0) {
            faults.pop_front();
        }
        let Some((fault, left)) = faults.front_mut() else {
            let mut chance = self.chance.lock().unwrap();
            let Some((dice, n)) = &mut *chance else { return Fault::None };
            let of = [Fault::Status(500), Fault::Reset, Fault::ResetAfter(0)];
            return if dice.below(*n) == 0 { of[dice.below(3) as usize].clone() } else { Fault::None };
        };
        *left -= usize::from(*left != usize::MAX);
        fault.clone()
    }
}

/// One client connection: request after request, each on an upstream connection of its own or the
/// one kept from before.
fn serve(mut client: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut server: Option<TcpStream> = None;
    loop {
        let Some(head) = read_head(client)? else { return Ok(()) };
        shared.requests.fetch_add(1, Ordering::SeqCst);
        let fault = shared.next_fault(&head);
        let body_len = content_length(&head).unwrap_or(0);
        match fault {
            Fault::Reset => return reset(client),
            Fault::BlackHole => {
                // until the client gives up
                io::copy(&mut client, &mut io::sink())?;
                return Ok(());
            }
            Fault::Status(code) => {
                io::copy(&mut client.take(body_len), &mut io::sink())?;
                let answer = format!("HTTP/1.1 {code} Fault\r\nContent-Length: 5\r\n\r\nfault");
                client.write_all(answer.as_bytes())?;
                continue;
            }
            Fault::Page(code) => {
                io::copy(&mut client.take(body_len), &mut io::sink())?;
                let page = "<!DOCTYPE html><html><title>Sign in</title></html>";
                let kind = format!("Content-Type: text/html; charset=utf-8\r\nContent-Length: {}", page.len());
                client.write_all(format!("HTTP/1.1 {code} Fault\r\n{kind}\r\n\r\n{page}").as_bytes())?;
                continue;
            }
            Fault::Refuse(s3_code) => {
                io::copy(&mut client.take(body_len), &mut io::sink())?;
                client.write_all(refusal(s3_code).as_bytes())?;
                continue;
            }
            Fault::Locks if head.starts_with(b"PUT ") && !head.windows(22).any(|w| w == b"x-amz-checksum-sha256:") => {
                io::copy(&mut client.take(body_len), &mut io::sink())?;
                let why =
                    "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock";
                client.write_all(error("400 Bad Request", "InvalidRequest", why).as_bytes())?;
                continue;
            }
            Fault::Delay(time) => std::thread::sleep(time),
            _ => {}
        }
        let mut upstream = match server.take() {
            Some(s) => s,
            None => {
                let s = TcpStream::connect(&*shared.upstream.lock().unwrap())?;
                s.set_nodelay(true)?;
                s
            }
        };
        let mut head = head;
        let lost = match fault {
            Fault::Unconditional => "if-",
            Fault::NoRanges => "range:",
            _ => "\0",
        };
        let text = String::from_utf8_lossy(&head).into_owned();
        let kept = text.split_inclusive('\n').filter(|line| !line.to_ascii_lowercase().starts_with(lost));
        let mut kept: String = kept.collect();
        if fault == Fault::OtherRange {
            let line = kept.lines().find(|line| line.starts_with("range:")).unwrap_or_default().to_string();
            let other = match line.trim_start_matches("range: bytes=").split_once('-') {
                Some((from, to)) => {
                    format!("range: bytes=0-{}", to.parse::<u64>().unwrap() - from.parse::<u64>().unwrap())
                }
                None => line.clone(),
            };
            kept = kept.replace(&line, &other);
        }
        head = kept.into_bytes();
        upstream.write_all(&head)?;
        io::copy(&mut client.take(body_len), &mut upstream)?;
        let Some(mut answer) = read_head(&upstream)? else { return Ok(()) };
        if fault == Fault::Weaken {
            answer = String::from_utf8_lossy(&answer).replace("etag: \"", "etag: W/\"").into_bytes();
        }
        if fault == Fault::HideAbsent && answer.starts_with(b"HTTP/1.1 404") && !head.starts_with(b"HEAD ") {
            client.write_all(refusal("AccessDenied").as_bytes())?;
            continue; // with a new connection upstream: this one's body is not read
        }
        client.write_all(&answer)?;
        let is_head = head.starts_with(b"HEAD ");
        let len = if is_head { Some(0) } else { content_length(&answer) };
        let chunked = answer.to_ascii_lowercase().windows(26).any(|w| w == b"transfer-encoding: chunked");
        match (&fault, len) {
            (Fault::ResetAfter(n), Some(len)) => {
                io::copy(&mut (&upstream).take(len.min(*n as u64)), &mut client)?;
                return reset(client);
            }
            (Fault::Truncate(n), Some(len)) => {
                io::copy(&mut (&upstream).take(len.min(*n as u64)), &mut client)?;
                return Ok(());
            }
            (Fault::Garble, Some(len)) => {
                io::copy(&mut (&upstream).take(len), &mut io::sink())?;
                io::copy(&mut io::repeat(b'x').take(len), &mut client)?;
            }
            (Fault::Drip(n), Some(len)) => {
                let mut left = len;
                while left > 0 {
                    let sent = io::copy(&mut (&upstream).take(left.min(*n as u64)), &mut client)?;
                    if sent == 0 {
                        return Ok(());
                    }
                    left -= sent;
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            (_, Some(len)) => {
                io::copy(&mut (&upstream).take(len), &mut client)?;
            }
            (_, None) if chunked => copy_chunks(&upstream, client)?,
            // no body (204, 304), or one to the end of the connection, which S3 servers do not send
            (_, None) => {}
        }
        server = Some(upstream);
    }
}

/// A 403 as S3 words it.
fn refusal(code: &str) -> String {
    error("403 Forbidden", code, "no")
}

/// An answer of S3's that carries no object.
fn error(status: &str, code: &str, why: &str) -> String {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{why}</Message></Error>");
    let kind = format!("Content-Type: application/xml\r\nContent-Length: {}", body.len());
    format!("HTTP/1.1 {status}\r\n{kind}\r\n\r\n{body}")
}

/// Closes with a reset rather than in good order.
fn reset(client: &TcpStream) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_linger(client, Some(Duration::ZERO))?)
}

/// The bytes up to and with the blank line; `None` at the end of the connection.
fn read_head(mut from: &TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if from.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    Ok(Some(head))
}

fn content_length(head: &[u8]) -> Option<u64> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok())
}

fn copy_chunks(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    loop {
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\r\n") {
            from.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        to.write_all(&line)?;
        let size = u64::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).map_err(io::Error::other)?;
        io::copy(&mut from.take(size + 2), &mut to)?;
        if size == 0 {
            return Ok(());
        }
    }
}
