//! Single sign-on (IAM Identity Center): the keys of a role, for the token that `aws sso login` has left in
//! `~/.aws/sso/cache`.
//!
//! A token that ends soon is renewed where the cache has what that takes, and written back for the
//! programs that share it. One that has ended is for people to renew: the error says how.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::http::HeaderMap;

use super::keys::{CredentialError, Keys};
use super::profile::{self, Profile};
use super::providers::{ANSWER_LIMIT, Found, ask_service, endpoint, missing, secret_headers};
use crate::atomic::{TempFile, read_named};
use crate::config::AwsEnv;
use crate::id::hex;
use crate::platform;

/// How long before its end a token is renewed.
const EARLY: Duration = Duration::from_secs(300);

/// What the cache keeps of a sign-on.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Token {
    access_token: String,
    expires_at: String,
    refresh_token: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RoleAnswer {
    role_credentials: RoleKeys,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RoleKeys {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    /// Milliseconds since 1970.
    expiration: i64,
}

/// The keys of the role that `profile` names; `None` where it names no sign-on.
pub fn keys(env: &AwsEnv, profile: &Profile) -> Option<Found> {
    let session = profile.get("sso_session");
    session.or(profile.get("sso_start_url")).map(|name| role_keys(env, profile, session, name))
}

fn role_keys(env: &AwsEnv, profile: &Profile, session: Option<&str>, cached: &str) -> Found {
    let session = session.map(|name| profile::sso_session(env, name)).transpose().map_err(missing)?;
    let needed = |from: &Profile, name: &str| {
        let lacking = || missing(format!("AWS profile {:?} uses single sign-on but has no {name}", profile.name));
        from.get(name).map(str::to_string).ok_or_else(lacking)
    };
    let region = needed(session.as_ref().unwrap_or(profile), "sso_region")?;
    let (account, role) = (needed(profile, "sso_account_id")?, needed(profile, "sso_role_name")?);
    let name = hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, cached.as_bytes()).as_ref());
    let folder = profile::folder(env).ok_or_else(|| missing("there is no home directory to look for a sign-on in"))?;
    let path = folder.join("sso/cache").join(name + ".json");
    let login = |why: &str| {
        let name = &profile.name;
        missing(format!("AWS profile {name:?}: {why}; run \"aws sso login --profile {name}\" ({})", path.display()))
    };
    let token = current(env, &path, &region).map_err(|why| login(&why))?;
    let mut url = endpoint(env, "SSO", &format!("portal.sso.{region}"))?;
    url.set_path(&format!("{}/federation/credentials", url.path().trim_end_matches('/')));
    url.query_pairs_mut().append_pair("role_name", &role).append_pair("account_id", &account);
    let headers = secret_headers(&[("x-amz-sso_bearer_token", &token)]).map_err(missing)?;
    match ask_service(env, "GET", &url, headers, "")? {
        (200, text) => {
            let RoleAnswer { role_credentials: keys } = serde_json::from_str(&text)
                .map_err(|e| missing(format!("single sign-on: the answer is no credentials document ({e})")))?;
            let end = Timestamp::from_millisecond(keys.expiration).ok();
            let (access, secret, token) = (keys.access_key_id, keys.secret_access_key, Some(keys.session_token));
            Ok(Keys { access, secret, token, expires: end.map(Into::into) })
        }
        (401, _) => Err(login("the sign-on is not valid any more")),
        (status @ 400..500, _) if status != 429 => Err(missing(format!(
            "single sign-on: status {status} for role {role} of account {account} (AWS profile {:?})",
            profile.name
        ))),
        (status, _) => Err(CredentialError::Unreachable(format!("single sign-on: status {status}"))),
    }
}

/// A token that is good now. The error is in words.
fn current(env: &AwsEnv, path: &Path, region: &str) -> Result<String, String> {
    let read = || -> Result<(Value, Token, SignedDuration), String> {
        let text = read_named(path, ANSWER_LIMIT).map_err(|e| format!("nobody has signed on ({e})"))?;
        let whole: Value = serde_json::from_str(&text).map_err(|e| format!("the sign-on cannot be read ({e})"))?;
        let token = Token::deserialize(&whole).map_err(|e| format!("the sign-on cannot be read ({e})"))?;
        // older versions of the command line wrote another letter
        let end: Timestamp = token.expires_at.replace("UTC", "Z").parse().map_err(|e| format!("expiresAt: {e}"))?;
        Ok((whole, token, end.duration_since(Timestamp::now())))
    };
    let (whole, token, left) = read()?;
    if left > SignedDuration::try_from(EARLY).expect("minutes") {
        return Ok(token.access_token);
    }
    match renewed(env, path, region, whole, &token) {
        Ok(token) => Ok(token),
        Err(_) if left.is_positive() => Ok(token.access_token),
        // another program may have been first
        Err(why) => match read() {
            Ok((_, token, left)) if left.is_positive() => Ok(token.access_token),
            _ => Err(format!("the sign-on ended at {}{why}", token.expires_at)),
        },
    }
}

/// A new token for one that ends, written to the cache. The error is in words, to be added to others.
fn renewed(env: &AwsEnv, path: &Path, region: &str, mut whole: Value, token: &Token) -> Result<String, String> {
    let (Some(refresh), Some(id), Some(secret)) = (&token.refresh_token, &token.client_id, &token.client_secret) else {
        return Err(String::new());
    };
    let body = json!({ "clientId": id, "clientSecret": secret, "grantType": "refresh_token", "refreshToken": refresh });
    let words = |e: CredentialError| format!(" and was not renewed ({e})");
    let mut url = endpoint(env, "SSO_OIDC", &format!("oidc.{region}")).map_err(words)?;
    url.set_path(&format!("{}/token", url.path().trim_end_matches('/')));
    let headers: HeaderMap = secret_headers(&[("content-type", "application/json")])?;
    let (status, text) = ask_service(env, "POST", &url, headers, &body.to_string()).map_err(words)?;
    let answer: Value = serde_json::from_str(&text).unwrap_or_default();
    let (200, Some(access), Some(seconds)) = (status, answer["accessToken"].as_str(), answer["expiresIn"].as_i64())
    else {
        return Err(format!(" and was not renewed (status {status})"));
    };
    whole["accessToken"] = access.into();
    let end = Timestamp::now() + SignedDuration::from_secs(seconds);
    whole["expiresAt"] = end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
    if let Some(next) = answer["refreshToken"].as_str() {
        whole["refreshToken"] = next.into();
    }
    if let Err(e) = write(path, &whole) {
        log::debug!("{}: {e}", path.display());
    }
    Ok(access.to_string())
}

/// Writes a file that only its owner may read, whole.
fn write(path: &Path, whole: &Value) -> std::io::Result<()> {
    let mut file = TempFile::create(path.parent().expect("a joined path"))?;
    platform::make_private(file.file())?;
    file.file().write_all(whole.to_string().as_bytes())?;
    file.persist(path).map(drop)
}
