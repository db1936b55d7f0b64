//! Keeping the local directory within an age and a size.
//!
//! Invariants: only names that this program writes are touched, and only through real
//! directories; what was used since `keep_since` stays; an action goes before its output.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::disk::{ACTION, OUTPUT, RECALL, parse_action};
use super::id::{ActionId, OutputId};
use crate::atomic::TEMP_PREFIX;

/// Temporary files older than this were left by a process that was killed.
const STALE_TEMP: Duration = Duration::from_secs(24 * 3600);
/// What a scope has read of the actions goes after this long without a change: a scope in use has it
/// back after one build.
const STALE_RECALL: Duration = Duration::from_secs(30 * 24 * 3600);

/// How far to prune.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Outputs unused for longer go.
    pub expiry: Option<Duration>,
    /// The least recently used go until the outputs have this many bytes.
    pub max_size: Option<u64>,
    /// What was used since then stays.
    pub keep_since: SystemTime,
    /// How exactly the time of last use is kept.
    pub granularity: Duration,
}

/// What the directory holds, and what went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Actions left.
    pub actions: u64,
    /// Outputs left.
    pub outputs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Actions removed.
    pub removed_actions: u64,
    /// Outputs removed.
    pub removed_outputs: u64,
    /// Their bytes.
    pub removed_bytes: u64,
}

struct Output {
    used: SystemTime,
    size: u64,
}

/// Counts what is in the cache below `root`, removing nothing.
pub fn survey(root: &Path) -> io::Result<Report> {
    let mut report = Report::default();
    each_file(&root.join(OUTPUT), |entry, name| {
        if OutputId::from_hex(name).is_some()
            && let Ok(meta) = entry.metadata()
        {
            report.outputs += 1;
            report.bytes += meta.len();
        }
    })?;
    each_file(&root.join(ACTION), |_, name| report.actions += u64::from(ActionId::from_hex(name).is_some()))?;
    Ok(report)
}

/// Prunes the cache below `root`. Files that others remove meanwhile are no error.
pub fn prune(root: &Path, limits: &Limits, now: SystemTime) -> io::Result<Report> {
    let mut outputs: HashMap<OutputId, Output> = HashMap::new();
    let older = |entry: &DirEntry, than| {
        let age = entry.metadata().and_then(|m| m.modified()).map(|t| now.duration_since(t).unwrap_or_default());
        age.is_ok_and(|age| age > than)
    };
    let abandoned = |entry: &DirEntry, name: &str| name.starts_with(TEMP_PREFIX) && older(entry, STALE_TEMP);
    each_file(&root.join(OUTPUT), |entry, name| {
        if abandoned(entry, name) {
            let _ = fs::remove_file(entry.path());
        } else if let Some(id) = OutputId::from_hex(name)
            && let Ok(meta) = entry.metadata()
            && let Ok(used) = meta.modified()
        {
            outputs.insert(id, Output { used, size: meta.len() });
        }
    })?;
    each_file(&root.join(RECALL), |entry, name| {
        let ours = OutputId::from_hex(name).is_some() && older(entry, STALE_RECALL);
        if ours || abandoned(entry, name) {
            let _ = fs::remove_file(entry.path());
        }
    })?;
    let doomed = choose(&outputs, limits, now);
    let mut report = Report::default();
    each_file(&root.join(ACTION), |entry, name| {
        if abandoned(entry, name) {
            let _ = fs::remove_file(entry.path());
        } else if ActionId::from_hex(name).is_some() {
            let path = entry.path();
            let output = fs::read(&path).ok().and_then(|text| parse_action(&text)).map(|(output, _)| output);
            // one whose output is gone, and did not come while we looked, is of no use
            let keep = output.is_some_and(|id| {
                !doomed.contains(&id) && (outputs.contains_key(&id) || output_path(root, &id).exists())
            });
            if keep {
                report.actions += 1;
            } else if fs::remove_file(&path).is_ok() {
                report.removed_actions += 1;
            }
        }
    })?;
    for (id, output) in &outputs {
        if doomed.contains(id) && remove_unused(&output_path(root, id), output.used) {
            report.removed_outputs += 1;
            report.removed_bytes += output.size;
        } else {
            report.outputs += 1;
            report.bytes += output.size;
        }
    }
    Ok(report)
}

/// Which outputs go.
fn choose(outputs: &HashMap<OutputId, Output>, limits: &Limits, now: SystemTime) -> HashSet<OutputId> {
    // a use may be recorded this much earlier than it was
    let slack = |t: SystemTime| t.checked_sub(limits.granularity).unwrap_or(SystemTime::UNIX_EPOCH);
    let keep = slack(limits.keep_since);
    let expired = limits.expiry.and_then(|age| now.checked_sub(age)).map(slack);
    let mut left: u64 = outputs.values().map(|o| o.size).sum();
    let mut by_age: Vec<_> = outputs.iter().filter(|(_, o)| o.used < keep).collect();
    by_age.sort_unstable_by_key(|(_, o)| o.used);
    let mut doomed = HashSet::new();
    for (id, output) in by_age {
        let old = expired.is_some_and(|t| output.used < t);
        let over = limits.max_size.is_some_and(|max| left > max);
        if old || over {
            left -= output.size;
            doomed.insert(*id);
        }
    }
    doomed
}

/// Removes an output unless it was used since we looked.
fn remove_unused(path: &Path, used: SystemTime) -> bool {
    let same = fs::symlink_metadata(path).and_then(|m| m.modified()).is_ok_and(|t| t == used);
    same && fs::remove_file(path).is_ok()
}

fn output_path(root: &Path, id: &OutputId) -> PathBuf {
    super::id::sharded_path(root, OUTPUT, &id.to_string())
}

/// Calls `each` for every plain file in the shards of `dir`.
pub(crate) fn each_file(dir: &Path, mut each: impl FnMut(&DirEntry, &str)) -> io::Result<()> {
    for shard in read_dir(dir)? {
        let shard = shard?;
        let is_shard = shard.file_name().to_str().is_some_and(|n| n.len() == 2 && ActionId::from_hex(n).is_some());
        if !is_shard || !shard.file_type()?.is_dir() {
            continue;
        }
        for entry in read_dir(&shard.path())? {
            let entry = entry?;
            if entry.file_type().is_ok_and(|t| t.is_file())
                && let Some(name) = entry.file_name().to_str()
            {
                each(&entry, name);
            }
        }
    }
    Ok(())
}

fn read_dir(dir: &Path) -> io::Result<Box<dyn Iterator<Item = io::Result<DirEntry>>>> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(Box::new(entries)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Box::new(std::iter::empty())),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::disk::DiskCache;
    use std::fs::File;
    use std::io::Write;

    const HOUR: Duration = Duration::from_secs(3600);

    struct Cache(PathBuf);

    impl Cache {
        /// Outputs of 1000 bytes each, last used 1 h, 2 h, … ago.
        fn new(name: &str, count: u8) -> (Self, DiskCache, SystemTime) {
            let root = std::env::temp_dir().join(format!("gcp-prune-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(&root).unwrap();
            let (disk, now) = (DiskCache::open(&root).unwrap(), SystemTime::now());
            for n in 1..=count {
                let body = [n; 1000];
                let output = OutputId::of(&body);
                let mut writer = disk.write_output(output, 1000).unwrap();
                writer.write_all(&body).unwrap();
                writer.commit().unwrap();
                disk.link(&action(n), &output, 1000, now).unwrap();
                File::open(disk.output_path(&output)).unwrap().set_modified(now - u32::from(n) * HOUR).unwrap();
            }
            (Cache(root), disk, now)
        }
    }

    impl Drop for Cache {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn action(n: u8) -> ActionId {
        ActionId::new(&[n; 32]).unwrap()
    }

    fn limits(expiry: Option<Duration>, max_size: Option<u64>, now: SystemTime) -> Limits {
        Limits { expiry, max_size, keep_since: now, granularity: Duration::ZERO }
    }

    fn left(disk: &DiskCache, count: u8) -> Vec<u8> {
        (1..=count).filter(|&n| disk.get(&action(n)).unwrap().is_some()).collect()
    }

    #[test]
    fn what_was_unused_for_too_long_goes() {
        let (cache, disk, now) = Cache::new("age", 6);
        let report = prune(&cache.0, &limits(Some(3 * HOUR + HOUR / 2), None, now), now).unwrap();
        assert_eq!((report.removed_actions, report.removed_outputs, report.removed_bytes), (3, 3, 3000));
        assert_eq!((report.actions, report.outputs, report.bytes), (3, 3, 3000));
        assert_eq!(survey(&cache.0).unwrap(), Report { actions: 3, outputs: 3, bytes: 3000, ..Report::default() });
        assert_eq!(left(&disk, 6), [1, 2, 3]);
    }

    #[test]
    fn the_least_recently_used_go_until_it_fits() {
        let (cache, disk, now) = Cache::new("size", 6);
        prune(&cache.0, &limits(None, Some(2500), now), now).unwrap();
        assert_eq!(left(&disk, 6), [1, 2]);
    }

    #[test]
    fn what_this_session_used_stays() {
        let (cache, disk, now) = Cache::new("keep", 6);
        let mut limits = limits(Some(HOUR / 2), Some(0), now);
        limits.keep_since = now - 4 * HOUR;
        limits.granularity = HOUR + HOUR / 2;
        prune(&cache.0, &limits, now).unwrap();
        assert_eq!(left(&disk, 6), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn foreign_files_stay_and_orphans_go() {
        let (cache, disk, now) = Cache::new("foreign", 2);
        let shard = disk.output_path(&OutputId::of(&[1; 1000])).parent().unwrap().to_path_buf();
        for path in [shard.join("README"), cache.0.join("output/notes.txt"), cache.0.join("mine")] {
            fs::write(path, "mine").unwrap();
        }
        fs::create_dir(cache.0.join("output/zz")).unwrap();
        fs::write(cache.0.join("output/zz").join("0".repeat(64)), "mine").unwrap();
        fs::remove_file(disk.output_path(&OutputId::of(&[2; 1000]))).unwrap();
        let report = prune(&cache.0, &limits(Some(Duration::ZERO), Some(0), now), now).unwrap();
        assert_eq!((report.removed_actions, report.removed_outputs), (2, 1));
        assert!(shard.join("README").exists() && cache.0.join("output/notes.txt").exists());
        assert!(cache.0.join("mine").exists() && cache.0.join("output/zz").join("0".repeat(64)).exists());
    }

    #[test]
    fn temporary_files_go_once_they_are_old() {
        let (cache, _disk, now) = Cache::new("temp", 1);
        let shard = fs::read_dir(cache.0.join("output")).unwrap().next().unwrap().unwrap().path();
        let (old, new) = (shard.join(".tmp-1-1"), shard.join(".tmp-1-2"));
        File::create(&old).unwrap().set_modified(now - 25 * HOUR).unwrap();
        File::create(&new).unwrap();
        prune(&cache.0, &limits(None, None, now), now).unwrap();
        assert!(!old.exists() && new.exists());
    }
}
