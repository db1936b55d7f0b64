//! From answers to lines.
//!
//! Invariant: a line is written whole, under a lock, and at once, unless [`Writer::hold`] keeps it
//! for the next write; after a write has failed the peer is gone and later answers are dropped.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use base64_simd::STANDARD;
use serde::Serialize;

use super::message::Answer;

/// Answers held back are written when there are this many bytes of them.
const HOLD: usize = 32 * 1024;

/// Writes answers for any number of threads.
pub struct Writer<W> {
    out: Mutex<Out<W>>,
}

struct Out<W> {
    /// `None` once a write has failed.
    peer: Option<W>,
    held: Vec<u8>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Wire<'a> {
    #[serde(rename = "ID")]
    id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    err: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    known_commands: Option<&'a [&'a str]>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    miss: bool,
    #[serde(rename = "OutputID", skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_path: Option<&'a str>,
}

impl<W: Write> Writer<W> {
    /// Writes to `out`, unbuffered.
    pub fn new(out: W) -> Self {
        Writer { out: Mutex::new(Out { peer: Some(out), held: Vec::new() }) }
    }

    /// Answers request `id`. An error means that the peer is gone; it is told once.
    pub fn answer(&self, id: i64, answer: &Answer) -> io::Result<()> {
        let line = encode(id, answer);
        let mut out = self.lock();
        out.held.extend_from_slice(&line);
        out.flush()
    }

    /// Answers request `id` with the next write: for one that will soon write more, or
    /// [`Self::flush`].
    pub fn hold(&self, id: i64, answer: &Answer) -> io::Result<()> {
        let line = encode(id, answer);
        let mut out = self.lock();
        out.held.extend_from_slice(&line);
        if out.held.len() < HOLD { Ok(()) } else { out.flush() }
    }

    /// Writes what is held back.
    pub fn flush(&self) -> io::Result<()> {
        self.lock().flush()
    }

    fn lock(&self) -> MutexGuard<'_, Out<W>> {
        self.out.lock().expect("no holder panics")
    }
}

impl<W: Write> Out<W> {
    fn flush(&mut self) -> io::Result<()> {
        let result = match &mut self.peer {
            Some(peer) if !self.held.is_empty() => peer.write_all(&self.held).and_then(|()| peer.flush()),
            _ => Ok(()),
        };
        self.held.clear();
        if result.is_err() {
            self.peer = None;
        }
        result
    }
}

/// The line of an answer.
fn encode(id: i64, answer: &Answer) -> Vec<u8> {
    let mut wire = Wire {
        id,
        err: None,
        known_commands: None,
        miss: false,
        output: None,
        size: None,
        time: None,
        disk_path: None,
    };
    match answer {
        Answer::Known(commands) => wire.known_commands = Some(commands),
        Answer::Hit { output, size, time, path } => {
            wire.output = Some(STANDARD.encode_to_string(output.0));
            wire.size = Some(*size);
            wire.time = Some(rfc3339(*time));
            wire.disk_path = path.to_str();
        }
        Answer::Miss => wire.miss = true,
        Answer::Stored(path) => wire.disk_path = path.to_str(),
        Answer::Closed => {}
        Answer::Failed(why) => wire.err = Some(why),
    }
    let mut line = serde_json::to_vec(&wire).expect("strings and numbers serialize");
    line.push(b'\n');
    line
}

/// RFC 3339 in UTC, to the nanosecond. Times that no calendar of four-digit years has are the epoch.
fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::id::OutputId;
    use std::time::Duration;

    fn text(answer: Answer) -> String {
        String::from_utf8(encode(4, &answer)).unwrap().trim_end().to_string()
    }

    #[test]
    fn lines_as_go_reads_them() {
        assert_eq!(text(Answer::Known(&["get", "put"])), r#"{"ID":4,"KnownCommands":["get","put"]}"#);
        assert_eq!(text(Answer::Miss), r#"{"ID":4,"Miss":true}"#);
        assert_eq!(text(Answer::Closed), r#"{"ID":4}"#);
        assert_eq!(text(Answer::Failed("no \"x\"".into())), r#"{"ID":4,"Err":"no \"x\""}"#);
        assert_eq!(text(Answer::Stored("/a/b".into())), r#"{"ID":4,"DiskPath":"/a/b"}"#);
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 12_345);
        let hit = Answer::Hit { output: OutputId([0; 32]), size: 0, time, path: "/a".into() };
        let want = r#"{"ID":4,"OutputID":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","Size":0,"Time":"2023-11-14T22:13:20.000012345Z","DiskPath":"/a"}"#;
        assert_eq!(text(hit), want);
    }

    #[test]
    fn what_is_held_goes_out_with_the_next() {
        let mut to = Vec::new();
        let writer = Writer::new(&mut to);
        writer.hold(1, &Answer::Miss).unwrap();
        assert!(writer.lock().peer.as_ref().unwrap().is_empty());
        writer.answer(2, &Answer::Closed).unwrap();
        writer.hold(3, &Answer::Closed).unwrap();
        writer.flush().unwrap();
        drop(writer);
        assert_eq!(String::from_utf8(to).unwrap(), "{\"ID\":1,\"Miss\":true}\n{\"ID\":2}\n{\"ID\":3}\n");
    }

    #[test]
    fn a_lost_peer_is_told_once() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let writer = Writer::new(Broken);
        assert!(writer.answer(1, &Answer::Miss).is_err());
        assert!(writer.answer(2, &Answer::Miss).is_ok());
    }
}
