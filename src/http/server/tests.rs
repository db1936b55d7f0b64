//! The server as its clients see it: raw bytes over sockets.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::mpsc;
use std::time::Instant;

use super::*;
use crate::http::exchange::{Body, Method, Reply, Request, Target};

fn serve_with(limits: ServerLimits, handler: impl Fn(Request<'_>) -> Reply + Send + Sync + 'static) -> Server {
    let open = Open::new(limits.max_connections);
    Server::start((Ipv4Addr::LOCALHOST, 0).into(), open, limits, None, Arc::new(handler)).unwrap()
}

fn connect(server: &Server) -> TcpStream {
    let socket = TcpStream::connect(server.addr).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

/// Sends `text` and reads until the server closes.
fn exchange(server: &Server, text: &str) -> String {
    let mut socket = connect(server);
    socket.write_all(text.as_bytes()).unwrap();
    let mut got = String::new();
    socket.read_to_string(&mut got).unwrap();
    got
}

fn read_until(socket: &mut TcpStream, end: &str) -> String {
    let mut got = Vec::new();
    while !got.ends_with(end.as_bytes()) {
        let mut byte = [0];
        assert_eq!(socket.read(&mut byte).unwrap(), 1, "closed after {:?}", String::from_utf8_lossy(&got));
        got.push(byte[0]);
    }
    String::from_utf8(got).unwrap()
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {answer:?}")).1
}

/// Answers with method, path and body of the request.
fn echo(mut request: Request) -> Reply {
    let mut text = Vec::new();
    match request.body.read_to_end(&mut text) {
        Ok(_) => Reply::text(200, format!("{} {} {}", request.method, request.path, String::from_utf8_lossy(&text))),
        Err(e) => Reply::text(400, e.to_string()),
    }
}

const CLOSE: &str = "Host: h\r\nConnection: close\r\n";

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn requests_on_one_connection_are_answered_in_order() {
    let server = serve_with(ServerLimits::default(), echo);
    let got = exchange(
        &server,
        &format!(
            "GET /a HTTP/1.1\r\nHost: h\r\n\r\nPOST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nxyz\
             POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;e=1\r\nabc\r\n2\r\nde\r\n0\r\nT: x\r\n\r\n\
             GET /d HTTP/1.1\r\n{CLOSE}\r\n"
        ),
    );
    let at: Vec<_> = ["GET /a ", "POST /b xyz", "POST /c abcde", "GET /d "].iter().map(|s| got.find(s)).collect();
    assert!(at.iter().all(Option::is_some) && at.is_sorted(), "{got}");
    assert!(got.ends_with("GET /d "), "{got}");
}

#[test]
fn heads_without_bodies() {
    let server = serve_with(ServerLimits::default(), |request: Request| match request.path.as_str() {
        "/none" => Reply::status(204),
        "/same" => Reply::text(304, "not sent"),
        "/stream" => Reply::status(200).body(Body::Stream(Box::new(io::empty()), Some(77))),
        _ => Reply::text(200, "four"),
    });
    let got = exchange(&server, &format!("HEAD /x HTTP/1.1\r\n{CLOSE}\r\n"));
    assert!(got.contains("Content-Length: 4\r\n") && body(&got).is_empty(), "{got}");
    let got = exchange(&server, &format!("HEAD /stream HTTP/1.1\r\n{CLOSE}\r\n"));
    assert!(got.contains("Content-Length: 77\r\n") && body(&got).is_empty(), "{got}");
    for path in ["/none", "/same"] {
        let got = exchange(&server, &format!("GET {path} HTTP/1.1\r\n{CLOSE}\r\n"));
        assert!(!got.contains("Content-Length") && body(&got).is_empty(), "{got}");
    }
}

#[test]
fn old_clients() {
    let server = serve_with(ServerLimits::default(), |request: Request| match request.path.as_str() {
        "/stream" => Reply::status(200).body(Body::Stream(Box::new(io::Cursor::new(b"streamed")), None)),
        _ => echo(request),
    });
    let got = exchange(&server, "GET /x HTTP/1.0\r\n\r\n");
    assert!(got.ends_with("Connection: close\r\n\r\nGET /x "), "{got}");
    let got = exchange(&server, "GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(!got.contains("chunked") && !got.contains("Content-Length") && body(&got) == "streamed", "{got}");
    let got = exchange(&server, "GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\n\r\n");
    assert!(got.contains("keep-alive\r\n\r\nGET /1 ") && got.ends_with("GET /2 "), "{got}");
}

#[test]
fn streams_are_chunked_and_broken_ones_look_broken() {
    struct Breaks(usize);
    impl Read for Breaks {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::other("upstream went away"));
            }
            self.0 -= 1;
            buf[0] = b'x';
            Ok(1)
        }
    }
    let server = serve_with(ServerLimits::default(), |request: Request| {
        let stream: Box<dyn Read + Send> = match request.path.as_str() {
            "/whole" => Box::new(io::Cursor::new(vec![b'w'; 100_000])),
            "/short" => return Reply::status(200).body(Body::Stream(Box::new(io::Cursor::new(b"abc")), Some(10))),
            _ => Box::new(Breaks(3)),
        };
        Reply::status(200).body(Body::Stream(stream, None))
    });
    let got = exchange(&server, &format!("GET /whole HTTP/1.1\r\n{CLOSE}\r\n"));
    assert!(got.contains("Transfer-Encoding: chunked\r\n") && got.ends_with("0\r\n\r\n"), "{got}");
    assert_eq!(got.matches('w').count(), 100_000);
    for (path, version) in [("/broken", "1.1"), ("/short", "1.1"), ("/broken", "1.0")] {
        let mut socket = connect(&server);
        socket.write_all(format!("GET {path} HTTP/{version}\r\n{CLOSE}\r\n").as_bytes()).unwrap();
        let mut got = Vec::new();
        let end = socket.read_to_end(&mut got);
        let text = String::from_utf8_lossy(&got);
        assert!(!text.ends_with("0\r\n\r\n"), "{text}");
        assert!(end.is_err(), "{path} HTTP/{version} ended cleanly: {text}");
    }
}

#[test]
fn files_of_all_sizes() {
    let dir = std::env::temp_dir().join(format!("gcp-server-files-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let sizes = [0u64, 1, 64 << 10, (64 << 10) + 1, 9 << 20];
    for n in sizes {
        std::fs::write(dir.join(n.to_string()), vec![(n % 251) as u8; n as usize]).unwrap();
    }
    let served = dir.clone();
    let server = serve_with(ServerLimits::default(), move |request: Request| {
        let file = std::fs::File::open(served.join(&request.path[1..])).unwrap();
        let len = file.metadata().unwrap().len() + request.query.map_or(0, |_| 5);
        Reply::status(200).body(Body::File(file.into(), 0, len))
    });
    let mut socket = connect(&server);
    for n in sizes {
        socket.write_all(format!("GET /{n} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).unwrap();
        let head = read_until(&mut socket, "\r\n\r\n");
        assert!(head.contains(&format!("Content-Length: {n}\r\n")), "{head}");
        let mut got = vec![0; n as usize];
        socket.read_exact(&mut got).unwrap();
        assert!(got.iter().all(|b| *b == (n % 251) as u8), "{n} bytes");
    }
    for n in sizes {
        // a file shorter than promised: the client must not take it for whole
        let mut socket = connect(&server);
        socket.write_all(format!("GET /{n}?longer HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).unwrap();
        let mut got = Vec::new();
        let _ = socket.read_to_end(&mut got);
        let text = String::from_utf8_lossy(&got[..got.len().min(400)]).into_owned();
        assert!(text.contains(&format!("Content-Length: {}\r\n", n + 5)), "{text}");
        let head = got.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        assert!((got.len() - head) as u64 <= n);
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn bodies_that_are_not_read_do_not_become_requests() {
    let server = serve_with(ServerLimits::default(), |_: Request| Reply::text(200, "unread"));
    let smuggled = "GET /evil HTTP/1.1\r\nHost: h\r\n\r\n";
    let got = exchange(
        &server,
        &format!(
            "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{smuggled}GET /b HTTP/1.1\r\n{CLOSE}\r\n",
            smuggled.len()
        ),
    );
    assert_eq!(got.matches("HTTP/1.1 200").count(), 2, "{got}");
    // a body that does not come: the answer does, then the end
    let got = exchange(&server, "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nxx");
    assert!(got.contains("Connection: close\r\n") && got.ends_with("unread"), "{got}");
    // nor does one that the client holds back until it is told to go on
    let got = exchange(&server, "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert!(got.starts_with("HTTP/1.1 200") && got.contains("Connection: close\r\n"), "{got}");
}

#[test]
fn continue_is_sent_when_the_body_is_wanted() {
    let server = serve_with(ServerLimits::default(), echo);
    let mut socket = connect(&server);
    socket
        .write_all(
            b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
        )
        .unwrap();
    assert_eq!(read_until(&mut socket, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    socket.write_all(b"hello").unwrap();
    let mut got = String::new();
    socket.read_to_string(&mut got).unwrap();
    assert!(got.ends_with("PUT /a hello"), "{got}");
}

#[test]
fn malformed_bodies_are_errors_and_end_the_connection() {
    let server = serve_with(ServerLimits::default(), echo);
    for bad in ["zz\r\nabc", "-1\r\n", "3\nabc\r\n", "2\r\nabc\r\n", "11111111111111111\r\nx", "\r\n\r\n"] {
        let got = exchange(
            &server,
            &format!(
                "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{bad}\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"
            ),
        );
        assert!(got.starts_with("HTTP/1.1 400") && got.contains("Connection: close\r\n"), "{bad:?}: {got}");
        assert_eq!(got.matches("HTTP/1.1").count(), 1, "{bad:?}: {got}");
    }
}

#[test]
fn refused_heads_are_answered_and_closed() {
    let server = serve_with(ServerLimits::default(), echo);
    let long = "x".repeat(40 << 10);
    for (head, status) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: h\r\n\r\n"), 414),
        (format!("GET / HTTP/1.1\r\nHost: h\r\nA: {long}\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "A:b\r\n".repeat(101)), 431),
        ("BREW\x01 / HTTP/1.1\r\n\r\n".into(), 400),
        ("GET / HTTP/3.0\r\n\r\n".into(), 505),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n".into(), 400),
    ] {
        let got = exchange(&server, &head);
        assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {got}");
    }
    assert!(exchange(&server, &format!("GET /fine HTTP/1.1\r\n{CLOSE}\r\n")).ends_with("GET /fine "));
}

#[test]
fn clients_that_say_nothing_or_little_do_not_hold_up_others() {
    let limits =
        ServerLimits { max_connections: 600, head_timeout: Duration::from_millis(300), ..ServerLimits::default() };
    let server = serve_with(limits, echo);
    let mut others = Vec::new();
    for n in 0..250 {
        others.push(connect(&server));
        let mut dribbler = connect(&server);
        dribbler.write_all(format!("GET /{n} HTT").as_bytes()).unwrap();
        others.push(dribbler);
    }
    assert!(exchange(&server, &format!("GET /in-between HTTP/1.1\r\n{CLOSE}\r\n")).ends_with("/in-between "));
    // dribblers are cut off, those that say nothing may stay
    until("250 connections left", || server.open.state().0 == 250);
    others[0].write_all(format!("GET /late HTTP/1.1\r\n{CLOSE}\r\n").as_bytes()).unwrap();
    let mut got = String::new();
    others[0].read_to_string(&mut got).unwrap();
    assert!(got.ends_with("/late "), "{got}");
}

#[test]
fn slow_readers_do_not_hold_up_others() {
    let path = std::env::temp_dir().join(format!("gcp-server-slow-{}", std::process::id()));
    std::fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
    let big = path.clone();
    let server = serve_with(ServerLimits::default(), move |request: Request| match request.path.as_str() {
        "/big" => Reply::status(200).body(Body::File(std::fs::File::open(&big).unwrap().into(), 0, 64 << 20)),
        _ => echo(request),
    });
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut socket = connect(&server);
        socket.write_all(format!("GET /big HTTP/1.1\r\n{CLOSE}\r\n").as_bytes()).unwrap();
        read_until(&mut socket, "\r\n\r\n");
        slow.push(socket);
    }
    assert!(exchange(&server, &format!("GET /quick HTTP/1.1\r\n{CLOSE}\r\n")).ends_with("/quick "));
    let mut rest = Vec::new();
    slow[7].read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), 64 << 20);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn at_the_cap_the_longest_idle_makes_room() {
    let limits = ServerLimits { max_connections: 16, ..ServerLimits::default() };
    let server = serve_with(limits, echo);
    let mut first = connect(&server);
    until("the first is in", || server.open.state().1 == 1);
    let others: Vec<_> = (0..15).map(|_| connect(&server)).collect();
    until("all are in", || server.open.state().1 == 16);
    assert!(exchange(&server, &format!("GET /new HTTP/1.1\r\n{CLOSE}\r\n")).ends_with("/new "));
    assert_eq!(first.read(&mut [0]).unwrap(), 0, "the oldest was closed");
    drop(others);
}

#[test]
fn idle_connections_time_out() {
    let limits = ServerLimits { idle_timeout: Duration::from_millis(100), ..ServerLimits::default() };
    let server = serve_with(limits, echo);
    let mut socket = connect(&server);
    socket.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut got = String::new();
    socket.read_to_string(&mut got).unwrap();
    assert!(got.starts_with("HTTP/1.1 200"), "{got}");
}

#[test]
fn stop_lets_answers_finish_and_frees_the_port() {
    let (entered, was_entered) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let server = serve_with(ServerLimits::default(), move |request: Request| {
        if request.path == "/slow" {
            entered.send(()).unwrap();
            released.lock().unwrap().recv().unwrap();
        }
        echo(request)
    });
    let addr = server.addr;
    let mut idle = connect(&server);
    let mut slow = connect(&server);
    slow.write_all(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    was_entered.recv().unwrap();
    std::thread::scope(|s| {
        s.spawn(|| server.stop());
        assert_eq!(idle.read(&mut [0]).unwrap(), 0, "idle connections are closed");
        release.send(()).unwrap();
        let mut got = String::new();
        slow.read_to_string(&mut got).unwrap();
        assert!(got.contains("Connection: close\r\n") && got.ends_with("GET /slow "), "{got}");
    });
    assert!(TcpStream::connect(addr).is_err());
    assert_eq!(server.open.state().0, 0);
}

#[test]
fn stop_is_bounded() {
    let limits = ServerLimits { grace: Duration::from_millis(50), ..ServerLimits::default() };
    let server =
        serve_with(limits, |_: Request| Reply::status(200).body(Body::Stream(Box::new(io::repeat(b'x')), None)));
    let mut socket = connect(&server);
    socket.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    read_until(&mut socket, "xxx");
    server.stop();
    assert_eq!(server.open.state().0, 0);
}

#[test]
fn a_port_that_is_taken_is_a_clear_error() {
    let server = serve_with(ServerLimits::default(), echo);
    let e = Server::start(server.addr, server.open.clone(), ServerLimits::default(), None, Arc::new(echo))
        .err()
        .expect("taken");
    assert_eq!(e.kind(), io::ErrorKind::AddrInUse);
    assert!(e.to_string().contains(&server.addr.to_string()), "{e}");
}

#[test]
fn connect_hands_the_connection_over() {
    let server = serve_with(ServerLimits::default(), |request: Request| {
        let Target::Authority(host) = request.target else { return Reply::status(404) };
        assert_eq!(request.method, Method::Connect);
        Reply::status(200).body(Body::Takeover(Box::new(move |mut socket| {
            if host.to_string() == "inner.example:443" {
                // one more server inside, as for intercepted TLS
                let context = Context { peer: None, origin: Some(("https", host.without_port(443))) };
                let inner = |r: Request| match r.target {
                    Target::Absolute(scheme, host) => Reply::text(200, format!("{scheme}://{host}{}", r.path)),
                    _ => Reply::status(404),
                };
                serve(socket, &inner, &context);
            } else {
                let mut word = [0; 4];
                socket.read_exact(&mut word).unwrap();
                socket.write_all(&word).unwrap();
            }
        })))
    });
    // what follows the head at once belongs to the new owner
    let got = exchange(&server, "CONNECT a.example:1 HTTP/1.1\r\nHost: h\r\n\r\nping");
    assert!(got.starts_with("HTTP/1.1 200 ") && !got.contains("Content-Length"), "{got}");
    assert_eq!(body(&got), "ping");
    let got = exchange(
        &server,
        &format!("CONNECT inner.example:443 HTTP/1.1\r\nHost: h\r\n\r\nGET /x HTTP/1.1\r\n{CLOSE}\r\n"),
    );
    assert!(got.ends_with("https://inner.example/x"), "{got}");
    server.stop();
}

#[test]
fn heads_and_bodies_that_drip_are_ended() {
    let (brief, long) = (Duration::from_millis(400), Duration::from_secs(60));
    for (text, limits) in [
        ("GET /", ServerLimits { head_timeout: brief, ..ServerLimits::default() }),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n",
            ServerLimits { io_timeout: brief, idle_timeout: long, ..ServerLimits::default() },
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;",
            ServerLimits { io_timeout: brief, idle_timeout: long, ..ServerLimits::default() },
        ),
    ] {
        let server = serve_with(limits, echo);
        let begun = Instant::now();
        let mut socket = connect(&server);
        socket.write_all(text.as_bytes()).unwrap();
        until("the connection to be taken", || server.open.state().0 == 1);
        // each byte comes long before a pause would be too long
        until("the connection's end", || {
            std::thread::sleep(brief / 20);
            let _ = socket.write_all(b"x"); // refused once the server has closed
            server.open.state().0 == 0
        });
        assert!(begun.elapsed() >= brief, "{text:?}: ended after {:?}", begun.elapsed());
    }
}

#[test]
fn readers_that_stop_are_cut_off_and_fair_ones_are_not() {
    const LEN: usize = 24 << 20;
    let limits = ServerLimits { io_timeout: Duration::from_millis(500), ..ServerLimits::default() };
    let path = std::env::temp_dir().join(format!("gcp-server-fair-{}", std::process::id()));
    std::fs::File::create(&path).unwrap().set_len(LEN as u64).unwrap();
    let big = path.clone();
    let server = serve_with(limits, move |request: Request| {
        let file = std::fs::File::open(&big).unwrap();
        Reply::status(200).body(match request.path.as_str() {
            "/stream" => Body::Stream(Box::new(file), None),
            "/promised" => Body::Stream(Box::new(file), Some(LEN as u64)),
            _ => Body::File(file.into(), 0, LEN as u64),
        })
    });
    for path in ["/file", "/stream", "/promised"] {
        let [mut stopped, mut fair] = [(); 2].map(|()| {
            let mut socket = connect(&server);
            socket.write_all(format!("GET {path} HTTP/1.1\r\n{CLOSE}\r\n").as_bytes()).unwrap();
            read_until(&mut socket, "\r\n\r\n");
            socket
        });
        let (mut got, mut piece) = (0, vec![0; 128 << 10]);
        while let n @ 1.. = fair.read(&mut piece).unwrap() {
            got += n;
            std::thread::sleep(Duration::from_millis(4));
        }
        assert!(got >= LEN, "{path}: {got} bytes");
        until("the cut", || server.open.state().0 == 0);
        let mut rest = Vec::new();
        let end = stopped.read_to_end(&mut rest);
        assert!(end.is_err() || rest.len() < LEN, "{path}: it came all the same");
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn an_answer_under_way_is_never_cut_to_make_room() {
    let limits = ServerLimits { max_connections: 16, ..ServerLimits::default() };
    let (entered, was_entered) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let server = serve_with(limits, move |request: Request| {
        if request.path == "/slow" {
            entered.send(()).unwrap();
            released.lock().unwrap().recv().unwrap();
        }
        echo(request)
    });
    // the oldest of all, but answered
    let mut slow: Vec<_> = (0..15).map(|_| connect(&server)).collect();
    for socket in &mut slow {
        socket.write_all(format!("GET /slow HTTP/1.1\r\n{CLOSE}\r\n").as_bytes()).unwrap();
        was_entered.recv().unwrap();
    }
    let crowd: Vec<_> = (0..50).map(|_| connect(&server)).collect();
    assert!(exchange(&server, &format!("GET /new HTTP/1.1\r\n{CLOSE}\r\n")).ends_with("/new "));
    assert!(server.open.state().0 <= 18, "{:?}", server.open.state());
    // with all places taken by answers the next one waits for an end
    let mut last = connect(&server);
    last.write_all(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    was_entered.recv().unwrap();
    let mut waits = connect(&server);
    waits.write_all(format!("GET /waits HTTP/1.1\r\n{CLOSE}\r\n").as_bytes()).unwrap();
    for _ in 0..16 {
        release.send(()).unwrap();
    }
    for socket in slow.iter_mut().chain([&mut waits]) {
        let mut got = String::new();
        socket.read_to_string(&mut got).unwrap();
        assert!(got.starts_with("HTTP/1.1 200"), "{got}");
    }
    assert!(read_until(&mut last, "/slow ").starts_with("HTTP/1.1 200"));
    drop(crowd);
}
