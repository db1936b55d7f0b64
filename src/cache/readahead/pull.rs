//! Fetching all that a scope lists, before anybody asks for it.

use std::time::Duration;

use super::{Phase, Readahead, known};
use crate::cache::id::ActionId;
use crate::pool;

/// Entries fetched by themselves at a time, where no pack brought them.
const SINGLY: usize = 16;
/// How often progress is told.
const TELL: Duration = Duration::from_millis(200);

impl Readahead {
    /// Fetches everything that the scope lists; how many entries those are, and how many the directory has now.
    /// `None` where it has no list that can be used. `tell` hears now
    /// and then how much of how much is done. The error is a bucket that could not be asked.
    pub fn pull(&self, mut tell: impl FnMut(usize, usize)) -> Result<Option<(usize, usize)>, String> {
        self.shared.lock().whole = true;
        self.begin();
        let listed = loop {
            let state = self.shared.lock();
            match &state.phase {
                Phase::Without(None) => return Ok(None),
                Phase::Without(Some(why)) => return Err(why.clone()),
                Phase::Loaded(loaded) => {
                    tell(loaded.window.over(), loaded.window.len());
                    if loaded.window.is_idle() {
                        break loaded.listed.clone();
                    }
                }
                Phase::Idle | Phase::Loading => {}
            }
            drop(self.shared.landed(0).wait_timeout(state, TELL).expect("no holder panics"));
        };
        let (entries, fetcher) = (&listed.manifest.entries, &self.shared.fetcher);
        let actions = || entries.iter().filter_map(|e| Some((ActionId::new(&e.action)?, e)));
        // what no pack brought
        pool::each(
            "pull",
            SINGLY,
            actions().filter(|(action, _)| !fetcher.has(action)).collect(),
            |(action, entry)| {
                fetcher.fetch_ahead(&action, known(entry));
            },
        );
        Ok(Some((entries.len(), actions().filter(|(action, _)| fetcher.has(action)).count())))
    }
}
