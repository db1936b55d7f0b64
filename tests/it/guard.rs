//! What becomes of a bucket that refuses, that is another thing than S3, that is away, or that may
//! only be read: what it costs a session, and what people are told.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;

use super::bucket::single;
use crate::support::client::Client;
use crate::support::env::{Output, Plugin, Running, TempDir, binary, free_port, poll, scrubbed};
use crate::support::fault::{Fault, FaultProxy};
use crate::support::s3::S3Server;
use crate::support::script::{Session, action, files, holds, metrics, noise, said};

/// How many entries the buckets of these tests hold.
const ENTRIES: usize = 20;

fn bodies(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| noise(n as u64 + 1, 3000)).collect()
}

/// How many entries lie in the bucket.
fn entries(server: &S3Server) -> usize {
    server.keys().iter().filter(|key| key.starts_with("v1/")).count()
}

/// A bucket with [`ENTRIES`] entries that another machine has put, and a proxy before it.
fn filled() -> (S3Server, FaultProxy) {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let mut s = Session::start(Plugin::new(&dir).envs(&server.env()).arg("--no-readahead"));
    s.put_all(&bodies(ENTRIES));
    s.end().quiet();
    let proxy = FaultProxy::start(&server.endpoint);
    (server, proxy)
}

fn session(dir: &TempDir, server: &S3Server, proxy: &FaultProxy, flags: &[&str]) -> Session {
    let plugin = Plugin::new(dir).envs(&server.env_through(&proxy.endpoint)).args(["--no-readahead", "--metrics"]);
    Session::start(plugin.args(flags))
}

/// Closes and tells how long that took.
fn close(s: Session) -> (Output, Duration) {
    let begin = Instant::now();
    let out = s.end();
    (out, begin.elapsed())
}

/// The lines that speak of the bucket.
fn about_the_bucket(out: &Output) -> Vec<&str> {
    said(out).into_iter().filter(|line| line.contains("bucket ")).collect()
}

/// Panics unless one line speaks of the bucket, and says all of this.
#[track_caller]
fn one_line(out: &Output, all: &[&str]) {
    let lines = about_the_bucket(out);
    assert_eq!(lines.len(), 1, "{}", out.describe());
    for part in all {
        assert!(lines[0].contains(part), "{part}{}", out.describe());
    }
}

/// What another process learnt a moment ago, forgotten.
fn forget(dir: &TempDir) {
    for file in memories(dir) {
        fs::remove_file(file).unwrap();
    }
}

fn memories(dir: &TempDir) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir.join("cache/lease")).into_iter().flatten().flatten().map(|e| e.path());
    entries.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("bucket-")).collect()
}

#[test]
fn a_reader_that_may_not_list_has_its_hits_and_is_given_up_by_nobody() {
    let (server, proxy) = filled();
    proxy.set(Fault::HideAbsent);
    let dir = TempDir::new();
    let mut s = session(&dir, &server, &proxy, &["--read-only"]);
    for (n, body) in (0..).zip(&bodies(ENTRIES)) {
        assert!(s.client.get(&action(1000 + n)).is_none() && s.client.get(&action(2000 + n)).is_none());
        holds(&s.client.get(&action(n)).expect("a hit"), body);
    }
    assert!(said(&s.end()).is_empty(), "nothing is wrong");

    // who is refused everything hears of it at the end, once
    proxy.set(Fault::Refuse("AccessDenied"));
    let mut s = session(&TempDir::new(), &server, &proxy, &["--read-only"]);
    assert_eq!(s.get_all(&bodies(ENTRIES)), 0);
    let asked = proxy.requests();
    assert!(s.client.get(&action(1)).is_none());
    poll("it to be asked all the same", || (proxy.requests() > asked).then_some(()));
    one_line(&s.end(), &["reads refused", "403", "s3:GetObject", &proxy.endpoint, "cache-bucket"]);

    // and why
    proxy.set(Fault::Refuse("InvalidObjectState"));
    let mut s = session(&TempDir::new(), &server, &proxy, &["--read-only"]);
    assert_eq!(s.get_all(&bodies(ENTRIES)), 0);
    one_line(&s.end(), &["reads refused", "last: status 403: InvalidObjectState"]);
}

#[test]
fn codes_that_speak_of_credentials_turn_it_off_at_once() {
    let (server, proxy) = filled();
    for code in ["InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"] {
        proxy.set(Fault::Refuse(code));
        let before = proxy.requests();
        let mut s = session(&TempDir::new(), &server, &proxy, &[]);
        assert_eq!(s.get_all(&bodies(ENTRIES)), 0);
        s.put_all(&bodies(3));
        let (out, took) = close(s);
        one_line(&out, &[code, "403", &proxy.endpoint, "cache-bucket"]);
        assert_eq!(proxy.requests() - before, 1, "{code}");
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}

#[test]
fn answers_that_can_never_work_turn_it_off_after_ten() {
    let (server, _) = filled();
    for fault in [301, 304, 400, 405, 501].map(Fault::Status).into_iter().chain([200, 404, 302].map(Fault::Page)) {
        // the probe of a process that has ended may still be on its way to the one before
        let proxy = FaultProxy::start(&server.endpoint);
        proxy.set(fault.clone());
        let dir = TempDir::new();
        let mut s = session(&dir, &server, &proxy, &["--read-only"]);
        assert_eq!(s.get_all(&bodies(ENTRIES)), 0);
        let (Fault::Status(code) | Fault::Page(code)) = fault else { unreachable!() };
        one_line(&s.end(), &["10 failures in a row", &format!("status {code}"), &proxy.endpoint, "cache-bucket"]);
        assert_eq!(proxy.requests(), 10, "{fault:?}");
        // the next process does not find out again
        let mut s = session(&dir, &server, &proxy, &["--read-only"]);
        assert_eq!(s.get_all(&bodies(ENTRIES)), 0);
        s.end();
        assert!(proxy.requests() <= 11, "{fault:?}: a probe at most");
    }
}

#[test]
fn a_page_that_says_200_acknowledges_nothing() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let proxy = FaultProxy::start(&server.endpoint);
    proxy.set(Fault::Page(200));
    let mut s = session(&dir, &server, &proxy, &[]);
    s.put_all(&bodies(10));
    let (out, took) = close(s);
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(about_the_bucket(&out).len() == 1, "{}", out.describe());
    assert_eq!((metrics(&out)["upload"]["done"].as_u64(), entries(&server)), (Some(0), 0), "{}", out.describe());
    let clear = Plugin::new(&dir).args(["clear", "--bucket=bucket", "--prefix=pr"]);
    let out = clear.envs(&server.env_through(&proxy.endpoint)).output().code(1);
    assert!(out.stdout.is_empty() && out.stderr.lines().count() == 1, "{}", out.describe());
    proxy.set(Fault::None);
    forget(&dir);
    let s = session(&dir, &server, &proxy, &[]);
    poll("the uploads", || (entries(&server) == 10).then_some(()));
    s.end();
}

#[test]
fn an_acknowledgement_counts_before_its_body_has_come() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut request, mut piece) = (Vec::new(), [0; 4096]);
                // the body of a put this small comes with its head, or just after
                while !request.windows(3).any(|w| w == b"gcp") {
                    let n = socket.read(&mut piece)?;
                    request.extend_from_slice(&piece[..n]);
                }
                socket.write_all(b"HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Length: 1000\r\n\r\n")?;
                while socket.write_all(b"x").is_ok() {
                    std::thread::sleep(Duration::from_millis(300));
                }
                std::io::Result::Ok(())
            });
        }
    });
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let plugin = Plugin::new(&dir).envs(&server.env_through(&endpoint)).args(["--no-readahead", "--metrics"]);
    let mut s = Session::start(plugin);
    s.put_all(&bodies(2));
    let (out, took) = close(s);
    assert!(took < Duration::from_secs(2) && said(&out).is_empty(), "{took:?}{}", out.describe());
    assert_eq!(metrics(&out)["upload"]["done"], 2);
}

#[test]
fn once_others_have_failed_in_vain_nothing_is_tried_again_and_again() {
    let (server, proxy) = filled();
    proxy.set(Fault::Status(503));
    let asked = proxy.requests();
    let mut s = session(&TempDir::new(), &server, &proxy, &["--read-only"]);
    assert_eq!(s.get_all(&bodies(ENTRIES)), 0);
    // thrice for the first, twice for the four that turn it off
    assert_eq!(proxy.requests() - asked, 3 + 4 * 2);
    one_line(&s.end(), &["5 failures in a row", "503", &proxy.endpoint]);
}

#[test]
fn a_folder_of_markers_that_somebody_removes_is_made_again() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let proxy = FaultProxy::start(&server.endpoint);
    proxy.set(Fault::BlackHole);
    let mut s = session(&dir, &server, &proxy, &[]);
    let markers = || files(&dir.join("cache/pending")).len();
    let bodies = bodies(2);
    for (n, body) in (0..).zip(&bodies) {
        s.client.put(&action(n), body);
        assert_eq!(markers(), 1, "what is acknowledged is marked");
        if n == 0 {
            fs::remove_dir_all(dir.join("cache/pending")).unwrap();
        }
    }
    s.child.signal(Signal::KILL);
    s.child.wait();
    proxy.set(Fault::None);
    let s = session(&dir, &server, &proxy, &[]);
    poll("the upload", || (entries(&server) == 1).then_some(()));
    assert!(said(&s.end()).is_empty());
}

#[test]
fn uploads_survive_an_outage_and_a_refusal() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let proxy = FaultProxy::start(&server.endpoint);
    proxy.only("PUT");
    proxy.series([(Fault::Status(503), 8), (Fault::Refuse("AccessDenied"), 4)]);
    let mut s = session(&dir, &server, &proxy, &["--close-timeout=5s"]);
    s.put_all(&bodies(200));
    let (out, took) = close(s);
    let all = ["takes no writes", "403", "AccessDenied", &proxy.endpoint, "cache-bucket", "stay marked"];
    one_line(&out, &all);
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert!(memories(&dir).is_empty(), "a refusal is not held against the next");
    proxy.set(Fault::None);
    let s = session(&dir, &server, &proxy, &[]);
    poll("the uploads", || (entries(&server) == 200).then_some(()));
    s.end();
}

#[test]
fn a_bucket_that_locks_its_objects_is_told_their_checksums() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let proxy = FaultProxy::start(&server.endpoint);
    proxy.set(Fault::Locks);
    let mut s = session(&dir, &server, &proxy, &["-u=1"]);
    let bodies = bodies(20);
    s.put_all(&bodies);
    assert!(said(&s.end()).is_empty());
    // told once, what follows is sent but once
    assert!(proxy.requests() < 30, "{}", proxy.requests());
    let mut s = session(&TempDir::new(), &server, &proxy, &[]);
    assert_eq!(s.get_all(&bodies), 20);
    s.end();
}

#[test]
fn a_bucket_that_may_only_be_read_is_read() {
    let (server, proxy) = filled();
    proxy.only("PUT");
    proxy.set(Fault::Refuse("AccessDenied"));
    let mut s = session(&TempDir::new(), &server, &proxy, &["-u=1"]);
    let bodies = bodies(ENTRIES + 10);
    for (n, body) in (0..).zip(&bodies) {
        assert_eq!(s.client.get(&action(n)).is_some(), n < ENTRIES as u32);
        s.client.put(&action(1000 + n), body);
    }
    let (out, took) = close(s);
    one_line(&out, &["takes no writes", "403", "AccessDenied", &proxy.endpoint, "cache-bucket"]);
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(metrics(&out)["bucket"]["put_requests"], 1);
}

#[test]
fn a_bucket_that_refuses_connections_costs_a_close_nothing() {
    let (server, _) = filled();
    let vars = server.env_through(&format!("http://127.0.0.1:{}", free_port()));
    for flags in [&["--no-readahead"][..], &["--scope=x"]] {
        let mut s = Session::start(Plugin::new(&TempDir::new()).envs(&vars).args(flags));
        s.put_all(&bodies(4));
        let (out, took) = close(s);
        assert!(took < Duration::from_secs(3), "{took:?}{}", out.describe());
    }
}

#[test]
fn a_job_pays_once_for_a_bucket_that_never_answers() {
    let (server, proxy) = filled();
    proxy.set(Fault::BlackHole);
    let dir = TempDir::new();
    let command = |n: u32| {
        let begin = Instant::now();
        let plugin = Plugin::new(&dir).envs(&server.env_through(&proxy.endpoint)).arg("--scope=job");
        let mut s = Session::start(plugin);
        assert!(s.client.get(&action(n)).is_none());
        s.client.put(&action(2000 + n), b"made");
        (s.end(), begin.elapsed())
    };
    let (out, first) = command(0);
    assert!(first < Duration::from_secs(14), "{first:?}");
    one_line(&out, &["building from the local cache", &proxy.endpoint, "cache-bucket"]);
    let begin = Instant::now();
    let last: Vec<_> = (1..5).map(command).collect();
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    for (out, _) in &last {
        assert!(about_the_bucket(out).len() <= 1, "{}", out.describe());
    }
    // it heals: the next begins with doubts, and asks in the background
    proxy.set(Fault::None);
    let mut s = session(&dir, &server, &proxy, &[]);
    let mut n = 3000;
    poll("the bucket to be used again", || {
        n += 1;
        s.client.get(&action(n));
        memories(&dir).is_empty().then_some(())
    });
    assert!(s.client.get(&action(7)).is_some());
    s.end();
}

#[test]
fn what_was_learnt_is_void_after_a_minute_of_the_future_and_of_another_bucket() {
    let (server, dir) = (filled(), TempDir::new());
    let (server, proxy) = server;
    proxy.set(Fault::Page(405));
    let mut s = session(&dir, &server, &proxy, &["--read-only"]);
    s.get_all(&bodies(ENTRIES));
    s.end();
    let [file] = &memories(&dir)[..] else { panic!("one file") };
    let text = fs::read_to_string(file).unwrap();
    let (at, _) = text.strip_prefix("reads ").unwrap().split_once(' ').unwrap();
    let (at, moved) = (at.to_string(), |by: i64| (at.parse::<i64>().unwrap() + by).to_string());
    proxy.set(Fault::None);
    let hits = |flags: &[&str]| {
        let mut s = session(&dir, &server, &proxy, &[&["--read-only"], flags].concat());
        let hits = s.get_all(&bodies(1));
        s.end();
        let _ = fs::remove_dir_all(dir.join("cache/action"));
        hits
    };
    for by in [-61, 3600, 40_000_000] {
        fs::write(file, text.replace(&at, &moved(by))).unwrap();
        assert_eq!(hits(&[]), 1, "{by} s");
    }
    fs::write(file, text.replace(&at, &moved(0))).unwrap();
    assert_eq!(hits(&["--region=eu-west-1"]), 1, "another region");
    fs::write(file, "reads \u{0}\n").unwrap();
    assert_eq!(hits(&[]), 1, "damaged");
}

#[test]
fn a_fifo_at_a_key_is_a_miss() {
    let dir = TempDir::new();
    let bucket = dir.dir("bucket");
    for n in 0..3 {
        let path = bucket.join(single(n));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
    }
    let mut s = Session::start(Plugin::new(&dir).arg(format!("--bucket=file://{}", bucket.display())));
    let begin = Instant::now();
    assert_eq!(s.get_all(&bodies(3)), 0);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    let link = bucket.join(single(3));
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    symlink(dir.write("mine", "precious"), &link).unwrap();
    s.put_all(&bodies(4));
    let out = s.end();
    let [line] = said(&out)[..] else { panic!("{}", out.describe()) };
    assert!(line.contains("1 upload stays marked") && line.contains("is a symbolic link"), "{line}");
    assert!((0..3).all(|n| bucket.join(single(n)).is_file()), "puts take their places");
    assert_eq!(fs::read_to_string(link).unwrap(), "precious");
}

#[test]
fn a_directory_buckets_lock_and_temporary_files_follow_no_link() {
    let dir = TempDir::new();
    let (bucket, mine) = (dir.dir("bucket"), dir.write("mine", "precious"));
    let empty = dir.dir("empty");
    symlink(&mine, bucket.join(".tmp-lock")).unwrap();
    let run = || {
        let mut s = Session::start(Plugin::new(&dir).arg(format!("--bucket=file://{}", bucket.display())));
        s.put_all(&bodies(2));
        s.client.get(&action(0));
        s.end()
    };
    run();
    assert_eq!(fs::read_to_string(&mine).unwrap(), "precious");
    let _ = fs::remove_dir_all(bucket.join(".tmp-files"));
    symlink(&empty, bucket.join(".tmp-files")).unwrap();
    run();
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);
}

#[test]
fn a_directory_bucket_that_was_moved_away_is_not_made_again() {
    let dir = TempDir::new();
    let (bucket, away) = (dir.join("disk/bucket"), dir.join("away"));
    let mut s = Session::start(Plugin::new(&dir).args([&format!("--bucket=file://{}", bucket.display()), "-v"]));
    s.put_all(&bodies(2));
    poll("the first put makes it", || (0..2).all(|n| bucket.join(single(n)).exists()).then_some(()));
    fs::rename(dir.join("disk"), &away).unwrap();
    for (n, body) in (10..).zip(&bodies(4)) {
        s.client.put(&action(n), body);
    }
    let out = s.end();
    assert!(!dir.join("disk").exists(), "{}", out.describe());
    assert!(out.stderr.contains("there is no such directory"), "{}", out.describe());
    fs::rename(&away, dir.join("disk")).unwrap();
    forget(&dir);
    let s = Session::start(Plugin::new(&dir).arg(format!("--bucket=file://{}", bucket.display())));
    poll("what was owed is sent", || files(&dir.join("cache/pending")).is_empty().then_some(()));
    s.end().quiet();
}

/// The program under a user who is not root, at home in `dir`.
fn as_nobody(dir: &TempDir, args: &[String]) -> Command {
    // without root there is no other user to be, but then our own cannot write there either
    let root = rustix::process::geteuid().is_root();
    let mut command = scrubbed(if root { "setpriv" } else { binary() }, dir.path());
    if root {
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(binary());
    }
    command.env("GOCACHE_DIR", dir.join("cache")).args(args);
    command
}

#[test]
fn a_directory_bucket_of_another_user_is_read_and_waits_for_nobody() {
    let (dir, shared) = (TempDir::new(), TempDir::new());
    let bucket = shared.dir("bucket");
    let flag = format!("--bucket=file://{}", bucket.display());
    let mut s = Session::start(Plugin::new(&shared).arg(&flag).arg("--no-readahead"));
    s.put_all(&bodies(ENTRIES));
    s.end().quiet();
    closed_to_others(&bucket);
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let args = [flag, "--no-readahead".into(), "--metrics".into()];
    let mut child = Running::start(as_nobody(&dir, &args), Stdio::piped());
    let mut client = Client::stdio(&mut child);
    client.greeting();
    let mut s = Session { child, client };
    let begin = Instant::now();
    let bodies = bodies(ENTRIES);
    for (n, body) in (0..).zip(&bodies) {
        assert!(s.client.get(&action(n)).is_some(), "entry {n}");
        s.client.put(&action(1000 + n), body);
    }
    let out = s.end();
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}{}", begin.elapsed(), out.describe());
    one_line(&out, &["takes no writes", "ermission denied", &format!("file://{}", bucket.display())]);
    let out = crate::support::env::run(as_nobody(&dir, &["status".into(), args[0].clone()])).code(1);
    assert!(out.stdout.contains("FAIL writing: ") && out.stdout.contains("ermission denied"), "{}", out.describe());
    // so that it can be removed
    Command::new("chmod").arg("-R").arg("u+w").arg(&bucket).status().unwrap();
}

#[test]
fn what_stands_in_the_place_of_an_object_is_trouble_of_that_object_alone() {
    let (dir, shared) = (TempDir::new(), TempDir::new());
    let flag = format!("--bucket=file://{}", shared.path().display());
    let bodies = bodies(2 * ENTRIES);
    let object = |n: usize| shared.join(&single(n as u32));
    for n in 0..ENTRIES {
        match n % 2 {
            // where nothing is in the way of that
            0 => drop(fs::create_dir_all(object(n))),
            _ => drop(fs::write(shared.join(&single(n as u32)[..5]), "in the place of a folder")),
        }
    }
    let blocked = (0..bodies.len()).filter(|n| object(*n).is_dir() || object(*n).parent().unwrap().is_file()).count();
    assert!((ENTRIES / 2..=ENTRIES + 4).contains(&blocked), "{blocked}");
    let mut s = Session::start(Plugin::new(&dir).args([&flag, "--no-readahead", "-u=1"]));
    s.put_all(&bodies);
    let out = s.end();
    let arrived = (0..bodies.len()).filter(|n| object(*n).is_file()).count();
    assert_eq!(arrived, bodies.len() - blocked, "{}", out.describe());
    one_line(&out, &[&format!("{blocked} uploads stay marked")]);
}

#[test]
fn a_folder_that_may_not_be_looked_into_hides_no_other() {
    let (dir, shared) = (TempDir::new(), TempDir::new());
    let flag = format!("--bucket=file://{}", shared.path().display());
    let mut s = Session::start(Plugin::new(&dir).args([&flag, "--no-readahead"]));
    s.put_all(&bodies(ENTRIES));
    s.end().quiet();
    let old = SystemTime::now() - Duration::from_secs(86_400);
    for file in files(&shared.join("v1")) {
        fs::File::open(file).and_then(|f| f.set_modified(old)).unwrap();
    }
    let shut = shared.join(&single(0)).parent().unwrap().to_path_buf();
    let there = files(&shut).len();
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o000)).unwrap();
    let out = Plugin::bound_by_modes(&dir).args(["prune", &flag, "--expiry=1h"]).output().code(1);
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(out.stderr.contains(&format!("{}: Permission denied", shut.display())), "{}", out.describe());
    assert_eq!(files(&shared.join("v1")).len(), there, "{}", out.describe());
}

/// Takes the right to write from everybody.
fn closed_to_others(dir: &Path) {
    let done = Command::new("chmod").arg("-R").arg("a-w,a+rX").arg(dir).status().unwrap();
    assert!(done.success());
}

#[test]
fn a_credential_process_that_lives_on_holds_a_get_for_ten_seconds() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let pid = dir.join("pid");
    dir.write(
        ".aws/config",
        &format!("[default]\ncredential_process = echo $$ > {}; exec >&-; sleep 300\n", pid.display()),
    );
    let mut vars = server.env();
    vars.retain(|(name, _)| !name.starts_with("AWS_") || name == "AWS_EC2_METADATA_DISABLED");
    let begin = Instant::now();
    let mut s = Session::start(Plugin::new(&dir).envs(&vars).arg("--no-readahead"));
    let ids: Vec<i64> = (0..8).map(|n| s.client.send_get(&action(n))).collect();
    ids.into_iter().for_each(|id| assert_eq!(s.client.wait(id)["Miss"], true));
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(19), "{took:?}");
    let begin = Instant::now();
    assert!(s.client.get(&action(9)).is_none());
    assert!(begin.elapsed() < Duration::from_secs(5), "the failure is remembered");
    one_line(&s.end(), &["credential_process", "10 s", &server.endpoint]);
    let group = fs::read_to_string(pid).unwrap();
    let gone = || !Path::new("/proc").join(group.trim()).exists() || zombie(group.trim());
    poll("the command to be ended", || gone().then_some(()));
}

fn zombie(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

#[test]
fn a_bucket_that_is_slow_to_answer_is_left_alone() {
    let (server, proxy) = filled();
    let late = Fault::Delay(Duration::from_millis(2100));
    // one moment in which everything stands still is not enough
    let dir = TempDir::new();
    proxy.set_for(late.clone(), 8);
    let mut s = session(&dir, &server, &proxy, &["--read-only", "-c=8"]);
    let ids: Vec<i64> = (0..ENTRIES as u32).map(|n| s.client.send_get(&action(n))).collect();
    ids.into_iter().for_each(|id| assert_ne!(s.client.wait(id)["Miss"], true));
    assert!(said(&s.end()).is_empty());
    // nor is one late answer after another, where others come in time
    proxy.series((0..10).flat_map(|_| [(late.clone(), 1), (Fault::None, 3)]));
    let mut s = session(&TempDir::new(), &server, &proxy, &["--read-only", "-c=4"]);
    assert_eq!(s.get_all(&bodies(1)), 1, "late");
    let ids: Vec<i64> = (1..12).map(|n| s.client.send_get(&action(n))).collect();
    ids.into_iter().for_each(|id| assert_ne!(s.client.wait(id)["Miss"], true));
    assert!(said(&s.end()).is_empty());

    proxy.set(late);
    let asked = proxy.requests();
    let mut s = session(&TempDir::new(), &server, &proxy, &["--read-only", "-c=8"]);
    let begin = Instant::now();
    let ids: Vec<i64> = (0..200).map(|n| s.client.send_get(&action(n))).collect();
    ids.into_iter().for_each(|id| drop(s.client.wait(id)));
    // two rounds of eight, and those that had begun when the second was over
    assert!(proxy.requests() - asked <= 24, "{}", proxy.requests() - asked);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    one_line(&s.end(), &["2 failures in a row", "slow", "an answer took 2.", &proxy.endpoint]);
}

#[test]
fn bodies_that_take_seconds_each_turn_it_off_though_they_come() {
    let (server, proxy) = filled();
    proxy.set(Fault::Drip(100));
    let mut s = session(&TempDir::new(), &server, &proxy, &["--read-only"]);
    assert_eq!(s.get_all(&bodies(ENTRIES)), 2);
    one_line(&s.end(), &["2 failures in a row", "slow", "building from the local cache", &proxy.endpoint]);
}

#[test]
fn who_is_told_by_the_last_that_nothing_is_taken_blames_no_time_out() {
    let (server, proxy) = filled();
    proxy.only("PUT");
    proxy.set(Fault::Status(503));
    let dir = TempDir::new();
    let mut s = session(&dir, &server, &proxy, &[]);
    s.put_all(&bodies(6));
    one_line(&s.end(), &["takes no writes", "status 503", "marked for the next start"]);
    proxy.set(Fault::BlackHole);
    let mut s = session(&dir, &server, &proxy, &[]);
    let ours = format!("pending/{}-", s.child.pid());
    let are_ours = || files(&dir.join("cache/pending")).iter().all(|f| f.to_string_lossy().contains(&ours));
    poll("those of before to be taken over", || are_ours().then_some(()));
    s.put_all(&bodies(1));
    one_line(&s.end(), &["took no writes less than a minute before", "7 uploads stay marked", &proxy.endpoint]);
}

#[test]
fn a_listing_that_was_cut_short_or_has_no_end_is_none() {
    let contents = |n| format!("<Contents><Key>v1/{n}</Key><Size>1</Size></Contents>");
    let more = |n: usize| format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{n}</NextContinuationToken>");
    lists(|_| "<IsTruncated>false</IsTruncated><Contents><Key>v1/".into(), "not a listing of S3's");
    // the same page for ever, two that take turns, and none, each with another token
    lists(move |n| more(n) + &contents(1) + "</ListBucketResult>", "does not go on");
    lists(move |n| more(n) + &contents(n % 2) + &contents(n) + "</ListBucketResult>", "does not go on");
    lists(move |n| more(n) + "</ListBucketResult>", "does not go on");
}

/// Has a bucket listed whose n-th page is this, and expects this error.
fn lists(page: impl Fn(usize) -> String + Send + 'static, error: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("--s3-endpoint-url=http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for (n, mut conn) in listener.incoming().flatten().enumerate() {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && conn.read_exact(&mut byte).is_ok() {
                head.push(byte[0]);
            }
            let page = format!("<ListBucketResult><Name>b</Name>{}", page(n));
            let len = page.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: {len}\r\n");
            let _ = conn.write_all(format!("{head}Connection: close\r\n\r\n{page}").as_bytes());
        }
    });
    let dir = TempDir::new();
    let keys = [("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_REGION", "us-east-1")];
    let bucket = ["--bucket=some-bucket", &endpoint, "--s3-path-style"];
    for command in [&["clear", "--whole-bucket", "--yes"][..], &["prune", "--expiry=1h"]] {
        let plugin = keys.iter().fold(Plugin::new(&dir).args(command).args(bucket), |p, (k, v)| p.env(k, v));
        let out = plugin.output().code(1);
        assert!(out.stderr.contains(error), "{}", out.describe());
    }
}

#[test]
fn objects_without_a_byte_turn_it_off() {
    let dir = TempDir::new();
    (0..20).for_each(|n| drop(dir.write(&format!("bucket/{}", single(n)), "")));
    let bucket = format!("--bucket=file://{}", dir.join("bucket").display());
    let mut s = Session::start(Plugin::new(&dir).args([&bucket, "--no-readahead", "--read-only"]));
    assert_eq!(s.get_all(&bodies(20)), 0);
    let out = s.end();
    assert!(out.stderr.contains("10 failures in a row, last: status 200"), "{}", out.describe());
}

#[test]
fn bodies_that_drip_or_are_garbled_turn_it_off() {
    let (server, proxy) = filled();
    proxy.set(Fault::Drip(20));
    let dir = TempDir::new();
    let begin = Instant::now();
    let mut s = session(&dir, &server, &proxy, &["--read-only"]);
    let ids: Vec<i64> = (0..ENTRIES as u32).map(|n| s.client.send_get(&action(n))).collect();
    ids.into_iter().for_each(|id| assert_eq!(s.client.wait(id)["Miss"], true));
    assert!(begin.elapsed() < Duration::from_secs(9), "{:?}", begin.elapsed());
    one_line(&s.end(), &["too slow", "building from the local cache", &proxy.endpoint]);
    // the next asks in the background, for what it is asked for, and is told the same
    let asked = proxy.requests();
    let begin = Instant::now();
    let mut s = session(&dir, &server, &proxy, &["--read-only"]);
    assert_eq!(s.get_all(&bodies(ENTRIES)), 0);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    poll("the probe", || s.child.stderr().contains("too slow").then_some(()));
    assert_eq!((s.get_all(&bodies(ENTRIES)), proxy.requests() - asked), (0, 1));
    one_line(&s.end(), &["too slow", &proxy.endpoint]);

    proxy.set(Fault::Garble);
    let asked = proxy.requests();
    let mut s = session(&TempDir::new(), &server, &proxy, &["--read-only"]);
    assert_eq!((s.get_all(&bodies(ENTRIES)), proxy.requests() - asked), (0, 10));
    let out = s.end();
    let off: Vec<_> = said(&out).into_iter().filter(|line| line.contains("building from the local cache")).collect();
    assert!(off.len() == 1 && off[0].contains("10 failures in a row, last: status 200"), "{}", out.describe());
}
