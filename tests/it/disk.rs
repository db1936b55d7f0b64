//! The cache directory in trouble: what is answered is true, and what is said names the file and what to do.

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::support::client::Client;
use crate::support::env::{Output, Plugin, Running, TempDir, binary, may_mount, mount, poll, run, scrubbed};
use crate::support::s3::S3Server;
use crate::support::script::{Session, action, files, hex, holds, local, noise, output_id, said};

/// Gives all that is below `dir`, and itself, that mode; folders can be entered as before.
fn set_modes(dir: &Path, mode: u32) {
    for entry in fs::read_dir(dir).unwrap().flatten().filter(|e| e.file_type().unwrap().is_dir()) {
        set_modes(&entry.path(), mode);
    }
    files(dir).iter().for_each(|f| fs::set_permissions(f, Permissions::from_mode(mode)).unwrap());
    fs::set_permissions(dir, Permissions::from_mode(mode | 0o111)).unwrap();
}

#[test]
fn a_directory_in_the_place_of_a_file_is_named_and_what_to_do() {
    let body = noise(1, 2000);
    let output = local(Path::new(""), "output", &output_id(&body));
    let entry = local(Path::new(""), "action", &hex(&action(0)));
    for (place, stores) in
        [(entry.as_path(), false), (&output, false), (Path::new("size"), true), (Path::new("lease/prune"), true)]
    {
        let dir = TempDir::new();
        let path = dir.dir(&format!("cache/{}/there", place.display())).parent().unwrap().to_path_buf();
        let limit = if stores { "--max-cache-size=1" } else { "--expiry=0" };
        let mut s = Session::start(Plugin::new(&dir).arg(limit));
        let id = s.client.send_put(&action(0), &body);
        let answer = s.client.wait(id);
        assert_eq!(answer["DiskPath"].is_string(), stores, "{}: {answer}", place.display());
        let out = s.end();
        let err = answer["Err"].as_str();
        assert!(!said(&out).is_empty());
        for line in said(&out).into_iter().chain(err) {
            let told = line.contains(path.to_str().unwrap()) && line.contains("remove what is in its place");
            assert!(told, "{}: {line}", place.display());
        }
    }
}

#[test]
fn a_directory_that_was_moved_away_has_no_hits() {
    let dir = TempDir::new();
    let bodies = [noise(1, 2000), Vec::new()];
    let mut s = Session::start(Plugin::new(&dir));
    s.put_all(&bodies);
    assert_eq!(s.get_all(&bodies), 2);
    fs::rename(dir.join("cache"), dir.join("away")).unwrap();
    // for so long it may be taken to be where it was
    thread::sleep(Duration::from_millis(5));
    assert_eq!(s.get_all(&bodies), 0);
    s.put_all(&bodies);
    assert_eq!(s.get_all(&bodies), 2);
    s.end().quiet();
}

#[test]
fn folders_that_were_moved_away_have_no_hits() {
    let dir = TempDir::new();
    let cache = dir.join("cache");
    let empty = local(&cache, "output", &output_id(b"")).parent().unwrap().to_path_buf();
    let shard = local(&cache, "action", &hex(&action(0))).parent().unwrap().to_path_buf();
    let mut s = Session::start(Plugin::new(&dir));
    for (n, folder) in [cache.join("action"), shard, cache.join("output"), empty].into_iter().enumerate() {
        s.put_all(&[noise(1, 2000), Vec::new()]);
        assert_eq!(s.get_all(&[noise(1, 2000), Vec::new()]), 2);
        fs::rename(&folder, dir.join(&format!("away-{n}"))).unwrap();
        thread::sleep(Duration::from_millis(10));
        // what is put in their place is what counts, and what they held is not there
        s.client.put(&action(0), b"another");
        holds(&s.client.get(&action(0)).unwrap(), b"another");
        if let Some(hit) = s.client.get(&action(1)) {
            holds(&hit, b"");
        }
        if n == 3 {
            fs::write(&folder, "").unwrap();
            assert!(s.client.get(&action(1)).is_none());
        }
    }
    s.end().quiet();
}

#[test]
fn a_size_that_is_none_is_set_right_by_the_next_session() {
    let dir = TempDir::new();
    let size = dir.join("cache/size");
    Session::fill(Plugin::new(&dir), &[noise(1, 2000)]);
    for damage in
        [b"7".repeat(200), vec![0; 1 << 20], Vec::new(), b"-1\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n".to_vec()]
    {
        fs::write(&size, &damage).unwrap();
        // that nothing is known is reason to count
        Session::start(Plugin::new(&dir).arg("--max-cache-size=1GB")).end().quiet();
        assert_eq!(fs::read_to_string(&size).unwrap().trim(), "2000", "after {} bytes", damage.len());
    }
}

#[test]
fn what_others_hold_locked_holds_up_no_end() {
    let dir = TempDir::new();
    Session::fill(Plugin::new(&dir), &[noise(1, 2000)]);
    let size = File::options().write(true).open(dir.join("cache/size")).unwrap();
    size.lock().unwrap();
    let mut s = Session::start(Plugin::new(&dir));
    s.client.put(&action(2), b"body");
    let told = |out: Output| {
        let told = said(&out).into_iter().any(|l| l.contains("cache/size: ") && l.contains("another process"));
        assert!(told, "{}", out.describe());
    };
    told(s.end());
    told(Plugin::new(&dir).args(["run", "true"]).output().ok());
    told(Plugin::new(&dir).args(["clear", "--local"]).output().code(1));
}

#[test]
fn a_directory_emptied_under_a_session_has_its_lease_again() {
    let (dir, bodies) = (TempDir::new(), [noise(1, 4000), noise(2, 4000)]);
    let mut s = Session::start(Plugin::new(&dir));
    s.put_all(&bodies);
    fs::remove_dir_all(dir.join("cache")).unwrap();
    s.put_all(&bodies);
    // what was made before it, as by a clock that stands
    long_unused(&dir.join("cache"));
    assert_eq!(s.get_all(&bodies), 2);
    let out = Plugin::new(&dir).args(["prune", "--max-cache-size=1"]).output().ok();
    assert!(out.stdout.contains("removed 0 "), "{}", out.describe());
    assert_eq!(s.get_all(&bodies), 2);
    s.end().quiet();
}

#[test]
fn what_is_no_lease_is_taken_for_none() {
    let dir = TempDir::new();
    let body = noise(1, 2000);
    Session::fill(Plugin::new(&dir), std::slice::from_ref(&body));
    // where nobody is dead, nothing is looked through for what they left
    let shard = local(&dir.join("cache"), "action", &hex(&action(0))).parent().unwrap().to_path_buf();
    dir.dir("cache/lease/1-ab/there");
    Session::start(Plugin::new(&dir)).end().quiet();
    fs::set_permissions(&shard, Permissions::from_mode(0o000)).unwrap();
    let out = Session::start(Plugin::bound_by_modes(&dir)).end();
    fs::set_permissions(&shard, Permissions::from_mode(0o755)).unwrap();
    out.quiet();
    // of one that is no text, and larger than all memory, it is not read whose it is
    let huge = File::create(dir.join("cache/lease/2-cd")).unwrap();
    huge.set_len(1 << 40).unwrap();
    huge.lock().unwrap();
    let out = Plugin::new(&dir).args(["prune", "--max-cache-size=1"]).output().ok().quiet();
    assert!(out.stdout.contains("removed 0 ") && out.stdout.contains("may be in use"), "{}", out.describe());
    drop(huge);
    // and through a link nothing is removed
    let elsewhere = dir.dir("elsewhere");
    for name in ["123-abc", ".tmp-123-abc-7"] {
        dir.write(&format!("elsewhere/{name}"), "precious");
    }
    fs::remove_dir_all(dir.join("cache/lease")).unwrap();
    symlink(&elsewhere, dir.join("cache/lease")).unwrap();
    Session::start(Plugin::new(&dir)).end();
    Plugin::new(&dir).args(["clear", "--local"]).output();
    Plugin::new(&dir).args(["prune", "--max-cache-size=1"]).output();
    assert_eq!(files(&elsewhere).len(), 2);
}

#[test]
fn links_put_in_the_place_of_folders_meanwhile_are_not_written_through() {
    let dir = TempDir::new();
    let elsewhere = dir.dir("elsewhere");
    let mut s = Session::start(Plugin::new(&dir));
    s.put_all(&[noise(1, 2000)]);
    let shard = local(&dir.join("cache"), "action", &hex(&action(0))).parent().unwrap().to_path_buf();
    fs::remove_dir_all(&shard).unwrap();
    symlink(&elsewhere, &shard).unwrap();
    let id = s.client.send_put(&action(0), &noise(2, 2000));
    let answer = s.client.wait(id);
    assert!(answer["Err"].as_str().unwrap().contains(shard.to_str().unwrap()), "{answer}");
    s.end();
    assert!(files(&elsewhere).is_empty());
}

#[test]
fn what_may_not_be_read_is_a_miss_and_is_replaced() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let bodies = [noise(1, 2000), noise(2, 2000)];
    let mut s = Session::start(Plugin::new(&dir).envs(&server.env()));
    s.put_all(&bodies);
    s.end().quiet();
    for (folder, mode) in [("cache/output", 0o600), ("cache/output", 0), ("cache/action", 0)] {
        files(&dir.join(folder)).iter().for_each(|f| fs::set_permissions(f, Permissions::from_mode(mode)).unwrap());
        let mut s = Session::start(Plugin::bound_by_modes(&dir));
        let hits = if mode == 0 { 0 } else { 2 };
        assert_eq!(s.get_all(&bodies), hits, "{folder} {mode:o}");
        s.put_all(&bodies[..1]);
        assert_eq!(s.get_all(&bodies), hits.max(1), "{folder} {mode:o}");
        s.end().quiet();
        let mut s = Session::start(Plugin::bound_by_modes(&dir).envs(&server.env()));
        assert_eq!(s.get_all(&bodies), 2, "from the bucket");
        s.end().quiet();
    }
}

#[test]
fn a_directory_that_may_only_be_read_is_read_and_said_once() {
    let dir = TempDir::new();
    let bodies: Vec<Vec<u8>> = (1..5).map(|n| noise(n, 2000)).collect();
    Session::fill(Plugin::new(&dir), &bodies);
    set_modes(&dir.join("cache"), 0o444);
    let mut s = Session::start(Plugin::bound_by_modes(&dir).arg("--max-cache-size=1"));
    assert_eq!(s.get_all(&bodies), 4);
    s.end().quiet();
    let mut s = Session::start(Plugin::bound_by_modes(&dir).arg("--max-cache-size=1"));
    for n in 10..13 {
        let id = s.client.send_put(&action(n), &noise(u64::from(n), 1000));
        assert!(s.client.wait(id)["Err"].as_str().unwrap().contains("give this user access"));
    }
    holds(&s.client.get(&action(0)).unwrap(), &bodies[0]);
    let out = s.end();
    set_modes(&dir.join("cache"), 0o744);
    let [first, count] = said(&out)[..] else { panic!("{}", out.describe()) };
    assert!(first.contains(dir.path().to_str().unwrap()) && first.contains("give this user access"), "{first}");
    assert!(count.contains("3 requests failed on the cache directory"), "{count}");
}

#[test]
fn a_disk_without_room_for_another_file_can_be_pruned() {
    if !may_mount("disk::a_disk_without_room_for_another_file_can_be_pruned") {
        return;
    }
    let dir = TempDir::new();
    let small = dir.dir("small");
    mount("tmpfs", "nr_inodes=100", &small);
    let cache = || Plugin::new(&dir).env("GOCACHE_DIR", small.join("cache"));
    let mut s = Session::start(cache());
    s.put_all(&(0..10).map(|n| noise(n, 100)).collect::<Vec<_>>());
    s.end().quiet();
    while fs::write(small.join(files(&small).len().to_string()), "").is_ok() {}
    let out = cache().args(["prune", "--max-cache-size=1"]).output().ok();
    assert!(out.stdout.starts_with("removed 10 files"), "{}", out.describe());
}

#[test]
fn what_is_used_while_it_is_pruned_is_told_as_in_use() {
    let dir = TempDir::new();
    let bodies: Vec<Vec<u8>> = (0..800).map(|n| noise(n, 1024)).collect();
    Session::fill(Plugin::new(&dir), &bodies);
    long_unused(&dir.join("cache"));
    let mut s = Session::start(Plugin::new(&dir));
    let mut prune = Plugin::new(&dir).args(["prune", "--max-cache-size=1"]).spawn();
    let mut out = prune.stdout();
    while !prune.has_ended() {
        s.get_all(&bodies);
    }
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    s.end().quiet();
    // all that is left is in use
    let left = text.split(['(', ')']).nth(3).unwrap();
    assert!(text.contains(&format!("--max-cache-size: {left} may be in use")), "{text}");
}

/// A file system without hard links, on which the first that is moved aside is on its way from when AWAY is there until
/// BACK is.
const WITHOUT_LINKS: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int linkat(int from, const char *old, int to, const char *new, int flags) { errno = EPERM; return -1; }
int rename(const char *old, const char *new) {
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
    if (strstr(new, "/.tmp-") && close(open(getenv("AWAY"), O_CREAT | O_EXCL, 0600)) == 0)
        while (access(getenv("BACK"), F_OK)) usleep(1000);
    return real(old, new);
}
"#;

#[test]
fn what_is_used_while_it_is_pruned_stays_without_hard_links_too() {
    let dir = TempDir::new();
    let bodies: Vec<Vec<u8>> = (0..40).map(|n| noise(n, 1024)).collect();
    Session::fill(Plugin::new(&dir), &bodies);
    long_unused(&dir.join("cache"));
    let shim = dir.join("shim.so");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).arg(&shim).arg(dir.write("shim.c", WITHOUT_LINKS));
    run(cc).ok();
    let mut s = Session::start(Plugin::new(&dir));
    let (away, back) = (dir.join("away"), dir.join("back"));
    let prune = Plugin::new(&dir).args(["prune", "--max-cache-size=1"]).env("LD_PRELOAD", &shim);
    let mut prune = prune.env("AWAY", &away).env("BACK", &back).spawn();
    poll("one to be on its way", || away.exists().then_some(()));
    let told: Vec<_> = (0..40).filter_map(|n| s.client.get(&action(n))).map(|hit| hit.path).collect();
    fs::write(back, "").unwrap();
    prune.wait().ok().quiet();
    let gone: Vec<_> = told.iter().filter(|path| !path.exists()).collect();
    assert!(!told.is_empty() && gone.is_empty(), "{gone:?}");
    s.end().quiet();
}

#[test]
fn what_cannot_be_pruned_is_told() {
    let dir = TempDir::new();
    let body = noise(1, 1000);
    Session::fill(Plugin::new(&dir), std::slice::from_ref(&body));
    let path = local(&dir.join("cache"), "output", &output_id(&body));
    let shard = path.parent().unwrap();
    fs::set_permissions(shard, Permissions::from_mode(0o555)).unwrap();
    let out = Plugin::bound_by_modes(&dir).args(["prune", "--max-cache-size=1"]).output().ok();
    fs::set_permissions(shard, Permissions::from_mode(0o755)).unwrap();
    let [line] = said(&out)[..] else { panic!("{}", out.describe()) };
    assert!(line.contains(path.to_str().unwrap()) && line.contains("give this user access"), "{line}");
    // nor can what is in a folder that may not be entered
    fs::set_permissions(shard, Permissions::from_mode(0o000)).unwrap();
    let out = Plugin::bound_by_modes(&dir).args(["prune", "--max-cache-size=1"]).output().code(1);
    fs::set_permissions(shard, Permissions::from_mode(0o755)).unwrap();
    let [line] = said(&out)[..] else { panic!("{}", out.describe()) };
    assert!(line.contains(shard.to_str().unwrap()) && line.contains("give this user access"), "{line}");
}

/// Lets all that was put look as if it had not been used for two days.
fn long_unused(cache: &Path) {
    let long_ago = SystemTime::now() - Duration::from_secs(48 * 3600);
    files(&cache.join("output")).iter().for_each(|f| File::open(f).unwrap().set_modified(long_ago).unwrap());
}

/// The program under one of two users of one group, whose files the group may write, at home in `dir`.
fn as_user(dir: &TempDir, user: u32, args: &[&str]) -> Command {
    // without root there is no other user to be
    let root = rustix::process::geteuid().is_root();
    let mut command = scrubbed(if root { "setpriv" } else { "env" }, dir.path());
    if root {
        command.args([&format!("--reuid={user}"), "--regid=65534", "--clear-groups"]);
    }
    command.args(["sh", "-c", r#"umask 002; exec "$@""#, "sh", binary()]);
    command.env("GOCACHE_DIR", dir.join("cache")).args(args);
    command
}

#[test]
fn a_directory_that_two_users_may_write_is_counted_and_pruned_by_both() {
    let dir = TempDir::new();
    let cache = dir.dir("cache");
    for path in [dir.path(), &cache] {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    let users = [65_533, 65_534];
    let start = |user| {
        let mut child = Running::start(as_user(&dir, user, &[]), Stdio::piped());
        let mut client = Client::stdio(&mut child);
        client.greeting();
        Session { child, client }
    };
    let put = |user, n: u32| {
        let mut s = start(user);
        s.client.put(&action(n), &noise(u64::from(n), 1000));
        s.end().quiet();
    };
    for n in 0..5 {
        put(users[n as usize % 2], n);
        let size = fs::read_to_string(cache.join("size")).unwrap();
        assert_eq!(size.trim(), (1000 * (n + 1)).to_string());
    }
    // what the other has put and this one uses is not pruned meanwhile
    long_unused(&cache);
    let mut reader = start(users[1]);
    let used = reader.client.get(&action(0)).unwrap();
    run(as_user(&dir, users[0], &["prune", "--max-cache-size=1"])).ok().quiet();
    holds(&used, &noise(0, 1000));
    reader.end().quiet();
    for user in users {
        let out = run(as_user(&dir, user, &["prune", "--max-cache-size=1"])).ok().quiet();
        assert!(out.stdout.contains("; 0 files"), "{}", out.describe());
        put(user, 9);
    }
}
