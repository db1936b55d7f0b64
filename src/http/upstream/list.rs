//! Lists of upstreams, and who of them is asked for what.

use std::path::Path;

use super::{FetchError, Upstream, netrc};
use crate::config::{ListEnd, UpstreamList};

/// The upstreams of a list, with what netrc knows of them.
pub struct Upstreams {
    /// Each with whether an error of any kind lets the next be asked.
    pub(super) entries: Vec<(Upstream, bool)>,
    end: ListEnd,
}

impl Upstreams {
    /// The upstreams of `list`; `netrc` names a file with credentials. The error is one line for
    /// people.
    pub fn new(list: &UpstreamList, netrc: Option<&Path>) -> Result<Self, String> {
        let logins = netrc.map(netrc::read).transpose()?.unwrap_or_default();
        let entries = list.entries.iter().map(|(url, on_any_error)| (Upstream::new(url, &logins), *on_any_error));
        Ok(Upstreams { entries: entries.collect(), end: list.end })
    }

    /// Whether the list says that nobody else is to be asked.
    pub fn ends_with_off(&self) -> bool {
        self.end == ListEnd::Off
    }

    /// Whether there is anybody to ask, for a private module perhaps.
    pub fn has_any(&self, private: bool) -> bool {
        self.entries.iter().any(|(upstream, _)| !private || !upstream.is_public())
    }

    /// Asks one upstream after the other with `ask`, as `go` does with GOPROXY; `private` leaves
    /// the public ones out.
    pub fn ask<T>(
        &self,
        private: bool,
        mut ask: impl FnMut(&Upstream) -> Result<T, FetchError>,
    ) -> Result<T, FetchError> {
        let why = match self.end {
            _ if private => "not found: a private module, which no public upstream is asked for",
            ListEnd::List => "not found: there is no upstream to ask",
            ListEnd::Off => "not found: the list of upstreams says off",
            ListEnd::Direct => "not found: the list of upstreams says direct, which is left to go",
        };
        let mut worst = FetchError::Absent(404, why.into());
        let mut asked = false;
        for (upstream, on_any_error) in &self.entries {
            if private && upstream.is_public() {
                continue;
            }
            match ask(upstream) {
                Ok(answer) => return Ok(answer),
                Err(e) => {
                    let absent = matches!(e, FetchError::Absent(..));
                    // a failure says more than an absence, the last of either more than the first
                    if !absent || matches!(worst, FetchError::Absent(..)) || !asked {
                        worst = e;
                    }
                    asked = true;
                    if !absent && !on_any_error {
                        break;
                    }
                }
            }
        }
        Err(worst)
    }
}
