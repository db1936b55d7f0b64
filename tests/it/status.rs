//! Status page, metrics and health of a running server: in a real browser, and through a parser
//! that is as strict as promtool.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;

use rustix::process::Signal;
use serde_json::json;

use crate::support::browser::{self, Browser};
use crate::support::client::Client;
use crate::support::env::{Plugin, Running, TempDir, free_port, poll};

/// A running server, its HTTP port, and a client of its cache.
fn serve(dir: &TempDir) -> (Running, u16, Client) {
    let port = free_port();
    let socket = dir.join("plugin.sock");
    let child = Plugin::new(dir)
        .arg("serve")
        .arg(format!("--plugin={}", socket.display()))
        .arg(format!("--http=127.0.0.1:{port}"))
        .spawn();
    poll("the server", || TcpStream::connect(("127.0.0.1", port)).ok());
    let mut client = Client::unix(&socket);
    client.greeting();
    (child, port, client)
}

fn get(port: u16, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_string())
}

/// Samples by name and labels, once every rule of the text format holds.
fn parse(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'));
    let name_ok = |n: &str| {
        !n.starts_with(|c: char| c.is_ascii_digit())
            && !n.is_empty()
            && n.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':'))
    };
    let mut samples = BTreeMap::new();
    let mut kinds: BTreeMap<String, String> = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut current = String::new();
    for line in text.lines() {
        assert!(!line.is_empty() && line.trim() == line, "{line:?}");
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').expect("a help has a text");
            assert!(name_ok(name) && !text.is_empty(), "{line}");
            assert!(helped.insert(name.to_string()), "help of {name} twice");
            current = name.to_string();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, current, "the type follows the help");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(kinds.insert(name.to_string(), kind.to_string()).is_none(), "type of {name} twice");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else {
            assert!(!line.starts_with('#'), "{line}");
            let (series, value) = line.rsplit_once(' ').unwrap();
            let value: f64 = value.parse().unwrap();
            let (name, labels) =
                series.split_once('{').map_or((series, ""), |(n, l)| (n, l.strip_suffix('}').unwrap()));
            assert!(name_ok(name), "{line}");
            if !labels.is_empty() {
                let (label, quoted) = labels.split_once('=').unwrap();
                let inner = quoted.strip_prefix('"').and_then(|q| q.strip_suffix('"')).unwrap();
                assert!(name_ok(label) && !inner.replace("\\\"", "").contains('"'), "{line}");
            }
            let kind = kinds.get(&current).unwrap_or_else(|| panic!("{line} comes before its type")).as_str();
            if kind == "histogram" {
                let suffix = name.strip_prefix(&current).unwrap_or_else(|| panic!("{line} within {current}"));
                assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}");
            } else {
                assert_eq!(name, current);
            }
            assert!(value >= 0.0 && value.is_finite(), "{line}");
            assert!(samples.insert(series.to_string(), value).is_none(), "{series} twice");
        }
    }
    for (name, _) in kinds.iter().filter(|(_, k)| *k == "histogram") {
        let prefix = format!("{name}_bucket{{le=\"");
        let mut buckets: Vec<(f64, f64)> = samples
            .iter()
            .filter_map(|(series, n)| Some((series.strip_prefix(&prefix)?.strip_suffix("\"}")?, *n)))
            .map(|(le, n)| (if le == "+Inf" { f64::INFINITY } else { le.parse().unwrap() }, n))
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.windows(2).all(|w| w[0].1 <= w[1].1), "{name} is not cumulative");
        let last = buckets.last().unwrap();
        assert_eq!((last.0, last.1), (f64::INFINITY, samples[&format!("{name}_count")]));
        assert!(samples.contains_key(&format!("{name}_sum")));
    }
    assert_eq!(helped.len(), kinds.len());
    samples
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let dir = TempDir::new();
    let (mut child, port, mut client) = serve(&dir);
    client.put(b"metrics-1", b"some output");
    assert!(client.get(b"metrics-1").is_some() && client.get(b"metrics-2").is_none());
    for path in ["/metrics", "/debug/varz"] {
        let (status, text) = get(port, path);
        assert_eq!(status, 200);
        let samples = parse(&text);
        assert_eq!(samples["gocache_server_get_requests_total"], 2.0);
        assert_eq!(samples["gocache_server_get_hits_total"], 1.0);
        assert_eq!(samples["gocache_server_put_requests_total"], 1.0);
        for name in ["get", "put", "bucket_request", "upstream_request", "http_request"] {
            assert!(samples.contains_key(&format!("gocache_{name}_duration_seconds_count")), "{name}");
        }
        assert_eq!(samples["gocache_sessions"], 1.0);
        assert!(samples["process_resident_memory_bytes"] > 1e5);
    }
    let vars: serde_json::Value = serde_json::from_str(&get(port, "/debug/vars").1).unwrap();
    assert_eq!(vars["gocache_server"]["get_hits"], 1);
    assert_eq!(get(port, "/healthz"), (200, "ok\n".to_string()));
    client.close();
    child.signal(Signal::TERM);
    child.wait().ok();
}

#[test]
fn the_page_moves_in_a_real_browser() {
    if browser::excused() {
        return;
    }
    let dir = TempDir::new();
    let (mut child, port, mut client) = serve(&dir);
    let url = format!("http://127.0.0.1:{port}/debug/");
    let mut page = Browser::start();
    let text = |id: &str| format!("document.getElementById('{id}').textContent");
    for (round, width) in [360, 1280].into_iter().enumerate() {
        page.open(&url, width);
        page.wait(&format!("{} === 'serving'", text("state")));
        let before = page.eval(&text("hits-note"));
        for n in 0..40 {
            let action = format!("browser-{round}-{n}");
            client.put(action.as_bytes(), action.repeat(1000).as_bytes());
            client.get(action.as_bytes()).unwrap();
        }
        page.wait(&format!("{} !== {before}", text("hits-note")));
        page.wait(&format!("{}.startsWith('{} of ')", text("hits-note"), 40 * (round + 1)));
        page.wait("document.getElementById('bytes-line').getAttribute('d').length > 20");
        // no wider than the window, whatever is on it
        let widths = page.eval("[document.documentElement.scrollWidth, window.innerWidth]");
        assert_eq!(widths, json!([width, width]));
        let unnamed = "[...document.querySelectorAll('svg')].filter(s => \
                       !s.ariaHidden && !s.getAttribute('aria-label')).length";
        assert_eq!(page.eval(unnamed), json!(0));
    }
    // a name never becomes markup, nor hides or turns the text around it
    let hostile = r"rows('recent', [['<img src=x onerror=alert(1)>\u202e\u0007']], ['c2']), at('recent').innerHTML";
    let shown = "<tr class=\"\"><td class=\"c2\">&lt;img src=x onerror=alert(1)&gt;\u{fffd}\u{fffd}</td></tr>";
    assert_eq!(page.eval(hostile), json!(shown));
    // nothing but the page's own files was asked for
    let asked = "performance.getEntriesByType('resource').map(e => new URL(e.name)).filter(u => \
                 u.origin !== location.origin || !['page.js', 'page.css', 'status.json'].includes(u.pathname.slice(7)))";
    assert_eq!(page.eval(&format!("{asked}.length")), json!(0));
    // without scripts it says where the figures are
    page.scripts(false);
    page.open(&url, 1280);
    let offer = "document.querySelector('noscript a').checkVisibility()";
    assert_eq!(page.eval(offer), json!(true));
    assert!(page.complaints.is_empty(), "{:#?}", page.complaints);
    client.close();
    child.signal(Signal::TERM);
    child.wait().ok();
}
