//! What git says: its index, and what it calls changed.
//!
//! Paths are bytes, relative to the folder that was asked for. The index's data about files are a hint
//! here: they save a read where they show that nothing has happened since git looked.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::index::{Recorded, Told, recall, tell};
use super::stamp::{Algorithm, Seen, Time};
use crate::id::unhex;

/// A tracked path.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub path: Vec<u8>,
    /// As git writes it: 100644, 100755, 120000, or 160000 for a submodule; 0 for what is being merged.
    pub mode: u32,
    /// The hash of its blob.
    pub id: Vec<u8>,
    /// Git can tell whether it is changed: it is neither being merged, nor is git told not to look.
    pub told: bool,
    /// What git saw when it last found it unchanged.
    recorded: Option<Recorded>,
}

impl Entry {
    /// The path of its folder; empty at the root.
    pub fn folder(&self) -> &[u8] {
        split(&self.path).0
    }

    /// Whether what is seen is what git saw, and git wrote that down at a later time, `written`: then nobody
    /// has touched it since.
    pub fn vouches(&self, seen: &Seen, written: Time) -> bool {
        self.recorded.is_some_and(|then| then.is(seen)) && seen.changed.max(seen.modified) < written
    }
}

/// A path's folder and its last name.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let name = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
    (&path[..name.saturating_sub(1)], &path[name..])
}

/// A work tree, or a folder of one.
#[derive(Debug)]
pub struct Repo {
    /// What is looked at, absolute or relative to the working directory.
    pub root: PathBuf,
    index: PathBuf,
    /// What the index has before paths below it.
    prefix: Vec<u8>,
    /// It lies in another one, whose variables do not concern it.
    nested: bool,
}

impl Repo {
    /// What is below `dir`, or else the whole work tree that we are in.
    pub fn find(dir: Option<&Path>) -> Result<Self, String> {
        let (mut repo, up) = Repo::open(dir.unwrap_or(Path::new(".")), false)?;
        if dir.is_none() {
            // an empty way is none
            repo.root = repo.root.join(up).components().collect();
        } else if !up.as_os_str().is_empty() {
            repo.prefix = repo.ask(&["rev-parse", "--show-prefix"])?;
            repo.prefix.pop();
        }
        Ok(repo)
    }

    /// The submodule at `path`; `None` where it is not checked out.
    pub fn submodule(&self, path: &[u8]) -> Option<Result<Self, String>> {
        let root = self.root.join(OsStr::from_bytes(path));
        fs::symlink_metadata(root.join(".git")).ok()?;
        Some(Repo::open(&root, true).map(|(repo, _)| repo))
    }

    /// What is at `root`, and the way from there to the top.
    fn open(root: &Path, nested: bool) -> Result<(Self, PathBuf), String> {
        let mut repo = Repo { root: root.to_path_buf(), index: PathBuf::new(), prefix: Vec::new(), nested };
        let said = repo.ask(&["rev-parse", "--is-inside-work-tree", "--show-cdup", "--git-path", "index"])?;
        let mut lines = said.splitn(3, |b| *b == b'\n');
        let (inside, up, index) = (lines.next(), lines.next(), lines.next().and_then(|line| line.strip_suffix(b"\n")));
        let (Some(b"true"), Some(up), Some(index)) = (inside, up, index) else {
            return Err("this is in a repository, but not in a work tree of one".to_string());
        };
        repo.index = root.join(OsStr::from_bytes(index));
        Ok((repo, PathBuf::from(OsStr::from_bytes(up))))
    }

    /// What is tracked, in the index's order, and when the index was written.
    pub fn entries(&self) -> Result<(Vec<Entry>, Time), String> {
        // there is none before the first add
        let written = fs::metadata(&self.index).map_or((0, 0), |m| (m.mtime(), m.mtime_nsec()));
        let listed = self.ask(&["ls-files", "--stage", "-v", "-z"])?;
        let mut entries = entries(&listed).ok_or("git ls-files: it says what this program does not understand")?;
        let hash = entries.first().map_or(0, |entry| entry.id.len());
        // both are in the same order
        let mut rest = entries.iter_mut().peekable();
        recall(&self.index, &self.prefix, hash, |path, id, recorded| {
            while rest.next_if(|entry| entry.path.as_slice() < path).is_some() {}
            if let Some(entry) = rest.next_if(|entry| entry.path == path && entry.id == id) {
                entry.recorded = Some(recorded);
            }
        });
        Ok((entries, written))
    }

    /// What git calls changed.
    pub fn changed(&self) -> Result<HashSet<Vec<u8>>, String> {
        let listed = self.ask(&["ls-files", "--modified", "-z"])?;
        Ok(listed.split(|b| *b == 0).filter(|path| !path.is_empty()).map(<[u8]>::to_vec).collect())
    }

    /// Notes the new times: what was seen of `files`, and the rest by git itself, which reads it again.
    pub fn refresh(&self, algorithm: Algorithm, files: &HashMap<&[u8], Told>) -> Result<(), String> {
        if let Err(e) = tell(&self.index, &self.prefix, algorithm, files) {
            log::debug!("{}: {e}: git is to read all files", self.index.display());
        }
        let output = self.run(&["update-index", "-q", "--refresh"])?;
        // 1 says that something is changed, or being merged
        if matches!(output.status.code(), Some(0 | 1)) {
            return Ok(());
        }
        let why = said(&output.stderr);
        let why = if why.is_empty() { "it is locked, or cannot be written" } else { &why };
        Err(format!("git's index does not know the new times: {why}; run git update-index --refresh later"))
    }

    fn ask(&self, args: &[&str]) -> Result<Vec<u8>, String> {
        let output = self.run(args)?;
        if output.status.success() { Ok(output.stdout) } else { Err(said(&output.stderr)) }
    }

    fn run(&self, args: &[&str]) -> Result<Output, String> {
        let mut command = Command::new("git");
        // a monitor may not have heard of the newest change
        command.arg("-C").arg(&self.root).args(["-c", "core.fsmonitor=false"]).args(args).stdin(Stdio::null());
        if self.nested {
            OF_ANOTHER.iter().fold(&mut command, |command, name| command.env_remove(name));
        }
        command.output().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => "git is not on PATH, and says what is tracked: install it".to_string(),
            _ => format!("git: {e}"),
        })
    }
}

/// The variables that say where a repository is (`git rev-parse --local-env-vars`).
const OF_ANOTHER: [&str; 10] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_DIR",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
];

/// What git has said, in one line.
fn said(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ").trim_start_matches("fatal: ").to_string()
}

/// Reads `TAG MODE ID STAGE\tPATH\0`.
fn entries(mut text: &[u8]) -> Option<Vec<Entry>> {
    let mut entries = Vec::with_capacity(text.len() / 80);
    while !text.is_empty() {
        let (head, rest) = cut(text, b'\t')?;
        let (path, rest) = cut(rest, 0)?;
        text = rest;
        let mut words = std::str::from_utf8(head).ok()?.split(' ');
        let (tag, mode) = (words.next()?, u32::from_str_radix(words.next()?, 8).ok()?);
        let hex = words.next()?;
        let id = unhex::<20>(hex).map(Vec::from).or_else(|| unhex::<32>(hex).map(Vec::from))?;
        // H: in the index; in lower case, git is told to assume that it is unchanged; S: not to have it
        let merged = words.next()? == "0";
        let (told, mode) = (tag == "H" && merged, if merged { mode } else { 0 });
        entries.push(Entry { path: path.to_vec(), mode, id, told, recorded: None });
    }
    Some(entries)
}

fn cut(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(at, text)?;
    Some((&text[..end], &text[end + 1..]))
}

#[cfg(test)]
mod tests {
    use rustix::fs::FileType;

    use super::*;

    #[test]
    fn what_git_lists_is_read() {
        let id = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391";
        let text = format!("H 100644 {id} 0\td/a\n\tb\0S 100755 {id}{} 0\tc\0M 100644 {id} 2\tm\0", &id[..24]);
        let all = entries(text.as_bytes()).expect("readable");
        let of = |n: usize| (all[n].path.as_slice(), all[n].mode, all[n].id.len(), all[n].told);
        assert_eq!(of(0), (&b"d/a\n\tb"[..], 0o100_644, 20, true));
        assert_eq!(of(1), (&b"c"[..], 0o100_755, 32, false));
        assert_eq!(of(2), (&b"m"[..], 0, 20, false));
        assert_eq!(all[0].folder(), b"d");
        assert_eq!(entries(b"H 100644 nonsense 0\ta\0"), None);
    }

    #[test]
    fn an_entry_vouches_for_what_has_not_changed_since() {
        let kind = FileType::RegularFile;
        let seen = Seen {
            kind,
            mode: 0o644,
            size: 3,
            modified: (5, 6),
            changed: (7, 9),
            node: (1, 2),
            owner: (0, 0),
            names: 1,
        };
        let entry = Entry { recorded: Some((&seen).into()), ..Entry::default() };
        assert!(entry.vouches(&seen, (7, 10)) && !entry.vouches(&seen, (7, 9)), "the clock has to have moved on");
        for other in [
            Seen { size: 4, ..seen },
            Seen { modified: (5, 7), ..seen },
            Seen { changed: (7, 8), ..seen },
            Seen { node: (1, 3), ..seen },
        ] {
            assert!(!entry.vouches(&other, (8, 0)), "{other:?}");
        }
        assert!(!Entry::default().vouches(&seen, (8, 0)));
    }
}
