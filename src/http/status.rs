//! How the program is doing: a page for people at `/debug/`, the reference program's
//! `/debug/vars`, Prometheus text at `/metrics` and `/debug/varz`, and `/healthz`.
//!
//! Invariants: everything here only reads; a request costs no more than reading the counters, one
//! small lock and an hour's samples; the page is three files that a script fills from
//! `/debug/status.json`, nothing on it comes from elsewhere, and what requests asked for appears on
//! it as text only. `/healthz` may be asked from anywhere; for the rest the router lets only this
//! machine in, and a Host header that names a stranger is refused here, so that a web page cannot
//! read it by way of a rebound name.

mod gauges;
mod prometheus;
mod samples;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use serde_json::json;

use self::samples::Samples;
use super::exchange::{Body, Handler, Method, Reply, Request};
use crate::metrics::Metrics;
use crate::remote::Bucket;
use crate::upload::Uploader;

/// What the page may do: use its own files, and nothing of what markup could bring in.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// Where the status comes from.
pub struct Sources {
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The cache directory, whose size is shown.
    pub cache_dir: PathBuf,
    /// The bucket, if there is one.
    pub bucket: Option<Arc<Bucket>>,
    /// The upload queue, if there is a bucket.
    pub uploader: Option<Arc<Uploader>>,
    /// How many plugin clients are connected.
    pub sessions: Box<dyn Fn() -> usize + Send + Sync>,
    /// Set when the program begins to stop.
    pub stopping: Arc<AtomicBool>,
    /// When the program started.
    pub started: SystemTime,
    /// The command line, for `/debug/vars`.
    pub cmdline: Vec<String>,
}

/// Answers requests for the status.
pub struct Status {
    sources: Arc<Sources>,
    samples: Samples,
}

impl Status {
    /// Starts to record the last hour, on a thread that ends when the value is dropped, and the
    /// latest requests ([`Metrics::recent`]).
    pub fn new(sources: Sources) -> io::Result<Self> {
        sources.metrics.recent.enable();
        let sources = Arc::new(sources);
        Ok(Status { samples: Samples::start(sources.clone())?, sources })
    }

    fn get(&self, path: &str) -> Reply {
        match path {
            "/debug" => Reply::status(308).header("Location", "/debug/"),
            "/debug/" => {
                answer("text/html", include_str!("status/page.html")).header("Content-Security-Policy", POLICY)
            }
            "/debug/page.css" => answer("text/css", include_str!("status/page.css")),
            "/debug/page.js" => answer("text/javascript", include_str!("status/page.js")),
            "/debug/status.json" => answer("application/json", self.json().to_string()),
            "/debug/vars" => answer("application/json", gauges::expvar(&self.sources).to_string()),
            "/metrics" | "/debug/varz" => {
                let gauges = gauges::list(&self.sources);
                answer(prometheus::CONTENT_TYPE, prometheus::render(&self.sources.metrics, &gauges))
            }
            _ => Reply::text(404, "not found; see /debug/\n"),
        }
    }

    /// All that the page shows: what `/debug/vars` has, and `page` with the samples of the last hour
    /// (the last one of this moment), their columns' names and the latest requests.
    fn json(&self) -> serde_json::Value {
        let Sources { metrics, cache_dir, bucket, .. } = &*self.sources;
        let mut samples = self.samples.look();
        samples.push(samples::take(&self.sources));
        let recent = metrics.recent.list().into_iter().map(|r| {
            let ago = r.at.elapsed().unwrap_or_default().as_secs();
            json!({ "ago_seconds": ago, "kind": r.kind, "what": r.what, "outcome": r.outcome, "bytes": r.bytes,
                    "seconds": r.took.as_secs_f64() })
        });
        let mut all = gauges::expvar(&self.sources);
        all["page"] = json!({
            "directory": cache_dir.display().to_string(),
            "bucket": bucket.as_ref().map(|b| b.target()),
            "columns": samples::COLUMNS,
            "samples": samples,
            "recent": recent.collect::<Vec<_>>(),
        });
        all
    }
}

impl Handler for Status {
    fn handle(&self, request: Request) -> Reply {
        if !matches!(request.method, Method::Get | Method::Head) {
            return Reply::text(405, "only GET and HEAD\n").header("Allow", "GET, HEAD");
        }
        let reply = if request.path == "/healthz" {
            match self.sources.stopping.load(Ordering::Relaxed) {
                false => Reply::text(200, "ok\n"),
                true => Reply::text(503, "stopping\n"),
            }
        } else if !request.header("Host").is_none_or(names_this_machine) {
            Reply::text(421, "the status is shown under localhost or an address only\n")
        } else {
            self.get(&request.path)
        };
        reply
            .header("Cache-Control", "no-store")
            .header("X-Content-Type-Options", "nosniff")
            .header("Referrer-Policy", "no-referrer")
    }
}

/// Whether a Host header is an address, or a name that always means this machine.
fn names_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || name.parse::<IpAddr>().is_ok()
}

/// A text of that media type.
fn answer(kind: &str, text: impl Into<String>) -> Reply {
    let kind = format!("{kind}; charset=utf-8");
    Reply::status(200).header("Content-Type", kind).body(Body::Bytes(text.into().into_bytes()))
}

#[cfg(test)]
mod tests;
