//! From values as given to a validated invocation.

mod bucket;
mod http;
mod path;

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use self::path::is_path;
use super::Environment;
use super::flags::{Flag, Given, Mode, Section, Values};
use super::value;
use crate::config::{
    BucketConfig, ClearConfig, Config, ConnectAddr, ConnectConfig, DebugMask, DoctorConfig, GoSays, Invocation,
    KeyPrefix, PluginAddr, PruneConfig, PushConfig, Report, RunConfig, SOCKET_PATH_LIMIT, ServeConfig, SettleConfig,
    SummaryConfig, Version,
};
use crate::error::Error;
use crate::platform::{CACHES, HOME};
use crate::settle::Options;
use crate::sign::Signer;

/// What `--debug` takes.
const DEBUG_MASKS: &str = "a sum of 1 (build cache), 2 (module proxy) and 4 (reverse proxy)";

/// Makes the invocation, checking what concerns more than one value.
pub(super) fn invocation(
    mode: Mode,
    word: String,
    mut values: Values,
    command: Vec<OsString>,
    flags: Vec<OsString>,
    env: &Environment,
    cwd: &Path,
) -> Result<Invocation, Error> {
    let note = match mode {
        // these say themselves that they need a bucket, or look at none
        Mode::Pull | Mode::Push | Mode::Prune | Mode::Clear => None,
        _ => without_bucket(&mut values, env)?,
    };
    let from = Resolver { mode, note, values: &values, env, cwd };
    Ok(match mode {
        Mode::Direct => Invocation::Direct(from.cache()?),
        Mode::Serve => {
            let plugin = values.plugin.as_ref().ok_or_else(|| {
                Error::usage("serve needs --plugin: a port such as 5930, or the path of a Unix socket")
            })?;
            Invocation::Serve(ServeConfig {
                plugin: from.plugin(plugin)?,
                http: from.http(None)?,
                cache: from.cache()?,
            })
        }
        Mode::Connect => Invocation::Connect(ConnectConfig {
            addr: from.connect(word)?,
            scope: from.scope()?,
            verbose: on(&values.verbose)?,
            fallback: if on(&values.strict)? { None } else { Some(from.cache()) },
        }),
        Mode::Run => {
            if command.is_empty() {
                return Err(Error::usage("run needs a command, for example: go-cache-plugin run go build ./..."));
            }
            let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let (mut cache, http) = (from.cache()?, from.http(Some(any_port))?);
            // where the job is summed up, so is this
            let report = if cache.summary.is_some() { Report::Plain } else { from.report() };
            cache.tests |= !matches!(report, Report::Plain);
            let go_says = GoSays { upstream: values.upstream.is_none(), sumdb: values.sumdb.is_none() };
            let settle = on(&values.settle)?;
            Invocation::Run(RunConfig { http, cache, command, go_says, report, settle })
        }
        Mode::Status => Invocation::Status(from.cache()?, from.names_bucket()?),
        Mode::Prune if from.names_bucket()? => Invocation::PruneBucket(from.prune_bucket()?),
        Mode::Push => Invocation::Push(from.push()?),
        Mode::Settle => Invocation::Settle(SettleConfig {
            dir: Some(word).filter(|word| !word.is_empty()).map(|word| cwd.join(word)),
            options: Options { dry_run: on(&values.dry_run)?, modes: on(&values.modes)? },
            json: on(&values.json)?,
            verbose: on(&values.verbose)?,
        }),
        Mode::Prune => {
            let of_bucket =
                |flag: &Flag| flag.section == Section::PRUNE || flag.name == "dry-run" || flag.needs_bucket();
            if let Some((_, given)) = values.asked().find(|(flag, given)| given.on_line && of_bucket(flag)) {
                return Err(Error::usage(format!("prune {} needs --bucket", given.from)));
            }
            // what the variables say of a bucket does not matter
            let cache = from.with_bucket(None)?;
            if cache.expiry.is_none() && cache.max_size.is_none() {
                return Err(Error::usage("prune needs a limit: --expiry, --max-cache-size, or both"));
            }
            Invocation::Prune(cache)
        }
        Mode::Pull => Invocation::Pull(from.cache()?),
        Mode::Clear => Invocation::Clear(from.clear()?),
        Mode::Doctor => {
            let proxied = on(&values.modproxy)? || values.upstream.as_ref().is_some_and(|given| given.on_line);
            Invocation::Doctor(DoctorConfig {
                cache: from.cache()?,
                proxy: from.mod_proxy()?,
                proxied,
                flags,
                env: env.clone(),
                cwd: cwd.to_path_buf(),
            })
        }
        Mode::Keygen if on(&values.token)? => Invocation::Token(token_name(word)?),
        Mode::Keygen => Invocation::Keygen(cwd.join(word)),
        Mode::Mod => Invocation::Mod(from.modules(&word, command)?),
        Mode::Summary => {
            let given = (!word.is_empty()).then(|| cwd.join(word)).or(from.summary()?);
            let file = given.ok_or_else(|| Error::usage("summary needs a file: summary FILE, or GOCACHE_SUMMARY"))?;
            Invocation::Summary(SummaryConfig { file, report: from.report() })
        }
        Mode::Help => Invocation::Help(Some(word).filter(|topic| !topic.is_empty())),
        Mode::Version => Invocation::Version(match (on(&values.json)?, on(&values.licenses)?) {
            (true, true) => return Err(Error::usage("version: --json or --licenses, one of them")),
            (true, false) => Version::Json,
            (false, true) => Version::Licenses,
            (false, false) => Version::Line,
        }),
    })
}

/// The name of a token: one word of a line.
fn token_name(word: String) -> Result<String, Error> {
    if word.starts_with('#') || word.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Error::usage(format!("keygen --token {word:?}: not a name: write one word")));
    }
    Ok(if word.is_empty() { "client".to_string() } else { word })
}

/// A bool, false unless given.
fn on(given: &Option<Given>) -> Result<bool, Error> {
    let Some(given) = given else { return Ok(false) };
    value::boolean(&given.text).ok_or_else(|| given.error("not a bool: write true or false"))
}

/// A value of a type that checks it; an empty one is none.
fn parsed<T: FromStr<Err: Display>>(given: &Option<Given>) -> Result<Option<T>, Error> {
    let given = given.as_ref().filter(|g| !g.text.is_empty());
    given.map(|g| g.text.parse().map_err(|why| g.error(why))).transpose()
}

fn duration(given: &Given) -> Result<Duration, Error> {
    value::duration(&given.text).ok_or_else(|| given.error("not a duration: write for example 90s, 36h or 1h30m"))
}

/// An age that something may reach; 0 means that it may be of any.
fn age(given: &Given) -> Result<Option<Duration>, Error> {
    Ok(Some(duration(given)?).filter(|age| !age.is_zero()))
}

fn size(given: &Given) -> Result<u64, Error> {
    value::size(&given.text).ok_or_else(|| given.error("not a size: write for example 500MiB, 10GB or bytes"))
}

/// A whole number in `range`; the error is that it is `not` one.
fn number(given: &Given, range: RangeInclusive<u64>, not: &str) -> Result<u64, Error> {
    value::integer(&given.text).filter(|n| range.contains(n)).ok_or_else(|| given.error(format_args!("not {not}")))
}

/// A count; 0 means the default, as in the original program.
fn count(given: &Option<Given>, default: usize) -> Result<usize, Error> {
    let Some(given) = given else { return Ok(default) };
    let n = number(given, 0..=1024, "a whole number from 0 to 1024")? as usize;
    Ok(if n == 0 { default } else { n })
}

/// Drops what is said of a bucket where none is named. The error is that flags alone say it; where there
/// was to be a bucket, as the environment shows, a job may have been given none, like one for a fork, and
/// a build never fails of that: then the line that says so.
fn without_bucket(values: &mut Values, env: &Environment) -> Result<Option<String>, Error> {
    let variable = env.get(OsStr::new("GOCACHE_S3_BUCKET")).map(|value| value.is_empty());
    let why = match (values.bucket.as_ref(), variable) {
        (Some(given), _) if !given.text.is_empty() => return Ok(None),
        (Some(_), Some(false)) => None,
        (_, Some(true)) => Some("GOCACHE_S3_BUCKET is empty"),
        (Some(_), None) => Some("--bucket names none"),
        (None, _) => Some("GOCACHE_S3_BUCKET is not set"),
    };
    let (mut idle, mut lost) = (Vec::new(), values.bucket.is_some() || variable.is_some());
    for (_, given) in values.asked().filter(|(flag, _)| flag.needs_bucket()) {
        idle.push(given.from.clone());
        lost |= !given.on_line;
    }
    if let Some(flag) = idle.first().filter(|_| !lost) {
        return Err(Error::usage(format!("{flag} needs a bucket: --bucket=NAME, or GOCACHE_S3_BUCKET")));
    }
    values.drop_all(Flag::needs_bucket);
    let void = if idle.is_empty() { String::new() } else { format!("; of no use: {}", idle.join(", ")) };
    Ok(why.filter(|_| lost).map(|why| format!("{why}: the cache is local{void}")))
}

struct Resolver<'a> {
    mode: Mode,
    note: Option<String>,
    values: &'a Values,
    env: &'a Environment,
    cwd: &'a Path,
}

impl Resolver<'_> {
    fn variable(&self, name: &str) -> Option<&OsStr> {
        self.env.get(OsStr::new(name)).map(OsString::as_os_str).filter(|v| !v.is_empty())
    }

    fn cache(&self) -> Result<Config, Error> {
        self.with_bucket(self.bucket()?)
    }

    fn with_bucket(&self, bucket: Option<BucketConfig>) -> Result<Config, Error> {
        let v = self.values;
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
        Ok(Config {
            cache_dir: self.cache_dir()?,
            bucket,
            note: self.note.clone(),
            min_upload_size: size(&v.min_upload_size.or_default())?,
            metrics: on(&v.metrics)?,
            summary: self.summary()?,
            tests: self.summary()?.is_some(),
            expiry: age(&v.expiry.or_default())?,
            expiry_given: v.expiry.is_some(),
            max_size: v.max_cache_size.as_ref().map(size).transpose()?.filter(|n| *n > 0),
            concurrency: count(&v.concurrency, (cpus * 4).max(64))?,
            upload_concurrency: count(&v.upload_concurrency, 16)?,
            verbose: on(&v.verbose)?,
            debug: DebugMask(number(&v.debug.or_default(), 0..=7, DEBUG_MASKS)? as u8),
            close_timeout: duration(&v.close_timeout.or_default())?,
            pending_expiry: age(&v.pending_expiry.or_default())?.unwrap_or(value::LONGEST),
            readahead: !on(&v.no_readahead)?,
            scope: self.scope()?,
            compression_level: number(&v.compression_level.or_default(), 1..=19, "a level from 1 to 19")? as i32,
            body_memory: self.body_memory()?,
        })
    }

    /// Refuses a relative path where `go` starts us, wherever it is itself: that would be made there.
    fn in_full(&self, given: &Option<Given>) -> Result<(), Error> {
        if let Some(given) = given.as_ref().filter(|_| matches!(self.mode, Mode::Direct | Mode::Connect))
            && self.expanded(&given.text).is_ok_and(|path| !path.is_empty() && !Path::new(&path).is_absolute())
        {
            return Err(given.error("relative, while go starts this in any directory: write it in full, or $HOME/…"));
        }
        Ok(())
    }

    /// The local cache directory.
    fn cache_dir(&self) -> Result<PathBuf, Error> {
        self.in_full(&self.values.cache_dir)?;
        self.user_dir(&self.values.cache_dir, "cache", CACHES)
    }

    /// The directory that `--<kind>-dir` gives, else ours in the user's folder: what `variable` says, or `folder`
    /// in the home directory.
    fn user_dir(&self, given: &Option<Given>, kind: &str, (variable, folder): (&str, &str)) -> Result<PathBuf, Error> {
        if let Some(given) = given {
            if given.text.is_empty() {
                return Err(given.error("not a directory"));
            }
            return self.path(given);
        }
        let absolute = |name| self.variable(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let base = absolute(variable).or_else(|| absolute(HOME).map(|home| home.join(folder)));
        let dir = base.map(|base| base.join("go-cache-plugin")).ok_or_else(|| {
            Error::usage(format!("no {kind} directory: neither {variable} nor {HOME} is set, so give --{kind}-dir"))
        })?;
        if dir.to_str().is_none() {
            return Err(Error::usage(format!("{kind} directory {dir:?}: not valid UTF-8, so give --{kind}-dir")));
        }
        Ok(dir)
    }

    /// The file that what was counted is appended to.
    fn summary(&self) -> Result<Option<PathBuf>, Error> {
        self.in_full(&self.values.summary)?;
        let given = self.values.summary.as_ref().filter(|g| !g.text.is_empty());
        given.map(|given| self.path(given)).transpose()
    }

    /// Where this job's summaries are looked for.
    fn report(&self) -> Report {
        match self.variable("GITHUB_STEP_SUMMARY") {
            Some(file) => Report::GitHub(file.into()),
            None if self.variable("GITLAB_CI").is_some() => Report::GitLab,
            None => Report::Plain,
        }
    }

    fn body_memory(&self) -> Result<u64, Error> {
        let given = self.values.body_memory.or_default();
        Some(size(&given)?)
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
        if is_path(&given.text) {
            return self.socket(given).map(PluginAddr::Unix);
        }
        let port = given.text.parse().map_err(|_| given.error("neither a port nor the path of a Unix socket"))?;
        Ok(PluginAddr::Port(port))
    }

    /// The server that `word` names, else GOCACHE_PLUGIN.
    fn connect(&self, word: String) -> Result<ConnectAddr, Error> {
        let (text, from) = match self.variable("GOCACHE_PLUGIN").and_then(OsStr::to_str) {
            Some(variable) if word.is_empty() => (variable.to_string(), "GOCACHE_PLUGIN"),
            _ => (word, "connect"),
        };
        let given = Given { text, from: from.into(), on_line: from == "connect" };
        let address = given.text.as_str();
        if address.is_empty() {
            return Err(Error::usage(
                "connect needs an address: a port, host:port or a Unix socket, or GOCACHE_PLUGIN",
            ));
        }
        if is_path(address) {
            return self.socket(&given).map(ConnectAddr::Unix);
        }
        let (host, port) = match address.rsplit_once(':') {
            None => ("127.0.0.1", address),
            Some(("", port)) => ("127.0.0.1", port),
            Some((host, port)) => (bare_host(host).ok_or_else(|| given.error("write [host]:port"))?, port),
        };
        match port.parse() {
            Ok(port @ 1..) => Ok(ConnectAddr::Tcp(host.to_string(), port)),
            _ => Err(given.error("not a port, host:port or the path of a Unix socket")),
        }
    }

    fn socket(&self, given: &Given) -> Result<PathBuf, Error> {
        let path = self.path(given)?;
        let fits = path.as_os_str().len() <= SOCKET_PATH_LIMIT;
        if fits { Ok(path) } else { Err(given.error("a Unix socket's path has at most 107 bytes")) }
    }

    /// Whether the command line says `--bucket`; the error is that there is none.
    fn names_bucket(&self) -> Result<bool, Error> {
        match self.values.bucket.as_ref() {
            Some(given) if given.on_line && given.text.is_empty() && given.from == "--bucket" => {
                Err(Error::usage("--bucket names none: write --bucket=NAME, or set GOCACHE_S3_BUCKET"))
            }
            given => Ok(given.is_some_and(|given| given.on_line)),
        }
    }

    /// The bucket, which `command` writes to.
    fn written_bucket(&self, command: &str) -> Result<BucketConfig, Error> {
        let none = || Error::usage(format!("{command} needs a bucket: --bucket=NAME, or GOCACHE_S3_BUCKET"));
        let bucket = self.bucket()?.ok_or_else(none)?;
        if bucket.read_only {
            let why = "as --read-only says or a key that only verifies";
            return Err(Error::usage(format!("{command}: the bucket is only read, {why}")));
        }
        Ok(bucket)
    }

    fn prune_bucket(&self) -> Result<PruneConfig, Error> {
        let v = self.values;
        if let Some(given) = v.max_cache_size.as_ref().filter(|given| given.on_line) {
            return Err(given.error("is for the local cache; prune --bucket goes by --expiry"));
        }
        let (bucket, cache) = (self.written_bucket("prune --bucket")?, self.with_bucket(None)?);
        // what the variable says is meant for the local cache
        let expiry = cache.expiry.filter(|_| v.expiry.as_ref().is_some_and(|given| given.on_line));
        let expiry = expiry.ok_or_else(|| Error::usage("prune --bucket needs an age, for example --expiry=30d"))?;
        let rate = number(&v.rate.or_default(), 0..=u64::MAX, "a whole number")?;
        Ok(PruneConfig { cache, bucket, expiry, dry_run: on(&v.dry_run)?, proxied: on(&v.proxied)?, rate })
    }

    fn push(&self) -> Result<PushConfig, Error> {
        let v = self.values;
        let (mut bucket, sign) = (self.written_bucket("push")?, on(&v.sign)?);
        if sign && !bucket.signer.signs() {
            return Err(Error::usage("push --sign needs --signing-key-file"));
        }
        let unsigned = bucket.signer.signs() && !sign;
        if !sign {
            bucket.signer = Signer::default();
        }
        bucket.replace_nothing = true;
        let since = v.since.as_ref().map_or(Ok(None), age)?;
        Ok(PushConfig { cache: self.with_bucket(None)?, bucket, since, unsigned })
    }

    /// Only what says where to clear is looked at: the variables are made for builds, and may hold
    /// much that has no meaning here.
    fn clear(&self) -> Result<ClearConfig, Error> {
        let v = self.values;
        let on_line = |given: &Option<Given>| given.as_ref().is_some_and(|g| g.on_line);
        let (local, named, whole) = (on(&v.local)?, on_line(&v.bucket), on(&v.whole_bucket)?);
        let usage = |why: &str| Err(Error::usage(format!("clear {why}")));
        let bucket = match (local, named) {
            (true, true) => return usage("takes --local or --bucket, not both"),
            (false, false) => return usage("what? --local, or --bucket=BUCKET --prefix=PREFIX"),
            (true, false) if whole => return usage("--whole-bucket needs --bucket"),
            (true, false) => None,
            (false, true) if on_line(&v.read_only) && on(&v.read_only)? => {
                return usage("--bucket cannot be combined with --read-only");
            }
            (false, true) => {
                let prefix = v.prefix.clone().filter(|given| given.on_line);
                let named = self.place(&prefix)?.ok_or_else(|| Error::usage("clear --bucket needs a bucket's name"))?;
                match (named.prefix == KeyPrefix::default(), prefix.is_some(), whole) {
                    (true, false, true) | (false, _, false) => Some(named),
                    (true, true, false) => return usage("--prefix names none; --whole-bucket says that all is meant"),
                    (_, _, true) => return usage("takes a prefix or --whole-bucket, not both"),
                    _ => return usage("--bucket needs an explicit --prefix; --whole-bucket says that all is meant"),
                }
            }
        };
        Ok(ClearConfig { cache_dir: self.cache_dir()?, bucket, ask: !on(&v.yes)?, verbose: on(&v.verbose)? })
    }
}

/// Takes the brackets off an IPv6 address.
fn bare_host(host: &str) -> Option<&str> {
    match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']'),
        None => (!host.contains(':')).then_some(host),
    }
}
