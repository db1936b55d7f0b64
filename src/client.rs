//! The one maker of HTTP clients: time-outs, connections that are kept, proxies, certificates.
//!
//! Invariants: nothing happens before the first request, and the certificates are read for https
//! alone, since that takes milliseconds; a status is an answer, never an error; a proxy is never
//! used to reach this machine.

mod answer;
mod reach;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::tls::{Certificate, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    self, Buffers, ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, RustlsConnector, TcpConnector,
    Transport,
};
use ureq::{Agent, Proxy, ProxyProtocol};
use url::Url;

use crate::bounded::Bounded;
use crate::config::AwsEnv;
use crate::metrics::Metrics;
use crate::text::{number, percent_decode};

pub use self::answer::Received;
pub use self::reach::Reach;

/// Idle connections kept in all; more requests at a time than this open connections anew.
const POOL: usize = 64;
/// Per connection and direction; ureq's 128 KiB would make the pool 16 MiB.
const BUFFER: usize = 32 * 1024;
/// How long a host's addresses are believed: ureq asks for them before every request, also of
/// those that take a kept connection.
const ADDRESS_TTL: Duration = Duration::from_secs(60);

/// What to do where an authority is missing.
const NAME_ONE: &str = "name a PEM file in SSL_CERT_FILE (AWS_CA_BUNDLE, for the bucket, comes before it)";

/// Of so many hosts.
const ADDRESSES: usize = 1024;

/// What a client is made from; the times have no default that is of use.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Time to resolve the host's name; then to connect, TLS included.
    pub connect: Duration,
    /// Time to the head of the answer.
    pub answer: Duration,
    /// Time between two bytes of anything.
    pub pause: Duration,
    /// Idle connections to one host are kept for so long, and so many. A connection that the server
    /// closed meanwhile is found out before it is used, but for the rare one that dies in between.
    pub keep: (Duration, usize),
    /// Redirects that are followed; one more is an answer.
    pub redirects: u32,
    /// Requests are sent as they are: no header of ours, any method.
    pub verbatim: bool,
    /// The proxy, where there is one.
    pub proxy: Option<Proxy>,
    /// A file of certificates in PEM form to trust instead of the machine's.
    pub ca_file: Option<PathBuf>,
    /// Counts the connections that are opened as the bucket's.
    pub bucket: Option<Arc<Metrics>>,
    /// Which addresses may be connected to; without it, all.
    pub reach: Option<Reach>,
}

/// Sends requests, of http and https.
pub struct Client {
    options: Options,
    /// For http and https, once there is a need: threads that come together share one, and its connections.
    agents: [Mutex<Option<Agent>>; 2],
}

impl Client {
    /// A client; nothing happens yet.
    pub fn new(options: Options) -> Self {
        Client { options, agents: Default::default() }
    }

    /// The agent for `https`, or http. The error is a machine without certificates.
    pub fn agent(&self, https: bool) -> io::Result<Agent> {
        // a proxy may be an https one before an http server
        let https = https || self.options.proxy.as_ref().is_some_and(|p| p.protocol() == ProxyProtocol::Https);
        let mut agent = self.agents[usize::from(https)].lock().expect("no holder panics");
        if agent.is_none() {
            *agent = Some(self.make(https)?);
        }
        Ok(agent.clone().expect("just made"))
    }

    /// The proxy that a request to `url` goes through.
    pub fn proxy(&self, url: &str) -> Option<String> {
        let proxy = self.options.proxy.as_ref()?;
        let spared = url.parse::<Uri>().is_ok_and(|uri| proxy.is_no_proxy(&uri));
        (!spared).then(|| format!("{}:{}", proxy.host(), proxy.port()))
    }

    /// A TLS session with `host`, a name or an address, over whatever connection.
    pub fn session(&self, host: &str) -> io::Result<rustls::Connection> {
        let mut trusted = RootCertStore::empty();
        trusted.add_parsable_certificates(roots(self.options.ca_file.as_deref())?);
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_string()).map_err(io::Error::other)?;
        Ok(ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?.into())
    }

    fn make(&self, https: bool) -> io::Result<Agent> {
        let o = &self.options;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(o.redirects)
            .max_redirects_will_error(false)
            .proxy(o.proxy.clone())
            .user_agent(concat!("go-cache-plugin/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(o.connect))
            .timeout_connect(Some(o.connect))
            .timeout_send_request(Some(o.pause))
            .timeout_recv_response(Some(o.answer))
            .timeout_per_read(Some(o.pause))
            .timeout_per_write(Some(o.pause))
            .max_idle_connections(POOL)
            .max_idle_age(o.keep.0)
            .max_idle_connections_per_host(o.keep.1)
            .input_buffer_size(BUFFER)
            // one that fills the buffer would look like a server that has closed
            .max_response_header_size(BUFFER - 1)
            .output_buffer_size(BUFFER);
        if o.verbatim {
            config = config.allow_non_standard_methods(true).user_agent("").accept("").accept_encoding("");
        }
        if https {
            let roots = roots(o.ca_file.as_deref())?;
            let roots: Vec<_> = roots.iter().map(|c| Certificate::from_der(c).to_owned()).collect();
            let tls = TlsConfig::builder()
                .root_certs(roots.into())
                .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .build();
            config = config.tls_config(tls);
        }
        let connector = ().chain(ConnectProxyConnector::default()).chain(TcpConnector::default());
        let connector = connector.chain(Opened(o.bucket.clone())).chain(RustlsConnector::default());
        let resolver = Remembering { known: Bounded::new(ADDRESSES), reach: o.reach.clone() };
        Ok(Agent::with_parts(config.build(), connector, resolver))
    }
}

/// What went wrong, where ureq has no words of its own for people.
pub fn words(e: &ureq::Error) -> String {
    use ureq::Error;
    let tls = match e {
        Error::Rustls(e) => Some(e),
        Error::Io(e) => e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()),
        _ => None,
    };
    match e {
        _ if matches!(tls, Some(rustls::Error::InvalidMessage(_))) => {
            "what answers there speaks no TLS: perhaps it is http://, not https://".to_string()
        }
        _ if matches!(tls, Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))) => {
            format!("no trusted authority has signed its certificate: {NAME_ONE}")
        }
        Error::Io(e) => e.to_string(),
        Error::Timeout(which) => format!("no answer in time ({which})"),
        Error::HostNotFound => "no such host".to_string(),
        Error::ConnectionFailed => "cannot connect".to_string(),
        Error::LargeResponseHeader(..) => "the head of its answer is longer than 32 KiB".to_string(),
        e => e.to_string(),
    }
}

/// The certificates to trust.
fn roots(file: Option<&Path>) -> io::Result<Vec<CertificateDer<'static>>> {
    let found = match file {
        // a pipe would be waited for
        Some(file) if file.exists() && !file.is_file() => {
            return Err(io::Error::other(format!("{}: is no plain file", file.display())));
        }
        Some(file) => rustls_native_certs::load_certs_from_paths(Some(file), None),
        None => rustls_native_certs::load_native_certs(),
    };
    if found.certs.is_empty() {
        let from = file.map_or_else(|| "on this machine".to_string(), |f| format!("in {}", f.display()));
        let why = found.errors.first().map(|e| format!(" ({e})")).unwrap_or_default();
        return Err(io::Error::other(format!(
            "no certificate authorities {from}{why}: install ca-certificates, or {NAME_ONE}"
        )));
    }
    Ok(found.certs)
}

/// The proxy that `env` names for https or http, HTTPS_PROXY or HTTP_PROXY; it is not asked for this
/// machine and for what NO_PROXY lists: `*`, IPv4 networks as `10.0.0.0/8`, or names that stand for what ends
/// with them too.
/// Everything goes through it by CONNECT.
pub fn proxy_for(env: &AwsEnv, https: bool) -> Result<Option<Proxy>, String> {
    let either = |upper: &str| env.var(upper).or(env.var(&upper.to_ascii_lowercase()));
    let name = if https { "HTTPS_PROXY" } else { "HTTP_PROXY" };
    let Some(proxy) = either(name).map(str::trim) else { return Ok(None) };
    let wrong = || format!("{name} is no http or https URL");
    let url = if proxy.contains("://") { Url::parse(proxy) } else { Url::parse(&format!("http://{proxy}")) };
    let url = url.map_err(|_| wrong())?;
    let protocol = match url.scheme() {
        "http" => ProxyProtocol::Http,
        "https" => ProxyProtocol::Https,
        _ => return Err(wrong()),
    };
    let mut made = Proxy::builder(protocol).host(url.host_str().ok_or_else(wrong)?);
    made = made.port(url.port_or_known_default().ok_or_else(wrong)?);
    if !url.username().is_empty() || url.password().is_some() {
        let decoded = |text| percent_decode(text).ok_or_else(wrong);
        made = made.username(&decoded(url.username())?).password(&decoded(url.password().unwrap_or_default())?);
    }
    for entry in either("NO_PROXY").unwrap_or_default().split([',', ' ']).chain(["localhost", "127.*", "[::1]"]) {
        let host = match entry.rsplit_once(':') {
            Some((host, port)) if number(port).is_some() => host,
            _ => entry,
        };
        made = match host.trim_start_matches("*.").trim_start_matches('.') {
            "" => made,
            "*" => made.no_proxy("*"),
            name if name.contains('/') => subnet(name).into_iter().fold(made, |made, part| made.no_proxy(&part)),
            name => made.no_proxy(name).no_proxy(&format!(".{name}")),
        };
    }
    made.build().map(Some).map_err(|e| format!("{name}: {e}"))
}

/// The addresses of an IPv4 network in the form `10.1.*`, which is the client's own; none where it is not one.
fn subnet(text: &str) -> Vec<String> {
    let parse = || {
        let (net, bits) = text.split_once('/')?;
        let bits = bits.parse::<u32>().ok().filter(|bits| (1..=32).contains(bits))?;
        Some((net.parse::<Ipv4Addr>().ok()?.to_bits() & (!0 << (32 - bits)), bits))
    };
    let Some((net, bits)) = parse() else { return Vec::new() };
    let bytes = bits.div_ceil(8);
    let part = |n: u32| {
        let octets = Ipv4Addr::from_bits(net | n << (32 - 8 * bytes)).octets();
        let known = octets[..bytes as usize].iter().map(u8::to_string).collect::<Vec<_>>().join(".");
        if bytes < 4 { known + ".*" } else { known }
    };
    (0..1 << (8 * bytes - bits)).map(part).collect()
}

/// Has what it is given hear answers early, and counts it, as the bucket's.
#[derive(Debug)]
struct Opened(Option<Arc<Metrics>>);

impl<In: Transport> Connector<In> for Opened {
    type Out = Hearing<In>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        // through a proxy, this is called once more for the connection to it, without the proxy
        if let (Some(_), Some(metrics), None) = (&chained, &self.0, details.config.proxy()) {
            metrics.bucket.connections.inc();
        }
        Ok(chained.map(|to| Hearing { to, deaf: false }))
    }
}

/// A connection, below its TLS, on which an answer is heard though the server takes no more of the request: that
/// goes nowhere then.
#[derive(Debug)]
struct Hearing<T> {
    to: T,
    deaf: bool,
}

impl<T: Transport> Transport for Hearing<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.to.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        if self.deaf {
            return Ok(());
        }
        self.to.transmit_output(amount, timeout).or_else(|e| {
            let closed = matches!(&e, ureq::Error::Io(e) if is_disconnect(e));
            self.deaf = closed && matches!(self.to.await_input(timeout), Ok(true));
            if self.deaf { Ok(()) } else { Err(e) }
        })
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.to.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        !self.deaf && self.to.is_open()
    }

    fn is_tls(&self) -> bool {
        self.to.is_tls()
    }
}

/// Whether a connection was closed by the other side.
pub fn is_disconnect(e: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(e.kind(), ConnectionReset | ConnectionAborted | BrokenPipe | NotConnected | UnexpectedEof)
}

/// A resolver that remembers.
#[derive(Debug)]
struct Remembering {
    known: Bounded<String, (Instant, Vec<SocketAddr>)>,
    reach: Option<Reach>,
}

impl Resolver for Remembering {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let name = format!("{}://{}", uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |a| a.as_str()));
        let known = self.known.get(&name);
        if let Some((at, addresses)) = known
            && at.elapsed() < ADDRESS_TTL
        {
            let mut found = self.empty();
            addresses.into_iter().for_each(|a| found.push(a));
            return Ok(found);
        }
        let mut found = ask_system(uri, config, timeout)?;
        if let Some(reach) = &self.reach {
            let (host, mut why, mut fine) = (uri.host().unwrap_or_default().to_ascii_lowercase(), None, self.empty());
            for addr in found.iter() {
                match reach.check(&host, *addr) {
                    Ok(()) => fine.push(*addr),
                    Err(refused) => why = Some(refused),
                }
            }
            if let Some(why) = why.filter(|_| fine.is_empty()) {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why).into());
            }
            found = fine;
        }
        self.known.insert(name, (Instant::now(), found.to_vec()));
        Ok(found)
    }
}

/// The addresses that the system has for a name, which it looks up on a thread of its own. Where there is none to be
/// had, at which ureq would panic, the caller's has to wait for as long as it takes.
fn ask_system(uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
    let mut whenever = timeout;
    whenever.after = transport::time::Duration::NotHappening;
    let ask = move |uri: &Uri, config: &Config| DefaultResolver::default().resolve(uri, config, whenever);
    let ((tell, told), asked) = (mpsc::channel(), (uri.clone(), config.clone()));
    match thread::Builder::new().name("resolve".into()).spawn(move || drop(tell.send(ask(&asked.0, &asked.1)))) {
        Ok(_) => told.recv_timeout(*timeout.after).unwrap_or(Err(ureq::Error::Timeout(timeout.reason))),
        Err(_) => ask(uri, config),
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
        let none = (
            "NO_PROXY",
            "corp.example, .x.y,*.Z.example,ported.example:9000,10.9.0.0/15,192.168.7.64/26,1.2.3/4,9.9.9.9/0,::/0",
        );
        let all = env(&[("HTTPS_PROXY", "http://us%40er:p@p:3128"), ("http_proxy", "q:80"), none]);
        let (https, http) = (proxy_for(&all, true).unwrap().unwrap(), proxy_for(&all, false).unwrap().unwrap());
        assert_eq!((https.host(), https.port(), http.host(), http.port()), ("p", 3128, "q", 80));
        assert_eq!((https.username(), https.password()), (Some("us@er"), Some("p")));
        let direct = |host: &str| https.is_no_proxy(&format!("https://{host}/x").parse().unwrap());
        for host in ["127.0.0.1", "127.1.2.3:9000", "[::1]:1", "localhost", "corp.example", "s3.corp.example", "a.x.y"]
        {
            assert!(direct(host), "{host}");
        }
        assert!(direct("a.z.example") && direct("ported.example:9000"));
        assert!(direct("10.8.0.1") && direct("10.9.255.255:9000") && direct("192.168.7.127"));
        for host in [
            "10.10.0.1",
            "192.168.7.128",
            "192.168.7.63",
            "1.2.3.4",
            "s3.example",
            "notcorp.example",
            "10.0.0.1",
            "b.s3.eu-west-1.amazonaws.com",
        ] {
            assert!(!direct(host), "{host}");
        }
        let nobody = proxy_for(&env(&[("HTTPS_PROXY", "http://p"), ("no_proxy", "a, *")]), true).unwrap().unwrap();
        assert!(nobody.is_no_proxy(&"https://s3.example/".parse().unwrap()));
        assert_eq!(proxy_for(&env(&[("HTTPS_PROXY", "http://p")]), false), Ok(None));
        for wrong in ["socks5://p", "http://", "http://%zz:x@p"] {
            assert!(proxy_for(&env(&[("HTTPS_PROXY", wrong)]), true).is_err(), "{wrong}");
        }
    }
}
