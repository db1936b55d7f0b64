//! Sum databases below /mod/sumdb/: `supported`, `latest`, `lookup/…` and `tile/…` of the ones
//! listed; and what the first of them says of a module.
//!
//! They are fetched through the first upstream proxy that says it supports them, as `go` does it,
//! else, or where that fails, from the database itself: who hands out modules must not be able to keep it
//! from speaking of them.
//!
//! Invariants: nothing is kept or served that is not part of a tree whose head the database has signed:
//! a record is the leaf that its number says, a tile is what its parent says, the last ones are what the
//! head says; every head that is met agrees with the largest that was ever seen, which is kept. What is
//! read from disk is checked like what is fetched.

mod note;
mod tree;

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use self::note::{Record, TreeHead};
use self::tree::{HASH, Hash, WIDTH};
use super::Put;
use super::depot::Depot;
use super::path::{check_path, escape, is_canonical, unescape};
use super::reply::{refusal, reply};
use super::upstream::{FetchError, Upstream};
use crate::bounded::Bounded;
use crate::config::SumDatabase;
use crate::flight::Flights;
use crate::http::exchange::{Body, Reply, TEXT};
use crate::pool;

/// Bytes of a signed tree head or a record.
const MAX_NOTE: u64 = 1 << 20;
/// How long it is taken for granted who is asked for a database.
const ROUTE_TTL: Duration = Duration::from_secs(600);
/// Whole tiles that are remembered as right, 8 KiB each.
const TILES: usize = 1024;

/// One database.
pub(super) struct Database {
    pub(super) name: String,
    key: ([u8; 4], [u8; 32]),
    depot: Arc<Depot>,
    /// The database itself.
    direct: Upstream,
    /// The upstream that is asked in its place, if there is one, and until when.
    route: Mutex<Option<(Option<Upstream>, Instant)>>,
    /// The largest tree, and when the database was asked for one.
    seen: Mutex<Option<(Arc<Head>, Option<Instant>)>>,
    /// Whole tiles that were found right.
    tiles: Bounded<Place, Tile>,
    flights: Arc<Flights<Place, Result<Tile, FetchError>>>,
    lookups: Arc<Flights<String, Result<String, FetchError>>>,
}

/// The hashes of a tile.
type Tile = Arc<Vec<u8>>;

/// The level and place of a whole tile, and its hash: which of them a tree has, its head says.
type Place = (u8, u64, Hash);

/// A tree.
struct Head {
    /// The signed note.
    note: String,
    tree: TreeHead,
    /// Its tiles that are not whole, which make it up.
    frontier: Vec<Tile>,
}

/// Answers for `rest`, which follows `sumdb/`, with what is known of `databases`.
pub(super) fn answer(databases: &[Database], rest: &str, is_private: &dyn Fn(&str) -> bool) -> Reply {
    let known = databases.iter().find_map(|db| Some((db, rest.strip_prefix(&db.name)?.strip_prefix('/')?)));
    let Some((database, what)) = known else {
        return refusal(404, "not found: this sum database is not proxied here; see --sumdb\n");
    };
    if what == "supported" {
        // where somebody is there to be asked, or something was kept
        return match database.current().map_or_else(|| database.route().map(drop), |_| Ok(())) {
            Ok(()) => Reply::status(200),
            // go asks the database itself then
            Err(why) => refusal(404, format!("not found: {why}\n")),
        };
    }
    let mut ttl = None;
    let (content_type, outcome) = if what == "latest" {
        ttl = Some(database.depot.config.ttl);
        (TEXT, database.latest().map(|head| head.note.clone().into_bytes()))
    } else if let Some((module, version)) = module_of(what) {
        if is_private(&module) {
            return refusal(404, "not found: a private module, which no public sum database is asked for\n");
        }
        (TEXT, database.lookup(&module, &version).map(String::into_bytes))
    } else if let Some((level, n, width)) = tree::place(what) {
        ("application/octet-stream", database.prefix(level, n, width))
    } else {
        database.depot.metrics.modcache.path_error.inc();
        return refusal(404, "not found: a sum database has latest, lookup and tile/8\n");
    };
    reply(outcome.map(Body::Bytes), content_type, false, ttl)
}

impl Database {
    /// The one that `config` names.
    pub(super) fn new(config: &SumDatabase, depot: &Arc<Depot>) -> Self {
        Database {
            name: config.name.clone(),
            key: config.key,
            depot: depot.clone(),
            direct: Upstream::at(&config.url),
            route: Mutex::default(),
            seen: Mutex::default(),
            tiles: Bounded::new(TILES),
            flights: Arc::default(),
            lookups: Arc::default(),
        }
    }

    /// What go.sum has to say of a module's version: the hash of its zip, or of its go.mod where `what`
    /// is `/go.mod`.
    pub(super) fn hash(&self, module: &str, version: &str, what: &str) -> Result<String, FetchError> {
        let answer = self.lookup(module, version)?;
        let record = Record::parse(&answer, module, version).map_err(|why| self.wrong(&why))?;
        let start = format!("{module} {version}{what} ");
        let hash = record.text.lines().find_map(|line| line.strip_prefix(&start));
        hash.map(str::to_string).ok_or_else(|| self.wrong(&format!("its record of {module}@{version} lacks a line")))
    }

    /// The answer to a lookup, once it is known to be right.
    pub(super) fn lookup(&self, module: &str, version: &str) -> Result<String, FetchError> {
        let path = format!("lookup/{}@{}", escape(module), escape(version));
        self.lookups.once(&path, || {
            let name = self.named(&path);
            if let Some(absent) = self.depot.known_absent(&name) {
                return Err(absent);
            }
            let right = self.right(&path, MAX_NOTE, |bytes| {
                let answer = String::from_utf8(bytes).map_err(|_| self.wrong("an answer that is not text"))?;
                self.check(&answer, module, version).map(|()| answer)
            });
            right.map_err(|e| match e {
                FetchError::Absent(..) if !self.depot.config.offline => self.depot.remember_absent(&name, e),
                e => e,
            })
        })
    }

    /// What is kept as `path`, or else fetched and then kept, as soon as `check` finds it right.
    fn right<T>(
        &self,
        path: &str,
        limit: u64,
        check: impl Fn(Vec<u8>) -> Result<T, FetchError>,
    ) -> Result<T, FetchError> {
        let name = self.named(path);
        if let Some(kept) = self.depot.kept(&name) {
            match check(kept) {
                // by whomever it was kept
                Err(FetchError::Refused(..)) => drop(self.depot.store.remove(&name)),
                checked => return checked,
            }
        }
        let bytes = self.ask(path, limit)?;
        let right = check(bytes.clone()).inspect_err(|_| self.depot.metrics.modcache.rejected.inc())?;
        self.depot.keep(&name, &bytes[..]);
        Ok(right)
    }

    /// Whether `answer` is what the database says of a module's version.
    fn check(&self, answer: &str, module: &str, version: &str) -> Result<(), FetchError> {
        let wrong = |why: String| self.wrong(&format!("lookup of {module}@{version}: {why}"));
        let record = Record::parse(answer, module, version).map_err(wrong)?;
        let head = self.meet(record.note)?;
        if record.id >= head.tree.size {
            return Err(wrong(format!("record {} of a tree of {}", record.id, head.tree.size)));
        }
        let tile = self.tile(&head, 0, record.id / WIDTH)?;
        if hash_at(&tile, record.id) != tree::leaf(record.text.as_bytes()) {
            return Err(wrong("the record is not what the tree has".into()));
        }
        Ok(())
    }

    /// The largest tree that is known, after that of `note` has been compared with it.
    fn meet(&self, note: &str) -> Result<Arc<Head>, FetchError> {
        let tree = note::open(note, &self.name, &self.key).map_err(|why| self.wrong(&why))?;
        loop {
            let current = self.current();
            if let Some(current) = current.as_ref().filter(|current| current.tree.size >= tree.size) {
                return self.agree(current, &tree).map(|()| current.clone());
            }
            let new = self.head(note, tree.clone())?;
            if let Some(current) = &current {
                self.agree(&new, &current.tree)?;
                // what another process has seen meanwhile is no other tree, and a larger one is hardly written over
                if let Some(kept) = self.kept_head(|kept| *kept != tree && *kept != current.tree) {
                    self.meet(&kept.note)?;
                }
            }
            let mut seen = self.seen();
            let now = seen.as_ref().map(|(head, _)| head);
            if now.map(Arc::as_ptr) == current.as_ref().map(Arc::as_ptr) {
                *seen = Some((new.clone(), Some(Instant::now())));
                // in one go, lest one that is met at the same time be kept over a larger one
                self.depot.keep(&self.named("latest"), new.note.as_bytes());
                return Ok(new);
            }
        }
    }

    /// Whether a smaller tree is the beginning of `larger`.
    fn agree(&self, larger: &Head, smaller: &TreeHead) -> Result<(), FetchError> {
        let tiles = tree::frontier(smaller.size)
            .map(|(level, n, width)| self.tile(larger, level, n).map(|tile| tile[..width as usize * HASH].to_vec()));
        let tiles = tiles.collect::<Result<Vec<_>, _>>()?;
        if tree::root(tiles.iter().map(Vec::as_slice)) == smaller.hash {
            return Ok(());
        }
        Err(self.wrong(&format!(
            "its tree of {} records contradicts the one of {} that was seen before: \
             one of the two is not what others are shown",
            larger.tree.size, smaller.size
        )))
    }

    /// The largest tree that was seen, by an earlier process perhaps.
    fn current(&self) -> Option<Arc<Head>> {
        if let Some((head, _)) = &*self.seen() {
            return Some(head.clone());
        }
        let head = self.kept_head(|_| true)?;
        Some(self.seen().get_or_insert((head, None)).0.clone())
    }

    /// The tree whose head is kept, by whatever process, if it is `wanted`. One that does not hold together says
    /// nothing of others.
    fn kept_head(&self, wanted: impl FnOnce(&TreeHead) -> bool) -> Option<Arc<Head>> {
        let note = String::from_utf8(self.depot.kept(&self.named("latest"))?).ok()?;
        let tree = note::open(&note, &self.name, &self.key).ok().filter(wanted)?;
        self.head(&note, tree).ok()
    }

    /// The largest tree, as new as it can be had.
    fn latest(&self) -> Result<Arc<Head>, FetchError> {
        let current = self.current();
        let asked = self.seen().as_ref().and_then(|(_, asked)| *asked);
        if let Some(current) = &current
            && (self.depot.config.offline || asked.is_some_and(|at| at.elapsed() < self.depot.config.ttl))
        {
            return Ok(current.clone());
        }
        let met = self.ask("latest", MAX_NOTE).and_then(|note| {
            let note = String::from_utf8(note).map_err(|_| self.wrong("a tree head that is not text"))?;
            self.meet(&note)
        });
        if met.is_ok()
            && let Some((_, asked)) = &mut *self.seen()
        {
            *asked = Some(Instant::now());
        }
        met.or_else(|e| current.filter(|_| e.passes() && !matches!(e, FetchError::Refused(..))).ok_or(e))
    }

    /// A tile of a tree, as wide as it is there.
    fn tile(&self, head: &Head, level: u8, n: u64) -> Result<Tile, FetchError> {
        if let Some(at) = tree::frontier(head.tree.size).position(|(l, m, _)| (l, m) == (level, n)) {
            return Ok(head.frontier[at].clone());
        }
        if n >= head.tree.size >> (8 * level) >> 8 {
            return Err(FetchError::absent(format_args!("the tree of {} has no such tile", self.name)));
        }
        let hash = hash_at(&self.tile(head, level + 1, n / WIDTH)?, n);
        if let Some(tile) = self.tiles.get(&(level, n, hash)) {
            return Ok(tile);
        }
        self.flights.once(&(level, n, hash), || {
            let path = tree::path(level, n, WIDTH);
            let tile = self.right(&path, WIDTH * HASH as u64, |bytes| {
                let is_right = bytes.len() == WIDTH as usize * HASH && tree::fold(&bytes) == hash;
                let wrong = || self.wrong(&format!("{path} is not what the tile above it says"));
                if is_right { Ok(Arc::new(bytes)) } else { Err(wrong()) }
            })?;
            self.tiles.insert((level, n, hash), tile.clone());
            Ok(tile)
        })
    }

    /// The tree in a signed note, with its tiles that are not whole: together they have to make up its hash.
    fn head(&self, note: &str, tree: TreeHead) -> Result<Arc<Head>, FetchError> {
        for may_be_kept in [true, false] {
            let fetch = |(level, n, width)| self.part(level, n, width, may_be_kept);
            let fetched = pool::each("tile", 8, tree::frontier(tree.size).collect(), fetch);
            let fetched = fetched.into_iter().collect::<Result<Vec<_>, _>>()?;
            if tree::root(fetched.iter().map(|(bytes, _)| &bytes[..])) == tree.hash {
                for ((level, n, width), (bytes, is_kept)) in tree::frontier(tree.size).zip(&fetched) {
                    if !is_kept {
                        self.depot.keep(&self.named(&tree::path(level, n, width)), &bytes[..]);
                    }
                }
                let frontier = fetched.into_iter().map(|(bytes, _)| Arc::new(bytes)).collect();
                return Ok(Arc::new(Head { note: note.to_string(), tree, frontier }));
            }
            if fetched.iter().all(|(_, is_kept)| !is_kept) {
                break;
            }
        }
        Err(self.wrong(&format!("the tiles of its tree of {} records do not make up the head", tree.size)))
    }

    /// A tile of `width` hashes as it is kept, which is told, or fetched; not yet known to be right.
    fn part(&self, level: u8, n: u64, width: u64, kept: bool) -> Result<(Vec<u8>, bool), FetchError> {
        let [part, whole] = [width, WIDTH].map(|width| tree::path(level, n, width));
        let len = width as usize * HASH;
        let long = |bytes: &Vec<u8>| bytes.len() >= len;
        if kept
            && let Some(bytes) =
                [&part, &whole].into_iter().find_map(|path| self.depot.kept(&self.named(path)).filter(long))
        {
            return Ok((bytes[..len].to_vec(), true));
        }
        // one that was filled up meanwhile may be there as a whole only
        let fetched = match self.ask(&part, MAX_NOTE) {
            Err(FetchError::Refused(..)) => self.ask(&whole, MAX_NOTE),
            fetched => fetched,
        };
        match fetched? {
            bytes if long(&bytes) => Ok((bytes[..len].to_vec(), false)),
            bytes => Err(self.wrong(&format!("{part} has {} instead of {len} bytes", bytes.len()))),
        }
    }

    /// The first `width` hashes of a tile.
    fn prefix(&self, level: u8, n: u64, width: u64) -> Result<Vec<u8>, FetchError> {
        let has = |head: &Head| head.tree.size >> (8 * level) >= n * WIDTH + width;
        let head = self.current().filter(|head| has(head)).map_or_else(|| self.latest(), Ok)?;
        if !has(&head) {
            return Err(FetchError::absent(format_args!("the tree has {} records", head.tree.size)));
        }
        let tile = self.tile(&head, level, n)?;
        Ok(tile[..width as usize * HASH].to_vec())
    }

    /// Gives `put` the records of `modules`, versions each, and the tiles that vouch for them. All come
    /// with one tree head, the largest, so that these tiles are enough; those that show how the heads
    /// which the records came with are part of it are there too, for who has met one of them.
    pub(super) fn export(&self, modules: &BTreeSet<(String, String)>, put: Put<'_>) -> io::Result<()> {
        let answers: Vec<_> = modules.iter().filter_map(|m| Some((m, self.lookup(&m.0, &m.1).ok()?))).collect();
        let Some(head) = self.current() else { return Ok(()) };
        put(&self.named("supported"), b"")?;
        put(&self.named("latest"), head.note.as_bytes())?;
        let mut places: Vec<(u8, u64)> = tree::frontier(head.tree.size).map(|(level, n, _)| (level, n)).collect();
        for ((module, version), answer) in &answers {
            let Ok(Record { id, text, note }) = Record::parse(answer, module, version) else { continue };
            let name = self.named(&format!("lookup/{}@{}", escape(module), escape(version)));
            put(&name, format!("{id}\n{text}\n{}", head.note).as_bytes())?;
            places.push((0, id / WIDTH));
            if let Ok(met) = note::open(note, &self.name, &self.key) {
                places.extend(tree::frontier(met.size).map(|(level, n, _)| (level, n)));
            }
        }
        let mut done = HashSet::new();
        while let Some((level, n)) = places.pop() {
            if done.insert((level, n))
                && let Ok(tile) = self.tile(&head, level, n)
            {
                let width = (tile.len() / HASH) as u64;
                put(&self.named(&tree::path(level, n, width)), &tile)?;
                places.extend((width == WIDTH).then_some((level + 1, n / WIDTH)));
            }
        }
        Ok(())
    }

    /// Fetches `path` of the database past what is kept. Who signs a tree has its tiles and heads.
    fn ask(&self, path: &str, limit: u64) -> Result<Vec<u8>, FetchError> {
        let route = self.route()?;
        let (to, name) = route.as_ref().map_or((&self.direct, path.to_string()), |to| (to, self.named(path)));
        let (alone, folder) = (route.is_none() || self.depot.upstreams.ends_with_off(), to.is_folder());
        let asked = match self.depot.ask(to, &name, limit) {
            // that nobody has put it into a folder says nothing of the database
            Err(e) if !alone && (folder || matches!(e, FetchError::Failed(..))) => {
                self.depot.ask(&self.direct, path, limit)
            }
            Err(FetchError::Absent(_, why)) if folder && !path.contains(".p/") => Err(FetchError::Failed(502, why)),
            asked => asked,
        };
        asked.map_err(|e| match e {
            FetchError::Absent(status, _) if !path.starts_with("lookup/") => {
                self.wrong(&format!("it has no {path} ({status})"))
            }
            e => e,
        })
    }

    /// The upstream that the database is asked through; where that is not known, asks one after the other whether
    /// they proxy it, and then the database itself whether it is there.
    pub(super) fn route(&self) -> Result<Option<Upstream>, FetchError> {
        if self.depot.config.offline {
            let why = format_args!("{}: it is not in the cache, and this is --offline", self.name);
            return Err(FetchError::absent(why));
        }
        let known = self.route.lock().expect("no holder panics").clone();
        if let Some((route, _)) = known.filter(|(_, until)| Instant::now() < *until) {
            return Ok(route);
        }
        let asked = self.depot.upstreams.ask(false, |upstream| {
            self.depot.ask(upstream, &self.named("supported"), MAX_NOTE).map(|_| upstream.clone())
        });
        let route = match asked {
            Ok(upstream) => Some(upstream),
            Err(e) if !self.depot.upstreams.ends_with_off() => {
                let note = self.depot.ask(&self.direct, "latest", MAX_NOTE).map_err(|e| match e {
                    // it is none, or another's
                    FetchError::Absent(_, why) => FetchError::Failed(502, why),
                    failed => failed,
                })?;
                if !String::from_utf8(note).is_ok_and(|note| note::open(&note, &self.name, &self.key).is_ok()) {
                    let why = format!("{}: no tree head of {} ({e})", self.direct, self.name);
                    return Err(FetchError::Refused(502, why));
                }
                None
            }
            // this says nothing of a module
            Err(e) => return Err(FetchError::Failed(502, e.to_string())),
        };
        *self.route.lock().expect("no holder panics") = Some((route.clone(), Instant::now() + ROUTE_TTL));
        Ok(route)
    }

    fn named(&self, path: &str) -> String {
        format!("sumdb/{}/{path}", self.name)
    }

    fn wrong(&self, why: &str) -> FetchError {
        FetchError::refused(format_args!("sum database {}: {why}", self.name))
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Option<(Arc<Head>, Option<Instant>)>> {
        self.seen.lock().expect("no holder panics")
    }
}

/// The hash of what has the number `n` one level below the tile.
fn hash_at(tile: &[u8], n: u64) -> Hash {
    let at = (n % WIDTH) as usize * HASH;
    tile[at..at + HASH].try_into().expect("a hash's length")
}

/// The module and version that a path asks for.
fn module_of(what: &str) -> Option<(String, String)> {
    let (module, version) = what.strip_prefix("lookup/")?.split_once('@')?;
    let (module, version) = (unescape(module)?, unescape(version)?);
    check_path(&module).ok()?;
    is_canonical(&version).then_some((module, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let module = module_of("lookup/github.com/!burnt!sushi/toml@v0.3.1");
        assert_eq!(module, Some(("github.com/BurntSushi/toml".into(), "v0.3.1".into())));
        for bad in ["lookup/", "lookup/a.b/c", "lookup/a.b/c@master", "lookup/a.b/C@v1.0.0", "lookup/../x@v1.0.0"] {
            assert_eq!(module_of(bad), None, "{bad}");
        }
    }
}
