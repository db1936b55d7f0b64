//! What the tests share.

// every test file uses a part of this
#![allow(dead_code)]

pub mod browser;
pub mod client;
pub mod env;
pub mod fault;
pub mod go;
pub mod moto;
pub mod origin;
pub mod s3;
pub mod script;
pub mod upstream;
