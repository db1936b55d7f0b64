//! What is read from files, and read anew when somebody asks for that.
//!
//! Invariant: what is wrong with the files changes nothing once the server runs.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

type Read<T> = dyn Fn(&[PathBuf]) -> Result<T, String> + Send + Sync;

/// What was read last.
pub struct Reloaded<T> {
    files: Vec<PathBuf>,
    read: Box<Read<T>>,
    /// What is said where nothing changes.
    stays: &'static str,
    now: Mutex<Arc<T>>,
}

impl<T> Reloaded<T> {
    /// Reads for the first time. The error of `read` is one line, which `stays` ends where something was read before.
    pub fn new(
        files: Vec<PathBuf>,
        stays: &'static str,
        read: impl Fn(&[PathBuf]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let now = Mutex::new(Arc::new(read(&files)?));
        Ok(Reloaded { files, read: Box::new(read), stays, now })
    }

    /// What holds now.
    pub fn get(&self) -> Arc<T> {
        self.now.lock().expect("no holder panics").clone()
    }

    /// Reads anew; of what is wrong there is a line.
    pub fn reload(&self) {
        // a pipe would be waited for, or has no more in it
        let pipe = self.files.iter().find(|file| file.exists() && !file.is_file());
        let pipe = pipe.map(|file| format!("{}: no plain file, which could be read again", file.display()));
        match pipe.map_or_else(|| (self.read)(&self.files), Err) {
            Ok(new) => *self.now.lock().expect("no holder panics") = Arc::new(new),
            Err(why) => log::warn!("{why}; {}", self.stays),
        }
    }
}
