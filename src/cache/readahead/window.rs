//! Which entry to fetch next: pure decisions, no threads and no bucket.
//!
//! Invariants: an entry is handed out at most once; `pending` and `unused` add up what was handed
//! out and not yet asked for.

use crate::cache::manifest::Manifest;

/// The window starts with, and never falls below, this many entries.
pub const WINDOW_MIN: usize = 16;
/// The window never grows over this many.
const WINDOW_MAX: usize = 2048;
/// Bytes that may be moved without anybody using them, over and above those used.
pub const SPECULATION: u64 = 6 << 20;
/// What is left of [`SPECULATION`] when a large manifest has taken it.
const SPECULATION_MIN: u64 = 1 << 20;
/// Go outputs shrink at least this much in most cases; only guides how much is under way.
const RATIO: u64 = 3;
/// A get this far ahead of what was fetched still follows the recorded order.
const SKIP: usize = 256;
/// Places in the order that are followed at a time.
const CURSORS: usize = 4;
/// Entries fetched in vain this often are left to be asked for.
const STRIKES: u8 = 2;

#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// Nobody turned to it yet.
    Open,
    /// Never fetched ahead: inline, or fetched in vain before.
    Skip,
    /// Handed out, with its estimated bytes.
    Pending,
    /// Fetched, and so many bytes moved for it.
    Fetched(u32),
    /// Asked for, or not fetched after all.
    Settled,
}

/// The window over a manifest.
pub struct Window {
    fates: Vec<Fate>,
    sizes: Vec<u32>,
    cursors: Vec<Cursor>,
    limit: usize,
    speculation: u64,
    /// Entries handed out and not asked for.
    ahead: usize,
    /// Estimated bytes under way.
    pending: u64,
    /// Bytes fetched and not asked for.
    unused: u64,
    /// Bytes moved that were of use.
    used: u64,
    tick: u64,
}

/// A place in the recorded order that `go` is following.
struct Cursor {
    start: usize,
    next: usize,
    /// The furthest entry asked for.
    seen: usize,
    touched: u64,
}

impl Window {
    /// A window over `manifest`, which took `stored` bytes to load.
    pub fn new(manifest: &Manifest, stored: u64) -> Self {
        let fate = |e: &crate::cache::manifest::Entry| {
            if e.inline.is_some() || e.strikes >= STRIKES { Fate::Skip } else { Fate::Open }
        };
        Window {
            fates: manifest.entries.iter().map(fate).collect(),
            sizes: manifest.entries.iter().map(|e| e.size).collect(),
            cursors: Vec::new(),
            limit: WINDOW_MIN,
            speculation: SPECULATION.saturating_sub(stored).max(SPECULATION_MIN),
            ahead: 0,
            pending: 0,
            unused: 0,
            used: 0,
            tick: 0,
        }
    }

    /// `go` asks for entry `i`. Returns the bytes that were moved for it ahead, the first time.
    pub fn ask(&mut self, i: usize) -> Option<u64> {
        self.follow(i);
        let fate = self.fates[i];
        self.fates[i] = Fate::Settled;
        match fate {
            Fate::Fetched(bytes) => {
                self.unused -= u64::from(bytes);
                self.used += u64::from(bytes);
                self.ahead -= 1;
                self.grow();
                Some(u64::from(bytes))
            }
            Fate::Pending => {
                // its fetcher reports to `done`, which finds it settled
                self.pending -= self.estimate(i);
                self.ahead -= 1;
                self.grow();
                None
            }
            Fate::Open | Fate::Skip | Fate::Settled => None,
        }
    }

    /// A get moved `bytes` by itself.
    pub fn demand(&mut self, bytes: u64) {
        self.used += bytes;
    }

    /// The entry to fetch next, if the window has room for one.
    pub fn next(&mut self) -> Option<usize> {
        if self.ahead >= self.limit || self.unused + self.pending > self.used + self.speculation {
            return None;
        }
        // the place that go was seen at last comes first
        self.cursors.sort_unstable_by_key(|c| std::cmp::Reverse(c.touched));
        let room = self.used + self.speculation - self.unused - self.pending;
        for cursor in &mut self.cursors {
            // entries that cost no room, because they are local, do not draw the window further
            let end = self.fates.len().min(cursor.seen + self.limit + SKIP);
            while cursor.next < end {
                let i = cursor.next;
                let estimate = u64::from(self.sizes[i]) / RATIO;
                if self.fates[i] != Fate::Open || estimate > self.speculation.max(room) {
                    // one so large is left to be asked for
                    cursor.next += 1;
                    continue;
                }
                if estimate > room {
                    return None;
                }
                cursor.next += 1;
                self.fates[i] = Fate::Pending;
                self.ahead += 1;
                self.pending += estimate;
                return Some(i);
            }
        }
        None
    }

    /// Entry `i` could not be fetched now, but may be later.
    pub fn give_back(&mut self, i: usize) {
        if self.fates[i] == Fate::Pending {
            self.fates[i] = Fate::Open;
            self.ahead -= 1;
            self.pending -= self.estimate(i);
            for cursor in self.cursors.iter_mut().filter(|c| c.start <= i) {
                cursor.next = cursor.next.min(i);
            }
        }
    }

    /// The fetch of entry `i` has ended, and moved so many bytes. Returns whether it was asked for
    /// meanwhile, so that what was moved was of use.
    pub fn done(&mut self, i: usize, moved: Option<u64>) -> bool {
        if self.fates[i] != Fate::Pending {
            self.used += moved.unwrap_or(0);
            return true;
        }
        self.pending -= self.estimate(i);
        match moved {
            Some(bytes) => {
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                self.fates[i] = Fate::Fetched(bytes);
                self.unused += u64::from(bytes);
            }
            None => {
                self.fates[i] = Fate::Settled;
                self.ahead -= 1;
            }
        }
        false
    }

    /// The entries fetched and never asked for.
    pub fn wasted(&self) -> impl Iterator<Item = usize> + '_ {
        self.fates.iter().enumerate().filter(|(_, f)| matches!(f, Fate::Fetched(_))).map(|(i, _)| i)
    }

    fn estimate(&self, i: usize) -> u64 {
        u64::from(self.sizes[i]) / RATIO
    }

    fn grow(&mut self) {
        self.limit = (self.limit + 1).min(WINDOW_MAX);
    }

    /// Moves the cursor that entry `i` belongs to, or starts one.
    fn follow(&mut self, i: usize) {
        self.tick += 1;
        let tick = self.tick;
        if let Some(cursor) = self.cursors.iter_mut().find(|c| (c.start..c.next + SKIP).contains(&i)) {
            cursor.touched = tick;
            cursor.seen = cursor.seen.max(i);
            return;
        }
        if !self.cursors.is_empty() {
            self.limit = (self.limit / 2).max(WINDOW_MIN);
        }
        if self.cursors.len() == CURSORS
            && let Some(oldest) = self.cursors.iter().enumerate().min_by_key(|(_, c)| c.touched).map(|(n, _)| n)
        {
            self.cursors.swap_remove(oldest);
        }
        self.cursors.push(Cursor { start: i, next: i + 1, seen: i, touched: tick });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::manifest::Entry;

    fn manifest(n: usize, size: u32) -> Manifest {
        let entry = |i: usize| {
            let mut action = [0; 32];
            action[..8].copy_from_slice(&i.to_le_bytes());
            Entry { action, size, day: 0, strikes: 0, known: None, inline: None }
        };
        Manifest { entries: (0..n).map(entry).collect(), ..Manifest::default() }
    }

    fn drain(window: &mut Window, moved: u64) -> Vec<usize> {
        let mut got = Vec::new();
        while let Some(i) = window.next() {
            window.done(i, Some(moved));
            got.push(i);
        }
        got
    }

    #[test]
    fn nothing_is_fetched_before_the_first_get() {
        assert_eq!(Window::new(&manifest(100, 10), 0).next(), None);
    }

    #[test]
    fn it_opens_around_what_is_asked_for_and_grows_while_it_is_used() {
        let mut window = Window::new(&manifest(10_000, 10), 0);
        window.ask(5);
        let first = drain(&mut window, 10);
        assert_eq!(first, (6..6 + WINDOW_MIN).collect::<Vec<_>>());
        for i in first {
            assert_eq!(window.ask(i), Some(10));
        }
        assert_eq!(drain(&mut window, 10).len(), 2 * WINDOW_MIN);
    }

    #[test]
    fn an_entry_is_handed_out_once_and_not_after_it_was_asked_for() {
        let mut window = Window::new(&manifest(100, 10), 0);
        window.ask(0);
        window.ask(2);
        let mut got = drain(&mut window, 10);
        let all = got.len();
        got.dedup();
        assert_eq!(got.len(), all);
        assert!(!got.contains(&2) && got.contains(&1) && got.contains(&3));
    }

    #[test]
    fn bytes_in_vain_are_bounded() {
        let mut window = Window::new(&manifest(10_000, 3 << 20), 0);
        window.ask(0);
        let moved = drain(&mut window, 1 << 20).len() as u64;
        assert!(moved << 20 <= SPECULATION + (2 << 20), "{moved}");
        assert!(moved > 2);
        window.demand(10 << 20);
        assert!((drain(&mut window, 1 << 20).len() as u64).abs_diff(10) <= 1);
    }

    #[test]
    fn a_large_manifest_takes_from_what_may_be_moved_in_vain() {
        let mut window = Window::new(&manifest(1000, 3 << 18), 20 << 20);
        window.ask(0);
        assert!(drain(&mut window, 1 << 18).len() <= 6);
    }

    #[test]
    fn leaving_the_order_halves_it() {
        let mut window = Window::new(&manifest(10_000, 10), 0);
        window.ask(0);
        for _ in 0..4 {
            for i in drain(&mut window, 10) {
                window.ask(i);
            }
        }
        let before = window.limit;
        window.ask(9_000);
        assert_eq!(window.limit, before / 2);
        assert_eq!(window.next(), Some(9_001));
    }

    #[test]
    fn what_was_asked_for_while_under_way_is_of_use() {
        let mut window = Window::new(&manifest(10, 30), 0);
        window.ask(0);
        let i = window.next().unwrap();
        assert_eq!(window.ask(i), None);
        assert!(window.done(i, Some(7)));
        assert_eq!((window.used, window.unused, window.pending, window.ahead), (7, 0, 0, 0));
        assert_eq!(window.wasted().count(), 0);
    }

    #[test]
    fn what_is_given_back_is_handed_out_again() {
        let mut window = Window::new(&manifest(100, 30), 0);
        window.ask(0);
        let first = window.next().unwrap();
        let second = window.next().unwrap();
        window.give_back(first);
        assert_eq!(window.next(), Some(first));
        assert_eq!(window.next(), Some(second + 1));
    }

    #[test]
    fn local_entries_do_not_draw_it_further() {
        let mut window = Window::new(&manifest(10_000, 10), 0);
        window.ask(0);
        let mut last = 0;
        while let Some(i) = window.next() {
            window.done(i, None);
            last = i;
        }
        assert!(last < 1000, "{last}");
    }

    #[test]
    fn one_too_large_is_left_to_be_asked_for() {
        let mut m = manifest(10, 10);
        m.entries[1].size = 100 << 20;
        let mut window = Window::new(&m, 0);
        window.ask(0);
        assert_eq!(window.next(), Some(2));
    }

    #[test]
    fn what_was_fetched_in_vain_twice_is_left_alone() {
        let mut m = manifest(10, 10);
        m.entries[1].strikes = STRIKES;
        let mut window = Window::new(&m, 0);
        window.ask(0);
        assert_eq!(window.next(), Some(2));
    }
}
