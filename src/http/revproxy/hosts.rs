//! Which hosts are proxied, and what a URL is called.

use crate::config::HostPort;
use crate::http::exchange::default_port;
use crate::id::{OutputId, hex};

/// Whether requests to `host`, on the port of `scheme` where it names none, are for one of `hosts`.
pub fn listed(hosts: &[HostPort], scheme: &str, host: &HostPort) -> bool {
    let port = host.port().unwrap_or(default_port(scheme));
    hosts.iter().any(|listed| listed.is(host.name(), port))
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
            assert!(listed(&hosts, scheme, &yes.parse().unwrap()), "{yes}");
        }
        for (scheme, no) in [
            ("https", "www.example.com"),
            ("https", "example.com.evil"),
            ("https", "a.example"),
            ("https", "[::1]"),
            ("http", "10.0.0.10"),
        ] {
            assert!(!listed(&hosts, scheme, &no.parse().unwrap()), "{no}");
        }
    }

    #[test]
    fn the_id_is_the_start_of_the_hash() {
        assert_eq!(cache_id("http://example.com/"), "2a1b402420ef"); // sha256sum says the same
    }
}
