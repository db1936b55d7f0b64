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
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use base64_simd::STANDARD;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

pub use self::list::Upstreams;

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
    place: Place,
    /// What it is called in messages: its URL without credentials.
    name: String,
}

#[derive(Clone)]
enum Place {
    /// URL without credentials and without a slash at its end, and the Authorization to send.
    Web(String, Option<String>),
    /// A directory.
    Dir(PathBuf),
}

impl Upstream {
    /// An upstream at `url`: https, http or file, with `user:password@` perhaps.
    fn parse(url: &str, logins: &netrc::Logins) -> Result<Self, String> {
        // nothing of what may be a password is repeated
        let shown = url.rsplit_once('@').map_or(url, |(_, host)| host);
        let wrong = |why: &str| format!("upstream {shown:?}: {why}");
        if let Some(path) = url.strip_prefix("file://") {
            let path = percent_decode(path).ok_or_else(|| wrong("malformed escapes"))?;
            if !path.starts_with('/') {
                return Err(wrong("write file:///dir"));
            }
            return Ok(Upstream { place: Place::Dir(path.into()), name: url.to_string() });
        }
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| wrong("write a URL (https, http, file), off or direct"))?;
        if scheme != "https" && scheme != "http" {
            return Err(wrong("the scheme is neither https, http nor file"));
        }
        if rest.contains(['?', '#']) || !rest.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(wrong("not a plain URL"));
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (login, host) = match authority.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, authority),
        };
        let name =
            host.rsplit_once(':').filter(|(_, p)| p.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(n, _)| n);
        if name.is_empty() {
            return Err(wrong("there is no host in it"));
        }
        let login = match login {
            Some(login) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                let decode = |part| percent_decode(part).ok_or_else(|| wrong("malformed escapes"));
                Some((decode(user)?, decode(password)?))
            }
            None => logins.get(&name.to_ascii_lowercase()).cloned(),
        };
        let authorization = login.map(|(user, password)| {
            format!("Basic {}", STANDARD.encode_to_string(format!("{user}:{password}").as_bytes()))
        });
        let clean = format!("{scheme}://{host}{}", path.trim_end_matches('/'));
        Ok(Upstream { place: Place::Web(clean.clone(), authorization), name: clean })
    }

    /// An upstream at a plain URL.
    pub fn at(url: &str) -> Result<Self, String> {
        Self::parse(url, &netrc::Logins::default())
    }

    fn is_public(&self) -> bool {
        let Place::Web(url, _) = &self.place else { return false };
        let host = url.split("://").nth(1).and_then(|r| r.split(['/', ':']).next()).unwrap_or_default();
        PUBLIC.iter().any(|p| host.trim_end_matches('.').eq_ignore_ascii_case(p))
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Fetches, over connections that are kept.
#[derive(Default)]
pub struct Fetcher {
    plain: OnceLock<Agent>,
    /// Made on first use: reading the machine's certificates takes milliseconds.
    secure: OnceLock<Result<Agent, String>>,
}

impl Fetcher {
    /// GETs `path` (escaped, without a leading slash) below `upstream`, at most `limit` bytes of
    /// it, into `to`.
    pub fn get(&self, upstream: &Upstream, path: &str, limit: u64, to: &mut dyn Write) -> Result<u64, FetchError> {
        let failed = |status, why: &dyn fmt::Display| FetchError::Failed(status, format!("{upstream}/{path}: {why}"));
        let (mut body, promised): (Box<dyn Read>, _) = match &upstream.place {
            Place::Dir(dir) => match File::open(dir.join(path)) {
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
            Place::Web(base, authorization) => self.open(base, authorization.as_deref(), path, &failed)?,
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
        let agent = self.agent(https).map_err(|why| failed(502, &why))?;
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

    fn agent(&self, https: bool) -> Result<&Agent, String> {
        if https {
            self.secure.get_or_init(|| Ok(make_agent(Some(tls()?)))).as_ref().map_err(String::clone)
        } else {
            Ok(self.plain.get_or_init(|| make_agent(None)))
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

fn make_agent(tls: Option<TlsConfig>) -> Agent {
    let wait = |s| Some(Duration::from_secs(s));
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(5)
        .user_agent(concat!("go-cache-plugin/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(wait(10))
        .timeout_connect(wait(10))
        // a proxy that has to fetch from the origin first takes its time
        .timeout_recv_response(wait(120))
        .timeout_per_read(wait(120))
        .timeout_per_write(wait(30))
        .max_idle_connections(64)
        .max_idle_connections_per_host(32)
        .max_idle_age(Duration::from_secs(60));
    if let Some(tls) = tls {
        config = config.tls_config(tls);
    }
    config.build().new_agent()
}

/// TLS that trusts what the machine trusts.
pub(super) fn tls() -> Result<TlsConfig, String> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found.errors.first().map(|e| format!(" ({e})")).unwrap_or_default();
        return Err(format!("no certificate authorities on this machine{why}: install ca-certificates"));
    }
    let certs: Vec<_> = found.certs.iter().map(|c| Certificate::from_der(c).to_owned()).collect();
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&certs))
        .unversioned_rustls_crypto_provider(std::sync::Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

/// Undoes `%xx`; `None` for malformed escapes and what is not text.
fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let mut digit = || bytes.next().and_then(|b| (b as char).to_digit(16));
            out.push((digit()? * 16 + digit()?) as u8);
        } else {
            out.push(b);
        }
    }
    String::from_utf8(out).ok().filter(|s| !s.contains('\0'))
}

#[cfg(test)]
mod tests;
