//! Fetches from upstream proxies: which ones there are, who may be asked for what, and one GET.
//!
//! Invariants: a user and a password go only to the host they were given for, never along with a
//! redirect; an upstream reached by HTTPS does not redirect us to HTTP; an answer that ends short
//! of its promised length, or exceeds the caller's limit, is an error; no credentials are in any
//! message.

mod list;
mod netrc;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::time::Duration;

use base64_simd::STANDARD;
use ureq::Proxy;

pub use self::list::Upstreams;
use crate::client::{self, Client};
use crate::config::UpstreamUrl;
use crate::text;

/// The proxies that everyone shares: they own no private modules, so they are never asked for any.
const PUBLIC: [&str; 1] = ["proxy.golang.org"];
/// Bytes of an upstream's error text that are passed on.
const MAX_TEXT: u64 = 2 << 10;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchError {
    /// The upstream says that there is no such thing: 404 or 410, and its words.
    Absent(u16, String),
    /// It did not answer, or not usably: the status that says so to our client (502, 504), and why.
    Failed(u16, String),
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FetchError::Absent(_, why) | FetchError::Failed(_, why) => f.write_str(why),
        }
    }
}

/// One upstream.
#[derive(Clone)]
pub struct Upstream {
    url: UpstreamUrl,
    /// The Authorization to send.
    authorization: Option<String>,
}

impl Upstream {
    /// An upstream at `url`; where that has no user and password, those of `logins` are used.
    fn new(url: &UpstreamUrl, logins: &netrc::Logins) -> Self {
        let login = match url {
            UpstreamUrl::Web { host, login, .. } => login.as_ref().or_else(|| logins.get(host)),
            UpstreamUrl::Dir(_) => None,
        };
        let authorization = login.map(|(user, password)| {
            format!("Basic {}", STANDARD.encode_to_string(format!("{user}:{password}").as_bytes()))
        });
        Upstream { url: url.clone(), authorization }
    }

    /// An upstream at `url`, of which netrc says nothing.
    pub fn at(url: &UpstreamUrl) -> Self {
        Self::new(url, &netrc::Logins::default())
    }

    fn is_public(&self) -> bool {
        matches!(&self.url, UpstreamUrl::Web { host, .. } if PUBLIC.contains(&host.trim_end_matches('.')))
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// Fetches, over connections that are kept.
pub struct Fetcher(Client);

impl Default for Fetcher {
    fn default() -> Self {
        // a proxy that has to fetch from the origin first takes its time
        let patience = Duration::from_secs(120);
        Fetcher(Client::new(client::Options {
            connect: Duration::from_secs(10),
            answer: patience,
            pause: patience,
            keep: (Duration::from_secs(60), 32),
            redirects: 5,
            verbatim: false,
            proxy: Proxy::try_from_env(),
            ca_file: None,
            bucket: None,
            reach: None,
        }))
    }
}

impl Fetcher {
    /// GETs `path` (escaped, without a leading slash) below `upstream`, at most `limit` bytes of
    /// it, into `to`.
    pub fn get(&self, upstream: &Upstream, path: &str, limit: u64, to: &mut dyn Write) -> Result<u64, FetchError> {
        let failed = |status, why: &dyn fmt::Display| {
            FetchError::Failed(status, text::without_secrets(&format!("{upstream}/{path}: {why}")))
        };
        let (mut body, promised): (Box<dyn Read>, _) = match &upstream.url {
            UpstreamUrl::Dir(dir) => match File::open(dir.join(path)) {
                Ok(file) => {
                    let meta = file.metadata().map_err(|e| failed(502, &e))?;
                    if !meta.is_file() {
                        return Err(FetchError::Absent(404, format!("{upstream}/{path}: no such file")));
                    }
                    (Box::new(file), Some(meta.len()))
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Err(FetchError::Absent(404, format!("{upstream}/{path}: no such file")));
                }
                Err(e) => return Err(failed(502, &e)),
            },
            UpstreamUrl::Web { url, .. } => self.open(url, upstream.authorization.as_deref(), path, &failed)?,
        };
        if promised.is_some_and(|n| n > limit) {
            return Err(failed(502, &format!("more than {limit} bytes")));
        }
        let got = copy(&mut *body, limit, to, &failed)?;
        if let Some(len) = promised.filter(|len| *len != got) {
            return Err(failed(502, &format!("{got} of {len} bytes")));
        }
        Ok(got)
    }

    fn open(
        &self,
        base: &str,
        authorization: Option<&str>,
        path: &str,
        failed: &dyn Fn(u16, &dyn fmt::Display) -> FetchError,
    ) -> Result<(Box<dyn Read>, Option<u64>), FetchError> {
        let https = base.starts_with("https:");
        let agent = self.0.agent(https).map_err(|why| failed(502, &why))?;
        // `!` stands for itself in URLs, but go escapes it, and so do caches in front of proxies
        let mut request = agent.get(format!("{base}/{}", path.replace('!', "%21"))).config().https_only(https).build();
        if let Some(value) = authorization {
            request = request.header("Authorization", value);
        }
        let answer = request.call().map_err(|e| match e {
            ureq::Error::Timeout(which) => failed(504, &format!("no answer in time ({which})")),
            e => failed(502, &e),
        })?;
        let status = answer.status().as_u16();
        let (_, body) = answer.into_parts();
        let promised = body.content_length();
        let mut body = body.into_reader();
        if status == 200 {
            return Ok((Box::new(body), promised));
        }
        let mut text = Vec::new();
        // a text that breaks off is as good as none
        let _ = (&mut body).take(MAX_TEXT).read_to_end(&mut text);
        let text: String = String::from_utf8_lossy(&text).chars().filter(|c| !c.is_control() || *c == '\n').collect();
        match status {
            404 | 410 if text.trim().is_empty() => Err(FetchError::Absent(status, "not found".into())),
            404 | 410 => Err(FetchError::Absent(status, text.trim().into())),
            _ => Err(failed(502, &format!("status {status}: {}", text.trim()))),
        }
    }
}

/// Copies at most `limit` bytes and tells reading from writing trouble: the latter is ours.
fn copy(
    from: &mut dyn Read,
    limit: u64,
    to: &mut dyn Write,
    failed: &dyn Fn(u16, &dyn fmt::Display) -> FetchError,
) -> Result<u64, FetchError> {
    let mut piece = vec![0; 64 << 10];
    let mut got = 0;
    loop {
        let n = match from.read(&mut piece) {
            Ok(0) => return Ok(got),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(failed(502, &format!("broke off after {got} bytes: {e}"))),
        };
        got += n as u64;
        if got > limit {
            return Err(failed(502, &format!("more than {limit} bytes")));
        }
        to.write_all(&piece[..n]).map_err(|e| failed(500, &format!("cannot be stored: {e}")))?;
    }
}

#[cfg(test)]
mod tests;
