//! Which HTTP proxy stands between us and a host.

use url::Url;

use crate::config::AwsEnv;

/// The HTTP proxy for requests to `host` (`None`: some host of AWS): HTTPS_PROXY or HTTP_PROXY,
/// unless the host is this machine or NO_PROXY lists it (`*`, a name, or the end of names).
pub fn proxy_for(env: &AwsEnv, https: bool, host: Option<&str>) -> Result<Option<String>, String> {
    let either = |upper: &str| env.var(upper).or(env.var(&upper.to_ascii_lowercase()));
    let (name, found) =
        if https { ("HTTPS_PROXY", either("HTTPS_PROXY")) } else { ("HTTP_PROXY", either("HTTP_PROXY")) };
    let Some(proxy) = found else { return Ok(None) };
    let host = host.unwrap_or("amazonaws.com").trim_matches(['[', ']']).to_ascii_lowercase();
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let listed = either("NO_PROXY").unwrap_or_default().split([',', ' ']).any(|entry| {
        let entry = entry.trim_start_matches(['*', '.']).to_ascii_lowercase();
        // `*` alone has become empty
        !entry.is_empty() && (host == entry || host.ends_with(&format!(".{entry}")))
    }) || either("NO_PROXY").is_some_and(|all| all.trim() == "*");
    if loopback || listed {
        return Ok(None);
    }
    let url = if proxy.contains("://") { proxy.to_string() } else { format!("http://{proxy}") };
    match Url::parse(&url) {
        Ok(u) if matches!(u.scheme(), "http" | "https") && u.has_host() => Ok(Some(url)),
        _ => Err(format!("{name} is no http or https URL")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(vars: &[(&str, &str)]) -> AwsEnv {
        AwsEnv { vars: vars.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect() }
    }

    #[test]
    fn proxies_follow_the_environment_and_spare_this_machine() {
        let all = env(&[("HTTPS_PROXY", "http://p:3128"), ("http_proxy", "q:80"), ("NO_PROXY", "corp.example, .x.y")]);
        let of = |https, host| proxy_for(&all, https, host).unwrap();
        assert_eq!(of(true, Some("s3.example")).as_deref(), Some("http://p:3128"));
        assert_eq!(of(false, Some("s3.example")).as_deref(), Some("http://q:80"));
        for host in ["127.0.0.1", "[::1]", "localhost", "corp.example", "s3.corp.example", "a.x.y"] {
            assert_eq!(of(true, Some(host)), None, "{host}");
        }
        assert!(of(true, Some("notcorp.example")).is_some());
        assert!(of(true, None).is_some());
        assert_eq!(proxy_for(&env(&[("HTTPS_PROXY", "http://p"), ("NO_PROXY", "*")]), true, None), Ok(None));
        assert!(proxy_for(&env(&[("HTTPS_PROXY", "socks5://p")]), true, None).is_err());
    }
}
