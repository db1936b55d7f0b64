//! The local authority that vouches for hosts whose TLS the reverse proxy terminates.
//!
//! Its key `ca-key.pem` (mode 0600) and certificate `ca.pem` lie in a directory of their own (0700),
//! never in the cache directory: a cache is shared and copied, a key is neither. The key is made once
//! and kept; the certificate is renewed under the same key and name before it ends, so that clients
//! which trust the old one follow. It is valid for some domains alone (name constraints). When it ends,
//! and for which domains it is, is said in lines of text above it; where these say otherwise than it
//! should be, it is made anew. Host certificates live for a day, in memory only, and are made for each connection.
//!
//! An authority of earlier versions, in the cache directory, is removed: nobody knows where its key is.
//!
//! A client is always shown the certificate of the host that it said CONNECT to, whatever name its
//! handshake asks for: that host is where its requests go.

mod identity;
mod install;

pub use identity::read as identity;
pub use install::{append_certificate, system_bundle};

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use self::identity::server_config;
use crate::atomic::{self, TempFile, at};
use crate::config::AuthorityConfig;
use crate::platform::{DirBuilderExt, make_private, mode};

/// How long the authority's certificate is valid.
const AUTHORITY_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// It is renewed when less than this is left of it.
const AUTHORITY_RENEW: Duration = Duration::from_secs(60 * 86_400);
/// How long a host's certificate is valid.
const HOST_LIFE: Duration = Duration::from_secs(86_400);
/// Certificates are valid from this long before they are made, for clients whose clock is behind.
const SLACK: Duration = Duration::from_secs(3600);
/// What comes before the end of the authority's certificate, in the first line of its file.
const ENDS: &str = "# valid until ";
/// What comes before its domains, in the second line.
const DOMAINS: &str = "# for ";
const KEY_FILE: &str = "ca-key.pem";
const CERT_FILE: &str = "ca.pem";

/// The authority.
pub struct Authority {
    key: KeyPair,
    /// Where the certificate is that clients have to trust.
    pub cert_path: PathBuf,
    domains: Vec<String>,
}

impl Authority {
    /// Opens the authority; makes or renews what is missing or due at `now`. Errors name the file and
    /// what to do.
    pub fn open(config: &AuthorityConfig, now: SystemTime) -> io::Result<Self> {
        let dir = &config.dir;
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))?;
        let mode = mode(&fs::metadata(dir).map_err(at(dir))?);
        if mode & 0o022 != 0 {
            let why =
                format!("others can write to it (mode {mode:03o}): choose another with --ca-dir, or chmod 700 it");
            return Err(at(dir)(io::Error::other(why)));
        }
        let key = load_or_make_key(&dir.join(KEY_FILE))?;
        let authority = Authority { key, cert_path: dir.join(CERT_FILE), domains: config.domains.clone() };
        authority.renew_if_due(now)?;
        Ok(authority)
    }

    /// Removes what earlier versions kept in `cache_dir`; whether there was something. An error where
    /// `dir`, this one's directory, is in there.
    pub fn leave_cache(dir: &Path, cache_dir: &Path) -> io::Result<bool> {
        let real = |path: &Path| {
            let there = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
            there.map_or(path.to_path_buf(), |(above, real)| real.join(path.strip_prefix(above).unwrap_or(path)))
        };
        if real(dir).starts_with(real(cache_dir)) {
            let why = "--ca-dir is in the cache directory, which may be shared and copied: choose another";
            return Err(at(dir)(io::Error::other(why)));
        }
        let mut was_there = false;
        for name in [KEY_FILE, CERT_FILE] {
            let path = cache_dir.join(name);
            // a certificate alone may be somebody's own
            match fs::remove_file(&path) {
                Ok(()) => was_there = true,
                // a disk that is read-only says so first
                Err(_) if !path.exists() => break,
                Err(e) => return Err(at(&path)(e)),
            }
        }
        Ok(was_there)
    }

    /// The TLS configuration for clients that believe to talk to `host` (a name or an address,
    /// without a port), with a certificate made at `now`.
    pub fn server_config(&self, host: &str, now: SystemTime) -> io::Result<Arc<ServerConfig>> {
        self.renew_if_due(now)?;
        let (cert, key) = self.sign_host(host, now).map_err(io::Error::other)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        server_config(vec![cert.der().clone()], key).map(Arc::new)
    }

    /// Writes a new certificate when the present one is missing, damaged, of another key, ends soon, or is of a time
    /// that has yet to come: the clock was set back.
    fn renew_if_due(&self, now: SystemTime) -> io::Result<()> {
        let present = fs::read_to_string(&self.cert_path).unwrap_or_default();
        let said = |what: &str| present.lines().find_map(|line| line.strip_prefix(what));
        let ends = said(ENDS).and_then(|end| end.parse::<Timestamp>().ok()).map(SystemTime::from);
        let domains = self.domains.join(", ");
        let key = self.key.public_key_raw();
        let ours = |der: CertificateDer| der.windows(key.len()).any(|w| w == key);
        if ends.is_some_and(|end| (now + AUTHORITY_RENEW..=now + AUTHORITY_LIFE + SLACK).contains(&end))
            && said(DOMAINS) == Some(&domains)
            && CertificateDer::from_pem_slice(present.as_bytes()).is_ok_and(ours)
        {
            return Ok(());
        }
        let cert = self.params(now).self_signed(&self.key).map_err(io::Error::other)?;
        let end = Timestamp::try_from(now + AUTHORITY_LIFE).map_err(io::Error::other)?;
        let text = format!("{ENDS}{end:.0}\n{DOMAINS}{domains}\n{}", cert.pem());
        atomic::write(&self.cert_path, text.as_bytes()).map_err(at(&self.cert_path))?;
        // a new one is told of at the start
        if !present.is_empty() {
            let (file, days) = (self.cert_path.display(), AUTHORITY_RENEW.as_secs() / 86_400);
            log::warn!("{file}: the authority was renewed, for {domains}: install it anew within {days} days");
        }
        Ok(())
    }

    fn sign_host(&self, host: &str, now: SystemTime) -> Result<(Certificate, KeyPair), rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![host.trim_matches(['[', ']']).to_string()])?;
        params.not_before = (now - SLACK).into();
        params.not_after = (now + HOST_LIFE).into();
        params.distinguished_name = DistinguishedName::new();
        // clients go by the alternative name; what looks like a name here, some hold against the constraints
        params.distinguished_name.push(DnType::CommonName, "go-cache-plugin");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let cert = params.signed_by(&key, &Issuer::from_params(&self.params(now), &self.key))?;
        Ok((cert, key))
    }

    /// The authority's certificate as of `now`. Its name never changes: a renewed one stands in for
    /// the old one.
    fn params(&self, now: SystemTime) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.not_before = (now - SLACK).into();
        params.not_after = (now + AUTHORITY_LIFE).into();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "go-cache-plugin");
        params.distinguished_name.push(DnType::CommonName, "go-cache-plugin local authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.name_constraints = Some(constraints(&self.domains));
        params
    }
}

/// Certificates for `domains` alone count. A kind of name is free as long as nothing is said of it, so
/// there is always something: names below `invalid`, which nobody has, or no address at all.
fn constraints(domains: &[String]) -> NameConstraints {
    let subtree = |domain: &String| match domain.parse() {
        Ok(IpAddr::V4(v4)) => GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix(v4.octets(), 32)),
        Ok(IpAddr::V6(v6)) => GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix(v6.octets(), 128)),
        Err(_) => GeneralSubtree::DnsName(domain.clone()),
    };
    let mut allowed =
        NameConstraints { permitted_subtrees: domains.iter().map(subtree).collect(), excluded_subtrees: Vec::new() };
    let addresses = allowed.permitted_subtrees.iter().filter(|s| matches!(s, GeneralSubtree::IpAddress(_))).count();
    if addresses == 0 {
        let all = [CidrSubnet::from_v4_prefix([0; 4], 0), CidrSubnet::from_v6_prefix([0; 16], 0)];
        allowed.excluded_subtrees.extend(all.map(GeneralSubtree::IpAddress));
    }
    if addresses == domains.len() {
        allowed.permitted_subtrees.push(GeneralSubtree::DnsName("invalid".to_string()));
    }
    allowed
}

fn load_or_make_key(path: &Path) -> io::Result<KeyPair> {
    let key = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => make_key(path),
        file => file.and_then(load_key),
    };
    key.map_err(at(path))
}

fn load_key(mut file: File) -> io::Result<KeyPair> {
    let mode = mode(&file.metadata()?);
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
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let mut temp = TempFile::create(path.parent().expect("it is joined"))?;
    // before there is something in it
    make_private(temp.file())?;
    temp.file().write_all(key.serialize_pem().as_bytes())?;
    temp.file().sync_all()?;
    // unlike a rename, this never replaces a key that certificates were signed with
    if temp.persist_new(path)? { Ok(key) } else { load_key(File::open(path)?) }
}

#[cfg(test)]
mod tests;
