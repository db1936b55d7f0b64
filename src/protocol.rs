//! The GOCACHEPROG protocol (cmd/go/internal/cacheprog, Go 1.24 to 1.27): JSON values on lines,
//! requests from `go`, answers in any order, matched by id. No threads and no cache in here.

mod message;
mod reader;
mod writer;

pub use message::{Answer, Command, Request};
pub use reader::{ProtocolError, PutBody, Reader};
pub use writer::Writer;

/// Bytes of a put body that are decoded at a time; larger bodies come in pieces of this size.
pub const PIECE: usize = 256 * 1024;
