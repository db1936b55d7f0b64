//! One action from the bucket into the disk cache, once however many ask for it.
//!
//! Invariants: at most one fetch of an action is under way; who comes second waits for the first
//! and then looks at the disk, once in either case. What arrives replaces nothing that is there. Every
//! failure is a miss: the bucket has logged it, or it is logged here (damage, once an object).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::ActionSource;
use super::disk::Hit;
use super::entry::{self, DecodeError};
use super::id::{ActionId, OutputId};
use crate::config::Layout;
use crate::flight::{Flights, Leader, Role};
use crate::remote::{Bucket, Object};
use crate::upload::Uploader;

/// How long a get waits for another's fetch of the same action before it is a miss.
const PATIENCE: Duration = Duration::from_secs(15);

/// Fetches entries of one bucket.
pub struct Fetcher {
    /// The bucket.
    pub bucket: Arc<Bucket>,
    /// Its entries, and the directory that they are fetched to.
    pub entries: Arc<ActionSource>,
    /// Where puts go, and what is used and old is renewed; `None` where the bucket is only read.
    pub uploader: Option<Arc<Uploader>>,
    flights: Arc<Flights<ActionId>>,
}

/// Whose turn it is to look an action up and fetch it; once another has landed, the directory has it, or nobody.
pub type Turn = Role<ActionId, ()>;

impl Fetcher {
    /// Fetches `entries` from `bucket`.
    pub fn new(bucket: Arc<Bucket>, entries: Arc<ActionSource>, uploader: Option<Arc<Uploader>>) -> Self {
        Fetcher { bucket, entries, uploader, flights: Arc::default() }
    }

    /// Whether the directory has `action`, with its output.
    pub fn has(&self, action: &ActionId) -> bool {
        self.entries.disk.get(action).is_ok_and(|hit| hit.is_some())
    }

    /// Waits for whoever is fetching `action`, and takes the turn where nobody is.
    pub fn turn(&self, action: &ActionId) -> Turn {
        self.flights.join(action, Some(PATIENCE))
    }

    /// Fetches `action`, which the directory does not have; the caller's turn says that nobody else does.
    /// `known` saves the classic layout its first request. Also tells how many bytes were moved.
    pub fn fetch(
        &self,
        _turn: &Leader<ActionId, ()>,
        action: &ActionId,
        known: Option<(OutputId, SystemTime)>,
    ) -> Option<(Hit, u64)> {
        let result = match self.entries.layout {
            Layout::Single => self.single(action),
            Layout::Classic => self.classic(action, known),
        };
        result.unwrap_or_else(|e| {
            self.tell(action, &e);
            None
        })
    }

    /// Fetches `action` for a get that is not waiting, and tells how many bytes were moved for it; `None` also
    /// where the directory has it, or another is at it.
    pub fn fetch_ahead(&self, action: &ActionId, known: Option<(OutputId, SystemTime)>) -> Option<u64> {
        let Turn::Lead(turn) = self.turn(action) else { return None };
        if self.entries.disk.get(action).ok()?.is_some() {
            return None;
        }
        self.fetch(&turn, action, known).map(|(_, moved)| moved)
    }

    fn single(&self, action: &ActionId) -> Result<Option<(Hit, u64)>, DecodeError> {
        let take = |object| self.entries.codec.decode(action, object, &self.entries.disk);
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
                let take = |object| self.entries.codec.decode_classic_action(action, object);
                self.take(action, &entry::classic_action_key(action), b"", take, |said| said.0)?
            }
        };
        let Some((output, time, size, moved)) = said else { return Ok(None) };
        let take = |object| entry::decode_classic_output(action, output, time, size, object, &self.entries.disk);
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
                self.bucket.ask(key, begin, true).ok().flatten().map(take).transpose()
            }
            Ok(taken) => {
                self.renew(key, old, Some((action, output(&taken))));
                Ok(Some(taken))
            }
            Err(e) => Err(e),
        }
    }

    fn tell(&self, action: &ActionId, e: &DecodeError) {
        match e {
            DecodeError::Corrupt(_) | DecodeError::Untrusted(_) => {
                self.entries.metrics.bucket.corrupt.inc();
                let bucket = self.bucket.target();
                self.entries
                    .codec
                    .signer()
                    .refused(format_args!("{bucket}: the entry of action {action} is not used: {e}"));
            }
            // the bucket's own log tells of these
            DecodeError::Transfer(e) => log::debug!("fetching action {action}: {e}"),
            DecodeError::Disk(e) => {
                self.entries
                    .disk
                    .trouble
                    .tell(format_args!("{}: storing an output: {e}", self.entries.disk.root().display()));
            }
        }
    }
}
