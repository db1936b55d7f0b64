//! Carries requests over kept connections.
//!
//! Invariants: no read or write blocks for longer than the time-out; a body that comes, or goes,
//! at less than [`FLOOR`] bytes in [`FLOOR_WINDOW`] fails with `TimedOut`; a body read to its
//! length returns its connection to the pool, without a further read by the caller.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, Request};
use ureq::{Proxy, SendBody};
use url::Url;

use crate::client::{self, Client, Received};
use crate::metrics::Metrics;
use crate::text::bytes;

/// Bytes that must move within each [`FLOOR_WINDOW`] of waiting for a body.
const FLOOR: u64 = 32 * 1024;
/// See [`FLOOR`].
const FLOOR_WINDOW: Duration = Duration::from_secs(10);
/// Idle connections kept, for so long.
const KEEP: (Duration, usize) = (Duration::from_secs(60), 64);

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// To resolve the host's name; then to connect, TLS included.
    pub connect: Duration,
    /// To the first byte of the answer, and between two bytes of anything.
    pub answer: Duration,
}

impl Limits {
    /// For requests that a build waits for.
    pub const BUCKET: Limits = Limits { connect: Duration::from_secs(3), answer: Duration::from_secs(10) };
    /// For services that give credentials, which a build may wait for once.
    pub const SERVICE: Limits = Limits { connect: Duration::from_secs(2), answer: Duration::from_secs(3) };
    /// For sources of credentials on this machine or its network, which may well not be there.
    pub const LOCAL: Limits = Limits { connect: Duration::from_secs(1), answer: Duration::from_secs(2) };
    /// For the instance metadata service, which answers in milliseconds or is not there.
    pub const METADATA: Limits = Limits { connect: Duration::from_secs(1), answer: Duration::from_secs(1) };
}

/// Sends requests.
pub struct Transport {
    limits: Limits,
    client: Client,
}

/// A request's body: its length, and a reader of that many bytes.
pub type RequestBody = (u64, Box<dyn Read + Send>);

impl Transport {
    /// A transport, through the `proxy` where there is one, that trusts the certificates in the PEM file `ca_file`
    /// instead of the machine's; `metrics` counts the connections it opens.
    pub fn new(limits: Limits, proxy: Option<Proxy>, ca_file: Option<PathBuf>, metrics: Option<Arc<Metrics>>) -> Self {
        let client = Client::new(client::Options {
            connect: limits.connect,
            answer: limits.answer,
            pause: limits.answer,
            keep: KEEP,
            proxy,
            ca_file,
            bucket: metrics,
            ..client::Options::default()
        });
        Transport { limits, client }
    }

    /// Sends one request and waits for the head of the answer, whatever its status. Errors are
    /// those of the connection, and say where that was to lead; no redirect is followed and nothing is
    /// sent twice; the body has as many bytes as are promised, or fails. `within` is for one whose answer,
    /// and any piece of it, may take less time than all may.
    pub fn send(
        &self,
        method: &str,
        url: &str,
        headers: HeaderMap,
        body: Option<RequestBody>,
        within: Option<Duration>,
    ) -> io::Result<Received> {
        let place = |e: io::Error| {
            let origin = Url::parse(url).map_or_else(|_| url.to_string(), |u| u.origin().ascii_serialization());
            let through =
                self.client.proxy(url).map_or_else(String::new, |proxy| format!(" through the proxy {proxy}"));
            io::Error::new(e.kind(), format!("{origin}{through}: {e}"))
        };
        let agent = self.client.agent(url.starts_with("https:")).map_err(place)?;
        let mut request = Request::builder().method(method).uri(url);
        if let Some(h) = request.headers_mut() {
            *h = headers;
            if let Some((len, _)) = &body {
                h.insert("content-length", (*len).into());
            }
        }
        // storing takes its time: a second more for each MiB, up to thrice as long
        let storing = self.limits.answer + Duration::from_secs(body.as_ref().map_or(0, |(len, _)| len >> 20));
        let patience = Some(within.unwrap_or(storing.min(3 * self.limits.answer)));
        let body = body.map_or_else(SendBody::none, |(_, inner)| {
            SendBody::from_owned_reader(Sending { inner, pace: Pace::default(), left: None })
        });
        let request = agent.configure_request(request.body(body).map_err(io::Error::other)?);
        let request = request.timeout_recv_response(patience).timeout_per_read(patience).build();
        let answer = agent.run(request).map_err(|e| place(plain(&e)))?;
        let mut answer = Received::of(method, answer).map_err(|why| place(io::Error::other(why)))?;
        if answer.len == Some(0) || method == "HEAD" {
            // nobody will read this, and it is what returns the connection to the pool
            let _ = answer.body.read(&mut [0]);
            answer.len = Some(0);
        }
        let body = Receiving { inner: answer.body, pace: Pace::default(), left: answer.len };
        Ok(Received { body: Box::new(body), ..answer })
    }
}

/// ureq's error as an `io::Error` whose kind tells what [`crate::retry`] needs to know.
fn plain(e: &ureq::Error) -> io::Error {
    use ureq::Error;
    let kind = match e {
        Error::Io(e) => e.kind(),
        Error::Timeout(_) => io::ErrorKind::TimedOut,
        Error::HostNotFound | Error::ConnectionFailed => io::ErrorKind::HostUnreachable,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, client::words(e))
}

/// Like [`plain`], for errors that ureq has wrapped already.
fn plain_io(e: io::Error) -> io::Error {
    match e.downcast::<ureq::Error>() {
        Ok(e) => plain(&e),
        Err(e) => e,
    }
}

/// How fast a body moves, judged by the time spent waiting for it.
#[derive(Default)]
struct Pace {
    waited: Duration,
    moved: u64,
}

impl Pace {
    fn step(&mut self, waited: Duration, moved: u64) -> io::Result<()> {
        self.waited += waited;
        self.moved += moved;
        if self.waited >= FLOOR_WINDOW {
            if self.moved < FLOOR {
                let text = format!("too slow: {} in {} s", bytes(self.moved), self.waited.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            *self = Pace::default();
        }
        Ok(())
    }
}

/// An answer's body.
struct Receiving {
    inner: Box<dyn Read + Send>,
    pace: Pace,
    left: Option<u64>,
}

impl Read for Receiving {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.left == Some(0) || buf.is_empty() {
            return Ok(0);
        }
        let begin = Instant::now();
        let n = self.inner.read(buf).map_err(plain_io)?;
        self.pace.step(begin.elapsed(), n as u64)?;
        if let Some(left) = &mut self.left {
            if n == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("body ended {left} bytes short")));
            }
            *left = left.saturating_sub(n as u64);
            if *left == 0 {
                // returns the connection to the pool; there is nothing more to come
                let _ = self.inner.read(&mut [0]);
            }
        }
        Ok(n)
    }
}

/// A request's body: ureq reads it as fast as the connection takes it.
struct Sending {
    inner: Box<dyn Read + Send>,
    pace: Pace,
    /// When the last piece was handed out, and its length.
    left: Option<(Instant, u64)>,
}

impl Read for Sending {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some((at, len)) = self.left {
            self.pace.step(at.elapsed(), len)?;
        }
        let n = self.inner.read(buf)?;
        self.left = Some((Instant::now(), n as u64));
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_on_waiting_alone() {
        let mut pace = Pace::default();
        let second = Duration::from_secs(1);
        for _ in 0..100 {
            pace.step(second, FLOOR / 10 + 1).unwrap();
        }
        for _ in 0..9 {
            pace.step(second, 1).unwrap();
        }
        let e = pace.step(second, 1).unwrap_err();
        assert_eq!((e.kind(), e.to_string().as_str()), (io::ErrorKind::TimedOut, "too slow: 10 B in 10 s"));
    }

    #[test]
    fn a_body_that_ends_early_is_an_error() {
        let inner: Box<dyn Read + Send> = Box::new(&b"abc"[..]);
        let mut body = Receiving { inner, pace: Pace::default(), left: Some(5) };
        let e = body.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn time_outs_keep_their_kind_through_io_errors() {
        let e = plain_io(io::Error::other(ureq::Error::Timeout(ureq::Timeout::PerRead)));
        assert_eq!(e.kind(), io::ErrorKind::TimedOut);
        let e = plain_io(io::Error::new(io::ErrorKind::ConnectionReset, "x"));
        assert_eq!(e.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_machine_without_certificates_is_told_what_to_do() {
        let empty = std::env::temp_dir().join(format!("no-certificates-{}", std::process::id()));
        std::fs::write(&empty, "").unwrap();
        let ca_file = Some(empty.clone());
        let e = Transport::new(Limits::BUCKET, None, ca_file, None)
            .send("GET", "https://localhost:1/", HeaderMap::new(), None, None)
            .err()
            .unwrap();
        assert!(e.to_string().contains("SSL_CERT_FILE"), "{e}");
        std::fs::remove_file(empty).unwrap();
    }

    #[test]
    fn https_trusts_the_named_file_alone() {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_string()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let mut tls = rustls::StreamOwned::new(rustls::ServerConnection::new(config.clone()).unwrap(), socket);
                // a client without trust ends the handshake
                let _ = tls
                    .read(&mut [0; 4096])
                    .and_then(|_| io::Write::write_all(&mut tls, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
            }
        });
        let file = std::env::temp_dir().join(format!("trusted-{}.pem", std::process::id()));
        std::fs::write(&file, made.cert.pem()).unwrap();
        let metrics = Arc::new(Metrics::default());
        let ca_file = Some(file.clone());
        let transport = Transport::new(Limits::BUCKET, None, ca_file, Some(metrics.clone()));
        let mut text = String::new();
        transport.send("GET", &url, HeaderMap::new(), None, None).unwrap().body.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), metrics.bucket.connections.get()), ("ok", 1));
        let other = rcgen::generate_simple_self_signed(vec!["localhost".to_string()]).unwrap();
        std::fs::write(&file, other.cert.pem()).unwrap();
        let ca_file = Some(file.clone());
        assert!(
            Transport::new(Limits::BUCKET, None, ca_file, None)
                .send("GET", &url, HeaderMap::new(), None, None)
                .is_err()
        );
        std::fs::remove_file(file).unwrap();
    }
}
