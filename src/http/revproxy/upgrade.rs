//! Upgrade: a request that wants another protocol goes over a connection of its own, which is then
//! carried both ways. Whoever answers without switching to it is asked again, as if nobody had wanted that.

use std::io::{self, Read, Write};
use std::time::Duration;

use ureq::http::header::UPGRADE;

use super::reply::{self, Outcome, text};
use super::{RevProxy, hosts, tunnel};
use crate::config::HostPort;
use crate::headers::{self, HeaderMap, HeaderValue};
use crate::http::exchange::{Reply, default_port};
use crate::http::socket::Stream;

/// Time to the head of the answer.
const ANSWER: Duration = Duration::from_secs(120);
/// A head of more bytes is none.
const MAX_HEAD: usize = 64 << 10;
/// Headers in a head.
const MAX_HEADERS: usize = 128;

/// The protocol that a request wants instead, where it does.
pub fn wanted(method: &str, headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = method == "GET" && headers::list(headers, "connection").any(|c| c.eq_ignore_ascii_case("upgrade"));
    // HTTP/2 in the clear is another way to ask the same, which a cache need not take
    headers.get("upgrade").filter(|protocol| asked && !protocol.as_bytes().eq_ignore_ascii_case(b"h2c")).cloned()
}

/// The answer to a GET of `url` that wants to speak `protocol`, where the target does; `sent` are its other headers.
pub fn reply(proxy: &RevProxy, url: &str, protocol: &HeaderValue, sent: &HeaderMap) -> Option<(Reply, Outcome)> {
    let Some(_place) = proxy.metrics.waiting.take() else { return Some(text(503, reply::BUSY)) };
    let (target, mut headers) = match ask(proxy, url, protocol, sent) {
        Ok(switched) => switched?,
        Err(e) => return Some(text(tunnel::status(&e), format_args!("{}: {e}", hosts::shown(url)))),
    };
    let chosen = headers.get("upgrade").cloned();
    headers::drop_hop_by_hop(&mut headers);
    headers.insert("connection", HeaderValue::from_static("upgrade"));
    headers.extend(chosen.map(|chosen| (UPGRADE, chosen)));
    let mut switched = Reply::status(101).body(tunnel::takeover(target, "an upgraded connection".into()));
    switched.proxied = Some(Box::new(headers));
    Some((switched, reply::UNCACHED))
}

/// A connection on which another protocol is spoken from now on, and the head that says so.
type Switched = (Stream, HeaderMap);

/// Asks the target; nothing where it does not switch.
fn ask(proxy: &RevProxy, url: &str, protocol: &HeaderValue, sent: &HeaderMap) -> io::Result<Option<Switched>> {
    let (scheme, rest) = url.split_once("://").expect("it is absolute");
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host: HostPort = authority.parse().expect("it is of a request");
    let mut target = tunnel::dial(&proxy.reach, &host, default_port(scheme))?;
    if scheme == "https" {
        target.socket().within(tunnel::CONNECT);
        target = target.shake_hands(proxy.client.session(host.bare())?)?;
    }
    target.socket().within(ANSWER);
    let mut head = format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: upgrade\r\nupgrade: ").into_bytes();
    head.extend_from_slice(protocol.as_bytes());
    for (name, value) in sent.iter().filter(|(name, _)| !matches!(name.as_str(), "host" | "expect")) {
        head.extend_from_slice(&[b"\r\n", name.as_str().as_bytes(), b": ", value.as_bytes()].concat());
    }
    target.write_all(&[&head, &b"\r\n\r\n"[..]].concat())?;
    loop {
        head.clear();
        while !head.ends_with(b"\r\n\r\n") && !head.ends_with(b"\n\n") {
            // not a byte of what follows is read
            let mut byte = [0];
            if head.len() == MAX_HEAD || target.read(&mut byte)? == 0 {
                return Ok(None);
            }
            head.push(byte[0]);
        }
        let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut answer = httparse::Response::new(&mut slots);
        match answer.parse(&head).ok().and(answer.code) {
            Some(101) => return Ok(headers::parsed(answer.headers).map(|headers| (target, headers))),
            // others that come before the answer, 100 say, are of one hop
            Some(100..200) => {}
            _ => return Ok(None),
        }
    }
}
