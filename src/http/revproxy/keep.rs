//! Replies from what was forwarded, kept on the way where that is allowed.
//!
//! Invariants: trouble with keeping never reaches the client, and is warned of once, by the store; what is kept came
//! to its end, and to the length promised where one was: of what the client left, nothing is; what was
//! asked for before something newer was kept, or before a change, is not kept, however long it took.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::memory::Answer;
use super::reply::{self, Found, Outcome};
use super::rules::{Terms, encoding_is_plain};
use super::{Fetching, MAX_STORED, RevProxy, SHORT_LIVED, hosts, stored};
use crate::client::Received;
use crate::http::exchange::{Body, Reply};
use crate::store::BlobWriter;
use crate::text::first_of;

/// Where an answer is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// On disk and in the bucket, under its URL, where the reference program finds it.
    Shared,
    /// On disk.
    Disk,
    /// In memory.
    Memory,
}

/// Where an answer that may be kept is kept: for good what is immutable and for every client, in
/// memory what is fresh for a short time.
fn place(answer: &Answer, now: SystemTime) -> Place {
    let Answer { status, headers, variant, rules, .. } = answer;
    if rules.age(now) >= rules.lifetime() || rules.lifetime() < SHORT_LIVED {
        Place::Memory
    } else if rules.for_good()
        && *status == 200
        && variant.is_empty()
        && !headers.contains_key("set-cookie")
        && encoding_is_plain(headers)
    {
        Place::Shared
    } else {
        Place::Disk
    }
}

/// The reply that `forwarded`, which was `asked` for then, makes; its body is kept as its headers let us,
/// in the place of `old`. Others wait while `leader` lives.
pub fn reply(
    proxy: &Arc<RevProxy>,
    url: &str,
    terms: &Terms,
    forwarded: Received,
    old: Option<Found>,
    leader: Option<Fetching>,
    asked: Instant,
) -> (Reply, Outcome) {
    let now = SystemTime::now();
    let Received { status, headers, body, len, framed } = forwarded;
    let answer = Answer::new(status, headers.clone(), terms, now);
    let may = answer.rules.storable(terms).and(first_of(&[
        (!framed, "its end cannot be told from a failure"),
        (len.is_some_and(|len| len > MAX_STORED), "too large"),
    ]));
    if may.is_ok() {
        proxy.unkept.remove(url);
    } else if terms.store {
        proxy.unkept.insert(url.to_string(), ());
    }
    let mut sent = Reply::status(status);
    sent.proxied = Some(Box::new(headers));
    if let Err(why) = may {
        log::debug!("{}: not kept: {why}", hosts::shown(url));
        proxy.metrics.revcache.rsp_not_cached.inc();
        // what is there is of an earlier time
        if let Some(old) = old.filter(|_| terms.store && (200..500).contains(&status) && status != 206) {
            proxy.forget_one(url, &old);
        }
        return (sent.body(Body::Stream(body, len)), reply::UNCACHED);
    }
    let place = place(&answer, now);
    let mut keeping = Keeping {
        proxy: proxy.clone(),
        url: url.to_string(),
        answer,
        place,
        old,
        at: now,
        asked,
        bytes: Vec::new(),
        writer: None,
        _leader: leader,
    };
    let large = len.is_some_and(|len| len > proxy.memory.max_body() as u64);
    if (large || place != Place::Memory)
        && let Err(e) = keeping.go_to_disk()
    {
        keeping.lost(&e);
        return (sent.body(Body::Stream(body, len)), reply::UNCACHED);
    }
    let mut tee = Tee { from: body, keeping: Some(keeping) };
    if len == Some(0) {
        // nobody reads where there is nothing
        let _ = tee.read(&mut [0]);
    }
    let outcome = if place == Place::Memory { reply::VOLATILE } else { reply::CACHED };
    (sent.body(Body::Stream(Box::new(tee), len)), outcome)
}

/// Keeps one answer: in memory, or on disk once it has gone there.
struct Keeping {
    proxy: Arc<RevProxy>,
    url: String,
    answer: Answer,
    place: Place,
    old: Option<Found>,
    at: SystemTime,
    asked: Instant,
    bytes: Vec<u8>,
    writer: Option<(BlobWriter, String)>,
    _leader: Option<Fetching>,
}

impl Keeping {
    /// Begins the blob, with what there is of the body so far.
    fn go_to_disk(&mut self) -> io::Result<()> {
        let shared = self.place == Place::Shared;
        let name = if shared { self.url.clone() } else { self.proxy.free_slot(&self.url, self.old.as_ref()) };
        let store = if shared { &self.proxy.store } else { &self.proxy.own_store };
        let head = stored::encode_head(&self.answer, shared, self.at);
        // one that is too long could not be read back
        stored::decode_head(&name, &mut &head[..])?;
        let mut writer = store.writer(&name)?;
        writer.write_all(&head)?;
        writer.write_all(&std::mem::take(&mut self.bytes))?;
        self.writer = Some((writer, name));
        Ok(())
    }

    /// Takes the next bytes. After an error nothing more comes.
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.writer.is_none() && self.bytes.len() + bytes.len() > self.proxy.memory.max_body() {
            self.go_to_disk()?;
        }
        match &mut self.writer {
            None => self.bytes.extend_from_slice(bytes),
            Some((writer, _)) if writer.size() + bytes.len() as u64 > MAX_STORED => {
                return Err(io::Error::other("too large"));
            }
            Some((writer, _)) => writer.write_all(bytes)?,
        }
        Ok(())
    }

    /// Keeps what was taken: it is whole.
    fn finish(&mut self) -> io::Result<()> {
        let (proxy, url) = (&self.proxy, &self.url);
        if proxy.is_late(url, self.asked) {
            return Err(io::Error::other("there is something newer"));
        }
        proxy.latest.insert(url.clone(), self.asked);
        let stays = match self.writer.take() {
            Some((writer, name)) => {
                writer.commit()?;
                if name == *url && proxy.store.is_shared() {
                    proxy.own_store.remove(&stored::outdated(url));
                }
                proxy.memory.remove(url, Some(&self.answer.variant)); // what is there is older
                Some(name)
            }
            None => {
                self.answer.body = std::mem::take(&mut self.bytes).into();
                if proxy.memory.put(url, &self.answer) {
                    proxy.metrics.revcache.rsp_save_memory.inc();
                }
                None
            }
        };
        let old = self.old.as_ref().and_then(Found::blob);
        if let Some(old) = old.filter(|old| Some(*old) != stays.as_deref()) {
            proxy.store.remove(old);
        }
        Ok(())
    }

    /// Takes note of why nothing is kept after all.
    fn lost(&self, why: &io::Error) {
        self.proxy.metrics.revcache.rsp_not_cached.inc();
        log::debug!("{}: passed on, but not kept: {why}", hosts::shown(&self.url));
    }
}

/// A body on its way to the client, kept at the same time: when its end is read, which is an error where it is short.
struct Tee {
    from: Box<dyn Read + Send>,
    keeping: Option<Keeping>,
}

impl Read for Tee {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0); // which is no end
        }
        let n = self.from.read(buf).inspect_err(|e| {
            if e.kind() != io::ErrorKind::Interrupted {
                self.keeping = None;
            }
        })?;
        if let Some(mut keeping) = self.keeping.take() {
            match if n == 0 { keeping.finish() } else { keeping.take(&buf[..n]) } {
                Ok(()) => self.keeping = Some(keeping).filter(|_| n > 0),
                Err(e) => keeping.lost(&e),
            }
        }
        Ok(n)
    }
}
