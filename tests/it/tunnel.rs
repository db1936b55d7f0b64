//! Where the reverse proxy connects to for its clients, and what passes then: CONNECT, Upgrade, bytes that
//! are no ASCII; in the clear, through TLS, and through TLS in TLS.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection, StreamOwned};

use crate::revproxy::Proxy;
use crate::support::env::{Plugin, TempDir, poll, run, scrubbed};
use crate::support::origin::{Origin, answer, self_signed};
use crate::web::certificate;

/// The status of a CONNECT to `authority`.
fn connect(proxy: &Proxy, authority: &str) -> String {
    let mut client = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    write!(client, "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").unwrap();
    let mut head = [0; 12];
    client.read_exact(&mut head).unwrap();
    String::from_utf8_lossy(&head[9..]).into_owned()
}

#[test]
fn this_machine_and_metadata_services_are_out_of_reach() {
    let dir = TempDir::new();
    let target = TcpListener::bind("[::]:0").or_else(|_| TcpListener::bind("0.0.0.0:0")).unwrap();
    let port = target.local_addr().unwrap().port();
    let proxy = Proxy::start(&dir, "example.com", |p| p);
    for host in [
        "127.0.0.1", "127.1.2.3", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0.0.0.0", "0", "localhost",
        "LOCALHOST.", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
    ] {
        let got = connect(&proxy, &format!("{host}:{port}"));
        assert!(["403", "502"].contains(&got.as_str()), "{host}: {got}");
    }
    for host in [
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "[fe80::1]",
        "100.100.100.200",
        "2852039166",
        "[64:ff9b:1::169.254.169.254]",
        "[fd00:c1::a9fe:a9fe]",
        "[fd00:42::42]",
    ] {
        assert_eq!(connect(&proxy, &format!("{host}:80")), "403", "{host}");
    }
    target.set_nonblocking(true).unwrap();
    assert!(target.accept().is_err(), "nobody came through");
    proxy.stop();
}

#[test]
fn tunnels_reach_what_is_listed() {
    let dir = TempDir::new();
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = target.local_addr().unwrap().port();
    let proxy = Proxy::start(&dir, "example.com", |p| p.arg("--tunnel=127.0.0.1").arg("--tunnel=b.example:443"));
    assert_eq!(connect(&proxy, &format!("127.0.0.1:{port}")), "200");
    // neither others, nor another name of what is listed
    for host in [format!("localhost:{port}"), "192.0.2.1:443".to_string(), "b.example:80".to_string()] {
        assert_eq!(connect(&proxy, &host), "403", "{host}");
    }
    proxy.stop();
    // all, which this machine is no part of
    let proxy = Proxy::start(&dir, "example.com", |p| p.arg("--tunnel=*"));
    assert_eq!(connect(&proxy, &format!("127.0.0.1:{port}")), "403");
    proxy.stop();
    let out =
        Plugin::new(&dir).args(["serve", "--plugin=1", "--http=127.0.0.1:0", "--tunnel=a.example"]).output().code(2);
    assert!(out.stderr.contains("--tunnel needs --revproxy"), "{}", out.stderr);
}

#[test]
fn a_listed_name_is_not_followed_to_addresses_out_of_reach() {
    let dir = TempDir::new();
    let origin = Origin::http(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx".to_vec());
    // names that lead to this machine, as one led there by who answers for it would
    let proxy = Proxy::start(&dir, "127.1,2130706433,169.254.169.254,localhost", |p| p);
    for host in ["127.1", "2130706433", "169.254.169.254"] {
        let got = proxy.curl(&dir, &[&format!("http://{host}:{}/", origin.port())]);
        assert!(got.status() == "403" || got.body.contains("not proxied"), "{host}: {} {}", got.head, got.body);
    }
    assert!(origin.seen().is_empty());
    assert_eq!(proxy.curl(&dir, &[&format!("http://localhost:{}/", origin.port())]).body, "x");
    proxy.stop();
}

#[test]
fn an_upgrade_is_carried_both_ways() {
    let dir = TempDir::new();
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = target.local_addr().unwrap();
    let proxy = Proxy::start(&dir, &addr.to_string(), |p| p);
    let ask = |early: &str| {
        let mut client = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
        write!(
            client,
            "GET http://{addr}/chat?a=b HTTP/1.1\r\nHost: {addr}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: chat\r\n\
             X-Name: na\u{ef}ve\r\nSec-WebSocket-Key: k\r\n\r\n{early}"
        )
        .unwrap();
        let (mut far, _) = target.accept().unwrap();
        let head = head(&mut far);
        assert!(head.starts_with("GET /chat?a=b HTTP/1.1\r\n"), "{head}");
        for line in ["connection: upgrade", "upgrade: chat", "sec-websocket-key: k", "x-name: na\u{ef}ve"] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
        }
        (client, far)
    };
    let (mut client, mut far) = ask("early ");
    far.write_all(b"HTTP/1.1 100 Continue\n\nHTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\nhello ").unwrap();
    client.write_all(b"late").unwrap();
    let mut got = [0; 10];
    far.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"early late");
    far.write_all(b"again").unwrap();
    drop(far);
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    let lower = text.to_ascii_lowercase();
    assert!(text.starts_with("HTTP/1.1 101 ") && lower.contains("\r\nupgrade: chat\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\nhello again"), "{text}");
    // who does not switch is asked as always, on whichever connection
    let (mut client, mut far) = ask("");
    far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    let (mut again, _) = target.accept().unwrap();
    text.clear();
    far.read_to_string(&mut text).unwrap();
    assert_eq!(text, "");
    text = head(&mut again);
    assert!(text.starts_with("GET /chat?a=b HTTP/1.1\r\n") && !text.contains("upgrade"), "{text}");
    again.write_all(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    text.clear();
    client.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 426 ") && text.ends_with("\r\n\r\nno"), "{text}");
    assert!(!text.to_ascii_lowercase().contains("\r\nconnection:"), "{text}");
    proxy.stop();
}

/// The flags of a server that speaks TLS.
fn tls(dir: &TempDir) -> [String; 2] {
    certificate(dir, "own");
    ["cert=own.pem", "key=own.key"].map(|flag| {
        let (flag, file) = flag.split_once('=').unwrap();
        format!("--http-tls-{flag}={}", dir.join(file).display())
    })
}

/// TLS over `below`, with who has a certificate that the file `ca` vouches for.
fn secured<T: Read + Write>(below: T, name: &str, ca: &Path) -> StreamOwned<ClientConnection, T> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = name.to_string().try_into().unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), below)
}

fn head(from: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        from.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn connect_works_inside_of_tls() {
    let dir = TempDir::new();
    let (origin, trust) = Origin::https(dir.path(), |_| answer("Cache-Control: immutable", "secret"));
    let flags = tls(&dir);
    let proxy =
        Proxy::start(&dir, &origin.host(), |p| p.arg("--tunnel=127.0.0.1").args(&flags).env("SSL_CERT_FILE", &trust));
    let (own, ca) = (dir.join("own.pem"), dir.join(".local/state/go-cache-plugin/ca.pem"));
    for want in ["fetch, cached", "hit, local"] {
        let mut curl = scrubbed("curl", dir.path());
        curl.args(["-sS", "-i", "--max-time", "60", "--noproxy", "", "--cacert"])
            .arg(&ca)
            .arg("--proxy-cacert")
            .arg(&own);
        curl.args(["--proxy", &format!("https://localhost:{}", proxy.port), &format!("https://{}/x", origin.host())]);
        let got = run(curl).ok().stdout;
        assert!(got.ends_with("secret") && got.to_lowercase().contains(&format!("x-cache: {want}\r\n")), "{got}");
    }
    // a tunnel, one way of which is stuck
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = target.local_addr().unwrap();
    let tcp = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    let mut client = secured(tcp, "localhost", &own);
    write!(client, "CONNECT {addr} HTTP/1.1\r\nHost: {addr}\r\n\r\nearly ").unwrap();
    let (mut far, _) = target.accept().unwrap();
    assert!(head(&mut client).starts_with("HTTP/1.1 200 "));
    let mut writes = far.try_clone().unwrap();
    let much = std::thread::spawn(move || writes.write_all(&vec![b'x'; 32 << 20]).unwrap());
    client.write_all(b"late").unwrap();
    client.flush().unwrap();
    let mut got = [0; 10];
    far.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"early late");
    let mut rest = vec![0; 32 << 20];
    client.read_exact(&mut rest).unwrap();
    much.join().unwrap();
    assert!(rest.iter().all(|b| *b == b'x'));
    // its end is told
    client.conn.send_close_notify();
    client.flush().unwrap();
    assert_eq!(far.read(&mut got).unwrap(), 0);
    far.write_all(b"bye").unwrap();
    drop(far);
    rest.clear();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"bye");
    proxy.stop();
}

#[test]
fn an_answer_stays_whole_while_it_is_made_fresh() {
    let dir = TempDir::new();
    let (flags, body) = (tls(&dir), (0..1_000_000).map(|n| format!("{n:08}")).collect::<String>());
    let whole = body.clone();
    let origin = Origin::http(move |request| {
        if request.to_ascii_lowercase().contains("if-none-match") {
            return b"HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=600\r\nConnection: close\r\n\r\n".to_vec();
        }
        answer("Cache-Control: max-age=100, stale-while-revalidate=600\nAge: 100\nETag: \"e\"", &whole)
    });
    let proxy = Proxy::start(&dir, &origin.host(), |p| p.args(&flags));
    let own = dir.join("own.pem");
    let ask = |method: &str| {
        let mut client = secured(TcpStream::connect(("127.0.0.1", proxy.port)).unwrap(), "localhost", &own);
        let host = origin.host();
        write!(client, "{method} http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        (head(&mut client), client)
    };
    let rest = |mut client: StreamOwned<ClientConnection, TcpStream>| {
        let mut got = String::new();
        client.read_to_string(&mut got).unwrap();
        got
    };
    assert!(rest(ask("GET").1) == body);
    let (_, slow) = ask("GET");
    poll("the answer to be made fresh", || {
        let age = ask("HEAD").0.lines().find_map(|line| line.strip_prefix("age: ")?.parse::<u64>().ok())?;
        (age < 100).then_some(())
    });
    assert!(rest(slow) == body, "what one client reads is moved on by another");
    proxy.stop();
}

#[test]
fn an_upgrade_inside_of_an_intercepted_connect_is_carried_both_ways() {
    let dir = TempDir::new();
    let flags = tls(&dir);
    let (config, pem) = self_signed(&["localhost", "127.0.0.1"]);
    let trust = dir.write("origin.pem", &pem);
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = target.local_addr().unwrap();
    let far = std::thread::spawn(move || {
        for _ in 0..2 {
            let session = ServerConnection::new(config.clone()).unwrap();
            let mut far = StreamOwned::new(session, target.accept().unwrap().0);
            let asked = head(&mut far);
            assert!(asked.starts_with("GET /chat HTTP/1.1\r\n"), "{asked}");
            assert!(
                asked.contains("\r\nupgrade: chat\r\n") && asked.contains(&format!("\r\nhost: {addr}\r\n")),
                "{asked}"
            );
            far.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\nhello ")
                .unwrap();
            let mut piece = vec![0; 1 << 20];
            far.read_exact(&mut piece).unwrap();
            far.write_all(&piece).unwrap();
            far.conn.send_close_notify();
            far.flush().unwrap();
        }
    });
    let talk = |mut below: Box<dyn Connection>, ca: &Path| {
        write!(below, "CONNECT {addr} HTTP/1.1\r\nHost: {addr}\r\n\r\n").unwrap();
        assert!(head(&mut below).starts_with("HTTP/1.1 200 "));
        let mut client = secured(below, "127.0.0.1", ca);
        write!(client, "GET /chat HTTP/1.1\r\nHost: {addr}\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n").unwrap();
        let answer = head(&mut client);
        assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("\r\nupgrade: chat\r\n"), "{answer}");
        client.write_all(&vec![b'y'; 1 << 20]).unwrap();
        client.flush().unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert!(got.starts_with(b"hello yyy") && got.len() == 6 + (1 << 20), "{}", got.len());
    };
    let ca = dir.join(".local/state/go-cache-plugin/ca.pem");
    let start = |flags: &[String]| {
        let proxy = Proxy::start(&dir, &addr.to_string(), |p| p.args(flags).env("SSL_CERT_FILE", &trust));
        let tcp = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
        (proxy, tcp)
    };
    let (proxy, tcp) = start(&[]);
    talk(Box::new(tcp), &ca);
    proxy.stop();
    let (proxy, tcp) = start(&flags);
    talk(Box::new(secured(tcp, "localhost", &dir.join("own.pem"))), &ca);
    proxy.stop();
    far.join().unwrap();
}

trait Connection: Read + Write {}
impl<T: Read + Write> Connection for T {}

#[test]
fn bytes_beyond_ascii_pass_in_both_directions() {
    let dir = TempDir::new();
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = target.local_addr().unwrap();
    let proxy = Proxy::start(&dir, &addr.to_string(), |p| p);
    let mut client = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    let head = format!("GET http://{addr}/ HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nX-Name: ");
    client.write_all(&[head.as_bytes(), b"\xe9\xff\r\n\r\n"].concat()).unwrap();
    let (mut far, _) = target.accept().unwrap();
    let mut got = vec![0; 4096];
    let n = far.read(&mut got).unwrap();
    assert!(got[..n].windows(12).any(|w| w == b"x-name: \xe9\xff\r\n"), "{}", got[..n].escape_ascii());
    far.write_all(b"HTTP/1.1 200 OK\r\nX-Back: \xfc\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx").unwrap();
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert!(got.windows(11).any(|w| w == b"x-back: \xfc\r\n"), "{}", got.escape_ascii());
    proxy.stop();
}
