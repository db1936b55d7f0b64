//! Cache directories with very many entries, made quickly: outputs are holes of some length, which
//! take no room on disk.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::bodies::sha256;
use super::scratch::Scratch;
use super::sigv4::hex;
use super::{Result, table, turns};

/// How old [`Crowd::age`] makes entries.
const AGE: Duration = Duration::from_secs(40 * 24 * 3600);

/// A cache directory with many entries, one for each program.
pub struct Crowd {
    /// The cache directory.
    pub dir: PathBuf,
    entries: u64,
    /// Says that all of it is there.
    stamp: PathBuf,
}

/// The action id of entry `n`.
pub fn action(n: u64) -> [u8; 32] {
    sha256(&n.to_le_bytes())
}

impl Crowd {
    /// Finds the directory as an earlier run left it, or makes what is missing: a million takes
    /// half a minute.
    pub fn open(scratch: &Scratch, entries: u64) -> Result<Self> {
        let dir = scratch.join(turns::own("crowd"));
        let crowd = Crowd { stamp: dir.with_extension(entries.to_string()), dir, entries };
        if !crowd.stamp.exists() {
            table::progress(&format!("making {entries} entries in {}", crowd.dir.display()));
            for shard in 0..=255u8 {
                for kind in ["action", "output"] {
                    fs::create_dir_all(crowd.dir.join(kind).join(hex(&[shard])))?;
                }
            }
            crowd.each(1, |n, action, output| {
                let size = 1000 + n % 9000;
                let name = output.file_name().unwrap_or_default().to_string_lossy();
                let new = |path: &Path| OpenOptions::new().write(true).create_new(true).open(path);
                new(output)?.set_len(size)?;
                new(action)?.write_all(format!("{name} {size}\n").as_bytes())
            })?;
            fs::write(&crowd.stamp, "")?;
        }
        Ok(crowd)
    }

    /// Makes every second entry [`AGE`] old, and what the program notes about the directory too.
    pub fn age(&self) -> Result<()> {
        // from here on something may be missing
        let _ = fs::remove_file(&self.stamp);
        let times = FileTimes::new().set_modified(SystemTime::now() - AGE);
        let old = |path: &Path| File::options().write(true).open(path)?.set_times(times);
        self.each(2, |_, action, output| old(output).and_then(|()| old(action)))?;
        for file in fs::read_dir(&self.dir)? {
            let file = file?;
            if file.file_type()?.is_file() {
                old(&file.path())?;
            }
        }
        Ok(())
    }

    /// Calls `work` with number, action and output of every `step`th entry; one that is there
    /// already, or no longer, is no trouble.
    fn each(&self, step: u64, work: impl Fn(u64, &Path, &Path) -> io::Result<()> + Sync) -> Result<()> {
        const THREADS: u64 = 4;
        let path = |kind: &str, id: &[u8]| {
            let id = hex(id);
            self.dir.join(kind).join(&id[..2]).join(id)
        };
        std::thread::scope(|scope| {
            let part = |first: u64| {
                for n in (first * step..self.entries).step_by((THREADS * step) as usize) {
                    match work(n, &path("action", &action(n)), &path("output", &sha256(&action(n)))) {
                        Err(e) if !matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {
                            return Err(e);
                        }
                        _ => {}
                    }
                }
                Ok(())
            };
            let threads: Vec<_> = (0..THREADS).map(|first| scope.spawn(move || part(first))).collect();
            threads.into_iter().try_for_each(|t| t.join().map_err(|_| "a thread panicked")?.map_err(Into::into))
        })
    }
}
