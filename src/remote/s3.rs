//! S3 and what speaks its protocol: rust-s3 addresses and signs, one pooled agent carries.
//!
//! This file and those below it are the only ones that name rust-s3. Nothing is looked up or
//! requested before the first request: credentials and, where it is not given, the region are
//! found then; only the profile is read before ([`Site::find`]), for where the bucket is.

mod address;
mod answer;
mod credentials;
mod keys;
mod profile;
mod providers;
mod sign;
mod sso;
mod sts;
mod transport;
mod xml;

use std::io::{BufReader, ErrorKind, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64_simd::STANDARD;
use jiff::Timestamp;
use s3::signing::uri_encode;
use ureq::http::{HeaderMap, HeaderName, HeaderValue};

use self::address::{Address, Place};
use self::answer::{Failed, absent, absent_text, is_genuine, is_page};
use self::credentials::Credentials;
use self::keys::{CredentialError, Keys};
pub use self::profile::Site;
use self::sign::{EMPTY_SHA256, SIGNATURE, Scope, sign};
use self::transport::{Limits, Transport};
use super::guard::LATE;
use super::{Head, Object, ObjectInfo, PutBody, Remote, RemoteError};
use crate::client::{Received, proxy_for};
use crate::config::{AwsEnv, BucketName};
use crate::headers::first;
use crate::id::{Hashing, unhex};
use crate::metrics::Metrics;

/// Longest page of a listing: a thousand keys of a kilobyte each, all of them escaped.
const LIST_LIMIT: u64 = 16 << 20;
/// The region that is asked where none is given; a bucket elsewhere names its own in its answer.
const FIRST_REGION: &str = "us-east-1";

/// A bucket on S3.
pub struct S3 {
    name: String,
    /// Endpoint and region, as far as they were given.
    whereabouts: String,
    address: Address,
    credentials: Credentials,
    transport: Transport,
    place: Mutex<Option<Arc<Place>>>,
    /// It has asked for checksums of objects.
    locks: AtomicBool,
}

/// One request, before it is addressed and signed.
struct Op<'a> {
    method: &'static str,
    key: &'a str,
    query: &'a [(&'a str, &'a str)],
    /// Those of Amazon's names are signed.
    headers: HeaderMap,
    body: Option<(&'a PutBody, String)>,
    /// The answer is a document rather than an object or its acknowledgement.
    document: bool,
    /// How long its answer, and any piece of that, may take, where that is not what all may.
    within: Option<Duration>,
}

impl<'a> Op<'a> {
    fn new(method: &'static str, key: &'a str) -> Self {
        Op { method, key, query: &[], headers: HeaderMap::new(), body: None, document: false, within: None }
    }

    /// The request with one header more, where there is a value for it.
    fn with(mut self, name: HeaderName, value: Option<&str>) -> Result<Self, RemoteError> {
        if let Some(text) = value {
            let value = HeaderValue::from_str(text).map_err(|_| invalid(format!("{text:?} cannot be sent as {name}")));
            self.headers.insert(name, value?);
        }
        Ok(self)
    }
}

impl S3 {
    /// A bucket named `bucket`; without a region the profile and at last the bucket itself tell it, on first
    /// use. No I/O. `metrics` counts connections.
    pub fn new(bucket: &BucketName, site: &Site, env: &AwsEnv, metrics: Arc<Metrics>) -> Result<Self, RemoteError> {
        let Site { endpoint, region, path_style } = site;
        let address = Address::new(bucket, endpoint.as_ref(), *path_style);
        let place = region.as_ref().map(|r| address.place(r)).transpose().map_err(RemoteError::Config)?;
        let whereabouts = match (endpoint, region) {
            (Some(url), Some(region)) => format!("{url} ({region})"),
            (Some(url), None) => url.to_string(),
            (None, region) => format!("AWS ({})", region.as_ref().map_or("region not given", |r| r.as_str())),
        };
        let proxy = proxy_for(env, address.is_https()).map_err(RemoteError::Config)?;
        Ok(S3 {
            name: bucket.to_string(),
            whereabouts,
            address,
            credentials: Credentials::new(env.clone()),
            transport: Transport::new(Limits::BUCKET, proxy, providers::ca_file(env), Some(metrics)),
            place: Mutex::new(place.map(Arc::new)),
            locks: AtomicBool::new(false),
        })
    }

    /// Sends a request; the answer is a success of S3's, 404 or 412. A wrong region is corrected
    /// and keys that are refused are renewed, once each.
    fn request(&self, op: &Op) -> Result<Received, RemoteError> {
        let (mut moved, mut renewed) = (false, false);
        loop {
            let keys = self.keys()?;
            let place = self.place()?;
            let answer = self.send(op, &place, &keys)?;
            let genuine = if op.method == "DELETE" { !is_page(&answer) } else { op.document || is_genuine(&answer) };
            match answer.status {
                200..300 if !genuine => {}
                200..300 | 404 | 412 => return Ok(answer),
                _ => {}
            }
            let failed = Failed::read(answer);
            if !moved && let Some(region) = failed.region_hint(&place) {
                log::debug!("bucket {} is in region {region}", self.name);
                self.set_place(&region)?;
                moved = true;
            } else if !renewed && failed.may_blame_keys(op.method) && self.credentials.renew(&keys) {
                renewed = true;
            } else {
                return Err(failed.into_error());
            }
        }
    }

    fn keys(&self) -> Result<Arc<Keys>, RemoteError> {
        self.credentials.get().map_err(|e| match e {
            CredentialError::Missing(why) => RemoteError::Denied(why),
            // without keys nothing is sent: one failure weighs as much as a bucket that is silent
            CredentialError::Unreachable(why) => RemoteError::Io(std::io::Error::new(ErrorKind::TimedOut, why)),
        })
    }

    fn send(&self, op: &Op, place: &Place, keys: &Arc<Keys>) -> Result<Received, RemoteError> {
        let url = place.url(op.key, op.query).map_err(invalid)?;
        let payload = op.body.as_ref().map_or(EMPTY_SHA256, |(_, sha)| sha);
        let region = place.region.to_string();
        let scope = Scope { region: &region, service: "s3" };
        let mut headers = op.headers.clone();
        // a bucket that locks its objects: that they came whole is to be in a header, which others may not know
        if op.body.is_some() && !op.document && self.locks.load(Ordering::Relaxed) {
            let sum = STANDARD.encode_to_string(unhex::<32>(payload).unwrap_or_default());
            headers.insert(CHECKSUM, HeaderValue::from_str(&sum).expect("base64 is ASCII"));
        }
        let headers = sign(op.method, &url, scope, keys, payload, headers, SystemTime::now());
        let headers = headers.map_err(RemoteError::Denied)?;
        let body = op.body.as_ref().map(|(body, _)| (body.len(), body.reader()));
        Ok(self.transport.send(op.method, url.as_str(), headers, body, op.within)?)
    }

    fn set_place(&self, region: &str) -> Result<Arc<Place>, RemoteError> {
        let region = region.parse().map_err(|why| RemoteError::Config(format!("region {region:?}: {why}")))?;
        let place = Arc::new(self.address.place(&region).map_err(RemoteError::Config)?);
        *self.place.lock().expect("no holder panics") = Some(place.clone());
        Ok(place)
    }

    /// Where requests go: as was given, as the profile says, or to the first region, whose answer
    /// names the right one.
    fn place(&self) -> Result<Arc<Place>, RemoteError> {
        let known = self.place.lock().expect("no holder panics").clone();
        let region = || self.credentials.profile_region().unwrap_or_else(|| FIRST_REGION.into());
        known.map_or_else(|| self.set_place(&region()), Ok)
    }
}

impl Remote for S3 {
    fn get(&self, key: &str) -> Result<Option<Object>, RemoteError> {
        let answer = self.request(&Op::new("GET", key))?;
        if answer.status != 200 {
            return absent(answer);
        }
        let (etag, signature) = (tag(&answer.headers), first(&answer.headers, SIGNATURE.as_str()));
        let signature = signature.map(str::to_string);
        Ok(Some(Object { etag, signature, ..Object::new(answer.len, age(&answer.headers), answer.body) }))
    }

    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Object>, RemoteError> {
        let bytes = format!("bytes={}-{}", range.start, range.end - 1);
        let op = Op { within: Some(LATE), ..Op::new("GET", key) }.with(RANGE, Some(&bytes))?;
        let answer = match self.request(&op) {
            Err(RemoteError::Status(416, _)) => return Ok(None),
            answer => answer?,
        };
        let begin = format!("bytes {}-", range.start);
        match answer.status {
            206 if first(&answer.headers, "content-range").is_some_and(|told| told.starts_with(&begin)) => {
                Ok(Some(Object::new(answer.len, age(&answer.headers), answer.body)))
            }
            // all of it, which would take too long to be read, or another
            200 | 206 => Err(RemoteError::Unsupported("it gives no parts of objects".into())),
            _ => absent(answer),
        }
    }

    fn put(&self, key: &str, body: &PutBody, if_match: Option<&str>, beside: Option<&str>) -> Result<(), RemoteError> {
        let sha = sha256(body).map_err(|e| invalid(e.to_string()))?;
        let op = Op { body: Some((body, sha)), ..Op::new("PUT", key) }.with(SIGNATURE, beside)?;
        let (condition, tag) = if if_match == Some("") { (IF_NONE_MATCH, Some("*")) } else { (IF_MATCH, if_match) };
        let mut op = op.with(condition.clone(), tag)?;
        let told = self.locks.load(Ordering::Relaxed);
        let mut answer = self.request(&op);
        let asks = |why: &str| why.to_ascii_lowercase().contains("content-md5");
        if !told && matches!(&answer, Err(RemoteError::Status(400, why)) if asks(why)) {
            self.locks.store(true, Ordering::Relaxed);
            answer = self.request(&op);
        }
        // a server without conditional writes
        if matches!(answer, Err(RemoteError::Status(501, _))) && op.headers.remove(condition).is_some() {
            answer = self.request(&op);
        }
        let answer = match answer {
            Err(RemoteError::Status(409, _)) if if_match.is_some() => return Err(RemoteError::Precondition),
            answer => answer?,
        };
        match answer.status {
            // nothing is said beside that, and who says it slowly is not waited for
            200..300 => Ok(()),
            // 404: the object that was to match is gone
            404 | 412 if if_match.is_some() => match Failed::read(answer).into_error() {
                e @ RemoteError::Config(_) => Err(e),
                _ => Err(RemoteError::Precondition),
            },
            _ => Err(Failed::read(answer).into_error()),
        }
    }

    fn head(&self, key: &str) -> Result<Option<Head>, RemoteError> {
        let answer = self.request(&Op::new("HEAD", key)).map_err(|e| match e {
            // by who lets through what builds ask for, and no more
            RemoteError::Status(405 | 501, why) => RemoteError::Unsupported(why),
            e => e,
        })?;
        if answer.status != 200 {
            return absent(answer);
        }
        let (etag, age) = (tag(&answer.headers).unwrap_or_default(), age(&answer.headers));
        let kept = |name: &HeaderName| name.as_str().starts_with("x-amz-meta-") || KEPT.contains(&name.as_str());
        let kept = answer.headers.iter().filter(|(name, _)| kept(name)).map(|(n, v)| (n.clone(), v.clone()));
        Ok(Some(Head { etag, age, kept: kept.collect() }))
    }

    fn renew(&self, key: &str, seen: &Head) -> Result<bool, RemoteError> {
        let from = format!("/{}/{}", self.name, uri_encode(key, false));
        // servers ask for a length, be it none
        let nothing = PutBody::Bytes([].into());
        let op = Op { document: true, body: Some((&nothing, EMPTY_SHA256.into())), ..Op::new("PUT", key) };
        let op = op.with(COPY_SOURCE, Some(&from))?;
        // Amazon copies no object onto itself unless it is told its metadata anew
        let mut op = op.with(COPY_IF_MATCH, Some(&seen.etag))?.with(METADATA, Some("REPLACE"))?;
        // servers do not agree on what to sign of others
        let plain = |value: &HeaderValue| value.to_str().is_ok_and(|text| !text.contains("  "));
        if !seen.kept.iter().all(|(_, value)| plain(value)) {
            return Err(RemoteError::Unsupported("its metadata cannot be sent again".into()));
        }
        op.headers.extend(seen.kept.iter().cloned());
        let answer = match self.request(&op) {
            Ok(answer) => answer,
            Err(RemoteError::Status(409, _)) => return Ok(true),
            // should all else be refused too, the put that follows will tell
            Err(
                RemoteError::Status(400 | 405 | 411 | 415 | 422 | 501, why)
                | RemoteError::Forbidden(why)
                | RemoteError::Denied(why),
            ) => return Err(RemoteError::Unsupported(why)),
            Err(e) => return Err(e),
        };
        let status = answer.status;
        let failed = Failed::read(answer);
        match status {
            // Amazon's success may turn out to be an error on the way; who does not know of copies has
            // just put an empty object
            200..300 if failed.text.contains("<CopyObjectResult") => Ok(true),
            412 => Ok(true),
            _ => match absent_text::<()>(failed) {
                Err(RemoteError::Status(_, why)) => Err(RemoteError::Unsupported(why)),
                other => other.map(|_| false),
            },
        }
    }

    fn list(
        &self,
        prefix: &str,
        from: Option<&str>,
        each: &mut dyn FnMut(ObjectInfo),
    ) -> Result<Option<String>, RemoteError> {
        let mut query = vec![("list-type", "2"), ("prefix", prefix)];
        query.extend(from.map(|token| ("continuation-token", token)));
        // signatures are over sorted names, and so is the URL, for servers that compare bytes
        query.sort();
        let answer = self.request(&Op { query: &query, document: true, ..Op::new("GET", "") })?;
        if answer.status != 200 {
            return Err(Failed::read(answer).into_error());
        }
        let (mut page, now) = (String::new(), date(&answer.headers, "date"));
        answer.body.take(LIST_LIMIT).read_to_string(&mut page)?;
        // one that was cut short would hide the rest
        if !page.contains("<ListBucketResult") || !page.trim_end().ends_with("ListBucketResult>") {
            return Err(RemoteError::Status(200, "not a listing of S3's".into()));
        }
        let next = xml::text(&page, "NextContinuationToken").filter(|t| !t.is_empty());
        let more = xml::text(&page, "IsTruncated").as_deref() == Some("true");
        if more && (next.is_none() || next.as_deref() == from) {
            return Err(RemoteError::Status(200, "a listing that does not go on where it says so".into()));
        }
        for object in xml::elements(&page, "Contents") {
            let (Some(key), Some(len)) = (xml::text(object, "Key"), xml::text(object, "Size")) else { continue };
            let modified = xml::text(object, "LastModified").and_then(|t| t.parse::<Timestamp>().ok());
            each(ObjectInfo { key, len: len.parse().unwrap_or(0), age: between(modified, now) });
        }
        Ok(next.filter(|_| more))
    }

    fn delete(&self, key: &str) -> Result<(), RemoteError> {
        let answer = self.request(&Op::new("DELETE", key))?;
        match answer.status {
            200..300 => Ok(()),
            _ => absent::<()>(answer).map(drop),
        }
    }

    fn clock(&self) -> Option<SystemTime> {
        let url = self.place().ok()?.url("", &[]).ok()?;
        let answer = self.transport.send("HEAD", url.as_str(), HeaderMap::new(), None, None).ok()?;
        date(&answer.headers, "date").map(SystemTime::from)
    }

    fn describe(&self, prefix: &str) -> String {
        let slash = if prefix.is_empty() { "" } else { "/" };
        format!("s3://{}{slash}{prefix} at {}", self.name, self.whereabouts)
    }
}

const IF_MATCH: HeaderName = HeaderName::from_static("if-match");
const CHECKSUM: HeaderName = HeaderName::from_static("x-amz-checksum-sha256");
const RANGE: HeaderName = HeaderName::from_static("range");
const IF_NONE_MATCH: HeaderName = HeaderName::from_static("if-none-match");
const COPY_SOURCE: HeaderName = HeaderName::from_static("x-amz-copy-source");
const COPY_IF_MATCH: HeaderName = HeaderName::from_static("x-amz-copy-source-if-match");
const METADATA: HeaderName = HeaderName::from_static("x-amz-metadata-directive");
/// What a copy says anew, beside the metadata that users give.
const KEPT: [&str; 9] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-storage-class",
    "x-amz-website-redirect-location",
];

/// The entity tag. One that a proxy has weakened on the way is good for conditions as S3 made it.
fn tag(headers: &HeaderMap) -> Option<String> {
    first(headers, "etag").map(|tag| tag.trim_start_matches("W/").to_string())
}

/// A time as HTTP writes it.
fn date(headers: &HeaderMap, name: &str) -> Option<Timestamp> {
    Some(jiff::fmt::rfc2822::parse(first(headers, name)?).ok()?.timestamp())
}

/// How old the object of an answer is, by the clock of who answers.
fn age(headers: &HeaderMap) -> Option<Duration> {
    between(date(headers, "last-modified"), date(headers, "date"))
}

fn between(then: Option<Timestamp>, now: Option<Timestamp>) -> Option<Duration> {
    Some(now?.duration_since(then?).try_into().unwrap_or_default())
}

/// A request that cannot be sent, now or later.
fn invalid(why: String) -> RemoteError {
    std::io::Error::new(ErrorKind::InvalidInput, why).into()
}

fn sha256(body: &PutBody) -> std::io::Result<String> {
    let mut hashed = Hashing::new(std::io::sink());
    std::io::copy(&mut BufReader::with_capacity(64 * 1024, body.reader()), &mut hashed)?;
    if hashed.len != body.len() {
        let text = format!("the file to send holds {} bytes instead of {}", hashed.len, body.len());
        return Err(std::io::Error::other(text));
    }
    Ok(hashed.hash().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn construction_asks_nobody() {
        // nothing listens there, and it is not asked
        let endpoint = "http://127.0.0.1:1".parse().unwrap();
        let name = "some".parse().unwrap();
        let site = Site { endpoint: Some(endpoint), ..Site::default() };
        assert!(S3::new(&name, &site, &AwsEnv::default(), Arc::default()).is_ok());
    }
}
