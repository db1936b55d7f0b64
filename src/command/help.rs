//! `help`: a page on stdout.

use crate::error::{Error, Exit};
use crate::help;

/// Prints the page on `word`, or the overview.
pub(super) fn execute(word: Option<&str>) -> Result<Exit, Error> {
    super::print(&help::page(word).map_err(Error::usage)?)
}
