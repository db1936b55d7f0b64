//! Where a bucket and its objects are: endpoint, addressing style, percent-encoding.
//!
//! Keys are percent-encoded once, every byte but letters, digits, `-._~` and `/`; that is the form
//! on the wire and the form that is signed.

use s3::creds::Credentials;
use s3::signing::uri_encode;
use s3::{Bucket, Region};
use url::{Host, Url};

/// A bucket's name and the endpoint that holds it.
#[derive(Clone, Debug)]
pub struct Address {
    bucket: String,
    endpoint: Option<Url>,
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
    /// Checks the parts. The error is a sentence for people.
    pub fn new(bucket: &str, endpoint: Option<&str>, path_style: bool) -> Result<Self, String> {
        let good = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if bucket.is_empty() || bucket.len() > 255 || !bucket.chars().all(good) || bucket.starts_with('.') {
            return Err(format!("{bucket:?} is no bucket name: use letters, digits, hyphens, dots and underscores"));
        }
        let endpoint = endpoint.map(parse_endpoint).transpose()?;
        // an address has no subdomains, and a certificate for *.s3… does not cover a name with dots
        let path_style = path_style
            || match &endpoint {
                Some(url) => !matches!(url.host(), Some(Host::Domain(_))),
                None => bucket.contains('.'),
            };
        Ok(Address { bucket: bucket.to_string(), endpoint, path_style })
    }

    /// The endpoint that was given.
    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_ref().map(|url| url.as_str().trim_end_matches('/'))
    }

    /// The bucket in `region`.
    pub fn place(&self, region: &str) -> Result<Place, String> {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if region.is_empty() || !region.chars().all(good) {
            return Err(format!("{region:?} is no region name"));
        }
        let region = match &self.endpoint {
            Some(url) => Region::Custom { region: region.into(), endpoint: url.as_str().trim_end_matches('/').into() },
            None => aws_or_known(region),
        };
        let words = |e: &dyn std::fmt::Display| format!("cannot address bucket {}: {e}", self.bucket);
        let nobody = Credentials::anonymous().map_err(|e| words(&e))?;
        let mut bucket = Bucket::new(&self.bucket, region.clone(), nobody).map_err(|e| words(&e))?;
        if self.path_style {
            bucket = bucket.with_path_style();
        }
        let base = Url::parse(&bucket.url()).map_err(|e| words(&e))?;
        Ok(Place { base: base.as_str().trim_end_matches('/').to_string(), region })
    }
}

impl Place {
    /// The URL of the object `key` (empty: of the bucket), with a query.
    pub fn url(&self, key: &str, query: &[(&str, &str)]) -> Result<Url, String> {
        let mut url = format!("{}/{}", self.base, uri_encode(key, false));
        for (i, (name, value)) in query.iter().enumerate() {
            url.push(if i == 0 { '?' } else { '&' });
            url.push_str(&uri_encode(name, true));
            url.push('=');
            url.push_str(&uri_encode(value, true));
        }
        Url::parse(&url).map_err(|e| format!("{url}: {e}"))
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

fn parse_endpoint(text: &str) -> Result<Url, String> {
    let bad = |why: &str| format!("S3 endpoint {text:?}: {why}; write http[s]://host[:port][/path]");
    let url = Url::parse(text).map_err(|e| bad(&e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("not http or https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("credentials do not belong there"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("a query does not belong there"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(bucket: &str, endpoint: Option<&str>, path_style: bool, key: &str) -> String {
        Address::new(bucket, endpoint, path_style).unwrap().place("eu-west-1").unwrap().url(key, &[]).unwrap().into()
    }

    #[test]
    fn addresses_buckets_as_asked() {
        assert_eq!(url("b", None, false, "k"), "https://b.s3.eu-west-1.amazonaws.com/k");
        assert_eq!(url("b", None, true, "k"), "https://s3.eu-west-1.amazonaws.com/b/k");
        assert_eq!(url("b.c", None, false, "k"), "https://s3.eu-west-1.amazonaws.com/b.c/k");
        assert_eq!(url("b", Some("http://minio:9000"), true, "k"), "http://minio:9000/b/k");
        assert_eq!(url("b", Some("http://minio:9000/"), false, "k"), "http://b.minio:9000/k");
        assert_eq!(url("b", Some("https://host/base/path/"), true, "k"), "https://host/base/path/b/k");
        assert_eq!(url("b", Some("https://host:443"), true, "k"), "https://host/b/k");
        assert_eq!(url("b", Some("http://[::1]:9000"), false, "k"), "http://[::1]:9000/b/k");
        assert_eq!(url("b", Some("http://127.0.0.1:9000"), false, "k"), "http://127.0.0.1:9000/b/k");
    }

    #[test]
    fn encodes_keys_once() {
        assert_eq!(
            url("b", Some("http://h"), true, "a b/ü+%2F?#&=:@~!$'()*,;[]"),
            "http://h/b/a%20b/%C3%BC%2B%252F%3F%23%26%3D%3A%40~%21%24%27%28%29%2A%2C%3B%5B%5D"
        );
        let place = Address::new("b", Some("http://h"), true).unwrap().place("r").unwrap();
        let url = place.url("", &[("list-type", "2"), ("prefix", "a/b c+")]).unwrap();
        assert_eq!(url.as_str(), "http://h/b/?list-type=2&prefix=a%2Fb%20c%2B");
    }

    #[test]
    fn knows_regions_of_several_clouds() {
        let host = |region: &str| Address::new("b", None, false).unwrap().place(region).unwrap();
        assert_eq!(host("us-east-1").base, "https://b.s3.us-east-1.amazonaws.com");
        assert_eq!(host("cn-north-1").base, "https://b.s3.cn-north-1.amazonaws.com.cn");
        assert_eq!(host("xx-new-9").base, "https://b.s3.xx-new-9.amazonaws.com");
        assert_eq!(host("xx-new-9").region.to_string(), "xx-new-9");
        assert_eq!(host("wa-us-east-2").base, "https://b.s3.us-east-2.wasabisys.com");
    }

    #[test]
    fn refuses_what_is_no_bucket_endpoint_or_region() {
        for bucket in ["", "a/b", "a b", "..", "b?x", "ü"] {
            assert!(Address::new(bucket, None, false).is_err(), "{bucket}");
        }
        for endpoint in ["minio:9000", "ftp://h", "http://u:p@h", "http://h?x", "http://h#x", "", "/x"] {
            let e = Address::new("b", Some(endpoint), true).unwrap_err();
            assert!(e.contains("endpoint"), "{e}");
        }
        let address = Address::new("b", None, false).unwrap();
        for region in ["", "evil.example/", "a b"] {
            assert!(address.place(region).is_err(), "{region}");
        }
    }
}
