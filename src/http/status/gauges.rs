//! What is not counted but asked for: the process, the queue, the cache.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Sources;
use super::prometheus::Gauge;
use super::size::Size;

/// What the system says of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// Resident memory in bytes.
    pub resident_bytes: Option<u64>,
    /// Processor time in seconds, of all threads.
    pub cpu_seconds: Option<f64>,
    /// Open files.
    pub open_files: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
}

/// Asks the system, where it has a /proc.
pub fn process() -> Option<Process> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Some(Process {
        resident_bytes: field("VmRSS:").map(|kib: u64| kib * 1024),
        threads: field("Threads:"),
        cpu_seconds: Some(cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9),
        open_files: fs::read_dir("/proc/self/fd").ok().map(|d| d.count() as u64),
    })
}

/// All gauges, for Prometheus.
pub fn list(sources: &Sources, cache: Size) -> Vec<Gauge> {
    let gauge = |name, help, value| Gauge { name, help, label: None, value };
    let queue = sources.uploader.as_ref().map(|u| u.state()).unwrap_or_default();
    let started = sources.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let mut list = vec![
        Gauge {
            name: "gocache_build_info",
            help: "The program's version.",
            label: Some(("version", env!("CARGO_PKG_VERSION").to_string())),
            value: 1.0,
        },
        gauge("gocache_sessions", "Plugin clients connected.", (sources.sessions)() as f64),
        gauge("gocache_upload_waiting", "Uploads waiting in memory.", queue.waiting as f64),
        gauge("gocache_upload_busy", "Uploads under way.", queue.busy as f64),
        gauge("gocache_cache_bytes", "Size of the cache directory, about.", cache.bytes as f64),
        gauge("gocache_cache_files", "Files in the cache directory, about.", cache.files as f64),
        gauge(
            "gocache_stopping",
            "1 while the program stops.",
            f64::from(sources.stopping.load(Ordering::Relaxed) as u8),
        ),
        gauge("process_start_time_seconds", "When the program started, in seconds since 1970.", started),
    ];
    if let Some(bucket) = &sources.bucket {
        let help = "1 while requests are sent to the bucket, 0 while it is left alone.";
        list.push(gauge("gocache_bucket_available", help, f64::from(bucket.available() as u8)));
    }
    let process = process().unwrap_or_default();
    let of_process = [
        ("process_resident_memory_bytes", "Resident memory.", process.resident_bytes.map(|n| n as f64)),
        ("process_cpu_seconds_total", "Processor time used.", process.cpu_seconds),
        ("process_open_fds", "Open files.", process.open_files.map(|n| n as f64)),
        ("process_threads", "Threads.", process.threads.map(|n| n as f64)),
    ];
    list.extend(of_process.into_iter().filter_map(|(name, help, value)| Some(gauge(name, help, value?))));
    list
}

/// `/debug/vars`: the counters under the reference program's names, and what Go programs publish.
pub fn expvar(sources: &Sources, cache: Size) -> serde_json::Value {
    let mut vars = sources.metrics.to_json();
    let process = process().unwrap_or_default();
    let queue = sources.uploader.as_ref().map(|u| u.state()).unwrap_or_default();
    let up = SystemTime::now().duration_since(sources.started).unwrap_or_default().as_secs_f64();
    let more = serde_json::json!({
        "cmdline": sources.cmdline.iter().map(|arg| without_password(arg)).collect::<Vec<_>>(),
        // what a reader of Go's expvar looks for and can be told here
        "memstats": { "Sys": process.resident_bytes },
        "status": {
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": up,
            "stopping": sources.stopping.load(Ordering::Relaxed),
            "sessions": (sources.sessions)(),
            "upload_waiting": queue.waiting,
            "upload_busy": queue.busy,
            "bucket_available": sources.bucket.as_ref().map(|b| b.available()),
            "cache_bytes": cache.bytes,
            "cache_files": cache.files,
            "cache_estimated": cache.estimated,
        },
    });
    if let (Some(vars), serde_json::Value::Object(more)) = (vars.as_object_mut(), more) {
        vars.extend(more);
    }
    vars
}

/// An argument with the user and password of every URL in it left out.
fn without_password(arg: &str) -> String {
    let mut out = String::new();
    let mut rest = arg;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out += before;
        let end =
            after.find(|c: char| matches!(c, '/' | '?' | '#' | ',' | '|') || c.is_whitespace()).unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(user) => &after[user + 1..],
            None => after,
        };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_not_shown() {
        assert_eq!(
            without_password("--upstream=https://u:p@w@a.example/x@y,http://b.example|https://t@c.example"),
            "--upstream=https://a.example/x@y,http://b.example|https://c.example"
        );
        assert_eq!(without_password("serve"), "serve");
        assert_eq!(without_password("https://a:b@"), "https://");
    }

    #[test]
    fn the_process_is_described() {
        let p = process().unwrap();
        assert!(p.resident_bytes.unwrap() > 100_000 && p.threads.unwrap() >= 1 && p.open_files.unwrap() >= 3);
    }
}
