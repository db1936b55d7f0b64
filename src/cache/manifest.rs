//! The manifest of a scope: which entries its builds used, in order of first use, and where the small
//! ones lie together, so that the next build can fetch them ahead in few requests.
//!
//! It is the head of the scope's first pack: the index (see `index`), and behind it the first frames
//! (see [`super::pack`]). Further packs are objects of their own, which the index names.
//!
//! Invariants: it is a hint; a wrong entry costs speed, never correctness, because a body reaches
//! the disk cache only through its check against the output id. Only actions of 32 bytes are listed.
//! The frames of a pack follow one another from its start, so that none can overlap.

mod index;

use std::collections::{HashMap, HashSet};

use super::id::{ActionId, OutputId};
use super::pack;
pub use index::{MAGIC, MAX_INDEX, NEWER};

/// Entries listed at most.
pub const MAX_ENTRIES: usize = 200_000;
/// Entries are dropped so many days after [`Entry::day`].
const KEEP_DAYS: u16 = 24;
/// The day of what is used is never longer ago, so that nothing is dropped within 14 days of its last use.
const LAG_DAYS: u16 = 10;
/// A manifest is written where one in so many of the entries that a session used, or of their bytes,
/// is not as it is listed.
const WORTH: u64 = 20;

/// One listed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The action, 32 bytes.
    pub action: [u8; 32],
    /// Bytes of the output, at most `u32::MAX` where it is longer.
    pub size: u32,
    /// The day on which its object was put or renewed, as far as is known, in days since 1970, but at most
    /// [`LAG_DAYS`] before its last use: which so is told well enough, and seldom changes the list.
    pub day: u16,
    /// How often in a row it was fetched ahead in vain.
    pub strikes: u8,
    /// Output and put time in nanoseconds, where a reader needs them before the entry is fetched:
    /// for small ones and for the classic layout.
    pub known: Option<(OutputId, i64)>,
    /// Where its bytes lie in a pack.
    pub place: Option<Place>,
}

/// Where the bytes of an entry are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of the frame in [`Manifest::frames`].
    pub frame: u32,
    /// Where in the frame, once it is unpacked.
    pub at: u32,
}

/// A run of bodies, compressed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The pack that it is in: 0 is the manifest's own object, n the nth of [`Manifest::packs`].
    pub pack: u32,
    /// Where in the pack's frames it begins.
    pub at: u32,
    /// Bytes there.
    pub len: u32,
    /// Bytes unpacked, at most [`pack::FRAME`].
    pub raw: u32,
}

/// A pack that is an object of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// The SHA-256 of its bytes, which is its name.
    pub id: OutputId,
    /// Whether it lies under the main prefix, for who writes under another.
    pub main: bool,
}

/// What a scope's builds used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// In order of first use.
    pub entries: Vec<Entry>,
    /// The packs beside the manifest.
    pub packs: Vec<Pack>,
    /// The frames of all packs, the manifest's own first, in the packs' order.
    pub frames: Vec<Frame>,
    /// Whether it is to be signed anew soon, changed or not.
    pub aged: bool,
}

/// One entry that a session used.
#[derive(Clone, Debug)]
pub struct Used {
    /// The action, 32 bytes.
    pub action: [u8; 32],
    /// Its output.
    pub output: OutputId,
    /// Bytes of the output.
    pub size: u64,
    /// When it was put, nanoseconds since 1970.
    pub time: i64,
    /// Whether the bucket has it or is about to; others are not listed anew.
    pub shared: bool,
    /// The day when its object was put or renewed, where it is known to be young.
    pub young_since: Option<u16>,
}

impl Entry {
    /// Whether its bytes belong into a pack.
    pub fn is_small(&self) -> bool {
        self.known.is_some() && self.size as usize <= pack::SMALL
    }
}

impl Manifest {
    /// Takes a session into the manifest: the entries that it `used`, in order of first use, and what
    /// was fetched ahead and not used, in `wasted`. `today` counts days since 1970, `know` says whether
    /// outputs and times are listed for large entries too. Returns whether the result is worth writing.
    ///
    /// Entries used take the places they had among themselves, in the session's order; new ones go
    /// behind the one used before them. So a session that used a part of the scope leaves the
    /// rest in place.
    pub fn merge(&mut self, used: &[Used], wasted: &[[u8; 32]], today: u16, know: bool) -> bool {
        let index: HashMap<[u8; 32], usize> = self.entries.iter().enumerate().map(|(i, e)| (e.action, i)).collect();
        let (mut all, mut changed) = (Amount::default(), Amount::default());
        for &i in wasted.iter().filter_map(|action| index.get(action)) {
            self.entries[i].strikes = self.entries[i].strikes.saturating_add(1);
            changed.add(0);
        }
        let mut slots: Vec<usize> = used.iter().filter_map(|u| index.get(&u.action).copied()).collect();
        slots.sort_unstable();
        slots.dedup();
        let mut slots = slots.into_iter();
        let mut placed: Vec<Option<Entry>> = vec![None; self.entries.len()];
        // new entries by the slot that they follow; 0 is before the first
        let mut behind: HashMap<usize, Vec<Entry>> = HashMap::new();
        let mut last = 0;
        let mut seen = HashSet::new();
        for u in used.iter().filter(|u| seen.insert(u.action)) {
            let before = index.get(&u.action).map(|&i| &self.entries[i]);
            if before.is_none() && !u.shared {
                continue;
            }
            let renewed = renew(before, u, today, know);
            all.add(u.size);
            if before != Some(&renewed) || renewed.is_small() && renewed.place.is_none() {
                changed.add(u.size);
            }
            if before.is_some() {
                let slot = slots.next().expect("as many slots as used entries that were listed");
                placed[slot] = Some(renewed);
                last = slot + 1;
            } else {
                behind.entry(last).or_default().push(renewed);
            }
        }
        let old = std::mem::take(&mut self.entries);
        self.entries.extend(behind.remove(&0).unwrap_or_default());
        for (i, entry) in old.into_iter().enumerate() {
            let entry = placed[i].take().unwrap_or(entry);
            if entry.day.saturating_add(KEEP_DAYS) >= today {
                self.entries.push(entry);
            } else {
                changed.add(0);
            }
            self.entries.extend(behind.remove(&(i + 1)).unwrap_or_default());
        }
        self.limit();
        let much = changed.count * WORTH >= all.count || changed.bytes * WORTH >= all.bytes;
        std::mem::take(&mut self.aged) || changed.count > 0 && much
    }

    /// Drops the entries unused for longest until there are few enough.
    fn limit(&mut self) {
        let over = self.entries.len().saturating_sub(MAX_ENTRIES);
        if over > 0 {
            let mut days: Vec<u16> = self.entries.iter().map(|e| e.day).collect();
            days.sort_unstable();
            let (oldest, mut left) = (days[over - 1], over);
            self.entries.retain(|e| {
                let drop = e.day <= oldest && left > 0;
                left -= drop as usize;
                !drop
            });
        }
    }

    /// For each pack, the manifest's own first: bytes of its frames unpacked, and how many of them
    /// entries use.
    pub fn live(&self) -> Vec<(u64, u64)> {
        let mut packs = vec![(0, 0); self.packs.len() + 1];
        self.frames.iter().for_each(|f| packs[f.pack as usize].0 += u64::from(f.raw));
        for (entry, place) in self.entries.iter().filter_map(|e| Some((e, e.place?))) {
            packs[self.frames[place.frame as usize].pack as usize].1 += u64::from(entry.size);
        }
        packs
    }

    /// Drops the frames of the manifest's own object, the packs that are not to be kept (`keep` has one for
    /// each), and the places in them.
    pub fn keep(&mut self, keep: &[bool]) {
        let (mut kept, mut numbers) = (0, vec![None]);
        for &keep in keep {
            kept += keep as u32;
            numbers.push(keep.then_some(kept));
        }
        let mut frames = Vec::new();
        for frame in std::mem::take(&mut self.frames) {
            let pack = numbers[frame.pack as usize];
            frames.push(pack.map(|_| self.frames.len() as u32));
            self.frames.extend(pack.map(|pack| Frame { pack, ..frame }));
        }
        let mut keep = keep.iter();
        self.packs.retain(|_| *keep.next().expect("one for each"));
        for entry in &mut self.entries {
            entry.place = entry.place.and_then(|p| Some(Place { frame: frames[p.frame as usize]?, at: p.at }));
        }
    }
}

/// So many entries, and their bytes.
#[derive(Default)]
struct Amount {
    count: u64,
    bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// The entry, listed so far as `before`, as it is after `u` used it.
fn renew(before: Option<&Entry>, u: &Used, today: u16, know: bool) -> Entry {
    let size = u32::try_from(u.size).unwrap_or(u32::MAX);
    let new = Entry { action: u.action, size, day: 0, strikes: 0, known: None, place: None };
    let entry = before.cloned().unwrap_or(new);
    let day = u.young_since.unwrap_or(entry.day).clamp(today.saturating_sub(LAG_DAYS), today);
    let entry = Entry { day, strikes: 0, ..entry };
    // what this session neither made nor had from the bucket is not vouched for
    if !u.shared {
        return entry;
    }
    let same = entry.size == size && entry.known.is_some_and(|(output, _)| output == u.output);
    let known = (know || size as usize <= pack::SMALL).then_some((u.output, u.time));
    Entry { size, known, place: entry.place.filter(|_| same), ..entry }
}

/// The action's id as a manifest lists it; `None` for lengths that `go` does not use.
pub fn listed_id(action: &ActionId) -> Option<[u8; 32]> {
    action.as_bytes().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(n: u8) -> Used {
        Used {
            action: [n; 32],
            output: OutputId::of(&[n; 3]),
            size: 3,
            time: i64::from(n),
            shared: true,
            young_since: Some(u16::MAX),
        }
    }

    /// Merges uses of these, and packs what is new.
    fn merge(m: &mut Manifest, ids: &[u8], today: u16) -> bool {
        let worth = m.merge(&ids.iter().map(|&n| used(n)).collect::<Vec<_>>(), &[], today, false);
        m.entries.iter_mut().for_each(|e| e.place = Some(Place { frame: 0, at: 0 }));
        worth
    }

    fn order(m: &Manifest) -> Vec<u8> {
        m.entries.iter().map(|e| e.action[0]).collect()
    }

    #[test]
    fn a_part_used_in_another_order_keeps_its_places() {
        let mut m = Manifest::default();
        merge(&mut m, &[1, 2, 3, 4, 5], 20_000);
        merge(&mut m, &[4, 7, 2], 20_000);
        assert_eq!(order(&m), [1, 4, 7, 3, 2, 5]);
        merge(&mut m, &[8, 1], 20_000);
        assert_eq!(order(&m), [8, 1, 4, 7, 3, 2, 5]);
    }

    #[test]
    fn shards_leave_the_union() {
        let mut m = Manifest::default();
        merge(&mut m, &[1, 2, 3], 20_000);
        merge(&mut m, &[4, 5, 6], 20_000);
        let mut all = order(&m);
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn only_change_is_worth_writing() {
        let mut m = Manifest::default();
        assert!(merge(&mut m, &[1, 2], 20_000));
        assert!(!merge(&mut m, &[1, 2], 20_000));
        assert!(!merge(&mut m, &[2, 1], 20_000), "order alone is not");
        assert!(merge(&mut m, &[1], 20_001), "the day is");
        assert!(m.merge(&[used(1)], &[[2; 32]], 20_001, false), "a fetch in vain is");
        assert!(merge(&mut m, &[1], 20_025), "what is dropped is");
        assert_eq!(order(&m), [1]);
        m.entries[0].place = None;
        assert!(m.merge(&[used(1)], &[], 20_025, false), "what is in no pack is");
    }

    #[test]
    fn little_change_is_not() {
        let mut m = Manifest::default();
        let all: Vec<u8> = (0..100).collect();
        merge(&mut m, &all, 20_000);
        assert!(!merge(&mut m.clone(), &[&all[..], &[200, 201, 202, 203, 204]].concat(), 20_000));
        assert!(merge(&mut m.clone(), &[&all[..], &[200, 201, 202, 203, 204, 205]].concat(), 20_000));
        // or of much more than its part of the bytes
        let large = Used { size: 1 << 20, ..used(200) };
        let session: Vec<Used> = all.iter().map(|&n| used(n)).chain([large]).collect();
        assert!(m.merge(&session, &[], 20_000, false));
    }

    #[test]
    fn another_output_loses_its_place() {
        let mut m = Manifest::default();
        merge(&mut m, &[1, 2], 20_000);
        m.merge(&[Used { time: 7, ..used(1) }, Used { output: OutputId::of(b"x"), ..used(2) }], &[], 20_000, false);
        assert_eq!((m.entries[0].known.map(|k| k.1), m.entries[0].place.is_some()), (Some(7), true));
        assert_eq!(m.entries[1].place, None);
    }

    #[test]
    fn what_is_only_local_is_not_listed_anew() {
        let mut m = Manifest::default();
        assert!(!m.merge(&[Used { shared: false, ..used(1) }], &[], 20_000, false));
        assert!(m.entries.is_empty());
    }

    #[test]
    fn packs_that_are_not_kept_go_with_their_places() {
        let mut m = Manifest::default();
        merge(&mut m, &[1, 2, 3, 4], 20_000);
        m.packs = (0..2).map(|n| Pack { id: OutputId([n; 32]), main: false }).collect();
        m.frames = [0, 1, 2, 2].map(|pack| Frame { pack, at: 9 * pack, len: 5, raw: 6 }).to_vec();
        (0..4).for_each(|i| m.entries[i].place = Some(Place { frame: i as u32, at: 0 }));
        assert_eq!(m.live(), [(6, 3), (6, 3), (12, 6)]);
        m.keep(&[false, true]);
        assert_eq!(m.packs.iter().map(|p| p.id.0[0]).collect::<Vec<_>>(), [1]);
        assert_eq!(m.frames, [Frame { pack: 1, at: 18, len: 5, raw: 6 }; 2]);
        assert_eq!(
            m.entries.iter().map(|e| e.place.map(|p| p.frame)).collect::<Vec<_>>(),
            [None, None, Some(0), Some(1)]
        );
    }
}
