//! One action from the bucket into the disk cache, once however many ask for it.
//!
//! Invariants: at most one fetch of an action is under way; who comes second waits for the first
//! and then looks at the disk, once in either case. What arrives replaces nothing that is there. Every
//! failure is a miss: the bucket has logged it, or it is logged here (damage, once an object).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::disk::{DiskCache, Hit};
use super::entry::{self, Codec, DecodeError};
use super::id::{ActionId, OutputId};
use super::refresh::Refresher;
use crate::config::Layout;
use crate::flight::{Flights, Leader, Role};
use crate::metrics::Metrics;
use crate::remote::{Bucket, Object};
use crate::upload::Uploader;

/// How long a get waits for another's fetch of the same action before it is a miss.
const PATIENCE: Duration = Duration::from_secs(15);

/// Fetches entries of one bucket.
pub struct Fetcher {
    /// The bucket.
    pub bucket: Arc<Bucket>,
    /// The layout of its entries.
    pub layout: Layout,
    /// Their codec.
    pub codec: Codec,
    /// Where they are fetched to.
    pub disk: Arc<DiskCache>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Renews what is used and old.
    pub refresher: Refresher,
    flights: Arc<Flights<ActionId>>,
}

/// Whose turn it is to look an action up and fetch it.
pub enum Turn {
    /// The caller's; others wait until this is dropped.
    Ours(Leader<ActionId, ()>),
    /// Another has just been at it: the directory has it, or nobody does.
    Landed,
    /// Another is still at it, and patience is at its end.
    Late,
}

/// What was fetched: the entry, and how many bytes were moved for it.
pub type Fetched = (Hit, u64);

impl Fetcher {
    /// Fetches from `bucket`, laid out as `layout`, into `disk`.
    pub fn new(bucket: Arc<Bucket>, layout: Layout, codec: Codec, disk: Arc<DiskCache>, metrics: Arc<Metrics>) -> Self {
        let refresher = Refresher { bucket: bucket.clone(), layout, uploader: None };
        Fetcher { bucket, layout, codec, disk, metrics, refresher, flights: Arc::default() }
    }

    /// Has what is used and old renewed through `uploader`.
    pub fn refreshing(mut self, uploader: Option<Arc<Uploader>>) -> Self {
        self.refresher.uploader = uploader;
        self
    }

    /// Whether the directory has `action`, with its output.
    pub fn has(&self, action: &ActionId) -> bool {
        self.disk.get(action).is_ok_and(|hit| hit.is_some())
    }

    /// Waits for whoever is fetching `action`, and takes the turn where nobody is.
    pub fn turn(&self, action: &ActionId) -> Turn {
        match self.flights.join(action, Some(PATIENCE)) {
            Role::Lead(leader) => Turn::Ours(leader),
            Role::Landed(_) => Turn::Landed,
            Role::Late => Turn::Late,
        }
    }

    /// Fetches `action`, which the directory does not have; the caller's turn says that nobody else does.
    /// `known` saves the classic layout its first request.
    pub fn fetch(
        &self,
        _turn: &Leader<ActionId, ()>,
        action: &ActionId,
        known: Option<(OutputId, SystemTime)>,
    ) -> Option<Fetched> {
        let result = match self.layout {
            Layout::Single => self.single(action),
            Layout::Classic => self.classic(action, known),
        };
        result.unwrap_or_else(|e| {
            self.tell(action, &e);
            None
        })
    }

    /// Fetches `action` for a get that is not waiting, and tells `landed` of it before any other get can see
    /// it; `None` also where the directory has it, or another is at it.
    pub fn fetch_ahead(
        &self,
        action: &ActionId,
        known: Option<(OutputId, SystemTime)>,
        landed: impl FnOnce(&Hit),
    ) -> Option<u64> {
        let Turn::Ours(turn) = self.turn(action) else { return None };
        if self.disk.get(action).ok()?.is_some() {
            return None;
        }
        let (hit, moved) = self.fetch(&turn, action, known)?;
        landed(&hit);
        Some(moved)
    }

    fn single(&self, action: &ActionId) -> Result<Option<(Hit, u64)>, DecodeError> {
        let take = |object| self.codec.decode(action, object, &self.disk);
        self.take(action, &entry::single_key(action), &entry::MAGIC[..3], take, |(hit, _)| hit.output)
    }

    fn classic(
        &self,
        action: &ActionId,
        known: Option<(OutputId, SystemTime)>,
    ) -> Result<Option<(Hit, u64)>, DecodeError> {
        let said = match known {
            Some((output, time)) => Some((output, time, None, 0)),
            None => {
                let take = |object| self.codec.decode_classic_action(action, object);
                self.take(action, &entry::classic_action_key(action), b"", take, |said| said.0)?
            }
        };
        let Some((output, time, size, moved)) = said else { return Ok(None) };
        let take = |object| entry::decode_classic_output(action, output, time, size, object, &self.disk);
        let taken = self.take(action, &entry::classic_output_key(&output), b"", take, |_| output)?;
        Ok(taken.map(|(hit, more)| (hit, moved + more)))
    }

    /// Takes an object in, of whose outcome `output` tells the output. One that is no good under our own
    /// prefix does not hide the main one's.
    fn take<T>(
        &self,
        action: &ActionId,
        key: &str,
        begin: &'static [u8],
        take: impl Fn(Object) -> Result<T, DecodeError>,
        output: impl Fn(&T) -> OutputId,
    ) -> Result<Option<T>, DecodeError> {
        let Some(object) = self.bucket.get(key, begin) else { return Ok(None) };
        let (own_prefix, old) = (object.own_prefix, object.old);
        match take(object) {
            Err(e @ (DecodeError::Corrupt(_) | DecodeError::Untrusted(_))) if own_prefix => {
                self.tell(action, &e);
                self.bucket.ask(key, begin, None, true).ok().flatten().map(take).transpose()
            }
            Ok(taken) => {
                self.refresher.taken(key, old, Some((action, output(&taken))));
                Ok(Some(taken))
            }
            Err(e) => Err(e),
        }
    }

    fn tell(&self, action: &ActionId, e: &DecodeError) {
        match e {
            DecodeError::Corrupt(_) | DecodeError::Untrusted(_) => {
                self.metrics.bucket.corrupt.inc();
                let bucket = self.bucket.target();
                self.codec.signer().refused(format_args!("{bucket}: the entry of action {action} is not used: {e}"));
            }
            // the bucket's own log tells of these
            DecodeError::Transfer(e) => log::debug!("fetching action {action}: {e}"),
            DecodeError::Disk(e) => {
                self.disk.trouble.tell(format_args!("{}: storing an output: {e}", self.disk.root().display()));
            }
        }
    }
}
