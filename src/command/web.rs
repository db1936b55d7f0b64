//! The HTTP side of `serve` and `run`, put together as the configuration says.

use std::env;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use rustls::ServerConfig;

use super::stack::Stack;
use crate::cli::PROGRAM;
use crate::config::{AccessConfig, AuthorityConfig, HttpConfig, ModProxyConfig};
use crate::connections::Open;
use crate::error::Error;
use crate::http::Router;
use crate::http::auth::Guard;
use crate::http::exchange::Request;
use crate::http::modproxy::ModProxy;
use crate::http::reloaded::Reloaded;
use crate::http::revproxy::RevProxy;
use crate::http::server::{Server, ServerLimits};
use crate::http::status::{Sources, Status};
use crate::http::tls::{Authority, append_certificate, identity, system_bundle};
use crate::store::{BlobStore, Kind};

/// Who may ask, and as whom the server answers: what is read from files, and may be read anew.
#[derive(Clone)]
pub struct Gate {
    guard: Arc<Guard>,
    identity: Option<Arc<Reloaded<ServerConfig>>>,
}

impl Gate {
    /// Reads the files.
    pub fn open(config: &AccessConfig) -> Result<Self, Error> {
        let guard = Guard::new(config).map_err(|why| Error::failed(format!("--http-auth-file {why}")))?;
        let stays = "the certificate stays as it was";
        let identity =
            config.tls.clone().map(|(cert, key)| Reloaded::new(vec![cert, key], stays, |f| identity(&f[0], &f[1])));
        let identity = identity.transpose().map_err(|why| Error::failed(format!("--http-tls-cert: {why}")))?;
        Ok(Gate { guard: Arc::new(guard), identity: identity.map(Arc::new) })
    }

    /// Whether there is something to read anew.
    pub fn has_files(&self) -> bool {
        self.guard.tokens.is_some() || self.identity.is_some()
    }

    /// Reads the files anew.
    pub fn reload(&self) {
        self.guard.tokens.iter().for_each(Reloaded::reload);
        self.identity.iter().for_each(|identity| identity.reload());
    }

    /// What others can do at an address where they can come in, and nobody may have meant them to.
    fn warn(&self, addr: SocketAddr) {
        let lacks = match (self.identity.is_some(), self.guard.tokens.is_some()) {
            (true, true) => return,
            (false, true) => "tokens and modules cross the network in clear (--http-tls-cert)",
            (true, false) => "whoever reaches it is served public modules, and nothing else (--http-auth-file)",
            (false, false) => {
                "whoever reaches it is served public modules, in clear, and nothing else \
                 (--http-auth-file, --http-tls-cert)"
            }
        };
        if others_reach(addr) {
            log::warn!("--http {addr} is open to other machines: {lacks}");
        }
    }
}

/// Whether other machines may come in at `addr`.
fn others_reach(addr: SocketAddr) -> bool {
    !addr.ip().to_canonical().is_loopback()
}

/// A running HTTP server.
pub struct Web {
    server: Server,
    stopping: Arc<AtomicBool>,
}

impl Web {
    /// Binds the address and starts to answer who `gate` lets in. `sessions` counts the plugin clients.
    pub fn start(
        config: &HttpConfig,
        gate: Gate,
        stack: &Stack,
        sessions: impl Fn() -> usize + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let stopping = Arc::new(AtomicBool::new(false));
        gate.warn(config.addr);
        let limits = ServerLimits::default();
        let open = Open::new(limits.max_connections);
        stack.metrics.waiting.bound(limits.max_waiting);
        let status = Status::new(Sources {
            open: open.clone(),
            metrics: stack.metrics.clone(),
            cache_dir: stack.config().cache_dir.clone(),
            bucket: stack.bucket.clone(),
            uploader: stack.uploader.clone(),
            sessions: Box::new(sessions),
            stopping: stopping.clone(),
            started: SystemTime::now(),
            cmdline: env::args_os().map(|a| a.to_string_lossy().into_owned()).collect(),
        });
        let status = status.map_err(|e| Error::failed(format!("starting the status page: {e}")))?;
        let mut router = Router {
            status: Some(Arc::new(move |request: Request<'_>| status.handle(request))),
            guard: gate.guard.clone(),
            debug_modproxy: stack.config().debug.mod_proxy(),
            metrics: Some(stack.metrics.clone()),
            ..Router::default()
        };
        if let Some(modproxy) = &config.mod_proxy {
            let proxy = modules(modproxy, stack)?;
            router.modproxy = Some(Arc::new(move |request: Request<'_>| proxy.handle(request)));
        }
        if let Some(authority) = &config.authority {
            let proxy = reverse_proxy(config, authority, &gate, stack)?;
            router.revproxy = Some(Arc::new(move |request: Request<'_>| proxy.handle(request)));
        }
        let answer = Arc::new(move |request: Request<'_>| router.handle(request));
        let server = Server::start(config.addr, open, limits, gate.identity, answer)
            .map_err(|e| Error::failed(format!("--http {}: {e}", config.addr)))?;
        Ok(Web { server, stopping })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.addr
    }

    /// Makes /healthz fail, so that a load balancer sends no more.
    pub fn announce_stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Stops accepting, lets answers under way end, joins the workers.
    pub fn stop(&self) {
        self.announce_stop();
        self.server.stop();
    }
}

/// The module proxy over the cache.
pub(super) fn modules(config: &ModProxyConfig, stack: &Stack) -> Result<Arc<ModProxy>, Error> {
    let proxy = ModProxy::new(config, blobs(Kind::Module, stack), stack.metrics.clone());
    proxy.map_err(|e| Error::usage(format!("module proxy: {e}")))
}

fn blobs(kind: Kind, stack: &Stack) -> Arc<BlobStore> {
    let config = stack.config();
    let signer = config.bucket.as_ref().map(|b| b.signer.clone()).unwrap_or_default();
    let (bucket, uploader, metrics) = (stack.bucket.clone(), stack.uploader.clone(), stack.metrics.clone());
    Arc::new(BlobStore::new(kind, &config.cache_dir, bucket, uploader, signer, metrics))
}

fn reverse_proxy(
    config: &HttpConfig,
    ca: &AuthorityConfig,
    gate: &Gate,
    stack: &Stack,
) -> Result<Arc<RevProxy>, Error> {
    let failed = |e| Error::failed(format!("reverse proxy: {e}"));
    let cache_dir = &stack.config().cache_dir;
    let replaced = Authority::leave_cache(&ca.dir, cache_dir).map_err(failed)?;
    let authority = Authority::open(ca, SystemTime::now()).map_err(failed)?;
    let cert = authority.cert_path.display().to_string();
    // said without -v too: HTTPS through the proxy works for nobody who does not know it
    let old = format!("; the authority in {} is removed, trust it no more", cache_dir.display());
    let others = "; other machines may not use it without --http-auth-file";
    let alone = gate.guard.tokens.is_some() || !others_reach(config.addr);
    super::say(format_args!(
        "{PROGRAM}: clients of the reverse proxy have to trust {cert}{}{}",
        if replaced { &old } else { "" },
        if alone { "" } else { others },
    ));
    if ca.install {
        let bundle = system_bundle()
            .ok_or_else(|| Error::failed("--install-ca: this system has no certificate bundle that we know"))?;
        if append_certificate(&authority.cert_path, &bundle).map_err(|e| Error::failed(format!("--install-ca: {e}")))? {
            super::say(format_args!("{PROGRAM}: {cert} was appended to {}", bundle.display()));
        }
    }
    let (blobs, debug) = (blobs(Kind::RevProxy, stack), stack.config().debug.rev_proxy());
    let metrics = stack.metrics.clone();
    Ok(RevProxy::new(&config.rev_proxy, &config.tunnels, blobs, authority, metrics, debug))
}
