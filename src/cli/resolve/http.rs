//! The HTTP side: its address, the module proxy and the reverse proxy.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use super::{Resolver, bare_host, duration, on};
use crate::cli::flags::Given;
use crate::cli::value;
use crate::config::{HttpConfig, ModProxyConfig};
use crate::error::Error;

impl Resolver<'_> {
    /// The HTTP side, at `fallback` where the module proxy is wanted without an address.
    pub(super) fn http(&self, fallback: Option<SocketAddr>) -> Result<Option<HttpConfig>, Error> {
        let v = self.values;
        let modproxy = on(&v.modproxy)?;
        let mut rev_proxy = Vec::new();
        if let Some(given) = &v.revproxy {
            for host in items(&given.text) {
                rev_proxy.push(proxied_host(host).ok_or_else(|| given.error("write host or host:port, no URL"))?);
            }
        }
        let install_ca = on(&v.install_ca)?;
        if !modproxy {
            for given in [&v.upstream, &v.mod_private, &v.mod_ttl, &v.offline].into_iter().flatten() {
                if given.on_line && value::boolean(&given.text) != Some(false) {
                    return Err(Error::usage(format!("{} needs --modproxy", given.from)));
                }
            }
        }
        if rev_proxy.is_empty() && install_ca && v.install_ca.as_ref().is_some_and(|g| g.on_line) {
            return Err(Error::usage("--install-ca needs --revproxy"));
        }
        let mod_proxy = modproxy.then(|| self.mod_proxy()).transpose()?;
        let addr = match v.http.as_ref().filter(|g| !g.text.is_empty()) {
            Some(given) => http_addr(given)?,
            None => match fallback {
                Some(addr) if modproxy => addr,
                _ if modproxy => {
                    return Err(Error::usage("--modproxy needs --http, for example --http=localhost:5970"));
                }
                _ if !rev_proxy.is_empty() => {
                    return Err(Error::usage("--revproxy needs --http, for example --http=localhost:5970"));
                }
                _ => return Ok(None),
            },
        };
        Ok(Some(HttpConfig { addr, mod_proxy, rev_proxy, install_ca }))
    }

    fn mod_proxy(&self) -> Result<ModProxyConfig, Error> {
        let v = self.values;
        let upstream = match v.upstream.as_ref() {
            None => "https://proxy.golang.org".to_string(),
            Some(given) => upstream(given)?,
        };
        let sumdb = v.sumdb.as_ref().map_or("sum.golang.org", |g| g.text.as_str());
        let netrc = self
            .variable("NETRC")
            .map(|path| self.cwd.join(path))
            .or_else(|| self.variable("HOME").map(|home| Path::new(home).join(".netrc")));
        Ok(ModProxyConfig {
            upstream,
            private: v.mod_private.as_ref().map_or_else(String::new, |g| g.text.clone()),
            offline: on(&v.offline)?,
            ttl: v.mod_ttl.as_ref().map_or(Ok(Duration::from_secs(60)), duration)?,
            sumdb: items(sumdb).map(str::to_string).collect(),
            netrc,
        })
    }
}

/// The items of a comma-separated list, without blanks and empty ones.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn upstream(given: &Given) -> Result<String, Error> {
    let mut any = false;
    for entry in given.text.split([',', '|']).map(str::trim).filter(|e| !e.is_empty()) {
        // `direct` may end a list, which is then what `go env GOPROXY` says, but not be all of it
        let known = entry == "off"
            || (entry == "direct" && any)
            || ["https://", "http://", "file:///"].iter().any(|s| entry.starts_with(s));
        if !known {
            return Err(given.error("an entry is a URL (https, http, file) or off"));
        }
        any = true;
    }
    if any { Ok(given.text.clone()) } else { Err(given.error("an empty list of upstreams")) }
}

fn proxied_host(host: &str) -> Option<String> {
    let (name, port) = host.rsplit_once(':').unwrap_or((host, "443"));
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
    (plain && port.parse::<u16>().is_ok_and(|p| p > 0)).then(|| host.to_ascii_lowercase())
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
