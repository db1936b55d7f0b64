//! What the program counts: one table of names, help texts and counters, from which the exit
//! report, the expvar JSON and the Prometheus text are made.
//!
//! Counters only grow and are never reset; gauges are not kept here but asked of their owners.

mod histogram;
mod recent;
mod report;
mod upstreams;

pub use histogram::{BOUNDS_MICROS, Histogram, Snapshot};
pub use recent::{Recent, RecentRequest};
pub use upstreams::{Call, Upstream, Upstreams};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::places::Places;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    /// Adds a duration, in nanoseconds.
    pub fn add_nanos(&self, d: Duration) {
        self.add(d.as_nanos().min(u64::MAX as u128) as u64);
    }
    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One counter of a group, for reports.
pub struct Row<'a> {
    /// The group as expvar names it, for example `gocache_host`.
    pub group: &'static str,
    /// The counter's name within the group.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// The counter.
    pub counter: &'a Counter,
}

/// One latency distribution, for reports.
pub struct LatencyRow<'a> {
    /// Its name, for example `get`.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// The distribution.
    pub histogram: &'a Histogram,
}

macro_rules! latencies {
    ($( $name:ident : $help:literal, )*) => {
        /// How long things took.
        #[derive(Debug, Default)]
        pub struct Latencies { $( #[doc = $help] pub $name: Histogram, )* }

        impl Latencies {
            /// All distributions, in the order of the table.
            pub fn rows(&self) -> Vec<LatencyRow<'_>> {
                vec![ $( LatencyRow { name: stringify!($name), help: $help, histogram: &self.$name }, )* ]
            }
        }
    };
}

latencies! {
    get: "Time from a get request to its answer.",
    put: "Time from a put request, body included, to its answer.",
    bucket_request: "Time from a bucket request to the head of its answer, to its end for a put.",
    upstream_request: "Time from an upstream request to its answer: its end for modules, its head for the reverse proxy.",
    http_request: "Time from an HTTP request to the head of its answer.",
}

macro_rules! groups {
    ($( $(#[$doc:meta])* $group:ident : $Type:ident = $expvar:literal { $( $name:ident : $help:literal, )* } )*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Default)]
            pub struct $Type { $( #[doc = $help] pub $name: Counter, )* }
        )*

        /// Every counter of the program.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $( $(#[$doc])* pub $group: $Type, )*
            /// How long things took.
            pub latency: Latencies,
            /// The latest requests.
            pub recent: Recent,
            /// The servers that were asked.
            pub upstreams: Upstreams,
            /// Requests that wait for them: each holds a connection, and some have to be left for what is
            /// answered at once.
            pub waiting: Arc<Places>,
        }

        impl Metrics {
            /// All counters, group by group, in the order of the table.
            pub fn rows(&self) -> Vec<Row<'_>> {
                vec![ $( $( Row { group: $expvar, name: stringify!($name), help: $help, counter: &self.$group.$name }, )* )* ]
            }
        }
    };
}

groups! {
    /// Protocol requests, as `go` sent them.
    server: ServerMetrics = "gocache_server" {
        get_requests: "Get requests received.",
        get_hits: "Get requests answered with an output.",
        get_hit_bytes: "Bytes of the outputs that gets were answered with.",
        get_tests: "Results of tests among them, which go prints as (cached); counted for a summary alone.",
        get_misses: "Get requests answered with a miss.",
        get_errors: "Get requests answered with an error.",
        put_requests: "Put requests received.",
        put_bytes: "Bytes of put bodies stored.",
        put_errors: "Put requests answered with an error.",
    }
    /// Where the build cache found outputs, and what it sent to the bucket.
    host: HostMetrics = "gocache_host" {
        get_local_hit: "Gets answered from the local directory.",
        get_fault_hit: "Gets that the local directory missed and the bucket answered.",
        get_fault_miss: "Gets that missed in the bucket too.",
        put_skip_small: "Outputs not uploaded because they are smaller than --min-upload-size.",
        put_s3_found: "Always 0: every upload is sent, since what the bucket has may be damaged.",
        put_s3_action: "Actions written to the bucket.",
        put_s3_object: "Outputs written to the bucket.",
        put_s3_error: "Uploads that failed.",
    }
    /// Fetching ahead of `go`.
    readahead: ReadaheadMetrics = "readahead" {
        manifest_loads: "Manifests loaded from the bucket.",
        manifest_bad: "Manifests ignored because they are damaged, unsigned or from a newer version.",
        manifest_entries: "Entries listed in the manifests loaded.",
        manifest_saves: "Manifests written to the bucket.",
        fetched: "Entries fetched ahead by themselves.",
        fetched_bytes: "Bytes moved to fetch entries and packs.",
        used: "Entries fetched ahead, by themselves or in packs, that a get then used.",
        used_bytes: "Bytes moved for fetched entries that a get then used.",
        packed: "Entries taken out of packs.",
        pack_saves: "Packs written to the bucket.",
        waited: "Gets that waited for a fetch of an entry already in flight.",
    }
    /// Traffic with the bucket.
    bucket: BucketMetrics = "bucket" {
        requests: "Requests sent.",
        get_requests: "GET and HEAD requests sent.",
        put_requests: "PUT requests sent.",
        get_bytes: "Body bytes received.",
        put_bytes: "Body bytes sent.",
        put_objects: "Objects put.",
        present: "Objects not put, because they were there.",
        retries: "Requests sent again after a failure.",
        errors: "Requests that failed, time-outs included.",
        corrupt: "Objects that failed verification and were treated as misses.",
        connections: "Connections opened.",
        breaker_opened: "Times the breaker opened.",
        breaker_skipped: "Requests not sent because the breaker was open.",
        unwaited: "Gets answered as misses without waiting for the bucket, after a long run of misses.",
        wait_nanos: "Nanoseconds that gets spent waiting for the bucket.",
    }
    /// The upload queue.
    upload: UploadMetrics = "upload" {
        queued: "Uploads queued.",
        done: "Uploads finished, those found present included.",
        failed: "Uploads given up for now; their markers stay.",
        refreshed: "Objects found young, or renewed, when they were used and might be old.",
        adopted: "Uploads taken over from processes that ended before they were done.",
    }
    /// The module proxy and the sum database.
    modcache: ModcacheMetrics = "modcache" {
        path_error: "Requests with a malformed module path or version.",
        get_request: "Cache look-ups.",
        get_local_hit: "Look-ups answered from the local directory.",
        get_local_miss: "Look-ups that the local directory missed.",
        get_fault_hit: "Look-ups answered from the bucket.",
        get_fault_miss: "Look-ups that missed in the bucket too.",
        get_local_error: "Look-ups that failed on the local directory.",
        get_fault_error: "Look-ups that failed on the bucket.",
        get_local_bytes: "Bytes served from the local directory.",
        get_s3_bytes: "Bytes fetched from the bucket.",
        put_request: "Files stored.",
        put_local_hit: "Files that were already stored.",
        put_local_error: "Files that could not be stored locally.",
        put_s3_error: "Files that could not be stored in the bucket.",
        put_local_bytes: "Bytes stored locally.",
        put_s3_bytes: "Bytes stored in the bucket.",
        upstream_requests: "Requests sent to upstream proxies.",
        upstream_errors: "Requests to upstream proxies that failed.",
        stale_served: "Expired answers served because no upstream answered.",
        rejected: "Upstream answers that failed verification.",
    }
    /// The reverse proxy.
    revcache: RevcacheMetrics = "revcache" {
        req_received: "Requests received.",
        req_memory_hit: "Requests answered from memory.",
        req_local_hit: "Requests answered from the local directory.",
        req_local_miss: "Requests that the local directory missed.",
        req_fault_hit: "Requests answered from the bucket.",
        req_fault_miss: "Requests that missed in the bucket too.",
        req_forward: "Requests forwarded to their target.",
        rsp_save: "Answers stored locally.",
        rsp_save_memory: "Answers stored in memory.",
        rsp_save_error: "Answers that could not be stored.",
        rsp_save_bytes: "Bytes of answers stored locally.",
        rsp_push: "Answers stored in the bucket.",
        rsp_push_error: "Answers that could not be stored in the bucket.",
        rsp_push_bytes: "Bytes of answers stored in the bucket.",
        rsp_not_cached: "Answers not stored.",
    }
    /// CONNECT.
    proxyconn: ProxyconnMetrics = "proxyconn" {
        intercepted: "CONNECT requests answered with TLS of our own.",
        tunnelled: "CONNECT requests tunnelled untouched.",
        refused: "CONNECT requests refused.",
        errors: "CONNECT requests that failed.",
    }
}
