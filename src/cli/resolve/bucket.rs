//! The bucket: where it is and what may be done to it.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use super::{Resolver, on};
use crate::cli::flags::Given;
use crate::config::{AwsEnv, BucketConfig, BucketLocation, Layout};
use crate::error::Error;
use crate::sign::{self, Signer};

/// A key file is shorter than this; of a longer one the rest is not read.
const KEY_LIMIT: u64 = 1024;

impl Resolver<'_> {
    pub(super) fn bucket(&self) -> Result<Option<BucketConfig>, Error> {
        let v = self.values;
        let prefix = v.prefix.as_ref().map_or(Ok(String::new()), key_prefix)?;
        let write_prefix = v.write_prefix.as_ref().map(key_prefix).transpose()?.filter(|p| !p.is_empty());
        let read_only = on(&v.read_only)?;
        let path_style = on(&v.path_style)?;
        let endpoint = v.endpoint.as_ref().filter(|g| !g.text.is_empty()).map(endpoint).transpose()?;
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
        let Some(given) = v.bucket.as_ref().filter(|g| !g.text.is_empty()) else { return Ok(None) };
        let signer = self.signer()?;
        // unsigned puts would only push out what is signed
        let read_only = read_only || signer.demands(false) && !signer.signs() && write_prefix.is_none();
        let location = match given.text.strip_prefix("file://") {
            Some(path) if path.starts_with('/') => BucketLocation::Dir(PathBuf::from(path)),
            Some(_) => return Err(given.error("not an absolute path: write file:///dir")),
            None => BucketLocation::S3 {
                bucket: bucket_name(given)?,
                region: v.region.as_ref().filter(|g| !g.text.is_empty()).map(region).transpose()?,
                endpoint,
                path_style,
                aws: self.aws(),
            },
        };
        Ok(Some(BucketConfig { location, prefix, write_prefix, read_only, layout, signer }))
    }

    fn aws(&self) -> AwsEnv {
        let text = |(name, value): (&OsString, &OsString)| Some((name.to_str()?.into(), value.to_str()?.into()));
        let ours = |name: &str| name.starts_with("AWS_") || name == "HOME";
        AwsEnv { vars: self.env.iter().filter_map(text).filter(|(name, _): &(String, String)| ours(name)).collect() }
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

/// A prefix without slashes at its ends and doubled ones.
fn key_prefix(given: &Given) -> Result<String, Error> {
    let segments: Vec<&str> = given.text.split('/').filter(|s| !s.is_empty()).collect();
    if segments.iter().any(|s| matches!(*s, "." | "..")) || !given.text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(given.error("not a key prefix: ASCII without blanks, and no segment . or .."));
    }
    Ok(segments.join("/"))
}

fn bucket_name(given: &Given) -> Result<String, Error> {
    let name = given.text.strip_prefix("s3://").unwrap_or(&given.text).trim_end_matches('/');
    let fits = (3..=255).contains(&name.len()) && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !fits || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Err(given.error("not a bucket's name, nor file:///dir"));
    }
    Ok(name.to_string())
}

fn region(given: &Given) -> Result<String, Error> {
    let fits = given.text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if fits { Ok(given.text.clone()) } else { Err(given.error("not a region: write for example us-east-1")) }
}

fn endpoint(given: &Given) -> Result<String, Error> {
    let url = given.text.trim_end_matches('/');
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
    let plain = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b));
    if plain { Ok(url.to_string()) } else { Err(given.error("not an endpoint: write http[s]://host[:port]")) }
}
