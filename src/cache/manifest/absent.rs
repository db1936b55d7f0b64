//! What a scope's builds ask for and never find nor put: `go` does not keep every result. A get of
//! such an action need not wait for the bucket to say so again.
//!
//! ```text
//! count u32, then each: action 32 · day 2
//! ```
//!
//! Invariants: at most [`MAX_ABSENT`]; the latest session's come first and go last.

use std::collections::HashSet;

use crate::cache::cursor::Cursor;

/// Listed at most.
pub const MAX_ABSENT: usize = 4096;
/// Not asked for in this many days, they are dropped.
const KEEP_DAYS: u16 = 2;

/// The list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Absent(Vec<([u8; 32], u16)>);

impl Absent {
    /// All listed actions.
    pub fn actions(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.0.iter().map(|(action, _)| action)
    }

    /// Takes in what a session asked for in vain on day `today`, and drops what `present` says is
    /// not absent any more. Returns whether the list is worth writing.
    pub fn merge(&mut self, actions: &[[u8; 32]], today: u16, present: impl Fn(&[u8; 32]) -> bool) -> bool {
        let mut seen = HashSet::new();
        let known = self.0.iter().copied().filter(|(_, day)| day.saturating_add(KEEP_DAYS) >= today);
        let merged: Vec<_> = (actions.iter().map(|action| (*action, today)).chain(known))
            .filter(|(action, _)| !present(action) && seen.insert(*action))
            .take(MAX_ABSENT)
            .collect();
        let before: HashSet<_> = self.0.iter().collect();
        let changed = merged.len() != self.0.len() || !merged.iter().all(|a| before.contains(a));
        self.0 = merged;
        changed
    }

    /// Appends the list as it is stored.
    pub fn encode(&self, raw: &mut Vec<u8>) {
        raw.extend_from_slice(&(self.0.len() as u32).to_le_bytes());
        for (action, day) in &self.0 {
            raw.extend_from_slice(action);
            raw.extend_from_slice(&day.to_le_bytes());
        }
    }

    /// Reads what [`Self::encode`] wrote.
    pub(super) fn parse(at: &mut Cursor) -> Result<Self, String> {
        let count = at.u32()? as usize;
        if count > MAX_ABSENT {
            return Err(format!("it claims {count} absent entries, {MAX_ABSENT} are allowed"));
        }
        (0..count).map(|_| Ok((at.array()?, u16::from_le_bytes(at.array()?)))).collect::<Result<_, _>>().map(Absent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(absent: &Absent) -> Vec<u8> {
        absent.actions().map(|a| a[0]).collect()
    }

    #[test]
    fn the_latest_come_first_and_what_is_present_goes() {
        let mut absent = Absent::default();
        assert!(absent.merge(&[[1; 32], [2; 32], [1; 32]], 20_000, |_| false));
        assert_eq!(listed(&absent), [1, 2]);
        assert!(!absent.merge(&[[2; 32]], 20_000, |_| false), "nothing new");
        assert!(absent.merge(&[[3; 32]], 20_001, |action| action[0] == 1));
        assert_eq!(listed(&absent), [3, 2]);
        assert!(absent.merge(&[], 20_003, |_| false));
        assert_eq!(listed(&absent), [3]);
    }

    #[test]
    fn the_list_is_bounded() {
        let id = |i: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&i.to_le_bytes());
            id
        };
        let mut absent = Absent::default();
        absent.merge(&(0..MAX_ABSENT).map(id).collect::<Vec<_>>(), 20_000, |_| false);
        absent.merge(&[id(MAX_ABSENT)], 20_000, |_| false);
        assert_eq!(absent.0.len(), MAX_ABSENT);
        assert_eq!(absent.actions().next(), Some(&id(MAX_ABSENT)));
    }
}
