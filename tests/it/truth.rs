//! One place for each fact: what is owed to the bucket, who is alive, what an action's value is. Each
//! test is an attack that once succeeded, or a cousin of one.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::bucket::single;
use crate::support::client::{Client, put_request};
use crate::support::env::{Output, Plugin, Running, TempDir, free_port, may_mount, mount, poll};
use crate::support::fault::{Fault, FaultProxy};
use crate::support::origin::{self, Origin};
use crate::support::s3::S3Server;
use crate::support::script::{Session, action, files, hex, holds, local, metrics, noise, output_id, said};

const DAY: Duration = Duration::from_secs(86_400);

fn bodies(count: usize, len: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| noise(n as u64 + 1, len)).collect()
}

/// How many of the first `count` actions the server has.
fn arrived(server: &S3Server, count: usize) -> usize {
    let keys = server.keys();
    (0..count as u32).filter(|n| keys.contains(&single(*n))).count()
}

/// Every marker below the cache directory.
fn markers(dir: &TempDir) -> Vec<PathBuf> {
    let dirs = fs::read_dir(dir.join("cache/pending")).into_iter().flatten().flatten();
    dirs.filter_map(|d| fs::read_dir(d.path()).ok()).flatten().flatten().map(|e| e.path()).collect()
}

fn temps(dir: &TempDir) -> Vec<PathBuf> {
    let temp = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(".tmp-"));
    files(dir.path()).into_iter().filter(temp).collect()
}

/// Sets the times of every file below `dir` back by `age`.
fn age(dir: &Path, age: Duration) {
    for file in files(dir) {
        File::open(&file).and_then(|f| f.set_modified(SystemTime::now() - age)).expect("a file of ours");
    }
}

/// A session that puts `bodies` and leaves their uploads to the next, for the server is busy. The
/// proxy that it has behind it, healthy again.
fn owed(dir: &TempDir, server: &S3Server, bodies: &[Vec<u8>]) -> FaultProxy {
    let proxy = FaultProxy::start(&server.endpoint);
    proxy.set(Fault::Status(503));
    let vars = server.env_through(&proxy.endpoint);
    let mut s = Session::start(Plugin::new(dir).envs(&vars).arg("--close-timeout=1s"));
    s.put_all(bodies);
    s.end();
    proxy.set(Fault::None);
    proxy
}

/// A healthy session that ends when the uploads of the dead are done.
fn heal(dir: &TempDir, vars: &[(String, String)], flags: &[&str]) -> Output {
    let s = Session::start(Plugin::new(dir).envs(vars).args(flags));
    poll("the markers to go", || markers(dir).is_empty().then_some(()));
    s.end()
}

#[test]
fn refusals_leave_every_marker_and_say_so_once() {
    let (server, dir, bodies) = (S3Server::in_process(), TempDir::new(), bodies(12, 2000));
    let proxy = FaultProxy::start(&server.endpoint);
    let vars = server.env_through(&proxy.endpoint);
    proxy.set(Fault::Status(503));
    // without reads of its own, which would be refused or not as the first of them is early or late
    let mut s = Session::start(Plugin::new(&dir).envs(&vars).args(["--close-timeout=2s", "--no-readahead"]));
    s.put_all(&bodies[..6]);
    proxy.set(Fault::Status(403));
    s.put_all(&bodies);
    let out = s.end();
    let [line] = said(&out)[..] else { panic!("{}", out.describe()) };
    assert!(line.contains("marked for the next start"), "{line}");
    proxy.set(Fault::None);
    // the same bucket by the same name: what it was told was meant for there
    heal(&dir, &vars, &[]).quiet();
    assert_eq!(arrived(&server, 12), 12);
}

#[test]
fn a_server_that_is_not_trusted_acknowledges_nothing() {
    let (server, dir, bodies) = (S3Server::in_process(), TempDir::new(), bodies(4, 2000));
    let (origin, _) = Origin::https(dir.path(), |_| origin::answer("ETag: \"x\"", ""));
    let vars = server.env_through(&format!("https://{}", origin.host()));
    let mut s = Session::start(Plugin::new(&dir).envs(&vars).args(["--no-readahead", "--metrics"]));
    s.put_all(&bodies);
    let out = s.end();
    assert_eq!((markers(&dir).len(), &metrics(&out)["upload"]["done"]), (4, &0.into()), "{}", out.describe());
    let out = Plugin::new(&dir).envs(&vars).arg("push").output().code(1);
    assert!(out.stderr.contains("4 objects left out"), "{}", out.describe());
}

#[test]
fn markers_go_to_their_own_target_alone() {
    let (server, dir, bodies) = (S3Server::in_process(), TempDir::new(), bodies(5, 2000));
    let proxy = FaultProxy::start(&server.endpoint);
    proxy.set(Fault::Status(503));
    let vars = server.env_through(&proxy.endpoint);
    let mut s = Session::start(Plugin::new(&dir).envs(&vars).args(["--close-timeout=1s", "--prefix=mine"]));
    s.put_all(&bodies);
    s.end();
    assert_eq!(markers(&dir).len(), 5);
    proxy.set(Fault::None);
    let other = S3Server::in_process();
    let bucket = format!("--bucket=file://{}", dir.dir("bucket").display());
    for (vars, flags) in [
        (other.env(), vec!["--prefix=mine"]),
        (vars.clone(), vec!["--prefix=yours"]),
        (vars.clone(), vec!["--prefix=mine", "--s3-layout=classic"]),
        (vars.clone(), vec!["--prefix=mine", "--write-prefix=pr/1"]),
        (vars.clone(), vec!["--prefix=mine", "--read-only"]),
        (vec![], vec![bucket.as_str(), "--prefix=mine"]),
    ] {
        Session::start(Plugin::new(&dir).envs(&vars).args(&flags)).end();
        assert_eq!(markers(&dir).len(), 5, "{flags:?}");
    }
    assert!(other.keys().is_empty() && files(&dir.join("bucket")).is_empty());
    heal(&dir, &vars, &["--prefix=mine"]).quiet();
    assert_eq!(fs::read_dir(dir.join("cache/pending")).unwrap().count(), 0);
}

#[test]
fn markers_of_an_earlier_version_are_sent() {
    let (server, dir, bodies) = (S3Server::in_process(), TempDir::new(), bodies(3, 2000));
    Session::fill(Plugin::new(&dir), &bodies);
    // pending/<hash of s3://bucket/prefix>-<pid>-<nanoseconds>/action-<id>, beside a lock
    let identity = output_id(format!("s3://{}/{}", server.bucket, server.prefix).as_bytes());
    let old = format!("cache/pending/{}-1-2", &identity[..12]);
    let other = "cache/pending/0123456789ab-1-2";
    for (n, folder) in [(0, old.as_str()), (1, old.as_str()), (2, other)] {
        dir.write(&format!("{folder}/action-{}", hex(&action(n))), "");
        dir.write(&format!("{folder}/.lock"), "");
    }
    let s = Session::start(Plugin::new(&dir).envs(&server.env()));
    poll("the markers to go", || (markers(&dir).len() == 2).then_some(()));
    s.end().quiet();
    assert_eq!(arrived(&server, 3), 2);
    assert!(!dir.join(&old).exists() && dir.join(other).exists());
}

#[test]
fn markers_that_waited_too_long_go_with_a_line() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let _proxy = owed(&dir, &server, &bodies(4, 2000));
    let all = markers(&dir);
    assert_eq!(all.len(), 4);
    File::open(&all[0]).unwrap().set_modified(SystemTime::now() - 8 * DAY).unwrap();
    // a clock that was ahead when it was made is no age
    File::open(&all[1]).unwrap().set_modified(SystemTime::now() + 8 * DAY).unwrap();
    let prune = || Plugin::new(&dir).args(["prune", "--max-cache-size=1"]).output().ok();
    // a directory that is younger than that knows nothing of such ages
    prune().quiet();
    assert_eq!(markers(&dir).len(), 4);
    let opened = || File::open(dir.join("cache/opened")).unwrap();
    opened().set_modified(SystemTime::now() - 8 * DAY).unwrap();
    let out = prune();
    assert!(out.stderr.contains("1 upload") && out.stderr.contains("--pending-expiry"), "{}", out.describe());
    assert_eq!(markers(&dir).len(), 3);
    // where everything is as old, it is the clock that moved
    age(&dir.join("cache"), 300 * DAY);
    assert!(prune().stderr.contains("clock"));
    assert_eq!(markers(&dir).len(), 3);
}

#[test]
fn only_what_was_put_is_sent_in_its_name() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let bodies = bodies(3, 2000);
    let proxy = owed(&dir, &server, &bodies);
    // another value in the directory, which nobody put by way of us
    let of = |n: u32| dir.join("cache/action").join(&single(n)[3..]);
    fs::copy(of(1), of(0)).unwrap();
    // one that is put again, for another bucket or for none, is not what was marked either
    let other = format!("--bucket=file://{}", dir.dir("other").display());
    let mut s = Session::start(Plugin::new(&dir).arg(&other));
    s.client.put(&action(1), b"for the other");
    s.end().quiet();
    let mut s = Session::start(Plugin::new(&dir));
    s.client.put(&action(2), b"local");
    s.end().quiet();
    // and what was marked is not pruned for that
    age(&dir.join("cache/output"), 30 * DAY);
    Plugin::new(&dir).args(["prune", "--max-cache-size=1"]).output().ok();
    heal(&dir, &server.env_through(&proxy.endpoint), &[]);
    let fresh = TempDir::new();
    let mut s = Session::start(Plugin::new(&fresh).envs(&server.env()).arg("--no-readahead"));
    assert_eq!(s.get_all(&bodies), 3);
    s.end().quiet();
    let mut s = Session::start(Plugin::new(&TempDir::new()).args([&other, "--no-readahead"]));
    holds(&s.client.get(&action(1)).unwrap(), b"for the other");
    s.end().quiet();
    // what is gone is sent no more
    let proxy = owed(&dir, &server, &[noise(77, 2000)]);
    fs::remove_file(local(&dir.join("cache"), "output", &output_id(&noise(77, 2000)))).unwrap();
    server.delete(&single(0));
    heal(&dir, &server.env_through(&proxy.endpoint), &[]);
    assert_eq!(arrived(&server, 3), 2);
}

#[test]
fn what_is_no_plain_file_holds_up_nobody() {
    let (dir, bodies) = (TempDir::new(), bodies(5, 2000));
    Session::fill(Plugin::new(&dir), &bodies);
    let action = |n: u32| dir.join("cache/action").join(&single(n)[3..]);
    let fifo = |path: &Path| {
        let _ = fs::remove_file(path);
        rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RUSR).unwrap();
    };
    fifo(&action(0));
    fs::rename(action(1), dir.join("elsewhere")).unwrap();
    symlink(dir.join("elsewhere"), action(1)).unwrap();
    fs::remove_file(action(2)).unwrap();
    fs::create_dir(action(2)).unwrap();
    let id = output_id(&bodies[3]);
    fifo(&dir.join("cache/output").join(&id[..2]).join(&id));
    fifo(&dir.join("cache/opened"));
    fs::create_dir_all(dir.join("cache/pending/1-a")).unwrap();
    fifo(&dir.join("cache/pending/1-a/000000000000"));
    let store = format!("--bucket=file://{}", dir.dir("bucket").display());
    let mut s = Session::start(Plugin::new(&dir).args([&store, "--max-cache-size=5k", "--no-readahead"]));
    assert_eq!((0..5).filter(|n| s.client.get(&crate::support::script::action(*n)).is_some()).count(), 1);
    s.end();
    Plugin::new(&dir).args(["prune", "--max-cache-size=1", "--expiry=1h"]).output().ok();
    fifo(&dir.join("cache/size"));
    let out = Plugin::new(&dir).args(["prune", "--max-cache-size=1"]).output().code(1);
    assert!(out.stderr.contains("cache/size: "), "{}", out.describe());
    fifo(&dir.join("pipe"));
    Plugin::new(&dir).args(["status", &format!("--cache-dir={}", dir.join("pipe").display())]).output();
}

#[test]
fn markers_that_cannot_be_read_are_told_of_and_spared() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let pending = dir.dir("cache/pending");
    let readable = |mode: u32| fs::set_permissions(&pending, fs::Permissions::from_mode(mode)).unwrap();
    readable(0);
    let mut s = Session::start(Plugin::bound_by_modes(&dir).envs(&server.env()));
    s.put_all(&bodies(3, 2000));
    let out = s.end();
    assert!(out.stderr.contains("cannot look") && out.stderr.contains("cannot be marked"), "{}", out.describe());
    assert_eq!((said(&out).len(), arrived(&server, 3)), (3, 3), "{}", out.describe());
    let at = format!("{}: Permission denied", pending.display());
    let out = Plugin::bound_by_modes(&dir).arg("status").output().ok();
    assert!(out.stdout.contains("cannot be told: ") && out.stdout.contains(&at), "{}", out.describe());
    let out = Plugin::bound_by_modes(&dir).arg("prune").output().code(1);
    assert!(out.stderr.contains(&at), "{}", out.describe());
    readable(0o755);
}

#[test]
fn a_directory_emptied_under_a_server_has_its_lease_again() {
    let (dir, bodies, port) = (TempDir::new(), bodies(2, 4000), free_port());
    let mut server = Plugin::new(&dir).args(["serve", &format!("--plugin={port}")]).spawn();
    Client::tcp(port).greeting();
    fs::remove_dir_all(dir.join("cache")).unwrap();
    let mut client = Client::tcp(port);
    client.greeting();
    let hit = client.put(&action(0), &bodies[0]);
    let out = Plugin::new(&dir).args(["prune", "--max-cache-size=1"]).output().ok();
    assert!(out.stdout.contains("removed 0 ") && out.stdout.contains("may be in use"), "{}", out.describe());
    assert_eq!(fs::read(hit).unwrap(), bodies[0]);
    client.close();
    server.signal(rustix::process::Signal::TERM);
    server.wait().ok();
}

#[test]
fn what_waits_for_upload_is_not_pruned() {
    let (server, dir, bodies) = (S3Server::in_process(), TempDir::new(), bodies(6, 4000));
    let proxy = owed(&dir, &server, &bodies[..3]);
    Session::fill(Plugin::new(&dir), &bodies);
    age(&dir.join("cache/output"), 30 * DAY);
    let out = Plugin::new(&dir).args(["prune", "--max-cache-size=1", "--expiry=1h"]).output().ok();
    assert!(out.stdout.contains("removed 3 ") && out.stdout.contains("wait for upload"), "{}", out.describe());
    heal(&dir, &server.env_through(&proxy.endpoint), &[]);
    assert_eq!(arrived(&server, 6), 3);
}

#[test]
fn what_a_live_session_was_told_of_stays() {
    let (dir, bodies) = (TempDir::new(), bodies(4, 4000));
    Session::fill(Plugin::new(&dir), &bodies);
    age(&dir.join("cache/output"), 30 * DAY);
    let mut live = Session::start(Plugin::new(&dir));
    let hits = [live.client.get(&action(0)).unwrap(), live.client.get(&action(1)).unwrap()];
    let prune = || Plugin::new(&dir).args(["prune", "--max-cache-size=1", "--expiry=1h"]).output().ok();
    let out = prune();
    assert!(out.stdout.contains("removed 2 ") && out.stdout.contains("may be in use"), "{}", out.describe());
    // what another session prunes as it closes stays as well
    Session::start(Plugin::new(&dir).args(["--max-cache-size=1", "--expiry=1h"])).end();
    holds(&hits[0], &bodies[0]);
    holds(&hits[1], &bodies[1]);
    live.end().quiet();
    let out = prune();
    assert!(out.stdout.contains("removed 2 "), "{}", out.describe());
}

#[test]
fn what_was_used_within_the_hour_outlives_its_session() {
    let (dir, bodies) = (TempDir::new(), bodies(2, 4000));
    let mut s = Session::start(Plugin::new(&dir));
    s.put_all(&bodies);
    let hit = s.client.get(&action(0)).unwrap();
    s.end().quiet();
    let out = Session::start(Plugin::new(&dir).args(["--expiry=30m", "--max-cache-size=1"])).end();
    holds(&hit, &bodies[0]);
    assert!(said(&out).len() == 1 && said(&out)[0].contains("may be in use"), "{}", out.describe());
    // once an hour is enough
    Session::start(Plugin::new(&dir).args(["--expiry=30m", "--max-cache-size=1"])).end().quiet();
}

#[test]
fn a_server_without_sessions_spares_nothing() {
    let (dir, bodies, port) = (TempDir::new(), bodies(3, 4000), free_port());
    let mut server = Plugin::new(&dir).args(["serve", &format!("--plugin={port}")]).spawn();
    let mut client = Client::tcp(port);
    client.greeting();
    for (n, body) in (0..).zip(&bodies) {
        client.put(&action(n), body);
    }
    let prune = |want: &str| {
        age(&dir.join("cache/output"), 3 * DAY);
        let out = Plugin::new(&dir).args(["prune", "--expiry=1h"]).output().ok();
        assert!(out.stdout.contains(want), "{}", out.describe());
    };
    // made old behind the session's back, which says only when it began
    prune("removed 3 ");
    client.put(&action(0), &bodies[0]);
    client.close();
    client.rest();
    poll("the lease to say so", || {
        let leases = fs::read_dir(dir.join("cache/lease")).unwrap().flatten();
        leases.filter_map(|l| fs::read_to_string(l.path()).ok()).all(|text| text.trim().is_empty()).then_some(())
    });
    // what was used at the very moment stays
    std::thread::sleep(Duration::from_millis(20));
    let out = Plugin::new(&dir).args(["prune", "--max-cache-size=1"]).output().ok();
    assert!(out.stdout.contains("removed 1 "), "{}", out.describe());
    server.signal(rustix::process::Signal::TERM);
    server.wait().ok();
}

#[test]
fn a_put_is_there_when_it_is_answered() {
    let dir = TempDir::new();
    let body = noise(1, 300_000);
    let mut s = Session::start(Plugin::new(&dir));
    for n in 0..20 {
        // whatever happens to the directory while the body comes in
        let id = s.client.id();
        let request = put_request(id, &action(n), &Sha256::digest(&body), &body);
        let (first, rest) = request.split_at(request.len() / 2);
        s.client.raw(first);
        Plugin::new(&dir).args(["clear", "--local"]).output().ok();
        s.client.raw(rest);
        let answer = s.client.wait(id);
        match answer["DiskPath"].as_str() {
            Some(path) => assert!(fs::read(path).unwrap() == body, "{answer}"),
            None => assert!(answer["Err"].is_string(), "{answer}"),
        }
    }
    s.end();
}

#[test]
fn a_put_beats_a_slow_answer_from_the_bucket() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    for flags in [&["--s3-layout=single"][..], &["--s3-layout=classic"]] {
        let elsewhere = TempDir::new();
        let mut s = Session::start(Plugin::new(&elsewhere).envs(&server.env()).args(flags));
        s.client.put(&action(1), b"old");
        s.end().quiet();
        let proxy = FaultProxy::start(&server.endpoint);
        proxy.set(Fault::Delay(Duration::from_millis(700)));
        let plugin = Plugin::new(&dir).envs(&server.env_through(&proxy.endpoint)).args(flags).arg("--scope=none");
        let mut s = Session::start(plugin.arg("--no-readahead"));
        let get = s.client.send_get(&action(1));
        poll("the get to be asked", || (proxy.requests() > 0).then_some(()));
        s.client.put(&action(1), b"new");
        s.client.wait(get);
        holds(&s.client.get(&action(1)).unwrap(), b"new");
        s.end();
        let mut s = Session::start(Plugin::new(&dir));
        holds(&s.client.get(&action(1)).unwrap(), b"new");
        s.end().quiet();
        Plugin::new(&dir).args(["clear", "--local"]).output().ok();
    }
}

#[test]
fn a_put_of_the_good_bytes_mends_bad_ones() {
    let dir = TempDir::new();
    let body = noise(1, 5000);
    let mut s = Session::start(Plugin::new(&dir));
    let path = s.client.put(&action(1), &body);
    let mut bad = body.clone();
    bad[17] ^= 1;
    fs::write(&path, &bad).unwrap();
    let path = s.client.put(&action(2), &body);
    assert!(fs::read(path).unwrap() == body);
    holds(&s.client.get(&action(1)).unwrap(), &body);
    s.end().quiet();
}

#[test]
fn what_is_put_again_while_it_is_sent_is_sent_again() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let proxy = FaultProxy::start(&server.endpoint);
    for kill in [false, true] {
        proxy.set(Fault::Delay(Duration::from_millis(500)));
        let vars = server.env_through(&proxy.endpoint);
        let mut s = Session::start(Plugin::new(&dir).envs(&vars).arg("--no-readahead"));
        let before = proxy.requests();
        s.client.put(&action(1), format!("first {kill}").as_bytes());
        poll("the upload to begin", || (proxy.requests() > before).then_some(()));
        s.client.put(&action(1), format!("second {kill}").as_bytes());
        if kill {
            s.child.signal(rustix::process::Signal::KILL);
            s.child.wait();
            proxy.set(Fault::None);
            // the first value is still on its way, and must not come last
            poll("the requests of the dead to end", || proxy.is_idle().then_some(()));
            heal(&dir, &vars, &["--no-readahead"]).quiet();
        } else {
            s.end().quiet();
        }
        let fresh = TempDir::new();
        // a pack may say an older value, until it is next written: the entry is what counts
        let mut s = Session::start(Plugin::new(&fresh).envs(&server.env()).arg("--no-readahead"));
        holds(&s.client.get(&action(1)).unwrap(), format!("second {kill}").as_bytes());
        s.end().quiet();
    }
}

#[test]
fn a_long_value_that_was_overtaken_is_not_owed_for_good() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let proxy = owed(&dir, &server, &[noise(1, 8_000_000)]);
    // put again here, for no bucket, and there by another
    for (dir, vars) in [(&dir, vec![]), (&TempDir::new(), server.env())] {
        let mut s = Session::start(Plugin::new(dir).envs(&vars));
        s.client.put(&action(0), b"later");
        s.end().quiet();
    }
    heal(&dir, &server.env_through(&proxy.endpoint), &[]).quiet();
    let mut s = Session::start(Plugin::new(&TempDir::new()).envs(&server.env()).arg("--no-readahead"));
    holds(&s.client.get(&action(0)).unwrap(), b"later");
    s.end().quiet();
}

#[test]
fn no_write_follows_a_symbolic_link() {
    let dir = TempDir::new();
    let precious = dir.write("precious", "precious");
    let mut s = Session::start(Plugin::new(&dir));
    s.client.put(&action(1), b"x");
    s.end().quiet();
    let names = ["size", "opened", "last-prune", "lease/prune"];
    for name in names {
        let _ = fs::remove_file(dir.join("cache").join(name));
        symlink(&precious, dir.join("cache").join(name)).unwrap();
    }
    let flags = ["--expiry=1h", "--max-cache-size=1"];
    let mut s = Session::start(Plugin::new(&dir).args(flags));
    s.client.put(&action(2), b"y");
    let told = |out: Output, name: &str| {
        assert_eq!(out.stderr.matches(&format!("{name}: ")).count(), 1, "{}", out.describe());
        assert!(out.stderr.ends_with("; remove the link in its place\n"), "{}", out.describe());
    };
    told(s.end(), "cache/size");
    told(Plugin::new(&dir).arg("prune").args(flags).output().code(1), "cache/lease/prune");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    // nor does a folder of ours that is a link
    let outside = dir.dir("outside");
    for name in ["lease", "pending"] {
        let _ = fs::remove_dir_all(dir.join("cache").join(name));
        symlink(&outside, dir.join("cache").join(name)).unwrap();
    }
    let bucket = format!("--bucket=file://{}", dir.dir("bucket").display());
    let mut s = Session::start(Plugin::new(&dir).arg(bucket));
    s.client.put(&action(3), b"z");
    s.end();
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
}

#[test]
fn blobs_are_pruned_with_the_rest_and_not_by_the_default_age() {
    let (dir, body) = (TempDir::new(), noise(1, 900));
    let id = output_id(b"a module");
    let blob = dir.write(&format!("cache/module/{}/{id}", &id[..2]), "module");
    let proxied = dir.write(&format!("cache/revproxy/{}/{id}", &id[..2]), "proxied");
    let mut s = Session::start(Plugin::new(&dir));
    s.client.put(&action(1), &body);
    s.end().quiet();
    age(&dir.join("cache"), 100 * DAY);
    Session::start(Plugin::new(&dir)).end();
    assert!(blob.exists() && proxied.exists() && !local(&dir.join("cache"), "output", &output_id(&body)).exists());
    age(&dir.join("cache"), 100 * DAY);
    Session::start(Plugin::new(&dir).args(["--expiry=1h", "--max-cache-size=1000"])).end();
    assert!(!blob.exists() && !proxied.exists());
}

#[test]
fn what_another_program_brought_has_its_age_from_the_day_we_came() {
    let (dir, body) = (TempDir::new(), noise(1, 900));
    let mut s = Session::start(Plugin::new(&dir));
    s.client.put(&action(1), &body);
    s.end().quiet();
    age(&dir.join("cache"), 100 * DAY);
    // never opened by us
    for name in ["opened", "size"] {
        fs::remove_file(dir.join("cache").join(name)).unwrap();
    }
    let mut s = Session::start(Plugin::new(&dir));
    holds(&s.client.get(&action(1)).expect("it is there"), &body);
    s.end().quiet();
}

#[test]
fn clocks_that_jump_cost_neither_all_nor_nothing() {
    let (dir, bodies) = (TempDir::new(), bodies(3, 900));
    Session::fill(Plugin::new(&dir), &bodies);
    let output = |n: usize| local(&dir.join("cache"), "output", &output_id(&bodies[n]));
    let set = |n: usize, t: SystemTime| File::open(output(n)).unwrap().set_modified(t).unwrap();
    let now = SystemTime::now();
    // the clock has gone a year ahead: all of it seems old, one a month more than the others
    age(&dir.join("cache"), 365 * DAY);
    set(0, now - 395 * DAY);
    let out = Session::start(Plugin::new(&dir)).end();
    assert!(!output(0).exists() && output(1).exists() && output(2).exists(), "{}", out.describe());
    // and a year back: what it used then is of the future
    age(&dir.join("cache"), Duration::ZERO);
    for file in ["opened", "size"] {
        File::open(dir.join("cache").join(file)).unwrap().set_modified(now + 365 * DAY).unwrap();
    }
    set(1, now + 365 * DAY);
    set(2, now - 2 * DAY);
    Session::start(Plugin::new(&dir)).end();
    assert!(output(1).exists() && output(2).exists());
    let corrected = fs::metadata(output(1)).unwrap().modified().unwrap();
    assert!(corrected < now + DAY, "its age counts from now on");
}

#[test]
fn sessions_that_end_in_the_middle_leave_no_temporary_files() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let bodies = bodies(60, 200_000);
    let elsewhere = TempDir::new();
    let mut s = Session::start(Plugin::new(&elsewhere).envs(&server.env()).arg("--scope=x"));
    s.put_all(&bodies);
    s.end().quiet();
    let mut s = Session::start(Plugin::new(&TempDir::new()).envs(&server.env()).arg("--scope=x"));
    s.get_all(&bodies);
    s.end();
    let proxy = FaultProxy::start(&server.endpoint);
    for _ in 0..3 {
        proxy.set(Fault::None);
        let vars = server.env_through(&proxy.endpoint);
        let mut s = Session::start(Plugin::new(&dir).envs(&vars).arg("--scope=x"));
        s.client.get(&action(0)).unwrap();
        proxy.set(Fault::Drip(20_000));
        let _ = s.client.send_get(&action(1));
        s.child.signal(rustix::process::Signal::TERM);
        s.child.wait();
        assert_eq!(temps(&dir), [] as [PathBuf; 0]);
        let leases = files(&dir.join("cache/lease")).into_iter();
        let names = leases.map(|p| p.file_name().unwrap().to_string_lossy().into_owned());
        assert_eq!(names.filter(|n| n.contains('-') && !n.starts_with("bucket-")).count(), 0);
    }
}

#[test]
fn what_the_killed_leave_is_swept_and_what_the_living_have_is_not() {
    let dir = TempDir::new();
    let mut dead = Session::start(Plugin::new(&dir));
    let mut live = Session::start(Plugin::new(&dir));
    // both in the middle of a large body
    half_a_put(&mut dead.client, 1, 3_000_000, 2_000_000);
    half_a_put(&mut live.client, 10, 3_000_000, 2_000_000);
    poll("two temporary files", || (temps(&dir).len() == 2).then_some(()));
    dead.child.signal(rustix::process::Signal::KILL);
    dead.child.wait();
    // one in the root, of a version that did not say whose it is, and is long gone
    let old = dir.write("cache/.tmp-77-1", "");
    File::open(&old).unwrap().set_modified(SystemTime::now() - 2 * DAY).unwrap();
    let young = dir.write("cache/.tmp-77-2", "");
    Session::start(Plugin::new(&dir)).end().quiet();
    assert_eq!(temps(&dir).len(), 2, "{:?}", temps(&dir));
    assert!(!old.exists() && young.exists());
    drop(live);
}

fn base64(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}

/// Sends a put of `size` bytes as far as `sent` characters of its body.
fn half_a_put(client: &mut Client, n: u32, size: usize, sent: usize) {
    let id = |n| base64(&action(n));
    let line = json!({ "ID": 50, "Command": "put", "ActionID": id(n), "OutputID": id(n + 1), "BodySize": size });
    client.raw(format!("{line}\n\"{}", "A".repeat(sent)).as_bytes());
}

#[test]
fn what_the_bucket_has_lost_comes_back_with_the_next_put() {
    let server = S3Server::in_process();
    let bodies = bodies(4, 2000);
    for round in 0..2 {
        let dir = TempDir::new();
        let mut s = Session::start(Plugin::new(&dir).envs(&server.env()).arg("--scope=x"));
        if round == 1 {
            s.client.get(&action(900));
        }
        s.put_all(&bodies);
        s.end().quiet();
        assert_eq!(arrived(&server, 4), 4, "round {round}");
        (0..4).for_each(|n| server.delete(&single(n)));
    }
}

#[test]
fn a_get_before_close_does_not_wait_for_uploads() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let proxy = FaultProxy::start(&server.endpoint);
    let plugin = Plugin::new(&dir).envs(&server.env_through(&proxy.endpoint)).arg("--no-readahead");
    let mut s = Session::start(plugin);
    proxy.set(Fault::Delay(Duration::from_secs(3)));
    s.client.put(&action(1), b"body");
    let begin = Instant::now();
    let get = s.client.id();
    let close = s.client.id();
    // in one write, as one who is in a hurry does
    let line = |id: i64, command: &str| json!({ "ID": id, "Command": command, "ActionID": base64(&action(1)) });
    s.client.raw(format!("{}\n{}\n", line(get, "get"), line(close, "close")).as_bytes());
    assert!(s.client.wait(get)["DiskPath"].is_string());
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(s.client.wait(close)["Err"], Value::Null);
    assert!(begin.elapsed() > Duration::from_secs(2), "the upload was waited for");
    s.child.wait().ok();
}

#[test]
fn a_full_disk_is_one_line_and_a_count() {
    if !may_mount("truth::a_full_disk_is_one_line_and_a_count") {
        return;
    }
    let dir = TempDir::new();
    let small = dir.dir("small");
    mount("tmpfs", "size=300k", &small);
    let bucket = format!("--bucket=file://{}", dir.dir("bucket").display());
    let mut s = Session::start(Plugin::new(&dir).env("GOCACHE_DIR", small.join("cache")).arg(bucket));
    for n in 0..40 {
        let id = s.client.send_put(&action(n), &noise(u64::from(n), 30_000));
        s.client.wait(id);
    }
    let out = s.end();
    let lines: Vec<&str> = said(&out).into_iter().filter(|l| !l.contains("marked for the next start")).collect();
    assert!((1..=3).contains(&lines.len()), "{}", out.describe());
    assert!(lines[0].contains("No space left"), "{}", out.describe());
}

#[test]
fn what_another_machine_may_hold_is_left_alone_for_a_day() {
    if !may_mount("truth::what_another_machine_may_hold_is_left_alone_for_a_day") {
        return;
    }
    // a file system that is not known to be this machine's alone, as one of the network is not
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    mount("ramfs", "mode=755", &dir.dir("cache"));
    let proxy = owed(&dir, &server, &bodies(3, 2000));
    let vars = server.env_through(&proxy.endpoint);
    let mut killed = Session::start(Plugin::new(&dir));
    half_a_put(&mut killed.client, 1, 9_000_000, 2_000_000);
    poll("a temporary file", || (temps(&dir).len() == 1).then_some(()));
    killed.child.signal(rustix::process::Signal::KILL);
    killed.child.wait();
    let s = Session::start(Plugin::new(&dir).envs(&vars));
    // nothing may happen, for as long as it would take
    std::thread::sleep(Duration::from_secs(2));
    s.end();
    assert_eq!((markers(&dir).len(), temps(&dir).len(), arrived(&server, 3)), (3, 1, 0));
    for command in ["status", "doctor"] {
        let out = Plugin::new(&dir).arg(command).output();
        assert!(out.stdout.contains("network file system"), "{}", out.describe());
    }
    age(&dir.join("cache/pending"), 2 * DAY);
    age(&dir.join("cache/lease"), 2 * DAY);
    temps(&dir).iter().for_each(|t| File::open(t).unwrap().set_modified(SystemTime::now() - 2 * DAY).unwrap());
    heal(&dir, &vars, &[]);
    assert_eq!((markers(&dir).len(), temps(&dir).len(), arrived(&server, 3)), (0, 0, 3));
}

#[test]
fn clients_that_stop_in_a_body_hold_up_nobody() {
    let (dir, port) = (TempDir::new(), free_port());
    let flags = ["serve".to_string(), format!("--plugin={port}"), "--body-memory=1MiB".to_string()];
    let mut server: Running = Plugin::new(&dir).args(&flags).spawn();
    let stalled: Vec<Client> = (0..8u32)
        .map(|n| {
            let mut client = Client::tcp(port);
            client.greeting();
            half_a_put(&mut client, n, 8_000_000, 700_000);
            client
        })
        .collect();
    let mut fifth = Client::tcp(port);
    fifth.greeting();
    fifth.put(&action(100), &[7; 100]);
    let large = noise(5, 3_000_000);
    assert!(fs::read(fifth.put(&action(101), &large)).unwrap() == large);
    drop(stalled);
    fifth.close();
    fifth.rest();
    server.signal(rustix::process::Signal::TERM);
    server.wait().ok();
}

#[test]
fn clients_that_take_no_answers_hold_up_nobody() {
    let dir = TempDir::new();
    let socket = dir.join("plugin.sock");
    let plugin = format!("--plugin={}", socket.display());
    let mut server: Running = Plugin::new(&dir).args(["serve", &plugin, "--body-memory=1MiB", "-c=1"]).spawn();
    let deaf = poll("a listener", || UnixStream::connect(&socket).ok());
    deaf.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let large = noise(5, 60_000);
    let put = |n: u32| put_request(n.into(), &action(n), &Sha256::digest(&large), &large);
    // to the end of what it may send
    let sent = (0..100_000).map_while(|n| (&deaf).write_all(&put(n)).ok()).count();
    assert!(sent < 100_000);
    let mut other = Client::unix(&socket);
    other.greeting();
    assert!(fs::read(other.put(&action(1), &large)).unwrap() == large);
    other.close();
    drop(deaf);
    server.signal(rustix::process::Signal::TERM);
    server.wait().ok();
}

#[test]
fn readahead_has_one_pool_whatever_clients_call_their_scopes() {
    let (server, dir, port) = (S3Server::in_process(), TempDir::new(), free_port());
    let mut child = Plugin::new(&dir).envs(&server.env()).args(["serve", &format!("--plugin={port}")]).spawn();
    let clients: Vec<Client> = (0..30)
        .map(|n| {
            let mut client = Client::tcp(port);
            client.greeting();
            let line = json!({ "ID": 999, "Command": "scope", "Scope": format!("scope {n}") });
            client.raw(format!("{line}\n").as_bytes());
            client.get(&action(n));
            client
        })
        .collect();
    let status = fs::read_to_string(format!("/proc/{}/status", child.pid())).unwrap();
    let threads: usize = status.lines().find_map(|l| l.strip_prefix("Threads:")?.trim().parse().ok()).unwrap();
    // a session's and a worker's for each client, the fetchers, and few more
    assert!(threads < 30 * 2 + 24 + 20, "{threads} threads");
    drop(clients);
    child.signal(rustix::process::Signal::TERM);
    child.wait().ok();
}

#[test]
fn a_limit_that_cannot_be_kept_is_explained() {
    let (dir, bodies) = (TempDir::new(), bodies(5, 1_000_000));
    let mut s = Session::start(Plugin::new(&dir).arg("--max-cache-size=2MB"));
    s.put_all(&bodies);
    let out = s.end();
    assert!(said(&out).len() == 1 && said(&out)[0].contains("may be in use"), "{}", out.describe());
    let live = Session::start(Plugin::new(&dir));
    let out = Plugin::new(&dir).args(["prune", "--max-cache-size=2MB"]).output().ok();
    assert!(out.stdout.contains("may be in use"), "{}", out.describe());
    live.end().quiet();
    let out = Plugin::new(&dir).args(["prune", "--max-cache-size=2MB"]).output().ok();
    assert!(out.stdout.contains("removed 3 "), "{}", out.describe());
}

#[test]
fn pruning_is_not_waited_for() {
    let (dir, bodies) = (TempDir::new(), bodies(3, 1000));
    let mut s = Session::start(Plugin::new(&dir).args(["--metrics"]));
    s.put_all(&bodies);
    let out = s.end();
    assert_eq!(metrics(&out)["gocache_server"]["put_requests"], 3);
    // another prunes, and takes its time: a close neither waits for it nor fails
    let lock = File::options().write(true).create(true).truncate(false).open(dir.join("cache/lease/prune")).unwrap();
    lock.lock().unwrap();
    let begin = Instant::now();
    Session::start(Plugin::new(&dir).arg("--max-cache-size=1")).end().quiet();
    assert!(begin.elapsed() < Duration::from_secs(20));
    drop(lock);
}
