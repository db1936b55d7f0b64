//! Packs: small outputs of a scope, in order of first use, compressed together.
//!
//! A pack is a row of frames, each one zstd frame of up to [`FRAME`] bytes of bodies; what lies where,
//! the scope's index says. The first frames stand behind the index in the manifest's own object, so
//! that one request begins a build; the others are objects `pack/<sha256 of scope>/<sha256 of the pack>`,
//! which are read by ranges of frames.
//!
//! Invariants: a pack is a hint, and can go at any time: what is in it is an entry object too. Nothing
//! of it reaches the disk cache but through the check against the output id that the index gives; no
//! more is unpacked than a buffer of a few MiB holds, whatever a frame holds.

use super::entry;
use super::id::OutputId;
use crate::spare::Lent;

/// Larger outputs are in no pack. Of Go's outputs 8 in 10 are smaller, but only 7 % of the bytes: so little is
/// written twice, and few are asked for one by one.
pub const SMALL: usize = 160 << 10;
/// Bytes of a frame unpacked, at most.
pub const FRAME: usize = 256 << 10;
/// Bytes of a frame as it is stored, at most.
pub const FRAME_STORED: usize = FRAME + 1024;
/// Bodies of a frame at most.
pub const MEMBERS: usize = 1024;

/// The key of the pack `id` of the scope whose manifest is `manifest`.
pub fn key(manifest: &str, id: &OutputId) -> String {
    format!("pack/{}/{id}", manifest.trim_start_matches("manifest/"))
}

/// The bodies of a frame, of `raw` bytes in all. The error is what is wrong with it.
pub fn unpack(frame: &[u8], raw: u32) -> Result<Lent, String> {
    let bodies = entry::decompress(frame, raw as usize).map_err(|e| format!("zstd: {e}"))?;
    if bodies.len() == raw as usize { Ok(bodies) } else { Err(format!("{} bytes instead of {raw}", bodies.len())) }
}

/// A pack in the making.
#[derive(Default)]
pub struct Builder {
    /// The frames so far.
    pub bytes: Vec<u8>,
    /// Of each, its length as stored and unpacked.
    pub frames: Vec<(u32, u32)>,
    /// Of each body, the number that it was given with, and its frame and where it is in that.
    pub places: Vec<(usize, (u32, u32))>,
    open: Vec<u8>,
    members: usize,
}

impl Builder {
    /// Takes in a body of at most [`SMALL`] bytes, which the caller knows by a number.
    pub fn add(&mut self, number: usize, body: &[u8]) -> std::io::Result<()> {
        if self.open.len() + body.len() > FRAME || self.members == MEMBERS {
            self.close()?;
        }
        self.places.push((number, (self.frames.len() as u32, self.open.len() as u32)));
        self.open.extend_from_slice(body);
        self.members += 1;
        Ok(())
    }

    /// Ends the frame that is open. Once all bodies are in it must be called.
    pub fn close(&mut self) -> std::io::Result<()> {
        if std::mem::take(&mut self.members) > 0 {
            let packed = entry::compress(&self.open, LEVEL)?;
            self.frames.push((packed.len() as u32, self.open.len() as u32));
            self.bytes.extend_from_slice(&packed);
            self.open.clear();
        }
        Ok(())
    }
}

/// zstd level of frames: entries are written as fast.
const LEVEL: i32 = 1;
