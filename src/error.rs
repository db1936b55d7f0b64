//! How a command ends: one enum of exit codes, and the error that carries the line for stderr.

use std::fmt;
use std::process::ExitCode;

/// How the process exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Success,
    /// 1: the command failed.
    Failure,
    /// 2: wrong flag, value or combination.
    Usage,
    /// `run`: the command's own code, or 128 and its signal's number.
    Child(u8),
}

impl Exit {
    /// The number that the operating system sees.
    pub fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::Child(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

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
    /// The exit code that goes with it.
    pub fn exit(&self) -> Exit {
        match self {
            Error::Usage(_) => Exit::Usage,
            Error::Failed(_) => Exit::Failure,
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
