//! What the store counts: one set of events, two groups of counters.

use std::sync::Arc;

use crate::metrics::{Counter, Metrics};

/// Whose blobs these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The module proxy's and sum database's.
    Module,
    /// The reverse proxy's.
    RevProxy,
}

/// What is counted, for either kind where it has a counter for it.
pub(super) enum Event {
    LocalHit(u64),
    LocalMiss,
    LocalError,
    BucketHit(u64),
    BucketMiss,
    BucketError,
    Put,
    PutPresent,
    PutError,
    Stored(u64),
    Pushed(u64),
    PushError,
}

/// The counters of one kind.
pub(super) struct Tally(pub(super) Kind, pub(super) Arc<Metrics>);

impl Tally {
    /// Counts `event`.
    pub(super) fn count(&self, event: Event) {
        let (m, r) = (&self.1.modcache, &self.1.revcache);
        let counts: [&[(&Counter, u64)]; 2] = match event {
            Event::LocalHit(n) => {
                [&[(&m.get_request, 1), (&m.get_local_hit, 1), (&m.get_local_bytes, n)], &[(&r.req_local_hit, 1)]]
            }
            Event::LocalMiss => [&[(&m.get_request, 1), (&m.get_local_miss, 1)], &[(&r.req_local_miss, 1)]],
            Event::LocalError => [&[(&m.get_request, 1), (&m.get_local_error, 1)], &[(&r.req_local_miss, 1)]],
            Event::BucketHit(n) => [&[(&m.get_fault_hit, 1), (&m.get_s3_bytes, n)], &[(&r.req_fault_hit, 1)]],
            Event::BucketMiss => [&[(&m.get_fault_miss, 1)], &[(&r.req_fault_miss, 1)]],
            Event::BucketError => [&[(&m.get_fault_error, 1)], &[(&r.req_fault_miss, 1)]],
            Event::Put => [&[(&m.put_request, 1)], &[]],
            Event::PutPresent => [&[(&m.put_local_hit, 1)], &[]],
            Event::PutError => [&[(&m.put_local_error, 1)], &[(&r.rsp_save_error, 1)]],
            Event::Stored(n) => [&[(&m.put_local_bytes, n)], &[(&r.rsp_save, 1), (&r.rsp_save_bytes, n)]],
            Event::Pushed(n) => [&[(&m.put_s3_bytes, n)], &[(&r.rsp_push, 1), (&r.rsp_push_bytes, n)]],
            Event::PushError => [&[(&m.put_s3_error, 1)], &[(&r.rsp_push_error, 1)]],
        };
        for (counter, n) in counts[self.0 as usize] {
            counter.add(*n);
        }
    }
}
