//! The bucket's own life: an object's age is its last use, `prune --bucket` goes by it, `status
//! --bucket` shows it, and `push` brings what is only local.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use go_cache_plugin::cache::manifest::Manifest;
use go_cache_plugin::config::{BucketConfig, BucketLocation, KeyPrefix};
use go_cache_plugin::remote::{Bucket, Dir, PutBody, Remote};
use go_cache_plugin::sign::Signer;
use go_cache_plugin::store::{BlobStore, Kind};
use go_cache_plugin::upload::{Target, Uploader};

use super::bucket::{Machine, Store, bodies, fill, manifest_key, sharded, single};
use super::signing::keygen;
use crate::support::env::{Output, Plugin, TempDir, poll};
use crate::support::fault::{Fault, FaultProxy};
use crate::support::origin::{Origin, answer};
use crate::support::s3::S3Server;
use crate::support::script::{Session, action, files, hex, holds, local, metrics, noise, output_id, said};

const DAY: u64 = 86_400;
const LAYOUTS: [&str; 2] = ["--s3-layout=single", "--s3-layout=classic"];

/// A bucket of either kind whose objects' times we can set.
fn stores() -> [Store; 2] {
    [Store::S3(Box::new(S3Server::in_process())), Store::dir()]
}

fn file(store: &Store, key: &str) -> PathBuf {
    match store {
        Store::S3(server) => server.file(key),
        Store::Dir(dir) => dir.join("pre/fix").join(key),
    }
}

/// Makes every object this old, but for what is left between operations.
fn age(store: &Store, days: u64) {
    store.keys().iter().for_each(|key| age_one(store, key, days));
}

fn age_one(store: &Store, key: &str, days: u64) {
    let then = SystemTime::now() - Duration::from_secs(days * DAY + 60);
    File::open(file(store, key)).and_then(|f| f.set_modified(then)).expect("an object");
}

/// The objects that are older than a day; signatures beside objects have no age of their own.
fn old(store: &Store) -> Vec<String> {
    let is_old = |key: &String| {
        let age = fs::metadata(file(store, key)).and_then(|m| m.modified()).expect("an object").elapsed();
        // nobody uses the list of the fleet where each scope has its own
        !key.ends_with(".sig") && *key != manifest_key("") && age.is_ok_and(|age| age.as_secs() > DAY)
    };
    store.keys().into_iter().filter(is_old).collect()
}

/// The manifest of scope `s`, and the frames that stand behind its index.
fn manifest(store: &Store, signer: &Signer) -> (Manifest, Vec<u8>) {
    let key = manifest_key("s");
    let stored = store.read(&key).unwrap();
    let mut rest = &stored[..];
    let (manifest, _) = Manifest::decode(&mut rest, &key, signer, false).unwrap();
    assert!(!manifest.entries.is_empty());
    (manifest, rest.to_vec())
}

/// Turns the days in the manifest of scope `s` back.
fn turn_back(store: &Store, days: u16, signer: &Signer) {
    let key = manifest_key("s");
    let (mut manifest, frames) = manifest(store, signer);
    manifest.entries.iter_mut().for_each(|entry| entry.day -= days);
    store.write(&key, &manifest.encode(&frames, &key, signer).unwrap());
}

/// How many days ago the entries of scope `s` were last known to be young: the least and the most.
fn days(store: &Store) -> (u16, u16) {
    let (manifest, _) = manifest(store, &Signer::default());
    let today = (SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() / DAY) as u16;
    let days: Vec<u16> = manifest.entries.iter().map(|e| today - e.day).collect();
    (*days.iter().min().unwrap(), *days.iter().max().unwrap())
}

fn server(store: &Store) -> &S3Server {
    let Store::S3(server) = store else { panic!("an S3 server") };
    server
}

/// Copies and heads that an S3 server has seen.
fn renewals(store: &Store) -> (usize, usize) {
    match store {
        Store::S3(server) => (server.count("HEAD"), server.count("PUT")),
        Store::Dir(_) => (0, 0),
    }
}

fn clear_log(store: &Store) {
    if let Store::S3(server) = store {
        server.clear_log();
    }
}

fn no_markers(dir: &TempDir) {
    assert_eq!(files(&dir.join("cache/pending")), Vec::<PathBuf>::new(), "a refresh is owed to nobody");
}

/// Small bodies, which lie in the manifest itself.
fn small() -> Vec<Vec<u8>> {
    (0..20).map(|n| noise(n + 1, 300)).collect()
}

#[test]
fn what_is_used_and_old_is_renewed_in_the_background() {
    for store in stores() {
        for layout in LAYOUTS {
            fill(&store, &[layout], &bodies());
            age(&store, 8);
            let before: Vec<_> = store.keys().into_iter().map(|key| (store.read(&key), key)).collect();
            clear_log(&store);
            let machine = Machine::new();
            let mut s = machine.session(&store, &[layout]);
            assert_eq!(s.get_all(&bodies()), 6);
            poll("the objects to be renewed", || old(&store).is_empty().then_some(()));
            let (heads, puts) = renewals(&store);
            assert!(heads <= before.len() && puts <= before.len(), "{heads} {puts}");
            no_markers(&machine.0);
            let out = s.end();
            assert!(said(&out).is_empty(), "{}", out.describe());
            let m = metrics(&out);
            assert_eq!((&m["upload"]["queued"], &m["bucket"]["put_objects"]), (&0.into(), &0.into()));
            let after: Vec<_> = store.keys().into_iter().map(|key| (store.read(&key), key)).collect();
            assert_eq!(after, before);
            // young, they are left alone; so are the old where none are to be renewed
            for (days, flag) in [(6, "--refresh-after=7d"), (300, "--refresh-after=0"), (20, "--refresh-after=21d")] {
                age(&store, days);
                clear_log(&store);
                let mut s = Machine::new().session(&store, &[layout, flag]);
                assert_eq!(s.get_all(&bodies()), 6);
                s.end();
                assert_eq!((renewals(&store), old(&store).len()), ((0, 0), before.len()), "{days} {flag}");
            }
            store.keys().iter().for_each(|key| fs::remove_file(file(&store, key)).unwrap());
        }
    }
}

#[test]
fn what_is_old_is_put_where_nobody_may_ask_how_old_it_is() {
    let store = Store::S3(Box::new(S3Server::in_process()));
    fill(&store, &[], &small());
    age(&store, 8);
    let proxy = FaultProxy::start(&server(&store).endpoint);
    proxy.only("HEAD");
    proxy.set(Fault::Status(405));
    let vars = server(&store).env_through(&proxy.endpoint);
    let mut s = Session::start(Plugin::new(&TempDir::new()).envs(&vars).arg("--no-readahead"));
    assert_eq!(s.get_all(&small()), 20);
    let entries = |keys: Vec<String>| keys.iter().filter(|key| key.contains("v1/")).count();
    poll("the entries to be put", || (entries(old(&store)) == 0).then_some(()));
    s.end().quiet();
}

/// Through whatever server there is, ages by its own clock.
#[test]
fn a_copy_onto_itself_keeps_what_stands_beside_it() {
    let (keys, server) = (TempDir::new(), S3Server::start());
    let store = Store::S3(Box::new(server));
    let (sign, verify) = keygen(&keys, "key");
    fill(&store, &["--s3-layout=classic", &sign], &bodies()[..2]);
    let refreshed = poll("the objects to be a second old", || {
        let mut s = Machine::new().session(&store, &["--s3-layout=classic", &sign, "--refresh-after=1ms"]);
        assert_eq!(s.get_all(&bodies()[..2]), 2);
        // time enough for what comes last
        std::thread::sleep(Duration::from_millis(300));
        let refreshed = metrics(&s.end())["upload"]["refreshed"].as_u64().unwrap();
        (refreshed > 0).then_some(refreshed)
    });
    assert!(refreshed <= 4, "{refreshed}");
    let mut s = Machine::new().session(&store, &["--s3-layout=classic", &verify]);
    assert_eq!(s.get_all(&bodies()[..2]), 2);
    let out = s.end();
    assert!(said(&out).is_empty(), "{}", out.describe());
}

#[test]
fn signed_objects_stay_signed() {
    for store in stores() {
        for layout in LAYOUTS {
            let keys = TempDir::new();
            let (sign, verify) = keygen(&keys, "key");
            fill(&store, &[layout, &sign], &bodies());
            age(&store, 30);
            let mut s = Machine::new().session(&store, &[layout, &sign]);
            assert_eq!(s.get_all(&bodies()), 6);
            poll("the objects to be renewed", || old(&store).is_empty().then_some(()));
            s.end();
            let mut s = Machine::new().session(&store, &[layout, &verify]);
            assert_eq!(s.get_all(&bodies()), 6, "{layout}");
            assert!(said(&s.end()).is_empty());
            // who only verifies writes nothing
            age(&store, 30);
            clear_log(&store);
            let mut s = Machine::new().session(&store, &[layout, &verify]);
            assert_eq!(s.get_all(&bodies()), 6);
            s.end();
            assert_eq!(renewals(&store), (0, 0));
            store.keys().iter().for_each(|key| fs::remove_file(file(&store, key)).unwrap());
        }
    }
}

#[test]
fn a_list_tells_how_old_things_are_without_a_request() {
    for store in stores() {
        let n = small().len();
        fill(&store, &["--scope=s"], &small());
        assert_eq!(days(&store), (0, 0));
        // refreshed yesterday: nothing is asked
        turn_back(&store, 1, &Signer::default());
        age(&store, 1);
        clear_log(&store);
        let mut s = Machine::new().session(&store, &["--scope=s"]);
        assert_eq!(s.get_all(&small()), n);
        let out = s.end();
        assert_eq!((renewals(&store).0, metrics(&out)["upload"]["refreshed"].as_u64()), (0, Some(0)));
        // after 8 days: two requests each at most, though no entry was asked for by itself
        turn_back(&store, 8, &Signer::default());
        age(&store, 8);
        clear_log(&store);
        let machine = Machine::new();
        let mut s = machine.session(&store, &["--scope=s"]);
        assert_eq!(s.get_all(&small()), n);
        // the first are asked for before the list is there, and bring their ages themselves
        poll("the objects to be renewed", || old(&store).is_empty().then_some(()));
        let (heads, puts) = renewals(&store);
        assert!(heads <= n + 1 && puts <= n + 1, "{heads} {puts}, with that of the list itself");
        no_markers(&machine.0);
        assert!(said(&s.end()).is_empty());
        // what was renewed is known to be young, but for answers that came too late
        poll("the list to say so", || {
            let mut s = Machine::new().session(&store, &["--scope=s"]);
            assert_eq!(s.get_all(&small()), n);
            s.end();
            (days(&store) == (0, 0)).then_some(())
        });
        clear_log(&store);
        let mut s = Machine::new().session(&store, &["--scope=s"]);
        assert_eq!(s.get_all(&small()), n);
        assert_eq!(metrics(&s.end())["upload"]["refreshed"], 0);
    }
}

#[test]
fn packs_are_renewed_with_what_is_in_them() {
    for store in stores() {
        let bodies: Vec<Vec<u8>> = (0..30).map(|n| noise(n + 1, 50_000)).collect();
        fill(&store, &["--scope=s"], &bodies);
        assert!(store.keys().iter().any(|key| key.starts_with("pack/")), "{:?}", store.keys());
        turn_back(&store, 8, &Signer::default());
        age(&store, 8);
        let mut s = Machine::new().session(&store, &["--scope=s"]);
        assert_eq!(s.get_all(&bodies), 30);
        // those of the fleet nobody reads
        let fleet = manifest_key("").replace("manifest/", "pack/");
        poll("all to be renewed", || old(&store).iter().all(|key| key.starts_with(&fleet)).then_some(()));
        assert!(said(&s.end()).is_empty());
    }
}

#[test]
fn what_another_has_renewed_costs_one_look() {
    let store = Store::S3(Box::new(S3Server::in_process()));
    fill(&store, &["--scope=s"], &small());
    turn_back(&store, 9, &Signer::default());
    clear_log(&store);
    let mut s = Machine::new().session(&store, &["--scope=s"]);
    assert_eq!(s.get_all(&small()), small().len());
    poll("a look at each that lay in the list", || {
        let gets = server(&store).requests().iter().filter(|r| r.method == "GET" && r.path.contains("/v1/")).count();
        (server(&store).count("HEAD") + gets >= small().len()).then_some(())
    });
    assert_eq!(server(&store).count("PUT"), 0, "nothing is copied");
    s.end();
}

#[test]
fn what_the_bucket_has_lost_is_put_from_disk() {
    for store in stores() {
        fill(&store, &["--scope=s"], &small());
        turn_back(&store, 9, &Signer::default());
        let machine = Machine::new();
        // a local hit brings nothing anew before the list is there
        let mut s = machine.session(&store, &["--scope=s"]);
        assert_eq!(s.get_all(&small()), small().len());
        s.end();
        turn_back(&store, 9, &Signer::default());
        let lost: Vec<String> = (5..10).map(single).collect();
        lost.iter().for_each(|key| fs::remove_file(file(&store, key)).unwrap());
        let mut s = machine.session(&store, &["--scope=s"]);
        assert!(s.client.get(&action(99)).is_none(), "which begins to load the list");
        poll("what was lost to be there again", || {
            assert_eq!(s.get_all(&small()), small().len());
            lost.iter().all(|key| store.read(key).is_some()).then_some(())
        });
        no_markers(&machine.0);
        s.end();
        let mut s = Machine::new().session(&store, &[]);
        assert_eq!(s.get_all(&small()), small().len());
        s.end();
    }
}

#[test]
fn a_signer_vouches_for_nothing_that_others_brought() {
    for store in stores() {
        let keys = TempDir::new();
        let (sign, _) = keygen(&keys, "key");
        fill(&store, &["--scope=s", &sign], &small());
        turn_back(&store, 9, &super::signing::signer(&sign));
        let machine = Machine::new();
        // another, without a bucket, leaves something else under the same action
        let mut s = Session::start(Plugin::new(&machine.0));
        s.client.put(&action(3), b"evil");
        s.end();
        fs::remove_file(file(&store, &single(3))).unwrap();
        let mut s = machine.session(&store, &["--scope=s", &sign]);
        assert!(s.client.get(&action(99)).is_none());
        poll("the list", || {
            s.client.get(&action(3)).expect("a local hit");
            let mut others = small();
            others.truncate(3);
            assert_eq!(s.get_all(&others), 3);
            let list = |r: &crate::support::s3::Seen| r.path.contains("/manifest/");
            match &store {
                Store::S3(server) => server.requests().iter().any(list).then_some(()),
                Store::Dir(_) => Some(()),
            }
        });
        std::thread::sleep(Duration::from_millis(200));
        s.client.get(&action(3)).expect("a local hit");
        s.end();
        assert!(store.read(&single(3)).is_none(), "it would have been signed");
    }
}

#[test]
fn what_is_no_good_grows_old() {
    for store in stores() {
        for layout in LAYOUTS {
            let (keys, body) = (TempDir::new(), noise(3, 20_000));
            let (sign, _) = keygen(&keys, "key");
            fill(&store, &[layout], std::slice::from_ref(&body));
            age(&store, 8);
            clear_log(&store);
            // unsigned to one who signs
            let mut s = Machine::new().session(&store, &[layout, &sign]);
            assert!(s.client.get(&action(0)).is_none());
            s.end();
            // damaged to all
            let key = if layout == LAYOUTS[0] { single(0) } else { sharded("output", &output_id(&body)) };
            let mut bytes = store.read(&key).unwrap();
            bytes[10_000] ^= 1;
            store.write(&key, &bytes);
            age(&store, 8);
            let mut s = Machine::new().session(&store, &[layout]);
            assert!(s.client.get(&action(0)).is_none());
            s.end();
            assert!(old(&store).contains(&key));
            store.keys().iter().for_each(|key| fs::remove_file(file(&store, key)).unwrap());
        }
    }
}

/// Both backends themselves.
#[test]
fn only_what_was_seen_is_renewed() {
    let (server, dir) = (S3Server::start(), TempDir::new());
    let body = |text: &str| PutBody::Bytes(text.as_bytes().into());
    let (s3, dir) = (server.client(&server.endpoint, Arc::default()), Dir::new(dir.path()).unwrap());
    for remote in [&s3 as &dyn Remote, &dir] {
        for name in ["k", "a b+c%2F=ü", "x/~'(!)*"] {
            let key = format!("{}/{name}", server.prefix);
            assert!(remote.head(&key).unwrap().is_none(), "{name}");
            remote.put(&key, &body("one"), None, Some("beside")).unwrap();
            let seen = remote.head(&key).unwrap().unwrap();
            assert!(remote.renew(&key, &seen).unwrap(), "{name}");
            let object = remote.get(&key).unwrap().unwrap();
            assert_eq!((object.len, object.signature.as_deref()), (Some(3), Some("beside")), "{name}");
            assert!(object.age.unwrap() < Duration::from_secs(DAY));
            // another has put it meanwhile
            remote.put(&key, &body("three"), None, None).unwrap();
            assert!(remote.renew(&key, &seen).unwrap());
            let object = remote.get(&key).unwrap().unwrap();
            assert_eq!((object.len, object.signature), (Some(5), None), "{name}");
            remote.delete(&key).unwrap();
            assert!(!remote.renew(&key, &seen).unwrap());
            assert!(remote.head(&key).unwrap().is_none());
        }
    }
}

#[test]
fn what_the_proxies_use_is_renewed_too() {
    let (root, cache) = (TempDir::new(), TempDir::new());
    let key = sharded("module", &output_id(b"name"));
    root.write(&key, "a module");
    File::open(root.join(&key)).and_then(|f| f.set_modified(SystemTime::UNIX_EPOCH)).unwrap();
    let mut config = BucketConfig::at(BucketLocation::Dir(root.path().into()), KeyPrefix::default());
    config.refresh_after = Duration::from_secs(7 * DAY);
    let bucket = Arc::new(Bucket::open(&config, Arc::default(), None).unwrap());
    let target = Target { name: bucket.target(), signed: false, legacy: String::new() };
    let uploader = Arc::new(Uploader::new(bucket.clone(), target, cache.path(), 2, Arc::default()));
    let (through, signer) = (Some(uploader.clone()), Signer::default());
    let blobs = BlobStore::new(Kind::Module, cache.path(), Some(bucket), through, signer, Arc::default());
    assert!(blobs.from_bucket("name", false, &|_| Ok("")).is_some());
    let modified = || fs::metadata(root.join(&key)).unwrap().modified().unwrap();
    poll("it to be renewed", || (modified() > SystemTime::UNIX_EPOCH).then_some(()));
    uploader.stop();
}

#[test]
fn vendors_that_refuse_a_copy_get_a_put() {
    for fault in [
        Fault::Status(501),
        Fault::Status(400),
        Fault::Refuse("AccessDenied"),
        Fault::Refuse("NotImplemented"),
        Fault::Page(200),
    ] {
        let store = Store::S3(Box::new(S3Server::in_process()));
        let n = small().len();
        fill(&store, &[], &small());
        age(&store, 8);
        let proxy = FaultProxy::start(&server(&store).endpoint);
        proxy.only("PUT");
        proxy.series([(fault.clone(), 1)]);
        clear_log(&store);
        let machine = Machine::new();
        let plugin = Plugin::new(&machine.0).envs(&server(&store).env_through(&proxy.endpoint));
        let mut s = Session::start(plugin.args(["-u=1", "--no-readahead"]));
        assert_eq!(s.get_all(&small()), n);
        poll("the objects to be put", || old(&store).is_empty().then_some(()));
        let out = s.end();
        assert!(said(&out).is_empty(), "{fault:?}{}", out.describe());
        assert_eq!(server(&store).count("PUT"), n, "{fault:?}: it is asked for one copy, and then no more");
        let mut s = Machine::new().session(&store, &[]);
        assert_eq!(s.get_all(&small()), n);
        s.end();
    }
}

#[test]
fn nobody_waits_for_what_is_renewed() {
    let store = Store::S3(Box::new(S3Server::in_process()));
    fill(&store, &[], &small());
    age(&store, 8);
    let proxy = FaultProxy::start(&server(&store).endpoint);
    proxy.only("HEAD");
    proxy.set(Fault::BlackHole);
    let (machine, begun) = (Machine::new(), Instant::now());
    let plugin = Plugin::new(&machine.0).envs(&server(&store).env_through(&proxy.endpoint));
    let mut s = Session::start(plugin.args(["-u=2", "--no-readahead"]));
    assert_eq!(s.get_all(&small()), small().len());
    // what is owed comes first
    s.client.put(&action(50), b"new");
    let out = s.end();
    // less than a request may take
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}{}", begun.elapsed(), out.describe());
    assert!(store.read(&single(50)).is_some());
    assert!(proxy.requests() > 0);
}

#[test]
fn a_kill_while_objects_are_renewed_loses_nothing() {
    for store in stores() {
        fill(&store, &["--s3-layout=classic"], &small());
        let keys = store.keys();
        for round in 0..5 {
            age(&store, 8);
            let machine = Machine::new();
            let mut s = machine.session(&store, &["--s3-layout=classic"]);
            assert_eq!(s.get_all(&small()[..4 * round + 1]), 4 * round + 1);
            s.child.signal(rustix::process::Signal::KILL);
            drop(s);
            no_markers(&machine.0);
            assert_eq!(store.keys(), keys);
        }
        let mut s = Machine::new().session(&store, &["--s3-layout=classic"]);
        assert_eq!(s.get_all(&small()), small().len());
        s.end();
    }
}

#[test]
fn sessions_that_may_not_write_renew_nothing() {
    for store in stores() {
        fill(&store, &["--scope=s"], &small());
        turn_back(&store, 9, &Signer::default());
        age(&store, 30);
        clear_log(&store);
        let all = old(&store);
        let mut s = Machine::new().session(&store, &["--scope=s", "--read-only"]);
        assert_eq!(s.get_all(&small()), small().len());
        s.end();
        assert_eq!((renewals(&store), old(&store)), ((0, 0), all));
    }
}

#[test]
fn a_write_prefix_renews_its_own_alone() {
    for store in stores() {
        let own = ["--scope=s", "--write-prefix=pre/fix/pr"];
        fill(&store, &["--scope=s"], &small()[..10]);
        // it builds what main has not
        let mut s = Machine::new().session(&store, &own);
        s.get_all(&small()[..10]);
        (10..20).for_each(|n| drop(s.client.put(&action(n), &small()[n as usize])));
        s.end();
        turn_back(&store, 9, &Signer::default());
        age(&store, 30);
        clear_log(&store);
        let machine = Machine::new();
        let mut s = machine.session(&store, &own);
        assert_eq!(s.get_all(&small()), 20);
        let entries = |keys: Vec<String>| keys.into_iter().filter(|key| key.contains("v1/")).collect::<Vec<_>>();
        // those in its list bring no ages, and could be main's
        s.end();
        let mut s = Machine::new().session(&store, &["--write-prefix=pre/fix/pr"]);
        assert_eq!(s.get_all(&small()), 20);
        poll("its own to be renewed", || entries(old(&store)).iter().all(|key| !key.starts_with("pr/")).then_some(()));
        s.end();
        assert_eq!(entries(old(&store)).len(), 10, "those of main");
        assert_eq!(store.keys().iter().filter(|key| key.starts_with("pr/v1/")).count(), 10, "none was copied there");
    }
}

/// Runs a command on `store`.
fn on(store: &Store, dir: &TempDir, args: &[&str]) -> Output {
    Plugin::new(dir).envs(&store.vars()).args(args).output()
}

#[test]
fn prune_goes_by_the_age_in_the_bucket() {
    for store in stores() {
        let dir = TempDir::new();
        let (id, keys) = ("ab".repeat(32), TempDir::new());
        let (sign, _) = keygen(&keys, "key");
        fill(&store, &["--scope=s", &sign], &bodies());
        fill(&store, &["--s3-layout=classic", "--scope=t", &sign], &bodies());
        let ours: Vec<String> = store.keys().into_iter().filter(|key| !key.ends_with(".sig")).collect();
        let (pack, probe) = (format!("pack/{id}/{id}"), "doctor/12-ab".to_string());
        let (module, proxied) = (sharded("module", &id), sharded("revproxy", &id));
        let others = ["v1/README", "notes.txt", "pr/1/v1/ab/abcd", "pack/x/y", "v1/ab/ab.tmp"].map(str::to_string);
        for key in [&pack, &probe, &module, &proxied].into_iter().chain(&others) {
            fs::create_dir_all(file(&store, key).parent().unwrap()).unwrap();
            store.write(key, b"bytes");
        }
        age(&store, 31);
        let young = [single(0), single(1), manifest_key("s")];
        young.iter().for_each(|key| age_one(&store, key, 29));
        let all = store.keys();

        let out = on(&store, &dir, &["prune", "--bucket", "--expiry=30d", "--dry-run"]).ok().quiet();
        assert_eq!(store.keys(), all);
        let gone = ours.len() - young.len() + 2;
        assert!(out.stdout.contains(&format!("would remove {gone} objects")), "{} {gone}", out.stdout);
        let out = on(&store, &dir, &["prune", "--bucket", "--expiry=30d"]).ok().quiet();
        assert!(out.stdout.contains(&format!("removed {gone} objects")), "{}", out.stdout);
        let mut left: Vec<String> = young.iter().chain(&others).chain([&module, &proxied]).cloned().collect();
        left.sort();
        assert_eq!(store.keys(), left);
        let out = on(&store, &dir, &["prune", "--bucket", "--expiry=30d"]).ok().quiet();
        assert!(out.stdout.contains(": removed 0 objects, 0 B; 3 younger"), "{}", out.stdout);
        on(&store, &dir, &["prune", "--bucket", "--expiry=30d", "--proxied", "--rate=0"]).ok().quiet();
        left.retain(|key| *key != module && *key != proxied);
        assert_eq!(store.keys(), left);
        // another prefix is another bucket
        on(&store, &dir, &["prune", "--bucket", "--expiry=30d", "--prefix=pre/fix/pr/1"]).ok().quiet();
        left.retain(|key| !key.starts_with("pr/"));
        assert_eq!(store.keys(), left);
        let nowhere = format!("--bucket=file://{}", dir.join("typo").display());
        let out = on(&store, &dir, &["prune", &nowhere, "--expiry=30d"]).code(1);
        assert!(out.stderr.contains("there is no such directory"), "{}", out.describe());
        assert!(!dir.join("cache").exists(), "the local cache has nothing to do with it");
    }
}

#[test]
fn an_interrupted_prune_goes_on() {
    let store = Store::S3(Box::new(S3Server::in_process()));
    let dir = TempDir::new();
    fill(&store, &[], &(0..60).map(|n| noise(n + 1, 20)).collect::<Vec<_>>());
    age(&store, 31);
    // one that is killed
    let begun = Instant::now();
    let mut running =
        Plugin::new(&dir).envs(&store.vars()).args(["prune", "--bucket", "--expiry=30d", "--rate=10"]).spawn();
    poll("some to be gone", || (store.keys().len() <= 50).then_some(()));
    assert!(begun.elapsed() > Duration::from_millis(800), "ten a second");
    running.signal(rustix::process::Signal::KILL);
    running.wait();
    let left = store.keys().len();
    assert!(left > 0);
    // one whose deletes are refused, and one whose bucket is away for a moment
    let proxy = FaultProxy::start(&server(&store).endpoint);
    let prune = || {
        let plugin = Plugin::new(&dir).envs(&server(&store).env_through(&proxy.endpoint));
        plugin.args(["prune", "--bucket", "--expiry=30d", "-u=4"])
    };
    proxy.only("DELETE");
    proxy.set(Fault::Refuse("AccessDenied"));
    let out = prune().output().code(1);
    assert!(out.stderr.contains(&format!("{left} objects left out")), "{}", out.describe());
    assert!(out.stderr.contains("AccessDenied") && out.stderr.contains("run it again"), "{}", out.describe());
    proxy.only("");
    proxy.set_for(Fault::Status(503), 3);
    prune().output().ok();
    assert_eq!(store.keys(), Vec::<String>::new());
}

#[test]
fn names_that_lead_out_of_the_prefix_are_left_alone() {
    let names = ["../../x/v1/ab/abcd", "../y/v1/ab/abcd", "./v1/ab/abcd", "v1/../v1/ab/abcd", "z/v1/ab/abcd"];
    let origin = Origin::http(move |request| {
        let contents = names.map(|name| format!("<Contents><Key>pre/fix/{name}</Key><Size>1</Size></Contents>"));
        let date = "Date: Tue, 01 Dec 2026 00:00:00 GMT";
        match request.starts_with("GET ") {
            true => answer(date, &format!("<ListBucketResult>{}</ListBucketResult>", contents.concat())),
            false => answer(date, ""),
        }
    });
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let plugin = Plugin::new(&dir).envs(&server.env_through(&format!("http://{}", origin.host())));
    let out = plugin.args(["clear", "--bucket=cache-bucket", "--prefix=pre/fix"]).output().ok().quiet();
    assert!(out.stdout.contains("removed 1 object, 1 B; 4 of other names are left"), "{}", out.stdout);
    let seen = origin.seen();
    let deletes: Vec<&str> =
        seen.iter().filter(|r| r.starts_with("DELETE ")).filter_map(|r| r.lines().next()).collect();
    assert_eq!(deletes, ["DELETE /cache-bucket/pre/fix/z/v1/ab/abcd HTTP/1.1"]);
}

#[test]
fn status_shows_what_a_bucket_holds() {
    for store in stores() {
        let dir = TempDir::new();
        fill(&store, &["--scope=s"], &bodies());
        let pack = format!("pack/{0}/{0}", "ab".repeat(32));
        fs::create_dir_all(file(&store, &pack).parent().unwrap()).unwrap();
        store.write(&pack, &[0; 5000]);
        fs::write(file(&store, "v1/README"), "not ours").unwrap();
        age_one(&store, &single(2), 44);
        let out = on(&store, &dir, &["status", "--bucket"]).ok().quiet();
        let line = |name: &str| {
            let found = out.stdout.lines().find_map(|l| l.strip_prefix(&format!("bucket           {name}: ")));
            found.unwrap_or_else(|| panic!("{name}: {}", out.stdout)).to_string()
        };
        let shown = ["entries", "packs", "scopes", "modules", "proxied", "oldest"].map(line);
        assert_eq!(shown, ["6", "1", "2", "0", "0", "44 days"]);
        assert!(line("bytes").ends_with(" KiB") && line("youngest").ends_with(['s', 'n']), "{}", out.stdout);
        let out = on(&store, &dir, &["status"]).ok().quiet();
        assert!(!out.stdout.contains("entries:"), "{}", out.stdout);
    }
}

/// A machine whose directory holds `bodies`, put while it had no bucket.
fn warm(bodies: &[Vec<u8>]) -> Machine {
    let machine = Machine::new();
    let mut s = Session::start(Plugin::new(&machine.0));
    s.put_all(bodies);
    s.end();
    machine
}

#[test]
fn push_brings_what_is_only_local_and_replaces_nothing() {
    for store in stores() {
        for layout in LAYOUTS {
            let machine = warm(&bodies());
            let module = local(&machine.0.join("cache"), "module", &"cd".repeat(32));
            fs::create_dir_all(module.parent().unwrap()).unwrap();
            fs::write(&module, "a module").unwrap();
            let old = SystemTime::now() - Duration::from_secs(3 * DAY);
            for path in files(&machine.0.join("cache/output")) {
                File::open(path).and_then(|f| f.set_modified(old)).unwrap();
            }
            // the bucket has another value for one of them
            let mut s = Machine::new().session(&store, &[layout]);
            s.client.put(&action(1), b"the bucket's own");
            s.end();
            let push = || on(&store, &machine.0, &["push", layout]).ok().quiet();
            clear_log(&store);
            push();
            let (heads, puts) = renewals(&store);
            // two to see whether conditions are kept; what is long is not sent to be refused
            assert!(heads <= 2 && puts <= store.keys().len() + 2, "{heads} {puts}");
            let mut s = Machine::new().session(&store, &[layout]);
            holds(&s.client.get(&action(1)).expect("a hit"), b"the bucket's own");
            for n in [0, 2, 3, 4, 5] {
                holds(&s.client.get(&action(n)).expect("a hit"), &bodies()[n as usize]);
            }
            s.end();
            assert_eq!(store.read(&sharded("module", &"cd".repeat(32))).unwrap(), b"a module");
            for path in files(&machine.0.join("cache/output")) {
                assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), old, "a push is no use");
            }
            no_markers(&machine.0);
            assert!(!store.keys().iter().any(|key| key.starts_with("doctor/")), "{:?}", store.keys());
            clear_log(&store);
            let out = push();
            assert!(out.stdout.contains(": sent 0 objects, 0 B; 7 were there"), "{}", out.stdout);
            assert_eq!(renewals(&store), (0, 0), "a listing tells");
            store.keys().iter().for_each(|key| fs::remove_file(file(&store, key)).unwrap());
        }
    }
}

#[test]
fn push_asks_first_where_conditions_are_not_kept() {
    for fault in [Fault::Unconditional, Fault::None] {
        let store = Store::S3(Box::new(S3Server::in_process()));
        let machine = warm(&bodies());
        let mut s = Machine::new().session(&store, &[]);
        s.client.put(&action(1), b"the bucket's own");
        s.end();
        let proxy = FaultProxy::start(&server(&store).endpoint);
        proxy.only("PUT");
        proxy.set(fault.clone());
        // nor can it be listed
        let front = FaultProxy::start(&proxy.endpoint);
        front.only("GET");
        front.set(Fault::Refuse("AccessDenied"));
        clear_log(&store);
        let out = Plugin::new(&machine.0).envs(&server(&store).env_through(&front.endpoint)).arg("push").output().ok();
        let mut s = Machine::new().session(&store, &[]);
        holds(&s.client.get(&action(1)).expect("a hit"), b"the bucket's own");
        holds(&s.client.get(&action(5)).expect("a hit"), &bodies()[5]);
        s.end();
        assert!(out.stdout.contains(": sent 5 objects"), "{fault:?} {}", out.stdout);
        let heads = server(&store).count("HEAD");
        // what is long is looked for in any case
        assert_eq!(heads > 1, fault == Fault::Unconditional, "{fault:?}: {heads}");
    }
}

#[test]
fn push_leaves_out_what_is_old_small_or_broken_and_goes_on_after_a_failure() {
    let store = Store::S3(Box::new(S3Server::in_process()));
    let machine = warm(&bodies());
    let output = |n: usize| local(&machine.0.join("cache"), "output", &output_id(&bodies()[n]));
    let old = SystemTime::now() - Duration::from_secs(8 * DAY);
    File::open(output(2)).and_then(|f| f.set_modified(old)).unwrap();
    fs::write(output(3), noise(77, 4097)).unwrap();
    let out = on(&store, &machine.0, &["push", "--since=7d", "--min-upload-size=1"]).ok().quiet();
    // the empty one, and the old one; the damaged one is none
    assert!(out.stdout.contains(": sent 3 objects") && out.stdout.contains("2 left out"), "{}", out.stdout);
    assert_eq!(store.keys().len(), 3);
    assert!([1, 4, 5].into_iter().all(|n| store.read(&single(n)).is_some()));

    let proxy = FaultProxy::start(&server(&store).endpoint);
    proxy.only("PUT");
    proxy.set(Fault::Refuse("AccessDenied"));
    let push = || Plugin::new(&machine.0).envs(&server(&store).env_through(&proxy.endpoint)).arg("push").output();
    let out = push().code(1);
    assert!(out.stderr.contains("AccessDenied") && out.stderr.contains("run it again"), "{}", out.describe());
    proxy.set(Fault::None);
    assert!(push().ok().stdout.contains(": sent 2 objects"));
}

#[test]
fn what_a_killed_push_leaves_in_a_directory_is_swept_by_the_next_build() {
    let (store, machine) = (Store::dir(), warm(&bodies()));
    let Store::Dir(bucket) = &store else { panic!("a directory") };
    let lock = File::create(bucket.join(".tmp-lock")).unwrap();
    // what is put where nothing is waits for this
    lock.lock().unwrap();
    let mut push = Plugin::new(&machine.0).envs(&store.vars()).arg("push").spawn();
    let start = format!("{}-", push.pid());
    let lease = poll("its lease", || {
        let found = files(&machine.0.join("cache/lease"));
        found.into_iter().find(|path| path.file_name().unwrap().to_string_lossy().starts_with(&start))
    });
    push.signal(rustix::process::Signal::KILL);
    push.wait();
    let token = lease.file_name().unwrap().to_str().unwrap();
    let temp = bucket.join(&format!(".tmp-files/.tmp-{token}-0"));
    fs::create_dir_all(temp.parent().unwrap()).unwrap();
    fs::write(&temp, "half").unwrap();
    drop(lock);
    Session::start(Plugin::new(&machine.0).envs(&store.vars())).end().quiet();
    assert!(!temp.exists() && !lease.exists());
    on(&store, &machine.0, &["push"]).ok().quiet();
    assert!(files(&machine.0.join("cache/lease")).iter().all(|path| path.ends_with("prune")), "it is given back");
}

#[test]
fn push_signs_only_if_it_is_told_to() {
    for store in stores() {
        for layout in LAYOUTS {
            let (keys, machine) = (TempDir::new(), warm(&bodies()));
            let (sign, verify) = keygen(&keys, "key");
            let count = |wanted: usize| {
                let mut s = Machine::new().session(&store, &[layout, &verify]);
                assert_eq!(s.get_all(&bodies()), wanted, "{layout}");
                s.end();
            };
            let out = on(&store, &machine.0, &["push", layout, &sign]).ok();
            assert!(out.stderr.contains("no --sign") && out.stderr.lines().count() == 1, "{}", out.describe());
            count(0);
            store.keys().iter().for_each(|key| fs::remove_file(file(&store, key)).unwrap());
            on(&store, &machine.0, &["push", layout, &sign, "--sign"]).ok().quiet();
            count(6);
            assert!(on(&store, &machine.0, &["push", layout, &verify]).code(2).stderr.contains("only verifies"));
            store.keys().iter().for_each(|key| fs::remove_file(file(&store, key)).unwrap());
        }
    }
}

#[test]
fn long_work_gives_signs_of_life() {
    let store = Store::S3(Box::new(S3Server::in_process()));
    let machine = warm(&(0..12).map(|n| noise(n + 1, 50)).collect::<Vec<_>>());
    let proxy = FaultProxy::start(&server(&store).endpoint);
    proxy.only("PUT");
    proxy.set(Fault::Delay(Duration::from_millis(400)));
    let vars = server(&store).env_through(&proxy.endpoint);
    Plugin::new(&machine.0).envs(&vars).args(["push", "-u=1"]).output().ok();
    age(&store, 31);
    let prune = Plugin::new(&machine.0).envs(&vars).args(["prune", "--bucket", "--expiry=30d", "--rate=4"]);
    let out = prune.output().ok();
    assert!(out.stderr.contains("looked at, "), "{}", out.describe());
    assert!(hex(&action(0)).len() == 64 && store.keys().is_empty());
}
