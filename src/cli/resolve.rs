//! From values as given to a validated invocation.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Environment;
use super::flags::{Command, Given, Values};
use super::value;
use crate::config::{
    AwsEnv, BucketConfig, BucketLocation, ClearConfig, ClearTarget, Config, ConnectAddr, ConnectConfig, DebugMask,
    HttpConfig, Invocation, Layout, ModProxyConfig, PluginAddr, RunConfig, ServeConfig,
};
use crate::error::Error;
use crate::help;

/// A Unix socket's path may be this long, in bytes.
const SOCKET_PATH_LIMIT: usize = 107;
/// A signing key may be this long, in bytes; a longer file is a mistake.
const SIGNING_KEY_LIMIT: u64 = 64 * 1024;

/// Makes the invocation, checking what concerns more than one value.
pub(super) fn invocation(
    command: Option<Command>,
    values: Values,
    words: Vec<OsString>,
    env: &Environment,
    cwd: &Path,
) -> Result<Invocation, Error> {
    let from = Resolver { values: &values, env, cwd };
    Ok(match command {
        None => Invocation::Direct(from.cache()?),
        Some(Command::Serve(_)) => {
            let plugin = values.plugin.as_ref().ok_or_else(|| {
                Error::usage("serve needs --plugin: a port such as 5930, or the path of a Unix socket")
            })?;
            Invocation::Serve(ServeConfig {
                plugin: from.plugin(plugin)?,
                http: from.http(None)?,
                cache: from.cache()?,
            })
        }
        Some(Command::Connect(args)) => Invocation::Connect(ConnectConfig {
            addr: from.connect(&args.address)?,
            scope: from.scope()?,
            verbose: on(&values.verbose)?,
        }),
        Some(Command::Run(_)) => {
            if words.is_empty() {
                return Err(Error::usage("run needs a command, for example: go-cache-plugin run go build ./..."));
            }
            let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            Invocation::Run(RunConfig { http: from.http(Some(any_port))?, cache: from.cache()?, command: words })
        }
        Some(Command::Status(_)) => Invocation::Status(from.cache()?),
        Some(Command::Prune(_)) => {
            let cache = from.cache()?;
            if cache.expiry.is_none() && cache.max_size.is_none() {
                return Err(Error::usage("prune needs a limit: --expiry, --max-cache-size, or both"));
            }
            Invocation::Prune(cache)
        }
        Some(Command::Clear(_)) => Invocation::Clear(from.clear()?),
        Some(Command::Doctor(_)) => Invocation::Doctor(from.cache()?),
        Some(Command::Help(args)) => Invocation::Help(match args.topic {
            None => None,
            Some(word) => Some(help::topic(&word).ok_or_else(|| {
                Error::usage(format!("no help on {word:?}: the topics are {}", help::names().join(", ")))
            })?),
        }),
        Some(Command::Version(_)) => Invocation::Version,
    })
}

/// A bool, false unless given.
fn on(given: &Option<Given>) -> Result<bool, Error> {
    let Some(given) = given else { return Ok(false) };
    value::boolean(&given.text).ok_or_else(|| given.error("not a bool: write true or false"))
}

fn duration(given: &Given) -> Result<Duration, Error> {
    value::duration(&given.text).ok_or_else(|| given.error("not a duration: write for example 90s, 36h or 1h30m"))
}

fn size(given: &Given) -> Result<u64, Error> {
    value::size(&given.text).ok_or_else(|| given.error("not a size: write for example 500MiB, 10GB or bytes"))
}

/// A count; 0 means the default, as in the original program.
fn count(given: &Option<Given>, default: usize) -> Result<usize, Error> {
    let Some(given) = given else { return Ok(default) };
    match value::integer(&given.text) {
        Some(0) => Ok(default),
        Some(n @ 1..=1024) => Ok(n as usize),
        _ => Err(given.error("not a whole number from 0 to 1024")),
    }
}

/// The items of a comma-separated list, without blanks and empty ones.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

struct Resolver<'a> {
    values: &'a Values,
    env: &'a Environment,
    cwd: &'a Path,
}

impl Resolver<'_> {
    fn variable(&self, name: &str) -> Option<&OsStr> {
        self.env.get(OsStr::new(name)).map(OsString::as_os_str).filter(|v| !v.is_empty())
    }

    fn cache(&self) -> Result<Config, Error> {
        let v = self.values;
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
        Ok(Config {
            cache_dir: self.cache_dir()?,
            bucket: self.bucket()?,
            min_upload_size: v.min_upload_size.as_ref().map_or(Ok(0), size)?,
            metrics: on(&v.metrics)?,
            expiry: v.expiry.as_ref().map(duration).transpose()?.filter(|d| !d.is_zero()),
            max_size: v.max_cache_size.as_ref().map(size).transpose()?.filter(|n| *n > 0),
            concurrency: count(&v.concurrency, (cpus * 4).max(8))?,
            upload_concurrency: count(&v.upload_concurrency, 16)?,
            verbose: on(&v.verbose)?,
            debug: self.debug()?,
            close_timeout: v.close_timeout.as_ref().map_or(Ok(Duration::from_secs(30)), duration)?,
            readahead: !on(&v.no_readahead)?,
            scope: self.scope()?,
            compression_level: self.compression_level()?,
            body_memory: self.body_memory()?,
        })
    }

    fn cache_dir(&self) -> Result<PathBuf, Error> {
        if let Some(given) = &self.values.cache_dir {
            if given.text.is_empty() {
                return Err(given.error("not a directory"));
            }
            return Ok(self.cwd.join(&given.text));
        }
        let absolute = |name| self.variable(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
        let dir = base.map(|base| base.join("go-cache-plugin")).ok_or_else(|| {
            Error::usage("no cache directory: neither XDG_CACHE_HOME nor HOME is set, so give --cache-dir")
        })?;
        if dir.to_str().is_none() {
            return Err(Error::usage(format!("cache directory {dir:?}: not valid UTF-8, so give --cache-dir")));
        }
        Ok(dir)
    }

    fn bucket(&self) -> Result<Option<BucketConfig>, Error> {
        let v = self.values;
        let prefix = v.prefix.as_ref().map_or(Ok(String::new()), key_prefix)?;
        let write_prefix = v.write_prefix.as_ref().map(key_prefix).transpose()?.filter(|p| !p.is_empty());
        let read_only = on(&v.read_only)?;
        let path_style = on(&v.path_style)?;
        let endpoint = v.endpoint.as_ref().filter(|g| !g.text.is_empty()).map(endpoint).transpose()?;
        let layout = match &v.layout {
            None => Layout::Single,
            Some(given) => match given.text.as_str() {
                "single" => Layout::Single,
                "classic" => Layout::Classic,
                _ => return Err(given.error("the layouts are single and classic")),
            },
        };
        if read_only && let Some(p) = v.write_prefix.as_ref().filter(|_| write_prefix.is_some()) {
            return Err(p.error("cannot be combined with --read-only, which writes nothing"));
        }
        if let Some(p) = v.write_prefix.as_ref().filter(|_| write_prefix.as_ref() == Some(&prefix)) {
            return Err(p.error("is the same as --prefix: leave it out, or choose another"));
        }
        let Some(given) = v.bucket.as_ref().filter(|g| !g.text.is_empty()) else { return Ok(None) };
        let signing_key = v.signing_key_file.as_ref().map(|g| self.signing_key(g)).transpose()?;
        let location = match given.text.strip_prefix("file://") {
            Some(path) if path.starts_with('/') => BucketLocation::Dir(PathBuf::from(path)),
            Some(_) => return Err(given.error("not an absolute path: write file:///dir")),
            None => BucketLocation::S3 {
                bucket: bucket_name(given)?,
                region: v.region.as_ref().filter(|g| !g.text.is_empty()).map(region).transpose()?,
                endpoint,
                path_style,
                aws: self.aws(),
            },
        };
        Ok(Some(BucketConfig { location, prefix, write_prefix, read_only, layout, signing_key }))
    }

    fn aws(&self) -> AwsEnv {
        let text = |(name, value): (&OsString, &OsString)| Some((name.to_str()?.into(), value.to_str()?.into()));
        let ours = |name: &str| name.starts_with("AWS_") || name == "HOME";
        AwsEnv { vars: self.env.iter().filter_map(text).filter(|(name, _): &(String, String)| ours(name)).collect() }
    }

    fn signing_key(&self, given: &Given) -> Result<Vec<u8>, Error> {
        let mut key = Vec::new();
        File::open(self.cwd.join(&given.text))
            .and_then(|file| file.take(SIGNING_KEY_LIMIT + 1).read_to_end(&mut key))
            .map_err(|e| given.error(e))?;
        if key.len() as u64 > SIGNING_KEY_LIMIT {
            return Err(given.error("the key is longer than 64 KiB"));
        }
        if key.ends_with(b"\n") {
            key.pop();
            if key.ends_with(b"\r") {
                key.pop();
            }
        }
        if key.len() < 16 {
            return Err(given.error(format!("the key has {} bytes, and needs at least 16", key.len())));
        }
        Ok(key)
    }

    fn debug(&self) -> Result<DebugMask, Error> {
        let Some(given) = &self.values.debug else { return Ok(DebugMask::default()) };
        match value::integer(&given.text) {
            Some(mask @ 0..=7) => Ok(DebugMask(mask as u8)),
            _ => Err(given.error("not a sum of 1 (build cache), 2 (module proxy) and 4 (reverse proxy)")),
        }
    }

    fn compression_level(&self) -> Result<i32, Error> {
        let Some(given) = &self.values.compression_level else { return Ok(1) };
        match value::integer(&given.text) {
            Some(level @ 1..=19) => Ok(level as i32),
            _ => Err(given.error("not a level from 1 to 19")),
        }
    }

    fn body_memory(&self) -> Result<u64, Error> {
        let Some(given) = &self.values.body_memory else { return Ok(256 << 20) };
        Some(size(given)?)
            .filter(|n| *n >= 1 << 20)
            .ok_or_else(|| given.error("less than the smallest that works, 1MiB"))
    }

    fn scope(&self) -> Result<Option<String>, Error> {
        let Some(given) = self.values.scope.as_ref().filter(|g| !g.text.is_empty()) else { return Ok(None) };
        if given.text.len() > 1024 || given.text.chars().any(char::is_control) {
            return Err(given.error("not a line of at most 1024 bytes"));
        }
        Ok(Some(given.text.clone()))
    }

    fn plugin(&self, given: &Given) -> Result<PluginAddr, Error> {
        if given.text.contains('/') {
            return self.socket(&given.text).map(PluginAddr::Unix).map_err(|why| given.error(why));
        }
        let port = given.text.parse().map_err(|_| given.error("neither a port nor the path of a Unix socket"))?;
        Ok(PluginAddr::Port(port))
    }

    fn connect(&self, address: &str) -> Result<ConnectAddr, Error> {
        let wrong = |why: &str| Error::usage(format!("connect {address:?}: {why}"));
        if address.contains('/') {
            return self.socket(address).map(ConnectAddr::Unix).map_err(wrong);
        }
        let (host, port) = match address.rsplit_once(':') {
            None => ("127.0.0.1", address),
            Some(("", port)) => ("127.0.0.1", port),
            Some((host, port)) => (bare_host(host).ok_or_else(|| wrong("write [host]:port"))?, port),
        };
        match port.parse() {
            Ok(port @ 1..) => Ok(ConnectAddr::Tcp(host.to_string(), port)),
            _ => Err(wrong("not a port, host:port or the path of a Unix socket")),
        }
    }

    fn socket(&self, path: &str) -> Result<PathBuf, &'static str> {
        let path = self.cwd.join(path);
        let fits = path.as_os_str().len() <= SOCKET_PATH_LIMIT;
        if fits { Ok(path) } else { Err("a Unix socket's path has at most 107 bytes") }
    }

    fn clear(&self) -> Result<ClearConfig, Error> {
        let v = self.values;
        let on_line = |given: &Option<Given>| given.as_ref().is_some_and(|g| g.on_line);
        let target = match (on(&v.local)?, on_line(&v.bucket)) {
            (true, false) => ClearTarget::Local,
            (false, true) if on_line(&v.prefix) => ClearTarget::Bucket,
            (false, true) => {
                return Err(Error::usage(
                    "clear --bucket needs an explicit --prefix; --prefix= means the whole bucket",
                ));
            }
            (true, true) => return Err(Error::usage("clear takes --local or --bucket, not both")),
            (false, false) => {
                return Err(Error::usage("clear what? --local, or --bucket=NAME --prefix=PREFIX"));
            }
        };
        let cache = self.cache()?;
        if target == ClearTarget::Bucket {
            match &cache.bucket {
                None => return Err(Error::usage("clear --bucket needs a bucket's name")),
                Some(b) if b.read_only => {
                    return Err(Error::usage("clear --bucket cannot be combined with --read-only"));
                }
                Some(_) => {}
            }
        }
        Ok(ClearConfig { cache, target })
    }

    /// The HTTP side, at `fallback` where the module proxy is wanted without an address.
    fn http(&self, fallback: Option<SocketAddr>) -> Result<Option<HttpConfig>, Error> {
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

/// A prefix without slashes at its ends and doubled ones.
fn key_prefix(given: &Given) -> Result<String, Error> {
    let segments: Vec<&str> = given.text.split('/').filter(|s| !s.is_empty()).collect();
    if segments.iter().any(|s| matches!(*s, "." | "..")) || !given.text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(given.error("not a key prefix: ASCII without blanks, and no segment . or .."));
    }
    Ok(segments.join("/"))
}

fn bucket_name(given: &Given) -> Result<String, Error> {
    let name = given.text.strip_prefix("s3://").unwrap_or(&given.text).trim_end_matches('/');
    let fits = (3..=255).contains(&name.len()) && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !fits || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Err(given.error("not a bucket's name, nor file:///dir"));
    }
    Ok(name.to_string())
}

fn region(given: &Given) -> Result<String, Error> {
    let fits = given.text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if fits { Ok(given.text.clone()) } else { Err(given.error("not a region: write for example us-east-1")) }
}

fn endpoint(given: &Given) -> Result<String, Error> {
    let url = given.text.trim_end_matches('/');
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
    let plain = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b));
    if plain { Ok(url.to_string()) } else { Err(given.error("not an endpoint: write http[s]://host[:port]")) }
}

fn upstream(given: &Given) -> Result<String, Error> {
    let mut any = false;
    for entry in given.text.split([',', '|']).map(str::trim).filter(|e| !e.is_empty()) {
        let known = entry == "off" || ["https://", "http://", "file:///"].iter().any(|s| entry.starts_with(s));
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

/// Takes the brackets off an IPv6 address.
fn bare_host(host: &str) -> Option<&str> {
    match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']'),
        None => (!host.contains(':')).then_some(host),
    }
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
