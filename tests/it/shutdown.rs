//! Ends, orderly and not: signals, kills, what the next process finds, sockets, and `run`.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::bucket::single;
use crate::support::client::Client;
use crate::support::env::{Plugin, Running, TempDir, binary, free_port, poll, scrubbed};
use crate::support::fault::{Fault, FaultProxy};
use crate::support::s3::S3Server;
use crate::support::script::{Session, action, holds, noise};

/// Whether the directory bucket `dir` has the entry of action `n`.
fn uploaded(dir: &Path, n: u32) -> bool {
    dir.join(single(n)).is_file()
}

fn bodies(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| noise(n as u64 + 1, 10 + n * 997 % 50_000)).collect()
}

#[test]
fn sigterm_ends_a_session_and_flushes_its_uploads() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let proxy = FaultProxy::start(&server.endpoint);
    proxy.set(Fault::Delay(Duration::from_millis(100)));
    let plugin = Plugin::new(&dir).envs(&server.env_through(&proxy.endpoint)).arg("-u=4").arg("--no-readahead");
    let mut s = Session::start(plugin);
    s.put_all(&bodies(40));
    assert!(server.keys().len() < 40, "there is something left to flush");
    s.child.signal(Signal::TERM);
    s.child.wait().ok().quiet();
    assert_eq!(server.keys().len(), 40);
    // nothing is left over for the next process
    assert_eq!(fs::read_dir(dir.join("cache/pending")).unwrap().count(), 0);
}

#[test]
fn sigterm_twice_ends_at_once() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let proxy = FaultProxy::start(&server.endpoint);
    proxy.set(Fault::BlackHole);
    let plugin = Plugin::new(&dir).envs(&server.env_through(&proxy.endpoint)).arg("--close-timeout=60s");
    let mut s = Session::start(plugin);
    s.client.put(&action(1), b"body");
    poll("the upload to hang", || (proxy.requests() > 0).then_some(()));
    let start = Instant::now();
    // two of them may merge into one
    poll("the end", || {
        s.child.signal(Signal::TERM);
        s.child.has_ended().then_some(())
    });
    s.child.wait().code(143);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn what_a_terminal_sends_is_for_go_to_answer() {
    // `go run` of a server and `go test` go on for as long as what they have started, and would end at once without us
    let goes_on = |s: &mut Session, signals: &[Signal]| {
        for n in 0..300 {
            s.client.put(&action(n), b"body");
            if let Some(signal) = signals.get(n as usize / 100).filter(|_| n % 100 == 0) {
                s.child.signal(*signal);
            }
        }
    };
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let proxy = FaultProxy::start(&server.endpoint);
    let plugin = Plugin::from_terminal(&dir).envs(&server.env_through(&proxy.endpoint)).arg("--close-timeout=60s");
    let mut s = Session::start(plugin);
    goes_on(&mut s, &[Signal::INT, Signal::QUIT, Signal::INT]);
    proxy.set(Fault::BlackHole);
    s.client.put(&action(1000), b"late");
    // go waits for nothing but our end now, and who insists has it
    s.client.send_close();
    poll("the end", || {
        s.child.signal(Signal::INT);
        s.child.has_ended().then_some(())
    });
    s.child.wait().code(130);
    let (dir, other) = (TempDir::new(), TempDir::new());
    let socket = dir.join("plugin.sock");
    let mut shell = scrubbed("sh", dir.path());
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", binary(), "serve", "--plugin"]).arg(&socket);
    let mut server = Running::start(shell, Stdio::null());
    poll("the server", || socket.exists().then_some(()));
    let mut s = Session::start(Plugin::from_terminal(&other).arg("connect").arg(&socket).arg("--strict"));
    // as nohup has it
    server.signal(Signal::HUP);
    goes_on(&mut s, &[Signal::INT, Signal::INT]);
    s.end().quiet();
    let mut s = Session::start(Plugin::from_terminal(&other).arg("connect").arg(&socket).arg("--strict"));
    goes_on(&mut s, &[Signal::QUIT]);
    s.end().quiet();
    server.signal(Signal::TERM);
    server.wait().ok();
}

#[test]
fn a_kill_leaves_nothing_half_done_and_its_uploads_to_the_next() {
    const ROUND: usize = 60;
    let dir = TempDir::new();
    let bucket = dir.dir("bucket");
    let start = || Session::start(Plugin::new(&dir).arg(format!("--bucket=file://{}", bucket.display())));
    let bodies = bodies(ROUND * 6);
    for (round, killed_after) in [0usize, 1, 7, 20, 41, 58].into_iter().enumerate() {
        let mut s = start();
        let first = round * ROUND;
        let ids: Vec<i64> = (first..first + ROUND).map(|n| s.client.send_put(&action(n as u32), &bodies[n])).collect();
        for id in &ids[..killed_after] {
            let answer = s.client.wait(*id);
            assert!(answer["DiskPath"].is_string(), "{answer}");
        }
        s.child.signal(Signal::KILL);
        assert_eq!(s.child.wait().status.code(), None);
        // whatever was answered is there; whatever is there is whole
        let mut local = Session::start(Plugin::new(&dir));
        for (n, id) in (first..).zip(0..ROUND) {
            match local.client.get(&action(n as u32)) {
                Some(hit) => holds(&hit, &bodies[n]),
                None => assert!(id >= killed_after, "round {round} lost put {id} of {killed_after} answered"),
            }
        }
        local.end().quiet();
    }
    // what only the dead knew of is uploaded by the living
    let mut local = Session::start(Plugin::new(&dir));
    let stored: Vec<u32> = (0..bodies.len() as u32).filter(|n| local.client.get(&action(*n)).is_some()).collect();
    local.end().quiet();
    assert!(stored.len() >= 127, "{}", stored.len());
    let s = start();
    poll("the uploads of the dead", || stored.iter().all(|n| uploaded(&bucket, *n)).then_some(()));
    // the bucket has an object a moment before its marker goes
    let marked = || {
        let sessions = fs::read_dir(dir.join("cache/pending")).unwrap().flatten();
        let names = sessions.filter_map(|e| fs::read_dir(e.path()).ok()).flatten().flatten().map(|e| e.file_name());
        names.filter(|name| name != ".lock").count()
    };
    poll("the markers to go", || (marked() == 0).then_some(()));
    s.end().quiet();
    assert_eq!(fs::read_dir(dir.join("cache/pending")).unwrap().count(), 0, "no marker is left");
    // and what it uploaded is whole, too
    let fresh = TempDir::new();
    let mut s = Session::start(Plugin::new(&fresh).arg(format!("--bucket=file://{}", bucket.display())));
    for n in stored {
        holds(&s.client.get(&action(n)).expect("a hit from the bucket"), &bodies[n as usize]);
    }
    s.end().quiet();
}

#[test]
fn two_processes_share_one_directory() {
    let dir = TempDir::new();
    let bodies = bodies(80);
    let (mut a, mut b) = (Session::start(Plugin::new(&dir)), Session::start(Plugin::new(&dir)));
    // the same puts at the same time
    let send = |s: &mut Session| -> Vec<i64> {
        (0..).zip(&bodies).map(|(n, body)| s.client.send_put(&action(n), body)).collect()
    };
    let (of_a, of_b) = (send(&mut a), send(&mut b));
    for (s, ids) in [(&mut a, of_a), (&mut b, of_b)] {
        for id in ids {
            let answer = s.client.wait(id);
            assert!(answer["DiskPath"].is_string(), "{answer}");
        }
    }
    assert_eq!((a.get_all(&bodies), b.get_all(&bodies)), (80, 80));
    // what one puts, the other sees at once
    a.client.put(&action(1000), b"from a");
    holds(&b.client.get(&action(1000)).expect("a hit"), b"from a");
    a.end().quiet();
    holds(&b.client.get(&action(0)).expect("still there"), &bodies[0]);
    b.end().quiet();
}

/// `serve` on a Unix socket in `dir`, once it listens.
fn serve(dir: &TempDir) -> (Running, std::path::PathBuf) {
    let socket = dir.join("plugin.sock");
    let child = Plugin::new(dir).arg("serve").arg("--plugin").arg(&socket).spawn();
    poll("the server", || child.stderr().contains(": listening plugin=").then_some(()));
    (child, socket)
}

#[test]
fn serve_waits_for_its_sessions() {
    let dir = TempDir::new();
    let (mut server, socket) = serve(&dir);
    let mut client = Client::unix(&socket);
    client.greeting();
    client.put(&action(1), b"body");
    server.signal(Signal::TERM);
    poll("the server to stop accepting", || (!socket.exists()).then_some(()));
    // the session goes on
    holds(&client.get(&action(1)).expect("a hit"), b"body");
    client.put(&action(2), b"another");
    client.close();
    assert!(client.rest().is_empty());
    server.wait().ok();
}

#[test]
fn a_second_signal_ends_serve_at_once() {
    let dir = TempDir::new();
    let (mut server, socket) = serve(&dir);
    let mut client = Client::unix(&socket);
    client.greeting();
    server.signal(Signal::TERM);
    poll("the server to stop accepting", || (!socket.exists()).then_some(()));
    let start = Instant::now();
    server.signal(Signal::TERM);
    server.wait().code(128 + 15);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let dir = TempDir::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let http = format!("127.0.0.1:{port}");
    for taken in [vec!["--plugin", &port], vec!["--plugin=0", "--http", &http]] {
        let out = Plugin::new(&dir).arg("serve").args(taken).output().code(1);
        assert_eq!(out.stderr.lines().count(), 1, "{}", out.describe());
        let told = ["in use", "stop it or choose another port", &port].map(|what| out.stderr.contains(what));
        assert_eq!(told, [true; 3], "{}", out.describe());
    }
    let out = Plugin::new(&dir).args(["connect", "--strict", &free_port().to_string()]).output().code(1);
    assert_eq!(out.stderr.lines().count(), 1, "{}", out.describe());
    assert!(out.stderr.contains("serve"), "{}", out.describe());
}

#[test]
fn a_unix_socket_is_private_and_replaced_only_when_dead() {
    let dir = TempDir::new();
    let (mut server, socket) = serve(&dir);
    let meta = fs::symlink_metadata(&socket).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    let out = Plugin::new(&dir).arg("serve").arg("--plugin").arg(&socket).output().code(1);
    assert_eq!(out.stderr.lines().count(), 1, "{}", out.describe());
    assert!(out.stderr.contains("a server is listening there"), "{}", out.describe());
    Client::unix(&socket).greeting();
    server.signal(Signal::KILL);
    server.wait();
    assert!(socket.exists(), "a killed server leaves its socket");
    let (mut server, _) = serve(&dir);
    let mut client = Client::unix(&socket);
    client.greeting();
    // a session that is open would be waited for
    assert!(client.rest().is_empty());
    server.signal(Signal::TERM);
    server.wait().ok();
    assert!(!socket.exists());
    let file = dir.write("plugin.txt", "mine");
    let out = Plugin::new(&dir).arg("serve").arg("--plugin").arg(&file).output().code(1);
    assert!(out.stderr.contains("not a socket"), "{}", out.describe());
    assert_eq!(fs::read_to_string(file).unwrap(), "mine");
}

#[test]
fn run_passes_exit_codes_on() {
    let dir = TempDir::new();
    for (script, code) in [("true", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("kill -TERM $$", 143)] {
        let out = Plugin::new(&dir).args(["run", "sh", "-c", script]).output().code(code);
        assert_eq!(out.stderr.lines().count(), 1, "{script}{}", out.describe());
        assert!(out.stderr.starts_with("go-cache-plugin: 0 gets"), "{script}{}", out.describe());
    }
    let out = Plugin::new(&dir).args(["run", "./no-such-command"]).output().code(127);
    assert!(out.stderr.starts_with("go-cache-plugin: ./no-such-command: "), "{}", out.describe());
    assert_eq!(out.stderr.lines().count(), 1, "{}", out.describe());
}

#[test]
fn run_passes_signals_on() {
    let dir = TempDir::new();
    let script = "trap 'echo caught; exit 9' TERM; touch ready; while :; do sleep 0.05; done";
    let mut child = Plugin::new(&dir).args(["run", "sh", "-c", script]).spawn();
    poll("the command", || dir.join("ready").exists().then_some(()));
    child.signal(Signal::TERM);
    let out = child.wait().code(9);
    assert!(out.stderr.starts_with("go-cache-plugin: 0 gets"), "{}", out.describe());
}
