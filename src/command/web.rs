//! The HTTP side of `serve` and `run`, put together as the configuration says.

use std::env;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use super::stack::Stack;
use crate::cli::PROGRAM;
use crate::config::HttpConfig;
use crate::error::Error;
use crate::http::Router;
use crate::http::exchange::Handler;
use crate::http::modproxy::ModProxy;
use crate::http::revproxy::RevProxy;
use crate::http::server::{Server, ServerLimits};
use crate::http::status::{Sources, Status};
use crate::http::tls::{Authority, Installed, system_bundle};
use crate::store::{BlobStore, Kind};

/// A running HTTP server.
pub struct Web {
    server: Server,
    stopping: Arc<AtomicBool>,
}

impl Web {
    /// Binds the address and starts to answer. `sessions` counts the plugin clients.
    pub fn start(
        config: &HttpConfig,
        stack: &Stack,
        sessions: impl Fn() -> usize + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let stopping = Arc::new(AtomicBool::new(false));
        let status = Status::new(Sources {
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
            status: Some(Arc::new(status)),
            debug_modproxy: stack.config().debug.mod_proxy(),
            metrics: Some(stack.metrics.clone()),
            ..Router::default()
        };
        if let Some(modproxy) = &config.mod_proxy {
            let proxy = ModProxy::new(modproxy, blobs(Kind::Module, stack), stack.metrics.clone());
            router.modproxy = Some(Arc::new(proxy.map_err(|e| Error::usage(format!("module proxy: {e}")))?));
        }
        if !config.rev_proxy.is_empty() {
            router.revproxy = Some(reverse_proxy(config, stack)?);
        }
        let server = Server::start(config.addr, ServerLimits::default(), Arc::new(router))
            .map_err(|e| Error::failed(format!("--http {}: {e}", config.addr)))?;
        Ok(Web { server, stopping })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.local_addr()
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

fn blobs(kind: Kind, stack: &Stack) -> Arc<BlobStore> {
    let config = stack.config();
    let signer = config.bucket.as_ref().map(|b| b.signer.clone()).unwrap_or_default();
    let (bucket, uploader, metrics) = (stack.bucket.clone(), stack.uploader.clone(), stack.metrics.clone());
    Arc::new(BlobStore::new(kind, &config.cache_dir, bucket, uploader, signer, metrics))
}

fn reverse_proxy(config: &HttpConfig, stack: &Stack) -> Result<Arc<dyn Handler>, Error> {
    let failed = |e| Error::failed(format!("reverse proxy: {e}"));
    let authority = Authority::open(&stack.config().cache_dir, SystemTime::now()).map_err(failed)?;
    let cert = authority.cert_path().display().to_string();
    // said without -v too: HTTPS through the proxy works for nobody who does not know it
    super::say(format_args!("{PROGRAM}: clients of the reverse proxy have to trust {cert}"));
    if config.install_ca {
        let bundle = system_bundle()
            .ok_or_else(|| Error::failed("--install-ca: this system has no certificate bundle that we know"))?;
        let installed = authority.install_into(&bundle).map_err(|e| Error::failed(format!("--install-ca: {e}")))?;
        if matches!(installed, Installed::Now) {
            super::say(format_args!("{PROGRAM}: {cert} was appended to {}", bundle.display()));
        }
    }
    let (blobs, debug) = (blobs(Kind::RevProxy, stack), stack.config().debug.rev_proxy());
    Ok(Arc::new(RevProxy::new(&config.rev_proxy, blobs, authority, stack.metrics.clone(), debug)))
}
