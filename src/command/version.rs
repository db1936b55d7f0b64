//! `version`: what this binary is, and of what it is made, on stdout.

use serde_json::json;

use crate::cli::{Mode, PROGRAM};
use crate::config::Version;
use crate::error::{Error, ExitCode};
use crate::platform::target;

/// Made by `.ci/licenses`.
const LICENSES: &[u8] = include_bytes!("../help/licenses.txt.zst");

/// Prints one line, a JSON object, or the licences.
pub(super) fn execute(how: Version) -> Result<ExitCode, Error> {
    let version = env!("CARGO_PKG_VERSION");
    super::print(&match how {
        Version::Line => format!("{PROGRAM} {version} ({})\n", target()),
        Version::Json => {
            let features: Vec<&str> = Mode::COMMANDS.iter().map(|(name, _)| *name).collect();
            // the commit is what a build is told: a build script that asked git would tie the bytes to a checkout
            let commit = option_env!("GO_CACHE_PLUGIN_COMMIT").filter(|commit| !commit.is_empty());
            format!("{}\n", json!({ "version": version, "commit": commit, "target": target(), "features": features }))
        }
        Version::Licenses => zstd::decode_all(LICENSES)
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .map_err(|e| Error::failed(format!("licences: {e}")))?,
    })
}
