//! `version`: one line on stdout.

use crate::error::{Error, Exit};
use crate::help;

/// Prints name, version and target.
pub(super) fn execute() -> Result<Exit, Error> {
    super::print(&format!("{}\n", help::version()))
}
