//! Running `go build` on a copy of the machine's Go tree, in an environment of its own.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::memory::MEMORY;
use super::plugin::{self, Report, WATCH, Watch};
use super::scratch::Scratch;
use super::{Result, s3, table, turns};

/// Go, and where the benches work.
pub struct Go {
    /// The copied tree: `src` may be changed, the rest are links to the original.
    pub root: PathBuf,
    /// Where the benches write.
    pub scratch: Scratch,
    /// Where `go` is started.
    pub dir: PathBuf,
    /// What it is told to do with packages: `build`, `vet`.
    pub verb: &'static str,
}

/// Where a build keeps its outputs.
pub enum Cache<'a> {
    /// Go's own cache, in this directory.
    Native(&'a Path),
    /// The program under test, with these flags, unobserved.
    Plugin(&'a [String]),
    /// The same, watched.
    Watched(&'a [String], Watch),
    /// A program that answers from memory, with this index.
    Memory(&'a Path),
}

/// One `go build`.
pub struct Build {
    /// From start to exit of `go`.
    pub wall: Duration,
    /// CPU seconds of `go` and all that it started.
    pub cpu: f64,
    /// With [`Cache::Watched`].
    pub report: Option<Report>,
    /// What `go` printed (`-x`).
    pub stderr: String,
}

impl Go {
    /// Finds `go` on the PATH and copies its tree below cargo's scratch directory, once.
    pub fn find() -> Result<Self> {
        let scratch = Scratch::open()?;
        let out = Command::new("go").args(["env", "GOROOT", "GOVERSION"]).env("GOTOOLCHAIN", "local").output();
        let out = out.map_err(|e| format!("go: {e}; the benches need Go on the PATH"))?;
        let text = String::from_utf8(out.stdout)?;
        let mut lines = text.lines();
        let (Some(original), Some(version)) = (lines.next(), lines.next()) else {
            return Err("go env: no GOROOT".into());
        };
        let root = scratch.join(version);
        let done = root.join("copied");
        if !done.exists() {
            table::progress(&format!("copying {original}/src to {}", root.display()));
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(&root)?;
            for entry in fs::read_dir(original)? {
                let entry = entry?;
                match entry.file_name() {
                    name if name == "src" => copy_tree(&entry.path(), &root.join(name))?,
                    name => symlink(entry.path(), root.join(name))?,
                }
            }
            fs::write(done, "")?;
        }
        Ok(Go { root, dir: scratch.join("home"), scratch, verb: "build" })
    }

    /// `go` with nothing of the caller's environment but the PATH.
    pub fn command(&self, gocache: &Path) -> Command {
        let mut go = Command::new(self.root.join("bin/go"));
        let home = self.scratch.join("home");
        go.env_clear()
            .current_dir(&self.dir)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("GOROOT", &self.root)
            .env("GOCACHE", gocache)
            .env("GOPATH", home.join("go"))
            .env("GOMODCACHE", home.join("go/pkg/mod"))
            .env("HOME", &home)
            .envs(s3::credentials())
            .stdin(Stdio::null());
        for (name, value) in
            [("GOTOOLCHAIN", "local"), ("GOENV", "off"), ("GOFLAGS", ""), ("GOPROXY", "off"), ("GOTELEMETRY", "off")]
        {
            go.env(name, value);
        }
        go
    }

    /// Builds `packages` and measures. What earlier runs left to be written goes to disk first.
    pub fn build(&self, packages: &[&str], cache: &Cache) -> Result<Build> {
        let report = self.scratch.join("report.json");
        // with GOCACHEPROG set, go still puts a few files of its own here
        let aside = self.scratch.join("gocache-aside");
        let mut go = match cache {
            Cache::Native(dir) => self.command(dir),
            Cache::Plugin(flags) => {
                let mut go = self.command(&aside);
                go.env("GOCACHEPROG", prog([turns::program()].into_iter().chain(flags.iter().map(String::as_str))));
                go
            }
            Cache::Memory(index) => {
                let (bench, index) = (std::env::current_exe()?, index.to_string_lossy());
                let mut go = self.command(&aside);
                go.env("GOCACHEPROG", prog([&*bench.to_string_lossy(), MEMORY, &index].into_iter()));
                go
            }
            Cache::Watched(flags, watch) => {
                let _ = fs::remove_file(&report);
                let mode = if *watch == Watch::Tap { "tap" } else { "plain" };
                let (watcher, report) = (std::env::current_exe()?, report.to_string_lossy());
                let watcher = watcher.to_string_lossy();
                let words = [&*watcher, WATCH, &report, mode, turns::program(), "--metrics"];
                let mut go = self.command(&aside);
                go.env("GOCACHEPROG", prog(words.into_iter().chain(flags.iter().map(String::as_str))));
                go
            }
        };
        go.arg(self.verb).args(packages).stdout(Stdio::null());
        rustix::fs::sync();
        let cpu = plugin::children_cpu();
        let start = Instant::now();
        let out = go.stderr(Stdio::piped()).spawn()?.wait_with_output()?;
        let wall = start.elapsed();
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        if !out.status.success() {
            return Err(format!("go {} {}: {}\n{stderr}", self.verb, packages.join(" "), out.status).into());
        }
        let report = match cache {
            Cache::Watched(..) => Some(plugin::read_report(&report)?),
            _ => None,
        };
        for line in report.iter().flat_map(Report::complaints).take(5) {
            table::progress(&format!("  the program said: {line}"));
        }
        Ok(Build { wall, cpu: plugin::children_cpu() - cpu, report, stderr })
    }
}

/// Words as GOCACHEPROG takes them.
fn prog<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.map(|w| format!("'{w}'")).collect::<Vec<_>>().join(" ")
}

/// Copies a directory with its files' modification times, which Go's package index goes by.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            fs::File::options().append(true).open(&target)?.set_modified(entry.metadata()?.modified()?)?;
        }
    }
    Ok(())
}
