//! The counters as JSON: what `--metrics` prints at exit and what `/debug/vars` is made from.
//!
//! The names are those of the reference program's expvar groups, each group an object of its
//! counters; latencies follow in a group of their own, in seconds.

use serde_json::{Map, Value, json};

use super::{Metrics, Snapshot};

impl Metrics {
    /// All counters as an object of objects, `{"gocache_host": {"get_local_hit": 3, …}, …}`.
    pub fn to_json(&self) -> Value {
        let mut groups = Map::new();
        for row in self.rows() {
            let group = groups.entry(row.group).or_insert_with(|| Value::Object(Map::new()));
            let group = group.as_object_mut().expect("every group was inserted as an object");
            group.insert(row.name.to_string(), row.counter.get().into());
        }
        let latency: Map<_, _> = self
            .latency
            .rows()
            .into_iter()
            .map(|row| (row.name.to_string(), summary(&row.histogram.snapshot())))
            .collect();
        groups.insert("latency".to_string(), Value::Object(latency));
        Value::Object(groups)
    }

    /// Adds the counters of another process, by its [`Self::to_json`]; one that is not there is 0.
    pub fn add(&self, other: &Value) {
        self.rows().iter().for_each(|row| row.counter.add(other[row.group][row.name].as_u64().unwrap_or(0)));
    }
}

fn summary(s: &Snapshot) -> Value {
    let seconds = |q| s.quantile(q).map(|d| d.as_secs_f64());
    json!({
        "count": s.count(),
        "sum_seconds": s.sum.as_secs_f64(),
        "p50_seconds": seconds(0.5),
        "p99_seconds": seconds(0.99),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_counter_appears_under_its_group() {
        let m = Metrics::default();
        m.host.get_local_hit.add(3);
        m.latency.get.observe(Duration::from_millis(2));
        let v = m.to_json();
        assert_eq!(v["gocache_host"]["get_local_hit"], 3);
        assert_eq!(v["latency"]["get"]["count"], 1);
        assert_eq!(v["latency"]["put"]["p50_seconds"], Value::Null);
        let n: usize = v
            .as_object()
            .unwrap()
            .iter()
            .filter(|(k, _)| *k != "latency")
            .map(|(_, g)| g.as_object().unwrap().len())
            .sum();
        assert_eq!(n, m.rows().len());
    }
}
