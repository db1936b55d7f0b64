//! What blobs on disk must be: beside each, `<name>.sum` holds a line for it, the text form of a
//! [`Claim`]; where it was replaced, a second line for what was there before; then its [`Label`]:
//! `name <name>`, and `note <sha256> <text>`, which counts for a blob of that content alone.
//!
//! Invariants: the line of a blob is there before the blob, beside that of the blob that it
//! replaces, so that a kill in between leaves one of the two, and it is right. A blob that no line
//! fits is damaged, and goes; one without lines (from another program, or an older version) is taken
//! as it is, and gets one. The time of the `.sum` file is when the blob was last used, kept to
//! within [`USE_GRANULARITY`].

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::atomic::{self, TempFile, read_text};
use crate::bounded::Bounded;
use crate::folder::sum_of;
use crate::id::Hashing;
use crate::platform::{self, careful, is_at};
use crate::sign::{Claim, nanos};

/// All lines are shorter than this: a name comes in a request's line.
const LIMIT: u64 = 16 << 10;
/// How exactly the time of last use is kept.
const USE_GRANULARITY: Duration = Duration::from_secs(3600);
/// File systems' clocks are at least this exact.
const TICK: Duration = Duration::from_millis(20);
/// How long it is taken for granted that the lines of a file that was whole are there.
const LOOKED: Duration = Duration::from_secs(60);
/// Files remembered as whole at most.
const REMEMBERED: usize = 4096;

/// A file as it was when its hash was right: inode, change time, length.
type State = ((u64, i64, i64), u64);

/// Of a whole blob, its line and its owner's note; `None` of a damaged one.
type Checked = io::Result<Option<(Claim, String)>>;

/// What its owner says of a blob.
#[derive(Clone, Debug, Default)]
pub(super) struct Label {
    /// What it is called; empty where that is nobody's business.
    pub(super) name: String,
    /// One line of its owner's, empty for none.
    pub(super) note: String,
}

impl Label {
    /// One without a note.
    pub(super) fn named(name: &str) -> Self {
        Label { name: name.to_string(), note: String::new() }
    }
}

/// The files that this process has found whole, with their notes, and when their lines were last looked for.
pub(super) struct Sums(Bounded<PathBuf, (State, Claim, String, Instant)>);

impl Default for Sums {
    fn default() -> Self {
        Sums(Bounded::new(REMEMBERED))
    }
}

impl Sums {
    /// Checks the open `file` that is called `path` and is as `meta` says, and leaves it at its start.
    /// One that is damaged is removed, and one that nobody has named yet becomes `name`.
    pub(super) fn check(&self, path: &Path, meta: &Metadata, file: &mut File, name: &str) -> Checked {
        let (known, sum_path) = (self.0.get(path).filter(|known| known.0 == state(meta)), sum_of(path));
        if let Some((_, claim, note, looked)) = known {
            if looked.elapsed() < LOOKED {
                return Ok(Some((claim, note)));
            }
            if used(&sum_path) {
                self.remember(path, meta, claim, &note);
                return Ok(Some((claim, note)));
            }
        }
        let text = read(&sum_path);
        let (lines, mut hasher) = (claims(&text), Hashing::new(io::sink()));
        let whole = lines.is_empty() || lines.iter().any(|line| line.size == meta.len());
        if whole {
            io::copy(file, &mut hasher)?;
            io::Seek::rewind(file)?;
        }
        let hash = hasher.hash();
        let claim = if lines.is_empty() {
            let claim = Claim { hash, size: meta.len(), time: nanos(meta.modified()?) };
            // in the place of nobody else's, who may just be replacing the blob; in a directory that is
            // not ours there is none
            let label = Label::named(name);
            match File::create_new(&sum_path) {
                Ok(mut sum) => sum.write_all(lines_of(claim, None, &label).as_bytes())?,
                Err(_) if claims(&read(&sum_path)).is_empty() => drop(write(path, claim, None, &label)),
                Err(_) => {}
            }
            claim
        } else if let Some(claim) = lines.into_iter().find(|line| whole && (line.hash, line.size) == (hash, meta.len()))
        {
            used(&sum_path);
            if !name.is_empty() && name_in(&text).is_none() {
                // from an older version
                let _ = write(path, claim, None, &Label::named(name));
            }
            claim
        } else {
            if is_at(file, path) {
                fs::remove_file(path)?;
                let _ = fs::remove_file(&sum_path);
            }
            return Ok(None);
        };
        let note = note_in(&text, claim);
        self.remember(path, meta, claim, &note);
        Ok(Some((claim, note)))
    }

    /// Gives the finished `temp`, which is as `claim` and `label` say, the name `path`.
    pub(super) fn persist(&self, path: &Path, temp: TempFile, claim: Claim, label: &Label) -> io::Result<File> {
        // one without lines gets one here, to stand beside the new one
        let before = match careful().open(path) {
            Ok(mut file) => self.check(path, &file.metadata()?, &mut file, "")?.map(|(claim, _)| claim),
            Err(_) => None,
        };
        write(path, claim, before, label)?;
        temp.persist(path)
    }

    /// Says something else of the blob at `path`, which is as `claim` says.
    pub(super) fn relabel(&self, path: &Path, claim: Claim, label: &Label) -> io::Result<()> {
        write(path, claim, None, label)?;
        self.0.remove(path);
        Ok(())
    }

    /// The name and the note in the `.sum` file `path`, where it has a name.
    pub(super) fn label(path: &Path) -> Option<Label> {
        let text = read(path);
        let note = claims(&text).first().map(|claim| note_in(&text, *claim)).unwrap_or_default();
        Some(Label { name: name_in(&text)?, note })
    }

    /// Takes note that a file is whole, unless another change so soon might not show.
    fn remember(&self, path: &Path, meta: &Metadata, claim: Claim, note: &str) {
        let (_, seconds, nanos) = platform::state(meta);
        let changed = UNIX_EPOCH + Duration::new(seconds.max(0) as u64, nanos.max(0) as u32);
        if !SystemTime::now().duration_since(changed).is_ok_and(|age| age > TICK) {
            return;
        }
        self.0.insert(path.to_path_buf(), (state(meta), claim, note.to_string(), Instant::now()));
    }
}

/// Replaces the lines of `path`.
fn write(path: &Path, claim: Claim, before: Option<Claim>, label: &Label) -> io::Result<()> {
    atomic::write(&sum_of(path), lines_of(claim, before, label).as_bytes())
}

fn lines_of(claim: Claim, before: Option<Claim>, label: &Label) -> String {
    let mut text = format!("{claim}\n");
    if let Some(before) = before {
        text += &format!("{before}\n");
    }
    // what would be no line, or not be read back whole, is not said
    let fits = |line: &str| !line.is_empty() && line.len() < 8000 && !line.contains(char::is_control);
    if fits(&label.name) {
        text += &format!("name {}\n", label.name);
    }
    if fits(&label.note) {
        text += &format!("note {} {}\n", claim.hash, label.note);
    }
    text
}

fn name_in(text: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix("name ")).map(str::to_string)
}

fn note_in(text: &str, claim: Claim) -> String {
    let start = format!("note {} ", claim.hash);
    text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_default().to_string()
}

fn state(meta: &Metadata) -> State {
    (platform::state(meta), meta.len())
}

/// What a `.sum` file says; nothing where there is no such file.
fn read(path: &Path) -> String {
    read_text(path, LIMIT).unwrap_or_default()
}

/// The lines that we wrote of the blob, in such a text.
fn claims(text: &str) -> Vec<Claim> {
    text.lines().filter_map(Claim::parse).map(|(claim, _)| claim).collect()
}

/// Takes note of a use; `false` where there is no such plain file.
fn used(path: &Path) -> bool {
    let Some(meta) = fs::symlink_metadata(path).ok().filter(|meta| meta.is_file()) else { return false };
    if matches!(meta.modified().map(|t| SystemTime::now().duration_since(t)), Ok(Ok(age)) if age > USE_GRANULARITY) {
        // somebody else's file, which we may not write: then its owner's uses have to do
        let _ = platform::touch(path);
    }
    true
}
