//! How large the cache directory is, found out a little at a time.
//!
//! The cache spreads its files evenly over 256 shards in each of its folders, so the shards seen
//! so far tell about how large all are. Each step looks at shards until a few milliseconds are
//! over: a full round takes a while on a huge cache and costs next to nothing at any time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::folder::FOLDERS;

const SHARDS: usize = FOLDERS.len() * 256;
/// How long one step may take, one shard at least.
const STEP: Duration = Duration::from_millis(4);

/// What is known of the size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Bytes in all files.
    pub bytes: u64,
    /// Number of files.
    pub files: u64,
    /// Extrapolated from a part of the shards.
    pub estimated: bool,
}

/// The walk through the shards.
pub struct SizeWalk {
    dir: PathBuf,
    /// Sizes per folder and shard, in the order of the walk; `None` until the shard is seen.
    seen: Vec<Option<(u64, u64)>>,
    next: usize,
}

impl SizeWalk {
    /// A walk through the cache directory `dir`.
    pub fn new(dir: &Path) -> Self {
        SizeWalk { dir: dir.to_path_buf(), seen: vec![None; SHARDS], next: 0 }
    }

    /// Looks at the next shards.
    pub fn step(&mut self) {
        let begin = Instant::now();
        for _ in 0..SHARDS {
            let at = self.next;
            self.seen[at] = Some(shard_size(&self.dir.join(Self::name(at))));
            self.next = (at + 1) % SHARDS;
            if self.next == 0 || begin.elapsed() > STEP {
                return;
            }
        }
    }

    /// What is known by now.
    pub fn size(&self) -> Size {
        let mut size = Size::default();
        for folder in 0..FOLDERS.len() {
            // the folders take turns, so that all of them are known a little soon
            let shards = self.seen.iter().skip(folder).step_by(FOLDERS.len());
            let (mut known, mut bytes, mut files) = (0, 0, 0);
            for (b, f) in shards.flatten() {
                known += 1;
                bytes += b;
                files += f;
            }
            size.estimated |= known < 256;
            if known > 0 {
                size.bytes += (bytes as f64 * 256.0 / f64::from(known)) as u64;
                size.files += (files as f64 * 256.0 / f64::from(known)) as u64;
            }
        }
        size
    }

    fn name(at: usize) -> String {
        format!("{}/{:02x}", FOLDERS[at % FOLDERS.len()], at / FOLDERS.len())
    }
}

/// Bytes and number of the regular files in a folder; nothing where there is none.
fn shard_size(dir: &Path) -> (u64, u64) {
    let mut size = (0, 0);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if let Ok(meta) = entry.metadata()
            && meta.is_file()
        {
            size.0 += meta.len();
            size.1 += 1;
        }
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_round_knows_the_size() {
        let dir = std::env::temp_dir().join(format!("go-cache-plugin-size-{}", std::process::id()));
        for (name, len) in [("action/00/a", 10), ("output/00/b", 1000), ("output/ff/c", 500), ("module/7f/d", 1)] {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![0; len]).unwrap();
        }
        let mut walk = SizeWalk::new(&dir);
        assert_eq!(walk.size(), Size { estimated: true, ..Size::default() });
        let round = |walk: &mut SizeWalk| {
            walk.step();
            while walk.next != 0 {
                walk.step();
            }
        };
        round(&mut walk);
        assert_eq!(walk.size(), Size { bytes: 1511, files: 4, estimated: false });
        fs::remove_file(dir.join("output/ff/c")).unwrap();
        round(&mut walk);
        assert_eq!(walk.size().bytes, 1011);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_part_stands_for_the_whole() {
        let mut walk = SizeWalk::new(Path::new("/nonexistent"));
        for shard in 0..64 {
            walk.seen[shard * FOLDERS.len() + 1] = Some((100, 2));
        }
        assert_eq!(walk.size(), Size { bytes: 25_600, files: 512, estimated: true });
    }
}
