//! What is read from files, and read anew when somebody asks for that.
//!
//! Invariant: what is wrong with the files changes nothing once the server runs.

use std::sync::{Arc, Mutex};

/// What was read last.
pub struct Reloaded<T> {
    read: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
    /// What is said where nothing changes.
    stays: &'static str,
    now: Mutex<Arc<T>>,
}

impl<T> Reloaded<T> {
    /// Reads for the first time. The error of `read` is one line, which `stays` ends where something was read before.
    pub fn new(
        stays: &'static str,
        read: impl Fn() -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let now = Mutex::new(Arc::new(read()?));
        Ok(Reloaded { read: Box::new(read), stays, now })
    }

    /// What holds now.
    pub fn get(&self) -> Arc<T> {
        self.now.lock().expect("no holder panics").clone()
    }

    /// Reads anew; of what is wrong there is a line.
    pub fn reload(&self) {
        match (self.read)() {
            Ok(new) => *self.now.lock().expect("no holder panics") = Arc::new(new),
            Err(why) => log::warn!("{why}; {}", self.stays),
        }
    }
}
