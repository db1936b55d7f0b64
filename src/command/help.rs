//! `help`: a page on stdout.

use crate::error::{Error, Exit};
use crate::help;

/// Prints the page on `topic`, or the overview.
pub(super) fn execute(topic: Option<&str>) -> Result<Exit, Error> {
    super::print(&help::text(topic))
}
