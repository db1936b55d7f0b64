//! The bucket: where it is and what may be done to it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::{Resolver, duration, on, parsed};
use crate::atomic::read_named;
use crate::cli::flags::Given;
use crate::config::{AwsEnv, BucketConfig, BucketLocation, KeyPrefix, Layout, Vendor};
use crate::error::Error;
use crate::sign::{self, Signer};

/// A key file is shorter than this; of a longer one the rest is not read.
const KEY_LIMIT: u64 = 1024;

impl Resolver<'_> {
    pub(super) fn bucket(&self) -> Result<Option<BucketConfig>, Error> {
        let v = self.values;
        let Some(BucketConfig { location, prefix, .. }) = self.place(&v.prefix)? else { return Ok(None) };
        let write_prefix = parsed(&v.write_prefix)?.filter(|p| *p != KeyPrefix::default());
        // a job that has lost its variable would write where others read
        if let Some(given) = v.write_prefix.as_ref().filter(|given| given.on_line && write_prefix.is_none()) {
            return Err(given.error("names none: leave it out, and --prefix is written, or say --read-only"));
        }
        let read_only = on(&v.read_only)?;
        let layout = v.layout.or_default();
        let layout = match layout.text.as_str() {
            "single" => Layout::Single,
            "classic" => Layout::Classic,
            _ => return Err(layout.error("the layouts are single and classic")),
        };
        if read_only && let Some(p) = v.write_prefix.as_ref().filter(|_| write_prefix.is_some()) {
            return Err(p.error("cannot be combined with --read-only, which writes nothing"));
        }
        if let Some(p) = v.write_prefix.as_ref().filter(|_| write_prefix.as_ref() == Some(&prefix)) {
            return Err(p.error("is the same as --prefix: leave it out, or choose another"));
        }
        let signer = self.signer()?;
        if let Some(trust) = v.trust_write_prefix.as_ref().filter(|g| g.on_line && write_prefix.is_none())
            && on(&v.trust_write_prefix)?
            && !self.env.contains_key(OsStr::new("GOCACHE_WRITE_PREFIX"))
        {
            return Err(Error::usage(format!("{} needs --write-prefix", trust.from)));
        }
        // unsigned puts would only push out what is signed
        let read_only = read_only || signer.demands(false) && !signer.signs() && write_prefix.is_none();
        let refresh_after = duration(&v.refresh_after.or_default())?;
        let named = BucketConfig::at(location, prefix);
        Ok(Some(BucketConfig { write_prefix, read_only, refresh_after, layout, signer, ..named }))
    }

    /// Where the bucket is, if there is one, and below which prefix: its URL's, else `prefix`.
    pub(super) fn place(&self, prefix: &Option<Given>) -> Result<Option<BucketConfig>, Error> {
        let v = self.values;
        let Some(given) = v.bucket.as_ref().filter(|g| !g.text.is_empty()) else { return Ok(None) };
        let wrong = |why: &str| given.error(why);
        let none = KeyPrefix::default();
        let mut below = parsed(prefix)?.unwrap_or_default();
        if let Some(path) = given.text.strip_prefix("file://") {
            let path = self.expanded(path).map_err(|why| given.error(why))?;
            // as in file:///C:/dir
            let drive = path.strip_prefix('/').filter(|p| !p.starts_with('/') && Path::new(p).is_absolute());
            let path = PathBuf::from(drive.unwrap_or(&path));
            if !path.is_absolute() {
                return Err(wrong("not an absolute path: write file:///dir"));
            }
            if let Some((_, idle)) = v.asked().find(|(flag, idle)| idle.on_line && flag.is_of_s3()) {
                return Err(wrong(&format!("a directory has no use for {}: leave it out", idle.from)));
            }
            return Ok(Some(BucketConfig::at(BucketLocation::Dir(path), below)));
        }
        let mut name = given.text.as_str();
        if let Some(url) = name.strip_prefix("s3://") {
            let (bucket, path) = url.split_once('/').unwrap_or((url, ""));
            let of_url: KeyPrefix = path.parse().map_err(wrong)?;
            if of_url != none {
                if let Some(prefix) = prefix.as_ref().filter(|_| below != none && below != of_url) {
                    return Err(
                        prefix.error(format_args!("{} {:?} has another: leave one out", given.from, given.text))
                    );
                }
                below = of_url;
            }
            name = bucket;
        }
        let aws = self.aws();
        let from_aws = |names: [&str; 2]| {
            let found = names.into_iter().find_map(|name| Some((name, aws.var(name)?)));
            found.map(|(name, text)| Given { text: text.into(), from: name.into(), on_line: false })
        };
        let urls = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];
        let endpoint = match parsed(&v.endpoint)? {
            None if !aws.ignores_endpoints() => parsed(&from_aws(urls))?,
            given => given,
        };
        // AWS's variables say nothing of a service that signs for another region
        let vendor = endpoint.as_ref().and_then(Vendor::of);
        let region = match parsed(&v.region)?.or_else(|| vendor.as_ref()?.region.clone()) {
            None => parsed(&from_aws(["AWS_REGION", "AWS_DEFAULT_REGION"]))?,
            known => known,
        };
        let bucket = name.parse().map_err(wrong)?;
        let path_style = v.path_style.is_some().then(|| on(&v.path_style)).transpose()?;
        Ok(Some(BucketConfig::at(BucketLocation::S3 { bucket, region, endpoint, path_style, aws }, below)))
    }

    fn aws(&self) -> AwsEnv {
        let ours = |(name, value): (&OsString, &OsString)| {
            let name = name.to_str().filter(|name| AwsEnv::holds(name))?;
            Some((name.to_string(), value.to_str()?.to_string()))
        };
        AwsEnv { vars: self.env.iter().filter_map(ours).collect() }
    }

    fn signer(&self) -> Result<Signer, Error> {
        let v = self.values;
        let trust = on(&v.trust_write_prefix)?;
        if let Some(given) = v.signing_key_file.as_ref().filter(|_| trust) {
            return Err(given.error("cannot be combined with --trust-write-prefix: it would sign what others made"));
        }
        let private = v.signing_key_file.as_ref().map(|given| self.key(given, sign::private_key)).transpose()?;
        let mut public = Vec::new();
        if let Some(given) = v.verify_key_file.as_ref() {
            let between: &[char] = if given.on_line { &['\0'] } else { &[',', ':'] };
            for file in given.text.trim_matches(between).split(between) {
                public.push(self.key(&Given { text: file.to_string(), ..given.clone() }, sign::public_key)?);
            }
        }
        Ok(Signer::new(private, public, trust))
    }

    fn key<K>(&self, given: &Given, parse: impl Fn(&str) -> Result<K, &'static str>) -> Result<K, Error> {
        let text = read_named(&self.file(given)?, KEY_LIMIT).map_err(|e| given.error(e))?;
        parse(&text).map_err(|why| given.error(why))
    }
}
