//! Buckets through the library: a real S3 server, and a proxy before it that misbehaves.

use std::io::{Read, Write};

use crate::support::s3::S3Server;

#[test]
fn the_test_server_stops_and_restarts_on_its_port() {
    let mut server = S3Server::in_process();
    server.write("a/b", b"x");
    assert_eq!(server.keys(), ["a/b"]);
    let addr = server.endpoint.trim_start_matches("http://").to_string();
    let ask = |addr: &str| -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect(addr)?;
        stream.write_all(b"GET /cache-bucket/pre/fix/a/b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    assert!(ask(&addr).unwrap().starts_with("HTTP/1.1 403"), "unsigned requests are refused");
    server.stop();
    assert!(ask(&addr).is_err());
    server.restart();
    assert!(ask(&addr).unwrap().starts_with("HTTP/1.1 403"));
    assert_eq!((server.count("GET"), server.connections()), (2, 2));
}
