//! What the status page shows at one moment, as text and paths by element id: the page is made
//! from it, and keeps itself up to date with the same as JSON.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::chart;
use super::samples::{KEEP, Sample, Samples};
use super::{Sources, gauges};
use crate::text::{bytes, count, duration, percent};

/// The page's contents. Ids are unique over all maps.
#[derive(Debug, Default, Serialize)]
pub struct Live {
    /// Text of an element.
    pub text: BTreeMap<&'static str, String>,
    /// The `d` of an SVG path.
    pub path: BTreeMap<&'static str, String>,
    /// What a chart shows, for those who do not see it.
    pub label: BTreeMap<&'static str, String>,
    /// How an element stands: `ok`, `warn` or `off`.
    pub mood: BTreeMap<&'static str, &'static str>,
    /// The latest requests: time, kind, what, outcome, bytes, duration.
    pub recent: Vec<[String; 6]>,
}

impl Live {
    /// The state of things at `now`.
    pub fn take(sources: &Sources, samples: &Samples, now: SystemTime) -> Self {
        let (mut ring, size) = samples.look();
        let present = Sample::take(sources, size);
        let mut live = Live::default();
        live.head(sources, now);
        live.figures(sources, &present, &ring);
        // the second under way is not over: the charts show whole ones
        ring.drain(..ring.len().saturating_sub(KEEP));
        live.charts(sources, &ring);
        live.latencies(sources);
        live.recent = recent(sources, now);
        live
    }

    fn head(&mut self, sources: &Sources, now: SystemTime) {
        let stopping = sources.stopping.load(Ordering::Relaxed);
        self.text.insert("state", if stopping { "stopping" } else { "serving" }.to_string());
        self.mood.insert("state", if stopping { "warn" } else { "ok" });
        let up = now.duration_since(sources.started).unwrap_or_default();
        self.text.insert("uptime", duration(Duration::from_secs(up.as_secs())));
        self.text.insert("sessions", count((sources.sessions)() as u64));
        let memory = gauges::process().and_then(|p| p.resident_bytes);
        self.text.insert("memory", memory.map_or("–".to_string(), bytes));
    }

    fn figures(&mut self, sources: &Sources, s: &Sample, ring: &[Sample]) {
        let m = &sources.metrics;
        let mut say = |id, text: String| self.text.insert(id, text);
        say("hits-value", percent(s.hits, s.lookups));
        let ago = ring.len().checked_sub(60).map_or_else(Sample::default, |i| ring[i]);
        let minute = percent(s.hits.saturating_sub(ago.hits), s.lookups.saturating_sub(ago.lookups));
        say("hits-note", format!("{} of {} requests · last minute {minute}", count(s.hits), count(s.lookups)));
        say("bytes-value", bytes(s.served_bytes));
        say("bytes-note", format!("served · {} stored", bytes(s.stored_bytes)));
        say("wait-value", duration(Duration::from_nanos(s.wait_nanos)));
        let b = &m.bucket;
        let traffic = format!("{} down · {} up", bytes(b.get_bytes.get()), bytes(b.put_bytes.get()));
        say("wait-note", format!("{} bucket requests · {traffic}", count(b.requests.get())));
        say("queue-value", count(s.queue));
        let failed = match m.upload.failed.get() {
            0 => String::new(),
            n => format!(" · {} put off", count(n)),
        };
        say("queue-note", format!("{} uploaded{failed}", count(m.upload.done.get())));
        // until someone looks, nobody measures
        let unknown = s.cache.estimated && s.cache.files == 0;
        let about = if s.cache.estimated { "about " } else { "" };
        say("cache-value", if unknown { "–".to_string() } else { bytes(s.cache.bytes) });
        let files = format!("{about}{} files", count(s.cache.files));
        say("cache-note", if unknown { "being measured".to_string() } else { files });
        let (value, mood) = match (&sources.bucket, s.breaker_open) {
            (None, _) => ("no bucket", "off"),
            (Some(_), false) => ("in use", "ok"),
            (Some(_), true) => ("left alone", "warn"),
        };
        say("breaker-value", value.to_string());
        let note = match &sources.bucket {
            None => "what is stored stays on this machine".to_string(),
            Some(_) => {
                let (errors, opened) = (count(b.errors.get()), count(b.breaker_opened.get()));
                format!("{errors} errors · left alone {opened} times")
            }
        };
        say("breaker-note", note);
        self.mood.insert("breaker-value", mood);
    }

    fn charts(&mut self, sources: &Sources, ring: &[Sample]) {
        let per_second = |of: fn(&Sample) -> u64| -> Vec<Option<f64>> {
            ring.windows(2).map(|w| Some(of(&w[1]).saturating_sub(of(&w[0])) as f64)).collect()
        };
        let hits = hit_rates(ring);
        self.chart("hits", &["hits"], &[hits], |_| 100.0, |v| format!("{v:.0} %"));
        let served = per_second(|s| s.served_bytes);
        let stored = per_second(|s| s.stored_bytes);
        self.chart("bytes", &["bytes", "bytes2"], &[served, stored], nice_bytes, |v| format!("{}/s", bytes(v as u64)));
        let wait = per_second(|s| s.wait_nanos / 1_000_000);
        self.chart("wait", &["wait"], &[wait], nice, |v| format!("{}/s", duration(Duration::from_secs_f64(v / 1e3))));
        let gauge = |of: fn(&Sample) -> u64| ring.iter().map(|s| Some(of(s) as f64)).collect::<Vec<_>>();
        self.chart("queue", &["queue"], &[gauge(|s| s.queue)], nice, |v| count(v as u64));
        // what is not looked at yet is no size
        let sizes = ring.iter().map(|s| (s.cache.files > 0).then_some(s.cache.bytes as f64)).collect();
        self.chart("cache", &["cache"], &[sizes], nice_bytes, |v| bytes(v as u64));
        let open: Vec<_> = ring.iter().map(|s| s.breaker_open).collect();
        self.path.insert("breaker-band", chart::bands(&open));
        let seconds = open.iter().filter(|o| **o).count();
        let label = match &sources.bucket {
            None => "No bucket is configured.".to_string(),
            Some(_) => format!("The bucket was left alone for {seconds} of the last {} seconds.", ring.len()),
        };
        self.label.insert("breaker-chart", label);
    }

    /// One chart: its lines, the area below the first, its scale, and what it shows in words.
    fn chart(
        &mut self,
        name: &'static str,
        lines: &[&'static str],
        values: &[Vec<Option<f64>>],
        top: fn(f64) -> f64,
        unit: impl Fn(f64) -> String,
    ) {
        let ids = chart_ids(name);
        let highest = values.iter().flatten().flatten().fold(0.0, |a: f64, b| a.max(*b));
        let top = top(highest);
        for (line, values) in lines.iter().zip(values) {
            self.path.insert(chart_ids(line).line, chart::line(values, top));
        }
        self.path.insert(ids.area, chart::area(&values[0], top));
        self.text.insert(ids.top, if highest > 0.0 { unit(top) } else { String::new() });
        let latest = values[0].iter().rev().flatten().next().map_or("nothing yet".to_string(), |v| unit(*v));
        self.label.insert(ids.chart, format!("Last five minutes: highest {}, latest {latest}.", unit(highest)));
    }

    fn latencies(&mut self, sources: &Sources) {
        for row in sources.metrics.latency.rows() {
            let Some([n, p50, p99]) = latency_ids(row.name) else { continue };
            let s = row.histogram.snapshot();
            let quantile = |q| s.quantile(q).map_or("–".to_string(), duration);
            self.text.insert(n, count(s.count()));
            self.text.insert(p50, quantile(0.5));
            self.text.insert(p99, quantile(0.99));
        }
    }
}

/// The ids of a chart's parts.
struct ChartIds {
    line: &'static str,
    area: &'static str,
    top: &'static str,
    chart: &'static str,
}

fn chart_ids(name: &str) -> ChartIds {
    macro_rules! ids {
        ($($n:literal),*) => {
            match name {
                $($n => ChartIds {
                    line: concat!($n, "-line"), area: concat!($n, "-area"), top: concat!($n, "-top"), chart: concat!($n, "-chart"),
                },)*
                _ => unreachable!("the callers name the charts listed here"),
            }
        };
    }
    ids!("hits", "bytes", "bytes2", "wait", "queue", "cache")
}

/// The ids of the figures of one latency: count, median, 99th percentile.
pub fn latency_ids(name: &str) -> Option<[&'static str; 3]> {
    macro_rules! ids {
        ($($n:literal),*) => {
            match name {
                $($n => Some([concat!($n, "-count"), concat!($n, "-p50"), concat!($n, "-p99")]),)*
                _ => None,
            }
        };
    }
    ids!("get", "put", "bucket_request", "upstream_request", "http_request")
}

/// The share of hits, in percent, over the ten seconds before each sample; none without requests.
fn hit_rates(ring: &[Sample]) -> Vec<Option<f64>> {
    const OVER: usize = 10;
    (1..ring.len())
        .map(|i| {
            let (then, now) = (&ring[i.saturating_sub(OVER)], &ring[i]);
            let lookups = now.lookups.saturating_sub(then.lookups);
            let hits = now.hits.saturating_sub(then.hits).min(lookups);
            (lookups > 0).then(|| hits as f64 * 100.0 / lookups as f64)
        })
        .collect()
}

/// The next of 1, 2, 5, 10, 20, … that is not less, so that scales do not jump about.
fn nice(value: f64) -> f64 {
    if value <= 1.0 {
        return 1.0;
    }
    let decade = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].iter().map(|f| f * decade).find(|top| *top >= value).unwrap_or(value)
}

/// [`nice`] in the unit that [`bytes`] writes the value in.
fn nice_bytes(value: f64) -> f64 {
    let mut unit = 1.0;
    while value / unit >= 1000.0 {
        unit *= 1024.0;
    }
    nice(value / unit) * unit
}

fn recent(sources: &Sources, now: SystemTime) -> Vec<[String; 6]> {
    let ago = |at: SystemTime| match now.duration_since(at).unwrap_or_default().as_secs() {
        0 => "now".to_string(),
        s @ 1..60 => format!("{s} s ago"),
        s => format!("{} ago", duration(Duration::from_secs(s))),
    };
    let rows = sources.metrics.recent.list().into_iter();
    rows.map(|r| {
        let size = r.bytes.map_or("–".to_string(), bytes);
        [ago(r.at), r.kind.to_string(), r.what, r.outcome.to_string(), size, duration(r.took)]
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_round() {
        assert_eq!([0.0, 1.0, 1.5, 3.0, 10.0, 11.0, 999.0].map(nice), [1.0, 1.0, 2.0, 5.0, 10.0, 20.0, 1000.0]);
        assert_eq!([0.0, 1000.0, 3000.0, 1e6].map(nice_bytes), [1.0, 1024.0, 5120.0, 1_024_000.0]);
    }

    #[test]
    fn hit_rates_are_over_a_window_and_absent_when_nothing_is_asked() {
        let s = |lookups, hits| Sample { lookups, hits, ..Sample::default() };
        assert_eq!(hit_rates(&[s(0, 0), s(0, 0), s(4, 1), s(4, 1)]), [None, Some(25.0), Some(25.0)]);
        let mut long = vec![s(4, 1); 30];
        long.push(s(8, 5));
        let rates = hit_rates(&long);
        assert_eq!((rates[28], rates[29]), (None, Some(100.0)));
        assert!(hit_rates(&[]).is_empty());
    }
}
