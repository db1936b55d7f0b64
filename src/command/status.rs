//! `status`: what the local cache holds, what waits for upload, and what the bucket answers to a
//! read and to a write.

use std::fmt::{Display, Write as _};
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use super::bulk::Bulk;
use super::names;
use crate::atomic::process_token;
use crate::cli::Flag;
use crate::config::{BucketConfig, BucketLocation, Config};
use crate::error::{Error, ExitCode};
use crate::folder::FOLDERS;
use crate::lease;
use crate::metrics::Metrics;
use crate::remote::{Bucket, PutBody, RemoteError};
use crate::text;

/// Prints one line for each part; fails where the bucket cannot be used as configured.
/// `whole` looks through the whole bucket, too.
pub(super) fn execute(config: &Config, whole: bool) -> Result<ExitCode, Error> {
    let root = &config.cache_dir;
    let mut page = String::new();
    let mut line = |name: &str, value: &str| writeln!(page, "{name:<16} {value}").expect("a String takes all");
    line("cache directory", &format!("{}{}", root.display(), lease::warning(root)));
    for folder in FOLDERS {
        let held = names::held(root, folder).map_err(|e| Error::failed(format!("{}: {e}", root.display())))?;
        line(folder, &format!("{}, {}", text::things(held.files, "file"), text::bytes(held.bytes)));
    }
    let pending = names::pending(root).map_or_else(|e| format!("cannot be told: {e}"), text::count);
    line("pending uploads", &pending);
    let mut found = Findings::default();
    match &config.bucket {
        None => line("bucket", "none"),
        Some(shared) => try_bucket(shared, &mut found),
    }
    if let Some(shared) = config.bucket.as_ref().filter(|_| whole && found.code() == ExitCode::SUCCESS)
        && let Err(e) = look_through(shared, &mut found)
    {
        found.add(Mark::Fail, "listing", e.to_string());
    }
    for (mark, what, text) in &found.0 {
        line("bucket", &format!("{}{what}: {text}", if *mark == Mark::Fail { "FAIL " } else { "" }));
    }
    super::print(&page)?;
    Ok(found.code())
}

/// What the bucket holds below its prefix under names of ours.
fn look_through(config: &BucketConfig, found: &mut Findings) -> Result<(), RemoteError> {
    let bucket = Arc::new(Bucket::open(config, Arc::new(Metrics::default()), None)?);
    let mut bulk = Bulk::new("status", bucket.clone(), 1, 0);
    // an output of the classic layout belongs to an entry
    let mut kinds = [
        ("entries", &["v1/", "action/"][..], 0),
        ("packs", &["pack/"], 0),
        ("scopes", &["manifest/"], 0),
        ("modules", &["module/"], 0),
        ("proxied", &["revproxy/"], 0),
    ];
    let (mut bytes, mut ages) = (0, None::<(Duration, Duration)>);
    for kind in names::BUILDS.into_iter().chain(names::PROXIED) {
        bucket.list(kind, &mut |object| {
            bulk.look(None);
            if names::is_key(&object.key) {
                let counted = kinds.iter_mut().find(|(_, kinds, _)| kinds.contains(&kind));
                counted.into_iter().for_each(|(.., count)| *count += 1);
                bytes += object.len;
                let widen = |age: Duration| ages.map_or((age, age), |(least, most)| (age.min(least), age.max(most)));
                ages = object.age.map(widen).or(ages);
            }
        })?;
    }
    kinds.into_iter().for_each(|(what, _, n)| found.add(Mark::Ok, what, text::count(n)));
    found.add(Mark::Ok, "bytes", text::bytes(bytes));
    if let Some((youngest, oldest)) = ages {
        found.add(Mark::Ok, "youngest", text::age(youngest));
        found.add(Mark::Ok, "oldest", text::age(oldest));
    }
    Ok(())
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
    /// What to do next.
    Next,
}

/// What was found out so far: how a part does, which it is, and the words for that.
#[derive(Default)]
pub(super) struct Findings(pub Vec<(Mark, &'static str, String)>);

impl Findings {
    pub fn add(&mut self, mark: Mark, what: &'static str, text: impl Into<String>) {
        self.0.push((mark, what, text.into()));
    }

    pub fn outcome(&mut self, what: &'static str, outcome: Result<String, String>) {
        let mark = if outcome.is_ok() { Mark::Ok } else { Mark::Fail };
        self.add(mark, what, outcome.unwrap_or_else(|why| why));
    }

    /// The code to end with: it fails where something does not work.
    pub fn code(&self) -> ExitCode {
        if self.0.iter().any(|(mark, ..)| *mark == Mark::Fail) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

/// Reads from the bucket, and writes where the program would; the answers, each with endpoint and
/// bucket. What earlier processes learnt does not count.
pub(super) fn try_bucket(config: &BucketConfig, findings: &mut Findings) {
    let bucket = match Bucket::open(config, Arc::new(Metrics::default()), None) {
        Ok(bucket) => bucket,
        Err(e) => return findings.add(Mark::Fail, "address", e.to_string()),
    };
    let target = bucket.target();
    let mut found = |mark, what, text: &dyn Display| {
        findings.add(mark, what, format!("{target}: {text}"));
        mark != Mark::Fail
    };
    let (key, body) = (format!("doctor/{}", process_token()), format!("probe {}", process_token()));
    let is_dir = matches!(config.location, BucketLocation::Dir(_));
    // some tell that there is no bucket in answers to listings alone
    let read = match (bucket.ask(&key, b"", false), bucket.list(&key, &mut |_| {})) {
        (Err(RemoteError::Forbidden(why)), Err(RemoteError::Forbidden(_))) if !is_dir => {
            let text = format!("refused to tell, as AWS does for absent objects without s3:ListBucket ({why})");
            found(if config.read_only { Mark::Fail } else { Mark::Note }, "reading", &text)
        }
        (Ok(_), Ok(()) | Err(RemoteError::Forbidden(_))) => found(Mark::Ok, "reading", &"can be read"),
        (Err(e), _) | (_, Err(e)) => found(Mark::Fail, "reading", &format_args!("{e}{}", at_fault(&e, config))),
    };
    if config.read_only || !read {
        let (mark, why) = if read { (Mark::Ok, ", the bucket is used read-only") } else { (Mark::Fail, "") };
        found(mark, "writing", &format_args!("not tried{why}"));
        return;
    }
    if let Err(e) = bucket.put(&key, &PutBody::Bytes(body.as_bytes().into())) {
        found(Mark::Fail, "writing", &format_args!("{e}{}", at_fault(&e, config)));
        return;
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
}

/// What an error of the bucket's speaks of, by the flag or variable that says it, to stand behind it.
fn at_fault(e: &RemoteError, config: &BucketConfig) -> String {
    let flag = |name: &str| {
        Flag::named(name).map_or_else(String::new, |flag| format!("; see {} or {}", flag.spelling(), flag.variable))
    };
    let BucketLocation::S3 { endpoint, aws, .. } = &config.location else { return flag("bucket") };
    let keys = |name: &str| {
        let given = aws.var("AWS_ACCESS_KEY_ID").is_some();
        format!("; see {}", if given { name } else { "AWS_PROFILE and what it names" })
    };
    let code = |codes: &[&str]| codes.iter().any(|code| e.to_string().contains(code));
    match e {
        RemoteError::Config(_) => flag("bucket"),
        _ if code(&["SignatureDoesNotMatch"]) => keys("AWS_SECRET_ACCESS_KEY"),
        _ if code(&["InvalidAccessKeyId", "InvalidClientTokenId"]) => keys("AWS_ACCESS_KEY_ID"),
        _ if code(&["ExpiredToken", "InvalidToken", "TokenRefreshRequired"]) => keys("AWS_SESSION_TOKEN"),
        _ if code(&["RequestTimeTooSkewed", "RequestExpired"]) => "; see this machine's clock".into(),
        _ if code(&["AuthorizationHeaderMalformed", "PermanentRedirect"]) => flag("region"),
        RemoteError::Forbidden(_) => "; see the permissions of these credentials".into(),
        RemoteError::Status(500.., _) | RemoteError::Denied(_) => String::new(),
        _ if endpoint.is_none() => flag("region"),
        _ => flag("s3-endpoint-url"),
    }
}

/// Whether parts of objects can be read.
fn part_of(bucket: &Bucket, key: &str, body: &str) -> bool {
    let mut found = String::new();
    let object = bucket.get_range(key, 1..4, false).ok().flatten();
    object.is_some_and(|o| o.body.take(1024).read_to_string(&mut found).is_ok()) && found == body[1..4]
}

fn read_back(bucket: &Bucket, key: &str, body: &str) -> Result<(), String> {
    let object = bucket.ask(key, b"", false).map_err(|e| e.to_string())?;
    let object = object.ok_or_else(|| format!("{key} is not there after its put"))?;
    let mut found = String::new();
    object.body.take(1024).read_to_string(&mut found).map_err(|e| e.to_string())?;
    if found == body { Ok(()) } else { Err(format!("{key} came back changed")) }
}
