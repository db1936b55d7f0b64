//! Signed notes as `golang.org/x/mod/sumdb/note` has them, tree heads and records.
//!
//! Cloudflare's `signed_note` and `tlog_tiles` do the same, but for paths without the tiles' height, and
//! with a second SHA-2, base64 and Ed25519; this is less than what it would take to fit them in.

use base64_simd::STANDARD;
use ring::signature::{ED25519, UnparsedPublicKey};

use super::tree::{Hash, number};

/// What begins the line of a signature.
const SIGNATURE: &str = "\u{2014} ";
/// `go` takes no note with more of them.
const SIGNATURES: usize = 100;

/// A tree head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TreeHead {
    /// How many records.
    pub(super) size: u64,
    /// The hash of them all.
    pub(super) hash: Hash,
}

/// The tree head in the note `text`, which `name` must have signed with `key`. The error says what it
/// is instead. What `go` would not take is none, whoever signed it: it would be kept, and stop every client.
pub(super) fn open(text: &str, name: &str, key: &([u8; 4], [u8; 32])) -> Result<TreeHead, String> {
    let no = || format!("no tree head signed by {name}");
    let split = text.rfind("\n\n").ok_or_else(no)?;
    let (signed, signatures) = (&text[..=split], &text[split + 2..]);
    let mut found = false;
    let control = |c: char| c.is_control() && c != '\n';
    if !signatures.ends_with('\n') || signatures.lines().count() > SIGNATURES || text.contains(control) {
        return Err(no());
    }
    for line in signatures.lines() {
        // a line that is none would be there unsigned
        let (who, bytes) = line.strip_prefix(SIGNATURE).and_then(|rest| rest.split_once(' ')).ok_or_else(no)?;
        let bytes = STANDARD.decode_to_vec(bytes.as_bytes()).map_err(|_| no())?;
        let (id, signature) =
            bytes.split_at_checked(4).filter(|(_, signature)| !signature.is_empty()).ok_or_else(no)?;
        if who.is_empty() || who.contains(|c: char| c == '+' || c.is_whitespace()) {
            return Err(no());
        }
        if who == name && id == key.0 {
            let key = UnparsedPublicKey::new(&ED25519, &key.1);
            key.verify(signed.as_bytes(), signature).map_err(|_| format!("the signature of {name} is wrong"))?;
            found = true;
        }
    }
    let mut lines = signed.lines();
    let head = (lines.next(), lines.next().and_then(|n| number(n, i64::MAX as u64)), lines.next());
    let (Some("go.sum database tree"), Some(size), Some(hash)) = head else { return Err(no()) };
    let hash = STANDARD.decode_to_vec(hash.as_bytes()).ok().and_then(|hash| hash.try_into().ok()).ok_or_else(no)?;
    if found { Ok(TreeHead { size, hash }) } else { Err(no()) }
}

/// An answer to a lookup, taken apart.
pub(super) struct Record<'a> {
    /// Its place in the tree.
    pub(super) id: u64,
    /// The record itself: lines of go.sum.
    pub(super) text: &'a str,
    /// The tree head that came with it, a note.
    pub(super) note: &'a str,
}

impl<'a> Record<'a> {
    /// Parses `answer`, which must speak of `module` at `version` and of nothing else.
    pub(super) fn parse(answer: &'a str, module: &str, version: &str) -> Result<Self, String> {
        let (id, rest) = answer.split_once('\n').ok_or("no record")?;
        let id = number(id, i64::MAX as u64).ok_or("no record")?;
        let split = rest.find("\n\n").ok_or("no record before its tree head")?;
        let (text, note) = (&rest[..=split], &rest[split + 2..]);
        let [zip, go_mod] = ["", "/go.mod"].map(|what| format!("{module} {version}{what} "));
        if !text.lines().all(|line| line.starts_with(&zip) || line.starts_with(&go_mod)) {
            return Err("a record of another module".into());
        }
        Ok(Record { id, text, note })
    }
}
