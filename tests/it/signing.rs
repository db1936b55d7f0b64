//! Signatures: who holds which key takes what from a bucket, and what an attacker who may write to
//! the bucket can make of that.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use go_cache_plugin::cache::id::{ActionId, OutputId};
use go_cache_plugin::remote::{PutBody, Remote};
use go_cache_plugin::sign::{Claim, Signer, nanos, private_key};
use sha2::{Digest, Sha256};

use super::bucket::{Machine, Store, bodies, fill, manifest_key, sharded, single};
use crate::support::env::{Plugin, TempDir, poll};
use crate::support::s3::S3Server;
use crate::support::script::{action, hex, holds, metrics, noise, output_id, said};

/// Makes a pair of keys; the flags that sign with it, and that verify.
pub fn keygen(dir: &TempDir, name: &str) -> (String, String) {
    let file = dir.join(name);
    let out = Plugin::new(dir).arg("keygen").arg(&file).output().ok().quiet();
    assert!(out.stdout.contains("secret"), "{}", out.describe());
    (format!("--signing-key-file={}", file.display()), format!("--verify-key-file={}.pub", file.display()))
}

/// Signs as the holder of the key that `flag` names.
pub fn signer(flag: &str) -> Signer {
    let file = flag.strip_prefix("--signing-key-file=").expect("a flag of keygen");
    Signer::new(private_key(&fs::read_to_string(file).unwrap()).ok(), Vec::new(), false)
}

fn path(store: &Store, key: &str) -> PathBuf {
    let Store::Dir(dir) = store else { panic!("a directory") };
    dir.join("pre/fix").join(key)
}

/// How many of `bodies` a fresh machine gets, and what it said.
fn gets(store: &Store, flags: &[&str], bodies: &[Vec<u8>]) -> (usize, Vec<String>, serde_json::Value) {
    let mut s = Machine::new().session(store, flags);
    let hits = s.get_all(bodies);
    let out = s.end();
    (hits, said(&out).into_iter().map(str::to_string).collect(), metrics(&out))
}

/// The same, of a session that is to load the scope's list if `listed`: one that writes none does not wait for it, and
/// may be over before it has come.
fn gets_listed(
    store: &Store,
    flags: &[&str],
    bodies: &[Vec<u8>],
    listed: bool,
) -> (usize, Vec<String>, serde_json::Value) {
    poll("a session that loads the list", || {
        let got = gets(store, flags, bodies);
        (!listed || got.2["readahead"]["manifest_loads"] != 0).then_some(got)
    })
}

#[test]
fn keygen_makes_a_pair_and_overwrites_nothing() {
    let dir = TempDir::new();
    keygen(&dir, "key");
    let mode = |name: &str| fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("key"), 0o600);
    let before = fs::read(dir.join("key")).unwrap();
    let refused = |name: &str| {
        let out = Plugin::new(&dir).args(["keygen", name]).output().code(1);
        assert!(out.stderr.lines().count() == 1 && out.stderr.contains(name), "{}", out.describe());
    };
    refused("key");
    assert_eq!(fs::read(dir.join("key")).unwrap(), before);
    // the public one's place is taken: no half pair is left
    dir.write("other.pub", "mine");
    refused("other");
    assert!(!dir.join("other").exists() && fs::read(dir.join("other.pub")).unwrap() == b"mine");
    // nor is a link followed
    symlink(dir.join("target"), dir.join("link")).unwrap();
    refused("link");
    refused("no/such/folder");
    assert!(!dir.join("target").exists() && !dir.join("cache").exists());
}

#[test]
fn a_wrong_key_file_is_one_line_that_says_what_to_do() {
    let dir = TempDir::new();
    keygen(&dir, "key");
    dir.write("old", &"0123456789abcdef\n".repeat(2));
    fs::write(dir.join("bytes"), [0xff; 40]).unwrap();
    for (flag, want) in [
        ("--signing-key-file=old", "go-cache-plugin keygen"),
        ("--verify-key-file=bytes", "go-cache-plugin keygen"),
        ("--signing-key-file=key.pub", "--verify-key-file"),
        ("--verify-key-file=key", ".pub"),
        ("--verify-key-file=/dev/zero", "keygen"),
        ("--verify-key-file=", "names no file"),
        ("--signing-key-file=nowhere", "No such file"),
    ] {
        let out = Plugin::new(&dir).args(["--bucket=some", flag]).output().code(2);
        assert!(out.stderr.lines().count() == 1 && out.stderr.contains(want), "{}", out.describe());
    }
}

#[test]
fn what_counts_is_what_a_known_key_signed() {
    let (keys, bodies) = (TempDir::new(), bodies());
    let ((sign, verify), (foreign, other)) = (keygen(&keys, "ours"), keygen(&keys, "theirs"));
    for (writer, reader, hits) in [
        (Some(&sign), Some(&sign), 6),
        (Some(&sign), Some(&verify), 6),
        (Some(&sign), None, 6),
        (Some(&sign), Some(&other), 0),
        (Some(&foreign), Some(&sign), 0),
        (None, Some(&verify), 0),
    ] {
        // of its own, for the prefixes are the same in each round
        for store in [Store::S3(Box::new(S3Server::in_process())), Store::dir()] {
            for layout in ["--s3-layout=single", "--s3-layout=classic"] {
                let prefix = format!("--prefix=team/{}", &layout[12..]);
                let flags = |key: Option<&String>| -> Vec<String> {
                    let scope = ["--scope=s", layout, &prefix].map(str::to_string);
                    scope.into_iter().chain(key.cloned()).collect()
                };
                let (writer, reader) = (flags(writer), flags(reader));
                fill(&store, &writer.iter().map(String::as_str).collect::<Vec<_>>(), &bodies);
                let refs: Vec<&str> = reader.iter().map(String::as_str).collect();
                let (got, said, m) = gets_listed(&store, &refs, &bodies, hits > 0);
                assert_eq!(got, hits, "{writer:?} {reader:?} {said:?}");
                assert_eq!(m["bucket"]["corrupt"], 6 - hits, "{writer:?} {reader:?}");
                assert_eq!(m["readahead"]["manifest_loads"], u64::from(hits > 0), "{writer:?} {reader:?}");
                // the first instance, and the count
                assert_eq!(said.len(), if hits > 0 { 0 } else { 2 }, "{writer:?} {reader:?} {said:?}");
            }
        }
    }
    // keys rotate: several count, as flags and in the variable
    let store = Store::dir();
    fill(&store, &[&sign], &bodies[..3]);
    let mut s = Machine::new().session(&store, &[&foreign, &verify]);
    for n in 3..6 {
        s.client.put(&action(n), &bodies[n as usize]);
    }
    s.end();
    assert_eq!(gets(&store, &[&verify, &other], &bodies).0, 6);
    assert_eq!(gets(&store, &[&other, &verify], &bodies).0, 6);
    assert_eq!((gets(&store, &[&verify], &bodies).0, gets(&store, &[&other], &bodies).0), (3, 3));
    let list = format!("{}:{}", &verify[18..], &other[18..]);
    let machine = Machine::new();
    let plugin = Plugin::new(&machine.0).envs(&store.vars()).arg("--no-readahead");
    let mut s = crate::support::script::Session::start(plugin.env("GOCACHE_VERIFY_KEY_FILE", list));
    assert_eq!(s.get_all(&bodies), 6);
    s.end().quiet();
}

#[test]
fn what_others_brought_is_not_signed_by_passing_through() {
    let (keys, bodies) = (TempDir::new(), bodies());
    let (sign, verify) = keygen(&keys, "ours");
    let store = Store::dir();
    fill(&store, &["--scope=s", &sign], &bodies);
    let machine = Machine::new();
    let mut s = crate::support::script::Session::start(Plugin::new(&machine.0));
    (0..6).for_each(|n| drop(s.client.put(&action(n), format!("evil {n}").as_bytes())));
    s.end().quiet();
    let mut s = machine.session(&store, &["--scope=s", &sign]);
    (0..6).for_each(|n| drop(s.client.get(&action(n)).expect("a hit")));
    s.client.put(&action(7), b"ours");
    s.end();
    let mut s = Machine::new().session(&store, &["--scope=s", &verify]);
    for (n, body) in (0..).zip(&bodies) {
        holds(&s.client.get(&action(n)).expect("a hit"), body);
    }
    holds(&s.client.get(&action(7)).expect("a hit"), b"ours");
    let out = s.end();
    assert!(said(&out).is_empty(), "{}", out.describe());
}

#[test]
fn a_key_on_a_bucket_of_unsigned_entries_is_two_lines_and_mends_it() {
    let (keys, store) = (TempDir::new(), Store::dir());
    let (sign, verify) = keygen(&keys, "key");
    let bodies: Vec<Vec<u8>> = (0..40).map(|n| noise(n + 1, 6000)).collect();
    fill(&store, &["--scope=s"], &bodies);
    let mut s = Machine::new().session(&store, &["--scope=s", &sign]);
    assert_eq!(s.get_all(&bodies), 0);
    s.put_all(&bodies);
    let out = s.end();
    let lines = said(&out);
    assert_eq!(lines.len(), 2, "{}", out.describe());
    assert!(lines[0].contains("is not signed") && lines[1].contains(" objects of the bucket"), "{}", out.describe());
    let (hits, said, m) = gets(&store, &["--scope=s", &verify], &bodies);
    assert_eq!((hits, said.len()), (40, 0), "{said:?}");
    assert_eq!(m["readahead"]["manifest_loads"], 1, "the list is signed anew too");
}

#[test]
fn who_only_verifies_pushes_nothing_out_of_the_main_prefix() {
    let (keys, store, bodies) = (TempDir::new(), Store::dir(), bodies());
    let (sign, verify) = keygen(&keys, "key");
    fill(&store, &[&sign, "--scope=s"], &bodies);
    let before: Vec<_> = store.keys().into_iter().map(|key| store.read(&key)).collect();
    let mut s = Machine::new().session(&store, &[&verify, "--scope=s"]);
    s.put_all(&bodies);
    s.client.put(&action(99), b"unsigned");
    s.end().quiet_but_metrics();
    let after: Vec<_> = store.keys().into_iter().map(|key| store.read(&key)).collect();
    assert_eq!(before, after);
}

trait QuietButMetrics {
    fn quiet_but_metrics(&self);
}

impl QuietButMetrics for crate::support::env::Output {
    #[track_caller]
    fn quiet_but_metrics(&self) {
        assert!(said(self).is_empty(), "{}", self.describe());
    }
}

#[test]
fn signed_entries_do_not_fit_elsewhere() {
    let (keys, store) = (TempDir::new(), Store::dir());
    let (sign, verify) = keygen(&keys, "key");
    let bodies = [b"one".to_vec(), b"two".to_vec()];
    fill(&store, &[&sign], &bodies);
    let (one, two) = (store.read(&single(0)).unwrap(), store.read(&single(1)).unwrap());
    let misses = |what: &str| assert_eq!(gets(&store, &[&verify], &bodies[..1]).0, 0, "{what}");
    store.write(&single(0), &two);
    misses("another's entry");
    store.write(&single(0), &[&two[..56], &one[56..]].concat());
    misses("another's header with its signature");
    store.write(&single(0), &[&one[..56], &two[56..120], &one[120..]].concat());
    misses("another's signature");
    let mut stripped = [&one[..56], &one[120..]].concat();
    stripped[4] = 0;
    store.write(&single(0), &stripped);
    misses("no signature");
    store.write(&single(0), &one);
    assert_eq!(gets(&store, &[&verify], &bodies).0, 2);
}

#[test]
fn signatures_beside_classic_actions_do_not_fit_elsewhere() {
    let keys = TempDir::new();
    let (sign, verify) = keygen(&keys, "key");
    let (foreign, _) = keygen(&keys, "foreign");
    let bodies = [b"one".to_vec(), b"two".to_vec()];
    let flags = ["--s3-layout=classic", &verify];
    let keys: Vec<String> = (0..2).map(|n| sharded("action", &hex(&action(n)))).collect();
    for store in Store::both() {
        fill(&store, &["--s3-layout=classic", &sign], &bodies);
        assert_eq!(gets(&store, &flags, &bodies).0, 2);
        // as S3 clients and file managers can do it: any text beside any object
        let text = store.read(&keys[0]).unwrap();
        let (id, time) = (ActionId::new(&action(0)).unwrap().to_string(), nanos_in(&text));
        let put = |body: &[u8], signature: Option<&str>| match &store {
            Store::S3(server) => {
                let client = server.client(&server.endpoint, Default::default());
                let key = format!("{}/{}", server.prefix, keys[0]);
                client.put(&key, &PutBody::Bytes(body.into()), None, signature).unwrap();
            }
            Store::Dir(_) => {
                store.write(&keys[0], body);
                let side = path(&store, &format!("{}.sig", keys[0]));
                let _ = fs::remove_file(&side);
                if let Some(text) = signature {
                    fs::write(side, text).unwrap();
                }
            }
        };
        let claim = |body: &[u8], time| Claim { hash: OutputId::of(body), size: body.len() as u64, time };
        let ours = |key: &str, c: &Claim| signer(&sign).sign_text("entry", key, c).unwrap();
        let good = ours(&id, &claim(b"one", time));
        put(&text, Some(&good));
        assert_eq!(gets(&store, &flags, &bodies).0, 2, "made by hand as the program makes it");
        let other = ActionId::new(&action(1)).unwrap().to_string();
        for (what, body, signature) in [
            ("none", &text[..], None),
            ("rubbish", &text, Some("rubbish".to_string())),
            ("of another action", &text, Some(ours(&other, &claim(b"one", time)))),
            ("of another output", &text, Some(ours(&id, &claim(b"two", time)))),
            ("of another time", &text, Some(ours(&id, &claim(b"one", time + 1)))),
            ("of another size", &text, Some(ours(&id, &Claim { size: 4, ..claim(b"one", time) }))),
            ("by another key", &text, signer(&foreign).sign_text("entry", &id, &claim(b"one", time))),
            ("over another text", &store.read(&keys[1]).unwrap(), Some(good.clone())),
        ] {
            put(body, signature.as_deref());
            assert_eq!(gets(&store, &flags, &bodies[..1]).0, 0, "{what}");
        }
    }
}

fn nanos_in(classic: &[u8]) -> i64 {
    let text = std::str::from_utf8(classic).unwrap();
    text.split_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn signatures_beside_objects_are_no_objects() {
    let (keys, store, dir) = (TempDir::new(), Store::dir(), TempDir::new());
    let (sign, _) = keygen(&keys, "key");
    fill(&store, &["--s3-layout=classic", &sign], &bodies());
    assert_eq!(store.keys().iter().filter(|key| key.ends_with(".sig")).count(), 6);
    let Store::Dir(root) = &store else { unreachable!("just made") };
    let bucket = format!("--bucket=file://{}", root.path().display());
    let out = Plugin::new(&dir).args(["clear", &bucket, "--prefix=pre/fix"]).output().ok().quiet();
    assert!(out.stdout.contains("removed 12 objects") && out.stdout.contains("; 0 of other names"), "{}", out.stdout);
    assert!(store.keys().is_empty(), "{:?}", store.keys());
}

/// The manifest of scope `s`, signed anew at another time.
fn backdate(store: &Store, sign: &str, days: u64) {
    let key = manifest_key("s");
    let mut stored = store.read(&key).unwrap();
    let time = nanos(SystemTime::now() - Duration::from_secs(days * 86_400));
    let size = u64::from_le_bytes(stored[16..24].try_into().unwrap());
    let claim = Claim { hash: OutputId::of(&stored[96..96 + size as usize]), size, time };
    stored[24..32].copy_from_slice(&time.to_le_bytes());
    stored[32..96].copy_from_slice(&signer(sign).sign("manifest", &key, &claim).unwrap());
    store.write(&key, &stored);
}

#[test]
fn an_old_manifest_does_not_turn_time_back_and_a_signer_keeps_it_young() {
    let (keys, store) = (TempDir::new(), Store::dir());
    let (sign, verify) = keygen(&keys, "key");
    let bodies: Vec<Vec<u8>> = (0..5).map(|n| noise(n + 1, 300)).collect();
    // asked for and put, so that a second look changes nothing
    let build = |flag: &str, loads: u32| gets_listed(&store, &["--scope=s", flag], &bodies, loads > 0);
    fill(&store, &["--scope=s", &sign], &bodies);
    build(&sign, 0);
    for (days, loads) in [(14, 1), (29, 1), (31, 0), (400, 0)] {
        backdate(&store, &sign, days);
        let before = store.read(&manifest_key("s")).unwrap();
        let (hits, said, m) = build(&verify, loads);
        assert_eq!((hits, &m["readahead"]["manifest_loads"]), (5, &loads.into()), "{days} {said:?}");
        assert_eq!(store.read(&manifest_key("s")).unwrap(), before, "who only verifies leaves it");
        let (hits, _, m) = build(&sign, loads);
        assert_eq!((hits, &m["readahead"]["manifest_loads"]), (5, &loads.into()), "{days}");
        let renewed = store.read(&manifest_key("s")).unwrap() != before;
        assert_eq!(renewed, days > 15, "{days}");
    }
    assert_eq!(build(&verify, 1).2["readahead"]["manifest_loads"], 1);
    // that of another scope is not this one's, and a stripped one is none
    fill(&store, &["--scope=other", &sign], &bodies);
    let good = store.read(&manifest_key("s")).unwrap();
    let mut stripped = [&good[..24], &good[96..]].concat();
    stripped[8] = 0;
    for bad in [store.read(&manifest_key("other")).unwrap(), stripped] {
        store.write(&manifest_key("s"), &bad);
        let (hits, said, m) = build(&verify, 0);
        assert_eq!((hits, said.len(), &m["readahead"]["manifest_loads"]), (5, 1, &0.into()), "{said:?}");
    }
}

#[test]
fn the_own_prefix_counts_when_it_is_trusted_and_never_hides_the_main_one() {
    for layout in ["--s3-layout=single", "--s3-layout=classic"] {
        let (keys, store) = (TempDir::new(), Store::dir());
        let (sign, verify) = keygen(&keys, "key");
        let bodies = bodies();
        let main = [layout, "--scope=s", &sign];
        fill(&store, &main, &bodies[..4]);
        let before: Vec<_> = store.keys().into_iter().map(|key| store.read(&key)).collect();
        // a pull request's job: reads main's, and puts its own beside
        let mut s = Machine::new().session(&store, &[layout, "--scope=s", &verify, "--write-prefix=pr/7"]);
        assert_eq!(s.get_all(&bodies), 4);
        s.put_all(&bodies);
        s.client.put(&action(1), b"forged");
        s.end().quiet_but_metrics();
        // its own do not count, but main's do all the same
        let pr = [layout, "--scope=s", &verify, "--write-prefix=pr/7"];
        let mut s = Machine::new().session(&store, &pr);
        assert_eq!(s.get_all(&bodies), 4);
        holds(&s.client.get(&action(1)).expect("main's"), &bodies[1]);
        let out = s.end();
        assert_eq!(said(&out).len(), 2, "{}", out.describe());
        assert_eq!(metrics(&out)["readahead"]["manifest_loads"], 1, "main's list counts{}", out.describe());
        // unless they are trusted
        let trusting = [layout, &verify, "--write-prefix=pr/7", "--trust-write-prefix"];
        let mut s = Machine::new().session(&store, &trusting);
        holds(&s.client.get(&action(1)).expect("its own"), b"forged");
        holds(&s.client.get(&action(5)).expect("its own"), &bodies[5]);
        s.end().quiet_but_metrics();
        // a signer never takes them on trust, and main stays as it was
        let out = Plugin::new(&keys).args(["--bucket=some", "--write-prefix=p", "--trust-write-prefix", &sign]);
        assert!(out.output().code(2).stderr.contains("cannot be combined"));
        let after: Vec<_> = store.keys().into_iter().map(|key| store.read(&key)).collect();
        assert_eq!(before, after);
        let (hits, said, _) = gets(&store, &[layout, &verify], &bodies);
        assert_eq!((hits, said.len()), (4, 0));
    }
}

#[test]
fn garbage_under_the_own_prefix_hides_nothing() {
    let store = Store::dir();
    let Store::Dir(root) = &store else { unreachable!("just made") };
    fill(&store, &[], &[b"main's".to_vec()]);
    let mine = root.join("pr/7").join(single(0));
    fs::create_dir_all(mine.parent().unwrap()).unwrap();
    fs::write(&mine, "garbage, longer than the header of an entry has to be, all the same").unwrap();
    let (hits, said, _) = gets(&store, &["--write-prefix=pr/7"], &[b"main's".to_vec()]);
    assert_eq!((hits, said.len()), (1, 1), "{said:?}");
}

/// Bytes that the process has written so far, to files and pipes.
fn written(pid: u32) -> u64 {
    let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("io")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
}

#[test]
fn a_claim_of_64_mib_in_a_few_kilobytes_writes_nothing() {
    let store = Store::dir();
    let honest = vec![0; 64 << 20];
    fill(&store, &[], std::slice::from_ref(&honest));
    let mut object = store.read(&single(0)).unwrap();
    assert!(object.len() < 10_000, "{} bytes", object.len());
    object[24..56].copy_from_slice(&[7; 32]);
    for size in [64 << 20, 1 << 40, 1 << 63] {
        object[8..16].copy_from_slice(&u64::to_le_bytes(size));
        store.write(&single(0), &object);
        let mut s = Machine::new().session(&store, &[]);
        assert!(s.client.get(&action(1)).is_none());
        let before = written(s.child.pid());
        assert!(s.client.get(&action(0)).is_none());
        let after = written(s.child.pid());
        assert!(after - before < 1 << 20, "{} bytes were written", after - before);
        let out = s.end();
        assert_eq!((said(&out).len(), &metrics(&out)["bucket"]["corrupt"]), (1, &1.into()), "{}", out.describe());
    }
    // one that is what it claims is taken
    fill(&store, &[], std::slice::from_ref(&honest));
    assert_eq!(gets(&store, &[], &[honest]).0, 1);
}

#[test]
fn an_entry_takes_no_more_memory_than_the_highest_level_needs() {
    let body: Vec<u8> = noise(1, 9 << 20).into_iter().map(|byte| byte & 0x3f).collect();
    let store = Store::dir();
    fill(&store, &["--compression-level=19"], std::slice::from_ref(&body));
    assert_eq!(gets(&store, &[], std::slice::from_ref(&body)).0, 1);
    let mut object = store.read(&single(0)).unwrap();
    // were it longer than its output, that would be enough to refuse it
    let body = [&body[..], &[0; 1 << 20]].concat();
    let mut packer = zstd::Encoder::new(Vec::new(), 1).unwrap();
    packer.window_log(27).unwrap();
    packer.write_all(&body).unwrap();
    object.truncate(56);
    object[4] = 1;
    object.extend(packer.finish().unwrap());
    object[8..16].copy_from_slice(&(body.len() as u64).to_le_bytes());
    object[24..56].copy_from_slice(&Sha256::digest(&body));
    store.write(&single(0), &object);
    let mut s = Machine::new().session(&store, &[]);
    assert!(s.client.get(&action(0)).is_none());
    let out = s.end();
    assert_eq!(metrics(&out)["bucket"]["corrupt"], 1, "{}", out.describe());
}

#[test]
fn a_damaged_output_is_not_given_to_others() {
    for layout in ["--s3-layout=single", "--s3-layout=classic"] {
        let (store, machine, body) = (Store::dir(), Machine::new(), noise(5, 20_000));
        // put without a bucket, damaged, then put again with one: same size, other bytes
        let mut s = crate::support::script::Session::start(Plugin::new(&machine.0));
        s.client.put(&action(0), &body);
        let file = s.client.get(&action(0)).expect("a hit").path;
        s.end();
        let mut damaged = body.clone();
        damaged[7000] ^= 1;
        fs::write(&file, &damaged).unwrap();
        let mut s = machine.session(&store, &[layout]);
        s.client.put(&action(0), &body);
        s.end();
        let reader = Machine::new();
        let mut s = reader.session(&store, &[layout]);
        if let Some(hit) = s.client.get(&action(0)) {
            holds(&hit, &body);
        }
        s.end().quiet_but_metrics();
        assert!(store.read(&sharded("output", &output_id(&body))).is_none_or(|sent| sent == body));
    }
}
