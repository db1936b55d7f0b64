//! An object's age is its last use: what a session uses and finds old is renewed in the bucket, in the
//! background ([`Uploader::refresh`](crate::upload::Uploader::refresh)), so that whoever deletes by age, a bucket's own life-cycle rule or
//! `prune --bucket`, never deletes what is in use.
//!
//! How old an object is follows from the answer that brought it. Of what needed no answer (it was in a
//! list, or local already) the scope's list tells when its object was last known to be young; that is
//! asked about after [`LOOK_AGAIN`](crate::remote) at the latest. Nothing is asked to find out what need
//! not be renewed, and nobody waits.
//!
//! Invariants: only what was verified is renewed by who signs, since what turns out to be gone is put
//! anew from disk, and signed; nothing is, where nothing is written.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::entry;
use super::fetch::Fetcher;
use super::id::{ActionId, OutputId};
use crate::config::Layout;
use crate::folder::ACTION;

impl Fetcher {
    /// The object under `key` was fetched, found good, and is to be renewed if it is `old`; it is made from
    /// `entry`, unless from nothing that the directory has.
    pub fn renew(&self, key: &str, old: bool, entry: Option<(&ActionId, OutputId)>) {
        if let Some(uploader) = self.uploader.as_ref().filter(|_| old) {
            let thing = entry.map(|(action, output)| (ACTION, action.to_string(), Some(output)));
            uploader.refresh(key.to_string(), thing);
        }
    }

    /// The entry of `action` was used without being fetched by itself; on `day` its objects were last known
    /// to be young.
    pub fn used(&self, action: &ActionId, output: OutputId, day: u16) {
        // a day has many hours
        let days = today().saturating_sub(day).saturating_sub(1);
        if days == 0 || self.uploader.is_none() {
            return;
        }
        for key in self.keys(action, output) {
            let due = self.bucket.is_due(&key, Duration::from_secs(86_400 * u64::from(days)));
            self.renew(&key, due, Some((action, output)));
        }
    }

    /// The day on which the objects of an entry are known to have been put or renewed, where they are young.
    pub fn young_since(&self, action: &ActionId, output: OutputId) -> Option<u16> {
        let ages: Option<Vec<_>> = self.keys(action, output).map(|key| self.bucket.young(&key)).collect();
        let days = ages?.into_iter().max()?.as_secs() / 86_400;
        Some(today().saturating_sub(u16::try_from(days).unwrap_or(u16::MAX)))
    }

    fn keys(&self, action: &ActionId, output: OutputId) -> impl Iterator<Item = String> {
        let (first, second) = match self.entries.layout {
            Layout::Single => (entry::single_key(action), None),
            Layout::Classic => (entry::classic_action_key(action), Some(entry::classic_output_key(&output))),
        };
        [Some(first), second].into_iter().flatten()
    }
}

/// Days since 1970.
pub fn today() -> u16 {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400;
    u16::try_from(days).unwrap_or(u16::MAX)
}
