//! Lists of upstreams, and who of them is asked for what.

use std::path::Path;

use super::{FetchError, Upstream, netrc};

/// A list of upstreams as in GOPROXY.
pub struct Upstreams {
    /// Each with whether an error of any kind lets the next be asked (`|`), not only a 404 or 410.
    pub(super) entries: Vec<(Upstream, bool)>,
    end: End,
}

/// What ends the list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    List,
    Off,
    Direct,
}

impl End {
    /// Why there is nobody left to ask.
    fn why(self) -> &'static str {
        match self {
            End::List => "not found: there is no upstream to ask",
            End::Off => "not found: the list of upstreams says off",
            End::Direct => "not found: the list of upstreams says direct, which is left to go",
        }
    }
}

impl Upstreams {
    /// Parses `list`: URLs, `off` and `direct`, each followed by `,` or `|`. `off` and `direct` end
    /// the list: the former asks nobody, the latter leaves it to `go` to fetch from the origin (a
    /// 404 makes it do so where its own GOPROXY says `direct`), which this program never does.
    /// `netrc` names a file with credentials. The error is one line for people.
    pub fn parse(list: &str, netrc: Option<&Path>) -> Result<Self, String> {
        let logins = netrc.map(netrc::read).transpose()?.unwrap_or_default();
        let mut entries = Vec::new();
        let mut end = End::List;
        let mut any = false;
        let mut rest = list;
        while !rest.is_empty() {
            let cut = rest.find([',', '|']).unwrap_or(rest.len());
            let entry = rest[..cut].trim();
            let on_any_error = rest[cut..].starts_with('|');
            rest = rest.get(cut + 1..).unwrap_or_default();
            any |= !entry.is_empty();
            match entry {
                "" => {}
                "off" => {
                    end = End::Off;
                    break;
                }
                "direct" => {
                    end = End::Direct;
                    break;
                }
                url => entries.push((Upstream::parse(url, &logins)?, on_any_error)),
            }
        }
        if any { Ok(Upstreams { entries, end }) } else { Err("the list of upstreams is empty".into()) }
    }

    /// Whether the list says that nobody else is to be asked.
    pub fn ends_with_off(&self) -> bool {
        self.end == End::Off
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
        let private_why = "not found: a private module, which no public upstream is asked for";
        let why = if private { private_why } else { self.end.why() };
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
