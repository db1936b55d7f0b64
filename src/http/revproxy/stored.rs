//! The form in which an answer lies on disk and in the bucket, shared with the reference program:
//! lines `Content-Type: …`, `Date: …`, `Etag: …`, then those of the other headers, an empty line, the
//! body. Lines end with LF. The reference keeps the first three alone, which is read too.
//!
//! What the reference could not use right, it must not find: its names are URLs, and below those lies
//! only what is immutable, of status 200 and for every client. The rest has names of its own, and
//! lines of its own ([`OURS`]) that say what is no header.
//!
//! What a stored file says is not trusted: what is not for a client is left out.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::memory::Answer;
use super::rules::{Rules, Variant};
use crate::headers::{self, HeaderValue};
use crate::id::OutputId;
use crate::sign::nanos;

/// A head of more bytes, or lines, is damaged.
const MAX_HEAD: u64 = 64 << 10;
const MAX_LINES: usize = 256;
/// As much as most heads take: what is read beyond is read in vain. All at once, 100 bytes of a kept answer of 1 MiB
/// took 6 to 22 % longer over four runs; no row of the benches has that.
const FIRST_PIECE: u64 = 2 << 10;
/// What the names of lines begin with that are no headers.
const OURS: &str = "x-go-cache-plugin-";
const STATUS: &str = "x-go-cache-plugin-status";
const RECEIVED: &str = "x-go-cache-plugin-received";
const VARIED: &str = "x-go-cache-plugin-varied";

/// The names of the answers to one URL that are kept on disk beside what is immutable.
pub fn slots(url: &str) -> impl Iterator<Item = String> {
    (0..4).map(move |n| format!("{url}\n{n}"))
}

/// The name of what says that the bucket's answer to `url` is outdated.
pub fn outdated(url: &str) -> String {
    format!("{url}\noutdated")
}

/// The head of `answer` as it is stored. `shared` leaves out what is true of all that the reference may find;
/// `now` stands in for a missing Date, and is when the answer came.
pub fn encode_head(answer: &Answer, shared: bool, now: SystemTime) -> Vec<u8> {
    let mut head = Vec::new();
    let mut line = |name: &str, value: &[u8]| head.extend_from_slice(&[name.as_bytes(), b": ", value, b"\n"].concat());
    for (name, otherwise) in
        [("Content-Type", "application/octet-stream"), ("Date", &httpdate::fmt_http_date(now)), ("Etag", "")]
    {
        match answer.headers.get(name) {
            Some(value) if !value.is_empty() => line(name, value.as_bytes()),
            _ if otherwise.is_empty() || (name == "Content-Type" && !shared) => {}
            _ => line(name, otherwise.as_bytes()),
        }
    }
    for (name, value) in &answer.headers {
        if !matches!(name.as_str(), "content-type" | "date" | "etag" | "x-cache" | "x-cache-id")
            && !name.as_str().starts_with(OURS)
        {
            line(name.as_str(), value.as_bytes());
        }
    }
    if !shared {
        line(STATUS, answer.status.to_string().as_bytes());
        line(RECEIVED, nanos(now).to_string().as_bytes());
        answer.variant.iter().for_each(|(name, said)| line(VARIED, format!("{name} {said}").as_bytes()));
    }
    head.push(b'\n');
    head
}

/// Reads the head from the start of the stored answer called `name`: the answer, and how many bytes its
/// head took. `InvalidData` when there is no head.
pub fn decode_head(name: &str, from: &mut dyn Read) -> io::Result<(Answer, u64)> {
    let (mut head, mut slots) = (Vec::new(), [httparse::EMPTY_HEADER; MAX_LINES]);
    from.take(FIRST_PIECE).read_to_end(&mut head)?;
    if memchr::memmem::find(&head, b"\n\n").is_none() {
        from.take(MAX_HEAD - FIRST_PIECE).read_to_end(&mut head)?;
    }
    let Ok(httparse::Status::Complete((len, lines))) = httparse::parse_headers(&head, &mut slots) else {
        return Err(damaged("it does not begin with a head"));
    };
    let mut kept = headers::parsed(lines).ok_or_else(|| damaged("it does not begin with a head"))?;
    let text = |name| headers::first(&kept, name);
    let status = text(STATUS).map_or(Ok(200), str::parse).map_err(|_| damaged("its status is no number"))?;
    let received = text(RECEIVED).and_then(|since| Some(UNIX_EPOCH + Duration::from_nanos(since.parse().ok()?)));
    let varied = kept.get_all(VARIED).iter().filter_map(|line| line.to_str().ok()?.split_once(' '));
    let variant: Variant = varied.map(|(name, said)| (name.to_string(), said.to_string())).collect();
    let ours: Vec<_> = kept.keys().filter(|name| name.as_str().starts_with(OURS)).cloned().collect();
    ours.iter().for_each(|name| drop(kept.remove(name)));
    headers::drop_hop_by_hop(&mut kept);
    if received.is_none() {
        kept.remove("set-cookie");
    }
    let at = received.or_else(|| headers::date(&kept, "date")).unwrap_or(UNIX_EPOCH);
    let rules = if received.is_none() && !kept.contains_key("cache-control") {
        // the reference keeps nothing else
        let mut immutable = kept.clone();
        immutable.insert("cache-control", HeaderValue::from_static("immutable"));
        Rules::new(status, &immutable, at)
    } else {
        Rules::new(status, &kept, at)
    };
    let blob = Some((name.to_string(), OutputId::of(&head[..len])));
    Ok((Answer { status, headers: kept, variant, rules, body: Arc::new([]), blob }, len as u64))
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged stored answer: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::HeaderMap;
    use crate::http::revproxy::tests::headers;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(784_111_777)
    }

    fn answer(status: u16, headers: HeaderMap, variant: Variant) -> Answer {
        let rules = Rules::new(status, &headers, now());
        Answer { status, headers, variant, rules, body: Arc::new([]), blob: None }
    }

    fn encoded(list: &[(&str, &str)]) -> Vec<u8> {
        encode_head(&answer(200, headers(list), Variant::new()), true, now())
    }

    #[test]
    fn the_form_is_the_reference_s_with_more_lines() {
        let head = encoded(&[
            ("x-other", "1"),
            ("x-cache", "HIT"),
            ("etag", "\"x\""),
            ("x-go-cache-plugin-status", "500"),
            ("content-type", "text/plain"),
        ]);
        assert_eq!(
            String::from_utf8(head).unwrap(),
            "Content-Type: text/plain\nDate: Sun, 06 Nov 1994 08:49:37 GMT\nEtag: \"x\"\nx-other: 1\n\n"
        );
        assert!(encoded(&[]).starts_with(b"Content-Type: application/octet-stream\nDate: "));
    }

    #[test]
    fn a_head_is_read_back_whatever_the_pieces() {
        let varied = vec![("origin".to_string(), "=a, b".to_string())];
        let told = headers(&[("etag", "\"x\""), ("x", "1"), ("x", "2"), ("date", "Sun, 06 Nov 1994 08:49:37 GMT")]);
        let mut bytes = encode_head(&answer(404, told.clone(), varied.clone()), false, now());
        let head = bytes.len() as u64;
        bytes.extend_from_slice(b"\n\nbody: \n");
        struct Trickle<'a>(&'a [u8]);
        impl Read for Trickle<'_> {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                let n = self.0.len().min(1).min(buf.len());
                buf[..n].copy_from_slice(&self.0[..n]);
                self.0 = &self.0[n..];
                Ok(n)
            }
        }
        let long = [b"A: ".as_slice(), &[b'a'; 5000], b"\n\n"].concat();
        assert_eq!(decode_head("", &mut &long[..]).unwrap().1, long.len() as u64);
        for from in [&mut &bytes[..] as &mut dyn Read, &mut Trickle(&bytes)] {
            let (read, n) = decode_head("name", from).unwrap();
            assert_eq!((read.status, read.headers, read.variant, n), (404, told.clone(), varied.clone(), head));
            assert_eq!(read.rules.age(now() + Duration::from_secs(5)).as_secs(), 5);
        }
        // with CRLF, as other writers may end lines
        let (answer, n) = decode_head("", &mut &b"Content-Type: a\r\n\r\nbody"[..]).unwrap();
        assert_eq!((headers::first(&answer.headers, "content-type"), n), (Some("a"), 19));
        assert!(answer.rules.for_good() && answer.rules.lifetime() > Duration::from_secs(1 << 30));
    }

    #[test]
    fn damaged_and_hostile_heads_do_no_harm() {
        let many = "a: b\n".repeat(MAX_LINES + 1) + "\n";
        for bad in [
            &b""[..],
            b"Content-Type: x\n",
            b"no header\n\n",
            b"A B: x\n\n",
            b"Etag: x\r\ry\n\n",
            b"Content-Type: t\x00\n\n",
            many.as_bytes(),
            &[b'a'; 100_000],
        ] {
            assert_eq!(decode_head("", &mut &bad[..]).unwrap_err().kind(), io::ErrorKind::InvalidData, "{bad:?}");
        }
        let bad = b"Set-Cookie: a\nTransfer-Encoding: chunked\n\n";
        let (answer, _) = decode_head("", &mut &bad[..]).unwrap();
        assert!(answer.headers.is_empty(), "{:?}", answer.headers);
        assert!(decode_head("", &mut &b"\nbody"[..]).unwrap().0.headers.is_empty());
    }
}
