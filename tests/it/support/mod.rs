//! What the tests share.

// every test file uses a part of this
#![allow(dead_code)]

pub mod fault;
pub mod s3;
