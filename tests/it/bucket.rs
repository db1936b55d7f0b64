//! The build cache through a bucket: from one machine to the next, over S3 and over a directory.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use sha2::{Digest, Sha256};

use super::signing::keygen;
use crate::support::client::Client;
use crate::support::env::{Plugin, Running, TempDir, free_port, poll};
use crate::support::s3::S3Server;
use crate::support::script::{Session, action, hex, holds, local, metrics, noise, output_id, said, time};

/// A bucket of either kind.
pub(super) enum Store {
    S3(Box<S3Server>),
    Dir(TempDir),
}

impl Store {
    pub(super) fn both() -> [Store; 2] {
        [Store::S3(Box::new(S3Server::start())), Store::dir()]
    }

    pub(super) fn dir() -> Store {
        Store::Dir(TempDir::new())
    }

    /// The server that the environment names, else a directory.
    pub(super) fn outside() -> Store {
        S3Server::outside().map_or_else(Store::dir, |server| Store::S3(Box::new(server)))
    }

    pub(super) fn vars(&self) -> Vec<(String, String)> {
        match self {
            Store::S3(server) => server.env(),
            Store::Dir(dir) => [
                ("GOCACHE_S3_BUCKET", format!("file://{}", dir.path().display())),
                ("GOCACHE_KEY_PREFIX", "pre/fix".into()),
            ]
            .map(|(name, value)| (name.to_string(), value))
            .to_vec(),
        }
    }

    pub(super) fn read(&self, key: &str) -> Option<Vec<u8>> {
        match self {
            Store::S3(server) => server.read(key),
            Store::Dir(dir) => fs::read(dir.join("pre/fix").join(key)).ok(),
        }
    }

    pub(super) fn write(&self, key: &str, bytes: &[u8]) {
        match self {
            Store::S3(server) => server.write(key, bytes),
            // not through the old file, whose tag would stay
            Store::Dir(dir) => {
                let path = dir.join("pre/fix").join(key);
                let _ = fs::remove_file(&path);
                fs::write(path, bytes).expect("writing the object");
            }
        }
    }

    pub(super) fn delete(&self, key: &str) {
        match self {
            Store::S3(server) => server.delete(key),
            Store::Dir(dir) => fs::remove_file(dir.join("pre/fix").join(key)).expect("removing the object"),
        }
    }

    /// Everything in the bucket, sorted, below the prefix unless another is given.
    pub(super) fn keys(&self) -> Vec<String> {
        match self {
            Store::S3(server) => server.keys(),
            Store::Dir(dir) => files(&dir.join("pre/fix")),
        }
    }
}

/// The files below `dir`, by their paths from there, sorted.
pub(super) fn files(dir: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            found.extend(files(&entry.path()).into_iter().map(|below| format!("{name}/{below}")));
        } else {
            found.push(name);
        }
    }
    found.sort();
    found
}

/// A machine: a fresh local directory.
pub(super) struct Machine(pub(super) TempDir);

impl Machine {
    pub(super) fn new() -> Self {
        Machine(TempDir::new())
    }

    /// A session on it, without readahead unless `flags` name a scope.
    pub(super) fn session(&self, store: &Store, flags: &[&str]) -> Session {
        let mut plugin = Plugin::new(&self.0).envs(&store.vars()).arg("--metrics").args(flags);
        if !flags.iter().any(|f| f.starts_with("--scope")) {
            plugin = plugin.arg("--no-readahead");
        }
        Session::start(plugin)
    }
}

/// Fills `store` from a machine of its own.
pub(super) fn fill(store: &Store, flags: &[&str], bodies: &[Vec<u8>]) {
    let machine = Machine::new();
    let mut s = machine.session(store, flags);
    s.put_all(bodies);
    let out = s.end();
    assert!(said(&out).is_empty(), "{}", out.describe());
}

/// The object of action `n` in the single layout.
pub(super) fn single(n: u32) -> String {
    sharded("v1", &hex(&action(n)))
}

pub(super) fn sharded(kind: &str, id: &str) -> String {
    format!("{kind}/{}/{id}", &id[..2])
}

pub(super) fn manifest_key(scope: &str) -> String {
    format!("manifest/{}", hex(&Sha256::digest(scope)))
}

/// Bodies of all sizes and kinds.
pub(super) fn bodies() -> Vec<Vec<u8>> {
    vec![vec![], b"x".to_vec(), vec![b'a'; 5000], noise(1, 4097), noise(2, 300_000), vec![0; 2_000_000]]
}

#[test]
fn what_one_machine_puts_another_gets() {
    for store in Store::both() {
        for layout in ["--s3-layout=single", "--s3-layout=classic"] {
            let (a, b, bodies) = (Machine::new(), Machine::new(), bodies());
            let mut s = a.session(&store, &[layout]);
            s.put_all(&bodies);
            let put: Vec<String> = (0..6).map(|n| s.client.get(&action(n)).expect("a hit").time).collect();
            s.end();
            let mut s = b.session(&store, &[layout]);
            for (n, body) in (0..).zip(&bodies) {
                let hit = s.client.get(&action(n)).unwrap_or_else(|| panic!("{layout}: {n} missed"));
                holds(&hit, body);
                assert_eq!(hit.time, put[n as usize], "to the nanosecond");
            }
            assert!(s.client.get(&action(99)).is_none());
            let out = s.end();
            let m = metrics(&out);
            assert_eq!(
                (&m["gocache_host"]["get_fault_hit"], &m["gocache_host"]["get_fault_miss"]),
                (&6.into(), &1.into())
            );
            assert!(said(&out).is_empty(), "{}", out.describe());
        }
    }
}

#[test]
fn the_classic_layout_is_the_original_programs() {
    for store in Store::both() {
        let machine = Machine::new();
        let mut s = machine.session(&store, &["--s3-layout=classic"]);
        s.client.put(&action(1), b"the body");
        let put = time(&s.client.get(&action(1)).expect("a hit").time);
        s.end();
        let (act, out) = (sharded("action", &hex(&action(1))), sharded("output", &output_id(b"the body")));
        assert_eq!(store.keys(), [act.clone(), out.clone()]);
        let nanos = put.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        let text = String::from_utf8(store.read(&act).unwrap()).unwrap();
        assert_eq!(text, format!("{} {nanos}", output_id(b"the body")));
        assert_eq!(store.read(&out).unwrap(), b"the body");

        // what the original program wrote is read
        let text = format!("{} 1700000000123456789", output_id(b"the body"));
        store.write(&act, text.as_bytes());
        let mut s = Machine::new().session(&store, &["--s3-layout=classic"]);
        let hit = s.client.get(&action(1)).expect("a hit");
        holds(&hit, b"the body");
        assert_eq!(hit.time, "2023-11-14T22:13:20.123456789Z");
        s.end();
    }
}

#[test]
fn a_damaged_object_is_a_miss_and_written_anew() {
    for store in Store::both() {
        let body = noise(3, 20_000);
        fill(&store, &[], std::slice::from_ref(&body));
        let good = store.read(&single(0)).unwrap();
        let mut flipped = good.clone();
        flipped[10_000] ^= 1;
        let long = [&good[..], b"more"].concat();
        for bad in [&flipped[..], &good[..good.len() - 1], &good[..20], b"", &long] {
            store.write(&single(0), bad);
            let machine = Machine::new();
            let mut s = machine.session(&store, &[]);
            assert!(s.client.get(&action(0)).is_none());
            s.client.put(&action(0), &body);
            let out = s.end();
            assert_eq!(metrics(&out)["bucket"]["corrupt"], 1, "{}", out.describe());
            assert_eq!(said(&out).len(), 1, "{}", out.describe());
            assert!(said(&out)[0].contains(&hex(&action(0))), "{}", out.describe());
            let mut s = Machine::new().session(&store, &[]);
            holds(&s.client.get(&action(0)).expect("written anew"), &body);
            s.end();
        }
    }
}

#[test]
fn a_damaged_classic_output_is_a_miss_and_written_anew() {
    let store = Store::S3(Box::new(S3Server::in_process()));
    let body = noise(3, 20_000);
    fill(&store, &["--s3-layout=classic"], std::slice::from_ref(&body));
    let key = sharded("output", &output_id(&body));
    // of another length: one that is of the right length is taken for whole by the original, too
    store.write(&key, &body[..100]);
    let machine = Machine::new();
    let mut s = machine.session(&store, &["--s3-layout=classic"]);
    assert!(s.client.get(&action(0)).is_none());
    s.client.put(&action(0), &body);
    let out = s.end();
    assert_eq!(metrics(&out)["bucket"]["corrupt"], 1, "{}", out.describe());
    assert_eq!(said(&out).len(), 1, "{}", out.describe());
    assert!(store.read(&key).unwrap() == body, "written anew");
}

#[test]
fn read_only_writes_nothing() {
    for store in Store::both() {
        fill(&store, &["--scope=s"], &bodies());
        let before = store.keys();
        let manifest = store.read(&manifest_key("s")).unwrap();
        let mut s = Machine::new().session(&store, &["--scope=s", "--read-only"]);
        assert_eq!(s.get_all(&bodies()), 6);
        s.client.put(&action(50), b"mine");
        let out = s.end();
        assert_eq!(metrics(&out)["bucket"]["put_requests"], 0);
        assert_eq!((store.keys(), store.read(&manifest_key("s")).unwrap()), (before, manifest));
        assert!(said(&out).is_empty(), "{}", out.describe());
    }
}

#[test]
fn a_write_prefix_is_read_first_and_written_alone() {
    let store = Store::dir();
    let Store::Dir(root) = &store else { unreachable!("just made") };
    fill(&store, &[], &[b"main 0".to_vec(), b"main 1".to_vec()]);
    let before = files(&root.join("pre"));
    let flags = ["--scope=s", "--write-prefix=pr/7"];
    let mut s = Machine::new().session(&store, &flags);
    holds(&s.client.get(&action(0)).expect("from the main prefix"), b"main 0");
    s.client.put(&action(1), b"theirs 1");
    s.client.put(&action(2), b"theirs 2");
    s.end();
    assert_eq!(files(&root.join("pre")), before);
    let mut want = vec![single(1), single(2), manifest_key("s"), manifest_key("")];
    want.sort();
    assert_eq!(files(&root.join("pr/7")), want);
    // its own come first, then those of the main prefix, which sees none of them
    let mut s = Machine::new().session(&store, &["--write-prefix=pr/7"]);
    for (n, body) in [(0, "main 0"), (1, "theirs 1"), (2, "theirs 2")] {
        holds(&s.client.get(&action(n)).expect("a hit"), body.as_bytes());
    }
    s.end();
    let mut s = Machine::new().session(&store, &[]);
    holds(&s.client.get(&action(1)).expect("a hit"), b"main 1");
    assert!(s.client.get(&action(2)).is_none());
    s.end();
}

#[test]
fn prefix_and_smallest_upload() {
    let store = Store::dir();
    let Store::Dir(root) = &store else { unreachable!("just made") };
    let sizes = [vec![1; 99], vec![2; 100], vec![3; 101], vec![]];
    let mut s = Machine::new().session(&store, &["--prefix=team/a", "--min-upload-size=100"]);
    s.put_all(&sizes);
    assert_eq!(s.get_all(&sizes), 4, "the small ones stay local");
    let out = s.end();
    assert_eq!(metrics(&out)["gocache_host"]["put_skip_small"], 2);
    let mut want = vec![single(1), single(2)];
    want.sort();
    assert_eq!(files(&root.join("team/a")), want, "the flag wins over the variable");
    assert!(!root.join("pre").exists());
    let mut s = Machine::new().session(&store, &["--prefix=team/b"]);
    assert_eq!(s.get_all(&sizes), 0);
    s.end();
}

#[test]
fn with_a_signing_key_only_its_entries_are_taken() {
    let (store, keys) = (Store::dir(), TempDir::new());
    let (ours, theirs) = (keygen(&keys, "ours").0, keygen(&keys, "theirs").0);
    let bodies = bodies();
    for (writer, reader, hits) in [
        (Some(&ours), Some(&ours), 6),
        (None, Some(&ours), 0),
        (Some(&theirs), Some(&ours), 0),
        (Some(&theirs), None, 6),
    ] {
        let flags = |key: Option<&'_ String>| -> Vec<String> {
            ["--scope=s".to_string()].into_iter().chain(key.cloned()).collect()
        };
        let (writer, reader) = (flags(writer), flags(reader));
        let refs = |flags: &[String]| -> Vec<&'static str> { flags.iter().map(|f| &*f.clone().leak()).collect() };
        if let Store::Dir(root) = &store {
            let _ = fs::remove_dir_all(root.join("pre"));
        }
        fill(&store, &refs(&writer), &bodies);
        let mut s = Machine::new().session(&store, &refs(&reader));
        assert_eq!(s.get_all(&bodies), hits, "{writer:?} {reader:?}");
        let out = s.end();
        let m = metrics(&out);
        assert_eq!(m["bucket"]["corrupt"], 6 - hits, "{writer:?} {reader:?}{}", out.describe());
        assert_eq!(m["readahead"]["manifest_bad"] != 0, hits == 0, "{writer:?} {reader:?}{}", out.describe());
    }
}

/// A build's outputs: small ones and some larger ones.
fn build() -> Vec<Vec<u8>> {
    (0..200).map(|n| noise(n + 1, if n % 5 < 3 { 300 } else { 6000 + n as usize })).collect()
}

#[test]
fn with_a_manifest_most_gets_need_no_request() {
    let (server, bodies) = (S3Server::in_process(), build());
    let scope = "--scope=example.com/m";
    let store = Store::S3(Box::new(server));
    let Store::S3(server) = &store else { unreachable!("just made") };
    fill(&store, &[scope], &[]);
    assert!(server.keys().is_empty(), "a build that used nothing leaves nothing");
    build_from_nothing(&store, scope, &bodies);
    assert!(server.keys().contains(&manifest_key("example.com/m")));

    server.clear_log();
    let mut s = Machine::new().session(&store, &[scope]);
    holds(&s.client.get(&action(0)).expect("a hit"), &bodies[0]);
    poll("the manifest", || server.requests().iter().any(|r| r.path.contains("manifest/")).then_some(()));
    assert_eq!(s.get_all(&bodies), 200);
    let out = s.end();
    let (requests, m) = (server.count(""), metrics(&out));
    assert!(requests <= 10, "{requests} requests for 200 gets{}", out.describe());
    assert!(m["readahead"]["packed"].as_u64() > Some(190), "{}", out.describe());
    assert_eq!(m["readahead"]["manifest_loads"], 1);
    let mut keys: Vec<String> =
        server.requests().into_iter().filter(|r| r.path.contains("/v1/")).map(|r| r.path).collect();
    let all = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), all, "nothing is fetched twice");

    // without readahead each get is one request
    server.clear_log();
    let mut s = Machine::new().session(&store, &["--no-readahead"]);
    assert_eq!(s.get_all(&bodies), 200);
    s.end();
    assert_eq!((server.count("GET"), server.count("")), (200, 200));
    server.clear_log();
    let mut s = Machine::new().session(&store, &["--no-readahead"]);
    for n in 1000..1010 {
        assert!(s.client.get(&action(n)).is_none());
    }
    assert_eq!((server.count("GET"), server.count("")), (10, 10), "a miss is one request");
    for n in 1010..1100 {
        assert!(s.client.get(&action(n)).is_none());
    }
    s.end();
    assert!(server.count("") <= 100, "also where nobody waits for it");
}

/// As a `go` that finds nothing: asks first, then puts.
fn build_from_nothing(store: &Store, scope: &str, bodies: &[Vec<u8>]) {
    let machine = Machine::new();
    let mut s = machine.session(store, &[scope]);
    for (n, body) in (0..).zip(bodies) {
        assert!(s.client.get(&action(n)).is_none());
        s.client.put(&action(n), body);
    }
    s.end();
}

#[test]
fn a_new_scope_goes_by_what_others_have_built() {
    for store in Store::both() {
        let bodies = build();
        build_from_nothing(&store, "--scope=old", &bodies);
        let mut s = Machine::new().session(&store, &["--scope=new"]);
        assert_eq!(s.get_all(&bodies), 200);
        let out = s.end();
        let m = metrics(&out);
        assert!(said(&out).is_empty(), "{}", out.describe());
        assert_eq!(m["readahead"]["manifest_loads"], 1, "{}", out.describe());
        assert!(m["readahead"]["packed"].as_u64() > Some(100), "{}", out.describe());
        // from now on it has its own, and leaves the fleet's alone
        let fleet = store.read(&manifest_key("")).unwrap();
        let mut s = Machine::new().session(&store, &["--scope=new"]);
        s.client.put(&action(1000), b"a new thing");
        assert_eq!(s.get_all(&bodies), 200);
        s.end();
        assert_eq!(store.read(&manifest_key("")).unwrap(), fleet);
    }
}

#[test]
fn a_bad_manifest_is_one_line_and_replaced() {
    let store = Store::dir();
    let bodies: Vec<Vec<u8>> = (0..20).map(|n| noise(n + 1, 500)).collect();
    fill(&store, &["--scope=s"], &bodies);
    let good = store.read(&manifest_key("s")).unwrap();
    // the length that the index claims
    let mut flipped = good.clone();
    flipped[16] ^= 1;
    let mut newer = good.clone();
    newer[7] = 3;
    let mut huge = good.clone();
    huge[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    let garbage = noise(7, 100_000);
    for bad in [&flipped[..], &good[..200], &good[..12], b"", b"hello", &garbage, &newer, &huge] {
        store.write(&manifest_key("s"), bad);
        let mut s = Machine::new().session(&store, &["--scope=s"]);
        assert_eq!(s.get_all(&bodies), 20);
        let out = s.end();
        assert_eq!(said(&out).len(), 1, "{}", out.describe());
        assert!(said(&out)[0].contains(&manifest_key("s")), "{}", out.describe());
        assert_ne!(metrics(&out)["readahead"]["manifest_bad"], 0);
        if bad == newer {
            assert_eq!(store.read(&manifest_key("s")).unwrap(), newer, "left to those who know its format");
            continue;
        }
        // the next build has one again
        let mut s = Machine::new().session(&store, &["--scope=s"]);
        assert_eq!(s.get_all(&bodies), 20);
        let out = s.end();
        assert_eq!(metrics(&out)["readahead"]["manifest_entries"], 20);
        assert!(said(&out).is_empty(), "{}", out.describe());
    }
    // a body that is not what its output id says is fetched instead
    let at = good.windows(100).position(|w| w == &bodies[7][..100]).expect("noise stands there as it is");
    let mut body = good.clone();
    body[at] ^= 1;
    store.write(&manifest_key("s"), &body);
    let mut s = Machine::new().session(&store, &["--scope=s"]);
    assert_eq!(s.get_all(&bodies), 20);
    let out = s.end();
    assert!(said(&out).is_empty(), "{}", out.describe());
}

#[test]
fn sessions_at_the_same_time_both_get_into_the_manifest() {
    for store in Store::both() {
        let bodies: Vec<Vec<u8>> = (0..40).map(|n| noise(n + 1, 500)).collect();
        let (a, b) = (Machine::new(), Machine::new());
        let (mut one, mut two) = (a.session(&store, &["--scope=s"]), b.session(&store, &["--scope=s"]));
        for n in 0..20 {
            one.client.put(&action(n), &bodies[n as usize]);
            two.client.put(&action(20 + n), &bodies[20 + n as usize]);
        }
        // both have looked for a manifest and found none
        one.end();
        two.end();
        let mut s = Machine::new().session(&store, &["--scope=s"]);
        assert_eq!(s.get_all(&bodies), 40);
        let out = s.end();
        assert_eq!(metrics(&out)["readahead"]["manifest_entries"], 40, "{}", out.describe());
    }
}

/// `serve` over `store`, with its port, once it listens.
fn serve(dir: &TempDir, store: &Store) -> (Running, u16) {
    let port = free_port();
    let plugin = Plugin::new(dir).envs(&store.vars());
    let child = plugin.args(["serve", "--plugin", &port.to_string()]).spawn();
    poll("the server", || child.stderr().contains(": listening plugin=").then_some(()));
    (child, port)
}

#[test]
fn connect_hands_its_scope_on() {
    let (dir, store) = (TempDir::new(), Store::dir());
    let (mut server, port) = serve(&dir, &store);
    let elsewhere = TempDir::new();
    elsewhere.write("go.mod", "module example.com/from/go.mod\n");
    for (flags, scope) in [(&["--scope=given"][..], "given"), (&[], "example.com/from/go.mod")] {
        let mut s = Session::start(Plugin::new(&elsewhere).args(["connect", &port.to_string()]).args(flags));
        s.client.put(&action(1), b"body");
        holds(&s.client.get(&action(1)).expect("a hit"), b"body");
        s.end().quiet();
        poll("the manifest", || store.read(&manifest_key(scope)));
    }
    server.signal(rustix::process::Signal::TERM);
    server.wait().ok();
    assert_eq!(store.keys().iter().filter(|k| k.starts_with("manifest/")).count(), 3, "theirs and the fleet's");
    assert!(!elsewhere.join("cache").exists(), "connect has no cache of its own");
}

#[test]
fn connect_tells_the_original_server_nothing_new() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    // the original's: greets, answers, and ends when its input has ended
    let original = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"{\"ID\":0,\"KnownCommands\":[\"get\",\"put\",\"close\"]}\n").unwrap();
        let mut got = vec![0; 1];
        stream.read_exact(&mut got).unwrap();
        stream.write_all(b"{\"ID\":1,\"Miss\":true}\n").unwrap();
        stream.read_to_end(&mut got).unwrap();
        stream.write_all(b"{\"ID\":2}\n").unwrap();
        String::from_utf8(got).unwrap()
    });
    let dir = TempDir::new();
    let Session { mut child, mut client } = Session::start(Plugin::new(&dir).args(["connect", &port, "--scope=mine"]));
    let sent = "{\"ID\":1,\"Command\":\"get\",\"ActionID\":\"AQI=\"}\n{\"ID\":2,\"Command\":\"close\"}\n";
    client.raw(sent.as_bytes());
    assert_eq!(client.wait(1)["Miss"], true);
    // the answer that comes after the half-close is passed on
    assert_eq!(client.rest(), [serde_json::json!({ "ID": 2 })]);
    assert_eq!(original.join().unwrap(), sent);
    child.wait().ok().quiet();
}

#[test]
fn the_original_connect_works_with_our_server() {
    let (dir, store) = (TempDir::new(), Store::dir());
    let (mut server, port) = serve(&dir, &store);
    // it copies stdin to the socket, half-closes, and copies the socket to its end
    let body = base64_simd::STANDARD.encode_to_string(b"body");
    let (act, out) = (
        base64_simd::STANDARD.encode_to_string(action(1)),
        base64_simd::STANDARD.encode_to_string(Sha256::digest(b"body")),
    );
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let put = format!(
        "{{\"ID\":1,\"Command\":\"put\",\"ActionID\":\"{act}\",\"OutputID\":\"{out}\",\"BodySize\":4}}\n\"{body}\"\n"
    );
    stream.write_all(put.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    let lines: Vec<serde_json::Value> = answers.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{answers}");
    assert!(lines[0]["KnownCommands"].as_array().is_some_and(|k| k.iter().any(|c| c == "get")));
    let path = local(&dir.join("cache"), "output", &output_id(b"body"));
    assert_eq!(lines[1], serde_json::json!({ "ID": 1, "DiskPath": path }));
    let mut client = Client::tcp(port);
    client.greeting();
    holds(&client.get(&action(1)).expect("a hit"), b"body");
    client.close();
    assert!(client.rest().is_empty());
    server.signal(rustix::process::Signal::TERM);
    server.wait().ok();
    assert_eq!(store.keys(), [single(1)], "no scope, no manifest");
}
