//! The reverse proxy: caches what servers say may be kept for long.

pub mod headers;
pub mod memory;
pub mod policy;
pub mod stored;
