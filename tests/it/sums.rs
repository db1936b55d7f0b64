//! The sum database: what of a module it has to say, and what of it is believed. The database is the `go`
//! team's own, with somebody in between who changes what it says.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};

use sha2::{Digest, Sha256};

use super::modules::{Server, answer, go, kept_files};
use crate::support::env::{TempDir, poll};
use crate::support::origin::Origin;
use crate::support::script::files;
use crate::support::upstream::{SumDb, Tree, Upstream};

/// Changes an answer of the database, of that path and status.
type Change = Box<dyn Fn(&str, u16, Vec<u8>) -> (u16, Vec<u8>) + Send>;

/// Somebody between us and the database.
pub(super) struct Between {
    origin: Origin,
    change: Arc<Mutex<Change>>,
}

impl Between {
    pub(super) fn new(database: &SumDb) -> Self {
        let change: Arc<Mutex<Change>> = Arc::new(Mutex::new(Box::new(|_, status, body| (status, body))));
        let (url, changing) = (database.url.clone(), change.clone());
        let agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().new_agent();
        let origin = Origin::http(move |request| {
            let path = request.split(' ').nth(1).unwrap();
            // asked for a tile that it has not, that server goes away
            let (status, body) = agent.get(format!("{url}{path}")).call().map_or((404, Vec::new()), |mut got| {
                let mut body = Vec::new();
                got.body_mut().as_reader().read_to_end(&mut body).unwrap();
                (got.status().as_u16(), body)
            });
            let (status, body) = changing.lock().unwrap()(path, status, body);
            // none at all
            if status == 0 { Vec::new() } else { answer(status, "", &body) }
        });
        Between { origin, change }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.origin.host())
    }

    pub(super) fn set(&self, change: impl Fn(&str, u16, Vec<u8>) -> (u16, Vec<u8>) + Send + 'static) {
        *self.change.lock().unwrap() = Box::new(change);
    }

    /// Gives no answer.
    pub(super) fn silence(&self) {
        self.set(|_, _, _| (0, Vec::new()));
    }

    /// Passes all on.
    pub(super) fn pass(&self) {
        self.set(|_, status, body| (status, body));
    }
}

/// A tree of many modules, so that the database's has whole tiles and others; what an upstream has
/// instead; the database, and who is in between.
struct Scene {
    dir: TempDir,
    tree: Tree,
    upstream: Upstream,
    database: SumDb,
    between: Between,
}

impl Scene {
    fn new() -> Self {
        let dir = TempDir::new();
        let mut tree = Tree::new(dir.dir("tree"));
        for n in 0..4 {
            tree.add(&format!("example.com/m{n}"), "v1.0.0", &[("m.go", b"package m\n")]);
        }
        let upstream = Upstream::start(&tree.root);
        let database = SumDb::start(&tree.root);
        // from now on it says the same, whatever becomes of the tree
        for n in 0..4 {
            ureq::get(format!("{}/lookup/example.com/m{n}@v1.0.0", database.url)).call().unwrap();
        }
        let between = Between::new(&database);
        Scene { dir, tree, upstream, database, between }
    }

    /// Has the database hold `count` more records.
    fn grow(&mut self, name: &str, count: usize) {
        for n in 0..count {
            let module = format!("example.com/{name}{n}");
            self.tree.add(&module, "v1.0.0", &[("m.go", b"package m\n")]);
            let got = ureq::get(format!("{}/lookup/{module}@v1.0.0", self.database.url)).call().unwrap();
            assert_eq!(got.status(), 200);
        }
    }

    fn serve(&self, home: &TempDir, more: &[&str]) -> Server {
        self.serve_with(home, more, &[])
    }

    fn serve_with(&self, home: &TempDir, more: &[&str], vars: &[(&str, &str)]) -> Server {
        let upstream = format!("--upstream={}", self.upstream.url());
        let sumdb = format!("--sumdb={}={}", self.database.key, self.between.url());
        Server::with(home, &[&["--modproxy", "--mod-ttl=0", &upstream, &sumdb], more].concat(), vars)
    }
}

/// Waits until that many lines of a server's say that something is refused; there must be no more.
fn refused(server: &Server, lines: usize) {
    let said = || server.stderr().lines().filter(|line| line.contains("refused")).count();
    poll("the lines", || (said() >= lines).then_some(()));
    assert_eq!(said(), lines, "{}", server.stderr());
}

fn file(n: usize, kind: &str) -> String {
    format!("example.com/m{n}/@v/v1.0.0.{kind}")
}

#[test]
fn what_a_compromised_upstream_sends_is_neither_kept_nor_served() {
    let scene = Scene::new();
    let server = scene.serve(&scene.dir, &[]);
    assert_eq!((server.status(&file(0, "mod")), server.status(&file(0, "zip"))), (200, 200));
    // another zip of the same name, and another go.mod
    let root = &scene.tree.root;
    let honest = [file(1, "zip"), file(2, "mod")].map(|f| (f.clone(), fs::read(root.join(&f)).unwrap()));
    let mut other = Tree::new(scene.dir.dir("other"));
    other.add("example.com/m1", "v1.0.0", &[("m.go", b"package m // changed\n")]);
    fs::copy(other.root.join(file(1, "zip")), root.join(file(1, "zip"))).unwrap();
    fs::write(root.join(file(2, "mod")), "module example.com/m2\n\ngo 1.99\n").unwrap();
    let before = kept_files(&scene.dir);
    for (name, _) in &honest {
        for _ in 0..2 {
            let (status, text) = server.get(name);
            assert!(status == 502 && text.contains("refused") && text.contains("the sum database"), "{status} {text}");
        }
    }
    // the answers of the database are kept, and nothing else
    let new: Vec<_> = kept_files(&scene.dir).into_iter().filter(|name| !before.contains(name)).collect();
    assert!(new.iter().all(|name| name.starts_with("sumdb/")), "{new:?}");
    refused(&server, 2);
    for (name, bytes) in &honest {
        fs::write(root.join(name), bytes).unwrap();
        assert_eq!(server.get_bytes(name), (200, bytes.clone()), "nothing is held against the module");
    }
}

#[test]
fn a_file_s_name_cannot_stand_for_another_file() {
    let mut scene = Scene::new();
    let module = "example.com/two";
    let [one, two] = ["package m // one\n", "package m // two\n"];
    scene.tree.add(module, "v1.0.0", &[("m.go", one.as_bytes()), ("n.go", two.as_bytes())]);
    ureq::get(format!("{}/lookup/{module}@v1.0.0", scene.database.url)).call().unwrap();
    // of this one, what is hashed is the same
    let sum: String = Sha256::digest(two).iter().map(|b| format!("{b:02x}")).collect();
    let name = format!("m.go\n{sum}  {module}@v1.0.0/n.go");
    let (mut other, file) = (Tree::new(scene.dir.dir("other")), format!("{module}/@v/v1.0.0.zip"));
    other.add(module, "v1.0.0", &[(&name, one.as_bytes())]);
    let honest = fs::read(scene.tree.root.join(&file)).unwrap();
    fs::copy(other.root.join(&file), scene.tree.root.join(&file)).unwrap();
    let server = scene.serve(&scene.dir, &[]);
    let (status, text) = server.get(&file);
    assert!(status == 502 && text.contains("is no name of a file"), "{status} {text}");
    fs::write(scene.tree.root.join(&file), &honest).unwrap();
    assert_eq!(server.get_bytes(&file), (200, honest), "nothing is held against the module");
}

/// Each way to lie about a lookup or a tile, of the module with that number.
fn lies() -> Vec<(&'static str, Change)> {
    fn lookup(n: usize, change: impl Fn(String) -> String + Send + 'static) -> Change {
        Box::new(move |path, status, body| {
            if path.ends_with(&format!("/lookup/example.com/m{n}@v1.0.0")) {
                (200, change(String::from_utf8(body).unwrap()).into_bytes())
            } else {
                (status, body)
            }
        })
    }
    let insert = |text: &str, at: usize, line: &str| {
        let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
        lines.insert(at, line);
        lines.concat()
    };
    let line = "example.com/m1 v1.0.0 h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
    vec![
        ("empty", lookup(1, |_| String::new())),
        ("a login page", lookup(1, |_| "<html>log in</html>".into())),
        ("another module's", lookup(1, |text| text.replace("example.com/m1", "example.com/m3"))),
        ("a line before", lookup(1, move |text| insert(&text, 0, line))),
        ("a line in the record", lookup(1, move |text| insert(&text, 1, line))),
        ("a line after the record", lookup(1, move |text| insert(&text, 4, line))),
        ("a line in the tree head", lookup(1, move |text| insert(&text, 6, line))),
        ("a line among the signatures", lookup(1, move |text| text + line)),
        ("another hash", lookup(1, |text| text.replacen("h1:", "h1:A", 1))),
        (
            "another number",
            lookup(1, |text| format!("0{}", text.split_once('\n').map(|t| format!("\n{}", t.1)).unwrap())),
        ),
        // what is signed all the same, and no note to go, which would stop at what is kept
        ("many signatures", lookup(1, |text| text + &"\u{2014} x AAAAAAAA\n".repeat(100))),
        ("a signature of nothing", lookup(1, |text| text + "\u{2014} x AAAAAA==\n")),
        ("a space in a name", lookup(1, |text| text + "\u{2014} x\u{a0}y AAAAAAAA\n")),
        (
            "line ends of another system",
            lookup(1, |text| {
                let (signed, signatures) = text.rsplit_once("\n\n").unwrap();
                format!("{signed}\n\n{}", signatures.replace('\n', "\r\n"))
            }),
        ),
        ("no signature", lookup(1, |text| text.rsplit_once("\u{2014}").unwrap().0.to_string())),
    ]
}

#[test]
fn a_database_that_lies_is_not_believed() {
    let scene = Scene::new();
    for (what, change) in lies() {
        let home = TempDir::new();
        let server = scene.serve(&home, &[]);
        // the tree has more than that record, one that is asked for first and well
        scene.between.pass();
        assert_eq!(server.status(&file(0, "zip")), 200, "{what}: {}", server.stderr());
        scene.between.set(change);
        let kept = kept_files(&home);
        for kind in ["mod", "zip"] {
            let (status, text) = server.get(&file(1, kind));
            assert!(status == 502 && text.contains("refused"), "{what}: {status} {text}");
        }
        assert_eq!(server.status("sumdb/sumdb.test/lookup/example.com/m1@v1.0.0"), 502, "{what}");
        refused(&server, 1);
        assert_eq!(kept_files(&home), kept, "{what}");
        scene.between.pass();
        assert_eq!(server.status(&file(1, "zip")), 200, "{what}: {}", server.stderr());
    }
}

#[test]
fn a_forged_tile_among_good_ones_is_found_by_its_parent() {
    let mut scene = Scene::new();
    // three whole tiles and a part
    scene.grow("more", 800);
    let name = |n: usize| format!("example.com/more{n}/@v/v1.0.0.zip");
    for (n, forged) in
        [(10, "/tile/8/0/000"), (300, "/tile/8/0/001"), (799, "/tile/8/0/003.p/"), (20, "/tile/8/1/000.p/")]
    {
        let home = TempDir::new();
        let server = scene.serve(&home, &[]);
        scene.between.set(move |path, status, mut body| {
            if path.contains(forged) {
                let at = body.len() - 1;
                body[at] ^= 1;
            }
            (status, body)
        });
        let (status, text) = server.get(&name(n));
        assert!(status == 502 && text.contains("refused"), "{forged}: {status} {text}");
        assert!(!kept_files(&home).iter().any(|name| name.contains(".zip") || name.contains(forged)), "{forged}");
        // nor is a client of the database itself given one
        assert_ne!(server.status(&format!("sumdb/sumdb.test{}", forged.trim_end_matches(".p/"))), 200, "{forged}");
        scene.between.pass();
        assert_eq!(server.status(&name(n)), 200, "{forged}: {}", server.stderr());
        // from a tile that is known, each part and the whole
        for path in ["tile/8/0/001", "tile/8/0/001.p/7", "tile/8/1/000.p/3", "latest"] {
            let theirs = ureq::get(format!("{}/{path}", scene.database.url)).call();
            let theirs = theirs.unwrap().body_mut().read_to_vec().unwrap();
            assert_eq!(server.get_bytes(&format!("sumdb/sumdb.test/{path}")), (200, theirs), "{path}");
        }
        assert_eq!(server.status("sumdb/sumdb.test/tile/8/0/900"), 404);
    }
}

#[test]
fn a_tree_that_forks_or_shrinks_is_refused() {
    let mut scene = Scene::new();
    scene.grow("more", 300);
    let mut elsewhere = Tree::new(scene.dir.dir("elsewhere"));
    for n in 0..4 {
        elsewhere.add(&format!("example.com/m{n}"), "v1.0.0", &[("m.go", b"package m // for you alone\n")]);
    }
    let fork = scene.database.fork(&elsewhere.root);
    let split = Between::new(&fork);
    let home = TempDir::new();
    let server = scene.serve(&home, &[]);
    assert_eq!(server.status(&file(0, "zip")), 200, "{}", server.stderr());
    drop(server);
    // after a restart too, and whether that tree is smaller or larger
    for larger in [0, 600] {
        for n in 0..larger {
            let module = format!("example.com/fork{n}");
            elsewhere.add(&module, "v1.0.0", &[("m.go", b"package m\n")]);
            ureq::get(format!("{}/lookup/{module}@v1.0.0", fork.url)).call().unwrap();
        }
        fs::copy(elsewhere.root.join(file(1, "zip")), scene.tree.root.join(file(1, "zip"))).unwrap();
        let sumdb = format!("--sumdb={}={}", scene.database.key, split.url());
        let server = scene.serve(&home, &[&sumdb]);
        let kept = kept_files(&home);
        let (status, text) = server.get(&file(1, "zip"));
        assert!(status == 502 && text.contains("refused: sum database"), "{larger}: {status} {text}");
        refused(&server, 1);
        let zips = |files: Vec<String>| files.into_iter().filter(|name| !name.contains("/tile/")).collect::<Vec<_>>();
        assert_eq!(zips(kept_files(&home)), zips(kept));
    }
    // an older head of the same tree is none
    let server = scene.serve(&home, &[]);
    let old: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
    let first = old.clone();
    scene.between.set(move |path, status, body| {
        if path.ends_with("/lookup/example.com/m3@v1.0.0") {
            let mut first = first.lock().unwrap();
            return (status, first.get_or_insert(body).clone());
        }
        (status, body)
    });
    let body = ureq::get(format!("{}/lookup/example.com/m3@v1.0.0", scene.between.url())).call().unwrap();
    assert_eq!(body.status(), 200);
    scene.grow("later", 40);
    assert_eq!(server.status("example.com/later1/@v/v1.0.0.zip"), 200, "{}", server.stderr());
    assert_eq!(server.status(&file(3, "zip")), 200, "{}", server.stderr());
}

#[test]
fn two_processes_on_one_cache_are_shown_one_tree() {
    let mut scene = Scene::new();
    let mut elsewhere = Tree::new(scene.dir.dir("elsewhere"));
    for n in 0..4 {
        elsewhere.add(&format!("example.com/m{n}"), "v1.0.0", &[("m.go", b"package m\n")]);
    }
    let fork = scene.database.fork(&elsewhere.root);
    elsewhere.add("example.com/later0", "v1.0.0", &[("m.go", b"package m // for you alone\n")]);
    for n in 0..4 {
        ureq::get(format!("{}/lookup/example.com/m{n}@v1.0.0", fork.url)).call().unwrap();
    }
    let home = TempDir::new();
    let sumdb = format!("--sumdb={}={}", fork.key, fork.url);
    let cache = format!("--cache-dir={}", home.join("cache").display());
    let (one, other) = (scene.serve(&home, &[]), scene.serve(&TempDir::new(), &[&sumdb, &cache]));
    // so far these are the same tree
    assert_eq!((one.status(&file(0, "zip")), other.status(&file(1, "zip"))), (200, 200), "{}", other.stderr());
    scene.grow("later", 3);
    assert_eq!(one.status("example.com/later1/@v/v1.0.0.zip"), 200, "{}", one.stderr());
    let zip = "example.com/later0/@v/v1.0.0.zip";
    fs::copy(elsewhere.root.join(zip), scene.tree.root.join(zip)).unwrap();
    let (status, text) = other.get(zip);
    assert!(status == 502 && text.contains("contradicts"), "{status} {text}");
}

#[test]
fn an_answer_that_was_right_is_checked_again_when_it_comes_from_the_bucket() {
    let scene = Scene::new();
    let bucket = scene.dir.dir("bucket");
    let server = scene.serve(&scene.dir, &[&format!("--bucket=file://{}", bucket.display())]);
    let lookup = format!("sumdb/{}/lookup/example.com/m0@v1.0.0", SumDb::NAME);
    let right = server.get(&lookup);
    assert_eq!(right.0, 200, "{}", right.1);
    let holds = |file: &PathBuf| fs::read(file).is_ok_and(|bytes| bytes == right.1.as_bytes());
    let object = poll("the upload", || files(&bucket).into_iter().find(holds));
    fs::write(object, right.1.replace("h1:", "h1:forged")).unwrap();
    // as pruning leaves it
    let kept = files(&scene.dir.join("cache/module")).into_iter().find(holds).unwrap();
    fs::remove_file(kept.with_extension("sum")).unwrap();
    fs::remove_file(kept).unwrap();
    assert_eq!(server.get(&lookup), right);
}

#[test]
fn no_answer_is_no_verdict_and_what_was_served_is_checked_when_there_is_one() {
    let scene = Scene::new();
    let root = &scene.tree.root;
    let mut other = Tree::new(scene.dir.dir("other"));
    other.add("example.com/m1", "v1.0.0", &[("m.go", b"package m // changed\n")]);
    fs::copy(other.root.join(file(1, "zip")), root.join(file(1, "zip"))).unwrap();
    for how in ["closed", "503", "403"] {
        let home = TempDir::new();
        let server = scene.serve(&home, &["-v"]);
        match how {
            "closed" => scene.between.silence(),
            "503" => scene.between.set(|_, _, _| (503, b"later".to_vec())),
            _ => scene.between.set(|_, _, _| (403, b"blocked".to_vec())),
        }
        for n in [0, 1] {
            assert_eq!((server.status(&file(n, "zip")), server.status(&file(n, "mod"))), (200, 200), "{how}");
        }
        // others are not told to keep that for good
        assert!(!server.header(&file(0, "zip"), "cache-control").contains("immutable"), "{how}");
        let said = server.stderr();
        let warned = said.lines().filter(|line| line.contains("gives no answer") && !line.contains(" debug: "));
        assert_eq!(warned.count(), 1, "{said}");
        // in the next process it is still known, before anybody asks the database
        drop(server);
        let listed = home_list(&home);
        assert_eq!(listed.matches("unverified").count(), 2, "{listed}");
        let server = scene.serve(&home, &["-v"]);
        assert_eq!(server.status(&file(1, "zip")), 200, "{how}: {}", server.stderr());
        scene.between.pass();
        poll("the changed one to go", || (!kept_files(&home).contains(&file(1, "zip"))).then_some(()));
        refused(&server, 1);
        assert_eq!(server.status(&file(1, "zip")), 502);
        assert_eq!(
            (server.status(&file(0, "zip")), server.status(&file(0, "mod")), server.status(&file(1, "mod"))),
            (200, 200, 200)
        );
        assert!(!home_list(&home).contains("unverified"), "{}", home_list(&home));
    }
}

fn home_list(home: &TempDir) -> String {
    super::modules::command(home, &["list"]).ok().stdout
}

#[test]
fn what_the_database_does_not_know_is_refused_unless_it_is_private() {
    let scene = Scene::new();
    let unknown = |status: u16| {
        move |path: &str, s: u16, body: Vec<u8>| {
            if path.contains("/lookup/") { (status, b"never heard of it".to_vec()) } else { (s, body) }
        }
    };
    for status in [404, 410] {
        scene.between.set(unknown(status));
        let server = scene.serve(&TempDir::new(), &[]);
        for kind in ["zip", "mod"] {
            let (got, text) = server.get(&file(0, kind));
            assert!(got == 403 && text.contains("--mod-private") && text.contains("never heard"), "{got} {text}");
        }
        refused(&server, 1);
        assert_eq!(server.status(&file(0, "info")), 200);
        let before = scene.between.origin.seen().len();
        let private = format!("--upstream={}#private", scene.upstream.url());
        for more in [&["--mod-private=example.com", &private][..], &["--mod-verify=off"]] {
            let home = TempDir::new();
            let server = scene.serve(&home, more);
            assert_eq!((server.status(&file(0, "zip")), server.status(&file(0, "mod"))), (200, 200), "{more:?}");
            drop(server);
            // what is checked no more is not taken for checked when it is again
            assert_eq!(home_list(&home).contains("unverified"), more.len() == 1, "{more:?}");
        }
        assert_eq!(scene.between.origin.seen().len(), before, "the database was asked for private modules");
    }
    // nor is it served on where the database could not say so at first
    scene.between.silence();
    let server = scene.serve(&TempDir::new(), &[]);
    assert_eq!(server.status(&file(0, "zip")), 200);
    scene.between.set(unknown(404));
    poll("what is not known to go", || (server.status(&file(0, "zip")) == 403).then_some(()));
}

#[test]
fn a_folder_says_nothing_of_what_is_not_in_it() {
    let scene = Scene::new();
    let sumdb = scene.tree.root.join("sumdb").join(SumDb::NAME);
    fs::create_dir_all(&sumdb).unwrap();
    fs::write(sumdb.join("supported"), "").unwrap();
    for (end, sure) in [("", true), (",off", false)] {
        let (home, folder) = (TempDir::new(), format!("--upstream=file://{}{end}", scene.tree.root.display()));
        let server = scene.serve(&home, &[&folder]);
        assert_eq!(server.status(&file(0, "zip")), 200, "{}", server.stderr());
        assert!(home_list(&home).contains("unverified") != sure, "{end}");
    }
}

#[test]
fn an_archive_that_lacks_what_joins_its_tree_to_an_older_one_is_taken_all_the_same() {
    let mut scene = Scene::new();
    let dir = TempDir::new();
    let importer = TempDir::new();
    for (n, module) in ["m0", "late299"].into_iter().enumerate() {
        if n > 0 {
            scene.grow("late", 300);
        }
        let (exporter, file) = (TempDir::new(), dir.join(&format!("{n}.tar.zst")).display().to_string());
        let upstream = format!("--upstream={}", scene.upstream.url());
        let sumdb = format!("--sumdb={}={}", scene.database.key, scene.between.url());
        let module = format!("example.com/{module}@v1.0.0");
        super::modules::command(&exporter, &["fetch", &upstream, &sumdb, &module]).ok();
        super::modules::command(&exporter, &["export", &sumdb, &file]).ok();
        let out = super::modules::command(&importer, &["import", "--offline", &sumdb, &file]).ok();
        assert_eq!(out.stdout.contains("unverified"), n > 0, "{}", out.describe());
    }
}

#[test]
fn offline_nothing_is_held_against_what_cannot_be_checked() {
    let scene = Scene::new();
    let home = TempDir::new();
    let lookup = format!("sumdb/{}/lookup/example.com/m0@v1.0.0", SumDb::NAME);
    let server = scene.serve(&home, &[]);
    assert_eq!((server.status(&file(0, "zip")), server.status(&lookup)), (200, 200));
    drop(server);
    // as pruning may leave it: what vouches for the answer was used before it
    let tile = files(&home.join("cache/module")).into_iter().find(|file| {
        fs::read_to_string(file.with_extension("sum")).is_ok_and(|sum| sum.contains("/tile/8/0/"))
            && file.extension().is_none()
    });
    let (tile, aside) = (tile.unwrap(), home.join("tile"));
    fs::rename(&tile, &aside).unwrap();
    let server = scene.serve(&home, &["--offline"]);
    let (status, text) = server.get(&lookup);
    assert!(status == 404 && text.contains("is not in the cache, and this is --offline"), "{status} {text}");
    assert_eq!(server.status(&file(0, "zip")), 200);
    drop(server);
    fs::rename(&aside, &tile).unwrap();
    assert_eq!(scene.serve(&home, &["--offline"]).status(&lookup), 200, "the answer is there still");
}

#[test]
#[cfg(target_os = "linux")]
fn a_machine_without_threads_to_spare_verifies_all_the_same() {
    let scene = Scene::new();
    let home = TempDir::new();
    let server = scene.serve_with(&home, &[], &[("RUST_MIN_STACK", "67108864"), ("MALLOC_ARENA_MAX", "1")]);
    // enough for all but threads of that size
    server.limit_memory(24 << 20);
    assert_eq!(server.status(&file(0, "zip")), 200, "{}", server.stderr());
    assert!(kept_files(&home).iter().any(|name| name.contains("/lookup/")), "{:?}", kept_files(&home));
    assert!(!home_list(&home).contains("unverified"));
}

#[test]
fn run_verifies_as_gosumdb_says() {
    let scene = Scene::new();
    let root = &scene.tree.root;
    fs::write(root.join(file(1, "mod")), "module example.com/m1\n\ngo 1.99\n").unwrap();
    let upstream = format!("--upstream={}", scene.upstream.url());
    let named = format!("{} {}", scene.database.key, scene.between.url());
    for (variables, refused) in [
        (&[("GOSUMDB", named.as_str())][..], true),
        (&[("GOSUMDB", "off")], false),
        (&[("GOSUMDB", named.as_str()), ("GONOSUMDB", "example.com/*")], false),
    ] {
        let home = TempDir::new();
        let script = "cd \"$HOME\" && go mod init example.com/app && go mod download example.com/m1@v1.0.0";
        let mut plugin = go(&home, "run").args(["--modproxy", &upstream, "sh", "-c", script]);
        for (name, value) in variables {
            plugin = plugin.env(name, value);
        }
        let out = plugin.output();
        assert_eq!(out.stderr.contains("refused: example.com/m1@v1.0.0/go.mod"), refused, "{}", out.describe());
        assert_eq!(out.status.success(), !refused, "{}", out.describe());
    }
}

#[test]
fn nobody_can_keep_the_database_from_speaking() {
    let scene = Scene::new();
    let (bad, mut other) = (file(1, "zip"), Tree::new(scene.dir.dir("other")));
    other.add("example.com/m1", "v1.0.0", &[("m.go", b"package m // changed\n")]);
    // an upstream that proxies the database, and says nothing of what it has
    for supported in [200, 500] {
        let root = other.root.clone();
        let upstream = Origin::http(move |request| {
            let path = request.split(' ').nth(1).unwrap();
            match fs::read(root.join(&path[1..])) {
                _ if path.ends_with("/supported") => answer(supported, "", b""),
                _ if path.starts_with("/sumdb/") => answer(503, "", b"later"),
                Ok(body) => answer(200, "", &body),
                Err(_) => answer(404, "", b""),
            }
        });
        let home = TempDir::new();
        let from = format!("--upstream=http://{}", upstream.host());
        let sumdb = format!("--sumdb={}={}", scene.database.key, scene.database.url);
        let server = Server::start(&home, &["--modproxy", &from, &sumdb]);
        let (status, text) = server.get(&bad);
        assert!(status == 502 && text.contains("refused") && !kept_files(&home).contains(&bad), "{status} {text}");
    }
    // that it does not speak of one module says nothing of another
    fs::copy(other.root.join(&bad), scene.tree.root.join(&bad)).unwrap();
    let home = TempDir::new();
    let server = scene.serve(&home, &[]);
    scene.between.set(|path, status, body| if path.contains("/m2@") { (503, Vec::new()) } else { (status, body) });
    assert_eq!((server.status(&file(2, "zip")), server.status(&bad)), (200, 502));
    // nor does it keep what was served meanwhile from being compared
    scene.between.set(|_, _, _| (503, Vec::new()));
    let home = TempDir::new();
    let server = scene.serve(&home, &[]);
    assert_eq!((server.status(&file(0, "zip")), server.status(&bad)), (200, 200));
    scene.between.set(|path, status, body| if path.contains("/m0@") { (503, Vec::new()) } else { (status, body) });
    poll("the other to go", || (!kept_files(&home).contains(&bad)).then_some(()));
    assert!(kept_files(&home).contains(&file(0, "zip")));
}

#[test]
fn a_database_that_nobody_has_is_not_supported() {
    let scene = Scene::new();
    scene.between.silence();
    let server = scene.serve(&scene.dir, &[]);
    assert_eq!(server.status("sumdb/sumdb.test/supported"), 404);
    assert_eq!(server.status("sumdb/other.test/supported"), 404);
    scene.between.pass();
    assert_eq!(server.status("sumdb/sumdb.test/supported"), 200);
    assert_eq!(server.status(&file(0, "zip")), 200);
    drop(server);
    scene.between.silence();
    // what was kept is still answered
    for more in [&[][..], &["--offline"]] {
        let server = scene.serve(&scene.dir, more);
        assert_eq!(server.status("sumdb/sumdb.test/supported"), 200, "{more:?}");
        assert_eq!(server.status("sumdb/sumdb.test/lookup/example.com/m0@v1.0.0"), 200, "{more:?}");
    }
    // nor is anybody asked for what was not
    scene.between.pass();
    assert_eq!(scene.serve(&TempDir::new(), &["--offline"]).status("sumdb/sumdb.test/supported"), 404);
}

#[test]
fn a_database_that_is_not_there_costs_neither_who_asks_nor_the_upstream() {
    let scene = Scene::new();
    let home = TempDir::new();
    scene.between.silence();
    let server = scene.serve(&home, &[]);
    let all = || (0..4).flat_map(|n| ["mod", "zip"].map(|kind| file(n, kind)));
    for file in all() {
        assert_eq!(server.status(&file), 200);
    }
    let (seen, asked) = (scene.upstream.seen().len(), scene.between.origin.seen().len());
    for _ in 0..5 {
        all().for_each(|file| assert_eq!(server.status(&file), 200));
    }
    // by whoever tries meanwhile whether it is back, and that is one of them at a time
    let (seen, asked) = (scene.upstream.seen().len() - seen, scene.between.origin.seen().len() - asked);
    assert!(seen <= 12 && asked <= 12, "{seen} requests to the upstream, {asked} to the database");
}

#[test]
#[cfg(target_os = "linux")]
fn a_database_that_hangs_costs_few_threads_however_much_is_asked_for() {
    let (hold, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let database = Origin::http(move |_| {
        let _ = held.lock().unwrap().recv();
        Vec::new()
    });
    let upstream = Origin::http(|_| answer(404, "", b""));
    let home = TempDir::new();
    let key = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";
    let [from, sumdb] =
        [format!("--upstream=http://{}", upstream.host()), format!("--sumdb={key}=http://{}", database.host())];
    let server = Server::start(&home, &["--modproxy", &from, &sumdb]);
    (0..200).for_each(|n| assert_eq!(server.status(&file(n, "mod")), 404));
    let threads = server.threads();
    assert!(threads < 100, "{threads}");
    drop(hold);
}
