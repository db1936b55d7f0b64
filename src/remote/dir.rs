//! A directory as a bucket: a shared disk, or a test. One that is not there is made by the first put, but not
//! again by that process: it was moved away, or is on a disk that is no longer there, and its place is below another.
//!
//! A key is the path below the directory; what stands beside an object (its signature) is in
//! `<name>.sig`, which is neither a key nor listed. Invariants: objects appear whole or not at all; no key
//! leads out of the directory, neither by its own segments nor through a symbolic link in it, and
//! only regular files are opened; temporary files are made in one folder and never listed. Every
//! operation runs on a thread of its own, so that a hung mount costs its caller [`LIMIT`] and is a
//! time-out. The entity tag is made of modification time and length. Conditional puts take turns by
//! a lock file, plain puts do not: a race between the two kinds is won by the later.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Head, Object, ObjectInfo, PutBody, Remote, RemoteError};
use crate::atomic::{TEMP_PREFIX, TempFile, read_text, token_of};
use crate::platform::{self, FileExt, NO_NAME, careful};

/// Name of the lock file; begins like a temporary file, so that it is none of the keys.
const LOCK: &str = ".tmp-lock";
/// End of the name of what stands beside an object.
const SIDE: &str = ".sig";
/// What stands beside an object is at most this long.
const SIDE_LIMIT: u64 = 1024;
/// Name of the folder of temporary files.
const TEMP_FOLDER: &str = ".tmp-files";
/// Temporary files older than this are left from a crash, and deleted when a listing meets them.
const ABANDONED: Duration = Duration::from_secs(86_400);
/// How long an operation may take; a put has a second more for each MiB.
const LIMIT: Duration = Duration::from_secs(10);
/// So much of an object is read at a time.
const BLOCK: u64 = 1 << 20;
/// Operations under way, or hung, at most; then nothing more is asked of the directory.
const STUCK: usize = 512;

/// A bucket in a directory.
#[derive(Clone)]
pub struct Dir {
    root: Arc<Path>,
    /// Whether the directory was there at some time.
    met: Arc<AtomicBool>,
}

/// A regular file that was opened, and what it was then.
type Opened = (File, Metadata);

impl Dir {
    /// The bucket in `root`. No I/O; the error is a path that is not absolute.
    pub fn new(root: &Path) -> Result<Self, RemoteError> {
        if !root.is_absolute() {
            return Err(RemoteError::Config(format!("{}: not an absolute path; write file:///dir", root.display())));
        }
        Ok(Dir { root: root.into(), met: Arc::default() })
    }

    /// Runs `work` where a hung mount does not hold up the caller for longer than `limit`.
    fn bounded<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce(&Dir) -> Result<T, RemoteError> + Send + 'static,
    ) -> Result<T, RemoteError> {
        let (done, result) = mpsc::sync_channel(1);
        self.spawn(move |dir| {
            let _ = done.send(work(dir));
        })?;
        result.recv_timeout(limit).unwrap_or_else(|_| Err(self.hung()))
    }

    fn spawn(&self, work: impl FnOnce(&Dir) + Send + 'static) -> Result<(), RemoteError> {
        let dir = self.clone();
        if Arc::strong_count(&dir.root) > STUCK {
            return Err(self.hung());
        }
        thread::Builder::new().name("bucket-dir".into()).spawn(move || {
            if !dir.met.load(Ordering::Relaxed) && dir.root.is_dir() {
                dir.met.store(true, Ordering::Relaxed);
            }
            work(&dir);
        })?;
        Ok(())
    }

    /// Whether it was there, and is no longer.
    fn is_gone(&self) -> bool {
        self.met.load(Ordering::Relaxed) && !self.root.is_dir()
    }

    fn hung(&self) -> RemoteError {
        io::Error::new(ErrorKind::TimedOut, format!("{}: no answer in time", self.root.display())).into()
    }

    /// What an error of the file system means: that there is no bucket, that it may not be done, or
    /// that the disk is in trouble.
    fn at(&self, path: &Path, e: io::Error) -> RemoteError {
        let text = format!("{}: {e}", path.display());
        match e.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::AlreadyExists if !self.root.is_dir() => {
                RemoteError::Config(format!("there is no such directory ({text})"))
            }
            // in the place of that very object, or of its folder
            ErrorKind::IsADirectory | ErrorKind::NotADirectory | ErrorKind::AlreadyExists => invalid(text),
            ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::FileTooLarge => RemoteError::Forbidden(text),
            kind => RemoteError::Io(io::Error::new(kind, text)),
        }
    }

    /// The file of `key`, and what is there. The error is a key that could lead elsewhere.
    fn path(&self, key: &str) -> Result<(PathBuf, Option<Metadata>), RemoteError> {
        let bad = |segment: &str| {
            matches!(segment, "" | "." | "..") || segment.starts_with(TEMP_PREFIX) || segment.contains(NO_NAME)
        };
        if key.split('/').any(bad) {
            return Err(invalid(format!("{key:?} is no key")));
        }
        let mut path = self.root.to_path_buf();
        let mut found = None;
        for segment in key.split('/') {
            path.push(segment);
            found = match fs::symlink_metadata(&path) {
                Ok(m) if m.is_symlink() => {
                    let path = path.display();
                    return Err(invalid(format!("{path}: is a symbolic link, which could lead out of the bucket")));
                }
                Ok(m) => Some(m),
                Err(e) if absent(&e) && self.is_gone() => return Err(self.at(&path, e)),
                Err(e) if absent(&e) => return Ok((self.root.join(key), None)),
                Err(e) => return Err(self.at(&path, e)),
            };
        }
        Ok((path, found))
    }

    /// Opens the object; `None` where there is no such file, or something else than a file.
    fn open(&self, key: &str) -> Result<Option<Opened>, RemoteError> {
        let (path, found) = self.path(key)?;
        if !found.is_some_and(|m| m.is_file()) {
            return Ok(None);
        }
        // neither waits for the writer of a fifo, nor follows a link, put there meanwhile
        let file = match careful().open(&path) {
            Err(e) if absent(&e) => return Ok(None),
            other => other.map_err(|e| self.at(&path, e))?,
        };
        let meta = file.metadata().map_err(|e| self.at(&path, e))?;
        Ok(meta.is_file().then_some((file, meta)))
    }

    /// Opens an object, or a part of it.
    fn read(&self, key: &str, part: Option<Range<u64>>) -> Result<Option<Object>, RemoteError> {
        let key = key.to_string();
        let opened = self.bounded(LIMIT, move |dir| {
            let Some((file, meta)) = dir.open(&key)? else { return Ok(None) };
            let Range { start, end } = part.clone().unwrap_or(0..meta.len());
            if part.is_some() && (start >= end || end > meta.len()) {
                return Ok(None);
            }
            let signature = if part.is_none() { beside(&dir.root.join(&key)) } else { None };
            Ok(Some((
                read_block(&file, start, end)?,
                file,
                start..end,
                tag(&meta),
                signature,
                age(&meta, SystemTime::now()),
            )))
        })?;
        let Some((block, file, Range { start: at, end: len }, etag, signature, age)) = opened else { return Ok(None) };
        // a file is replaced, never written to: what is open keeps its length
        let body = Box::new(Blocks { dir: self.clone(), file: Arc::new(file), len, at, block, used: 0 });
        Ok(Some(Object { etag: Some(etag), signature, ..Object::new(Some(len - at), age, body) }))
    }

    fn store(&self, path: &Path, body: &PutBody) -> io::Result<()> {
        let mut temp = TempFile::create(&self.temp_folder()?)?;
        let copied = io::copy(&mut body.reader(), temp.file())?;
        if copied != body.len() {
            let text = format!("{copied} bytes to store instead of {}", body.len());
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        self.make(path.parent().expect("a key's file lies below the root"))?;
        temp.persist(path).map(drop)
    }

    /// Makes the folder `dir` and what it lies in, but for a root that is gone.
    fn make(&self, dir: &Path) -> io::Result<()> {
        if *dir == *self.root {
            let made = || fs::create_dir_all(dir).inspect(|()| self.met.store(true, Ordering::Relaxed));
            return if self.met.load(Ordering::Relaxed) { Ok(()) } else { made() };
        }
        match fs::create_dir(dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.make(dir.parent().expect("a folder lies below the root"))?;
                fs::create_dir(dir)
            }
            made => made,
        }
        .or_else(|e| if dir.is_dir() { Ok(()) } else { Err(e) })
    }

    /// The folder of temporary files, as open to others as the directory itself.
    fn temp_folder(&self) -> io::Result<PathBuf> {
        let folder = self.root.join(TEMP_FOLDER);
        match fs::symlink_metadata(&folder) {
            Ok(m) if m.is_dir() => {}
            Ok(_) => return Err(io::Error::new(ErrorKind::InvalidInput, format!("{TEMP_FOLDER} is no folder"))),
            Err(e) if absent(&e) => {
                self.make(&folder)?;
                fs::set_permissions(&folder, fs::metadata(&self.root)?.permissions())?;
            }
            Err(e) => return Err(e),
        }
        Ok(folder)
    }

    /// The lock of conditional puts, held until it is dropped.
    fn lock(&self) -> Result<File, RemoteError> {
        let path = self.root.join(LOCK);
        if fs::symlink_metadata(&path).is_ok_and(|m| !m.is_file()) {
            return Err(invalid(format!("{}: is no plain file, and in the place of the lock", path.display())));
        }
        self.make(&self.root)
            .and_then(|()| careful().create(true).append(true).open(&path))
            .and_then(|lock| lock.lock().map(|()| lock))
            .map_err(|e| self.at(&path, e))
    }

    /// What time it is where the files are: they get theirs from there. Our own where that cannot be had.
    fn now(&self) -> SystemTime {
        let probe = || TempFile::create(&self.temp_folder()?)?.file().metadata()?.modified();
        if self.root.is_dir() { probe().unwrap_or_else(|_| SystemTime::now()) } else { SystemTime::now() }
    }

    /// The temporary files, each with its token and last change.
    fn temp_files(&self) -> Vec<(PathBuf, String, Option<SystemTime>)> {
        let entries = fs::read_dir(self.root.join(TEMP_FOLDER)).into_iter().flatten().flatten();
        let ours = |entry: fs::DirEntry| {
            let name = entry.file_name();
            let token = token_of(name.to_str()?).filter(|token| !token.is_empty())?;
            Some((entry.path(), token.to_string(), entry.metadata().and_then(|m| m.modified()).ok()))
        };
        entries.filter_map(ours).collect()
    }

    /// Hands out what lies in `dir` as it is met: a folder may hold a million. One that cannot be looked through is
    /// the error, once all others were.
    fn walk(
        &self,
        dir: &Path,
        key: &str,
        prefix: &str,
        now: SystemTime,
        each: &mut dyn FnMut(ObjectInfo),
    ) -> Result<(), RemoteError> {
        let entries = match fs::read_dir(dir) {
            Err(e) if e.kind() == ErrorKind::NotFound && !key.is_empty() => return Ok(()),
            other => other.map_err(|e| self.at(dir, e))?,
        };
        let mut end = Ok(());
        for entry in entries {
            let entry = entry.map_err(|e| self.at(dir, e))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let key = format!("{key}{name}");
            // looked at in this order: what is deleted meanwhile loses its side first
            if name.strip_suffix(SIDE).is_some_and(|object| dir.join(object).symlink_metadata().is_ok()) {
                continue;
            }
            // of a file that vanished meanwhile there is nothing to say
            let Ok(meta) = entry.metadata() else { continue };
            if name.starts_with(TEMP_PREFIX) {
                // beside their targets, as older versions made them
                if meta.is_file() && name != LOCK && old(meta.modified().ok()) {
                    let _ = fs::remove_file(entry.path());
                }
            } else if meta.is_dir() {
                let below = format!("{key}/");
                if below.starts_with(prefix) || prefix.starts_with(&below) {
                    end = end.and(self.walk(&entry.path(), &below, prefix, now, each));
                }
            } else if meta.is_file() && key.starts_with(prefix) {
                each(ObjectInfo { key, len: meta.len(), age: age(&meta, now) });
            }
        }
        end
    }
}

impl Remote for Dir {
    fn get(&self, key: &str) -> Result<Option<Object>, RemoteError> {
        self.read(key, None)
    }

    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Object>, RemoteError> {
        self.read(key, Some(range))
    }

    fn put(&self, key: &str, body: &PutBody, if_match: Option<&str>, beside: Option<&str>) -> Result<(), RemoteError> {
        let (key, body, if_match) = (key.to_string(), body.clone(), if_match.map(str::to_string));
        let beside = beside.map(|text| PutBody::Bytes(text.as_bytes().into()));
        self.bounded(LIMIT + Duration::from_secs(body.len() >> 20), move |dir| {
            let (path, _) = dir.path(&key)?;
            let _turn = if_match.is_some().then(|| dir.lock()).transpose()?;
            if let Some(wanted) = if_match {
                let present = dir.path(&key)?.1.as_ref().map(tag).unwrap_or_default();
                if present != wanted {
                    return Err(RemoteError::Precondition);
                }
            }
            // before the object, which is never there without it
            let side = side_of(&path);
            let stored = beside.map_or_else(|| remove(&side), |text| dir.store(&side, &text));
            stored.map_err(|e| dir.at(&side, e))?;
            dir.store(&path, &body).map_err(|e| dir.at(&path, e))
        })
    }

    fn head(&self, key: &str) -> Result<Option<Head>, RemoteError> {
        let key = key.to_string();
        self.bounded(LIMIT, move |dir| {
            let meta = dir.path(&key)?.1.filter(Metadata::is_file);
            Ok(meta.map(|m| Head { etag: tag(&m), age: age(&m, SystemTime::now()), kept: Vec::new() }))
        })
    }

    fn renew(&self, key: &str, seen: &Head) -> Result<bool, RemoteError> {
        let (key, etag) = (key.to_string(), seen.etag.clone());
        self.bounded(LIMIT, move |dir| {
            let _turn = dir.lock()?;
            let Some((_, meta)) = dir.open(&key)? else { return Ok(false) };
            if tag(&meta) == etag {
                let renewed = platform::touch(&dir.root.join(&key));
                renewed.map_err(|e| RemoteError::Unsupported(format!("{key}: {e}")))?;
            }
            Ok(true)
        })
    }

    /// One page holds all.
    fn list(
        &self,
        prefix: &str,
        _: Option<&str>,
        each: &mut dyn FnMut(ObjectInfo),
    ) -> Result<Option<String>, RemoteError> {
        let prefix = prefix.to_string();
        let (send, found) = mpsc::sync_channel(1024);
        self.spawn(move |dir| {
            for (path, _, _) in dir.temp_files().into_iter().filter(|(_, _, modified)| old(*modified)) {
                let _ = fs::remove_file(path);
            }
            let end = dir.walk(&dir.root, "", &prefix, dir.now(), &mut |object| {
                let _ = send.send(Ok(object));
            });
            end.unwrap_or_else(|e| drop(send.send(Err(e))));
        })?;
        loop {
            match found.recv_timeout(LIMIT) {
                Ok(object) => each(object?),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(None),
                Err(mpsc::RecvTimeoutError::Timeout) => return Err(self.hung()),
            }
        }
    }

    fn delete(&self, key: &str) -> Result<(), RemoteError> {
        let key = key.to_string();
        self.bounded(LIMIT, move |dir| {
            let (path, _) = dir.path(&key)?;
            remove(&side_of(&path)).and_then(|()| remove(&path)).map_err(|e| dir.at(&path, e))
        })
    }

    fn sweep(&self, dead: &dyn Fn(&str) -> bool) {
        let Ok(mut found) = self.bounded(LIMIT, |dir| Ok(dir.temp_files())) else { return };
        found.retain(|(_, token, _)| dead(token));
        // of one that cannot be removed there is nothing to say
        let _ = self.bounded(LIMIT, move |_| {
            found.iter().for_each(|(path, ..)| drop(fs::remove_file(path)));
            Ok(())
        });
    }

    fn describe(&self, prefix: &str) -> String {
        format!("file://{}", self.root.join(prefix).display())
    }
}

/// The body of an object, read a block at a time.
struct Blocks {
    dir: Dir,
    file: Arc<File>,
    len: u64,
    /// Where the block lies in the file.
    at: u64,
    block: Vec<u8>,
    used: usize,
}

impl Read for Blocks {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let next = self.at + self.block.len() as u64;
        if self.used == self.block.len() && next < self.len && !buf.is_empty() {
            let (file, len) = (self.file.clone(), self.len);
            let read = self.dir.bounded(LIMIT, move |_| Ok(read_block(&file, next, len)?));
            self.block = read.map_err(|e| match e {
                RemoteError::Io(e) => e,
                e => io::Error::other(e.to_string()),
            })?;
            (self.at, self.used) = (next, 0);
        }
        let n = (&self.block[self.used..]).read(buf)?;
        self.used += n;
        Ok(n)
    }
}

fn read_block(file: &File, at: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut block = vec![0; (len - at).min(BLOCK) as usize];
    file.read_exact_at(&mut block, at)?;
    Ok(block)
}

fn side_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(SIDE);
    name.into()
}

/// What stands beside the object in `path`.
fn beside(path: &Path) -> Option<String> {
    read_text(&side_of(path), SIDE_LIMIT)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if absent(&e) => Ok(()),
        other => other,
    }
}

/// How old the file is; what is of the future is new.
fn age(meta: &Metadata, now: SystemTime) -> Option<Duration> {
    Some(now.duration_since(meta.modified().ok()?).unwrap_or_default())
}

fn old(modified: Option<SystemTime>) -> bool {
    modified.is_some_and(|t| t.elapsed().is_ok_and(|age| age > ABANDONED))
}

fn absent(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn invalid(text: String) -> RemoteError {
    io::Error::new(ErrorKind::InvalidInput, text).into()
}

fn tag(meta: &Metadata) -> String {
    let nanos = |t: SystemTime| t.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{:x}-{:x}", meta.modified().map_or(0, nanos), meta.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A bucket that goes with the test.
    struct Temp(Dir);

    impl std::ops::Deref for Temp {
        type Target = Dir;
        fn deref(&self) -> &Dir {
            &self.0
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0.root);
        }
    }

    fn dir() -> Temp {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("dir-bucket-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        fs::create_dir(std::env::temp_dir().join(&name)).unwrap();
        Temp(Dir::new(&std::env::temp_dir().join(name)).unwrap())
    }

    fn bytes(b: &[u8]) -> PutBody {
        PutBody::Bytes(Arc::from(b))
    }

    fn read(dir: &Dir, key: &str) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        io::copy(&mut dir.get(key).unwrap()?.body, &mut out).unwrap();
        Some(out)
    }

    fn keys(dir: &Dir, prefix: &str) -> Vec<String> {
        let mut keys = Vec::new();
        dir.list(prefix, None, &mut |o| keys.push(format!("{}={}", o.key, o.len))).unwrap();
        keys.sort();
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
        assert_eq!(dir.get("a/b").unwrap().unwrap().len, Some(3));
        assert!(dir.get("a").unwrap().is_none(), "a directory is no object");
        assert!(dir.get("ab/c").unwrap().is_none(), "nor is what would lie below a file");
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
        let etag = dir.get("k").unwrap().unwrap().etag.unwrap();
        assert_eq!(dir.head("k").unwrap().unwrap().etag, etag);
        dir.put("k", &bytes(b"22"), Some(&etag), None).unwrap();
        assert!(matches!(dir.put("k", &bytes(b"3"), Some(&etag), None), Err(RemoteError::Precondition)));
        assert_eq!(read(&dir, "k").unwrap(), b"22");
        assert_eq!(keys(&dir, ""), ["k=2"], "the lock is no object");
    }

    #[test]
    fn what_stands_beside_an_object_goes_with_it() {
        let dir = dir();
        let side = || dir.get("a/k").unwrap().and_then(|o| o.signature);
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
            assert!(dir.get(key).is_err(), "{key:?}");
            assert!(dir.put(key, &bytes(b"x"), None, None).is_err(), "{key:?}");
            assert!(dir.delete(key).is_err(), "{key:?}");
        }
        std::os::unix::fs::symlink(&outside.root, dir.root.join("link")).unwrap();
        std::os::unix::fs::symlink(outside.root.join("secret"), dir.root.join("file")).unwrap();
        for key in ["link/secret", "link/new", "file"] {
            assert!(dir.get(key).is_err() && dir.put(key, &bytes(b"x"), None, None).is_err(), "{key}");
            assert!(dir.delete(key).is_err(), "{key}");
        }
        assert_eq!((keys(&dir, ""), keys(&outside, "")), (vec!["in=1".to_string()], vec!["secret=1".to_string()]));
        assert!(Dir::new(Path::new("relative")).is_err());
    }

    #[test]
    fn a_hung_directory_is_a_time_out() {
        let dir = dir();
        let begin = std::time::Instant::now();
        let (release, held) = mpsc::channel::<()>();
        let outcome = dir.bounded(Duration::from_millis(50), move |_| Ok(held.recv().is_ok()));
        assert!(matches!(outcome, Err(RemoteError::Io(e)) if e.kind() == ErrorKind::TimedOut));
        assert!(begin.elapsed() < Duration::from_secs(5));
        drop(release);
    }

    #[test]
    fn what_is_no_file_is_no_object() {
        let dir = dir();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.root.join("fifo"), rustix::fs::Mode::RWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.root.join("socket")).unwrap();
        for key in ["fifo", "socket"] {
            assert!(read(&dir, key).is_none() && dir.get(key).unwrap().is_none(), "{key}");
            dir.put(key, &bytes(b"x"), None, None).unwrap();
            assert_eq!(read(&dir, key).unwrap(), b"x");
        }
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.root.join(LOCK), rustix::fs::Mode::RWXU).unwrap();
        assert!(dir.put("k", &bytes(b"1"), Some(""), None).is_err());
    }

    #[test]
    fn a_write_follows_no_link() {
        let (dir, outside) = (dir(), dir());
        std::os::unix::fs::symlink(outside.root.join("made"), dir.root.join(LOCK)).unwrap();
        assert!(dir.put("k", &bytes(b"1"), Some(""), None).is_err());
        std::os::unix::fs::symlink(&outside.root, dir.root.join(TEMP_FOLDER)).unwrap();
        assert!(dir.put("k", &bytes(b"1"), None, None).is_err());
        assert_eq!(fs::read_dir(&outside.root).unwrap().count(), 0);
    }

    #[test]
    fn large_objects_come_block_by_block() {
        let dir = dir();
        let body: Vec<u8> = (0..2 * BLOCK + 5).map(|i| (i >> 3) as u8).collect();
        dir.put("k", &bytes(&body), None, None).unwrap();
        assert!(read(&dir, "k").unwrap() == body);
        let mut object = dir.get("k").unwrap().unwrap();
        File::options().write(true).open(dir.root.join("k")).unwrap().set_len(BLOCK + 3).unwrap();
        assert!(object.body.read_to_end(&mut Vec::new()).is_err(), "shortened meanwhile");
    }

    #[test]
    fn temporary_files_of_the_dead_go() {
        let dir = dir();
        let folder = dir.temp_folder().unwrap();
        for name in [".tmp-7-ab-0", ".tmp-7-ab-1", ".tmp-8-cd-0", "other"] {
            fs::write(folder.join(name), "").unwrap();
        }
        dir.sweep(&|token| token == "7-ab");
        let mut left: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".tmp-8-cd-0", "other"]);
        assert!(keys(&dir, "").is_empty(), "they are no objects");
    }
}
