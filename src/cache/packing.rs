//! Putting what a scope's builds used into packs.
//!
//! Invariants: a pack holds what this process has read from its own disk and checked against its output
//! id; packs are written before the manifest that names them, and removed after one that does not.

use std::sync::Mutex;

use super::fetch::Fetcher;
use super::id::OutputId;
use super::manifest::{Entry, Frame, Manifest, Pack, Place};
use super::pack::{self, Builder};
use crate::atomic::read_small;
use crate::pool;
use crate::remote::{Bucket, PutBody};

/// Bytes of frames in the manifest's own object, about: one in so many of the outputs' own, within these
/// bounds. They are written anew with it each time.
const FIRST: (u64, u64, u64) = (512, 64 << 10, 1 << 20);
/// So few bytes are no pack of their own, unpacked.
const FEW: u64 = pack::FRAME as u64;
/// Bytes of a pack, unpacked: some 5 MiB as it is stored.
const FULL: u64 = 20 << 20;
/// Packs of less than half of that are written together once there are so many.
const SCRAPS: usize = 8;
/// Packs made and written at a time.
const WRITERS: usize = 3;

/// Packs what `manifest`, of the key `key`, lists and no pack has, and what is in packs that are not worth
/// keeping. Returns the frames that go with the manifest. What was sent is added to `sent`, and is not sent
/// again.
pub fn pack(manifest: &mut Manifest, fetcher: &Fetcher, key: &str, sent: &Mutex<Vec<OutputId>>) -> Vec<u8> {
    manifest.keep(&worth_keeping(manifest));
    let entries = &manifest.entries;
    let mut loose: Vec<usize> =
        (0..entries.len()).filter(|&i| entries[i].place.is_none() && entries[i].is_small()).collect();
    let size = |i: &usize| u64::from(entries[*i].size);
    let (part, least, most) = FIRST;
    let most = ((0..entries.len()).map(|i| size(&i)).sum::<u64>() / part).clamp(least, most);
    let (first, taken) = make(fetcher, entries, &loose, |made| made.bytes.len() as u64 >= most);
    loose.drain(..taken);
    let rest: u64 = loose.iter().map(size).sum();
    let (first, chunks) = if rest <= FEW {
        // they go with the rest of the first
        let all: Vec<usize> = first.places.iter().map(|(i, _)| *i).chain(loose).collect();
        (make(fetcher, entries, &all, |_| false).0, Vec::new())
    } else {
        let (mut chunks, mut bytes) = (vec![Vec::new()], 0);
        for i in loose {
            bytes += size(&i);
            if bytes > FULL {
                chunks.push(Vec::new());
                bytes = size(&i);
            }
            chunks.last_mut().expect("never empty").push(i);
        }
        (first, chunks)
    };
    let packs = write(fetcher, entries, key, chunks, sent);
    // the manifest's own come first
    let own = first.frames.len() as u32;
    manifest.entries.iter_mut().filter_map(|e| e.place.as_mut()).for_each(|place| place.frame += own);
    let others = std::mem::take(&mut manifest.frames);
    let bytes = add(manifest, 0, first);
    manifest.frames.extend(others);
    for (id, made) in packs {
        manifest.packs.push(Pack { id, main: false });
        add(manifest, manifest.packs.len() as u32, made);
    }
    bytes
}

/// Removes packs of ours in the bucket that no manifest names any more.
pub fn remove(bucket: &Bucket, key: &str, packs: impl Iterator<Item = OutputId>) {
    let remove = |id| bucket.delete(&pack::key(key, &id)).unwrap_or_else(|e| log::debug!("removing a pack: {e}"));
    pool::each("save", 2 * SCRAPS, packs.collect(), remove);
}

/// Which packs stay: those of others, and of our own those of which half is used, but for the small ones
/// once there are many.
fn worth_keeping(manifest: &Manifest) -> Vec<bool> {
    let live = &manifest.live()[1..];
    let used: Vec<bool> = live
        .iter()
        .zip(&manifest.packs)
        .map(|((all, live), p)| if p.main { *live > 0 } else { live * 2 >= *all })
        .collect();
    let mut scraps: Vec<usize> =
        (0..used.len()).filter(|&i| used[i] && !manifest.packs[i].main && live[i].0 < FULL / 2).collect();
    // the largest stays as it is: what is in it was written together before
    scraps.sort_by_key(|&i| live[i].1);
    let _ = scraps.pop();
    (0..used.len()).map(|i| used[i] && !(scraps.len() >= SCRAPS && scraps.contains(&i))).collect()
}

/// Packs `loose`, in that order, until `is_full`. Returns how many of them were gone through too; those that
/// the disk does not have, whole, are left out.
fn make(fetcher: &Fetcher, entries: &[Entry], loose: &[usize], is_full: impl Fn(&Builder) -> bool) -> (Builder, usize) {
    let (mut made, mut taken) = (Builder::default(), 0);
    for &i in loose {
        if is_full(&made) {
            break;
        }
        taken += 1;
        let entry = &entries[i];
        let Some((output, _)) = entry.known else { continue };
        let Ok(body) = read_small(&fetcher.entries.disk.output_path(&output), u64::from(entry.size) + 1) else {
            continue;
        };
        if body.len() == entry.size as usize && OutputId::of(&body) == output {
            made.add(i, &body).unwrap_or_else(|e| log::debug!("packing: {e}"));
        }
    }
    if let Err(e) = made.close() {
        log::debug!("packing: {e}");
        made = Builder::default();
    }
    (made, taken)
}

/// Makes a pack of each of `chunks` and writes it.
fn write(
    fetcher: &Fetcher,
    entries: &[Entry],
    key: &str,
    chunks: Vec<Vec<usize>>,
    sent: &Mutex<Vec<OutputId>>,
) -> Vec<(OutputId, Builder)> {
    let done = Mutex::new(Vec::new());
    pool::each("save", WRITERS, chunks, |chunk| {
        let (mut made, _) = make(fetcher, entries, &chunk, |_| false);
        let bytes = std::mem::take(&mut made.bytes);
        let id = OutputId::of(&bytes);
        if made.places.is_empty() {
            return;
        }
        if !sent.lock().expect("no holder panics").contains(&id) {
            if let Err(e) = fetcher.bucket.put(&pack::key(key, &id), &PutBody::Bytes(bytes.into())) {
                return log::debug!("writing a pack: {e}");
            }
            fetcher.entries.metrics.readahead.pack_saves.inc();
            sent.lock().expect("no holder panics").push(id);
        }
        done.lock().expect("no holder panics").push((id, made));
    });
    let mut packs = done.into_inner().expect("no holder panics");
    // in the order of their first entries, so that the same is packed alike
    packs.sort_by_key(|(_, made)| made.places.first().map(|(i, _)| *i));
    packs
}

/// Lists what was packed as the pack numbered `pack`; its bytes are returned.
fn add(manifest: &mut Manifest, pack: u32, made: Builder) -> Vec<u8> {
    let (from, mut at) = (manifest.frames.len() as u32, 0);
    for (len, raw) in made.frames {
        manifest.frames.push(Frame { pack, at, len, raw });
        at += len;
    }
    for (i, (frame, at)) in made.places {
        manifest.entries[i].place = Some(Place { frame: from + frame, at });
    }
    made.bytes
}
