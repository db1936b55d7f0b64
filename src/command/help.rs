//! `help`: a page on stdout.

use crate::error::{Error, ExitCode};
use crate::help;

/// Prints the page on `word`, or the overview.
pub(super) fn execute(word: Option<&str>) -> Result<ExitCode, Error> {
    super::print(&help::page(word).map_err(Error::usage)?)
}
