//! Named blobs of the two proxies: on disk, in the bucket, and on their way there.
//!
//! ```text
//! <cache_dir>/<kind>/<xx>/<sha256 of the name>      the bytes; mtime: last known to be right
//! <cache_dir>/<kind>/<xx>/<sha256 of the name>.sum  their length and hash; mtime: last use
//! [<prefix>/]<kind>/<xx>/<sha256 of the name>       the same bytes in the bucket
//! ```
//!
//! Invariants: names are hashed, so none becomes a path, and those of proxied bodies (URLs) are nowhere
//! on disk; a blob appears whole, by rename, and is never changed afterwards, only replaced; one that
//! is damaged all the same is neither served nor uploaded (`sums`); one that the disk does not take
//! (`spool`) is served all the same, once. What comes from the bucket is checked for its length, where there are keys
//! for its signature, and by the caller's check before it appears; failures of the bucket are misses.

mod spool;
mod sums;
mod tally;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use self::spool::Spool;
use self::sums::{Label, Sums};
use self::tally::{Event, Tally};
use crate::atomic::TempFile;
use crate::folder::{Held, MODULE, REVPROXY, each_file, sum_of};
use crate::id::{Hashing, OutputId, sharded, sharded_path, unhex};
use crate::metrics::Metrics;
use crate::platform::careful;
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

/// A blob, open for reading from its start.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Its bytes.
    pub file: Arc<File>,
    /// How many.
    pub len: u64,
    /// When it was last known to be right; long ago for what came from the bucket.
    pub modified: SystemTime,
    /// What [`BlobWriter::note`] or [`BlobStore::set_note`] said of these bytes.
    pub note: String,
}

/// A blob on disk, as [`BlobStore::each`] finds it.
#[derive(Debug)]
pub struct Kept {
    /// What it is called.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
    /// When it was last used.
    pub used: SystemTime,
    /// What was noted of it.
    pub note: String,
}

/// Decides whether a file from the bucket is fit to be kept, and what is noted of it; the error says what is wrong.
pub type Check<'a> = &'a dyn Fn(&File) -> Result<&'static str, String>;

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
    unkept: Repeat,
    unread: Repeat,
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
            unkept: Repeat::new("answers of the proxies could not be kept on disk"),
            unread: Repeat::new("look-ups of the proxies failed on disk"),
        });
        if let Some(uploader) = &uploader {
            uploader.register(kind.name(), place.clone());
        }
        BlobStore { place, bucket, uploader }
    }

    /// Whether other machines may have some of them.
    pub fn is_shared(&self) -> bool {
        self.bucket.is_some()
    }

    /// The same blobs in the local directory alone.
    pub fn without_bucket(&self) -> Self {
        BlobStore { place: self.place.clone(), bucket: None, uploader: None }
    }

    /// How they are uploaded.
    pub fn source(&self) -> Arc<dyn Source> {
        self.place.clone()
    }

    /// Looks in the local directory only. A file that is damaged or cannot be read is a miss.
    pub fn local(&self, name: &str) -> Option<Blob> {
        let digest = digest(name);
        match self.place.open(&digest, self.place.label(name)) {
            Ok(Some((blob, _))) => {
                self.place.tally.count(Event::LocalHit(blob.len));
                Some(blob)
            }
            Ok(None) => {
                self.place.tally.count(Event::LocalMiss);
                None
            }
            Err(e) => {
                self.place.unread.tell(format_args!("{}: {e}", self.place.path(&digest).display()));
                self.place.tally.count(Event::LocalError);
                None
            }
        }
    }

    /// Like [`Self::local`], but counts nothing: for another look during one request.
    pub fn reopen(&self, name: &str) -> Option<Blob> {
        self.place.open(&digest(name), self.place.label(name)).ok().flatten().map(|(blob, _)| blob)
    }

    /// Notes one line of the blob `name`, as it is now. It may be lost, never belong to other bytes.
    pub fn set_note(&self, name: &str, note: &str) {
        let (place, digest) = (&self.place, digest(name));
        let label = Label { name: place.label(name).to_string(), note: note.to_string() };
        let noted = place.open(&digest, "").and_then(|found| match found {
            Some((blob, claim)) if blob.note != note => place.sums.relabel(&place.path(&digest), claim, &label),
            _ => Ok(()),
        });
        if let Err(e) = noted {
            log::debug!("{name}: {e}");
        }
    }

    /// Removes the blob `name` from the local directory; tells whether there was one.
    pub fn remove(&self, name: &str) -> bool {
        let path = self.place.path(&digest(name));
        // without its sum, it would be taken as it is
        let there = fs::remove_file(&path).is_ok();
        if there {
            let _ = fs::remove_file(sum_of(&path));
        }
        there
    }

    /// Calls `each` for every blob in the local directory whose name is known, in no order.
    pub fn each(&self, mut each: impl FnMut(Kept)) -> io::Result<()> {
        each_file(&self.place.root.join(self.place.kind.name()), |entry, held| {
            let Held::Sum(id) = held else { return };
            let Some(label) = Sums::label(&entry.path()).filter(|label| digest(&label.name) == id) else { return };
            if let (Ok(blob), Ok(sum)) = (fs::symlink_metadata(self.place.path(id)), entry.metadata()) {
                let used = sum.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                each(Kept { name: label.name, len: blob.len(), used, note: label.note });
            }
        })
    }

    /// Fetches a blob from the bucket into the local directory. With nothing to vouch for how
    /// fresh it is, its time is the epoch. Where there are keys, what is `mutable` must have been
    /// signed not long ago. One that is no good under our own prefix does not hide the main one's.
    pub fn from_bucket(&self, name: &str, mutable: bool, check: Check<'_>) -> Option<Blob> {
        let (bucket, place, digest) = (self.bucket.as_ref()?, &self.place, digest(name));
        let key = place.key(&digest);
        let mut found = bucket.get(&key, b"");
        while let Some(object) = found {
            let (own_prefix, old) = (object.own_prefix, object.old);
            match place.vouched(&key, &object, mutable) {
                Ok(signed) => match place.take(name, &digest, object, signed, check) {
                    Ok((blob, claim)) => {
                        place.tally.count(Event::BucketHit(blob.len));
                        if let Some(uploader) = self.uploader.as_ref().filter(|_| old) {
                            uploader.refresh(key, Some((place.kind.name(), digest, Some(claim.hash))));
                        }
                        return Some(blob);
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
            found = bucket.ask(&key, b"", true).ok().flatten();
        }
        place.tally.count(Event::BucketMiss);
        None
    }

    /// Begins a blob called `name`. Dropping the writer leaves nothing behind.
    pub fn writer(&self, name: &str) -> io::Result<BlobWriter> {
        let digest = digest(name);
        let bytes = self.place.begin(&digest)?;
        let label = Label::named(self.place.label(name));
        Ok(BlobWriter { place: self.place.clone(), uploader: self.uploader.clone(), digest, bytes, label })
    }
}

impl Place {
    fn path(&self, digest: &str) -> PathBuf {
        sharded_path(&self.root, self.kind.name(), digest)
    }

    fn key(&self, digest: &str) -> String {
        sharded(self.kind.name(), digest)
    }

    /// What may be said of `name` on disk: what modules are called is no secret, and URLs can be.
    fn label<'a>(&self, name: &'a str) -> &'a str {
        if self.kind == Kind::Module { name } else { "" }
    }

    /// The blob, if there is one and it is whole, and what is known of it.
    fn open(&self, digest: &str, name: &str) -> io::Result<Option<(Blob, Claim)>> {
        let path = self.path(digest);
        let mut file = match careful().open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Ok(None);
        }
        let Some((claim, note)) = self.sums.check(&path, &meta, &mut file, name)? else {
            self.metrics.bucket.corrupt.inc();
            self.damaged.tell(format_args!("{}: damaged on disk, and removed", path.display()));
            return Ok(None);
        };
        Ok(Some((Blob { file: file.into(), len: meta.len(), modified: meta.modified()?, note }, claim)))
    }

    fn begin(self: &Arc<Self>, digest: &str) -> io::Result<Bytes> {
        let path = self.path(digest);
        Ok(Hashing::new(Spool::begin(path.parent().expect("a blob lies in a folder"), self.clone())?))
    }

    /// Takes note that something cannot be kept.
    fn cannot_keep(&self, error: &io::Error) {
        self.tally.count(Event::PutError);
        let root = self.root.display();
        self.unkept
            .tell(format_args!("{root}: cannot be written ({error}): answers of the proxies pass through, unkept"));
    }

    /// Gives `bytes` their name by `persist`; where that fails they are still there to be read.
    fn keep(&self, bytes: Bytes, persist: impl FnOnce(TempFile) -> io::Result<File>) -> io::Result<(File, bool)> {
        let mut file = bytes.to.again()?;
        io::Seek::rewind(&mut file)?;
        let Some(temp) = bytes.to.on_disk() else { return Ok((file, false)) };
        match persist(temp) {
            Ok(file) => Ok((file, true)),
            Err(e) => {
                self.cannot_keep(&e);
                io::Seek::rewind(&mut file)?;
                Ok((file, false))
            }
        }
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

    /// Takes an object into the local directory: the blob, and what it is.
    fn take(
        self: &Arc<Self>,
        name: &str,
        digest: &str,
        object: Object,
        signed: Option<Claim>,
        check: Check<'_>,
    ) -> io::Result<(Blob, Claim)> {
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
        let note = sound.map_err(|why| {
            self.metrics.bucket.corrupt.inc();
            io::Error::new(io::ErrorKind::InvalidData, why)
        })?;
        written(&mut bytes)?.set_modified(SystemTime::UNIX_EPOCH)?;
        let label = Label { note: note.to_string(), ..Label::named(self.label(name)) };
        let (file, _) = self.keep(bytes, |temp| self.sums.persist(&self.path(digest), temp, claim, &label))?;
        Ok((Blob { file: file.into(), len: got, modified: SystemTime::UNIX_EPOCH, note: label.note }, claim))
    }
}

impl Source for Place {
    fn upload(&self, name: &str, value: Option<OutputId>, bucket: &Bucket) -> Result<(), RemoteError> {
        // a marker is a file that anyone could have made
        if unhex::<32>(name).is_none() {
            return Ok(());
        }
        let Some((blob, claim)) = self.open(name, "")? else { return Ok(()) };
        if value.is_some_and(|value| value != claim.hash) {
            return Ok(());
        }
        let key = self.key(name);
        let signature = self.signer.sign_text(self.kind.name(), &key, &claim);
        let sent = bucket.put_if(&key, &PutBody::File(blob.file, blob.len), None, signature.as_deref());
        self.tally.count(if sent.is_ok() { Event::Pushed(blob.len) } else { Event::PushError });
        sent
    }
}

/// Bytes on their way to a blob.
type Bytes = Hashing<Spool>;

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
    label: Label,
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

    /// Notes one line of these bytes, which comes back in [`Blob::note`].
    pub fn note(&mut self, note: impl Into<String>) {
        self.label.note = note.into();
    }

    /// Puts the blob under its name, queues its upload, and returns it open. One with the same
    /// bytes that is there already is confirmed instead, unless its signature grows old. What the disk
    /// does not take is returned all the same.
    pub fn commit(self) -> io::Result<Blob> {
        let BlobWriter { place, uploader, digest, mut bytes, label } = self;
        place.tally.count(Event::Put);
        let (path, kind, now) = (place.path(&digest), place.kind.name(), SystemTime::now());
        let claim = Claim { hash: bytes.hash(), size: bytes.len, time: nanos(now) };
        if let Ok(Some((blob, there))) = place.open(&digest, "")
            && there.hash == claim.hash
        {
            place.tally.count(Event::PutPresent);
            if !place.signer.signs() || there.is_within(MUTABLE_FOR / 2) {
                // what cannot be confirmed is asked for again
                let _ = blob.file.set_modified(now);
                if blob.note != label.note {
                    let _ = place.sums.relabel(&path, there, &label);
                }
                return Ok(Blob { modified: now, note: label.note, ..blob });
            }
        }
        written(&mut bytes)?;
        let (file, kept) = place.keep(bytes, |temp| {
            Uploader::storing(uploader.as_ref(), kind, &digest, claim.hash, || {
                place.sums.persist(&path, temp, claim, &label)
            })
        })?;
        if kept {
            place.tally.count(Event::Stored(claim.size));
        }
        Ok(Blob { file: file.into(), len: claim.size, modified: now, note: label.note })
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.bytes.write(buf)
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
