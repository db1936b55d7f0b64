//! Appending the authority's certificate to a bundle that a system's TLS clients trust.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Where systems keep the bundle, in the order in which Go looks for it.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Arch, Gentoo
    "/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora, RHEL 6
    "/etc/ssl/ca-bundle.pem",                            // openSUSE
    "/etc/pki/tls/cacert.pem",                           // OpenELEC
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // CentOS, RHEL 7
    "/etc/ssl/cert.pem",                                 // Alpine
];

/// The system's bundle, where it has one.
pub fn system_bundle() -> Option<PathBuf> {
    BUNDLES.iter().map(PathBuf::from).find(|p| p.is_file())
}

/// Appends the certificate in the file `cert` to `bundle`, unless it is in there; whether it did. Errors say what to do
/// instead.
pub fn append_certificate(cert: &Path, bundle: &Path) -> io::Result<bool> {
    let explain = |e: io::Error| {
        let why = format!(
            "{}: cannot add the certificate authority: {e}; run once as a user who may write it, \
             or point clients to ca.pem (SSL_CERT_FILE, CURL_CA_BUNDLE)",
            bundle.display()
        );
        io::Error::new(e.kind(), why)
    };
    let (pem, present) = (fs::read_to_string(cert)?, fs::read(bundle).map_err(explain)?);
    // what stands above the certificate in its file is not for a bundle
    let pem = pem.find("-----BEGIN").map_or(&pem[..], |at| &pem[at..]).trim();
    if memchr::memmem::find(&present, pem.as_bytes()).is_some() {
        return Ok(false);
    }
    let gap = if present.is_empty() || present.ends_with(b"\n") { "" } else { "\n" };
    // one write at the end: the bundle is never seen without what was in it
    let mut file = OpenOptions::new().append(true).open(bundle).map_err(explain)?;
    file.write_all(format!("{gap}{pem}\n").as_bytes()).map_err(explain)?;
    Ok(true)
}
