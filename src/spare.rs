//! Buffers, each for one output or a piece of one, used again and again.
//!
//! An allocator that asks the kernel for every large buffer, and hands it back, as the static binary's does, makes each
//! page of each output a page fault, for which all threads wait: without this, a fresh directory costs our process of
//! the static binary a fifth more processor time (the row "CPU of our process" of the bucket bench).
//!
//! Invariants: what is lent is empty; at most [`KEPT`] are kept, none smaller than [`LARGE`] or larger than
//! [`LARGEST`].

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

/// More are seldom in use at once: what outputs wait for is not memory.
const KEPT: usize = 8;
/// Smaller ones are many, and cheap to allocate.
const LARGE: usize = 64 << 10;
/// A buffer of more bytes is not kept.
const LARGEST: usize = 4 << 20;

static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A buffer that goes back when it is dropped.
pub struct Lent(Vec<u8>);

/// An empty buffer with room for `len` bytes, a few MiB at most.
pub fn buffer(len: usize) -> Lent {
    let spare = if len < LARGE { None } else { SPARE.lock().expect("no holder panics").pop() };
    let mut buffer = spare.unwrap_or_default();
    buffer.reserve(len);
    Lent(buffer)
}

impl Deref for Lent {
    type Target = Vec<u8>;
    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if (LARGE..=LARGEST).contains(&self.0.capacity()) {
            let mut spare = SPARE.lock().expect("no holder panics");
            if spare.len() < KEPT {
                self.0.clear();
                spare.push(std::mem::take(&mut self.0));
            }
        }
    }
}
