//! AWS credentials: where they are looked for, and their renewal.
//!
//! The order is that of AWS's own tools: the environment's keys; the profile that AWS_PROFILE
//! names; web identity; the default profile; container credentials; instance metadata (IMDSv2).
//! The first source that is configured decides: where it fails, the next is not asked.
//!
//! Invariants: nothing is looked up before the first [`Credentials::get`]; one thread at a time
//! looks, others use the keys that there are or wait for it; what came up empty is not asked by every
//! request, but after a while, since people sign on meanwhile; keys that expire are renewed [`EARLY`]
//! before they do.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::keys::{CredentialError, Keys};
use super::profile::{self, Profile};
use super::providers::{self, missing};
use super::{sso, sts};
use crate::config::AwsEnv;

/// How long before their end keys are renewed.
const EARLY: Duration = Duration::from_secs(300);
/// Renewals that fail, or bring keys that end soon, are tried again no sooner than this.
const RENEW_PAUSE: Duration = Duration::from_secs(30);

/// So many profiles may each take their keys from another.
const MOST_ROLES: u32 = 5;

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
            Err(_) => paused,
            Ok(keys) => keys.left().is_none_or(|left| left > EARLY || !left.is_zero() && (alive || paused)),
        };
        good.then(|| found.clone())
    }

    /// Looks for others than `used`, which the bucket refuses; a file may hold new ones, whether or not it told when
    /// the old would end. Tells whether what it brought is worth a try.
    pub fn renew(&self, used: &Arc<Keys>) -> bool {
        let mut state = self.lock();
        state.found.take_if(|found| found.as_ref().is_ok_and(|keys| Arc::ptr_eq(keys, used)));
        drop(state);
        self.get().is_ok_and(|keys| keys.expires.is_some() || keys != *used)
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
    if let Some(keys) = from_environment(env)? {
        return Ok((keys, "AWS_ACCESS_KEY_ID".into()));
    }
    let chosen = env.var("AWS_PROFILE").is_some();
    let profile = profile::load(env).map_err(CredentialError::Missing)?;
    let of = |profile: &Profile| format!("AWS profile {:?}", profile.name);
    if chosen && let Some(profile) = &profile {
        let keys = from_profile(env, profile, 0)?.ok_or_else(|| empty(profile))?;
        return Ok((keys, of(profile)));
    }
    if let (Some(file), Some(role)) = (env.var("AWS_WEB_IDENTITY_TOKEN_FILE"), env.var("AWS_ROLE_ARN")) {
        let keys = sts::web_identity(env, profile.as_ref(), file, role, env.var("AWS_ROLE_SESSION_NAME"))?;
        return Ok((keys, format!("web identity, role {role}")));
    }
    if let Some(profile) = &profile
        && let Some(keys) = from_profile(env, profile, 0)?
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
    Err(missing(format!(
        "no AWS credentials found; tried AWS_ACCESS_KEY_ID, web identity, the default profile ({files}), \
         container credentials, instance metadata ({metadata}); set AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY or AWS_PROFILE"
    )))
}

fn from_environment(env: &AwsEnv) -> Result<Option<Keys>, CredentialError> {
    let names = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    pair(names.map(|name| env.var(name)), env.var("AWS_SESSION_TOKEN"), |there, lacking| {
        format!("{} is set but {} is not", names[there], names[lacking])
    })
}

/// Keys that do not end; `None` where there is neither half. `words` say which of the two is there alone.
fn pair(
    halves: [Option<&str>; 2],
    token: Option<&str>,
    words: impl Fn(usize, usize) -> String,
) -> Result<Option<Keys>, CredentialError> {
    match halves {
        [Some(access), Some(secret)] => {
            let token = token.map(str::to_string);
            Ok(Some(Keys { access: access.into(), secret: secret.into(), token, expires: None }))
        }
        [Some(_), None] => Err(missing(words(0, 1))),
        [None, Some(_)] => Err(missing(words(1, 0))),
        [None, None] => Ok(None),
    }
}

/// What a profile says; `None` where it says nothing of credentials. `depth` profiles were on the way.
fn from_profile(env: &AwsEnv, profile: &Profile, depth: u32) -> Result<Option<Keys>, CredentialError> {
    if let Some(role) = profile.get("role_arn") {
        return from_role(env, profile, role, depth).map(Some);
    }
    if let Some(keys) = own_keys(profile)? {
        return Ok(Some(keys));
    }
    if let Some(command) = profile.get("credential_process") {
        return providers::process(command).map(Some);
    }
    sso::keys(env, profile).transpose()
}

fn own_keys(profile: &Profile) -> Result<Option<Keys>, CredentialError> {
    let names = ["aws_access_key_id", "aws_secret_access_key"];
    pair(names.map(|name| profile.get(name)), profile.get("aws_session_token"), |there, lacking| {
        format!("AWS profile {:?} has {} but not {}", profile.name, names[there], names[lacking])
    })
}

/// Keys of the role that a profile names, by a token, or by keys of another source.
fn from_role(env: &AwsEnv, profile: &Profile, role: &str, depth: u32) -> Result<Keys, CredentialError> {
    let name = &profile.name;
    if let Some(file) = profile.get("web_identity_token_file") {
        return sts::web_identity(env, Some(profile), file, role, profile.get("role_session_name"));
    }
    if profile.get("mfa_serial").is_some() {
        return Err(missing(format!(
            "AWS profile {name:?} asks for a code (mfa_serial), which nobody is here to give; in another profile, set \
             credential_process = aws configure export-credentials --profile {name} --format process"
        )));
    }
    let lacks = |what: &str| missing(format!("AWS profile {name:?} has a role_arn but {what}"));
    let keys = match (profile.get("source_profile"), profile.get("credential_source")) {
        (Some(own), _) if own == name => own_keys(profile)?.ok_or_else(|| empty(profile)),
        (Some(_), _) if depth == MOST_ROLES => Err(lacks("too many profiles are on the way to its keys")),
        (Some(other), _) => {
            let other = profile::named(env, other).map_err(missing)?;
            from_profile(env, &other, depth + 1)?.ok_or_else(|| empty(&other))
        }
        (None, Some("Environment")) => from_environment(env)?.ok_or_else(|| lacks("AWS_ACCESS_KEY_ID is not set")),
        (None, Some("EcsContainer")) => {
            providers::container(env).unwrap_or_else(|| Err(lacks("there are no container credentials")))
        }
        (None, Some("Ec2InstanceMetadata")) => providers::instance_metadata(env).map_err(missing),
        (None, _) => Err(lacks("no source_profile, credential_source or web_identity_token_file")),
    }?;
    sts::assume_role(env, profile, role, &keys)
}

fn empty(profile: &Profile) -> CredentialError {
    missing(format!("AWS profile {:?} holds no credentials", profile.name))
}

#[cfg(test)]
mod tests;
