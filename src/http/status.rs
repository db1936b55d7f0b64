//! How the program is doing: a page for people at `/debug/`, the reference program's
//! `/debug/vars`, Prometheus text at `/metrics` and `/debug/varz`, and `/healthz`.
//!
//! Invariants: everything here only reads; a request costs no more than reading the counters, one
//! small lock and a page of text; nothing on the page comes from elsewhere, and what requests
//! asked for appears on it as text only. `/healthz` may be asked from anywhere; for the rest the
//! router lets only this machine in, and a Host header that names a stranger is refused here, so
//! that a web page cannot read it by way of a rebound name.

mod chart;
mod gauges;
mod live;
mod page;
mod prometheus;
mod samples;
mod size;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use self::live::Live;
use self::samples::Samples;
use super::exchange::{Body, Handler, Method, Reply, Request};
use crate::metrics::Metrics;
use crate::remote::Bucket;
use crate::upload::Uploader;

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
    /// Starts to record the last minutes, on a thread that ends when the value is dropped, and the
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
                let live = Live::take(&self.sources, &self.samples, SystemTime::now());
                page::security_headers(Reply::status(200))
                    .header("Content-Type", "text/html; charset=utf-8")
                    .body(Body::Bytes(page::render(&self.sources, &live).into_bytes()))
            }
            "/debug/live.json" => json(&Live::take(&self.sources, &self.samples, SystemTime::now())),
            "/debug/vars" => json(&gauges::expvar(&self.sources, self.samples.look().1)),
            "/metrics" | "/debug/varz" => {
                let gauges = gauges::list(&self.sources, self.samples.look().1);
                Reply::status(200)
                    .header("Content-Type", prometheus::CONTENT_TYPE)
                    .body(Body::Bytes(prometheus::render(&self.sources.metrics, &gauges).into_bytes()))
            }
            _ => Reply::text(404, "not found; see /debug/\n"),
        }
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
        reply.header("Cache-Control", "no-store").header("X-Content-Type-Options", "nosniff")
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

fn json(value: &impl serde::Serialize) -> Reply {
    let text = serde_json::to_vec(value).expect("maps with string keys always have a JSON form");
    Reply::status(200).header("Content-Type", "application/json; charset=utf-8").body(Body::Bytes(text))
}

#[cfg(test)]
mod tests;
