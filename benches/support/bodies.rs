//! A made-up build session: ids, sizes and bodies as `go build std cmd` has them, the same in every run.

use sha2::{Digest, Sha256};

/// A repeatable source of numbers (xorshift).
pub struct Numbers(u64);

impl Numbers {
    /// Every seed has its own sequence.
    pub fn new(seed: u64) -> Self {
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number between 0 and 1.
    pub fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// `puts` sizes that add up to about `total`: 26 % empty, 36 % under 1 KiB, 14 % to 16 KiB, 10 % to 256 KiB, 14 % above.
pub fn sizes(puts: usize, total: u64) -> Vec<usize> {
    let mut numbers = Numbers::new(1);
    let mut between = |least: f64, most: f64| (least * (most / least).powf(numbers.share())) as usize;
    let mut sizes: Vec<usize> = (0..puts)
        .map(|i| match i * 100 / puts {
            0..26 => 0,
            26..62 => between(32.0, 1024.0),
            62..76 => between(1024.0, 16384.0),
            76..86 => between(16384.0, 262_144.0),
            _ => between(262_144.0, 6_000_000.0),
        })
        .collect();
    let large = puts * 86 / 100;
    let small: usize = sizes[..large].iter().sum();
    let scale = (total as f64 - small as f64) / sizes[large..].iter().sum::<usize>() as f64;
    sizes[large..].iter_mut().for_each(|s| *s = ((*s as f64 * scale) as usize).max(262_145));
    // in no order
    let mut shuffle = Numbers::new(2);
    for i in (1..sizes.len()).rev() {
        sizes.swap(i, shuffle.next() as usize % (i + 1));
    }
    sizes
}

/// A body that zstd shrinks about as far as it does Go's outputs.
pub fn body(seed: u64, size: usize) -> Vec<u8> {
    let mut numbers = Numbers::new(seed + 3);
    let mut out: Vec<u8> = Vec::with_capacity(size + 64);
    while out.len() < size {
        let n = numbers.next();
        if out.len() > 256 && !n.is_multiple_of(8) {
            let length = 8 + (n >> 8) as usize % 32;
            let back = 1 + (n >> 16) as usize % out.len().min(30_000);
            let from = out.len() - back.max(length).min(out.len());
            out.extend_from_within(from..(from + length).min(out.len()));
        } else {
            out.extend_from_slice(&n.to_le_bytes());
        }
    }
    out.truncate(size);
    out
}

/// One put of the session.
pub struct Put {
    /// SHA-256 of nothing in particular.
    pub action: [u8; 32],
    /// SHA-256 of the body.
    pub output: [u8; 32],
    /// The body.
    pub body: Vec<u8>,
}

/// The session's puts.
pub fn session(puts: usize, total: u64) -> impl Iterator<Item = Put> {
    sizes(puts, total).into_iter().enumerate().map(|(i, size)| {
        let body = body(i as u64, size);
        Put { action: sha256(format!("action {i}").as_bytes()), output: sha256(&body), body }
    })
}

/// SHA-256.
pub fn sha256(data: &[u8]) -> [u8; 32] {
    Sha256::digest(data).into()
}
