//! Which HTTP proxy stands between us and a host.

use std::net::IpAddr;

use url::Url;

use crate::config::AwsEnv;

/// The HTTP proxy for requests to `url`, as Go's own client chooses it: HTTPS_PROXY or HTTP_PROXY,
/// unless the host is this machine or NO_PROXY lists it. Its entries are `*`, a name (its own and
/// the end of others), `.name` (the end alone), an address, or a block of addresses; all but the
/// last may have a port.
pub fn proxy_for(env: &AwsEnv, url: &Url) -> Result<Option<String>, String> {
    let either = |upper: &str| env.var(upper).or(env.var(&upper.to_ascii_lowercase()));
    let name = if url.scheme() == "https" { "HTTPS_PROXY" } else { "HTTP_PROXY" };
    let Some(proxy) = either(name) else { return Ok(None) };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let ip: Option<IpAddr> = host.parse().ok();
    let port = url.port_or_known_default();
    let spared = |entry: &str| listed(&entry.to_ascii_lowercase(), host, ip, port);
    if host == "localhost"
        || ip.is_some_and(|ip| ip.is_loopback())
        || either("NO_PROXY").unwrap_or_default().split([',', ' ']).any(spared)
    {
        return Ok(None);
    }
    let text = if proxy.contains("://") { proxy.to_string() } else { format!("http://{proxy}") };
    match Url::parse(&text) {
        Ok(u) if matches!(u.scheme(), "http" | "https") && u.has_host() => Ok(Some(text)),
        _ => Err(format!("{name} is no http or https URL")),
    }
}

/// Whether an entry of NO_PROXY means the host.
fn listed(entry: &str, host: &str, ip: Option<IpAddr>, port: Option<u16>) -> bool {
    if let (Some((block, len)), Some(ip)) = (entry.split_once('/'), ip) {
        return in_block(block, len, ip).unwrap_or(false);
    }
    let bare = |text: &str| text.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    let (name, wanted) = match entry.rsplit_once(':') {
        Some((name, digits)) if bare(entry).is_none() => (name, digits.parse().ok()),
        _ => (entry, port),
    };
    let name = name.strip_prefix('*').unwrap_or(name);
    let same = match (bare(name), ip) {
        (Some(listed), Some(ip)) => listed == ip,
        _ if name.is_empty() => entry.starts_with('*'),
        _ if name.starts_with('.') => host.ends_with(name),
        _ => host.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
    };
    same && wanted == port
}

fn in_block(block: &str, len: &str, ip: IpAddr) -> Option<bool> {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    let ((a, width), (b, other), len) = (bits(block.parse().ok()?), bits(ip), len.parse::<u32>().ok()?);
    Some(width == other && len <= width && (a ^ b).checked_shr(128 - len).unwrap_or(0) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(vars: &[(&str, &str)]) -> AwsEnv {
        AwsEnv { vars: vars.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect() }
    }

    fn of(env: &AwsEnv, url: &str) -> Result<Option<String>, String> {
        proxy_for(env, &Url::parse(url).unwrap())
    }

    #[test]
    fn proxies_follow_the_environment_and_spare_this_machine() {
        let all = env(&[("HTTPS_PROXY", "http://p:3128"), ("http_proxy", "q:80"), ("NO_PROXY", "corp.example, .x.y")]);
        assert_eq!(of(&all, "https://s3.example").unwrap().as_deref(), Some("http://p:3128"));
        assert_eq!(of(&all, "http://s3.example").unwrap().as_deref(), Some("http://q:80"));
        for host in ["127.0.0.1", "[::1]", "localhost", "corp.example", "s3.corp.example", "a.x.y", "CORP.example"] {
            assert_eq!(of(&all, &format!("https://{host}:9000")), Ok(None), "{host}");
        }
        for host in ["notcorp.example", "x.y", "s3.amazonaws.com"] {
            assert!(of(&all, &format!("https://{host}")).unwrap().is_some(), "{host}");
        }
        assert!(of(&env(&[("HTTPS_PROXY", "socks5://p")]), "https://h").is_err());
    }

    #[test]
    fn entries_of_no_proxy() {
        let spares = |entry: &str, url: &str| of(&env(&[("HTTP_PROXY", "p"), ("no_proxy", entry)]), url) == Ok(None);
        for (entry, url) in [
            ("*", "http://h"),
            ("*.corp", "http://s3.corp"),
            ("h:9000", "http://h:9000"),
            ("h:80", "http://h"),
            ("10.1.2.3", "http://10.1.2.3:9000"),
            ("10.1.2.3:9000", "http://10.1.2.3:9000"),
            ("10.0.0.0/8", "http://10.9.9.9"),
            ("0.0.0.0/0", "http://10.9.9.9"),
            ("fd00::/8", "http://[fd12::1]:9000"),
            ("fd12::1", "http://[fd12::1]"),
            ("[fd12::1]:9000", "http://[fd12::1]:9000"),
        ] {
            assert!(spares(entry, url), "{entry} {url}");
        }
        for (entry, url) in [
            ("", "http://h"),
            ("h:9000", "http://h:9001"),
            ("10.1.2.3:1", "http://10.1.2.3:9000"),
            ("10.0.0.0/8", "http://11.0.0.0"),
            ("10.0.0.0/33", "http://10.0.0.0"),
            ("0.0.0.0/0", "http://[fd12::1]"),
            ("x", "http://xx"),
        ] {
            assert!(!spares(entry, url), "{entry} {url}");
        }
    }
}
