//! Many clients at the HTTP side of a running server, and clients that are slow on purpose.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::support::env::{Running, TempDir, binary, free_port, poll, scrubbed};
use crate::support::origin::{Origin, answer};

/// `serve` with a reverse proxy for `hosts`, and so many files to open.
struct Server {
    child: Running,
    port: u16,
}

impl Server {
    fn start(dir: &TempDir, files: usize, hosts: &str) -> Self {
        // the test's own sockets
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
        let port = free_port();
        let mut sh = scrubbed("sh", dir.path());
        sh.env("GOCACHE_DIR", dir.join("cache"));
        sh.arg("-c").arg(format!("ulimit -n {files} && exec \"$0\" \"$@\"")).arg(binary()).arg("serve");
        sh.arg(format!("--plugin={}", dir.join("plugin.sock").display()));
        sh.arg(format!("--http=127.0.0.1:{port}")).arg(format!("--revproxy={hosts}")).arg("--tunnel=127.0.0.1");
        let server = Server { child: Running::start(sh, Stdio::null()), port };
        poll("the server", || TcpStream::connect(("127.0.0.1", port)).ok());
        server
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        socket
    }

    /// How long an ordinary request takes.
    fn ask(&self) -> Duration {
        let begun = Instant::now();
        let mut socket = self.connect();
        socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut got = String::new();
        socket.read_to_string(&mut got).unwrap();
        assert!(got.starts_with("HTTP/1.1 200"), "{got}");
        begun.elapsed()
    }

    /// How many entries a folder of the process has in /proc.
    #[cfg(target_os = "linux")]
    fn count(&self, folder: &str) -> usize {
        fs::read_dir(format!("/proc/{}/{folder}", self.child.pid())).unwrap().count()
    }

    fn stop(mut self) {
        self.child.signal(Signal::TERM);
        self.child.wait().ok();
    }
}

#[test]
fn a_crowd_that_says_nothing_or_little_holds_up_nobody() {
    let dir = TempDir::new();
    let server = Server::start(&dir, 400, "example.com");
    let mut crowd = Vec::new();
    for n in 0..600 {
        let mut socket = server.connect();
        if n >= 300 {
            socket.write_all(b"GET /x HTT").unwrap();
        }
        crowd.push(socket);
        if n % 100 == 99 {
            let took = server.ask();
            assert!(took < Duration::from_secs(5), "{took:?} beside {n} others");
        }
    }
    #[cfg(target_os = "linux")]
    {
        // a quarter of the files, but for some that are about to go
        poll("room", || (server.count("task") < 130).then_some(()));
        let status = fs::read_to_string(format!("/proc/{}/status", server.child.pid())).unwrap();
        let rss =
            status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        assert!(rss.unwrap() < 64 << 10, "{rss:?} KiB");
    }
    assert!(matches!(crowd[0].read(&mut [0]), Ok(0) | Err(_)), "the oldest made room");
    // one that came late is still served
    let late = crowd.last_mut().unwrap();
    late.write_all(b"P/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut got = String::new();
    late.read_to_string(&mut got).unwrap();
    assert!(got.starts_with("HTTP/1.1 404"), "{got}");
    server.stop();
}

#[test]
#[cfg(target_os = "linux")]
fn a_server_out_of_files_goes_on_accepting() {
    let dir = TempDir::new();
    let server = Server::start(&dir, 1000, "example.com");
    poll("quiet", || (server.count("task") <= 5).then_some(()));
    let files = server.count("fd");
    server.stop();
    // fewer than connections may be open at the least
    let server = Server::start(&dir, files + 6, "example.com");
    let mut crowd: Vec<_> = (0..30).map(|_| server.connect()).collect();
    for _ in 0..3 {
        server.ask();
    }
    let trouble = server.child.stderr();
    assert!(trouble.contains("cannot accept an HTTP connection"), "{trouble}");
    assert!(matches!(crowd[0].read(&mut [0]), Ok(0) | Err(_)), "the oldest made room");
    drop(crowd);
    server.ask();
    server.stop();
}

#[test]
fn a_download_is_not_cut_to_make_room() {
    const LEN: usize = 16 << 20;
    let dir = TempDir::new();
    let body = "x".repeat(LEN);
    let origin = Origin::http(move |_| answer("", &body));
    let server = Server::start(&dir, 120, &origin.host());
    let mut reader = server.connect();
    let host = origin.host();
    write!(reader, "GET http://{host}/big HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let (mut got, mut piece, mut crowd) = (0, vec![0; 64 << 10], VecDeque::new());
    while let n @ 1.. = reader.read(&mut piece).unwrap() {
        got += n;
        // more than twice the cap, again and again
        crowd.push_back(server.connect());
        if crowd.len() > 150 {
            crowd.pop_front();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(got > LEN, "{got} bytes of {LEN} and a head");
    assert!(matches!(crowd[0].read(&mut [0]), Ok(0) | Err(_)), "an idle one made room");
    server.stop();
}

#[test]
fn a_crowd_that_reads_slowly_leaves_room_and_cuts_no_fast_download() {
    let dir = TempDir::new();
    let body = "x".repeat(16 << 20);
    let origin = Origin::http(move |_| answer("Cache-Control: max-age=9999", &body));
    let server = Server::start(&dir, 96, &origin.host());
    let request = format!("GET http://{0}/big HTTP/1.1\r\nHost: {0}\r\nConnection: close\r\n\r\n", origin.host());
    let download = || {
        let mut socket = server.connect();
        socket.write_all(request.as_bytes()).unwrap();
        io::copy(&mut socket, &mut io::sink()).unwrap()
    };
    assert!(download() > 16 << 20);
    let mut fast = server.connect();
    fast.write_all(request.as_bytes()).unwrap();
    // all that there is room for, and no idle one among them
    let mut crowd: Vec<_> = (0..23).map(|_| server.connect()).collect();
    for slow in &mut crowd {
        slow.write_all(request.as_bytes()).unwrap();
        slow.read_exact(&mut [0; 64]).unwrap();
    }
    let (mut got, mut piece) = (0, vec![0; 64 << 10]);
    std::thread::scope(|s| {
        let asking = s.spawn(|| (server.ask(), server.ask()));
        // far from as fast as it could, but for as long as others are slow
        while let n @ 1.. = fast.read(&mut piece).unwrap() {
            got += n;
            std::thread::sleep(Duration::from_millis(if asking.is_finished() { 0 } else { 100 }));
        }
        let (first, second) = asking.join().unwrap();
        assert!(first < Duration::from_secs(20) && second < Duration::from_secs(5), "{first:?}, {second:?}");
    });
    assert!(got > 16 << 20, "{got} bytes");
    server.stop();
}

#[test]
fn who_reads_slowly_holds_no_place_among_those_who_wait() {
    let dir = TempDir::new();
    let body = "x".repeat(16 << 20);
    let origin = Origin::http(move |_| answer("Cache-Control: no-store", &body));
    // twelve may wait
    let server = Server::start(&dir, 96, &origin.host());
    let begun: Vec<_> = (0..15)
        .map(|_| {
            let (mut socket, mut head) = (server.connect(), [0; 12]);
            write!(socket, "GET http://{0}/big HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.host()).unwrap();
            socket.read_exact(&mut head).unwrap();
            (head.ends_with(b"200"), socket)
        })
        .collect();
    assert!(begun.iter().all(|(fine, _)| *fine));
    server.stop();
}

#[test]
fn a_tunnel_that_is_idle_makes_room_and_one_that_is_not_stays() {
    let dir = TempDir::new();
    let [silent, echo] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [to_silent, to_echo] = [&silent, &echo].map(|target| target.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut from, _) = echo.accept().unwrap();
        let mut to = from.try_clone().unwrap();
        io::copy(&mut from, &mut to)
    });
    // 24 may be open
    let server = Server::start(&dir, 96, "example.com");
    let tunnel = |to| {
        let (mut socket, mut head) = (server.connect(), Vec::new());
        write!(socket, "CONNECT {to} HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        while !head.ends_with(b"\r\n\r\n") {
            head.resize(head.len() + 1, 0);
            socket.read_exact(head.last_mut().map(std::slice::from_mut).unwrap()).unwrap();
        }
        assert!(head.starts_with(b"HTTP/1.1 200"));
        socket
    };
    let mut busy = tunnel(to_echo);
    let mut idle: Vec<_> = (0..23).map(|_| tunnel(to_silent)).collect();
    // whichever of their directions have ended
    idle.iter().for_each(|idle| idle.shutdown(Shutdown::Write).unwrap());
    std::thread::scope(|s| {
        let asking = s.spawn(|| drop(tunnel(to_silent)));
        while !asking.is_finished() {
            busy.write_all(b"x").unwrap();
            busy.read_exact(&mut [0]).unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
        asking.join().unwrap();
    });
    idle.iter().for_each(|idle| idle.set_nonblocking(true).unwrap());
    let gone = idle.iter_mut().filter_map(|idle| idle.read(&mut [0]).ok()).count();
    assert_eq!(gone, 1, "one that was idle made room, for one");
    server.stop();
}

/// Sends a byte at a time, long before any pause would be too long; until the server closes.
fn drip(mut socket: TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let begun = Instant::now();
    let mut bytes = bytes.iter().cycle();
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    loop {
        socket.write_all(&[*bytes.next().expect("something to send")])?;
        match socket.read(&mut [0; 4096]) {
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Ok(1..) => {}
            end => return end,
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "the server takes one byte after the other");
    }
}

/// A TLS client for example.com that trusts the server's authority.
fn tls(dir: &TempDir) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots
        .add(
            CertificateDer::from_pem_slice(&fs::read(dir.join(".local/state/go-cache-plugin/ca.pem")).unwrap())
                .unwrap(),
        )
        .unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    ClientConnection::new(Arc::new(config), ServerName::try_from("example.com").unwrap()).unwrap()
}

#[test]
fn clients_that_drip_are_ended_inside_connect_too() {
    let dir = TempDir::new();
    let server = Server::start(&dir, 400, "example.com");
    let connected = || {
        let mut socket = server.connect();
        socket.write_all(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 200"));
        socket
    };
    let hello = {
        let (mut client, mut bytes) = (tls(&dir), Vec::new());
        client.write_tls(&mut bytes).unwrap();
        bytes
    };
    // a client that has shaken hands, and what it would send next
    let greeted = |request: &[u8], at_a_time: usize| {
        let (mut client, mut socket, mut bytes) = (tls(&dir), connected(), Vec::new());
        while client.is_handshaking() {
            client.complete_io(&mut socket).unwrap();
        }
        for part in request.chunks(at_a_time) {
            client.writer().write_all(part).unwrap();
            client.write_tls(&mut bytes).unwrap();
        }
        (socket, bytes)
    };
    let head = [b"GET / HTTP/1.1\r\nA: ".as_slice(), &[b'x'; 400]].concat();
    let (one_record, one_bytes) = greeted(&head, head.len());
    let (many_records, many_bytes) = greeted(&head, 1);
    let begun = Instant::now();
    std::thread::scope(|s| {
        s.spawn(|| drip(server.connect(), &head));
        s.spawn(|| drip(connected(), &hello));
        s.spawn(|| drip(one_record, &one_bytes));
        s.spawn(|| drip(many_records, &many_bytes));
    });
    // all had some time: it is the drip that is ended
    assert!(begun.elapsed() > Duration::from_secs(5), "{:?}", begun.elapsed());
    server.stop();
}
