//! As whom the server itself speaks TLS: certificates and a key that somebody else has made.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What shows the certificates in a file, with the key in another. The error is one line.
pub fn read(cert: &Path, key: &Path) -> Result<ServerConfig, String> {
    let certs: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(|e| format!("{}: {e}", cert.display()));
    let certs = certs?;
    if certs.is_empty() {
        return Err(format!("{}: no certificate in it", cert.display()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| format!("{}: {e}", key.display()))?;
    server_config(certs, private).map_err(|e| format!("{} and {}: {e}", cert.display(), key.display()))
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
