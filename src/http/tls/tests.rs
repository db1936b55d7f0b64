//! The authority's files over time, and certificates that a TLS client accepts.

use std::os::unix::fs::PermissionsExt;

use super::*;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("go-cache-plugin-tls-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn config(dir: &Dir, domains: &[&str]) -> AuthorityConfig {
    AuthorityConfig { dir: dir.0.clone(), domains: domains.iter().map(|d| d.to_string()).collect(), install: false }
}

fn open(dir: &Dir, now: SystemTime) -> io::Result<Authority> {
    Authority::open(&config(dir, &["example.com", "127.0.0.1", "::1"]), now)
}

/// Shakes hands in memory; the client trusts `ca` alone.
fn handshake(ca: &[u8], server: Arc<ServerConfig>, name: &str) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_string()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name)?;
    let mut server = ServerConnection::new(server)?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut &wire[..]).unwrap();
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut &wire[..]).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

#[test]
fn clients_that_trust_the_authority_accept_its_hosts() {
    let dir = Dir::new("accept");
    let now = SystemTime::now();
    let authority = open(&dir, now).unwrap();
    let ca = fs::read(&authority.cert_path).unwrap();
    for (host, name) in [("example.com", "example.com"), ("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")] {
        handshake(&ca, authority.server_config(host, now).unwrap(), name).unwrap();
    }
    handshake(&ca, authority.server_config("example.com", now).unwrap(), "evil.com").unwrap_err();
    let long = format!("{}.example.com", "a".repeat(63));
    handshake(&ca, authority.server_config(&long, now).unwrap(), &long).unwrap();
    let other = Dir::new("accept-other");
    let stranger = open(&other, now).unwrap();
    handshake(&ca, stranger.server_config("example.com", now).unwrap(), "example.com").unwrap_err();
}

#[test]
fn the_key_is_private_and_kept() {
    let dir = Dir::new("kept");
    let now = SystemTime::now();
    let first = open(&dir, now).unwrap();
    let key = dir.0.join("ca-key.pem");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let (key_text, cert) = (fs::read(&key).unwrap(), fs::read(&first.cert_path).unwrap());
    let again = open(&dir, now + HOST_LIFE).unwrap();
    assert_eq!(fs::read(&key).unwrap(), key_text);
    assert_eq!(fs::read(&again.cert_path).unwrap(), cert);
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 2, "no temporary file stays");

    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let e = open(&dir, now).map(|_| ()).unwrap_err().to_string();
    assert!(e.contains("ca-key.pem") && e.contains("644"), "{e}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&key, "junk").unwrap();
    let e = open(&dir, now).map(|_| ()).unwrap_err().to_string();
    assert!(e.contains("ca-key.pem") && e.contains("remove it"), "{e}");
}

#[test]
fn the_authority_is_renewed_under_the_same_key_before_it_ends() {
    let dir = Dir::new("renew");
    let long_ago = SystemTime::now() - (AUTHORITY_LIFE - AUTHORITY_RENEW + HOST_LIFE);
    let old = open(&dir, long_ago).unwrap();
    let old_ca = fs::read(&old.cert_path).unwrap();
    // a running server renews when it next signs
    let now = SystemTime::now();
    let config = old.server_config("example.com", now).unwrap();
    let new_ca = fs::read(&old.cert_path).unwrap();
    assert_ne!(new_ca, old_ca);
    for ca in [&old_ca, &new_ca] {
        handshake(ca, config.clone(), "example.com").unwrap();
    }
    // a certificate that is damaged or of another key is made anew, too
    fs::write(&old.cert_path, "junk").unwrap();
    open(&dir, now).unwrap();
    assert!(CertificateDer::from_pem_slice(&fs::read(&old.cert_path).unwrap()).is_ok());
    // so is one whose end is not told or has come near, and one that was cut off
    let whole = fs::read_to_string(&old.cert_path).unwrap();
    let (line, rest) = whole.split_once('\n').unwrap();
    assert!(line.starts_with(ENDS) && rest.starts_with("# for example.com, 127.0.0.1, ::1\n-----BEGIN"), "{whole}");
    let pem = rest.split_once('\n').unwrap().1;
    let soon = Timestamp::try_from(now + AUTHORITY_RENEW - HOST_LIFE).unwrap();
    for bad in [
        pem.to_string(),
        format!("{ENDS}{soon}\n{rest}"),
        whole.replace("127.0.0.1", "127.0.0.2"),
        whole[..whole.len() / 2].to_string(),
    ] {
        fs::write(&old.cert_path, &bad).unwrap();
        open(&dir, now).unwrap();
        let mended = fs::read_to_string(&old.cert_path).unwrap();
        assert!(mended != bad && mended.starts_with(line), "{mended}");
        handshake(mended.as_bytes(), config.clone(), "example.com").unwrap();
    }
    let other = Dir::new("renew-other");
    fs::copy(&open(&other, now).unwrap().cert_path, &old.cert_path).unwrap();
    let mended = open(&dir, now).unwrap();
    let config = mended.server_config("example.com", now).unwrap();
    handshake(&fs::read(&old.cert_path).unwrap(), config, "example.com").unwrap();
}

#[test]
fn nobody_believes_the_authority_beyond_its_domains() {
    let now = SystemTime::now();
    for (domains, yes, no) in [
        (
            &["example.com"][..],
            &["example.com", "a.example.com"][..],
            &["example.org", "myexample.com", "10.0.0.1", "::1"][..],
        ),
        (&["10.0.0.1"], &["10.0.0.1"], &["10.0.0.2", "example.com", "::1", "invalid.example"]),
        (&["::1", "a.example"], &["::1", "a.example"], &["::2", "127.0.0.1", "b.example"]),
    ] {
        let dir = Dir::new("domains");
        let authority = Authority::open(&config(&dir, domains), now).unwrap();
        let ca = fs::read(&authority.cert_path).unwrap();
        let hand = |host: &str| handshake(&ca, authority.server_config(host, now).unwrap(), host);
        for host in yes {
            hand(host).unwrap_or_else(|e| panic!("{domains:?} {host}: {e}"));
        }
        for host in no {
            hand(host).map(|()| panic!("{domains:?}: {host}")).unwrap_err();
        }
    }
}

#[test]
fn a_directory_that_is_not_ours_alone_is_refused_and_one_in_the_cache_too() {
    let (dir, cache) = (Dir::new("open"), Dir::new("cache"));
    fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o777)).unwrap();
    let e = open(&dir, SystemTime::now()).map(|_| ()).unwrap_err().to_string();
    assert!(e.contains("777") && e.contains("--ca-dir"), "{e}");
    fs::write(cache.0.join("ca.pem"), "somebody's").unwrap();
    assert!(!Authority::leave_cache(&dir.0, &cache.0).unwrap());
    fs::write(cache.0.join("ca-key.pem"), "old").unwrap();
    assert!(Authority::leave_cache(&dir.0, &cache.0).unwrap());
    assert_eq!(fs::read_dir(&cache.0).unwrap().count(), 0);
    std::os::unix::fs::symlink(&cache.0, dir.0.join("link")).unwrap();
    for inside in [cache.0.clone(), cache.0.join("a/b"), dir.0.join("link/c"), dir.0.join("link")] {
        let e = Authority::leave_cache(&inside, &cache.0).unwrap_err().to_string();
        assert!(e.contains("in the cache directory"), "{}: {e}", inside.display());
    }
}

#[test]
fn what_is_no_host_name_is_an_error() {
    let dir = Dir::new("hosts");
    let now = SystemTime::now();
    let a = open(&dir, now).unwrap();
    assert!(a.server_config("not a host name \u{e9}", now).is_err());
}

#[test]
fn several_that_start_at_once_agree_on_one_key() {
    let dir = Dir::new("race");
    let keys: Vec<_> = std::thread::scope(|s| {
        let open = || open(&dir, SystemTime::now()).unwrap().key.serialize_pem();
        let threads: Vec<_> = (0..8).map(|_| s.spawn(open)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(keys.windows(2).all(|k| k[0] == k[1]));
}

#[test]
fn installing_appends_once() {
    let dir = Dir::new("install");
    let a = open(&dir, SystemTime::now()).unwrap();
    let bundle = dir.0.join("bundle.pem");
    fs::write(&bundle, "# no newline at the end").unwrap();
    assert!(append_certificate(&a.cert_path, &bundle).unwrap());
    let once = fs::read_to_string(&bundle).unwrap();
    assert!(once.starts_with("# no newline at the end\n-----BEGIN CERTIFICATE-----\n") && once.ends_with("-----\n"));
    assert!(!append_certificate(&a.cert_path, &bundle).unwrap());
    assert_eq!(fs::read_to_string(&bundle).unwrap(), once);
    let e = append_certificate(&a.cert_path, &dir.0.join("missing.pem")).unwrap_err().to_string();
    assert!(e.contains("missing.pem") && e.contains("SSL_CERT_FILE"), "{e}");
}
