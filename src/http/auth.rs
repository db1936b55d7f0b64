//! Who may ask for what: decided once for each request, from where it comes, how it is addressed and
//! what it brings along.
//!
//! Invariants:
//! - Loopback is no identity. What was forwarded is remote, whoever forwarded it; so is everything
//!   without a token where a file says which tokens there are. A request to this server that names
//!   another host in its Host header is refused: a name that was rebound to this machine's address.
//! - A request to this server brings its token as Authorization, a request to the proxy as
//!   Proxy-Authorization, for its Authorization is its target's. The role of the token decides.
//! - Tokens are kept and compared as hashes, each with all, in constant time.

use std::net::IpAddr;
use std::path::Path;

use base64_simd::STANDARD;
use subtle::ConstantTimeEq;

use super::exchange::{Reply, Request, Target};
use super::reloaded::Reloaded;
use crate::config::{AccessConfig, HostPort};
use crate::headers::first;
use crate::id::{OutputId, unhex};
use crate::platform;

/// What a shell hashes where a variable was to hold the token, and does not.
const NONE: [&[u8]; 3] = [b"", b"\n", b"\r\n"];

/// What a request may do beyond what everybody may: be served public modules, and ask for health.
/// By default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Be served private modules.
    pub private_modules: bool,
    /// See the status page and the metrics.
    pub debug: bool,
    /// Use the reverse proxy, tunnels included.
    pub proxy: bool,
    /// A token would help: there are some, and the request brought none of them.
    wants_token: bool,
}

impl Access {
    /// What somebody at this machine may do, where no file of tokens says otherwise.
    pub const ALL: Access = Access { private_modules: true, debug: true, proxy: true, wants_token: false };

    /// What the role of that name opens.
    fn of_role(name: &str) -> Option<Access> {
        let (debug, proxy) = match name {
            "modules" => (false, false),
            "debug" => (true, false),
            "proxy" => (false, true),
            "admin" => (true, true),
            _ => return None,
        };
        Some(Access { debug, proxy, ..Access::ALL })
    }

    /// The answer to a request for what it may not have, to this server or, as `proxied`, to the proxy.
    pub fn refusal(self, proxied: bool, what: &str) -> Reply {
        if !self.wants_token {
            return Reply::text(403, format!("{what} is not for you: see --http-auth-file\n"));
        }
        let (status, challenge) = if proxied { (407, "Proxy-Authenticate") } else { (401, "WWW-Authenticate") };
        Reply::text(status, format!("{what} wants a token\n"))
            .header(challenge, "Basic realm=\"go-cache-plugin\", charset=\"UTF-8\"")
    }
}

/// Judges requests.
#[derive(Default)]
pub struct Guard {
    /// Names under which this server may be asked, in lower case.
    names: Vec<String>,
    /// Who may what, where a file says so.
    pub tokens: Option<Reloaded<Vec<Token>>>,
}

/// A line of the file.
#[derive(Debug)]
pub struct Token {
    hash: OutputId,
    access: Access,
}

impl Guard {
    /// A guard that lets in whom `config` names, and reads its file of tokens. The error is one line.
    pub fn new(config: &AccessConfig) -> Result<Self, String> {
        let machine = platform::machine().to_ascii_lowercase();
        let short = machine.split('.').next().unwrap_or_default().to_string();
        let mut names = config.hosts.clone();
        names.extend([machine, short, "localhost".to_string()]);
        names.retain(|name| !name.is_empty());
        let stays = "the tokens stay as they were";
        let tokens = config.auth_file.clone().map(|file| Reloaded::new(vec![file], stays, |files| read(&files[0])));
        Ok(Guard { names, tokens: tokens.transpose()? })
    }

    /// What `request` may do; the answer to one that is not for this server.
    pub fn judge(&self, request: &Request<'_>) -> Result<Access, Reply> {
        let proxied = request.target != Target::Origin;
        let host = request.headers.get("host");
        if !proxied && !host.is_none_or(|host| host.to_str().is_ok_and(|host| self.is_named(host))) {
            let text = "this server is not asked under that name: --http-host=NAME adds one\n";
            return Err(Reply::text(421, text));
        }
        let Some(tokens) = &self.tokens else {
            return Ok(if is_local(request) { Access::ALL } else { Access::default() });
        };
        let nobody = Access { wants_token: true, ..Access::default() };
        let Some(hash) = token(request, proxied).map(|token| OutputId::of(token.as_bytes())) else { return Ok(nobody) };
        let is_it = |token: &Token| bool::from(token.hash.0.ct_eq(&hash.0));
        Ok(tokens.get().iter().fold(nobody, |found, token| if is_it(token) { token.access } else { found }))
    }

    /// Whether a Host header names this server: an address, a name that always means this machine, or
    /// one of ours.
    fn is_named(&self, host: &str) -> bool {
        let host = host.trim();
        // a port may be empty
        let Ok(host) = host.strip_suffix(':').unwrap_or(host).parse::<HostPort>() else { return false };
        let name = host.bare();
        name.parse::<IpAddr>().is_ok() || name.ends_with(".localhost") || self.names.iter().any(|n| n == name)
    }
}

/// Whether a request comes from this machine, and not by way of a server that says it sent it on.
fn is_local(request: &Request<'_>) -> bool {
    let forwards = |name: &str| name.contains("forwarded") || name.ends_with("-ip") || name == "via";
    request.peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback())
        && !request.headers.keys().any(|name| forwards(name.as_str()))
}

/// The token that a request brings: as Bearer, or as the password of Basic.
fn token(request: &Request<'_>, proxied: bool) -> Option<String> {
    let value = first(&request.headers, if proxied { "proxy-authorization" } else { "authorization" })?;
    let (scheme, value) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().to_string());
    }
    let pair = STANDARD.decode_to_vec(value.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    Some(String::from_utf8(pair).ok()?.split_once(':')?.1.to_string())
}

/// Reads a file of tokens. The error names the line, and never shows what may be a token.
fn read(file: &Path) -> Result<Vec<Token>, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !matches!(line.trim().chars().next(), None | Some('#')));
    let known =
        |hash: &str| unhex(hash).map(OutputId).filter(|hash| !NONE.iter().any(|none| *hash == OutputId::of(none)));
    let token = |(n, line): (usize, &str)| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let parsed = match words[..] {
            [_, role, hash] => Access::of_role(role)
                .ok_or("the roles are modules, debug, proxy and admin")
                .and_then(|access| Ok(Token { hash: known(hash).ok_or("the hash is no SHA-256 of a token")?, access })),
            _ => Err("not a name, a role and the SHA-256 of a token: \"keygen --token\" makes such a line"),
        };
        parsed.map_err(|why| format!("{}:{}: {why}", file.display(), n + 1))
    };
    lines.map(token).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::exchange::Method;

    fn request(peer: &str, headers: &[&str]) -> Request<'static> {
        let mut request = Request::new(Method::Get, "/x");
        request.peer = Some(format!("{peer}:1").parse().unwrap());
        let header = |line: &&str| line.split_once(':').map(|(n, v)| (n.parse().unwrap(), v.trim().parse().unwrap()));
        request.headers = headers.iter().map(|line| header(line).unwrap()).collect();
        request
    }

    fn guard(lines: Option<&str>) -> Guard {
        let tokens = lines.map(|lines| {
            let file = std::env::temp_dir()
                .join(format!("go-cache-plugin-auth-{}", crate::id::hex(&crate::sign::random::<8>().unwrap())));
            std::fs::write(&file, lines).unwrap();
            file
        });
        let config = AccessConfig { hosts: vec!["cache.example".into()], auth_file: tokens, tls: None };
        let guard = Guard::new(&config).unwrap();
        config.auth_file.iter().for_each(|file| std::fs::remove_file(file).unwrap());
        guard
    }

    #[test]
    fn names_of_this_server_are_few() {
        let guard = guard(None);
        let machine = platform::machine();
        for host in [
            "localhost", "LOCALHOST:5970", "127.0.0.1:5970", "[::1]:5970", "[::1]", "a.localhost", "10.1.2.3",
            "localhost.", "localhost:", "Cache.Example", "cache.example.:80", &machine,
        ] {
            assert!(guard.is_named(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:5970",
            "",
            "[evil]",
            "notlocalhost",
            ":80",
            "localhost:evil",
            "[::1]evil",
            "[::1",
            "::1",
            "evil@localhost",
            "a.cache.example",
            "127.1",
            "0x7f000001",
            "localhost..",
            "localhost/",
            "localhost,evil",
            ".",
        ] {
            assert!(!guard.is_named(host), "{host}");
        }
    }

    #[test]
    fn this_machine_may_all_unless_it_forwards() {
        let guard = guard(None);
        for peer in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"] {
            assert_eq!(guard.judge(&request(peer, &["Host: localhost"])).ok(), Some(Access::ALL), "{peer}");
        }
        assert_eq!(guard.judge(&request("192.0.2.1", &["Host: cache.example"])).ok(), Some(Access::default()));
        for header in [
            "Forwarded: for=1.2.3.4",
            "X-Forwarded-For: 127.0.0.1",
            "x-FORWARDED-host: a",
            "X-Real-IP: 1",
            "Via: 1.1 a",
            "CF-Connecting-IP: 1",
            "Forwarded:",
        ] {
            assert_eq!(guard.judge(&request("127.0.0.1", &[header])).ok(), Some(Access::default()), "{header}");
        }
        let mut nobody_knows = request("127.0.0.1", &[]);
        nobody_knows.peer = None;
        assert_eq!(guard.judge(&nobody_knows).ok(), Some(Access::default()));
    }

    #[test]
    fn tokens_open_what_their_role_says() {
        let hash = |token: &str| OutputId::of(token.as_bytes());
        let lines = format!(
            "# ours\n\nci modules {}\nprom debug {}\n b  proxy {}\nroot admin {}\n",
            hash("t1"),
            hash("t2"),
            hash("t3"),
            hash("t:4")
        );
        let guard = guard(Some(&lines));
        let may = |headers: &[&str]| {
            let access = guard.judge(&request("127.0.0.1", headers)).ok().unwrap();
            (access.private_modules, access.debug, access.proxy)
        };
        let basic = |pair: &str| format!("Authorization: bAsic {}", STANDARD.encode_to_string(pair.as_bytes()));
        assert_eq!(may(&["Authorization: Bearer t1"]), (true, false, false));
        assert_eq!(may(&["authorization: bearer  t2 "]), (true, true, false));
        assert_eq!(may(&[&basic("anyone:t3")]), (true, false, true));
        assert_eq!(may(&[&basic(":t:4")]), (true, true, true));
        for no in [
            "Authorization: Bearer t",
            "Authorization: Bearer",
            "Authorization: t1",
            "Proxy-Authorization: Bearer t1",
            "Authorization: Basic t1",
            "Authorization: Digest t1",
            &basic("t1:"),
            &basic("t1"),
            "Host: localhost",
        ] {
            assert_eq!(may(&[no]), (false, false, false), "{no}");
        }
        let mut proxied =
            request("127.0.0.1", &["Host: a.example", "Authorization: Bearer t:4", "Proxy-Authorization: Bearer t3"]);
        proxied.target = Target::Authority("a.example:443".parse().unwrap());
        assert!(guard.judge(&proxied).is_ok_and(|access| access.proxy && !access.debug));
    }

    #[test]
    fn files_of_tokens_are_read_strictly() {
        let hash = OutputId::of(b"x").to_string();
        let file = std::env::temp_dir().join(format!("go-cache-plugin-tokens-{}", std::process::id()));
        for (line, want) in [
            (format!("a modules {hash} more"), "not a name"),
            (format!("a {hash}"), "not a name"),
            (format!("a Modules {hash}"), "the roles are"),
            (format!("a modules {}", &hash[1..]), "no SHA-256"),
            (format!("a modules {}", OutputId::of(b"\n")), "no SHA-256"),
        ] {
            std::fs::write(&file, format!("\n{line}\n")).unwrap();
            let why = read(&file).unwrap_err();
            assert!(why.contains(want) && why.contains(":2: ") && !why.contains(&hash[1..]), "{why}");
        }
        std::fs::remove_file(&file).unwrap();
        assert!(read(&file).unwrap_err().contains("No such file"));
    }
}
