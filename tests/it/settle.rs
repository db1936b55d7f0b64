//! `settle`, with the real git and the real go: times follow from what files hold, and no edit is missed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};

use crate::support::env::{Output, Plugin, TempDir, binary, program, run, scrubbed};
use crate::support::go::{self, Work};

/// A time: seconds and nanoseconds.
type Time = (i64, i64);

fn time(path: impl AsRef<Path>) -> Time {
    let seen = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()));
    (seen.mtime(), seen.mtime_nsec())
}

fn is_settled(time: Time) -> bool {
    (946_684_800..1_577_836_800).contains(&time.0)
}

fn set_time(path: &Path, (tv_sec, tv_nsec): Time) {
    let last_modification = Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("the file is ours");
}

/// git, with nobody's configuration but ours.
fn git_command(dir: &Path) -> Command {
    let mut git = scrubbed("git", dir);
    git.env("GIT_CONFIG_NOSYSTEM", "1");
    for setting in ["user.name=t", "user.email=t@example.com", "protocol.file.allow=always", "init.defaultBranch=main"]
    {
        git.args(["-c", setting]);
    }
    git
}

fn git(dir: &Path, args: &[&str]) -> String {
    let mut git = git_command(dir);
    git.args(args);
    run(git).ok().stdout
}

fn commit(dir: &Path) {
    git(dir, &["add", "--all"]);
    git(dir, &["commit", "--quiet", "--message=x"]);
}

fn write(path: PathBuf, text: impl AsRef<[u8]>) -> PathBuf {
    fs::create_dir_all(path.parent().expect("a joined path has a parent")).expect("directory");
    fs::write(&path, text).expect("file");
    path
}

fn settle(home: &TempDir, dir: &Path, args: &[&str]) -> Output {
    Plugin::new(home).env("GIT_CONFIG_NOSYSTEM", "1").current_dir(dir).arg("settle").args(args).output()
}

/// The counts that `--json` gives.
fn counts(home: &TempDir, dir: &Path, args: &[&str]) -> serde_json::Value {
    let out = settle(home, dir, &[&["--json"], args].concat()).ok().quiet();
    serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}{}", out.describe()))
}

fn is_clean(dir: &Path) -> bool {
    // no look at the files: the index knows the times
    let mut diff = git_command(dir);
    diff.args(["diff-files", "--quiet"]);
    git(dir, &["status", "--porcelain"]).is_empty() && run(diff).status.success()
}

#[test]
fn checkouts_of_one_commit_have_the_same_times() {
    let home = TempDir::new();
    let origin = home.dir("origin");
    git(&origin, &["init", "--quiet"]);
    for (name, text) in
        [("a.go", "package a\n"), ("d/e/b.txt", "one"), ("d/e/c.txt", "two"), ("d/same.txt", "one"), ("z/z", "z")]
    {
        write(origin.join(name), text);
    }
    write(origin.join(OsStr::from_bytes(b"d/new\nline\xff")), "odd");
    write(origin.join("empty"), "");
    symlink("/etc/passwd", origin.join("d/link")).expect("link");
    fs::set_permissions(origin.join("a.go"), PermissionsExt::from_mode(0o755)).expect("mode");
    commit(&origin);
    let old = [origin.join("a.go"), PathBuf::from("/etc/passwd")].map(time);
    let of = |name: &str, args: &[&str]| {
        git(home.path(), &[&["clone", "--quiet"], args, &["origin", name]].concat());
        let dir = home.join(name);
        let dry = counts(&home, &dir, &["--dry-run"]);
        assert!(!is_settled(time(dir.join("a.go"))));
        let done = counts(&home, &dir, &[]);
        assert_eq!((&dry["files"], &dry["folders"]), (&done["files"], &done["folders"]));
        assert_eq!((&dry["dry_run"], &done["dry_run"]), (&true.into(), &false.into()));
        assert!(is_clean(&dir));
        dir
    };
    let [one, two] = [of("one", &[]), of("two", &["--depth=1"])];
    let names = ["", "a.go", "empty", "d", "d/e", "d/e/b.txt", "d/e/c.txt", "d/same.txt", "d/link", "d/new\nline"].map(
        |name| {
            let name = if name.ends_with("line") { b"d/new\nline\xff".to_vec() } else { name.as_bytes().to_vec() };
            PathBuf::from(OsStr::from_bytes(&name))
        },
    );
    let times = |dir: &Path| names.each_ref().map(|name| time(dir.join(name)));
    assert_eq!(times(&one), times(&two));
    assert!(times(&one).into_iter().all(is_settled), "{:?}", times(&one));
    assert_eq!(time(one.join("d/e/b.txt")), time(one.join("d/same.txt")));
    assert_ne!(time(one.join("d/e/b.txt")), time(one.join("d/e/c.txt")));
    // the time of this content, for good
    assert_eq!(time(one.join("empty")), (1_186_876_843, 320_924_354));
    assert_eq!([origin.join("a.go"), PathBuf::from("/etc/passwd")].map(time), old);
    assert_eq!(counts(&home, &one, &["--dry-run"])["files"]["already"], 8);

    // nothing is written again
    let changed = |dir: &Path| names.each_ref().map(|n| fs::symlink_metadata(dir.join(n)).expect("there").ctime_nsec());
    let before = changed(&one);
    assert_eq!(counts(&home, &one, &[])["folders"]["already"], 4);
    assert_eq!(changed(&one), before);
    // a folder alone, from elsewhere; a linked work tree; one of which only a part is checked out
    git(&origin, &["worktree", "add", "--quiet", "--detach", "../linked"]);
    let linked = home.join("linked");
    let out = settle(&home, home.path(), &["linked/d/e"]).ok().quiet();
    assert_eq!(
        out.stdout,
        "settled 2 files and 1 folder; 0 files and 0 folders were so already; 0 changed files and 0 folders keep their times\n"
    );
    assert!(!is_settled(time(linked.join("d/same.txt"))));
    assert_eq!(time(linked.join("d/e")), time(one.join("d/e")));
    git(&linked, &["sparse-checkout", "set", "--sparse-index", "d/e"]);
    counts(&home, &linked.join("d"), &[]);
    assert_eq!(time(linked.join("a.go")), time(one.join("a.go")));
    assert_eq!(time(linked.join("d")), time(one.join("d")));
    assert!(
        time(&linked) != time(&one) && is_settled(time(&linked)),
        "it holds less: no {}",
        linked.join("z").display()
    );
    assert!(is_clean(&linked) && !linked.join("z").exists());
}

#[test]
fn what_is_not_as_git_has_it_keeps_its_time() {
    let home = TempDir::new();
    let (origin, module, dir) = (home.dir("origin"), home.dir("module"), home.join("dir"));
    for (dir, names) in [
        (&module, &["m/in.txt"][..]),
        (&origin, &["kept/tracked", "dirty/edited", "dirty/same", "hard/one", "hard/two", "hard/other", "bare/x"]),
        (&origin, &["swapped/file", "locked/file", "nested/file", "assumed/file", "gone/file", "typed/file"]),
    ] {
        git(dir, &["init", "--quiet"]);
        names.iter().for_each(|name| drop(write(dir.join(name), if name.starts_with("hard") { "h" } else { name })));
        commit(dir);
    }
    git(&origin, &["submodule", "--quiet", "add", "../module", "sub"]);
    git(&origin, &["submodule", "--quiet", "add", "../module", "unfetched"]);
    git(&origin, &["submodule", "--quiet", "add", "../module", "elsewhere/sub"]);
    commit(&origin);
    git(home.path(), &["clone", "--quiet", "origin", "dir"]);
    git(&dir, &["submodule", "--quiet", "update", "--init", "sub"]);
    let at = |name: &str| dir.join(name);

    write(at("kept/untracked"), "x");
    write(at("dirty/edited"), "dirty/EDITED");
    for (from, to) in [("hard/one", "hard/two"), ("hard/other", "hard/untracked")] {
        let _ = fs::remove_file(at(to));
        fs::hard_link(at(from), at(to)).expect("hard link");
    }
    // folders that became links to ones elsewhere, with a file of that name and content, and a repository
    let outside = write(home.join("outside/file"), "swapped/file");
    git(home.path(), &["clone", "--quiet", "module", "outside/sub"]);
    let outside = [outside, home.join("outside/sub/m/in.txt"), home.join("outside/sub")];
    fs::remove_dir_all(at("swapped")).expect("removable");
    symlink("../outside", at("swapped")).expect("link");
    git(&at("nested"), &["init", "--quiet", "repository"]);
    git(&dir, &["update-index", "--assume-unchanged", "assumed/file"]);
    write(at("assumed/file"), "ASSUMED/file");
    fs::remove_file(at("gone/file")).expect("removable");
    fs::remove_file(at("typed/file")).expect("removable");
    symlink("target", at("typed/file")).expect("link");
    fs::set_permissions(at("locked"), PermissionsExt::from_mode(0o555)).expect("mode");

    let keep = ["kept", "kept/untracked", "dirty", "dirty/edited", "hard", "hard/other", "hard/untracked", "swapped"];
    let keep = [&keep[..], &["nested", "assumed", "assumed/file", "typed", "typed/file", ""]].concat();
    let before: Vec<Time> = keep.iter().map(|name| time(at(name))).chain(outside.iter().map(time)).collect();
    let out = settle(&home, &dir, &["-v"]).ok();
    let after: Vec<Time> = keep.iter().map(|name| time(at(name))).chain(outside.iter().map(time)).collect();
    assert_eq!(before, after, "{keep:?}{}", out.describe());
    assert!(out.stderr.contains("dirty/edited keeps its time\n"), "{}", out.describe());
    for name in ["kept/tracked", "dirty/same", "hard/one", "hard/two", "locked/file", "locked", "nested/file"] {
        assert!(is_settled(time(at(name))), "{name}{}", out.describe());
    }
    for name in ["sub/m/in.txt", "sub/m", "sub", "unfetched", ".gitmodules", "gone"] {
        assert!(is_settled(time(at(name))), "{name}{}", out.describe());
    }
    assert_eq!(time(at("hard/one")), time(at("hard/two")));
    fs::set_permissions(at("locked"), PermissionsExt::from_mode(0o755)).expect("mode");
    let status = git(&dir, &["status", "--porcelain"]);
    assert_eq!(
        status.lines().filter(|line| line.starts_with(" M")).collect::<Vec<_>>(),
        [" M dirty/edited"],
        "{status}"
    );
    assert!(is_clean(&at("sub")));

    // an edit that puts the time back, of a file that has got another name
    let (file, before_edit) = (at("nested/file"), time(at("nested/file")));
    fs::hard_link(&file, home.join("backup")).expect("hard link");
    fs::write(&file, "NESTED/file").expect("writable");
    set_time(&file, before_edit);
    settle(&home, &dir, &[]).ok().quiet();
    assert!(time(&file) != before_edit);

    // git itself gives up where a submodule would be behind a link
    fs::remove_dir_all(at("elsewhere")).expect("removable");
    symlink("../outside", at("elsewhere")).expect("link");
    let out = settle(&home, &dir, &[]).code(1);
    assert!(out.stderr.contains("not to be a symbolic link"), "{}", out.describe());
    assert_eq!(before[before.len() - 3..], outside.each_ref().map(time));
}

/// Pseudo-random numbers, the same ones each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// Random edits of equal size, most of which put the old time back: no time that was ever given to some
/// content is borne by another one.
#[test]
fn no_content_has_the_time_of_another() {
    let home = TempDir::new();
    let dir = home.dir("dir");
    git(&dir, &["init", "--quiet"]);
    let name = |n: usize| dir.join(format!("d{}/f{n}", n % 3));
    (0..12).for_each(|n| drop(write(name(n), format!("{n:04} at first"))));
    commit(&dir);
    settle(&home, &dir, &[]).ok().quiet();
    let (mut numbers, mut contents) = (Numbers(7), HashMap::<Time, Vec<u8>>::new());
    for round in 0..200 {
        let file = name(numbers.below(12));
        let old = time(&file);
        // now and then what was there before
        let text = format!("{:04} {:08}", numbers.below(3), round % 3 * numbers.below(40));
        if numbers.below(3) == 0 {
            let new = write(dir.join(".git/new"), text);
            fs::rename(new, &file).expect("renamed over");
        } else {
            fs::write(&file, text).expect("written over");
        }
        if numbers.below(4) != 0 {
            set_time(&file, old);
        }
        match numbers.below(10) {
            0 => commit_all(&dir),
            1 => drop(git(&dir, &["checkout", "--quiet", "--", "."])),
            2 => drop(git(&dir, &["-c", "core.trustctime=false", "update-index", "-q", "--refresh"])),
            _ => {}
        }
        settle(&home, &dir, &[]).ok().quiet();
        // what nobody ever settled, its writer alone gives a time
        for n in (0..12).filter(|n| is_settled(time(name(*n)))) {
            let text = fs::read(name(n)).expect("readable");
            let known = contents.entry(time(name(n))).or_insert_with(|| text.clone());
            assert_eq!(*known, text, "round {round}: {} bears the time of other bytes", name(n).display());
        }
    }
    commit_all(&dir);
    settle(&home, &dir, &[]).ok().quiet();
    assert!((0..12).all(|n| is_settled(time(name(n)))) && is_clean(&dir));
    assert!(contents.len() > 60, "{} contents", contents.len());
}

/// Commits where there is something to.
fn commit_all(dir: &Path) {
    git(dir, &["add", "--all"]);
    git(dir, &["commit", "--quiet", "--allow-empty", "--message=x"]);
}

#[test]
fn what_a_filter_made_has_a_time_of_its_own() {
    let home = TempDir::new();
    let origin = home.dir("origin");
    git(&origin, &["init", "--quiet"]);
    write(origin.join("text"), "a line\nanother\n");
    write(origin.join("shout"), "quiet");
    write(origin.join(".gitattributes"), "shout filter=case\ntext text\n.gitattributes -text\n");
    commit(&origin);
    let of = |name: &str, settings: &[&str]| {
        let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--config", setting]).collect();
        git(home.path(), &[&["clone", "--quiet"], &settings[..], &["origin", name]].concat());
        let dir = home.join(name);
        assert_eq!(counts(&home, &dir, &[])["files"]["settled"], 3);
        assert!(is_clean(&dir));
        assert_eq!(counts(&home, &dir, &[])["files"]["already"], 3);
        ["text", "shout", ".gitattributes"].map(|name| time(dir.join(name)))
    };
    let loud = ["filter.case.smudge=tr a-z A-Z", "filter.case.clean=tr A-Z a-z", "core.autocrlf=true"];
    let [plain, filtered, again] = [of("plain", &[]), of("filtered", &loud), of("again", &loud)];
    assert_eq!(fs::read(home.join("filtered/shout")).expect("there"), b"QUIET");
    assert_eq!(filtered, again);
    assert!(filtered.into_iter().all(is_settled));
    assert!(plain[0] != filtered[0] && plain[1] != filtered[1] && plain[2] == filtered[2]);
}

#[test]
fn modes_are_those_of_git_only_if_asked_for() {
    let home = TempDir::new();
    let dir = home.dir("dir");
    git(&dir, &["init", "--quiet", "--object-format=sha256"]);
    let (file, program) = (write(dir.join("d/file"), "x"), write(dir.join("d/program"), "y"));
    fs::set_permissions(&program, PermissionsExt::from_mode(0o775)).expect("mode");
    commit(&dir);
    let set = |modes: [u32; 3]| {
        for (path, mode) in [&file, &program, &dir.join("d")].into_iter().zip(modes) {
            fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("mode");
        }
    };
    let modes = || [&file, &program, &dir.join("d")].map(|p| fs::metadata(p).expect("there").mode() & 0o7777);
    set([0o664, 0o775, 0o775]);
    settle(&home, &dir, &[]).ok().quiet();
    assert_eq!(modes(), [0o664, 0o775, 0o775]);
    let (group, files) = (time(dir.join("d")), [time(&file), time(&program)]);
    settle(&home, &dir, &["--modes", "--dry-run"]).ok().quiet();
    assert_eq!(modes(), [0o664, 0o775, 0o775]);
    settle(&home, &dir, &["--modes"]).ok().quiet();
    assert_eq!(modes(), [0o644, 0o755, 0o755]);
    assert_eq!([time(&file), time(&program)], files);
    assert!(group != time(dir.join("d")) && is_clean(&dir));
    // another mode than git's is a change, unless git is told to go by its own
    set([0o755, 0o755, 0o755]);
    settle(&home, &dir, &["--modes"]).ok().quiet();
    assert_eq!(modes()[0], 0o755);
    git(&dir, &["config", "core.fileMode", "false"]);
    settle(&home, &dir, &["--modes"]).ok().quiet();
    assert_eq!(modes(), [0o644, 0o755, 0o755]);
    assert!(is_settled(time(&file)) && is_clean(&dir));
}

/// `settle` of `what` in `dir`, where git does something else when it is to refresh its index.
fn settle_with(home: &TempDir, dir: &Path, what: &str, instead: &str) {
    let bin = home.dir("bin");
    let script = format!("PATH=${{PATH#*:}}\ncase \"$*\" in *--refresh*) {instead};; esac\nexec git \"$@\"");
    program(&bin.join("git"), &script);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&path))).expect("joins");
    Plugin::new(home).env("PATH", path).current_dir(dir).args(["settle", what]).output().ok().quiet();
}

#[test]
fn git_need_not_read_again_what_was_read() {
    let home = TempDir::new();
    for (name, format, settings, alone) in [
        ("two", "sha1", "index.version=2", true),
        ("three", "sha1", "index.version=3", true),
        ("four", "sha1", "index.version=4", true),
        ("sha256", "sha256", "index.skipHash=true", true),
        ("split", "sha1", "core.splitIndex=true", false),
    ] {
        let dir = home.dir(name);
        git(&dir, &["init", "--quiet", &format!("--object-format={format}")]);
        let (key, value) = settings.split_once('=').expect("a setting");
        git(&dir, &["config", key, value]);
        let long = "long".repeat(60);
        for file in ["a", "b/c/d1", "b/c/d23", "b/c/d456", "e", &long, &format!("b/{long}")] {
            write(dir.join(file), file);
        }
        symlink("a", dir.join("link")).expect("link");
        commit(&dir);
        // flags that version 2 has no room for
        git(&dir, &["update-index", if name == "three" { "--skip-worktree" } else { "--no-skip-worktree" }, "e"]);
        let index = fs::read(dir.join(".git/index")).expect("an index");
        assert_eq!(
            index[7],
            if name == "three" {
                3
            } else if name == "four" {
                4
            } else {
                2
            },
            "{name}"
        );
        for what in ["", "b/c"] {
            // before git status, which would write it anew
            settle_with(&home, &dir, what, if alone { "exit 0" } else { ":" });
            git(&dir, &["diff-files", "--quiet"]);
            fs::File::open(dir.join("b/c/d1")).expect("there").set_modified(SystemTime::now()).expect("time");
        }
        settle_with(&home, &dir, "", ":");
        assert!(is_clean(&dir) && is_settled(time(dir.join("b/c/d456"))), "{name}");
        git(&dir, &["fsck", "--strict"]);
        assert_eq!(fs::metadata(dir.join(".git/index")).expect("an index").mode() & 0o777, 0o644, "{name}");
    }
}

#[test]
fn an_edit_while_it_works_is_seen() {
    let home = TempDir::new();
    let dir = home.dir("dir");
    git(&dir, &["init", "--quiet"]);
    let file = write(dir.join("file"), "before");
    commit(&dir);
    // after the times were set, and before git looks: the file is written, and its time put back
    settle_with(&home, &dir, "", "cp -p file old; printf AFTER. >file; touch -r old file; rm old");
    assert_eq!(fs::read(&file).expect("there"), b"AFTER.");
    let edited = time(&file);
    fs::write(&file, "before").expect("writable");
    settle(&home, &dir, &[]).ok().quiet();
    assert!(edited != time(&file) && is_settled(time(&file)), "{edited:?}");
}

#[test]
fn errors_say_what_to_do() {
    let home = TempDir::new();
    let dir = home.dir("dir");
    let failed = |plugin: Plugin, want: &str| {
        let out = plugin.env("GIT_CEILING_DIRECTORIES", "/").output().code(1);
        assert!(out.stderr.contains(want) && out.stderr.lines().count() == 1, "{want}{}", out.describe());
    };
    let plugin = |args: &[&str]| Plugin::new(&home).current_dir(&dir).arg("settle").args(args);
    failed(plugin(&[]), "settle: not a git repository");
    failed(plugin(&["absent"]), "cannot change to");
    failed(plugin(&[]).env("PATH", &dir), "settle: git is not on PATH");
    git(&dir, &["init", "--quiet"]);
    // nothing is tracked, and what is not is left alone
    assert_eq!(counts(&home, &dir, &[])["folders"]["settled"], 0);
    let file = write(dir.join("file"), "x");
    commit(&dir);
    let foreign = plugin(&[]).env("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1");
    failed(foreign, "detected dubious ownership in repository at");
    failed(plugin(&[]).env("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1"), "git config --global --add safe.directory");
    failed(plugin(&[".git"]), "not in a work tree");
    assert!(!is_settled(time(&file)));
    let lock = write(dir.join(".git/index.lock"), "");
    failed(plugin(&[]), "run git update-index --refresh later");
    assert!(is_settled(time(&file)), "only git does not know");
    fs::remove_file(lock).expect("removable");
    settle(&home, &dir, &[]).ok().quiet();
    assert!(is_clean(&dir));
}

#[test]
fn go_finds_its_tests_again_and_misses_no_edit() {
    let (go, work) = (go::any(), Work::new());
    let cache = go.warm(&work);
    let origin = work.dir.dir("origin");
    git(&origin, &["init", "--quiet"]);
    write(origin.join("go.mod"), format!("module example.com/m\n\ngo 1.{}\n", go.version.0));
    write(origin.join("a/a.go"), "package a\n\nconst Name = \"one\"\n");
    let test = "package a\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestData(t *testing.T) {\n\tdata, _ := os.ReadFile(\"testdata/x\")\n\tnames, _ := os.ReadDir(\"testdata\")\n\tt.Log(Name, string(data), len(names))\n}\n";
    write(origin.join("a/a_test.go"), test);
    write(origin.join("a/testdata/x"), "data one");
    commit(&origin);
    let src = work.dir.join("src");
    let checkout = || {
        let _ = fs::remove_dir_all(&src);
        git(work.dir.path(), &["clone", "--quiet", "origin", "src"]);
    };
    let test = |settled: bool| {
        let mut command = go.in_environment(scrubbed(binary(), work.dir.path()), &work);
        command.current_dir(&src).env("GOCACHE_DIR", &cache).env("GOCACHE_SETTLE", settled.to_string());
        let summary = work.dir.join("summary");
        let _ = fs::remove_file(&summary);
        command.args(["run", "go", "test", "-v", "./a"]).env("GITHUB_STEP_SUMMARY", &summary);
        let out = run(command).ok();
        assert_eq!(out.stderr.lines().count(), 1, "{}", out.describe());
        let cached = out.stdout.contains("(cached)");
        let rows = crate::signs::table(&fs::read_to_string(summary).expect("written"));
        assert_eq!(rows["tests cached"], u8::from(cached).to_string(), "{}", out.describe());
        (cached, out.stdout)
    };
    checkout();
    assert!(!test(true).0 && test(true).0);
    checkout();
    assert!(test(true).0, "a fresh checkout");
    checkout();
    assert!(!test(false).0, "without it, all times are new");
    checkout();
    assert!(test(true).0);
    // edits of equal size that put the time back, the index untouched
    for (name, old, new) in [("a/testdata/x", "data one", "data two"), ("a/a.go", "one", "two")] {
        let file = src.join(name);
        let before = time(&file);
        let text = fs::read_to_string(&file).expect("readable");
        fs::write(&file, text.replace(old, new)).expect("writable");
        set_time(&file, before);
        let (cached, said) = test(true);
        assert!(!cached && said.contains(new), "{name}: {said}");
    }

    // where there is nothing to settle, the command runs all the same
    let bare = work.dir.dir("bare");
    let mut command = go.in_environment(scrubbed(binary(), work.dir.path()), &work);
    command.current_dir(&bare).env("GOCACHE_DIR", work.dir.join("cache")).env("GIT_CEILING_DIRECTORIES", "/");
    command.args(["run", "--settle", "echo", "done"]);
    let out = run(command).ok();
    assert!(
        out.stdout == "done\n" && out.stderr.starts_with("go-cache-plugin: settle: not a git"),
        "{}",
        out.describe()
    );
}
