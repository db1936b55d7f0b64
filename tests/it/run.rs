//! `run`: how it ends, where its socket is, and modules as `go` is set to have them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64_simd::STANDARD;
use rustix::process::Signal;

use super::modules::go;
use crate::support::env::{Plugin, Running, TempDir, binary, poll, run, scrubbed};
use crate::support::script::hex;
use crate::support::upstream::{SumDb, Tree, Upstream};

#[test]
fn it_ends_as_shells_do() {
    let dir = TempDir::new();
    let plain = dir.write("plain", "not a program");
    let script = dir.write("no-interpreter", "#!/nonexistent/sh\n");
    let mut chmod = scrubbed("chmod", dir.path());
    run({
        chmod.arg("755").arg(&script);
        chmod
    })
    .ok();
    for (command, code) in [
        ("no-such-command", 127),
        ("./no-such-command", 127),
        (script.to_str().unwrap(), 127),
        (plain.to_str().unwrap(), 126),
        ("/", 126),
        ("./plain/x", 126),
    ] {
        let out = Plugin::new(&dir).args(["run", command]).output().code(code);
        assert!(out.stderr.starts_with(&format!("go-cache-plugin: {command}: ")), "{}", out.describe());
        assert_eq!(out.stderr.lines().count(), 1, "{}", out.describe());
    }
    for (script, code) in [("exit 3", 3), ("kill -TERM $$", 143), ("kill -SEGV $$", 139)] {
        Plugin::new(&dir).args(["run", "sh", "-c", script]).output().code(code);
    }
    assert!(fs::read_dir(dir.join("cache/lease")).unwrap().next().is_none(), "nobody is there");
}

#[test]
fn signals_go_to_the_command_but_for_what_is_ignored() {
    let dir = TempDir::new();
    let until = "while ! [ -e go-on ]; do sleep 0.01; done; exit 7";
    for (signal, ignored, code) in [
        (Signal::TERM, false, 9),
        (Signal::USR1, false, 9),
        (Signal::USR2, false, 9),
        // as nohup does
        (Signal::HUP, true, 7),
        (Signal::QUIT, true, 7),
    ] {
        let (outside, inside) = if ignored { ("''", "-") } else { ("-", "'exit 9'") };
        let number = signal.as_raw();
        let script = format!("trap {inside} {number}; touch up; {until}");
        let run = format!("trap {outside} {number}; exec \"$0\" run sh -c \"$1\"");
        let mut shell = scrubbed("sh", dir.path());
        shell.args(["-c", &run, binary(), &script]).current_dir(dir.path());
        let mut child = Running::start(shell, Stdio::null());
        poll("the command", || dir.join("up").exists().then_some(()));
        child.signal(signal);
        if ignored {
            dir.write("go-on", "");
        }
        child.wait().code(code);
        for name in ["up", "go-on"] {
            let _ = fs::remove_file(dir.join(name));
        }
    }
}

/// A put of an empty output, and the close, that a shell sends to the program that GOCACHEPROG names.
const PUT: &str =
    r#"eval "set -- $GOCACHEPROG"; printf '%s\n' "$REQUEST" '{"ID":2,"Command":"close"}' | "$@" >/dev/null"#;

fn request(n: u8) -> String {
    let (action, output) = (STANDARD.encode_to_string([n; 32]), STANDARD.encode_to_string(sha2(b"")));
    format!(r#"{{"ID":1,"Command":"put","ActionID":"{action}","OutputID":"{output}","BodySize":0}}"#)
}

fn sha2(bytes: &[u8]) -> Vec<u8> {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).to_vec()
}

/// The directories that a run of that process id has now, wherever it may have made one.
fn dirs_of(pid: u32, bases: &[&Path]) -> Vec<PathBuf> {
    let start = format!("go-cache-plugin-{pid}-");
    let entries = bases.iter().flat_map(|base| fs::read_dir(base).into_iter().flatten().flatten());
    entries.map(|e| e.path()).filter(|p| p.file_name().unwrap().to_string_lossy().starts_with(&start)).collect()
}

#[test]
fn it_works_whatever_tmpdir_is() {
    let dir = TempDir::new();
    let cache = dir.join("cache");
    let long = dir.dir(&"long/".repeat(30));
    let blanks = dir.dir("with blanks 'and quotes'");
    let quotes = dir.dir("with 'one' and \"other\" quotes");
    let file = dir.write("file", "");
    dir.dir("relative/tmp");
    let tmpdirs = [&long, &blanks, &quotes, &file, &dir.join("missing"), &dir.dir("plain")];
    let mut tmpdirs: Vec<PathBuf> = tmpdirs.into_iter().cloned().collect();
    tmpdirs.extend(["relative/tmp".into(), "".into()]);
    for (n, tmpdir) in (1..).zip(tmpdirs) {
        // in a folder of its own, where a relative address leads nowhere
        let script = format!("touch {n}; while ! [ -e go-on ]; do sleep 0.01; done; mkdir -p below; cd below; {PUT}");
        let plugin = Plugin::new(&dir).args(["run", "sh", "-c", &script]).env("TMPDIR", &tmpdir);
        let mut child = plugin.env("REQUEST", request(n)).spawn();
        poll("the command", || dir.join(&n.to_string()).exists().then_some(()));
        let bases = [dir.join(tmpdir.to_str().unwrap()), "/tmp".into(), cache.clone()];
        let bases: Vec<&Path> = bases.iter().map(PathBuf::as_path).collect();
        let made = dirs_of(child.pid(), &bases);
        assert!(!made.is_empty(), "{tmpdir:?}");
        dir.write("go-on", "");
        let out = child.wait().ok();
        assert!(out.stderr.contains(" 1 put; ") && out.stderr.lines().count() == 1, "{tmpdir:?}{}", out.describe());
        let id = hex(&[n; 32]);
        assert!(cache.join("action").join(&id[..2]).join(&id).exists(), "{tmpdir:?}");
        assert!(dirs_of(child.pid(), &bases).is_empty(), "{tmpdir:?}");
        fs::remove_file(dir.join("go-on")).unwrap();
    }
}

#[test]
fn what_a_killed_run_leaves_is_swept_by_the_next() {
    let dir = TempDir::new();
    for tmpdir in [dir.dir("tmp"), dir.dir(&"long/".repeat(30))] {
        let plugin = |script: &str| Plugin::new(&dir).args(["run", "sh", "-c", script]).env("TMPDIR", &tmpdir);
        let mut child = plugin("exec >/dev/null 2>&1; sleep 600 & echo $! >pid; wait").spawn();
        poll("the command", || fs::read_to_string(dir.join("pid")).ok().filter(|text| text.ends_with('\n')));
        let left = || dirs_of(child.pid(), &[&tmpdir, Path::new("/tmp")]);
        let before = left();
        assert_eq!(before.len(), 1);
        child.signal(Signal::KILL);
        child.wait();
        let left = |pid| dirs_of(pid, &[&tmpdir, Path::new("/tmp")]);
        // of what lies in /tmp, another test's run may have swept it
        if before[0].starts_with(&tmpdir) {
            assert_eq!(left(child.pid()), before, "killed, it cannot remove it");
        }
        plugin("kill $(cat pid)").output().ok();
        assert!(left(child.pid()).is_empty(), "{:?}", left(child.pid()));
        assert!(fs::read_dir(dir.join("cache/lease")).unwrap().next().is_none());
        fs::remove_file(dir.join("pid")).unwrap();
    }
}

/// A tree of modules, who serves it, a sum database, and another that nobody may ask.
struct Corp {
    dir: TempDir,
    upstream: Upstream,
    forbidden: Upstream,
    database: SumDb,
}

impl Corp {
    fn new() -> Self {
        let dir = TempDir::new();
        let mut tree = Tree::new(dir.dir("tree"));
        for name in ["m", "secret/m"] {
            tree.add(&format!("example.com/{name}"), "v1.0.0", &[("m.go", b"package m\n")]);
        }
        let upstream = Upstream::start(&tree.root);
        let forbidden = Upstream::start(&tree.root);
        let database = SumDb::start(&tree.root);
        Corp { dir, upstream, forbidden, database }
    }

    /// Downloads `module` through `run --modproxy`, where `go` is set so; whether it succeeded, what GOPROXY
    /// the command saw, and all that was said.
    fn run(&self, flags: &[&str], module: &str, vars: &[(&str, &str)]) -> (bool, String, String) {
        let home = TempDir::new();
        let script = format!(
            "echo \"$GOPROXY\" | sed 's,//[0-9.:]*,//us,'; go mod init example.com/app 2>/dev/null; \
             go mod download {module}@v1.0.0"
        );
        let mut plugin = go(&home, "run").arg("--modproxy").args(flags).args(["sh", "-c", &script]);
        for (name, value) in vars {
            plugin = plugin.env(name, value);
        }
        let out = plugin.env("GOVCS", "*:off").output();
        (out.status.success(), out.stdout.trim().to_string(), out.stderr)
    }
}

#[test]
fn modules_come_from_where_go_is_set_to_have_them() {
    let corp = Corp::new();
    let (url, other) = (corp.upstream.url(), corp.forbidden.url());
    let sumdb = format!("{} {}", corp.database.key, corp.database.url);
    let list = format!("{url},{other}");
    for (goproxy, us) in [
        (url.clone(), "http://us/mod"),
        (format!("{url},direct"), "http://us/mod,direct"),
        (format!("{url}|direct"), "http://us/mod|direct"),
        (format!("{url},off,{other}"), "http://us/mod"),
        (list, "http://us/mod"),
    ] {
        let vars = [("GOPROXY", goproxy.as_str()), ("GOSUMDB", &sumdb)];
        let (ok, seen, said) = corp.run(&[], "example.com/m", &vars);
        assert!(ok && seen == us, "{goproxy}: {seen} {said}");
        assert!(said.contains("; modules: ") && said.lines().count() == 1, "{goproxy}: {said}");
    }
    assert_eq!(corp.upstream.count("/example.com/m/@v/v1.0.0.zip"), 5);
    // whether it knows of the database, as go would ask it
    let asked = corp.forbidden.seen();
    assert!(!asked.is_empty() && asked.iter().all(|(path, _)| path == "/sumdb/sumdb.test/supported"), "{asked:?}");
    // --upstream wins
    let upstream = format!("--upstream={url}");
    let (ok, seen, said) = corp.run(&[&upstream], "example.com/m", &[("GOPROXY", &other), ("GOSUMDB", &sumdb)]);
    assert!(ok && seen == "http://us/mod", "{seen} {said}");
    // what `go env -w` has written counts, and a variable more
    let env = corp.dir.write("go.env", &format!("GOPROXY={url}\nGOSUMDB=off\n"));
    let env = env.to_str().unwrap();
    let (ok, _, said) = corp.run(&[], "example.com/m", &[("GOENV", env)]);
    assert!(ok, "{said}");
    let (ok, _, said) = corp.run(&[], "example.com/m", &[("GOENV", env), ("GOPROXY", "off")]);
    assert!(!ok, "{said}");
    assert_eq!(corp.forbidden.seen(), asked);
}

#[test]
fn off_and_direct_ask_nobody() {
    let corp = Corp::new();
    for (goproxy, us) in [
        ("off", "http://us/mod"),
        ("direct", "http://us/mod,direct"),
        (" direct |https://127.0.0.1:1,off", "http://us/mod,direct"),
    ] {
        let vars = [("GOPROXY", goproxy), ("GOSUMDB", "off"), ("HTTPS_PROXY", "http://127.0.0.1:1")];
        let (ok, seen, said) = corp.run(&[], "example.com/m", &vars);
        assert!(!ok && seen == us, "{seen} {said}");
        assert!(said.contains("; modules: ") && said.contains(" 0 requests upstream"), "{said}");
    }
    let (ok, _, said) = corp.run(&[], "example.com/m", &[("GOPROXY", "proxy")]);
    assert!(!ok && said.contains("GOPROXY \"proxy\": ") && said.lines().count() == 1, "{said}");
    // a host alone is https, as for go
    let (ok, _, said) = corp.run(&[], "example.com/m", &[("GOPROXY", "127.0.0.1:1/x"), ("GOSUMDB", "off")]);
    assert!(!ok && said.contains("https://127.0.0.1:1/x/example.com/m/@v/v1.0.0.info: "), "{said}");
    let (ok, _, said) = corp.run(&[], "example.com/m", &[("GOSUMDB", "sum.example")]);
    assert!(!ok && said.contains("GOSUMDB \"sum.example\": ") && said.lines().count() == 1, "{said}");
}

#[test]
fn private_modules_are_gos_own_and_checked_by_nobody() {
    let corp = Corp::new();
    let (url, sumdb) = (corp.upstream.url(), format!("{} http://127.0.0.1:1", corp.database.key));
    // go fetches it from its origin, which it may not reach here
    for name in ["GOPRIVATE", "GONOPROXY"] {
        let vars = [
            ("GOPROXY", url.as_str()),
            ("GOSUMDB", "off"),
            (name, "example.com/secret"),
            ("HTTPS_PROXY", "http://127.0.0.1:1"),
        ];
        let (ok, _, said) = corp.run(&[], "example.com/secret/m", &vars);
        assert!(!ok && corp.upstream.seen().is_empty(), "{name}: {said}");
    }
    // the database gives no answer, which is needed for what is not exempt alone
    for (vars, unverified) in [
        (&[("GONOSUMDB", "example.com/secret")][..], false),
        (&[("GOPRIVATE", "example.com/secret"), ("GONOPROXY", "none")], false),
        (&[("GONOSUMDB", "example.com/other")], true),
    ] {
        let vars = [&[("GOPROXY", url.as_str()), ("GOSUMDB", &sumdb)], vars].concat();
        let (ok, _, said) = corp.run(&[], "example.com/secret/m", &vars);
        assert_eq!((ok, said.contains("unverified")), (!unverified, unverified), "{vars:?}: {said}");
    }
}
