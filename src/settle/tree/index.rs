//! Git's index: what git saw of files, which saves us a read, and what we saw, which saves one for git (that reads one
//! after the other, which takes longer than all else).
//!
//! Invariants: it is written under git's own lock; of an entry the data about the file alone are changed, and only
//! where it names the blob that was read there; what is not understood is left to git, which then reads the files,
//! as we do. Paths are relative to a folder below the top, `prefix`, which ends with a slash unless it is empty.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::stamp::{Algorithm, Seen};

/// The hash of a blob, and what was seen of the file that holds it.
pub type Told<'a> = (&'a [u8], &'a Seen);

/// What an index has of a file, 32 bits of each: seconds and nanoseconds of its change and of its modification,
/// device, number, mode, user, group, size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded([u32; 10]);

impl Recorded {
    /// Whether a file is as it was then, as far as nobody can set it back.
    pub fn is(&self, seen: &Seen) -> bool {
        let telling = |Recorded(words): Recorded| [words[0], words[1], words[2], words[3], words[5], words[9]];
        telling(*self) == telling(seen.into())
    }
}

impl From<&Seen> for Recorded {
    fn from(seen: &Seen) -> Self {
        let [[c, c_nanos], [m, m_nanos]] = [seen.changed, seen.modified].map(|time| [time.0 as u32, time.1 as u32]);
        let [device, number] = [seen.node.0 as u32, seen.node.1 as u32];
        Recorded([c, c_nanos, m, m_nanos, device, number, seen.mode, seen.owner.0, seen.owner.1, seen.size as u32])
    }
}

/// Calls `with` with the path, the blob's hash of `hash` bytes, and what git saw, of each file, in the index's order; of none
/// where it is not understood.
pub fn recall(index: &Path, prefix: &[u8], hash: usize, mut with: impl FnMut(&[u8], &[u8], Recorded)) {
    let Ok(mut data) = fs::read(index) else { return };
    let _ = each(&mut data, hash, |path, words, id| {
        let Some(path) = path.strip_prefix(prefix) else { return };
        let word = |at: usize| u32::from_be_bytes(words[4 * at..][..4].try_into().expect("four bytes"));
        with(path, id, Recorded(std::array::from_fn(word)));
    });
}

/// Tells the index about files by path.
pub fn tell(index: &Path, prefix: &[u8], algorithm: Algorithm, files: &HashMap<&[u8], Told>) -> io::Result<()> {
    let index = index.canonicalize()?;
    let mut lock = index.clone().into_os_string();
    lock.push(".lock");
    let mut file = File::options().write(true).create_new(true).open(&lock)?;
    let mut replace = || {
        let mut data = fs::read(&index)?;
        let unknown = || io::Error::other("not an index that this program knows");
        note(&mut data, prefix, algorithm, files).ok_or_else(unknown)?;
        file.set_permissions(fs::metadata(&index)?.permissions())?;
        file.write_all(&data)?;
        fs::rename(&lock, &index)
    };
    replace().inspect_err(|_| drop(fs::remove_file(&lock)))
}

/// Notes them in an index; `None` where it is something else.
fn note(data: &mut [u8], prefix: &[u8], algorithm: Algorithm, files: &HashMap<&[u8], Told>) -> Option<()> {
    let mut context = algorithm();
    let hash = context.output_size();
    each(data, hash, |path, words, id| {
        let told = path.strip_prefix(prefix).and_then(|path| files.get(path)).filter(|told| told.0 == id);
        let Some((_, seen)) = told else { return };
        let mode: [u8; 4] = words[24..28].try_into().expect("four bytes");
        for (to, word) in words.chunks_mut(4).zip(Recorded::from(*seen).0) {
            to.copy_from_slice(&word.to_be_bytes());
        }
        words[24..28].copy_from_slice(&mode);
    })?;
    let (body, sum) = data.split_at_mut(data.len() - hash);
    // nobody may have wanted a sum
    if sum.iter().any(|byte| *byte != 0) {
        context.update(body);
        sum.copy_from_slice(&context.finalize());
    }
    Some(())
}

/// Calls `with` with the path, the ten words and the blob's hash of each entry that is merged, in an index of version 2,
/// 3 or 4; `None` where it is something else, or broken.
fn each(data: &mut [u8], hash: usize, mut with: impl FnMut(&[u8], &mut [u8], &[u8])) -> Option<()> {
    let end = data.len().checked_sub(hash)?;
    let body = &mut data[..end];
    let word = |body: &[u8], at: usize| Some(u32::from_be_bytes(body.get(at..at + 4)?.try_into().ok()?));
    let version = word(body, 4).filter(|version| body.starts_with(b"DIRC") && matches!(version, 2..=4))?;
    let (mut at, mut path) = (12, Vec::new());
    for _ in 0..word(body, 8)? {
        // ten words, the blob's hash, the flags, of which a bit says that there are more
        let (entry, flags_at) = (at, at + 40 + hash);
        let flags = word(body, flags_at)? >> 16;
        let mut name = flags_at + if flags & 0x4000 == 0 { 2 } else { 4 };
        let kept = if version == 4 { path.len().checked_sub(less(body, &mut name)?)? } else { 0 };
        let end = name + memchr::memchr(0, body.get(name..)?)?;
        path.truncate(kept);
        path.extend_from_slice(&body[name..end]);
        at = if version == 4 { end + 1 } else { entry + (end - entry + 8) / 8 * 8 };
        if flags & 0x3000 == 0 {
            let (words, id) = body[entry..flags_at].split_at_mut(40);
            with(&path, words, id);
        }
    }
    Some(())
}

/// How much less of the path before a path begins with, as version 4 writes numbers; moves on behind it.
fn less(body: &[u8], at: &mut usize) -> Option<usize> {
    let mut number = 0_usize;
    loop {
        let byte = *body.get(*at)?;
        *at += 1;
        number = number.checked_mul(128)? + usize::from(byte & 127);
        if byte & 128 == 0 {
            return Some(number);
        }
        number += 1;
    }
}
