//! How a command ends that could not be done: the line for stderr, and the exit code that goes with it.

use std::fmt;

pub use std::process::ExitCode;

/// Why a command could not be done; its text is one line: what, where, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    text: String,
    code: u8,
}

impl Error {
    /// The command line or a variable is wrong.
    pub fn usage(text: impl Into<String>) -> Self {
        Error { text: text.into(), code: 2 }
    }
    /// Anything else that ends a command.
    pub fn failed(text: impl Into<String>) -> Self {
        Error { text: text.into(), code: 1 }
    }
    /// The exit code that goes with it.
    pub fn exit(&self) -> ExitCode {
        self.code.into()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}
