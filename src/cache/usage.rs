//! What one session used, in order of first use.

use std::collections::HashMap;

use super::disk::Hit;
use super::id::ActionId;
use super::manifest::{self, Used};
use crate::sign::nanos;

/// A session's record. Bounded by the number of entries that a manifest can list.
#[derive(Default)]
pub struct Usage {
    index: HashMap<[u8; 32], usize>,
    /// Nothing where nothing came of it so far.
    slots: Vec<Option<Used>>,
}

impl Usage {
    /// What was recorded, leaving nothing.
    pub fn take(&mut self) -> Vec<Used> {
        self.index.clear();
        self.slots.drain(..).flatten().collect()
    }

    /// `go` put `hit` for `action`, or was given it; `shared` says that the bucket has it, or will. Without one,
    /// `go` turns to `action`, which has its place from now on, should it come to be used.
    pub fn record(&mut self, action: &ActionId, hit: Option<&Hit>, shared: bool) {
        let Some(id) = manifest::listed_id(action) else { return };
        let i = match self.index.get(&id) {
            Some(&i) => i,
            None if self.slots.len() >= manifest::MAX_ENTRIES => return,
            None => {
                self.slots.push(None);
                self.index.insert(id, self.slots.len() - 1);
                self.slots.len() - 1
            }
        };
        let slot = &mut self.slots[i];
        if let Some(hit) = hit {
            let shared = shared || slot.as_ref().is_some_and(|u| u.shared);
            let (output, size, time) = (hit.output, hit.size, nanos(hit.time));
            *slot = Some(Used { action: id, output, size, time, shared, young_since: None });
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
        usage.record(&action(1), None, false);
        usage.record(&action(2), Some(&hit(2)), true);
        usage.record(&action(1), Some(&hit(1)), true);
        usage.record(&action(3), Some(&hit(3)), true);
        usage.record(&action(4), None, false);
        let got: Vec<_> = usage.take().iter().map(|u| (u.action[0], u.shared)).collect();
        assert_eq!(got, [(1, true), (2, true), (3, true)]);
        assert!(usage.take().is_empty());
    }
}
