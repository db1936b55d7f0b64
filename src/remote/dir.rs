//! A directory as a bucket: a shared disk, or a test. The key is the path below the directory.
//!
//! What stands beside an object (its signature) is in `<name>.sig`, which is neither a key nor listed.
//!
//! Invariants: objects appear whole or not at all; no key leads out of the directory, neither by
//! its own segments nor through a symbolic link in it; temporary files are never listed. The
//! entity tag is made of modification time and length. Conditional puts take turns by a lock file,
//! plain puts do not: a race between the two kinds is won by the later.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;

use super::{Object, ObjectInfo, PutBody, Remote, RemoteError};
use crate::atomic::{TEMP_PREFIX, TempFile};

/// Name of the lock file; begins like a temporary file, so that it is none of the keys.
const LOCK: &str = ".tmp-lock";
/// End of the name of what stands beside an object.
const SIDE: &str = ".sig";
/// What stands beside an object is at most this long.
const SIDE_LIMIT: u64 = 1024;
/// Temporary files older than this are left from a crash, and deleted when a listing meets them.
const ABANDONED: Duration = Duration::from_secs(86_400);

/// A bucket in a directory, made by the first put.
pub struct Dir {
    root: PathBuf,
}

impl Dir {
    /// The bucket in `root`. No I/O; the error is a path that is not absolute.
    pub fn new(root: &Path) -> Result<Self, RemoteError> {
        if !root.is_absolute() {
            return Err(RemoteError::Config(format!("{}: not an absolute path; write file:///dir", root.display())));
        }
        Ok(Dir { root: root.to_path_buf() })
    }

    /// The file of `key`. The error is a key that could lead elsewhere.
    fn path(&self, key: &str) -> Result<PathBuf, RemoteError> {
        let bad = |segment: &str| {
            matches!(segment, "" | "." | "..") || segment.starts_with(TEMP_PREFIX) || segment.contains(['\0', '\\'])
        };
        if key.split('/').any(bad) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{key:?} is no key")).into());
        }
        let mut path = self.root.clone();
        for segment in key.split('/') {
            path.push(segment);
            match fs::symlink_metadata(&path) {
                Ok(m) if m.is_symlink() => {
                    let text = format!("{}: is a symbolic link, which could lead out of the bucket", path.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, text).into());
                }
                Ok(_) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => break,
                Err(e) => return Err(at(&path, e)),
            }
        }
        Ok(self.root.join(key))
    }

    /// Opens the object; `None` where there is no such file.
    fn open(&self, key: &str) -> Result<Option<(File, fs::Metadata)>, RemoteError> {
        let path = self.path(key)?;
        let file = match File::open(&path) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
            other => other.map_err(|e| at(&path, e))?,
        };
        let meta = file.metadata().map_err(|e| at(&path, e))?;
        Ok(meta.is_file().then_some((file, meta)))
    }

    fn store(&self, path: &Path, body: &PutBody) -> io::Result<()> {
        let dir = path.parent().expect("a key's file lies below the root");
        let mut temp = match TempFile::create(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(dir)?;
                TempFile::create(dir)?
            }
            other => other?,
        };
        let copied = io::copy(&mut body.reader(), temp.file())?;
        if copied != body.len() {
            return Err(io::Error::other(format!("{copied} bytes to store instead of {}", body.len())));
        }
        temp.persist(path).map(drop)
    }

    fn walk(&self, dir: &Path, key: &str, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> io::Result<()> {
        let entries = match fs::read_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                names.push((name, entry));
            }
        }
        names.sort_by(|a, b| a.0.cmp(&b.0));
        let is_beside = |name: &str| {
            let object = name.strip_suffix(SIDE);
            object.is_some_and(|object| names.binary_search_by(|(name, _)| name.as_str().cmp(object)).is_ok())
        };
        for (name, entry) in names.iter().filter(|(name, _)| !is_beside(name)) {
            let key = format!("{key}{name}");
            // of a file that vanished meanwhile there is nothing to say
            let Ok(meta) = entry.metadata() else { continue };
            if name.starts_with(TEMP_PREFIX) {
                if *name != LOCK && meta.modified().is_ok_and(|t| t.elapsed().is_ok_and(|age| age > ABANDONED)) {
                    let _ = fs::remove_file(entry.path());
                }
            } else if meta.is_dir() {
                let below = format!("{key}/");
                if below.starts_with(prefix) || prefix.starts_with(&below) {
                    self.walk(&entry.path(), &below, prefix, each)?;
                }
            } else if meta.is_file() && key.starts_with(prefix) {
                each(ObjectInfo { key, len: meta.len(), modified: meta.modified().ok() });
            }
        }
        Ok(())
    }
}

impl Remote for Dir {
    fn get(&self, key: &str, known_etag: Option<&str>) -> Result<Option<Object>, RemoteError> {
        let Some((file, meta)) = self.open(key)? else { return Ok(None) };
        let etag = tag(&meta);
        if known_etag == Some(&etag) {
            return Err(RemoteError::NotModified);
        }
        let (len, signature) = (meta.len(), beside(&self.root.join(key)));
        // a file is replaced, never written to: what is open keeps its length
        Ok(Some(Object { len: Some(len), etag: Some(etag), signature, own_prefix: false, body: Box::new(file) }))
    }

    fn head(&self, key: &str) -> Result<Option<ObjectInfo>, RemoteError> {
        let found = self.open(key)?;
        Ok(found.map(|(_, m)| ObjectInfo { key: key.to_string(), len: m.len(), modified: m.modified().ok() }))
    }

    fn put(&self, key: &str, body: &PutBody, if_match: Option<&str>, beside: Option<&str>) -> Result<(), RemoteError> {
        let path = self.path(key)?;
        let side = beside_path(&path);
        let _turn = match if_match {
            Some(_) => {
                fs::create_dir_all(&self.root).map_err(|e| at(&self.root, e))?;
                let lock = File::create(self.root.join(LOCK)).map_err(|e| at(&self.root, e))?;
                lock.lock().map_err(|e| at(&self.root, e))?;
                Some(lock)
            }
            None => None,
        };
        if let Some(wanted) = if_match {
            let present = self.open(key)?.map(|(_, meta)| tag(&meta)).unwrap_or_default();
            if present != wanted {
                return Err(RemoteError::Precondition);
            }
        }
        // before the object, which is never there without it
        match beside {
            Some(text) => self.store(&side, &PutBody::Bytes(text.as_bytes().into())),
            None => remove(&side),
        }
        .map_err(|e| at(&side, e))?;
        self.store(&path, body).map_err(|e| at(&path, e))
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), RemoteError> {
        self.walk(&self.root, "", prefix, each).map_err(|e| at(&self.root, e))
    }

    fn delete(&self, key: &str) -> Result<(), RemoteError> {
        let path = self.path(key)?;
        for path in [&beside_path(&path), &path] {
            remove(path).map_err(|e| at(path, e))?;
        }
        Ok(())
    }

    fn describe(&self) -> String {
        format!("file://{}", self.root.display())
    }
}

fn beside_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(SIDE);
    name.into()
}

/// What stands beside the object in `path`. Neither a link is followed nor a pipe waited for.
fn beside(path: &Path) -> Option<String> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(beside_path(path)).ok()?;
    let mut text = String::new();
    file.take(SIDE_LIMIT).read_to_string(&mut text).is_ok().then_some(text)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(()),
        other => other,
    }
}

fn at(path: &Path, e: io::Error) -> RemoteError {
    RemoteError::Io(io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

fn tag(meta: &fs::Metadata) -> String {
    let nanos = |t: SystemTime| t.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{:x}-{:x}", meta.modified().map_or(0, nanos), meta.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn dir() -> Dir {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("dir-bucket-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Dir::new(&std::env::temp_dir().join(name)).unwrap()
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.root);
        }
    }

    fn bytes(b: &[u8]) -> PutBody {
        PutBody::Bytes(Arc::from(b))
    }

    fn read(dir: &Dir, key: &str) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        io::copy(&mut dir.get(key, None).unwrap()?.body, &mut out).unwrap();
        Some(out)
    }

    fn keys(dir: &Dir, prefix: &str) -> Vec<String> {
        let mut keys = Vec::new();
        dir.list(prefix, &mut |o| keys.push(format!("{}={}", o.key, o.len))).unwrap();
        keys
    }

    #[test]
    fn stores_lists_and_deletes() {
        let dir = dir();
        assert!(read(&dir, "a/b").is_none() && keys(&dir, "").is_empty());
        for key in ["a/b", "a/c/d", "ab", "a/b"] {
            dir.put(key, &bytes(key.as_bytes()), None, None).unwrap();
        }
        fs::write(dir.root.join("a/.tmp-1-2"), "half").unwrap();
        assert_eq!(read(&dir, "a/c/d").unwrap(), b"a/c/d");
        assert_eq!(dir.head("a/b").unwrap().unwrap().len, 3);
        assert!(dir.head("a").unwrap().is_none(), "a directory is no object");
        assert!(dir.head("ab/c").unwrap().is_none(), "nor is what would lie below a file");
        assert_eq!(keys(&dir, ""), ["a/b=3", "a/c/d=5", "ab=2"]);
        assert_eq!(keys(&dir, "a/c"), ["a/c/d=5"]);
        assert_eq!(keys(&dir, "ab"), ["ab=2"]);
        dir.delete("a/b").unwrap();
        dir.delete("a/b").unwrap();
        assert_eq!(keys(&dir, "a/"), ["a/c/d=5"]);
    }

    #[test]
    fn conditions_hold() {
        let dir = dir();
        dir.put("k", &bytes(b"1"), Some(""), None).unwrap();
        assert!(matches!(dir.put("k", &bytes(b"2"), Some(""), None), Err(RemoteError::Precondition)));
        let etag = dir.get("k", None).unwrap().unwrap().etag.unwrap();
        assert!(matches!(dir.get("k", Some(&etag)), Err(RemoteError::NotModified)));
        dir.put("k", &bytes(b"22"), Some(&etag), None).unwrap();
        assert!(matches!(dir.put("k", &bytes(b"3"), Some(&etag), None), Err(RemoteError::Precondition)));
        assert_eq!(read(&dir, "k").unwrap(), b"22");
        assert_eq!(keys(&dir, ""), ["k=2"], "the lock is no object");
    }

    #[test]
    fn what_stands_beside_an_object_goes_with_it() {
        let dir = dir();
        let side = || dir.get("a/k", None).unwrap().and_then(|o| o.signature);
        dir.put("a/k", &bytes(b"1"), None, Some("text")).unwrap();
        dir.put("a/other.sig", &bytes(b"an object"), None, None).unwrap();
        assert_eq!((side().as_deref(), keys(&dir, "")), (Some("text"), vec!["a/k=1".into(), "a/other.sig=9".into()]));
        dir.put("a/k", &bytes(b"2"), None, None).unwrap();
        assert_eq!(side(), None, "what stood beside the one before says nothing of this");
        dir.put("a/k", &bytes(b"2"), None, Some("more")).unwrap();
        dir.delete("a/k").unwrap();
        assert!(!dir.root.join("a/k.sig").exists());
    }

    #[test]
    fn nothing_leads_out() {
        let (dir, outside) = (dir(), dir());
        outside.put("secret", &bytes(b"s"), None, None).unwrap();
        dir.put("in", &bytes(b"i"), None, None).unwrap();
        for key in ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a\0b", ".tmp-lock", "a/"] {
            assert!(dir.get(key, None).is_err(), "{key:?}");
            assert!(dir.put(key, &bytes(b"x"), None, None).is_err(), "{key:?}");
            assert!(dir.delete(key).is_err(), "{key:?}");
        }
        std::os::unix::fs::symlink(&outside.root, dir.root.join("link")).unwrap();
        std::os::unix::fs::symlink(outside.root.join("secret"), dir.root.join("file")).unwrap();
        for key in ["link/secret", "link/new", "file"] {
            assert!(dir.get(key, None).is_err() && dir.put(key, &bytes(b"x"), None, None).is_err(), "{key}");
            assert!(dir.delete(key).is_err(), "{key}");
        }
        assert_eq!((keys(&dir, ""), keys(&outside, "")), (vec!["in=1".to_string()], vec!["secret=1".to_string()]));
        assert!(Dir::new(Path::new("relative")).is_err());
    }
}
