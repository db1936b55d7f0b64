//! Who is answered what.

use std::io;

use super::*;
use crate::http::exchange::Target;

fn status(metrics: &Arc<Metrics>) -> (Status, Arc<AtomicBool>) {
    let stopping = Arc::new(AtomicBool::new(false));
    let sources = Sources {
        metrics: metrics.clone(),
        cache_dir: "/nonexistent/<dir>".into(),
        bucket: None,
        uploader: None,
        sessions: Box::new(|| 2),
        stopping: stopping.clone(),
        started: SystemTime::now(),
        cmdline: vec!["serve".to_string(), "--upstream=https://u:secret@h/".to_string()],
    };
    (Status::new(sources).unwrap(), stopping)
}

fn request(method: Method, path: &str, host: Option<&str>) -> Request {
    let headers = host.map(|h| format!("Host: {h}").parse().unwrap()).into_iter().collect();
    Request {
        method,
        target: Target::Origin,
        path: path.to_string(),
        query: None,
        headers,
        peer: None,
        body: Box::new(io::empty()),
        body_len: None,
    }
}

fn text(reply: Reply) -> String {
    match reply.body {
        Body::Bytes(bytes) => String::from_utf8(bytes).unwrap(),
        _ => panic!("not a text"),
    }
}

fn get(status: &Status, path: &str) -> String {
    let reply = status.handle(request(Method::Get, path, Some("127.0.0.1:1")));
    assert_eq!(reply.status, 200, "{path}");
    text(reply)
}

#[test]
fn only_this_machine_s_names_see_the_status() {
    let (status, stopping) = status(&Arc::default());
    let code = |path, host| status.handle(request(Method::Get, path, host)).status;
    for host in ["localhost", "LOCALHOST:5970", "127.0.0.1:5970", "[::1]:5970", "[::1]", "a.localhost", "10.1.2.3"] {
        assert_eq!(code("/debug/", Some(host)), 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:5970", "", "[evil]", "notlocalhost"]
    {
        for path in ["/debug/", "/debug/vars", "/debug/live.json", "/metrics"] {
            assert_eq!(code(path, Some(host)), 421, "{host} {path}");
        }
        assert_eq!(code("/healthz", Some(host)), 200);
    }
    assert_eq!(code("/debug", None), 308);
    assert_eq!(code("/debug/pprof/", None), 404);
    assert_eq!(status.handle(request(Method::Post, "/healthz", None)).status, 405);
    assert_eq!(status.handle(request(Method::Head, "/debug/", None)).status, 200);
    stopping.store(true, Ordering::Relaxed);
    assert_eq!(code("/healthz", None), 503);
    assert!(get(&status, "/debug/").contains(">stopping<"));
}
