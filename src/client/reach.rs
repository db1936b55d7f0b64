//! Which addresses may be connected to for others, clients of a proxy or servers that redirect: decided on the
//! address that a name turned out to have, which is the one connected to.
//!
//! Never link-local ones and those where clouds keep credentials. For clients, loopback only where the list
//! names it itself: a name on the list may be led there by who answers for that name. Other addresses of this
//! machine only by a name or address on the list.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use crate::config::HostPort;

/// Addresses of this kind that are not link-local: Azure, Alibaba, Oracle; AWS (twice), Google, Oracle and
/// Scaleway by IPv6.
const METADATA: [&str; 8] = [
    "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254",
    "fd00:c1::a9fe:a9fe", "fd00:42::42",
];

/// Who decides where a connection goes.
#[derive(Clone, Debug)]
pub enum Reach {
    /// Clients of a proxy, with the hosts that are listed.
    Clients(Vec<HostPort>),
    /// Servers by redirects, beside these hosts, in lower case, where any address is right.
    Redirects(Vec<String>),
}

impl Reach {
    /// Whether `addr`, which `host` (in lower case, an IPv6 address in brackets) turned out to have, may
    /// be connected to. The error is the end of a line.
    pub fn check(&self, host: &str, addr: SocketAddr) -> Result<(), String> {
        if matches!(self, Reach::Redirects(named) if named.iter().any(|named| named == host)) {
            return Ok(());
        }
        let ip = plain(addr.ip());
        let literal = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
        let (link_local, loopback) = match ip {
            IpAddr::V4(v4) => (v4.is_link_local(), v4.is_loopback() || v4.octets()[0] == 0),
            IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.is_loopback() || v6.is_unspecified()),
        };
        if link_local || METADATA.contains(&ip.to_string().as_str()) {
            return Err(format!("{ip} is link-local or a cloud's metadata service, which is never reached"));
        }
        let Reach::Clients(list) = self else { return Ok(()) };
        let listed = |host: &str| list.iter().any(|listed| listed.is(host, addr.port()));
        let bare = host.trim_end_matches('.');
        let names_it = bare == "localhost"
            || bare.ends_with(".localhost")
            || bare.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        if listed(&literal) || listed(host) && (names_it || !loopback) {
            return Ok(());
        }
        // only an address of this machine can be bound to
        if loopback || UdpSocket::bind((ip, 0)).is_ok() {
            return Err(format!("{ip} is this machine, which is reached only where {literal} is listed"));
        }
        Ok(())
    }
}

/// An address without what IPv6 wraps around an IPv4 one: mapped, translated, compatible, NAT64, 6to4.
fn plain(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip.to_canonical() else { return ip.to_canonical() };
    let part = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => IpAddr::V6(v6),
        [0, 0, 0, 0, 0 | 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, .., high, low]
        | [0x2002, high, low, ..] => part(high, low),
        _ => IpAddr::V6(v6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(list: &[&str], host: &str, ip: &str) -> bool {
        let reach = Reach::Clients(list.iter().map(|h| h.parse().unwrap()).collect());
        reach.check(host, SocketAddr::new(ip.parse().unwrap(), 80)).is_ok()
    }

    #[test]
    fn metadata_services_and_link_local_addresses_are_never_reached() {
        for ip in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "64:ff9b:1::a9fe:a9fe",
            "fd00:c1::a9fe:a9fe",
            "fd00:42::42",
            "fd20:ce::254",
            "192.0.0.192",
            "fe80::1",
            "100.100.100.200",
            "168.63.129.16",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "::ffff:0:169.254.169.254",
        ] {
            let literal = if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() };
            assert!(
                !reach(&[], &literal, ip) && !reach(&[&literal, "h"], "h", ip) && !reach(&[&literal], &literal, ip),
                "{ip}"
            );
        }
        assert!(reach(&[], "h", "192.0.2.1") && reach(&[], "h", "2001:db8::1"));
    }

    #[test]
    fn redirects_lead_where_who_named_the_server_could_have() {
        let reach = Reach::Redirects(vec!["named".into()]);
        let may = |host: &str, ip: &str| reach.check(host, SocketAddr::new(ip.parse().unwrap(), 80)).is_ok();
        assert!(may("named", "169.254.1.2") && may("other", "127.0.0.1") && may("other", "192.0.2.1"));
        assert!(!may("other", "169.254.1.2") && !may("named.example", "fe80::1") && !may("", "100.100.100.200"));
    }

    #[test]
    fn this_machine_is_reached_where_it_is_listed_as_such() {
        for ip in [
            "127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "0.1.2.3", "::", "::ffff:127.0.0.1", "::127.0.0.1",
            "64:ff9b::7f00:1",
        ] {
            assert!(!reach(&[], "h", ip) && !reach(&["h"], "h", ip), "{ip}");
            assert!(!reach(&["localhost:81"], "localhost", ip), "{ip}");
        }
        assert!(reach(&["localhost"], "localhost", "127.0.0.1") && reach(&["localhost"], "localhost.", "::1"));
        assert!(reach(&["[::1]:80"], "[::1]", "::1") && reach(&["127.0.0.1"], "127.1", "127.0.0.1"));
        assert!(reach(&["127.0.0.1"], "[::ffff:127.0.0.1]", "::ffff:127.0.0.1"));
    }
}
