//! What makes sharing among machines useless or unsound, as far as this one can tell.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::super::goenv::GoEnv;
use super::super::status::Mark;
use super::Findings;
use super::goenv::split;
use crate::config::BucketConfig;
use crate::id::OutputId;

/// What the last part of a prefix begins with that is for machines with one compiler and libc.
const CGO: &str = "cgo-";
/// Where loaders are.
const LOADERS: [&str; 2] = ["/lib64", "/lib"];

/// Looks at the flags of `go` and at cgo.
pub fn look(bucket: &BucketConfig, go: &GoEnv, found: &mut Findings) {
    let flags = go.get("GOFLAGS");
    if !flags.split_whitespace().any(|flag| matches!(flag, "-trimpath" | "--trimpath" | "-trimpath=true")) {
        let text = "go puts the paths of this machine into what it builds, so that only builds in folders of the \
            same names share it: GOFLAGS=-trimpath leaves them out";
        found.add(Mark::Note, "paths", text);
    }
    if !flags.is_empty() {
        let text = format!("builds here have GOFLAGS={flags:?}: those with other flags share little with them");
        found.add(Mark::Note, "GOFLAGS", text);
    }
    if go.get("CGO_ENABLED") == "1" {
        cgo(bucket, go.get("CC"), found);
    }
}

/// Go's key of what cgo builds knows the compiler's version, and neither libc nor its headers.
fn cgo(bucket: &BucketConfig, cc: &str, found: &mut Findings) {
    let Some((version, print)) = fingerprint(cc) else {
        let text = format!("CC {cc:?} cannot be started: go cannot build what needs it; CGO_ENABLED=0 does without");
        return found.add(Mark::Note, "cgo", text);
    };
    let prefix = bucket.write_prefix.as_ref().unwrap_or(&bucket.prefix).as_str();
    let told = prefix.split('/').filter(|part| part.starts_with(CGO)).collect::<Vec<_>>();
    let (above, host) = (if prefix.is_empty() { "" } else { "/" }, format!("{CGO}{print}"));
    if told.contains(&host.as_str()) {
        found.add(Mark::Ok, "cgo", format!("{version}: the prefix is that of this compiler, libc and loader"));
    } else if let Some(told) = told.first() {
        let text = format!(
            "the prefix says {told}, but this host's compiler, libc and loader are {host}: what cgo \
            builds may not run on the others; --prefix (GOCACHE_KEY_PREFIX) should end with {host}"
        );
        found.add(Mark::Fail, "cgo", text);
    } else {
        let text = format!(
            "{version}: go does not notice where libc or its headers differ, so only machines of one \
            image may share what cgo builds: --prefix={prefix}{above}{host} keeps this one's apart, CGO_ENABLED=0 \
            does without"
        );
        found.add(Mark::Note, "cgo", text);
    }
}

/// The compiler's first words about itself, and a short hash of all of them, of libc and of the loader.
fn fingerprint(cc: &str) -> Option<(String, String)> {
    let words = split(cc).ok().filter(|words| !words.is_empty())?;
    let ask = |arg: &str| {
        let out = Command::new(&words[0]).args(&words[1..]).arg(arg).env("LC_ALL", "C").output().ok()?;
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let version = ask("--version")?;
    let mut parts = vec![version.clone().into_bytes()];
    // glibc's and musl's names; a name that it does not find comes back as it is
    for name in ["libc.so.6", "libc.so"] {
        let file = ask(&format!("-print-file-name={name}")).unwrap_or_default();
        parts.extend(fs::read(Path::new(file.trim())).ok().filter(|_| file.trim() != name));
    }
    let mut loaders = Vec::new();
    for dir in LOADERS {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        loaders.extend(entries.filter(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            name.starts_with("ld-") && name.contains(".so")
        }));
    }
    loaders.sort();
    parts.extend(loaders.iter().filter_map(|path| fs::read(path).ok()));
    // their own hashes first, so that what one ends with is nothing that the next begins with
    let hashes: String = parts.iter().map(|part| OutputId::of(part).to_string()).collect();
    let print = OutputId::of(hashes.as_bytes()).to_string()[..8].to_string();
    Some((version.lines().next().unwrap_or_default().to_string(), print))
}
