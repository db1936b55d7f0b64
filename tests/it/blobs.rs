//! The proxies' blobs: damage on disk, damage and forgery in the bucket.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use go_cache_plugin::cache::id::OutputId;
use go_cache_plugin::sign::{Claim, nanos};
use rustix::process::Signal;

use super::bucket::sharded;
use super::signing::{keygen, signer};
use crate::support::env::{Output, Plugin, Running, TempDir, free_port, poll};
use crate::support::fault::{Fault, FaultProxy};
use crate::support::origin::{Origin, answer};
use crate::support::s3::S3Server;
use crate::support::script::{hex, local, said};
use crate::support::upstream::{self, Tree, Upstream};

const LIST: &str = "example.com/m/@v/list";
const MOD: &str = "example.com/m/@v/v1.0.0.mod";
const ZIP: &str = "example.com/m/@v/v1.0.0.zip";

fn tree(dir: &TempDir) -> Tree {
    let mut tree = Tree::new(dir.dir("tree"));
    tree.add("example.com/m", "v1.0.0", &[("m.go", b"package m\n")]);
    tree
}

/// `serve` with a proxy of either kind.
struct Server {
    child: Running,
    port: u16,
}

impl Server {
    fn start(dir: &TempDir, args: &[&str], vars: &[(String, String)]) -> Self {
        let port = free_port();
        let socket = format!("--plugin={}", dir.join("plugin.sock").display());
        let plugin = Plugin::new(dir).args(["serve", &socket, &format!("--http=127.0.0.1:{port}")]);
        let child = plugin.args(args).envs(vars).env("no_proxy", "127.0.0.1").spawn();
        let server = Server { child, port };
        // another test may have listened there for a moment, to find a free port
        poll("the server", || server.try_get("http://127.0.0.1/healthz").ok().filter(|bytes| !bytes.is_empty()));
        server
    }

    /// A module proxy before `upstream`, that asks anew for what can change.
    fn modules(dir: &TempDir, upstream: &str, more: &[&str]) -> Self {
        let upstream = format!("--upstream={upstream}");
        Self::start(
            dir,
            &[&["--modproxy", "--mod-ttl=0s", "--mod-stale=0", "--mod-verify=off", &upstream], more].concat(),
            &[],
        )
    }

    /// Status and body of what is asked for: a path, or a whole URL.
    fn get(&self, target: &str) -> (u16, Vec<u8>) {
        let bytes = self.try_get(target).unwrap();
        let head = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| panic!("{bytes:?}"));
        let status = String::from_utf8_lossy(&bytes[9..12]).parse().unwrap();
        (status, bytes[head + 4..].to_vec())
    }

    /// The whole answer.
    fn try_get(&self, target: &str) -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        let target = if target.contains("://") { target.to_string() } else { format!("/mod/{target}") };
        let host = target.strip_prefix("http://").map_or("127.0.0.1", |t| t.split('/').next().unwrap());
        write!(stream, "GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn stop(mut self) -> Output {
        self.child.signal(Signal::TERM);
        self.child.wait().ok()
    }
}

/// Where the blob of `name` lies.
fn blob(dir: &TempDir, kind: &str, name: &str) -> PathBuf {
    local(&dir.join("cache"), kind, &hex(&OutputId::of(name.as_bytes()).0))
}

fn sum(blob: &Path) -> PathBuf {
    PathBuf::from(format!("{}.sum", blob.display()))
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn cut(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

#[test]
fn damage_on_disk_is_never_served() {
    let dir = TempDir::new();
    let tree = tree(&dir);
    let upstream = Upstream::start(&tree.root);
    let origin = Origin::http(|_| answer("Cache-Control: immutable", "the body of the answer"));
    let url = format!("http://{}/file", origin.host());
    let hosts = format!("--revproxy={}", origin.host());
    let mut server = Server::modules(&dir, &upstream.url(), &[&hosts]);
    let names = [("module", ZIP), ("module", MOD), ("revproxy", url.as_str())];
    let good: Vec<Vec<u8>> = names.iter().map(|(_, name)| server.get(name).1).collect();
    for restart in [false, true] {
        for damage in [flip as fn(&Path), cut, |path| fs::write(path, "").unwrap()] {
            for ((kind, name), good) in names.iter().zip(&good) {
                let path = blob(&dir, kind, name);
                damage(&path);
                if restart {
                    let out = server.stop();
                    assert!(said(&out).len() <= 6, "{}", out.describe());
                    server = Server::modules(&dir, &upstream.url(), &[&hosts]);
                }
                let (status, body) = server.get(name);
                assert!(status == 200 && body == *good, "{name}: {status}");
                poll("the blob fetched anew", || fs::read(&path).ok()?.ends_with(good).then_some(()));
            }
        }
    }
    // what cannot be fetched anew is gone rather than wrong
    flip(&blob(&dir, "module", ZIP));
    upstream.set(upstream::Fault::Down);
    assert_eq!(server.get(ZIP).0 / 100, 5);
    assert!(!blob(&dir, "module", ZIP).exists() && !sum(&blob(&dir, "module", ZIP)).exists());
    assert_eq!(server.get(MOD), (200, good[1].clone()));
    server.stop();
}

#[test]
fn blobs_of_other_programs_are_taken_as_they_are_and_a_kill_loses_none() {
    let dir = TempDir::new();
    let tree = tree(&dir);
    let upstream = Upstream::start(&tree.root);
    let server = Server::modules(&dir, &upstream.url(), &[]);
    let old = server.get(LIST).1;
    let path = blob(&dir, "module", LIST);
    let lines = fs::read_to_string(sum(&path)).unwrap();
    let (line, name) = lines.split_once('\n').unwrap();
    assert_eq!(line, format!("1 {} {} {}", OutputId::of(&old), old.len(), line.rsplit(' ').next().unwrap()));
    assert_eq!(name, format!("name {LIST}\n"));
    // a newer list replaces it; a kill between the new lines and the new list leaves the old one
    fs::write(tree.root.join(LIST), "v1.0.0\nv1.1.0\n").unwrap();
    let new = server.get(LIST).1;
    assert_ne!(new, old);
    assert_eq!(fs::read_to_string(sum(&path)).unwrap().lines().filter(|line| line.starts_with("1 ")).count(), 2);
    server.stop();
    fs::write(&path, &old).unwrap();
    let offline = |want: &[u8]| {
        let server = Server::modules(&dir, "off", &["--offline"]);
        assert_eq!(server.get(LIST), (200, want.to_vec()));
        server.stop();
    };
    offline(&old);
    fs::write(&path, &new).unwrap();
    offline(&new);
    // without lines, or with what is none
    for lines in [None, Some(""), Some("nonsense\n")] {
        fs::write(&path, &old).unwrap();
        match lines {
            None => fs::remove_file(sum(&path)).unwrap(),
            Some(text) => fs::write(sum(&path), text).unwrap(),
        }
        offline(&old);
        assert!(fs::read_to_string(sum(&path)).unwrap().contains(&OutputId::of(&old).to_string()), "{lines:?}");
        flip(&path);
        let server = Server::modules(&dir, "off", &["--offline"]);
        assert_eq!(server.get(LIST).0, 404);
        server.stop();
    }
}

#[test]
fn a_folder_that_cannot_be_read_is_told_of_once() {
    let dir = TempDir::new();
    let upstream = Upstream::start(&tree(&dir).root);
    dir.write("cache/module", "no folder");
    let server = Server::modules(&dir, &upstream.url(), &[]);
    for _ in 0..3 {
        assert_eq!(server.get(MOD).0, 200);
    }
    let stderr = server.stop().stderr;
    assert_eq!(
        stderr.lines().filter(|line| line.contains("cache/module/") && line.contains("Not a directory")).count(),
        1,
        "{stderr}"
    );
}

#[test]
fn the_last_use_is_kept_beside_the_blob() {
    let dir = TempDir::new();
    let tree = tree(&dir);
    let upstream = Upstream::start(&tree.root);
    let server = Server::modules(&dir, &upstream.url(), &[]);
    server.get(MOD);
    let path = blob(&dir, "module", MOD);
    let mtime = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let (right, ago) = (mtime(&path), |hours: u64| SystemTime::now() - Duration::from_secs(hours * 3600));
    File::open(sum(&path)).unwrap().set_modified(ago(2)).unwrap();
    server.get(MOD);
    assert!(mtime(&sum(&path)) > ago(1), "a use after two hours");
    let recent = SystemTime::now() - Duration::from_secs(1800);
    File::open(sum(&path)).unwrap().set_modified(recent).unwrap();
    server.get(MOD);
    assert_eq!((mtime(&sum(&path)), mtime(&path)), (recent, right));
    server.stop();
    let out = Plugin::new(&dir).args(["clear", "--local"]).output().ok();
    assert!(!path.exists() && !sum(&path).exists(), "{}", out.describe());
}

#[test]
fn a_damaged_blob_is_not_uploaded() {
    let dir = TempDir::new();
    let tree = tree(&dir);
    let (upstream, bucket) = (Upstream::start(&tree.root), S3Server::in_process());
    let proxy = FaultProxy::start(&bucket.endpoint);
    proxy.set(Fault::Status(503));
    let from = format!("--upstream={}", upstream.url());
    let args = ["--modproxy", "--mod-verify=off", "--close-timeout=1s", from.as_str()];
    let server = Server::start(&dir, &args, &bucket.env_through(&proxy.endpoint));
    let good = server.get(MOD).1;
    server.get(ZIP);
    server.stop();
    assert!(bucket.keys().is_empty(), "{:?}", bucket.keys());
    flip(&blob(&dir, "module", ZIP));
    proxy.set(Fault::None);
    let server = Server::start(&dir, &args, &bucket.env_through(&proxy.endpoint));
    poll("the upload of what is whole", || (!bucket.keys().is_empty()).then_some(()));
    poll("the damaged one to go", || (!blob(&dir, "module", ZIP).exists()).then_some(()));
    server.stop();
    let keys = bucket.keys();
    assert!(keys.len() == 1 && bucket.read(&keys[0]).unwrap() == good, "{keys:?}");
}

/// A bucket in a directory that a signer has filled.
struct Signed {
    keys: TempDir,
    bucket: TempDir,
    sign: String,
    verify: String,
    upstream: Upstream,
}

impl Signed {
    fn new() -> Self {
        let (keys, bucket) = (TempDir::new(), TempDir::new());
        let (sign, verify) = keygen(&keys, "key");
        let tree = tree(&keys);
        let signed = Signed { upstream: Upstream::start(&tree.root), keys, bucket, sign, verify };
        let server = signed.server(&TempDir::new(), &[&signed.sign]);
        for name in [LIST, MOD, ZIP] {
            assert_eq!(server.get(name).0, 200);
        }
        let out = server.stop();
        assert!(said(&out).is_empty(), "{}", out.describe());
        signed
    }

    fn server(&self, dir: &TempDir, more: &[&str]) -> Server {
        let bucket = format!("--bucket=file://{}", self.bucket.path().display());
        Server::modules(dir, &self.upstream.url(), &[&[bucket.as_str()], more].concat())
    }

    fn key(name: &str) -> String {
        sharded("module", &OutputId::of(name.as_bytes()).to_string())
    }

    fn path(&self, name: &str, end: &str) -> PathBuf {
        self.bucket.join(&format!("{}{end}", Self::key(name)))
    }

    /// What a fresh machine that may not ask upstream is told of `name`.
    fn offline(&self, name: &str, more: &[&str]) -> (u16, Vec<u8>, Vec<String>) {
        let server = self.server(&TempDir::new(), &[&["--offline"], more].concat());
        let (status, body) = server.get(name);
        let out = server.stop();
        (status, body, said(&out).into_iter().map(str::to_string).collect())
    }
}

#[test]
fn forged_blobs_in_the_bucket_reach_nobody_who_verifies() {
    let signed = Signed::new();
    let forged = b"module example.com/evil\n";
    for name in [LIST, MOD, ZIP] {
        let (status, body, said) = signed.offline(name, &[&signed.verify]);
        assert!(status == 200 && body == fs::read(signed.path(name, "")).unwrap() && said.is_empty(), "{said:?}");
    }
    let (good, text) = (fs::read(signed.path(MOD, "")).unwrap(), fs::read_to_string(signed.path(MOD, ".sig")).unwrap());
    let foreign = keygen(&signed.keys, "foreign").0;
    let claim = Claim { hash: OutputId::of(forged), size: forged.len() as u64, time: nanos(SystemTime::now()) };
    let by_another = signer(&foreign).sign_text("module", &Signed::key(MOD), &claim).unwrap();
    let other_kind = signer(&signed.sign).sign_text("revproxy", &Signed::key(MOD), &claim).unwrap();
    let other_key = signer(&signed.sign).sign_text("module", &Signed::key(LIST), &claim).unwrap();
    let of_another = fs::read_to_string(signed.path(ZIP, ".sig")).unwrap();
    for (what, body, side) in [
        ("changed", &forged[..], Some(text.clone())),
        ("not signed", &forged[..], None),
        ("stripped", &good, None),
        ("by another key", forged, Some(by_another)),
        ("as another kind", forged, Some(other_kind)),
        ("as another name", forged, Some(other_key)),
        ("of another blob", &good, Some(of_another)),
        ("garbage", &good, Some("\u{fffd}".repeat(2000))),
    ] {
        fs::write(signed.path(MOD, ""), body).unwrap();
        let _ = fs::remove_file(signed.path(MOD, ".sig"));
        if let Some(text) = side {
            fs::write(signed.path(MOD, ".sig"), text).unwrap();
        }
        let (status, _, said) = signed.offline(MOD, &[&signed.verify]);
        assert_eq!((status, said.len()), (404, 1), "{what}: {said:?}");
        // with an upstream, it is asked
        let server = signed.server(&TempDir::new(), &[&signed.verify]);
        assert_eq!(server.get(MOD), (200, good.clone()), "{what}");
        server.stop();
    }
    // a link in the signature's place leads nowhere
    fs::write(signed.path(MOD, ""), &good).unwrap();
    fs::remove_file(signed.path(MOD, ".sig")).unwrap();
    let elsewhere = signed.keys.write("elsewhere", &text);
    std::os::unix::fs::symlink(elsewhere, signed.path(MOD, ".sig")).unwrap();
    assert_eq!(signed.offline(MOD, &[&signed.verify]).0, 404);
    // a signer that finds it so mends it
    let server = signed.server(&TempDir::new(), &[&signed.sign]);
    fs::remove_file(signed.path(MOD, ".sig")).unwrap();
    assert_eq!(server.get(MOD), (200, good.clone()));
    server.stop();
    assert_eq!(signed.offline(MOD, &[&signed.verify]).0, 200);
}

#[test]
fn forged_proxied_answers_in_the_bucket_reach_nobody_who_verifies() {
    let (keys, bucket) = (TempDir::new(), TempDir::new());
    let (sign, verify) = keygen(&keys, "key");
    let origin = Origin::http(|_| answer("Cache-Control: immutable", "the true body"));
    let url = format!("http://{}/file", origin.host());
    let (hosts, at) = (format!("--revproxy={}", origin.host()), format!("--bucket=file://{}", bucket.path().display()));
    let ask = |flag: &str| {
        let server = Server::start(&TempDir::new(), &[&hosts, &at, flag], &[]);
        let got = server.get(&url);
        let out = server.stop();
        let said = said(&out).iter().filter(|line| line.contains("is not used")).count();
        (got.0, String::from_utf8(got.1).unwrap(), said)
    };
    let body = (200, "the true body".to_string(), 0);
    assert_eq!(ask(&sign), body);
    assert_eq!((ask(&verify), origin.count("/file")), (body.clone(), 1));
    let digest = OutputId::of(url.as_bytes()).to_string();
    let object = bucket.join(&format!("revproxy/{}/{digest}", &digest[..2]));
    let text = fs::read_to_string(&object).unwrap();
    fs::write(&object, text.replace("true", "evil")).unwrap();
    assert_eq!((ask(&verify), origin.count("/file")), ((200, body.1.clone(), 1), 2));
    assert_eq!(ask("-v=false").1, "the evil body", "without keys all is believed");
    fs::remove_file(format!("{}.sig", object.display())).unwrap();
    assert_eq!((ask(&verify), origin.count("/file")), ((200, body.1.clone(), 1), 3));
    assert_eq!((ask(&sign), origin.count("/file")), ((200, body.1.clone(), 1), 4));
    assert_eq!((ask(&verify), origin.count("/file")), (body, 4), "signed anew by who may");
}

#[test]
fn an_old_list_does_not_turn_time_back() {
    let signed = Signed::new();
    let signer = signer(&signed.sign);
    let at = |name: &str, days: u64| {
        let body = fs::read(signed.path(name, "")).unwrap();
        let time = nanos(SystemTime::now() - Duration::from_secs(days * 86_400));
        let claim = Claim { hash: OutputId::of(&body), size: body.len() as u64, time };
        let text = signer.sign_text("module", &Signed::key(name), &claim).unwrap();
        fs::write(signed.path(name, ".sig"), text).unwrap();
        // its own age says nothing
        File::open(signed.path(name, "")).unwrap().set_modified(SystemTime::now()).unwrap();
        signed.offline(name, &[&signed.verify]).0
    };
    assert_eq!([0, 29, 31, 400].map(|days| at(LIST, days)), [200, 200, 404, 404]);
    assert_eq!(at(ZIP, 400), 200, "what cannot change is right for good");
    assert_eq!(signed.offline(LIST, &[]).0, 200, "without keys all is as before");
    // what is on disk is not bound by it
    let dir = TempDir::new();
    at(LIST, 0);
    let server = signed.server(&dir, &[&signed.verify, "--offline"]);
    assert_eq!(server.get(LIST).0, 200);
    server.stop();
    at(LIST, 31);
    let server = signed.server(&dir, &[&signed.verify, "--offline"]);
    assert_eq!(server.get(LIST).0, 200);
    server.stop();
    // a signer that finds the same list upstream signs it anew
    let server = signed.server(&TempDir::new(), &[&signed.sign]);
    assert_eq!(server.get(LIST).0, 200);
    server.stop();
    assert_eq!(signed.offline(LIST, &[&signed.verify]).0, 200);
}

#[test]
fn a_signer_renews_an_unchanged_list_at_half_its_time() {
    let signed = Signed::new();
    let dir = TempDir::new();
    let visit = || {
        let server = signed.server(&dir, &[&signed.sign]);
        assert_eq!(server.get(LIST).0, 200);
        server.stop();
        fs::read_to_string(signed.path(LIST, ".sig")).unwrap()
    };
    let first = visit();
    assert_eq!(visit(), first, "a young one is left");
    let lines = sum(&blob(&dir, "module", LIST));
    let text = fs::read_to_string(&lines).unwrap();
    let (what, time) = text.lines().next().unwrap().rsplit_once(' ').unwrap();
    let old = time.parse::<i64>().unwrap() - 16 * 86_400_000_000_000;
    fs::write(&lines, format!("{what} {old}\n")).unwrap();
    assert_ne!(visit(), first);
}

#[test]
fn blobs_under_the_own_prefix_count_when_it_is_trusted() {
    let signed = Signed::new();
    let good = fs::read(signed.path(MOD, "")).unwrap();
    // a pull request's job keeps another module, and a forged one of main's
    let pr = ["--write-prefix=pr", signed.verify.as_str()];
    let forged = b"module example.com/evil\n";
    let mine = signed.bucket.join("pr").join(Signed::key(MOD));
    fs::create_dir_all(mine.parent().unwrap()).unwrap();
    fs::write(&mine, forged).unwrap();
    assert_eq!(signed.offline(MOD, &pr).1, good, "main's is not hidden");
    assert_eq!(signed.offline(MOD, &[&pr[..], &["--trust-write-prefix"]].concat()).1, forged);
    assert_eq!(signed.offline(MOD, &[&signed.verify]).1, good);
}
