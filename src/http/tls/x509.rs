//! The little that we have to read of our own certificates: when they end, and whose they are.

use std::time::SystemTime;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

const SEQUENCE: u8 = 0x30;
const EXPLICIT_0: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The first certificate of a PEM text.
pub fn from_pem(pem: &[u8]) -> Option<Vec<u8>> {
    CertificateDer::from_pem_slice(pem).ok().map(|der| der.to_vec())
}

/// Whether the certificate holds this public key.
pub fn contains(der: &[u8], public_key: &[u8]) -> bool {
    !public_key.is_empty() && der.windows(public_key.len()).any(|w| w == public_key)
}

/// When the certificate ends; `None` when it is damaged.
pub fn not_after(der: &[u8]) -> Option<SystemTime> {
    let (_, certificate, _) = element(der)?;
    let (_, mut tbs, _) = element(certificate)?;
    if tbs.first() == Some(&EXPLICIT_0) {
        tbs = element(tbs)?.2; // version
    }
    for _serial_algorithm_issuer in 0..3 {
        tbs = element(tbs)?.2;
    }
    let (tag, validity, _) = element(tbs)?;
    let (_, _, after) = element(validity)?;
    let (kind, text, _) = element(after)?;
    if tag != SEQUENCE {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    let text = match kind {
        GENERALIZED_TIME => text.to_string(),
        // RFC 5280, 4.1.2.5.1: two digits of the year, from 1950 to 2049
        UTC_TIME => format!("{}{text}", if text.get(..2)? < "50" { "20" } else { "19" }),
        _ => return None,
    };
    let at = DateTime::strptime("%Y%m%d%H%M%SZ", text).ok()?;
    Some(at.to_zoned(TimeZone::UTC).ok()?.timestamp().into())
}

/// Splits the first DER element off: its tag, its content, what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut len = first as usize;
    if first >= 0x80 {
        let digits = (first & 0x7f) as usize;
        if !(1..=4).contains(&digits) || rest.len() < digits {
            return None;
        }
        len = rest[..digits].iter().fold(0, |n, &b| n << 8 | b as usize);
        rest = &rest[digits..];
    }
    (len <= rest.len()).then(|| (tag, &rest[..len], &rest[len..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn ending(at: SystemTime) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(vec!["a".to_string()]).unwrap();
        params.not_after = at.into();
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_end_is_read_in_both_notations() {
        for seconds in [1_700_000_000, 2_524_607_999, 2_524_608_000, 4_000_000_000] {
            let at = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(not_after(&ending(at)), Some(at));
        }
    }

    #[test]
    fn damaged_certificates_have_no_end() {
        let der = ending(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        for cut in 0..der.len().min(120) {
            assert_eq!(not_after(&der[..cut]), None);
        }
        for at in 0..der.len() {
            let mut bent = der.clone();
            bent[at] ^= 0xff;
            let _ = not_after(&bent); // must not panic
        }
        assert_eq!(not_after(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(from_pem(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"), None);
    }
}
