//! Who made an object: signatures that many can check and few can make (Ed25519).
//!
//! Signed is a [`Claim`], the SHA-256, length and time of a content, together with the kind of the
//! object and its key, so that no signature fits another place. As text, which stands beside an
//! object (S3 user metadata, a `.sig` file), a signed claim is one line:
//!
//! ```text
//! 1 <sha256> <length> <nanoseconds since 1970> <signature>
//! ```
//!
//! Key files hold one line, `go-cache-plugin-private-key-1 <seed>` or
//! `go-cache-plugin-public-key-1 <key>`; all bytes are lower-case hex.
//!
//! Invariants: who signs checks too, else it would launder what others forged; without keys
//! everything is believed; a refusal is a miss, told once a process and counted.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::id::{OutputId, hex, unhex};
use crate::repeat::Repeat;

/// Bytes of a signature.
pub const SIGNATURE: usize = 64;
/// What can change is believed for so long from when it was signed. Who may sign signs it anew at
/// half of that.
pub const MUTABLE_FOR: Duration = Duration::from_secs(30 * 86_400);
/// So far ahead of ours a signer's clock may be.
const SKEW: Duration = Duration::from_secs(86_400);

/// Why something was refused that carries no signature.
const UNSIGNED: &str = "it is not signed";
const WRONG: &str = "its signature is wrong, or by another key";
const OUTDATED: &str = "it can change, and was signed too long ago, or by a clock far ahead of ours";

const DOMAIN: &[u8] = b"go-cache-plugin 1";
const PRIVATE: &str = "go-cache-plugin-private-key-1 ";
const PUBLIC: &str = "go-cache-plugin-public-key-1 ";

/// What is said of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its SHA-256.
    pub hash: OutputId,
    /// Its length in bytes.
    pub size: u64,
    /// When it was known to be right, nanoseconds since 1970.
    pub time: i64,
}

impl Claim {
    /// Reads the text form, without a signature or with one.
    pub fn parse(line: &str) -> Option<(Claim, Option<[u8; SIGNATURE]>)> {
        let words: Vec<&str> = line.trim_end().split(' ').collect();
        let (["1", hash, size, time], signature) = words.split_first_chunk()? else { return None };
        let claim = Claim { hash: OutputId::from_hex(hash)?, size: size.parse().ok()?, time: time.parse().ok()? };
        match signature {
            [] => Some((claim, None)),
            [signature] => Some((claim, Some(unhex(signature)?))),
            _ => None,
        }
    }

    /// Whether its time is at most `bound` ago, and hardly in the future.
    pub fn is_within(&self, bound: Duration) -> bool {
        let (now, time) = (SystemTime::now(), from_nanos(self.time));
        now.duration_since(time).map_or_else(|ahead| ahead.duration() < SKEW, |age| age < bound)
    }

    fn message(&self, kind: &str, key: &str) -> Vec<u8> {
        let (size, time) = (self.size.to_le_bytes(), self.time.to_le_bytes());
        let mut message = Vec::with_capacity(256);
        for part in [DOMAIN, kind.as_bytes(), key.as_bytes(), &self.hash.0, &size, &time] {
            message.extend_from_slice(&(part.len() as u64).to_le_bytes());
            message.extend_from_slice(part);
        }
        message
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1 {} {} {}", self.hash, self.size, self.time)
    }
}

/// Signs, where there is a private key, and checks, where there are keys at all.
#[derive(Clone)]
pub struct Signer(Arc<Keys>);

struct Keys {
    pair: Option<Ed25519KeyPair>,
    public: Vec<[u8; 32]>,
    trust_own: bool,
    /// The public key that fitted last, to be tried first.
    last: AtomicUsize,
    refused: Repeat,
}

impl Default for Signer {
    /// No keys: nothing is signed, and everything is believed.
    fn default() -> Self {
        Signer::new(None, Vec::new(), false)
    }
}

impl Signer {
    /// Signs with the `private` key, if one is given, and believes it and the `public` ones. What
    /// lies under one's own write prefix is believed unsigned if `trust_own`.
    pub fn new(private: Option<[u8; 32]>, mut public: Vec<[u8; 32]>, trust_own: bool) -> Self {
        let pair = private.map(|seed| Ed25519KeyPair::from_seed_unchecked(&seed).expect("a seed has 32 bytes"));
        public.extend(pair.iter().filter_map(|pair| <[u8; 32]>::try_from(pair.public_key().as_ref()).ok()));
        let refused = Repeat::new("objects of the bucket were not used: damaged, or without a signature that counts");
        Signer(Arc::new(Keys { pair, public, trust_own, last: AtomicUsize::new(0), refused }))
    }

    /// Whether there is a private key.
    pub fn signs(&self) -> bool {
        self.0.pair.is_some()
    }

    /// Whether a signature is demanded, of objects under one's own write prefix or of the others.
    pub fn demands(&self, own_prefix: bool) -> bool {
        !(self.0.public.is_empty() || own_prefix && self.0.trust_own)
    }

    /// The signature of `claim` for the object `key` of `kind`; `None` without a private key.
    pub fn sign(&self, kind: &str, key: &str, claim: &Claim) -> Option<[u8; SIGNATURE]> {
        let signature = self.0.pair.as_ref()?.sign(&claim.message(kind, key));
        Some(signature.as_ref().try_into().expect("Ed25519 signatures have 64 bytes"))
    }

    /// The text to stand beside the object; `None` without a private key.
    pub fn sign_text(&self, kind: &str, key: &str, claim: &Claim) -> Option<String> {
        Some(format!("{claim} {}", hex(&self.sign(kind, key, claim)?)))
    }

    /// Whether one of the keys that count made `signature`; the error says why not.
    pub fn check(
        &self,
        kind: &str,
        key: &str,
        claim: &Claim,
        signature: Option<&[u8; SIGNATURE]>,
    ) -> Result<(), &'static str> {
        let (signature, message) = (signature.ok_or(UNSIGNED)?, claim.message(kind, key));
        let (keys, last) = (&self.0.public, self.0.last.load(Ordering::Relaxed));
        let fits = |i: &usize| UnparsedPublicKey::new(&ED25519, keys[*i]).verify(&message, signature).is_ok();
        let found = (last..keys.len()).chain(0..last).find(fits).ok_or(WRONG)?;
        self.0.last.store(found, Ordering::Relaxed);
        Ok(())
    }

    /// As [`Self::check`], of the text that stands beside an object: what it claims.
    pub fn check_text(&self, kind: &str, key: &str, text: Option<&str>) -> Result<Claim, &'static str> {
        let (claim, signature) = Claim::parse(text.ok_or(UNSIGNED)?).ok_or(WRONG)?;
        self.check(kind, key, &claim, signature.as_ref()).map(|()| claim)
    }

    /// Whether what can change is still believed.
    pub fn check_age(&self, claim: &Claim) -> Result<(), &'static str> {
        if claim.is_within(MUTABLE_FOR) { Ok(()) } else { Err(OUTDATED) }
    }

    /// An object was refused; `instance` is a line for people.
    pub fn refused(&self, instance: impl fmt::Display) {
        self.0.refused.tell(instance);
    }

    /// Says how many objects were refused, where it were several. Call it at the very end.
    pub fn end(&self) {
        self.0.refused.end();
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer {{ signs: {}, keys: {} }}", self.signs(), self.0.public.len())
    }
}

/// The private key in a key file's text. The error says what that is instead.
pub fn private_key(text: &str) -> Result<[u8; 32], &'static str> {
    if text.starts_with(PUBLIC) {
        return Err("a public key, which cannot sign: give it as --verify-key-file, and here the file beside it");
    }
    key(text, PRIVATE)
}

/// The public key in a key file's text. The error says what that is instead.
pub fn public_key(text: &str) -> Result<[u8; 32], &'static str> {
    if text.starts_with(PRIVATE) {
        return Err("a private key, which readers must not have: give the file of the same name with .pub");
    }
    key(text, PUBLIC)
}

fn key(text: &str, prefix: &str) -> Result<[u8; 32], &'static str> {
    let hex = text.strip_prefix(prefix).ok_or(
        "not a key of this program (keys of any bytes, as older versions took, do not count any more): \
         make a pair with \"go-cache-plugin keygen FILE\"",
    )?;
    unhex(hex.trim_end()).ok_or("a key that is cut off or damaged")
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

/// Makes a pair of keys: the texts of the private and the public key's file.
pub fn generate() -> Result<(String, String), String> {
    let seed = random::<32>()?;
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("a seed has 32 bytes");
    let line = |prefix: &str, bytes: &[u8]| format!("{prefix}{}\n", hex(bytes));
    Ok((line(PRIVATE, &seed), line(PUBLIC, pair.public_key().as_ref())))
}

/// Bytes that nobody can guess.
pub fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map(|()| bytes).map_err(|_| "the system has no random numbers to give".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Claim {
        Claim { hash: OutputId::of(b"x"), size: 1, time: nanos(SystemTime::now()) }
    }

    #[test]
    fn a_signature_fits_one_thing_and_one_key() {
        let ((private, public), (other, _)) = (generate().unwrap(), generate().unwrap());
        let signer = Signer::new(private_key(&private).ok(), Vec::new(), false);
        let known = [generate().unwrap().1, public].map(|text| public_key(&text).unwrap());
        let reader = Signer::new(None, known.to_vec(), false);
        let stranger = Signer::new(private_key(&other).ok(), Vec::new(), false);
        assert!(signer.signs() && !reader.signs() && reader.demands(true) && !Signer::default().demands(false));
        let (c, text) = (claim(), signer.sign_text("module", "k", &claim()).unwrap());
        for who in [&signer, &reader, &reader] {
            assert!(who.check_text("module", "k", Some(&text)).is_ok());
        }
        assert_eq!(reader.check_text("module", "k", None), Err(UNSIGNED));
        assert_eq!(reader.check_text("module", "k", Some(&c.to_string())), Err(UNSIGNED));
        for (kind, key, text) in [
            ("modul", "ek", text.clone()),
            ("module", "l", text.clone()),
            ("module", "k", stranger.sign_text("module", "k", &c).unwrap()),
            ("module", "k", text.replacen(" 1 ", " 2 ", 1)),
            ("module", "k", format!("{text}00")),
            ("module", "k", "2 x".into()),
            ("module", "k", String::new()),
        ] {
            assert_eq!(reader.check_text(kind, key, Some(&text)), Err(WRONG), "{kind} {key} {text}");
        }
        assert!(reader.sign("module", "k", &c).is_none());
    }

    #[test]
    fn what_can_change_is_believed_for_a_while() {
        let at = |ago: i64| Claim { time: claim().time - ago * 86_400_000_000_000, ..claim() };
        let signer = Signer::default();
        assert!(signer.check_age(&at(29)).is_ok() && signer.check_age(&at(0)).is_ok());
        for days in [31, 10_000, -2, -10_000] {
            assert_eq!(signer.check_age(&at(days)), Err(OUTDATED), "{days}");
        }
    }

    #[test]
    fn key_files_are_told_apart() {
        let (private, public) = generate().unwrap();
        assert!(private_key(&public).unwrap_err().contains("cannot sign"));
        assert!(public_key(&private).unwrap_err().contains("must not have"));
        for old in ["0123456789abcdef\n", "", "go-cache-plugin-private-key-2 00"] {
            assert!(private_key(old).unwrap_err().contains("keygen"), "{old}");
        }
        assert!(private_key(&private[..60]).unwrap_err().contains("cut off"));
    }
}
