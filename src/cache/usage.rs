//! What one session used, in order of first use.

use std::collections::HashMap;

use super::disk::Hit;
use super::entry::nanos;
use super::id::ActionId;
use super::manifest::{self, Used};

/// A session's record. Bounded by the number of entries that a manifest can list.
#[derive(Default)]
pub struct Usage {
    index: HashMap<[u8; 32], usize>,
    slots: Vec<([u8; 32], Option<Used>, bool)>,
}

impl Usage {
    /// `go` asked for `action` and was given `hit`, or nothing: then it will likely put it, and
    /// keeps its place. `shared` says that the bucket has it.
    pub fn get(&mut self, action: &ActionId, hit: Option<&Hit>, shared: bool) {
        self.record(action, hit, true, shared);
    }

    /// `go` put `action`; `shared` says that it is uploaded.
    pub fn put(&mut self, action: &ActionId, hit: &Hit, shared: bool) {
        self.record(action, Some(hit), false, shared);
    }

    /// The entries used, leaving none.
    pub fn take(&mut self) -> Vec<Used> {
        self.index.clear();
        self.slots.drain(..).filter_map(|(_, used, _)| used).collect()
    }

    fn record(&mut self, action: &ActionId, hit: Option<&Hit>, asked: bool, shared: bool) {
        let Some(id) = manifest::listed_id(action) else { return };
        let i = match self.index.get(&id) {
            Some(&i) => i,
            None if self.slots.len() >= manifest::MAX_ENTRIES => return,
            None => {
                self.slots.push((id, None, false));
                self.index.insert(id, self.slots.len() - 1);
                self.slots.len() - 1
            }
        };
        let (_, used, was_asked) = &mut self.slots[i];
        *was_asked |= asked;
        if let Some(hit) = hit {
            let shared = shared || used.as_ref().is_some_and(|u| u.shared);
            let asked = *was_asked;
            *used = Some(Used { action: id, output: hit.output, size: hit.size, time: nanos(hit.time), asked, shared });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::id::OutputId;
    use std::time::SystemTime;

    #[test]
    fn the_first_get_sets_the_place_and_the_put_fills_it() {
        let hit = |n: u8| Hit {
            output: OutputId([n; 32]),
            size: 1,
            time: SystemTime::UNIX_EPOCH,
            path: std::path::PathBuf::new(),
        };
        let action = |n: u8| ActionId::new(&[n; 32]).unwrap();
        let mut usage = Usage::default();
        usage.get(&action(1), None, false);
        usage.get(&action(2), Some(&hit(2)), true);
        usage.put(&action(1), &hit(1), true);
        usage.put(&action(3), &hit(3), true);
        usage.get(&action(4), None, false);
        let got: Vec<_> = usage.take().iter().map(|u| (u.action[0], u.asked, u.shared)).collect();
        assert_eq!(got, [(1, true, true), (2, true, true), (3, false, true)]);
        assert!(usage.take().is_empty());
    }
}
