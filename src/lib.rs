//! A build cache for the Go toolchain, shared through local disk and S3, with a module proxy
//! and a reverse proxy beside it.
//!
//! ```text
//! go ──stdin · TCP · Unix socket──▶ session::reader ──bounded channel──▶ worker pool ──▶ BuildCache ──▶ disk
//!         ◀── session::writer ◀────────────── answers, any order ◀─────────────┘             │ miss
//!                                                                    manifest ▶ readahead ──▶ Bucket: S3 · directory
//!                                                           pending markers ▶ upload queue ──▶    ▲
//! HTTP client ──▶ http (accept loop, tiny_http types) ─▶ modproxy · sumdb · revproxy · status ──▶ BlobStore ┘
//! ```
//!
//! Dependencies point one way, from the top of this picture to the bottom. `command/*` constructs
//! everything and hands it down; nothing below constructs its collaborators or reads the
//! environment. A miss is a value (`Ok(None)`), never an error.

pub mod atomic;
pub mod cache;
pub mod cli;
pub mod command;
pub mod config;
pub mod error;
pub mod help;
pub mod http;
pub mod metrics;
pub mod pool;
pub mod protocol;
pub mod remote;
pub mod retry;
pub mod session;
pub mod store;
pub mod upload;
