//! How the servers answer that are asked on behalf of clients: for the status page, and for health.
//!
//! Bounded in number and in the length of each text; no text holds a query or a password.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::text;

/// Servers told apart; further ones are [`OTHERS`].
const KEEP: usize = 64;
const OTHERS: &str = "others";
/// Characters kept of an error.
const MAX_TEXT: usize = 240;

/// One server.
#[derive(Clone, Debug, Default)]
pub struct Upstream {
    /// Requests that have ended.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// Those that failed since the last one that did not.
    pub failing: u64,
    /// How long a request takes lately.
    pub pace: Duration,
    /// When the requests under way began, the oldest first.
    pub waiting: Vec<Instant>,
    /// What went wrong last, and when.
    pub last_error: Option<(Instant, String)>,
}

/// All servers that were asked, by name.
#[derive(Debug, Default)]
pub struct Upstreams(Mutex<BTreeMap<String, Upstream>>);

/// A request under way; dropped, it has ended without an error.
pub struct Call<'a> {
    all: &'a Upstreams,
    name: String,
    /// When it began.
    pub begun: Instant,
    error: Option<String>,
}

impl Upstreams {
    /// A request to the server of that name, a host or a URL, begins.
    pub fn begin(&self, name: &str) -> Call<'_> {
        let (mut all, begun) = (self.lock(), Instant::now());
        let mut name = text::without_secrets(name);
        if !all.contains_key(&name) && all.len() >= KEEP {
            name = OTHERS.to_string();
        }
        all.entry(name.clone()).or_default().waiting.push(begun);
        Call { all: self, name, begun, error: None }
    }

    /// All of them.
    pub fn list(&self) -> BTreeMap<String, Upstream> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Upstream>> {
        self.0.lock().expect("no holder panics")
    }
}

impl Call<'_> {
    /// It failed: why, in a line.
    pub fn failed(&mut self, why: &str) {
        self.error = Some(text::without_secrets(why).chars().take(MAX_TEXT).collect());
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let (mut all, took) = (self.all.lock(), self.begun.elapsed());
        let Some(server) = all.get_mut(&self.name) else { return };
        if let Some(at) = server.waiting.iter().position(|begun| *begun == self.begun) {
            server.waiting.remove(at);
        }
        server.pace = if server.requests == 0 { took } else { (server.pace * 7 + took) / 8 };
        server.requests += 1;
        match self.error.take() {
            None => server.failing = 0,
            Some(why) => {
                server.errors += 1;
                server.failing += 1;
                server.last_error = Some((Instant::now(), why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_told_apart_up_to_a_number() {
        let all = Upstreams::default();
        let waits = all.begin("https://u:p@a.example/?q");
        all.begin("b.example").failed("GET https://b.example/x?token=1: refused");
        for n in 0..100 {
            drop(all.begin(&format!("{n}.example")));
        }
        let list = all.list();
        assert_eq!(list.len(), KEEP + 1);
        let (a, b) = (&list["https://a.example/"], &list["b.example"]);
        assert_eq!((a.waiting.len(), a.requests, b.errors, b.failing), (1, 0, 1, 1));
        assert_eq!(b.last_error.as_ref().unwrap().1, "GET https://b.example/x: refused");
        assert_eq!(list[OTHERS].requests, 100 - (KEEP as u64 - 2));
        drop(waits);
        drop(all.begin("b.example"));
        let list = all.list();
        assert_eq!((list["https://a.example/"].waiting.len(), list["b.example"].failing), (0, 0));
    }
}
