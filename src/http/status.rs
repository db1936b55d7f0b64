//! How the program is doing: a page for people at `/debug/`, the reference program's
//! `/debug/vars`, Prometheus text at `/metrics` and `/debug/varz`, `/healthz` and `/readyz`.
//!
//! Invariants: everything here only reads; a request costs no more than reading the counters, one
//! small lock and an hour's samples; nothing here waits for an upstream, a bucket or the disk that
//! `/readyz` tells of, which a thread tries now and then. The page is three files that a script fills
//! from `/debug/status.json`, nothing on it comes from elsewhere, and what requests asked for appears
//! on it as text only. `/healthz` and `/readyz` are for everybody and name nothing.

mod gauges;
mod prometheus;
mod samples;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use serde_json::json;

use self::samples::Samples;
use super::exchange::{Body, Reply, Request};
use crate::connections::Open;
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
    /// The HTTP connections.
    pub open: Arc<Open>,
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
        let now = samples::take(&self.sources);
        samples.push(now.map(|(_, value)| value));
        let recent = metrics.recent.list().into_iter().map(|r| {
            let ago = r.at.elapsed().unwrap_or_default().as_secs();
            json!({ "ago_seconds": ago, "kind": r.kind, "what": r.what, "outcome": r.outcome, "bytes": r.bytes,
                    "seconds": r.took.as_secs_f64() })
        });
        let upstreams = metrics.upstreams.list().into_iter().map(|(name, u)| {
            let last = u.last_error.as_ref();
            json!({ "name": name, "requests": u.requests, "errors": u.errors, "failing": u.failing,
                    "pace_seconds": (u.requests > 0).then_some(u.pace.as_secs_f64()), "waiting": u.waiting.len(),
                    "waiting_seconds": u.waiting.first().map(|begun| begun.elapsed().as_secs()),
                    "last_error": last.map(|(_, why)| why), "error_ago_seconds": last.map(|(at, _)| at.elapsed().as_secs()) })
        });
        let upstreams: Vec<_> = upstreams.collect();
        let mut all = gauges::expvar(&self.sources);
        all["page"] = json!({
            "directory": cache_dir.display().to_string(),
            "bucket": bucket.as_ref().map(|b| b.target()),
            "columns": now.map(|(name, _)| name),
            "samples": samples,
            "upstreams": upstreams,
            "recent": recent.collect::<Vec<_>>(),
        });
        all
    }

    /// Whether this server should be sent requests: 503 while it stops, or its disk takes nothing. What
    /// fails beyond that is said, but what is kept is served all the same.
    fn ready(&self) -> Reply {
        let Sources { stopping, bucket, metrics, .. } = &*self.sources;
        let stopping = stopping.load(Ordering::Relaxed);
        let disk = self.samples.disk();
        let bucket = match bucket.as_ref().map(|bucket| bucket.available()) {
            None => "none",
            Some(true) => "in use",
            Some(false) => "left alone, because it failed",
        };
        let upstreams = metrics.upstreams.list();
        let failing = upstreams.values().filter(|upstream| upstream.failing > 0).count();
        let (status, first) = match disk {
            _ if stopping => (503, "stopping"),
            Ok(()) => (200, "ready"),
            Err(_) => (503, "not ready"),
        };
        let text = format!(
            "{first}\ndisk: {}\nbucket: {bucket}\nupstreams: {failing} of {} failing\n",
            disk.err().unwrap_or("writable"),
            upstreams.len()
        );
        Reply::text(status, text)
    }

    /// The answer to `request`.
    pub fn handle(&self, request: Request<'_>) -> Reply {
        let reply = match request.path.as_str() {
            "/healthz" if self.sources.stopping.load(Ordering::Relaxed) => Reply::text(503, "stopping\n"),
            "/healthz" => Reply::text(200, "ok\n"),
            "/readyz" => self.ready(),
            path => self.get(path),
        };
        reply
            .header("Cache-Control", "no-store")
            .header("X-Content-Type-Options", "nosniff")
            .header("Referrer-Policy", "no-referrer")
    }
}

/// A text of that media type.
fn answer(kind: &str, text: impl Into<String>) -> Reply {
    let kind = format!("{kind}; charset=utf-8");
    Reply::status(200).header("Content-Type", kind).body(Body::Bytes(text.into().into_bytes()))
}

#[cfg(test)]
mod tests;
