//! `status`: what the local cache holds, what waits for upload, and whether the bucket answers.

use std::fmt::Write as _;
use std::sync::Arc;

use super::names;
use crate::config::{BucketConfig, Config};
use crate::error::{Error, Exit};
use crate::metrics::Metrics;
use crate::remote::{Bucket, RemoteError};
use crate::text;

/// Prints one line for each part.
pub(super) fn execute(config: &Config) -> Result<Exit, Error> {
    let root = &config.cache_dir;
    let mut page = String::new();
    let mut line = |name: &str, value: String| writeln!(page, "{name:<16} {value}").expect("a String takes all");
    line("cache directory", root.display().to_string());
    for folder in names::FOLDERS {
        let held = names::held(root, folder).map_err(|e| Error::failed(format!("{}: {e}", root.display())))?;
        line(folder, format!("{} files, {}", text::count(held.files), text::bytes(held.bytes)));
    }
    line("pending uploads", text::count(names::pending(root)));
    line("bucket", config.bucket.as_ref().map_or_else(|| "none".to_string(), bucket));
    super::print(&page)
}

fn bucket(config: &BucketConfig) -> String {
    match Bucket::open(config, Arc::new(Metrics::default())) {
        Ok(bucket) => match reach(&bucket) {
            Ok(()) => format!("{}, answers", bucket.identity()),
            Err(e) => format!("{}, does not answer: {e}", bucket.identity()),
        },
        Err(e) => e.to_string(),
    }
}

/// Asks for an object that need not be there.
pub(super) fn reach(bucket: &Bucket) -> Result<(), String> {
    let _ = bucket.head("v1/00/00");
    match bucket.state().last_error {
        Some(e) => Err(e),
        None if !bucket.available() => Err(RemoteError::Open.to_string()),
        None => Ok(()),
    }
}
