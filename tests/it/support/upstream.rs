//! A module proxy upstream: a tree of modules laid out on disk, served over HTTP with faults on
//! demand, and a sum database that really signs (the `go` team's own test server).

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// What the server does wrong.
#[derive(Clone, Debug, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Closes every connection unanswered.
    Down,
    /// Answers with this status.
    Status(u16),
    /// Promises the whole file and sends half.
    Truncated,
    /// Sends half the file as if it were all.
    Half,
    /// Answers 200 with a login page.
    Html,
    /// Waits before it answers.
    Slow(Duration),
    /// Sends the client to the same path elsewhere.
    Redirect(String),
}

/// A running upstream.
pub struct Upstream {
    /// Where it listens.
    pub addr: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    root: PathBuf,
    fault: Mutex<Fault>,
    /// Paths that were asked for, and the Authorization that came along.
    seen: Mutex<Vec<(String, Option<String>)>>,
}

impl Upstream {
    /// Serves the tree at `root`.
    pub fn start(root: &Path) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(State { root: root.to_path_buf(), ..State::default() });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || drop(state.serve(stream)));
            }
        });
        Upstream { addr, state }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn set(&self, fault: Fault) {
        *self.state.fault.lock().unwrap() = fault;
    }

    /// Requests so far, with their Authorization.
    pub fn seen(&self) -> Vec<(String, Option<String>)> {
        self.state.seen.lock().unwrap().clone()
    }

    /// How often a path was asked for.
    pub fn count(&self, path: &str) -> usize {
        self.seen().iter().filter(|(p, _)| p == path).count()
    }
}

impl State {
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut out = stream;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let path = line.split(' ').nth(1).unwrap_or_default().replace("%21", "!");
            let mut authorization = None;
            loop {
                let mut header = String::new();
                reader.read_line(&mut header)?;
                if header.trim().is_empty() {
                    break;
                }
                if let Some((name, value)) = header.split_once(':')
                    && name.eq_ignore_ascii_case("authorization")
                {
                    authorization = Some(value.trim().to_string());
                }
            }
            self.seen.lock().unwrap().push((path.clone(), authorization));
            let fault = self.fault.lock().unwrap().clone();
            let file = fs::read(self.root.join(path.trim_start_matches('/')));
            let (status, promised, body) = match (fault, file) {
                (Fault::Down, _) => return Ok(()),
                (Fault::Status(status), _) => (status, None, format!("made to say {status}").into_bytes()),
                (Fault::Html, _) => (200, None, b"<html><body>please log in</body></html>".to_vec()),
                (Fault::Redirect(to), _) => {
                    write!(out, "HTTP/1.1 302 Found\r\nLocation: {to}{path}\r\nContent-Length: 0\r\n\r\n")?;
                    continue;
                }
                (_, Err(_)) => (404, None, b"not found: no such module here".to_vec()),
                (Fault::Truncated, Ok(body)) => (200, Some(body.len()), body[..body.len() / 2].to_vec()),
                (Fault::Half, Ok(body)) => (200, None, body[..body.len() / 2].to_vec()),
                (Fault::Slow(wait), Ok(body)) => {
                    std::thread::sleep(wait);
                    (200, None, body)
                }
                (Fault::None, Ok(body)) => (200, None, body),
            };
            let cut = promised.is_some_and(|p| p != body.len());
            let len = promised.unwrap_or(body.len());
            write!(out, "HTTP/1.1 {status} x\r\nContent-Length: {len}\r\n\r\n")?;
            out.write_all(&body)?;
            if cut {
                return Ok(());
            }
        }
    }
}

/// A tree of modules in the layout that GOPROXY=file:// reads.
pub struct Tree {
    pub root: PathBuf,
    versions: HashMap<String, Vec<String>>,
}

impl Tree {
    pub fn new(root: PathBuf) -> Self {
        Tree { root, versions: HashMap::new() }
    }

    /// Adds `module@version` with these files; go.mod is made up where it is not among them.
    /// Listed unless it is a pseudo-version.
    pub fn add(&mut self, module: &str, version: &str, files: &[(&str, &[u8])]) {
        let made_up = format!("module {module}\n\ngo 1.21\n").into_bytes();
        let go_mod = files.iter().find(|(name, _)| *name == "go.mod").map_or(&made_up[..], |(_, bytes)| bytes);
        let dir = self.dir(module);
        let file = |kind: &str| dir.join(format!("{}.{kind}", escape(version)));
        fs::write(file("info"), format!(r#"{{"Version":"{version}","Time":"2024-01-02T03:04:05Z"}}"#)).unwrap();
        fs::write(file("mod"), go_mod).unwrap();
        let mut all: Vec<(String, &[u8])> = Vec::new();
        if !version.ends_with("+incompatible") {
            all.push((format!("{module}@{version}/go.mod"), go_mod));
        }
        for (name, bytes) in files.iter().filter(|(name, _)| *name != "go.mod") {
            all.push((format!("{module}@{version}/{name}"), bytes));
        }
        fs::write(file("zip"), zip(&all)).unwrap();
        if !version.contains("-0.") && !version.starts_with("v0.0.0-") {
            let listed = self.versions.entry(module.to_string()).or_default();
            listed.push(version.to_string());
            fs::write(dir.join("list"), listed.join("\n") + "\n").unwrap();
        } else if !dir.join("list").exists() {
            fs::write(dir.join("list"), "").unwrap();
        }
    }

    /// Makes `query` (a branch, or @latest) mean `version`.
    pub fn name(&self, module: &str, query: &str, version: &str) {
        let dir = self.dir(module);
        let info = fs::read(dir.join(format!("{}.info", escape(version)))).unwrap();
        match query {
            "@latest" => fs::write(dir.parent().unwrap().join("@latest"), info).unwrap(),
            query => fs::write(dir.join(format!("{query}.info")), info).unwrap(),
        }
    }

    fn dir(&self, module: &str) -> PathBuf {
        let dir = self.root.join(escape(module)).join("@v");
        fs::create_dir_all(&dir).unwrap();
        dir
    }
}

/// A module path or version as it is in URLs: upper case as `!x`.
fn escape(name: &str) -> String {
    let upper = |c: char| if c.is_ascii_uppercase() { format!("!{}", c.to_ascii_lowercase()) } else { c.to_string() };
    name.chars().map(upper).collect()
}

fn zip(files: &[(String, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut archive = rawzip::ZipArchiveWriter::new(&mut out);
    for (name, bytes) in files {
        let (mut entry, config) =
            archive.new_file(name).compression_method(rawzip::CompressionMethod::DEFLATE).start().unwrap();
        let mut writer = config.wrap(flate2::write::DeflateEncoder::new(&mut entry, flate2::Compression::fast()));
        writer.write_all(bytes).unwrap();
        let (encoder, descriptor) = writer.finish().unwrap();
        encoder.finish().unwrap();
        entry.finish(descriptor).unwrap();
    }
    archive.finish().unwrap();
    out
}

/// A sum database over a tree, with a key of its own.
pub struct SumDb {
    /// Where it listens.
    pub url: String,
    /// What GOSUMDB calls it: name, hash, public key.
    pub key: String,
    /// Its private key.
    pub secret: String,
    child: Child,
}

impl SumDb {
    /// The name that it signs with.
    pub const NAME: &str = "sumdb.test";

    pub fn start(root: &Path) -> Self {
        Self::start_with(root, &[])
    }

    /// Another tree signed with the same key.
    pub fn fork(&self, root: &Path) -> Self {
        Self::start_with(root, &[&self.secret, &self.key])
    }

    fn start_with(root: &Path, keys: &[&str]) -> Self {
        let mut command = Command::new(sumdb_binary());
        command.arg(Self::NAME).arg(root).args(keys).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut line = || lines.next().unwrap().unwrap();
        SumDb { url: format!("http://{}", line()), key: line(), secret: line(), child }
    }
}

impl Drop for SumDb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds the server once; golang.org/x/mod comes from the machine's GOPROXY.
fn sumdb_binary() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sumdb-server");
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("go.mod"), "module sumdbserver\n\ngo 1.21\n\nrequire golang.org/x/mod v0.17.0\n")
                .unwrap();
            fs::write(dir.join("main.go"), SUMDB_SERVER).unwrap();
            let binary = dir.join(format!("sumdb-server-{}", std::process::id()));
            let built = Command::new("go")
                .args(["build", "-mod=mod", "-o"])
                .arg(&binary)
                .arg(".")
                .current_dir(&dir)
                .envs([("GOFLAGS", ""), ("GONOSUMDB", "*"), ("GOWORK", "off"), ("GOCACHEPROG", "")])
                .output()
                .expect("go is on PATH");
            assert!(built.status.success(), "go build: {}", String::from_utf8_lossy(&built.stderr));
            binary
        })
        .clone()
}

const SUMDB_SERVER: &str = r#"package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/dirhash"
	"golang.org/x/mod/sumdb/note"
)

func main() {
	name, root := os.Args[1], os.Args[2]
	skey, vkey, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		log.Fatal(err)
	}
	if len(os.Args) > 4 {
		skey, vkey = os.Args[3], os.Args[4]
	}
	sums := func(path, version string) ([]byte, error) {
		p, err := module.EscapePath(path)
		if err != nil {
			return nil, err
		}
		v, err := module.EscapeVersion(version)
		if err != nil {
			return nil, err
		}
		base := filepath.Join(root, p, "@v", v)
		h, err := dirhash.HashZip(base+".zip", dirhash.Hash1)
		if err != nil {
			return nil, err
		}
		gomod, err := os.ReadFile(base + ".mod")
		if err != nil {
			return nil, err
		}
		m, err := dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(gomod)), nil
		})
		if err != nil {
			return nil, err
		}
		return []byte(fmt.Sprintf("%s %s %s\n%s %s/go.mod %s\n", path, version, h, path, version, m)), nil
	}
	server := sumdb.NewServer(sumdb.NewTestServer(skey, sums))
	for _, path := range sumdb.ServerPaths {
		http.Handle(path, server)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n%s\n%s\n", listener.Addr(), vkey, skey)
	log.Fatal(http.Serve(listener, nil))
}
"#;
