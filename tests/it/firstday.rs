//! What a user writes on the first day, in GOCACHEPROG and in the YAML of a CI job, is understood as it
//! was meant, or refused with a line.

use std::fs;

use rustix::process::Signal;

use crate::support::env::{Plugin, TempDir, poll};
use crate::support::s3::S3Server;
use crate::support::script::{Session, noise};

fn bodies() -> Vec<Vec<u8>> {
    (0..3).map(|n| noise(n, 500)).collect()
}

/// A session that puts, gets and ends; what it wrote to stderr.
fn works(plugin: Plugin) -> String {
    let mut session = Session::start(plugin);
    session.put_all(&bodies());
    assert_eq!(session.get_all(&bodies()), 3);
    session.end().stderr
}

/// The names in a directory but the socket of a server.
fn names(dir: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(dir.path()).expect("a directory").flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_flag_of_the_bucket_without_one_is_an_error() {
    let dir = TempDir::new();
    for flag in [
        "--prefix=p",
        "--write-prefix=p",
        "--region=eu-west-1",
        "--read-only",
        "--signing-key-file=/nonexistent",
        "--verify-key-file=/nonexistent",
        "--refresh-after=1d",
        "--s3-endpoint-url=http://127.0.0.1:1",
        "-u=3",
    ] {
        let name = flag.split('=').next().unwrap();
        for command in [&[][..], &["serve", "--plugin=1"], &["run", "go", "version"], &["status"], &["connect", "1"]] {
            let words = command.iter().take(1).copied();
            let args: Vec<&str> = words.chain([flag]).chain(command.iter().skip(1).copied()).collect();
            let out = Plugin::new(&dir).args(&args).output().code(2);
            let want = format!("go-cache-plugin: {name} needs a bucket: --bucket=NAME, or GOCACHE_S3_BUCKET\n");
            assert_eq!(out.stderr, want, "{}", out.describe());
        }
    }
    assert!(names(&dir).is_empty(), "{:?}", names(&dir));
    // what is switched off asks for nothing, and the variable is a bucket too
    let bucket = format!("file://{}", dir.dir("bucket").display());
    Plugin::new(&dir).args(["status", "--read-only=false"]).output().ok().quiet();
    let out = Plugin::new(&dir).args(["status", "--prefix=p"]).env("GOCACHE_S3_BUCKET", bucket).output().ok().quiet();
    assert!(out.stdout.contains("bucket/p: can be read"), "{}", out.describe());
}

#[test]
fn a_flag_that_its_bucket_has_no_use_for_is_an_error() {
    let dir = TempDir::new();
    let bucket = format!("--bucket=file://{}", dir.dir("bucket").display());
    for (flag, want) in [
        ("--region=eu-west-1", "a directory has no use for --region: leave it out"),
        ("--s3-endpoint-url=http://127.0.0.1:1", "a directory has no use for --s3-endpoint-url: leave it out"),
        ("--s3-path-style", "a directory has no use for --s3-path-style: leave it out"),
        (
            "--write-prefix=",
            "--write-prefix \"\": names none: leave it out, and --prefix is written, or say --read-only",
        ),
        (
            "--write-prefix=/",
            "--write-prefix \"/\": names none: leave it out, and --prefix is written, or say --read-only",
        ),
    ] {
        let out = Plugin::new(&dir).args([flag, &bucket]).env("GOCACHE_WRITE_PREFIX", "pr").output().code(2);
        assert!(out.stderr.ends_with(&format!("{want}\n")) && out.stderr.lines().count() == 1, "{}", out.describe());
    }
    assert_eq!(names(&dir), ["bucket"], "nothing was begun");
    // variables are made for all jobs, and what is switched off asks for nothing
    let plugin = Plugin::new(&dir).args([&bucket, "--s3-path-style=false"]);
    assert_eq!(works(plugin.env("GOCACHE_S3_REGION", "eu-west-1").env("GOCACHE_WRITE_PREFIX", "")), "");
    assert!(dir.join("bucket/v1").is_dir());
}

#[test]
fn a_bucket_that_a_job_has_lost_is_a_line_and_fails_no_build() {
    for (flags, vars, line) in [
        (&[][..], &[("GOCACHE_S3_BUCKET", "")][..], "GOCACHE_S3_BUCKET is empty: the cache is local"),
        (
            &["--read-only", "--prefix=p"],
            &[("GOCACHE_S3_BUCKET", ""), ("GOCACHE_S3_REGION", "not a region")],
            "GOCACHE_S3_BUCKET is empty: the cache is local; of no use: GOCACHE_S3_REGION, --prefix, --read-only",
        ),
        (
            &[],
            &[("GOCACHE_S3_ENDPOINT_URL", "nonsense"), ("GOCACHE_SIGNING_KEY_FILE", "/nonexistent")],
            "GOCACHE_S3_BUCKET is not set: the cache is local; of no use: GOCACHE_S3_ENDPOINT_URL, \
             GOCACHE_SIGNING_KEY_FILE",
        ),
        (
            &["--bucket="],
            &[("GOCACHE_KEY_PREFIX", "p")],
            "--bucket names none: the cache is local; of no use: \
             GOCACHE_KEY_PREFIX",
        ),
    ] {
        let dir = TempDir::new();
        let with =
            |plugin: Plugin| vars.iter().fold(plugin.args(flags), |plugin, (name, value)| plugin.env(name, value));
        assert_eq!(works(with(Plugin::new(&dir))), format!("go-cache-plugin: {line}\n"));
        for command in [&["push"][..], &["prune", "--bucket", "--expiry=1d"]] {
            let out = vars.iter().fold(Plugin::new(&dir).args(command), |p, (name, value)| p.env(name, value));
            let out = out.output().code(2);
            assert!(out.stderr.contains("GOCACHE_S3_BUCKET") && out.stderr.lines().count() == 1, "{}", out.describe());
        }
    }
    // nobody speaks of a bucket, or it is switched off
    let dir = TempDir::new();
    assert_eq!(works(Plugin::new(&dir)), "");
    assert_eq!(
        works(Plugin::new(&dir).arg("--bucket=").env("GOCACHE_S3_BUCKET", "some").env("GOCACHE_S3_REGION", "r")),
        ""
    );
}

#[test]
fn a_path_begins_as_a_shell_would_have_it() {
    for (text, flag) in [("~/c", false), ("$HOME/c", true), ("${HOME}/c", false), ("$BASE/c", true)] {
        let dir = TempDir::new();
        let base = dir.dir("base");
        let plugin = Plugin::new(&dir).env("HOME", &base).env("BASE", &base).arg("--bucket=file://~/bucket");
        fs::create_dir(base.join("bucket")).expect("a bucket");
        let plugin = if flag { plugin.arg(format!("--cache-dir={text}")) } else { plugin.env("GOCACHE_DIR", text) };
        assert_eq!(works(plugin), "");
        assert!(base.join("c/action").is_dir() && base.join("bucket/v1").is_dir());
        assert_eq!(names(&dir), ["base"], "nothing is made where the program was started");
    }
    let dir = TempDir::new();
    for (text, want) in [
        ("~bob/c", "write ~/ or the path in full"),
        ("$NOT_SET/c", "NOT_SET is not set: set it, or write the path in full"),
        ("${EMPTY}/c", "EMPTY is not set: set it, or write the path in full"),
        ("$(pwd)/c", "write $NAME, ${NAME} or the path in full"),
        ("c", "write it in full, or $HOME/…"),
        ("./c", "write it in full, or $HOME/…"),
    ] {
        for command in [&[][..], &["status"]] {
            if command.is_empty() || !text.ends_with("./c") && text != "c" {
                let out = Plugin::new(&dir).env("EMPTY", "").args(command).env("GOCACHE_DIR", text).output().code(2);
                let all = format!("go-cache-plugin: GOCACHE_DIR {text:?}: ");
                assert!(
                    out.stderr.starts_with(&all) && out.stderr.ends_with(&format!("{want}\n")),
                    "{}",
                    out.describe()
                );
            }
        }
    }
    for flag in
        ["--bucket=file://~bob/b", "--bucket=file://$NONE", "--verify-key-file=$NONE/k", "--signing-key-file=~x"]
    {
        Plugin::new(&dir).args(["--bucket=some", flag]).output().code(2);
    }
    assert!(names(&dir).is_empty(), "{:?}", names(&dir));
}

#[test]
fn servers_take_their_own_directory_and_clients_their_variable() {
    let dir = TempDir::new();
    let mut server = Plugin::new(&dir).args(["serve", "--plugin=~/s", "--cache-dir=rel/c"]).spawn();
    poll("the socket", || dir.join("s").exists().then_some(()));
    // the greeting comes from the server: `connect` opens no cache
    assert_eq!(works(Plugin::new(&dir).arg("connect").env("GOCACHE_PLUGIN", "$HOME/s")), "");
    assert!(dir.join("rel/c/action").is_dir());
    server.signal(Signal::TERM);
    server.wait().ok();
    let out = Plugin::new(&dir).arg("connect").output().code(2);
    assert!(
        out.stderr.contains("connect needs an address") && out.stderr.contains("GOCACHE_PLUGIN"),
        "{}",
        out.describe()
    );
    let out = Plugin::new(&dir).args(["prune", "--cache-dir=rel/c", "--expiry=1d12h"]).output().ok().quiet();
    assert!(out.stdout.contains("3 files"), "{}", out.describe());
}

#[test]
fn a_bucket_may_be_given_with_its_prefix() {
    let server = S3Server::in_process();
    let with = |bucket: &str| {
        let mut env = server.env();
        env.retain(|(name, _)| name != "GOCACHE_KEY_PREFIX");
        env.iter_mut().filter(|(name, _)| name == "GOCACHE_S3_BUCKET").for_each(|(_, v)| *v = bucket.to_string());
        env
    };
    let url = format!("s3://{}/pre/fix/", server.bucket);
    let dir = TempDir::new();
    assert_eq!(works(Plugin::new(&dir).envs(&with(&url))), "");
    assert_eq!(server.keys().iter().filter(|key| key.starts_with("v1/")).count(), 3, "{:?}", server.keys());
    let out = Plugin::new(&dir).envs(&with(&url)).arg("--prefix=other").output().code(2);
    assert!(out.stderr.contains("has another: leave one out"), "{}", out.describe());
    let out = Plugin::new(&dir).envs(&with("x")).args(["clear", &format!("--bucket={url}")]).output().ok().quiet();
    assert!(out.stdout.contains("removed "), "{}", out.describe());
    assert!(server.keys().is_empty(), "{:?}", server.keys());
}

#[test]
fn variables_that_are_empty_count_as_none() {
    let page = Plugin::new(&TempDir::new()).args(["help", "environment"]).output().ok().stdout;
    let names: Vec<&str> = page.split_whitespace().filter(|word| word.starts_with("GOCACHE_")).collect();
    assert!(names.len() > 30, "{page}");
    let empty = |dir: &TempDir, args: &[&str]| {
        let plugin = names.iter().fold(Plugin::new(dir), |plugin, name| plugin.env(name.trim_end_matches('.'), ""));
        plugin.args(args)
    };
    let (dir, lost) = (TempDir::new(), "go-cache-plugin: GOCACHE_S3_BUCKET is empty: the cache is local\n");
    let bucket = format!("--bucket=file://{}", dir.dir("bucket").display());
    empty(&dir, &["clear", "--local"]).output().ok().quiet();
    assert_eq!(works(empty(&dir, &[])), lost);
    assert_eq!(works(empty(&dir, &[&bucket])), "");
    let out = empty(&dir, &["run", "true"]).output().ok();
    assert!(out.stderr.starts_with(lost) && out.stderr.lines().count() == 2, "{}", out.describe());
    for command in [&["push"][..], &["pull"], &["prune", "--bucket", "--expiry=1d"]] {
        let out = empty(&dir, command).output().code(2);
        assert!(out.stderr.contains("bucket") && out.stderr.lines().count() == 1, "{}", out.describe());
        let rest = if command[0] == "prune" { &command[2..] } else { &command[1..] };
        empty(&dir, &[&[command[0], &bucket], rest].concat()).output().ok().quiet();
    }
    empty(&dir, &["prune"]).output().ok().quiet();
    let socket = format!("--plugin={}", dir.join("socket").display());
    let serve = empty(&dir, &["serve", &socket]).spawn();
    poll("the server", || serve.stderr().contains("listening plugin=").then_some(()));
    assert!(serve.stderr().starts_with(lost) && serve.stderr().lines().count() == 2, "{}", serve.stderr());
}
