//! The Prometheus text format, version 0.0.4.
//!
//! One scheme of names for `/metrics` and `/debug/varz`: `gocache_`, the group as expvar names it
//! (without a `gocache_` of its own), the counter's name, `_total`; so `modcache.get_request` is
//! `gocache_modcache_get_request_total`, and `gocache_host.get_local_hit` is
//! `gocache_host_get_local_hit_total`. Nanoseconds become `_seconds_total`. Latencies are
//! histograms `gocache_<name>_duration_seconds`.

use std::fmt::Write;

use super::gauges::Gauge;
use crate::metrics::{BOUNDS_MICROS, Metrics, Snapshot};

/// The content type of the format, in UTF-8.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// Every counter, latency and gauge as text.
pub fn render(metrics: &Metrics, gauges: &[Gauge]) -> String {
    let mut out = String::with_capacity(32 << 10);
    for row in metrics.rows() {
        let group = row.group.strip_prefix("gocache_").unwrap_or(row.group);
        let value = row.counter.get();
        let (name, help, value) = match row.name.strip_suffix("_nanos") {
            Some(name) => {
                let seconds = value as f64 / 1e9;
                (format!("{name}_seconds"), row.help.replace("Nanoseconds", "Seconds"), seconds.to_string())
            }
            // not by way of a float, which would round large counts
            None => (row.name.to_string(), row.help.to_string(), value.to_string()),
        };
        let name = format!("gocache_{group}_{name}_total");
        header(&mut out, &name, &help, "counter");
        let _ = writeln!(out, "{name} {value}");
    }
    for row in metrics.latency.rows() {
        let name = format!("gocache_{}_duration_seconds", row.name);
        header(&mut out, &name, row.help, "histogram");
        histogram(&mut out, &name, &row.histogram.snapshot());
    }
    header(&mut out, "gocache_build_info", "The program's version.", "gauge");
    let _ = writeln!(out, "gocache_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    for (name, help, value) in gauges {
        let truth = value.as_bool().map(|b| f64::from(u8::from(b)));
        let Some(value) = value.as_f64().or(truth) else { continue };
        header(&mut out, name, help, if name.ends_with("_total") { "counter" } else { "gauge" });
        let _ = writeln!(out, "{name} {value}");
    }
    out
}

fn histogram(out: &mut String, name: &str, s: &Snapshot) {
    let mut below = 0;
    for (bound, n) in BOUNDS_MICROS.iter().zip(s.buckets) {
        below += n;
        let _ = writeln!(out, "{name}_bucket{{le=\"{}\"}} {below}", *bound as f64 / 1e6);
    }
    let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {}", s.count());
    let _ = writeln!(out, "{name}_sum {}\n{name}_count {}", s.sum.as_secs_f64(), s.count());
}

/// What comes before the samples of a name; help is ours, on one line, without a backslash.
fn header(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::time::Duration;

    #[test]
    fn names_follow_the_scheme() {
        let m = Metrics::default();
        m.host.get_local_hit.add(3);
        m.modcache.get_request.add(u64::MAX);
        m.bucket.wait_nanos.add(1_500_000_000);
        m.latency.get.observe(Duration::from_millis(2));
        let gauge = |name, value| (name, "Help.", value);
        let text = render(&m, &[gauge("on", true.into()), gauge("n_total", 2.5.into()), gauge("none", Value::Null)]);
        assert!(!text.contains("none"));
        for want in [
            "# TYPE gocache_host_get_local_hit_total counter\ngocache_host_get_local_hit_total 3\n",
            "\ngocache_modcache_get_request_total 18446744073709551615\n",
            "\ngocache_bucket_wait_seconds_total 1.5\n",
            "# TYPE gocache_get_duration_seconds histogram\ngocache_get_duration_seconds_bucket{le=\"0.0001\"} 0\n",
            "\ngocache_get_duration_seconds_bucket{le=\"0.0025\"} 1\n",
            "\ngocache_get_duration_seconds_bucket{le=\"+Inf\"} 1\n",
            "\ngocache_get_duration_seconds_sum 0.002\ngocache_get_duration_seconds_count 1\n",
            "# HELP on Help.\n# TYPE on gauge\non 1\n",
            "# TYPE n_total counter\nn_total 2.5\n",
        ] {
            assert!(text.contains(want), "{want:?} is not in\n{text}");
        }
    }
}
