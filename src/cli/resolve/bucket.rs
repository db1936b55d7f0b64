//! The bucket: where it is and what may be done to it.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use super::{REFRESH_AFTER, Resolver, duration, on, parsed};
use crate::cli::flags::Given;
use crate::config::{AwsEnv, BucketConfig, BucketLocation, KeyPrefix, Layout};
use crate::error::Error;
use crate::sign::{self, Signer};

/// A key file is shorter than this; of a longer one the rest is not read.
const KEY_LIMIT: u64 = 1024;

impl Resolver<'_> {
    pub(super) fn bucket(&self) -> Result<Option<BucketConfig>, Error> {
        let v = self.values;
        let prefix = parsed(&v.prefix)?.unwrap_or_default();
        let write_prefix = parsed(&v.write_prefix)?.filter(|p| *p != KeyPrefix::default());
        let read_only = on(&v.read_only)?;
        let layout = match &v.layout {
            None => Layout::Single,
            Some(given) => match given.text.as_str() {
                "single" => Layout::Single,
                "classic" => Layout::Classic,
                _ => return Err(given.error("the layouts are single and classic")),
            },
        };
        if read_only && let Some(p) = v.write_prefix.as_ref().filter(|_| write_prefix.is_some()) {
            return Err(p.error("cannot be combined with --read-only, which writes nothing"));
        }
        if let Some(p) = v.write_prefix.as_ref().filter(|_| write_prefix.as_ref() == Some(&prefix)) {
            return Err(p.error("is the same as --prefix: leave it out, or choose another"));
        }
        let Some(location) = self.location()? else { return Ok(None) };
        let signer = self.signer()?;
        // unsigned puts would only push out what is signed
        let read_only = read_only || signer.demands(false) && !signer.signs() && write_prefix.is_none();
        let refresh_after = v.refresh_after.as_ref().map_or(Ok(REFRESH_AFTER), duration)?;
        let named = BucketConfig::at(location, prefix);
        Ok(Some(BucketConfig { write_prefix, read_only, refresh_after, layout, signer, ..named }))
    }

    /// Where the bucket is, if there is one.
    pub(super) fn location(&self) -> Result<Option<BucketLocation>, Error> {
        let v = self.values;
        let (path_style, endpoint) = (on(&v.path_style)?, parsed(&v.endpoint)?);
        let Some(given) = v.bucket.as_ref().filter(|g| !g.text.is_empty()) else { return Ok(None) };
        Ok(Some(match given.text.strip_prefix("file://") {
            Some(path) if path.starts_with('/') => BucketLocation::Dir(PathBuf::from(path)),
            Some(_) => return Err(given.error("not an absolute path: write file:///dir")),
            None => {
                let aws = self.aws();
                let from_aws = |names: [&str; 2]| {
                    let found = names.into_iter().find_map(|name| Some((name, aws.var(name)?)));
                    found.map(|(name, text)| Given { text: text.into(), from: name.into(), on_line: false })
                };
                let urls = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];
                let obeyed = aws.var("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") != Some("true");
                let endpoint = match endpoint {
                    None if obeyed => parsed(&from_aws(urls))?,
                    given => given,
                };
                let region = match parsed(&v.region)? {
                    None => parsed(&from_aws(["AWS_REGION", "AWS_DEFAULT_REGION"]))?,
                    given => given,
                };
                let bucket = given.text.parse().map_err(|why| given.error(why))?;
                BucketLocation::S3 { bucket, region, endpoint, path_style, aws }
            }
        }))
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
        if let Some(given) = &v.verify_key_file {
            let between: &[char] = if given.on_line { &['\0'] } else { &[',', ':'] };
            for file in given.text.trim_matches(between).split(between) {
                public.push(self.key(&Given { text: file.to_string(), ..given.clone() }, sign::public_key)?);
            }
        }
        Ok(Signer::new(private, public, trust))
    }

    fn key<K>(&self, given: &Given, parse: impl Fn(&str) -> Result<K, &'static str>) -> Result<K, Error> {
        if given.text.is_empty() {
            return Err(given.error("names no key file"));
        }
        let mut bytes = Vec::new();
        let read = File::open(self.cwd.join(&given.text)).and_then(|f| f.take(KEY_LIMIT).read_to_end(&mut bytes));
        read.map_err(|e| given.error(e))?;
        parse(&String::from_utf8_lossy(&bytes)).map_err(|why| given.error(why))
    }
}
