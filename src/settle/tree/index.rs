//! Git's index, told what was seen of files that hold what it says, so that git need not read them all once more
//! (one after the other, which takes longer than all else).
//!
//! Invariants: it is written under git's own lock; of an entry the data about the file alone are changed, and only
//! where it names the blob that was read there; what is not understood is left to git, which then reads the files.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::stamp::{Algorithm, Seen};

/// The hash of a blob, and what was seen of the file that holds it.
pub type Told<'a> = (&'a [u8], &'a Seen);

/// Tells the index about files by path.
pub fn tell(index: &Path, algorithm: Algorithm, files: &HashMap<&[u8], Told>) -> io::Result<()> {
    let index = index.canonicalize()?;
    let mut lock = index.clone().into_os_string();
    lock.push(".lock");
    let mut file = File::options().write(true).create_new(true).open(&lock)?;
    let mut replace = || {
        let mut data = fs::read(&index)?;
        let unknown = || io::Error::other("not an index that this program knows");
        note(&mut data, algorithm, files).ok_or_else(unknown)?;
        file.set_permissions(fs::metadata(&index)?.permissions())?;
        file.write_all(&data)?;
        fs::rename(&lock, &index)
    };
    replace().inspect_err(|_| drop(fs::remove_file(&lock)))
}

/// Notes them in an index of version 2, 3 or 4; `None` where it is something else.
fn note(data: &mut [u8], algorithm: Algorithm, files: &HashMap<&[u8], Told>) -> Option<()> {
    let mut context = algorithm();
    let hash = context.output_size();
    let (body, sum) = data.split_at_mut_checked(data.len().checked_sub(hash)?)?;
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
        let merged = flags & 0x3000 == 0;
        let told = files.get(path.as_slice()).filter(|(id, _)| merged && *id == &body[entry + 40..flags_at]);
        let Some((_, seen)) = told else { continue };
        let [changed, modified] = [seen.changed, seen.modified].map(|time| [time.0 as u32, time.1 as u32]);
        let node = [seen.node.0 as u32, seen.node.1 as u32];
        let mode = word(body, entry + 24)?;
        let words = [changed, modified, node, [mode, seen.owner.0], [seen.owner.1, seen.size as u32]].concat();
        for (to, word) in body[entry..].chunks_mut(4).zip(words) {
            to.copy_from_slice(&word.to_be_bytes());
        }
    }
    // nobody may have wanted a sum
    if sum.iter().any(|byte| *byte != 0) {
        context.update(body);
        sum.copy_from_slice(&context.finalize());
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
