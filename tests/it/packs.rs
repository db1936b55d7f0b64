//! Packs: a scope's small outputs, fetched together; and all that can be wrong with them.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use go_cache_plugin::cache::manifest::Manifest;
use go_cache_plugin::id::OutputId;
use go_cache_plugin::sign::Signer;
use rustix::process::Signal;
use serde_json::Value;

use super::bucket::{Machine, Store, files, fill, manifest_key, single};
use crate::support::env::{Plugin, TempDir, poll};
use crate::support::fault::{Fault, FaultProxy};
use crate::support::s3::S3Server;
use crate::support::script::{Dice, Session, action, holds, metrics, noise, said};

const SCOPE: &str = "--scope=s";

/// Small outputs of some 2.5 MB in all, and a few large ones.
fn outputs() -> Vec<Vec<u8>> {
    let small = (0..100).map(|n| noise(n + 1, if n % 10 == 0 { 0 } else { 20_000 + 100 * n as usize }));
    small.chain((0..4).map(|n| noise(500 + n, 600_000))).collect()
}

/// The packs of scope `s`; the fleet has its own.
fn packs(store: &Store) -> Vec<String> {
    let below = manifest_key("s").replace("manifest/", "pack/");
    store.keys().into_iter().filter(|key| key.starts_with(&below)).collect()
}

/// What the manifest of scope `s` says, and its frames.
fn listed(store: &Store) -> (Manifest, Vec<u8>) {
    let stored = store.read(&manifest_key("s")).expect("a manifest");
    let mut from = &stored[..];
    let (manifest, _) = Manifest::decode(&mut from, "", &Signer::default(), false).expect("a good one");
    (manifest, from.to_vec())
}

fn list(store: &Store, manifest: &Manifest, frames: &[u8]) {
    store.write(&manifest_key("s"), &manifest.encode(frames, "", &Signer::default()).unwrap());
}

fn number(m: &Value, group: &str, name: &str) -> u64 {
    m[group][name].as_u64().unwrap_or_else(|| panic!("{group}.{name}"))
}

/// A build on a fresh machine, which finds everything: what it counted.
#[track_caller]
fn fresh(store: &Store, flags: &[&str], bodies: &[Vec<u8>]) -> Value {
    let mut s = Machine::new().session(store, flags);
    assert_eq!(s.get_all(bodies), bodies.len());
    let out = s.end();
    assert!(said(&out).is_empty(), "{}", out.describe());
    metrics(&out)
}

/// A filled bucket whose manifest has just been written.
fn filled(store: Store, bodies: &[Vec<u8>]) -> Store {
    fill(&store, &[SCOPE], bodies);
    store
}

#[test]
fn a_fresh_machine_is_served_from_packs_in_few_requests() {
    let bodies = outputs();
    for store in Store::both() {
        for layout in ["--s3-layout=single", "--s3-layout=classic"] {
            store.keys().iter().for_each(|key| store.delete(key));
            fill(&store, &[SCOPE, layout], &bodies);
            assert_eq!(packs(&store).len(), 1, "{:?}", packs(&store));
            let before = store.keys();
            // which entries have places: all small ones, in the order of their use
            let (manifest, _) = listed(&store);
            let placed = manifest.entries.iter().filter(|e| e.place.is_some()).count();
            assert_eq!((placed, manifest.entries.len()), (100, 104));
            let m = fresh(&store, &[SCOPE, layout], &bodies);
            let requests = number(&m, "bucket", "requests");
            assert!(requests <= 25, "{requests} requests");
            assert!(number(&m, "readahead", "packed") >= 90, "{m}");
            let wasted = number(&m, "readahead", "fetched_bytes") - number(&m, "readahead", "used_bytes");
            assert!(wasted < 400_000, "{wasted} bytes for nothing");
            assert_eq!((number(&m, "bucket", "put_requests"), store.keys()), (0, before), "nothing has changed");
        }
    }
}

#[test]
fn bad_packs_cost_speed_alone_and_are_replaced() {
    let bodies = outputs();
    let other =
        filled(Store::outside(), &bodies.iter().map(|body| body.iter().map(|b| !b).collect()).collect::<Vec<_>>());
    let foreign = other.read(&packs(&other)[0]).unwrap();
    let store = filled(Store::outside(), &bodies);
    let good = store.read(&packs(&store)[0]).unwrap();
    let flipped: Vec<u8> = good.iter().enumerate().map(|(i, b)| if i % 5000 == 77 { b ^ 1 } else { *b }).collect();
    let bomb = zstd::bulk::compress(&vec![0; 200 << 20], 1).unwrap().repeat(good.len() / 6000);
    let (cut, short) = (good[..good.len() / 2].to_vec(), good[..1000].to_vec());
    for bad in [Some(flipped), Some(cut), Some(short), Some(foreign), Some(bomb), Some(Vec::new()), None] {
        for name in packs(&store) {
            match &bad {
                Some(bytes) => store.write(&name, bytes),
                None => store.delete(&name),
            }
        }
        let m = fresh(&store, &[SCOPE], &bodies);
        assert_eq!(number(&m, "bucket", "corrupt"), 0, "entries are the truth");
        assert_eq!(number(&m, "readahead", "manifest_saves"), 1, "{m}");
        // the next has good ones again
        let m = fresh(&store, &[SCOPE], &bodies);
        assert!(number(&m, "bucket", "requests") <= 25 && number(&m, "readahead", "packed") >= 90, "{m}");
        let named: BTreeSet<String> = listed(&store).0.packs.iter().map(|pack| pack.id.to_string()).collect();
        let there: BTreeSet<String> = packs(&store).iter().map(|key| key.rsplit('/').next().unwrap().into()).collect();
        assert_eq!(named, there, "what is not named is gone");
    }
}

#[test]
fn bad_first_frames_cost_speed_alone() {
    let bodies = outputs();
    let store = filled(Store::outside(), &bodies);
    let (manifest, frames) = listed(&store);
    let flipped: Vec<u8> = frames.iter().enumerate().map(|(i, b)| if i % 5000 == 77 { b ^ 1 } else { *b }).collect();
    for bad in [&flipped[..], &frames[..frames.len() / 3], &[], &noise(9, 3 << 20)] {
        list(&store, &manifest, bad);
        let m = fresh(&store, &[SCOPE], &bodies);
        assert_eq!((number(&m, "bucket", "corrupt"), number(&m, "readahead", "manifest_saves")), (0, 1), "{m}");
        assert!(number(&fresh(&store, &[SCOPE], &bodies), "bucket", "requests") <= 25);
    }
}

#[test]
fn an_index_that_lies_costs_speed_and_no_memory() {
    let bodies = outputs();
    let store = filled(Store::outside(), &bodies);
    let (good, frames) = listed(&store);
    let peak = |store: &Store| {
        let mut s = Machine::new().session(store, &[SCOPE, "--read-only"]);
        assert_eq!(s.get_all(&bodies), bodies.len());
        let status = fs::read_to_string(format!("/proc/{}/status", s.child.pid())).unwrap();
        let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("peak memory");
        let out = s.end();
        assert_eq!(number(&metrics(&out), "bucket", "corrupt"), 0, "{}", out.describe());
        (peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap(), said(&out).len())
    };
    let (honest, lines) = peak(&store);
    assert_eq!(lines, 0);
    type Lie = (&'static str, usize, Box<dyn Fn(&mut Manifest)>);
    let lie = |what, lines, lie: fn(&mut Manifest)| -> Lie { (what, lines, Box::new(lie)) };
    let lies: Vec<Lie> = vec![
        lie("entries are not where they are said to be", 0, |m| {
            m.entries.iter_mut().for_each(|e| e.place.iter_mut().for_each(|place| place.at ^= 1));
        }),
        lie("beyond their frames", 0, |m| {
            m.entries.iter_mut().for_each(|e| {
                e.place.iter_mut().for_each(|place| place.at = u32::MAX - 5);
            })
        }),
        lie("frames are other than they are said to be", 0, |m| m.frames.iter_mut().for_each(|f| f.len -= 100)),
        lie("frames beyond the pack's end", 0, |m| {
            let far = m.frames.last().unwrap().to_owned();
            (0..500).for_each(|_| m.frames.insert(3, far));
            m.entries.iter_mut().for_each(|e| e.place.iter_mut().for_each(|p| p.frame += 500 * (p.frame >= 3) as u32));
        }),
        lie("unpacked lengths", 0, |m| m.frames.iter_mut().for_each(|f| f.raw = 256 << 10)),
        lie("packs that are none", 0, |m| m.packs.iter_mut().for_each(|p| p.id = OutputId([7; 32]))),
        lie("sizes of 4 GiB", 0, |m| {
            m.entries.iter_mut().filter(|e| e.place.is_none()).for_each(|e| e.size = u32::MAX)
        }),
        lie("sizes of 4 GiB in a frame", 1, |m| m.entries.iter_mut().for_each(|e| e.size = u32::MAX)),
        lie("overlapping entries", 1, |m| {
            let one = m.entries.iter().find(|e| e.size > 0).unwrap().clone();
            m.entries.iter_mut().for_each(|e| (e.size, e.known, e.place) = (one.size, one.known, one.place));
        }),
        lie("frames without a byte", 1, |m| m.frames.iter_mut().for_each(|f| f.len = 0)),
        lie("huge frames", 1, |m| m.frames.iter_mut().for_each(|f| f.raw = u32::MAX)),
        lie("other outputs", 0, |m| m.entries.iter_mut().for_each(|e| e.known = Some((OutputId([9; 32]), 1)))),
        lie("many entries and many frames", 0, |m| {
            let of = |n: u32| OutputId::of(&n.to_le_bytes()).0;
            let one = m.entries[99].clone();
            m.entries.extend((0..199_000).map(|n| go_cache_plugin::cache::manifest::Entry {
                action: of(n),
                known: Some((OutputId(of(n + 1_000_000)), i64::MAX)),
                place: None,
                ..one.clone()
            }));
            m.frames.extend(vec![m.frames[0]; 190_000].iter().map(|f| go_cache_plugin::cache::manifest::Frame {
                pack: 1,
                len: 1,
                ..*f
            }));
        }),
    ];
    for (what, lines, lie) in lies {
        let mut manifest = good.clone();
        lie(&mut manifest);
        list(&store, &manifest, &frames);
        let (kb, said) = peak(&store);
        assert!(kb < honest + (64 << 10), "{what}: {kb} kB, an honest one {honest} kB");
        assert_eq!(said, lines, "{what}");
    }
    // an index that unpacks to far more than it may
    let bomb = zstd::bulk::compress(&vec![0; 300 << 20], 1).unwrap();
    let stored = [&b"gcpman\0\x02"[..], &[0; 8], &(bomb.len() as u64).to_le_bytes(), &bomb].concat();
    store.write(&manifest_key("s"), &stored);
    let (kb, said) = peak(&store);
    assert!(kb < honest + (64 << 10) && said == 1, "a bomb: {kb} kB");
}

#[test]
fn a_small_build_in_a_large_scope_moves_little() {
    let bodies: Vec<Vec<u8>> = (0..600).map(|n| noise(n + 1, 60_000)).collect();
    let store = filled(Store::outside(), &bodies);
    for first in [0, 300] {
        let mut s = Machine::new().session(&store, &[SCOPE]);
        let mut used = 0;
        for n in first..first + 40 {
            holds(&s.client.get(&action(n)).expect("a hit"), &bodies[n as usize]);
            used += bodies[n as usize].len() as u64;
        }
        let m = metrics(&s.end());
        let got = number(&m, "bucket", "get_bytes");
        assert!(got <= used * 3 / 2 + 6_000_000, "{got} bytes for {used}: {m}");
        assert!(number(&m, "bucket", "requests") <= 35, "{m}");
    }
}

#[test]
fn a_pull_request_reads_the_main_packs_and_adds_its_own() {
    let (bodies, store) = (outputs(), filled(Store::dir(), &outputs()));
    let Store::Dir(root) = &store else { unreachable!("just made") };
    let before: Vec<_> = files(&root.join("pre"))
        .into_iter()
        .map(|f| (fs::read(root.join("pre").join(&f)), f))
        .map(|(b, f)| (b.unwrap(), f))
        .collect();
    let flags = [SCOPE, "--write-prefix=pr/7"];
    let own: Vec<Vec<u8>> = (0..40).map(|n| noise(900 + n, 50_000)).collect();
    let all = [&bodies[..], &own[..]].concat();
    let mut s = Machine::new().session(&store, &flags);
    assert_eq!(s.get_all(&all), bodies.len());
    for (n, body) in own.iter().enumerate() {
        s.client.put(&action((bodies.len() + n) as u32), body);
    }
    let out = s.end();
    assert!(number(&metrics(&out), "bucket", "requests") < 180, "{}", out.describe());
    let sent: u64 = number(&metrics(&out), "bucket", "put_bytes");
    assert!(sent < 5_500_000, "{sent} bytes: its own twice, the first frames and the index");
    let m = fresh(&store, &flags, &all);
    assert!(number(&m, "bucket", "requests") <= 40, "the second run of its pipeline: {m}");
    assert!(number(&m, "readahead", "packed") >= 120, "{m}");
    for (bytes, file) in before {
        assert_eq!(fs::read(root.join("pre").join(&file)).unwrap(), bytes, "{file}");
    }
    assert!(files(&root.join("pr/7")).iter().any(|f| f.starts_with("pack/")));
}

#[test]
fn builds_that_change_a_part_write_little_and_keep_few_packs() {
    let mut dice = Dice::new(4);
    // compressible like Go's: a quarter of their size; an eighth of the bytes in small ones
    let body = |seed: u64, len: usize| noise(seed, len / 4).into_iter().flat_map(|b| [b; 4]).collect::<Vec<u8>>();
    let sizes: Vec<usize> = (0..200).map(|n| if n % 5 < 4 { 12_000 } else { 340_000 }).collect();
    let mut bodies: Vec<Vec<u8>> = (0..).zip(&sizes).map(|(n, len)| body(n, *len)).collect();
    let (store, machine) = (Store::outside(), Machine::new());
    let mut s = machine.session(&store, &[SCOPE]);
    s.put_all(&bodies);
    s.end();
    let (mut sent, mut changed) = (0, 0);
    for round in 0..20u64 {
        let mut s = Machine::new().session(&store, &[SCOPE]);
        let part: BTreeSet<usize> = (0..10).map(|n| (n * 20 + dice.below(20)) as usize).collect();
        for (n, old) in bodies.iter_mut().enumerate() {
            if part.contains(&n) {
                *old = body(1000 * (round + 1) + n as u64, sizes[n]);
                s.client.put(&action(n as u32), old);
                changed += zstd::bulk::compress(old, 1).unwrap().len();
            } else {
                holds(&s.client.get(&action(n as u32)).expect("a hit"), old);
            }
        }
        let out = s.end();
        assert!(said(&out).is_empty(), "{}", out.describe());
        sent += number(&metrics(&out), "bucket", "put_bytes") as usize;
        assert!(packs(&store).len() <= 12, "{:?}", packs(&store));
    }
    eprintln!("{sent} bytes sent for {changed} of outputs: {:.2}", sent as f64 / changed as f64);
    let m = fresh(&store, &[SCOPE], &bodies);
    assert!(number(&m, "bucket", "requests") <= 70, "{m}");
    let named: BTreeSet<String> = listed(&store).0.packs.iter().map(|pack| pack.id.to_string()).collect();
    assert_eq!(named.len(), packs(&store).len(), "old ones are gone");
}

#[test]
fn a_server_without_ranges_is_asked_for_entries() {
    let (server, bodies) = (S3Server::in_process(), outputs());
    let proxy = FaultProxy::start(&server.endpoint);
    let vars = server.env_through(&proxy.endpoint);
    let store = Store::S3(Box::new(server));
    fill(&store, &[SCOPE], &bodies);
    proxy.set(Fault::NoRanges);
    let dir = TempDir::new();
    let mut s = Session::start(Plugin::new(&dir).envs(&vars).args([SCOPE, "--metrics"]));
    assert_eq!(s.get_all(&bodies), bodies.len());
    let out = s.end();
    assert!(said(&out).is_empty(), "{}", out.describe());
    assert_eq!(number(&metrics(&out), "bucket", "put_requests"), 0, "the packs are good, and not written anew");
    let out = Plugin::new(&dir).envs(&vars).arg("doctor").output().ok();
    let lines: Vec<&str> = out.stdout.lines().filter(|l| l.contains("packs")).collect();
    assert_eq!(lines.len(), 1, "{}", out.describe());
    proxy.set(Fault::None);
    let out = Plugin::new(&dir).envs(&vars).arg("doctor").output().ok();
    assert!(!out.stdout.contains("packs"), "{}", out.describe());
}

#[test]
fn parts_that_are_others_or_break_off_do_not_make_good_packs_bad() {
    let (server, bodies) = (S3Server::in_process(), outputs());
    let proxy = FaultProxy::start(&server.endpoint);
    let vars = server.env_through(&proxy.endpoint);
    let store = Store::S3(Box::new(server));
    fill(&store, &[SCOPE], &bodies);
    proxy.only("range:");
    for fault in [Fault::OtherRange, Fault::ResetAfter(1000), Fault::Truncate(1000), Fault::Status(416)] {
        proxy.set(fault.clone());
        let dir = TempDir::new();
        let mut s = Session::start(Plugin::new(&dir).envs(&vars).args([SCOPE, "--metrics"]));
        assert_eq!(s.get_all(&bodies), bodies.len(), "{fault:?}");
        let out = s.end();
        let puts = number(&metrics(&out), "bucket", "put_requests");
        // that they end sooner than the list says makes them bad
        assert_eq!(puts > 0, fault == Fault::Status(416), "{fault:?} {puts}");
    }
}

#[test]
fn parts_that_never_come_are_waited_for_once() {
    let (server, bodies) = (S3Server::in_process(), outputs());
    let proxy = FaultProxy::start(&server.endpoint);
    proxy.only("range: bytes=");
    let vars = server.env_through(&proxy.endpoint);
    let store = Store::S3(Box::new(server));
    fill(&store, &[SCOPE], &bodies);
    for fault in [Fault::BlackHole, Fault::Drip(20)] {
        let dir = TempDir::new();
        let build = || {
            ["action", "output"].iter().for_each(|room| drop(fs::remove_dir_all(dir.join("cache").join(room))));
            let mut s = Session::start(Plugin::new(&dir).envs(&vars).args([SCOPE, "--metrics", "--read-only"]));
            let mut lost = Duration::ZERO;
            for (n, body) in (0..).zip(&bodies) {
                let begin = Instant::now();
                holds(&s.client.get(&action(n)).expect("a hit"), body);
                // what a get takes on a busy machine is no wait for what never comes
                lost += begin.elapsed().saturating_sub(Duration::from_secs(1));
            }
            (s.end(), lost)
        };
        proxy.set(fault.clone());
        let (out, lost) = build();
        assert!(lost < Duration::from_secs(4), "{fault:?}: {lost:?}{}", out.describe());
        let lines = said(&out);
        assert!(lines.len() == 1 && lines[0].contains("parts do not come"), "{}", out.describe());
        // the next need not find out
        let (out, lost) = build();
        assert!(lost < Duration::from_secs(1), "{fault:?}: {lost:?}{}", out.describe());
        let doctor = Plugin::new(&dir).envs(&vars).arg("doctor").output().ok();
        // a few bytes come in time however slow they are
        assert!(doctor.stdout.contains("packs are not used") || fault != Fault::BlackHole, "{}", doctor.describe());
        // where they come again, somebody asks for one and finds out
        proxy.set(Fault::None);
        poll("packs to be used again", || (number(&metrics(&build().0), "readahead", "packed") >= 90).then_some(()));
    }
}

#[test]
fn a_bucket_that_dies_in_the_middle_holds_no_get_up() {
    // more than is fetched ahead of what is asked for
    let bodies: Vec<_> = (0..400).map(|n| noise(n + 1, 60_000)).collect();
    let server = S3Server::in_process();
    let proxy = FaultProxy::start(&server.endpoint);
    let vars = server.env_through(&proxy.endpoint);
    let store = Store::S3(Box::new(server));
    fill(&store, &[SCOPE], &bodies);
    for fault in [Fault::Reset, Fault::Status(503), Fault::Page(200), Fault::Refuse("InvalidAccessKeyId")] {
        proxy.set(Fault::None);
        let dir = TempDir::new();
        let mut s = Session::start(Plugin::new(&dir).envs(&vars).args([SCOPE, "--metrics"]));
        s.client.get(&action(0)).expect("a hit");
        poll("what is fetched ahead", || files(&dir.join("cache/output")).len().checked_sub(20));
        proxy.set(fault.clone());
        let begin = Instant::now();
        assert!(s.get_all(&bodies) < bodies.len(), "{fault:?}");
        let out = s.end();
        assert!(begin.elapsed() < Duration::from_secs(20), "{fault:?}: {:?}{}", begin.elapsed(), out.describe());
        assert_eq!(said(&out).len(), 1, "{fault:?}{}", out.describe());
        let spent = number(&metrics(&out), "bucket", "requests");
        assert!(spent < 400, "{fault:?}: {spent}");
    }
}

#[test]
fn a_list_that_never_comes_costs_a_close_little() {
    let server = S3Server::in_process();
    let proxy = FaultProxy::start(&server.endpoint);
    proxy.only("/manifest/");
    proxy.set(Fault::BlackHole);
    let dir = TempDir::new();
    for n in 0..2 {
        let mut s = Session::start(Plugin::new(&dir).envs(&server.env_through(&proxy.endpoint)).arg(SCOPE));
        assert!(s.client.get(&action(n)).is_none());
        s.client.put(&action(n), b"made");
        let begin = Instant::now();
        s.end().quiet();
        assert!(begin.elapsed() < Duration::from_secs(7), "{:?}", begin.elapsed());
    }
    assert_eq!(server.keys().len(), 2, "{:?}", server.keys());
    // who writes none does not wait for it
    let flags = [SCOPE, "--read-only"];
    let mut s = Session::start(Plugin::new(&TempDir::new()).envs(&server.env_through(&proxy.endpoint)).args(flags));
    assert!(s.client.get(&action(7)).is_none());
    let begin = Instant::now();
    s.end().quiet();
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}

#[test]
fn kills_while_packs_are_written_leave_a_working_bucket() {
    let store = Store::outside();
    let rounds = std::env::var("KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
    let mut dice = Dice::new(77);
    let mut bodies: Vec<(u32, Vec<u8>)> = (0..).zip(outputs()).collect();
    for round in 0..rounds {
        // another sixth each time, so that packs are written and at last rewritten
        for n in (0..100).filter(|n| n % 6 == round % 6) {
            let id = 1000 * (round as u32 + 1) + n as u32;
            bodies[n] = (id, noise(u64::from(id), 20_000));
        }
        let machine = Machine::new();
        let mut s = machine.session(&store, &[SCOPE]);
        for (id, body) in &bodies {
            match s.client.get(&action(*id)) {
                Some(hit) => holds(&hit, body),
                None => drop(s.client.put(&action(*id), body)),
            }
        }
        s.client.send_close();
        std::thread::sleep(Duration::from_millis(dice.below(400)));
        s.child.signal(Signal::KILL);
        s.child.wait();
        // what it left unsent is sent by the next there
        let next = machine.session(&store, &["--no-readahead"]);
        poll("the uploads", || files(&machine.0.join("cache/pending")).is_empty().then_some(()));
        next.end();
        let mut s = Machine::new().session(&store, &[SCOPE, "--read-only"]);
        for (id, body) in &bodies {
            holds(&s.client.get(&action(*id)).expect("a hit"), body);
        }
        let out = s.end();
        assert!(said(&out).is_empty(), "{}", out.describe());
    }
    let known = |key: &String| ["v1/", "manifest/", "pack/"].iter().any(|room| key.starts_with(room));
    assert!(store.keys().iter().all(known), "{:?}", store.keys());
}

#[test]
fn pull_fills_a_directory_and_nothing_is_asked_for_afterwards() {
    let bodies = outputs();
    for damage in [false, true] {
        for store in Store::both() {
            fill(&store, &[SCOPE], &bodies);
            if damage {
                store.delete(&packs(&store)[0]);
            }
            let machine = Machine::new();
            let pull = |scope: &str| Plugin::new(&machine.0).envs(&store.vars()).args(["pull", scope]).output();
            let out = pull(SCOPE).ok().quiet();
            assert!(out.stdout.contains("104 of 104 outputs"), "{}", out.describe());
            // one that the directory does not take is none that is there
            let other = TempDir::new();
            let id = OutputId::of(&bodies[1]).to_string();
            other.write(&format!("cache/output/{}", &id[..2]), "in the place of a folder");
            let out = Plugin::new(&other).envs(&store.vars()).args(["pull", SCOPE]).output().code(1);
            assert!(out.stderr.contains("not all was to be had: scope s: 103 of 104 outputs"), "{}", out.describe());
            let out = pull("--scope=none").ok().quiet();
            assert!(out.stdout.contains("no list"), "{}", out.describe());
            store.keys().iter().for_each(|key| store.delete(key));
            let mut s = machine.session(&store, &["--no-readahead"]);
            assert_eq!(s.get_all(&bodies), bodies.len());
            assert_eq!(number(&metrics(&s.end()), "bucket", "requests"), 0);
        }
    }
    let dir = TempDir::new();
    let flags = ["pull", SCOPE, "--bucket=some-bucket", "--region=us-east-1", "--s3-endpoint-url=http://127.0.0.1:9"];
    let plugin = || Plugin::new(&dir).env("AWS_ACCESS_KEY_ID", "k").env("AWS_SECRET_ACCESS_KEY", "s");
    let out = plugin().args(flags).output().code(1);
    assert!(out.stderr.contains("pull: "), "{}", out.describe());
    let out = plugin().args(["pull"]).output().code(2);
    assert!(out.stderr.contains("needs a bucket"), "{}", out.describe());
}

#[test]
fn a_pull_from_a_bucket_that_dies_in_the_middle_fails_and_says_why() {
    let (server, bodies) = (S3Server::in_process(), outputs());
    let proxy = FaultProxy::start(&server.endpoint);
    let vars = server.env_through(&proxy.endpoint);
    let store = Store::S3(Box::new(server));
    fill(&store, &[SCOPE], &bodies);
    let pull = || Plugin::new(&TempDir::new()).envs(&vars).args(["pull", SCOPE]).output();
    for fault in [Fault::Reset, Fault::Status(503), Fault::Refuse("InvalidAccessKeyId")] {
        // after the list
        proxy.series([(Fault::None, 1), (fault.clone(), usize::MAX)]);
        let out = pull().code(1);
        let last = out.stderr.lines().last().unwrap();
        assert!(last.contains("pull: not all was to be had: scope s: "), "{fault:?}{}", out.describe());
        proxy.set(fault);
        let out = pull().code(1);
        assert!(!out.stderr.contains("to be had"), "{}", out.describe());
    }
    proxy.set(Fault::Status(500));
    assert!(pull().code(1).stderr.contains("pull: s3://cache-bucket/pre/fix at "));
    assert!(pull().code(1).stderr.contains(": status 500: fault\n"));
    // what the bucket has lost is another thing
    proxy.set(Fault::None);
    packs(&store).iter().chain([&single(100)]).for_each(|key| store.delete(key));
    let out = pull().ok().quiet();
    assert!(out.stdout.contains("103 of 104 outputs"), "{}", out.describe());
}

#[test]
fn clear_knows_packs() {
    let (store, dir) = (filled(Store::dir(), &outputs()), TempDir::new());
    let bucket = &store.vars()[0].1;
    Plugin::new(&dir).args(["clear", &format!("--bucket={bucket}"), "--prefix=pre/fix"]).output().ok();
    assert!(store.keys().is_empty(), "{:?}", store.keys());
}
