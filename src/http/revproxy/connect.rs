//! What a CONNECT is answered with: TLS of our own, or a tunnel.
//!
//! Invariant: an intercepted connection asks for nothing but the host that it was opened for.

use std::sync::Arc;
use std::time::SystemTime;

use super::{Inner, RevProxy, hosts, tunnel};
use crate::http::exchange::{Body, Reply, Request, Target};
use crate::http::headers::first;
use crate::http::server::{Context, serve};

/// Tunnels at a time.
pub(super) const MAX_TUNNELS: usize = 128;

impl RevProxy {
    /// The answer to a CONNECT.
    pub(super) fn connect(&self, authority: &str) -> Reply {
        if hosts::listed(&self.0.hosts, "https", authority) {
            self.intercept(authority)
        } else {
            self.tunnel(authority)
        }
    }

    fn intercept(&self, authority: &str) -> Reply {
        let metrics = self.0.metrics.clone();
        let host = hosts::split(authority).0;
        let config = match self.0.authority.server_config(host, SystemTime::now()) {
            Ok(config) => config,
            Err(e) => {
                metrics.proxyconn.errors.inc();
                log::warn!("CONNECT {authority}: no certificate: {e}");
                return Reply::text(502, format!("no certificate for {host}: {e}\n"));
            }
        };
        metrics.proxyconn.intercepted.inc();
        let (inner, authority) = (self.0.clone(), hosts::normal("https", authority).to_string());
        Reply::status(200).body(Body::Takeover(Box::new(move |client| match client.secured(config) {
            Ok(client) => {
                let context = Context { peer: None, origin: Some(("https".to_string(), authority.clone())) };
                let handler = move |request: Request| inner.inside(request, &authority);
                serve(client, &handler, &context);
            }
            Err(e) => {
                metrics.proxyconn.errors.inc();
                log::debug!("CONNECT {authority}: handshake with the client: {e}");
            }
        })))
    }

    fn tunnel(&self, authority: &str) -> Reply {
        let metrics = self.0.metrics.clone();
        let (host, port) = hosts::split(authority);
        if !self.0.may_tunnel.any && !hosts::listed(&self.0.may_tunnel.hosts, "https", authority) {
            metrics.proxyconn.refused.inc();
            return Reply::text(403, format!("{authority} is neither in --revproxy nor in --tunnel\n"));
        }
        let Some(place) = self.0.tunnels.take() else {
            metrics.proxyconn.refused.inc();
            return Reply::text(503, "too many tunnels are open already\n");
        };
        let target = match tunnel::dial(&self.0.may_tunnel.reach(), host, port.unwrap_or("443")) {
            Ok(target) => target,
            Err(e) => {
                metrics.proxyconn.errors.inc();
                return Reply::text(tunnel::status(&e), format!("cannot connect to {authority}: {e}\n"));
            }
        };
        metrics.proxyconn.tunnelled.inc();
        Reply::status(200).body(tunnel::takeover(place, target, format!("tunnel to {authority}"), false))
    }
}

impl Inner {
    /// A request inside an intercepted connection to `authority`.
    fn inside(self: &Arc<Self>, request: Request, authority: &str) -> Reply {
        let named = first(&request.headers, "host").map(|host| hosts::normal("https", host).to_ascii_lowercase());
        let asked = match &request.target {
            Target::Absolute(scheme, host) => scheme == "https" && hosts::normal(scheme, host) == authority,
            _ => false,
        };
        if !asked || named.is_some_and(|host| host != authority) {
            return Reply::text(421, format!("this connection was opened for {authority} alone\n"));
        }
        self.proxy(request, "https", authority)
    }
}
