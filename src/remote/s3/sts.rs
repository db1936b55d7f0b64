//! Roles from STS: for a web identity's token, and for other keys.
//!
//! What passes by itself is asked for again, thrice in all and within two seconds: STS at times knows
//! a good token no more when it cannot ask its issuer, which happens to many jobs that start together.

use std::path::Path;
use std::time::SystemTime;

use ureq::http::{HeaderMap, HeaderValue};
use url::Url;

use super::keys::{CredentialError, Keys};
use super::profile::Profile;
use super::providers::{ANSWER_LIMIT, Found, ask_service, endpoint, expiry, missing};
use super::sign::{EMPTY_SHA256, Scope, sign};
use super::xml;
use crate::atomic::read_named;
use crate::config::AwsEnv;
use crate::retry::{Failure, Patience, jitter, wait_before_retry};

/// Requests for one role in all.
const ATTEMPTS: u32 = 3;
/// What sessions are called.
const SESSION: &str = "go-cache-plugin";

/// AssumeRoleWithWebIdentity with the token in `file`, which is read anew each time.
pub fn web_identity(env: &AwsEnv, profile: Option<&Profile>, file: &str, role: &str, session: Option<&str>) -> Found {
    let token = read_named(Path::new(file), ANSWER_LIMIT);
    let token = token.map_err(|e| missing(format!("web identity token {file}: {e}")))?;
    let (url, _) = whereabouts(env, profile)?;
    let form = query(&[
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleArn", role),
        ("RoleSessionName", session.unwrap_or(SESSION)),
        ("WebIdentityToken", token.trim()),
    ]);
    let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
    let headers: HeaderMap = [("content-type".parse().expect("a name"), form_type)].into_iter().collect();
    exchange(&format!("web identity ({url})"), role, || ask_service(env, "POST", &url, headers.clone(), &form))
}

/// AssumeRole, for the holder of `keys`, as `profile` says.
pub fn assume_role(env: &AwsEnv, profile: &Profile, role: &str, keys: &Keys) -> Found {
    let (mut url, region) = whereabouts(env, Some(profile))?;
    let source = format!("STS ({url})");
    let session = profile.get("role_session_name").unwrap_or(SESSION);
    let mut fields =
        vec![("Action", "AssumeRole"), ("Version", "2011-06-15"), ("RoleArn", role), ("RoleSessionName", session)];
    fields.extend(profile.get("external_id").map(|id| ("ExternalId", id)));
    fields.extend(profile.get("duration_seconds").map(|seconds| ("DurationSeconds", seconds)));
    url.set_query(Some(&query(&fields)));
    let scope = Scope { region: &region, service: "sts" };
    exchange(&source, role, || {
        let headers = sign("GET", &url, scope, keys, EMPTY_SHA256, HeaderMap::new(), SystemTime::now());
        ask_service(env, "GET", &url, headers.map_err(missing)?, "")
    })
}

/// Where STS is, and the region that signatures name.
fn whereabouts(env: &AwsEnv, profile: Option<&Profile>) -> Result<(Url, String), CredentialError> {
    let named = env.var("AWS_REGION").or(env.var("AWS_DEFAULT_REGION"));
    let region = named.or_else(|| profile?.get("region"));
    let host = region.map_or("sts".into(), |region| format!("sts.{region}"));
    Ok((endpoint(env, "STS", &host)?, region.unwrap_or("us-east-1").to_string()))
}

fn query(fields: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

/// Asks until there is an answer that counts, and reads the keys in it.
fn exchange(source: &str, role: &str, ask: impl Fn() -> Result<(u16, String), CredentialError>) -> Found {
    let mut attempt = 0;
    loop {
        let (status, text) = ask()?;
        let code = xml::text(&text, "Code").unwrap_or_default();
        let passing = !(400..500).contains(&status)
            || matches!(code.as_str(), "InvalidIdentityToken" | "IDPCommunicationError" | "Throttling")
            || status == 429;
        if (200..300).contains(&status) {
            return keys(&text, source);
        }
        let wait = wait_before_retry(Patience::Upload, attempt, Failure::Busy, jitter());
        attempt += 1;
        match wait.filter(|_| passing && attempt < ATTEMPTS) {
            Some(wait) => std::thread::sleep(wait),
            None if status >= 500 || status == 429 => {
                return Err(CredentialError::Unreachable(format!("{source}: status {status} {code}")));
            }
            None => {
                let message = xml::text(&text, "Message").unwrap_or_default();
                return Err(missing(format!("{source} refuses role {role}: status {status} {code} {message}")));
            }
        }
    }
}

fn keys(text: &str, source: &str) -> Found {
    let field = |name: &str| {
        let text = xml::text(text, name).filter(|t| !t.is_empty());
        text.ok_or_else(|| missing(format!("{source}: the answer has no {name}")))
    };
    Ok(Keys {
        access: field("AccessKeyId")?,
        secret: field("SecretAccessKey")?,
        token: Some(field("SessionToken")?),
        expires: Some(expiry(&field("Expiration")?, source)?),
    })
}
