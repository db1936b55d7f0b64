//! What the store counts: one set of events, two groups of counters.

use std::sync::Arc;

use crate::metrics::Metrics;

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
        match (self.0, event) {
            (Kind::Module, Event::LocalHit(n)) => {
                m.get_request.inc();
                m.get_local_hit.inc();
                m.get_local_bytes.add(n);
            }
            (Kind::Module, Event::LocalMiss) => {
                m.get_request.inc();
                m.get_local_miss.inc();
            }
            (Kind::Module, Event::LocalError) => {
                m.get_request.inc();
                m.get_local_error.inc();
            }
            (Kind::Module, Event::BucketHit(n)) => {
                m.get_fault_hit.inc();
                m.get_s3_bytes.add(n);
            }
            (Kind::Module, Event::BucketMiss) => m.get_fault_miss.inc(),
            (Kind::Module, Event::BucketError) => m.get_fault_error.inc(),
            (Kind::Module, Event::Put) => m.put_request.inc(),
            (Kind::Module, Event::PutPresent) => m.put_local_hit.inc(),
            (Kind::Module, Event::PutError) => m.put_local_error.inc(),
            (Kind::Module, Event::Stored(n)) => m.put_local_bytes.add(n),
            (Kind::Module, Event::Pushed(n)) => m.put_s3_bytes.add(n),
            (Kind::Module, Event::PushError) => m.put_s3_error.inc(),
            (Kind::RevProxy, Event::LocalHit(_)) => r.req_local_hit.inc(),
            (Kind::RevProxy, Event::LocalMiss | Event::LocalError) => r.req_local_miss.inc(),
            (Kind::RevProxy, Event::BucketHit(_)) => r.req_fault_hit.inc(),
            (Kind::RevProxy, Event::BucketMiss | Event::BucketError) => r.req_fault_miss.inc(),
            (Kind::RevProxy, Event::Put | Event::PutPresent) => {}
            (Kind::RevProxy, Event::PutError) => r.rsp_save_error.inc(),
            (Kind::RevProxy, Event::Stored(n)) => {
                r.rsp_save.inc();
                r.rsp_save_bytes.add(n);
            }
            (Kind::RevProxy, Event::Pushed(n)) => {
                r.rsp_push.inc();
                r.rsp_push_bytes.add(n);
            }
            (Kind::RevProxy, Event::PushError) => r.rsp_push_error.inc(),
        }
    }
}
