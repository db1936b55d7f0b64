//! Scripted sessions of direct mode, and what they leave behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::client::{Client, Hit};
use super::env::{Output, Plugin, Running};

/// A session with the program as a child.
pub struct Session {
    /// The program.
    pub child: Running,
    /// Its client, greeted.
    pub client: Client,
}

impl Session {
    /// Starts the program and waits for its greeting.
    pub fn start(plugin: Plugin) -> Self {
        let mut child = plugin.spawn();
        let mut client = Client::stdio(&mut child);
        assert_eq!(client.greeting(), ["get", "put", "close"]);
        Session { child, client }
    }

    /// Puts `bodies`, the n-th under action n, by a session of its own, which has nothing to say.
    #[track_caller]
    pub fn fill(plugin: Plugin, bodies: &[Vec<u8>]) {
        let mut session = Session::start(plugin);
        session.put_all(bodies);
        session.end().quiet();
    }

    /// Closes it; no answers are left, and the exit code is 0.
    pub fn end(self) -> Output {
        let Session { mut child, mut client } = self;
        client.close();
        let left = client.rest();
        assert!(left.is_empty(), "answers nobody asked for: {left:?}");
        child.wait().ok()
    }

    /// Puts `bodies`, the n-th under action n, all at once; waits until all are stored.
    pub fn put_all(&mut self, bodies: &[Vec<u8>]) {
        let ids: Vec<i64> = (0..).zip(bodies).map(|(n, body)| self.client.send_put(&action(n), body)).collect();
        for id in ids {
            let answer = self.client.wait(id);
            assert!(answer["DiskPath"].is_string(), "{answer}");
        }
    }

    /// Gets actions 0 to `count`, one after the other; those that hit hold `bodies`. How many hit.
    pub fn get_all(&mut self, bodies: &[Vec<u8>]) -> usize {
        let mut hits = 0;
        for (n, body) in (0..).zip(bodies) {
            if let Some(hit) = self.client.get(&action(n)) {
                holds(&hit, body);
                hits += 1;
            }
        }
        hits
    }
}

/// Panics unless `hit` is `body`, whole.
#[track_caller]
pub fn holds(hit: &Hit, body: &[u8]) {
    assert_eq!(hit.size, body.len() as u64);
    assert_eq!(hit.output_id, Sha256::digest(body).to_vec());
    assert!(fs::read(&hit.path).expect("the file a hit names") == body, "other bytes in {}", hit.path.display());
}

/// The `n`-th action id.
pub fn action(n: u32) -> [u8; 32] {
    Sha256::digest(format!("action {n}")).into()
}

/// An id in hex.
pub fn hex(id: &[u8]) -> String {
    id.iter().map(|b| format!("{b:02x}")).collect()
}

/// The SHA-256 of `body` in hex.
pub fn output_id(body: &[u8]) -> String {
    hex(&Sha256::digest(body))
}

/// Chance that can be had again: xorshift, the same for the same seed.
pub struct Dice(u64);

impl Dice {
    /// Every seed has its own sequence.
    pub fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        // the low bits of the first numbers are poor
        (self.roll() >> 16) % n
    }
}

/// `len` bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&dice.roll().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// What `--metrics` printed.
pub fn metrics(out: &Output) -> Value {
    let line = out.stderr.lines().rfind(|line| line.starts_with('{'));
    let line = line.unwrap_or_else(|| panic!("no metrics{}", out.describe()));
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}{}", out.describe()))
}

/// The lines on stderr beside those of `--metrics`.
pub fn said(out: &Output) -> Vec<&str> {
    out.stderr.lines().filter(|line| !line.starts_with('{') && !line.contains(": listening plugin=")).collect()
}

/// Where the local directory `cache` has the entry of an id, or would have it.
pub fn local(cache: &Path, kind: &str, id: &str) -> PathBuf {
    cache.join(kind).join(&id[..2]).join(id)
}

/// An RFC 3339 time in UTC with nanoseconds, as a time.
pub fn time(text: &str) -> SystemTime {
    let (text, fraction) = text.strip_suffix('Z').expect("UTC").split_once('.').unwrap_or((text, "0"));
    let text = text.trim_end_matches('Z');
    let number = |from: usize, to: usize| text[from..to].parse::<i64>().expect("digits");
    let (y, m, d) = (number(0, 4), number(5, 7), number(8, 10));
    // days since 1970 of the proleptic Gregorian calendar, with the year beginning in March
    let (y, m) = if m <= 2 { (y - 1, m + 9) } else { (y, m - 3) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + d - 1 - 719_468;
    let seconds = days * 86_400 + number(11, 13) * 3600 + number(14, 16) * 60 + number(17, 19);
    let nanos: u32 = format!("{fraction:0<9}").parse().expect("digits");
    SystemTime::UNIX_EPOCH + Duration::new(seconds as u64, nanos)
}

/// Every file below `dir`.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}
