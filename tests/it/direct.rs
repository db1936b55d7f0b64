//! Direct mode: the protocol over stdin and stdout, and the local directory behind it.

use std::fs::{self, File};
use std::io::{IoSliceMut, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use base64_simd::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::client::Client;
use crate::support::env::{Plugin, TempDir, may_mount, mount};
use crate::support::script::{Session, action, hex, holds, local, noise, output_id, time};

fn b64(bytes: &[u8]) -> String {
    STANDARD.encode_to_string(bytes)
}

#[test]
fn what_is_put_is_got() {
    let dir = TempDir::new();
    let mut s = Session::start(Plugin::new(&dir));
    assert!(s.client.get(&action(1)).is_none());
    let before = SystemTime::now();
    let path = s.client.put(&action(1), b"hello");
    let after = SystemTime::now();
    assert_eq!(fs::read(&path).unwrap(), b"hello");
    let first = s.client.get(&action(1)).expect("a hit");
    holds(&first, b"hello");
    assert_eq!(first.path, path);
    assert!(path.is_absolute() && path.extension().is_none(), "{}", path.display());
    let put = time(&first.time);
    assert!(before <= put && put <= after, "{before:?} <= {} <= {after:?}", first.time);
    // an output with no bytes
    let empty = s.client.put(&action(2), b"");
    assert_eq!(fs::metadata(&empty).unwrap().len(), 0);
    holds(&s.client.get(&action(2)).expect("a hit"), b"");
    s.end().quiet();

    assert_eq!(fs::read(&path).unwrap(), b"hello", "still readable after the end");
    let mut s = Session::start(Plugin::new(&dir));
    let again = s.client.get(&action(1)).expect("a hit in the next session");
    assert_eq!((again.time, again.path), (first.time, path));
    // a second put of the action replaces its output
    s.client.put(&action(1), b"other");
    holds(&s.client.get(&action(1)).expect("a hit"), b"other");
    s.end().quiet();
}

#[test]
fn action_ids_have_1_to_64_bytes() {
    let dir = TempDir::new();
    let mut s = Session::start(Plugin::new(&dir));
    for len in [1, 20, 32, 64] {
        let id = vec![7; len];
        assert!(s.client.get(&id).is_none(), "{len}");
        s.client.put(&id, format!("{len} bytes").as_bytes());
        holds(&s.client.get(&id).expect("a hit"), format!("{len} bytes").as_bytes());
    }
    for len in [0, 65, 4000] {
        for id in [s.client.send_get(&vec![7; len]), s.client.send_put(&vec![7; len], b"body")] {
            let answer = s.client.wait(id);
            assert!(answer["Err"].as_str().is_some_and(|e| e.contains(&format!("{len} bytes"))), "{answer}");
        }
    }
    s.end().quiet();
}

/// Sends `lines`, where `#` stands for a fresh id, and gives the answer to it.
fn answer(s: &mut Session, lines: &str) -> Value {
    let id = s.client.id();
    s.client.raw(lines.replace('#', &id.to_string()).as_bytes());
    s.client.wait(id)
}

#[test]
fn a_bad_request_fails_alone() {
    let dir = TempDir::new();
    let mut s = Session::start(Plugin::new(&dir));
    let (act, out) = (b64(&action(1)), b64(&Sha256::digest(b"hello")));
    let body = b64(b"hello");
    let put = |size: i64, body: &str| {
        format!(r#"{{"ID":#,"Command":"put","ActionID":"{act}","OutputID":"{out}","BodySize":{size}}}{body}"#)
    };
    let bad = [
        (r#"{"ID":#,"Command":"sing"}"#.to_string(), "unknown command \"sing\""),
        (r#"{"ID":#,"Command":"scope","Scope":"x"}"#.into(), "unknown command \"scope\""),
        (r#"{"ID":#}"#.into(), "no Command"),
        (r#"{"ID":#,"Command":"get"}"#.into(), "no ActionID"),
        (r#"{"ID":#,"Command":"get","ActionID":"*not*"}"#.into(), "ActionID is not base64"),
        (r#"{"ID":#,"Command":"get","ActionID":"AQ"}"#.into(), "ActionID is not base64"),
        (format!(r#"{{"ID":#,"Command":"put","ActionID":"{act}","OutputID":"AQI=","BodySize":0}}"#), "2 bytes"),
        (format!(r#"{{"ID":#,"Command":"put","ActionID":"{act}","BodySize":0}}"#), "no OutputID"),
        (put(-1, ""), "negative BodySize"),
        (put(5, "\n\"!!!!!!!=\""), "not base64"),
        (put(5, &format!("\n\"{}\"", &body[..7])), "not base64"),
        (put(9, &format!("\n\"{body}\"")), "4 bytes shorter"),
        (put(2, &format!("\n\"{body}\"")), "longer than"),
        (put(5, &format!("\n\"{}\"", b64(b"jello"))), "not the output id"),
        (put(0, ""), "not the output id"),
        // and what says that it has no body, but has one
        (put(-1, &format!("\n\"{body}\"")), "negative BodySize"),
        (put(0, &format!("\n\"{body}\"")), "not the output id"),
    ];
    for (lines, want) in bad {
        let got = answer(&mut s, &format!("{lines}\n"));
        assert!(got["Err"].as_str().is_some_and(|e| e.contains(want)), "{lines}: {got}");
        assert!(s.client.get(&action(1)).is_none(), "nothing is stored by {lines}");
    }
    let get = format!("{{\"ID\":#,\"Command\":\"get\",\"ActionID\":\"{act}\",\"BodySize\":5}}\n\"{body}\"\n");
    assert_eq!(answer(&mut s, &get)["Miss"], true);
    // a body that never comes is noticed when the next request does
    let id = s.client.id();
    s.client.raw(format!("{}\n", put(5, "").replace('#', &id.to_string())).as_bytes());
    assert!(s.client.get(&action(1)).is_none());
    let got = s.client.wait(id);
    assert!(got["Err"].as_str().is_some_and(|e| e.contains("shorter")), "{got}");
    // without an id there is only 0 to answer to
    s.client.raw(format!("{}\n", json!({ "Command": "get", "ActionID": act })).as_bytes());
    let got = s.client.wait(0);
    assert!(got["Err"].as_str().is_some_and(|e| e.contains("no ID")), "{got}");
    let long = format!("\n\"{body}\"\n\n  \n");
    assert!(answer(&mut s, &put(5, &long))["DiskPath"].is_string(), "blank lines do no harm");
    holds(&s.client.get(&action(1)).expect("a hit"), b"hello");
    s.end().quiet();
}

#[test]
fn what_is_not_the_protocol_ends_with_one_line() {
    for input in ["GET / HTTP/1.1\r\n\r\n", "[]\n", "{\"ID\":\"one\"}\n", "{\"ID\":1,\n", "\u{0}\u{1}\u{2}"] {
        let dir = TempDir::new();
        let mut child = Plugin::new(&dir).spawn();
        let mut client = Client::stdio(&mut child);
        client.greeting();
        client.raw(input.as_bytes());
        let left = client.rest();
        assert!(left.is_empty(), "{input:?}: {left:?}");
        let out = child.wait().code(1);
        assert_eq!(out.stderr.lines().count(), 1, "{input:?}{}", out.describe());
        assert!(out.stderr.starts_with("go-cache-plugin: input "), "{input:?}{}", out.describe());
    }
}

#[test]
fn the_end_of_input_is_a_close() {
    let dir = TempDir::new();
    let bucket = dir.dir("bucket");
    let flag = format!("--bucket=file://{}", bucket.display());
    let mut s = Session::start(Plugin::new(&dir).arg(&flag));
    let ids: Vec<i64> = (0..50).map(|n| s.client.send_put(&action(n), &noise(n.into(), 2000))).collect();
    let Session { mut child, client } = s;
    let left = client.rest();
    child.wait().ok().quiet();
    for id in ids {
        let answer = left.iter().find(|v| v["ID"] == json!(id)).expect("an answer to every request");
        assert!(answer["DiskPath"].is_string(), "{answer}");
    }
    assert_eq!(count_files(&bucket.join("v1")), 50, "uploads are flushed");
    // also with nothing asked at all, and in the middle of a body
    Plugin::new(&dir).arg(&flag).output().ok().quiet();
    let mut s = Session::start(Plugin::new(&dir));
    let line =
        json!({ "ID": 1, "Command": "put", "ActionID": b64(&action(99)), "OutputID": b64(&[1; 32]), "BodySize": 9 });
    s.client.raw(format!("{line}\n\"QUFB").as_bytes());
    s.client.rest();
    let out = s.child.wait().code(1);
    assert_eq!(out.stderr, "go-cache-plugin: input ended in the middle of a request\n");
    assert!(leftovers(&dir.join("cache")).is_empty());
}

/// Files below `dir`.
fn count_files(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    entries.flatten().map(|e| if e.path().is_dir() { count_files(&e.path()) } else { 1 }).sum()
}

/// Temporary files below `dir`.
fn leftovers(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        if entry.path().is_dir() {
            found.extend(leftovers(&entry.path()));
        } else if entry.file_name().to_string_lossy().starts_with(".tmp-") {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn many_requests_are_answered_by_id_and_close_comes_last() {
    let dir = TempDir::new();
    let mut child = Plugin::new(&dir).spawn();
    let (mut stdin, stdout) = (child.stdin(), child.stdout());
    let mut input = String::new();
    let big = noise(1, 2_000_000);
    for n in 1..=400u32 {
        let body = if n % 100 == 1 { big.clone() } else { noise(n.into(), 100 + n as usize) };
        let (act, out) = (b64(&action(n)), b64(&Sha256::digest(&body)));
        let line = json!({ "ID": n, "Command": "put", "ActionID": act, "OutputID": out, "BodySize": body.len() });
        input += &format!("{line}\n\"{}\"\n", b64(&body));
        input += &format!("{}\n", json!({ "ID": 1000 + n, "Command": "get", "ActionID": b64(&action(5000 + n)) }));
    }
    input += "{\"ID\":9999,\"Command\":\"close\"}\n";
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let mut text = String::new();
    { stdout }.read_to_string(&mut text).unwrap();
    writer.join().unwrap().unwrap();
    child.wait().ok().quiet();
    let answers: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(answers.len(), 802);
    assert_eq!(answers[0], json!({ "ID": 0, "KnownCommands": ["get", "put", "close"] }));
    assert_eq!(answers[801], json!({ "ID": 9999 }));
    let mut ids: Vec<i64> = answers.iter().map(|a| a["ID"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 802, "each id once");
    for a in &answers[1..801] {
        let kind = if a["ID"].as_i64().unwrap() > 1000 { "Miss" } else { "DiskPath" };
        assert!(a.get(kind).is_some(), "{a}");
    }
}

#[test]
fn the_greeting_comes_before_anything_is_asked() {
    // a bucket that accepts and says nothing is no reason to wait
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = TempDir::new();
    let start = Instant::now();
    let s = Session::start(
        Plugin::new(&dir)
            .env("AWS_ACCESS_KEY_ID", "a")
            .env("AWS_SECRET_ACCESS_KEY", "b")
            .args(["--bucket=some-bucket", "--region=us-east-1", "--s3-path-style"])
            .arg(format!("--s3-endpoint-url=http://{}", silent.local_addr().unwrap())),
    );
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    s.end().quiet();
}

#[test]
fn a_body_larger_than_the_memory_for_bodies() {
    const PART: usize = 3 << 20;
    const PARTS: usize = 342;
    let dir = TempDir::new();
    let part = noise(5, PART);
    let mut hasher = Sha256::new();
    (0..PARTS).for_each(|_| hasher.update(&part));
    let output = hasher.finalize();
    let encoded = b64(&part);
    let mut s = Session::start(Plugin::new(&dir).arg("--body-memory=8MiB"));
    let id = s.client.id();
    let line = json!({
        "ID": id, "Command": "put", "ActionID": b64(&action(1)), "OutputID": b64(&output), "BodySize": PART * PARTS,
    });
    s.client.raw(format!("{line}\n\"").as_bytes());
    (0..PARTS).for_each(|_| s.client.raw(encoded.as_bytes()));
    s.client.raw(b"\"\n");
    let answer = s.client.wait(id);
    let path = answer["DiskPath"].as_str().unwrap_or_else(|| panic!("{answer}"));
    assert_eq!(fs::metadata(path).unwrap().len() as usize, PART * PARTS);
    let hit = s.client.get(&action(1)).expect("a hit");
    assert_eq!((hit.size as usize, hit.output_id), (PART * PARTS, output.to_vec()));
    let mut start = vec![0; PART];
    File::open(&hit.path).unwrap().read_exact(&mut start).unwrap();
    assert!(start == part);
    let status = fs::read_to_string(format!("/proc/{}/status", s.child.pid())).unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("peak memory");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 48 * 1024, "peak memory of {peak} kB for 1 GiB through 8 MiB");
    s.end().quiet();
}

#[test]
fn a_directory_of_the_original_program_is_served() {
    let dir = TempDir::new();
    let body = b"compiled long ago";
    let (id, out) = (hex(&action(1)), output_id(body));
    let act = format!("cache/action/{}/{id}", &id[..2]);
    let act = dir.write(&act, &format!("{out} {}\n", body.len()));
    let put = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
    File::options().write(true).open(&act).unwrap().set_modified(put).unwrap();
    dir.write(&format!("cache/output/{}/{out}", &out[..2]), "compiled long ago");
    let mut s = Session::start(Plugin::new(&dir));
    let hit = s.client.get(&action(1)).expect("a hit");
    holds(&hit, body);
    assert_eq!(hit.time, "2023-11-14T22:13:20.123456789Z");
    assert_eq!(hit.path, local(&dir.join("cache"), "output", &out));
    s.end().quiet();
}

#[test]
fn times_that_go_cannot_read_are_not_told() {
    if !may_mount("direct::times_that_go_cannot_read_are_not_told") {
        return;
    }
    // a file system with times before the first year, and after year 9999
    let dir = TempDir::new();
    mount("tmpfs", "mode=755", &dir.dir("cache"));
    let mut s = Session::start(Plugin::new(&dir));
    s.client.put(&action(1), b"body");
    let path = local(&dir.join("cache"), "action", &hex(&action(1)));
    for at in ["-70000000000", "-1", "0", "253402300799", "253402300800", "9000000000000000"] {
        let touched = Command::new("touch").args(["-d", &format!("@{at}")]).arg(&path).status();
        assert!(touched.unwrap().success(), "{at}");
        let hit = s.client.get(&action(1)).expect("a hit");
        let year = hit.time.split('-').next().unwrap();
        assert!(year.len() == 4 && year >= "1970", "{at}: {}", hit.time);
    }
    s.end().quiet();
}

#[test]
fn what_is_written_has_the_layout_of_the_original_program() {
    let dir = TempDir::new();
    let cache = dir.join("cache");
    let mut s = Session::start(Plugin::new(&dir));
    s.client.put(&action(1), b"body");
    let hit = s.client.get(&action(1)).unwrap();
    s.end().quiet();
    let (act, out) = (local(&cache, "action", &hex(&action(1))), local(&cache, "output", &output_id(b"body")));
    assert_eq!(fs::read_to_string(&act).unwrap(), format!("{} 4\n", output_id(b"body")));
    assert_eq!(fs::metadata(&act).unwrap().modified().unwrap(), time(&hit.time));
    assert_eq!(fs::read(&out).unwrap(), b"body");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for file in [&act, &out] {
        let shard = file.parent().unwrap();
        let modes = [mode(file), mode(shard), mode(shard.parent().unwrap())];
        assert_eq!(modes, [0o644, 0o755, 0o755], "{}", file.display());
    }
    let mut rest: Vec<String> =
        fs::read_dir(&cache).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    rest.sort();
    assert_eq!(rest, ["action", "lease", "opened", "output", "size"]);
    assert_eq!(count_files(&cache), 4, "and nothing else");
}

/// The files below `dir` that keep what was read of the actions.
fn recalled(dir: &TempDir) -> Vec<PathBuf> {
    let shards = fs::read_dir(dir.join("cache/recall")).into_iter().flatten().flatten();
    shards.flat_map(|shard| fs::read_dir(shard.path()).unwrap()).map(|file| file.unwrap().path()).collect()
}

/// Whether this system can read `file` from memory or say that it would have to wait; on a file
/// system that cannot, nothing is recalled.
fn looks_without_waiting(file: &Path) -> bool {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
    use rustix::io::{ReadWriteFlags, preadv2};
    let opened = openat2(CWD, file, OFlags::RDONLY, Mode::empty(), ResolveFlags::CACHED);
    let mut text = [0; 128];
    let read = opened.and_then(|f| preadv2(f, &mut [IoSliceMut::new(&mut text)], 0, ReadWriteFlags::NOWAIT));
    if let Err(e) = &read {
        eprintln!("{}: {e}: nothing is recalled here", file.display());
    }
    read.is_ok()
}

#[test]
fn what_was_read_before_is_not_believed_once_it_has_changed() {
    let dir = TempDir::new();
    let cache = dir.join("cache");
    let bodies: Vec<Vec<u8>> = (0..40u8).map(|n| vec![n; 100 * usize::from(n)]).collect();
    Session::fill(Plugin::new(&dir), &bodies);
    // directories that have just changed are not gone by
    std::thread::sleep(Duration::from_millis(2100));
    let mut s = Session::start(Plugin::new(&dir));
    assert_eq!(s.get_all(&bodies), 40);
    s.end().quiet();
    let (out, act) = (
        |n: usize| local(&cache, "output", &output_id(&bodies[n])),
        |n: u32| local(&cache, "action", &hex(&action(n))),
    );
    let recalls = looks_without_waiting(&act(39));
    assert_eq!(recalled(&dir).len(), usize::from(recalls));

    let mut early = Session::start(Plugin::new(&dir));
    // nobody writes into an action's file: that this is not noticed shows that it is not read
    let text = fs::read(act(39)).unwrap();
    fs::write(act(39), "rubbish").unwrap();
    assert_eq!(early.get_all(&bodies), if recalls { 40 } else { 39 });
    fs::write(act(39), text).unwrap();
    // the empty one and another
    fs::remove_file(out(0)).unwrap();
    fs::remove_file(out(1)).unwrap();
    File::options().write(true).open(out(2)).unwrap().set_len(99).unwrap();
    fs::remove_file(act(3)).unwrap();
    let mut other = Session::start(Plugin::new(&dir));
    other.client.put(&action(4), b"another");
    // those who knew the old ones, in memory and from the file, see the new
    for s in [&mut early, &mut other] {
        for n in [0, 1, 2, 3] {
            assert!(s.client.get(&action(n)).is_none(), "action {n}");
        }
        holds(&s.client.get(&action(4)).expect("a hit"), b"another");
        for n in (0..40).filter(|n| ![0, 1, 2, 3, 4].contains(n)) {
            holds(&s.client.get(&action(n)).expect("a hit"), &bodies[n as usize]);
        }
    }
    other.client.put(&action(0), b"");
    for s in [&mut early, &mut other] {
        holds(&s.client.get(&action(0)).expect("a hit"), b"");
    }
    early.end().quiet();
    other.end().quiet();

    // and a damaged file changes nothing
    for text in [&b""[..], b"gcprec1\nrubbish"] {
        recalled(&dir).iter().for_each(|file| fs::write(file, text).unwrap());
        let mut s = Session::start(Plugin::new(&dir));
        holds(&s.client.get(&action(5)).expect("a hit"), &bodies[5]);
        s.end().quiet();
    }
}

#[test]
fn damaged_local_entries_are_misses_and_put_anew() {
    let dir = TempDir::new();
    let cache = dir.join("cache");
    let bodies: Vec<Vec<u8>> = (0..5u8).map(|n| vec![n; 100]).collect();
    Session::fill(Plugin::new(&dir), &bodies);
    let act = |n| local(&cache, "action", &hex(&action(n)));
    let out = |n: usize| local(&cache, "output", &output_id(&bodies[n]));
    fs::remove_file(out(0)).unwrap();
    File::options().write(true).open(out(1)).unwrap().set_len(99).unwrap();
    fs::write(act(2), "rubbish").unwrap();
    fs::write(act(3), "").unwrap();
    fs::remove_file(out(4)).unwrap();
    fs::create_dir(out(4)).unwrap();
    let mut s = Session::start(Plugin::new(&dir));
    assert_eq!(s.get_all(&bodies), 0);
    s.put_all(&bodies[..4]);
    assert_eq!(s.get_all(&bodies[..4]), 4);
    s.end().quiet();
}
