//! What a CONNECT is answered with: TLS of our own, or a tunnel.
//!
//! Invariant: an intercepted connection asks for nothing but the host that it was opened for.

use std::sync::Arc;
use std::time::SystemTime;

use super::reply::BUSY;
use super::{RevProxy, hosts, tunnel};
use crate::config::HostPort;
use crate::headers::first;
use crate::http::exchange::{Body, Reply, Request, Target};
use crate::http::server::{Context, serve};

impl RevProxy {
    /// The answer to a CONNECT to a host that is listed.
    pub(super) fn intercept(self: &Arc<Self>, asked: &HostPort) -> Reply {
        let host = asked.clone().without_port(443);
        let config = match self.authority.server_config(host.bare(), SystemTime::now()) {
            Ok(config) => config,
            Err(e) => {
                self.metrics.proxyconn.errors.inc();
                log::warn!("CONNECT {asked}: no certificate: {e}");
                return Reply::text(502, format!("no certificate for {}: {e}\n", host.name()));
            }
        };
        self.metrics.proxyconn.intercepted.inc();
        let this = self.clone();
        Reply::status(200).body(Body::Takeover(Box::new(move |client| match client.secured(config) {
            Ok(client) => {
                let context = Context { peer: None, origin: Some(("https", host.clone())) };
                serve(client, &move |request: Request<'_>| this.inside(request, &host), &context);
            }
            Err(e) => {
                this.metrics.proxyconn.errors.inc();
                log::debug!("CONNECT {host}: handshake with the client: {e}");
            }
        })))
    }

    /// The answer to a CONNECT to another.
    pub(super) fn tunnel(&self, host: &HostPort) -> Reply {
        let counted = &self.metrics.proxyconn;
        if !self.may_tunnel.any && !hosts::listed(&self.may_tunnel.hosts, "https", host) {
            counted.refused.inc();
            return Reply::text(403, format!("{host} is neither in --revproxy nor in --tunnel\n"));
        }
        let Some(_place) = self.metrics.waiting.take() else {
            counted.refused.inc();
            return Reply::text(503, format!("{BUSY}\n"));
        };
        let target = match tunnel::dial(&self.may_tunnel.reach(), host, 443) {
            Ok(target) => target,
            Err(e) => {
                counted.errors.inc();
                return Reply::text(tunnel::status(&e), format!("cannot connect to {host}: {e}\n"));
            }
        };
        counted.tunnelled.inc();
        Reply::status(200).body(tunnel::takeover(target, format!("tunnel to {host}")))
    }

    /// A request inside an intercepted connection to `host`.
    fn inside(self: &Arc<Self>, request: Request<'_>, host: &HostPort) -> Reply {
        let is_it = |named: &str| named.parse::<HostPort>().is_ok_and(|named| named.without_port(443) == *host);
        let asked = matches!(&request.target, Target::Absolute("https", asked) if asked == host);
        if !asked || !first(&request.headers, "host").is_none_or(is_it) {
            return Reply::text(421, format!("this connection was opened for {host} alone\n"));
        }
        self.proxy(request, "https", host)
    }
}
