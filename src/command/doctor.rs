//! `doctor`: whether builds will use the cache, with which settings, and what to set next; one line each.
//!
//! It goes by what `go env` says, and tries what it can: it starts what GOCACHEPROG says as `go` would,
//! writes to the directory, reads and writes the bucket, asks the upstreams. Flags in GOCACHEPROG count as
//! builds take them; flags of its own win over them.

mod bucket;
mod builds;
mod goenv;
mod host;

use std::fs;
use std::io::Write;
use std::path::Path;

use self::builds::Started;
use super::goenv::GoEnv;
use super::status::{Findings, Mark};
use crate::atomic::TempFile;
use crate::config::{DoctorConfig, ModProxyConfig, UpstreamList, UpstreamUrl};
use crate::error::{Error, ExitCode};
use crate::http::modproxy;
use crate::lease;
use crate::platform;
use crate::text;

/// Prints what works and what does not; fails when something does not.
pub(super) fn execute(config: &DoctorConfig) -> Result<ExitCode, Error> {
    let mut found = Findings::default();
    let go = goenv::look(&mut found);
    let mut next = Vec::new();
    // what builds go by, where that can be told
    let mut effective = config.clone();
    let started = go.as_ref().map(|go| builds::look(config, go, &mut found));
    match &started {
        Some(Started::Nothing) => next.push(builds::how_to_start(config)),
        Some(Started::Ours(flags)) => builds::apply(flags, config, &mut effective, &mut found),
        _ => {}
    }
    let cache = &effective.cache;
    found.add(Mark::Ok, "settings", builds::settings(cache));
    found.outcome("cache directory", directory(&cache.cache_dir));
    match &cache.bucket {
        // the server may have one
        None if matches!(started, Some(Started::Client)) => {}
        None => {
            cache.note.iter().for_each(|note| found.add(Mark::Note, "bucket", note.clone()));
            found.add(Mark::Note, "bucket", "none: what this machine builds, no other can use");
            next.push(
                "to share it, export GOCACHE_S3_BUCKET=NAME, and AWS credentials as AWS programs want them".into(),
            );
        }
        Some(shared) => {
            bucket::look(shared, &mut found);
            if let Some(go) = &go {
                host::look(shared, go, &mut found);
            }
        }
    }
    if let Some(proxy) = proxy(&effective, go.as_ref()) {
        modules(&proxy, if effective.proxied { "--upstream and --sumdb" } else { "GOPROXY" }, &mut found);
    }
    next.into_iter().for_each(|text: String| found.add(Mark::Next, "", text));
    let line = |(mark, what, text): &(Mark, &str, String)| match mark {
        Mark::Ok => format!("ok    {what}: {text}\n"),
        Mark::Note => format!("note  {what}: {text}\n"),
        Mark::Fail => format!("FAIL  {what}: {text}\n"),
        Mark::Next => format!("next  {text}\n"),
    };
    super::print(&text::without_secrets(&found.0.iter().map(line).collect::<String>()))?;
    Ok(found.code())
}

fn directory(dir: &Path) -> Result<String, String> {
    let shown = dir.display();
    let write = || {
        fs::create_dir_all(dir)?;
        TempFile::create(dir)?.file().write_all(b"probe")
    };
    write().map_err(|e| format!("{shown}: {e}; choose another with --cache-dir or GOCACHE_DIR"))?;
    let free = platform::disk(dir).map_or(String::new(), |disk| format!(", {} free", text::bytes(disk.0)));
    Ok(format!("{shown} is writable{free}{}", lease::warning(dir)))
}

/// How modules are fetched where they are proxied: as the flags say, or through a proxy like ours that
/// GOPROXY names.
fn proxy(config: &DoctorConfig, go: Option<&GoEnv>) -> Option<ModProxyConfig> {
    if config.proxied {
        return Some(config.proxy.clone());
    }
    let ours = |url: &UpstreamUrl| matches!(url, UpstreamUrl::Web { url, .. } if url.ends_with("/mod"));
    let mut upstream: UpstreamList = go?.get("GOPROXY").parse().ok()?;
    upstream.entries.retain(|entry| ours(&entry.url));
    // it asks the sum database itself
    let through = |upstream| ModProxyConfig { upstream, offline: false, verify: false, ..config.proxy.clone() };
    Some(upstream).filter(|list| !list.entries.is_empty()).map(through)
}

/// Asks the upstreams, which `given` names.
fn modules(proxy: &ModProxyConfig, given: &str, found: &mut Findings) {
    if proxy.offline {
        return found.add(Mark::Note, "modules", "no upstream is asked, as --offline says");
    }
    match modproxy::probe(proxy) {
        Err(why) => found.add(Mark::Fail, "modules", format!("{why}: see NETRC")),
        Ok(asked) => {
            for (name, answer) in asked {
                let outcome = match answer {
                    Ok(()) => Ok(format!("{name} answers")),
                    Err(why) => Err(format!("{name} does not answer, see {given}: {why}")),
                };
                found.outcome("modules", outcome);
            }
        }
    }
}
