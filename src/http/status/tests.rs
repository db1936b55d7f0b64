//! Who is answered what.

use std::io;
use std::time::Duration;

use super::*;
use crate::http::auth::Access;
use crate::http::exchange::{Method, Target};

fn status(metrics: &Arc<Metrics>) -> (Status, Arc<AtomicBool>) {
    let stopping = Arc::new(AtomicBool::new(false));
    let sources = Sources {
        metrics: metrics.clone(),
        cache_dir: "/nonexistent/<dir>".into(),
        bucket: None,
        uploader: None,
        open: Open::new(8),
        sessions: Box::new(|| 2),
        stopping: stopping.clone(),
        started: SystemTime::now(),
        cmdline: vec!["serve".to_string(), "--upstream=https://u:secret@h/".to_string()],
    };
    (Status::new(sources).unwrap(), stopping)
}

fn request(method: Method, path: &str, host: Option<&str>) -> Request<'static> {
    let headers = host.map(|h| ("host".parse().unwrap(), h.parse().unwrap())).into_iter().collect();
    Request {
        method,
        target: Target::Origin,
        path: path.to_string(),
        query: None,
        headers,
        peer: None,
        access: Access::ALL,
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
fn there_is_one_answer_for_each_path() {
    let (status, stopping) = status(&Arc::default());
    let code = |path| status.handle(request(Method::Get, path, None)).status;
    assert_eq!((code("/debug/"), code("/debug/pprof/")), (200, 404));
    assert_eq!(status.handle(request(Method::Head, "/debug/", None)).status, 200);
    assert_eq!((code("/healthz"), code("/readyz")), (200, 503)); // there is no directory
    stopping.store(true, Ordering::Relaxed);
    assert_eq!((code("/healthz"), code("/readyz")), (503, 503));
    assert!(get(&status, "/debug/status.json").contains(r#""stopping":true"#));
}

#[test]
fn what_requests_asked_for_is_text_and_nothing_else() {
    let metrics = Arc::new(Metrics::default());
    let (status, _) = status(&metrics);
    let nasty = "</script><img src=x onerror=alert(1)>\"'&";
    metrics.recent.push("proxy", || nasty.to_string(), "fetch, uncached", None, Duration::from_millis(3));
    let all: serde_json::Value = serde_json::from_str(&get(&status, "/debug/status.json")).unwrap();
    assert_eq!(all["page"]["recent"][0]["what"], nasty);
    assert_eq!(all["page"]["directory"], "/nonexistent/<dir>");
    let script = get(&status, "/debug/page.js");
    for forbidden in ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval", "http:", "https:"] {
        assert!(!script.contains(forbidden), "{forbidden}");
    }
}

#[test]
fn the_policy_allows_what_the_page_holds_and_no_more() {
    let (status, _) = status(&Arc::default());
    let reply = status.handle(request(Method::Get, "/debug/", None));
    let policy = reply.headers.iter().find(|h| h.field.equiv("Content-Security-Policy")).unwrap().value.to_string();
    for want in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(want), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    let page = text(reply);
    for forbidden in ["http://", "https://", " style=", "<style", "onclick", "<script>"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    for file in ["page.js", "page.css"] {
        assert_eq!(page.matches(file).count(), 1, "{file}");
        get(&status, &format!("/debug/{file}"));
    }
}

#[test]
fn the_script_finds_what_it_reads() {
    let (status, _) = status(&Arc::default());
    let all: serde_json::Value = serde_json::from_str(&get(&status, "/debug/status.json")).unwrap();
    let script = get(&status, "/debug/page.js");
    for part in script.split("state.").skip(1) {
        let name: String = part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
        assert!(all["status"].get(&name).is_some(), "{name}");
    }
    for name in all["latency"].as_object().unwrap().keys() {
        assert!(script.contains(&format!("{name}: '")), "{name}");
    }
    let samples = all["page"]["samples"].as_array().unwrap();
    let columns = all["page"]["columns"].as_array().unwrap();
    assert!(samples.iter().all(|s| s.as_array().unwrap().len() == columns.len()));
    for column in columns {
        assert!(script.contains(column.as_str().unwrap()), "{column}");
    }
    let status = &all["status"];
    assert!(status["process_resident_memory_bytes"].as_u64().unwrap() > 100_000);
    assert!(status["process_threads"].as_u64().unwrap() >= 1 && status["process_open_fds"].as_u64().unwrap() >= 3);
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
