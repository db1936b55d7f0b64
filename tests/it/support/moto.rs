//! An AWS for tests: moto, which checks signatures and enforces policies once it is told to. From PyPI, by
//! `.ci/s3`, into `target/servers/moto`; a machine that cannot get it fails the test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::env::{Running, TempDir, free_port, poll, scrubbed};

/// The server; ends with the value.
pub struct Moto {
    /// `http://127.0.0.1:port`, for every service.
    pub endpoint: String,
    dir: TempDir,
    _server: Running,
}

impl Moto {
    /// One that lets anybody do anything.
    pub fn start() -> Self {
        let (dir, port) = (TempDir::new(), free_port());
        let mut command = python(dir.path());
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        let server = Running::start(command, Stdio::null());
        poll("moto", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        Moto { endpoint: format!("http://127.0.0.1:{port}"), dir, _server: server }
    }

    /// Runs a script with boto3 at hand and the endpoint as its first argument; what it prints.
    pub fn script(&self, text: &str, args: &[&str]) -> String {
        let mut command = python(self.dir.path());
        command.args(["-c", text, &self.endpoint]).args(args);
        super::env::run(command).ok().stdout
    }
}

/// A YAML file as JSON, an array of its documents.
pub fn yaml(path: &Path) -> serde_json::Value {
    let script = "import json,sys,yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let mut command = python(path.parent().expect("a file lies in a folder"));
    command.args(["-c", script]).arg(path);
    serde_json::from_str(&super::env::run(command).ok().stdout).expect("JSON, as printed")
}

/// Python with moto and what it brings: boto3, PyYAML.
fn python(home: &Path) -> Command {
    static AT: OnceLock<PathBuf> = OnceLock::new();
    let at = AT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let out = Command::new(root.join(".ci/s3")).args(["moto", "--fetch"]).output().expect("bash is there");
        assert!(out.status.success(), "fetching moto:\n{}", String::from_utf8_lossy(&out.stderr));
        root.join("target/servers/moto")
    });
    let mut command = scrubbed("python3", home);
    command.env("PYTHONPATH", at).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}
