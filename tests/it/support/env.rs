//! Temporary directories, and the real binary in a scrubbed environment.
//!
//! A child sees PATH and TMPDIR, a HOME of its own, and what the test gives it: no `AWS_*`, no
//! `GOCACHE_*`, no GOFLAGS from outside. What fails prints the command, its directory and stderr.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// How long a test waits for what should take no time, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a whole build may take.
pub const BUILD: Duration = Duration::from_secs(900);

/// A directory that goes with the last who holds it, and stays when the test fails.
#[derive(Clone)]
pub struct TempDir(Arc<Owned>);

struct Owned(PathBuf);

impl TempDir {
    /// An empty directory.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("go-cache-plugin-it-{}-{n}", std::process::id()));
        fs::create_dir_all(&dir).expect("temporary directory");
        TempDir(Arc::new(Owned(dir.canonicalize().expect("the directory is there"))))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.0
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// A directory in it, made when it is not there.
    pub fn dir(&self, name: &str) -> PathBuf {
        let dir = self.path().join(name);
        fs::create_dir_all(&dir).expect("directory in a temporary directory");
        dir
    }

    /// Writes a file in it, with the directories on the way.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a joined path has a parent")).expect("directory for a file");
        fs::write(&path, text).expect("file in a temporary directory");
        path
    }
}

/// Writes a program of a shell's, in place of what is there. Another process writes it: one that is forked from this one
/// at that moment would hold it open, and what is open for writing cannot be started.
pub fn program(path: &Path, script: &str) {
    const WRITE: &str = "rm -f \"$1\" && printf '#!/bin/sh\\n%s\\n' \"$2\" >\"$1\" && chmod 755 \"$1\"";
    fs::create_dir_all(path.parent().expect("a joined path has a parent")).expect("directory for a program");
    let written = Command::new("sh").args(["-c", WRITE, "sh"]).arg(path).arg(script).status();
    assert!(written.expect("sh").success(), "{}", path.display());
}

impl Drop for Owned {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("left for inspection: {}", self.0.display());
        } else {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// The path of the binary under test.
pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_go-cache-plugin")
}

/// A directory below `target/` that `make` fills once for each build of the binary, for every test that copies from
/// it.
pub fn once_per_build(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let built = fs::metadata(binary()).and_then(|meta| meta.modified()).expect("the binary is there");
    let built = built.duration_since(SystemTime::UNIX_EPOCH).expect("it is not that old").as_nanos();
    let dir = base.join(format!("{name}-{built}"));
    if !dir.is_dir() {
        let earlier = fs::read_dir(base).expect("cargo has made it").flatten().map(|entry| entry.path());
        let of_name = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(name));
        earlier.filter(of_name).for_each(|path| fs::remove_dir_all(path).expect("removable"));
        let making = base.join(format!("{name}-making-{}", std::process::id()));
        fs::create_dir_all(&making).expect("target/ is writable");
        make(&making);
        fs::rename(making, &dir).expect("no other test process makes it");
    }
    dir
}

/// Copies what `names` are in `from` to `to`, with their times.
pub fn copy(from: &Path, names: &[&str], to: &Path) {
    let mut command = Command::new("cp");
    command.arg("-a").args(names).arg(to).current_dir(from);
    assert!(command.status().expect("cp starts").success(), "{command:?}");
}

/// A command in the scrubbed environment, with `home` as HOME.
pub fn scrubbed(program: impl AsRef<OsStr>, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("HOME", home).current_dir(home);
    for name in ["PATH", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Runs the test of that name anew where it may mount file systems that nobody else sees, and panics
/// unless it passes there; there, it is `true`.
pub fn may_mount(test: &str) -> bool {
    const THERE: &str = "GO_CACHE_PLUGIN_MAY_MOUNT";
    if std::env::var_os(THERE).is_some() {
        return true;
    }
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.arg("--mount").arg(std::env::current_exe().expect("this program")).args(["--exact", test, "--nocapture"]);
    let status = command.env(THERE, "1").status().expect("unshare (util-linux) is there");
    assert!(status.success(), "{test} failed in a mount namespace of its own");
    false
}

/// Mounts a file system of that type.
pub fn mount(kind: &str, options: &str, at: &Path) {
    let status = Command::new("mount").args(["-t", kind, "-o", options, kind]).arg(at).status();
    assert!(status.expect("mount (util-linux) is there").success(), "mount -t {kind} {}", at.display());
}

/// A port on 127.0.0.1 that nobody listens on, and that nobody else is given: not this function's next
/// caller, nor who asks the kernel for any port (Linux takes those from 32,768 on).
pub fn free_port() -> u16 {
    const PORTS: std::ops::Range<u32> = 10_240..32_768;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(509);
    loop {
        let nth = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = (PORTS.start + nth % (PORTS.end - PORTS.start)) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// `serve` with a plugin socket in `dir` and HTTP at `host`, once it listens on 127.0.0.1 too, and its port.
pub fn serve_http(dir: &TempDir, host: &str, set: impl FnOnce(Plugin) -> Plugin) -> (Running, u16) {
    let port = free_port();
    let socket = format!("--plugin={}", dir.join("plugin.sock").display());
    let plugin = Plugin::new(dir).args(["serve", &socket, &format!("--http={host}:{port}")]);
    let child = set(plugin.env("no_proxy", "127.0.0.1")).spawn();
    poll("the server", || TcpStream::connect(("127.0.0.1", port)).ok());
    (child, port)
}

/// Waits until `ready` gives a value; panics with `what` when it does not in time.
pub fn poll<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The real binary about to be started, and its directory.
pub struct Plugin(Command, TempDir);

impl Plugin {
    /// The binary with `dir` as HOME and working directory and `dir/cache` as its cache directory.
    pub fn new(dir: &TempDir) -> Self {
        let mut command = scrubbed(binary(), dir.path());
        command.env("GOCACHE_DIR", dir.join("cache"));
        Plugin(command, dir.clone())
    }

    /// As [`Self::new`], bound by the modes of files whoever runs the tests.
    pub fn bound_by_modes(dir: &TempDir) -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self::new(dir);
        }
        let mut command = scrubbed("setpriv", dir.path());
        command.args(["--bounding-set=-dac_override,-dac_read_search", binary()]);
        command.env("GOCACHE_DIR", dir.join("cache"));
        Plugin(command, dir.clone())
    }

    /// As [`Self::new`], as a terminal starts it: a job in the background, as the tests may be, ignores ^C.
    pub fn from_terminal(dir: &TempDir) -> Self {
        let mut command = scrubbed("env", dir.path());
        command.args(["--default-signal=INT,QUIT", binary()]);
        command.env("GOCACHE_DIR", dir.join("cache"));
        Plugin(command, dir.clone())
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.0.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.0.args(args);
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Sets variables, for example those of an S3 server.
    pub fn envs(mut self, vars: &[(String, String)]) -> Self {
        self.0.envs(vars.iter().map(|(name, value)| (name, value)));
        self
    }

    /// Sets the working directory.
    pub fn current_dir(mut self, dir: &Path) -> Self {
        self.0.current_dir(dir);
        self
    }

    /// Starts it with all three streams piped.
    pub fn spawn(self) -> Running {
        let mut running = Running::start(self.0, Stdio::piped());
        running.home = Some(self.1);
        running
    }

    /// Runs it to its end with empty stdin.
    pub fn output(self) -> Output {
        run(self.0)
    }
}

/// Runs a command to its end with empty stdin, at most [`BUILD`] long.
pub fn run(command: Command) -> Output {
    let mut running = Running::start(command, Stdio::null());
    let mut stdout = running.stdout();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stdout.read_to_end(&mut bytes);
        bytes
    });
    let mut output = running.wait_for(BUILD);
    output.stdout = String::from_utf8_lossy(&reader.join().expect("the reader does not panic")).into_owned();
    output
}

/// A child process; killed when dropped.
pub struct Running {
    child: Child,
    shown: String,
    stderr: Arc<Mutex<Vec<u8>>>,
    stderr_thread: Option<JoinHandle<()>>,
    /// Held while the child may write there.
    home: Option<TempDir>,
}

impl Running {
    /// Starts `command` with that stdin, and stdout and stderr piped.
    pub fn start(mut command: Command, stdin: Stdio) -> Self {
        let shown = show(&command);
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {shown}: {e}"));
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let (mut from, to) = (child.stderr.take().expect("piped"), stderr.clone());
        let stderr_thread = std::thread::spawn(move || {
            let mut buf = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut buf) {
                to.lock().expect("no holder panics").extend_from_slice(&buf[..n]);
            }
        });
        Running { child, shown, stderr, stderr_thread: Some(stderr_thread), home: None }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child's stdin; once.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("stdin was not taken before")
    }

    /// The child's stdout; once.
    pub fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("stdout was not taken before")
    }

    /// What it wrote to stderr so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().expect("no holder panics")).into_owned()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap_or_else(|e| panic!("signal to {}: {e}", self.shown));
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the child is ours").is_some()
    }

    /// Waits for its end, at most [`PATIENCE`].
    pub fn wait(&mut self) -> Output {
        self.wait_for(PATIENCE)
    }

    /// Waits for its end, at most `patience`; then kills it and panics.
    pub fn wait_for(&mut self, patience: Duration) -> Output {
        let deadline = Instant::now() + patience;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                break status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                panic!("still running after {patience:?}: {}\nstderr:\n{}", self.shown, self.stderr());
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        if let Some(thread) = self.stderr_thread.take() {
            thread.join().expect("the reader does not panic");
        }
        Output { shown: self.shown.clone(), status, stdout: String::new(), stderr: self.stderr() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("command: {}\nstderr:\n{}", self.shown, self.stderr());
        }
    }
}

/// How a command ended.
pub struct Output {
    shown: String,
    /// The exit status.
    pub status: ExitStatus,
    /// All of stdout; empty where the test took the pipe.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

impl Output {
    /// Panics unless the exit code is 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// Panics unless the exit code is `code`.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "signal {:?}{}", self.status.signal(), self.describe());
        self
    }

    /// Panics unless stderr is empty.
    #[track_caller]
    pub fn quiet(self) -> Self {
        assert!(self.stderr.is_empty(), "stderr is not empty{}", self.describe());
        self
    }

    /// Command and streams, for messages.
    pub fn describe(&self) -> String {
        let tail = |text: &str| {
            let skip = text.char_indices().rev().nth(8000).map_or(0, |(at, _)| at);
            text[skip..].to_string()
        };
        format!("\ncommand: {}\nstdout:\n{}\nstderr:\n{}", self.shown, tail(&self.stdout), tail(&self.stderr))
    }
}

/// A command as one could type it.
fn show(command: &Command) -> String {
    let mut text = String::new();
    if let Some(dir) = command.get_current_dir() {
        write!(text, "cd {} && ", dir.display()).expect("a String takes all");
    }
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            write!(text, "{}={value:?} ", name.display()).expect("a String takes all");
        }
    }
    write!(text, "{}", command.get_program().display()).expect("a String takes all");
    for arg in command.get_args() {
        write!(text, " {arg:?}").expect("a String takes all");
    }
    text
}
