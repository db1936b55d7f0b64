//! `status`: what the local cache holds, what waits for upload, and what the bucket answers to a
//! read and to a write.

use std::fmt::{Display, Write as _};
use std::io::Read;
use std::sync::Arc;

use super::names;
use crate::atomic::process_token;
use crate::config::{BucketConfig, BucketLocation, Config};
use crate::error::{Error, Exit};
use crate::folder::FOLDERS;
use crate::lease;
use crate::metrics::Metrics;
use crate::remote::{Bucket, PutBody, RemoteError};
use crate::text;

/// Prints one line for each part; fails where the bucket cannot be used as configured.
pub(super) fn execute(config: &Config) -> Result<Exit, Error> {
    let root = &config.cache_dir;
    let mut page = String::new();
    let mut line = |name: &str, value: &str| writeln!(page, "{name:<16} {value}").expect("a String takes all");
    line("cache directory", &format!("{}{}", root.display(), lease::warning(root)));
    for folder in FOLDERS {
        let held = names::held(root, folder).map_err(|e| Error::failed(format!("{}: {e}", root.display())))?;
        line(folder, &format!("{} files, {}", text::count(held.files), text::bytes(held.bytes)));
    }
    line("pending uploads", &text::count(names::pending(root)));
    let findings = config.bucket.as_ref().map(try_bucket).unwrap_or_default();
    if findings.is_empty() {
        line("bucket", "none");
    }
    for Finding { mark, what, text } in &findings {
        line("bucket", &format!("{}{what}: {text}", if *mark == Mark::Fail { "FAIL " } else { "" }));
    }
    super::print(&page)?;
    Ok(if findings.iter().any(|f| f.mark == Mark::Fail) { Exit::Failure } else { Exit::Success })
}

/// How a part does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mark {
    /// It works.
    Ok,
    /// It cannot be told, or does not matter.
    Note,
    /// It does not work.
    Fail,
}

/// What was found out about a part of the bucket.
pub(super) struct Finding {
    pub mark: Mark,
    pub what: &'static str,
    pub text: String,
}

/// Reads from the bucket, and writes where the program would; the answers, each with endpoint and
/// bucket. What earlier processes learnt does not count.
pub(super) fn try_bucket(config: &BucketConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    let bucket = match Bucket::open(config, Arc::new(Metrics::default()), None) {
        Ok(bucket) => bucket,
        Err(e) => return vec![Finding { mark: Mark::Fail, what: "address", text: e.to_string() }],
    };
    let target = bucket.target();
    let mut found = |mark, what, text: &dyn Display| {
        findings.push(Finding { mark, what, text: format!("{target}: {text}") });
        mark != Mark::Fail
    };
    let (key, body) = (format!("doctor/{}", process_token()), format!("probe {}", process_token()));
    let is_dir = matches!(config.location, BucketLocation::Dir(_));
    // some tell that there is no bucket in answers to listings alone
    let read = match (bucket.ask(&key, None), bucket.list(&key, &mut |_| {})) {
        (Err(RemoteError::Forbidden(why)), Err(RemoteError::Forbidden(_))) if !is_dir => {
            let text = format!("refused to tell, as AWS does for absent objects without s3:ListBucket ({why})");
            found(if config.read_only { Mark::Fail } else { Mark::Note }, "reading", &text)
        }
        (Ok(_), Ok(()) | Err(RemoteError::Forbidden(_))) => found(Mark::Ok, "reading", &"can be read"),
        (Err(e), _) | (_, Err(e)) => found(Mark::Fail, "reading", &e),
    };
    if config.read_only || !read {
        let (mark, why) = if read { (Mark::Ok, ", the bucket is used read-only") } else { (Mark::Fail, "") };
        found(mark, "writing", &format_args!("not tried{why}"));
        return findings;
    }
    if let Err(e) = bucket.put(&key, &PutBody::Bytes(body.as_bytes().into())) {
        found(Mark::Fail, "writing", &e);
        return findings;
    }
    found(Mark::Ok, "writing", &format_args!("{key} was put"));
    match read_back(&bucket, &key, &body) {
        Ok(()) => found(Mark::Ok, "reading back", &"it came back as it was put"),
        Err(why) => found(Mark::Fail, "reading back", &why),
    };
    if !part_of(&bucket, &key, &body) {
        let text =
            "parts of an object cannot be read, so that packs are not used: builds on fresh machines take longer";
        found(Mark::Note, "packs", &text);
    }
    match bucket.delete(&key) {
        Ok(()) => found(Mark::Ok, "deleting", &format_args!("{key} was deleted")),
        Err(e) => found(Mark::Note, "deleting", &format_args!("{key} stays, only `clear` needs this: {e}")),
    };
    findings
}

/// Whether parts of objects can be read.
fn part_of(bucket: &Bucket, key: &str, body: &str) -> bool {
    let mut found = String::new();
    let object = bucket.get_range(key, 1..4, false);
    object.is_some_and(|o| o.body.take(1024).read_to_string(&mut found).is_ok()) && found == body[1..4]
}

fn read_back(bucket: &Bucket, key: &str, body: &str) -> Result<(), String> {
    let object = bucket.ask(key, None).map_err(|e| e.to_string())?;
    let object = object.ok_or_else(|| format!("{key} is not there after its put"))?;
    let mut found = String::new();
    object.body.take(1024).read_to_string(&mut found).map_err(|e| e.to_string())?;
    if found == body { Ok(()) } else { Err(format!("{key} came back changed")) }
}
