//! The Prometheus text format, version 0.0.4.
//!
//! One scheme of names for `/metrics` and `/debug/varz`: `gocache_`, the group as expvar names it
//! (without a `gocache_` of its own), the counter's name, `_total`; so `modcache.get_request` is
//! `gocache_modcache_get_request_total`, and `gocache_host.get_local_hit` is
//! `gocache_host_get_local_hit_total`. Nanoseconds become `_seconds_total`. Latencies are
//! histograms `gocache_<name>_duration_seconds`.

use std::fmt::Write;

use crate::metrics::{BOUNDS_MICROS, Metrics, Snapshot};

/// The content type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A value that is not counted in [`Metrics`]: it may fall, or comes from elsewhere.
pub struct Gauge {
    /// The full name; one that ends in `_total` is a counter.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// Label and value, for a gauge that only carries text.
    pub label: Option<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

/// Every counter, latency and gauge as text.
pub fn render(metrics: &Metrics, gauges: &[Gauge]) -> String {
    let mut out = String::with_capacity(32 << 10);
    for row in metrics.rows() {
        let group = row.group.strip_prefix("gocache_").unwrap_or(row.group);
        let value = row.counter.get();
        match row.name.strip_suffix("_nanos") {
            Some(name) => {
                let name = format!("gocache_{group}_{name}_seconds_total");
                header(&mut out, &name, &row.help.replace("Nanoseconds", "Seconds"), "counter");
                line(&mut out, &name, "", value as f64 / 1e9);
            }
            None => {
                let name = format!("gocache_{group}_{}_total", row.name);
                header(&mut out, &name, row.help, "counter");
                // not by way of a float, which would round large counts
                let _ = writeln!(out, "{name} {value}");
            }
        }
    }
    for row in metrics.latency.rows() {
        let name = format!("gocache_{}_duration_seconds", row.name);
        header(&mut out, &name, row.help, "histogram");
        histogram(&mut out, &name, &row.histogram.snapshot());
    }
    for gauge in gauges {
        let kind = if gauge.name.ends_with("_total") { "counter" } else { "gauge" };
        header(&mut out, gauge.name, gauge.help, kind);
        let labels = match &gauge.label {
            Some((name, value)) => format!("{{{name}=\"{}\"}}", escape(value, true)),
            None => String::new(),
        };
        line(&mut out, gauge.name, &labels, gauge.value);
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
    line(out, &format!("{name}_sum"), "", s.sum.as_secs_f64());
    let _ = writeln!(out, "{name}_count {}", s.count());
}

fn header(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", escape(help, false));
}

fn line(out: &mut String, name: &str, labels: &str, value: f64) {
    let _ = writeln!(out, "{name}{labels} {value}");
}

fn escape(text: &str, quoted: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quoted { text.replace('"', "\\\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn names_follow_the_scheme() {
        let m = Metrics::default();
        m.host.get_local_hit.add(3);
        m.modcache.get_request.add(u64::MAX);
        m.bucket.wait_nanos.add(1_500_000_000);
        m.latency.get.observe(Duration::from_millis(2));
        let odd = Gauge { name: "x_info", help: "a\\b\nc", label: Some(("l", "\"\\\n".into())), value: 1.0 };
        let text = render(&m, &[odd]);
        for want in [
            "# TYPE gocache_host_get_local_hit_total counter\ngocache_host_get_local_hit_total 3\n",
            "\ngocache_modcache_get_request_total 18446744073709551615\n",
            "\ngocache_bucket_wait_seconds_total 1.5\n",
            "# TYPE gocache_get_duration_seconds histogram\ngocache_get_duration_seconds_bucket{le=\"0.0001\"} 0\n",
            "\ngocache_get_duration_seconds_bucket{le=\"0.0025\"} 1\n",
            "\ngocache_get_duration_seconds_bucket{le=\"+Inf\"} 1\n",
            "\ngocache_get_duration_seconds_sum 0.002\ngocache_get_duration_seconds_count 1\n",
            "# HELP x_info a\\\\b\\nc\n# TYPE x_info gauge\nx_info{l=\"\\\"\\\\\\n\"} 1\n",
        ] {
            assert!(text.contains(want), "{want:?} is not in\n{text}");
        }
    }
}
