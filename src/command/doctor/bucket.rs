//! What the bucket answers, and by which way.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::open_bucket;
use super::super::status::{Mark, try_bucket};
use super::Findings;
use crate::client::proxy_for;
use crate::config::{self, AwsEnv, BucketConfig, BucketLocation, Endpoint};
use crate::remote::Site;
use crate::text;

/// A clock may differ from the bucket's by so much: its own is told in seconds, and takes a while to come.
const EXACT: Duration = Duration::from_secs(60);

/// Tries it.
pub fn look(shared: &BucketConfig, found: &mut Findings) {
    if let BucketLocation::S3 { bucket, aws, endpoint, region, path_style } = &shared.location {
        // one that cannot be is said below
        let site = Site::find(bucket, endpoint.as_ref(), region.as_ref(), *path_style, aws).unwrap_or_default();
        let described = site.endpoint.as_ref().map(|e| config::describe(e, site.region.as_ref(), site.path_style));
        described.into_iter().for_each(|text| found.add(Mark::Ok, "endpoint", text));
        found.add(Mark::Ok, "credentials", sources(aws));
        proxy(aws, site.endpoint.as_ref(), found);
    }
    try_bucket(shared, found);
    // what it answers does not matter, but when
    let Ok(Some(there)) = open_bucket(shared, Arc::default(), None).map(|bucket| bucket.clock()) else { return };
    let here = SystemTime::now();
    let (off, side) = match here.duration_since(there) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    if off > EXACT {
        let text = format!(
            "this machine's is {} {side} the bucket's: S3 refuses what is off by a quarter of an \
            hour, and signatures age by it",
            text::age(off)
        );
        found.add(Mark::Note, "clock", text);
    }
}

/// Where credentials are looked for: what the environment sets, never its secrets.
fn sources(aws: &AwsEnv) -> String {
    let told = |name: &&String| name.starts_with("AWS_") && aws.var(name).is_some();
    let set: Vec<_> = aws.vars.keys().filter(told).map(String::as_str).collect();
    format!("the environment sets {}", if set.is_empty() { "nothing".into() } else { set.join(", ") })
}

/// The proxy that requests to the bucket go through, and the variable that says so.
fn proxy(aws: &AwsEnv, endpoint: Option<&Endpoint>, found: &mut Findings) {
    let https = endpoint.is_none_or(Endpoint::is_https);
    let url = endpoint.map_or_else(|| "https://s3.amazonaws.com".into(), Endpoint::to_string);
    let Ok(Some(proxy)) = proxy_for(aws, https) else { return };
    if url.parse().is_ok_and(|url| !proxy.is_no_proxy(&url)) {
        let names = if https { ["HTTPS_PROXY", "https_proxy"] } else { ["HTTP_PROXY", "http_proxy"] };
        let name = names.into_iter().find(|name| aws.var(name).is_some()).unwrap_or(names[0]);
        let host = url.split("://").last().and_then(|rest| rest.split(['/', ':']).next()).unwrap_or_default();
        let text = format!(
            "requests to the bucket go through {}:{}, as {name} says; if that does not let them \
            through, NO_PROXY={host} leaves it out",
            proxy.host(),
            proxy.port()
        );
        found.add(Mark::Note, "proxy", text);
    }
}
