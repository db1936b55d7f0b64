//! Buckets through the library: a real S3 server, and a proxy before it that misbehaves.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use go_cache_plugin::config::{AwsEnv, BucketConfig, BucketLocation};
use go_cache_plugin::metrics::Metrics;
use go_cache_plugin::remote::{Bucket, Object, PutBody, Remote, RemoteError, S3, Site};

use crate::support::fault::{Fault, FaultProxy};
use crate::support::s3::S3Server;

/// A bucket, its counters, and the lines it logged.
struct Fixture {
    bucket: Bucket,
    metrics: Arc<Metrics>,
}

impl Fixture {
    fn new(server: &S3Server, endpoint: &str) -> Self {
        Self::with(server, endpoint, |_| {})
    }

    fn with(server: &S3Server, endpoint: &str, adjust: impl FnOnce(&mut BucketConfig)) -> Self {
        let metrics = Arc::new(Metrics::default());
        let remote = server.client(endpoint, metrics.clone());
        let nowhere = BucketLocation::Dir("/nonexistent".into());
        let mut config = BucketConfig::at(nowhere, server.prefix.parse().expect("a prefix"));
        adjust(&mut config);
        Fixture { bucket: Bucket::new(Box::new(remote), config, metrics.clone(), None), metrics }
    }
}

fn bytes(b: &[u8]) -> PutBody {
    PutBody::Bytes(Arc::from(b))
}

fn body(object: Option<Object>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    object?.body.read_to_end(&mut out).expect("the whole body");
    Some(out)
}

/// Why nothing is asked of the bucket.
fn why_off(f: &Fixture) -> String {
    f.bucket.ask("k", b"", false).err().expect("it is off").to_string()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

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

#[test]
fn objects_go_there_and_back() {
    let server = S3Server::start();
    let f = Fixture::new(&server, &server.endpoint);
    assert!(f.bucket.get("k/ab/abc", b"").is_none());
    assert!(f.bucket.ask("k/ab/abc", b"", false).unwrap().is_none());
    let big: Vec<u8> = (0..3_000_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
    let file = std::env::temp_dir().join(format!("remote-put-{}", std::process::id()));
    std::fs::write(&file, &big).unwrap();
    let opened = Arc::new(std::fs::File::open(&file).unwrap());
    std::fs::remove_file(&file).unwrap();
    f.bucket.put("k/ab/abc", &PutBody::File(opened, big.len() as u64)).unwrap();
    f.bucket.put("k/ab/empty", &bytes(b"")).unwrap();
    f.bucket.put("k/cd/x", &bytes(b"hello")).unwrap();
    assert_eq!(server.keys(), ["k/ab/abc", "k/ab/empty", "k/cd/x"]);
    assert_eq!(server.read("k/ab/abc").unwrap(), big);
    let object = f.bucket.get("k/ab/abc", b"");
    assert_eq!(object.as_ref().unwrap().len, Some(big.len() as u64));
    assert_eq!(body(object).unwrap(), big);
    assert_eq!(body(f.bucket.get("k/ab/empty", b"")).unwrap(), b"");
    assert_eq!(f.bucket.get("k/ab/empty", b"").unwrap().len, Some(0));
    let mut listed = Vec::new();
    f.bucket.list("k/ab/", &mut |o| listed.push((o.key, o.len, o.age.is_some()))).unwrap();
    assert_eq!(listed, [("k/ab/abc".into(), big.len() as u64, true), ("k/ab/empty".into(), 0, true)]);
    f.bucket.delete("k/ab/abc").unwrap();
    f.bucket.delete("k/ab/abc").unwrap();
    assert_eq!(server.keys(), ["k/ab/empty", "k/cd/x"]);
    let m = &f.metrics.bucket;
    assert_eq!((m.put_bytes.get(), m.get_bytes.get()), (big.len() as u64 + 5, big.len() as u64));
    assert_eq!((m.get_requests.get(), m.put_requests.get(), m.requests.get()), (5, 3, 11));
    assert_eq!((m.errors.get(), m.retries.get()), (0, 0));
    // moto closes each
    let closes = S3Server::outside().is_some();
    assert!(closes || m.connections.get() == 1, "everything above went over one connection");
}

#[test]
fn keys_with_special_characters_are_signed_as_sent() {
    let server = S3Server::start();
    let remote = server.client(&server.endpoint, Arc::default());
    for name in ["a b", "a+b", "a%2Fb", "ü/é", "a=b&c", "a?b#c", "~!$'()*,;:@", "x&amp;<y>"] {
        let key = format!("{}/{name}", server.prefix);
        remote.put(&key, &bytes(name.as_bytes()), None, None).unwrap();
        assert_eq!(body(remote.get(&key).unwrap()).unwrap(), name.as_bytes(), "{name}");
        assert_eq!(server.read(name).unwrap(), name.as_bytes(), "{name}");
        let mut listed = Vec::new();
        remote.list(&key, None, &mut |o| listed.push(o.key)).unwrap();
        assert_eq!(listed, [key], "{name}");
    }
}

#[test]
fn listings_go_on_past_a_page() {
    let server = S3Server::in_process();
    for i in 0..2300 {
        server.write(&format!("v1/{i:04}"), b"");
    }
    let f = Fixture::new(&server, &server.endpoint);
    let mut keys = Vec::new();
    f.bucket.list("v1/", &mut |o| keys.push(o.key)).unwrap();
    assert_eq!(keys.len(), 2300);
    assert!(keys.is_sorted() && keys[0] == "v1/0000");
    assert_eq!(server.count("GET"), 3);
}

#[test]
fn conditions_are_kept() {
    let server = S3Server::start();
    let f = Fixture::new(&server, &server.endpoint);
    f.bucket.put_if("m", &bytes(b"1"), Some(""), None).unwrap();
    assert!(matches!(f.bucket.put_if("m", &bytes(b"2"), Some(""), None), Err(RemoteError::Precondition)));
    let first = f.bucket.get("m", b"").unwrap();
    let etag = first.etag.clone().unwrap();
    assert_eq!(body(Some(first)).unwrap(), b"1");
    assert_eq!(f.bucket.head("m").unwrap().unwrap().etag, etag);
    f.bucket.put_if("m", &bytes(b"22"), Some(&etag), None).unwrap();
    assert!(matches!(f.bucket.put_if("m", &bytes(b"3"), Some(&etag), None), Err(RemoteError::Precondition)));
    assert_ne!(f.bucket.head("m").unwrap().unwrap().etag, etag);
    assert!(matches!(f.bucket.head("absent"), Ok(None)));
    assert_eq!(body(f.bucket.get("m", b"")).unwrap(), b"22");
    assert_eq!(f.metrics.bucket.errors.get(), 0);
}

#[test]
fn a_tag_weakened_on_the_way_is_good_for_conditions() {
    let server = S3Server::in_process();
    server.write("k", b"v");
    let proxy = FaultProxy::start(&server.endpoint);
    let f = Fixture::new(&server, &proxy.endpoint);
    proxy.set(Fault::Weaken);
    let tag = f.bucket.ask("k", b"", false).unwrap().unwrap().etag.unwrap();
    assert_eq!(f.bucket.head("k").unwrap().unwrap().etag, tag);
    f.bucket.put_if("k", &bytes(b"w"), Some(&tag), None).unwrap();
    assert!(matches!(f.bucket.put_if("k", &bytes(b"x"), Some(&tag), None), Err(RemoteError::Precondition)));
}

#[test]
fn a_write_prefix_is_read_first_and_written_alone() {
    let server = S3Server::start();
    let main = Fixture::new(&server, &server.endpoint);
    main.bucket.put("k", &bytes(b"main")).unwrap();
    main.bucket.put("l", &bytes(b"main")).unwrap();
    let review =
        Fixture::with(&server, &server.endpoint, |p| p.write_prefix = format!("{}/pr", server.prefix).parse().ok());
    assert_eq!(body(review.bucket.get("k", b"")).unwrap(), b"main");
    review.bucket.put("k", &bytes(b"review")).unwrap();
    assert_eq!(body(review.bucket.get("k", b"")).unwrap(), b"review");
    assert_eq!(body(review.bucket.get("l", b"")).unwrap(), b"main");
    assert!(server.read("pr/l").is_none() && server.read("pr/k").is_some());
    assert_eq!(server.keys(), ["k", "l", "pr/k"]);
    assert_eq!(body(main.bucket.get("k", b"")).unwrap(), b"main");
    let reader = Fixture::with(&server, &server.endpoint, |p| p.read_only = true);
    assert!(matches!(reader.bucket.put("n", &bytes(b"")), Err(RemoteError::ReadOnly)));
    assert!(matches!(reader.bucket.delete("k"), Err(RemoteError::ReadOnly)));
    assert_eq!(body(reader.bucket.get("k", b"")).unwrap(), b"main");
    assert_eq!(server.keys(), ["k", "l", "pr/k"]);
}

#[test]
fn connections_are_used_again() {
    let server = S3Server::in_process();
    for i in 0..10 {
        server.write(&format!("k{i}"), &vec![i; 4096]);
    }
    let f = Fixture::new(&server, &server.endpoint);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for i in 0..125u8 {
                    // some are absent: their errors have bodies too
                    let got = body(f.bucket.get(&format!("k{}", i % 12), b""));
                    assert_eq!(got, (i % 12 < 10).then(|| vec![i % 12; 4096]));
                }
            });
        }
    });
    assert_eq!(server.count("GET"), 1000);
    assert!(server.connections() <= 16, "{} connections", server.connections());
    assert_eq!(f.metrics.bucket.connections.get(), server.connections());
}

#[test]
fn a_body_read_by_its_length_returns_the_connection() {
    let server = S3Server::in_process();
    server.write("k", b"12345");
    let f = Fixture::new(&server, &server.endpoint);
    for _ in 0..5 {
        let mut five = [0; 5];
        f.bucket.get("k", b"").unwrap().body.read_exact(&mut five).unwrap();
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_restarted_server_is_met_without_an_error() {
    let mut server = S3Server::in_process();
    server.write("k", b"v");
    let f = Fixture::new(&server, &server.endpoint);
    assert_eq!(body(f.bucket.get("k", b"")).unwrap(), b"v");
    server.restart();
    assert_eq!(body(f.bucket.get("k", b"")).unwrap(), b"v");
    f.bucket.put("l", &bytes(b"w")).unwrap();
    assert_eq!(f.metrics.bucket.errors.get(), 0);
}

#[test]
fn without_a_region_the_bucket_is_asked_in_the_first() {
    let server = S3Server::in_process();
    let env = AwsEnv { vars: server.env().into_iter().filter(|(k, _)| k.starts_with("AWS_")).collect() };
    let name = server.bucket.parse().unwrap();
    let site = Site { endpoint: Some(server.endpoint.parse().unwrap()), region: None, path_style: true };
    let remote = S3::new(&name, &site, &env, Arc::default()).unwrap();
    assert_eq!(server.connections(), 0, "construction asks nobody");
    assert!(remote.get("k").unwrap().is_none());
    assert_eq!(server.count(""), 1);
}

#[test]
fn short_and_broken_bodies_are_errors() {
    let server = S3Server::in_process();
    server.write("k", &[7; 100_000]);
    let proxy = FaultProxy::start(&server.endpoint);
    let f = Fixture::new(&server, &proxy.endpoint);
    for fault in [Fault::Truncate(50_000), Fault::ResetAfter(50_000), Fault::Truncate(0)] {
        proxy.set_for(fault.clone(), 1);
        let mut got = Vec::new();
        let mut object = f.bucket.get("k", b"").unwrap();
        assert_eq!(object.len, Some(100_000));
        assert!(object.body.read_to_end(&mut got).is_err(), "{fault:?} passed for a whole body");
        assert!(got.len() < 100_000);
        assert_eq!(body(f.bucket.get("k", b"")).unwrap().len(), 100_000);
    }
    assert_eq!(f.metrics.bucket.errors.get(), 3);
    assert!(f.bucket.available());
}

#[test]
fn bodies_that_always_break_open_the_breaker() {
    let server = S3Server::in_process();
    server.write("k", &[7; 1000]);
    let proxy = FaultProxy::start(&server.endpoint);
    let f = Fixture::new(&server, &proxy.endpoint);
    proxy.set(Fault::Truncate(10));
    for _ in 0..5 {
        assert!(f.bucket.get("k", b"").unwrap().body.read_to_end(&mut Vec::new()).is_err());
    }
    assert!(!f.bucket.available());
    assert!(f.bucket.get("k", b"").is_none());
    assert_eq!(f.metrics.bucket.breaker_skipped.get(), 1);
}

#[test]
fn resets_and_busy_servers_are_tried_again() {
    let server = S3Server::in_process();
    server.write("k", b"v");
    let proxy = FaultProxy::start(&server.endpoint);
    let f = Fixture::new(&server, &proxy.endpoint);
    for (fault, times) in [(Fault::Reset, 1), (Fault::Reset, 2), (Fault::Status(503), 2), (Fault::Status(500), 1)] {
        let before = f.metrics.bucket.retries.get();
        proxy.set_for(fault.clone(), times);
        assert_eq!(body(f.bucket.get("k", b"")).unwrap(), b"v", "{fault:?}");
        assert_eq!(f.metrics.bucket.retries.get() - before, times as u64);
        proxy.set_for(fault.clone(), times);
        f.bucket.put("p", &bytes(b"w")).unwrap();
        assert_eq!(server.read("p").unwrap(), b"w");
    }
    assert_eq!(f.metrics.bucket.errors.get(), 0);
    proxy.set_for(Fault::Status(503), 3);
    assert!(f.bucket.get("k", b"").is_none(), "not for ever");
    proxy.set_for(Fault::Status(418), 1);
    assert!(f.bucket.get("k", b"").is_none(), "nor what would not help");
    assert_eq!(f.metrics.bucket.errors.get(), 2);
}

#[test]
fn a_bucket_that_is_down_is_left_alone_and_found_again() {
    let mut server = S3Server::in_process();
    server.write("k", b"v");
    let f = Fixture::new(&server, &server.endpoint);
    server.stop();
    let begin = Instant::now();
    for _ in 0..500 {
        assert!(f.bucket.get("k", b"").is_none());
    }
    let m = &f.metrics.bucket;
    assert_eq!((m.requests.get(), m.breaker_skipped.get(), m.breaker_opened.get()), (5, 495, 1));
    assert!(!f.bucket.available() && why_off(&f).contains("refused"));
    server.restart();
    until("closing", || f.bucket.get("k", b"").is_some());
    assert!(begin.elapsed() > Duration::from_secs(9), "only a probe closes it");
    assert!(f.bucket.available());
}

#[test]
fn a_black_hole_holds_a_build_up_for_one_time_out() {
    let server = S3Server::in_process();
    let proxy = FaultProxy::start(&server.endpoint);
    let f = Fixture::new(&server, &proxy.endpoint);
    proxy.set(Fault::BlackHole);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..100 {
                    assert!(f.bucket.get("k", b"").is_none());
                }
            });
        }
    });
    let took = begin.elapsed();
    assert!(took > Duration::from_secs(9) && took < Duration::from_secs(19), "{took:?}");
    assert_eq!(f.metrics.bucket.requests.get(), 2);
    assert_eq!(f.metrics.bucket.breaker_opened.get(), 1);
    assert!(why_off(&f).contains("in time"));
}

#[test]
fn a_dripping_body_fails() {
    let server = S3Server::in_process();
    server.write("k", &[7; 100_000]);
    let proxy = FaultProxy::start(&server.endpoint);
    let f = Fixture::new(&server, &proxy.endpoint);
    proxy.set(Fault::Drip(20));
    let begin = Instant::now();
    let e = f.bucket.get("k", b"").unwrap().body.read_to_end(&mut Vec::new()).unwrap_err();
    assert!(e.kind() == std::io::ErrorKind::TimedOut && e.to_string().contains("too slow"), "{e}");
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}
