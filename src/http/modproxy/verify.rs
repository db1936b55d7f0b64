//! Whether modules are what the sum database says.
//!
//! Each `.zip` and `.mod` that is not private is compared before it is kept. What differs, or what the
//! database does not know, is refused. No answer is no verdict: what came is served, noted as unverified,
//! and compared as soon as the database answers again, which is then tried in the background, so that
//! clients wait for its time-outs once.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::depot::Found;
use super::path::{self, ModFile, ModPath};
use super::sumdb::Database;
use super::upstream::FetchError;
use super::{Inner, check_info, check_list, check_mod, zip};
use crate::bounded::Bounded;
use crate::repeat::Repeat;

/// What is noted of a module that nobody has vouched for yet.
pub(crate) const UNVERIFIED: &str = "unverified";
/// For so long a database that gave no answer is not asked by those who wait for it,
const DOWN: Duration = Duration::from_secs(60);
/// unless it took no longer than this to give none: that may be so of one module alone.
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
    /// What is to be checked when it answers, by name.
    pending: Mutex<BTreeSet<String>>,
    trying: AtomicBool,
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
            trying: AtomicBool::new(false),
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

impl Inner {
    /// The database that says what `module` must be, where one does.
    pub(super) fn judge(&self, module: &str) -> Option<&Database> {
        self.sumdb.first().filter(|_| self.verifier.on && !self.is_exempt(module))
    }

    fn is_exempt(&self, module: &str) -> bool {
        self.is_private(module) || path::matches_prefix(&self.verifier.nosum, module)
    }

    /// Begins to ask the database for what will be compared.
    pub(super) fn look_ahead(self: &Arc<Self>, wanted: &ModPath) {
        if wanted.summed().is_none() || self.judge(&wanted.module).is_none() || self.verifier.is_down() {
            return;
        }
        let (inner, wanted) = (self.clone(), wanted.clone());
        let look = move || {
            if let (Some(database), Some((version, _))) = (inner.judge(&wanted.module), wanted.summed()) {
                // what comes of it is asked for again
                let _ = database.lookup(&inner.depot, &wanted.module, version);
            }
        };
        let _ = thread::Builder::new().name("lookup".into()).spawn(look);
    }

    /// Whether `file` is fit to be kept as `wanted`, and what is to be noted of it. Only who is `patient`
    /// waits for a database that gave no answer lately.
    pub(super) fn check(&self, wanted: &ModPath, file: &File, patient: bool) -> Result<&'static str, FetchError> {
        let hash = match &wanted.file {
            ModFile::List => check_list(file).map(|()| String::new()),
            ModFile::Latest => check_info(file, None).map(|()| String::new()),
            ModFile::Info(version) => {
                let asked = (!wanted.is_mutable()).then_some(version);
                check_info(file, asked).map(|()| String::new())
            }
            ModFile::Mod(_) => check_mod(file),
            ModFile::Zip(version) => zip::check(file, &wanted.module, version),
        };
        let hash = hash.map_err(|why| FetchError::Refused(502, format!("refused: {why}")))?;
        let (Some((version, what)), Some(database)) = (wanted.summed(), self.judge(&wanted.module)) else {
            // who verifies again one day has to know
            let unverified = wanted.summed().is_some() && !self.is_exempt(&wanted.module);
            return Ok(if unverified { UNVERIFIED } else { "" });
        };
        if !patient && self.verifier.is_down() {
            return Ok(UNVERIFIED);
        }
        let (module, name, begun) = (&wanted.module, &database.name, Instant::now());
        match database.hash(&self.depot, module, version, what) {
            Ok(right) => {
                self.verifier.set_down(false);
                if right == hash {
                    return Ok("");
                }
                Err(FetchError::Refused(
                    502,
                    format!("refused: {module}@{version}{what} is {hash}, and the sum database {name} has {right}"),
                ))
            }
            Err(FetchError::Absent(status, why)) if !self.depot.offline => Err(FetchError::Refused(
                403,
                format!(
                    "refused: the sum database {name} does not know {module}@{version} ({status}: {why}): \
                     if it is private, name it in --mod-private"
                ),
            )),
            Err(FetchError::Absent(..) | FetchError::Failed(..)) if self.depot.offline => Ok(UNVERIFIED),
            Err(FetchError::Absent(_, why) | FetchError::Failed(_, why)) => {
                self.verifier.set_down(begun.elapsed() > QUICK);
                let silent = &self.verifier.silent;
                silent.tell(format_args!(
                    "the sum database {name} gives no answer ({why}): modules are kept unverified until it does"
                ));
                Ok(UNVERIFIED)
            }
            Err(refused) => Err(refused),
        }
    }

    /// Lets what was found pass, after it was compared, or else set aside for that.
    pub(super) fn verified(self: &Arc<Self>, name: &str, wanted: &ModPath, found: Found) -> Result<Found, FetchError> {
        if found.blob.note != UNVERIFIED || self.judge(&wanted.module).is_none() || self.depot.offline {
            return Ok(found);
        }
        if self.verifier.is_down() || !self.compare(name, wanted, false)? {
            self.postpone(name);
        }
        Ok(found)
    }

    /// Compares what is kept as `name`: `false` where there is no answer. What is wrong goes.
    fn compare(&self, name: &str, wanted: &ModPath, patient: bool) -> Result<bool, FetchError> {
        // what could not be kept has passed once, and that is all
        let Some(blob) = self.depot.store.reopen(name) else { return Ok(true) };
        match self.check(wanted, &blob.file, patient) {
            Ok(UNVERIFIED) => Ok(false),
            Ok(note) => {
                self.depot.store.set_note(name, note);
                Ok(true)
            }
            Err(e) => {
                self.depot.store.remove(name);
                self.metrics.modcache.rejected.inc();
                Err(e)
            }
        }
    }

    /// Has `name` compared when the database answers.
    fn postpone(self: &Arc<Self>, name: &str) {
        self.verifier.pending.lock().expect("no holder panics").insert(name.to_string());
        if self.verifier.trying.swap(true, Ordering::SeqCst) {
            return;
        }
        let inner = self.clone();
        // nobody waits for it at the end: what is noted is compared by the next process
        if thread::Builder::new().name("verify".into()).spawn(move || inner.work_off()).is_err() {
            self.verifier.trying.store(false, Ordering::SeqCst);
        }
    }

    /// Compares what is pending, until nothing is.
    fn work_off(self: &Arc<Self>) {
        let mut wait = TRY.0;
        loop {
            thread::sleep(wait);
            wait = (wait * 2).min(TRY.1);
            let names = self.verifier.pending.lock().expect("no holder panics").clone();
            for name in names {
                match ModPath::parse(&name).map(|wanted| self.compare(&name, &wanted, true)) {
                    Ok(Ok(false)) if self.verifier.is_down() => break,
                    // of this one, no answer came
                    Ok(Ok(false)) => continue,
                    Ok(Ok(true)) | Err(_) => {}
                    Ok(Err(e)) => self.verifier.tell(&format!("{name}: removed: {e}")),
                }
                self.verifier.pending.lock().expect("no holder panics").remove(&name);
            }
            let pending = self.verifier.pending.lock().expect("no holder panics");
            if pending.is_empty() {
                self.verifier.trying.store(false, Ordering::SeqCst);
                return;
            }
        }
    }
}
