//! Where a blob's bytes go while they come: beside their place on disk, and, of modules, into memory from
//! where the disk takes no more, so that a full or read-only one costs speed and nothing else.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use super::{Kind, Place};
use crate::atomic::TempFile;
use crate::platform::memory;

/// The bytes; removed on drop.
pub(super) struct Spool {
    place: Arc<Place>,
    to: To,
}

enum To {
    Disk(TempFile),
    Memory(File),
}

impl Spool {
    /// Begins in the folder `dir`, which is made where it is not there.
    pub(super) fn begin(dir: &Path, place: Arc<Place>) -> io::Result<Self> {
        let temp = match TempFile::create(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(dir).and_then(|()| TempFile::create(dir))
            }
            made => made,
        };
        let to = match temp {
            Ok(temp) => To::Disk(temp),
            Err(e) => To::Memory(in_memory(&place, e)?),
        };
        Ok(Spool { place, to })
    }

    /// The open file, for reading back.
    pub(super) fn file(&mut self) -> &mut File {
        match &mut self.to {
            To::Disk(temp) => temp.file(),
            To::Memory(file) => file,
        }
    }

    /// The open file once more.
    pub(super) fn again(&self) -> io::Result<File> {
        match &self.to {
            To::Disk(temp) => temp.opened().try_clone(),
            To::Memory(file) => file.try_clone(),
        }
    }

    /// The file to be renamed, where all of it is on disk.
    pub(super) fn on_disk(self) -> Option<TempFile> {
        match self.to {
            To::Disk(temp) => Some(temp),
            To::Memory(_) => None,
        }
    }
}

impl Write for Spool {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let To::Disk(temp) = &mut self.to else { return self.file().write(buf) };
        match temp.write(buf) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                let (so_far, mut moved) = (temp.file(), in_memory(&self.place, e)?);
                let len = so_far.stream_position()?;
                so_far.rewind()?;
                io::copy(&mut so_far.take(len), &mut moved)?;
                self.to = To::Memory(moved);
                self.write(buf)
            }
            written => written,
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where bytes go that the disk does not take, as `e` says. A proxied body goes to its client as it comes and
/// may be of any length: of that, nothing is kept.
fn in_memory(place: &Place, e: io::Error) -> io::Result<File> {
    place.cannot_keep(&e);
    if place.kind == Kind::RevProxy { Err(e) } else { memory() }
}
