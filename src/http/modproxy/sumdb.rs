//! Sum databases below /mod/sumdb/: `supported`, `latest`, `lookup/…` and `tile/…` of the ones
//! listed.
//!
//! They are fetched through the first upstream proxy that says it supports them, as `go` does it,
//! else from the database itself. Signatures are for `go` to check; here an answer need only be one
//! of the database's by its form.

use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::path::{check_path, is_canonical, unescape};
use super::reply::{Caching, refusal, reply, text};
use crate::config::SumDatabase;
use crate::http::depot::{Depot, Source, Wanted};
use crate::http::exchange::Reply;
use crate::http::upstream::{FetchError, Upstream};
use crate::metrics::Metrics;
use crate::store::Blob;

/// Bytes of a signed tree head or a record.
const MAX_NOTE: u64 = 1 << 20;
/// Bytes of a tile of records.
const MAX_DATA: u64 = 16 << 20;
/// How long it is taken for granted that no upstream proxies a database.
const ROUTE_TTL: Duration = Duration::from_secs(600);

/// The databases that are proxied.
pub(super) struct SumDb {
    databases: Vec<Database>,
}

struct Database {
    name: String,
    /// The database itself.
    direct: Upstream,
    route: Mutex<Option<Route>>,
}

/// Where a database is asked.
#[derive(Clone)]
struct Route {
    /// The upstream and what its paths begin with.
    to: Arc<(Upstream, String)>,
    until: Option<Instant>,
}

impl SumDb {
    /// Answers for `databases`.
    pub(super) fn new(databases: &[SumDatabase]) -> Self {
        let database = |db: &SumDatabase| Database {
            name: db.name.clone(),
            direct: Upstream::at(&db.url),
            route: Mutex::default(),
        };
        SumDb { databases: databases.iter().map(database).collect() }
    }

    /// Answers for `name`, the path below /mod/, of which `rest` follows `sumdb/`.
    pub(super) fn answer(
        &self,
        depot: &Depot,
        name: &str,
        rest: &str,
        is_private: &dyn Fn(&str) -> bool,
        metrics: &Metrics,
    ) -> Reply {
        let known = self.databases.iter().find_map(|db| Some((db, rest.strip_prefix(&db.name)?.strip_prefix('/')?)));
        let Some((database, what)) = known else {
            return refusal(404, "not found: this sum database is not proxied here; see --sumdb\n");
        };
        if what == "supported" {
            return Reply::status(200);
        }
        let Some(asked) = Asked::parse(what) else {
            metrics.modcache.path_error.inc();
            return refusal(404, "not found: a sum database has latest, lookup and tile\n");
        };
        if let Asked::Lookup(module, _) = &asked
            && is_private(module)
        {
            return refusal(404, "not found: a private module, which no public sum database is asked for\n");
        }
        let (content_type, limit) = match asked {
            Asked::Latest | Asked::Lookup(..) => ("text/plain; charset=utf-8", MAX_NOTE),
            Asked::Tile(Some(len)) => ("application/octet-stream", len),
            Asked::Tile(None) => ("application/octet-stream", MAX_DATA),
        };
        let mutable = asked == Asked::Latest;
        let check = |file: &File| asked.check(&database.name, file);
        let get = |source| depot.get(&Wanted { name, mutable, limit, check: &check, source });
        // the route is looked for only when the answer is not here
        let outcome = match database.known_route() {
            _ if depot.is_offline() => get(Source::Nobody("offline")),
            Some(route) => get(Source::One(&route.0, &format!("{}{what}", route.1))),
            None if !mutable && depot.has(name) => get(Source::Nobody("it was here a moment ago")),
            None => match database.find_route(depot) {
                Ok(route) => get(Source::One(&route.0, &format!("{}{what}", route.1))),
                Err(FetchError::Absent(_, why)) => get(Source::Nobody(&why)),
                Err(failed) => get(Source::Nobody("")).map_err(|_| failed),
            },
        };
        let outcome = outcome.or_else(|failed| match &asked {
            Asked::Tile(Some(len)) => wider(depot, name, *len).ok_or(failed),
            _ => Err(failed),
        });
        let caching = Caching { private: false, ttl: mutable.then_some(depot.ttl()) };
        reply(outcome, content_type, caching)
    }
}

/// A partial tile out of a wider one that was kept: its hashes are the first ones there. A client
/// that meets the database at an earlier size, with the network gone, needs it.
fn wider(depot: &Depot, name: &str, len: u64) -> Option<Blob> {
    let (tile, width) = name.rsplit_once(".p/")?;
    let height = tile.split_once("/tile/")?.1.split('/').next()?;
    let (width, full) = (number(width, MAX_WIDTH)?, 1u64 << number(height, MAX_WIDTH.ilog2().into())?);
    let wider = || (width + 1..full).map(|w| (w, format!("{tile}.p/{w}"))).chain([(full, tile.to_string())]);
    // what is on disk costs little to look for, the bucket is asked for the likely ones alone
    let local = wider().filter(|(_, name)| depot.has(name));
    let near = wider().filter(|(w, _)| *w <= width + NEAR || *w == full);
    let mut found = local.chain(near).filter_map(|(w, name)| {
        let check = |file: &File| Asked::Tile(Some(w * 32)).check("", file);
        let source = Source::Nobody("no wider tile");
        depot.get(&Wanted { name: &name, mutable: false, limit: w * 32, check: &check, source }).ok()
    });
    found.next().map(|blob| Blob { len, ..blob })
}

impl Database {
    fn known_route(&self) -> Option<Arc<(Upstream, String)>> {
        let route = self.route.lock().expect("no holder panics");
        route.as_ref().filter(|r| r.until.is_none_or(|until| Instant::now() < until)).map(|r| r.to.clone())
    }

    /// Asks the upstreams, one after the other, whether they proxy the database.
    fn find_route(&self, depot: &Depot) -> Result<Arc<(Upstream, String)>, FetchError> {
        let prefix = format!("sumdb/{}/", self.name);
        let asked = depot.upstreams.ask(false, |upstream| {
            depot.ask(upstream, &format!("{prefix}supported"), &mut std::io::sink())?;
            Ok(Route { to: Arc::new((upstream.clone(), prefix.clone())), until: None })
        });
        let route = match asked {
            Ok(route) => route,
            Err(e @ FetchError::Failed(..)) => return Err(e),
            Err(e @ FetchError::Absent(..)) if depot.upstreams.ends_with_off() => return Err(e),
            Err(FetchError::Absent(..)) => {
                Route { to: Arc::new((self.direct.clone(), String::new())), until: Some(Instant::now() + ROUTE_TTL) }
            }
        };
        *self.route.lock().expect("no holder panics") = Some(route.clone());
        Ok(route.to)
    }
}

/// Hashes in a tile of the height that all databases use.
const MAX_WIDTH: u64 = 256;
/// How much wider a tile may be for the bucket to be asked for it.
const NEAR: u64 = 8;

/// What is asked of a database.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// The signed tree head.
    Latest,
    /// The record of a module's version.
    Lookup(String, String),
    /// A tile: its length in bytes, where it is one of hashes.
    Tile(Option<u64>),
}

impl Asked {
    fn parse(what: &str) -> Option<Self> {
        if what == "latest" {
            return Some(Asked::Latest);
        }
        if let Some(lookup) = what.strip_prefix("lookup/") {
            let (module, version) = lookup.split_once('@')?;
            let (module, version) = (unescape(module)?, unescape(version)?);
            check_path(&module).ok()?;
            return is_canonical(&version).then_some(Asked::Lookup(module, version));
        }
        // tile/H/L/K[.p/W], K in groups of three digits, x before all but the last
        let mut parts = what.strip_prefix("tile/")?.split('/');
        let height = number(parts.next()?, 30).filter(|h| *h > 0)?;
        let level = parts.next()?;
        if level != "data" {
            number(level, 63)?;
        }
        let three = |digits: &str| digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit());
        let mut group = parts.next()?;
        while let Some(digits) = group.strip_prefix('x') {
            if !three(digits) {
                return None;
            }
            group = parts.next()?;
        }
        let width = match group.strip_suffix(".p") {
            Some(digits) if three(digits) => number(parts.next()?, (1 << height) - 1).filter(|w| *w > 0)?,
            None if three(group) => 1 << height,
            _ => return None,
        };
        let len = (level != "data").then_some(width * 32);
        parts.next().is_none().then_some(Asked::Tile(len))
    }

    fn check(&self, database: &str, file: &File) -> Result<(), String> {
        match self {
            Asked::Tile(Some(len)) => match file.metadata().map_err(|e| e.to_string())?.len() {
                got if got == *len => Ok(()),
                got => Err(format!("a tile of {got} instead of {len} bytes")),
            },
            Asked::Tile(None) => Ok(()),
            Asked::Latest => check_tree(database, &text(file)?),
            Asked::Lookup(module, version) => {
                let text = text(file)?;
                let (record, tree) = text.split_once("\n\n").ok_or("no record before its tree head")?;
                let (id, lines) = record.split_once('\n').ok_or("no record")?;
                let sum = format!("{module} {version} h1:");
                if id.is_empty()
                    || !id.bytes().all(|b| b.is_ascii_digit())
                    || !lines.lines().any(|l| l.starts_with(&sum))
                {
                    return Err("not the record asked for".into());
                }
                check_tree(database, tree)
            }
        }
    }
}

/// A tree head with a signature that names the database.
fn check_tree(database: &str, note: &str) -> Result<(), String> {
    if note.starts_with("go.sum database tree\n") && note.contains(&format!("\n\n\u{2014} {database} ")) {
        Ok(())
    } else {
        Err(format!("no tree head signed by {database}"))
    }
}

/// A decimal number without leading zeros, at most `most`.
fn number(digits: &str, most: u64) -> Option<u64> {
    let plain =
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    digits.parse().ok().filter(|n| plain && *n <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(Asked::parse("latest"), Some(Asked::Latest));
        assert_eq!(
            Asked::parse("lookup/github.com/!burnt!sushi/toml@v0.3.1"),
            Some(Asked::Lookup("github.com/BurntSushi/toml".into(), "v0.3.1".into()))
        );
        assert_eq!(Asked::parse("tile/8/0/x001/x234/067"), Some(Asked::Tile(Some(8192))));
        assert_eq!(Asked::parse("tile/8/1/005.p/7"), Some(Asked::Tile(Some(224))));
        assert_eq!(Asked::parse("tile/8/data/x001/234"), Some(Asked::Tile(None)));
        for bad in [
            "", "supported/x", "latest/", "lookup/", "lookup/a.b/c", "lookup/a.b/c@master", "lookup/a.b/C@v1.0.0",
            "lookup/../x@v1.0.0", "tile/8/0", "tile/0/0/000", "tile/31/0/000", "tile/8/64/000", "tile/8/0/0000",
            "tile/8/0/x00/000", "tile/8/0/x000", "tile/8/0/000/x", "tile/8/0/000.p", "tile/8/0/000.p/0",
            "tile/8/0/000.p/256", "tile/08/0/000", "tile/8/0/..",
        ] {
            assert_eq!(Asked::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn notes_name_their_database() {
        let tree = "go.sum database tree\n3\nhash=\n\n\u{2014} sum.example sig==\n";
        check_tree("sum.example", tree).unwrap();
        assert!(check_tree("sum.other", tree).is_err());
        assert!(check_tree("sum.example", "<html>").is_err());
    }
}
