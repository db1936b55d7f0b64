//! The HTTP side: its address, the module proxy and the reverse proxy.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::Path;

use super::{Resolver, bare_host, duration, on};
use crate::cli::flags::{Flag, Given, Section, Value};
use crate::config::{
    AccessConfig, AuthorityConfig, HostPort, HttpConfig, ModAction, ModConfig, ModProxyConfig, Tunnels,
};
use crate::error::Error;
use crate::platform::{HOME, STATES};

impl Resolver<'_> {
    /// The HTTP side, at `fallback` where the module proxy is wanted without an address.
    pub(super) fn http(&self, fallback: Option<SocketAddr>) -> Result<Option<HttpConfig>, Error> {
        let v = self.values;
        let modproxy = on(&v.modproxy)?;
        let rev_proxy = hosts(&v.revproxy)?;
        let install_ca = on(&v.install_ca)?;
        let given = v.http.as_ref().filter(|g| !g.text.is_empty());
        for (section, needs, there) in [
            (Section::MOD_PROXY, "--modproxy", modproxy),
            (Section::REV_PROXY, "--revproxy", !rev_proxy.is_empty()),
            (Section::ACCESS, "--http", given.is_some()),
        ] {
            let idle = |(flag, given): &(&Flag, &Given)| flag.section == section && given.on_line;
            if let Some((_, given)) = v.asked().find(idle).filter(|_| !there) {
                return Err(Error::usage(format!("{} needs {needs}", given.from)));
            }
        }
        let mod_proxy = modproxy.then(|| self.mod_proxy()).transpose()?;
        let addr = match (given, fallback) {
            (Some(given), _) => http_addr(given)?,
            (None, Some(addr)) if modproxy => addr,
            _ if modproxy || !rev_proxy.is_empty() => {
                let needs = if modproxy { "--modproxy" } else { "--revproxy" };
                return Err(Error::usage(format!("{needs} needs --http, for example --http=localhost:5970")));
            }
            _ => return Ok(None),
        };
        let authority = (!rev_proxy.is_empty()).then(|| self.authority(&rev_proxy, install_ca)).transpose()?;
        Ok(Some(HttpConfig {
            addr,
            access: self.access(given)?,
            mod_proxy,
            rev_proxy,
            tunnels: tunnels(&v.tunnel.or_default())?,
            authority,
        }))
    }

    /// Who may ask; `http` is the address to listen on as it was given.
    fn access(&self, http: Option<&Given>) -> Result<AccessConfig, Error> {
        let v = self.values;
        let mut names = Vec::new();
        if let Some(given) = v.http_host.as_ref() {
            for name in items(&given.text) {
                let host = name.parse::<HostPort>().ok().filter(|host| host.port().is_none());
                let host = host.ok_or_else(|| given.error("write the name of a host, without a port"))?;
                names.push(host.bare().to_string());
            }
        }
        let of_http = http.and_then(|given| Some(given.text.rsplit_once(':')?.0.to_ascii_lowercase()));
        let file = |given: &Option<Given>| given.as_ref().map(|given| self.file(given)).transpose();
        let tls = match (file(&v.http_tls_cert)?, file(&v.http_tls_key)?) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err(Error::usage("--http-tls-cert and --http-tls-key need each other")),
        };
        Ok(AccessConfig { hosts: of_http.into_iter().chain(names).collect(), auth_file: file(&v.http_auth_file)?, tls })
    }

    fn authority(&self, proxied: &[HostPort], install: bool) -> Result<AuthorityConfig, Error> {
        let v = self.values;
        let given = hosts(&v.ca_domains)?;
        if let Some(given) = v.ca_domains.as_ref().filter(|_| given.iter().any(|host| host.port().is_some())) {
            return Err(given.error("a domain has no port"));
        }
        let from = if given.is_empty() { proxied } else { &given };
        let domains = from.iter().map(|host| host.bare().to_string()).collect();
        let dir = self.user_dir(&v.ca_dir, "ca", STATES)?;
        let authority = AuthorityConfig { dir, domains, install };
        match proxied.iter().find(|host| !authority.covers(host.bare())) {
            Some(host) => Err(Error::usage(format!(
                "--revproxy {:?}: outside of --ca-domains, so nobody would believe its certificate: add it there",
                host.bare()
            ))),
            None => Ok(authority),
        }
    }

    /// What `mod` is to do, with the words after its first.
    pub(super) fn modules(&self, word: &str, words: Vec<OsString>) -> Result<ModConfig, Error> {
        let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let recursive = on(&self.values.recursive)?;
        let action = match (word, &words[..]) {
            ("fetch", [_, ..]) => ModAction::Fetch(words, recursive),
            _ if recursive => return Err(Error::usage("-r is for mod fetch go.mod|go.sum|MODULE@VERSION...")),
            ("export", [file]) => ModAction::Export(self.cwd.join(file)),
            ("import", [file]) => ModAction::Import(self.cwd.join(file)),
            ("list", []) => ModAction::List,
            ("rm", [module]) => ModAction::Remove(module.clone()),
            _ => {
                return Err(Error::usage(
                    "mod takes fetch go.mod|go.sum|MODULE@VERSION..., export FILE, import FILE, list, or rm MODULE@VERSION",
                ));
            }
        };
        Ok(ModConfig { cache: self.cache()?, proxy: self.mod_proxy()?, action })
    }

    /// The module proxy.
    pub(super) fn mod_proxy(&self) -> Result<ModProxyConfig, Error> {
        let v = self.values;
        // these errors quote what is wrong themselves: there may be a password in the list
        let wrong = |given: &Given, why: String| Error::usage(format!("{} {why}", given.from));
        let [upstream, sumdb, verify] = [&v.upstream, &v.sumdb, &v.mod_verify].map(Value::or_default);
        let verify = match verify.text.as_str() {
            "on" => true,
            "off" => false,
            _ => return Err(verify.error("write on or off")),
        };
        let netrc = self
            .variable("NETRC")
            .map(|path| self.cwd.join(path))
            .or_else(|| self.variable(HOME).map(|home| Path::new(home).join(".netrc")));
        Ok(ModProxyConfig {
            upstream: upstream.text.parse().map_err(|why| wrong(&upstream, why))?,
            private: v.mod_private.as_ref().map_or_else(String::new, |g| g.text.clone()),
            offline: on(&v.offline)?,
            ttl: duration(&v.mod_ttl.or_default())?,
            stale: duration(&v.mod_stale.or_default())?,
            verify,
            nosum: String::new(),
            sumdb: items(&sumdb.text).map(str::parse).collect::<Result<_, _>>().map_err(|why| wrong(&sumdb, why))?,
            netrc,
        })
    }
}

/// The hosts of a comma-separated list.
fn hosts(given: &Option<Given>) -> Result<Vec<HostPort>, Error> {
    let Some(given) = given else { return Ok(Vec::new()) };
    items(&given.text).map(|host| host.parse().map_err(|why| given.error(why))).collect()
}

/// Where CONNECT may go.
fn tunnels(given: &Given) -> Result<Tunnels, Error> {
    let (all, hosts): (Vec<_>, Vec<_>) = items(&given.text).partition(|item| *item == "*");
    let hosts = hosts.iter().map(|host| host.parse().map_err(|why| given.error(why))).collect::<Result<_, _>>()?;
    Ok(Tunnels { any: !all.is_empty(), hosts })
}

/// The items of a comma-separated list, or of several, without blanks and empty ones.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(['\0', ',']).map(str::trim).filter(|item| !item.is_empty())
}

/// `[host]:port`; without a host, every IPv4 interface; a name is looked up, IPv4 first as in Go.
fn http_addr(given: &Given) -> Result<SocketAddr, Error> {
    let wrong = || given.error("not an address: write host:port, for example localhost:5970");
    let (host, port) = given.text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    match bare_host(host).ok_or_else(wrong)? {
        "" => Ok((Ipv4Addr::UNSPECIFIED, port).into()),
        "localhost" => Ok((Ipv4Addr::LOCALHOST, port).into()),
        name => {
            let found: Vec<SocketAddr> = (name, port).to_socket_addrs().map_err(|e| given.error(e))?.collect();
            let best = found.iter().find(|a| a.is_ipv4()).or(found.first());
            best.copied().ok_or_else(|| given.error("the host has no address"))
        }
    }
}
