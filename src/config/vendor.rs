//! Services that speak S3 and are known by their host: what to sign for and how to address a bucket, where
//! nobody has said it.

use super::{Endpoint, Region};

/// What is known of the service at an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vendor {
    /// Its name.
    pub name: &'static str,
    /// The region that its signatures name, where the host tells it.
    pub region: Option<Region>,
    /// `endpoint/bucket/key` rather than `bucket.endpoint/key`.
    pub path_style: bool,
}

/// Which region signatures name.
enum Signs {
    /// Always this.
    For(&'static str),
    /// The one in the host's name, as AWS writes them.
    Named,
}

/// Name, end of the host, region, path style.
const KNOWN: [(&str, &str, Signs, bool); 8] = [
    ("AWS", ".amazonaws.com", Signs::Named, false),
    ("AWS", ".amazonaws.com.cn", Signs::Named, false),
    ("Cloudflare R2", ".r2.cloudflarestorage.com", Signs::For("auto"), true),
    ("Google Cloud Storage", "storage.googleapis.com", Signs::For("auto"), true),
    ("Backblaze B2", ".backblazeb2.com", Signs::Named, false),
    ("Tigris", "t3.storage.dev", Signs::For("auto"), false),
    ("Tigris", "fly.storage.tigris.dev", Signs::For("auto"), false),
    ("DigitalOcean Spaces", ".digitaloceanspaces.com", Signs::For("us-east-1"), false),
];

impl Vendor {
    /// The service at `endpoint`, where its host tells. A host of one word, say `localhost` or a
    /// container's, has no subdomains.
    pub fn of(endpoint: &Endpoint) -> Option<Self> {
        let host = endpoint.name()?;
        if !host.contains('.') {
            return Some(Vendor { name: "a server on a network of yours", region: None, path_style: true });
        }
        let at_end = |end: &str| {
            host == end || host.strip_suffix(end).is_some_and(|rest| end.starts_with('.') && !rest.is_empty())
        };
        let (name, end, signs, path_style) = KNOWN.iter().find(|(_, end, ..)| at_end(end))?;
        let region = match signs {
            Signs::For(region) => Some(*region),
            Signs::Named => host.strip_suffix(end)?.rsplit('.').find(|label| is_region(label)),
        };
        Some(Vendor { name, region: region.and_then(|r| r.parse().ok()), path_style: *path_style })
    }
}

/// What is done at `endpoint`, and why, in words.
pub fn describe(endpoint: &Endpoint, region: Option<&Region>, path_style: bool) -> String {
    let known = Vendor::of(endpoint).map_or(String::new(), |vendor| format!(", which is {}", vendor.name));
    let region = region.map_or("the region that the bucket tells", Region::as_str);
    let style = if path_style { "the path" } else { "the host name" };
    format!("{endpoint}{known}: signed for {region} (--region), the bucket in {style} (--s3-path-style)")
}

/// `eu-west-1`, `us-gov-east-1`, `us-west-004`.
fn is_region(label: &str) -> bool {
    let mut parts = label.split('-').rev();
    let number = parts.next().is_some_and(|n| n.len() <= 3 && n.parse::<u16>().is_ok());
    let words: Vec<&str> = parts.collect();
    number && words.len() >= 2 && words.iter().all(|word| word.bytes().all(|b| b.is_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_tell_region_and_style() {
        let of = |url: &str| {
            let vendor = Vendor::of(&url.parse().unwrap())?;
            Some((vendor.name, vendor.region.map(|r| r.to_string()), vendor.path_style))
        };
        for (url, name, region, path_style) in [
            ("https://s3.eu-west-1.amazonaws.com", "AWS", "eu-west-1", false),
            ("https://s3.dualstack.us-gov-west-1.amazonaws.com", "AWS", "us-gov-west-1", false),
            ("https://bucket.vpce-1a2b-3c4d.s3.eu-west-1.vpce.amazonaws.com", "AWS", "eu-west-1", false),
            ("https://s3.cn-north-1.amazonaws.com.cn", "AWS", "cn-north-1", false),
            ("https://s3.amazonaws.com", "AWS", "", false),
            ("https://s3-accelerate.amazonaws.com", "AWS", "", false),
            ("https://0123.r2.cloudflarestorage.com", "Cloudflare R2", "auto", true),
            ("https://0123.eu.r2.cloudflarestorage.com", "Cloudflare R2", "auto", true),
            ("https://storage.googleapis.com", "Google Cloud Storage", "auto", true),
            ("https://s3.us-west-004.backblazeb2.com", "Backblaze B2", "us-west-004", false),
            ("https://t3.storage.dev", "Tigris", "auto", false),
            ("https://nyc3.digitaloceanspaces.com", "DigitalOcean Spaces", "us-east-1", false),
            ("http://minio:9000", "a server on a network of yours", "", true),
        ] {
            let region = Some(region.to_string()).filter(|r| !r.is_empty());
            assert_eq!(of(url), Some((name, region, path_style)), "{url}");
        }
        for url in [
            "https://s3.example.com",
            "https://r2.cloudflarestorage.com",
            "https://evilstorage.googleapis.com",
            "https://amazonaws.com.example.com",
            "http://127.0.0.1:9000",
            "http://[::1]",
        ] {
            assert_eq!(of(url), None, "{url}");
        }
    }
}
