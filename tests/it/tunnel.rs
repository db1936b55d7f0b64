//! Where the reverse proxy connects to for its clients, and what passes then: CONNECT, Upgrade, bytes that
//! are no ASCII.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::revproxy::Proxy;
use crate::support::env::{Plugin, TempDir};
use crate::support::origin::Origin;

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
    for host in ["169.254.169.254", "[::ffff:169.254.169.254]", "[fe80::1]", "100.100.100.200", "2852039166"] {
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
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            far.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("GET /chat?a=b HTTP/1.1\r\n"), "{head}");
        for line in ["connection: upgrade", "upgrade: chat", "sec-websocket-key: k", "x-name: na\u{ef}ve"] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
        }
        (client, far)
    };
    let (mut client, mut far) = ask("early ");
    far.write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\nhello ").unwrap();
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
    // one that is refused is an answer like others
    let (mut client, mut far) = ask("");
    far.write_all(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno").unwrap();
    drop(far);
    text.clear();
    client.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 426 ") && text.ends_with("\r\n\r\nno"), "{text}");
    assert!(text.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{text}");
    proxy.stop();
}

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
