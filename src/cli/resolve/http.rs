//! The HTTP side: its address, the module proxy and the reverse proxy.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use super::{Resolver, bare_host, duration, on};
use crate::cli::flags::Given;
use crate::cli::value;
use crate::config::{HttpConfig, ModProxyConfig, ProxiedHost};
use crate::error::Error;

impl Resolver<'_> {
    /// The HTTP side, at `fallback` where the module proxy is wanted without an address.
    pub(super) fn http(&self, fallback: Option<SocketAddr>) -> Result<Option<HttpConfig>, Error> {
        let v = self.values;
        let modproxy = on(&v.modproxy)?;
        let rev_proxy: Vec<ProxiedHost> = match &v.revproxy {
            None => Vec::new(),
            Some(given) => {
                items(&given.text).map(|h| h.parse().map_err(|why| given.error(why))).collect::<Result<_, _>>()?
            }
        };
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
        // these errors quote what is wrong themselves: there may be a password in the list
        let wrong = |given: &Option<Given>, why: String| {
            Error::usage(format!("{} {why}", given.as_ref().map_or("the default", |g| &g.from)))
        };
        let upstream = v.upstream.as_ref().map_or("https://proxy.golang.org", |g| &g.text);
        let sumdb = v.sumdb.as_ref().map_or("sum.golang.org", |g| &g.text);
        let netrc = self
            .variable("NETRC")
            .map(|path| self.cwd.join(path))
            .or_else(|| self.variable("HOME").map(|home| Path::new(home).join(".netrc")));
        Ok(ModProxyConfig {
            upstream: upstream.parse().map_err(|why| wrong(&v.upstream, why))?,
            private: v.mod_private.as_ref().map_or_else(String::new, |g| g.text.clone()),
            offline: on(&v.offline)?,
            ttl: v.mod_ttl.as_ref().map_or(Ok(Duration::from_secs(60)), duration)?,
            sumdb: items(sumdb).map(str::parse).collect::<Result<_, _>>().map_err(|why| wrong(&v.sumdb, why))?,
            netrc,
        })
    }
}

/// The items of a comma-separated list, without blanks and empty ones.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
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
