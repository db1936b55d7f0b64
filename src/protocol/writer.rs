//! From answers to lines.
//!
//! Invariant: a line is written whole, under a lock, and at once; after a write has failed the
//! peer is gone and later answers are dropped.

use std::io::{self, Write};
use std::sync::Mutex;
use std::time::SystemTime;

use base64_simd::STANDARD;
use serde::Serialize;

use super::message::Answer;

/// Writes answers for any number of threads.
pub struct Writer<W> {
    out: Mutex<Option<W>>,
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
        Writer { out: Mutex::new(Some(out)) }
    }

    /// Answers request `id`. An error means that the peer is gone; it is told once.
    pub fn answer(&self, id: i64, answer: &Answer) -> io::Result<()> {
        let mut line = encode(id, answer);
        line.push(b'\n');
        let mut out = self.out.lock().expect("no holder panics");
        let Some(w) = out.as_mut() else { return Ok(()) };
        let result = w.write_all(&line).and_then(|()| w.flush());
        if result.is_err() {
            *out = None;
        }
        result
    }
}

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
    serde_json::to_vec(&wire).expect("strings and numbers serialize")
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
        String::from_utf8(encode(4, &answer)).unwrap()
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
