//! Work trees: what is tracked in them is looked at in passes, each with many threads, a folder to one at a time.

mod folders;
mod git;
mod index;
mod look;
mod stamp;

use std::collections::HashMap;
use std::fmt::Display;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use sha1::Sha1;
use sha2::Sha256;

use super::{Counts, Options, Report};
use crate::pool;
use folders::{Folders, open_folder};
use git::{Entry, Repo};
use look::{Found, Held, If, look, look_again};
use stamp::{Algorithm, Time, time_of};

/// Files of one folder that are looked at in one go.
const BATCH: usize = 256;
/// The mode of a submodule in git's index.
const SUBMODULE: u32 = 0o160_000;

impl Counts {
    fn count(&mut self, found: &Found) {
        let of = match found {
            Found::Absent => return,
            Found::Settled { wrote: true, .. } => &mut self.settled,
            Found::Settled { .. } => &mut self.already,
            Found::Failed(_) => &mut self.failed,
            _ => &mut self.kept,
        };
        *of += 1;
    }
}

/// A tracked path, and what is known of it by now.
struct Item {
    entry: Entry,
    found: Found,
}

/// How a work tree is gone about.
struct Task<'a> {
    options: &'a Options,
    algorithm: Algorithm,
    /// When git wrote its index.
    written: Time,
}

/// Settles what is below `dir`, or else the whole work tree around the working directory.
pub fn settle(dir: Option<&Path>, options: &Options, report: &mut Report) -> Result<(), String> {
    work_tree(&Repo::find(dir)?, b"", options, report).map(drop)
}

/// Settles a work tree, which is at `at` of the outermost; what its folder is then, unless it keeps its time.
fn work_tree(repo: &Repo, at: &[u8], options: &Options, report: &mut Report) -> Result<Option<Held>, String> {
    let failed = |why: &dyn Display| format!("{}: {why}", repo.root.display());
    let (entries, written) = repo.entries().map_err(|e| failed(&e))?;
    let sha1 = entries.first().is_none_or(|entry| entry.id.len() == 20);
    let algorithm: Algorithm = if sha1 { || Box::new(Sha1::default()) } else { || Box::new(Sha256::default()) };
    let task = Task { options, algorithm, written };
    let root = openat(CWD, &repo.root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| failed(&e))?;
    let root = root.as_fd();
    let (mut folders, mut items) = (Folders::default(), Vec::with_capacity(entries.len()));
    for entry in entries {
        if entry.mode != SUBMODULE {
            items.push(Item { entry, found: Found::Unknown });
        } else if open_folder(root, &entry.path).is_ok()
            && let Some(module) = repo.submodule(&entry.path)
        {
            let held = work_tree(&module?, &[at, &entry.path, b"/"].concat(), options, report)?;
            folders.put(&entry.path, held);
        } else {
            folders.folder(&entry.path);
        }
    }
    // each folder in one piece; of one path that is being merged there are several
    items.sort_by(|a, b| (a.entry.folder(), &a.entry.path).cmp(&(b.entry.folder(), &b.entry.path)));
    items.dedup_by(|a, b| a.entry.path == b.entry.path);
    files(repo, root, &task, &mut items, &mut report.failures);
    for item in &items {
        let path = || shown(&[at, &item.entry.path].concat());
        folders.put(&item.entry.path, item.found.held());
        report.files.count(&item.found);
        match &item.found {
            Found::Failed(why) => report.failures.push(format!("{}: {why}", path())),
            Found::Kept | Found::Other(..) | Found::Linked(_) => log::info!("settle: {} keeps its time", path()),
            _ => {}
        }
    }
    Ok(folders.settle(root, at, options, report))
}

/// Settles the files of one work tree.
fn files(repo: &Repo, root: BorrowedFd, task: &Task, items: &mut [Item], failures: &mut Vec<String>) {
    let act = !task.options.dry_run;
    pass(root, items, |_| true, &|folder, item| look(folder, item, task, If::Tracked));
    // a file that has other names than tracked ones is not git's alone
    let mut names = HashMap::new();
    for item in &*items {
        if let Found::Linked(seen) = &item.found {
            *names.entry(seen.node).or_insert(0) += 1;
        }
    }
    let all_ours = |item: &Item| matches!(&item.found, Found::Linked(seen) if names[&seen.node] == seen.names);
    pass(root, items, all_ours, &|folder, item| look(folder, item, task, If::AllTracked));
    let other = |item: &Item| matches!(item.found, Found::Other(..));
    let refresh = |items: &[Item]| {
        let told = items.iter().filter_map(|Item { entry, found }| match found {
            // it holds git's own bytes
            Found::Settled { held, seen: Some(seen), .. } if held.time == time_of(&entry.id) => {
                Some((&*entry.path, (&*entry.id, seen)))
            }
            _ => None,
        });
        repo.refresh(task.algorithm, &told.collect()).err()
    };
    let unknown = |item: &Item| matches!(item.found, Found::Settled { seen: Some(_), .. });
    if act && items.iter().any(unknown) {
        failures.extend(refresh(items));
    }
    let unsure = |item: &Item| matches!(item.found, Found::Other(..) | Found::Linked(_));
    // what holds other bytes than git has is changed or went through a filter, and git knows which; where it
    // does not, anything may be
    let mut changed = None;
    if items.iter().any(unsure) {
        changed = repo.changed().map_err(|why| failures.push(why)).ok();
    }
    let changed = |item: &Item| !item.entry.told || changed.as_ref().is_none_or(|all| all.contains(&item.entry.path));
    let filtered = |item: &Item| other(item) && !changed(item);
    let any = items.iter().any(filtered);
    pass(root, items, filtered, &|folder, item| look(folder, item, task, If::Filtered));
    if act && any {
        failures.extend(refresh(items));
    }
    pass(root, items, |item| unsure(item) || act && unknown(item), &|folder, item| look_again(folder, item, task));
}

/// Does `work` for each of the items that `wanted` names, with the folder it is in.
fn pass(
    root: BorrowedFd,
    items: &mut [Item],
    wanted: impl Fn(&Item) -> bool,
    work: &(impl Fn(BorrowedFd, &mut Item) + Sync),
) {
    let mut wanted: Vec<&mut Item> = items.iter_mut().filter(|item| wanted(item)).collect();
    let folders = wanted.chunk_by_mut(|a, b| a.entry.folder() == b.entry.folder());
    let batches: Vec<&mut [&mut Item]> = folders.flat_map(|folder| folder.chunks_mut(BATCH)).collect();
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 16));
    pool::each("settle", threads, batches, |batch| match open_folder(root, batch[0].entry.folder()) {
        Ok(folder) => batch.iter_mut().for_each(|item| work(folder.as_fd(), item)),
        Err(e) => batch.iter_mut().for_each(|item| item.found = Found::of_error(e)),
    });
}

/// A path for people.
fn shown(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}
