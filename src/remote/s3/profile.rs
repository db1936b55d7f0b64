//! Profiles of the AWS command line's two files: `~/.aws/credentials`, whose sections are profile
//! names, and `~/.aws/config`, whose sections are `[default]` and `[profile name]`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::atomic::read_named;
use crate::config::{AwsEnv, BucketName, Endpoint, Region, Vendor};
use crate::platform::HOME;
use crate::remote::RemoteError;

/// Bytes of a file at most; of a longer one the rest is not read.
const LIMIT: u64 = 4 << 20;

/// A profile: the settings of both files, those of the credentials file first.
#[derive(Debug, PartialEq)]
pub struct Profile {
    /// Its name.
    pub name: String,
    settings: BTreeMap<String, String>,
}

impl Profile {
    /// A setting that is there and not empty; names are lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }
}

/// Where the command line keeps everything; `None` without a home directory.
pub fn folder(env: &AwsEnv) -> Option<PathBuf> {
    Some(Path::new(env.var(HOME)?).join(".aws"))
}

/// The paths of the credentials file and the config file; `None` where neither the variables nor
/// a home directory tell.
pub fn paths(env: &AwsEnv) -> Option<(PathBuf, PathBuf)> {
    let path = |var: &str, name: &str| match env.var(var) {
        Some(path) => Some(PathBuf::from(path)),
        None => Some(folder(env)?.join(name)),
    };
    Some((path("AWS_SHARED_CREDENTIALS_FILE", "credentials")?, path("AWS_CONFIG_FILE", "config")?))
}

/// The profile that AWS_PROFILE names, which must be there, or the default one, which need not.
/// The error is a sentence for people.
pub fn load(env: &AwsEnv) -> Result<Option<Profile>, String> {
    env.var("AWS_PROFILE").map_or_else(|| find(env, "default"), |name| named(env, name).map(Some))
}

/// The profile of that name, which must be there. The error is a sentence for people.
pub fn named(env: &AwsEnv, name: &str) -> Result<Profile, String> {
    find(env, name)?.ok_or_else(|| match paths(env) {
        Some((credentials, config)) => {
            format!("AWS profile {name:?} is neither in {} nor in {}", credentials.display(), config.display())
        }
        None => format!("there is no home directory to look for AWS profile {name:?} in"),
    })
}

/// The section `[sso-session name]` of the config file.
pub fn sso_session(env: &AwsEnv, name: &str) -> Result<Profile, String> {
    let config = paths(env).map(|(_, config)| config).unwrap_or_default();
    let settings = gather(&[(&config, &[format!("sso-session {name}")])])?;
    let settings = settings.ok_or_else(|| format!("there is no [sso-session {name}] in {}", config.display()))?;
    Ok(Profile { name: name.to_string(), settings })
}

fn find(env: &AwsEnv, name: &str) -> Result<Option<Profile>, String> {
    let Some((credentials, config)) = paths(env) else { return Ok(None) };
    let plain = [name.to_string()];
    let in_config = [format!("profile {name}"), if name == "default" { name.to_string() } else { String::new() }];
    let Some(mut settings) = gather(&[(&credentials, &plain), (&config, &in_config)])? else { return Ok(None) };
    if let Some(services) = settings.get("services").map(|name| format!("services {name}")) {
        let services = gather(&[(&config, &[services])])?.unwrap_or_default();
        settings.extend(services.into_iter().map(|(key, value)| (format!("services.{key}"), value)));
    }
    Ok(Some(Profile { name: name.to_string(), settings }))
}

/// The settings of these sections of these files, the first that says something first; `None` where no
/// section is there.
fn gather(places: &[(&Path, &[String])]) -> Result<Option<BTreeMap<String, String>>, String> {
    let mut settings = None;
    for (path, sections) in places {
        let text = match read_named(path, LIMIT) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(format!("{}: {e}", path.display())),
        };
        for (section, key, value) in parse(&text) {
            if sections.contains(&section) {
                let settings: &mut BTreeMap<_, _> = settings.get_or_insert_default();
                if let Some((key, value)) = key.zip(value) {
                    settings.entry(key).or_insert(value);
                }
            }
        }
    }
    Ok(settings)
}

/// Where a bucket is asked, and how.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// AWS unless given.
    pub endpoint: Option<Endpoint>,
    /// The one to sign for, where it is known.
    pub region: Option<Region>,
    /// `endpoint/bucket/key` rather than `bucket.endpoint/key`.
    pub path_style: bool,
}

impl Site {
    /// What is given, and for the rest what the AWS profile says, else what is known of the service. The error is
    /// [`RemoteError::Config`].
    pub fn find(
        bucket: &BucketName,
        endpoint: Option<&Endpoint>,
        region: Option<&Region>,
        path_style: Option<bool>,
        env: &AwsEnv,
    ) -> Result<Self, RemoteError> {
        // read once, and only where something is left for it to say; that there is no such profile is for those who
        // want its keys
        let profile = if endpoint.is_some() && path_style.is_some() { None } else { load(env).ok().flatten() };
        let endpoint = match (endpoint, &profile) {
            (None, Some(profile)) => self::endpoint(profile, env).map_err(RemoteError::Config)?,
            (given, _) => given.cloned(),
        };
        let known = endpoint.as_ref().and_then(Vendor::of);
        let of_profile = || match profile.as_ref()?.get("s3.addressing_style")? {
            "path" => Some(true),
            "virtual" => Some(false),
            _ => None,
        };
        let asked = path_style.or_else(of_profile);
        // an address has no names below it, and a certificate for *.s3… does not cover a name with dots
        let dotted = endpoint.as_ref().is_none_or(Endpoint::is_https) && bucket.as_str().contains('.');
        let alone = dotted || endpoint.as_ref().is_some_and(|e| e.name().is_none());
        Ok(Site {
            path_style: alone || asked.unwrap_or_else(|| known.as_ref().is_some_and(|k| k.path_style)),
            region: region.cloned().or_else(|| known?.region),
            endpoint,
        })
    }
}

/// The endpoint that `profile` names, if it does: its services' for S3 rather than its own. The error is a
/// sentence for people.
fn endpoint(profile: &Profile, env: &AwsEnv) -> Result<Option<Endpoint>, String> {
    if env.ignores_endpoints() {
        return Ok(None);
    }
    if profile.get("ignore_configured_endpoint_urls").is_some_and(|v| v.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    let url = profile.get("services.s3.endpoint_url").or(profile.get("endpoint_url"));
    let wrong = |url, why| format!("AWS profile {:?}: endpoint_url {url:?}: {why}", profile.name);
    url.map(|url| url.parse().map_err(|why: &str| wrong(url, why))).transpose()
}

/// Section headers (without a key) and settings, in order. Indented lines are settings of the one
/// above them, as `s3.endpoint_url`.
fn parse(text: &str) -> Vec<(String, Option<String>, Option<String>)> {
    let mut out = Vec::new();
    let (mut section, mut above) = (String::new(), String::new());
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        let nested = line.starts_with([' ', '\t']);
        if let Some(rest) = trimmed.strip_prefix('[').filter(|_| !nested) {
            let name = rest.split(']').next().unwrap_or_default();
            section = name.split_whitespace().collect::<Vec<_>>().join(" ");
            above.clear();
            out.push((section.clone(), None, None));
        } else if let Some((key, value)) = trimmed.split_once('=') {
            let value = [" #", " ;", "\t#", "\t;"].iter().fold(value, |v, mark| v.split(mark).next().unwrap_or(v));
            let mut key = key.trim().to_ascii_lowercase();
            if nested {
                key = format!("{above}.{key}");
            } else {
                above.clone_from(&key);
            }
            out.push((section.clone(), Some(key), Some(value.trim().to_string())));
        }
    }
    out
}
