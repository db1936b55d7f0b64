//! The command line of the real binary: exit codes and what goes to which stream.

use std::fs::File;
use std::io::Read;
use std::time::{Duration, SystemTime};

use crate::support::client::Client;
use crate::support::env::{Plugin, TempDir, binary, poll, run, scrubbed};

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
        &["clear"],
        &["clear", "--local", "--bucket=some"],
        &["clear", "--local", "--whole-bucket"],
        &["clear", "--bucket=some"],
        &["clear", "--bucket=some", "--prefix="],
        &["clear", "--bucket=some", "--prefix=/"],
        &["clear", "--bucket=some", "--prefix=p", "--whole-bucket"],
        &["clear", "--bucket=some", "--prefix=p", "--read-only"],
        &["push", "--sign", "--bucket=some"],
        &["doctor", "--modproxy", "--sumdb=nonsense"],
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
    // a name that is mistyped is told of, and nothing is made there
    let bucket = format!("--bucket=file://{}", dir.dir("bucket").display());
    let of_modules =
        [&["mod", "list"][..], &["mod", "rm", "a.example/m@v1.0.0"], &["mod", "export", "modules.tar.zst"]];
    for command in [&["prune"][..], &["push", &bucket]].into_iter().chain(of_modules) {
        let out = Plugin::new(&dir).args(command).output().code(1);
        let want = format!("go-cache-plugin: cache directory {}: No such file", dir.join("cache").display());
        assert!(out.stderr.starts_with(&want) && out.stderr.ends_with("with --cache-dir\n"), "{}", out.describe());
    }
    assert!(Plugin::new(&dir).arg("status").output().ok().quiet().stdout.contains("0 files"));
    assert!(!dir.join("cache").exists());
    fill(&dir);
    let out = Plugin::new(&dir).args(["prune", "--max-cache-size=10k"]).output().ok().quiet();
    assert_eq!(out.stdout, "removed 0 files (0 B) and 0 actions; 3 files (5.9 KiB) are left\n");
    // the outputs were used a moment ago, and the actions put, which prune takes into account: make them old
    let old = SystemTime::now() - Duration::from_secs(3 * 86_400);
    let shards = ["action", "output"].map(|folder| std::fs::read_dir(dir.join("cache").join(folder)).unwrap());
    for shard in shards.into_iter().flatten() {
        for file in std::fs::read_dir(shard.unwrap().path()).unwrap() {
            File::open(file.unwrap().path()).unwrap().set_modified(old).unwrap();
        }
    }
    // another is at it, or was stopped
    let turn = File::open(dir.join("cache/lease/prune")).unwrap();
    turn.lock().unwrap();
    let mut prune = Plugin::new(&dir).args(["prune", "--expiry=48h"]).spawn();
    poll("a word", || prune.stderr().contains("cache: another process prunes it").then_some(()));
    drop(turn);
    let mut stdout = String::new();
    prune.stdout().read_to_string(&mut stdout).unwrap();
    prune.wait().ok();
    assert_eq!(stdout, "removed 3 files (5.9 KiB) and 3 actions; 0 files (0 B) are left\n");
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

    // prefixes in the prefix, one that begins with the same letters, and what is not ours
    for (key, text) in [("a/v1/README", "mine"), ("a/pr/7/v1/ab/abcd", "a job's"), ("a2/v1/ab/abcd", "another's")] {
        dir.write(&format!("bucket/team/{key}"), text);
    }
    let flag = format!("--bucket=file://{}", dir.join("bucket").display());
    let clear = |args: &[&str]| Plugin::new(&dir).args(["clear", &flag]).args(args).env("GOCACHE_KEY_PREFIX", "team/a");
    for (args, why) in [(&[][..], "explicit --prefix"), (&["--prefix="], "names none"), (&["--prefix=/"], "names none")]
    {
        let out = clear(args).output().code(2);
        assert!(out.stderr.contains(why) && out.stderr.contains("--whole-bucket"), "{}", out.describe());
    }
    let out = clear(&["--prefix=team/a"]).output().ok().quiet();
    assert!(out.stdout.contains("; 1 of other names are left\n"), "{}", out.describe());
    let there = |key: &str| dir.join("bucket/team").join(key).exists();
    assert!(there("a/v1/README") && !there("a/pr/7/v1/ab/abcd") && there("a2/v1/ab/abcd"));
    let out = clear(&["--prefix=team/a"]).output().ok().quiet();
    assert!(out.stdout.contains("removed 0 objects"), "{}", out.describe());

    // on a terminal it asks
    let typed = |answer: &str, args: &str| {
        let line = format!("echo {answer} | script -qec '{} clear {flag} {args}' /dev/null", binary());
        let mut command = scrubbed("sh", dir.path());
        command.args(["-c", &line]).env("GOCACHE_DIR", dir.join("cache"));
        run(command)
    };
    let out = typed("n", "--whole-bucket").code(1);
    assert!(out.stdout.contains("remove 1 object, 9 B? [y/N]") && there("a2/v1/ab/abcd"), "{}", out.describe());
    let out = typed("y", "--whole-bucket").ok();
    assert!(out.stdout.contains("removed 1 object, 9 B; 1 of") && !there("a2/v1/ab/abcd"), "{}", out.describe());
    let out = typed("n", "--whole-bucket --yes").ok();
    assert!(out.stdout.contains("removed 0 objects") && !out.stdout.contains("[y/N]"), "{}", out.describe());
    assert!(there("a/v1/README"));
}
