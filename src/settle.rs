//! Times for tracked files that follow from what they hold, so that `go test` finds on a fresh checkout
//! what it has kept: it knows a file by size, mode and time.
//!
//! Invariants: a time is only ever written for bytes that were read through the descriptor it is set on,
//! which had not changed up to then; they are read again afterwards, and once more where anything has changed
//! when git was told. So no file has the time of other bytes, an edit of equal size that puts the old time
//! back included. The index alone is believed only where nothing is to be written. What is changed or
//! untracked keeps its time, and so do the folders that hold such a thing. No symbolic link is followed, in no
//! part of a path.

#[cfg_attr(not(unix), path = "settle/nowhere.rs")]
mod tree;

use std::path::Path;

/// What is to be done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Nothing: only say what would be.
    pub dry_run: bool,
    /// Give what is settled the modes that a checkout under a umask of 022 gives.
    pub modes: bool,
}

/// What was done.
#[derive(Debug, Default, serde::Serialize)]
pub struct Report {
    /// Files and symbolic links.
    pub files: Counts,
    /// Folders.
    pub folders: Counts,
    /// What did not work, each in one line.
    #[serde(skip)]
    pub failures: Vec<String>,
}

/// How many.
#[derive(Debug, Default, serde::Serialize)]
pub struct Counts {
    /// Got their time.
    pub settled: u64,
    /// Had it.
    pub already: u64,
    /// Keep what they have, being changed, or holding what is changed or untracked.
    pub kept: u64,
    /// Could not be looked at or written.
    pub failed: u64,
}

/// Settles what is below `dir`, or else the whole work tree around the working directory. The error is one line.
pub fn settle(dir: Option<&Path>, options: &Options) -> Result<Report, String> {
    let mut report = Report::default();
    tree::settle(dir, options, &mut report)?;
    Ok(report)
}
