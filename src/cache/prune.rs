//! Keeping the cache directory within an age and a size: outputs, actions, module and proxy blobs alike,
//! the oldest use first.
//!
//! Two walks: the first notes of every output and blob when it was last used and how large it is, 24
//! bytes each, from which follows what goes; the second looks again at each and removes what was
//! not used meanwhile, the actions first.
//!
//! Invariants: what a living session may have been told of stays, whatever the limits, and so does
//! what was used since we looked who lives, and what is marked for upload. Only names of ours are touched (see [`crate::folder`]). An action goes before its
//! output. It may be killed at any instant. Where builds may run meanwhile, it rests as long as it works: without
//! that, two clients of a server on two processors get a third less.
//!
//! Clocks: an age counts from the later of last use and the time of [`STAMP`], when this program first
//! opened the directory. A last use in the future becomes now. Where everything seems unused for longer
//! than [`JUMP`], it is the clock that moved: then ages count from the latest use that there is, and the
//! stamp from now.

use std::cell::Cell;
use std::collections::HashSet;
use std::fs::{self, DirEntry, File};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::disk::{ACTION_LEN, parse_action};
use super::id::{OutputId, sharded_path};
use crate::atomic::{TEMP_PREFIX, at, is_full, process_token, read_small, token_of};
use crate::config::Config;
use crate::folder::{ACTION, FOLDERS, HINTS, Held, MODULE, OUTPUT, REVPROXY, each_file, each_in, is_id, sum_of};
use crate::lease::{Census, LEASE};
use crate::platform::touch;
use crate::upload;

/// Its time of change is when this program first opened the directory.
pub const STAMP: &str = "opened";
/// No use for so long means that the clock has moved.
const JUMP: Duration = Duration::from_secs(180 * 86_400);
/// Times further in the future are taken for now; uses less far in the past say nothing of the clock.
const LATELY: Duration = Duration::from_secs(3600);
/// How far the times of files lag behind the clock.
const TICK: Duration = Duration::from_millis(10);
/// It works for so long before it rests.
const SPELL: Duration = Duration::from_millis(5);

/// What the directory holds, and what went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Outputs and blobs left.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Actions removed.
    pub removed_actions: u64,
    /// Outputs and blobs removed.
    pub removed_files: u64,
    /// Their bytes.
    pub removed_bytes: u64,
    /// Bytes of those left that may be open somewhere.
    pub in_use: u64,
    /// Bytes of those left that wait for upload.
    pub owed: u64,
}

/// The order in which files go, and how large each is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    /// Nanoseconds since 1970.
    used: u64,
    /// Tells files of one instant apart.
    tie: u32,
    blob: bool,
    size: u64,
}

/// Everything that decides what stays.
struct Rules<'a> {
    config: &'a Config,
    root: &'a Path,
    now: SystemTime,
    /// What was used since then stays.
    keep: u64,
    /// What was used before then has expired.
    expired: Option<u64>,
    /// Hashes of what waits for upload: a collision spares one file more.
    owed: HashSet<u32>,
    /// Since when we have worked without a rest, where others may be at work.
    at_work: Cell<Option<Instant>>,
    /// The first that could not be removed, and why.
    trouble: Cell<Option<io::Error>>,
}

/// Prunes the cache directory as `config` says: actions and outputs by age, module and proxy blobs too where that
/// was asked for, and the least recently used until they all have no more than so many bytes. What was used since
/// `spare_since` stays, live sessions or not, and ages count from [`STAMP`] at the earliest: for the pruning that
/// nobody asked for.
pub fn prune(config: &Config, spare_since: Option<SystemTime>, census: &Census) -> io::Result<Report> {
    let (root, now) = (&*config.cache_dir, census.taken);
    let keep = [now.checked_sub(TICK), spare_since, census.in_use_since].into_iter().flatten().min();
    let mut rules = Rules {
        config,
        root,
        now,
        keep: keep.map_or(0, nanos),
        expired: None,
        owed: HashSet::new(),
        trouble: Cell::default(),
        at_work: Cell::new((spare_since.is_some() || census.in_use_since.is_some()).then(Instant::now)),
    };
    let mut files = rules.survey(census)?;
    files.sort_unstable();
    let opened = opened(root);
    let lately = nanos(now.checked_sub(LATELY).unwrap_or(UNIX_EPOCH));
    let latest = files.iter().rev().find(|f| f.used < lately).map(|f| UNIX_EPOCH + Duration::from_nanos(f.used));
    let jumped = latest.filter(|t| now.duration_since(*t).is_ok_and(|age| age > JUMP));
    if jumped.is_some() || opened.is_none() {
        crate::atomic::write(&root.join(STAMP), b"")?;
    }
    if jumped.is_some() {
        let root = root.display();
        log::warn!(
            "{root}: nothing was used for half a year, unless the clock has moved; ages count from the last use"
        );
    }
    rules.owed = owed(root, config.pending_expiry, opened.filter(|_| jumped.is_none()))?;
    let from = jumped.unwrap_or(now);
    let asked_for = spare_since.is_none() || jumped.is_some();
    rules.expired = config
        .expiry
        .filter(|age| asked_for || opened.is_some_and(|open_for| open_for > *age))
        .map(|age| nanos(from.checked_sub(age + config.granularity()).unwrap_or(UNIX_EPOCH)));
    rules.apply(files)
}

impl Rules<'_> {
    /// What every output and blob is.
    fn survey(&self, census: &Census) -> io::Result<Vec<Use>> {
        let mut files = Vec::new();
        for folder in [OUTPUT, MODULE, REVPROXY] {
            each_file(&self.root.join(folder), |entry, held| match held {
                Held::Id(name) => files.extend(self.look(&entry.path(), folder, name)),
                other => sweep_one(entry, other, census),
            })?;
        }
        Ok(files)
    }

    fn apply(&self, files: Vec<Use>) -> io::Result<Report> {
        let mut report = Report { files: files.len() as u64, ..Report::default() };
        report.bytes = files.iter().map(|f| f.size).sum();
        let over = |bytes: u64| self.config.max_size.is_some_and(|max| bytes > max);
        // the last that goes for the sake of the size, if all went that came before it
        let (mut left, mut cut) = (report.bytes, None);
        for file in &files {
            if self.stays(file) {
                self.spare(file, &mut report);
            } else if over(left) {
                left -= file.size;
                cut = Some((file.used, file.tie));
            }
        }
        drop(files);
        if cut.is_none() && self.expired.is_none() {
            return Ok(report);
        }
        let doomed = |file: &Use| !self.stays(file) && (self.has_expired(file) || Some((file.used, file.tie)) <= cut);
        let last =
            self.expired.max(cut.map(|(used, _)| used)).map_or(UNIX_EPOCH, |t| UNIX_EPOCH + Duration::from_nanos(t));
        let later = last + self.config.granularity() + TICK..=self.now;
        // actions first: they are looked up by those who then look for the output
        each_file(&self.root.join(ACTION), |entry, held| {
            self.rest();
            let Held::Id(name) = held else { return };
            // what was put later than all that goes was used was used later too, and need not be read
            let later = entry.metadata().and_then(|m| m.modified()).is_ok_and(|put| later.contains(&put));
            if later || self.owed.contains(&hash(ACTION, name)) {
                return;
            }
            let useless = |path: &Path| {
                let output = output_of(path).map(|id| id.to_string());
                let found = output.and_then(|id| self.look(&sharded_path(self.root, OUTPUT, &id), OUTPUT, &id));
                found.is_none_or(|file| doomed(&file))
            };
            let path = entry.path();
            if useless(&path) && self.known(&path, remove(&path, name, useless)) == Some(true) {
                report.removed_actions += 1;
            }
        })?;
        // some were used meanwhile
        (report.in_use, report.owed) = (0, 0);
        for folder in [OUTPUT, MODULE, REVPROXY] {
            each_file(&self.root.join(folder), |entry, held| {
                let Held::Id(name) = held else { return };
                let path = entry.path();
                let Some(file) = self.look(&path, folder, name) else { return };
                if !doomed(&file) {
                    return self.spare(&file, &mut report);
                }
                if file.blob {
                    // first, for without its blob it would stay for good
                    let _ = fs::remove_file(sum_of(&path));
                }
                // whoever uses one notes that first and then looks whether it is still there
                let used = |aside: &Path| fs::symlink_metadata(aside).and_then(|m| m.modified()).map_or(0, nanos);
                match self.known(&path, remove(&path, name, |aside| file.blob || used(aside) <= file.used)) {
                    Some(true) => {
                        report.removed_files += 1;
                        report.removed_bytes += file.size;
                        report.files -= 1;
                        report.bytes -= file.size;
                    }
                    Some(false) => report.in_use += file.size,
                    None => {}
                }
            })?;
        }
        if let Some(e) = self.trouble.take() {
            log::warn!("what cannot be removed stays, first {e}");
        }
        Ok(report)
    }

    /// Whether it was removed; the first that could not be is told at the end.
    fn known(&self, path: &Path, removed: io::Result<bool>) -> Option<bool> {
        removed.map_err(|e| self.trouble.set(self.trouble.take().or(Some(at(path)(e))))).ok()
    }

    fn stays(&self, file: &Use) -> bool {
        file.used >= self.keep || self.owed.contains(&file.tie)
    }

    /// Counts one that stays for a reason of its own.
    fn spare(&self, file: &Use, report: &mut Report) {
        report.in_use += if file.used >= self.keep { file.size } else { 0 };
        report.owed += if self.owed.contains(&file.tie) { file.size } else { 0 };
    }

    fn has_expired(&self, file: &Use) -> bool {
        (!file.blob || self.config.expiry_given) && self.expired.is_some_and(|t| file.used < t)
    }

    fn rest(&self) {
        if let Some(worked) = self.at_work.get().map(|since| since.elapsed()).filter(|worked| *worked > SPELL) {
            thread::sleep(worked);
            self.at_work.set(Some(Instant::now()));
        }
    }

    /// What a file is now; `None` where it is gone.
    fn look(&self, path: &Path, folder: &str, name: &str) -> Option<Use> {
        self.rest();
        let meta = fs::symlink_metadata(path).ok()?;
        // the time of a blob is when it was last known to be right: its uses are noted at its sum
        let sum = (folder != OUTPUT).then(|| sum_of(path));
        let (blob, keeper) = (sum.is_some(), sum.as_deref().unwrap_or(path));
        let noted = if blob { fs::symlink_metadata(keeper).and_then(|m| m.modified()).ok() } else { None };
        let mut used = noted.or(meta.modified().ok())?;
        if used.duration_since(self.now).is_ok_and(|ahead| ahead > LATELY) {
            used = self.now;
            // from now on it has an age
            let _ = touch(keeper);
        }
        Some(Use { used: nanos(used), tie: hash(folder, name), blob, size: meta.len() })
    }
}

/// Removes a file unless, out of everybody's reach, it turns out not to be `doomed` after all.
fn remove(path: &Path, name: &str, doomed: impl Fn(&Path) -> bool) -> io::Result<bool> {
    let aside = path.with_file_name(format!("{TEMP_PREFIX}{}-{name}", process_token()));
    match fs::rename(path, &aside) {
        // there is no room for another name, and none comes of leaving it
        Err(e) if is_full(&e) => return if doomed(path) { fs::remove_file(path).map(|()| true) } else { Ok(false) },
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        moved => moved?,
    }
    let gone = doomed(&aside);
    // what was put there meanwhile is as good
    if !gone && fs::hard_link(&aside, path).is_err_and(|e| e.kind() != ErrorKind::AlreadyExists) {
        return fs::rename(&aside, path).map(|()| false);
    }
    fs::remove_file(&aside).map(|()| gone)
}

/// What the action file `path` says its output is.
pub fn output_of(path: &Path) -> Option<OutputId> {
    parse_action(&read_small(path, ACTION_LEN as u64).ok()?).map(|(id, _)| id)
}

/// Removes the temporary files that the dead have left.
pub fn sweep(root: &Path, census: &Census) -> io::Result<()> {
    for folder in FOLDERS.iter().chain(&HINTS) {
        each_file(&root.join(folder), |entry, held| sweep_one(entry, held, census))?;
    }
    [root.to_path_buf(), root.join(LEASE)].iter().try_for_each(|dir| each_in(dir, |e, held| sweep_one(e, held, census)))
}

/// Removes a temporary file whose maker is dead.
pub fn sweep_one(entry: &DirEntry, held: Held, census: &Census) {
    if let Held::Temp(name) = held
        && let Ok(modified) = entry.metadata().and_then(|m| m.modified())
        && census.is_dead(token_of(name).unwrap_or_default(), modified)
    {
        let _ = fs::remove_file(entry.path());
    }
}

/// For how long this program has used the directory; `None` where the clock was put back since.
pub fn opened(root: &Path) -> Option<Duration> {
    let opened = fs::symlink_metadata(root.join(STAMP)).and_then(|m| m.modified());
    opened.map_or(Some(Duration::ZERO), |t| SystemTime::now().duration_since(t).ok())
}

/// Notes that this program opens the directory, the first time.
pub fn stamp(root: &Path) -> io::Result<()> {
    match File::create_new(root.join(STAMP)) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// What waits for upload, with the outputs of actions, by their hashes; what waits for too long goes.
fn owed(root: &Path, age: Duration, ours: Option<Duration>) -> io::Result<HashSet<u32>> {
    let mut owed = HashSet::new();
    upload::expire(root, age, ours, |found| {
        let Some(marker) = &found.marker else { return };
        owed.insert(hash(&marker.kind, &marker.name));
        if marker.kind == ACTION && is_id(&marker.name) {
            let output = marker.value.or_else(|| output_of(&sharded_path(root, ACTION, &marker.name)));
            owed.extend(output.map(|output| hash(OUTPUT, &output.to_string())));
        }
    })?;
    Ok(owed)
}

fn hash(kind: &str, name: &str) -> u32 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one((kind, name)) as u32
}

fn nanos(t: SystemTime) -> u64 {
    u64::try_from(t.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}
