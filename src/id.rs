//! Action and output ids: short byte strings that `go` chooses, lower-case hex on disk and in keys;
//! and that hex, for all who write it.
//!
//! Contents are hashed by ring: on a processor that has no instructions for SHA-256, sha2 takes twice as long, and the
//! row "puts" of the session bench a third longer.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ring::digest::{Context, Digest, SHA256, digest};

/// Most bytes an id may have. `go` sends 32.
pub const MAX_ID_LEN: usize = 64;

/// The id of an action: any 1 to [`MAX_ID_LEN`] bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActionId {
    len: u8,
    bytes: [u8; MAX_ID_LEN],
}

impl ActionId {
    /// Takes an id's bytes; `None` when there are none or too many.
    pub fn new(id: &[u8]) -> Option<Self> {
        if id.is_empty() || id.len() > MAX_ID_LEN {
            return None;
        }
        let mut bytes = [0; MAX_ID_LEN];
        bytes[..id.len()].copy_from_slice(id);
        Some(ActionId { len: id.len() as u8, bytes })
    }

    /// Reads lower-case hex.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let mut bytes = [0; MAX_ID_LEN];
        let len = decode_hex(hex.as_bytes(), &mut bytes)?;
        ActionId::new(&bytes[..len])
    }

    /// The id's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }
}

impl fmt::Display for ActionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(self.as_bytes(), f)
    }
}

impl fmt::Debug for ActionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The id of an output: the SHA-256 of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OutputId(pub [u8; 32]);

impl OutputId {
    /// Takes an id's bytes; `None` unless there are 32.
    pub fn new(id: &[u8]) -> Option<Self> {
        id.try_into().ok().map(OutputId)
    }

    /// Reads lower-case hex.
    pub fn from_hex(hex: &str) -> Option<Self> {
        unhex(hex).map(OutputId)
    }

    /// The id of `body`.
    pub fn of(body: &[u8]) -> Self {
        digest(&SHA256, body).into()
    }
}

impl From<Digest> for OutputId {
    fn from(digest: Digest) -> Self {
        OutputId(digest.as_ref().try_into().expect("a SHA-256"))
    }
}

impl fmt::Display for OutputId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for OutputId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Hashes what is written through it to `to`.
pub struct Hashing<W> {
    /// Where the bytes go.
    pub to: W,
    /// How many went there.
    pub len: u64,
    hasher: Context,
}

impl<W> Hashing<W> {
    /// Nothing was written yet.
    pub fn new(to: W) -> Self {
        Hashing { to, len: 0, hasher: Context::new(&SHA256) }
    }

    /// The SHA-256 of the bytes so far.
    pub fn hash(&self) -> OutputId {
        self.hasher.clone().finish().into()
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.to.write(buf)?;
        self.hasher.update(&buf[..n]);
        self.len += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// `<dir>/<first two digits>/<hex>`: how the cache directory and the bucket spread names.
pub fn sharded(dir: &str, hex: &str) -> String {
    format!("{dir}/{}/{hex}", &hex[..2])
}

/// As [`sharded`], below `root`.
pub fn sharded_path(root: &Path, dir: &str, hex: &str) -> PathBuf {
    let mut path = PathBuf::with_capacity(root.as_os_str().len() + dir.len() + hex.len() + 8);
    path.push(root);
    path.push(dir);
    path.push(&hex[..2]);
    path.push(hex);
    path
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut text = [0u8; 2 * MAX_ID_LEN];
    for (i, b) in bytes.iter().enumerate() {
        text[2 * i] = DIGITS[(b >> 4) as usize];
        text[2 * i + 1] = DIGITS[(b & 15) as usize];
    }
    f.write_str(std::str::from_utf8(&text[..2 * bytes.len()]).expect("hex digits are ASCII"))
}

/// `bytes` in lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|digit| char::from(DIGITS[digit as usize])).collect()
}

/// The `N` bytes that lower-case hex stands for.
pub fn unhex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    (decode_hex(hex.as_bytes(), &mut bytes)? == N).then_some(bytes)
}

/// Decodes lower-case hex into `out` and returns how many bytes that is.
fn decode_hex(hex: &[u8], out: &mut [u8]) -> Option<usize> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    if !hex.len().is_multiple_of(2) || hex.len() / 2 > out.len() {
        return None;
    }
    for (pair, to) in hex.chunks_exact(2).zip(out.iter_mut()) {
        *to = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(hex.len() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trip() {
        let id = ActionId::new(&[0x00, 0xab, 0xff]).unwrap();
        assert_eq!(id.to_string(), "00abff");
        assert_eq!(ActionId::from_hex("00abff"), Some(id));
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        assert_eq!(ActionId::new(&[]), None);
        assert_eq!(ActionId::new(&[1; MAX_ID_LEN + 1]), None);
        for bad in ["", "0", "0g", "AB", "../..", "ab/c"] {
            assert_eq!(ActionId::from_hex(bad), None, "{bad:?}");
        }
        assert_eq!(OutputId::from_hex("ab"), None);
    }

    #[test]
    fn names_are_sharded_by_their_first_byte() {
        assert_eq!(sharded("action", "abcd"), "action/ab/abcd");
        assert_eq!(sharded_path(Path::new("/c"), "output", "abcd"), Path::new("/c/output/ab/abcd"));
    }
}
