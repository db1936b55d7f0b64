//! Frames of packs on their way into the disk cache.

use std::io::{self, Read};
use std::sync::Arc;

use super::window::{Claim, Window};
use super::{Listed, Loaded, Phase, Shared};
use crate::cache::entry::{self, DecodeError};
use crate::cache::id::ActionId;
use crate::cache::manifest::{Frame, Manifest};
use crate::cache::pack;
use crate::remote::RemoteError;
use crate::sign::Claim as Said;
use crate::spare::{self, Lent};

/// Bytes that are asked for at a time.
const RUN: u64 = 512 << 10;

/// Frames that stand in a row in one pack.
#[derive(Default)]
pub struct Run {
    pieces: Vec<usize>,
    pack: u32,
    end: u32,
    len: u64,
}

impl Run {
    /// Adds a frame; returns the run before it, where it does not belong to that.
    pub fn extend(&mut self, piece: usize, frame: &Frame) -> Option<Run> {
        let follows = (self.pack, self.end) == (frame.pack, frame.at) && self.len + u64::from(frame.len) <= RUN;
        let ended = (!follows).then(|| std::mem::take(self));
        self.pieces.push(piece);
        (self.pack, self.end) = (frame.pack, frame.at + frame.len);
        self.len += u64::from(frame.len);
        ended
    }
}

impl Window {
    /// Claims the pieces that stand behind the index, in their order.
    pub fn first(&mut self, manifest: &Manifest) -> Vec<usize> {
        let own = manifest.frames.iter().take_while(|frame| frame.pack == 0).count();
        let mut pieces = vec![None; own];
        for piece in 0..self.len() {
            if let Some(frame) = self.frame(piece).filter(|frame| (*frame as usize) < own)
                && self.claim(piece) == Claim::Ours
            {
                pieces[frame as usize] = Some(piece);
            }
        }
        // one of which nothing is used is not read, and neither is what comes behind it
        pieces.into_iter().map_while(|piece| piece).collect()
    }
}

impl Shared {
    /// Has a run of frames fetched.
    pub(super) fn submit_run(self: &Arc<Self>, listed: &Arc<Listed>, run: Run) {
        if !run.pieces.is_empty() {
            let (shared, listed) = (self.clone(), listed.clone());
            self.fetchers.submit(move || shared.fetch_run(&listed, &run.pieces));
        }
    }

    /// Fetches what nobody has fetched meanwhile, and the directory lacks.
    fn fetch_run(self: &Arc<Self>, listed: &Arc<Listed>, pieces: &[usize]) {
        let mut part = Vec::new();
        for &piece in pieces {
            let claimed = self.claim(piece);
            if claimed && !self.is_there(listed, piece) {
                part.push(piece);
                continue;
            }
            self.fetch_frames(listed, &std::mem::take(&mut part));
            if claimed {
                self.done(piece, None);
            }
        }
        self.fetch_frames(listed, &part);
    }

    /// Whether the directory has all that is in a frame.
    fn is_there(&self, listed: &Listed, piece: usize) -> bool {
        let action = |i: &u32| ActionId::new(&listed.manifest.entries[*i as usize].action);
        self.members(piece).iter().filter_map(action).all(|action| self.fetcher.has(&action))
    }

    pub(super) fn members(&self, piece: usize) -> Vec<u32> {
        self.with(|loaded| loaded.window.members(piece).to_vec()).unwrap_or_default()
    }

    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Loaded) -> T) -> Option<T> {
        match &mut self.lock().phase {
            Phase::Loaded(loaded) => Some(look(loaded)),
            _ => None,
        }
    }

    /// Fetches frames, claimed by the caller, that stand in a row.
    pub(super) fn fetch_frames(self: &Arc<Self>, listed: &Arc<Listed>, pieces: &[usize]) {
        let Some((first, last)) = pieces.first().zip(pieces.last()) else { return };
        let (first, last) = (self.frame(listed, *first), self.frame(listed, *last));
        let mut body = None;
        // the manifest's own are not read again
        if let Some(pack) = (first.pack as usize).checked_sub(1).map(|pack| &listed.manifest.packs[pack]) {
            let lost = self.with(|loaded| loaded.lost.get(&first.pack).copied()).flatten();
            let mut gone = lost == Some(true);
            if lost.is_none() {
                let range = u64::from(first.at)..u64::from(last.at) + u64::from(last.len);
                let key = pack::key(&listed.key, &pack.id);
                let answer = self.fetcher.bucket.get_range(&key, range, pack.main);
                gone = matches!(answer, Ok(None) | Err(RemoteError::Forbidden(_)));
                if gone || matches!(answer, Err(RemoteError::Unsupported(_))) {
                    self.with(|loaded| loaded.lost.insert(first.pack, gone));
                }
                body = answer.ok().flatten();
                self.fetcher.renew(&key, body.as_ref().is_some_and(|o| o.old), None);
            }
            if body.is_none() && !gone {
                // for all that is known, they are where the list says
                return pieces.iter().for_each(|piece| self.done(*piece, None));
            }
        }
        self.take_frames(listed, pieces, body.map(|object| object.body));
    }

    fn frame(&self, listed: &Listed, piece: usize) -> Frame {
        let frame = self.with(|loaded| loaded.window.frame(piece)).flatten();
        listed.manifest.frames[frame.expect("a piece in a pack") as usize]
    }

    /// Takes frames, claimed by the caller, in while they arrive, and puts what is in them into the
    /// directory.
    pub(super) fn take_frames(
        self: &Arc<Self>,
        listed: &Arc<Listed>,
        pieces: &[usize],
        mut body: Option<Box<dyn Read + Send>>,
    ) {
        for (at, &piece) in pieces.iter().enumerate() {
            let frame = self.frame(listed, piece);
            let read = body.as_mut().map_or(Ok(None), |body| read(body, frame.len));
            let Ok(bytes) = read.inspect_err(|e| log::debug!("reading a pack: {e}")) else {
                // what broke off says nothing of where things are
                return pieces[at..].iter().for_each(|piece| self.done(*piece, None));
            };
            let Some(bytes) = bytes else {
                body = None;
                self.unpack(listed, piece, frame.raw, None);
                continue;
            };
            // reading goes on meanwhile
            let (shared, listed) = (self.clone(), listed.clone());
            let unpack = move || shared.unpack(&listed, piece, frame.raw, Some(&bytes));
            self.fetchers.unpack.lock().expect("no holder panics").submit(unpack);
        }
    }

    /// Puts what is in a frame of `raw` bytes into the directory; all of it is misplaced where the frame could
    /// not be read.
    fn unpack(self: &Arc<Self>, listed: &Listed, piece: usize, raw: u32, bytes: Option<&[u8]>) {
        let bodies = bytes.map(|bytes| pack::unpack(bytes, raw));
        if let Some(Err(why)) = &bodies {
            log::debug!("a frame is not used: {why}");
        }
        let bodies = bodies.and_then(Result::ok);
        let bodies = bodies.as_deref().map_or(&[][..], Vec::as_slice);
        self.members(piece).iter().for_each(|i| self.store(listed, *i as usize, bodies));
        self.done(piece, bytes.map(|bytes| bytes.len() as u64));
    }

    /// Puts entry `i` into the directory, unless it is there.
    fn store(&self, listed: &Listed, i: usize, bodies: &[u8]) {
        let (entry, fetcher) = (&listed.manifest.entries[i], &self.fetcher);
        let (Some(place), Some((hash, time))) = (entry.place, entry.known) else { return };
        let Some(action) = ActionId::new(&entry.action) else { return };
        if fetcher.has(&action) {
            return;
        }
        let claim = Said { hash, size: u64::from(entry.size), time };
        let body = bodies.get(place.at as usize..).and_then(|rest| rest.get(..entry.size as usize));
        let body = body.ok_or_else(|| DecodeError::Corrupt("it is not within its frame".into()));
        match body.and_then(|mut body| entry::store(&action, &claim, &mut body, &fetcher.entries.disk)) {
            Ok(_) => fetcher.entries.metrics.readahead.packed.inc(),
            // what it is worth to be told is told when a get fetches it
            Err(e) => {
                log::debug!("action {action} is not taken from a pack: {e}");
                if !matches!(e, DecodeError::Disk(_)) {
                    self.with(|loaded| loaded.misplaced.push(i as u32));
                }
            }
        }
    }
}

/// The next `len` bytes; `None` where there are fewer.
fn read(from: &mut dyn Read, len: u32) -> io::Result<Option<Lent>> {
    let mut bytes = spare::buffer(len as usize);
    from.take(len.into()).read_to_end(&mut bytes)?;
    Ok(Some(bytes).filter(|bytes| bytes.len() == len as usize))
}
