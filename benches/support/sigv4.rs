//! AWS signature version 4, the checking side: what a request's `Authorization` header ought to be.
//! Headers only, no presigned URLs and no chunked signatures; the age of a request is not checked.

use std::fmt::Write;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// The only credentials that the bench's server knows.
pub const ACCESS_KEY: &str = "BENCHACCESSKEY";
/// The secret that belongs to [`ACCESS_KEY`].
pub const SECRET_KEY: &str = "bench-secret-key";

/// What of a request is signed. Header names are lower case.
pub struct Signed<'a> {
    pub method: &'a str,
    /// Path as it was sent.
    pub path: &'a str,
    /// Query as it was sent, without the question mark.
    pub query: &'a str,
    pub headers: &'a [(String, String)],
    pub body: &'a [u8],
}

/// Checks signature and body hash. The error is the S3 code to refuse with.
pub fn verify(request: &Signed) -> Result<(), &'static str> {
    let field = |name: &str| request.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let authorization = field("authorization").ok_or("AccessDenied")?;
    let fields = authorization.strip_prefix("AWS4-HMAC-SHA256").ok_or("AccessDenied")?;
    let part = |name: &str| fields.split(',').find_map(|p| p.trim().strip_prefix(name)).ok_or("AccessDenied");
    let (access_key, scope) = part("Credential=")?.split_once('/').ok_or("AccessDenied")?;
    if access_key != ACCESS_KEY {
        return Err("InvalidAccessKeyId");
    }
    let mut scope_parts = scope.split('/');
    let (Some(day), Some(region), Some("s3"), Some("aws4_request"), None) =
        (scope_parts.next(), scope_parts.next(), scope_parts.next(), scope_parts.next(), scope_parts.next())
    else {
        return Err("AccessDenied");
    };
    let date = field("x-amz-date").filter(|d| d.starts_with(day)).ok_or("AccessDenied")?;
    let payload = field("x-amz-content-sha256").ok_or("InvalidRequest")?;
    if payload != "UNSIGNED-PAYLOAD" && payload != hex(&Sha256::digest(request.body)) {
        return Err("XAmzContentSHA256Mismatch");
    }
    let names = part("SignedHeaders=")?;
    if !names.split(';').any(|n| n == "host") {
        return Err("AccessDenied");
    }
    let mut canonical = format!("{}\n{}\n{}\n", request.method, request.path, canonical_query(request.query));
    for name in names.split(';') {
        let value = field(name).ok_or("AccessDenied")?;
        let value = value.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        let _ = writeln!(canonical, "{name}:{value}");
    }
    let _ = write!(canonical, "\n{names}\n{payload}");
    let digest = hex(&Sha256::digest(canonical.as_bytes()));
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}");
    if part("Signature=")? == signature(day, region, &to_sign) { Ok(()) } else { Err("SignatureDoesNotMatch") }
}

fn signature(day: &str, region: &str, to_sign: &str) -> String {
    let mut key = format!("AWS4{SECRET_KEY}").into_bytes();
    for part in [day, region, "s3", "aws4_request"] {
        key = hmac(&key, part);
    }
    hex(&hmac(&key, to_sign))
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn canonical_query(query: &str) -> String {
    let mut pairs: Vec<String> = query
        .split('&')
        .filter(|p| !p.is_empty())
        .map(|p| if p.contains('=') { p.to_string() } else { format!("{p}=") })
        .collect();
    pairs.sort();
    pairs.join("&")
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}
