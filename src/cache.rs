//! The build cache.
