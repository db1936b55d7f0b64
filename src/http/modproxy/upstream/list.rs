//! Lists of upstreams, and who of them is asked for what.

use super::{FetchError, Upstream, client, netrc};
use crate::client::Client;
use crate::config::{ListEnd, ModProxyConfig, UpstreamEntry, UpstreamUrl};

/// The upstreams of a list, with what netrc knows of them; the origin of private modules is one of them where
/// the list says `direct`.
pub struct Upstreams {
    pub(super) entries: Vec<Upstream>,
    end: ListEnd,
    pub(super) client: Client,
}

impl Upstreams {
    /// The upstreams of `config`. The error is a netrc file that cannot be read, one line for people.
    pub fn new(config: &ModProxyConfig) -> Result<Self, String> {
        let logins = config.netrc.as_deref().map(netrc::read).transpose()?.unwrap_or_default();
        let list = &config.upstream;
        let mut entries: Vec<_> = list.entries.iter().map(|entry| Upstream::new(entry.clone(), &logins)).collect();
        entries.extend((list.end == ListEnd::Direct).then(|| Upstream::at(&UpstreamUrl::Direct)));
        Ok(Upstreams { entries, end: list.end, client: client(config) })
    }

    /// Those that are asked, for a private module perhaps.
    pub fn each(&self, private: bool) -> impl Iterator<Item = &Upstream> {
        let is_for =
            move |entry: &UpstreamEntry| if private { entry.private } else { entry.url != UpstreamUrl::Direct };
        self.entries.iter().filter(move |upstream| is_for(&upstream.entry))
    }

    /// Whether the list says that nobody else is to be asked.
    pub fn ends_with_off(&self) -> bool {
        self.end == ListEnd::Off
    }

    /// Asks one upstream after the other with `ask`, as `go` does with GOPROXY; for what is `private`
    /// those alone that the list names for it, and then its origin.
    pub fn ask<T>(
        &self,
        private: bool,
        mut ask: impl FnMut(&Upstream) -> Result<T, FetchError>,
    ) -> Result<T, FetchError> {
        let why = match self.end {
            _ if private => "a private module, and --upstream names nobody for it: see #private and direct",
            ListEnd::List => "there is no upstream to ask",
            ListEnd::Off => "the list of upstreams says off",
            ListEnd::Direct => "the list of upstreams says direct, which is left to go",
        };
        let mut worst = FetchError::absent(why);
        for upstream in self.each(private) {
            let e = match ask(upstream) {
                Ok(answer) => return Ok(answer),
                Err(e) => e,
            };
            let absent = matches!(e, FetchError::Absent(..));
            // a failure says more than an absence, the last of either more than the first
            if !absent || matches!(worst, FetchError::Absent(..)) {
                worst = e;
            }
            if !absent && !upstream.entry.on_any_error {
                break;
            }
        }
        Err(worst)
    }
}
