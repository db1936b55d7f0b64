//! What the tests of this folder share.

use crate::headers::{HeaderMap, HeaderName, HeaderValue};

/// A map of these lines.
pub fn headers(list: &[(&str, &str)]) -> HeaderMap {
    list.iter().map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.parse::<HeaderValue>().unwrap())).collect()
}
