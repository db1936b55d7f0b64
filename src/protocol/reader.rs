//! From bytes to requests and put bodies.
//!
//! Invariants: a body is read to its closing quote whatever it holds, so that one bad request
//! leaves the next one readable; nothing is read beyond what has arrived, so that a body shorter
//! than promised is answered rather than waited for.

use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};

use base64_simd::STANDARD;

use super::PIECE;
use super::message::Request;

/// A request line without its body; `go` sends some 200 bytes.
const MAX_LINE: usize = 1 << 20;
/// Bytes read at a time.
const BUFFER: usize = 256 * 1024;

/// Why a session cannot go on.
#[derive(Debug)]
pub enum ProtocolError {
    /// The input could not be read.
    Io(io::Error),
    /// What came is not a request.
    NotARequest(String),
    /// The input ended within a request.
    Truncated,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProtocolError::Io(e) => write!(f, "reading requests: {e}"),
            ProtocolError::NotARequest(why) => {
                write!(f, "input is not the GOCACHEPROG protocol ({why}); this program is meant to be started by go")
            }
            ProtocolError::Truncated => f.write_str("input ended in the middle of a request"),
        }
    }
}

impl std::error::Error for ProtocolError {}

impl From<io::Error> for ProtocolError {
    fn from(e: io::Error) -> Self {
        ProtocolError::Io(e)
    }
}

/// Reads requests.
pub struct Reader<R> {
    input: BufReader<R>,
    line: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads from `inner`, which need not be buffered.
    pub fn new(inner: R) -> Self {
        Reader { input: BufReader::with_capacity(BUFFER, inner), line: Vec::new() }
    }

    /// The next request; `Ok(None)` at the end of input. When it has a body, call
    /// [`Self::body`] before the next request.
    pub fn request(&mut self) -> Result<Option<Request>, ProtocolError> {
        loop {
            match peek(&mut self.input)? {
                None => return Ok(None),
                Some(b'{') => break,
                // the body of a request that said it had none
                Some(b'"') if !self.line.is_empty() => {
                    let mut body = self.body(1)?;
                    while body.piece(&mut Vec::new())? {}
                }
                Some(other) => return Err(not_a_request(format!("a line starts with {:?}", char::from(other)))),
            }
        }
        self.line.clear();
        self.input.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut self.line)?;
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        if line.len() > MAX_LINE {
            return Err(not_a_request(format!("a line is longer than {MAX_LINE} bytes")));
        }
        match Request::parse(line) {
            Ok(request) => Ok(Some(request)),
            Err(e) if e.is_eof() && fill(&mut self.input)?.is_empty() => Err(ProtocolError::Truncated),
            Err(e) => Err(not_a_request(e.to_string())),
        }
    }

    /// Whether [`Self::request`] has what it needs and will not wait for input.
    pub fn is_ready(&self) -> bool {
        let next = self.input.buffer().trim_ascii_start();
        next.starts_with(b"{") && memchr::memchr(b'\n', next).is_some()
    }

    /// The body that follows the last request, `size` bytes of it promised.
    pub fn body(&mut self, size: u64) -> Result<PutBody<'_, R>, ProtocolError> {
        // without one there is no body line, and what comes next may be long in coming
        let next = if size > 0 { Some(peek(&mut self.input)?.ok_or(ProtocolError::Truncated)?) } else { None };
        // else the body is missing altogether: the next request may well be fine
        let open = next == Some(b'"');
        self.input.consume(open.into());
        Ok(PutBody {
            input: &mut self.input,
            open,
            left: size,
            text: size.div_ceil(3).saturating_mul(4),
            bad: None,
            group: Group::default(),
        })
    }
}

/// A body that is being read.
pub struct PutBody<'a, R> {
    input: &'a mut BufReader<R>,
    /// Its closing quote has not come.
    open: bool,
    /// Promised bytes not yet decoded.
    left: u64,
    /// Characters that should still come before the closing quote.
    text: u64,
    bad: Option<String>,
    group: Group,
}

/// The characters of an unfinished group of four.
#[derive(Clone, Copy, Default)]
struct Group {
    chars: [u8; 4],
    len: usize,
    /// The group before was padded, so that no other may come.
    padded: bool,
}

impl<R: Read> PutBody<'_, R> {
    /// Decodes up to [`PIECE`] bytes more into `out`, which is cleared. `false` when the body is
    /// at its end; then [`Self::finish`] tells whether it was sound.
    pub fn piece(&mut self, out: &mut Vec<u8>) -> Result<bool, ProtocolError> {
        out.clear();
        while self.open && out.len() < PIECE {
            let buf = fill(self.input)?;
            if buf.is_empty() {
                return Err(ProtocolError::Truncated);
            }
            // four characters make three bytes; leave room for the group that is carried over
            let room = (PIECE - out.len()).div_ceil(3) * 4;
            // a sound body ends where its size says, and is not searched for its end before that
            let sure = if self.text > 0 { self.text.min(usize::MAX as u64) as usize } else { room };
            let part = &buf[..buf.len().min(room).min(sure)];
            let before = (self.group, out.len());
            let mut quote = None;
            if self.text == 0 || self.bad.is_some() || !self.group.decode(part, out) {
                self.group = before.0;
                out.truncate(before.1);
                quote = memchr::memchr(b'"', part);
                let text = &part[..quote.unwrap_or(part.len())];
                if self.bad.is_none() && !self.group.decode(text, out) {
                    self.bad = Some("body is not base64".into());
                }
            }
            let text = quote.unwrap_or(part.len());
            self.text = self.text.saturating_sub(text as u64);
            self.input.consume(text + quote.is_some() as usize);
            if quote.is_some() {
                self.open = false;
                if self.group.len > 0 {
                    self.bad.get_or_insert_with(|| "body is not base64".into());
                }
            }
        }
        match self.left.checked_sub(out.len() as u64) {
            Some(left) => self.left = left,
            None => {
                self.left = 0;
                self.bad.get_or_insert_with(|| "body is longer than BodySize".into());
            }
        }
        if self.bad.is_some() {
            out.clear();
        }
        Ok(self.open)
    }

    /// After the last piece: whether the body was base64 and of the length promised.
    pub fn finish(self) -> Result<(), String> {
        debug_assert!(!self.open);
        match self.bad {
            Some(why) => Err(why),
            None if self.left > 0 => Err(format!("body is {} bytes shorter than BodySize", self.left)),
            None => Ok(()),
        }
    }
}

impl Group {
    /// Decodes `text`, which continues the group, into `out`, and carries the rest over. `false`
    /// when it is not base64.
    fn decode(&mut self, text: &[u8], out: &mut Vec<u8>) -> bool {
        let mut rest = text;
        if self.len > 0 {
            let (head, tail) = rest.split_at(rest.len().min(4 - self.len));
            self.chars[self.len..self.len + head.len()].copy_from_slice(head);
            self.len += head.len();
            rest = tail;
            if self.len < 4 {
                return self.is_open();
            }
            self.len = 0;
            let group = self.chars;
            if !self.decode_whole(&group, out) {
                return false;
            }
        }
        let (whole, tail) = rest.split_at(rest.len() / 4 * 4);
        if !self.decode_whole(whole, out) {
            return false;
        }
        self.chars[..tail.len()].copy_from_slice(tail);
        self.len = tail.len();
        self.is_open()
    }

    /// Decodes whole groups, of which only the very last of the body may be padded.
    fn decode_whole(&mut self, groups: &[u8], out: &mut Vec<u8>) -> bool {
        let sound = groups.is_empty() || !self.padded && STANDARD.decode_append(groups, out).is_ok();
        self.padded |= groups.ends_with(b"=");
        sound
    }

    /// Whether what is carried over, unchecked so far, may belong to the body.
    fn is_open(&self) -> bool {
        self.len == 0 || !self.padded && !self.chars[..self.len].contains(&b'"')
    }
}

/// What is buffered, after reading once if nothing was. Empty at the end of input.
fn fill<R: Read>(input: &mut BufReader<R>) -> io::Result<&[u8]> {
    while let Err(e) = input.fill_buf() {
        if e.kind() != ErrorKind::Interrupted {
            return Err(e);
        }
    }
    Ok(input.buffer())
}

/// Skips white space and returns the next byte without reading it; `None` at the end.
fn peek<R: Read>(input: &mut BufReader<R>) -> io::Result<Option<u8>> {
    loop {
        let buf = fill(input)?;
        let blank = buf.iter().take_while(|b| b.is_ascii_whitespace()).count();
        let next = buf.get(blank).copied();
        input.consume(blank);
        if next.is_some() || blank == 0 {
            return Ok(next);
        }
    }
}

fn not_a_request(why: String) -> ProtocolError {
    ProtocolError::NotARequest(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Command;

    /// A reader that returns at most `step` bytes at a time.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(buf.len());
            buf[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn read_body<R: Read>(reader: &mut Reader<R>, size: u64) -> Result<Vec<u8>, String> {
        let mut body = reader.body(size).unwrap();
        let (mut all, mut piece) = (Vec::new(), Vec::new());
        loop {
            let more = body.piece(&mut piece).unwrap();
            assert!(piece.len() <= PIECE + 3);
            all.extend_from_slice(&piece);
            if !more {
                return body.finish().map(|()| all);
            }
        }
    }

    fn put(body: &str, size: usize) -> String {
        let sum = STANDARD.encode_to_string([7; 32]);
        format!(
            "{{\"ID\":1,\"Command\":\"put\",\"ActionID\":\"AQI=\",\"OutputID\":\"{sum}\",\"BodySize\":{size}}}\n\n{body}\n"
        )
    }

    #[test]
    fn bodies_of_every_size_and_split() {
        for size in (0..40).chain([PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5]) {
            let bytes: Vec<u8> = (0..size).map(|i| (i * 7) as u8).collect();
            let body = if size == 0 { String::new() } else { format!("\"{}\"", STANDARD.encode_to_string(&bytes)) };
            let text = put(&body, size) + "{\"ID\":2,\"Command\":\"close\"}\n";
            for step in if size < 40 { vec![1, 2, 3, 5, 1000] } else { vec![4095, 65536] } {
                let mut reader = Reader::new(Dribble(text.as_bytes(), step));
                let request = reader.request().unwrap().unwrap();
                assert_eq!(request.body_size, size as u64);
                assert_eq!(read_body(&mut reader, request.body_size).unwrap(), bytes, "size {size} step {step}");
                assert_eq!(reader.request().unwrap().unwrap().command, Ok(Command::Close));
                assert!(reader.request().unwrap().is_none());
            }
        }
    }

    #[test]
    fn a_bad_body_fails_alone() {
        for (body, size, want) in [
            ("\"AAAA\"", 2, "longer"),
            ("\"AAAA\"", 4, "1 bytes shorter"),
            ("\"AAAA\"", 5, "2 bytes shorter"),
            ("\"AAAA\"", 9, "6 bytes shorter"),
            ("\"AAA\"", 3, "not base64"),
            ("\"A*AA\"", 3, "not base64"),
            ("\"AA==AAAA\"", 4, "not base64"),
            ("\"\"", 4, "4 bytes shorter"),
            ("", 4, "4 bytes shorter"),
        ] {
            let text = put(body, size) + "{\"ID\":2,\"Command\":\"close\"}\n";
            for step in [1, 2, 3, 5, 1000] {
                let mut reader = Reader::new(Dribble(text.as_bytes(), step));
                reader.request().unwrap();
                let err = read_body(&mut reader, size as u64).unwrap_err();
                assert!(err.contains(want), "{body} by {step}: {err}");
                assert_eq!(reader.request().unwrap().unwrap().command, Ok(Command::Close), "{body} by {step}");
            }
        }
    }

    #[test]
    fn what_is_not_the_protocol_ends_it() {
        for (text, truncated) in
            [("hello\n", false), ("{\"ID\":1,,}\n", false), ("{\"ID\":1", true), ("\"QUJD\"\n", false)]
        {
            let err = Reader::new(text.as_bytes()).request().unwrap_err();
            assert_eq!(matches!(err, ProtocolError::Truncated), truncated, "{text}: {err}");
        }
        let long = format!("{{\"ID\":1,\"Command\":\"{}\"}}\n", "x".repeat(MAX_LINE));
        assert!(Reader::new(long.as_bytes()).request().is_err());
    }

    #[test]
    fn an_end_within_a_body_is_truncation() {
        let text = put("\"AAAA", 300);
        let mut reader = Reader::new(text.trim_end().as_bytes());
        reader.request().unwrap();
        let mut body = reader.body(300).unwrap();
        assert!(matches!(body.piece(&mut Vec::new()), Err(ProtocolError::Truncated)));
    }
}
