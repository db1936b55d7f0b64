//! The bucket's entry formats.
//!
//! `single`: one object an action, `v1/<xx>/<action-id>`. All integers little-endian:
//!
//! ```text
//!  0  4  "gcp" 1        magic and version
//!  4  1  flags          1: the body is zstd; 4: a signature follows the header (2: one of 32
//!                      bytes, by a key that all shared, as older versions made them)
//!  5  3  zero
//!  8  8  size           bytes of the output
//! 16  8  time           when it was put, nanoseconds since 1970, signed
//! 24 32  output id
//! 56 64  signature      Ed25519, see `sign`, only with flag 4
//!        body           the output, compressed where that makes it smaller
//! ```
//!
//! `classic`: the reference program's two objects, `action/<xx>/<action-id>` holding
//! `<output-id> <nanoseconds>` and `output/<xx>/<output-id>` holding the bytes. Where there is a key
//! the action's signature stands beside it. Either layout signs the same: this action has that output.
//!
//! Invariants: what is decoded goes to the disk cache only through its writer, which checks length
//! and SHA-256, and only after a hash of its own where the object claims far more than it can be
//! expected to hold; memory is bounded by [`IN_MEMORY`] an entry, or [`SPOOL`] in that case; every byte
//! of an object is read, so that its connection can be used again.

use std::cell::RefCell;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::disk::{DiskCache, Hit};
use super::id::{ActionId, Hashing, OutputId, sharded};
use crate::atomic::TempFile;
use crate::platform::{careful, is_at};
use crate::remote::{Object, PutBody};
use crate::sign::{Claim, SIGNATURE, Signer, from_nanos, nanos};
use crate::spare;

/// Outputs up to this many bytes are encoded and decoded in memory, larger ones in a stream.
pub const IN_MEMORY: u64 = 1 << 20;

/// What an entry begins with; a later version has another last byte.
pub const MAGIC: [u8; 4] = *b"gcp\x01";
const FLAG_ZSTD: u8 = 1;
const FLAG_OLD: u8 = 2;
const FLAG_SIGNED: u8 = 4;
const HEADER: usize = 56;
const OLD_SIGNATURE: usize = 32;
/// What an entry's signature is of.
const KIND: &str = "entry";
/// Outputs shrink to a quarter, seldom to a thirtieth; who claims more is not believed unseen.
const RATIO: u64 = 64;
/// Bytes of such an object that are held in memory, and hashed before anything is written.
const SPOOL: u64 = 16 << 20;
/// What is left of a refused object is read if it is no more than this, to keep the connection.
const DRAIN: u64 = 64 << 10;
/// zstd frames may ask for a window of up to 2^23 bytes, as the highest level that entries are made at does: each
/// entry under way takes as much memory.
const MAX_WINDOW_LOG: u32 = 23;

/// The key of an action's one object.
pub fn single_key(action: &ActionId) -> String {
    sharded("v1", &action.to_string())
}

/// The key of an action in the classic layout.
pub fn classic_action_key(action: &ActionId) -> String {
    sharded("action", &action.to_string())
}

/// The key of an output in the classic layout.
pub fn classic_output_key(output: &OutputId) -> String {
    sharded("output", &output.to_string())
}

/// Why an object did not become an entry.
#[derive(Debug)]
pub enum DecodeError {
    /// The transfer broke off.
    Transfer(io::Error),
    /// The object is damaged or of another format.
    Corrupt(String),
    /// It carries no signature that counts, for this reason.
    Untrusted(&'static str),
    /// The entry could not be stored locally.
    Disk(io::Error),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Transfer(e) => write!(f, "transfer broke off: {e}"),
            DecodeError::Corrupt(why) => f.write_str(why),
            DecodeError::Untrusted(why) => f.write_str(why),
            DecodeError::Disk(e) => write!(f, "storing it: {e}"),
        }
    }
}

impl From<String> for DecodeError {
    fn from(why: String) -> Self {
        DecodeError::Corrupt(why)
    }
}

fn corrupt(why: impl Into<String>) -> DecodeError {
    DecodeError::Corrupt(why.into())
}

/// Turns entries into objects and back.
#[derive(Clone)]
pub struct Codec {
    level: i32,
    signer: Signer,
}

impl Codec {
    /// Compresses at `level` (1 to 19) and signs with `signer`.
    pub fn new(level: i32, signer: Signer) -> Self {
        Codec { level, signer }
    }

    /// The keys.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The `single` object for what `hit` describes. Large ones are made in a temporary file
    /// in `temp_dir`. `InvalidData` where the file does not hold the output any more: then it is
    /// removed, so that the next get misses and the next put mends it.
    pub fn encode(&self, action: &ActionId, hit: &Hit, temp_dir: &Path) -> io::Result<PutBody> {
        let mut file = careful().open(&hit.path)?;
        if hit.size > IN_MEMORY {
            return self.encode_large(action, hit, file, temp_dir);
        }
        let mut raw = spare::buffer(hit.size as usize);
        copy_whole(hit, &mut file, &mut *raw)?;
        let packed = compress(&raw, self.level)?;
        let (flags, body) = if packed.len() < raw.len() { (FLAG_ZSTD, &packed) } else { (0, &*raw) };
        let mut object = self.header(action, hit, flags);
        object.extend_from_slice(body);
        Ok(PutBody::Bytes(object.into()))
    }

    fn encode_large(&self, action: &ActionId, hit: &Hit, mut file: File, temp_dir: &Path) -> io::Result<PutBody> {
        let mut temp = TempFile::create(temp_dir)?;
        let header = self.header(action, hit, FLAG_ZSTD);
        temp.file().write_all(&header)?;
        let mut encoder = zstd::Encoder::new(temp.file(), self.level)?;
        encoder.set_pledged_src_size(Some(hit.size))?;
        copy_whole(hit, &mut file, &mut encoder)?;
        encoder.finish()?;
        let mut len = temp.file().stream_position()?;
        if len - header.len() as u64 >= hit.size {
            temp.file().set_len(0)?;
            temp.file().seek(SeekFrom::Start(0))?;
            temp.file().write_all(&self.header(action, hit, 0))?;
            file.seek(SeekFrom::Start(0))?;
            len = header.len() as u64 + copy_whole(hit, &mut file, temp.file())?;
        }
        // the name goes with `temp`, the open file stays
        Ok(PutBody::File(Arc::new(temp.file().try_clone()?), len))
    }

    fn header(&self, action: &ActionId, hit: &Hit, flags: u8) -> Vec<u8> {
        let signature = self.signer.sign(KIND, &action.to_string(), &claim(hit));
        let mut header = Vec::with_capacity(HEADER + SIGNATURE);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&[flags | if signature.is_some() { FLAG_SIGNED } else { 0 }, 0, 0, 0]);
        header.extend_from_slice(&hit.size.to_le_bytes());
        header.extend_from_slice(&nanos(hit.time).to_le_bytes());
        header.extend_from_slice(&hit.output.0);
        header.extend_from_slice(signature.as_ref().map_or(&[], |s| s));
        header
    }

    /// Takes a `single` object into the disk cache. Also returns how many bytes were moved.
    pub fn decode(&self, action: &ActionId, object: Object, disk: &DiskCache) -> Result<(Hit, u64), DecodeError> {
        let mut body = Wire::new(object.body);
        let result = self.decode_body(action, object.len, object.own_prefix, &mut body, disk);
        if let Err(DecodeError::Untrusted(_)) = result {
            let _ = io::copy(&mut body.by_ref().take(DRAIN), &mut io::sink());
        }
        body.outcome(result)
    }

    fn decode_body(
        &self,
        action: &ActionId,
        len: Option<u64>,
        own_prefix: bool,
        body: &mut Wire,
        disk: &DiskCache,
    ) -> Result<Hit, DecodeError> {
        let mut header = [0; HEADER];
        body.read_exact(&mut header).map_err(|_| corrupt("shorter than an entry's header"))?;
        if header[..4] != MAGIC {
            return Err(corrupt("not an entry, or one of a newer version"));
        }
        let flags = header[4];
        if flags & !(FLAG_ZSTD | FLAG_OLD | FLAG_SIGNED) != 0 || header[5..8] != [0, 0, 0] {
            return Err(corrupt("unknown flags"));
        }
        let number = |at: usize| header[at..at + 8].try_into().expect("8 bytes");
        let claim = Claim {
            hash: OutputId::new(&header[24..]).expect("32 bytes"),
            size: u64::from_le_bytes(number(8)),
            time: i64::from_le_bytes(number(16)),
        };
        let Claim { hash: output, size, .. } = claim;
        let mut signature = [0; SIGNATURE];
        let signed = flags & FLAG_SIGNED != 0;
        let beside = if signed { SIGNATURE } else { OLD_SIGNATURE * usize::from(flags & FLAG_OLD != 0) };
        body.read_exact(&mut signature[..beside]).map_err(|_| corrupt("shorter than its signature"))?;
        if self.signer.demands(own_prefix) {
            let signature = signed.then_some(&signature);
            self.signer.check(KIND, &action.to_string(), &claim, signature).map_err(DecodeError::Untrusted)?;
        }
        let packed = flags & FLAG_ZSTD != 0;
        let held = len.map(|len| len.saturating_sub((HEADER + beside) as u64));
        // an entry is never longer than its output and the header, so a long one need not be read
        if held.is_some_and(|held| held > size) {
            return Err(corrupt("longer than its output"));
        }
        if !packed && held.is_some_and(|held| held < size) {
            return Err(corrupt("shorter than its output"));
        }
        if size <= IN_MEMORY {
            let mut raw = spare::buffer(held.map_or(size, |held| held.min(size)) as usize);
            body.take(size + 1).read_to_end(&mut raw).map_err(|e| corrupt(e.to_string()))?;
            if packed {
                raw = decompress(&raw, size as usize).map_err(|e| corrupt(format!("zstd: {e}")))?;
            }
            store(action, &claim, &mut &raw[..], disk)
        } else if packed && held.is_none_or(|held| size / RATIO > held) {
            let mut spool = Vec::new();
            if size <= RATIO * SPOOL {
                body.take(SPOOL + 1).read_to_end(&mut spool).map_err(|e| corrupt(e.to_string()))?;
            }
            if spool.is_empty() || spool.len() as u64 > SPOOL {
                return Err(corrupt(format!("it claims {size} bytes, far more than it can hold")));
            }
            let mut sink = Hashing::new(io::sink());
            let copied = copy(&mut unpack(&spool[..])?.take(size + 1), &mut sink)?;
            if copied != size || sink.hash() != output {
                return Err(corrupt(format!("its body is not the {size} bytes with SHA-256 {output} that it claims")));
            }
            store(action, &claim, &mut unpack(&spool[..])?, disk)
        } else if packed {
            store(action, &claim, &mut unpack(in_pieces(body))?, disk)
        } else {
            store(action, &claim, &mut in_pieces(body), disk)
        }
    }

    /// The classic objects for what `hit` describes: output, action, and what stands beside the
    /// latter. `InvalidData` as in [`Self::encode`].
    pub fn encode_classic(&self, action: &ActionId, hit: &Hit) -> io::Result<(PutBody, PutBody, Option<String>)> {
        let mut file = careful().open(&hit.path)?;
        copy_whole(hit, &mut file, &mut io::sink())?;
        let text = format!("{} {}", hit.output, nanos(hit.time));
        let signature = self.signer.sign_text(KIND, &action.to_string(), &claim(hit));
        Ok((PutBody::File(Arc::new(file), hit.size), PutBody::Bytes(text.into_bytes().into()), signature))
    }

    /// Reads a classic action: output, time, the output's size where it is signed, and how many
    /// bytes were moved.
    pub fn decode_classic_action(&self, action: &ActionId, object: Object) -> Result<Classic, DecodeError> {
        let mut text = Vec::new();
        let mut body = object.body;
        body.by_ref().take(256).read_to_end(&mut text).map_err(DecodeError::Transfer)?;
        let parse = || {
            let (output, time) = std::str::from_utf8(&text).ok()?.trim_end().split_once(' ')?;
            Some((OutputId::from_hex(output)?, time.parse().ok()?))
        };
        let (output, time) = parse().ok_or_else(|| corrupt("not an action of the classic layout"))?;
        let mut size = None;
        if self.signer.demands(object.own_prefix) {
            let signed = self.signer.check_text(KIND, &action.to_string(), object.signature.as_deref());
            let claim = signed.map_err(DecodeError::Untrusted)?;
            if (claim.hash, claim.time) != (output, time) {
                return Err(DecodeError::Untrusted("its signature is of something else"));
            }
            size = Some(claim.size);
        }
        Ok((output, from_nanos(time), size, text.len() as u64))
    }
}

/// What a classic action says, see [`Codec::decode_classic_action`].
pub type Classic = (OutputId, SystemTime, Option<u64>, u64);

/// What is said of an entry.
fn claim(hit: &Hit) -> Claim {
    Claim { hash: hit.output, size: hit.size, time: nanos(hit.time) }
}

/// Copies the output's file, and sees whether it holds the output.
fn copy_whole(hit: &Hit, file: &mut File, to: &mut impl Write) -> io::Result<u64> {
    let mut to = Hashing::new(to);
    let copied = io::copy(file, &mut to)?;
    if copied == hit.size && to.hash() == hit.output {
        return Ok(copied);
    }
    // unless a put has replaced it meanwhile
    if is_at(file, &hit.path) {
        fs::remove_file(&hit.path)?;
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("{}: damaged, and removed", hit.path.display())))
}

/// Takes an output's bytes into the disk cache, and links the action to it.
pub(super) fn store(
    action: &ActionId,
    claim: &Claim,
    from: &mut impl BufRead,
    disk: &DiskCache,
) -> Result<Hit, DecodeError> {
    let mut writer = disk.write_output(claim.hash, claim.size).map_err(DecodeError::Disk)?;
    copy(from, &mut writer)?;
    let written = writer.commit().map_err(write_error)?;
    disk.fill(action, &written, from_nanos(claim.time)).map_err(DecodeError::Disk)
}

fn unpack(from: impl BufRead) -> Result<impl BufRead, DecodeError> {
    let mut decoder = zstd::Decoder::with_buffer(from).map_err(|e| corrupt(e.to_string()))?;
    decoder.window_log_max(MAX_WINDOW_LOG).map_err(|e| corrupt(e.to_string()))?;
    Ok(in_pieces(decoder))
}

fn in_pieces<R: Read>(from: R) -> BufReader<R> {
    BufReader::with_capacity(64 << 10, from)
}

/// Takes a classic output into the disk cache. Also returns how many bytes were moved.
pub fn decode_classic_output(
    action: &ActionId,
    output: OutputId,
    time: SystemTime,
    signed_size: Option<u64>,
    object: Object,
    disk: &DiskCache,
) -> Result<(Hit, u64), DecodeError> {
    let size = object.len.ok_or_else(|| corrupt("an output without a length"))?;
    if signed_size.is_some_and(|signed| signed != size) {
        return Err(corrupt("an output of another length than its action's"));
    }
    let mut body = Wire::new(object.body);
    let result = store(action, &Claim { hash: output, size, time: nanos(time) }, &mut in_pieces(&mut body), disk);
    body.outcome(result)
}

/// The body as it comes in: remembers a failed read, which the decoders above would blur.
struct Wire {
    inner: Box<dyn Read + Send>,
    read: u64,
    failed: Option<io::Error>,
}

impl Wire {
    fn new(inner: Box<dyn Read + Send>) -> Self {
        Wire { inner, read: 0, failed: None }
    }

    /// What came of it, and how many bytes were moved. Whatever a broken transfer looked like to the
    /// decoder, the transfer is to blame.
    fn outcome(self, result: Result<Hit, DecodeError>) -> Result<(Hit, u64), DecodeError> {
        match (result, self.failed) {
            (Err(_), Some(e)) => Err(DecodeError::Transfer(e)),
            (result, _) => Ok((result?, self.read)),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buf) {
            Ok(n) => {
                self.read += n as u64;
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                let copy = io::Error::new(e.kind(), e.to_string());
                self.failed = Some(e);
                Err(copy)
            }
        }
    }
}

/// Copies to the end, and says how many bytes that were; read errors are corruption (or the transfer's,
/// which the caller knows).
fn copy(from: &mut impl BufRead, to: &mut impl Write) -> Result<u64, DecodeError> {
    let mut copied = 0;
    loop {
        match from.fill_buf() {
            Ok([]) => return Ok(copied),
            Ok(piece) => {
                to.write_all(piece).map_err(write_error)?;
                let len = piece.len();
                from.consume(len);
                copied += len as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(corrupt(e.to_string())),
        }
    }
}

/// The disk cache's writer says `InvalidData` of bytes that are not what they should be.
fn write_error(e: io::Error) -> DecodeError {
    if e.kind() == io::ErrorKind::InvalidData { corrupt(e.to_string()) } else { DecodeError::Disk(e) }
}

thread_local! {
    // making a context costs more than compressing the typical entry
    static COMPRESSOR: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

pub(super) fn compress(raw: &[u8], level: i32) -> io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|(at, _)| *at != level) {
            *slot = Some((level, zstd::bulk::Compressor::new(level)?));
        }
        slot.as_mut().expect("just set").1.compress(raw)
    })
}

/// What is packed in `packed`, of `size` bytes if all is well: it may be longer, by as much as a spare buffer holds.
pub(super) fn decompress(packed: &[u8], size: usize) -> io::Result<spare::Lent> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(zstd::bulk::Decompressor::new()?);
        }
        let mut raw = spare::buffer(size);
        slot.as_mut().expect("just set").decompress_to_buffer(packed, &mut *raw)?;
        Ok(raw)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::time::UNIX_EPOCH;

    struct Fixture {
        dir: PathBuf,
        a: DiskCache,
        b: DiskCache,
    }

    impl Fixture {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("gcp-entry-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            let open = |n: &str| {
                fs::create_dir_all(dir.join(n)).unwrap();
                DiskCache::open(&dir.join(n), std::time::Duration::from_secs(3600)).unwrap()
            };
            Fixture { a: open("a"), b: open("b"), dir }
        }

        fn put(&self, body: &[u8]) -> Hit {
            let (output, size) = (OutputId::of(body), body.len() as u64);
            let mut writer = self.a.write_output(output, size).unwrap();
            writer.write_all(body).unwrap();
            let written = writer.commit().unwrap();
            self.a.link(&action(), &written, from_nanos(1_234_567_890_123_456_789)).unwrap()
        }

        fn encode(&self, codec: &Codec, body: &[u8]) -> Vec<u8> {
            let put = codec.encode(&action(), &self.put(body), &self.dir).unwrap();
            let mut bytes = Vec::new();
            put.reader().read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, put.len());
            bytes
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }

    fn signer() -> Signer {
        Signer::new(crate::sign::private_key(&crate::sign::generate().unwrap().0).ok(), Vec::new(), false)
    }

    fn action() -> ActionId {
        ActionId::new(&[9; 32]).unwrap()
    }

    fn object(bytes: &[u8]) -> Object {
        Object::new(Some(bytes.len() as u64), None, Box::new(io::Cursor::new(bytes.to_vec())))
    }

    fn bodies() -> Vec<Vec<u8>> {
        let noise: Vec<u8> = (0..3_000_000u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
        let random: Vec<u8> = noise.chunks(32).flat_map(|c| OutputId::of(c).0).collect();
        vec![vec![], b"x".to_vec(), vec![b'a'; 5000], vec![b'b'; 3_000_000], random[..2000].to_vec(), random]
    }

    #[test]
    fn single_round_trip() {
        for codec in [Codec::new(1, Signer::default()), Codec::new(3, signer())] {
            for body in bodies() {
                // what is there already is not replaced
                let fixture = Fixture::new(if codec.signer.signs() { "signed" } else { "plain" });
                let bytes = fixture.encode(&codec, &body);
                assert!(bytes.len() <= body.len() + HEADER + SIGNATURE);
                let (hit, moved) = codec.decode(&action(), object(&bytes), &fixture.b).unwrap();
                assert_eq!(moved, bytes.len() as u64);
                assert_eq!(fs::read(&hit.path).unwrap(), body);
                assert_eq!(fixture.b.get(&action()).unwrap(), Some(hit.clone()));
                assert_eq!(nanos(hit.time), 1_234_567_890_123_456_789);
            }
        }
    }

    #[test]
    fn damage_anywhere_is_noticed_and_stores_nothing() {
        let fixture = Fixture::new("damage");
        let codec = Codec::new(1, Signer::default());
        let body: Vec<u8> = (0..4000u32).flat_map(|i| i.to_le_bytes()).collect();
        let good = fixture.encode(&codec, &body);
        let time = 16..24; // carries no check without a key
        for at in (0..good.len()).filter(|at| !time.contains(at)) {
            let mut bad = good.clone();
            bad[at] ^= 0x41;
            let result = codec.decode(&action(), object(&bad), &fixture.b);
            assert!(matches!(result, Err(DecodeError::Corrupt(_))), "byte {at}: {result:?}");
        }
        for len in [0, 3, HEADER - 1, HEADER, good.len() - 1] {
            assert!(codec.decode(&action(), object(&good[..len]), &fixture.b).is_err(), "length {len}");
        }
        let long = [&good[..], b"more"].concat();
        assert!(codec.decode(&action(), object(&long), &fixture.b).is_err());
        assert_eq!(fixture.b.get(&action()).unwrap(), None);
    }

    #[test]
    fn a_bomb_is_cut_off() {
        let fixture = Fixture::new("bomb");
        let codec = Codec::new(1, Signer::default());
        for claimed in [10, IN_MEMORY + 1] {
            let hit = Hit { output: OutputId::of(b""), size: claimed, time: UNIX_EPOCH, path: PathBuf::new() };
            let mut bytes = codec.header(&action(), &hit, FLAG_ZSTD);
            bytes.extend(zstd::encode_all(io::repeat(0).take(64 << 20), 1).unwrap());
            let mut object = object(&bytes);
            object.len = None;
            assert!(matches!(codec.decode(&action(), object, &fixture.b), Err(DecodeError::Corrupt(_))));
        }
    }

    #[test]
    fn with_a_key_only_its_signatures_pass() {
        let fixture = Fixture::new("keys");
        let (ours, theirs, plain) =
            (Codec::new(1, signer()), Codec::new(1, signer()), Codec::new(1, Signer::default()));
        let (unsigned, signed) = (fixture.encode(&plain, b"body"), fixture.encode(&ours, b"body"));
        let refused = |codec: &Codec, action: &ActionId, bytes: &[u8]| {
            let result = codec.decode(action, object(bytes), &fixture.b);
            assert!(matches!(result, Err(DecodeError::Untrusted(_))), "{result:?}");
        };
        assert!(ours.decode(&action(), object(&signed), &fixture.b).is_ok());
        refused(&ours, &action(), &unsigned);
        refused(&theirs, &action(), &signed);
        // an entry moved to another action
        refused(&ours, &ActionId::new(&[8; 32]).unwrap(), &signed);
        for at in [16, 24, 56, 119] {
            let mut changed = signed.clone();
            changed[at] ^= 1;
            refused(&ours, &action(), &changed);
        }
        // its signature taken off
        let mut stripped = [&signed[..56], &signed[120..]].concat();
        stripped[4] &= !FLAG_SIGNED;
        refused(&ours, &action(), &stripped);
        // who has no key reads signed entries all the same, and those with a signature of old
        let mut old = [&unsigned[..56], &[7; OLD_SIGNATURE], &unsigned[56..]].concat();
        old[4] |= FLAG_OLD;
        for bytes in [&signed, &old, &stripped] {
            assert!(plain.decode(&action(), object(bytes), &fixture.b).is_ok());
        }
        refused(&ours, &action(), &old);
    }

    #[test]
    fn claims_are_not_believed() {
        let fixture = Fixture::new("claims");
        let codec = Codec::new(1, Signer::default());
        let big = vec![b'b'; 64 << 20];
        let zeros = fixture.encode(&codec, &big);
        assert!((zeros.len() as u64) < big.len() as u64 / RATIO);
        assert!(codec.decode(&action(), object(&zeros), &fixture.b).is_ok(), "an honest one, however small");
        for size in [(64 << 20) - 1, (64 << 20) + 1, 1 << 31, 1 << 63, u64::MAX] {
            let mut bytes = zeros.clone();
            bytes[8..16].copy_from_slice(&u64::to_le_bytes(size));
            for flags in [FLAG_ZSTD, 0] {
                bytes[4] = flags;
                assert!(matches!(codec.decode(&action(), object(&bytes), &fixture.b), Err(DecodeError::Corrupt(_))));
            }
        }
    }

    #[test]
    fn a_damaged_output_is_not_sent_but_removed() {
        let fixture = Fixture::new("damaged");
        let codec = Codec::new(1, Signer::default());
        for body in [vec![1; 5000], vec![2; 3_000_000]] {
            let hit = fixture.put(&body);
            for classic in [false, true] {
                let mut damaged = body.clone();
                damaged[4000] ^= 1;
                fs::write(&hit.path, &damaged).unwrap();
                let sent = match classic {
                    false => codec.encode(&action(), &hit, &fixture.dir).map(drop),
                    true => codec.encode_classic(&action(), &hit).map(drop),
                };
                assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::InvalidData);
                assert!(!hit.path.exists());
            }
        }
    }

    #[test]
    fn a_broken_transfer_is_not_corruption() {
        struct Breaks(io::Cursor<Vec<u8>>);
        impl Read for Breaks {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                match self.0.read(buf)? {
                    0 => Err(io::ErrorKind::ConnectionReset.into()),
                    n => Ok(n),
                }
            }
        }
        let fixture = Fixture::new("broken");
        let codec = Codec::new(1, Signer::default());
        let bytes = fixture.encode(&codec, &[1; 5000]);
        let body = Box::new(Breaks(io::Cursor::new(bytes[..70].to_vec())));
        let object = Object { body, ..object(&bytes) };
        assert!(matches!(codec.decode(&action(), object, &fixture.b), Err(DecodeError::Transfer(_))));
    }

    #[test]
    fn classic_round_trip() {
        let fixture = Fixture::new("classic");
        let (plain, ours, theirs) =
            (Codec::new(1, Signer::default()), Codec::new(1, signer()), Codec::new(1, signer()));
        let hit = fixture.put(b"classic body");
        let (_, PutBody::Bytes(text), signature) = ours.encode_classic(&action(), &hit).unwrap() else {
            panic!("in memory")
        };
        assert_eq!(&text[..], format!("{} 1234567890123456789", hit.output).as_bytes());
        let said = |signature: &Option<String>| Object { signature: signature.clone(), ..object(&text) };
        let decode = |object| decode_classic_output(&action(), hit.output, hit.time, Some(12), object, &fixture.b);
        for codec in [&plain, &ours] {
            let (output, time, size, _) = codec.decode_classic_action(&action(), said(&signature)).unwrap();
            assert_eq!((output, time, size), (hit.output, hit.time, codec.signer.signs().then_some(12)));
        }
        let (got, _) = decode(object(b"classic body")).unwrap();
        assert_eq!((got.output, got.time), (hit.output, hit.time));
        assert!(decode(object(b"classic bod")).is_err() && decode(object(b"classic b0dy")).is_err());
        assert!(plain.decode_classic_action(&action(), object(b"rubbish")).is_err());
        // without a signature, or with one that is not this action's, or this text's
        let other = ActionId::new(&[8; 32]).unwrap();
        let moved = Object { signature, ..object(&encode_text(&hit, 1)) };
        let good = said(&ours.encode_classic(&action(), &hit).unwrap().2);
        for (codec, action, object) in [
            (&ours, action(), said(&None)),
            (&ours, other, said(&ours.encode_classic(&action(), &hit).unwrap().2)),
            (&ours, action(), moved),
            (&theirs, action(), good),
        ] {
            let result = codec.decode_classic_action(&action, object);
            assert!(matches!(result, Err(DecodeError::Untrusted(_))), "{result:?}");
        }
    }

    fn encode_text(hit: &Hit, time: i64) -> Vec<u8> {
        format!("{} {time}", hit.output).into_bytes()
    }
}
