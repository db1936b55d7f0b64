//! Asks every upstream and every sum database once, for `doctor`.

use std::io;
use std::time::Duration;

use super::upstream::{Ask, FetchError, Upstream, Upstreams};
use crate::config::ModProxyConfig;

/// What any module proxy knows, or says that it has not.
const MODULE: &str = "golang.org/x/mod/@v/list";
/// What any sum database has.
const TREE: &str = "latest";
/// More is no answer to either.
const LIMIT: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// One that was asked, by name, and why it does not answer.
pub type Asked = (String, Result<(), String>);

/// Asks those of `config`. The error is a netrc file that cannot be read.
pub fn probe(config: &ModProxyConfig) -> Result<Vec<Asked>, String> {
    let upstreams = Upstreams::new(config)?;
    let ask = |upstream: &Upstream, path: &str| {
        match upstreams.get(&Ask::small(upstream, path, LIMIT, PATIENCE), &mut io::sink()) {
            // that it has no such thing is an answer
            Ok(_) | Err(FetchError::Absent(..)) => Ok(()),
            Err(why) => Err(why.to_string()),
        }
    };
    let mut asked: Vec<_> =
        upstreams.each(false).map(|upstream| (upstream.to_string(), ask(upstream, MODULE))).collect();
    for database in config.sumdb.iter().filter(|_| config.verify) {
        asked.push((database.name.clone(), ask(&Upstream::at(&database.url), TREE)));
    }
    Ok(asked)
}
