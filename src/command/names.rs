//! The names that this program writes, locally and in a bucket: what `status` counts and what
//! `clear` may remove.

use std::io;
use std::path::Path;

use crate::folder::{Held as File, each_file, is_id};
use crate::lease::is_token;
use crate::upload;

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
    each_file(&root.join(folder), |entry, file| {
        if matches!(file, File::Id(_))
            && let Ok(meta) = entry.metadata()
        {
            held.files += 1;
            held.bytes += meta.len();
        }
    })?;
    Ok(held)
}

/// Number of uploads that are marked as waiting below the cache directory.
pub fn pending(root: &Path) -> io::Result<u64> {
    let mut count = 0;
    upload::each(root, |_| count += 1).map(|()| count)
}

/// Where keys that this program writes begin: entries, lists and probes.
pub const BUILDS: [&str; 6] = ["v1/", "action/", "output/", "manifest/", "pack/", "doctor/"];
/// The same of what the proxies write.
pub const PROXIED: [&str; 2] = ["module/", "revproxy/"];

/// Whether a bucket's key, without its prefix, is one that this program writes.
pub fn is_key(key: &str) -> bool {
    // in a directory, a signature that has lost its object is listed like one
    let parts: Vec<&str> = key.strip_suffix(".sig").unwrap_or(key).split('/').collect();
    match parts[..] {
        ["v1" | "action" | "output" | "module" | "revproxy", shard, id] => {
            shard.len() == 2 && id.starts_with(shard) && is_id(id)
        }
        ["manifest", id] => id.len() == 64 && is_id(id),
        ["pack", scope, id] => [scope, id].iter().all(|id| id.len() == 64 && is_id(id)),
        ["doctor", token] => is_token(token),
        _ => false,
    }
}

/// Whether a bucket's key is one that this program writes below some prefix.
pub fn ends_with_key(key: &str) -> bool {
    // a URL with dots in it is one of something else
    let plain = !key.split('/').any(|part| matches!(part, "." | ".."));
    plain && (is_key(key) || key.match_indices('/').any(|(at, _)| is_key(&key[at + 1..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_ours_and_of_others() {
        let id = "ab".repeat(32);
        for key in [
            "v1/ab/abcd",
            "action/00/00",
            "action/00/00.sig",
            "doctor/12-ab",
            &format!("module/ab/{id}"),
            &format!("manifest/{id}"),
            &format!("pack/{id}/{id}"),
        ] {
            assert!(is_key(key) && ends_with_key(key) && ends_with_key(&format!("pr/v1/{key}")), "{key}");
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
            "doctor/x",
            "pack/ab/x",
            &format!("pack/{id}"),
            &format!("pack/{id}/12-ab"),
            &format!("pack/{id}/{id}/{id}"),
            &format!("team/{id}"),
        ] {
            assert!(!is_key(key), "{key}");
            assert_eq!(ends_with_key(key), key == "/v1/ab/abcd", "{key}");
        }
    }
}
