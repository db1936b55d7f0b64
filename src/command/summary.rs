//! What was counted, for people: the line and the table of one run, and of all processes of a job, each of
//! which appends its numbers as a line of JSON to a file that `summary` adds up.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::names;
use super::stack::Stack;
use crate::cli::PROGRAM;
use crate::config::{Report, RunConfig, SummaryConfig};
use crate::error::{Error, ExitCode};
use crate::metrics::Metrics;
use crate::text::{bytes, count, percent, things};

/// What one process came to, or several, added up.
#[derive(Default)]
struct Sum {
    metrics: Arc<Metrics>,
    /// One had a bucket.
    bucket: bool,
    /// One proxied modules.
    modules: bool,
}

impl Sum {
    fn of(stack: &Stack) -> Sum {
        let metrics = stack.metrics.clone();
        Sum { bucket: stack.bucket.is_some(), modules: metrics.modcache.get_request.get() > 0, metrics }
    }

    /// Adds a process's line. Returns its cache directory, which knows what is owed.
    fn add(&mut self, line: &[u8]) -> Option<PathBuf> {
        let line: Value = serde_json::from_slice(line).ok()?;
        let cache = line["cache"].as_str()?.into();
        self.metrics.add(&line);
        self.bucket |= line["has_bucket"] == true;
        self.modules = self.metrics.modcache.get_request.get() > 0;
        Some(cache)
    }

    fn waited(&self) -> String {
        format!("{:.1} s", Duration::from_nanos(self.metrics.bucket.wait_nanos.get()).as_secs_f64())
    }

    /// All of the process with this `stack` in one line; `owed` counts the uploads that are not done.
    fn line(&self, owed: u64, stack: &Stack) -> String {
        let m = &*self.metrics;
        let (gets, hits) = (m.server.get_requests.get(), m.server.get_hits.get());
        let mut line = format!(
            "{}, {} ({}), {}, {}; {} served, {} stored",
            things(gets, "get"),
            things(hits, "hit"),
            percent(hits, gets),
            things(m.server.get_misses.get(), "miss"),
            things(m.server.put_requests.get(), "put"),
            bytes(m.server.get_hit_bytes.get()),
            bytes(m.server.put_bytes.get()),
        );
        let mut part = |text| line += &format!("; {text}");
        if self.bucket {
            part(format!(
                "bucket: {}, {} down, {} up, {}, {owed} owed, {} ahead ({} used), waited {}",
                things(m.host.get_fault_hit.get(), "hit"),
                bytes(m.bucket.get_bytes.get()),
                bytes(m.bucket.put_bytes.get()),
                things(m.upload.done.get(), "upload"),
                bytes(m.readahead.fetched_bytes.get()),
                bytes(m.readahead.used_bytes.get()),
                self.waited(),
            ));
        }
        if self.modules {
            part(format!(
                "modules: {}, {} here, {} from the bucket, {} upstream, {} stored",
                things(m.modcache.get_request.get(), "look-up"),
                things(m.modcache.get_local_hit.get(), "hit"),
                count(m.modcache.get_fault_hit.get()),
                things(m.modcache.upstream_requests.get(), "request"),
                bytes(m.modcache.put_local_bytes.get()),
            ));
        }
        part(format!("{:.1} s", stack.begun.elapsed().as_secs_f64()));
        line
    }

    /// A row each, with `processes` where several were added up, and what is `owed` where that is known.
    fn table(&self, processes: Option<u64>, owed: Option<u64>) -> String {
        let m = &*self.metrics;
        let (gets, hits) = (m.server.get_requests.get(), m.server.get_hits.get());
        let mut rows = Vec::new();
        rows.extend(processes.map(|n| ("processes", count(n))));
        rows.extend([
            ("gets", count(gets)),
            ("hits", format!("{} ({})", count(hits), percent(hits, gets))),
            ("– from the local cache", count(m.host.get_local_hit.get())),
            ("– from the bucket", count(m.host.get_fault_hit.get())),
            ("tests cached", count(m.server.get_tests.get())),
            ("misses", count(m.server.get_misses.get())),
            ("puts", count(m.server.put_requests.get())),
            ("served", bytes(m.server.get_hit_bytes.get())),
            ("stored", bytes(m.server.put_bytes.get())),
        ]);
        if self.bucket {
            rows.extend([
                ("received from the bucket", bytes(m.bucket.get_bytes.get())),
                ("sent to the bucket", bytes(m.bucket.put_bytes.get())),
                ("gets waited for the bucket, added up", self.waited()),
                ("uploads", count(m.upload.done.get())),
            ]);
            rows.extend(owed.map(|n| ("uploads owed", count(n))));
        }
        if self.modules {
            rows.extend([
                ("files of modules looked up", count(m.modcache.get_request.get())),
                ("– found in the local cache", count(m.modcache.get_local_hit.get())),
                ("– found in the bucket", count(m.modcache.get_fault_hit.get())),
                ("requests to upstreams", count(m.modcache.upstream_requests.get())),
                ("stored of modules", bytes(m.modcache.put_local_bytes.get())),
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

/// What is marked below a cache directory; nothing that is known where that cannot be read.
fn owed(cache: &Path) -> u64 {
    names::pending(cache).unwrap_or_default()
}

/// What this process came to, in one line.
pub fn line(stack: &Stack) -> String {
    Sum::of(stack).line(owed(&stack.config().cache_dir), stack)
}

/// Appends the line of this process to `file`, whole, whoever else does.
pub fn append(file: &Path, stack: &Stack) -> io::Result<()> {
    let mut line = stack.metrics.to_json();
    line["cache"] = json!(stack.config().cache_dir);
    line["has_bucket"] = json!(stack.bucket.is_some());
    append_text(file, &format!("{line}\n"))
}

fn append_text(file: &Path, text: &str) -> io::Result<()> {
    File::options().append(true).create(true).open(file)?.write_all(text.as_bytes())
}

/// Says what a run came to, and puts its table where the CI shows it.
pub fn of_run(stack: &Stack, config: &RunConfig) {
    let modules = config.http.as_ref().is_some_and(|http| http.mod_proxy.is_some());
    let sum = Sum { modules, ..Sum::of(stack) };
    let owed = owed(&config.cache.cache_dir);
    super::say(format_args!("{PROGRAM}: {}", sum.line(owed, stack)));
    match &config.report {
        Report::Plain => {}
        Report::GitHub(file) => {
            if let Err(e) = append_text(file, &markdown(&sum.table(None, Some(owed)))) {
                log::warn!("GITHUB_STEP_SUMMARY {}: {e}", file.display());
            }
        }
        Report::GitLab => super::say(section(&sum.table(None, Some(owed))).trim_end()),
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
    let mut sum = Sum::default();
    let lines: Vec<_> = text.split(|b| *b == b'\n').filter(|line| !line.is_empty()).map(|line| sum.add(line)).collect();
    let processes = lines.iter().flatten().count() as u64;
    let damaged = lines.len() as u64 - processes;
    let caches: BTreeSet<_> = lines.into_iter().flatten().collect();
    if damaged > 0 {
        let (file, lines) = (config.file.display(), things(damaged, "line"));
        super::say(format_args!("{PROGRAM}: {file}: {lines} left out: damaged, or not of this program"));
    }
    // what another container has used cannot be looked at from here
    let known = caches.iter().all(|cache| cache.is_dir());
    let owed = known.then(|| caches.iter().map(|cache| owed(cache)).sum());
    let table = sum.table(Some(processes), owed);
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
