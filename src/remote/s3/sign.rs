//! Signatures, AWS version 4: rust-s3 encodes.
//!
//! Only `host` and the `x-amz-` headers are signed, because some S3 implementations (Google's) and
//! proxies change others on the way.

use std::collections::BTreeSet;
use std::time::SystemTime;

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use s3::signing::{canonical_query_string, canonical_uri_string};
use sha2::{Digest, Sha256};
use ureq::http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::keys::Keys;
use crate::id::hex;

/// SHA-256 of no bytes, the payload of requests without a body.
pub const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// The user metadata that holds an object's signature.
pub const SIGNATURE: HeaderName = HeaderName::from_static("x-amz-meta-gocache-signature");

/// What a signature counts for.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// The region's name.
    pub region: &'a str,
    /// The service's, `s3` or `sts`.
    pub service: &'a str,
}

/// The headers that make a request one of the holder of `keys`: `more` and what signs it. `payload`
/// is the SHA-256 of the body in hex. The error is a reason in words: text that no header can carry.
pub fn sign(
    method: &str,
    url: &Url,
    scope: Scope,
    keys: &Keys,
    payload: &str,
    more: HeaderMap,
    now: SystemTime,
) -> Result<HeaderMap, String> {
    let now = Timestamp::try_from(now).map_err(|e| format!("cannot sign the request: {e}"))?;
    let (mut headers, unsigned): (HeaderMap, HeaderMap) = {
        let named = more.into_iter().filter_map(|(name, value)| Some((name?, value)));
        named.partition(|(name, _)| name.as_str().starts_with("x-amz-"))
    };
    headers.insert("host", value(&host(url))?);
    headers.insert("x-amz-content-sha256", value(payload)?);
    headers.insert("x-amz-date", value(&time(now))?);
    if let Some(token) = &keys.token {
        headers.insert("x-amz-security-token", secret(token)?);
    }
    let authorization = authorization(method, url, scope, keys, payload, &headers, now);
    headers.insert("authorization", secret(&authorization)?);
    headers.extend(unsigned);
    Ok(headers)
}

/// The Authorization header of a request with these headers, all of which are signed.
fn authorization(
    method: &str,
    url: &Url,
    scope: Scope,
    keys: &Keys,
    payload: &str,
    headers: &HeaderMap,
    now: Timestamp,
) -> String {
    // in the order of names; rust-s3 sorts whole lines, which puts `x-amz-a-b:` before `x-amz-a:`
    let names: BTreeSet<&str> = headers.keys().map(HeaderName::as_str).collect();
    let line = |name: &str| format!("{name}:{}\n", headers[name].to_str().unwrap_or_default().trim());
    let lines: String = names.iter().map(|name| line(name)).collect();
    let signed = Vec::from_iter(names).join(";");
    let (path, query) = (canonical_uri_string(url), canonical_query_string(url));
    let canonical = Sha256::digest(format!("{method}\n{path}\n{query}\n{lines}\n{signed}\n{payload}"));
    let (time, Scope { region, service }) = (time(now), scope);
    let date = &time[..8];
    let scope = format!("{date}/{region}/{service}/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&canonical));
    let mut key = format!("AWS4{}", keys.secret).into_bytes();
    for text in [date, region, service, "aws4_request", &to_sign] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes keys of any length");
        mac.update(text.as_bytes());
        key = mac.finalize().into_bytes().to_vec();
    }
    format!("AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={signed},Signature={}", keys.access, hex(&key))
}

fn time(now: Timestamp) -> String {
    now.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// `host[:port]` as the Host header says it; the URL has dropped a scheme's own port.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"))
}

fn value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| "characters that no header can carry".to_string())
}

/// A header that must not show up in logs.
fn secret(text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| "the AWS credentials contain characters that no header can carry".to_string())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    const S3: Scope = Scope { region: "us-east-1", service: "s3" };

    /// 24 May 2013, the day of AWS's published examples.
    fn day() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_369_353_600)
    }

    fn keys(secret: &str) -> Keys {
        Keys { access: "AKIAIOSFODNN7EXAMPLE".into(), secret: secret.into(), token: None, expires: None }
    }

    fn authorization(url: &str, keys: &Keys) -> String {
        let url = Url::parse(url).unwrap();
        let headers = sign("GET", &url, S3, keys, EMPTY_SHA256, HeaderMap::new(), day()).unwrap();
        headers["authorization"].to_str().unwrap().to_string()
    }

    #[test]
    fn agrees_with_the_published_examples() {
        let keys = keys("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let want = |signature: &str| {
            format!(
                "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
                 SignedHeaders=host;x-amz-content-sha256;x-amz-date,Signature={signature}"
            )
        };
        assert_eq!(
            authorization("https://examplebucket.s3.amazonaws.com/?lifecycle=", &keys),
            want("fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543")
        );
        assert_eq!(
            authorization("https://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J", &keys),
            want("34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")
        );
    }

    #[test]
    fn agrees_with_the_published_suite() {
        let now = "2015-08-30T12:36:00Z".parse().unwrap();
        let scope = Scope { service: "service", ..S3 };
        let keys = Keys { access: "AKIDEXAMPLE".into(), ..keys("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY") };
        let cases = include_str!("sign/suite.txt").lines().filter(|line| !line.starts_with('#'));
        let mut tried = 0;
        for case in cases {
            let [name, method, target, more, want] = case.split('\t').collect::<Vec<_>>()[..] else { panic!("{case}") };
            let url = Url::parse(&format!("http://example.amazonaws.com{target}")).unwrap();
            let mut headers = HeaderMap::new();
            let fixed = [("host", host(&url)), ("x-amz-date", time(now))];
            let more = more.split('|').filter_map(|header| header.split_once(':'));
            for (name, text) in fixed.iter().map(|(name, text)| (*name, text.as_str())).chain(more) {
                headers.insert(name.parse::<HeaderName>().unwrap(), value(text).unwrap());
            }
            let payload = headers.get("x-amz-content-sha256").map_or(EMPTY_SHA256, |sha| sha.to_str().unwrap());
            let made = super::authorization(method, &url, scope, &keys, payload, &headers, now);
            assert!(made.ends_with(&format!(",Signature={want}")), "{name}: {made}");
            tried += 1;
        }
        assert_eq!(tried, 24);
    }

    #[test]
    fn a_token_is_signed_and_kept_out_of_logs() {
        let keys = Keys { token: Some("tok".into()), ..keys("s") };
        let url = Url::parse("http://[::1]:9000/b/k").unwrap();
        let more = [(SIGNATURE, "s"), (HeaderName::from_static("if-match"), "t")];
        let more = more.map(|(name, text)| (name, HeaderValue::from_static(text))).into_iter().collect();
        let headers = sign("PUT", &url, S3, &keys, "UNSIGNED-PAYLOAD", more, day()).unwrap();
        let signed = "x-amz-date;x-amz-meta-gocache-signature;x-amz-security-token";
        assert!(headers["authorization"].to_str().unwrap().contains(signed) && headers[SIGNATURE] == "s");
        assert_eq!(headers["host"], "[::1]:9000");
        assert!(!format!("{headers:?}").contains("tok\""));
        let bad = Keys { token: Some("line\nbreak".into()), ..keys };
        assert!(sign("GET", &url, S3, &bad, "x", HeaderMap::new(), day()).is_err());
    }
}
