//! One action from the bucket into the disk cache, once however many ask for it.
//!
//! Invariants: at most one fetch of an action is under way; who comes second waits for the first
//! and then looks at the disk. Every failure is a miss: the bucket has logged it, or it is logged
//! here (damage, once an object).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::disk::{DiskCache, Hit};
use super::entry::{self, Codec, DecodeError};
use super::id::{ActionId, OutputId};
use crate::config::Layout;
use crate::flight::{Flights, Role};
use crate::metrics::Metrics;
use crate::remote::Bucket;

/// How long a get waits for another's fetch of the same action before it is a miss.
const PATIENCE: Duration = Duration::from_secs(15);

/// Fetches entries of one bucket.
pub struct Fetcher {
    bucket: Arc<Bucket>,
    layout: Layout,
    codec: Codec,
    disk: Arc<DiskCache>,
    metrics: Arc<Metrics>,
    flights: Arc<Flights<ActionId>>,
}

/// What became of a fetch.
#[derive(Debug)]
pub enum Fetched {
    /// This call fetched it, and moved so many bytes.
    Here(Hit, u64),
    /// Another call was fetching it, or has just done so; look at the disk.
    ByAnother,
    /// The bucket does not have it, not whole, or cannot be asked.
    Missing,
}

impl Fetcher {
    /// Fetches from `bucket`, laid out as `layout`, into `disk`.
    pub fn new(bucket: Arc<Bucket>, layout: Layout, codec: Codec, disk: Arc<DiskCache>, metrics: Arc<Metrics>) -> Self {
        Fetcher { bucket, layout, codec, disk, metrics, flights: Arc::default() }
    }

    /// The bucket.
    pub fn bucket(&self) -> &Arc<Bucket> {
        &self.bucket
    }

    /// The layout of its entries.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The codec of its entries.
    pub fn codec(&self) -> &Codec {
        &self.codec
    }

    /// Where entries are fetched to.
    pub fn disk(&self) -> &Arc<DiskCache> {
        &self.disk
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Fetches `action`, or waits for whoever is fetching it. `known` saves the classic layout its
    /// first request.
    pub fn fetch(&self, action: &ActionId, known: Option<(OutputId, SystemTime)>) -> Fetched {
        let _leader = match self.flights.join(action, Some(PATIENCE)) {
            Role::Lead(leader) => leader,
            Role::Landed(_) => return Fetched::ByAnother,
            Role::Late => return Fetched::Missing,
        };
        // another's fetch may have landed between our caller's look at the disk and now
        if self.disk.contains(action) {
            return Fetched::ByAnother;
        }
        let result = match self.layout {
            Layout::Single => self.single(action),
            Layout::Classic => self.classic(action, known),
        };
        match result {
            Ok(Some((hit, moved))) => Fetched::Here(hit, moved),
            Ok(None) => Fetched::Missing,
            Err(e) => {
                self.tell(action, &e);
                Fetched::Missing
            }
        }
    }

    fn single(&self, action: &ActionId) -> Result<Option<(Hit, u64)>, DecodeError> {
        let Some(object) = self.bucket.get(&entry::single_key(action)) else { return Ok(None) };
        self.codec.decode(action, object, &self.disk).map(Some)
    }

    fn classic(
        &self,
        action: &ActionId,
        known: Option<(OutputId, SystemTime)>,
    ) -> Result<Option<(Hit, u64)>, DecodeError> {
        if self.codec.signer().is_on() {
            return Ok(None); // the layout has no place for signatures
        }
        let (output, time, mut moved) = match known {
            Some((output, time)) => (output, time, 0),
            None => {
                let Some(object) = self.bucket.get(&entry::classic_action_key(action)) else { return Ok(None) };
                entry::decode_classic_action(object)?
            }
        };
        let Some(object) = self.bucket.get(&entry::classic_output_key(&output)) else { return Ok(None) };
        let (hit, more) = entry::decode_classic_output(action, output, time, object, &self.disk)?;
        moved += more;
        Ok(Some((hit, moved)))
    }

    fn tell(&self, action: &ActionId, e: &DecodeError) {
        match e {
            DecodeError::Corrupt(why) => {
                self.metrics.bucket.corrupt.inc();
                log::warn!("{}: the entry of action {action} is not used: {why}", self.bucket.target());
            }
            // the bucket's own log tells of these
            DecodeError::Transfer(e) => log::debug!("fetching action {action}: {e}"),
            DecodeError::Disk(e) => log::warn!("{}: storing an output: {e}", self.disk.root().display()),
        }
    }
}
