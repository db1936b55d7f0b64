//! How a command ends that could not be done: the line for stderr, and the exit code that goes with it.

use std::fmt;

pub use std::process::ExitCode;

/// Why a command could not be done; its text is one line: what, where, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The command line or a variable is wrong.
    Usage(String),
    /// Anything else that ends a command.
    Failed(String),
}

impl Error {
    /// A wrong command line.
    pub fn usage(text: impl Into<String>) -> Self {
        Error::Usage(text.into())
    }
    /// A command that failed.
    pub fn failed(text: impl Into<String>) -> Self {
        Error::Failed(text.into())
    }
    /// The exit code that goes with it: 2 for what is wrong with the command line, else 1.
    pub fn exit(&self) -> ExitCode {
        match self {
            Error::Usage(_) => ExitCode::from(2),
            Error::Failed(_) => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage(text) | Error::Failed(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}
