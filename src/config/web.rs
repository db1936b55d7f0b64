//! Whom the proxies ask and for whom they answer, checked. No message repeats what may be a
//! password.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use base64_simd::STANDARD;
use url::Url;

use crate::id::{OutputId, hex, unhex};
use crate::text::percent_decode;

/// A list of upstreams as in GOPROXY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamList {
    /// Each with what lets the next be asked.
    pub entries: Vec<UpstreamEntry>,
    /// What ends the list.
    pub end: ListEnd,
}

/// One upstream of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamEntry {
    /// Where it is.
    pub url: UpstreamUrl,
    /// Whether an error of any kind lets the next be asked (`|`), not only a 404 or 410.
    pub on_any_error: bool,
    /// Whether it may be asked for private modules: `#private` follows the URL.
    pub private: bool,
}

/// What ends a list of upstreams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListEnd {
    /// Nothing in particular.
    List,
    /// `off`: nobody else is to be asked.
    Off,
    /// `direct`: private modules are fetched from their origin. For others that is left to `go`: a 404
    /// makes it do so where its own GOPROXY says `direct`.
    Direct,
}

impl FromStr for UpstreamList {
    type Err = String;

    /// URLs, with `#private` at their end perhaps, `off` and `direct`, each followed by `,` or `|`. The
    /// error quotes what is wrong.
    fn from_str(list: &str) -> Result<Self, String> {
        let (mut entries, mut end) = (Vec::new(), ListEnd::List);
        for piece in list.split_inclusive([',', '|']) {
            let (entry, on_any_error) = match piece.strip_suffix('|') {
                Some(entry) => (entry.trim(), true),
                None => (piece.trim_end_matches(',').trim(), false),
            };
            match entry {
                "" => {}
                "off" if end == ListEnd::List => end = ListEnd::Off,
                // `direct` may end a list, which is then what `go env GOPROXY` says, but not be all of it
                "direct" if end == ListEnd::List && !entries.is_empty() => end = ListEnd::Direct,
                "off" | "direct" if end != ListEnd::List => {}
                text => {
                    let (url, private) = text.strip_suffix("#private").map_or((text, false), |url| (url, true));
                    let entry = UpstreamEntry { url: url.parse()?, on_any_error, private };
                    // what follows the end is read and not used
                    entries.extend((end == ListEnd::List).then_some(entry));
                }
            }
        }
        if entries.is_empty() && end == ListEnd::List {
            return Err(format!("{list:?}: an empty list of upstreams"));
        }
        Ok(UpstreamList { entries, end })
    }
}

/// Where one upstream is.
#[derive(Clone, PartialEq, Eq)]
pub enum UpstreamUrl {
    /// A server.
    Web {
        /// Its URL without credentials and without a slash at its end.
        url: String,
        /// Its host in lower case, without the port.
        host: String,
        /// User and password for it.
        login: Option<(String, String)>,
    },
    /// A directory.
    Dir(PathBuf),
    /// The module's own origin, through the `go` on PATH.
    Direct,
}

impl FromStr for UpstreamUrl {
    type Err = String;

    /// https, http or file, with `user:password@` perhaps; a host alone is https. The error quotes what is wrong.
    fn from_str(text: &str) -> Result<Self, String> {
        let shown = text.rsplit_once('@').map_or(text, |(_, host)| host);
        let wrong = |why: &str| format!("{shown:?}: {why}");
        let decode = |part| percent_decode(part).ok_or_else(|| wrong("malformed escapes"));
        let no = || wrong("an entry is a plain URL (https, http, file) or off");
        let plain = |url: &Url| text.bytes().all(|b| b.is_ascii_graphic()) && url.query().or(url.fragment()).is_none();
        // as go reads GOPROXY
        let whole = !text.contains(['.', ':', '/']) || text.contains(":/") || text.starts_with('/');
        let url = if whole { Url::parse(text) } else { Url::parse(&format!("https://{text}")) };
        let url = url.ok().filter(plain).ok_or_else(no)?;
        if url.scheme() == "file" {
            return url.to_file_path().map(UpstreamUrl::Dir).map_err(|()| wrong("write file:///dir"));
        }
        let host = url.host_str().filter(|_| matches!(url.scheme(), "https" | "http")).ok_or_else(no)?;
        let login = match (url.username(), url.password()) {
            ("", None) => None,
            (user, password) => Some((decode(user)?, decode(password.unwrap_or_default())?)),
        };
        let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
        let shown = format!("{}://{host}{port}{}", url.scheme(), url.path().trim_end_matches('/'));
        Ok(UpstreamUrl::Web { url: shown, host: host.to_string(), login })
    }
}

/// Its URL without credentials.
impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpstreamUrl::Web { url, .. } => f.write_str(url),
            UpstreamUrl::Dir(dir) => write!(f, "file://{}", dir.display()),
            UpstreamUrl::Direct => f.write_str("direct"),
        }
    }
}

impl fmt::Debug for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A sum database: `name`, one that Go knows, or `name+hash+key`; found at `https://name`, or where
/// `=URL` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SumDatabase {
    /// Its name, by which `go` knows it.
    pub name: String,
    /// Its Ed25519 public key, and the hash of name and key that its signatures carry.
    pub key: ([u8; 4], [u8; 32]),
    /// Where it is.
    pub url: UpstreamUrl,
}

impl SumDatabase {
    /// Its name and key as GOSUMDB has them.
    pub fn verifier(&self) -> String {
        let (id, public) = &self.key;
        format!("{}+{}+{}", self.name, hex(id), STANDARD.encode_to_string([&[1], &public[..]].concat()))
    }
}

/// The key of the database that Go itself defaults to.
const GOLANG: &str = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";

impl FromStr for SumDatabase {
    type Err = String;

    fn from_str(entry: &str) -> Result<Self, String> {
        let (verifier, url) = entry.split_once('=').map_or((entry, None), |(verifier, url)| (verifier, Some(url)));
        let verifier = if verifier == "sum.golang.org" { GOLANG } else { verifier };
        let (name, key) = verifier.split_once('+').unwrap_or((verifier, ""));
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._/:".contains(&b);
        if !name.bytes().all(plain) || name.split('/').any(|e| e.is_empty() || e.starts_with('.')) {
            return Err(format!("{name:?}: write the name of a sum database such as sum.golang.org, or name+hash+key"));
        }
        let wrong = || format!("{name:?}: give its key too, as in GOSUMDB: name+hash+key, and =URL after it perhaps");
        let (hash, key) = key.split_once('+').ok_or_else(wrong)?;
        let key = STANDARD.decode_to_vec(key.as_bytes()).map_err(|_| wrong())?;
        // the first byte says Ed25519
        let [1, public @ ..] = &key[..] else { return Err(wrong()) };
        let public = <[u8; 32]>::try_from(public).map_err(|_| wrong())?;
        let id = OutputId::of(&[name.as_bytes(), b"\n", &key].concat()).0;
        let id = [id[0], id[1], id[2], id[3]];
        if unhex(hash) != Some(id) {
            return Err(format!("{name:?}: the hash {hash:?} is not that of its name and key"));
        }
        let url = url.map_or_else(|| format!("https://{name}").parse(), str::parse)?;
        Ok(SumDatabase { name: name.to_string(), key: (id, public), url })
    }
}

/// Who may ask the HTTP server, and over what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessConfig {
    /// Names under which it is asked, in lower case, beside addresses, loopback's and the machine's:
    /// the host of `--http`, then those of `--http-host`. Default: none.
    pub hosts: Vec<String>,
    /// The file of tokens. Default: none, who asks from this machine may do all.
    pub auth_file: Option<PathBuf>,
    /// PEM files with the certificates and the key to serve https with. Default: none, http.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// The authority that signs for the hosts whose TLS the reverse proxy ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityConfig {
    /// Its directory, absolute. Default: `go-cache-plugin` in the user's state folder.
    pub dir: PathBuf,
    /// Domains (each with all below it) and addresses that it may sign for, in lower case, without
    /// brackets; never empty. Default: the hosts of the reverse proxy.
    pub domains: Vec<String>,
    /// Append it to the system's bundle. Default: false.
    pub install: bool,
}

impl AuthorityConfig {
    /// Whether `host`, a name in lower case or an address, is one of the domains or below one.
    pub fn covers(&self, host: &str) -> bool {
        let below = |domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
        self.domains.iter().any(|domain| host == domain || host.parse::<IpAddr>().is_err() && below(domain))
    }
}

/// Where CONNECT may go beside the hosts of the reverse proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnels {
    /// To every host, but for this machine, which has to be listed.
    pub any: bool,
    /// To these.
    pub hosts: Vec<HostPort>,
}

impl Tunnels {
    /// Which addresses they may turn out to have.
    pub(crate) fn reach(&self) -> crate::client::Reach {
        crate::client::Reach::Clients(self.hosts.clone())
    }
}

/// `host`, which may mean any port, or `host:port`: one on a list, or who a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// In lower case, without a dot at its end; the brackets of an IPv6 address stay.
    name: String,
    port: Option<u16>,
}

impl HostPort {
    /// The host alone, an IPv6 address in brackets.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host alone: a name, or an address without brackets.
    pub fn bare(&self) -> &str {
        self.name.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port, where one was said.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether `port` of `host`, in lower case, is this one.
    pub fn is(&self, host: &str, port: u16) -> bool {
        self.name == host.trim_end_matches('.') && self.port.is_none_or(|p| p == port)
    }

    /// The same, without a port that goes without saying.
    pub fn without_port(self, default: u16) -> Self {
        HostPort { port: self.port.filter(|port| *port != default), ..self }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl FromStr for HostPort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "write host or host:port, no URL";
        let digits = |port: &&str| port.bytes().all(|b| b.is_ascii_digit());
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => {
                (name, Some(Some(port).filter(digits).and_then(|p| p.parse().ok()).filter(|p| *p > 0).ok_or(wrong)?))
            }
            _ => (text, None),
        };
        let address = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let plain = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        let fine = match address {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => name.len() <= 253 && name.split('.').all(plain),
        };
        if fine { Ok(HostPort { name, port }) } else { Err(wrong) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_upstreams() {
        let list = |text: &str| {
            let list: UpstreamList = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            (list.entries.iter().map(|e| (e.url.to_string(), e.on_any_error)).collect::<Vec<_>>(), list.end)
        };
        let (a, b) = (("http://a".to_string(), false), ("https://b:8443/x".to_string(), true));
        assert_eq!(list(" http://a/ ,, https://u:p@b:8443/x/ |"), (vec![a.clone(), b], ListEnd::List));
        assert_eq!(list("http://a,off,http://c"), (vec![a.clone()], ListEnd::Off));
        assert_eq!(list("http://a,direct|off"), (vec![a], ListEnd::Direct));
        assert_eq!(list("off"), (Vec::new(), ListEnd::Off));
        assert_eq!(list("file:///a%20b").0, [("file:///a b".to_string(), false)]);
        let bare = ["https://proxy.example/x".to_string(), "https://h:8443".to_string()];
        assert_eq!(list("proxy.example/x,u:p@h:8443").0, bare.map(|url| (url, false)));
        let named: UpstreamList = "http://a#private|http://b,file:///c#private".parse().unwrap();
        assert_eq!(named.entries.iter().map(|e| e.private).collect::<Vec<_>>(), [true, false, true]);
        for wrong in [
            "", " , ", "direct", "proxy", "/proxy", "ftp://x", "https://", "https://u:secret@",
            "https://u:secret%zz@h", "http://h,nonsense", "off,nonsense", "file://relative", "http://h/?q",
            "http://h/a b", "http://h#privat", "http://h#",
        ] {
            let why = wrong.parse::<UpstreamList>().expect_err(wrong);
            assert!(!why.contains("secret") && !why.contains('\n'), "{why}");
        }
    }

    #[test]
    fn credentials_are_told_apart_and_not_shown() {
        let url: UpstreamUrl = "https://us%40er:pa%3Ass@A.example:8443/base/".parse().unwrap();
        assert_eq!(format!("{url} {url:?}"), "https://a.example:8443/base https://a.example:8443/base");
        let UpstreamUrl::Web { host, login, .. } = url else { panic!("no directory") };
        assert_eq!((host.as_str(), login), ("a.example", Some(("us@er".into(), "pa:ss".into()))));
    }

    #[test]
    fn sum_databases() {
        let new = |e: &str| e.parse::<SumDatabase>();
        assert_eq!(new("sum.golang.org").unwrap().url.to_string(), "https://sum.golang.org");
        let at = new(&format!("{GOLANG}=http://127.0.0.1:1/y")).unwrap();
        assert_eq!((at.name.as_str(), at.url.to_string().as_str()), ("sum.golang.org", "http://127.0.0.1:1/y"));
        assert_eq!((at.key.0, at.verifier().as_str()), ([0x03, 0x3d, 0xe0, 0xae], GOLANG));
        let other = GOLANG.replace("golang.org", "example.org");
        for wrong in ["../x", "a//b", "A B", "name=ftp://x", "=http://x", "", "sum.example.org", &other, &GOLANG[..60]]
        {
            assert!(new(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn proxied_hosts() {
        let host = |text: &str| text.parse::<HostPort>().unwrap_or_else(|e| panic!("{text}: {e}"));
        assert!(host("Example.com").is("example.com", 444) && host("example.com.").is("example.com.", 80));
        assert!(host("a.example:8443").is("a.example", 8443) && !host("a.example:8443").is("a.example", 443));
        assert!(host("[::1]:80").is("[::1]", 80) && host("[::1]").is("[::1]", 9) && host("10.0.0.1").is("10.0.0.1", 9));
        assert_eq!(host("A.example.:80").to_string(), "a.example:80");
        assert_eq!(host("[::1]:80").without_port(80).to_string(), "[::1]");
        assert_eq!(host("a:443").without_port(80).to_string(), "a:443");
        assert!(!host("example.com").is("www.example.com", 80) && !host("10.0.0.1").is("10.0.0.10", 80));
        for wrong in ["", ".", "https://h", "h:0", "h:70000", "h/x", "::1", "[h]", "h:", "h:+1", "a b", "a..b", "h.."] {
            assert!(wrong.parse::<HostPort>().is_err(), "{wrong}");
        }
    }
}
