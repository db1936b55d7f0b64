//! Sends requests on to their targets and takes their answers, changing nothing that is not for
//! one hop only: no headers of our own (no Via either, for which servers switch compression off),
//! no redirects followed, no bodies decoded, no bodies held in memory.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use ureq::http;
use ureq::{Agent, SendBody};

use super::RevProxy;
use super::reply::BUSY;
use crate::client::{self, Client, Reach, Received, is_disconnect};
use crate::headers::{HeaderMap, value};
use crate::http::resume::{Resumed, Whole};
use crate::places::Places;

/// For so long the reader of a body waits for its turn where too many wait for more of theirs.
const TURN: Duration = Duration::from_secs(1);

/// A request's body, and its length where the client told it.
pub type RequestBody<'a> = (Box<dyn Read + 'a>, Option<u64>);

/// What is asked of a target.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// The method.
    pub method: &'a str,
    /// The URL, which says what Host is.
    pub url: &'a str,
    /// The headers, without those for one hop only.
    pub headers: &'a HeaderMap,
}

/// A request that got no answer: the status to say so with, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Failed(pub u16, pub String);

/// The connections, which are kept, to all targets that `reach` allows; through no proxy, for that may be ourselves.
pub fn client(reach: Reach) -> Client {
    Client::new(client::Options {
        connect: Duration::from_secs(10),
        // servers that compute an answer may take their time
        answer: Duration::from_secs(120),
        pause: Duration::from_secs(60),
        keep: (Duration::from_secs(30), 16),
        verbatim: true,
        reach: Some(reach),
        ..client::Options::default()
    })
}

impl RevProxy {
    /// Sends a request. One without a body is sent again when a connection that was kept open turns out to be
    /// closed. The body of a GET goes on where it broke off, where the target takes ranges.
    pub(super) fn forward(self: &Arc<Self>, ask: Ask<'_>, body: Option<RequestBody<'_>>) -> Result<Received, Failed> {
        let mut answer = self.resuming(ask, self.ask(ask, body)?);
        answer.body = Box::new(Awaited { body: answer.body, waiting: self.metrics.waiting.clone() });
        Ok(answer)
    }

    fn resuming(self: &Arc<Self>, ask: Ask<'_>, mut answer: Received) -> Received {
        let whole = Whole::of(&answer.headers, answer.len);
        // what nothing else checks goes on by a strong tag alone
        if ask.method != "GET" || answer.status != 200 || answer.len.is_none() || !whole.etag.starts_with('"') {
            return answer;
        }
        let (this, url, mut headers) = (self.clone(), ask.url.to_string(), ask.headers.clone());
        ["if-none-match", "if-modified-since"].iter().for_each(|name| drop(headers.remove(*name)));
        let ask = move |range: &str, tag: &str| {
            headers.insert("range", value(range));
            headers.insert("if-range", value(tag));
            let ask = Ask { method: "GET", url: &url, headers: &headers };
            let part = this.ask(ask, None).map_err(|e| e.1)?;
            if part.status == 206 { Ok(part) } else { Err("it takes no ranges".to_string()) }
        };
        answer.body = Box::new(Resumed::new(answer.body, whole, true, ask));
        answer
    }

    fn ask(&self, ask: Ask<'_>, body: Option<RequestBody<'_>>) -> Result<Received, Failed> {
        let Ask { method, url, .. } = ask;
        let agent = &self.client.agent(url.starts_with("https:")).map_err(|e| Failed(502, e.to_string()))?;
        let mut call =
            self.metrics.upstreams.begin(url.split_inclusive('/').take(3).collect::<String>().trim_end_matches('/'));
        self.metrics.revcache.req_forward.inc();
        let bodiless = body.is_none();
        let answer = match send_once(agent, ask, body) {
            Err(ureq::Error::Io(e)) if bodiless && is_disconnect(&e) => send_once(agent, ask, None),
            other => other,
        };
        self.metrics.latency.upstream_request.observe(call.begun.elapsed());
        let answer = answer.map_err(|e| failed(&e));
        let answer = answer.and_then(|a| Received::of(method, a).map_err(|why| Failed(502, why.to_string())));
        match &answer {
            Ok(answer) if answer.status >= 500 => call.failed(&format!("status {}", answer.status)),
            // what cannot be sent is not the target's fault
            Ok(_) | Err(Failed(400, _)) => {}
            Err(Failed(_, why)) => call.failed(why),
        }
        answer
    }
}

/// A body: who reads it waits for a server like others, but not while its own client does not read. Those who have yet
/// to begin do not keep it from going on.
struct Awaited {
    body: Box<dyn Read + Send>,
    waiting: Arc<Places>,
}

impl Read for Awaited {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let _place = self.waiting.again(TURN).ok_or_else(|| io::Error::other(BUSY))?;
        self.body.read(buf)
    }
}

type Response = http::Response<ureq::Body>;

fn send_once(agent: &Agent, ask: Ask<'_>, body: Option<RequestBody<'_>>) -> Result<Response, ureq::Error> {
    let mut builder = http::Request::builder().method(ask.method).uri(ask.url);
    let headers = builder.headers_mut().ok_or(ureq::Error::BadUri(String::new()))?;
    *headers = ask.headers.clone();
    // Host comes from the URL; 100-continue is between us and the client
    headers.remove("host");
    headers.remove("expect");
    // a body is sent whatever the method: GET and DELETE may carry one, too
    match body {
        None => agent.run(builder.body(SendBody::none())?),
        Some((body, len)) => {
            if let Some(len) = len {
                headers.insert("content-length", value(len.to_string()));
            }
            agent.run(builder.body(SendBody::from_reader(&mut OfClient(body)))?)
        }
    }
}

/// A request's body: an error in it is its client's.
struct OfClient<'a>(Box<dyn Read + 'a>);

impl Read for OfClient<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf).map_err(|e| ureq::Error::Other(e.into()).into_io())
    }
}

fn failed(e: &ureq::Error) -> Failed {
    match e {
        ureq::Error::Other(of_client) => Failed(400, of_client.to_string()),
        ureq::Error::Timeout(_) => Failed(504, client::words(e)),
        // these repeat the URL, whose query may be a secret
        ureq::Error::Http(_) | ureq::Error::BadUri(_) => Failed(400, "cannot be forwarded: malformed".to_string()),
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::PermissionDenied => Failed(403, e.to_string()),
        e => Failed(502, client::words(e)),
    }
}
