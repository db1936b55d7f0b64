//! Real builds: the oldest Go that is supported and the newest to be had, through the real binary.
//! A healthy run leaves stderr empty, which `go` would pass on.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;

use crate::support::env::{BUILD, Plugin, Running, TempDir, binary, run};
use crate::support::go::{self, Go, Work};
use crate::support::s3::S3Server;

/// GOCACHEPROG for direct mode over `cache`.
fn direct(cache: &Path) -> String {
    format!("{} --cache-dir={}", binary(), cache.display())
}

/// A module with a package, a test, a command and a cgo package.
fn sources(go: &Go) -> Work {
    let work = Work::new();
    let minor = go.version.0;
    work.source("go.mod", &format!("module example.com/m\n\ngo 1.{minor}\n\ntool example.com/m/cmd/hello\n"));
    work.source(
        "a/a.go",
        "package a\n\nimport \"strings\"\n\nfunc Up(s string) string { return strings.ToUpper(s) }\n",
    );
    work.source(
        "a/a_test.go",
        "package a\n\nimport \"testing\"\n\nfunc TestUp(t *testing.T) {\n\tif Up(\"x\") != \"X\" {\n\t\tt.Fatal(\"no\")\n\t}\n}\n",
    );
    work.source(
        "cmd/hello/main.go",
        "package main\n\nimport (\n\t\"fmt\"\n\n\t\"example.com/m/a\"\n)\n\nfunc main() { fmt.Println(a.Up(\"hello\")) }\n",
    );
    work.source(
        "c/c.go",
        "package c\n\n// static int twice(int n) { return 2 * n; }\nimport \"C\"\n\nfunc Twice(n int) int { return int(C.twice(C.int(n))) }\n",
    );
    work.source(
        "c/c_test.go",
        "package c\n\nimport \"testing\"\n\nfunc TestTwice(t *testing.T) {\n\tif Twice(2) != 4 {\n\t\tt.Fatal(\"no\")\n\t}\n}\n",
    );
    work
}

/// Runs `go` with `args` through `plugin`; it succeeds and says nothing on stderr. Its stdout.
fn quiet(go: &Go, work: &Work, plugin: &str, args: &[&str]) -> String {
    let mut command = go.cached(work, plugin);
    command.args(args);
    run(command).ok().quiet().stdout
}

/// A module of forty packages, each of which imports the one before, and none the standard library, which takes
/// longer to compile than all that these tests are about.
fn forty_packages() -> Work {
    let work = Work::new();
    work.source("go.mod", "module example.com/m\n\ngo 1.24\n");
    for n in 0..40 {
        let (import, sum) = match n {
            0 => (String::new(), "0".to_string()),
            n => (format!("import \"example.com/m/p{}\"\n\n", n - 1), format!("p{}.Sum() + {n}", n - 1)),
        };
        let text = format!("package p{n}\n\n{import}func Sum() int {{ return {sum} }}\n");
        work.source(&format!("p{n}/p.go"), &text);
    }
    work
}

fn daily_work(go: &Go) {
    let work = sources(go);
    let plugin = direct(&go.warm(&work));
    let go = |args: &[&str]| quiet(go, &work, &plugin, args);

    go(&["build", "./..."]);
    go(&["vet", "./..."]);
    let test = ["test", "./a", "./c"];
    assert_eq!(go(&test).matches("(cached)").count(), 0);
    assert_eq!(go(&test).matches("(cached)").count(), 2, "the second run comes from the cache");
    go(&["clean", "-testcache"]);
    assert_eq!(go(&test).matches("(cached)").count(), 0, "go clean -testcache is honoured");
    assert_eq!(go(&test).matches("(cached)").count(), 2);
    go(&["clean", "-cache"]);
    assert_eq!(go(&test).matches("(cached)").count(), 2, "go clean -cache leaves this cache alone");
    assert_eq!(go(&["run", "./cmd/hello"]), "HELLO\n");

    // what the cache handed out is there after the process has gone
    let export = PathBuf::from(go(&["list", "-export", "-f", "{{.Export}}", "./a"]).trim());
    assert!(export.starts_with(work.dir.join("cache")) && export.is_file(), "{}", export.display());
    assert_eq!(go(&["tool", "hello"]), "HELLO\n");
    let vet = PathBuf::from(go(&["tool", "-n", "vet"]).trim());
    assert!(vet.is_file(), "{}", vet.display());
}

#[test]
fn daily_work_with_the_oldest_go() {
    daily_work(go::oldest());
}

#[test]
fn daily_work_with_the_newest_go() {
    daily_work(go::newest());
}

#[test]
fn the_race_detector_works() {
    if !cfg!(target_arch = "x86_64") {
        eprintln!("no race detector is expected on this machine's architecture");
        return;
    }
    let go = go::newest();
    let work = sources(go);
    let plugin = direct(&work.dir.join("cache"));
    quiet(go, &work, &plugin, &["test", "-race", "./a"]);
    let again = quiet(go, &work, &plugin, &["test", "-race", "./a"]);
    assert!(again.contains("(cached)"), "{again}");
}

/// Builds `package` twice with fresh local directories over one bucket; the second time nothing is
/// compiled.
fn second_machine(go: &Go, layout: &str, package: &str) {
    let server = S3Server::start();
    let build = || {
        let work = forty_packages();
        let mut command = go.cached(&work, &direct(&work.dir.join("cache")));
        command.envs(server.env()).env("GOCACHE_S3_LAYOUT", layout).env("CGO_ENABLED", "0");
        // the whole bucket is wanted, however slow the machine
        command.env("GOCACHE_CLOSE_TIMEOUT", "5m").args(["build", "-x", "-trimpath", package]);
        run(command).ok()
    };
    let compiles = |stderr: &str| stderr.lines().filter(|line| line.contains("/compile ")).count();
    let first = build();
    assert!(compiles(&first.stderr) > 20, "the first machine compiles{}", first.describe());
    let second = build();
    assert_eq!(compiles(&second.stderr), 0, "{layout}{}", second.describe());
    assert!(!second.stderr.contains("go-cache-plugin:"), "{}", second.describe());
    let keys = server.keys();
    let kind = if layout == "single" { "v1/" } else { "action/" };
    assert!(keys.iter().any(|key| key.starts_with(kind)), "{keys:?}");
}

#[test]
fn a_second_machine_compiles_nothing_single_layout() {
    second_machine(go::newest(), "single", "encoding/json");
}

#[test]
fn a_second_machine_compiles_nothing_classic_layout() {
    second_machine(go::newest(), "classic", "./...");
}

#[test]
fn a_second_machine_compiles_nothing_with_the_oldest_go() {
    second_machine(go::oldest(), "single", "./...");
}

/// Starts `go build` in two places at once, waits for both, and wants silence.
fn at_once(go: &Go, plugin: &str) {
    let works = [forty_packages(), forty_packages()];
    let start = |work: &Work| {
        let mut command = go.cached(work, plugin);
        command.args(["build", "-trimpath", "./..."]);
        Running::start(command, Stdio::null())
    };
    let mut all: Vec<Running> = works.iter().map(start).collect();
    for one in &mut all {
        one.wait_for(BUILD).ok().quiet();
    }
}

#[test]
fn two_go_processes_share_a_local_directory() {
    let shared = TempDir::new();
    at_once(go::any(), &direct(&shared.join("cache")));
    let leftovers = find(shared.path(), ".tmp-");
    assert!(leftovers.is_empty(), "{leftovers:?}");
}

/// The files below `dir` whose names start with `start`.
fn find(dir: &Path, start: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("readable") {
        let entry = entry.expect("readable");
        if entry.file_type().expect("known").is_dir() {
            found.extend(find(&entry.path(), start));
        } else if entry.file_name().to_string_lossy().starts_with(start) {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn two_builds_through_connect_share_a_server() {
    let dir = TempDir::new();
    let socket = dir.join("plugin.sock");
    let mut server = Plugin::new(&dir).arg("serve").arg("--plugin").arg(&socket).spawn();
    crate::support::env::poll("the server's socket", || socket.exists().then_some(()));
    let connect = format!("{} connect {}", binary(), socket.display());
    at_once(go::any(), &connect);
    // what they built is there for a third, which compiles nothing
    let work = forty_packages();
    let mut command = go::any().cached(&work, &connect);
    command.args(["build", "-x", "-trimpath", "./..."]);
    let third = run(command).ok();
    assert!(!third.stderr.contains("/compile "), "{}", third.describe());
    server.signal(Signal::TERM);
    let out = server.wait().ok();
    assert_eq!(out.stderr.lines().count(), 1, "where it listens, and no more{}", out.describe());
}

#[test]
fn run_serves_several_go_commands_of_one_shell() {
    let go = go::any();
    let work = sources(go);
    let cache = go.warm(&work);
    let script = "go build ./a & one=$!; go build ./cmd/hello & two=$!; wait $one && wait $two && go vet ./a";
    let mut command = go.in_environment(crate::support::env::scrubbed(binary(), work.dir.path()), &work);
    command.env("GOCACHE_DIR", &cache).args(["run", "--", "sh", "-c", script]);
    let out = run(command).ok();
    assert_eq!(out.stderr.lines().count(), 1, "one line of summary{}", out.describe());
    assert!(out.stdout.is_empty(), "{}", out.describe());
    assert!(work.dir.join("src/hello").is_file());

    let mut command = go.in_environment(crate::support::env::scrubbed(binary(), work.dir.path()), &work);
    command.env("GOCACHE_DIR", &cache).args(["run", "sh", "-c", "exit 7"]);
    run(command).code(7);
}
