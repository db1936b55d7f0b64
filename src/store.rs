//! Named blobs of the two proxies: on disk, in the bucket, and on their way there.
//!
//! ```text
//! <cache_dir>/<kind>/<xx>/<sha256 of the name>      the bytes; mtime: last known to be right
//! <cache_dir>/<kind>/<xx>/<sha256 of the name>.sum  their length and hash; mtime: last use
//! [<prefix>/]<kind>/<xx>/<sha256 of the name>       the same bytes in the bucket
//! ```
//!
//! Invariants: names are hashed, so no name reaches the disk; a blob appears whole, by rename, and
//! is never changed afterwards, only replaced; one that is damaged all the same is neither served
//! nor uploaded (`sums`). What comes from the bucket is checked for its length, where there are keys
//! for its signature, and by the caller's check before it appears; failures of the bucket are misses.

mod sums;
mod tally;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use self::sums::Sums;
use self::tally::{Event, Tally};
use crate::atomic::{TempFile, careful};
use crate::folder::{MODULE, REVPROXY, sum_of};
use crate::id::{Hashing, OutputId, sharded, sharded_path, unhex};
use crate::metrics::Metrics;
use crate::remote::{Bucket, Object, PutBody, RemoteError};
use crate::repeat::Repeat;
use crate::sign::{Claim, MUTABLE_FOR, Signer, nanos};
use crate::upload::{Source, Uploader};

pub use self::tally::Kind;

/// What is left of a refused object is read if it is no more than this, to keep the connection.
const DRAIN: u64 = 64 << 10;

impl Kind {
    /// The directory's name, which is also the first part of a bucket key.
    fn name(self) -> &'static str {
        match self {
            Kind::Module => MODULE,
            Kind::RevProxy => REVPROXY,
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
    root: PathBuf,
    signer: Signer,
    sums: Sums,
    tally: Tally,
    metrics: Arc<Metrics>,
    damaged: Repeat,
}

impl BlobStore {
    /// The blobs of `kind` below `cache_dir` and, where there is one, in `bucket`, where `signer`
    /// says what counts. Uploads go through `uploader`, which learns here how.
    pub fn new(
        kind: Kind,
        cache_dir: &Path,
        bucket: Option<Arc<Bucket>>,
        uploader: Option<Arc<Uploader>>,
        signer: Signer,
        metrics: Arc<Metrics>,
    ) -> Self {
        let place = Arc::new(Place {
            kind,
            root: cache_dir.to_path_buf(),
            signer,
            sums: Sums::default(),
            tally: Tally(kind, metrics.clone()),
            metrics,
            damaged: Repeat::new("files of the proxies were damaged on disk, and removed"),
        });
        if let Some(uploader) = &uploader {
            uploader.register(kind.name(), place.clone());
        }
        BlobStore { place, bucket, uploader }
    }

    /// The same blobs in the local directory alone.
    pub fn without_bucket(&self) -> Self {
        BlobStore { place: self.place.clone(), bucket: None, uploader: None }
    }

    /// Removes a blob from the local directory, if it is there.
    pub fn remove(&self, name: &str) {
        let path = self.place.path(&digest(name));
        // without its sum, it would be taken as it is
        if fs::remove_file(&path).is_ok() {
            let _ = fs::remove_file(sum_of(&path));
        }
    }

    /// Looks in the local directory only. A file that is damaged or cannot be read is a miss.
    pub fn local(&self, name: &str) -> Option<Blob> {
        let digest = digest(name);
        match self.place.open(&digest) {
            Ok(Some((blob, _))) => {
                self.place.tally.count(Event::LocalHit(blob.len));
                Some(blob)
            }
            Ok(None) => {
                self.place.tally.count(Event::LocalMiss);
                None
            }
            Err(e) => {
                log::warn!("{}: {e}", self.place.path(&digest).display());
                self.place.tally.count(Event::LocalError);
                None
            }
        }
    }

    /// Like [`Self::local`], but counts nothing: for another look during one request.
    pub fn reopen(&self, name: &str) -> Option<Blob> {
        self.place.open(&digest(name)).ok().flatten().map(|(blob, _)| blob)
    }

    /// Fetches a blob from the bucket into the local directory. With nothing to vouch for how
    /// fresh it is, its time is the epoch. Where there are keys, what is `mutable` must have been
    /// signed not long ago. One that is no good under our own prefix does not hide the main one's.
    pub fn from_bucket(&self, name: &str, mutable: bool, check: Check<'_>) -> Option<Blob> {
        let (bucket, place, digest) = (self.bucket.as_ref()?, &self.place, digest(name));
        let key = place.key(&digest);
        let mut found = bucket.get(&key);
        while let Some(object) = found {
            let own_prefix = object.own_prefix;
            match place.vouched(&key, &object, mutable) {
                Ok(signed) => match place.take(&digest, object, signed, check) {
                    Ok((file, len)) => {
                        place.tally.count(Event::BucketHit(len));
                        return Some(Blob { file, len, modified: SystemTime::UNIX_EPOCH, origin: Origin::Bucket });
                    }
                    Err(e) => place.signer.refused(format_args!("{}: {key} is not used: {e}", bucket.target())),
                },
                Err(why) => {
                    place.metrics.bucket.corrupt.inc();
                    place.signer.refused(format_args!("{}: {key} is not used: {why}", bucket.target()));
                    let _ = io::copy(&mut object.body.take(DRAIN), &mut io::sink());
                }
            }
            place.tally.count(Event::BucketError);
            if !own_prefix {
                return None;
            }
            found = bucket.ask_main(&key).ok().flatten();
        }
        place.tally.count(Event::BucketMiss);
        None
    }

    /// Begins a blob called `name`. Dropping the writer leaves nothing behind.
    pub fn writer(&self, name: &str) -> io::Result<BlobWriter> {
        let digest = digest(name);
        let bytes = self.place.begin(&digest).inspect_err(|_| self.place.tally.count(Event::PutError))?;
        Ok(BlobWriter { place: self.place.clone(), uploader: self.uploader.clone(), digest, bytes })
    }
}

impl Place {
    fn path(&self, digest: &str) -> PathBuf {
        sharded_path(&self.root, self.kind.name(), digest)
    }

    fn key(&self, digest: &str) -> String {
        sharded(self.kind.name(), digest)
    }

    /// The blob, if there is one and it is whole, and what is known of it.
    fn open(&self, digest: &str) -> io::Result<Option<(Blob, Claim)>> {
        let path = self.path(digest);
        let mut file = match careful().open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Ok(None);
        }
        let Some(claim) = self.sums.check(&path, &mut file)? else {
            self.metrics.bucket.corrupt.inc();
            self.damaged.tell(format_args!("{}: damaged on disk, and removed", path.display()));
            return Ok(None);
        };
        Ok(Some((Blob { file, len: meta.len(), modified: meta.modified()?, origin: Origin::Local }, claim)))
    }

    fn begin(&self, digest: &str) -> io::Result<Bytes> {
        let path = self.path(digest);
        let dir = path.parent().expect("a blob lies in a folder");
        let temp = match TempFile::create(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(dir)?;
                TempFile::create(dir)
            }
            made => made,
        };
        let temp = temp.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", dir.display())))?;
        Ok(Hashing::new(temp))
    }

    /// What was signed of an object, where that is demanded; the error says why it does not count.
    fn vouched(&self, key: &str, object: &Object, mutable: bool) -> Result<Option<Claim>, &'static str> {
        if !self.signer.demands(object.own_prefix) {
            return Ok(None);
        }
        let claim = self.signer.check_text(self.kind.name(), key, object.signature.as_deref())?;
        if mutable {
            self.signer.check_age(&claim)?;
        }
        Ok(Some(claim))
    }

    /// Takes an object into the local directory: the file and its length.
    fn take(&self, digest: &str, object: Object, signed: Option<Claim>, check: Check<'_>) -> io::Result<(File, u64)> {
        let mut bytes = self.begin(digest)?;
        let limit = signed.map_or(u64::MAX, |claim| claim.size.saturating_add(1));
        let got = io::copy(&mut object.body.take(limit), &mut bytes)?;
        let claim = Claim { hash: bytes.hash(), size: got, time: signed.map_or(0, |signed| signed.time) };
        let sound = match (object.len, signed) {
            (_, Some(signed)) if (signed.hash, signed.size) != (claim.hash, got) => {
                Err("these are not the bytes that were signed".to_string())
            }
            // without a length, it may have been cut off
            (len, None) if len != Some(got) => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{got} of {len:?} bytes")));
            }
            _ => check(written(&mut bytes)?),
        };
        sound.map_err(|why| {
            self.metrics.bucket.corrupt.inc();
            io::Error::new(io::ErrorKind::InvalidData, why)
        })?;
        written(&mut bytes)?.set_modified(SystemTime::UNIX_EPOCH)?;
        Ok((self.sums.persist(&self.path(digest), bytes.to, claim)?, got))
    }
}

impl Source for Place {
    fn upload(&self, name: &str, value: Option<OutputId>, bucket: &Bucket) -> Result<(), RemoteError> {
        // a marker is a file that anyone could have made
        if unhex::<32>(name).is_none() {
            return Ok(());
        }
        let Some((blob, claim)) = self.open(name)? else { return Ok(()) };
        if value.is_some_and(|value| value != claim.hash) {
            return Ok(());
        }
        let key = self.key(name);
        let signature = self.signer.sign_text(self.kind.name(), &key, &claim);
        let sent = bucket.put_signed(&key, &PutBody::File(Arc::new(blob.file), blob.len), None, signature.as_deref());
        self.tally.count(if sent.is_ok() { Event::Pushed(blob.len) } else { Event::PushError });
        sent
    }
}

/// Bytes on their way to a blob.
type Bytes = Hashing<TempFile>;

/// The bytes so far, from the start.
fn written(bytes: &mut Bytes) -> io::Result<&File> {
    io::Seek::rewind(bytes.to.file())?;
    Ok(bytes.to.file())
}

/// A blob being written.
pub struct BlobWriter {
    place: Arc<Place>,
    uploader: Option<Arc<Uploader>>,
    digest: String,
    bytes: Bytes,
}

impl BlobWriter {
    /// The bytes so far, from the start, to be checked before they are kept.
    pub fn written(&mut self) -> io::Result<&File> {
        written(&mut self.bytes)
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.bytes.len
    }

    /// Puts the blob under its name, queues its upload, and returns it open. One with the same
    /// bytes that is there already is confirmed instead, unless its signature grows old.
    pub fn commit(self) -> io::Result<Blob> {
        let BlobWriter { place, uploader, digest, mut bytes } = self;
        place.tally.count(Event::Put);
        let (path, kind, now) = (place.path(&digest), place.kind.name(), SystemTime::now());
        let claim = Claim { hash: bytes.hash(), size: bytes.len, time: nanos(now) };
        if let Ok(Some((blob, there))) = place.open(&digest)
            && there.hash == claim.hash
        {
            place.tally.count(Event::PutPresent);
            if !place.signer.signs() || there.is_within(MUTABLE_FOR / 2) {
                blob.file.set_modified(now)?;
                return Ok(Blob { modified: now, ..blob });
            }
        }
        let stored = Uploader::storing(uploader.as_ref(), kind, &digest, claim.hash, || {
            written(&mut bytes)?;
            place.sums.persist(&path, bytes.to, claim)
        });
        match stored {
            Ok(file) => {
                place.tally.count(Event::Stored(claim.size));
                Ok(Blob { file, len: claim.size, modified: now, origin: Origin::Local })
            }
            Err(e) => {
                place.tally.count(Event::PutError);
                Err(io::Error::new(e.kind(), format!("{}: {e}", path.display())))
            }
        }
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.bytes.write(buf).inspect_err(|_| self.place.tally.count(Event::PutError))
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The SHA-256 of a name, as hex digits.
fn digest(name: &str) -> String {
    OutputId::of(name.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(dir: &Path) -> BlobStore {
        BlobStore::new(Kind::Module, dir, None, None, Signer::default(), Arc::default())
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
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2, "the blob, its sum, no temporary file");
        fs::remove_dir_all(dir).unwrap();
    }
}
