//! Whether modules are what the sum database says.
//!
//! Each `.zip` and `.mod` that is not private is compared before it is kept. What differs, or what the
//! database does not know, is refused. No answer is no verdict: what came is served, noted as unverified,
//! and compared as soon as the database answers again, which is then tried in the background, so that
//! clients wait for its time-outs once.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::path::{self, ModFile, ModPath};
use super::sumdb::Database;
use super::upstream::FetchError;
use super::{ModProxy, check_info, check_list, check_mod, zip};
use crate::bounded::Bounded;
use crate::repeat::Repeat;
use crate::store::Blob;

/// What is noted of a module that nobody has vouched for yet.
pub(crate) const UNVERIFIED: &str = "unverified";
/// For so long a database that gave no answer is not asked by those who wait for it,
const DOWN: Duration = Duration::from_secs(60);
/// unless it took no longer than this to give none, and is there: that may be so of one module alone.
const QUICK: Duration = Duration::from_secs(5);
/// It is tried again after this, then after twice as long, and so on to the second.
const TRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(20));
/// Refusals that are remembered as told.
const TOLD: usize = 4096;

/// What is known of the database's answers.
pub(super) struct Verifier {
    on: bool,
    /// Patterns of what is not checked.
    nosum: String,
    /// When it gave no answer.
    down: Mutex<Option<Instant>>,
    silent: Repeat,
    /// What is to be checked when it answers; a thread sees to that unless this is empty.
    pending: Mutex<BTreeSet<ModPath>>,
    told: Bounded<String>,
}

impl Verifier {
    /// Checks all but `nosum`, or, unless it is `on`, nothing.
    pub(super) fn new(on: bool, nosum: &str) -> Self {
        Verifier {
            on,
            nosum: nosum.to_string(),
            down: Mutex::default(),
            silent: Repeat::new("modules were kept unverified, since the sum database gave no answer"),
            pending: Mutex::default(),
            told: Bounded::new(TOLD),
        }
    }

    /// Says once why something is refused.
    pub(super) fn tell(&self, why: &str) {
        // the same may have been found by way of another file
        let what = why.find("refused: ").map_or(why, |at| &why[at..]);
        if self.told.insert(what.to_string(), ()) {
            log::warn!("{why}");
        }
    }

    fn is_down(&self) -> bool {
        self.down.lock().expect("no holder panics").is_some_and(|at| at.elapsed() < DOWN)
    }

    fn set_down(&self, down: bool) {
        *self.down.lock().expect("no holder panics") = down.then(Instant::now);
    }
}

impl ModProxy {
    /// The database that says what a file must be, and what follows the version there, where one does.
    pub(super) fn judge(&self, wanted: &ModPath) -> Option<(&Database, &'static str)> {
        let database = self.databases.first().filter(|_| self.verifier.on && !self.is_exempt(&wanted.module))?;
        Some((database, wanted.summed()?))
    }

    fn is_exempt(&self, module: &str) -> bool {
        self.is_private(module) || path::matches_prefix(&self.verifier.nosum, module)
    }

    /// Begins to ask the database for what will be compared.
    pub(super) fn look_ahead(self: &Arc<Self>, wanted: &ModPath) {
        if self.judge(wanted).is_none() || self.verifier.is_down() {
            return;
        }
        // where the database hangs, so do these
        let Some(place) = self.beside.take() else { return };
        let (this, wanted) = (self.clone(), wanted.clone());
        let look = move || {
            let _place = place;
            // what comes of it is asked for again
            this.judge(&wanted).map(|(database, _)| database.lookup(&wanted.module, &wanted.version))
        };
        let _ = thread::Builder::new().name("lookup".into()).spawn(look);
    }

    /// Whether `file` is fit to be kept as `wanted`, and what is to be noted of it. A database that gave no
    /// answer lately is not waited for.
    pub(super) fn check(&self, wanted: &ModPath, file: &File) -> Result<&'static str, FetchError> {
        let hash = read_through(wanted, file)?;
        let right = if self.verifier.is_down() { None } else { self.verdict(wanted)? };
        self.judged(wanted, &hash, right)
    }

    /// What is to be noted of `wanted`, which has that hash, where the database has `right`, or gave no answer.
    fn judged(&self, wanted: &ModPath, hash: &str, right: Option<String>) -> Result<&'static str, FetchError> {
        let ModPath { module, version, .. } = wanted;
        let Some((database, what)) = self.judge(wanted) else {
            // who verifies again one day has to know
            let unverified = wanted.summed().is_some() && !self.is_exempt(module);
            return Ok(if unverified { UNVERIFIED } else { "" });
        };
        match right {
            None => Ok(UNVERIFIED),
            Some(right) if right == hash => Ok(""),
            Some(right) => {
                let name = &database.name;
                let why = format!("{module}@{version}{what} is {hash}, and the sum database {name} has {right}");
                Err(FetchError::refused(why))
            }
        }
    }

    /// The hash that the database has of `wanted`; `None` where it gives no answer, or is not asked.
    fn verdict(&self, wanted: &ModPath) -> Result<Option<String>, FetchError> {
        let Some((database, what)) = self.judge(wanted) else { return Ok(None) };
        let (ModPath { module, version, .. }, name, begun) = (wanted, &database.name, Instant::now());
        match database.hash(module, version, what) {
            Ok(right) => {
                self.verifier.set_down(false);
                Ok(Some(right))
            }
            Err(FetchError::Absent(status, why)) if !self.depot.offline => {
                self.verifier.set_down(false);
                let why = format!(
                    "refused: the sum database {name} does not know {module}@{version} ({status}: {why}): \
                     if it is private, name it in --mod-private"
                );
                Err(FetchError::Refused(403, why))
            }
            Err(FetchError::Absent(..) | FetchError::Failed(..)) if self.depot.offline => Ok(None),
            Err(FetchError::Absent(_, why) | FetchError::Failed(_, why)) => {
                self.verifier.set_down(begun.elapsed() > QUICK || database.route().is_err());
                let silent = &self.verifier.silent;
                silent.tell(format_args!(
                    "the sum database {name} gives no answer ({why}): modules are kept unverified until it does"
                ));
                Ok(None)
            }
            Err(refused) => Err(refused),
        }
    }

    /// Lets what was found pass, after it was compared, or else set aside for that.
    pub(super) fn verified(self: &Arc<Self>, wanted: &ModPath, found: Blob) -> Result<Blob, FetchError> {
        if found.note != UNVERIFIED || self.judge(wanted).is_none() || self.depot.offline {
            return Ok(found);
        }
        if self.verifier.is_down() || !self.compare(wanted)? {
            self.postpone(wanted);
        }
        Ok(found)
    }

    /// Compares what is kept: `false` where there is no answer. What is wrong goes.
    fn compare(&self, wanted: &ModPath) -> Result<bool, FetchError> {
        // what could not be kept has passed once, and that is all
        let Some(blob) = self.depot.store.reopen(&wanted.name) else { return Ok(true) };
        let checked = self.verdict(wanted).and_then(|right| match right {
            // a zip is read through only where there is something to compare it with
            None => Ok(UNVERIFIED),
            right => self.judged(wanted, &read_through(wanted, &blob.file)?, right),
        });
        match checked {
            Ok(UNVERIFIED) => Ok(false),
            Ok(note) => {
                self.depot.store.set_note(&wanted.name, note);
                Ok(true)
            }
            Err(e) => {
                self.depot.store.remove(&wanted.name);
                self.depot.metrics.modcache.rejected.inc();
                Err(e)
            }
        }
    }

    /// Has `wanted` compared when the database answers: by a thread that is there while something is pending.
    fn postpone(self: &Arc<Self>, wanted: &ModPath) {
        let mut pending = self.verifier.pending.lock().expect("no holder panics");
        let (first, this) = (pending.is_empty(), self.clone());
        pending.insert(wanted.clone());
        // nobody waits for it at the end: what is noted is compared by the next process
        if first && thread::Builder::new().name("verify".into()).spawn(move || this.work_off()).is_err() {
            pending.clear();
        }
    }

    /// Compares what is pending, until nothing is.
    fn work_off(self: &Arc<Self>) {
        let mut wait = TRY.0;
        loop {
            thread::sleep(wait);
            wait = (wait * 2).min(TRY.1);
            let all = self.verifier.pending.lock().expect("no holder panics").clone();
            for wanted in all {
                match self.compare(&wanted) {
                    Ok(false) if self.verifier.is_down() => break,
                    // of this one, no answer came
                    Ok(false) => continue,
                    Ok(true) => {}
                    Err(e) => self.verifier.tell(&format!("{}: removed: {e}", wanted.name)),
                }
                let mut pending = self.verifier.pending.lock().expect("no holder panics");
                pending.remove(&wanted);
                if pending.is_empty() {
                    return;
                }
            }
        }
    }
}

/// The hash of a file that is fit to be `wanted`, as go.sum has it; empty where it has none.
fn read_through(wanted: &ModPath, file: &File) -> Result<String, FetchError> {
    let ModPath { module, version, .. } = wanted;
    let hash = match wanted.file {
        ModFile::List => check_list(file),
        ModFile::Latest => check_info(file, None),
        ModFile::Info => check_info(file, (!wanted.is_mutable()).then_some(version)),
        ModFile::Mod => check_mod(file),
        ModFile::Zip => zip::check(file, module, version),
    };
    hash.map_err(FetchError::refused)
}
