//! Upgrade: a request that wants another protocol goes over a connection of its own, which is then
//! carried both ways. An answer that refuses is passed on as it is, over a connection that ends with it and
//! on which nothing more is asked.

use std::io::{self, Read, Write};
use std::time::Duration;

use super::reply::{Outcome, text};
use super::{RevProxy, hosts, tunnel};
use crate::config::HostPort;
use crate::http::exchange::{Reply, default_port};
use crate::http::headers::{self, HeaderMap, HeaderName, HeaderValue};
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

/// The answer to a GET of `url` that wants to speak `protocol`; `sent` are its other headers.
pub fn reply(proxy: &RevProxy, url: &str, protocol: &HeaderValue, sent: &HeaderMap) -> (Reply, Outcome) {
    let failed = |e: io::Error| text(tunnel::status(&e), format_args!("{}: {e}", hosts::shown(url)));
    let (target, (status, headers)) = match ask(proxy, url, protocol, sent) {
        Ok(answer) => answer,
        Err(e) => return failed(e),
    };
    let mut reply = Reply::status(status);
    reply.proxied = Some(Box::new(headers));
    reply.body = tunnel::takeover(target, "an upgraded connection".into(), status != 101);
    (reply, Outcome::Uncached)
}

type Head = (u16, HeaderMap);

/// Asks the target: the connection, from what follows the head of its answer on, and that head.
fn ask(proxy: &RevProxy, url: &str, protocol: &HeaderValue, sent: &HeaderMap) -> io::Result<(Stream, Head)> {
    let (scheme, rest) = url.split_once("://").expect("it is absolute");
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host: HostPort = authority.parse().expect("it is of a request");
    let mut target = tunnel::dial(&proxy.forwarder.reach, &host, default_port(scheme))?;
    if scheme == "https" {
        target.socket().within(tunnel::CONNECT);
        target = target.shake_hands(proxy.forwarder.client.session(host.bare())?)?;
    }
    target.socket().within(ANSWER);
    let mut head = format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: upgrade\r\nupgrade: ").into_bytes();
    head.extend_from_slice(protocol.as_bytes());
    for (name, value) in sent.iter().filter(|(name, _)| !matches!(name.as_str(), "host" | "expect")) {
        head.extend_from_slice(&[b"\r\n", name.as_str().as_bytes(), b": ", value.as_bytes()].concat());
    }
    target.write_all(&[&head, &b"\r\n\r\n"[..]].concat())?;
    let (mut got, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match target.read(&mut piece)? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed without an answer")),
            n => got.extend_from_slice(&piece[..n]),
        }
        while let Some((used, head)) = parse(&got)? {
            got.drain(..used);
            // others that come before the answer, 100 say, are of one hop
            if !(100..200).contains(&head.0) || head.0 == 101 {
                target.hand_over(&got);
                return Ok((target, head));
            }
        }
        if got.len() > MAX_HEAD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the head of its answer does not end"));
        }
    }
}

/// The head that `bytes` begin with and its length, where it is whole: what frames the body stays, since
/// the body is passed on as it comes.
fn parse(bytes: &[u8]) -> io::Result<Option<(usize, Head)>> {
    let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut slots);
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed answer");
    let httparse::Status::Complete(used) = answer.parse(bytes).map_err(|_| malformed())? else { return Ok(None) };
    let all = headers::parsed(answer.headers).ok_or_else(malformed)?;
    let status = answer.code.ok_or_else(malformed)?;
    let mut headers = all.clone();
    headers::drop_hop_by_hop(&mut headers);
    let (stay, connection): (&[&str], _) =
        if status == 101 { (&["upgrade"], "upgrade") } else { (&["content-length", "transfer-encoding"], "close") };
    for name in stay {
        all.get_all(*name).iter().for_each(|v| {
            headers.append(HeaderName::from_bytes(name.as_bytes()).expect("it is a name"), v.clone());
        });
    }
    headers.insert("connection", HeaderValue::from_static(connection));
    Ok(Some((used, (status, headers))))
}
