//! An S3 server for benches: path-style, objects in memory, signatures checked, a thread a
//! connection, behind a [`Shim`]. It runs in a process of its own (the bench starts itself with
//! [`SERVE`]), so that what it costs can be told from what the build costs, and is controlled by
//! lines on stdin, each answered by a line on stdout. It ends when its stdin does.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, thread};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::shim::Shim;
use super::sigv4::{self, Signed, hex};
use super::wire::{CHUNK, Reply, Request, decode, parse, read_some};

/// The hidden argument that makes a bench this server.
pub const SERVE: &str = "--serve-s3";

/// Where the files are that anybody may get: below it, by their names.
pub const SHARED: &str = "/shared";

const HEAD_LIMIT: usize = 64 << 10;

type Objects = BTreeMap<String, Object>;

#[derive(Clone)]
struct Object {
    body: Arc<[u8]>,
    etag: String,
}

#[derive(Default)]
struct Server {
    /// By `bucket/key`.
    objects: RwLock<Objects>,
    /// Buckets as they were, by name.
    saved: RwLock<BTreeMap<String, Objects>>,
    shim: Shim,
    /// What anybody may get below [`SHARED`], by name.
    shared: RwLock<BTreeMap<String, Arc<[u8]>>>,
    /// Every request is answered with 503.
    failing: AtomicBool,
    counters: Counters,
}

/// What the server saw since the last reset.
#[derive(Default)]
struct Counters {
    get: AtomicU64,
    head: AtomicU64,
    put: AtomicU64,
    delete: AtomicU64,
    list: AtomicU64,
    /// Of them all, those for keys with a segment `manifest`.
    manifest: AtomicU64,
    not_found: AtomicU64,
    denied: AtomicU64,
    connections: AtomicU64,
    /// Body bytes.
    received: AtomicU64,
    sent: AtomicU64,
    /// Unix nanoseconds.
    first_request: AtomicU64,
    last_request: AtomicU64,
    last_put: AtomicU64,
}

impl Counters {
    fn all(&self) -> [(&'static str, &AtomicU64); 14] {
        [
            ("get", &self.get),
            ("head", &self.head),
            ("put", &self.put),
            ("delete", &self.delete),
            ("list", &self.list),
            ("manifest", &self.manifest),
            ("not_found", &self.not_found),
            ("denied", &self.denied),
            ("connections", &self.connections),
            ("received", &self.received),
            ("sent", &self.sent),
            ("first_request", &self.first_request),
            ("last_request", &self.last_request),
            ("last_put", &self.last_put),
        ]
    }
}

/// Serves until stdin ends. The first line printed is the port.
pub fn serve() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    answer(&listener.local_addr()?.port().to_string())?;
    let server = Arc::new(Server::default());
    let accepting = server.clone();
    thread::Builder::new().name("accept".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let server = accepting.clone();
            let started = thread::Builder::new().stack_size(256 << 10).spawn(move || {
                // a broken connection is the client's business
                let _ = server.connection(stream);
            });
            if let Err(e) = started {
                let _ = writeln!(io::stderr(), "server: cannot start a thread: {e}");
            }
        }
    })?;
    for line in io::stdin().lines() {
        let line = line?;
        match server.control(&line) {
            Ok(a) => answer(&a)?,
            Err(e) => answer(&format!("error: {line}: {e}"))?,
        }
    }
    Ok(())
}

fn answer(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

impl Server {
    fn control(&self, line: &str) -> io::Result<String> {
        // a path stands last and may have spaces
        let words: Vec<&str> = line.splitn(if line.starts_with("share ") { 2 } else { 3 }, ' ').collect();
        let number = |s: &str| s.parse::<u64>().map_err(io::Error::other);
        match words[..] {
            ["rtt", micros] => self.shim.set_round_trip(number(micros)?),
            ["bandwidth", bytes] => self.shim.set_bandwidth(number(bytes)?),
            ["fail", on] => self.failing.store(on == "on", Relaxed),
            ["reset"] => self.counters.all().iter().for_each(|(_, c)| c.store(0, Relaxed)),
            ["clear"] => self.lock_objects().clear(),
            ["save", name] => {
                let objects = self.lock_objects().clone();
                self.saved.write().expect("no holder panics").insert(name.into(), objects);
            }
            ["restore", name] => {
                let saved = self.saved.read().expect("no holder panics");
                *self.lock_objects() = saved.get(name).ok_or_else(|| io::Error::other("nothing saved"))?.clone();
            }
            ["share", path] => {
                let name = path.rsplit('/').next().unwrap_or_default().to_string();
                self.shared.write().expect("no holder panics").insert(name, fs::read(path)?.into());
            }
            ["classic", bucket, dir] => self.load_classic(Path::new(dir), bucket)?,
            ["size", prefix] => {
                let objects = self.lock_objects();
                let (n, bytes) = objects
                    .iter()
                    .filter(|(k, _)| k.starts_with(prefix))
                    .fold((0, 0), |(n, bytes), (_, o)| (n + 1, bytes + o.body.len()));
                return Ok(json!({"objects": n, "bytes": bytes}).to_string());
            }
            ["counters"] => {
                let map: serde_json::Map<_, _> =
                    self.counters.all().iter().map(|(n, c)| (n.to_string(), c.load(Relaxed).into())).collect();
                return Ok(serde_json::Value::Object(map).to_string());
            }
            _ => return Err(io::Error::other("unknown command")),
        }
        Ok("ok".into())
    }

    fn lock_objects(&self) -> std::sync::RwLockWriteGuard<'_, Objects> {
        self.objects.write().expect("no holder panics")
    }

    /// Stores in `bucket` what the local cache directory `dir` holds, in the classic layout.
    fn load_classic(&self, dir: &Path, bucket: &str) -> io::Result<()> {
        for (id, path) in files(&dir.join("action"))? {
            let text = fs::read_to_string(&path)?;
            let Some((output, _)) = text.trim_end().split_once(' ') else { continue };
            let put = fs::metadata(&path)?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
            let entry = format!("{output} {put}");
            self.store(format!("{bucket}/action/{}/{id}", &id[..2]), entry.into_bytes());
        }
        for (id, path) in files(&dir.join("output"))? {
            self.store(format!("{bucket}/output/{}/{id}", &id[..2]), fs::read(path)?);
        }
        Ok(())
    }

    fn store(&self, key: String, body: Vec<u8>) -> String {
        let etag = format!("\"{}\"", hex(&Sha256::digest(&body)[..16]));
        self.lock_objects().insert(key, Object { body: body.into(), etag: etag.clone() });
        etag
    }

    fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        self.counters.connections.fetch_add(1, Relaxed);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        self.shim.round_trip();
        let mut buf = Vec::with_capacity(CHUNK);
        while let Some(request) = self.read_request(&mut stream, &mut buf)? {
            let reply = self.reply(&request);
            self.shim.round_trip();
            self.write_reply(&mut stream, &request, reply)?;
        }
        Ok(())
    }

    /// Reads a request; `buf` holds what was read past the last one.
    fn read_request(&self, stream: &mut TcpStream, buf: &mut Vec<u8>) -> io::Result<Option<Request>> {
        let (mut request, head) = loop {
            if let Some(parsed) = parse(buf)? {
                break parsed;
            }
            if buf.len() > HEAD_LIMIT {
                return Err(io::Error::other("request head too large"));
            }
            if read_some(stream, buf)? == 0 {
                return Ok(None);
            }
        };
        let at = now();
        let _ = self.counters.first_request.compare_exchange(0, at, Relaxed, Relaxed);
        self.counters.last_request.fetch_max(at, Relaxed);
        let length: usize = match request.header("content-length") {
            Some(n) => n.parse().map_err(io::Error::other)?,
            None => 0,
        };
        if request.header("expect").is_some() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        buf.drain(..head);
        let early = buf.len().min(length);
        let mut body: Vec<u8> = Vec::with_capacity(length);
        body.extend(buf.drain(..early));
        while body.len() < length {
            let chunk = (length - body.len()).min(CHUNK) as u64;
            let n = Read::take(&mut *stream, chunk).read_to_end(&mut body)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.shim.receive(n);
        }
        self.counters.received.fetch_add(length as u64, Relaxed);
        request.body = body;
        Ok(Some(request))
    }

    fn reply(&self, request: &Request) -> Reply {
        let c = &self.counters;
        let listing = request.method == "GET" && request.param("list-type").is_some();
        let counter = match request.method.as_str() {
            _ if listing => &c.list,
            "GET" => &c.get,
            "HEAD" => &c.head,
            "PUT" => &c.put,
            "DELETE" => &c.delete,
            _ => return Reply::error(405, "MethodNotAllowed"),
        };
        counter.fetch_add(1, Relaxed);
        c.manifest.fetch_add(request.target.contains("/manifest/").into(), Relaxed);
        let name = request.target.rsplit('/').next().filter(|_| request.target.starts_with(SHARED));
        if let Some(body) = name.and_then(|name| self.shared.read().expect("no holder panics").get(name).cloned()) {
            return Reply::bytes(200, None, body);
        }
        if self.failing.load(Relaxed) {
            return Reply::error(503, "ServiceUnavailable");
        }
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let (method, headers, body) = (request.method.as_str(), &request.headers, &request.body);
        if let Err(code) = sigv4::verify(&Signed { method, path, query, headers, body }) {
            c.denied.fetch_add(1, Relaxed);
            return Reply::error(403, code);
        }
        if listing {
            return self.list(request);
        }
        let key = decode(path.trim_start_matches('/'));
        if request.param("location").is_some() {
            return Reply::xml(200, "<LocationConstraint></LocationConstraint>".into());
        }
        match method {
            "PUT" => self.put(request, key),
            "DELETE" => {
                self.lock_objects().remove(&key);
                Reply::bytes(204, None, Arc::default())
            }
            _ => match self.objects.read().expect("no holder panics").get(&key) {
                None => {
                    c.not_found.fetch_add(1, Relaxed);
                    Reply::error(404, "NoSuchKey")
                }
                Some(o) if request.header("if-none-match") == Some(&o.etag) => {
                    Reply::bytes(304, Some(o.etag.clone()), Arc::default())
                }
                Some(o) => Reply::bytes(200, Some(o.etag.clone()), o.body.clone()).ranged(request.header("range")),
            },
        }
    }

    fn put(&self, request: &Request, key: String) -> Reply {
        let present = self.objects.read().expect("no holder panics").get(&key).map(|o| o.etag.clone());
        let refused = match (request.header("if-none-match"), request.header("if-match")) {
            (Some("*"), _) => present.is_some(),
            (_, Some(tag)) => present.as_deref() != Some(tag),
            _ => false,
        };
        if refused {
            return Reply::error(412, "PreconditionFailed");
        }
        let etag = self.store(key, request.body.clone());
        self.counters.last_put.fetch_max(now(), Relaxed);
        Reply::bytes(200, Some(etag), Arc::default())
    }

    fn list(&self, request: &Request) -> Reply {
        let bucket = decode(request.target.split('?').next().unwrap_or_default().trim_matches('/'));
        let param = |name: &str| request.param(name).map(decode).unwrap_or_default();
        let (prefix, after) = (param("prefix"), param("continuation-token"));
        let limit = param("max-keys").parse().unwrap_or(1000).min(1000);
        let objects = self.objects.read().expect("no holder panics");
        let from = format!("{bucket}/{}", prefix.as_str().max(after.as_str()));
        let mut found = objects.range(from..).filter_map(|(k, o)| {
            let key = k.strip_prefix(&bucket)?.strip_prefix('/')?;
            (key.starts_with(&prefix) && key > after.as_str()).then_some((key, o))
        });
        let page: Vec<_> = found.by_ref().take(limit).collect();
        let more = found.next().is_some();
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult>");
        let _ = write!(xml, "<Name>{bucket}</Name><Prefix>{prefix}</Prefix><MaxKeys>{limit}</MaxKeys>");
        let _ = write!(xml, "<KeyCount>{}</KeyCount><IsTruncated>{more}</IsTruncated>", page.len());
        if let (true, Some((last, _))) = (more, page.last()) {
            let _ = write!(xml, "<NextContinuationToken>{last}</NextContinuationToken>");
        }
        for (key, o) in page {
            let (etag, size) = (o.etag.trim_matches('"'), o.body.len());
            let _ = write!(
                xml,
                "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
                 <ETag>&quot;{etag}&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            );
        }
        xml.push_str("</ListBucketResult>");
        Reply::xml(200, xml)
    }

    fn write_reply(&self, stream: &mut TcpStream, request: &Request, reply: Reply) -> io::Result<()> {
        let kind = if reply.xml { "application/xml" } else { "application/octet-stream" };
        let mut out = format!("HTTP/1.1 {} S3\r\nContent-Type: {kind}\r\n", reply.status);
        if let Some(etag) = &reply.etag {
            let _ = write!(out, "ETag: {etag}\r\n");
        }
        let mut body = &reply.body[..];
        if let Some(part) = &reply.part {
            let _ = write!(out, "Content-Range: bytes {}-{}/{}\r\n", part.start, part.end - 1, body.len());
            body = &body[part.clone()];
        }
        let _ = write!(out, "Content-Length: {}\r\n\r\n", body.len());
        if request.method == "HEAD" || reply.status == 304 {
            body = &[];
        }
        let mut first = out.into_bytes();
        let early = body.len().min(CHUNK);
        first.extend_from_slice(&body[..early]);
        self.shim.send(first.len());
        stream.write_all(&first)?;
        for chunk in body[early..].chunks(CHUNK) {
            self.shim.send(chunk.len());
            stream.write_all(chunk)?;
        }
        self.counters.sent.fetch_add(body.len() as u64, Relaxed);
        Ok(())
    }
}

/// Names and paths of the files two levels below `dir`.
fn files(dir: &Path) -> io::Result<Vec<(String, std::path::PathBuf)>> {
    let mut found = Vec::new();
    for sub in fs::read_dir(dir)? {
        for file in fs::read_dir(sub?.path())? {
            let file = file?;
            found.push((file.file_name().to_string_lossy().into_owned(), file.path()));
        }
    }
    Ok(found)
}
