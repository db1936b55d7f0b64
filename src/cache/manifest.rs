//! The manifest of a scope: which entries its builds used, in order of first use, so that the next
//! build can fetch them ahead and need not ask for the small ones at all.
//!
//! ```text
//!  0  8  "gcpman" 0 1   magic and version
//!  8  1  flags          2: time and signature follow the header (1: a signature of 32 bytes, by a
//!                      key that all shared, as older versions made it)
//!  9  7  zero
//! 16  8  length of the payload once decompressed, little-endian like all that follows
//! 24  8  time           when it was signed, nanoseconds since 1970, only with flag 2
//! 32 64  signature      Ed25519, see `sign`, of the compressed payload, only with flag 2
//!        payload        zstd: count u32, the records, the absent (see `absent`), then the inline
//!                       bodies in the records' order
//! record: action 32 · flags 1 · strikes 1 · day 2 · size varint · where known: output 32, time 8
//! ```
//!
//! Invariants: it is a hint; a wrong entry costs speed, never correctness, because a body reaches
//! the disk cache only through its check against the output id. Decoding allocates no more than
//! [`MAX_RAW`] plus the records, whatever the header claims. Only actions of 32 bytes are listed.

mod absent;

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::time::SystemTime;

use super::cursor::Cursor;
use super::entry::DecodeError;
use super::id::{ActionId, OutputId};
use crate::sign::{Claim, MUTABLE_FOR, SIGNATURE, Signer, nanos};
pub use absent::Absent;

/// Entries listed at most.
pub const MAX_ENTRIES: usize = 200_000;
/// Outputs up to this many bytes stand in the manifest itself.
pub const INLINE_MAX: u64 = 4096;
/// Bytes of inline bodies in one manifest at most.
pub const INLINE_TOTAL: usize = 8 << 20;
/// A manifest as it is stored is at most this long.
pub const MAX_STORED: u64 = 24 << 20;
/// A payload is at most this long decompressed.
pub const MAX_RAW: u64 = 32 << 20;
/// What [`Manifest::decode`] says of a later format, which is left to those who know it.
pub const NEWER: &str = "of a newer version";
/// Entries unused for this many days are dropped.
const KEEP_DAYS: u16 = 14;

const MAGIC: [u8; 8] = *b"gcpman\x00\x01";
const HEADER: usize = 24;
const FLAG_OLD: u8 = 1;
const FLAG_SIGNED: u8 = 2;
const OLD_SIGNATURE: usize = 32;
/// Always set: an earlier version would not send an entry again that lacks it.
const ASKED: u8 = 1;
const KNOWN: u8 = 2;
const INLINE: u8 = 4;
/// What a manifest's signature is of.
const KIND: &str = "manifest";

/// One listed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The action, 32 bytes.
    pub action: [u8; 32],
    /// Bytes of the output, at most `u32::MAX` where it is longer.
    pub size: u32,
    /// Day of last use, in days since 1970.
    pub day: u16,
    /// How often in a row it was fetched ahead in vain.
    pub strikes: u8,
    /// Output and put time in nanoseconds, where a reader needs them before the entry is fetched:
    /// for inline bodies and for the classic layout.
    pub known: Option<(OutputId, i64)>,
    /// Where in [`Manifest::bodies`] the body is.
    pub inline: Option<u32>,
}

/// What a scope's builds used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// In order of first use.
    pub entries: Vec<Entry>,
    /// The inline bodies.
    pub bodies: Vec<u8>,
    /// What is asked for in vain.
    pub absent: Absent,
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
}

/// What a session leaves.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The entries used, in order of first use.
    pub used: Vec<Used>,
    /// Actions asked for that were neither found nor put.
    pub absent: Vec<[u8; 32]>,
}

impl Record {
    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.used.is_empty() && self.absent.is_empty()
    }
}

impl Manifest {
    /// The body of an entry that has one inline.
    pub fn inline(&self, entry: &Entry) -> Option<&[u8]> {
        let at = entry.inline? as usize;
        self.bodies.get(at..at + entry.size as usize)
    }

    /// Takes a session into the manifest: its `record`, and what was fetched ahead and not used, in
    /// `wasted`. `today` counts days since 1970, `know` says whether outputs and times are listed
    /// for entries that are not inline, and `body` brings the bytes of a small output. Returns
    /// whether the result is worth writing.
    ///
    /// Entries used take the places they had among themselves, in the session's order; new ones go
    /// behind the one used before them. So a session that used a part of the scope leaves the
    /// rest in place.
    pub fn merge(
        &mut self,
        record: &Record,
        wasted: &[[u8; 32]],
        today: u16,
        know: bool,
        mut body: impl FnMut(&OutputId) -> Option<Vec<u8>>,
    ) -> bool {
        let index: HashMap<[u8; 32], usize> = self.entries.iter().enumerate().map(|(i, e)| (e.action, i)).collect();
        let mut changed = std::mem::take(&mut self.aged);
        for action in wasted {
            if let Some(&i) = index.get(action) {
                self.entries[i].strikes = self.entries[i].strikes.saturating_add(1);
                changed = true;
            }
        }
        let used = &record.used;
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
            let entry = match index.get(&u.action) {
                Some(&i) => self.entries[i].clone(),
                None if u.shared => {
                    let size = u32::try_from(u.size).unwrap_or(u32::MAX);
                    Entry { action: u.action, size, day: 0, strikes: 0, known: None, inline: None }
                }
                None => continue,
            };
            let renewed = self.renew(entry.clone(), u, today, know, &mut body);
            changed |= renewed != entry;
            if index.contains_key(&u.action) {
                let slot = slots.next().expect("as many slots as used entries that were listed");
                placed[slot] = Some(renewed);
                last = slot + 1;
            } else {
                behind.entry(last).or_default().push(renewed);
            }
        }
        let old = std::mem::take(&mut self.entries);
        let before = old.len();
        let mut kept = 0;
        self.entries.extend(behind.remove(&0).unwrap_or_default());
        for (i, entry) in old.into_iter().enumerate() {
            let entry = placed[i].take().unwrap_or(entry);
            if entry.day.saturating_add(KEEP_DAYS) >= today {
                kept += 1;
                self.entries.push(entry);
            }
            self.entries.extend(behind.remove(&(i + 1)).unwrap_or_default());
        }
        self.limit();
        let listed: HashSet<&[u8; 32]> = self.entries.iter().map(|e| &e.action).collect();
        changed |= self.absent.merge(&record.absent, today, |action| listed.contains(action));
        changed || kept != before
    }

    /// The entry as it is after `u` used it.
    fn renew(
        &mut self,
        mut entry: Entry,
        u: &Used,
        today: u16,
        know: bool,
        body: &mut impl FnMut(&OutputId) -> Option<Vec<u8>>,
    ) -> Entry {
        entry.day = today;
        entry.strikes = 0;
        // what this session neither made nor had from the bucket is not vouched for
        if !u.shared {
            return entry;
        }
        let same = entry.known.is_some_and(|(output, time)| output == u.output && time == u.time);
        if entry.inline.is_some() && !same {
            entry.inline = None;
        }
        entry.size = u32::try_from(u.size).unwrap_or(u32::MAX);
        if entry.inline.is_none()
            && u.size <= INLINE_MAX
            && self.bodies.len() + u.size as usize <= INLINE_TOTAL
            && let Some(bytes) = body(&u.output).filter(|b| b.len() as u64 == u.size)
        {
            entry.inline = Some(self.bodies.len() as u32);
            self.bodies.extend_from_slice(&bytes);
        }
        entry.known = (know || entry.inline.is_some()).then_some((u.output, u.time));
        entry
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

    /// The manifest as it is stored under `key`.
    pub fn encode(&self, key: &str, signer: &Signer) -> std::io::Result<Vec<u8>> {
        let mut raw = Vec::with_capacity(self.entries.len() * 48 + self.bodies.len() + 4);
        raw.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        for e in &self.entries {
            let flags = ASKED | (e.known.is_some() as u8 * KNOWN) | (self.inline(e).is_some() as u8 * INLINE);
            raw.extend_from_slice(&e.action);
            raw.extend_from_slice(&[flags, e.strikes]);
            raw.extend_from_slice(&e.day.to_le_bytes());
            let mut size = e.size;
            while size >= 0x80 {
                raw.push(size as u8 | 0x80);
                size >>= 7;
            }
            raw.push(size as u8);
            if let Some((output, time)) = &e.known {
                raw.extend_from_slice(&output.0);
                raw.extend_from_slice(&time.to_le_bytes());
            }
        }
        self.absent.encode(&mut raw);
        for body in self.entries.iter().filter_map(|e| self.inline(e)) {
            raw.extend_from_slice(body);
        }
        let packed = zstd::bulk::compress(&raw, 3)?;
        let len = (raw.len() as u64).to_le_bytes();
        let time = nanos(SystemTime::now());
        let claim = Claim { hash: OutputId::of(&packed), size: raw.len() as u64, time };
        let signature = signer.sign(KIND, key, &claim);
        let mut stored = Vec::with_capacity(packed.len() + HEADER + 8 + SIGNATURE);
        stored.extend_from_slice(&MAGIC);
        stored.extend_from_slice(&[signature.is_some() as u8 * FLAG_SIGNED, 0, 0, 0, 0, 0, 0, 0]);
        stored.extend_from_slice(&len);
        if let Some(signature) = signature {
            stored.extend_from_slice(&time.to_le_bytes());
            stored.extend_from_slice(&signature);
        }
        stored.extend_from_slice(&packed);
        Ok(stored)
    }

    /// Reads what [`Self::encode`] made. An error says why it cannot be used. With `demand` it must
    /// be signed, and not long ago.
    pub fn decode(stored: &[u8], key: &str, signer: &Signer, demand: bool) -> Result<Self, DecodeError> {
        let corrupt = |why: &str| DecodeError::Corrupt(why.into());
        let (header, rest) = stored.split_at_checked(HEADER).ok_or_else(|| corrupt("shorter than its header"))?;
        if header[..7] != MAGIC[..7] {
            return Err(corrupt("not a manifest"));
        }
        if header[7] != MAGIC[7] || header[8] & !(FLAG_OLD | FLAG_SIGNED) != 0 || header[9..16] != [0; 7] {
            return Err(corrupt(NEWER));
        }
        let mut at = Cursor(rest);
        let (mut time, mut signature) = (0, None);
        if header[8] & FLAG_SIGNED != 0 {
            time = i64::from_le_bytes(at.array()?);
            signature = Some(at.array()?);
        } else if header[8] & FLAG_OLD != 0 {
            at.array::<OLD_SIGNATURE>()?;
        }
        let len = u64::from_le_bytes(header[16..24].try_into().expect("8 bytes"));
        let mut aged = false;
        if demand {
            let claim = Claim { hash: OutputId::of(at.0), size: len, time };
            let signed = signer.check(KIND, key, &claim, signature.as_ref());
            signed.and_then(|()| signer.check_age(&claim)).map_err(DecodeError::Untrusted)?;
            aged = signer.signs() && !claim.is_within(MUTABLE_FOR / 2);
        }
        if len > MAX_RAW {
            return Err(corrupt(&format!("it claims {len} bytes, {MAX_RAW} are allowed")));
        }
        Ok(Manifest { aged, ..Self::parse(&decompress(at.0, len)?)? })
    }

    fn parse(raw: &[u8]) -> Result<Self, String> {
        let mut at = Cursor(raw);
        let count = at.u32()? as usize;
        if count > MAX_ENTRIES {
            return Err(format!("it claims {count} entries, {MAX_ENTRIES} are allowed"));
        }
        // a record has at least 37 bytes: no more is allocated than was received
        let mut entries = Vec::with_capacity(count.min(raw.len() / 37));
        let mut inline = 0usize;
        for _ in 0..count {
            let action = at.array()?;
            let [flags, strikes] = at.array()?;
            let day = u16::from_le_bytes(at.array()?);
            let size = at.varint()?;
            let known =
                if flags & KNOWN != 0 { Some((OutputId(at.array()?), i64::from_le_bytes(at.array()?))) } else { None };
            let mut entry = Entry { action, size, day, strikes, known, inline: None };
            if flags & INLINE != 0 {
                if known.is_none() || u64::from(size) > INLINE_MAX {
                    return Err("an inline entry that cannot be one".into());
                }
                entry.inline = Some(inline as u32);
                inline += size as usize;
            }
            entries.push(entry);
        }
        let absent = Absent::parse(&mut at)?;
        if at.0.len() != inline || inline > INLINE_TOTAL {
            return Err(format!("{} bytes of bodies where {inline} were listed", at.0.len()));
        }
        Ok(Manifest { entries, bodies: at.0.to_vec(), absent, aged: false })
    }
}

fn decompress(packed: &[u8], len: u64) -> Result<Vec<u8>, String> {
    let unpack = || {
        let mut decoder = zstd::Decoder::with_buffer(packed)?;
        // the longest window that a payload within the limit can need
        decoder.window_log_max(MAX_RAW.ilog2())?;
        let mut raw = Vec::new();
        decoder.take(len + 1).read_to_end(&mut raw)?;
        std::io::Result::Ok(raw)
    };
    match unpack() {
        Ok(raw) if raw.len() as u64 == len => Ok(raw),
        Ok(_) => Err("its length is not the one it claims".into()),
        Err(e) => Err(format!("zstd: {e}")),
    }
}

/// The action's id as a manifest lists it; `None` for lengths that `go` does not use.
pub fn listed_id(action: &ActionId) -> Option<[u8; 32]> {
    action.as_bytes().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(n: u8) -> Used {
        Used { action: [n; 32], output: OutputId::of(&[n; 3]), size: 3, time: i64::from(n), shared: true }
    }

    fn signer() -> Signer {
        Signer::new(crate::sign::private_key(&crate::sign::generate().unwrap().0).ok(), Vec::new(), false)
    }

    fn record(used: impl IntoIterator<Item = Used>) -> Record {
        Record { used: used.into_iter().collect(), absent: Vec::new() }
    }

    fn merge(m: &mut Manifest, ids: &[u8], today: u16) -> bool {
        m.merge(&record(ids.iter().map(|&n| used(n))), &[], today, false, |output| {
            (0..=255).map(|n| vec![n; 3]).find(|body| OutputId::of(body) == *output)
        })
    }

    fn order(m: &Manifest) -> Vec<u8> {
        m.entries.iter().map(|e| e.action[0]).collect()
    }

    #[test]
    fn a_round_trip_keeps_everything() {
        let mut m = Manifest::default();
        assert!(merge(&mut m, &[3, 1, 2], 20_000));
        let mut big = used(9);
        big.size = 1 << 33;
        m.merge(&Record { used: vec![big], absent: vec![[7; 32]] }, &[], 20_000, true, |_| None);
        assert_eq!(m.absent.actions().count(), 1);
        for signer in [Signer::default(), signer()] {
            let stored = m.encode("k", &signer).unwrap();
            let back = Manifest::decode(&stored, "k", &signer, signer.demands(false)).unwrap();
            assert_eq!(back, m);
            assert_eq!(back.inline(&back.entries[1]), Some(&[3; 3][..]));
        }
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
        assert!(m.merge(&Record::default(), &[[2; 32]], 20_001, false, |_| None), "a fetch in vain is");
        assert!(merge(&mut m, &[1], 20_015), "what is dropped is");
        assert_eq!(order(&m), [1]);
    }

    #[test]
    fn what_is_only_local_is_not_listed_anew() {
        let mut m = Manifest::default();
        let local = Used { shared: false, ..used(1) };
        assert!(!m.merge(&record([local]), &[], 20_000, false, |_| None));
        assert!(m.entries.is_empty());
    }

    #[test]
    fn damage_and_hostility_are_refused() {
        let mut m = Manifest::default();
        merge(&mut m, &[1, 2, 3], 20_000);
        let plain = Signer::default();
        let good = m.encode("k", &plain).unwrap();
        for len in 0..good.len() {
            assert!(Manifest::decode(&good[..len], "k", &plain, false).is_err(), "cut at {len}");
        }
        for at in 0..HEADER {
            let mut bad = good.clone();
            bad[at] ^= 0x11;
            assert!(Manifest::decode(&bad, "k", &plain, false).is_err(), "byte {at}");
        }
        let wrap = |raw: &[u8], claim: u64| {
            let mut stored = good[..16].to_vec();
            stored.extend(claim.to_le_bytes());
            stored.extend(zstd::bulk::compress(raw, 1).unwrap());
            Manifest::decode(&stored, "k", &plain, false)
        };
        assert!(wrap(&vec![0; 100 << 20], 100 << 20).unwrap_err().to_string().contains("claims"));
        assert!(wrap(&vec![0; 100 << 20], 10).unwrap_err().to_string().contains("length"));
        assert!(wrap(&u32::MAX.to_le_bytes(), 4).unwrap_err().to_string().contains("entries"));
        assert!(wrap(&100u32.to_le_bytes(), 4).unwrap_err().to_string().contains("cut off"));
        let mut newer = good.clone();
        newer[7] = 2;
        assert!(Manifest::decode(&newer, "k", &plain, false).unwrap_err().to_string().contains("newer"));
    }

    #[test]
    fn a_signature_binds_the_scope() {
        let mut m = Manifest::default();
        merge(&mut m, &[1], 20_000);
        let (ours, theirs) = (signer(), signer());
        let stored = m.encode("k", &ours).unwrap();
        assert!(Manifest::decode(&stored, "k", &ours, ours.demands(false)).is_ok());
        assert!(Manifest::decode(&stored, "other", &ours, ours.demands(false)).is_err());
        assert!(Manifest::decode(&stored, "k", &theirs, theirs.demands(false)).is_err());
        assert!(
            Manifest::decode(&m.encode("k", &Signer::default()).unwrap(), "k", &ours, ours.demands(false)).is_err()
        );
    }

    #[test]
    fn two_hundred_thousand_entries() {
        let mut m = Manifest::default();
        let many = (0..MAX_ENTRIES as u32 + 10).map(|i| {
            let mut action = [0; 32];
            action[..4].copy_from_slice(&i.to_le_bytes());
            Used { action, size: 100_000, ..used(0) }
        });
        m.merge(&record(many), &[], 20_000, false, |_| None);
        assert_eq!(m.entries.len(), MAX_ENTRIES);
        let stored = m.encode("k", &Signer::default()).unwrap();
        assert!((stored.len() as u64) < MAX_STORED);
        assert_eq!(
            Manifest::decode(&stored, "k", &Signer::default(), Signer::default().demands(false)).unwrap().entries.len(),
            MAX_ENTRIES
        );
    }
}
