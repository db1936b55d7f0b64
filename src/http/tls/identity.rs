//! As whom the server itself speaks TLS: certificates and a key that somebody else has made.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Certificates and key, as they were last read from their files.
pub struct Identity {
    cert: PathBuf,
    key: PathBuf,
    config: Mutex<Arc<ServerConfig>>,
}

impl Identity {
    /// Reads the files. The error is one line.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, String> {
        let config = Mutex::new(read(cert, key)?);
        Ok(Identity { cert: cert.to_path_buf(), key: key.to_path_buf(), config })
    }

    /// Reads the files anew; what is wrong with them changes nothing, with a line.
    pub fn reload(&self) {
        match read(&self.cert, &self.key) {
            Ok(config) => *self.config.lock().expect("no holder panics") = config,
            Err(why) => log::warn!("{why}; the certificate stays as it was"),
        }
    }

    /// What the next connection is greeted with.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.lock().expect("no holder panics").clone()
    }
}

fn read(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, String> {
    let certs: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(|e| format!("{}: {e}", cert.display()));
    let certs = certs?;
    if certs.is_empty() {
        return Err(format!("{}: no certificate in it", cert.display()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| format!("{}: {e}", key.display()))?;
    let config = server_config(certs, private);
    config.map(Arc::new).map_err(|e| format!("{} and {}: {e}", cert.display(), key.display()))
}

/// What shows `certs`, the server's own first.
pub(super) fn server_config(
    certs: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> io::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certs, key))
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
