//! Fetches from upstream proxies: which ones there are, who may be asked for what, and one GET.
//!
//! Invariants: a user and a password go over https alone, only to the host they were given for, never
//! along with a redirect; an upstream reached by HTTPS does not redirect us to HTTP, and none to where a
//! cloud keeps credentials; an answer that
//! ends short of its promised length, or exceeds the caller's limit, is an error; no credentials and
//! no query of a redirect are in any message; fetches are bounded, for each upstream.

mod direct;
mod list;
mod netrc;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64_simd::STANDARD;
use ureq::Proxy;
use url::Url;

pub use self::list::Upstreams;
use super::path;
use crate::client::{self, Client, Reach, Received};
use crate::config::{ModProxyConfig, UpstreamEntry, UpstreamUrl};
use crate::headers::first;
use crate::http::resume::{Resumed, Whole};
use crate::http::socket::FLOOR;
use crate::places::Places;
use crate::text;

/// Bytes of an upstream's error text that are passed on.
const MAX_TEXT: u64 = 2 << 10;
/// Fetches under way from one upstream, of modules and again of a sum database's answers.
const EACH: usize = 32;
/// For so long a fetch waits for its turn.
const TURN: Duration = Duration::from_secs(30);
/// What is told of a redirect that leads nowhere.
const NO_HTTP: &str = "it redirects to what is neither http nor https";

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchError {
    /// The upstream says that there is no such thing: 404 or 410, and its words.
    Absent(u16, String),
    /// It did not answer, or not usably: the status that says so to our client, its own where it had one
    /// to say, and why.
    Failed(u16, String),
    /// What it sent is not what it must be: the status that says so, and why.
    Refused(u16, String),
}

impl FetchError {
    /// There is no such thing.
    pub fn absent(why: impl fmt::Display) -> Self {
        FetchError::Absent(404, format!("not found: {why}"))
    }

    /// What was sent is not what it must be.
    pub fn refused(why: impl fmt::Display) -> Self {
        FetchError::Refused(502, format!("refused: {why}"))
    }

    /// Whether it may be another answer soon, so that an old one is better than this.
    pub fn passes(&self) -> bool {
        matches!(self, FetchError::Failed(status, _) | FetchError::Refused(status, _) if *status == 429 || *status >= 500)
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FetchError::Absent(_, why) | FetchError::Failed(_, why) | FetchError::Refused(_, why) => f.write_str(why),
        }
    }
}

/// One upstream.
#[derive(Clone)]
pub struct Upstream {
    entry: UpstreamEntry,
    /// The Authorization to send.
    authorization: Option<String>,
    /// Fetches under way of modules; of sum databases, for one that hangs behind it keeps no module waiting.
    places: [Arc<Places>; 2],
}

impl Upstream {
    /// The upstream of `entry`; where that has no user and password, those of `logins` are used.
    fn new(entry: UpstreamEntry, logins: &netrc::Logins) -> Self {
        let login = match &entry.url {
            UpstreamUrl::Web { url: shown, login: Some(_), .. } if !shown.starts_with("https:") => {
                log::warn!("upstream {shown}: its user and password are not sent: anyone could read them; use https");
                None
            }
            UpstreamUrl::Web { url, host, login } if url.starts_with("https:") => {
                login.as_ref().or_else(|| logins.get(host))
            }
            _ => None,
        };
        let authorization = login.map(|(user, password)| {
            format!("Basic {}", STANDARD.encode_to_string(format!("{user}:{password}").as_bytes()))
        });
        Upstream { entry, authorization, places: [Places::new(EACH), Places::new(EACH)] }
    }

    /// An upstream at `url`, of which netrc says nothing.
    pub fn at(url: &UpstreamUrl) -> Self {
        let entry = UpstreamEntry { url: url.clone(), on_any_error: false, private: true };
        Self::new(entry, &netrc::Logins::default())
    }

    /// Whether it has what somebody has put there, and no more.
    pub fn is_folder(&self) -> bool {
        matches!(self.entry.url, UpstreamUrl::Dir(_))
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entry.url.fmt(f)
    }
}

/// What is asked of an upstream.
pub struct Ask<'a> {
    /// The upstream.
    pub upstream: &'a Upstream,
    /// The path below its URL, decoded, without a leading slash.
    pub path: &'a str,
    /// Bytes of the answer at most.
    pub limit: u64,
    /// What was noted of the answer that we have; empty without one.
    pub known: &'a str,
    /// How long it may think.
    pub patience: Duration,
    /// Takes what comes along with the answer: its name, and the file.
    pub beside: &'a dyn Fn(&str, File),
}

impl<'a> Ask<'a> {
    /// Asks `upstream` for the small file at `path`, of which nothing is known.
    pub fn small(upstream: &'a Upstream, path: &'a str, limit: u64, patience: Duration) -> Self {
        Ask { upstream, path, limit, known: "", patience, beside: &|_, _| {} }
    }

    /// There is no answer, because of `why`, which the status says too.
    fn failed(&self, status: u16, why: impl fmt::Display) -> FetchError {
        FetchError::Failed(status, text::without_secrets(&format!("{}/{}: {why}", self.upstream, self.path)))
    }
}

/// What an upstream answered: so many bytes, and what is to be noted of them; nothing where what we have is still right.
pub type Got = Option<(u64, String)>;

/// The connections, which are kept, to the servers of `config`.
fn client(config: &ModProxyConfig) -> Client {
    let (patience, proxy) = (Duration::from_secs(120), Proxy::try_from_env());
    let urls = config.upstream.entries.iter().map(|entry| &entry.url).chain(config.sumdb.iter().map(|db| &db.url));
    let hosts = urls.filter_map(|url| if let UpstreamUrl::Web { host, .. } = url { Some(&host[..]) } else { None });
    let named = hosts.chain(proxy.iter().map(Proxy::host)).map(str::to_ascii_lowercase).collect();
    Client::new(client::Options {
        connect: Duration::from_secs(10),
        answer: patience,
        pause: patience,
        keep: (Duration::from_secs(60), 32),
        redirects: 5,
        reach: Some(Reach::Redirects(named)),
        proxy,
        ..client::Options::default()
    })
}

impl Upstreams {
    /// GETs what is asked for, into `to`.
    pub fn get(&self, ask: &Ask<'_>, to: &mut dyn Write) -> Result<Got, FetchError> {
        let Ask { upstream, path, .. } = ask;
        let busy = || ask.failed(503, "too many requests to it are under way, and none of them ended in time");
        let places = &upstream.places[usize::from(path.starts_with("sumdb/"))];
        let _turn = places.within(TURN).ok_or_else(busy)?;
        let mut file: Box<dyn Read> = match &upstream.entry.url {
            UpstreamUrl::Web { url, .. } => return self.web(url, ask, to),
            UpstreamUrl::Direct => direct::fetch(path, ask.beside)?,
            UpstreamUrl::Dir(dir) => match File::open(dir.join(path)) {
                Ok(file) if file.metadata().is_ok_and(|meta| meta.is_file()) => Box::new(file),
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(ask.failed(502, e)),
                _ => return Err(FetchError::Absent(404, format!("{upstream}/{path}: no such file"))),
            },
        };
        copy(&mut *file, ask, to).map(|len| Some((len, String::new())))
    }

    /// As [`Self::get`], of a server, where what broke off goes on.
    fn web(&self, base: &str, ask: &Ask<'_>, to: &mut dyn Write) -> Result<Got, FetchError> {
        let (upstream, https) = (ask.upstream, base.starts_with("https:"));
        let agent = self.client.agent(https).map_err(|why| ask.failed(502, why))?;
        let url = format!("{base}/{}", path::encode(ask.path));
        let send = |headers: [(&str, &str); 2]| {
            let mut request =
                agent.get(&url).config().https_only(https).timeout_recv_response(Some(ask.patience)).build();
            let authorization = ("authorization", upstream.authorization.as_deref().unwrap_or_default());
            for (name, value) in headers.into_iter().chain([authorization]).filter(|(_, value)| !value.is_empty()) {
                request = request.header(name, value);
            }
            let answer = request.call().map_err(|e| match e {
                ureq::Error::Timeout(_) => ask.failed(504, client::words(&e)),
                // these show where they were sent to, which may be a signed URL
                ureq::Error::RequireHttpsOnly(to) if to.starts_with("http:") => {
                    ask.failed(502, "it redirects from https to http")
                }
                ureq::Error::RequireHttpsOnly(_) | ureq::Error::BadUri(_) => ask.failed(502, NO_HTTP),
                e => ask.failed(502, client::words(&e)),
            })?;
            Received::of("GET", answer).map_err(|why| ask.failed(502, why))
        };
        let noted = ask.known.strip_suffix(&format!(" | {upstream}"));
        let known = noted.and_then(|noted| noted.split_once(" | "));
        let (etag, modified) = known.unwrap_or_default();
        let answer = send([("if-none-match", etag), ("if-modified-since", modified)])?;
        let whole = Whole::of(&answer.headers, answer.len);
        match answer.status {
            200 => {}
            304 if known.is_some() => return Ok(None),
            301..=303 | 307 | 308 => {
                // file: and the like are followed below our own path, over and over
                let to = first(&answer.headers, "location").and_then(|to| Url::parse(to).ok());
                let odd = to.is_some_and(|to| !matches!(to.scheme(), "http" | "https"));
                return Err(ask.failed(502, if odd { NO_HTTP } else { "too many redirects" }));
            }
            status => return Err(refusal(ask, status, answer.body)),
        }
        let note = match (whole.etag.as_str(), whole.modified.as_str()) {
            ("", "") => String::new(),
            (etag, modified) => format!("{etag} | {modified} | {upstream}"),
        };
        if whole.len.is_some_and(|n| n > ask.limit) {
            return Err(ask.failed(502, format_args!("more than {}", text::bytes(ask.limit))));
        }
        let again =
            |range: &str, validator: &str| send([("range", range), ("if-range", validator)]).map_err(|e| e.to_string());
        // a zip is checked by itself; of others a part has to be known for one of the same whole
        let may = whole.len.is_some() && (!whole.validator().is_empty() || ask.path.ends_with(".zip"));
        let mut body = Resumed::new(answer.body, whole, may, again);
        copy(&mut body, ask, to).map(|len| Some((len, note)))
    }
}

/// What our client is told of an answer that is none. The upstream's own words pass, and its status too,
/// unless that speaks of us: of credentials, say.
fn refusal(ask: &Ask<'_>, status: u16, body: impl Read) -> FetchError {
    let mut text = Vec::new();
    // a text that breaks off is as good as none
    let _ = body.take(MAX_TEXT).read_to_end(&mut text);
    let text: String = String::from_utf8_lossy(&text).chars().filter(|c| !c.is_control() || *c == '\n').collect();
    let told = match text.trim() {
        "" if matches!(status, 404 | 410) => "not found".into(),
        "" => format!("the upstream says {status}"),
        text => text::without_secrets(text),
    };
    match status {
        404 | 410 => FetchError::Absent(status, told),
        400 | 402..=406 | 408.. => {
            log::debug!("{}", ask.failed(status, &told));
            FetchError::Failed(status, told)
        }
        _ => ask.failed(502, format_args!("status {status}: {told}")),
    }
}

/// Copies all of what was asked for, as long as that is no more than it may be and comes faster than it would
/// from who means to hold up all that want it; tells reading from writing trouble: the latter is ours.
fn copy(from: &mut dyn Read, ask: &Ask<'_>, to: &mut dyn Write) -> Result<u64, FetchError> {
    let (begun, mut piece, mut got) = (Instant::now(), vec![0; 64 << 10], 0);
    loop {
        let n = match from.read(&mut piece) {
            Ok(0) => return Ok(got),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(ask.failed(502, e)),
        };
        got += n as u64;
        if got > ask.limit {
            return Err(ask.failed(502, format_args!("more than {}", text::bytes(ask.limit))));
        }
        if begun.elapsed() > ask.patience + Duration::from_secs(got / FLOOR) {
            return Err(ask.failed(504, format_args!("slower than {} a second", text::bytes(FLOOR))));
        }
        to.write_all(&piece[..n]).map_err(|e| ask.failed(500, format_args!("cannot be stored: {e}")))?;
    }
}

#[cfg(test)]
mod tests;
