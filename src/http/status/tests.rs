//! Who is answered what.

use std::io;
use std::time::Duration;

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
    assert!(
        Status::owns("/debug/x") && Status::owns("/healthz") && !Status::owns("/debugger") && !Status::owns("/mod/")
    );
}

#[test]
fn what_requests_asked_for_is_text_and_nothing_else() {
    let metrics = Arc::new(Metrics::default());
    let (status, _) = status(&metrics);
    let nasty = "</script><img src=x onerror=alert(1)>\"'&";
    metrics.recent.push("proxy", || nasty.to_string(), "fetch, uncached", None, Duration::from_millis(3));
    let page = get(&status, "/debug/");
    assert!(!page.contains("<img") && page.contains("&lt;/script&gt;&lt;img src=x"), "{page}");
    assert!(page.contains("/nonexistent/&lt;dir&gt;"));
    let live: serde_json::Value = serde_json::from_str(&get(&status, "/debug/live.json")).unwrap();
    assert_eq!(live["recent"][0][2], nasty);
}

#[test]
fn the_page_has_an_element_for_everything_that_changes() {
    let (status, _) = status(&Arc::default());
    let page = get(&status, "/debug/");
    let live: serde_json::Value = serde_json::from_str(&get(&status, "/debug/live.json")).unwrap();
    let mut ids = 0;
    for map in ["text", "path", "label", "mood"] {
        for id in live[map].as_object().unwrap().keys() {
            assert_eq!(page.matches(&format!(" id=\"{id}\"")).count(), 1, "{map} {id}");
            ids += 1;
        }
    }
    assert!(ids > 40, "{ids}");
    for forbidden in ["http://", "https://", " style=", "onclick", "src="] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
}

#[test]
fn the_policy_allows_exactly_what_the_page_holds() {
    let (status, _) = status(&Arc::default());
    let reply = status.handle(request(Method::Get, "/debug/", None));
    let policy = reply.headers.iter().find(|(n, _)| n == "Content-Security-Policy").unwrap().1.clone();
    let page = text(reply);
    for element in ["style", "script"] {
        let begin = page.find(&format!("<{element}>")).unwrap() + element.len() + 2;
        let end = page.find(&format!("</{element}>")).unwrap();
        let hash = base64_simd::STANDARD.encode_to_string(<sha2::Sha256 as sha2::Digest>::digest(&page[begin..end]));
        assert!(policy.contains(&format!("{element}-src 'sha256-{hash}'")), "{policy}");
    }
}

#[test]
fn expvar_has_the_reference_s_groups() {
    let metrics = Arc::new(Metrics::default());
    metrics.server.get_requests.add(7);
    let (status, _) = status(&metrics);
    let vars: serde_json::Value = serde_json::from_str(&get(&status, "/debug/vars")).unwrap();
    assert_eq!(vars["gocache_server"]["get_requests"], 7);
    for group in ["gocache_host", "modcache", "revcache", "proxyconn", "memstats", "cmdline"] {
        assert!(!vars[group].is_null(), "{group}");
    }
    assert_eq!(vars["cmdline"][1], "--upstream=https://h/");
    assert_eq!(vars["status"]["sessions"], 2);
}

#[test]
fn both_names_of_the_metrics_say_the_same_counters() {
    let metrics = Arc::new(Metrics::default());
    metrics.server.get_requests.add(7);
    let (status, _) = status(&metrics);
    for path in ["/metrics", "/debug/varz"] {
        assert!(get(&status, path).contains("\ngocache_server_get_requests_total 7\n"));
    }
}
