//! Where the benches write: a directory below cargo's own scratch directory.

use std::fs;
use std::path::{Path, PathBuf};

use super::Result;

/// The directory; one bench at a time uses it.
pub struct Scratch(PathBuf);

/// Where directories that were used once wait for the end.
const OLD: &str = "old";

impl Scratch {
    /// Makes it, or finds it as the last bench left it.
    pub fn open() -> Result<Self> {
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench");
        fs::create_dir_all(root.join("home"))?;
        Ok(Scratch(root))
    }

    /// Where `name` is or would be.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// The directory `name`, new. What was there is only put aside until the bench ends: a file
    /// system may be slow at making files for a while after thousands were deleted.
    pub fn fresh(&self, name: impl AsRef<Path>) -> Result<PathBuf> {
        let (dir, old) = (self.join(name), self.join(OLD));
        if dir.exists() {
            fs::create_dir_all(&old)?;
            // a bench that was killed may have left some of them
            let free = (0..).map(|n: u32| old.join(n.to_string())).find(|place| !place.exists());
            fs::rename(&dir, free.ok_or("no place is free")?)?;
        }
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.join(OLD));
    }
}
