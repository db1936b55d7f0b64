//! The command line of the real binary: exit codes and what goes to which stream.

use std::fs::File;
use std::time::{Duration, SystemTime};

use crate::support::client::Client;
use crate::support::env::{Plugin, TempDir, free_port};

#[test]
fn a_wrong_command_line_is_one_line_and_exit_code_2() {
    let dir = TempDir::new();
    for args in [
        &["--bukcet=x"][..],
        &["frobnicate"],
        &["serve"],
        &["serve", "--plugin=1", "--modproxy"],
        &["run"],
        &["connect"],
        &["--plugin=1"],
        &["--expiry=1w"],
        &["--bucket=some", "--signing-key-file=/nonexistent"],
        &["help", "frobnication"],
        // one line, whatever is in it
        &["--a\nb"],
        &["a\nb"],
        &["help", "a\nb"],
        &["--cache-dir=$a\nb"],
        &["serve", "--plugin=1", "--http=:1", "--modproxy", "--upstream=a\nb"],
        &["serve", "--plugin=1", "--http=:1", "--http-auth-file="],
        &["keygen", "--cache-dir=/c", "key"],
        &["mod", "list", "-r"],
        &["run", "--sumdb=x", "go"],
        &["serve", "--plugin=1", "--ca-domains=x"],
        &["prune", "--expiry=1h", "--prefix=p"],
        &["--bucket=some", "--trust-write-prefix"],
        &["--bucket=s3://some/a", "--prefix=b"],
    ] {
        let out = Plugin::new(&dir).args(args).output().code(2);
        assert!(out.stdout.is_empty(), "{}", out.describe());
        assert!(out.stderr.starts_with("go-cache-plugin: "), "{}", out.describe());
        assert_eq!(out.stderr.lines().count(), 1, "{}", out.describe());
    }
    let out = Plugin::new(&dir).env("GOCACHE_CONCURRENCY", "many").output().code(2);
    assert!(out.stderr.starts_with("go-cache-plugin: GOCACHE_CONCURRENCY \"many\": "), "{}", out.describe());
    assert!(!dir.join("cache").exists(), "a wrong command line leaves no trace");
}

#[test]
fn help_and_version_go_to_stdout() {
    let dir = TempDir::new();
    for args in [&["help"][..], &["--help"], &["-h"], &["serve", "--help"], &["help", "configure"]] {
        let out = Plugin::new(&dir).args(args).output().ok().quiet();
        assert!(out.stdout.contains("go-cache-plugin"), "{}", out.describe());
    }
    for args in [&["help", "version"][..], &["help", "help"], &["version", "--help"]] {
        let out = Plugin::new(&dir).args(args).output().ok().quiet();
        assert!(out.stdout.contains("Usage:"), "{}", out.describe());
    }
    for args in [&["version"][..], &["--version"], &["-version"]] {
        let out = Plugin::new(&dir).args(args).output().ok().quiet();
        assert_eq!(out.stdout.lines().count(), 1);
        let name = concat!("go-cache-plugin ", env!("CARGO_PKG_VERSION"), " (");
        assert!(out.stdout.starts_with(name), "{}", out.describe());
    }
    let json = Plugin::new(&dir).args(["version", "--json"]).output().ok().quiet().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let out = Plugin::new(&dir).arg("version").output().ok();
    let line = format!("go-cache-plugin {} ({})\n", env!("CARGO_PKG_VERSION"), json["target"].as_str().unwrap());
    assert_eq!((out.stdout.as_str(), &json["version"]), (line.as_str(), &env!("CARGO_PKG_VERSION").into()));
    assert_eq!(json["commit"].as_str(), option_env!("GO_CACHE_PLUGIN_COMMIT").filter(|commit| !commit.is_empty()));
    assert!(json["features"].as_array().unwrap().contains(&"run".into()), "{json}");
    let rustc = std::process::Command::new("rustc").arg("-vV").output().unwrap();
    let host = format!("host: {}\n", json["target"].as_str().unwrap());
    assert!(String::from_utf8(rustc.stdout).unwrap().contains(&host), "{json}");
    Plugin::new(&dir).args(["version", "--json", "--licenses"]).output().code(2);
    assert!(!dir.join("cache").exists());
}

#[test]
fn an_unset_home_asks_for_a_directory() {
    let dir = TempDir::new();
    let out = Plugin::new(&dir).env("GOCACHE_DIR", "").env("HOME", "").arg("status").output().code(2);
    assert!(out.stderr.contains("give --cache-dir"), "{}", out.describe());
}

/// Fills the local cache and a directory bucket with three outputs.
fn fill(dir: &TempDir) {
    let bucket = format!("--bucket=file://{}", dir.dir("bucket").display());
    let mut child = Plugin::new(dir).arg(bucket).arg("--prefix=team/a").spawn();
    let mut client = Client::stdio(&mut child);
    client.greeting();
    for n in 1..=3u8 {
        client.put(&[n; 32], &vec![n; 1000 * usize::from(n)]);
    }
    client.close();
    client.eof();
    child.wait().ok().quiet();
}

#[test]
fn status_counts_what_is_there() {
    let dir = TempDir::new();
    let out = Plugin::new(&dir).arg("status").output().ok().quiet();
    assert!(out.stdout.contains("action           0 files, 0 B\n"), "{}", out.describe());
    assert!(out.stdout.contains("bucket           none\n"), "{}", out.describe());
    assert!(!dir.join("cache").exists(), "looking leaves no trace");
    fill(&dir);
    let bucket = format!("--bucket=file://{}", dir.join("bucket").display());
    let out = Plugin::new(&dir).args(["status", &bucket, "--prefix=team/a"]).output().ok().quiet();
    assert!(out.stdout.contains("output           3 files, 5.9 KiB\n"), "{}", out.describe());
    assert!(out.stdout.contains("pending uploads  0\n"), "{}", out.describe());
    assert!(out.stdout.contains(": can be read\n"), "{}", out.describe());
}

#[test]
fn prune_applies_the_limits_now() {
    let dir = TempDir::new();
    fill(&dir);
    let out = Plugin::new(&dir).args(["prune", "--max-cache-size=10k"]).output().ok().quiet();
    assert_eq!(out.stdout, "removed 0 files (0 B) and 0 actions; 3 files (5.9 KiB) are left\n");
    // the outputs were used a moment ago, which prune takes into account: make them old
    let old = SystemTime::now() - Duration::from_secs(3 * 86_400);
    for shard in std::fs::read_dir(dir.join("cache/output")).unwrap() {
        for file in std::fs::read_dir(shard.unwrap().path()).unwrap() {
            File::open(file.unwrap().path()).unwrap().set_modified(old).unwrap();
        }
    }
    let out = Plugin::new(&dir).args(["prune", "--expiry=48h"]).output().ok().quiet();
    assert_eq!(out.stdout, "removed 3 files (5.9 KiB) and 3 actions; 0 files (0 B) are left\n");
}

#[test]
fn clear_touches_names_of_ours_alone() {
    let dir = TempDir::new();
    fill(&dir);
    dir.write("cache/output/notes.txt", "mine");
    dir.write("cache/ca.pem", "mine");
    let out = Plugin::new(&dir).args(["clear", "--local"]).output().ok().quiet();
    assert!(out.stdout.contains("removed 6 files, "), "{}", out.describe());
    assert!(dir.join("cache/output/notes.txt").exists() && dir.join("cache/ca.pem").exists());

    dir.write("bucket/team/a/v1/README", "mine");
    dir.write("bucket/team/b/v1/ab/abcd", "another prefix");
    let flag = format!("--bucket=file://{}", dir.join("bucket").display());
    let out = Plugin::new(&dir).args(["clear", &flag]).env("GOCACHE_KEY_PREFIX", "team/a").output().code(2);
    assert!(out.stderr.contains("explicit --prefix"), "{}", out.describe());
    let out = Plugin::new(&dir).args(["clear", &flag, "--prefix=team/a"]).output().ok().quiet();
    assert!(out.stdout.contains("; 1 of other names are left\n"), "{}", out.describe());
    assert!(dir.join("bucket/team/a/v1/README").exists() && dir.join("bucket/team/b/v1/ab/abcd").exists());
    let out = Plugin::new(&dir).args(["clear", &flag, "--prefix=team/a"]).output().ok().quiet();
    assert!(out.stdout.contains("removed 0 objects"), "{}", out.describe());
}

#[test]
fn doctor_finds_what_is_wrong() {
    let dir = TempDir::new();
    let path = std::env::join_paths([crate::support::go::any().root.join("bin")]).unwrap();
    let bucket = format!("--bucket=file://{}", dir.dir("bucket").display());
    let out = Plugin::new(&dir).args(["doctor", &bucket]).env("PATH", &path).output().ok().quiet();
    assert!(out.stdout.lines().count() >= 6, "{}", out.describe());
    assert!(out.stdout.lines().all(|line| line.starts_with("ok    ")), "{}", out.describe());

    // a closed port, no go, and a file where the cache directory should be
    let endpoint = format!("--s3-endpoint-url=http://127.0.0.1:{}", free_port());
    let file = dir.write("file", "");
    let out = Plugin::new(&dir)
        .args(["doctor", "--bucket=some", "--region=us-east-1", &endpoint])
        .env("GOCACHE_DIR", file.join("cache"))
        .env("PATH", dir.path())
        .env("AWS_ACCESS_KEY_ID", "id")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .output()
        .code(1);
    for what in ["FAIL  cache directory: ", "FAIL  go: ", "FAIL  reading: ", "FAIL  writing: "] {
        assert!(out.stdout.contains(what), "{what}{}", out.describe());
    }
}
