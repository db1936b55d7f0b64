//! Named blobs of the two proxies: on disk, in the bucket, and on their way there.
//!
//! ```text
//! <cache_dir>/<kind>/<xx>/<sha256 of the name>      the bytes; mtime: last known to be right
//! [<prefix>/]<kind>/<xx>/<sha256 of the name>       the same bytes in the bucket
//! ```
//!
//! Invariants: names are hashed, so no name reaches the disk; a blob appears whole, by rename, and
//! is never changed afterwards, only replaced; what comes from the bucket is checked for its length
//! and by the caller's check before it appears; failures of the bucket are misses.

mod tally;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use self::tally::Event;
use crate::atomic::TempFile;
use crate::metrics::Metrics;
use crate::remote::{Bucket, PutBody, RemoteError};
use crate::upload::{Source, Uploader};

/// Whose blobs these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The module proxy's and sum database's.
    Module,
    /// The reverse proxy's.
    RevProxy,
}

impl Kind {
    /// The directory's name, which is also the first part of a bucket key.
    fn name(self) -> &'static str {
        match self {
            Kind::Module => "module",
            Kind::RevProxy => "revproxy",
        }
    }
}

/// Where a blob was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the local directory.
    Local,
    /// In the bucket.
    Bucket,
}

/// A blob, open for reading from its start.
#[derive(Debug)]
pub struct Blob {
    /// Its bytes.
    pub file: File,
    /// How many.
    pub len: u64,
    /// When it was last known to be right; long ago for what came from the bucket.
    pub modified: SystemTime,
    /// Where it was found.
    pub origin: Origin,
}

/// Decides whether a file from the bucket is fit to be kept; the error says what is wrong.
pub type Check<'a> = &'a dyn Fn(&File) -> Result<(), String>;

/// The blobs of one kind.
pub struct BlobStore {
    place: Arc<Place>,
    bucket: Option<Arc<Bucket>>,
    uploader: Option<Arc<Uploader>>,
}

/// What the upload queue needs too.
struct Place {
    kind: Kind,
    dir: PathBuf,
    metrics: Arc<Metrics>,
}

impl BlobStore {
    /// The blobs of `kind` below `cache_dir` and, where there is one, in `bucket`. Uploads go
    /// through `uploader`, which learns here how.
    pub fn new(
        kind: Kind,
        cache_dir: &Path,
        bucket: Option<Arc<Bucket>>,
        uploader: Option<Arc<Uploader>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let place = Arc::new(Place { kind, dir: cache_dir.join(kind.name()), metrics });
        if let Some(uploader) = &uploader {
            uploader.register(kind.name(), place.clone());
        }
        BlobStore { place, bucket, uploader }
    }

    /// Looks in the local directory only. A file that cannot be read is a miss.
    pub fn local(&self, name: &str) -> Option<Blob> {
        let path = self.place.path(&digest(name));
        match open(&path) {
            Ok(Some(blob)) => {
                self.place.count(Event::LocalHit(blob.len));
                Some(blob)
            }
            Ok(None) => {
                self.place.count(Event::LocalMiss);
                None
            }
            Err(e) => {
                log::warn!("{}: {e}", path.display());
                self.place.count(Event::LocalError);
                None
            }
        }
    }

    /// Like [`Self::local`], but counts nothing: for another look during one request.
    pub fn reopen(&self, name: &str) -> Option<Blob> {
        open(&self.place.path(&digest(name))).ok().flatten()
    }

    /// Fetches a blob from the bucket into the local directory. With nothing to vouch for how
    /// fresh it is, its time is the epoch.
    pub fn from_bucket(&self, name: &str, check: Check<'_>) -> Option<Blob> {
        let bucket = self.bucket.as_ref()?;
        let digest = digest(name);
        let Some(object) = bucket.get(&key(self.place.kind, &digest)) else {
            self.place.count(Event::BucketMiss);
            return None;
        };
        let promised = object.len;
        let fetched = self.place.temp(&digest).and_then(|mut temp| {
            let got = io::copy(&mut { object.body }, temp.file())?;
            if let Some(len) = promised.filter(|len| *len != got) {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{got} of {len} bytes")));
            }
            rewind(temp.file())?;
            if let Err(why) = check(temp.file()) {
                self.place.metrics.bucket.corrupt.inc();
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            rewind(temp.file())?;
            temp.file().set_modified(SystemTime::UNIX_EPOCH)?;
            Ok((temp.persist(&self.place.path(&digest))?, got))
        });
        match fetched {
            Ok((file, len)) => {
                self.place.count(Event::BucketHit(len));
                Some(Blob { file, len, modified: SystemTime::UNIX_EPOCH, origin: Origin::Bucket })
            }
            Err(e) => {
                log::warn!("bucket: {}: {e}; fetching it anew", key(self.place.kind, &digest));
                self.place.count(Event::BucketError);
                None
            }
        }
    }

    /// Begins a blob called `name`. Dropping the writer leaves nothing behind.
    pub fn writer(&self, name: &str) -> io::Result<BlobWriter> {
        let digest = digest(name);
        let temp = self.place.temp(&digest).inspect_err(|_| self.place.count(Event::PutError))?;
        Ok(BlobWriter { place: self.place.clone(), uploader: self.uploader.clone(), digest, temp, len: 0 })
    }

    /// Says that the blob is right as of now.
    pub fn confirm(&self, name: &str) {
        let path = self.place.path(&digest(name));
        // the owner may set times through a read-only handle
        if let Err(e) = File::open(&path).and_then(|f| f.set_modified(SystemTime::now())) {
            log::debug!("{}: {e}", path.display());
        }
    }
}

impl Place {
    fn path(&self, digest: &str) -> PathBuf {
        self.dir.join(&digest[..2]).join(digest)
    }

    fn temp(&self, digest: &str) -> io::Result<TempFile> {
        let dir = self.dir.join(&digest[..2]);
        match TempFile::create(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&dir)?;
                TempFile::create(&dir)
            }
            made => made,
        }
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", dir.display())))
    }
}

impl Source for Place {
    fn upload(&self, name: &str, bucket: &Bucket) -> Result<(), RemoteError> {
        // a marker is a file that anyone could have made
        if name.len() != 64 || !name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(());
        }
        let Some(blob) = open(&self.path(name))? else { return Ok(()) };
        let sent = bucket.put(&key(self.kind, name), &PutBody::File(Arc::new(blob.file), blob.len));
        self.count(if sent.is_ok() { Event::Pushed(blob.len) } else { Event::PushError });
        sent
    }
}

/// A blob being written.
pub struct BlobWriter {
    place: Arc<Place>,
    uploader: Option<Arc<Uploader>>,
    digest: String,
    temp: TempFile,
    len: u64,
}

impl BlobWriter {
    /// The bytes so far, from the start, to be checked before they are kept.
    pub fn written(&mut self) -> io::Result<&File> {
        rewind(self.temp.file())?;
        Ok(self.temp.file())
    }

    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts the blob under its name, queues its upload, and returns it open. One with the same
    /// bytes that is there already is confirmed instead.
    pub fn commit(mut self) -> io::Result<Blob> {
        let place = self.place.clone();
        place.count(Event::Put);
        let path = place.path(&self.digest);
        let blob = |file, len| Blob { file, len, modified: SystemTime::now(), origin: Origin::Local };
        if let Ok(Some(there)) = open(&path)
            && there.len == self.len
            && same(&there.file, self.written()?)?
        {
            place.count(Event::PutPresent);
            there.file.set_modified(SystemTime::now())?;
            rewind(&there.file)?;
            return Ok(blob(there.file, there.len));
        }
        let kind = place.kind.name();
        let uploader = self.uploader.clone();
        let job = uploader.as_ref().map(|uploader| uploader.mark(kind, &self.digest));
        match self.temp.persist(&path) {
            Ok(file) => {
                place.count(Event::Stored(self.len));
                uploader.zip(job).into_iter().for_each(|(uploader, job)| uploader.enqueue(job));
                rewind(&file)?;
                Ok(blob(file, self.len))
            }
            Err(e) => {
                place.count(Event::PutError);
                uploader.zip(job).into_iter().for_each(|(uploader, job)| uploader.unmark(&job));
                Err(io::Error::new(e.kind(), format!("{}: {e}", path.display())))
            }
        }
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.temp.file().write(buf).inspect_err(|_| self.place.count(Event::PutError))?;
        self.len += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<Option<Blob>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(None);
    }
    Ok(Some(Blob { file, len: meta.len(), modified: meta.modified()?, origin: Origin::Local }))
}

fn rewind(mut file: &File) -> io::Result<()> {
    io::Seek::rewind(&mut file)
}

/// Whether two files of one length hold the same bytes from where they stand.
fn same(mut a: &File, mut b: &File) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; 32 << 10], vec![0; 32 << 10]);
    loop {
        let n = a.read(&mut left)?;
        if n == 0 {
            return Ok(true);
        }
        if b.read_exact(&mut right[..n]).is_err() || left[..n] != right[..n] {
            return Ok(false);
        }
    }
}

/// The SHA-256 of a name, as hex digits.
fn digest(name: &str) -> String {
    Sha256::digest(name.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

fn key(kind: Kind, digest: &str) -> String {
    format!("{}/{}/{digest}", kind.name(), &digest[..2])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(dir: &Path) -> BlobStore {
        BlobStore::new(Kind::Module, dir, None, None, Arc::default())
    }

    fn put(store: &BlobStore, name: &str, bytes: &[u8]) -> Blob {
        let mut writer = store.writer(name).unwrap();
        writer.write_all(bytes).unwrap();
        writer.commit().unwrap()
    }

    #[test]
    fn blobs_appear_whole_under_the_hash_of_their_name() {
        let dir = std::env::temp_dir().join(format!("gcp-store-{}", std::process::id()));
        let store = store(&dir);
        assert!(store.local("../name").is_none());
        let mut text = String::new();
        put(&store, "../name", b"first").file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "first");
        let path = store.place.path(&digest("../name"));
        assert!(path.starts_with(dir.join("module")) && fs::read(&path).unwrap() == b"first");
        drop(store.writer("../name").unwrap());
        // one that is open is replaced, not changed
        let mut old = store.local("../name").unwrap();
        put(&store, "../name", b"other");
        text.clear();
        old.file.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), fs::read(&path).unwrap()), ("first", b"other".to_vec()));
        // the same bytes are confirmed
        File::open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        put(&store, "../name", b"other");
        assert!(store.local("../name").unwrap().modified > SystemTime::UNIX_EPOCH);
        let m = &store.place.metrics.modcache;
        let got =
            [&m.get_request, &m.get_local_hit, &m.get_local_miss, &m.put_request, &m.put_local_hit, &m.put_local_bytes];
        assert_eq!(got.map(|c| c.get()), [3, 2, 1, 3, 1, 10]);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
        fs::remove_dir_all(dir).unwrap();
    }
}
