//! `doctor`: tries everything that the cache depends on, one line each.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use super::status::{Finding, Mark, try_bucket};
use crate::atomic::TempFile;
use crate::config::{self, AwsEnv, BucketLocation, Config};
use crate::error::{Error, Exit};
use crate::lease;
use crate::text;

/// The first minor version of Go 1 that knows GOCACHEPROG.
const OLDEST_GO: u32 = 24;

/// Prints what works and what does not; fails when something does not.
pub(super) fn execute(config: &Config) -> Result<Exit, Error> {
    let mut findings = Vec::new();
    let mut found = |what: &'static str, outcome: Result<String, String>| {
        let mark = if outcome.is_ok() { Mark::Ok } else { Mark::Fail };
        findings.push(Finding { mark, what, text: outcome.unwrap_or_else(|why| why) });
    };
    found("cache directory", directory(&config.cache_dir));
    found("go", go());
    match &config.bucket {
        None => found("bucket", Ok("none, the cache is local".into())),
        Some(shared) => {
            if let BucketLocation::S3 { region, endpoint, path_style, aws, .. } = &shared.location {
                let described = endpoint.as_ref().map(|e| config::describe(e, region.as_ref(), *path_style));
                described.into_iter().for_each(|text| found("endpoint", Ok(text)));
                found("credentials", Ok(sources(aws)));
            }
            findings.extend(try_bucket(shared));
        }
    }
    let line = |Finding { mark, what, text }: &Finding| match mark {
        Mark::Ok => format!("ok    {what}: {text}\n"),
        Mark::Note => format!("note  {what}: {text}\n"),
        Mark::Fail => format!("FAIL  {what}: {text}\n"),
    };
    super::print(&findings.iter().map(line).collect::<String>())?;
    Ok(if findings.iter().any(|f| f.mark == Mark::Fail) { Exit::Failure } else { Exit::Success })
}

fn directory(dir: &Path) -> Result<String, String> {
    let shown = dir.display();
    let write = || {
        fs::create_dir_all(dir)?;
        TempFile::create(dir)?.file().write_all(b"probe")
    };
    write().map_err(|e| format!("{shown}: {e}; choose another with --cache-dir"))?;
    let free = rustix::fs::statvfs(dir).map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize));
    Ok(format!("{shown} is writable, {} free{}", text::bytes(free), lease::warning(dir)))
}

fn go() -> Result<String, String> {
    let out = Command::new("go").args(["env", "GOVERSION"]).output().map_err(|e| format!("cannot start it: {e}"))?;
    let version = String::from_utf8_lossy(&out.stdout).trim().to_string();
    match minor(&version) {
        Some(minor) if minor < OLDEST_GO => Err(format!("{version} is too old, GOCACHEPROG needs go1.{OLDEST_GO}")),
        // a development version has no number and is new
        Some(_) => Ok(version),
        None if version.starts_with("devel") => Ok(version),
        None => Err(format!("\"go env GOVERSION\" says {version:?}")),
    }
}

/// The 24 of `go1.24.3`.
fn minor(version: &str) -> Option<u32> {
    let digits: String = version.strip_prefix("go1.")?.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Where credentials are looked for: what the environment sets, never its secrets.
fn sources(aws: &AwsEnv) -> String {
    let told = |name: &&String| name.starts_with("AWS_") && aws.var(name).is_some();
    let set: Vec<_> = aws.vars.keys().filter(told).map(String::as_str).collect();
    format!("the environment sets {}", if set.is_empty() { "nothing".into() } else { set.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go() {
        assert_eq!(minor("go1.24.3"), Some(24));
        assert_eq!(minor("go1.27rc1"), Some(27));
        assert_eq!(minor("devel go1.28-abc"), None);
        assert_eq!(minor(""), None);
    }
}
