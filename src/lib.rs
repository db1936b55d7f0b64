//! A build cache for the Go toolchain, shared through local disk and S3, with a module proxy
//! and a reverse proxy beside it.
//!
//! ```text
//! go ──stdin · TCP · Unix socket──▶ session::reader ──bounded channel──▶ worker pool ──▶ BuildCache ──▶ disk
//!         ◀── session::writer ◀────────────── answers, any order ◀─────────────┘             │ miss
//!                                                             manifest, packs ▶ readahead ──▶ Bucket: S3 · directory
//!                                                           pending markers ▶ upload queue ──▶    ▲
//! HTTP client ──▶ http (a thread each, `auth`) ────────▶ modproxy · sumdb · revproxy · status ──▶ BlobStore ┘
//! ```
//!
//! Dependencies point one way, from the top of this picture to the bottom. `command/*` constructs
//! everything and hands it down; nothing below constructs its collaborators or reads the
//! environment. A miss is a value (`Ok(None)`), never an error.
//!
//! Reading order: [`protocol`] and [`session`] (one client), [`cache`] with `disk`, `entry`,
//! `fetch`, `readahead`, `manifest` and `pack` (what is asked for and where it comes from), [`upload`] and
//! [`remote`] (the bucket and the policy around it, and how old what lies there grows), [`http`] and
//! [`store`] (the proxies), last [`command`], which puts it all together. [`sign`] says whom to believe,
//! and [`settle`], which needs none of the others, when a source was changed. [`atomic`], `bounded`, `connections`,
//! [`flight`], `headers`, [`id`], [`places`], [`pool`], `private_dir`, [`repeat`], [`retry`] and `spare` are
//! tools of one idea each.
//!
//! # The cache directory
//!
//! Each fact has one file, and what can be derived from others has none.
//!
//! | what | where | module |
//! |---|---|---|
//! | actions, outputs, module and proxy blobs | `action`, `output`, `module`, `revproxy`, in 256 shards | `folder`, `cache::disk`, [`store`] |
//! | what a module's file is called, and whether it is verified | lines in its `.sum` | [`store`] |
//! | when something was last used | the mtime of an output, of a blob's `.sum` | the same |
//! | who is alive, and what may be open | `lease/<token>`, locked | `lease` |
//! | what is owed to the bucket | `pending/<token>/<n>` | [`upload`] |
//! | how large it is, and when it was last walked | `size`, and its mtime | `cache::size` |
//! | since when it is ours | the mtime of `opened` | `cache::prune` |
//! | what was learnt of a bucket in the last minute | `lease/bucket-<hash>` | [`remote`] |
//! | what saves a read | `recall/<xx>/<scope>` | `cache::disk` |
//!
//! What the dead leave is known by its token (a temporary file's name, a marker's folder) and by the
//! lease of that token, which nobody holds. `cache::prune` removes all that goes by age or size.
//!
//! # Log
//!
//! Everything goes to stderr, through `log`. A healthy run without flags writes nothing, but for one line
//! that is what was asked for: what `run` came to, and where `serve` listens.
//!
//! | level | what it tells | shown |
//! |---|---|---|
//! | error | a bug, or a system that lets us start no thread | always |
//! | warn | what a user should know: the bucket's state has changed, an entry is damaged | always |
//! | info | what the program does: addresses, pruning, stopping | `-v` |
//! | debug | why: each failed request, manifests, clients that went away | `-v` |
//! | target `request` | begin and end of each request of the chosen kinds | `--debug` |

pub mod atomic;
mod bounded;
pub mod cache;
pub mod cli;
mod client;
pub mod command;
pub mod config;
mod connections;
pub mod error;
pub mod flight;
mod folder;
mod headers;
mod help;
mod http;
pub mod id;
mod lease;
pub mod metrics;
pub mod places;
mod platform;
pub mod pool;
mod private_dir;
pub mod protocol;
pub mod remote;
pub mod repeat;
pub mod retry;
pub mod session;
pub mod settle;
pub mod sign;
mod spare;
pub mod store;
mod text;
pub mod upload;
