//! The manifest as it is stored.
//!
//! ```text
//!  0  8  "gcpman" 0 2   magic and version
//!  8  1  flags          2: time and signature follow the header
//!  9  7  zero
//! 16  8  length of the index as it is stored, little-endian like all that follows
//! 24  8  time           when it was signed, nanoseconds since 1970, only with flag 2
//! 32 64  signature      Ed25519, see `sign`, of the stored index, only with flag 2
//!        index          zstd: packs, frames and entries, a count u32 before each
//!        frames         the first, see `pack`
//! pack:  id 32 · flags 1 (1: of the main prefix)
//! frame: pack varint · bytes varint · bytes unpacked varint
//! entry: action 32 · flags 1 · strikes 1 · day 2 · size varint · where known: output 32, time 8 ·
//!        where it has a place: frame varint, offset varint
//! ```
//!
//! Invariants: what the index claims is held against its bounds before anything is made of it; reading
//! one takes no more than [`MAX_INDEX`] and the records' own size. The entries of a frame do not claim
//! more bytes than it has.

use std::io::{BufReader, Read};
use std::time::SystemTime;

use super::{Entry, Frame, MAX_ENTRIES, Manifest, Pack, Place};
use crate::cache::cursor::{Cursor, push_varint};
use crate::cache::entry::DecodeError;
use crate::cache::id::OutputId;
use crate::cache::pack;
use crate::sign::{Claim, MUTABLE_FOR, SIGNATURE, Signer, nanos};

/// An index as it is stored is at most this long.
pub const MAX_INDEX: u64 = 20 << 20;
/// What is said of a later format, which is left to those who know it.
pub const NEWER: &str = "of a newer version";

/// An index is at most this long decompressed.
const MAX_RAW: u64 = 24 << 20;
/// Its frame needs a window of at most 2 to this power.
const WINDOW_LOG: u32 = 22;
/// Packs, and entries of one frame, at most.
const MAX_PACKS: usize = 1024;
/// Bytes of a pack at most.
const MAX_PACK: u32 = 1 << 28;

/// What a manifest begins with; a later version has another last byte.
pub const MAGIC: [u8; 8] = *b"gcpman\x00\x02";
/// What earlier versions wrote; it holds nothing of use.
const OLDER: u8 = 1;
const HEADER: usize = 24;
const FLAG_SIGNED: u8 = 2;
const MAIN: u8 = 1;
const KNOWN: u8 = 2;
const PLACED: u8 = 4;
/// What a manifest's signature is of.
const KIND: &str = "manifest";

impl Manifest {
    /// The manifest as it is stored under `key`, with the frames of its own behind it.
    pub fn encode(&self, frames: &[u8], key: &str, signer: &Signer) -> std::io::Result<Vec<u8>> {
        let mut raw = Vec::with_capacity(self.entries.len() * 88 + 64);
        let count = |raw: &mut Vec<u8>, n: usize| raw.extend_from_slice(&(n as u32).to_le_bytes());
        count(&mut raw, self.packs.len());
        for pack in &self.packs {
            raw.extend_from_slice(&pack.id.0);
            raw.push(pack.main as u8 * MAIN);
        }
        count(&mut raw, self.frames.len());
        for f in &self.frames {
            [f.pack, f.len, f.raw].into_iter().for_each(|n| push_varint(&mut raw, n));
        }
        count(&mut raw, self.entries.len());
        for e in &self.entries {
            raw.extend_from_slice(&e.action);
            let flags = (e.known.is_some() as u8 * KNOWN) | (e.place.is_some() as u8 * PLACED);
            raw.extend_from_slice(&[flags, e.strikes]);
            raw.extend_from_slice(&e.day.to_le_bytes());
            push_varint(&mut raw, e.size);
            if let Some((output, time)) = &e.known {
                raw.extend_from_slice(&output.0);
                raw.extend_from_slice(&time.to_le_bytes());
            }
            if let Some(place) = e.place {
                [place.frame, place.at].into_iter().for_each(|n| push_varint(&mut raw, n));
            }
        }
        let packed = zstd::bulk::compress(&raw, 3)?;
        let len = packed.len() as u64;
        let time = nanos(SystemTime::now());
        let signature = signer.sign(KIND, key, &Claim { hash: OutputId::of(&packed), size: len, time });
        let mut stored = Vec::with_capacity(HEADER + 8 + SIGNATURE + packed.len() + frames.len());
        stored.extend_from_slice(&MAGIC);
        stored.extend_from_slice(&[signature.is_some() as u8 * FLAG_SIGNED, 0, 0, 0, 0, 0, 0, 0]);
        stored.extend_from_slice(&len.to_le_bytes());
        if let Some(signature) = signature {
            stored.extend_from_slice(&time.to_le_bytes());
            stored.extend_from_slice(&signature);
        }
        stored.extend_from_slice(&packed);
        stored.extend_from_slice(frames);
        Ok(stored)
    }

    /// Reads what [`Self::encode`] made, up to the frames, and says how many bytes that were. An error
    /// says why it cannot be used. With `demand` it must be signed, and not long ago.
    pub fn decode(from: &mut impl Read, key: &str, signer: &Signer, demand: bool) -> Result<(Self, u64), DecodeError> {
        let corrupt = |why: &str| DecodeError::Corrupt(why.into());
        let mut take = |len: u64| {
            let mut bytes = Vec::new();
            from.take(len).read_to_end(&mut bytes).map_err(DecodeError::Transfer)?;
            if bytes.len() as u64 == len { Ok(bytes) } else { Err(corrupt("it is cut off")) }
        };
        let header = take(HEADER as u64)?;
        if header[..7] != MAGIC[..7] {
            return Err(corrupt("not a manifest"));
        }
        if header[7] == OLDER {
            return Ok(Default::default());
        }
        if header[7] != MAGIC[7] || header[8] & !FLAG_SIGNED != 0 || header[9..16] != [0; 7] {
            return Err(corrupt(NEWER));
        }
        let (mut time, mut signature) = (0, None);
        if header[8] & FLAG_SIGNED != 0 {
            let mut at = Cursor(&take(8 + SIGNATURE as u64)?[..]);
            time = i64::from_le_bytes(at.array()?);
            signature = Some(at.array()?);
        }
        let len = u64::from_le_bytes(header[16..24].try_into().expect("8 bytes"));
        if len > MAX_INDEX {
            return Err(corrupt(&format!("its index claims {len} bytes, {MAX_INDEX} are allowed")));
        }
        let packed = take(len)?;
        let mut aged = false;
        if demand {
            let claim = Claim { hash: OutputId::of(&packed), size: len, time };
            let signed = signer.check(KIND, key, &claim, signature.as_ref());
            signed.and_then(|()| signer.check_age(&claim)).map_err(DecodeError::Untrusted)?;
            aged = signer.signs() && !claim.is_within(MUTABLE_FOR / 2);
        }
        let mut raw = zstd::Decoder::with_buffer(&packed[..]).map_err(|e| e.to_string())?;
        raw.window_log_max(WINDOW_LOG).map_err(|e| e.to_string())?;
        let read = HEADER as u64 + signature.map_or(0, |_| 8 + SIGNATURE as u64) + len;
        Ok((Manifest { aged, ..parse(&mut Cursor(BufReader::new(raw.take(MAX_RAW))))? }, read))
    }
}

fn parse(at: &mut Cursor<impl Read>) -> Result<Manifest, String> {
    let mut m = Manifest::default();
    for _ in 0..count(at, "packs", MAX_PACKS)? {
        let (id, [flags]) = (OutputId(at.array()?), at.array()?);
        m.packs.push(Pack { id, main: flags & MAIN != 0 });
    }
    let mut ends = vec![0u32; m.packs.len() + 1];
    for _ in 0..count(at, "frames", MAX_ENTRIES)? {
        let (pack, len, raw) = (at.varint()?, at.varint()?, at.varint()?);
        let end = ends.get_mut(pack as usize).ok_or("a frame of no pack")?;
        if raw as usize > pack::FRAME || !(1..=pack::FRAME_STORED).contains(&(len as usize)) || *end > MAX_PACK {
            return Err("a frame of a size that none has".into());
        }
        m.frames.push(Frame { pack, at: *end, len, raw });
        *end += len;
    }
    let mut left: Vec<(u32, usize)> = m.frames.iter().map(|f| (f.raw, pack::MEMBERS)).collect();
    for _ in 0..count(at, "entries", MAX_ENTRIES)? {
        let action = at.array()?;
        let [flags, strikes] = at.array()?;
        let day = u16::from_le_bytes(at.array()?);
        let size = at.varint()?;
        let (mut known, mut place) = (None, None);
        if flags & KNOWN != 0 {
            known = Some((OutputId(at.array()?), i64::from_le_bytes(at.array()?)));
        }
        if flags & PLACED != 0 {
            let frame = at.varint()?;
            place = Some(Place { frame, at: at.varint()? });
            let (bytes, members) = left.get_mut(frame as usize).ok_or("an entry in no frame")?;
            let fits = bytes.checked_sub(size).zip(members.checked_sub(1)).filter(|_| known.is_some());
            (*bytes, *members) = fits.ok_or("entries that their frame cannot hold")?;
        }
        m.entries.push(Entry { action, size, day, strikes, known, place });
    }
    match at.0.read(&mut [0]) {
        Ok(0) => Ok(m),
        _ => Err("longer than what it lists".into()),
    }
}

fn count(at: &mut Cursor<impl Read>, what: &str, most: usize) -> Result<usize, String> {
    let count = at.u32()? as usize;
    if count <= most { Ok(count) } else { Err(format!("it claims {count} {what}, {most} are allowed")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> Signer {
        Signer::new(crate::sign::private_key(&crate::sign::generate().unwrap().0).ok(), Vec::new(), false)
    }

    fn manifest() -> Manifest {
        let entry = |n: u8, place| Entry {
            action: [n; 32],
            size: u32::from(n),
            day: 20_000,
            strikes: n,
            known: Some((OutputId([n; 32]), i64::from(n))),
            place,
        };
        let large = Entry { size: u32::MAX, known: None, ..entry(9, None) };
        Manifest {
            entries: vec![entry(3, Some(Place { frame: 1, at: 4 })), large, entry(7, Some(Place { frame: 0, at: 0 }))],
            packs: vec![Pack { id: OutputId([5; 32]), main: true }],
            frames: vec![Frame { pack: 0, at: 0, len: 3, raw: 7 }, Frame { pack: 1, at: 0, len: 500, raw: 1000 }],
            aged: false,
        }
    }

    fn decode(stored: &[u8], key: &str, signer: &Signer) -> Result<Manifest, DecodeError> {
        Manifest::decode(&mut &stored[..], key, signer, signer.demands(false)).map(|(m, _)| m)
    }

    #[test]
    fn a_round_trip_keeps_everything() {
        for signer in [Signer::default(), signer()] {
            let stored = manifest().encode(b"abc", "k", &signer).unwrap();
            let mut from = &stored[..];
            let (back, len) = Manifest::decode(&mut from, "k", &signer, signer.demands(false)).unwrap();
            assert_eq!(back, manifest());
            assert_eq!((from, len as usize), (&b"abc"[..], stored.len() - 3));
        }
    }

    #[test]
    fn damage_and_other_versions_are_told() {
        let plain = Signer::default();
        let good = manifest().encode(b"", "k", &plain).unwrap();
        for len in 0..good.len() {
            assert!(decode(&good[..len], "k", &plain).is_err(), "cut at {len}");
        }
        for at in (0..HEADER).filter(|at| *at != 7) {
            let mut bad = good.clone();
            bad[at] ^= 0x11;
            assert!(decode(&bad, "k", &plain).is_err(), "byte {at}");
        }
        let with_version = |n| [&good[..7], &[n], &good[8..]].concat();
        assert!(decode(&with_version(3), "k", &plain).unwrap_err().to_string().contains("newer"));
        assert_eq!(decode(&with_version(1), "k", &plain).unwrap(), Manifest::default());
    }

    #[test]
    fn lies_are_refused() {
        let refused = |lie: &dyn Fn(&mut Manifest), why: &str| {
            let mut m = manifest();
            lie(&mut m);
            let stored = m.encode(b"", "k", &Signer::default()).unwrap();
            let said = decode(&stored, "k", &Signer::default()).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        };
        refused(&|m| m.frames[1].pack = 2, "no pack");
        refused(&|m| m.frames[0].raw = pack::FRAME as u32 + 1, "size");
        refused(&|m| m.frames[0].len = u32::MAX, "size");
        refused(&|m| m.frames[1].len = 0, "size");
        refused(&|m| m.frames = vec![Frame { pack: 1, at: 0, len: pack::FRAME_STORED as u32, raw: 1 }; 1100], "size");
        refused(&|m| m.entries[0].place = Some(Place { frame: 2, at: 0 }), "no frame");
        refused(&|m| m.entries[0].known = None, "cannot hold");
        refused(&|m| m.entries = vec![m.entries[0].clone(); 400], "cannot hold");
        refused(&|m| m.entries = vec![Entry { size: 0, ..m.entries[0].clone() }; pack::MEMBERS + 1], "cannot hold");
        refused(&|m| m.packs = vec![m.packs[0].clone(); MAX_PACKS + 1], "packs");
        let wrap = |raw: &[u8], len: Option<u64>| {
            let packed = zstd::bulk::compress(raw, 1).unwrap();
            let mut stored = [&MAGIC[..], &[0; 8], &len.unwrap_or(packed.len() as u64).to_le_bytes()].concat();
            stored.extend(packed);
            decode(&stored, "k", &Signer::default()).unwrap_err().to_string()
        };
        let count = |n: u32| n.to_le_bytes();
        assert!(wrap(&[], Some(u64::MAX)).contains("allowed"));
        assert!(wrap(&[count(0), count(0), count(u32::MAX)].concat(), None).contains("entries"));
        assert!(wrap(&[count(0), count(u32::MAX)].concat(), None).contains("frames"));
        assert!(wrap(&[count(0), count(0), count(100)].concat(), None).contains("cut off"));
        assert!(wrap(&[0; 100 << 20], None).contains("longer"));
        // a length that reaches into the frames
        let mut stored = manifest().encode(b"abc", "k", &Signer::default()).unwrap();
        for more in 0..3 {
            assert_eq!(decode(&stored, "k", &Signer::default()).is_ok(), more == 0);
            stored[16] += 1;
        }
    }

    #[test]
    fn a_signature_binds_the_scope() {
        let (ours, theirs) = (signer(), signer());
        let stored = manifest().encode(b"", "k", &ours).unwrap();
        assert!(decode(&stored, "k", &ours).is_ok());
        assert!(decode(&stored, "other", &ours).is_err() && decode(&stored, "k", &theirs).is_err());
        assert!(decode(&manifest().encode(b"", "k", &Signer::default()).unwrap(), "k", &ours).is_err());
    }

    #[test]
    fn two_hundred_thousand_entries_fit() {
        let random = |i: u32, salt: &[u8]| OutputId::of(&[&i.to_le_bytes(), salt].concat());
        let entry = |i: u32| Entry {
            action: random(i, b"action").0,
            size: i,
            day: 20_000,
            strikes: 0,
            known: Some((random(i, b"output"), i64::MAX - i64::from(i) * 77_777_777)),
            place: None,
        };
        let m = Manifest { entries: (0..MAX_ENTRIES as u32).map(entry).collect(), ..Manifest::default() };
        let stored = m.encode(b"", "k", &Signer::default()).unwrap();
        assert_eq!(decode(&stored, "k", &Signer::default()).unwrap(), m);
    }
}
