//! The names that this program writes, locally and in a bucket: what `status` counts and what
//! `clear` may remove.

use std::fs;
use std::io;
use std::path::Path;

use crate::cache::disk::RECALL;
use crate::cache::prune::each_file;

/// Folders of the cache directory, each with shards below it.
pub const FOLDERS: [&str; 4] = ["action", "output", "module", "revproxy"];

/// What is in these only saves time: it is cleared with the others, and not counted.
pub const HINTS: [&str; 1] = [RECALL];

/// What one folder holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Number of files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Counts what lies in the cache directory's folder `folder` under names of ours.
pub fn held(root: &Path, folder: &str) -> io::Result<Held> {
    let mut held = Held::default();
    each_file(&root.join(folder), |entry, name| {
        if is_id(name)
            && let Ok(meta) = entry.metadata()
        {
            held.files += 1;
            held.bytes += meta.len();
        }
    })?;
    Ok(held)
}

/// Number of uploads that are marked as waiting below the cache directory.
pub fn pending(root: &Path) -> u64 {
    let visible = |dir: &Path| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter(|e| !e.file_name().as_encoded_bytes().starts_with(b".")).collect::<Vec<_>>()
    };
    let sessions = visible(&root.join("pending"));
    let sessions = sessions.iter().filter(|s| s.file_type().is_ok_and(|t| t.is_dir()));
    sessions.map(|s| visible(&s.path()).len() as u64).sum()
}

/// Whether a file in a shard is ours: lower-case hex.
pub fn is_id(name: &str) -> bool {
    name.len() >= 2 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a bucket's key, without its prefix, is one that this program writes.
pub fn is_key(key: &str) -> bool {
    let parts: Vec<&str> = key.split('/').collect();
    match parts[..] {
        ["v1" | "action" | "output" | "module" | "revproxy", shard, id] => {
            shard.len() == 2 && id.starts_with(shard) && is_id(id)
        }
        ["manifest", id] => id.len() == 64 && is_id(id),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_ours_and_of_others() {
        let id = "ab".repeat(32);
        for key in ["v1/ab/abcd", "action/00/00", &format!("module/ab/{id}"), &format!("manifest/{id}")] {
            assert!(is_key(key), "{key}");
        }
        for key in [
            "",
            "v1",
            "v1/ab",
            "v1/ab/cd",
            "v1/ab/ABCD",
            "v1/abc/abcd",
            "v1/ab/abcd/x",
            "v2/ab/abcd",
            "manifest/abcd",
            "output/ab/abc.txt",
            "/v1/ab/abcd",
            &format!("team/{id}"),
        ] {
            assert!(!is_key(key), "{key}");
        }
    }
}
