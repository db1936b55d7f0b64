//! The validated configuration: plain values, no I/O and no environment. `cli` builds it, the
//! commands read it. Every field's doc ends with its default.

mod place;
mod vendor;
mod web;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::Error;
use crate::platform::HOME;
use crate::settle::Options;
use crate::sign::Signer;
pub use place::{BucketName, Endpoint, KeyPrefix, Region};
pub use vendor::{Vendor, describe};
pub use web::{
    AccessConfig, AuthorityConfig, HostPort, ListEnd, SumDatabase, Tunnels, UpstreamEntry, UpstreamList, UpstreamUrl,
};

/// What one command line asks for.
#[derive(Clone, Debug)]
pub enum Invocation {
    /// No subcommand: the protocol on stdin and stdout.
    Direct(Config),
    /// `serve`: many plugin clients over one cache, and HTTP.
    Serve(ServeConfig),
    /// `connect ADDR`: bridges stdin and stdout to a server.
    Connect(ConnectConfig),
    /// `run CMD…`: the cache in-process for one command and its children.
    Run(RunConfig),
    /// `status`: what the local cache holds, and, if true, the whole bucket.
    Status(Config, bool),
    /// `prune`: applies `expiry` and `max_size` to the local cache now; at least one of them says something.
    Prune(Config),
    /// `prune --bucket`: removes from the bucket what was unused for long.
    PruneBucket(PruneConfig),
    /// `push`: sends what the local cache has to the bucket.
    Push(PushConfig),
    /// `settle`: gives tracked files times that follow from what they hold.
    Settle(SettleConfig),
    /// `pull`: fetches what a scope's builds used; there is a bucket.
    Pull(Config),
    /// `clear`: empties the local cache, or our names under a prefix of the bucket.
    Clear(ClearConfig),
    /// `doctor`: tries everything that the program depends on.
    Doctor(DoctorConfig),
    /// `help [topic]`, or a command's `--help`: the word, or none for the overview.
    Help(Option<String>),
    /// `summary`: adds up what the processes of a job have counted.
    Summary(SummaryConfig),
    /// `version`.
    Version(Version),
    /// `keygen FILE`: the absolute path of the private key's file to make.
    Keygen(PathBuf),
    /// `keygen --token NAME`: the name that the token is to have.
    Token(String),
    /// `mod …`: the modules that are kept.
    Mod(ModConfig),
}

/// How `version` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// On one line.
    Line,
    /// `--json`
    Json,
    /// `--licenses`
    Licenses,
}

/// What `mod` needs.
#[derive(Clone, Debug)]
pub struct ModConfig {
    /// The cache.
    pub cache: Config,
    /// How modules are fetched and checked.
    pub proxy: ModProxyConfig,
    /// What is to be done.
    pub action: ModAction,
}

/// What `mod` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModAction {
    /// `fetch`: fills the cache with what these name, `go.mod` and `go.sum` files or `MODULE@VERSION`; with
    /// what they require in turn, or not.
    Fetch(Vec<String>, bool),
    /// `export FILE`
    Export(PathBuf),
    /// `import FILE`
    Import(PathBuf),
    /// `list`
    List,
    /// `rm MODULE@VERSION`
    Remove(String),
}

/// What `serve` needs.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// The cache.
    pub cache: Config,
    /// Where plugin clients connect.
    pub plugin: PluginAddr,
    /// The HTTP side. Default: none.
    pub http: Option<HttpConfig>,
}

/// What `connect` needs.
#[derive(Clone, Debug)]
pub struct ConnectConfig {
    /// The server.
    pub addr: ConnectAddr,
    /// The scope to tell the server. Default: the module path of the nearest go.work or go.mod.
    pub scope: Option<String>,
    /// Log what the program does. Default: false.
    pub verbose: bool,
    /// The cache to go on with where no server answers; an error is of what matters only then.
    /// Default: that of direct mode; none with `--strict`.
    pub fallback: Option<Result<Config, Error>>,
}

/// What `run` needs.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// The cache.
    pub cache: Config,
    /// The HTTP side; with its module proxy, GOPROXY and GOSUMDB are set too. Default: none.
    pub http: Option<HttpConfig>,
    /// Settle the work tree around the working directory first. Default: false.
    pub settle: bool,
    /// The command and its arguments; never empty.
    pub command: Vec<OsString>,
    /// What `go`'s own settings say of the module proxy. Default: everything.
    pub go_says: GoSays,
    /// Where the table of what was counted goes. Default: nowhere, unless the variables name a CI's place.
    pub report: Report,
}

/// What of a module proxy `go`'s own settings say, since no flag does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoSays {
    /// GOPROXY says whom to ask.
    pub upstream: bool,
    /// GOSUMDB says which sum database there is.
    pub sumdb: bool,
}

/// What `summary` needs.
#[derive(Clone, Debug)]
pub struct SummaryConfig {
    /// The file of lines, as [`Config::summary`] has them.
    pub file: PathBuf,
    /// Where the table goes. Default: stdout, unless the variables name a CI's place.
    pub report: Report,
}

/// Where a job's summary is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// In no particular place.
    Plain,
    /// Below the job on GitHub: Markdown appended to the file that GITHUB_STEP_SUMMARY names.
    GitHub(PathBuf),
    /// In the job's log on GitLab, as a section that opens at a click.
    GitLab,
}

/// What `doctor` needs.
#[derive(Clone, Debug)]
pub struct DoctorConfig {
    /// The cache.
    pub cache: Config,
    /// How modules are fetched where they are proxied.
    pub proxy: ModProxyConfig,
    /// Whether they are proxied. Default: as GOPROXY says.
    pub proxied: bool,
    /// Its own flags, one a word.
    pub flags: Vec<OsString>,
    /// The environment, which builds are to see.
    pub env: BTreeMap<OsString, OsString>,
    /// The working directory.
    pub cwd: PathBuf,
}

/// What `settle` needs.
#[derive(Clone, Debug)]
pub struct SettleConfig {
    /// What is below this is settled, an absolute path. Default: the whole work tree around the working directory.
    pub dir: Option<PathBuf>,
    /// How.
    pub options: Options,
    /// Say what was done as JSON. Default: false.
    pub json: bool,
    /// Log what the program does. Default: false.
    pub verbose: bool,
}

/// What `clear` needs.
#[derive(Clone, Debug)]
pub struct ClearConfig {
    /// The local cache directory, absolute.
    pub cache_dir: PathBuf,
    /// The bucket to empty under its prefix, which was given on the command line; the local cache
    /// directory where there is none.
    pub bucket: Option<BucketConfig>,
    /// On a terminal, count and ask before a bucket is cleared. Default: true.
    pub ask: bool,
    /// Log what the program does. Default: false.
    pub verbose: bool,
}

/// What `prune --bucket` needs.
#[derive(Clone, Debug)]
pub struct PruneConfig {
    /// How many requests at a time, and what is logged.
    pub cache: Config,
    /// The bucket; it is written.
    pub bucket: BucketConfig,
    /// What is older goes.
    pub expiry: Duration,
    /// Only say what would go. Default: false.
    pub dry_run: bool,
    /// What the proxies have put goes, too. Default: false.
    pub proxied: bool,
    /// Objects removed a second at most; 0 for any number. Default: 1000.
    pub rate: u64,
}

/// What `push` needs.
#[derive(Clone, Debug)]
pub struct PushConfig {
    /// The local cache, and how uploads are made.
    pub cache: Config,
    /// The bucket; it is written, nothing in it is replaced, and its signer signs only if asked to.
    pub bucket: BucketConfig,
    /// What was last used longer ago is left out. Default: nothing is.
    pub since: Option<Duration>,
    /// There is a key to sign with, and it is not to be used. Default: false.
    pub unsigned: bool,
}

/// What every command that opens the cache needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The local cache directory, absolute. Default: `go-cache-plugin` in the user's cache folder.
    pub cache_dir: PathBuf,
    /// The shared bucket. Default: none, local only.
    pub bucket: Option<BucketConfig>,
    /// A line for people on a bucket that there was to be, as the environment shows, and is not.
    /// Default: none.
    pub note: Option<String>,
    /// Outputs of fewer bytes stay local. Default: 0.
    pub min_upload_size: u64,
    /// Print the metrics to stderr at exit. Default: false.
    pub metrics: bool,
    /// At the end, a line of JSON with what was counted is appended to this file. Default: none.
    pub summary: Option<PathBuf>,
    /// Count the results of tests among what is served, which somebody will be told of. Default: false.
    pub tests: bool,
    /// What is unused for longer is pruned at close; `None` for never. Default: 14 days.
    pub expiry: Option<Duration>,
    /// Whether `expiry` was asked for: it then applies to modules and proxied bodies too, the
    /// default to actions and outputs alone. Default: false.
    pub expiry_given: bool,
    /// The local cache is pruned to this many bytes at close. Default: no limit.
    pub max_size: Option<u64>,
    /// Requests that one session works on at a time. Default: four times the CPUs, at least 64: gets that wait
    /// for a far bucket cost a thread each, and little else.
    pub concurrency: usize,
    /// Uploads at a time. Default: 16.
    pub upload_concurrency: usize,
    /// Log what the program does. Default: false.
    pub verbose: bool,
    /// One line at begin and end of each request of the chosen kinds. Default: none.
    pub debug: DebugMask,
    /// How long close waits for uploads; what is left stays marked for the next start. Default: 30 s.
    pub close_timeout: Duration,
    /// Uploads that have waited for longer are dropped; the longest duration that there is for
    /// never. Default: 7 days.
    pub pending_expiry: Duration,
    /// Fetch listed entries ahead of `go`. Default: true.
    pub readahead: bool,
    /// The manifest's scope. Default: the module path of the nearest go.work or go.mod.
    pub scope: Option<String>,
    /// zstd level of uploaded entries, 1 to 19. Default: 1.
    pub compression_level: i32,
    /// Memory for put bodies in flight, in bytes. Default: 256 MiB.
    pub body_memory: u64,
}

impl Config {
    /// How exactly the time of last use must be kept for `expiry` to mean something.
    pub fn granularity(&self) -> Duration {
        self.expiry.map_or(USE_GRANULARITY, |e| (e / 8).min(USE_GRANULARITY))
    }
}

/// The time of last use is kept at least this exactly.
const USE_GRANULARITY: Duration = Duration::from_secs(3600);

/// Which bucket, and what may be done to it.
#[derive(Clone, Debug)]
pub struct BucketConfig {
    /// Where the bucket is.
    pub location: BucketLocation,
    /// Prefix of every key. Default: empty.
    pub prefix: KeyPrefix,
    /// Read this prefix first, and write nowhere else; never empty. Default: none.
    pub write_prefix: Option<KeyPrefix>,
    /// Write nothing to the bucket. Default: false.
    pub read_only: bool,
    /// Replace no object, but for one under a condition. Default: false.
    pub replace_nothing: bool,
    /// Objects that are used are renewed at this age; zero for never. Default: 7 days.
    pub refresh_after: Duration,
    /// How build outputs are laid out. Default: `single`.
    pub layout: Layout,
    /// Signs what is put, and says what signatures count. Default: unsigned, anything counts.
    pub signer: Signer,
}

impl BucketConfig {
    /// A bucket with all else as by default.
    pub fn at(location: BucketLocation, prefix: KeyPrefix) -> Self {
        BucketConfig {
            location,
            prefix,
            write_prefix: None,
            read_only: false,
            replace_nothing: false,
            refresh_after: Duration::ZERO,
            layout: Layout::Single,
            signer: Signer::default(),
        }
    }

    /// The prefix that is written to.
    pub fn target(&self) -> &str {
        self.write_prefix.as_ref().unwrap_or(&self.prefix).as_str()
    }
}

/// Where a bucket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BucketLocation {
    /// An S3 bucket.
    S3 {
        /// Its name.
        bucket: BucketName,
        /// Its region. Default: what the endpoint's host tells, else AWS_REGION or AWS_DEFAULT_REGION,
        /// else the profile's, else asked of the bucket.
        region: Option<Region>,
        /// A custom endpoint. Default: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, else that of the AWS
        /// profile, else AWS.
        endpoint: Option<Endpoint>,
        /// `endpoint/bucket/key` rather than `bucket.endpoint/key`. Default: as the AWS profile says, else as the
        /// endpoint's host tells, else false.
        path_style: Option<bool>,
        /// AWS_PROFILE and the files' paths as found in the environment.
        aws: AwsEnv,
    },
    /// A directory, `file:///dir`.
    Dir(PathBuf),
}

/// What the environment says of AWS credentials; read once by `cli`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsEnv {
    /// Every `AWS_*` variable, that of the home directory, `SSL_CERT_FILE`, `SSL_CERT_DIR`, `HTTPS_PROXY`,
    /// `HTTP_PROXY`, `NO_PROXY` and the lower-case forms of these three, by name.
    pub vars: BTreeMap<String, String>,
}

impl AwsEnv {
    /// Whether a variable of this name belongs here.
    pub fn holds(name: &str) -> bool {
        let either = |upper: &str| name == upper || name == upper.to_ascii_lowercase();
        name.starts_with("AWS_")
            || matches!(name, HOME | "SSL_CERT_FILE" | "SSL_CERT_DIR")
            || ["HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"].into_iter().any(either)
    }

    /// Whether no endpoint but that of our own flag counts.
    pub fn ignores_endpoints(&self) -> bool {
        self.var("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_some_and(|v| v.eq_ignore_ascii_case("true"))
    }

    /// The value of a variable that is set and not empty.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }
}

/// Layouts of build outputs in the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `v1/<xx>/<action-id>`: one object an action.
    Single,
    /// `action/…` and `output/…`, as the reference program writes them.
    Classic,
}

impl Layout {
    /// As `--s3-layout` has it.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Single => "single",
            Layout::Classic => "classic",
        }
    }
}

/// The bits of `--debug`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DebugMask(pub u8);

impl DebugMask {
    /// Build cache requests.
    pub fn build_cache(self) -> bool {
        self.0 & 1 != 0
    }
    /// Module proxy and sum database requests.
    pub fn mod_proxy(self) -> bool {
        self.0 & 2 != 0
    }
    /// Reverse proxy requests.
    pub fn rev_proxy(self) -> bool {
        self.0 & 4 != 0
    }
}

/// A Unix socket's path may be this long, in bytes.
pub const SOCKET_PATH_LIMIT: usize = 107;

/// Where `serve` takes plugin clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginAddr {
    /// A port on 127.0.0.1; 0 takes a free one.
    Port(u16),
    /// A Unix socket, mode 0600.
    Unix(PathBuf),
}

impl fmt::Display for PluginAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PluginAddr::Port(port) => write!(f, "127.0.0.1:{port}"),
            PluginAddr::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Where `connect` finds its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectAddr {
    /// Host (no brackets) and port; a bare port means 127.0.0.1.
    Tcp(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

/// The HTTP side of `serve` and `run`.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Where to listen. Default: none, no HTTP.
    pub addr: SocketAddr,
    /// Who may ask. Default: this machine; the others for public modules.
    pub access: AccessConfig,
    /// The module proxy, under /mod/. Default: none.
    pub mod_proxy: Option<ModProxyConfig>,
    /// Hosts of the reverse proxy. Default: none.
    pub rev_proxy: Vec<HostPort>,
    /// Where CONNECT may go beside them.
    pub tunnels: Tunnels,
    /// The reverse proxy's authority. Default: none where there is no reverse proxy.
    pub authority: Option<AuthorityConfig>,
}

/// The module proxy.
#[derive(Clone, Debug)]
pub struct ModProxyConfig {
    /// Whom modules are asked of. Default: the public proxy, which Go itself defaults to.
    pub upstream: UpstreamList,
    /// GONOPROXY-style patterns, comma-separated. Default: empty.
    pub private: String,
    /// Never ask an upstream. Default: false.
    pub offline: bool,
    /// How long a mutable answer is fresh. Default: 1 min.
    pub ttl: Duration,
    /// How long lists and `@latest` are served while they are revalidated. Default: 1 h.
    pub stale: Duration,
    /// Sum databases to proxy. The first says what modules must be. Default: `sum.golang.org`.
    pub sumdb: Vec<SumDatabase>,
    /// Check modules against the sum database. Default: true.
    pub verify: bool,
    /// GONOSUMDB-style patterns of what is not checked, beside what is private. Default: empty.
    pub nosum: String,
    /// A netrc file with upstream credentials. Default: `.netrc` in the home directory, or NETRC.
    pub netrc: Option<PathBuf>,
}
