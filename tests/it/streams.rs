//! A stderr or stdout that is closed, full or missing: no command dies of it, nor ends otherwise.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use base64_simd::STANDARD;
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};

use crate::support::env::{TempDir, binary, poll, run, scrubbed};
use crate::support::fault::{Fault, FaultProxy};
use crate::support::s3::S3Server;

/// What may be wrong with a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    /// Its reader has gone.
    Closed,
    /// It takes nothing more.
    Full,
    /// The program is started without it.
    Missing,
}

const KINDS: [Wrong; 3] = [Wrong::Closed, Wrong::Full, Wrong::Missing];

/// The program with such a stream (1 or 2), a cache and a TMPDIR of its own, and stdin empty.
fn plugin(dir: &TempDir, fd: u8, wrong: Option<Wrong>, args: &[&str]) -> Command {
    let mut command = if wrong == Some(Wrong::Missing) {
        let mut shell = scrubbed("sh", dir.path());
        shell.args(["-c", &format!("exec \"$0\" \"$@\" {fd}>&-"), binary()]);
        shell
    } else {
        scrubbed(binary(), dir.path())
    };
    command.args(args).env("GOCACHE_DIR", dir.join("cache")).env("TMPDIR", dir.dir("tmp")).stdin(Stdio::null());
    let stream: Stdio = match wrong {
        Some(Wrong::Closed) => io::pipe().expect("a pipe").1.into(),
        Some(Wrong::Full) => File::options().write(true).open("/dev/full").expect("/dev/full").into(),
        Some(Wrong::Missing) | None => Stdio::null(),
    };
    if fd == 1 {
        command.stdout(stream).stderr(Stdio::null())
    } else {
        command.stderr(stream).stdout(Stdio::null())
    };
    command
}

/// A child, killed when dropped.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(mut command: Command) -> Ends {
    Ends(command.spawn().expect("it starts"))
}

/// Waits for the end; the exit code, none where a signal ended it.
fn code(mut child: Ends) -> Option<i32> {
    poll("its end", || child.0.try_wait().expect("the child is ours")).code()
}

fn code_of(command: Command) -> Option<i32> {
    code(start(command))
}

/// The socket folders of `run` below the test's TMPDIR.
fn folders(dir: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(dir.dir("tmp")).expect("TMPDIR");
    entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

/// A put that a shell writes to the program that GOCACHEPROG names.
fn put_in_shell() -> String {
    let (action, output) = (STANDARD.encode_to_string([7; 32]), STANDARD.encode_to_string(Sha256::digest("")));
    let (put, close) = (
        format!(r#"{{"ID":1,"Command":"put","ActionID":"{action}","OutputID":"{output}","BodySize":0}}"#),
        r#"{"ID":2,"Command":"close"}"#,
    );
    format!("printf '%s\\n' '{put}' '{close}' | $GOCACHEPROG >/dev/null")
}

#[test]
fn every_command_survives_its_stderr() {
    let loud: &[&str] = &["-v", "--metrics", "--debug=7", "--close-timeout=0"];
    for args in [
        &["run", "sh", "-c", "exit 7"][..],
        &["run", "/nonexistent"],
        &["run"],
        &["status"],
        &["prune", "--max-cache-size=1"],
        &["clear", "--local"],
        &["clear"],
        &["doctor"],
        &["doctor", "--bucket=file:///proc/nonexistent"],
        &["help"],
        &["help", "nonsense"],
        &["version"],
        &["connect", "1"],
        &["connect", "--strict", "1"],
        &["run", "--modproxy", "true"],
        &["run", "--bucket=file:///proc/nonexistent", "true"],
        &["prune", "--bucket=file:///proc/nonexistent", "--expiry=1h"],
        &["push", "--bucket=file:///proc/nonexistent"],
        &["pull", "--bucket=file:///proc/nonexistent"],
        &["mod", "list"],
        &["mod", "rm", "nonsense"],
        &["keygen", "--token", "some"],
        &["keygen", "/proc/nonexistent/key"],
        &["summary", "none"],
        &["summary", "/proc"],
        &["serve"],
        &["serve", "--plugin=/proc/nonexistent/socket"],
        &["--bucket=file:///proc/nonexistent"],
        &["--nonsense"],
    ] {
        let dir = TempDir::new();
        let args: Vec<&str> = loud.iter().chain(args).copied().collect();
        let want = code_of(plugin(&dir, 2, None, &args));
        assert!(want.is_some(), "{args:?}");
        for wrong in KINDS {
            assert_eq!(code_of(plugin(&dir, 2, Some(wrong), &args)), want, "{args:?}, stderr {wrong:?}");
        }
        assert!(folders(&dir).is_empty(), "{args:?}: {:?}", folders(&dir));
        // a process's begins with its number
        let leases = fs::read_dir(dir.join("cache/lease")).into_iter().flatten().flatten();
        let alive = leases.filter(|e| e.file_name().as_encoded_bytes()[0].is_ascii_digit()).count();
        assert_eq!(alive, 0, "{args:?}");
    }
}

#[test]
fn a_session_and_a_server_survive_their_stderr() {
    for wrong in KINDS {
        let dir = TempDir::new();
        let socket = dir.join("socket");
        let plugin_flag = format!("--plugin={}", socket.display());
        // the bucket is a file, so that there is something to warn of
        let bucket = format!("--bucket=file://{}", dir.write("bucket", "").display());
        let args = ["serve", "-v", "--metrics", "--debug=7", "--close-timeout=0", &plugin_flag, &bucket];
        let server = start(plugin(&dir, 2, Some(wrong), &args));
        poll("the server's socket", || socket.exists().then_some(()));
        let client = plugin(&dir, 2, Some(wrong), &["connect", &socket.display().to_string()]);
        assert_eq!(code_of(client), Some(0), "connect, {wrong:?}");
        let mut direct = plugin(&dir, 2, Some(wrong), &["-v", "--metrics", "--debug=7", "--close-timeout=0", &bucket]);
        direct.stdin(Stdio::piped());
        let mut direct = start(direct);
        let mut stdin = direct.0.stdin.take().expect("piped");
        let id = STANDARD.encode_to_string([7; 32]);
        writeln!(stdin, r#"{{"ID":1,"Command":"get","ActionID":"{id}"}}"#).expect("it reads");
        writeln!(stdin, r#"{{"ID":2,"Command":"close"}}"#).expect("it reads");
        assert_eq!(code(direct), Some(0), "direct mode, {wrong:?}");
        kill_process(Pid::from_child(&server.0), Signal::TERM).expect("it runs");
        assert_eq!(code(server), Some(0), "serve, {wrong:?}");
    }
}

#[test]
fn a_stderr_that_nobody_reads_stalls_no_build() {
    let dir = TempDir::new();
    let (unread, full) = io::pipe().expect("a pipe");
    let mut direct = plugin(&dir, 2, None, &["-v", "--debug=7"]);
    direct.stdin(Stdio::piped()).stderr(full);
    let mut direct = start(direct);
    let mut stdin = direct.0.stdin.take().expect("piped");
    // what is logged of them is more than a pipe holds, what is sent is less
    for n in 1..=500 {
        let id = STANDARD.encode_to_string([n as u8; 32]);
        writeln!(stdin, r#"{{"ID":{n},"Command":"get","ActionID":"{id}"}}"#).expect("room for all");
    }
    writeln!(stdin, r#"{{"ID":501,"Command":"close"}}"#).expect("room for all");
    assert_eq!(code(direct), Some(0));
    assert!(io::Read::bytes(unread).count() > 1 << 15, "what fits is told");
}

#[test]
fn a_reader_that_leaves_is_no_failure_and_a_full_stdout_is_one() {
    let dir = TempDir::new();
    dir.dir("cache");
    for args in [&["status"][..], &["prune", "--max-cache-size=1"], &["clear", "--local"], &["help"], &["version"]] {
        assert_eq!(code_of(plugin(&dir, 1, Some(Wrong::Closed), args)), Some(0), "{args:?}");
        assert_eq!(code_of(plugin(&dir, 1, Some(Wrong::Full), args)), Some(1), "{args:?}");
        // both streams are full: the failure cannot be told, and is one all the same
        let mut both = plugin(&dir, 1, Some(Wrong::Full), args);
        both.stderr(File::options().write(true).open("/dev/full").expect("/dev/full"));
        assert_eq!(code_of(both), Some(1), "{args:?}");
    }
}

#[test]
fn the_next_run_removes_the_folder_of_one_that_was_killed_and_of_no_other() {
    let dir = TempDir::new();
    let start_named = |name: &str| {
        let script = format!("touch {name}; while [ -e {name} ] && [ ! -e end ]; do sleep 0.01; done");
        let child = start(plugin(&dir, 2, None, &["run", "sh", "-c", &script]));
        poll("the command's start", || dir.join(name).exists().then_some(()));
        child
    };
    let alive = start_named("one");
    let [of_alive] = &folders(&dir)[..] else { panic!("{:?}", folders(&dir)) };
    let killed = start_named("two");
    assert_eq!(folders(&dir).len(), 2);
    drop(killed);
    for other in ["go-cache-plugin-7-x", "go-cache-plugin-it-7-7", "go-cache-plugin-77-7"] {
        dir.dir(&format!("tmp/{other}"));
    }
    let file = dir.write("tmp/go-cache-plugin-78-7", "");
    // a maker that came no further, and one that is at it
    for (name, age) in [("81-7", 10), ("82-7", 0)] {
        let made = dir.dir(&format!("tmp/go-cache-plugin-{name}"));
        fs::set_permissions(&made, fs::Permissions::from_mode(0o700)).expect("ours");
        File::open(&made).and_then(|d| d.set_modified(SystemTime::now() - Duration::from_secs(age))).expect("ours");
    }
    let outside = dir.dir("outside");
    fs::write(outside.join("lock"), "").expect("writable");
    std::os::unix::fs::symlink(&outside, dir.join("tmp/go-cache-plugin-79-7")).expect("a link");
    assert_eq!(code_of(plugin(&dir, 2, None, &["run", "true"])), Some(0));
    let mut left = folders(&dir);
    left.sort();
    let mut want: Vec<&str> = ["7-x", "77-7", "78-7", "79-7", "82-7", "it-7-7"].to_vec();
    want.push(of_alive.strip_prefix("go-cache-plugin-").expect("its name"));
    want.sort_unstable();
    assert_eq!(left, want.iter().map(|name| format!("go-cache-plugin-{name}")).collect::<Vec<_>>());
    assert!(file.exists() && outside.join("lock").exists());
    dir.write("end", "");
    assert_eq!(code(alive), Some(0));
    assert!(!dir.join("tmp").join(of_alive).exists());
}

#[test]
fn a_signal_that_ends_run_takes_the_folder_along() {
    let dir = TempDir::new();
    // a bucket that never answers puts: uploads go on after the command's end
    let server = S3Server::in_process();
    let proxy = FaultProxy::start(&server.endpoint);
    proxy.only("PUT");
    proxy.set(Fault::BlackHole);
    let script = format!("{}; touch done", put_in_shell());
    let mut command = plugin(&dir, 2, Some(Wrong::Closed), &["run", "--close-timeout=10m", "sh", "-c", &script]);
    command.envs(server.env_through(&proxy.endpoint));
    let mut child = start(command);
    poll("the command's end", || dir.join("done").exists().then_some(()));
    assert_eq!(folders(&dir).len(), 1);
    let status = poll("its end", || {
        let _ = kill_process(Pid::from_child(&child.0), Signal::TERM);
        child.0.try_wait().expect("the child is ours")
    });
    assert_eq!(status.code(), Some(128 + 15));
    assert!(folders(&dir).is_empty(), "{:?}", folders(&dir));
}

#[test]
fn the_childs_code_is_ours_whatever_its_stderr() {
    let dir = TempDir::new();
    for (script, want) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)] {
        for wrong in KINDS {
            let got = code_of(plugin(&dir, 2, Some(wrong), &["run", "sh", "-c", script]));
            assert_eq!(got, Some(want), "{script:?}, {wrong:?}");
        }
    }
    let out = run({
        let mut command = scrubbed(binary(), dir.path());
        command.args(["run", "sh", "-c", "exit 7"]).env("GOCACHE_DIR", dir.join("cache"));
        command
    });
    assert_eq!(out.code(7).stderr.lines().count(), 1, "one line of summary");
}
