//! Sources of credentials on this machine or its network that have to be asked: the container agent,
//! the instance metadata service, a command; and what all sources share.
//!
//! Every one of them is bounded in time and in the length of its answer.

use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use ureq::http::{HeaderMap, HeaderName, HeaderValue};
use url::{Host, Url};

use super::keys::{CredentialError, Keys};
use super::transport::{Limits, Transport};
use crate::atomic::read_named;
use crate::client::proxy_for;
use crate::config::AwsEnv;
use crate::platform;

/// Longest answer that is read.
pub const ANSWER_LIMIT: u64 = 64 * 1024;
/// How long a credential_process may run.
const PROCESS_LIMIT: Duration = Duration::from_secs(10);
/// Where the container agent of ECS listens.
const CONTAINER: &str = "http://169.254.170.2";
/// Where the instance metadata service listens.
const METADATA: &str = "http://169.254.169.254";
/// What helps where its token does not come.
const HOP: &str = "the instance needs HttpPutResponseHopLimit 2";

/// What a source answers.
pub type Found = Result<Keys, CredentialError>;

/// There are no keys, and why.
pub fn missing(why: impl Into<String>) -> CredentialError {
    CredentialError::Missing(why.into())
}

/// The JSON that container agent, metadata service and commands answer with.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct JsonKeys {
    access_key_id: String,
    secret_access_key: String,
    #[serde(alias = "SessionToken")]
    token: Option<String>,
    expiration: Option<String>,
}

fn from_json(text: &str, source: &str) -> Found {
    let json: JsonKeys = serde_json::from_str(text)
        .map_err(|e| missing(format!("{source}: the answer is no credentials document ({e})")))?;
    let expires = json.expiration.as_deref().map(|t| expiry(t, source)).transpose()?;
    let token = json.token.filter(|t| !t.is_empty());
    Ok(Keys { access: json.access_key_id, secret: json.secret_access_key, token, expires })
}

/// The time `text`, in RFC 3339, that `source` told.
pub fn expiry(text: &str, source: &str) -> Result<SystemTime, CredentialError> {
    match text.parse::<jiff::Timestamp>() {
        Ok(t) => Ok(t.into()),
        Err(_) => Err(missing(format!("{source}: {text:?} is no time"))),
    }
}

/// Headers that stay out of logs.
pub fn secret_headers(headers: &[(&'static str, &str)]) -> Result<HeaderMap, String> {
    let line = |(name, value): &(&'static str, &str)| {
        let mut value = HeaderValue::from_str(value).map_err(|_| "a token contains line breaks".to_string())?;
        value.set_sensitive(true);
        Ok((HeaderName::from_static(name), value))
    };
    headers.iter().map(line).collect()
}

/// One exchange: status and text. The error is in words.
fn ask(
    transport: &Transport,
    method: &str,
    url: &str,
    headers: HeaderMap,
    body: &str,
) -> Result<(u16, String), String> {
    let body = body.to_string();
    let body = (method != "GET").then(|| -> (u64, Box<dyn Read + Send>) {
        (body.len() as u64, Box::new(std::io::Cursor::new(body.into_bytes())))
    });
    let answer = transport.send(method, url, headers, body, None).map_err(|e| e.to_string())?;
    let mut text = String::new();
    answer.body.take(ANSWER_LIMIT).read_to_string(&mut text).map_err(|e| format!("{}: {e}", brief(url)))?;
    Ok((answer.status, text))
}

/// A URL without its path, for messages.
fn brief(url: &str) -> String {
    Url::parse(url).map_or_else(|_| url.to_string(), |u| u.origin().ascii_serialization())
}

fn local_transport(limits: Limits) -> Transport {
    Transport::new(limits, None, None, None)
}

/// Where a service of AWS's listens: `host` below AWS's domain, unless the environment has another place.
pub fn endpoint(env: &AwsEnv, service: &str, host: &str) -> Result<Url, CredentialError> {
    let variable = format!("AWS_ENDPOINT_URL_{service}");
    let end = if host.contains(".cn-") { ".cn" } else { "" };
    let told = env.var(&variable).or(env.var("AWS_ENDPOINT_URL")).filter(|_| !env.ignores_endpoints());
    let url = match told {
        Some(url) => url.trim_end_matches('/').to_string(),
        None => format!("https://{host}.amazonaws.com{end}"),
    };
    Url::parse(&url).map_err(|e| missing(format!("{variable}: {url}: {e}")))
}

/// One exchange with a service of AWS's.
pub fn ask_service(
    env: &AwsEnv,
    method: &str,
    url: &Url,
    headers: HeaderMap,
    body: &str,
) -> Result<(u16, String), CredentialError> {
    let proxy = proxy_for(env, url.scheme() == "https").map_err(missing)?;
    let transport = Transport::new(Limits::SERVICE, proxy, ca_file(env), None);
    ask(&transport, method, url.as_str(), headers, body).map_err(CredentialError::Unreachable)
}

/// A file of certificates that the environment names.
pub fn ca_file(env: &AwsEnv) -> Option<PathBuf> {
    // beside SSL_CERT_DIR, the file is not all that there is to trust
    let alone = env.var("SSL_CERT_FILE").filter(|_| env.var("SSL_CERT_DIR").is_none());
    env.var("AWS_CA_BUNDLE").or(alone).map(PathBuf::from)
}

/// The container agent; `None` where none is configured.
pub fn container(env: &AwsEnv) -> Option<Found> {
    let url = match (env.var("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), env.var("AWS_CONTAINER_CREDENTIALS_FULL_URI")) {
        (Some(path), _) => format!("{CONTAINER}/{}", path.trim_start_matches('/')),
        (None, Some(url)) => url.to_string(),
        (None, None) => return None,
    };
    Some(ask_container(env, &url))
}

fn ask_container(env: &AwsEnv, url: &str) -> Found {
    let parsed = Url::parse(url).map_err(|e| missing(format!("AWS_CONTAINER_CREDENTIALS_FULL_URI: {e}")))?;
    if !may_be_trusted(&parsed) {
        return Err(missing(format!(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI: {} is neither https nor on this machine or its agent",
            brief(url)
        )));
    }
    let source = format!("container credentials ({})", brief(url));
    let token = match env.var("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(file) => {
            let text = read_named(Path::new(file), ANSWER_LIMIT);
            let text = text.map_err(|e| missing(format!("{source}: token {file}: {e}")))?;
            Some(text.trim().to_string())
        }
        None => env.var("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(str::to_string),
    };
    let headers: Vec<_> = token.iter().map(|t| ("authorization", t.as_str())).collect();
    let headers = secret_headers(&headers).map_err(|why| missing(format!("{source}: {why}")))?;
    let transport = local_transport(Limits::LOCAL);
    let (status, text) = ask(&transport, "GET", url, headers, "").map_err(CredentialError::Unreachable)?;
    match status {
        200 => from_json(&text, &source),
        400..500 if status != 429 => Err(missing(format!("{source}: status {status}"))),
        _ => Err(CredentialError::Unreachable(format!("{source}: status {status}"))),
    }
}

/// https anywhere, http only where no one else listens: loopback and the agents of ECS and EKS.
fn may_be_trusted(url: &Url) -> bool {
    let agents: [IpAddr; 3] =
        [[169, 254, 170, 2].into(), [169, 254, 170, 23].into(), [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23].into()];
    match (url.scheme(), url.host()) {
        ("https", Some(_)) => true,
        ("http", Some(Host::Ipv4(ip))) => ip.is_loopback() || agents.contains(&ip.into()),
        ("http", Some(Host::Ipv6(ip))) => ip.is_loopback() || agents.contains(&ip.into()),
        ("http", Some(Host::Domain(name))) => name == "localhost",
        _ => false,
    }
}

/// IMDSv2. The error says in a few words why there is nothing; on a machine that is no EC2
/// instance, and in a container that the instance's answers do not reach, that takes a second at most.
pub fn instance_metadata(env: &AwsEnv) -> Result<Keys, String> {
    if env.var("AWS_EC2_METADATA_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true")) {
        return Err("disabled".into());
    }
    let endpoint = env.var("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or(METADATA).trim_end_matches('/');
    let transport = local_transport(Limits::METADATA);
    let ask = |method: &str, path: &str, name: &'static str, value: &str, what: &str| match ask(
        &transport,
        method,
        &format!("{endpoint}{path}"),
        secret_headers(&[(name, value)])?,
        "",
    )? {
        (200, text) => Ok(text),
        (status, _) => Err(format!("{endpoint}: status {status} for {what}")),
    };
    // the answer to this one may go over as few networks as the instance's hop limit says
    let token = ask("PUT", "/latest/api/token", "x-aws-ec2-metadata-token-ttl-seconds", "21600", "a token");
    let cut_off = |why: &str| why.contains("in time") && !why.contains("(connect)");
    let hop = |why: String| if cut_off(&why) { format!("{why}; in a container, {HOP}") } else { why };
    let token = token.map_err(hop)?;
    let get = |path: &str, what: &str| ask("GET", path, "x-aws-ec2-metadata-token", token.trim(), what);
    let roles = "/latest/meta-data/iam/security-credentials/";
    let role = get(roles, "the instance's role")?;
    let role = role.lines().next().unwrap_or_default().trim();
    if role.is_empty() || role.contains(['/', '?', '#', ' ']) {
        return Err(format!("{endpoint}: the instance has no role"));
    }
    let text = get(&format!("{roles}{role}"), "the role's keys")?;
    from_json(&text, endpoint).map_err(|e| e.to_string())
}

/// A profile's credential_process: prints JSON on stdout and ends, or is ended with its children
/// after [`PROCESS_LIMIT`], whatever has become of its stdout.
pub fn process(command: &str) -> Found {
    let source = format!("credential_process {:?}", command.split_whitespace().next().unwrap_or_default());
    let mut shell = platform::shell(command);
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let started = platform::in_own_group(&mut shell).spawn();
    let mut child = started.map_err(|e| missing(format!("{source}: cannot start: {e}")))?;
    let group = child.id();
    let stdout = child.stdout.take().expect("stdout is piped");
    let (done, result) = mpsc::channel();
    let run = move || {
        let mut text = String::new();
        let read = stdout.take(ANSWER_LIMIT).read_to_string(&mut text);
        let _ = done.send(child.wait().and_then(|status| read.map(|_| (status, text))));
    };
    let started = std::thread::Builder::new().name("credentials".into()).spawn(run);
    started.map_err(|e| CredentialError::Unreachable(format!("{source}: {e}")))?;
    match result.recv_timeout(PROCESS_LIMIT) {
        Err(_) => {
            platform::kill_group(group);
            Err(CredentialError::Unreachable(format!("{source}: no answer within {} s", PROCESS_LIMIT.as_secs())))
        }
        Ok(Err(e)) => Err(missing(format!("{source}: {e}"))),
        Ok(Ok((status, _))) if !status.success() => Err(missing(format!("{source}: {status}"))),
        Ok(Ok((_, text))) => from_json(&text, &source),
    }
}
