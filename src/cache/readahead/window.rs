//! What to fetch next: pure decisions, no threads and no bucket.
//!
//! What is fetched in one go is a piece: a frame of a pack with all entries in it, or an entry that is
//! in none. Pieces stand in the order of their entries' first use.
//!
//! Invariants: a piece is fetched at most once at a time, by whoever claimed it, and never again once it
//! was; bytes moved and under way are at most half as many again as those used, and [`SPECULATION`] more
//! (or [`SPECULATION_MIN`] where the index takes all of that).

use crate::cache::manifest::Manifest;

/// Bytes that may be moved without anybody using them, over and above half of those used.
pub const SPECULATION: u64 = 5 << 20;
/// What is left of [`SPECULATION`] when a large index has taken it.
const SPECULATION_MIN: u64 = 1 << 20;
/// Less room than this is not worth a request while others are under way.
const WORTH: u64 = 256 << 10;
/// Go outputs shrink at least this much in most cases; only guides how much is under way.
const RATIO: u64 = 3;
/// So many pieces ahead of the last that was asked for are looked at.
const AHEAD: usize = 2048;
/// A get this far ahead of what was fetched still follows the recorded order.
const SKIP: usize = 256;
/// Places in the order that are followed at a time.
const CURSORS: usize = 4;
/// Entries fetched in vain this often are left to be asked for.
const STRIKES: u8 = 2;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// Nobody turned to it yet.
    Open,
    /// Handed out to be fetched ahead.
    Queued,
    /// Somebody is at it.
    Flying,
    /// It was fetched.
    Fetched,
    /// It is not to be fetched, here or ahead.
    Over,
}

/// What came of an attempt to claim a piece.
#[derive(Debug, PartialEq)]
pub enum Claim {
    /// It is the caller's to fetch.
    Ours,
    /// Another is at it.
    Flying,
    /// There is nothing to fetch, or no more.
    Over,
}

struct Piece {
    frame: Option<u32>,
    /// Its first member in [`Window::members`].
    first: u32,
    /// Bytes that it moves, or an estimate.
    cost: u32,
    fate: Fate,
}

/// An entry in its piece.
struct Member {
    piece: u32,
    /// Its part of the bytes that the piece moves.
    share: u32,
    asked: bool,
    /// Whether its share counts as used: from when it is asked for, be it there or under way.
    counted: bool,
}

/// The window over a manifest.
pub struct Window {
    pieces: Vec<Piece>,
    /// One for each entry of the manifest.
    entries: Vec<Member>,
    /// The entries, piece by piece.
    members: Vec<u32>,
    /// The place that `go` was seen at last comes first.
    cursors: Vec<Cursor>,
    speculation: u64,
    /// Estimated bytes under way.
    pending: u64,
    /// Bytes moved.
    moved: u64,
    /// Of them, those that were of use.
    used: u64,
}

/// A place in the recorded order that `go` is following.
struct Cursor {
    start: usize,
    next: usize,
    /// The furthest piece asked for.
    seen: usize,
}

impl Window {
    /// A window over `manifest`, which took `stored` bytes to load.
    pub fn new(manifest: &Manifest, stored: u64) -> Self {
        let mut window = Window {
            pieces: Vec::new(),
            entries: Vec::with_capacity(manifest.entries.len()),
            members: (0..manifest.entries.len() as u32).collect(),
            cursors: Vec::new(),
            speculation: SPECULATION.max(stored + SPECULATION_MIN),
            pending: 0,
            moved: stored,
            used: 0,
        };
        let mut of_frame = vec![None; manifest.frames.len()];
        for e in &manifest.entries {
            let new = window.pieces.len() as u32;
            let frame = e.place.map(|place| place.frame);
            let piece = frame.map_or(new, |frame| *of_frame[frame as usize].get_or_insert(new));
            let share = match frame.map(|frame| manifest.frames[frame as usize]) {
                Some(f) => u64::from(f.len) * u64::from(e.size) / u64::from(f.raw.max(1)),
                None => u64::from(e.size) / RATIO,
            } as u32;
            if piece == new {
                let cost = frame.map_or(share, |frame| manifest.frames[frame as usize].len);
                window.pieces.push(Piece { frame, first: 0, cost, fate: Fate::Over });
            }
            // one that is not always in vain is enough
            if e.strikes < STRIKES {
                window.pieces[piece as usize].fate = Fate::Open;
            }
            window.entries.push(Member { piece, share, asked: false, counted: false });
        }
        let entries = &window.entries;
        window.members.sort_by_key(|i| entries[*i as usize].piece);
        for (at, i) in window.members.iter().enumerate().rev() {
            window.pieces[entries[*i as usize].piece as usize].first = at as u32;
        }
        window
    }

    /// Opens it as far as it goes, to fetch everything.
    pub fn open(&mut self) {
        self.speculation = u64::MAX / 2;
        self.pieces.iter_mut().filter(|p| p.fate == Fate::Over).for_each(|p| p.fate = Fate::Open);
        self.cursors = vec![Cursor { start: 0, next: 0, seen: self.pieces.len() }];
    }

    /// `go` asks for entry `i`. Returns the bytes that were moved for it ahead, the first time.
    pub fn ask(&mut self, i: usize) -> Option<u64> {
        let piece = self.entries[i].piece as usize;
        self.follow(piece);
        let first = !std::mem::replace(&mut self.entries[i].asked, true);
        let p = &mut self.pieces[piece];
        if p.frame.is_none() && matches!(p.fate, Fate::Open | Fate::Queued) {
            // whoever asks for it fetches it
            self.pending -= if p.fate == Fate::Queued { u64::from(p.cost) } else { 0 };
            p.fate = Fate::Over;
        }
        let fate = self.pieces[piece].fate;
        if first && matches!(fate, Fate::Queued | Fate::Flying | Fate::Fetched) {
            self.entries[i].counted = true;
            self.used += u64::from(self.entries[i].share);
        }
        (first && fate == Fate::Fetched).then_some(u64::from(self.entries[i].share))
    }

    /// A get moved `bytes` by itself.
    pub fn demand(&mut self, bytes: u64) {
        self.moved += bytes;
        self.used += bytes;
    }

    /// The piece of entry `i`, where that is a frame.
    pub fn piece_in_pack(&self, i: usize) -> Option<usize> {
        let piece = self.entries[i].piece as usize;
        self.pieces[piece].frame.map(|_| piece)
    }

    /// How many pieces there are.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// How many pieces are not to be fetched any more.
    pub fn over(&self) -> usize {
        self.pieces.iter().filter(|p| matches!(p.fate, Fate::Fetched | Fate::Over)).count()
    }

    /// The frame that a piece is; `None` for a single entry.
    pub fn frame(&self, piece: usize) -> Option<u32> {
        self.pieces[piece].frame
    }

    /// The entries of a piece.
    pub fn members(&self, piece: usize) -> &[u32] {
        let end = self.pieces.get(piece + 1).map_or(self.members.len(), |next| next.first as usize);
        &self.members[self.pieces[piece].first as usize..end]
    }

    /// Takes a piece on to fetch it. Whoever gets it reports to [`Self::done`].
    pub fn claim(&mut self, piece: usize) -> Claim {
        let p = &mut self.pieces[piece];
        match p.fate {
            Fate::Open => self.pending += u64::from(p.cost),
            Fate::Queued => {}
            Fate::Flying => return Claim::Flying,
            Fate::Fetched | Fate::Over => return Claim::Over,
        }
        p.fate = Fate::Flying;
        Claim::Ours
    }

    /// Whether there is so much room that it is worth asking for more.
    pub fn is_due(&self) -> bool {
        self.pending == 0 || self.room() >= WORTH
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.pending == 0 && !self.pieces.iter().any(|p| matches!(p.fate, Fate::Queued | Fate::Flying))
    }

    fn room(&self) -> u64 {
        (self.used / 2 * 3).saturating_add(self.speculation).saturating_sub(self.moved + self.pending)
    }

    /// The piece to fetch ahead next, if there is room for one.
    pub fn next(&mut self) -> Option<usize> {
        let (room, most) = (self.room(), self.speculation);
        for cursor in &mut self.cursors {
            // pieces that cost no room, because they are local, do not draw the window further
            let end = self.pieces.len().min(cursor.seen.saturating_add(AHEAD));
            while cursor.next < end {
                let piece = &mut self.pieces[cursor.next];
                let cost = u64::from(piece.cost);
                if piece.fate == Fate::Open && cost <= most.max(room) {
                    if cost > room {
                        return None;
                    }
                    piece.fate = Fate::Queued;
                    self.pending += cost;
                    cursor.next += 1;
                    return Some(cursor.next - 1);
                }
                // one so large is left to be asked for
                cursor.next += 1;
            }
        }
        None
    }

    /// A piece could not be fetched now, but may be later.
    pub fn give_back(&mut self, piece: usize) {
        self.pending -= u64::from(self.pieces[piece].cost);
        self.pieces[piece].fate = Fate::Open;
        for cursor in self.cursors.iter_mut().filter(|c| c.start <= piece) {
            cursor.next = cursor.next.min(piece);
        }
    }

    /// The fetch of a piece has ended, and moved so many bytes, or found nothing. Returns how many of its
    /// entries were asked for meanwhile, and the bytes that were moved for those.
    pub fn done(&mut self, piece: usize, moved: Option<u64>) -> (u64, u64) {
        let p = &mut self.pieces[piece];
        self.pending -= u64::from(p.cost);
        p.fate = if moved.is_some() { Fate::Fetched } else { Fate::Over };
        let single = p.frame.is_none();
        self.moved += moved.unwrap_or(0);
        let (mut count, mut used) = (0, 0);
        for i in self.members(piece).to_vec() {
            let member = &mut self.entries[i as usize];
            if std::mem::take(&mut member.counted) {
                self.used -= u64::from(member.share);
            }
            if single && let Some(bytes) = moved {
                member.share = u32::try_from(bytes).unwrap_or(u32::MAX);
            }
            if member.asked && moved.is_some() {
                (count, used) = (count + 1, used + u64::from(member.share));
            }
        }
        self.used += used;
        (count, used)
    }

    /// The entries of the pieces that were fetched and of which nothing was asked for.
    pub fn wasted(&self) -> impl Iterator<Item = usize> + '_ {
        let fetched = (0..self.pieces.len()).filter(|p| self.pieces[*p].fate == Fate::Fetched);
        let in_vain = |p: &usize| !self.members(*p).iter().any(|i| self.entries[*i as usize].asked);
        fetched.filter(in_vain).flat_map(|p| self.members(p)).map(|i| *i as usize)
    }

    /// Moves the cursor that a piece belongs to, or starts one.
    fn follow(&mut self, piece: usize) {
        let found = self.cursors.iter().position(|c| (c.start..c.next + SKIP).contains(&piece));
        let new = || Cursor { start: piece, next: piece, seen: piece };
        let mut cursor = found.map_or_else(new, |n| self.cursors.remove(n));
        cursor.seen = cursor.seen.max(piece);
        self.cursors.insert(0, cursor);
        self.cursors.truncate(CURSORS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::manifest::{Entry, Frame, Place};

    fn entry(i: usize, size: u32) -> Entry {
        let mut action = [0; 32];
        action[..8].copy_from_slice(&i.to_le_bytes());
        Entry { action, size, day: 0, strikes: 0, known: None, place: None }
    }

    fn manifest(n: usize, size: u32) -> Manifest {
        Manifest { entries: (0..n).map(|i| entry(i, size)).collect(), ..Manifest::default() }
    }

    /// Frames of four entries each, of a quarter of `len` bytes.
    fn packed(frames: u32, len: u32) -> Manifest {
        let place = |i: usize| Some(Place { frame: i as u32 / 4, at: 0 });
        let entries = (0..4 * frames as usize).map(|i| Entry { place: place(i), ..entry(i, 100) });
        let frames = (0..frames).map(|n| Frame { pack: 1, at: n * len, len, raw: 400 });
        Manifest { entries: entries.collect(), frames: frames.collect(), ..Manifest::default() }
    }

    fn fetch(window: &mut Window, piece: usize, moved: Option<u64>) -> (u64, u64) {
        assert_eq!(window.claim(piece), Claim::Ours);
        window.done(piece, moved)
    }

    fn drain(window: &mut Window, moved: u64) -> Vec<usize> {
        let mut got = Vec::new();
        while let Some(piece) = window.next() {
            fetch(window, piece, Some(moved));
            got.push(piece);
        }
        got
    }

    #[test]
    fn nothing_is_fetched_before_the_first_get() {
        assert_eq!(Window::new(&manifest(100, 10), 0).next(), None);
    }

    #[test]
    fn it_opens_around_what_is_asked_for_and_with_what_is_used() {
        let m = packed(1000, 256 << 10);
        let mut window = Window::new(&m, 0);
        window.ask(0);
        assert_eq!(drain(&mut window, 256 << 10), (0..20).collect::<Vec<_>>());
        (0..16).for_each(|i| {
            window.ask(i);
        });
        // half as much again as was used, and what may be moved in vain
        assert_eq!(drain(&mut window, 256 << 10).len(), 6);
        window.ask(3900);
        assert_eq!(window.next(), None);
        window.demand(40 << 20);
        assert_eq!(window.next(), Some(975), "what go turned to last comes first");
    }

    #[test]
    fn a_piece_is_handed_out_once_and_a_single_one_not_after_it_was_asked_for() {
        let mut window = Window::new(&manifest(100, 10), 0);
        window.ask(0);
        window.ask(2);
        let got = drain(&mut window, 10);
        assert_eq!(got, [1].into_iter().chain(3..100).collect::<Vec<_>>());
        window.ask(50);
        assert_eq!((window.next(), window.claim(50)), (None, Claim::Over));
    }

    #[test]
    fn a_queued_frame_is_whose_get_comes_first() {
        let mut window = Window::new(&packed(10, 100), 0);
        window.ask(0);
        assert_eq!((window.next(), window.next()), (Some(0), Some(1)));
        assert_eq!((window.claim(1), window.claim(1)), (Claim::Ours, Claim::Flying));
        window.ask(5);
        assert_eq!(window.done(1, Some(100)), (1, 25));
        assert_eq!((window.claim(1), window.ask(6), window.ask(6)), (Claim::Over, Some(25), None));
    }

    #[test]
    fn bytes_in_vain_are_bounded() {
        for m in [packed(1000, 250 << 10), manifest(10_000, 3 << 18)] {
            let mut window = Window::new(&m, 1000);
            window.ask(0);
            drain(&mut window, 250 << 10);
            assert!(window.moved > SPECULATION - (1 << 20) && window.moved <= SPECULATION, "{}", window.moved);
            window.demand(10 << 20);
            drain(&mut window, 250 << 10);
            assert!(window.moved * 2 <= window.used * 3 + SPECULATION * 2, "{} {}", window.moved, window.used);
        }
    }

    #[test]
    fn a_large_index_takes_from_what_may_be_moved_in_vain() {
        let mut window = Window::new(&manifest(1000, 3 << 18), 20 << 20);
        window.ask(0);
        assert!(drain(&mut window, 1 << 18).len() <= 4);
    }

    #[test]
    fn what_was_asked_for_while_under_way_is_of_use() {
        let mut window = Window::new(&manifest(10, 30), 0);
        window.ask(0);
        let piece = window.next().unwrap();
        assert_eq!(window.claim(piece), Claim::Ours);
        assert_eq!(window.ask(piece), None);
        assert_eq!(window.done(piece, Some(7)), (1, 7));
        assert_eq!((window.used, window.moved, window.pending, window.wasted().count()), (7, 7, 0, 0));
    }

    #[test]
    fn only_a_frame_of_which_nothing_is_used_is_wasted() {
        let mut window = Window::new(&packed(3, 100), 0);
        window.ask(0);
        assert_eq!(drain(&mut window, 100), [0, 1, 2]);
        window.ask(5);
        assert_eq!(window.wasted().collect::<Vec<_>>(), [8, 9, 10, 11]);
    }

    #[test]
    fn what_is_given_back_is_handed_out_again() {
        let mut window = Window::new(&manifest(100, 30), 0);
        window.ask(0);
        let (first, second) = (window.next().unwrap(), window.next().unwrap());
        window.claim(first);
        window.give_back(first);
        assert_eq!((window.next(), window.next()), (Some(first), Some(second + 1)));
    }

    #[test]
    fn local_entries_do_not_draw_it_further() {
        let mut window = Window::new(&manifest(10_000, 10), 0);
        window.ask(0);
        let mut last = 0;
        while let Some(piece) = window.next() {
            fetch(&mut window, piece, None);
            last = piece;
        }
        assert!(last <= AHEAD, "{last}");
    }

    #[test]
    fn one_too_large_is_left_to_be_asked_for_and_so_is_what_was_in_vain_twice() {
        let mut m = manifest(10, 10);
        m.entries[1].size = 100 << 20;
        m.entries[2].strikes = STRIKES;
        let mut window = Window::new(&m, 0);
        window.ask(0);
        assert_eq!(window.next(), Some(3));
        let mut window = Window::new(&m, 0);
        window.open();
        assert_eq!(drain(&mut window, 10).len(), 10, "all means all");
    }
}
