//! Replies from what was forwarded, kept on the way where that is allowed.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::Fetching;
use super::forward::Forwarded;
use super::headers::Headers;
use super::memory::{Answer, Memory};
use super::policy::{self, Freshness, Keep};
use super::reply::{Outcome, Tags};
use super::tee::{Keeper, Tee};
use super::{Inner, MAX_STORED, stored};
use crate::http::exchange::{Body, Reply};
use crate::metrics::Metrics;
use crate::store::BlobWriter;

/// The reply that `forwarded` makes; its body is kept as `keep` says. Others wait while `leader` lives.
pub fn reply(
    proxy: &Inner,
    url: &str,
    request: &Headers,
    forwarded: Forwarded,
    keep: Keep,
    leader: Option<Fetching>,
) -> (Reply, Outcome) {
    let (keeper, outcome): (Option<Box<dyn Keeper>>, _) = match keep {
        Keep::Disk => match OnDisk::begin(proxy, url, &forwarded.headers, leader) {
            Ok(keeper) => (Some(Box::new(keeper)), Outcome::Cached),
            Err(e) => {
                log::warn!("{url}: cannot be stored: {e}");
                (None, Outcome::Uncached)
            }
        },
        Keep::Memory(freshness) => {
            let keeper = InMemory {
                memory: proxy.memory.clone(),
                metrics: proxy.metrics.clone(),
                url: url.to_string(),
                variant: policy::variant(&forwarded.headers, request),
                headers: forwarded.headers.clone(),
                freshness,
                since: Instant::now(),
                body: Vec::new(),
                _leader: leader,
            };
            (Some(Box::new(keeper)), Outcome::Volatile)
        }
        Keep::No(why) => {
            log::debug!("{url}: not kept: {why}");
            (None, Outcome::Uncached)
        }
    };
    let Forwarded { status, headers, body, len, .. } = forwarded;
    let mut reply = Reply::status(status);
    reply.headers = headers;
    let body = match keeper {
        None => {
            proxy.metrics.revcache.rsp_not_cached.inc();
            body
        }
        Some(keeper) => {
            let (metrics, url) = (proxy.metrics.clone(), url.to_string());
            let lost = move |e: &io::Error| {
                metrics.revcache.rsp_not_cached.inc();
                log::debug!("{url}: not kept: {e}");
            };
            Box::new(Tee::new(body, len, keeper, Box::new(lost)))
        }
    };
    (Tags::new(url, outcome).on(reply.body(Body::Stream(body, len))), outcome)
}

/// Keeps an answer on disk, from where it goes to the bucket.
struct OnDisk {
    writer: BlobWriter,
    memory: Arc<Memory>,
    url: String,
    _leader: Option<Fetching>,
}

impl OnDisk {
    fn begin(proxy: &Inner, url: &str, headers: &Headers, leader: Option<Fetching>) -> io::Result<Self> {
        let mut writer = proxy.store.writer(url)?;
        writer.write_all(&stored::encode_head(headers, SystemTime::now()))?;
        Ok(OnDisk { writer, memory: proxy.memory.clone(), url: url.to_string(), _leader: leader })
    }
}

impl Keeper for OnDisk {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.writer.size() + bytes.len() as u64 > MAX_STORED {
            return Err(io::Error::other("too large"));
        }
        self.writer.write_all(bytes)
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.writer.commit()?;
        self.memory.remove(&self.url); // what is there is older
        Ok(())
    }
}

/// Keeps an answer in memory.
struct InMemory {
    memory: Arc<Memory>,
    metrics: Arc<Metrics>,
    url: String,
    headers: Headers,
    variant: Headers,
    freshness: Freshness,
    since: Instant,
    body: Vec<u8>,
    _leader: Option<Fetching>,
}

impl Keeper for InMemory {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.body.len() + bytes.len() > self.memory.max_body() {
            return Err(io::Error::other("too large"));
        }
        self.body.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        let InMemory { memory, metrics, url, headers, variant, freshness, since, body, _leader } = *self;
        let answer = Answer { headers, variant, body: body.into(), freshness, since };
        if !memory.put(&url, answer) {
            return Err(io::Error::other("too large"));
        }
        metrics.revcache.rsp_save_memory.inc();
        Ok(())
    }
}
