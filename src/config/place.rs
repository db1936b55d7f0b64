//! Where a bucket is and what is written there, checked: who holds one of these need not look again.

use std::fmt;
use std::str::FromStr;

use url::Url;

/// Words that are checked as they are parsed. The error says what is wrong, for a line that names
/// where the word was found.
macro_rules! words {
    ($( $(#[$meta:meta])* $Type:ident )*) => { $(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $Type(String);

        impl $Type {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $Type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )* };
}

words! {
    /// A bucket's name: 3 to 255 letters, digits, hyphens, dots and underscores, the first a letter
    /// or a digit.
    BucketName
    /// A region's name: letters, digits, hyphens and underscores.
    Region
    /// The prefix of every key, without slashes at its ends and doubled ones; empty for none.
    #[derive(Default)]
    KeyPrefix
}

impl FromStr for BucketName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.trim_end_matches('/');
        let fits = (3..=255).contains(&name.len()) && name.starts_with(|c: char| c.is_ascii_alphanumeric());
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
        if fits && plain {
            Ok(BucketName(name.into()))
        } else {
            Err("not a bucket's name, nor s3://name/prefix or file:///dir")
        }
    }
}

impl FromStr for Region {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if plain { Ok(Region(text.into())) } else { Err("not a region: write for example us-east-1") }
    }
}

impl FromStr for KeyPrefix {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let segments: Vec<&str> = text.split('/').filter(|s| !s.is_empty()).collect();
        if segments.iter().any(|s| matches!(*s, "." | "..")) || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("not a key prefix: ASCII without blanks, and no segment . or ..");
        }
        Ok(KeyPrefix(segments.join("/")))
    }
}

/// The URL of a service that speaks S3: `http[s]://host[:port][/path]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Url);

impl Endpoint {
    /// Whether it is reached over TLS.
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Its host, where that is a name, which may have subdomains, and no address.
    pub fn name(&self) -> Option<&str> {
        self.0.domain()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "not an endpoint: write http[s]://host[:port]";
        // the parser would mend much that is a mistake here
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).ok_or(wrong)?;
        if rest.starts_with('/')
            || rest.contains(['@', '?', '#', '\\', '%'])
            || !rest.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(wrong);
        }
        Url::parse(text).map(Endpoint).map_err(|_| wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_regions_and_prefixes() {
        for (text, name) in [("some", "some"), ("a.b_c-1/", "a.b_c-1"), ("Old_Bucket", "Old_Bucket")] {
            assert_eq!(text.parse::<BucketName>().unwrap().as_str(), name);
        }
        for wrong in ["", "ab", "a/bc", "a bc", "..a", "b?xx", "üüü", "-abc", &"x".repeat(256)] {
            assert!(wrong.parse::<BucketName>().is_err(), "{wrong}");
        }
        assert_eq!("us-east-1".parse::<Region>().unwrap().to_string(), "us-east-1");
        for wrong in ["", "evil.example/", "a b"] {
            assert!(wrong.parse::<Region>().is_err(), "{wrong}");
        }
        for (text, prefix) in [("", ""), ("/", ""), ("/a//b/", "a/b"), ("a.b/...", "a.b/...")] {
            assert_eq!(text.parse::<KeyPrefix>().unwrap().as_str(), prefix);
        }
        for wrong in ["a/../b", ".", "a b", "ü"] {
            assert!(wrong.parse::<KeyPrefix>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn endpoints() {
        for (text, shown) in [
            ("http://minio:9000/", "http://minio:9000"),
            ("https://host/base/path/", "https://host/base/path"),
            ("https://host:443", "https://host"),
            ("http://[::1]:9000", "http://[::1]:9000"),
            ("http://HOST", "http://host"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown);
        }
        for wrong in [
            "minio:9000", "ftp://h", "http://u:p@h", "http://h?x", "http://h#x", "", "/x", "http:///h", "http://",
            "http://:9", "http://h\\x", " http://h", "http://h x", "http://h:99999", "http://%68",
        ] {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
        let named = |text: &str| text.parse::<Endpoint>().unwrap().name().is_some();
        assert!(named("http://minio") && !named("http://127.0.0.1") && !named("http://[::1]"));
    }
}
