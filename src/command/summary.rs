//! The one line that sums a run up.

use std::time::Duration;

use super::stack::Stack;
use crate::text::{bytes, percent};

/// Gets, hits, misses, bytes, uploads and time; with a bucket, what came from it, what was fetched
/// ahead and how long gets waited for it in all.
pub fn line(stack: &Stack, took: Duration) -> String {
    let m = &stack.metrics;
    let (gets, hits) = (m.server.get_requests.get(), m.server.get_hits.get());
    let mut line = format!(
        "go-cache-plugin: {gets} gets, {hits} hits ({}), {} misses, {} puts; {} served, {} stored",
        percent(hits, gets),
        m.server.get_misses.get(),
        m.server.put_requests.get(),
        bytes(m.server.get_hit_bytes.get()),
        bytes(m.server.put_bytes.get()),
    );
    if stack.bucket.is_some() {
        let waited = Duration::from_nanos(m.bucket.wait_nanos.get());
        line += &format!(
            "; bucket: {} hits, {} down, {} up, {} uploads, {} ahead ({} used), waited {:.1} s",
            m.host.get_fault_hit.get(),
            bytes(m.bucket.get_bytes.get()),
            bytes(m.bucket.put_bytes.get()),
            m.upload.done.get(),
            bytes(m.readahead.fetched_bytes.get()),
            bytes(m.readahead.used_bytes.get()),
            waited.as_secs_f64(),
        );
    } else {
        line += "; 0 uploads";
    }
    line + &format!("; {:.1} s", took.as_secs_f64())
}
