//! S3 and what speaks its protocol: rust-s3 addresses and signs, one pooled agent carries.
//!
//! This file and those below it are the only ones that name rust-s3. Nothing is looked up or
//! requested before the first request: credentials and, where it is not given, the region are
//! found then, or ahead of it by [`Remote::warm_up`].

mod address;
mod credentials;
mod profile;
mod providers;
mod sign;
mod transport;
mod xml;

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use ureq::http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use self::address::{Address, Place};
use self::credentials::{CredentialError, Credentials, Keys};
use self::sign::{EMPTY_SHA256, Signer};
use self::transport::{Answer, Limits, Options, Transport};
use super::{Object, ObjectInfo, PutBody, Remote, RemoteError};
use crate::config::AwsEnv;
use crate::metrics::Metrics;

/// Longest error text that is read; a longer one costs its connection.
const ERROR_LIMIT: u64 = 64 * 1024;
/// Longest page of a listing: a thousand keys of a kilobyte each, all of them escaped.
const LIST_LIMIT: u64 = 16 << 20;
/// The region that GetBucketLocation is asked in, and that its empty answer means.
const FIRST_REGION: &str = "us-east-1";

/// A bucket on S3.
pub struct S3 {
    name: String,
    address: Address,
    credentials: Credentials,
    signer: Signer,
    transport: Transport,
    place: Mutex<Option<Arc<Place>>>,
    /// Held by the thread that asks for the region.
    locating: Mutex<()>,
}

/// One request, before it is addressed and signed.
struct Op<'a> {
    method: &'static str,
    key: &'a str,
    query: &'a [(&'a str, &'a str)],
    headers: &'a [(HeaderName, &'a str)],
    body: Option<(&'a PutBody, String)>,
}

impl<'a> Op<'a> {
    fn new(method: &'static str, key: &'a str) -> Self {
        Op { method, key, query: &[], headers: &[], body: None }
    }
}

impl S3 {
    /// A bucket named `bucket`; without `region` AWS_REGION, AWS_DEFAULT_REGION, the profile and
    /// at last the bucket itself are asked, on first use. No I/O. `metrics` counts connections.
    pub fn new(
        bucket: &str,
        region: Option<&str>,
        endpoint: Option<&str>,
        path_style: bool,
        env: &AwsEnv,
        metrics: Arc<Metrics>,
    ) -> Result<Self, RemoteError> {
        let configured = env.var("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") != Some("true");
        let from_env = || env.var("AWS_ENDPOINT_URL_S3").or(env.var("AWS_ENDPOINT_URL")).filter(|_| configured);
        let address = Address::new(bucket, endpoint.or_else(from_env), path_style).map_err(RemoteError::Config)?;
        let region = region.or(env.var("AWS_REGION")).or(env.var("AWS_DEFAULT_REGION"));
        let place = region.map(|r| address.place(r)).transpose().map_err(RemoteError::Config)?;
        let proxy = proxy_for(env, address.is_https(), address.host()).map_err(RemoteError::Config)?;
        let options = Options { limits: Limits::BUCKET, proxy, ca_file: providers::ca_file(env) };
        Ok(S3 {
            name: bucket.to_string(),
            address,
            credentials: Credentials::new(env.clone()),
            signer: Signer::new("s3"),
            transport: Transport::new(options, Some(metrics)),
            place: Mutex::new(place.map(Arc::new)),
            locating: Mutex::new(()),
        })
    }

    /// Sends a request; the answer is a success, 304, 404 or 412. A wrong region is corrected and
    /// an expired token renewed, once each.
    fn request(&self, op: &Op) -> Result<Answer, RemoteError> {
        let (mut moved, mut renewed) = (false, false);
        loop {
            let keys = self.keys()?;
            let place = self.place(&keys)?;
            let answer = self.send(op, &place, &keys)?;
            if matches!(answer.status, 200..300 | 304 | 404 | 412) {
                return Ok(answer);
            }
            let failed = Failed::read(answer);
            if !moved && let Some(region) = failed.region_hint(&place) {
                log::debug!("bucket {} is in region {region}", self.name);
                self.set_place(&region)?;
                moved = true;
            } else if !renewed && failed.is_expired() && self.credentials.discard(&keys) {
                renewed = true;
            } else {
                return Err(failed.into_error());
            }
        }
    }

    fn keys(&self) -> Result<Arc<Keys>, RemoteError> {
        self.credentials.get().map_err(|e| match e {
            CredentialError::Missing(why) => RemoteError::Denied(why),
            CredentialError::Unreachable(why) => RemoteError::Io(std::io::Error::other(why)),
        })
    }

    fn send(&self, op: &Op, place: &Place, keys: &Arc<Keys>) -> Result<Answer, RemoteError> {
        let url = place.url(op.key, op.query).map_err(invalid)?;
        let payload = op.body.as_ref().map_or(EMPTY_SHA256, |(_, sha)| sha);
        let mut headers = self
            .signer
            .sign(op.method, &url, &place.region, keys, payload, SystemTime::now())
            .map_err(RemoteError::Denied)?;
        for (name, value) in op.headers {
            let value =
                HeaderValue::from_str(value).map_err(|_| invalid(format!("{value:?} cannot be sent as {name}")))?;
            headers.insert(name.clone(), value);
        }
        let body = op.body.as_ref().map(|(body, _)| (body.len(), body.reader()));
        Ok(self.transport.send(op.method, url.as_str(), headers, body)?)
    }

    fn known_place(&self) -> Option<Arc<Place>> {
        self.place.lock().expect("no holder panics").clone()
    }

    fn set_place(&self, region: &str) -> Result<Arc<Place>, RemoteError> {
        let place = Arc::new(self.address.place(region).map_err(RemoteError::Config)?);
        *self.place.lock().expect("no holder panics") = Some(place.clone());
        Ok(place)
    }

    fn place(&self, keys: &Arc<Keys>) -> Result<Arc<Place>, RemoteError> {
        if let Some(place) = self.known_place() {
            return Ok(place);
        }
        let _one = self.locating.lock().expect("no holder panics");
        if let Some(place) = self.known_place() {
            return Ok(place);
        }
        let region = match self.credentials.profile_region() {
            Some(region) => region,
            None => self.ask_location(keys)?,
        };
        self.set_place(&region)
    }

    /// GetBucketLocation. A server that does not answer it, or forbids it, gets the first region:
    /// where that is wrong, it says so in its answer to the first request.
    fn ask_location(&self, keys: &Arc<Keys>) -> Result<String, RemoteError> {
        let first = self.address.place(FIRST_REGION).map_err(RemoteError::Config)?;
        let op = Op { query: &[("location", "")], ..Op::new("GET", "") };
        let answer = self.send(&op, &first, keys)?;
        let status = answer.status;
        let failed = Failed::read(answer);
        if let Some(region) = failed.region_hint(&first) {
            return Ok(region);
        }
        if status == 200 {
            return Ok(match xml::text(&failed.text, "LocationConstraint").unwrap_or_default().as_str() {
                "" => FIRST_REGION.into(),
                "EU" => "eu-west-1".into(),
                region => region.into(),
            });
        }
        match failed.into_error() {
            e @ (RemoteError::Denied(_) | RemoteError::Config(_)) => Err(e),
            e if e.is_transient() => Err(e),
            e => {
                log::debug!("bucket {} does not tell its region ({e}): assuming {FIRST_REGION}", self.name);
                Ok(FIRST_REGION.into())
            }
        }
    }

    fn list_page(&self, prefix: &str, token: Option<&str>) -> Result<String, RemoteError> {
        let mut query = vec![("list-type", "2"), ("prefix", prefix)];
        query.extend(token.map(|t| ("continuation-token", t)));
        // signatures are over sorted names, and so is the URL, for servers that compare bytes
        query.sort();
        let answer = self.request(&Op { query: &query, ..Op::new("GET", "") })?;
        if answer.status != 200 {
            return Err(Failed::read(answer).into_error());
        }
        let mut text = String::new();
        answer.body.take(LIST_LIMIT).read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Remote for S3 {
    fn get(&self, key: &str, known_etag: Option<&str>) -> Result<Option<Object>, RemoteError> {
        let condition = known_etag.map(|tag| (IF_NONE_MATCH, tag));
        let answer = self.request(&Op { headers: condition.as_slice(), ..Op::new("GET", key) })?;
        match answer.status {
            200 => {
                let etag = header(&answer.headers, "etag");
                if known_etag.is_some() && etag.as_deref() == known_etag {
                    // a server without conditional gets
                    Failed::read(answer);
                    return Err(RemoteError::NotModified);
                }
                Ok(Some(Object { len: answer.len, etag, body: answer.body }))
            }
            304 => {
                Failed::read(answer);
                Err(RemoteError::NotModified)
            }
            _ => absent(answer),
        }
    }

    fn head(&self, key: &str) -> Result<Option<ObjectInfo>, RemoteError> {
        let answer = self.request(&Op::new("HEAD", key))?;
        if answer.status != 200 {
            return absent(answer);
        }
        let len = header(&answer.headers, "content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
        let modified = header(&answer.headers, "last-modified").as_deref().and_then(http_date);
        Ok(Some(ObjectInfo { key: key.to_string(), len, modified }))
    }

    fn put(&self, key: &str, body: &PutBody, if_match: Option<&str>) -> Result<(), RemoteError> {
        let sha = sha256(body)?;
        let condition = if_match.map(|tag| if tag.is_empty() { (IF_NONE_MATCH, "*") } else { (IF_MATCH, tag) });
        let op = Op { headers: condition.as_slice(), body: Some((body, sha)), ..Op::new("PUT", key) };
        let answer = match self.request(&op) {
            // a server without conditional writes
            Err(RemoteError::Status(501, _)) if if_match.is_some() => self.request(&Op { headers: &[], ..op }),
            Err(RemoteError::Status(409, _)) if if_match.is_some() => return Err(RemoteError::Precondition),
            other => other,
        }?;
        match answer.status {
            200..300 => {
                Failed::read(answer);
                Ok(())
            }
            // 404: the object that was to match is gone
            404 | 412 if if_match.is_some() => match Failed::read(answer).into_error() {
                e @ RemoteError::Config(_) => Err(e),
                _ => Err(RemoteError::Precondition),
            },
            _ => Err(Failed::read(answer).into_error()),
        }
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), RemoteError> {
        let mut token: Option<String> = None;
        loop {
            let page = self.list_page(prefix, token.as_deref())?;
            for object in xml::elements(&page, "Contents") {
                let (Some(key), Some(len)) = (xml::text(object, "Key"), xml::text(object, "Size")) else { continue };
                let modified = xml::text(object, "LastModified").and_then(|t| t.parse::<jiff::Timestamp>().ok());
                each(ObjectInfo { key, len: len.parse().unwrap_or(0), modified: modified.map(Into::into) });
            }
            let next = xml::text(&page, "NextContinuationToken").filter(|t| !t.is_empty());
            if xml::text(&page, "IsTruncated").as_deref() != Some("true") {
                return Ok(());
            }
            if next.is_none() || next == token {
                return Err(RemoteError::Status(200, "a listing that does not go on where it says so".into()));
            }
            token = next;
        }
    }

    fn delete(&self, key: &str) -> Result<(), RemoteError> {
        let answer = self.request(&Op::new("DELETE", key))?;
        match answer.status {
            200..300 => {
                Failed::read(answer);
                Ok(())
            }
            _ => absent::<()>(answer).map(drop),
        }
    }

    fn describe(&self) -> String {
        format!("s3://{}", self.name)
    }

    fn warm_up(&self) -> Result<(), RemoteError> {
        self.place(&self.keys()?).map(drop)
    }
}

const IF_MATCH: HeaderName = HeaderName::from_static("if-match");
const IF_NONE_MATCH: HeaderName = HeaderName::from_static("if-none-match");

/// An answer that is no success, read to its end so that its connection is used again.
struct Failed {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Failed {
    fn read(answer: Answer) -> Self {
        let mut bytes = Vec::new();
        // whatever came is better than nothing: the status decides
        let _ = answer.body.take(ERROR_LIMIT).read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Failed { status: answer.status, headers: answer.headers, text }
    }

    fn code(&self) -> String {
        xml::text(&self.text, "Code").unwrap_or_default()
    }

    /// The bucket's region, where the answer tells one other than was asked in.
    fn region_hint(&self, asked: &Place) -> Option<String> {
        if !matches!(self.status, 301 | 307 | 400 | 403) {
            return None;
        }
        let told = header(&self.headers, "x-amz-bucket-region").or_else(|| xml::text(&self.text, "Region"))?;
        (!told.is_empty() && told != asked.region.to_string()).then_some(told)
    }

    fn is_expired(&self) -> bool {
        matches!(self.code().as_str(), "ExpiredToken" | "TokenRefreshRequired" | "RequestExpired")
    }

    fn into_error(self) -> RemoteError {
        let code = self.code();
        let words = match xml::text(&self.text, "Message") {
            Some(message) => format!("{code}: {}", one_line(&message)),
            None if !code.is_empty() => code.clone(),
            None => one_line(self.text.trim()),
        };
        match (self.status, code.as_str()) {
            (404, "NoSuchBucket") => RemoteError::Config("there is no such bucket".into()),
            (
                400 | 401 | 403,
                "InvalidAccessKeyId"
                | "SignatureDoesNotMatch"
                | "ExpiredToken"
                | "InvalidToken"
                | "TokenRefreshRequired"
                | "RequestExpired"
                | "RequestTimeTooSkewed"
                | "InvalidSecurity"
                | "NotSignedUp"
                | "AccountProblem",
            ) => RemoteError::Denied(words),
            (401, _) => RemoteError::Denied(if words.is_empty() { "status 401".into() } else { words }),
            (403, _) => RemoteError::Forbidden(if words.is_empty() { "status 403".into() } else { words }),
            (status, _) => RemoteError::Status(status, words),
        }
    }
}

/// A 404: no object, or no bucket.
fn absent<T>(answer: Answer) -> Result<Option<T>, RemoteError> {
    match Failed::read(answer).into_error() {
        RemoteError::Status(404, _) => Ok(None),
        e => Err(e),
    }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_string)
}

/// A request that cannot be sent, now or later.
fn invalid(why: String) -> RemoteError {
    std::io::Error::new(std::io::ErrorKind::InvalidInput, why).into()
}

/// Text from elsewhere, fit for a log line.
fn one_line(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn http_date(text: &str) -> Option<SystemTime> {
    Some(jiff::fmt::rfc2822::parse(text).ok()?.timestamp().into())
}

fn sha256(body: &PutBody) -> Result<String, RemoteError> {
    let digest = match body {
        PutBody::Bytes(bytes) => Sha256::digest(bytes),
        PutBody::File(_, len) => {
            let (mut hasher, mut reader, mut buf, mut seen) = (Sha256::new(), body.reader(), vec![0; 64 * 1024], 0);
            loop {
                match reader.read(&mut buf)? {
                    0 => break,
                    n => {
                        hasher.update(&buf[..n]);
                        seen += n as u64;
                    }
                }
            }
            if seen != *len {
                return Err(invalid(format!("the file to send holds {seen} bytes instead of {len}")));
            }
            hasher.finalize()
        }
    };
    Ok(sign::hex(&digest))
}

/// The HTTP proxy for requests to `host` (`None`: some host of AWS): HTTPS_PROXY or HTTP_PROXY,
/// unless the host is this machine or NO_PROXY lists it (`*`, a name, or the end of names).
fn proxy_for(env: &AwsEnv, https: bool, host: Option<&str>) -> Result<Option<String>, String> {
    let either = |upper: &str| env.var(upper).or(env.var(&upper.to_ascii_lowercase()));
    let (name, found) =
        if https { ("HTTPS_PROXY", either("HTTPS_PROXY")) } else { ("HTTP_PROXY", either("HTTP_PROXY")) };
    let Some(proxy) = found else { return Ok(None) };
    let host = host.unwrap_or("amazonaws.com").trim_matches(['[', ']']).to_ascii_lowercase();
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let listed = either("NO_PROXY").unwrap_or_default().split([',', ' ']).any(|entry| {
        let entry = entry.trim_start_matches(['*', '.']).to_ascii_lowercase();
        // `*` alone has become empty
        !entry.is_empty() && (host == entry || host.ends_with(&format!(".{entry}")))
    }) || either("NO_PROXY").is_some_and(|all| all.trim() == "*");
    if loopback || listed {
        return Ok(None);
    }
    let url = if proxy.contains("://") { proxy.to_string() } else { format!("http://{proxy}") };
    match Url::parse(&url) {
        Ok(u) if matches!(u.scheme(), "http" | "https") && u.has_host() => Ok(Some(url)),
        _ => Err(format!("{name} is no http or https URL")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(vars: &[(&str, &str)]) -> AwsEnv {
        AwsEnv { vars: vars.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect() }
    }

    #[test]
    fn proxies_follow_the_environment_and_spare_this_machine() {
        let all = env(&[("HTTPS_PROXY", "http://p:3128"), ("http_proxy", "q:80"), ("NO_PROXY", "corp.example, .x.y")]);
        let of = |https, host| proxy_for(&all, https, host).unwrap();
        assert_eq!(of(true, Some("s3.example")).as_deref(), Some("http://p:3128"));
        assert_eq!(of(false, Some("s3.example")).as_deref(), Some("http://q:80"));
        for host in ["127.0.0.1", "[::1]", "localhost", "corp.example", "s3.corp.example", "a.x.y"] {
            assert_eq!(of(true, Some(host)), None, "{host}");
        }
        assert!(of(true, Some("notcorp.example")).is_some());
        assert!(of(true, None).is_some());
        assert_eq!(proxy_for(&env(&[("HTTPS_PROXY", "http://p"), ("NO_PROXY", "*")]), true, None), Ok(None));
        assert!(proxy_for(&env(&[("HTTPS_PROXY", "socks5://p")]), true, None).is_err());
    }

    #[test]
    fn answers_are_told_apart() {
        let failed = |status: u16, text: &str| Failed { status, headers: HeaderMap::new(), text: text.into() };
        let error = |status, code: &str| {
            failed(status, &format!("<Error><Code>{code}</Code><Message>m\nn</Message></Error>")).into_error()
        };
        assert!(matches!(error(404, "NoSuchBucket"), RemoteError::Config(_)));
        assert!(
            matches!(error(403, "SignatureDoesNotMatch"), RemoteError::Denied(w) if w == "SignatureDoesNotMatch: m n")
        );
        assert!(matches!(error(400, "ExpiredToken"), RemoteError::Denied(_)));
        assert!(matches!(error(403, "AccessDenied"), RemoteError::Forbidden(_)));
        assert!(matches!(error(503, "SlowDown"), RemoteError::Status(503, _)));
        let place = Address::new("b", None, false).unwrap().place("us-east-1").unwrap();
        let text = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>";
        assert_eq!(failed(400, text).region_hint(&place).as_deref(), Some("eu-west-1"));
        assert_eq!(failed(500, text).region_hint(&place), None);
        assert_eq!(failed(400, &text.replace("eu-west-1", "us-east-1")).region_hint(&place), None);
    }

    #[test]
    fn construction_asks_nobody_and_refuses_nonsense() {
        let new = |bucket: &str, region, endpoint| {
            S3::new(bucket, region, endpoint, false, &AwsEnv::default(), Arc::default()).err().map(|e| e.to_string())
        };
        // nothing listens there, and it is not asked
        assert_eq!(new("b", None, Some("http://127.0.0.1:1")), None);
        assert!(new("b/c", None, None).unwrap().contains("no bucket name"));
        assert!(new("b", Some("no such"), None).unwrap().contains("no region name"));
        assert!(new("b", None, Some("minio:9000")).unwrap().contains("endpoint"));
    }

    #[test]
    fn dates_of_answers_are_read() {
        let t = http_date("Wed, 21 Oct 2015 07:28:00 GMT").unwrap();
        assert_eq!(t.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(), 1_445_412_480);
        assert_eq!(http_date("yesterday"), None);
    }
}
