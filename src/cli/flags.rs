//! The flags: one table from which the pre-pass, the argh structs, the variables and the help text
//! are made. A flag that is not here does not exist; one that is here works everywhere.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Deref;

use argh::FromArgs;

use crate::error::Error;

/// Which command a line is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No subcommand.
    Direct,
    /// `serve`
    Serve,
    /// `connect`
    Connect,
    /// `run`
    Run,
    /// `status`
    Status,
    /// `prune`
    Prune,
    /// `pull`
    Pull,
    /// `push`
    Push,
    /// `settle`
    Settle,
    /// `clear`
    Clear,
    /// `doctor`
    Doctor,
    /// `help`
    Help,
    /// `keygen`
    Keygen,
    /// `mod`
    Mod,
    /// `summary`
    Summary,
    /// `version`
    Version,
}

impl Mode {
    /// Every subcommand with its name.
    pub const COMMANDS: [(&'static str, Mode); 15] = [
        ("serve", Mode::Serve),
        ("connect", Mode::Connect),
        ("run", Mode::Run),
        ("status", Mode::Status),
        ("prune", Mode::Prune),
        ("pull", Mode::Pull),
        ("push", Mode::Push),
        ("settle", Mode::Settle),
        ("clear", Mode::Clear),
        ("doctor", Mode::Doctor),
        ("keygen", Mode::Keygen),
        ("mod", Mode::Mod),
        ("summary", Mode::Summary),
        ("help", Mode::Help),
        ("version", Mode::Version),
    ];

    /// The command called `name`.
    pub fn named(name: &str) -> Option<Mode> {
        Mode::COMMANDS.iter().find(|(n, _)| *n == name).map(|(_, mode)| *mode)
    }

    /// The word that it takes, as people call it.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Mode::Connect => Some("an address"),
            Mode::Keygen => Some("a file, or with --token a name"),
            Mode::Mod => Some("fetch, export, import, list or rm"),
            Mode::Summary => Some("a file"),
            Mode::Settle => Some("a directory"),
            Mode::Help => Some("a topic"),
            _ => None,
        }
    }

    /// The command's name; none for direct mode.
    pub fn name(self) -> Option<&'static str> {
        Mode::COMMANDS.iter().find(|(_, mode)| *mode == self).map(|(n, _)| *n)
    }
}

/// Flags that belong together in the help text, by their title there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section(pub &'static str);

impl Section {
    pub const CACHE: Section = Section("Local cache");
    pub const BUCKET: Section = Section("Bucket");
    pub const LOG: Section = Section("Logs and metrics");
    pub const LISTEN: Section = Section("Listening");
    pub const ACCESS: Section = Section("Who may ask over HTTP");
    pub const MOD_PROXY: Section = Section("Module proxy");
    pub const MOD: Section = Section("Modules");
    pub const REV_PROXY: Section = Section("Reverse proxy");
    pub const PRUNE: Section = Section("Prune a bucket");
    pub const PUSH: Section = Section("Push");
    pub const SETTLE: Section = Section("Settle");
    pub const CLEAR: Section = Section("Clear");
    pub const KEYGEN: Section = Section("Tokens");
    pub const VERSION: Section = Section("Version");
}

/// One flag.
#[derive(Debug)]
pub struct Flag {
    /// Its name without dashes.
    pub name: &'static str,
    /// The variable that stands in for it; empty for none.
    pub variable: &'static str,
    /// What its value is called; `None` for a bool, with dots at its end where it may be given again.
    pub value: Option<&'static str>,
    /// The default as people read it; empty where there is nothing to say.
    pub default: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// Where it stands in the help text.
    pub section: Section,
    /// The commands that take it; empty for all that open a cache or lead to one.
    pub modes: &'static [Mode],
}

impl Flag {
    /// The flag called `name`.
    pub fn named(name: &str) -> Option<&'static Flag> {
        FLAGS.iter().find(|f| f.name == name)
    }

    /// Whether `mode` takes it.
    pub fn applies(&self, mode: Mode) -> bool {
        match self.modes {
            [] if mode == Mode::Settle => self.section == Section::LOG,
            [] => !matches!(mode, Mode::Keygen | Mode::Help | Mode::Version),
            modes => modes.contains(&mode),
        }
    }

    /// Whether it says nothing where there is no bucket.
    pub(super) fn needs_bucket(&self) -> bool {
        self.section == Section::BUCKET && !matches!(self.name, "bucket" | "scope" | "close-timeout")
    }

    /// Whether it says nothing of a bucket that is a directory.
    pub(super) fn is_of_s3(&self) -> bool {
        matches!(self.name, "region" | "s3-endpoint-url" | "s3-path-style")
    }

    /// Whether `given`, its value, asks for something.
    pub(super) fn asks(&self, given: &Given) -> bool {
        let off = self.value.is_none() && super::value::boolean(&given.text) == Some(false);
        !given.text.is_empty() && !off
    }

    /// Whether it may be given several times; NUL stands between its values then.
    pub fn repeats(&self) -> bool {
        self.value.is_some_and(|value| value.ends_with("..."))
    }

    /// The flag as it is written: one dash for a letter, two for a word.
    pub fn spelling(&self) -> String {
        let dashes = if self.name.len() == 1 { "-" } else { "--" };
        format!("{dashes}{}", self.name)
    }
}

/// A value and where it was given, for messages.
#[derive(Clone, Debug)]
pub struct Given {
    /// The text.
    pub text: String,
    /// The flag as it is written, or the variable's name.
    pub from: String,
    /// Whether it stood on the command line.
    pub on_line: bool,
}

impl Given {
    /// A usage error about this value.
    pub fn error(&self, why: impl std::fmt::Display) -> Error {
        Error::usage(format!("{} {:?}: {why}", self.from, self.text))
    }
}

/// A flag's value, where it was given; [`Self::or_default`] else.
#[derive(Debug, Default)]
pub(super) struct Value {
    given: Option<Given>,
    default: &'static str,
}

impl Value {
    /// What was given, else the default that the table and the help text state.
    pub(super) fn or_default(&self) -> Given {
        let default = || Given { text: self.default.to_string(), from: "the default".to_string(), on_line: false };
        self.given.clone().unwrap_or_else(default)
    }
}

impl Deref for Value {
    type Target = Option<Given>;
    fn deref(&self) -> &Option<Given> {
        &self.given
    }
}

/// The value of a `--bucket` that has none: the bucket that the variables name.
pub(super) const AS_SET: &str = "\0";

macro_rules! flags {
    ($( $field:ident: $name:tt, $variable:tt, $value:expr, $default:tt, $section:ident, [$($mode:ident)*], $help:tt; )*) => {
        /// Every flag, in the order of the help text.
        pub static FLAGS: &[Flag] = &[ $( Flag {
            name: $name, variable: $variable, value: $value, default: $default, help: $help,
            section: Section::$section, modes: &[$(Mode::$mode),*],
        }, )* ];

        /// a build cache for Go, shared through local disk and S3
        #[derive(FromArgs, Debug)]
        #[argh(help_triggers("--help"))]
        pub(super) struct Args {
            $( #[argh(option, long = $name, description = $help)] $field: Option<String>, )*
        }

        /// What the flags and variables say, not yet validated.
        #[derive(Debug, Default)]
        pub(super) struct Values { $( pub(super) $field: Value, )* }

        impl Values {
            /// A flag wins over its variable; an empty variable is none, and one whose flag `mode`
            /// does not take is ignored.
            pub(super) fn merge(args: &Args, env: &BTreeMap<OsString, OsString>, mode: Mode) -> Result<Values, Error> {
                Ok(Values { $( $field: Value { given: given(&args.$field, $name, env, mode)?, default: $default }, )* })
            }

            /// Each flag that asks for something, with its value.
            pub(super) fn asked(&self) -> impl Iterator<Item = (&'static Flag, &Given)> {
                let all = FLAGS.iter().zip([ $( &self.$field, )* ]);
                all.filter_map(|(flag, value)| Some((flag, value.as_ref().filter(|given| flag.asks(given))?)))
            }

            /// Drops what is said by flags like these.
            pub(super) fn drop_all(&mut self, these: impl Fn(&Flag) -> bool) {
                for (flag, value) in FLAGS.iter().zip([ $( &mut self.$field, )* ]) {
                    value.given.take_if(|_| these(flag));
                }
            }
        }
    };
}

fn given(
    arg: &Option<String>,
    name: &str,
    env: &BTreeMap<OsString, OsString>,
    mode: Mode,
) -> Result<Option<Given>, Error> {
    let flag = Flag::named(name).expect("the macro makes the field and the row from one line");
    if let Some(text) = arg.as_ref().filter(|text| *text != AS_SET) {
        return Ok(Some(Given { text: text.clone(), from: flag.spelling(), on_line: true }));
    }
    if flag.variable.is_empty() || !flag.applies(mode) {
        return Ok(None);
    }
    let Some(value) = env.get(std::ffi::OsStr::new(flag.variable)).filter(|v| !v.is_empty()) else {
        let none = || Given { text: String::new(), from: flag.spelling(), on_line: true };
        return Ok(arg.as_ref().map(|_| none()));
    };
    let text = value.to_str().ok_or_else(|| Error::usage(format!("{}: not valid UTF-8", flag.variable)))?;
    Ok(Some(Given { text: text.to_string(), from: flag.variable.to_string(), on_line: arg.is_some() }))
}

flags! {
    cache_dir: "cache-dir", "GOCACHE_DIR", Some("DIR"), "go-cache-plugin in the user's cache folder", CACHE, [],
        "local cache directory";
    expiry: "expiry", "GOCACHE_EXPIRY", Some("DURATION"), "14d", CACHE, [],
        "at close, prune what is unused for longer; 0 for never; modules and proxied bodies only if given";
    max_cache_size: "max-cache-size", "GOCACHE_MAX_CACHE_SIZE", Some("SIZE"), "no limit", CACHE, [],
        "at close, prune the least recently used until what is left of the local cache fits, but for what is in use";
    concurrency: "c", "GOCACHE_CONCURRENCY", Some("N"), "four per CPU, at least 64", CACHE, [],
        "requests that one session works on at a time";
    body_memory: "body-memory", "GOCACHE_BODY_MEMORY", Some("SIZE"), "256MiB", CACHE, [],
        "memory for put bodies in flight";
    bucket: "bucket", "GOCACHE_S3_BUCKET", Some("NAME"), "none: local only", BUCKET, [],
        "S3 bucket, s3://bucket/prefix, or file:///dir for a directory";
    region: "region", "GOCACHE_S3_REGION", Some("REGION"), "as the endpoint's host tells, else asked of the bucket", BUCKET, [],
        "region of the bucket";
    endpoint: "s3-endpoint-url", "GOCACHE_S3_ENDPOINT_URL", Some("URL"), "AWS", BUCKET, [],
        "endpoint of an S3-compatible service";
    path_style: "s3-path-style", "GOCACHE_S3_PATH_STYLE", None, "as the AWS profile says, else as the endpoint's host tells", BUCKET, [],
        "address the bucket in the path, not in the host name";
    prefix: "prefix", "GOCACHE_KEY_PREFIX", Some("PREFIX"), "none", BUCKET, [],
        "prefix of every key in the bucket";
    write_prefix: "write-prefix", "GOCACHE_WRITE_PREFIX", Some("PREFIX"), "none", BUCKET, [],
        "read this prefix first and write nowhere else";
    read_only: "read-only", "GOCACHE_READ_ONLY", None, "false", BUCKET, [],
        "write nothing to the bucket";
    signing_key_file: "signing-key-file", "GOCACHE_SIGNING_KEY_FILE", Some("FILE"), "none: unsigned", BUCKET, [],
        "sign what is written to the bucket, and take nothing that neither this key nor one to verify with did sign";
    verify_key_file: "verify-key-file", "GOCACHE_VERIFY_KEY_FILE", Some("FILE..."), "none: all is believed", BUCKET, [],
        "take nothing from the bucket that is not signed by a key given so, or by --signing-key-file";
    trust_write_prefix: "trust-write-prefix", "GOCACHE_TRUST_WRITE_PREFIX", None, "false", BUCKET, [],
        "believe what is under --write-prefix unsigned";
    layout: "s3-layout", "GOCACHE_S3_LAYOUT", Some("LAYOUT"), "single", BUCKET, [],
        "layout of build outputs: single, or classic to share a bucket with the original program";
    min_upload_size: "min-upload-size", "GOCACHE_MIN_SIZE", Some("SIZE"), "0", BUCKET, [],
        "outputs smaller than this stay local";
    upload_concurrency: "u", "GOCACHE_S3_CONCURRENCY", Some("N"), "16", BUCKET, [],
        "uploads at a time";
    compression_level: "compression-level", "GOCACHE_COMPRESSION_LEVEL", Some("N"), "1", BUCKET, [],
        "zstd level of what is uploaded, 1 to 19";
    close_timeout: "close-timeout", "GOCACHE_CLOSE_TIMEOUT", Some("DURATION"), "30s", BUCKET, [],
        "how long close waits for uploads; the next start sends what is left";
    pending_expiry: "pending-expiry", "GOCACHE_PENDING_EXPIRY", Some("DURATION"), "7d", BUCKET, [],
        "uploads that wait for longer are dropped, with a line; 0 for never";
    refresh_after: "refresh-after", "GOCACHE_REFRESH_AFTER", Some("DURATION"), "7d", BUCKET, [],
        "renew what is used and this old, so that an object's age is its last use; 0 for never";
    scope: "scope", "GOCACHE_SCOPE", Some("NAME"), "module path of the nearest go.work or go.mod", BUCKET, [],
        "which builds share a readahead list";
    no_readahead: "no-readahead", "GOCACHE_NO_READAHEAD", None, "false", BUCKET, [],
        "fetch nothing ahead of go";
    metrics: "metrics", "GOCACHE_METRICS", None, "false", LOG, [],
        "print the metrics to stderr at exit, as JSON";
    summary: "summary", "GOCACHE_SUMMARY", Some("FILE"), "none", LOG, [],
        "append what was counted, as one line of JSON, at the end; the command summary adds such lines up";
    verbose: "v", "GOCACHE_VERBOSE", None, "false", LOG, [],
        "log what the program does to stderr";
    debug: "debug", "GOCACHE_DEBUG", Some("MASK"), "0", LOG, [],
        "log every request; the sum of 1 (build cache), 2 (module proxy), 4 (reverse proxy)";
    plugin: "plugin", "GOCACHE_PLUGIN", Some("PORT|PATH"), "", LISTEN, [Serve],
        "port on 127.0.0.1, or path of a Unix socket, for plugin clients (required)";
    strict: "strict", "GOCACHE_STRICT", None, "false", LISTEN, [Connect],
        "fail where no server answers, rather than build with the local cache, as without a command";
    http: "http", "GOCACHE_HTTP", Some("HOST:PORT"), "none; 127.0.0.1:0 for run --modproxy", LISTEN, [Serve Run],
        "address of the HTTP server";
    http_host: "http-host", "GOCACHE_HTTP_HOST", Some("NAME..."), "none", ACCESS, [Serve],
        "a name under which clients ask the HTTP server, beside addresses, localhost, this machine's name and that of --http";
    http_auth_file: "http-auth-file", "GOCACHE_HTTP_AUTH_FILE", Some("FILE"), "none: this machine may do all", ACCESS, [Serve],
        "tokens, each a line of name, role and SHA-256, that open private modules and, by role, /debug/ and the proxy; read again on SIGHUP";
    http_tls_cert: "http-tls-cert", "GOCACHE_HTTP_TLS_CERT", Some("FILE"), "none: http", ACCESS, [Serve],
        "certificates in PEM form, the server's own first, to serve https with; read again on SIGHUP";
    http_tls_key: "http-tls-key", "GOCACHE_HTTP_TLS_KEY", Some("FILE"), "none", ACCESS, [Serve],
        "private key of --http-tls-cert in PEM form";
    modproxy: "modproxy", "GOCACHE_MODPROXY", None, "false", MOD_PROXY, [Serve Run Doctor],
        "serve a Go module proxy under /mod/";
    sumdb: "sumdb", "GOCACHE_SUMDB", Some("NAMES"), "sum.golang.org", MOD_PROXY, [Serve Run Mod Doctor],
        "comma-separated sum databases to proxy, NAME or NAME+HASH+KEY, each with =URL perhaps; modules are checked against the first";
    upstream: "upstream", "GOCACHE_UPSTREAM", Some("LIST"), "https://proxy.golang.org", MOD_PROXY, [Serve Run Mod Doctor],
        "where modules come from, written like GOPROXY; URL#private may see private modules, direct fetches them from their origin";
    mod_private: "mod-private", "GOCACHE_MOD_PRIVATE", Some("PATTERNS"), "none", MOD_PROXY, [Serve Run Mod Doctor],
        "modules that no sum database and no upstream but those named for them are asked for, written like GOPRIVATE";
    mod_ttl: "mod-ttl", "GOCACHE_MOD_TTL", Some("DURATION"), "1m", MOD_PROXY, [Serve Run Mod Doctor],
        "how long a list of versions or a branch query stays fresh";
    mod_stale: "mod-stale", "GOCACHE_MOD_STALE", Some("DURATION"), "1h", MOD_PROXY, [Serve Run Mod Doctor],
        "how long after that a list or @latest is served while it is asked for again";
    mod_verify: "mod-verify", "GOCACHE_MOD_VERIFY", Some("on|off"), "on", MOD_PROXY, [Serve Run Mod Doctor],
        "check modules that are not private against the sum database before they are kept";
    offline: "offline", "GOCACHE_OFFLINE", None, "false", MOD_PROXY, [Serve Run Mod Doctor],
        "never ask an upstream";
    recursive: "r", "", None, "", MOD, [Mod],
        "fetch what the modules require, too";
    revproxy: "revproxy", "GOCACHE_REVPROXY", Some("HOSTS"), "none", REV_PROXY, [Serve],
        "comma-separated hosts to reverse-proxy (needs --http)";
    tunnel: "tunnel", "GOCACHE_TUNNEL", Some("HOST..."), "*", REV_PROXY, [Serve],
        "a host, or * for all, that CONNECT may reach beside those of --revproxy; this machine only where it is listed";
    install_ca: "install-ca", "GOCACHE_INSTALL_CA", None, "false", REV_PROXY, [Serve],
        "append the reverse proxy's authority to the system's certificate bundle";
    ca_dir: "ca-dir", "GOCACHE_CA_DIR", Some("DIR"), "go-cache-plugin in the user's state folder", REV_PROXY, [Serve],
        "directory of the reverse proxy's authority and its key, outside of the cache directory";
    ca_domains: "ca-domains", "GOCACHE_CA_DOMAINS", Some("NAMES"), "the hosts of --revproxy", REV_PROXY, [Serve],
        "comma-separated domains and addresses that the authority may sign for";
    token: "token", "", None, "", KEYGEN, [Keygen],
        "make a token for --http-auth-file instead of a pair of keys; the word is then its name";
    dry_run: "dry-run", "", None, "", SETTLE, [Settle Prune],
        "change nothing, and say what would be; prune takes it with --bucket";
    modes: "modes", "", None, "", SETTLE, [Settle],
        "give what is settled the modes that a checkout under a umask of 022 gives, too";
    settle: "settle", "GOCACHE_SETTLE", None, "false", SETTLE, [Run],
        "settle the work tree around the working directory first";
    rate: "rate", "", Some("N"), "1000", PRUNE, [Prune],
        "with --bucket: objects removed a second at most; 0 for as many as can be";
    proxied: "proxied", "", None, "", PRUNE, [Prune],
        "with --bucket: remove what the proxies have put, too";
    since: "since", "", Some("DURATION"), "all", PUSH, [Push],
        "send only what was used within so long";
    sign: "sign", "", None, "", PUSH, [Push],
        "sign what is sent with --signing-key-file, which vouches for everything in the cache directory, whoever put it there";
    local: "local", "", None, "", CLEAR, [Clear],
        "empty the local cache directory";
    json: "json", "", None, "", VERSION, [Version Settle],
        "answer in JSON: version, commit, target and features; of settle, what was done";
    licenses: "licenses", "", None, "", VERSION, [Version],
        "print the licences of all that the program contains";
    whole_bucket: "whole-bucket", "", None, "", CLEAR, [Clear],
        "remove all that this program has put into the bucket, under any prefix";
    yes: "yes", "", None, "", CLEAR, [Clear],
        "on a terminal, too, remove without a question";
}
