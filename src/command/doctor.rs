//! `doctor`: tries everything that the cache depends on, one line each.

use std::fmt::Display;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::status::reach;
use crate::atomic::TempFile;
use crate::config::{BucketConfig, BucketLocation, Config};
use crate::error::{Error, Exit};
use crate::metrics::Metrics;
use crate::remote::{Bucket, PutBody};
use crate::text;

/// The first minor version of Go 1 that knows GOCACHEPROG.
const OLDEST_GO: u32 = 24;

/// What was found so far.
#[derive(Default)]
struct Report {
    page: String,
    failed: bool,
}

impl Report {
    fn line(&mut self, what: &str, outcome: Result<impl Display, impl Display>) {
        use std::fmt::Write as _;
        match outcome {
            Ok(found) => writeln!(self.page, "ok    {what}: {found}"),
            Err(why) => {
                self.failed = true;
                writeln!(self.page, "FAIL  {what}: {why}")
            }
        }
        .expect("a String takes all");
    }
}

/// Prints what works and what does not; fails when something does not.
pub(super) fn execute(config: &Config) -> Result<Exit, Error> {
    let mut report = Report::default();
    report.line("cache directory", directory(&config.cache_dir));
    report.line("go", go());
    match &config.bucket {
        None => report.line("bucket", Ok::<_, String>("none, the cache is local")),
        Some(shared) => bucket(&mut report, shared),
    }
    super::print(&report.page)?;
    Ok(if report.failed { Exit::Failure } else { Exit::Success })
}

fn directory(dir: &Path) -> Result<String, String> {
    let shown = dir.display();
    let write = || {
        fs::create_dir_all(dir)?;
        TempFile::create(dir)?.file().write_all(b"probe")
    };
    write().map_err(|e| format!("{shown}: {e}; choose another with --cache-dir"))?;
    let free = rustix::fs::statvfs(dir).map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize));
    Ok(format!("{shown} is writable, {} free", text::bytes(free)))
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

fn bucket(report: &mut Report, config: &BucketConfig) {
    if let BucketLocation::S3 { aws, .. } = &config.location {
        report.line("credentials", Ok::<_, String>(sources(aws)));
    }
    let bucket = match Bucket::open(config, Arc::new(Metrics::default())) {
        Ok(bucket) => bucket,
        Err(e) => return report.line("bucket", Err::<String, _>(e)),
    };
    report.line("bucket", reach(&bucket).map(|()| format!("{} answers", bucket.identity())));
    if config.read_only {
        return report.line("writing", Ok::<_, String>("not tried, the bucket is used read-only"));
    }
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let key = format!("doctor/{}-{nanos}", std::process::id());
    let body = format!("probe {nanos}");
    let put = bucket.put(&key, &PutBody::Bytes(body.as_bytes().into()));
    let written = put.is_ok();
    report.line("writing", put.map(|()| format!("{key} was put")));
    if !written {
        return;
    }
    report.line("reading", read_back(&bucket, &key, &body));
    report.line("deleting", bucket.delete(&key).map(|()| format!("{key} was deleted")));
}

fn read_back(bucket: &Bucket, key: &str, body: &str) -> Result<&'static str, String> {
    let missing = || bucket.state().last_error.unwrap_or_else(|| format!("{key} is not there after its put"));
    let object = bucket.get(key).ok_or_else(missing)?;
    let mut found = String::new();
    object.body.take(1024).read_to_string(&mut found).map_err(|e| e.to_string())?;
    if found == body { Ok("it came back as it was put") } else { Err(format!("{key} came back changed")) }
}

/// Which sources of credentials the environment names, in the order in which they are tried.
fn sources(aws: &crate::config::AwsEnv) -> String {
    let mut named: Vec<String> = Vec::new();
    let set = |name: &str| aws.vars.get(name).filter(|v| !v.is_empty());
    if let Some(key) = set("AWS_ACCESS_KEY_ID") {
        named.push(format!("key {key} from the environment"));
    }
    if let Some(profile) = set("AWS_PROFILE") {
        named.push(format!("profile {profile}"));
    }
    let default_file = |name: &str| aws.vars.get("HOME").map(|home| format!("{home}/.aws/{name}"));
    for (variable, name) in [("AWS_SHARED_CREDENTIALS_FILE", "credentials"), ("AWS_CONFIG_FILE", "config")] {
        let file = set(variable).cloned().or_else(|| default_file(name));
        named.extend(file.filter(|f| Path::new(f).exists()).map(|f| format!("file {f}")));
    }
    if set("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() {
        named.push("web identity".into());
    }
    if set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").or(set("AWS_CONTAINER_CREDENTIALS_FULL_URI")).is_some() {
        named.push("container credentials".into());
    }
    if set("AWS_EC2_METADATA_DISABLED").is_none_or(|v| !v.eq_ignore_ascii_case("true")) {
        named.push("instance metadata".into());
    }
    if named.is_empty() { "no source is configured".into() } else { format!("tried in turn: {}", named.join(", ")) }
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
