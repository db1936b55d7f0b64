//! What is read from files, and read anew when somebody asks for that.
//!
//! Invariant: what is wrong with the files changes nothing once the server runs.

use std::sync::{Arc, Mutex};

/// What was read last.
pub struct Reloaded<T> {
    read: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
    now: Mutex<Arc<T>>,
}

impl<T> Reloaded<T> {
    /// Reads for the first time. The error of `read` is one line.
    pub fn new(read: impl Fn() -> Result<T, String> + Send + Sync + 'static) -> Result<Self, String> {
        let now = Mutex::new(Arc::new(read()?));
        Ok(Reloaded { read: Box::new(read), now })
    }

    /// What holds now.
    pub fn get(&self) -> Arc<T> {
        self.now.lock().expect("no holder panics").clone()
    }

    /// Reads anew; of what is wrong there is a line.
    pub fn reload(&self) {
        match (self.read)() {
            Ok(new) => *self.now.lock().expect("no holder panics") = Arc::new(new),
            Err(why) => log::warn!("{why}; what was read before stays"),
        }
    }
}
