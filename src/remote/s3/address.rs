//! Where a bucket and its objects are: endpoint, addressing style, percent-encoding.
//!
//! Keys are percent-encoded once, every byte but letters, digits, `-._~` and `/`; that is the form
//! on the wire and the form that is signed.

use s3::creds::Credentials;
use s3::signing::uri_encode;
use s3::{Bucket, Region};
use url::Url;

use crate::config::{self, BucketName, Endpoint};

/// A bucket's name and the endpoint that holds it.
#[derive(Clone, Debug)]
pub struct Address {
    bucket: BucketName,
    endpoint: Option<Endpoint>,
    path_style: bool,
}

/// A bucket in a region: where requests go and what they are signed for.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// The bucket's URL, without a slash at its end.
    pub base: String,
    /// The region that signatures name.
    pub region: Region,
}

impl Address {
    /// The bucket `bucket` at `endpoint`, AWS by default.
    pub fn new(bucket: &BucketName, endpoint: Option<&Endpoint>, path_style: bool) -> Self {
        Address { bucket: bucket.clone(), endpoint: endpoint.cloned(), path_style }
    }

    /// Whether the bucket is reached over TLS.
    pub fn is_https(&self) -> bool {
        self.endpoint.as_ref().is_none_or(Endpoint::is_https)
    }

    /// The bucket in `region`.
    pub fn place(&self, region: &config::Region) -> Result<Place, String> {
        let region = match &self.endpoint {
            Some(url) => Region::Custom { region: region.to_string(), endpoint: url.to_string() },
            None => aws_or_known(region.as_str()),
        };
        let words = |e: &dyn std::fmt::Display| format!("cannot address bucket {}: {e}", self.bucket);
        let nobody = Credentials::anonymous().map_err(|e| words(&e))?;
        let mut bucket = Bucket::new(self.bucket.as_str(), region.clone(), nobody).map_err(|e| words(&e))?;
        if self.path_style {
            bucket = bucket.with_path_style();
        }
        let base = Url::parse(&bucket.url()).map_err(|e| words(&e))?;
        Ok(Place { base: base.as_str().trim_end_matches('/').to_string(), region })
    }
}

impl Place {
    /// The URL of the object `key` (empty: of the bucket), with a query. The error is a key that no URL can say.
    pub fn url(&self, key: &str, query: &[(&str, &str)]) -> Result<Url, String> {
        let mut url = format!("{}/{}", self.base, uri_encode(key, false));
        for (i, (name, value)) in query.iter().enumerate() {
            url.push(if i == 0 { '?' } else { '&' });
            url.push_str(&uri_encode(name, true));
            url.push('=');
            url.push_str(&uri_encode(value, true));
        }
        // one of dots is resolved by who parses it, and would lead elsewhere
        Url::parse(&url).ok().filter(|parsed| parsed.as_str() == url).ok_or_else(|| format!("{url} leads elsewhere"))
    }
}

/// A region by its name: AWS's through its present endpoint (rust-s3 knows the older spelling),
/// those of other clouds that rust-s3 knows, and unknown ones as AWS would name them.
fn aws_or_known(name: &str) -> Region {
    let suffix = if name.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    match name.parse() {
        Ok(region) if !matches!(region, Region::Custom { .. }) && !region.host().ends_with(suffix) => region,
        _ => Region::Custom { region: name.into(), endpoint: format!("https://s3.{name}.{suffix}") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(bucket: &str, endpoint: Option<&str>, path_style: bool, region: &str) -> Place {
        let endpoint = endpoint.map(|e| e.parse().unwrap());
        let address = Address::new(&bucket.parse().unwrap(), endpoint.as_ref(), path_style);
        address.place(&region.parse().unwrap()).unwrap()
    }

    fn url(bucket: &str, endpoint: Option<&str>, path_style: bool, key: &str) -> String {
        place(bucket, endpoint, path_style, "eu-west-1").url(key, &[]).unwrap().into()
    }

    #[test]
    fn addresses_buckets_as_asked() {
        assert_eq!(url("some", None, false, "k"), "https://some.s3.eu-west-1.amazonaws.com/k");
        assert_eq!(url("some", None, true, "k"), "https://s3.eu-west-1.amazonaws.com/some/k");
        assert_eq!(url("some", Some("http://minio:9000"), true, "k"), "http://minio:9000/some/k");
        assert_eq!(url("some", Some("http://minio:9000/"), false, "k"), "http://some.minio:9000/k");
        assert_eq!(url("some", Some("https://host/base/path/"), true, "k"), "https://host/base/path/some/k");
        assert_eq!(url("some", Some("https://host:443"), true, "k"), "https://host/some/k");
        assert_eq!(url("some", Some("http://[::1]:9000"), true, "k"), "http://[::1]:9000/some/k");
    }

    #[test]
    fn encodes_keys_once() {
        assert_eq!(
            url("some", Some("http://h"), true, "a b/ü+%2F?#&=:@~!$'()*,;[]"),
            "http://h/some/a%20b/%C3%BC%2B%252F%3F%23%26%3D%3A%40~%21%24%27%28%29%2A%2C%3B%5B%5D"
        );
        let place = place("some", Some("http://h"), true, "r");
        let url = place.url("", &[("list-type", "2"), ("prefix", "a/b c+")]).unwrap();
        assert_eq!(url.as_str(), "http://h/some/?list-type=2&prefix=a%2Fb%20c%2B");
    }

    #[test]
    fn knows_regions_of_several_clouds() {
        let host = |region: &str| place("some", None, false, region);
        assert_eq!(host("us-east-1").base, "https://some.s3.us-east-1.amazonaws.com");
        assert_eq!(host("cn-north-1").base, "https://some.s3.cn-north-1.amazonaws.com.cn");
        assert_eq!(host("xx-new-9").base, "https://some.s3.xx-new-9.amazonaws.com");
        assert_eq!(host("xx-new-9").region.to_string(), "xx-new-9");
        assert_eq!(host("wa-us-east-2").base, "https://some.s3.us-east-2.wasabisys.com");
    }
}
