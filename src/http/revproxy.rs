//! The reverse proxy: forwards requests for chosen hosts and keeps what their servers let it keep.
//!
//! Requests come with absolute URLs, or inside a CONNECT whose TLS ends here. Invariants:
//! - A request goes to the host that its URL names, or, inside a CONNECT, the one that was asked
//!   for there. The Host header decides neither where it goes nor under which name it is kept.
//! - What is kept, and for whom, is [`policy`]'s to say; what was forwarded unkept says so.
//! - No body is held in memory but those that [`memory`] keeps; an answer that is kept reaches the
//!   client while it is being written, and appears in the cache only when it is whole.

mod connect;
mod forward;
mod headers;
mod hosts;
mod keep;
mod memory;
mod policy;
mod reply;
mod stored;
mod tee;
mod tunnel;
mod unkept;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use self::forward::{Failed, Forwarded, Forwarder, RequestBody};
use self::headers::Headers;
use self::memory::{Answer, Memory};
use self::policy::{Keep, Terms};
use self::reply::{Outcome, Tags};
use self::unkept::Unkept;
use super::exchange::{Handler, Method, Reply, Request, Target};
use super::tls::Authority;
use crate::config::ProxiedHost;
use crate::flight::{Flights, Leader, Role};
use crate::metrics::Metrics;
use crate::places::Places;
use crate::store::BlobStore;
use crate::text;

/// Bytes of answers kept in memory.
const MEMORY: usize = 10 << 20;
/// Larger bodies are not kept on disk.
const MAX_STORED: u64 = 4 << 30;
/// How long a request waits for another's fetch of the same thing.
const PATIENCE: Duration = Duration::from_secs(5);

/// Held while an answer is fetched that others wait for.
type Fetching = Leader<String, ()>;

/// Answers requests to a proxy: absolute URLs and CONNECT.
pub struct RevProxy(Arc<Inner>);

struct Inner {
    hosts: Vec<ProxiedHost>,
    store: Arc<BlobStore>,
    authority: Authority,
    memory: Arc<Memory>,
    flights: Arc<Flights<String>>,
    unkept: Unkept,
    forwarder: Forwarder,
    tunnels: Arc<Places>,
    metrics: Arc<Metrics>,
    debug: bool,
}

impl RevProxy {
    /// A proxy for `hosts` that keeps answers in `store` and speaks TLS as
    /// `authority` lets it. `debug` logs begin and end of each request.
    pub fn new(
        hosts: &[ProxiedHost],
        store: Arc<BlobStore>,
        authority: Authority,
        metrics: Arc<Metrics>,
        debug: bool,
    ) -> Self {
        let tunnels = Arc::new(Places::default());
        tunnels.set_limit(connect::MAX_TUNNELS.min(metrics.waiting.state().1 / 2));
        RevProxy(Arc::new(Inner {
            hosts: hosts.to_vec(),
            store,
            authority,
            memory: Arc::new(Memory::new(MEMORY)),
            flights: Arc::default(),
            unkept: Unkept::default(),
            forwarder: Forwarder::new(metrics.clone()),
            tunnels,
            metrics,
            debug,
        }))
    }
}

impl Handler for RevProxy {
    fn handle(&self, request: Request) -> Reply {
        match &request.target {
            Target::Authority(authority) => self.connect(authority),
            Target::Absolute(scheme, host) => {
                let (scheme, host) = (scheme.clone(), host.clone());
                self.0.proxy(request, &scheme, &host)
            }
            Target::Origin => Reply::text(400, "a proxy wants an absolute URL\n"),
        }
    }
}

impl Inner {
    fn proxy(&self, request: Request, scheme: &str, authority: &str) -> Reply {
        let begin = Instant::now();
        self.metrics.revcache.req_received.inc();
        if !hosts::listed(&self.hosts, scheme, authority) {
            return Reply::text(502, format!("{authority} is not proxied: it is not in --revproxy\n"));
        }
        if request.path.contains('#') || request.query.as_ref().is_some_and(|q| q.contains('#')) {
            return Reply::text(400, "a fragment is not part of a request\n");
        }
        let query = request.query.as_ref().map(|q| format!("?{q}")).unwrap_or_default();
        let url = format!("{scheme}://{}{}{query}", hosts::normal(scheme, authority), request.path);
        let method = request.method.as_str().to_string();
        if self.debug {
            log::info!(target: "request", "B {method} {url}");
        }
        let (reply, outcome) = self.answer(request, &method, &url);
        let (len, took) = (reply::body_len(&reply), begin.elapsed());
        if self.debug {
            log::info!(target: "request", "E {method} {url} {} {outcome}, {took:?}", reply.status);
        }
        self.metrics.recent.push("proxy", || url, outcome.text(), len, took);
        reply
    }

    fn answer(&self, request: Request, method: &str, url: &str) -> (Reply, Outcome) {
        let headers: Headers = request
            .headers
            .iter()
            .map(|h| (h.field.as_str().as_str().to_string(), h.value.as_str().to_string()))
            .collect();
        let terms = policy::terms(method, &headers);
        let mut stale = None;
        let mut leader = None;
        if terms.lookup {
            match self.look_up(url, &headers, &terms, true) {
                Ok(found) => return found,
                Err(old) => stale = old,
            }
            if terms.only_if_cached {
                let reply = Reply::text(504, "not in the cache\n");
                return (Tags::new(url, Outcome::Uncached).on(reply), Outcome::Uncached);
            }
        }
        let Some(place) = self.metrics.waiting.take() else {
            return (Reply::text(503, "too many requests wait for their servers\n"), Outcome::Uncached);
        };
        if terms.lookup && terms.store && method == "GET" && !self.unkept.contains(url) {
            match self.flights.join(&url.to_string(), Some(PATIENCE)) {
                Role::Lead(role) => leader = Some(role),
                Role::Landed(_) => match self.look_up(url, &headers, &terms, false) {
                    Ok(found) => return found,
                    Err(old) => stale = old,
                },
                Role::Late => {}
            }
        }
        let stale = stale.filter(|_| method == "GET");
        let (reply, outcome) = self.forward(request, method, url, headers, &terms, stale, leader);
        (reply.holding(place), outcome)
    }

    /// An answer that is kept and may be used; else the one in memory that went stale, if any.
    fn look_up(
        &self,
        url: &str,
        headers: &Headers,
        terms: &Terms,
        ask_bucket: bool,
    ) -> Result<(Reply, Outcome), Option<Arc<Answer>>> {
        let now = Instant::now();
        let in_memory = self.memory.get(url, headers);
        if let Some(answer) = &in_memory
            && answer.freshness.serves(answer.resident(now), terms)
        {
            self.metrics.revcache.req_memory_hit.inc();
            return Ok((reply::from_memory(url, answer, headers, now), Outcome::Memory));
        }
        // what was not to be kept last time is hardly in the bucket
        let ask_bucket = ask_bucket && !self.unkept.contains(url) && in_memory.is_none();
        let check: crate::store::Check<'_> = &|file| {
            let mut file = file;
            stored::decode_head(&mut file).map(|_| ()).map_err(|e| e.to_string())
        };
        let from_bucket = || ask_bucket.then(|| self.store.from_bucket(url, false, check)).flatten();
        let blob = self.store.local(url).or_else(from_bucket);
        if let Some(blob) = blob {
            match reply::from_blob(url, blob, headers, terms, SystemTime::now()) {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {} // older than the client wants it
                Err(e) => log::warn!("{url}: {e}; fetching it anew"),
            }
        }
        Err(in_memory)
    }

    #[expect(clippy::too_many_arguments, reason = "what a request has become by now")]
    fn forward(
        &self,
        request: Request,
        method: &str,
        url: &str,
        headers: Headers,
        terms: &Terms,
        stale: Option<Arc<Answer>>,
        leader: Option<Fetching>,
    ) -> (Reply, Outcome) {
        let mut sent = headers.clone();
        if let Some(stale) = &stale {
            reply::revalidate(&mut sent, stale);
        }
        let forwarded = match self.forwarder.send(method, url, &sent, request_body(request, &headers)) {
            Ok(forwarded) => forwarded,
            Err(Failed(status, why)) => {
                log::debug!("{method} {url}: {why}");
                let reply = Reply::text(status, text::without_secrets(&format!("{url}: {why}\n")));
                return (Tags::new(url, Outcome::Uncached).on(reply), Outcome::Uncached);
            }
        };
        if forwarded.status == 304
            && let Some(stale) = stale
        {
            return self.revalidated(url, &headers, terms, &stale, forwarded);
        }
        let changes = !matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE");
        if changes && (200..400).contains(&forwarded.status) {
            self.memory.remove(url); // RFC 9111, 4.4
        }
        let keep = self.keep(terms, &forwarded);
        if terms.store {
            self.unkept.remember(url, !matches!(keep, Keep::No(_)));
        }
        keep::reply(self, url, &headers, forwarded, keep, leader)
    }

    /// What to do with an answer, its length considered.
    fn keep(&self, terms: &Terms, answer: &Forwarded) -> Keep {
        let keep = policy::keep(terms, answer.status, &answer.headers, SystemTime::now());
        let limit = match keep {
            Keep::Disk => MAX_STORED,
            Keep::Memory(_) => self.memory.max_body() as u64,
            Keep::No(_) => return keep,
        };
        if !answer.framed {
            return Keep::No("its end cannot be told from a failure");
        }
        if answer.len.is_some_and(|len| len > limit) { Keep::No("too large") } else { keep }
    }

    /// The target says that what we have, gone stale, is still right.
    fn revalidated(
        &self,
        url: &str,
        headers: &Headers,
        terms: &Terms,
        stale: &Answer,
        confirmed: Forwarded,
    ) -> (Reply, Outcome) {
        let now = Instant::now();
        let merged = reply::merge(&stale.headers, confirmed.headers);
        let mut answer = Answer { headers: merged, ..stale.clone() };
        answer.since = now;
        let outcome = match policy::keep(terms, 200, &answer.headers, SystemTime::now()) {
            Keep::Memory(freshness) => {
                answer.freshness = freshness;
                answer.variant = policy::variant(&answer.headers, headers);
                self.memory.put(url, answer.clone());
                self.metrics.revcache.req_memory_hit.inc();
                Outcome::Memory
            }
            _ => {
                self.memory.remove(url);
                Outcome::Uncached
            }
        };
        let reply = reply::from_memory(url, &answer, headers, now);
        (Tags::new(url, outcome).on(reply), outcome)
    }
}

/// The body to send on, if there is one.
fn request_body(request: Request, headers: &Headers) -> Option<RequestBody> {
    let chunked = headers::has(headers, "transfer-encoding");
    let told = headers::has(headers, "content-length");
    match (chunked, told) {
        (true, _) => Some((request.body, None)),
        (false, true) => Some((request.body, Some(request.body_len.unwrap_or(0)))),
        // these have a body even when it is empty
        _ if matches!(request.method, Method::Post | Method::Put | Method::Patch) => {
            Some((Box::new(io::empty()), Some(0)))
        }
        _ => None,
    }
}
