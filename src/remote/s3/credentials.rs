//! AWS credentials: where they are looked for, and their renewal.
//!
//! The order is that of AWS's own tools: the environment's keys; the profile that AWS_PROFILE
//! names; web identity; the default profile; container credentials; instance metadata (IMDSv2).
//! The first source that is configured decides: where it fails, the next is not asked.
//!
//! Invariants: nothing is looked up before the first [`Credentials::get`]; one thread at a time
//! looks, others use the keys that there are or wait for it; a chain that came up empty is not
//! asked again; keys that expire are renewed [`EARLY`] before they do.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::keys::{CredentialError, Keys};
use super::profile::{self, Profile};
use super::providers;
use crate::config::AwsEnv;

/// How long before their end keys are renewed.
const EARLY: Duration = Duration::from_secs(300);
/// Renewals that fail, or bring keys that end soon, are tried again no sooner than this.
const RENEW_PAUSE: Duration = Duration::from_secs(30);

/// Finds, keeps and renews the credentials of this process.
pub struct Credentials {
    env: AwsEnv,
    state: Mutex<State>,
    /// Held by the thread that looks.
    looking: Mutex<()>,
}

type Found = Result<Arc<Keys>, CredentialError>;

#[derive(Default)]
struct State {
    /// What the last look-up brought, or keys that outlive one that failed.
    found: Option<Found>,
    /// When the source was last asked.
    asked: Option<Instant>,
}

impl Credentials {
    /// Credentials as `env` describes them.
    pub fn new(env: AwsEnv) -> Self {
        Credentials { env, state: Mutex::default(), looking: Mutex::default() }
    }

    /// Keys that are good for a request now.
    pub fn get(&self) -> Found {
        if let Some(found) = self.known(false) {
            return found;
        }
        let _one = match self.looking.try_lock() {
            Ok(one) => one,
            Err(_) => match self.known(true) {
                Some(found) => return found,
                None => self.looking.lock().expect("no holder panics"),
            },
        };
        // another may have looked meanwhile
        self.known(false).unwrap_or_else(|| self.look())
    }

    /// What is known and good for now; with `alive` also keys that are being renewed.
    fn known(&self, alive: bool) -> Option<Found> {
        let state = self.lock();
        let found = state.found.as_ref()?;
        let paused = state.asked.is_some_and(|at| at.elapsed() < RENEW_PAUSE);
        let good = match found {
            Err(CredentialError::Missing(_)) => true,
            Err(CredentialError::Unreachable(_)) => paused,
            Ok(keys) => keys.left().is_none_or(|left| left > EARLY || !left.is_zero() && (alive || paused)),
        };
        good.then(|| found.clone())
    }

    /// Drops `used`, which the bucket called expired. Tells whether asking again may bring others.
    pub fn discard(&self, used: &Arc<Keys>) -> bool {
        let mut state = self.lock();
        match &state.found {
            Some(Ok(keys)) if Arc::ptr_eq(keys, used) && keys.expires.is_none() => false,
            Some(Ok(keys)) if Arc::ptr_eq(keys, used) => {
                state.found = None;
                true
            }
            // somebody else has renewed them
            _ => true,
        }
    }

    /// The region of the profile in use, where it names one.
    pub fn profile_region(&self) -> Option<String> {
        profile::load(&self.env).ok().flatten()?.get("region").map(str::to_string)
    }

    fn look(&self) -> Found {
        self.lock().asked = Some(Instant::now());
        let found = chain(&self.env).map(|(keys, source)| {
            log::info!("AWS credentials: key {} from {source}", keys.access);
            Arc::new(keys)
        });
        let mut state = self.lock();
        match (&found, &state.found) {
            (Err(e), Some(Ok(keys))) if keys.left().is_none_or(|left| !left.is_zero()) => {
                log::debug!("renewing the AWS credentials failed: {e}");
                return Ok(keys.clone());
            }
            _ => state.found = Some(found.clone()),
        }
        found
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

/// Asks one source after another; which one had keys, too.
fn chain(env: &AwsEnv) -> Result<(Keys, String), CredentialError> {
    let missing = |why: String| Err(CredentialError::Missing(why));
    match (env.var("AWS_ACCESS_KEY_ID"), env.var("AWS_SECRET_ACCESS_KEY")) {
        (Some(access), Some(secret)) => {
            let token = env.var("AWS_SESSION_TOKEN").map(str::to_string);
            let keys = Keys { access: access.into(), secret: secret.into(), token, expires: None };
            return Ok((keys, "AWS_ACCESS_KEY_ID".into()));
        }
        (Some(_), None) => return missing("AWS_ACCESS_KEY_ID is set but AWS_SECRET_ACCESS_KEY is not".into()),
        (None, Some(_)) => return missing("AWS_SECRET_ACCESS_KEY is set but AWS_ACCESS_KEY_ID is not".into()),
        (None, None) => {}
    }
    let chosen = env.var("AWS_PROFILE").is_some();
    let profile = profile::load(env).map_err(CredentialError::Missing)?;
    let of = |profile: &Profile| format!("AWS profile {:?}", profile.name);
    if chosen && let Some(profile) = &profile {
        let keys = from_profile(env, profile)?.map(|keys| (keys, of(profile)));
        return keys.map_or_else(|| missing(format!("{} holds no credentials", of(profile))), Ok);
    }
    if let (Some(file), Some(role)) = (env.var("AWS_WEB_IDENTITY_TOKEN_FILE"), env.var("AWS_ROLE_ARN")) {
        let keys = providers::web_identity(env, file, role, env.var("AWS_ROLE_SESSION_NAME"))?;
        return Ok((keys, format!("web identity, role {role}")));
    }
    if let Some(profile) = &profile
        && let Some(keys) = from_profile(env, profile)?
    {
        return Ok((keys, of(profile)));
    }
    if let Some(found) = providers::container(env) {
        return Ok((found?, "the container's agent".into()));
    }
    let metadata = match providers::instance_metadata(env) {
        Ok(keys) => return Ok((keys, "instance metadata".into())),
        Err(why) => why,
    };
    let files = match profile::paths(env) {
        Some((credentials, config)) => format!("{} and {}", credentials.display(), config.display()),
        None => "no home directory".into(),
    };
    missing(format!(
        "no AWS credentials found; tried AWS_ACCESS_KEY_ID, web identity, the default profile ({files}), \
         container credentials, instance metadata ({metadata}); set AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY or AWS_PROFILE"
    ))
}

/// What a profile says; `None` where it says nothing of credentials.
fn from_profile(env: &AwsEnv, profile: &Profile) -> Result<Option<Keys>, CredentialError> {
    let hint = |what: &str| {
        let name = &profile.name;
        Err(CredentialError::Missing(format!(
            "AWS profile {name:?} uses {what}, which is not supported here; set credential_process = \
             aws configure export-credentials --profile {name} --format process in another profile"
        )))
    };
    if let Some(role) = profile.get("role_arn") {
        return match profile.get("web_identity_token_file") {
            Some(file) => providers::web_identity(env, file, role, profile.get("role_session_name")).map(Some),
            None => hint("role_arn"),
        };
    }
    match (profile.get("aws_access_key_id"), profile.get("aws_secret_access_key")) {
        (Some(access), Some(secret)) => {
            let token = profile.get("aws_session_token").map(str::to_string);
            return Ok(Some(Keys { access: access.into(), secret: secret.into(), token, expires: None }));
        }
        (None, None) => {}
        _ => {
            return Err(CredentialError::Missing(format!(
                "AWS profile {:?} has only one of aws_access_key_id and aws_secret_access_key",
                profile.name
            )));
        }
    }
    if let Some(command) = profile.get("credential_process") {
        return providers::process(command).map(Some);
    }
    if profile.get("sso_session").or(profile.get("sso_start_url")).is_some() {
        return hint("single sign-on");
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
