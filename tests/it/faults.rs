//! A bucket or a disk in trouble: no get goes unanswered, no put is lost, nothing takes long.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::bucket::single;
use crate::support::client::Client;
use crate::support::env::{Output, Plugin, Running, TempDir, binary, free_port, poll, scrubbed};
use crate::support::fault::{Fault, FaultProxy};
use crate::support::s3::S3Server;
use crate::support::script::{Session, action, holds, metrics, noise, said};

/// Entries that the bucket has.
const SHARED: usize = 20;
/// Entries that only this session puts.
const OWN: usize = 20;

fn bodies() -> Vec<Vec<u8>> {
    (0..SHARED + OWN).map(|n| noise(n as u64 + 1, 8000)).collect()
}

/// A bucket that another machine has filled with the first [`SHARED`] entries.
fn filled() -> S3Server {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let mut s = Session::start(Plugin::new(&dir).envs(&server.env()).arg("--scope=other"));
    s.put_all(&bodies()[..SHARED]);
    s.end().quiet();
    server
}

/// A session on a fresh machine with these variables: gets what the bucket has and some more, puts
/// some, gets them again, closes. Everything within `bound`. Gives the gets that hit, and the end.
fn build(vars: &[(String, String)], bound: Duration) -> (usize, Output) {
    let dir = TempDir::new();
    let bodies = bodies();
    let start = Instant::now();
    let plugin = Plugin::new(&dir).envs(vars).args(["--metrics", "--close-timeout=3s"]);
    let mut s = Session::start(plugin);
    // some at a time, as `go` does it
    let ids: Vec<i64> = (0..bodies.len() as u32).map(|n| s.client.send_get(&action(n))).collect();
    let answers: Vec<Value> = ids.into_iter().map(|id| s.client.wait(id)).collect();
    for answer in &answers {
        assert!(answer["Miss"] == true || answer["DiskPath"].is_string(), "{answer}");
    }
    let hits = answers.iter().filter(|a| a["DiskPath"].is_string()).count();
    s.put_all(&bodies);
    assert_eq!(s.get_all(&bodies), bodies.len(), "what was put is there");
    let out = s.end();
    assert!(start.elapsed() < bound, "took {:?}{}", start.elapsed(), out.describe());
    (hits, out)
}

/// The one line about a bucket that is left alone for now.
fn one_line(out: &Output, about: &str) {
    let said = said(out);
    assert_eq!(said.len(), 1, "{}", out.describe());
    assert!(said[0].contains(about) && said[0].contains("building from the local cache"), "{}", out.describe());
}

#[test]
fn a_bucket_that_never_answers() {
    let server = filled();
    let proxy = FaultProxy::start(&server.endpoint);
    proxy.set(Fault::BlackHole);
    // one time-out of 10 s, the close time-out, and what a busy machine needs
    let (hits, out) = build(&server.env_through(&proxy.endpoint), Duration::from_secs(22));
    assert_eq!(hits, 0);
    one_line(&out, "");
    assert_eq!(metrics(&out)["bucket"]["breaker_opened"], 1);
}

#[test]
fn a_bucket_that_fails_every_request() {
    let server = filled();
    let proxy = FaultProxy::start(&server.endpoint);
    for fault in [Fault::Status(500), Fault::Status(503), Fault::Reset] {
        proxy.set(fault.clone());
        let (hits, out) = build(&server.env_through(&proxy.endpoint), Duration::from_secs(10));
        assert_eq!(hits, 0, "{fault:?}");
        one_line(&out, "5 failures in a row");
        assert_eq!(metrics(&out)["bucket"]["breaker_opened"], 1, "{fault:?}");
    }
}

#[test]
fn a_bucket_that_breaks_off_in_the_body() {
    let server = filled();
    let proxy = FaultProxy::start(&server.endpoint);
    for fault in [Fault::ResetAfter(100), Fault::Truncate(100), Fault::Truncate(7000)] {
        proxy.set(fault.clone());
        let (hits, out) = build(&server.env_through(&proxy.endpoint), Duration::from_secs(10));
        assert_eq!(hits, 0, "{fault:?}");
        let said = said(&out);
        assert!(said.len() <= 1, "{fault:?}{}", out.describe());
        assert_eq!(metrics(&out)["bucket"]["corrupt"], 0, "a transfer is to blame: {fault:?}");
    }
}

#[test]
fn a_few_failures_cost_nothing() {
    let server = filled();
    let proxy = FaultProxy::start(&server.endpoint);
    for fault in [Fault::Status(503), Fault::Reset] {
        proxy.set_for(fault.clone(), 3);
        let (hits, out) = build(&server.env_through(&proxy.endpoint), Duration::from_secs(10));
        assert_eq!(hits, SHARED, "{fault:?}{}", out.describe());
        assert!(said(&out).is_empty(), "{fault:?}{}", out.describe());
        assert_ne!(metrics(&out)["bucket"]["retries"], 0, "{fault:?}");
        // the next machine starts from the same bucket
        for key in server.keys().iter().filter(|key| key.starts_with("manifest/")) {
            server.delete(key);
        }
        assert_eq!(server.keys().len(), SHARED + OWN);
        let own: Vec<String> = (SHARED..SHARED + OWN).map(|n| single(n as u32)).collect();
        own.iter().for_each(|key| server.delete(key));
    }
}

#[test]
fn a_bucket_that_takes_others_is_tried_again_soon() {
    let server = S3Server::in_process();
    let proxy = FaultProxy::start(&server.endpoint);
    let dir = TempDir::new();
    let mut s = Session::start(Plugin::new(&dir).envs(&server.env_through(&proxy.endpoint)).arg("--no-readahead"));
    s.client.put(&action(0), &noise(0, 3000));
    poll("the first upload", || (server.keys().len() == 1).then_some(()));
    proxy.only("PUT");
    proxy.set_for(Fault::Status(503), 4);
    let begin = Instant::now();
    s.client.put(&action(1), &noise(1, 3000));
    s.end().quiet();
    // one that is down is given twice as long
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    assert_eq!(server.keys().len(), 2);
}

#[test]
fn a_slow_bucket_is_used_all_the_same() {
    let server = filled();
    let proxy = FaultProxy::start(&server.endpoint);
    proxy.set(Fault::Drip(3000));
    let (hits, out) = build(&server.env_through(&proxy.endpoint), Duration::from_secs(20));
    assert_eq!(hits, SHARED, "{}", out.describe());
    assert!(said(&out).is_empty(), "{}", out.describe());
}

#[test]
fn wrong_or_missing_credentials_leave_the_local_cache() {
    let server = filled();
    let mut wrong = server.env();
    for (name, value) in &mut wrong {
        if name == "AWS_SECRET_ACCESS_KEY" {
            *value = "not/the+secret".into();
        }
    }
    let (hits, out) = build(&wrong, Duration::from_secs(10));
    assert_eq!(hits, 0);
    one_line(&out, "SignatureDoesNotMatch");

    let mut missing = server.env();
    missing.retain(|(name, _)| !name.starts_with("AWS_") || name == "AWS_EC2_METADATA_DISABLED");
    let before = server.count("");
    let (hits, out) = build(&missing, Duration::from_secs(10));
    assert_eq!((hits, server.count("")), (0, before));
    one_line(&out, "credentials");
}

#[test]
fn a_bucket_that_is_not_there() {
    let server = filled();
    // nobody listens
    let vars = server.env_through(&format!("http://127.0.0.1:{}", free_port()));
    let (hits, out) = build(&vars, Duration::from_secs(10));
    assert_eq!(hits, 0);
    one_line(&out, "");
}

#[test]
fn a_server_that_goes_and_comes_back() {
    let mut server = filled();
    let dir = TempDir::new();
    let bodies = bodies();
    let mut s = Session::start(Plugin::new(&dir).envs(&server.env()).args(["--no-readahead", "--close-timeout=2s"]));
    holds(&s.client.get(&action(0)).expect("a hit"), &bodies[0]);
    server.stop();
    let start = Instant::now();
    for n in 1..10 {
        assert!(s.client.get(&action(n)).is_none());
    }
    for (n, body) in (0..).zip(&bodies).skip(SHARED) {
        s.client.put(&action(n), body);
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(s.child.stderr().contains("building from the local cache"), "{}", s.child.stderr());
    server.restart();
    // a probe is due 10 s after the breaker opened, at the next get
    let mut n = 2000;
    poll("the breaker to close", || {
        n += 1;
        s.client.get(&action(n));
        s.child.stderr().contains("answers again").then_some(())
    });
    holds(&s.client.get(&action(15)).expect("the bucket is used again"), &bodies[15]);
    let out = s.end();
    let about = |text: &str| out.stderr.lines().filter(|line| line.contains(text)).count();
    let lines = [about("building from the local cache"), about("answers again")];
    // what was put meanwhile goes on then, as far as close waits for it
    let left = about("marked for the next start");
    assert_eq!((lines, out.stderr.lines().count()), ([1, 1], 2 + left), "one line for each change{}", out.describe());
    // what could not be uploaded then is uploaded by the next process
    let s = Session::start(Plugin::new(&dir).envs(&server.env()).arg("--no-readahead"));
    poll("the uploads", || {
        (server.keys().iter().filter(|k| k.starts_with("v1/")).count() == SHARED + OWN).then_some(())
    });
    // the last of them may still wait for the server's word, and close does not wait for it
    s.end();
}

#[test]
fn a_cache_directory_that_cannot_be_one() {
    let dir = TempDir::new();
    let file = dir.write("file", "mine");
    for bad in [file.join("cache"), file.clone(), "/proc/nowhere".into()] {
        let out = Plugin::new(&dir).arg("--cache-dir").arg(&bad).output().code(1);
        assert_eq!(out.stderr.lines().count(), 1, "{}", out.describe());
        assert!(out.stderr.contains(&format!("cache directory {}: ", bad.display())), "{}", out.describe());
        assert!(out.stdout.is_empty(), "no greeting from a program that cannot serve{}", out.describe());
    }
    // a bucket directory that is none
    let bucket = format!("--bucket=file://{}/bucket", file.display());
    let (_, out) = build(&[("GOCACHE_S3_BUCKET".into(), bucket["--bucket=".len()..].into())], Duration::from_secs(10));
    // and what the close time-out left, where it came before the breaker
    let said = said(&out);
    let about = |text: &str| said.iter().filter(|line| line.contains(text)).count();
    assert_eq!(about("building from the local cache"), 1, "{}", out.describe());
    assert_eq!(about("marked for the next start") + 1, said.len(), "{}", out.describe());
}

#[test]
fn a_full_disk_fails_a_put_and_nothing_else() {
    let dir = TempDir::new();
    // no file may grow over 64 KiB: writing fails as it does on a full disk, and ends nobody
    let mut command = scrubbed("sh", dir.path());
    command.args(["-c", "ulimit -f 128; exec \"$0\""]).arg(binary());
    command.env("GOCACHE_DIR", dir.join("cache"));
    let mut child = Running::start(command, Stdio::piped());
    let mut client = Client::stdio(&mut child);
    client.greeting();
    for n in [0, 2, 4] {
        client.put(&action(n), &noise(n.into(), 30_000));
        let id = client.send_put(&action(n + 1), &noise(9, 3_000_000));
        let answer = client.wait(id);
        assert!(answer["Err"].as_str().is_some_and(|e| e.starts_with("cache directory: ")), "{answer}");
        assert!(client.get(&action(n + 1)).is_none());
        holds(&client.get(&action(n)).expect("a hit"), &noise(n.into(), 30_000));
    }
    client.close();
    client.rest();
    let out = child.wait().ok();
    assert_eq!(out.stderr.lines().count(), 2, "one line, and how often{}", out.describe());
}
