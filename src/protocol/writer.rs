//! From answers to lines.
//!
//! Invariant: a line is written whole, under a lock, and at once, unless [`Writer::hold`] keeps it
//! for the next write; after a write has failed the peer is gone and later answers are dropped.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use base64_simd::STANDARD;
use jiff::fmt::temporal::DateTimePrinter;
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

impl<W: Write> Writer<W> {
    /// Writes to `out`, unbuffered.
    pub fn new(out: W) -> Self {
        Writer { out: Mutex::new(Out { peer: Some(out), held: Vec::new() }) }
    }

    /// Answers request `id`. An error means that the peer is gone; it is told once.
    pub fn answer(&self, id: i64, answer: &Answer) -> io::Result<()> {
        let mut out = self.lock();
        encode(id, answer, &mut out.held);
        out.flush()
    }

    /// Answers request `id` with the next write: for one that will soon write more, or
    /// [`Self::flush`].
    pub fn hold(&self, id: i64, answer: &Answer) -> io::Result<()> {
        let mut out = self.lock();
        encode(id, answer, &mut out.held);
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

/// Appends the line of an answer; without a structure to serialize, whose strings would have to be
/// made first.
fn encode(id: i64, answer: &Answer, line: &mut Vec<u8>) {
    line.extend_from_slice(b"{\"ID\":");
    value(line, &id);
    match answer {
        Answer::Known(commands) => field(line, "KnownCommands", commands),
        Answer::Hit { output, size, time, path } => {
            line.extend_from_slice(b",\"OutputID\":\"");
            STANDARD.encode_append(output.0, line);
            line.push(b'"');
            field(line, "Size", size);
            line.extend_from_slice(b",\"Time\":\"");
            rfc3339(*time, line);
            line.push(b'"');
            disk_path(line, path);
        }
        Answer::Miss => field(line, "Miss", &true),
        Answer::Stored(path) => disk_path(line, path),
        Answer::Closed => {}
        Answer::Failed(why) => field(line, "Err", why),
    }
    line.extend_from_slice(b"}\n");
}

fn disk_path(line: &mut Vec<u8>, path: &Path) {
    if let Some(path) = path.to_str() {
        field(line, "DiskPath", path);
    }
}

fn field<T: Serialize + ?Sized>(line: &mut Vec<u8>, name: &str, of: &T) {
    line.extend_from_slice(b",\"");
    line.extend_from_slice(name.as_bytes());
    line.extend_from_slice(b"\":");
    value(line, of);
}

fn value<T: Serialize + ?Sized>(line: &mut Vec<u8>, of: &T) {
    serde_json::to_writer(line, of).expect("strings and numbers serialize");
}

/// RFC 3339 in UTC, to the nanosecond. Times before the epoch, and those that no calendar of four-digit years has, are
/// the epoch: `go` ends where it is told of others.
fn rfc3339(time: SystemTime, line: &mut Vec<u8>) {
    const PRINTER: DateTimePrinter = DateTimePrinter::new();
    let time = jiff::Timestamp::try_from(time.max(SystemTime::UNIX_EPOCH)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    PRINTER.print_timestamp(&time, line).expect("memory takes it");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::id::OutputId;
    use std::time::Duration;

    fn text(answer: Answer) -> String {
        let mut line = Vec::new();
        encode(4, &answer, &mut line);
        String::from_utf8(line).unwrap().trim_end().to_string()
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
