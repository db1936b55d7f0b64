//! Looking an action up in what the kernel holds in memory.
//!
//! A warm build asks for thousands of actions one after the other, and handing each to another
//! thread costs more than looking it up. So whoever reads the requests looks here first. Without it
//! the toolchain bench's row "warm" is a sixth slower.
//!
//! Invariant: nothing here waits for the disk. What would have to wait, is not there, or is not as
//! it should be, is `None`, which says nothing about the cache.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::recall::{Known, Recall, SHARDS};
use super::{ACTION_LEN, parse_action};
use crate::cache::id::ActionId;
use crate::platform::{Wanted, has_name, is_at, is_local, look_up, make_room, open_folder, read_at_hand};

/// So long after it was seen that the folders are where they were, it is looked at again: in a directory that was
/// moved away, actions are not what they are in its place, and outputs have other names than are told.
const IN_PLACE: Duration = Duration::from_millis(2);

/// The directories whose files are looked up.
pub struct AtHand {
    actions: File,
    outputs: File,
    /// Where these are to be, and when they were last seen there.
    places: ([PathBuf; 2], Mutex<Instant>),
    /// `None` where a process may open few files.
    recall: Option<Recall>,
    /// The empty output, which one get in two or three is answered with. Held open, it says by itself
    /// whether it is still in its place: else the row "our process's CPU" is 4 % worse.
    empty: Mutex<Option<File>>,
}

impl AtHand {
    /// `None` where the system cannot look without waiting, or might have to ask another machine or
    /// process. Best called before there are other threads.
    pub fn open(actions: &Path, outputs: &Path) -> Option<Self> {
        if !is_local(actions) {
            return None;
        }
        let places = ([actions, outputs].map(Path::to_path_buf), Mutex::new(Instant::now()));
        let (actions, outputs) = (open_folder(actions)?, open_folder(outputs)?);
        // for a descriptor a shard, in a process that may have thrice as many more
        let room = make_room(&actions, 4 * SHARDS);
        Some(AtHand { actions, outputs, places, recall: room.then(Recall::default), empty: Mutex::default() })
    }

    /// What was learnt of the actions.
    pub fn recall(&self) -> Option<&Recall> {
        self.recall.as_ref()
    }

    /// What the action's file says, with the output's id as hex; provided that the output is as it
    /// should be by its metadata and size.
    pub fn get(&self, action: &ActionId, whole: impl Fn(&Metadata, u64) -> bool) -> Option<(Known, String)> {
        if !self.is_in_place() {
            return None;
        }
        let read = || self.read(action);
        let known = match &self.recall {
            Some(recall) => recall.get(action, |shard| look_up(Some(&self.actions), shard, Wanted::Folder), read)?,
            None => read()?,
        };
        let hex = known.output.to_string();
        let look_up = || look_up_sharded(&self.outputs, &hex, Wanted::Metadata);
        let meta = if known.size == 0 {
            let mut empty = self.empty.lock().expect("no holder panics");
            let held = empty.as_ref().and_then(|file| file.metadata().ok()).filter(has_name);
            held.or_else(|| empty.insert(look_up()?).metadata().ok())
        } else {
            look_up()?.metadata().ok()
        };
        whole(&meta?, known.size).then_some((known, hex))
    }

    fn is_in_place(&self) -> bool {
        let (mut seen, now) = (self.places.1.lock().expect("no holder panics"), Instant::now());
        let [actions, outputs] = &self.places.0;
        if now.duration_since(*seen) > IN_PLACE && is_at(&self.actions, actions) && is_at(&self.outputs, outputs) {
            // it may have been moved away with its shard
            *self.empty.lock().expect("no holder panics") = None;
            *seen = now;
        }
        now.duration_since(*seen) <= IN_PLACE
    }

    fn read(&self, action: &ActionId) -> Option<Known> {
        let mut text = [0; ACTION_LEN];
        let file = look_up_sharded(&self.actions, &action.to_string(), Wanted::Content)?;
        let len = read_at_hand(&file, &mut text, 0)?;
        let (output, size) = parse_action(&text[..len])?;
        Some(Known { output, size, time: file.metadata().ok()?.modified().ok()? })
    }
}

fn look_up_sharded(dir: &File, hex: &str, wanted: Wanted) -> Option<File> {
    look_up(Some(dir), [&hex[..2], "/", hex].concat(), wanted)
}
