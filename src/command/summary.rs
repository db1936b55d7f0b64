//! What was counted, for people: the line and the table of one run, and of all processes of a job, each of
//! which appends its numbers as a line of JSON to a file that `summary` adds up.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::names;
use super::stack::Stack;
use crate::cli::PROGRAM;
use crate::config::{Report, RunConfig, SummaryConfig};
use crate::error::{Error, ExitCode};
use crate::text::{bytes, count, percent, things};

macro_rules! sums {
    ($( $name:ident, )*) => {
        /// Numbers that add up over processes.
        #[derive(Default, Serialize, Deserialize)]
        #[serde(default)]
        struct Sums { $( $name: u64, )* }

        impl Sums {
            fn add(&mut self, other: &Sums) {
                $( self.$name = self.$name.saturating_add(other.$name); )*
            }
        }
    };
}

sums! {
    gets, hits, local_hits, bucket_hits, tests, misses, puts, served_bytes, stored_bytes,
    // processes with a bucket; all that follows is of it
    buckets, bucket_get_bytes, bucket_put_bytes, uploads, ahead_bytes, ahead_used_bytes, wait_nanos,
    // processes that were asked for modules
    module_proxies, module_lookups, module_local_hits, module_bucket_hits, module_requests, module_stored_bytes,
}

/// A process's line.
#[derive(Serialize, Deserialize)]
struct Line {
    /// Its cache directory, which knows what is owed.
    cache: PathBuf,
    #[serde(flatten)]
    sums: Sums,
}

impl Sums {
    fn of(stack: &Stack) -> Sums {
        let m = &*stack.metrics;
        Sums {
            gets: m.server.get_requests.get(),
            hits: m.server.get_hits.get(),
            local_hits: m.host.get_local_hit.get(),
            bucket_hits: m.host.get_fault_hit.get(),
            tests: m.server.get_tests.get(),
            misses: m.server.get_misses.get(),
            puts: m.server.put_requests.get(),
            served_bytes: m.server.get_hit_bytes.get(),
            stored_bytes: m.server.put_bytes.get(),
            buckets: stack.bucket.is_some().into(),
            bucket_get_bytes: m.bucket.get_bytes.get(),
            bucket_put_bytes: m.bucket.put_bytes.get(),
            uploads: m.upload.done.get(),
            ahead_bytes: m.readahead.fetched_bytes.get(),
            ahead_used_bytes: m.readahead.used_bytes.get(),
            wait_nanos: m.bucket.wait_nanos.get(),
            module_proxies: (m.modcache.get_request.get() > 0).into(),
            module_lookups: m.modcache.get_request.get(),
            module_local_hits: m.modcache.get_local_hit.get(),
            module_bucket_hits: m.modcache.get_fault_hit.get(),
            module_requests: m.modcache.upstream_requests.get(),
            module_stored_bytes: m.modcache.put_local_bytes.get(),
        }
    }

    fn waited(&self) -> String {
        format!("{:.1} s", Duration::from_nanos(self.wait_nanos).as_secs_f64())
    }

    /// All of the process with this `stack` in one line; `owed` counts the uploads that are not done.
    fn line(&self, owed: u64, stack: &Stack) -> String {
        let mut line = format!(
            "{}, {} ({}), {}, {}; {} served, {} stored",
            things(self.gets, "get"),
            things(self.hits, "hit"),
            percent(self.hits, self.gets),
            things(self.misses, "miss"),
            things(self.puts, "put"),
            bytes(self.served_bytes),
            bytes(self.stored_bytes),
        );
        let mut part = |text| line += &format!("; {text}");
        if self.buckets > 0 {
            part(format!(
                "bucket: {}, {} down, {} up, {}, {owed} owed, {} ahead ({} used), waited {}",
                things(self.bucket_hits, "hit"),
                bytes(self.bucket_get_bytes),
                bytes(self.bucket_put_bytes),
                things(self.uploads, "upload"),
                bytes(self.ahead_bytes),
                bytes(self.ahead_used_bytes),
                self.waited(),
            ));
        }
        if self.module_proxies > 0 {
            part(format!(
                "modules: {}, {} here, {} from the bucket, {} upstream, {} stored",
                things(self.module_lookups, "look-up"),
                things(self.module_local_hits, "hit"),
                count(self.module_bucket_hits),
                things(self.module_requests, "request"),
                bytes(self.module_stored_bytes),
            ));
        }
        part(format!("{:.1} s", stack.begun.elapsed().as_secs_f64()));
        line
    }

    /// A row each, with `processes` where several were added up, and what is `owed` where that is known.
    fn table(&self, processes: Option<u64>, owed: Option<u64>) -> String {
        let mut rows = Vec::new();
        rows.extend(processes.map(|n| ("processes", count(n))));
        rows.extend([
            ("gets", count(self.gets)),
            ("hits", format!("{} ({})", count(self.hits), percent(self.hits, self.gets))),
            ("– from the local cache", count(self.local_hits)),
            ("– from the bucket", count(self.bucket_hits)),
            ("tests cached", count(self.tests)),
            ("misses", count(self.misses)),
            ("puts", count(self.puts)),
            ("served", bytes(self.served_bytes)),
            ("stored", bytes(self.stored_bytes)),
        ]);
        if self.buckets > 0 {
            rows.extend([
                ("received from the bucket", bytes(self.bucket_get_bytes)),
                ("sent to the bucket", bytes(self.bucket_put_bytes)),
                ("gets waited for the bucket, added up", self.waited()),
                ("uploads", count(self.uploads)),
            ]);
            rows.extend(owed.map(|n| ("uploads owed", count(n))));
        }
        if self.module_proxies > 0 {
            rows.extend([
                ("files of modules looked up", count(self.module_lookups)),
                ("– found in the local cache", count(self.module_local_hits)),
                ("– found in the bucket", count(self.module_bucket_hits)),
                ("requests to upstreams", count(self.module_requests)),
                ("stored of modules", bytes(self.module_stored_bytes)),
            ]);
        }
        let width = |of: &dyn Fn(&(&str, String)) -> usize| rows.iter().map(of).max().unwrap_or_default();
        let (left, right) = (width(&|row| row.0.chars().count()), width(&|row| row.1.chars().count()));
        let mut table = format!("| {:left$} | {:right$} |\n| {:-<left$} | {:->right$} |\n", "build cache", "", "", ":");
        for (name, value) in rows {
            writeln!(table, "| {name:left$} | {value:>right$} |").expect("a String takes all");
        }
        table
    }
}

/// What this process came to, in one line.
pub fn line(stack: &Stack) -> String {
    Sums::of(stack).line(names::pending(&stack.config().cache_dir), stack)
}

/// Appends the line of this process to `file`, whole, whoever else does.
pub fn append(file: &Path, stack: &Stack) -> io::Result<()> {
    let line = Line { cache: stack.config().cache_dir.clone(), sums: Sums::of(stack) };
    append_text(file, &format!("{}\n", serde_json::to_string(&line)?))
}

fn append_text(file: &Path, text: &str) -> io::Result<()> {
    File::options().append(true).create(true).open(file)?.write_all(text.as_bytes())
}

/// Says what a run came to, and puts its table where the CI shows it.
pub fn of_run(stack: &Stack, config: &RunConfig) {
    let mut sums = Sums::of(stack);
    let proxies = config.http.as_ref().is_some_and(|http| http.mod_proxy.is_some());
    sums.module_proxies = proxies.into();
    let owed = names::pending(&config.cache.cache_dir);
    super::say(format_args!("{PROGRAM}: {}", sums.line(owed, stack)));
    match &config.report {
        Report::Plain => {}
        Report::GitHub(file) => {
            if let Err(e) = append_text(file, &markdown(&sums.table(None, Some(owed)))) {
                log::warn!("GITHUB_STEP_SUMMARY {}: {e}", file.display());
            }
        }
        Report::GitLab => super::say(section(&sums.table(None, Some(owed))).trim_end()),
    }
}

/// A table as a paragraph of its own.
fn markdown(table: &str) -> String {
    format!("\n{table}\n")
}

/// A table as a section of GitLab's log that opens at a click.
fn section(table: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let name = format!("go_cache_plugin_{}", process::id());
    format!(
        "\x1b[0Ksection_start:{now}:{name}[collapsed=true]\r\x1b[0K{PROGRAM}: what the build cache did\n\
         {table}\x1b[0Ksection_end:{now}:{name}\r\x1b[0K\n"
    )
}

/// `summary`: adds up what the processes of a job have appended to the file.
pub(super) fn execute(config: &SummaryConfig) -> Result<ExitCode, Error> {
    let failed = |e: io::Error| Error::failed(format!("{}: {e}", config.file.display()));
    let text = match fs::read(&config.file) {
        // a job without a single go command
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        read => read.map_err(failed)?,
    };
    let (mut sums, mut processes, mut damaged) = (Sums::default(), 0, 0);
    let mut caches = BTreeSet::new();
    for line in text.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice::<Line>(line) {
            Ok(line) => {
                sums.add(&line.sums);
                caches.insert(line.cache);
                processes += 1;
            }
            Err(_) => damaged += 1,
        }
    }
    if damaged > 0 {
        let (file, lines) = (config.file.display(), things(damaged, "line"));
        super::say(format_args!("{PROGRAM}: {file}: {lines} left out: damaged, or not of this program"));
    }
    // what another container has used cannot be looked at from here
    let known = caches.iter().all(|cache| cache.is_dir());
    let owed = known.then(|| caches.iter().map(|cache| names::pending(cache)).sum());
    let table = sums.table(Some(processes), owed);
    match &config.report {
        Report::Plain => super::print(&table),
        Report::GitLab => super::print(&section(&table)),
        Report::GitHub(file) => {
            let failed = |e| Error::failed(format!("GITHUB_STEP_SUMMARY {}: {e}", file.display()));
            append_text(file, &markdown(&table)).map_err(failed)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
