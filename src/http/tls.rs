//! The local authority that vouches for hosts whose TLS the reverse proxy terminates.
//!
//! Its key `ca-key.pem` (mode 0600) and certificate `ca.pem` lie in the cache directory. The key
//! is made once and kept; the certificate is renewed under the same key and name long before it
//! ends, so that clients which trust the old one follow. When it ends is said in a line of text
//! above it ([`ENDS`]); without that line, as earlier versions wrote it, it counts as due. Host
//! certificates live for a day, in memory only, and are made anew at half that time.
//!
//! A client is always shown the certificate of the host that it said CONNECT to, whatever name its
//! handshake asks for: that host is where its requests go.

mod install;

pub use install::{Installed, system_bundle};

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::atomic::{self, TEMP_PREFIX};

const DAY: Duration = Duration::from_secs(86_400);
/// How long the authority's certificate is valid.
const AUTHORITY_LIFE: Duration = Duration::from_secs(5 * 365 * 86_400);
/// It is renewed when less than this is left of it.
const AUTHORITY_RENEW: Duration = Duration::from_secs(180 * 86_400);
/// How long a host's certificate is valid.
const HOST_LIFE: Duration = DAY;
/// Certificates are valid from this long before they are made, for clients whose clock is behind.
const SLACK: Duration = Duration::from_secs(3600);
/// What comes before the end of the authority's certificate, in the first line of its file.
const ENDS: &str = "# valid until ";
/// Hosts whose certificates are held at most.
const MAX_HOSTS: usize = 256;

/// The authority and the host certificates it has signed.
pub struct Authority {
    key: KeyPair,
    cert_path: PathBuf,
    hosts: Mutex<HashMap<String, Host>>,
}

struct Host {
    config: Arc<ServerConfig>,
    renew_at: SystemTime,
}

impl Authority {
    /// Opens the authority of a cache directory; makes or renews what is missing or due at `now`.
    /// Errors name the file and what to do.
    pub fn open(cache_dir: &Path, now: SystemTime) -> io::Result<Self> {
        fs::create_dir_all(cache_dir)?;
        let key = load_or_make_key(&cache_dir.join("ca-key.pem"))?;
        let cert_path = cache_dir.join("ca.pem");
        let authority = Authority { key, cert_path, hosts: Mutex::default() };
        authority.renew_if_due(now)?;
        Ok(authority)
    }

    /// Where the certificate is that clients have to trust.
    pub fn cert_path(&self) -> &Path {
        &self.cert_path
    }

    /// Appends the certificate to a bundle, unless it is in there.
    pub fn install_into(&self, bundle: &Path) -> io::Result<Installed> {
        install::append(&fs::read_to_string(&self.cert_path)?, bundle)
    }

    /// The TLS configuration for clients that believe to talk to `host` (a name or an address,
    /// without a port), with a certificate made or renewed at `now`.
    pub fn server_config(&self, host: &str, now: SystemTime) -> io::Result<Arc<ServerConfig>> {
        let mut hosts = self.hosts.lock().expect("no holder panics");
        if let Some(h) = hosts.get(host).filter(|h| now < h.renew_at) {
            return Ok(h.config.clone());
        }
        self.renew_if_due(now)?;
        let config = Arc::new(self.make_config(host, now)?);
        if hosts.len() >= MAX_HOSTS
            && let Some(oldest) = hosts.iter().min_by_key(|(_, h)| h.renew_at).map(|(name, _)| name.clone())
        {
            hosts.remove(&oldest);
        }
        hosts.insert(host.to_string(), Host { config: config.clone(), renew_at: now + HOST_LIFE / 2 });
        Ok(config)
    }

    /// Writes a new certificate when the present one is missing, damaged, of another key or ends soon.
    fn renew_if_due(&self, now: SystemTime) -> io::Result<()> {
        let present = fs::read_to_string(&self.cert_path).unwrap_or_default();
        let ends = present.lines().find_map(|l| l.strip_prefix(ENDS)?.parse::<Timestamp>().ok()).map(SystemTime::from);
        let key = self.key.public_key_raw();
        let ours = |der: CertificateDer| der.windows(key.len()).any(|w| w == key);
        if ends.is_some_and(|end| end >= now + AUTHORITY_RENEW)
            && CertificateDer::from_pem_slice(present.as_bytes()).is_ok_and(ours)
        {
            return Ok(());
        }
        let cert = authority_params(now).self_signed(&self.key).map_err(io::Error::other)?;
        let end = Timestamp::try_from(now + AUTHORITY_LIFE).map_err(io::Error::other)?;
        atomic::write(&self.cert_path, format!("{ENDS}{end:.0}\n{}", cert.pem()).as_bytes())
            .map_err(|e| at(&self.cert_path, e))?;
        log::info!(
            "{}: made a certificate authority for the reverse proxy; let its clients trust this file",
            self.cert_path.display()
        );
        Ok(())
    }

    fn make_config(&self, host: &str, now: SystemTime) -> io::Result<ServerConfig> {
        let (cert, key) = self.sign_host(host, now).map_err(io::Error::other)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .map_err(io::Error::other)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn sign_host(&self, host: &str, now: SystemTime) -> Result<(Certificate, KeyPair), rcgen::Error> {
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_string()])?;
        params.not_before = (now - SLACK).into();
        params.not_after = (now + HOST_LIFE).into();
        params.distinguished_name = DistinguishedName::new();
        // X.520 allows 64 characters here; clients go by the alternative name
        params.distinguished_name.push(DnType::CommonName, name.chars().take(64).collect::<String>());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let authority = authority_params(now);
        let cert = params.signed_by(&key, &Issuer::from_params(&authority, &self.key))?;
        Ok((cert, key))
    }
}

/// The authority's certificate as of `now`. Its name never changes: a renewed one stands in for
/// the old one.
fn authority_params(now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = (now - SLACK).into();
    params.not_after = (now + AUTHORITY_LIFE).into();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "go-cache-plugin");
    params.distinguished_name.push(DnType::CommonName, "go-cache-plugin local authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn load_or_make_key(path: &Path) -> io::Result<KeyPair> {
    match File::open(path) {
        Ok(file) => load_key(file).map_err(|e| at(path, e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => make_key(path).map_err(|e| at(path, e)),
        Err(e) => Err(at(path, e)),
    }
}

fn load_key(mut file: File) -> io::Result<KeyPair> {
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(io::Error::other(format!(
            "others can read this key (mode {mode:03o}): remove it and ca.pem to have new ones made, or chmod 600 it"
        )));
    }
    let mut pem = String::new();
    file.read_to_string(&mut pem)?;
    KeyPair::from_pem(&pem).map_err(|e| {
        io::Error::new(io::ErrorKind::InvalidData, format!("not a private key ({e}): remove it to have a new one made"))
    })
}

/// Makes a key file, or loads the one that another process makes at the same moment.
fn make_key(path: &Path) -> io::Result<KeyPair> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let key = KeyPair::generate().map_err(io::Error::other)?;
    // containers that share the directory may share our process id, but hardly the moment
    let moment = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let temp = path.with_file_name(format!("{TEMP_PREFIX}ca-key-{}-{moment}-{number}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temp)?;
    let written = file.write_all(key.serialize_pem().as_bytes()).and_then(|()| file.sync_all());
    // unlike a rename, a link never replaces a key that certificates were signed with
    let linked = written.and_then(|()| fs::hard_link(&temp, path));
    let _ = fs::remove_file(&temp);
    match linked {
        Ok(()) => Ok(key),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => load_key(File::open(path)?),
        Err(e) => Err(e),
    }
}

fn at(path: &Path, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests;
