//! The help texts. The tables of flags and variables come from the table that drives parsing.

use std::env::consts::{ARCH, OS};
use std::fmt::Write as _;

use crate::cli::{FLAGS, Flag, Mode, PROGRAM, Section};

/// A page of help.
struct Topic {
    name: &'static str,
    /// A command whose `--help` shows this page; empty for none.
    command: &'static str,
    summary: &'static str,
    text: &'static str,
    /// The flags listed below the text.
    sections: &'static [Section],
}

const TOPICS: &[Topic] = &[
    Topic {
        name: "configure",
        command: "",
        summary: "flags, how they are written, and all of them",
        text: CONFIGURE,
        sections: ALL_SECTIONS,
    },
    Topic {
        name: "environment",
        command: "",
        summary: "variables that stand in for flags",
        text: ENVIRONMENT,
        sections: &[],
    },
    Topic {
        name: "direct-mode",
        command: "",
        summary: "the cache as a child of each go command",
        text: DIRECT,
        sections: &[],
    },
    Topic {
        name: "serve-mode",
        command: "serve",
        summary: "one cache process for many go commands",
        text: SERVE,
        sections: &[Section::Listen],
    },
    Topic {
        name: "run",
        command: "run",
        summary: "the cache for one command and its children",
        text: RUN,
        sections: &[Section::ModProxy],
    },
    Topic {
        name: "bucket",
        command: "",
        summary: "sharing through S3 or a directory; trust; layouts",
        text: BUCKET,
        sections: &[Section::Bucket],
    },
    Topic { name: "readahead", command: "", summary: "how a far bucket is made fast", text: READAHEAD, sections: &[] },
    Topic {
        name: "module-proxy",
        command: "",
        summary: "a caching Go module proxy",
        text: MODULE_PROXY,
        sections: &[Section::ModProxy],
    },
    Topic {
        name: "reverse-proxy",
        command: "",
        summary: "a caching proxy for chosen hosts",
        text: REVERSE_PROXY,
        sections: &[Section::RevProxy],
    },
    Topic {
        name: "debug",
        command: "",
        summary: "logs, metrics and the status pages",
        text: DEBUG,
        sections: &[Section::Log],
    },
    Topic {
        name: "maintenance",
        command: "",
        summary: "status, prune, clear and doctor",
        text: MAINTENANCE,
        sections: &[Section::Clear],
    },
];

const ALL_SECTIONS: &[Section] = &[
    Section::Cache,
    Section::Bucket,
    Section::Log,
    Section::Listen,
    Section::ModProxy,
    Section::RevProxy,
    Section::Clear,
];

/// The page on `word`, a topic or a command, or the overview. The error names the topics.
pub fn page(word: Option<&str>) -> Result<String, String> {
    let name = match word {
        None | Some("help" | "version") => return Ok(overview()),
        Some("connect") => "serve-mode",
        Some("keygen") => "bucket",
        Some("status" | "prune" | "clear" | "doctor") => "maintenance",
        Some(word) => word,
    };
    let of_name = |t: &&Topic| t.name == name || (!t.command.is_empty() && t.command == name);
    let Some(topic) = TOPICS.iter().find(of_name) else {
        let names: Vec<&str> = TOPICS.iter().map(|t| t.name).collect();
        return Err(format!("no help on {name:?}: the topics are {}", names.join(", ")));
    };
    let mut page = topic.text.to_string();
    if topic.name == "environment" {
        variables(&mut page);
    }
    for section in topic.sections {
        flags(&mut page, *section);
    }
    Ok(page)
}

/// `version`'s one line.
pub fn version() -> String {
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    format!("{PROGRAM} {} ({ARCH}-unknown-{OS}-{libc})", env!("CARGO_PKG_VERSION"))
}

fn overview() -> String {
    let mut page = OVERVIEW.to_string();
    page.push_str("\nTopics (go-cache-plugin help TOPIC):\n");
    for topic in TOPICS {
        writeln!(page, "  {:<14} {}", topic.name, topic.summary).expect("a String takes all");
    }
    page
}

fn title(section: Section) -> &'static str {
    match section {
        Section::Cache => "Local cache",
        Section::Bucket => "Bucket",
        Section::Log => "Logs and metrics",
        Section::Listen => "Listening",
        Section::ModProxy => "Module proxy",
        Section::RevProxy => "Reverse proxy",
        Section::Clear => "Clear",
    }
}

fn flags(page: &mut String, section: Section) {
    write!(page, "\n{}", title(section)).expect("a String takes all");
    let of_section: Vec<&Flag> = FLAGS.iter().filter(|f| f.section == section).collect();
    if let Some(first) = of_section.first().filter(|f| !f.modes.is_empty()) {
        let homes: Vec<&str> = first.modes.iter().filter_map(|m: &Mode| m.name()).collect();
        write!(page, " ({})", homes.join(", ")).expect("a String takes all");
    }
    page.push_str(":\n");
    for flag in of_section {
        let value = flag.value.map(|v| format!(" {v}")).unwrap_or_default();
        writeln!(page, "  {}{value}", flag.spelling()).expect("a String takes all");
        write!(page, "      {}", flag.help).expect("a String takes all");
        if !flag.default.is_empty() {
            write!(page, "; default: {}", flag.default).expect("a String takes all");
        }
        if !flag.variable.is_empty() {
            write!(page, " [{}]", flag.variable).expect("a String takes all");
        }
        page.push('\n');
    }
}

fn variables(page: &mut String) {
    page.push('\n');
    for flag in FLAGS.iter().filter(|f| !f.variable.is_empty()) {
        writeln!(page, "  {:<26} {}", flag.variable, flag.spelling()).expect("a String takes all");
    }
}

const OVERVIEW: &str = "\
go-cache-plugin keeps the build cache of the Go toolchain (Go 1.24 and later) on local
disk and, where there is one, in a bucket that many machines share. It can serve as a
module proxy and as a caching reverse proxy too.

Usage:
  go-cache-plugin [flags]              speak GOCACHEPROG on stdin and stdout
  go-cache-plugin serve [flags]        keep one cache for many go commands
  go-cache-plugin connect ADDR         let a go command use that one
  go-cache-plugin run [flags] CMD...   run CMD with the cache set up for it
  go-cache-plugin status               what the local cache holds
  go-cache-plugin prune [flags]        apply --expiry and --max-cache-size now
  go-cache-plugin clear [flags]        empty the local cache or a bucket's prefix
  go-cache-plugin doctor               try all that the cache depends on
  go-cache-plugin keygen FILE          make a pair of keys for the bucket's signatures
  go-cache-plugin help [TOPIC]
  go-cache-plugin version

Quick start:
  go-cache-plugin run go build ./...
  export GOCACHEPROG=\"go-cache-plugin --bucket=some-bucket\"; go build ./...
";

const CONFIGURE: &str = "\
Flags are written as in Go programs: --flag value, --flag=value, -flag value or
-flag=value; a bool is --flag or --flag=false. They stand before or after the command,
and the last one wins. A flag wins over its variable, in [brackets] below; a variable
wins over the default.

Durations are written 90s, 36h or 1h30m. Sizes are bytes, or 500MiB, 10GB and the like.
A wrong flag, value or combination is one line on stderr and exit code 2.
";

const ENVIRONMENT: &str = "\
Each flag has a variable. An empty variable counts as not set, a variable whose flag the
command does not take is ignored, and so are GOCACHE, GOCACHEPROG and other names that
are not in this list.

AWS credentials are looked for as AWS programs do: AWS_ACCESS_KEY_ID and its companions,
AWS_PROFILE with the shared config and credentials files, web identity, container
credentials, instance metadata. NETRC, or .netrc in HOME, holds passwords of module
upstreams. XDG_CACHE_HOME or HOME says where the local cache is by default.

Requests to the bucket go by CONNECT through the proxy that HTTPS_PROXY or HTTP_PROXY
names, for an https or http endpoint, but for hosts of this machine and of NO_PROXY.
SSL_CERT_FILE names the certificates to trust.
";

const DIRECT: &str = "\
Without a command the program speaks the GOCACHEPROG protocol on stdin and stdout: go
starts it, one process for each go command, and it ends with go.

  export GOCACHEPROG=\"go-cache-plugin --cache-dir=/tmp/gocache --bucket=some-bucket\"
  go test ./...

Several processes may share a cache directory. At the end, uploads that are still under
way are given --close-timeout; what is left is noted in the cache directory, and the next
process sends it.
";

const SERVE: &str = "\
serve keeps one cache for all go commands of a machine; connect bridges a go command to
it. Started once, it saves the start of a process per go command, fetches what several
ask for once, and can serve modules over HTTP.

  go-cache-plugin serve --plugin=5930 --bucket=some-bucket &
  export GOCACHEPROG=\"go-cache-plugin connect 5930\"
  go build ./...

--plugin is a port on 127.0.0.1, or a path with a slash in it for a Unix socket that only
its owner may use; connect takes the same, or host:port. SIGINT and SIGTERM end it in
order: clients finish, uploads are flushed. A second signal ends it at once.
";

const RUN: &str = "\
run sets the cache up inside its own process, runs one command with GOCACHEPROG pointing
at it, passes signals on, and exits with the command's code. All go commands that the
command starts share the cache. It ends with one line of summary on stderr.

  go-cache-plugin run go build std
  go-cache-plugin run --bucket=some-bucket -- make test

The first word that is not a flag begins the command; what follows is the command's own.
With --modproxy, modules come through a module proxy in the same process: GOPROXY and
GOSUMDB are set for the command.
";

const BUCKET: &str = "\
--bucket names an S3 bucket, or a directory as file:///dir. Without it the cache is local.
Builds never fail because of the bucket, and never wait long for it: errors are misses,
and a bucket that keeps failing is left alone for a while.

Two layouts: single keeps one object per action (v1/...), compressed, so that a lookup is
one request. classic keeps two uncompressed objects (action/..., output/...), byte for
byte as the original Go program does, so that both can share a bucket.

Every body fetched is checked against its SHA-256. What may write to a bucket can still
say that an action has another, wrong output. So for jobs that are not trusted:
  --read-only          nothing is written
  --write-prefix=P     read P, then the main prefix; write only P
  --verify-key-file    what is not signed by a known key is a miss
Jobs that are trusted sign: \"go-cache-plugin keygen FILE\" makes FILE, for their
--signing-key-file, and FILE.pub, for the --verify-key-file of all. --verify-key-file may be
given several times, so that keys can change. Entries, readahead lists, modules and proxied
bodies are signed; what can change is believed for 30 days. What is under a job's own
--write-prefix counts unsigned only with --trust-write-prefix: then whoever may write that
prefix feeds that build.
";

const READAHEAD: &str = "\
go asks for few things at a time and waits for each, so a bucket 20 ms away would make a
large build wait for minutes. At its end a session therefore writes a list of what it used
to the bucket; the next one in the same scope reads it and fetches ahead of go, in that
order, as far as it proves useful. Small outputs lie in the list itself. What the scope's
builds ask for and never find is listed too, and not waited for. A scope without a list goes
by the fleet's, to which the first build of each new scope is added.

The scope is --scope, else the module path of the nearest go.work or go.mod above the
working directory. Jobs that build much the same should share a scope, others should not.
The list is a hint: lost or damaged, it costs speed and nothing else.
";

const MODULE_PROXY: &str = "\
serve --http=ADDR --modproxy serves the Go module proxy protocol under /mod/, keeping what
it fetched on disk and in the bucket. With the network gone, what was ever fetched keeps
working.

  go-cache-plugin serve --plugin=5930 --http=localhost:5970 --modproxy
  export GOPROXY=http://localhost:5970/mod
  export GOSUMDB='sum.golang.org http://localhost:5970/mod/sumdb/sum.golang.org'

--upstream is a list as in GOPROXY: after a comma the next is asked on 404 and 410, after
a bar on any error. Passwords in its URLs or in netrc go to their own hosts only.
";

const REVERSE_PROXY: &str = "\
serve --http=ADDR --revproxy=HOST,... is an HTTP proxy that caches what the listed hosts
send with Cache-Control: immutable, or with a long max-age. Requests to other hosts are
refused; CONNECT to them is passed through untouched.

For HTTPS the program signs certificates with an authority of its own: its certificate is
ca.pem in the cache directory, its key beside it, readable by you alone. Clients must
trust it, for example with curl --cacert, or --install-ca appends it to the system's
bundle where that is writable.

  https_proxy=http://localhost:5970 curl --cacert DIR/ca.pem https://host/file
";

const DEBUG: &str = "\
stderr stays empty unless something is wrong. --metrics prints all counters at the end.
With --http there are pages on loopback:
  /debug/        live figures     /debug/vars    counters as JSON
  /metrics       counters and histograms as Prometheus text (also /debug/varz)
  /healthz       200, or 503 while stopping
";

const MAINTENANCE: &str = "\
status says what the local cache holds and what waits for upload. prune removes what is
unused for longer than --expiry, or least recently used until the cache is no larger than
--max-cache-size; both work while builds run. Where --expiry is not given, only build
results expire. clear --local empties the cache directory; clear --bucket=B --prefix=P
removes this program's objects below P, and no others. doctor tries the cache directory,
go, the credentials and the bucket, and exits with 1 if one of them fails.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_has_a_page_and_every_flag_is_on_one() {
        for topic in TOPICS {
            assert!(page(Some(topic.name)).unwrap().ends_with('\n'), "{}", topic.name);
            assert!(overview().contains(topic.name), "{}", topic.name);
        }
        let all = page(Some("configure")).unwrap();
        let environment = page(Some("environment")).unwrap();
        let readme = include_str!("../README.md");
        for flag in FLAGS {
            assert!(all.contains(&format!("  {}", flag.spelling())), "{}", flag.name);
            assert!(environment.contains(flag.variable), "{}", flag.name);
            let cell = format!("| `{}", flag.spelling());
            assert!(readme.contains(&cell) && readme.contains(flag.variable), "README: {}", flag.name);
            assert!(readme.contains(flag.help), "README: {}", flag.name);
        }
    }

    #[test]
    fn each_command_leads_to_a_page() {
        for (name, mode) in Mode::COMMANDS {
            let page = page(Some(name)).unwrap();
            assert_eq!(page == overview(), matches!(mode, Mode::Help | Mode::Version), "{name}");
        }
        assert!(page(Some("nonsense")).unwrap_err().contains("the topics are configure, "));
    }
}
