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
    /// When it gave no answer.
    down: Mutex<Option<Instant>>,
    silent: Repeat,
    /// What is to be checked when it answers; a thread sees to that unless this is empty.
    pending: Mutex<BTreeSet<ModPath>>,
    told: Bounded<String>,
}

impl Verifier {
    pub(super) fn new() -> Self {
        Verifier {
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
        let database =
            self.databases.first().filter(|_| self.depot.config.verify && !self.is_exempt(&wanted.module))?;
        Some((database, wanted.summed()?))
    }

    fn is_exempt(&self, module: &str) -> bool {
        self.is_private(module) || path::matches_prefix(&self.depot.config.nosum, module)
    }

    /// Begins to ask the database for what will be compared; what comes of it is asked for again.
    pub(super) fn look_ahead(self: &Arc<Self>, wanted: &ModPath) {
        if self.judge(wanted).is_some() && !self.verifier.is_down() {
            self.aside("lookup", wanted, |this, ModPath { module, version, .. }| {
                this.databases.first().map(|database| database.lookup(module, version));
            });
        }
    }

    /// Whether `file` is fit to be kept as `wanted`, and what is to be noted of it. A database that gave no
    /// answer lately is not waited for.
    pub(super) fn check(&self, wanted: &ModPath, file: &File) -> Result<&'static str, FetchError> {
        let hash = read_through(wanted, file)?;
        self.judged(wanted, !self.verifier.is_down(), || Ok(hash))
    }

    /// What is to be noted of `wanted` after the database was asked, if it is to be; where that answers, the `hash` is
    /// compared.
    fn judged(
        &self,
        wanted: &ModPath,
        ask: bool,
        hash: impl FnOnce() -> Result<String, FetchError>,
    ) -> Result<&'static str, FetchError> {
        let ModPath { module, version, .. } = wanted;
        let Some((database, what)) = self.judge(wanted) else {
            // who verifies again one day has to know
            let unverified = wanted.summed().is_some() && !self.is_exempt(module);
            return Ok(if unverified { UNVERIFIED } else { "" });
        };
        if !ask {
            return Ok(UNVERIFIED);
        }
        let (name, begun) = (&database.name, Instant::now());
        match database.hash(module, version, what) {
            Ok(right) => {
                self.verifier.set_down(false);
                match hash()? {
                    hash if hash == right => Ok(""),
                    hash => Err(FetchError::refused(format_args!(
                        "{module}@{version}{what} is {hash}, and the sum database {name} has {right}"
                    ))),
                }
            }
            Err(FetchError::Absent(..) | FetchError::Failed(..)) if self.depot.config.offline => Ok(UNVERIFIED),
            Err(FetchError::Absent(status, why)) => {
                self.verifier.set_down(false);
                let why = format!(
                    "refused: the sum database {name} does not know {module}@{version} ({status}: {why}): \
                     if it is private, name it in --mod-private"
                );
                Err(FetchError::Refused(403, why))
            }
            Err(FetchError::Failed(_, why)) => {
                self.verifier.set_down(begun.elapsed() > QUICK || database.route().is_err());
                self.verifier.silent.tell(format_args!(
                    "the sum database {name} gives no answer ({why}): modules are kept unverified until it does"
                ));
                Ok(UNVERIFIED)
            }
            Err(refused) => Err(refused),
        }
    }

    /// Lets what was found pass, after it was compared, or else set aside for that.
    pub(super) fn verified(self: &Arc<Self>, wanted: &ModPath, found: Blob) -> Result<Blob, FetchError> {
        if found.note != UNVERIFIED || self.judge(wanted).is_none() || self.depot.config.offline {
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
        // a zip is read through only where there is something to compare it with
        match self.judged(wanted, true, || read_through(wanted, &blob.file)) {
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
