//! Which hosts are proxied, and what a URL is called.

use crate::id::{OutputId, hex};

use crate::config::ProxiedHost;

/// Whether requests to `authority`, `host[:port]` in lower case, are for one of `hosts`.
pub fn listed(hosts: &[ProxiedHost], scheme: &str, authority: &str) -> bool {
    let (host, port) = split(authority);
    let port = port.unwrap_or(default_port(scheme)).parse();
    port.is_ok_and(|port| hosts.iter().any(|listed| listed.is(host, port)))
}

/// `host` and `port` of `host[:port]`; the brackets of an IPv6 address stay.
pub fn split(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') && (!host.contains(':') || host.ends_with(']')) => (host, Some(port)),
        _ => (authority, None),
    }
}

/// `authority` without a port that goes without saying.
pub fn normal<'a>(scheme: &str, authority: &'a str) -> &'a str {
    match split(authority) {
        (host, Some(port)) if port == default_port(scheme) => host,
        _ => authority,
    }
}

/// The port of a URL that names none.
pub fn default_port(scheme: &str) -> &'static str {
    if scheme == "https" { "443" } else { "80" }
}

/// A URL, or the name of what is kept of it, as it may be shown: without the query, which may be a
/// secret.
pub fn shown(url: &str) -> &str {
    url.split(['?', '\n']).next().unwrap_or_default()
}

/// The first 12 digits of the SHA-256 of a URL, by which its answer is stored.
pub fn cache_id(url: &str) -> String {
    hex(&OutputId::of(url.as_bytes()).0[..6])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_match_whole_names_and_ports() {
        let hosts = ["Example.com", "a.example:8443", "[::1]:80", "10.0.0.1"].map(|h| h.parse().unwrap());
        for (scheme, yes) in [
            ("https", "example.com"),
            ("https", "example.com:444"),
            ("http", "example.com."),
            ("https", "a.example:8443"),
            ("http", "[::1]"),
            ("http", "10.0.0.1:9"),
        ] {
            assert!(listed(&hosts, scheme, yes), "{yes}");
        }
        for (scheme, no) in [
            ("https", "www.example.com"),
            ("https", "example.com.evil"),
            ("https", "a.example"),
            ("https", "[::1]"),
            ("https", ""),
            ("http", "10.0.0.10"),
        ] {
            assert!(!listed(&hosts, scheme, no), "{no}");
        }
        assert!(!listed(&[], "http", ""));
    }

    #[test]
    fn default_ports_go_without_saying() {
        assert_eq!(normal("https", "a:443"), "a");
        assert_eq!(normal("http", "a:443"), "a:443");
        assert_eq!(normal("http", "[::1]:80"), "[::1]");
        assert_eq!(normal("http", "[::1]"), "[::1]");
    }

    #[test]
    fn the_id_is_the_start_of_the_hash() {
        assert_eq!(cache_id("http://example.com/"), "2a1b402420ef"); // sha256sum says the same
    }
}
