//! What the action files said when they were last read, so that most need not be read again.
//!
//! Looking a directory's state up costs a tenth of opening, reading and closing a file in it, and
//! says that all its files are what they were: action files are only ever renamed into place. Without
//! it the toolchain bench's row "our processor time by the build's, warm" is a fifth higher.
//!
//! Invariants: what was learnt about an action holds while its shard directory is the same inode
//! with the same time of change; it is learnt only when that time was, before anything was read, so
//! long ago that a later change must show. It is a hint: a file that is not at hand, or not whole, is as good as none.
//!
//! The file, at most one for each scope: a magic, then for each shard its first byte, inode, time
//! of change (seconds, nanoseconds) and number of actions, then these, then the SHA-256 of it all.
//! All numbers are little-endian.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime};

use crate::atomic::TempFile;
use crate::cache::cursor::Cursor;
use crate::cache::id::{ActionId, OutputId};
use crate::folder::make_real_dir;
use crate::platform::{self, Wanted};

const MAGIC: &[u8; 8] = b"gcprec1\n";
/// Bytes of the ids that are learnt: those of `go`.
const ID: usize = 32;
/// The directories that actions are spread over.
pub const SHARDS: usize = 256;
/// Actions remembered of one shard at most.
const LIMIT: usize = 128;
/// Bytes of the file at most: every shard full.
const MAX_FILE: usize = SHARDS * (32 + 84 * LIMIT) + 64;
/// A directory that changed less than this ago may change again without its time of change showing
/// it: file systems keep that time as coarsely as this.
const SETTLED: Duration = Duration::from_secs(2);

/// What an action file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The output's id.
    pub output: OutputId,
    /// The output's size in bytes.
    pub size: u64,
    /// When it was put.
    pub time: SystemTime,
}

/// The actions read so far.
pub struct Recall {
    shards: Vec<Mutex<Shard>>,
    settled: Duration,
    /// Where it is kept from one process to the next.
    file: OnceLock<PathBuf>,
    loaded: OnceLock<()>,
    /// Actions learnt since it was last written.
    learnt: AtomicUsize,
}

#[derive(Default)]
struct Shard {
    dir: Option<File>,
    /// The directory's, when all of `known` held.
    state: State,
    known: Vec<Learnt>,
}

struct Learnt {
    action: ActionId,
    known: Known,
    /// Whether this process asked for it.
    used: bool,
}

/// A directory's state.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct State {
    inode: u64,
    /// Seconds and nanoseconds.
    changed: (i64, u32),
}

impl Default for Recall {
    fn default() -> Self {
        Recall {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            settled: SETTLED,
            file: OnceLock::new(),
            loaded: OnceLock::new(),
            learnt: AtomicUsize::new(0),
        }
    }
}

impl Recall {
    /// Keeps what is learnt in `file`. Before the first look.
    pub fn keep_in(&self, file: PathBuf) {
        let _ = self.file.set(file);
    }

    /// What `action`'s file says: what was learnt, or what `read` returns. `open` opens a shard by
    /// its name.
    pub fn get(
        &self,
        action: &ActionId,
        open: impl Fn(&str) -> Option<File>,
        read: impl FnOnce() -> Option<Known>,
    ) -> Option<Known> {
        self.loaded.get_or_init(|| self.load());
        let now = SystemTime::now();
        let first = action.as_bytes()[0];
        let mut shard = self.shard(first);
        if !shard.is_current(|| open(&format!("{first:02x}")))? {
            shard.known.clear();
        }
        if let Some(learnt) = shard.known.iter_mut().find(|l| l.action == *action) {
            learnt.used = true;
            return Some(learnt.known);
        }
        let known = read()?;
        if action.as_bytes().len() == ID && shard.state.age(now) > Some(self.settled) {
            if shard.known.len() >= LIMIT {
                shard.known.clear();
            }
            shard.known.push(Learnt { action: *action, known, used: true });
            self.learnt.fetch_add(1, Ordering::Relaxed);
        }
        Some(known)
    }

    /// Writes what was learnt for the next process, where it is worth it.
    pub fn save(&self) -> io::Result<()> {
        let learnt = self.learnt.swap(0, Ordering::Relaxed);
        let Some(file) = self.file.get().filter(|_| learnt > 0) else { return Ok(()) };
        let (mut text, mut count) = (MAGIC.to_vec(), 0);
        for first in 0..=u8::MAX {
            let shard = self.shard(first);
            // what nobody asks for any more makes room
            let all = shard.known.len() < LIMIT / 2;
            let known: Vec<&Learnt> = shard.known.iter().filter(|l| all || l.used).collect();
            if !known.is_empty() {
                text.push(first);
                shard.state.encode(&mut text);
                text.extend_from_slice(&(known.len() as u32).to_le_bytes());
                known.iter().for_each(|l| l.encode(&mut text));
            }
            count += known.len();
        }
        if learnt <= count / 32 {
            return Ok(()); // reading so few again costs less than writing all
        }
        text.extend_from_slice(&OutputId::of(&text).0);
        let dir = file.parent().ok_or(io::ErrorKind::InvalidInput)?;
        dir.parent().map_or(Ok(()), make_real_dir)?;
        make_real_dir(dir)?;
        let mut temp = TempFile::create(dir)?;
        temp.file().write_all(&text)?;
        temp.persist(file).map(drop)
    }

    /// Reads the file, if that takes no waiting.
    fn load(&self) {
        let Some(text) = self.file.get().and_then(|file| read_at_hand(file)) else { return };
        if let Err(why) = self.decode(&text) {
            log::debug!("{:?} will be written anew: {why}", self.file.get());
        }
    }

    fn decode(&self, text: &[u8]) -> Result<(), String> {
        let (text, digest) = text.split_last_chunk::<32>().ok_or("it is cut off")?;
        if OutputId::of(text).0 != *digest {
            return Err("its SHA-256 is wrong".into());
        }
        let mut at = Cursor(text.strip_prefix(MAGIC).ok_or("it is of another format")?);
        while !at.0.is_empty() {
            let [first] = at.array()?;
            let mut shard = self.shard(first);
            shard.state = State::decode(&mut at)?;
            for _ in 0..at.u32()? {
                shard.known.push(Learnt::decode(&mut at)?);
            }
        }
        Ok(())
    }

    fn shard(&self, first: u8) -> MutexGuard<'_, Shard> {
        self.shards[first as usize].lock().expect("no holder panics")
    }
}

impl Shard {
    /// Looks at the directory: whether what is known of it still holds. `None` where it is not at hand.
    fn is_current(&mut self, open: impl Fn() -> Option<File>) -> Option<bool> {
        if let Some(dir) = &self.dir
            && State::of(dir)? == self.state
        {
            return Some(true);
        }
        // another directory may have come in its place
        self.dir = open();
        let state = State::of(self.dir.as_ref()?)?;
        Some(state == std::mem::replace(&mut self.state, state))
    }
}

impl Learnt {
    fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.action.as_bytes());
        to.extend_from_slice(&self.known.output.0);
        to.extend_from_slice(&self.known.size.to_le_bytes());
        // times before 1970 are kept as that
        let time = self.known.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        to.extend_from_slice(&time.as_secs().to_le_bytes());
        to.extend_from_slice(&time.subsec_nanos().to_le_bytes());
    }

    fn decode(at: &mut Cursor<&[u8]>) -> Result<Self, String> {
        let action = ActionId::new(&at.array::<ID>()?).ok_or("an action without an id")?;
        let output = OutputId(at.array()?);
        let size = u64::from_le_bytes(at.array()?);
        let secs = Duration::from_secs(u64::from_le_bytes(at.array()?));
        let nanos = Duration::from_nanos(at.u32()?.into());
        let time = SystemTime::UNIX_EPOCH.checked_add(secs).and_then(|t| t.checked_add(nanos));
        let known = Known { output, size, time: time.ok_or("a time out of range")? };
        Ok(Learnt { action, known, used: false })
    }
}

/// Reads a file that the kernel has in memory.
fn read_at_hand(path: &Path) -> Option<Vec<u8>> {
    let file = platform::look_up(None, path, Wanted::Content)?;
    let len = usize::try_from(file.metadata().ok()?.len()).ok().filter(|len| *len <= MAX_FILE)?;
    let mut text = vec![0; len];
    let mut read = 0;
    while read < len {
        match platform::read_at_hand(&file, &mut text[read..], read as u64)? {
            0 => return None,
            n => read += n,
        }
    }
    Some(text)
}

impl State {
    fn of(dir: &File) -> Option<State> {
        let (inode, seconds, nanos) = platform::state(&dir.metadata().ok()?);
        Some(State { inode, changed: (seconds, nanos as u32) })
    }

    /// How long before `now` the directory changed; `None` where the clocks disagree.
    fn age(&self, now: SystemTime) -> Option<Duration> {
        let secs = Duration::from_secs(u64::try_from(self.changed.0).ok()?);
        let changed = secs + Duration::from_nanos(self.changed.1.into());
        now.duration_since(SystemTime::UNIX_EPOCH.checked_add(changed)?).ok()
    }

    fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.inode.to_le_bytes());
        to.extend_from_slice(&self.changed.0.to_le_bytes());
        to.extend_from_slice(&self.changed.1.to_le_bytes());
    }

    fn decode(at: &mut Cursor<&[u8]>) -> Result<Self, String> {
        let inode = u64::from_le_bytes(at.array()?);
        Ok(State { inode, changed: (i64::from_le_bytes(at.array()?), at.u32()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::disk::tests::Dir;
    use std::fs;
    use std::thread;

    /// More than a file system's clock may stand still.
    const TICK: Duration = Duration::from_millis(20);

    fn new_shard(name: &str) -> Dir {
        let dir = Dir::new(&format!("recall-{name}"));
        fs::create_dir_all(dir.0.join("01")).unwrap();
        dir
    }

    fn put(dir: &Dir, text: &str) {
        let mut temp = TempFile::create(&dir.0.join("01")).unwrap();
        temp.file().write_all(text.as_bytes()).unwrap();
        temp.persist(&dir.0.join("01/file")).unwrap();
    }

    /// With what `file` keeps, whether or not this system can read it without waiting.
    fn recall(file: &Path) -> Recall {
        let recall = Recall { settled: Duration::ZERO, ..Recall::default() };
        recall.keep_in(file.to_path_buf());
        if let Ok(text) = fs::read(file) {
            let _ = recall.decode(&text);
        }
        recall.loaded.set(()).unwrap();
        recall
    }

    fn action(n: u32) -> ActionId {
        let mut id = [1; ID];
        id[28..].copy_from_slice(&n.to_be_bytes());
        ActionId::new(&id).unwrap()
    }

    fn known(n: u64) -> Known {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        Known { output: OutputId([n as u8; 32]), size: n, time }
    }

    /// What `recall` says of action `n`, and whether that took reading a file that says `text`.
    fn get(recall: &Recall, dir: &Dir, n: u32, text: u64) -> (Option<Known>, bool) {
        let mut read = false;
        let open = |shard: &str| File::open(dir.0.join(shard)).ok();
        let known = recall.get(&action(n), open, || {
            read = true;
            Some(known(text))
        });
        (known, read)
    }

    #[test]
    fn a_file_is_read_again_only_when_its_directory_has_changed() {
        let dir = new_shard("again");
        put(&dir, "1");
        let recall = recall(&dir.0.join("kept"));
        assert_eq!(get(&recall, &dir, 1, 1), (Some(known(1)), true));
        assert_eq!(get(&recall, &dir, 1, 2), (Some(known(1)), false));
        thread::sleep(TICK);
        put(&dir, "2");
        assert_eq!(get(&recall, &dir, 1, 2), (Some(known(2)), true));
        assert_eq!(get(&recall, &dir, 1, 3), (Some(known(2)), false));
        thread::sleep(TICK);
        // another directory in its place
        fs::rename(dir.0.join("01"), dir.0.join("old")).unwrap();
        fs::create_dir(dir.0.join("01")).unwrap();
        assert_eq!(get(&recall, &dir, 1, 3), (Some(known(3)), true));
        thread::sleep(TICK);
        // and none
        fs::remove_dir(dir.0.join("01")).unwrap();
        assert_eq!(get(&recall, &dir, 1, 3), (None, false));
    }

    #[test]
    fn nothing_is_learnt_of_a_directory_that_has_just_changed() {
        let dir = new_shard("settled");
        let recall = Recall::default();
        for n in 1..4 {
            assert_eq!(get(&recall, &dir, 1, n), (Some(known(n)), true));
        }
    }

    #[test]
    fn the_next_process_knows_it() {
        let dir = new_shard("next");
        let file = dir.0.join("kept/file");
        let first = recall(&file);
        for n in 0..100 {
            get(&first, &dir, n, n.into());
        }
        fs::create_dir(dir.0.join("kept")).unwrap();
        first.save().unwrap();
        let next = recall(&file);
        for n in 0..100 {
            assert_eq!(get(&next, &dir, n, 1000), (Some(known(n.into())), false));
        }
        assert_eq!(get(&next, &dir, 100, 100), (Some(known(100)), true));
        // too little is new to be written
        let before = fs::read(&file).unwrap();
        next.save().unwrap();
        assert_eq!(fs::read(&file).unwrap(), before);
        thread::sleep(TICK);
        // another change, and all is read anew
        put(&dir, "x");
        assert_eq!(get(&recall(&file), &dir, 1, 7), (Some(known(7)), true));
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let dir = new_shard("damaged");
        let file = dir.0.join("kept");
        let first = recall(&file);
        get(&first, &dir, 1, 1);
        first.save().unwrap();
        let text = fs::read(&file).unwrap();
        for at in 0..text.len() {
            let mut damaged = text.clone();
            damaged[at] ^= 1;
            fs::write(&file, &damaged).unwrap();
            assert_eq!(get(&recall(&file), &dir, 1, 2), (Some(known(2)), true), "byte {at}");
            fs::write(&file, &text[..at]).unwrap();
            assert_eq!(get(&recall(&file), &dir, 1, 2), (Some(known(2)), true), "cut at {at}");
        }
    }

    #[test]
    fn it_is_bounded_and_makes_room_for_what_is_used() {
        let dir = new_shard("bounded");
        let file = dir.0.join("kept");
        let first = recall(&file);
        for n in 0..LIMIT as u32 {
            get(&first, &dir, n, 1);
        }
        first.save().unwrap();
        let next = recall(&file);
        for n in 0..10 {
            assert!(!get(&next, &dir, n, 1).1);
        }
        // as if something in another shard were new
        next.learnt.store(LIMIT, Ordering::Relaxed);
        next.save().unwrap();
        let last = recall(&file);
        assert!(!get(&last, &dir, 9, 1).1);
        assert!(get(&last, &dir, 10, 1).1);
        for n in 0..10 * LIMIT as u32 {
            get(&last, &dir, n, 1);
            assert!(last.shard(1).known.len() <= LIMIT);
        }
    }
}
