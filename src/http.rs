//! The HTTP side: routing from a request to the handler that answers it.
//!
//! Invariants: what a request may do is decided in [`auth`] before anything else is done with it, and
//! only health is told to whoever asks; the path is matched as it was sent, so that no escape leads
//! around these rules.

pub(crate) mod auth;
pub(crate) mod exchange;
pub(crate) mod modproxy;
pub(crate) mod reloaded;
mod resume;
pub(crate) mod revproxy;
pub(crate) mod server;
mod socket;
pub(crate) mod status;
pub(crate) mod tls;

use std::sync::Arc;
use std::time::Instant;

use self::auth::Guard;
use self::exchange::{Handler, Method, Reply, Request, Target};
use crate::metrics::Metrics;

/// Who answers what. What is not there is 404, or 401 or 403 for who may not see the status.
#[derive(Default)]
pub struct Router {
    /// Says what a request may do.
    pub guard: Arc<Guard>,
    /// /mod/
    pub modproxy: Option<Arc<Handler>>,
    /// Requests to a proxy: absolute URLs and CONNECT.
    pub revproxy: Option<Arc<Handler>>,
    /// /debug/, /metrics, /healthz and /readyz
    pub status: Option<Arc<Handler>>,
    /// Log begin and end of each request to /mod/.
    pub debug_modproxy: bool,
    /// Where requests are counted. The status' own are not.
    pub metrics: Option<Arc<Metrics>>,
}

impl Router {
    fn route(&self, mut request: Request<'_>) -> Reply {
        let proxied = request.target != Target::Origin;
        if proxied || !matches!(request.path.as_str(), "/healthz" | "/readyz") {
            request.access = match self.guard.judge(&request) {
                Ok(access) => access,
                Err(reply) => return reply,
            };
        }
        let access = request.access;
        let handler = if proxied {
            if !access.proxy {
                return access.refusal(true, "this proxy");
            }
            let Some(revproxy) = &self.revproxy else {
                return Reply::text(502, "this server is no proxy: --revproxy is not set\n");
            };
            revproxy
        } else {
            let path = request.path.as_str();
            let handler = match path {
                _ if path.starts_with("/mod/") => &self.modproxy,
                "/healthz" | "/readyz" => &self.status,
                _ if !access.debug => return access.refusal(false, "this page"),
                "/" | "/debug" => return Reply::text(302, "see /debug/\n").header("Location", "/debug/"),
                "/metrics" => &self.status,
                _ if path.starts_with("/debug/") => &self.status,
                _ => &None,
            };
            let Some(handler) = handler else { return Reply::text(404, "not found\n") };
            if !matches!(request.method, Method::Get | Method::Head) {
                return Reply::text(405, "only GET and HEAD are answered here\n").header("Allow", "GET, HEAD");
            }
            handler
        };
        handler(request)
    }

    /// The answer to `request`.
    pub fn handle(&self, request: Request<'_>) -> Reply {
        let module = request.target == Target::Origin && request.path.starts_with("/mod/");
        // the reverse proxy tells of its own, those inside a CONNECT included
        let Some(metrics) = self.metrics.as_ref().filter(|_| module) else { return self.route(request) };
        let (method, path) = (request.method.to_string(), request.path.clone());
        told(metrics, self.debug_modproxy, "module", &method, path.trim_start_matches("/mod/"), || {
            let reply = self.route(request);
            let outcome = match reply.status {
                200..=399 => "answered",
                404 | 410 => "not there",
                400..=499 => "refused",
                _ => "failed",
            };
            (reply, outcome)
        })
    }
}

/// Has a request of a proxy answered, and tells of it: where `debug` says so in the log, in the metrics, and
/// among the latest requests of its `kind`.
fn told(
    metrics: &Metrics,
    debug: bool,
    kind: &'static str,
    method: &str,
    what: &str,
    answer: impl FnOnce() -> (Reply, &'static str),
) -> Reply {
    let begin = Instant::now();
    if debug {
        log::info!(target: "request", "B {method} {what}");
    }
    let (reply, outcome) = answer();
    let took = begin.elapsed();
    if debug {
        log::info!(target: "request", "E {method} {what} {} {outcome}, {took:?}", reply.status);
    }
    metrics.latency.http_request.observe(took);
    metrics.recent.push(kind, || what.to_string(), outcome, reply.body.length(), took);
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::exchange::Body;

    fn router() -> Router {
        let named = |name: &'static str| -> Option<Arc<Handler>> {
            Some(Arc::new(move |r: Request<'_>| Reply::text(200, format!("{name} {}", r.path))))
        };
        Router {
            modproxy: named("mod"),
            revproxy: named("rev"),
            status: named("status"),
            guard: Arc::default(),
            debug_modproxy: true,
            metrics: None,
        }
    }

    fn ask(path: &str, peer: &str) -> (u16, String) {
        let mut request = Request::new(Method::Get, path);
        request.peer = Some(format!("{peer}:1").parse().unwrap());
        let reply = router().handle(request);
        let Body::Bytes(text) = reply.body else { panic!("no text") };
        (reply.status, String::from_utf8(text).unwrap())
    }

    #[test]
    fn each_path_has_its_handler() {
        for local in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"] {
            assert_eq!(ask("/mod/a", local), (200, "mod /mod/a".into()));
            for path in ["/healthz", "/metrics", "/debug/", "/debug/vars"] {
                assert_eq!(ask(path, local), (200, format!("status {path}")));
            }
            assert_eq!(ask("/", local).0, 302);
            assert_eq!(ask("/modx", local).0, 404);
        }
        for path in ["/mod/a", "/healthz"] {
            let reply = router().handle(Request::new(Method::Post, path));
            assert_eq!((reply.status, reply.headers.last().unwrap().value.as_str()), (405, "GET, HEAD"));
        }
    }

    #[test]
    fn other_machines_get_modules_and_health() {
        assert_eq!(ask("/mod/a", "192.0.2.1").0, 200);
        assert_eq!(ask("/healthz", "192.0.2.1").0, 200);
        for path in ["/", "/debug/", "/metrics", "/debug/vars", "/mod", "/%6dod/", "/./debug/", "//debug/"] {
            assert_eq!(ask(path, "192.0.2.1").0, 403, "{path}");
        }
        let mut request = Request::new(Method::Get, "/x");
        request.target = Target::Absolute("http", "127.0.0.1".parse().unwrap());
        request.peer = Some("192.0.2.1:1".parse().unwrap());
        assert_eq!(router().handle(request).status, 403);
    }
}
