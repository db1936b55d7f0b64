//! Where AWS credentials come from, each source with a server of its own that gives the bucket's keys.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::support::env::{Output, Plugin, TempDir, poll};
use crate::support::fault::{Fault, FaultProxy};
use crate::support::origin::Origin;
use crate::support::s3::S3Server;
use crate::support::script::{Session, action};

/// SHA-1 of `dev`, as the command line names what it keeps of the session of that name.
const DEV: &str = ".aws/sso/cache/34c6fceca75e456f25e7e99531e2425c6c1de443.json";
/// The same of `https://corp.awsapps.com/start`.
const START: &str = ".aws/sso/cache/a51746d4aa793ae07b25e90c3a5db96fc7832bd7.json";

/// Puts one body with these variables, and no keys among them.
fn put(dir: &TempDir, server: &S3Server, endpoint: &str, vars: &[(&str, &str)]) -> Output {
    let mut all = server.env_through(endpoint);
    all.retain(|(name, _)| !name.starts_with("AWS_"));
    let mut plugin = Plugin::new(dir).envs(&all).arg("--no-readahead");
    for (name, value) in [("AWS_EC2_METADATA_DISABLED", "true")].iter().chain(vars) {
        plugin = plugin.env(name, value);
    }
    let mut session = Session::start(plugin);
    session.client.put(&action(1), b"some body");
    session.end()
}

/// As [`put`], and it arrives.
#[track_caller]
fn arrives(dir: &TempDir, server: &S3Server, vars: &[(&str, &str)]) {
    put(dir, server, &server.endpoint, vars).quiet();
    let keys = server.keys();
    assert_eq!(keys.len(), 1, "{keys:?}");
    server.delete(&keys[0]);
    fs::remove_dir_all(dir.join("cache")).unwrap();
}

/// As [`put`], and one line says why it does not arrive.
#[track_caller]
fn says(dir: &TempDir, server: &S3Server, vars: &[(&str, &str)], all: &[&str]) {
    let out = put(dir, server, &server.endpoint, vars);
    assert_eq!(out.stderr.lines().count(), 1, "{}", out.describe());
    for part in all {
        assert!(out.stderr.contains(part), "{part}{}", out.describe());
    }
    assert!(server.keys().is_empty());
    fs::remove_dir_all(dir.join("cache")).unwrap();
}

fn answer(status: u16, body: &str) -> Vec<u8> {
    let len = body.len();
    format!("HTTP/1.1 {status} X\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}").into_bytes()
}

/// The target of a request, and whether it has that header line.
fn target(request: &str) -> &str {
    request.split(' ').nth(1).unwrap()
}

fn has(request: &str, header: &str) -> bool {
    request.lines().any(|line| line.eq_ignore_ascii_case(header))
}

/// RFC 3339, so many seconds from now; the past is at hand too.
fn in_seconds(seconds: i64) -> String {
    (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds)).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn sts_answer(server: &S3Server) -> Vec<u8> {
    let (access, secret, end) = (&server.access_key, &server.secret_key, in_seconds(3600));
    answer(
        200,
        &format!(
            "<R><Credentials><AccessKeyId>{access}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>\
             <SessionToken>t</SessionToken><Expiration>{end}</Expiration></Credentials></R>"
        ),
    )
}

fn json_answer(server: &S3Server) -> Vec<u8> {
    let (access, secret, end) = (&server.access_key, &server.secret_key, in_seconds(3600));
    let keys = serde_json::json!({ "AccessKeyId": access, "SecretAccessKey": secret, "Token": "t", "Expiration": end });
    answer(200, &keys.to_string())
}

#[test]
fn a_sign_on_gives_keys_and_is_renewed() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let keys = {
        let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64 + 3_600_000;
        let (access, secret) = (&server.access_key, &server.secret_key);
        serde_json::json!({ "roleCredentials": {
            "accessKeyId": access, "secretAccessKey": secret, "sessionToken": "t", "expiration": end } })
        .to_string()
    };
    let origin = Origin::http(move |request| match target(request) {
        "/token" if request.contains("\"refreshToken\":\"again\"") && request.contains("\"clientSecret\":\"c\"") => {
            answer(200, r#"{"accessToken":"NEW","expiresIn":3600,"refreshToken":"next","tokenType":"Bearer"}"#)
        }
        "/token" => answer(400, r#"{"error":"invalid_grant"}"#),
        "/federation/credentials?role_name=Build&account_id=123456789012" => {
            match ["NEW", "GOOD"].iter().any(|token| has(request, &format!("x-amz-sso_bearer_token: {token}"))) {
                true => answer(200, &keys),
                false => answer(401, "{}"),
            }
        }
        _ => answer(403, "{}"),
    });
    let url = format!("http://{}", origin.host());
    let vars = [("AWS_ENDPOINT_URL_SSO", &*url), ("AWS_ENDPOINT_URL_SSO_OIDC", &*url), ("AWS_PROFILE", "work")];
    let role = "sso_account_id = 123456789012\nsso_role_name";
    dir.write(
        ".aws/config",
        &format!(
            "[profile work]\nsso_session = dev\n{role} = Build\n[sso-session dev]\nsso_region = eu-west-1\n\
             sso_start_url = https://corp.awsapps.com/start\n[profile old]\nsso_region = eu-west-1\n\
             sso_start_url = https://corp.awsapps.com/start\n{role} = Build\n\
             [profile other]\nsso_session = dev\n{role} = Other\n"
        ),
    );
    let kept = |token: &str, end: i64, more: &str| {
        format!("{{\"accessToken\":\"{token}\",\"expiresAt\":\"{}\"{more}}}", in_seconds(end))
    };
    says(&dir, &server, &vars, &["nobody has signed on", "\"aws sso login --profile work\""]);
    // one that has ended and can be renewed: what is written back keeps what else was there
    let more = r#","clientId":"i","clientSecret":"c","refreshToken":"again","startUrl":"s""#;
    let cache = dir.write(DEV, &kept("OLD", -60, more));
    arrives(&dir, &server, &vars);
    let written = fs::read_to_string(&cache).unwrap();
    for part in [r#""accessToken":"NEW""#, r#""refreshToken":"next""#, r#""startUrl":"s""#] {
        assert!(written.contains(part), "{part}: {written}");
    }
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o600);
    // good for an hour now, so that it is not renewed again
    arrives(&dir, &server, &vars);
    assert_eq!(origin.count("/token"), 1);
    says(&dir, &server, &[&vars[..2], &[("AWS_PROFILE", "other")]].concat(), &["status 403 for role Other"]);
    // that the renewal fails matters once the token has ended
    dir.write(DEV, &kept("GOOD", 100, more).replace("again", "bad"));
    arrives(&dir, &server, &vars);
    dir.write(DEV, &kept("GOOD", -1, more).replace("again", "bad"));
    says(&dir, &server, &vars, &["sign-on ended at", "not renewed (status 400)", "\"aws sso login --profile work\""]);
    dir.write(DEV, &kept("GOOD", -1, ""));
    says(&dir, &server, &vars, &["sign-on ended at", "\"aws sso login --profile work\""]);
    dir.write(DEV, &kept("REVOKED", 3600, ""));
    says(&dir, &server, &vars, &["not valid any more", "\"aws sso login --profile work\""]);
    // as profiles were written before there were sessions
    dir.write(START, &kept("GOOD", 3600, "").replace("Z\"", "UTC\""));
    arrives(&dir, &server, &[&vars[..2], &[("AWS_PROFILE", "old")]].concat());
}

#[test]
fn pods_read_their_token_anew_and_ask_again_when_the_bucket_calls_keys_expired() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let token = dir.write("token", "first\n");
    let (keys, rotated) = (json_answer(&server), token.clone());
    let origin = Origin::http(move |request| {
        let known = fs::read_to_string(&rotated).unwrap();
        if !has(request, &format!("authorization: {}", known.trim())) {
            return answer(401, "{}");
        }
        fs::write(&rotated, "second\n").unwrap();
        keys.clone()
    });
    let url = format!("http://{}/v1/credentials", origin.host());
    let vars = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*url),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.to_str().unwrap()),
    ];
    arrives(&dir, &server, &vars);
    let proxy = FaultProxy::start(&server.endpoint);
    proxy.series([(Fault::Refuse("ExpiredToken"), 1)]);
    put(&dir, &server, &proxy.endpoint, &vars).quiet();
    assert_eq!((server.keys().len(), origin.count("/v1/credentials")), (1, 3));
    server.delete(&server.keys()[0]);
    let foreign = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://192.0.2.1/v1/credentials"), vars[1]];
    says(&dir, &server, &foreign, &["http://192.0.2.1 is neither https nor on this machine"]);
    assert_eq!(origin.seen().len(), 3, "no token was sent elsewhere");
}

#[test]
fn an_instance_answers_and_a_hop_limit_of_one_is_given_up_soon() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let keys = json_answer(&server);
    let origin = Origin::http(move |request| match target(request) {
        "/latest/api/token" if request.starts_with("PUT ") => answer(200, "imds"),
        _ if !has(request, "x-aws-ec2-metadata-token: imds") => answer(401, ""),
        "/latest/meta-data/iam/security-credentials/" => answer(200, "role\n"),
        _ => keys.clone(),
    });
    let proxy = FaultProxy::start(&format!("http://{}", origin.host()));
    let vars = [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*proxy.endpoint)];
    arrives(&dir, &server, &vars);
    // in a container, the answer with the token is dropped on the way
    proxy.set(Fault::BlackHole);
    let begin = Instant::now();
    says(&dir, &server, &vars, &["no AWS credentials found", "HttpPutResponseHopLimit 2"]);
    assert!(begin.elapsed() < Duration::from_secs(9), "{:?}", begin.elapsed());
}

#[test]
fn a_web_identity_is_asked_for_again_where_sts_knows_its_issuer_not_yet() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let token = dir.write("token", "jwt\n");
    let good = sts_answer(&server);
    let origin = Origin::http(move |request| {
        let refuse = |code: &str| {
            let text =
                format!("<ErrorResponse><Error><Code>{code}</Code><Message>later</Message></Error></ErrorResponse>");
            answer(400, &text)
        };
        let form = request.split("\r\n\r\n").nth(1).unwrap_or_default();
        assert!(form.contains("WebIdentityToken=jwt") && form.contains("RoleSessionName=job-7"), "{request}");
        static ASKED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        match ASKED.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => refuse("InvalidIdentityToken"),
            1 => refuse("IDPCommunicationError"),
            2 => good.clone(),
            3 => refuse("ExpiredTokenException"),
            _ => refuse("InvalidIdentityToken"),
        }
    });
    let url = format!("http://{}", origin.host());
    let vars = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/ci"),
        ("AWS_ROLE_SESSION_NAME", "job-7"),
        ("AWS_ENDPOINT_URL_STS", &url),
    ];
    arrives(&dir, &server, &vars);
    assert_eq!(origin.seen().len(), 3);
    says(&dir, &server, &vars, &["refuses role arn:aws:iam::1:role/ci", "ExpiredTokenException"]);
    assert_eq!(origin.seen().len(), 4, "what does not pass is not asked for again");
    says(&dir, &server, &vars, &["refuses role", "InvalidIdentityToken later"]);
    assert_eq!(origin.seen().len(), 7, "three times in all");
}

#[test]
fn a_role_is_taken_on_with_another_profiles_keys() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let good = sts_answer(&server);
    let origin = Origin::http(move |request| {
        let path = target(request);
        let signed = |key: &str| {
            let credential = format!("AWS4-HMAC-SHA256 Credential={key}/");
            request
                .lines()
                .any(|l| l.contains(&credential) && l.contains("/eu-north-1/sts/aws4_request,SignedHeaders=host;"))
        };
        let known = (path.contains("role%2Ffirst") && signed("SOURCE"))
            || (path.contains("role%2Fsecond") && path.contains("ExternalId=x+1"));
        if known { good.clone() } else { answer(403, "<Error><Code>AccessDenied</Code></Error>") }
    });
    let url = format!("http://{}", origin.host());
    let role = "role_arn = arn:aws:iam::1:role";
    dir.write(
        ".aws/config",
        &format!(
            "[profile keys]\naws_access_key_id = SOURCE\naws_secret_access_key = s\n\
             [profile one]\n{role}/first\nsource_profile = keys\nregion = eu-north-1\n\
             [profile two]\n{role}/second\nsource_profile = one\nexternal_id = x 1\n\
             [profile loop]\n{role}/first\nsource_profile = pool\n[profile pool]\n{role}/first\nsource_profile = loop\n\
             [profile code]\n{role}/first\nsource_profile = keys\nmfa_serial = m\n\
             [profile none]\n{role}/first\n[profile env]\n{role}/first\ncredential_source = EcsContainer\n"
        ),
    );
    let vars = |name: &'static str| [("AWS_PROFILE", name), ("AWS_ENDPOINT_URL", &*url)];
    arrives(&dir, &server, &vars("one"));
    arrives(&dir, &server, &vars("two"));
    says(&dir, &server, &vars("loop"), &["too many profiles"]);
    says(&dir, &server, &vars("code"), &["mfa_serial", "aws configure export-credentials --profile code"]);
    says(&dir, &server, &vars("none"), &["no source_profile"]);
    says(&dir, &server, &vars("env"), &["no container credentials"]);
    says(&dir, &server, &[("AWS_REGION", "us-west-2"), vars("one")[0], vars("one")[1]], &["status 403 AccessDenied"]);
}

#[test]
fn keys_that_are_refused_are_looked_for_anew_wherever_they_come_from() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let proxy = FaultProxy::start(&server.endpoint);
    let mut vars = server.env_through(&proxy.endpoint);
    vars.retain(|(name, _)| !name.starts_with("AWS_"));
    let (access, secret) = (&server.access_key, &server.secret_key);
    let profile = |token: &str| {
        format!(
            "[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\naws_session_token = {token}\n"
        )
    };
    let process = dir.join("keys.json");
    let command = format!("[default]\ncredential_process = cat {}\n", process.display());
    let json = |token: &str| {
        let keys = serde_json::json!({
            "Version": 1, "AccessKeyId": access, "SecretAccessKey": secret, "SessionToken": token });
        keys.to_string()
    };
    // neither tells when they end
    for (i, code) in ["ExpiredToken", "InvalidAccessKeyId", "InvalidToken"].into_iter().enumerate() {
        for by_process in [false, true] {
            let rotate = |token: &str| {
                fs::write(&process, json(token)).unwrap();
                dir.write(".aws/credentials", &if by_process { command.clone() } else { profile(token) });
            };
            rotate("first");
            let plugin = Plugin::new(&dir).envs(&vars).env("AWS_EC2_METADATA_DISABLED", "true");
            let mut session = Session::start(plugin.arg("--no-readahead"));
            let before = server.keys().len();
            let mut arrives = |n: u32| {
                session.client.put(&action(n), format!("body {n}").as_bytes());
                poll("the upload", || (server.keys().len() > before + (n % 10) as usize).then_some(()));
            };
            let n = 100 * i as u32 + 10 * u32::from(by_process);
            arrives(n);
            rotate("second");
            proxy.set_for(Fault::Refuse(code), 1);
            arrives(n + 1);
            // the same again are no use, and not tried
            server.clear_log();
            proxy.set_for(Fault::Refuse(code), 1);
            session.client.put(&action(n + 2), b"another");
            let out = session.end();
            assert_eq!(out.stderr.lines().count(), 1, "{code}{}", out.describe());
            assert!(out.stderr.contains(code), "{code}{}", out.describe());
            assert_eq!(server.count("PUT"), 0, "{code}");
            fs::remove_dir_all(dir.join("cache")).unwrap();
        }
    }
}

#[test]
fn a_pipe_that_nobody_writes_to_holds_a_build_up_for_seconds() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let pipe = dir.join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    let pipe = pipe.to_str().unwrap();
    let identity = [("AWS_WEB_IDENTITY_TOKEN_FILE", pipe), ("AWS_ROLE_ARN", "arn:role")];
    let agent = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:9/"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", pipe),
    ];
    for vars in [&[("AWS_CONFIG_FILE", pipe)][..], &[("AWS_SHARED_CREDENTIALS_FILE", pipe)], &identity, &agent] {
        let begin = Instant::now();
        says(&dir, &server, vars, &[pipe, "nothing comes out of it"]);
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    }
    // a bundle of certificates
    let https = [
        ("GOCACHE_S3_ENDPOINT_URL", "https://127.0.0.1:9"),
        ("SSL_CERT_FILE", pipe),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    let begin = Instant::now();
    says(&dir, &server, &https, &[pipe, "is no plain file"]);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    let out = Plugin::new(&dir).envs(&server.env()).arg(format!("--signing-key-file={pipe}")).output().code(2);
    assert!(out.stderr.contains("nothing comes out of it"), "{}", out.describe());
}
