//! The form in which an answer lies on disk and in the bucket, shared with the reference program:
//! lines `Content-Type: …`, `Date: …`, `Etag: …`, an empty line, the body. Lines end with LF.
//!
//! What a stored file says is not trusted: only these three headers are taken from it, and only
//! values that are plain text.

use std::io::{self, Read};
use std::time::SystemTime;

use super::headers::{self, Headers};

/// The headers that are kept, as they are written.
const KEPT: [&str; 3] = ["Content-Type", "Date", "Etag"];
/// A head of more bytes is damaged.
const MAX_HEAD: usize = 16 << 10;

/// The head of a stored answer whose headers are `answer`; `now` stands in for a missing Date.
pub fn encode_head(answer: &Headers, now: SystemTime) -> Vec<u8> {
    let mut head = String::new();
    for name in KEPT {
        let value = match headers::first(answer, name) {
            Some(v) if is_plain(v) => v.trim().to_string(),
            _ if name == "Date" => headers::format_date(now),
            _ if name == "Content-Type" => "application/octet-stream".to_string(),
            _ => continue,
        };
        head += &format!("{name}: {value}\n");
    }
    head.push('\n');
    head.into_bytes()
}

/// Reads the head from the start of a stored answer: its headers, and how many bytes it took.
/// `InvalidData` when there is no head.
pub fn decode_head(from: &mut dyn Read) -> io::Result<(Headers, u64)> {
    let mut buf = Vec::new();
    let mut kept = Headers::new();
    let mut line_start = 0;
    let mut scanned = 0;
    loop {
        while let Some(n) = buf[scanned..].iter().position(|&b| b == b'\n') {
            let line = &buf[line_start..scanned + n];
            scanned += n + 1;
            line_start = scanned;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                return Ok((kept, scanned as u64));
            }
            let line = std::str::from_utf8(line).map_err(|_| damaged("its head is not text"))?;
            let (name, value) = line.split_once(':').ok_or_else(|| damaged("a line of its head is no header"))?;
            if let Some(name) = KEPT.iter().find(|k| k.eq_ignore_ascii_case(name))
                && is_plain(value)
            {
                kept.push((name.to_string(), value.trim().to_string()));
            }
        }
        scanned = buf.len();
        if buf.len() >= MAX_HEAD {
            return Err(damaged("its head does not end"));
        }
        let at = buf.len();
        buf.resize(at + 1024, 0);
        let n = from.read(&mut buf[at..])?;
        buf.truncate(at + n);
        if n == 0 {
            return Err(damaged("it has no head"));
        }
    }
}

fn is_plain(value: &str) -> bool {
    !value.trim().is_empty() && value.bytes().all(|b| matches!(b, b' '..=b'~' | b'\t'))
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged stored answer: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(784_111_777)
    }

    #[test]
    fn the_form_is_the_reference_s() {
        let answer = vec![
            ("etag".to_string(), "\"x\"".to_string()),
            ("content-type".to_string(), "text/plain".to_string()),
            ("x-other".to_string(), "1".to_string()),
        ];
        let head = encode_head(&answer, now());
        assert_eq!(
            String::from_utf8(head).unwrap(),
            "Content-Type: text/plain\nDate: Sun, 06 Nov 1994 08:49:37 GMT\nEtag: \"x\"\n\n"
        );
        assert!(encode_head(&vec![], now()).starts_with(b"Content-Type: application/octet-stream\nDate: "));
    }

    #[test]
    fn a_head_is_read_back_whatever_the_pieces() {
        let mut bytes = encode_head(&vec![("etag".into(), "\"x\"".into())], now());
        let head = bytes.len() as u64;
        bytes.extend_from_slice(b"\n\nbody: \n");
        let mut whole = &bytes[..];
        let (headers, n) = decode_head(&mut whole).unwrap();
        assert_eq!(n, head);
        assert_eq!(headers::first(&headers, "etag"), Some("\"x\""));
        struct Trickle<'a>(&'a [u8]);
        impl Read for Trickle<'_> {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                let n = self.0.len().min(1).min(buf.len());
                buf[..n].copy_from_slice(&self.0[..n]);
                self.0 = &self.0[n..];
                Ok(n)
            }
        }
        assert_eq!(decode_head(&mut Trickle(&bytes)).unwrap(), (headers, n));
        // with CRLF, as other writers may end lines
        let (headers, n) = decode_head(&mut &b"Content-Type: a\r\n\r\nbody"[..]).unwrap();
        assert_eq!((headers::first(&headers, "content-type"), n), (Some("a"), 19));
    }

    #[test]
    fn damaged_and_hostile_heads_do_no_harm() {
        for bad in [&b""[..], b"Content-Type: x\n", b"no header\n\n", b"Date: \xff\n\n", &[b'a'; 100_000]] {
            assert_eq!(decode_head(&mut &bad[..]).unwrap_err().kind(), io::ErrorKind::InvalidData, "{bad:?}");
        }
        let (headers, _) =
            decode_head(&mut &b"Set-Cookie: a\nEtag: x\r\ry\nContent-Type: t\x00\nX: y\n\n"[..]).unwrap();
        assert!(headers.is_empty(), "{headers:?}");
        assert!(decode_head(&mut &b"\nbody"[..]).unwrap().0.is_empty());
    }
}
