//! The bucket's entry formats.
//!
//! `single`: one object an action, `v1/<xx>/<action-id>`. All integers little-endian:
//!
//! ```text
//!  0  4  "gcp" 1        magic and version
//!  4  1  flags          1: the body is zstd; 2: a signature follows the header
//!  5  3  zero
//!  8  8  size           bytes of the output
//! 16  8  time           when it was put, nanoseconds since 1970, signed
//! 24 32  output id
//! 56 32  signature      HMAC-SHA-256, only with flag 2
//!        body           the output, compressed where that makes it smaller
//! ```
//!
//! `classic`: the reference program's two objects, `action/<xx>/<action-id>` holding
//! `<output-id> <nanoseconds>` and `output/<xx>/<output-id>` holding the bytes.
//!
//! Invariants: what is decoded goes to the disk cache only through its writer, which checks length
//! and SHA-256; memory is bounded by [`IN_MEMORY`] an entry whatever an object claims; every byte
//! of an object is read, so that its connection can be used again.

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::disk::{DiskCache, Hit};
use super::id::{ActionId, OutputId, sharded};
use crate::atomic::TempFile;
use crate::remote::{Object, PutBody};

/// Outputs up to this many bytes are encoded and decoded in memory, larger ones in a stream.
pub const IN_MEMORY: u64 = 1 << 20;

const MAGIC: [u8; 4] = *b"gcp\x01";
const FLAG_ZSTD: u8 = 1;
const FLAG_SIGNED: u8 = 2;
const HEADER: usize = 56;
const SIGNATURE: usize = 32;
/// zstd frames may ask for a window of up to 2^27 bytes, what the format's own tools accept.
const MAX_WINDOW_LOG: u32 = 27;

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
    /// The object is damaged, unsigned, wrongly signed or of another format.
    Corrupt(String),
    /// The entry could not be stored locally.
    Disk(io::Error),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Transfer(e) => write!(f, "transfer broke off: {e}"),
            DecodeError::Corrupt(why) => f.write_str(why),
            DecodeError::Disk(e) => write!(f, "storing it: {e}"),
        }
    }
}

fn corrupt(why: impl Into<String>) -> DecodeError {
    DecodeError::Corrupt(why.into())
}

/// Signs and checks with the fleet's key, where there is one.
#[derive(Clone, Default)]
pub struct Signer(Option<Arc<[u8]>>);

impl Signer {
    /// Signs with `key`, or not at all.
    pub fn new(key: Option<&[u8]>) -> Self {
        Signer(key.map(Arc::from))
    }

    /// Whether there is a key, so that what is unsigned is refused.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The signature of `parts`, each with its length; `None` without a key. `label` keeps
    /// signatures of different things apart.
    pub fn sign(&self, label: &str, parts: &[&[u8]]) -> Option<[u8; SIGNATURE]> {
        Some(self.mac(label, parts)?.finalize().into_bytes().into())
    }

    /// Whether `signature` is that of `parts`, in constant time. `true` without a key.
    pub fn verify(&self, label: &str, parts: &[&[u8]], signature: Option<&[u8]>) -> bool {
        match (self.mac(label, parts), signature) {
            (None, _) => true,
            (Some(mac), Some(signature)) => mac.verify_slice(signature).is_ok(),
            (Some(_), None) => false,
        }
    }

    fn mac(&self, label: &str, parts: &[&[u8]]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_ref()?).expect("HMAC takes keys of any length");
        for part in [label.as_bytes()].iter().chain(parts) {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        Some(mac)
    }
}

/// Turns entries into objects and back.
pub struct Codec {
    level: i32,
    signer: Signer,
}

impl Codec {
    /// Compresses at `level` (1 to 19) and signs with `signer`.
    pub fn new(level: i32, signer: Signer) -> Self {
        Codec { level, signer }
    }

    /// The key holder, for manifests.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The `single` object for what `hit` describes. Large ones are made in a temporary file
    /// in `temp_dir`.
    pub fn encode(&self, action: &ActionId, hit: &Hit, temp_dir: &Path) -> io::Result<PutBody> {
        let mut file = File::open(&hit.path)?;
        if hit.size > IN_MEMORY {
            return self.encode_large(action, hit, file, temp_dir);
        }
        let mut raw = Vec::with_capacity(hit.size as usize + 1);
        file.read_to_end(&mut raw)?;
        if raw.len() as u64 != hit.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let packed = compress(&raw, self.level)?;
        let (flags, body) = if packed.len() < raw.len() { (FLAG_ZSTD, &packed) } else { (0, &raw) };
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
        let read = io::copy(&mut file, &mut encoder)?;
        encoder.finish()?;
        if read != hit.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut len = temp.file().stream_position()?;
        if len - header.len() as u64 >= hit.size {
            temp.file().set_len(0)?;
            temp.file().seek(SeekFrom::Start(0))?;
            temp.file().write_all(&self.header(action, hit, 0))?;
            file.seek(SeekFrom::Start(0))?;
            len = header.len() as u64 + io::copy(&mut file, temp.file())?;
        }
        // the name goes with `temp`, the open file stays
        Ok(PutBody::File(Arc::new(temp.file().try_clone()?), len))
    }

    fn header(&self, action: &ActionId, hit: &Hit, flags: u8) -> Vec<u8> {
        let (size, time) = (hit.size.to_le_bytes(), nanos(hit.time).to_le_bytes());
        let signature = self.signer.sign(ENTRY_LABEL, &[action.as_bytes(), &hit.output.0, &size, &time]);
        let mut header = Vec::with_capacity(HEADER + SIGNATURE);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&[flags | if signature.is_some() { FLAG_SIGNED } else { 0 }, 0, 0, 0]);
        header.extend_from_slice(&size);
        header.extend_from_slice(&time);
        header.extend_from_slice(&hit.output.0);
        header.extend_from_slice(signature.as_ref().map_or(&[], |s| s));
        header
    }

    /// Takes a `single` object into the disk cache. Also returns how many bytes were moved.
    pub fn decode(&self, action: &ActionId, object: Object, disk: &DiskCache) -> Result<(Hit, u64), DecodeError> {
        let mut body = Wire { inner: object.body, read: 0, failed: None };
        let result = self.decode_body(action, object.len, &mut body, disk);
        match (result, body.failed) {
            // whatever it looked like to the decoder, the transfer is to blame
            (Err(_), Some(e)) => Err(DecodeError::Transfer(e)),
            (result, _) => Ok((result?, body.read)),
        }
    }

    fn decode_body(
        &self,
        action: &ActionId,
        len: Option<u64>,
        body: &mut Wire,
        disk: &DiskCache,
    ) -> Result<Hit, DecodeError> {
        let mut header = [0; HEADER];
        body.read_exact(&mut header).map_err(|_| corrupt("shorter than an entry's header"))?;
        if header[..4] != MAGIC {
            return Err(corrupt("not an entry, or one of a newer version"));
        }
        let flags = header[4];
        if flags & !(FLAG_ZSTD | FLAG_SIGNED) != 0 || header[5..8] != [0, 0, 0] {
            return Err(corrupt("unknown flags"));
        }
        let (size_bytes, time_bytes) = (&header[8..16], &header[16..24]);
        let size = u64::from_le_bytes(size_bytes.try_into().expect("8 bytes"));
        let time = from_nanos(i64::from_le_bytes(time_bytes.try_into().expect("8 bytes")));
        let output = OutputId::new(&header[24..]).expect("32 bytes");
        let mut signature = None;
        if flags & FLAG_SIGNED != 0 {
            let mut bytes = [0; SIGNATURE];
            body.read_exact(&mut bytes).map_err(|_| corrupt("shorter than its signature"))?;
            signature = Some(bytes);
        }
        let signed = [action.as_bytes(), &output.0, size_bytes, time_bytes];
        if !self.signer.verify(ENTRY_LABEL, &signed, signature.as_ref().map(|s| s.as_slice())) {
            return Err(corrupt(if signature.is_some() { "its signature is wrong" } else { "it is not signed" }));
        }
        let packed = flags & FLAG_ZSTD != 0;
        // an entry is never longer than its output and the header, so a long one need not be read
        if len.is_some_and(|len| len > size.saturating_add((HEADER + SIGNATURE) as u64)) {
            return Err(corrupt("longer than its output"));
        }
        let mut writer = disk.write_output(output, size).map_err(DecodeError::Disk)?;
        if size <= IN_MEMORY {
            let mut raw = Vec::with_capacity(size as usize);
            body.take(size + 1).read_to_end(&mut raw).map_err(|e| corrupt(e.to_string()))?;
            if packed {
                raw = decompress(&raw, size as usize).map_err(|e| corrupt(format!("zstd: {e}")))?;
            }
            writer.write_all(&raw).map_err(write_error)?;
        } else if packed {
            let mut decoder = zstd::Decoder::with_buffer(BufReader::with_capacity(64 * 1024, body))
                .map_err(|e| corrupt(e.to_string()))?;
            decoder.window_log_max(MAX_WINDOW_LOG).map_err(|e| corrupt(e.to_string()))?;
            copy(&mut decoder, &mut writer)?;
        } else {
            copy(body, &mut writer)?;
        }
        let written = writer.commit().map_err(write_error)?;
        disk.fill(action, &written, time).map_err(DecodeError::Disk)
    }
}

const ENTRY_LABEL: &str = "entry 1";

/// Formats a classic action.
pub fn encode_classic_action(hit: &Hit) -> PutBody {
    PutBody::Bytes(format!("{} {}", hit.output, nanos(hit.time)).into_bytes().into())
}

/// Reads a classic action. Also returns how many bytes were moved.
pub fn decode_classic_action(object: Object) -> Result<(OutputId, SystemTime, u64), DecodeError> {
    let mut text = Vec::new();
    let mut body = object.body;
    body.by_ref().take(256).read_to_end(&mut text).map_err(DecodeError::Transfer)?;
    let parse = || {
        let (output, time) = std::str::from_utf8(&text).ok()?.trim_end().split_once(' ')?;
        Some((OutputId::from_hex(output)?, from_nanos(time.parse().ok()?)))
    };
    let (output, time) = parse().ok_or_else(|| corrupt("not an action of the classic layout"))?;
    Ok((output, time, text.len() as u64))
}

/// Takes a classic output into the disk cache. Also returns how many bytes were moved.
pub fn decode_classic_output(
    action: &ActionId,
    output: OutputId,
    time: SystemTime,
    object: Object,
    disk: &DiskCache,
) -> Result<(Hit, u64), DecodeError> {
    let size = object.len.ok_or_else(|| corrupt("an output without a length"))?;
    let mut body = Wire { inner: object.body, read: 0, failed: None };
    let mut store = || {
        let mut writer = disk.write_output(output, size).map_err(DecodeError::Disk)?;
        copy(&mut body, &mut writer)?;
        let written = writer.commit().map_err(write_error)?;
        disk.fill(action, &written, time).map_err(DecodeError::Disk)
    };
    let result = store();
    match (result, body.failed) {
        (Err(_), Some(e)) => Err(DecodeError::Transfer(e)),
        (result, _) => Ok((result?, body.read)),
    }
}

/// The body as it comes in: remembers a failed read, which the decoders above would blur.
struct Wire {
    inner: Box<dyn Read + Send>,
    read: u64,
    failed: Option<io::Error>,
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

/// Copies to the end; read errors are corruption (or the transfer's, which the caller knows).
fn copy(from: &mut impl Read, to: &mut impl Write) -> Result<(), DecodeError> {
    let mut buf = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(&buf[..n]).map_err(write_error)?,
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

fn compress(raw: &[u8], level: i32) -> io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|(at, _)| *at != level) {
            *slot = Some((level, zstd::bulk::Compressor::new(level)?));
        }
        slot.as_mut().expect("just set").1.compress(raw)
    })
}

fn decompress(packed: &[u8], size: usize) -> io::Result<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(zstd::bulk::Decompressor::new()?);
        }
        slot.as_mut().expect("just set").decompress(packed, size)
    })
}

/// Nanoseconds since 1970, clamped to what 64 bits hold.
pub fn nanos(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(d) => i64::try_from(d.as_nanos()).unwrap_or(i64::MAX),
        Err(e) => i64::try_from(e.duration().as_nanos()).map_or(i64::MIN, |n| -n),
    }
}

/// The inverse of [`nanos`].
pub fn from_nanos(nanos: i64) -> SystemTime {
    let d = Duration::from_nanos(nanos.unsigned_abs());
    if nanos >= 0 { UNIX_EPOCH + d } else { UNIX_EPOCH - d }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

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
                DiskCache::open(&dir.join(n)).unwrap()
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

    fn action() -> ActionId {
        ActionId::new(&[9; 32]).unwrap()
    }

    fn object(bytes: &[u8]) -> Object {
        Object { len: Some(bytes.len() as u64), etag: None, body: Box::new(io::Cursor::new(bytes.to_vec())) }
    }

    fn bodies() -> Vec<Vec<u8>> {
        let noise: Vec<u8> = (0..3_000_000u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
        let random: Vec<u8> = noise.chunks(32).flat_map(|c| OutputId::of(c).0).collect();
        vec![vec![], b"x".to_vec(), vec![b'a'; 5000], vec![b'b'; 3_000_000], random[..2000].to_vec(), random]
    }

    #[test]
    fn single_round_trip() {
        for codec in [Codec::new(1, Signer::default()), Codec::new(3, Signer::new(Some(b"0123456789abcdef")))] {
            let fixture = Fixture::new(if codec.signer.is_on() { "signed" } else { "plain" });
            for body in bodies() {
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
        let key = |k: &[u8]| Codec::new(1, Signer::new(Some(k)));
        let plain = Codec::new(1, Signer::default());
        let (unsigned, ours) = (fixture.encode(&plain, b"body"), fixture.encode(&key(b"ours"), b"body"));
        assert!(key(b"ours").decode(&action(), object(&ours), &fixture.b).is_ok());
        assert!(key(b"ours").decode(&action(), object(&unsigned), &fixture.b).is_err());
        assert!(key(b"theirs").decode(&action(), object(&ours), &fixture.b).is_err());
        // an entry moved to another action
        let other = ActionId::new(&[8; 32]).unwrap();
        assert!(key(b"ours").decode(&other, object(&ours), &fixture.b).is_err());
        let mut later = ours.clone();
        later[16] ^= 1;
        assert!(key(b"ours").decode(&action(), object(&later), &fixture.b).is_err());
        // who has no key reads signed entries all the same
        assert!(plain.decode(&action(), object(&ours), &fixture.b).is_ok());
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
        let object = Object { len: Some(bytes.len() as u64), etag: None, body };
        assert!(matches!(codec.decode(&action(), object, &fixture.b), Err(DecodeError::Transfer(_))));
    }

    #[test]
    fn classic_round_trip() {
        let fixture = Fixture::new("classic");
        let hit = fixture.put(b"classic body");
        let PutBody::Bytes(text) = encode_classic_action(&hit) else { panic!("in memory") };
        assert_eq!(&text[..], format!("{} 1234567890123456789", hit.output).as_bytes());
        let (output, time, _) = decode_classic_action(object(&text)).unwrap();
        let (got, _) = decode_classic_output(&action(), output, time, object(b"classic body"), &fixture.b).unwrap();
        assert_eq!((got.output, got.time), (hit.output, hit.time));
        assert!(decode_classic_output(&action(), output, time, object(b"classic bod"), &fixture.b).is_err());
        assert!(decode_classic_action(object(b"rubbish")).is_err());
    }
}
