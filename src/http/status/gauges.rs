//! What is not counted but asked for: the process, the queue, the cache.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::UNIX_EPOCH;

use serde_json::{Map, Value, json};

use super::Sources;
use crate::cache::size::Size;
use crate::platform;
use crate::text;

/// A value that is not counted, for it may fall or comes from elsewhere: the name for Prometheus, where one that
/// ends in `_total` is a counter; one line for people; a number, a truth, or null where there is nothing to say.
pub type Gauge = (&'static str, &'static str, Value);

/// All gauges.
pub fn list(sources: &Sources) -> Vec<Gauge> {
    let queue = sources.uploader.as_ref().map(|u| u.state()).unwrap_or_default();
    let started = sources.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let available = sources.bucket.as_ref().map(|b| b.available());
    let disk = platform::disk(&sources.cache_dir);
    // where the system has no /proc, nothing is said
    let process = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| -> Option<u64> {
        process.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
    };
    let cpu = platform::processor_time().map(|time| time.as_secs_f64());
    let files = fs::read_dir("/proc/self/fd").ok().map(|d| d.count());
    let (waiting, waiting_most) = sources.metrics.waiting.state();
    let ((open, idle), open_most) = (sources.open.state(), sources.open.most);
    let help_available = "1 while requests are sent to the bucket, 0 while it is left alone.";
    [
        ("gocache_sessions", "Plugin clients connected.", json!((sources.sessions)())),
        ("gocache_upload_waiting", "Uploads waiting in memory.", json!(queue.waiting)),
        ("gocache_upload_busy", "Uploads under way.", json!(queue.busy)),
        ("gocache_cache_bytes", "Size of the cache directory, about.", json!(Size::read(&sources.cache_dir))),
        ("gocache_http_connections", "HTTP connections open.", json!(open)),
        ("gocache_http_connections_max", "HTTP connections that may be open.", json!(open_most)),
        ("gocache_http_idle", "HTTP connections without a whole request.", json!(idle)),
        ("gocache_http_waiting", "HTTP requests that wait for upstreams.", json!(waiting)),
        ("gocache_http_waiting_max", "HTTP requests that may begin to wait for upstreams.", json!(waiting_most)),
        ("gocache_disk_bytes", "Size of the cache directory's disk.", json!(disk.map(|d| d.1))),
        ("gocache_disk_free_bytes", "Free space on the cache directory's disk.", json!(disk.map(|d| d.0))),
        ("gocache_stopping", "1 while the program stops.", json!(sources.stopping.load(Ordering::Relaxed))),
        ("gocache_bucket_available", help_available, json!(available)),
        ("process_start_time_seconds", "When the program started, in seconds since 1970.", json!(started)),
        ("process_resident_memory_bytes", "Resident memory.", json!(field("VmRSS:").map(|kib| kib * 1024))),
        ("process_cpu_seconds_total", "Processor time used.", json!(cpu)),
        ("process_open_fds", "Open files.", json!(files)),
        ("process_max_fds", "Files that may be open.", json!(platform::max_files())),
        ("process_threads", "Threads.", json!(field("Threads:"))),
    ]
    .into()
}

/// `/debug/vars`: the counters under the reference program's names, what Go programs publish, and
/// the gauges as `status`.
pub fn expvar(sources: &Sources) -> Value {
    let name = |name: &str| name.strip_prefix("gocache_").unwrap_or(name).to_string();
    let mut status: Map<_, _> = list(sources).into_iter().map(|gauge| (name(gauge.0), gauge.2)).collect();
    status.insert("version".to_string(), env!("CARGO_PKG_VERSION").into());
    status.insert("uptime_seconds".to_string(), sources.started.elapsed().unwrap_or_default().as_secs_f64().into());
    let mut vars = sources.metrics.to_json();
    vars["cmdline"] = sources.cmdline.iter().map(|arg| text::without_secrets(arg)).collect();
    // what a reader of Go's expvar looks for and can be told here
    vars["memstats"] = json!({ "Sys": status["process_resident_memory_bytes"] });
    vars["status"] = status.into();
    vars
}
