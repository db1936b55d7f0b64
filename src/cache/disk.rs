//! The local cache directory.
//!
//! Layout, shared with the reference program: `action/<xx>/<action-id>` holds
//! `<output-id> <size>\n` and its mtime is when the output was put; `output/<xx>/<output-id>`
//! holds the bytes, and its mtime is when the output was last used, to within a granularity.
//! `recall/<xx>/<sha256 of scope>`, ours alone, keeps what the action files said when they were last
//! read (recall.rs).
//!
//! Invariants: an output appears under its name only after its length and SHA-256 were checked,
//! and before any action that names it; an action whose output is missing, of another size, not
//! a plain file or not ours to read is a miss. What is put replaces what is there, bytes and all; what comes from the
//! bucket fills a gap and replaces nothing. Last use is up to date before a get is answered.
//! Directories that we write into are real directories, never symbolic links. Several processes
//! may share one directory.

mod at_hand;
mod recall;

use std::fs::{self, File, FileTimes};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::id::{ActionId, Hashing, OutputId, sharded_path};
use crate::atomic::{TempFile, at};
use crate::folder::{ACTION, OUTPUT, RECALL, is_real_dir, make_real_dir};
use crate::platform::{careful, is_absent, is_own, mode, touch};
use crate::repeat::Repeat;

/// An action file is never longer than this.
pub(super) const ACTION_LEN: usize = 128;

/// The cache directory.
pub struct DiskCache {
    root: PathBuf,
    granularity: Duration,
    /// Every use is noted, however late the last one was.
    exactly: AtomicBool,
    /// What requests fail on.
    pub trouble: Repeat,
    /// Bytes of outputs taken in.
    added: AtomicU64,
    /// Held by who replaces an action of no use; shared by puts, whose actions are of use.
    mending: RwLock<()>,
    at_hand: Option<at_hand::AtHand>,
}

/// An action that the directory has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The output's id.
    pub output: OutputId,
    /// The output's size in bytes.
    pub size: u64,
    /// When it was put, to the nanosecond.
    pub time: SystemTime,
    /// Where its bytes are, absolute.
    pub path: PathBuf,
}

impl DiskCache {
    /// Opens the cache below `root`, an absolute path, and makes the directories that are missing. The time of last
    /// use is kept to within `granularity`.
    pub fn open(root: &Path, granularity: Duration) -> io::Result<Self> {
        for dir in [ACTION, OUTPUT] {
            make_real_dir(&root.join(dir))?;
        }
        Ok(DiskCache {
            root: root.to_path_buf(),
            granularity,
            exactly: AtomicBool::new(false),
            trouble: Repeat::new("requests failed on the cache directory"),
            added: AtomicU64::new(0),
            mending: RwLock::default(),
            at_hand: at_hand::AtHand::open(&root.join(ACTION), &root.join(OUTPUT)),
        })
    }

    /// Bytes of outputs taken in so far.
    pub fn added(&self) -> u64 {
        self.added.load(Ordering::Relaxed)
    }

    /// Notes every use from now on, or as exactly as [`Self::open`] was told: for sessions that
    /// begin while somebody prunes, who does not know of them.
    pub fn note_every_use(&self, exactly: bool) {
        self.exactly.store(exactly, Ordering::SeqCst);
    }

    /// The cache directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Looks `action` up. A damaged entry is a miss; an error is trouble with the disk.
    pub fn get(&self, action: &ActionId) -> io::Result<Option<Hit>> {
        let Some((output, size, time)) = self.read_action(&action.to_string())? else { return Ok(None) };
        let path = self.output_path(&output);
        let Some(meta) = stat_whole(&path, size)? else { return Ok(None) };
        // what was unused for long may be pruned at this very moment
        if self.touch(&path, &meta) && stat_whole(&path, size)?.is_none() {
            return Ok(None);
        }
        Ok(Some(Hit { output, size, time, path }))
    }

    /// As [`Self::get`], without ever waiting for the disk: `None` says nothing.
    pub fn get_at_hand(&self, action: &ActionId) -> Option<Hit> {
        let at_hand = self.at_hand.as_ref()?;
        // noting the use is for one who may wait
        let usable = |meta: &fs::Metadata, size| is_whole(meta, size) && is_readable(meta) && !self.is_stale(meta);
        let (recall::Known { output, size, time }, hex) = at_hand.get(action, usable)?;
        Some(Hit { output, size, time, path: sharded_path(&self.root, OUTPUT, &hex) })
    }

    /// Lets [`Self::get_at_hand`] go by what earlier processes have read for `scope`. Before the
    /// first get.
    pub fn recall(&self, scope: &str) {
        if let Some(recall) = self.at_hand.as_ref().and_then(|a| a.recall()) {
            recall.keep_in(sharded_path(&self.root, RECALL, &OutputId::of(scope.as_bytes()).to_string()));
        }
    }

    /// Keeps what was read for the next process. Its loss costs a little speed.
    pub fn save_recall(&self) {
        if let Some(recall) = self.at_hand.as_ref().and_then(|a| a.recall())
            && let Err(e) = recall.save()
        {
            log::debug!("{}: {e}", self.root.join(RECALL).display());
        }
    }

    /// Where the bytes of `output` are or would be.
    pub fn output_path(&self, output: &OutputId) -> PathBuf {
        sharded_path(&self.root, OUTPUT, &output.to_string())
    }

    /// What an action with this output is, put when the output was last used.
    pub fn output(&self, output: &OutputId) -> io::Result<Option<Hit>> {
        let path = self.output_path(output);
        let size = fs::symlink_metadata(&path).map_or(0, |meta| meta.len());
        let Some(meta) = stat_whole(&path, size)? else { return Ok(None) };
        Ok(Some(Hit { output: *output, size, time: meta.modified()?, path }))
    }

    /// Starts to take in the bytes of `output`.
    pub fn write_output(&self, output: OutputId, size: u64) -> io::Result<OutputWriter<'_>> {
        let path = self.output_path(&output);
        // the empty output, one in three, cannot be there with other bytes
        let empty = if size == 0 { stat_whole(&path, 0).ok().flatten() } else { None };
        let temp = if let Some(meta) = empty {
            self.touch(&path, &meta);
            None
        } else {
            Some(self.new_output(&output)?)
        };
        Ok(OutputWriter { disk: self, output, size, sum: Hashing::new(io::sink()), temp })
    }

    fn new_output(&self, output: &OutputId) -> io::Result<TempFile> {
        new_in(&self.root.join(OUTPUT).join(format!("{:02x}", output.0[0])))
    }

    /// Records that `action` has `output`, put at `time`, in place of what is there.
    pub fn link(&self, action: &ActionId, written: &Written, time: SystemTime) -> io::Result<Hit> {
        let _put = self.mending.read().expect("no holder panics");
        let (temp, path) = self.new_action(action, written, time)?;
        temp.persist(&path).map_err(at(&path))?;
        Ok(self.hit(written, time))
    }

    /// As [`Self::link`] for what the bucket has: where the directory has something of use, that stays
    /// and is what is returned.
    pub fn fill(&self, action: &ActionId, written: &Written, time: SystemTime) -> io::Result<Hit> {
        let (temp, path) = self.new_action(action, written, time)?;
        if temp.persist_new(&path).map_err(at(&path))? {
            return Ok(self.hit(written, time));
        }
        let _mend = self.mending.write().expect("no holder panics");
        if let Some(hit) = self.get(action)? {
            return Ok(hit);
        }
        let (temp, path) = self.new_action(action, written, time)?;
        temp.persist(&path).map_err(at(&path))?;
        Ok(self.hit(written, time))
    }

    fn new_action(&self, action: &ActionId, written: &Written, time: SystemTime) -> io::Result<(TempFile, PathBuf)> {
        let hex = action.to_string();
        let shard = self.root.join(ACTION).join(&hex[..2]);
        let mut temp = new_in(&shard)?;
        let line = format!("{} {}\n", written.output, written.size);
        temp.file().write_all(line.as_bytes()).map_err(at(&shard))?;
        temp.file().set_times(FileTimes::new().set_modified(time)).map_err(at(&shard))?;
        Ok((temp, shard.join(hex)))
    }

    fn hit(&self, written: &Written, time: SystemTime) -> Hit {
        let Written { output, size, .. } = *written;
        Hit { output, size, time, path: self.output_path(&output) }
    }

    /// Makes sure that an output just written is still under its name, and writes it again where it was
    /// removed meanwhile. An error where that does not help.
    pub fn ensure(&self, written: &mut Written) -> io::Result<()> {
        let path = self.output_path(&written.output);
        for _ in 0..3 {
            if stat_whole(&path, written.size)?.is_some() {
                return Ok(());
            }
            let mut temp = self.new_output(&written.output)?;
            if let Some(bytes) = &mut written.file {
                bytes.rewind()?;
                io::copy(bytes, temp.file()).map_err(at(&path))?;
            }
            written.file = Some(temp.persist(&path).map_err(at(&path))?);
        }
        Err(io::Error::new(io::ErrorKind::NotFound, format!("{}: others remove it at once", path.display())))
    }

    fn read_action(&self, hex: &str) -> io::Result<Option<(OutputId, u64, SystemTime)>> {
        let path = sharded_path(&self.root, ACTION, hex);
        let file = match careful().open(&path) {
            // one that is kept from us is of no use, and the next put replaces it
            Err(e) if is_absent(&e) || e.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
            other => other.map_err(at(&path))?,
        };
        let mut text = Vec::with_capacity(ACTION_LEN);
        match (&file).take(ACTION_LEN as u64).read_to_end(&mut text) {
            Err(e) if is_absent(&e) => return Ok(None),
            read => read.map_err(at(&path))?,
        };
        let Some((output, size)) = parse_action(&text) else { return Ok(None) };
        Ok(Some((output, size, file.metadata()?.modified()?)))
    }

    /// Keeps the time of last use, coarsely, so that most gets write nothing. Tells whether it wrote.
    fn touch(&self, path: &Path, meta: &fs::Metadata) -> bool {
        let stale = self.is_stale(meta);
        if stale {
            // somebody else's file, which we may not write: then its owner's uses have to do
            let _ = touch(path);
        }
        stale
    }

    fn is_stale(&self, meta: &fs::Metadata) -> bool {
        let granularity = if self.exactly.load(Ordering::Relaxed) { Duration::ZERO } else { self.granularity };
        // where the clock was put back, no time in the future tells of a use
        let age = |t: SystemTime| SystemTime::now().duration_since(t).unwrap_or_else(|ahead| ahead.duration());
        meta.modified().is_ok_and(|t| age(t) > granularity)
    }
}

/// An output that was taken in.
#[derive(Debug)]
pub struct Written {
    /// Its id.
    pub output: OutputId,
    /// Its size in bytes.
    pub size: u64,
    /// Its bytes, should they have to be written again; none where the empty output was there.
    file: Option<File>,
}

/// The bytes of an output on their way in.
pub struct OutputWriter<'a> {
    disk: &'a DiskCache,
    output: OutputId,
    size: u64,
    sum: Hashing<io::Sink>,
    temp: Option<TempFile>,
}

impl OutputWriter<'_> {
    /// Checks what was written and gives it its name. `InvalidData` when the length or the
    /// SHA-256 is not the one promised; nothing is kept then.
    pub fn commit(self) -> io::Result<Written> {
        if self.sum.len != self.size {
            return Err(invalid(format!("body has {} bytes, not the {} promised", self.sum.len, self.size)));
        }
        let got = self.sum.hash();
        if got != self.output {
            return Err(invalid(format!("body has SHA-256 {got}, not the output id {}", self.output)));
        }
        let path = self.disk.output_path(&self.output);
        let file = self.temp.map(|temp| temp.persist(&path)).transpose().map_err(at(&path))?;
        self.disk.added.fetch_add(self.size, Ordering::Relaxed);
        Ok(Written { output: self.output, size: self.size, file })
    }
}

impl Write for OutputWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sum.write_all(bytes)?;
        if self.sum.len > self.size {
            return Err(invalid(format!("body is longer than the {} bytes promised", self.size)));
        }
        if let Some(temp) = &mut self.temp {
            temp.file().write_all(bytes).map_err(|e| at(&self.disk.output_path(&self.output))(e))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A temporary file in the directory `shard`, which is made where it is missing: another process may clear the
/// cache under us.
fn new_in(shard: &Path) -> io::Result<TempFile> {
    let create = || TempFile::create(shard).map_err(at(shard));
    match is_real_dir(shard).then(create) {
        Some(made) if !made.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) => made,
        _ => make_real_dir(shard).and_then(|()| create()),
    }
}

/// Parses `<output-id> <size>\n`.
pub(super) fn parse_action(text: &[u8]) -> Option<(OutputId, u64)> {
    let (output, size) = std::str::from_utf8(text).ok()?.strip_suffix('\n')?.split_once(' ')?;
    if size.starts_with('+') {
        return None;
    }
    Some((OutputId::from_hex(output)?, size.parse().ok()?))
}

/// The metadata of an output of `size` bytes; `None` where there is none, or not as it should be.
fn stat_whole(path: &Path, size: u64) -> io::Result<Option<fs::Metadata>> {
    match fs::symlink_metadata(path) {
        Err(e) if is_absent(&e) => Ok(None),
        other => {
            let meta = other.map_err(at(path))?;
            let usable = is_whole(&meta, size) && (is_readable(&meta) || careful().open(path).is_ok());
            Ok(usable.then_some(meta))
        }
    }
}

/// Whether we may read it, by what its mode grants to its owner and to all.
fn is_readable(meta: &fs::Metadata) -> bool {
    mode(meta) & 0o004 != 0 || mode(meta) & 0o400 != 0 && is_own(meta)
}

fn is_whole(meta: &fs::Metadata, size: u64) -> bool {
    meta.is_file() && meta.len() == size
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    pub(super) struct Dir(pub(super) PathBuf);

    impl Dir {
        pub(super) fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("gcp-disk-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Dir(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn put(cache: &DiskCache, action: &ActionId, body: &[u8], time: SystemTime) -> io::Result<Hit> {
        let output = OutputId::of(body);
        let mut writer = cache.write_output(output, body.len() as u64)?;
        writer.write_all(body)?;
        let mut written = writer.commit()?;
        let hit = cache.link(action, &written, time)?;
        cache.ensure(&mut written).map(|()| hit)
    }

    fn action(n: u8) -> ActionId {
        ActionId::new(&[n; 32]).unwrap()
    }

    #[test]
    fn what_is_put_is_got_with_its_time() {
        let dir = Dir::new("roundtrip");
        let cache = DiskCache::open(&dir.0, Duration::from_secs(3600)).unwrap();
        assert_eq!(cache.get(&action(1)).unwrap(), None);
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        let hit = put(&cache, &action(1), b"hello", time).unwrap();
        assert_eq!(cache.get(&action(1)).unwrap(), Some(hit.clone()));
        assert_eq!(fs::read(&hit.path).unwrap(), b"hello");
        let text = fs::read_to_string(sharded_path(&dir.0, ACTION, &action(1).to_string())).unwrap();
        assert_eq!(text, format!("{} 5\n", OutputId::of(b"hello")));
    }

    #[test]
    fn what_is_at_hand_is_what_get_finds() {
        let dir = Dir::new("at-hand");
        let cache = DiskCache::open(&dir.0, Duration::from_secs(3600)).unwrap();
        assert_eq!(cache.get_at_hand(&action(1)), None);
        let hit = put(&cache, &action(1), b"hello", SystemTime::now()).unwrap();
        // a system that cannot look without waiting finds nothing
        if let Some(at_hand) = cache.get_at_hand(&action(1)) {
            assert_eq!(at_hand, hit);
        }
        fs::write(&hit.path, b"hell").unwrap();
        assert_eq!(cache.get_at_hand(&action(1)), None);
        fs::write(&hit.path, b"hello").unwrap();
        File::open(&hit.path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(cache.get_at_hand(&action(1)), None, "its use is not noted yet");
        assert!(cache.get(&action(1)).unwrap().is_some());
        fs::remove_file(&hit.path).unwrap();
        assert_eq!(cache.get_at_hand(&action(1)), None);
    }

    #[test]
    fn wrong_bytes_leave_nothing_behind() {
        let dir = Dir::new("wrong");
        let cache = DiskCache::open(&dir.0, Duration::from_secs(3600)).unwrap();
        let output = OutputId::of(b"right");
        for body in [&b"wrong"[..], b"righ", b"right and more"] {
            let mut writer = cache.write_output(output, 5).unwrap();
            let result = writer.write_all(body).and_then(|()| writer.commit());
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        let shard = cache.output_path(&output);
        assert_eq!(fs::read_dir(shard.parent().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn an_output_of_other_bytes_is_replaced_and_one_that_went_is_written_again() {
        let dir = Dir::new("same");
        let cache = DiskCache::open(&dir.0, Duration::from_secs(3600)).unwrap();
        let hit = put(&cache, &action(1), b"same", SystemTime::now()).unwrap();
        fs::write(&hit.path, b"evil").unwrap();
        put(&cache, &action(2), b"same", SystemTime::now()).unwrap();
        assert_eq!(fs::read(&hit.path).unwrap(), b"same");
        for body in [&b"gone"[..], b""] {
            let mut writer = cache.write_output(OutputId::of(body), body.len() as u64).unwrap();
            writer.write_all(body).unwrap();
            let mut written = writer.commit().unwrap();
            let path = cache.output_path(&written.output);
            fs::remove_file(&path).unwrap();
            cache.ensure(&mut written).unwrap();
            assert_eq!(fs::read(path).unwrap(), body);
        }
    }

    #[test]
    fn what_fills_a_gap_replaces_nothing_of_use() {
        let dir = Dir::new("fill");
        let cache = DiskCache::open(&dir.0, Duration::from_secs(3600)).unwrap();
        let fill = |body: &[u8]| {
            let mut writer = cache.write_output(OutputId::of(body), body.len() as u64).unwrap();
            writer.write_all(body).unwrap();
            cache.fill(&action(1), &writer.commit().unwrap(), SystemTime::now()).unwrap().output
        };
        assert_eq!(fill(b"first"), OutputId::of(b"first"));
        put(&cache, &action(1), b"put", SystemTime::now()).unwrap();
        assert_eq!(fill(b"late"), OutputId::of(b"put"), "what is there is the answer");
        fs::remove_file(cache.output_path(&OutputId::of(b"put"))).unwrap();
        assert_eq!(fill(b"late"), OutputId::of(b"late"), "an action without its output is a gap");
    }

    #[test]
    fn damage_is_a_miss_and_the_next_put_mends_it() {
        let dir = Dir::new("damage");
        let cache = DiskCache::open(&dir.0, Duration::from_secs(3600)).unwrap();
        let hit = put(&cache, &action(1), b"body", SystemTime::now()).unwrap();
        fs::write(&hit.path, b"bod").unwrap();
        assert_eq!(cache.get(&action(1)).unwrap(), None);
        put(&cache, &action(1), b"body", SystemTime::now()).unwrap();
        assert_eq!(fs::read(&hit.path).unwrap(), b"body");
        let file = sharded_path(&dir.0, ACTION, &action(1).to_string());
        for bad in ["", "zz 4\n", "abcd 4\n", &format!("{} +4\n", hit.output), &format!("{} 4", hit.output)] {
            fs::write(&file, bad).unwrap();
            assert_eq!(cache.get(&action(1)).unwrap(), None, "{bad:?}");
        }
    }

    #[test]
    fn links_never_lead_a_write_outside() {
        let dir = Dir::new("links");
        let outside = Dir::new("links-outside");
        fs::create_dir_all(&outside.0).unwrap();
        let cache = DiskCache::open(&dir.0, Duration::from_secs(3600)).unwrap();
        let output = OutputId::of(b"body");
        symlink(&outside.0, dir.0.join(OUTPUT).join(format!("{:02x}", output.0[0]))).unwrap();
        assert!(put(&cache, &action(1), b"body", SystemTime::now()).is_err());
        assert_eq!(fs::read_dir(&outside.0).unwrap().count(), 0);

        // a link in an output's own place is replaced, not followed
        let other = OutputId::of(b"other");
        let target = outside.0.join("target");
        fs::write(&target, b"other").unwrap();
        let path = cache.output_path(&other);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(&target, &path).unwrap();
        put(&cache, &action(2), b"other", SystemTime::now()).unwrap();
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink());
    }
}
