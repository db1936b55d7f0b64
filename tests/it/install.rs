//! `.github/install.sh` against a server: what it installs, and that nothing else ever lands.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::support::env::{Output, Running, TempDir, binary, copy, once_per_build, poll, program, run, scrubbed};
use crate::support::upstream::{Fault, Upstream};

const NAME: &str = "go-cache-plugin-x86_64-unknown-linux-musl";
const SUMS: &str = "releases/latest/download/SHA256SUMS";

/// A release on a server, and a home without anything in it.
pub struct Release {
    pub server: Upstream,
    pub dir: TempDir,
}

impl Release {
    /// The binary under test, as latest and as v1.2.3.
    pub fn new() -> Self {
        let packed = once_per_build("release", |making| {
            let pack = format!(
                "mkdir {NAME} && strip -o {NAME}/go-cache-plugin {} && tar -cf - {NAME} | gzip -1 > {NAME}.tar.gz && \
                 sha256sum {NAME}.tar.gz > SHA256SUMS",
                binary()
            );
            assert!(Command::new("sh").args(["-c", &pack]).current_dir(making).status().unwrap().success());
        });
        let dir = TempDir::new();
        let release = dir.dir("releases/latest/download");
        copy(&packed, &["SHA256SUMS", &format!("{NAME}.tar.gz")], &release);
        copy(&packed, &[NAME], &dir.join("releases"));
        dir.dir("releases/download");
        symlink(&release, dir.join("releases/download/v1.2.3")).unwrap();
        Release { server: Upstream::start(dir.path()), dir }
    }

    /// `install.sh` in a home of its own.
    fn command(&self) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".github/install.sh");
        let mut command = scrubbed("sh", &self.dir.dir("home"));
        command.arg(script).env("GO_CACHE_PLUGIN_URL", format!("{}/releases", self.server.url()));
        command.env("GO_CACHE_PLUGIN_TARGET", NAME.trim_start_matches("go-cache-plugin-"));
        command
    }

    fn install(&self, set: impl FnOnce(&mut Command) -> &mut Command) -> Output {
        let mut command = self.command();
        set(&mut command);
        run(command)
    }

    /// What is in the directory that binaries go to.
    fn installed(&self) -> Vec<PathBuf> {
        let bin = self.dir.join("home/.local/bin");
        std::fs::read_dir(bin).map_or(Vec::new(), |all| all.map(|entry| entry.unwrap().path()).collect())
    }

    /// The program as it was packed.
    fn program(&self) -> Vec<u8> {
        std::fs::read(self.dir.join("releases").join(NAME).join("go-cache-plugin")).unwrap()
    }

    fn archive(&self) -> PathBuf {
        self.dir.join(&format!("releases/latest/download/{NAME}.tar.gz"))
    }

    /// That it fails with one line of ours that says `what`, and leaves only what was there.
    #[track_caller]
    fn refuses(&self, what: &str, set: impl FnOnce(&mut Command) -> &mut Command) {
        let before = self.installed();
        let out = self.install(set).code(1);
        let ours: Vec<&str> = out.stderr.lines().filter(|line| line.starts_with("install.sh: ")).collect();
        assert!(ours.len() == 1 && ours[0].contains(what), "{what}{}", out.describe());
        assert_eq!(self.installed(), before, "{}", out.describe());
    }
}

/// A PATH of a few programs alone.
fn only(dir: &TempDir, programs: &[&str]) -> PathBuf {
    let bin = dir.dir(&format!("path-{}", programs.join("-")));
    for name in programs {
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
            .unwrap_or_else(|| panic!("{name} is on PATH"));
        symlink(found, bin.join(name)).unwrap();
    }
    bin
}

/// What the script calls beside what downloads.
const TOOLS: [&str; 11] = ["sh", "cut", "gzip", "mkdir", "mktemp", "mv", "rm", "sed", "sha256sum", "tar", "uname"];

#[test]
fn what_a_release_has_is_installed() {
    let release = Release::new();
    let out = release.install(|c| c).ok();
    let program = release.dir.join("home/.local/bin/go-cache-plugin");
    assert!(out.stdout.ends_with(&format!(": {}\n", program.display())), "{}", out.describe());
    assert!(out.stderr.contains("is not in PATH"), "{}", out.describe());
    assert_eq!(std::fs::read(&program).unwrap(), release.program());
    assert_eq!(release.installed(), std::slice::from_ref(&program), "nothing beside it");

    // over what is there, by version, elsewhere, by a hash of one's own
    std::fs::write(&program, "an old one").unwrap();
    let bin = release.dir.dir("elsewhere");
    let path = std::env::join_paths([bin.clone(), PathBuf::from("/usr/bin"), PathBuf::from("/bin")]).unwrap();
    let sums = std::fs::read_to_string(release.dir.join(SUMS)).unwrap();
    std::fs::remove_file(release.dir.join(SUMS)).unwrap();
    release
        .install(|c| {
            let pinned = c.env("GO_CACHE_PLUGIN_VERSION", "1.2.3").env("GO_CACHE_PLUGIN_SHA256", &sums[..64]);
            pinned.env("GO_CACHE_PLUGIN_DIR", &bin).env("PATH", path)
        })
        .ok()
        .quiet();
    assert!(bin.join("go-cache-plugin").is_file());
    assert_eq!(release.server.count(&format!("/releases/download/v1.2.3/{NAME}.tar.gz")), 1);
    assert_eq!(std::fs::read(&program).unwrap(), b"an old one");

    // written in YAML, which no shell reads
    release.install(|c| c.env("GO_CACHE_PLUGIN_DIR", "~/my bin").env("GO_CACHE_PLUGIN_SHA256", &sums[..64])).ok();
    assert_eq!(std::fs::read(release.dir.join("home/my bin/go-cache-plugin")).unwrap(), release.program());

    // without curl: wget; without the variable: this machine's target
    std::fs::write(release.dir.join(SUMS), sums).unwrap();
    let mut tools = TOOLS.to_vec();
    tools.push("wget");
    let wget = only(&release.dir, &tools);
    release.install(|c| c.env("PATH", wget).env_remove("GO_CACHE_PLUGIN_TARGET")).ok();
    assert_eq!(std::fs::read(&program).unwrap(), release.program());
}

#[test]
fn broken_downloads_install_nothing() {
    let release = Release::new();
    std::fs::create_dir_all(release.dir.join("home/.local/bin")).unwrap();
    std::fs::write(release.dir.join("home/.local/bin/go-cache-plugin"), "an old one").unwrap();
    let good = std::fs::read(release.archive()).unwrap();
    let sums = std::fs::read_to_string(release.dir.join(SUMS)).unwrap();
    let wget = {
        let mut tools = TOOLS.to_vec();
        tools.push("wget");
        only(&release.dir, &tools)
    };

    for fault in [Fault::Status(404), Fault::Status(403), Fault::Truncated, Fault::Down] {
        release.server.set(fault);
        release.refuses("cannot fetch ", |c| c);
        release.refuses("cannot fetch ", |c| c.env("GO_CACHE_PLUGIN_SHA256", &sums[..64]));
    }
    release.server.set(Fault::Status(404));
    release.refuses("cannot fetch ", |c| c.env("PATH", &wget));
    release.server.set(Fault::Html);
    release.refuses("has no line for ", |c| c);
    for fault in [Fault::Html, Fault::Half] {
        release.server.set(fault);
        release.refuses("is not what it should be", |c| c.env("GO_CACHE_PLUGIN_SHA256", &sums[..64]));
    }
    release.server.set(Fault::None);

    std::fs::write(release.archive(), &good[..good.len() - 1]).unwrap();
    release.refuses("is not what it should be", |c| c);
    std::fs::write(release.archive(), &good).unwrap();
    std::fs::write(release.dir.join(SUMS), sums.replace("musl", "gnu")).unwrap();
    release.refuses("has no line for ", |c| c);
    std::fs::remove_file(release.dir.join(SUMS)).unwrap();
    release.refuses("cannot fetch ", |c| c);
    std::fs::write(release.dir.join(SUMS), &sums).unwrap();

    release.refuses("is not what it should be", |c| c.env("GO_CACHE_PLUGIN_SHA256", "0".repeat(64)));
    release.refuses("cannot fetch ", |c| c.env("GO_CACHE_PLUGIN_VERSION", "9.9.9"));
    release.refuses("GO_CACHE_PLUGIN_URL is not set", |c| c.env_remove("GO_CACHE_PLUGIN_URL"));
    release.refuses("HOME is not set", |c| c.env_remove("HOME"));
    let file = release.dir.write("file", "");
    release.refuses("set GO_CACHE_PLUGIN_DIR to another", |c| c.env("GO_CACHE_PLUGIN_DIR", file.join("bin")));
    let closed = Path::new("/proc/self");
    release.refuses("set GO_CACHE_PLUGIN_DIR to another", |c| c.env("GO_CACHE_PLUGIN_DIR", closed));
    let neither = only(&release.dir, &TOOLS);
    release.refuses("neither curl nor wget", |c| c.env("PATH", neither));

    // what hashes right and does not run
    let fake = release.dir.dir("fake").join(NAME);
    std::fs::create_dir_all(&fake).unwrap();
    std::fs::write(fake.join("go-cache-plugin"), "#!/nonexistent/interpreter\n").unwrap();
    std::fs::set_permissions(fake.join("go-cache-plugin"), PermissionsExt::from_mode(0o755)).unwrap();
    let pack = format!("tar -czf {0} -C {1} {NAME}", release.archive().display(), fake.parent().unwrap().display());
    assert!(Command::new("sh").args(["-c", &pack]).status().unwrap().success());
    let hash = run({
        let mut command = Command::new("sha256sum");
        command.arg(release.archive());
        command
    });
    release.refuses("does not run here", |c| c.env("GO_CACHE_PLUGIN_SHA256", &hash.stdout[..64]));
    assert_eq!(std::fs::read(release.dir.join("home/.local/bin/go-cache-plugin")).unwrap(), b"an old one");
}

#[test]
fn each_machine_gets_its_own_build() {
    let release = Release::new();
    let bin = only(&release.dir, &[&TOOLS[..], &["curl"]].concat());
    program(&bin.join("uname"), "[ $1 = -s ] && echo $SYSTEM || echo $MACHINE");
    program(&bin.join("sysctl"), "echo ${TRANSLATED:-0}");
    let on = |system: &str, machine: &str, more: &str, what: &str| {
        release.refuses(what, |c| {
            let c = c.env("SYSTEM", system).env("MACHINE", machine).env("TRANSLATED", more).env("PATH", &bin);
            c.env_remove("GO_CACHE_PLUGIN_TARGET").env("GO_CACHE_PLUGIN_SHA256", "0".repeat(64))
        });
    };
    on("Linux", "x86_64", "", "x86_64-unknown-linux-musl.tar.gz is not what");
    on("Linux", "amd64", "", "x86_64-unknown-linux-musl.tar.gz is not what");
    on("Linux", "aarch64", "", "cannot fetch http");
    for (system, machine, more, target) in [
        ("Linux", "arm64", "", "aarch64-unknown-linux-musl"),
        ("Darwin", "arm64", "", "aarch64-apple-darwin"),
        ("Darwin", "x86_64", "", "x86_64-apple-darwin"),
        ("Darwin", "x86_64", "1", "aarch64-apple-darwin"),
    ] {
        on(system, machine, more, &format!("/latest/download/go-cache-plugin-{target}.tar.gz"));
    }
    on("Linux", "riscv64", "", "there is no build for Linux on riscv64");
    on("FreeBSD", "amd64", "", "there is no build for FreeBSD");

    // the hash by whichever program is there, into a home whose name is two words
    let home = release.dir.dir("my home");
    let install = |bin: &Path| {
        let out = release.install(|c| c.env("PATH", bin).env("HOME", &home)).ok();
        assert!(out.stdout.ends_with("/my home/.local/bin/go-cache-plugin\n"), "{}", out.describe());
        std::fs::remove_file(home.join(".local/bin/go-cache-plugin")).expect("it is there");
    };
    install(&bin);
    let real = bin.join("sha256sum").canonicalize().unwrap();
    program(
        &bin.join("openssl"),
        &format!("[ \"$1 $2 $3\" = \"dgst -sha256 -r\" ] && exec {} -b \"$4\"", real.display()),
    );
    std::fs::remove_file(bin.join("sha256sum")).unwrap();
    install(&bin);
    program(&bin.join("openssl"), "exit 1");
    program(&bin.join("shasum"), &format!("[ \"$1 $2\" = \"-a 256\" ] && exec {} \"$3\"", real.display()));
    install(&bin);
    for name in ["openssl", "shasum"] {
        std::fs::remove_file(bin.join(name)).unwrap();
    }
    release.refuses("none of sha256sum, shasum and openssl", |c| c.env("PATH", &bin));
}

#[test]
fn a_proxy_is_asked_for_releases() {
    let release = Release::new();
    // what a proxy is asked for is a whole URL
    symlink(release.dir.path(), release.dir.dir("http:").join("releases.invalid")).unwrap();
    let wget = only(&release.dir, &[&TOOLS[..], &["wget"]].concat());
    let path = std::env::var_os("PATH").unwrap();
    for path in [path, wget.into()] {
        release
            .install(|c| {
                let c = c.env("GO_CACHE_PLUGIN_URL", "http://releases.invalid/releases").env("PATH", path);
                c.env("http_proxy", release.server.url())
            })
            .ok();
    }
    assert_eq!(release.server.count(&format!("http://releases.invalid/{SUMS}")), 2);
}

#[test]
fn half_of_it_and_an_interrupted_one_do_nothing() {
    let release = Release::new();
    let script = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(".github/install.sh")).unwrap();
    let half = release.dir.write("half.sh", script.strip_suffix("main\n").expect("main is its last line"));
    let mut command = scrubbed("sh", &release.dir.dir("home"));
    command.arg(half).env("GO_CACHE_PLUGIN_URL", format!("{}/releases", release.server.url()));
    run(command).ok().quiet();
    assert!(release.server.seen().is_empty());

    // the signal goes to all of them, as that of ^C does; who runs the tests may have SIGINT ignored
    release.server.set(Fault::Slow(Duration::from_secs(60)));
    let mut command = release.command();
    command.process_group(0);
    let mut running = Running::start(command, Stdio::null());
    poll("the request", || (!release.server.seen().is_empty()).then_some(()));
    assert_eq!(release.installed().len(), 1, "its temporary directory");
    kill_process_group(Pid::from_raw(running.pid() as i32).unwrap(), Signal::TERM).unwrap();
    let out = running.wait();
    assert!(!out.status.success(), "{}", out.describe());
    assert!(release.installed().is_empty(), "{:?}", release.installed());
}
