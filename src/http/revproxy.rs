//! The reverse proxy: forwards requests for chosen hosts and keeps what their servers let it keep.
//!
//! Requests come with absolute URLs, or inside a CONNECT whose TLS ends here. Invariants:
//! - A request goes to the host that its URL names, or, inside a CONNECT, the one that was asked
//!   for there. The Host header decides neither where it goes nor under which name it is kept.
//! - What is kept, and for whom, is [`rules`]' to say; what was forwarded unkept says so.
//! - What is meant for one hop is dropped before anything is decided by it.
//! - Only a condition of our own, of what we have alone, can confirm what we have.
//! - No query is shown: not in the log, nor on the status page, nor in an error's text.
//! - No body is held in memory but those that [`memory`] keeps; an answer that is kept reaches the
//!   client while it is being written, and appears in the cache only when it is whole.

mod connect;
mod forward;
mod hosts;
mod keep;
mod lookup;
mod memory;
mod reply;
mod rules;
mod stored;
mod tunnel;
mod upgrade;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use self::forward::{Ask, Failed, RequestBody};
use self::memory::{Answer, Memory};
use self::reply::{Found, Outcome};
use self::rules::Terms;
use super::exchange::{Body, Method, Reply, Request, Target};
use super::tls::Authority;
use super::told;
use crate::bounded::Bounded;
use crate::client::{Client, Reach};
use crate::config::{HostPort, Tunnels};
use crate::flight::{Flights, Leader, Role};
use crate::headers::{self, HeaderMap, value};
use crate::metrics::Metrics;
use crate::places::Places;
use crate::store::BlobStore;

/// Bytes of answers kept in memory.
const MEMORY: usize = 10 << 20;
/// Larger bodies are not kept on disk.
const MAX_STORED: u64 = 4 << 30;
/// Answers that are fresh for less than this are kept in memory.
const SHORT_LIVED: Duration = Duration::from_secs(3600);
/// URLs whose answers are known not to be kept, and of which it is known how old what is kept may be.
const URLS: usize = 4096;
/// Stale answers made fresh at a time, beside requests that are answered with them.
const MAX_REFRESHING: usize = 16;
/// How long a request waits for another's fetch of the same thing.
const PATIENCE: Duration = Duration::from_secs(5);

/// What no URL holds, and curl for one sends as it is, to servers that take it.
const NO_URL: &AsciiSet = &CONTROLS.add(b'"').add(b'<').add(b'>').add(b'`');

/// Held while an answer is fetched that others wait for.
type Fetching = Leader<String, ()>;

/// Answers requests to a proxy: absolute URLs and CONNECT.
pub struct RevProxy {
    hosts: Vec<HostPort>,
    may_tunnel: Tunnels,
    store: Arc<BlobStore>,
    /// The same without the bucket.
    own_store: BlobStore,
    authority: Authority,
    memory: Memory,
    flights: Arc<Flights<String>>,
    /// What turned out not to be kept: nobody waits for another's fetch of it, and the bucket is not asked.
    unkept: Bounded<String>,
    client: Client,
    /// Which addresses it may connect to.
    reach: Reach,
    refreshing: Arc<Places>,
    /// When the latest answer to a URL that counts was asked for, or a change made: earlier ones are old.
    latest: Bounded<String, Instant>,
    metrics: Arc<Metrics>,
    debug: bool,
}

impl RevProxy {
    /// A proxy for `hosts`, by CONNECT to `may_tunnel` too, that keeps answers in `store` and speaks TLS as
    /// `authority` lets it. `debug` logs begin and end of each request.
    pub fn new(
        hosts: &[HostPort],
        may_tunnel: &Tunnels,
        store: Arc<BlobStore>,
        authority: Authority,
        metrics: Arc<Metrics>,
        debug: bool,
    ) -> Arc<Self> {
        let reach = Reach::Clients(hosts.to_vec());
        Arc::new(RevProxy {
            hosts: hosts.to_vec(),
            may_tunnel: may_tunnel.clone(),
            own_store: store.without_bucket(),
            store,
            authority,
            memory: Memory::new(MEMORY),
            flights: Arc::default(),
            unkept: Bounded::new(URLS),
            client: forward::client(reach.clone()),
            reach,
            refreshing: Places::new(MAX_REFRESHING),
            latest: Bounded::new(URLS),
            metrics,
            debug,
        })
    }

    /// The answer to `request`.
    pub fn handle(self: &Arc<Self>, request: Request<'_>) -> Reply {
        match request.target.clone() {
            Target::Authority(host) if hosts::listed(&self.hosts, "https", &host) => self.intercept(&host),
            Target::Authority(host) => self.tunnel(&host),
            Target::Absolute(scheme, host) => self.proxy(request, scheme, &host),
            Target::Origin => Reply::text(400, "a proxy wants an absolute URL\n"),
        }
    }

    fn proxy(self: &Arc<Self>, request: Request<'_>, scheme: &str, host: &HostPort) -> Reply {
        self.metrics.revcache.req_received.inc();
        if !hosts::listed(&self.hosts, scheme, host) {
            return Reply::text(502, format!("{host} is not proxied: it is not in --revproxy\n"));
        }
        let query = request.query.as_ref().map(|q| format!("?{q}")).unwrap_or_default();
        let url = format!("{scheme}://{host}{}{query}", request.path);
        let url = utf8_percent_encode(&url, NO_URL).to_string();
        let method = request.method.as_str().to_string();
        told(&self.metrics, self.debug, "proxy", &method, hosts::shown(&url), || {
            let (mut reply, outcome) = self.answer(request, &method, &url);
            // in place of what other caches said
            let headers = reply.proxied.get_or_insert_default();
            headers.insert("x-cache", value(outcome));
            headers.insert("x-cache-id", value(hosts::cache_id(&url)));
            (reply, outcome)
        })
    }

    fn answer(self: &Arc<Self>, mut request: Request<'_>, method: &str, url: &str) -> (Reply, Outcome) {
        let mut headers = std::mem::take(&mut request.headers);
        // of these methods there is one even when it is empty
        let implied = matches!(request.method, Method::Post | Method::Put | Method::Patch);
        let has_body = implied || request.body_len != Some(0) || headers.contains_key("content-length");
        let body = has_body.then_some((request.body, request.body_len));
        let protocol = upgrade::wanted(method, &headers).filter(|_| body.is_none());
        headers::drop_hop_by_hop(&mut headers);
        if let Some(switched) = protocol.and_then(|protocol| upgrade::reply(self, url, &protocol, &headers)) {
            return switched;
        }
        let terms = Terms::new(method, headers, body.as_ref().is_some_and(|(_, len)| *len != Some(0)));
        let (mut old, mut leader) = (None, None);
        if terms.lookup {
            old = self.look_up(url, &terms);
            if let Some(answer) = self.serve(url, &terms, old.as_ref()) {
                return answer;
            }
            if terms.only_if_cached {
                return reply::text(504, "not in the cache");
            }
        }
        // until the head of the answer is there; its body does likewise
        let Some(_place) = self.metrics.waiting.take() else {
            return reply::text(503, reply::BUSY);
        };
        if terms.lookup && terms.store && self.unkept.get(url).is_none() {
            match self.flights.join(&url.to_string(), Some(PATIENCE)) {
                Role::Lead(role) => leader = Some(role),
                Role::Landed(_) => {
                    old = self.look_up(url, &terms);
                    if let Some(answer) = self.serve(url, &terms, old.as_ref()) {
                        return answer;
                    }
                }
                Role::Late => {}
            }
        }
        self.fetch(method, url, &terms, body, old.filter(|_| method == "GET"), leader)
    }

    /// The answer from what was found, where that may be used: fresh, or while it is made fresh.
    fn serve(self: &Arc<Self>, url: &str, terms: &Terms, found: Option<&Found>) -> Option<(Reply, Outcome)> {
        let (found, now) = (found?, SystemTime::now());
        if !found.answer.rules.serves(terms, now) {
            if !found.answer.rules.serves_stale("stale-while-revalidate", terms, now) {
                return None;
            }
            self.refresh(url, terms, found);
        }
        Some(self.hit(url, terms, found))
    }

    fn hit(&self, url: &str, terms: &Terms, found: &Found) -> (Reply, Outcome) {
        match found.outcome {
            reply::MEMORY => self.metrics.revcache.req_memory_hit.inc(),
            // the store counts those under the URL itself
            reply::LOCAL if found.blob() != Some(url) => self.metrics.revcache.req_local_hit.inc(),
            _ => {}
        }
        (found.reply(terms, SystemTime::now()), found.outcome)
    }

    /// Makes a stale answer fresh, beside the request that it is used for.
    fn refresh(self: &Arc<Self>, url: &str, terms: &Terms, found: &Found) {
        let Role::Lead(leader) = self.flights.join(&url.to_string(), Some(Duration::ZERO)) else { return };
        let (proxy, url, found) = (self.clone(), url.to_string(), found.clone());
        let mut headers = terms.headers.clone();
        for name in ["range", "if-range", "if-none-match", "if-modified-since"] {
            headers.remove(name);
        }
        self.refreshing.aside("http-refresh", move || {
            let terms = Terms::new("GET", headers, false);
            if let Body::Stream(mut body, _) = proxy.fetch("GET", &url, &terms, None, Some(found), Some(leader)).0.body
            {
                let _ = io::copy(&mut body, &mut io::sink()); // it is kept as it is read
            }
        });
    }

    /// Asks the target; `old` is what is kept and may not be used as it is.
    fn fetch(
        self: &Arc<Self>,
        method: &str,
        url: &str,
        terms: &Terms,
        body: Option<RequestBody<'_>>,
        old: Option<Found>,
        leader: Option<Fetching>,
    ) -> (Reply, Outcome) {
        let mut sent = terms.headers.clone();
        // a client's own condition says nothing of what we have
        let confirms = old.as_ref().is_some_and(|old| reply::revalidate(&mut sent, &old.answer.headers));
        let changes = !matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE");
        let asked = Instant::now();
        let answer = self.forward(Ask { method, url, headers: &sent }, body);
        let failed = answer.as_ref().map_or(true, |a| matches!(a.status, 500 | 502..=504));
        if failed
            && let Some(old) = &old
            && old.answer.rules.serves_stale("stale-if-error", terms, SystemTime::now())
        {
            return self.hit(url, terms, old);
        }
        let forwarded = match answer {
            Ok(forwarded) => forwarded,
            Err(Failed(status, why)) => {
                if changes && status >= 500 {
                    // its answer is lost, and what it did may not be
                    self.invalidate(url, &HeaderMap::new());
                }
                log::debug!("{method} {}: {why}", hosts::shown(url));
                return reply::text(status, format_args!("{}: {why}", hosts::shown(url)));
            }
        };
        if forwarded.status == 304
            && let Some(old) = old.as_ref().filter(|_| confirms)
        {
            return self.confirmed(url, terms, old, &forwarded.headers, asked);
        }
        if changes && (200..400).contains(&forwarded.status) {
            self.invalidate(url, &forwarded.headers);
        }
        keep::reply(self, url, terms, forwarded, old, leader, asked)
    }

    /// The target says that what we have is still right.
    fn confirmed(&self, url: &str, terms: &Terms, old: &Found, news: &HeaderMap, asked: Instant) -> (Reply, Outcome) {
        let headers = reply::merge(&old.answer.headers, news);
        let answer = Answer {
            body: old.answer.body.clone(),
            blob: old.answer.blob.clone(),
            ..Answer::new(old.answer.status, headers, terms, SystemTime::now())
        };
        if answer.rules.storable(terms).is_err() {
            self.forget_one(url, old);
        } else if !self.is_late(url, asked) {
            self.memory.put(url, &answer);
        }
        self.hit(url, terms, &Found { answer: Arc::new(answer), ..old.clone() })
    }
}

#[cfg(test)]
mod tests;
