//! The chain against temporary files and a small HTTP server.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use super::*;

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("aws-chain-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(dir.join(".aws")).unwrap();
        Dir(dir)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    }

    fn env(&self, vars: &[(&str, &str)]) -> AwsEnv {
        let mut env = AwsEnv::default();
        env.vars.insert("HOME".into(), self.0.to_str().unwrap().into());
        env.vars.insert("AWS_EC2_METADATA_DISABLED".into(), "true".into());
        for (name, value) in vars {
            env.vars.insert(name.to_string(), value.to_string());
        }
        env
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Answers every request with what `answer` makes of its head and body; counts them.
fn serve(answer: impl Fn(&str, &str) -> (u16, String) + Send + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(&stream);
            let (mut head, mut len) = (String::new(), 0);
            while !head.ends_with("\r\n\r\n") {
                let at = head.len();
                if reader.read_line(&mut head).unwrap_or(0) == 0 {
                    break;
                }
                if let Some(n) = head[at..].to_ascii_lowercase().strip_prefix("content-length:") {
                    len = n.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; len];
            std::io::Read::read_exact(&mut reader, &mut body).unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let (status, text) = answer(&head, std::str::from_utf8(&body).unwrap());
            let _ = write!(
                &stream,
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                text.len()
            );
        }
    });
    (url, count)
}

fn in_seconds(seconds: i64) -> String {
    (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds)).to_string()
}

fn access(env: AwsEnv) -> Result<String, String> {
    Credentials::new(env).get().map(|k| k.access.clone()).map_err(|e| e.to_string())
}

#[test]
fn the_environment_comes_first() {
    let dir = Dir::new();
    dir.write(".aws/credentials", "[default]\naws_access_key_id = FILE\naws_secret_access_key = s\n");
    let keys = [("AWS_ACCESS_KEY_ID", "ENV"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_SESSION_TOKEN", "t")];
    let found = Credentials::new(dir.env(&keys)).get().unwrap();
    assert_eq!((found.access.as_str(), found.token.as_deref()), ("ENV", Some("t")));
    assert!(access(dir.env(&keys[..1])).unwrap_err().contains("AWS_SECRET_ACCESS_KEY is not"));
    assert_eq!(access(dir.env(&[])).unwrap(), "FILE");
}

#[test]
fn profiles_are_read_from_both_files() {
    let dir = Dir::new();
    dir.write(
        ".aws/credentials",
        "# c\n[default]\naws_access_key_id=D\naws_secret_access_key=s\n[ ci ]\nAWS_ACCESS_KEY_ID = CI ; note\naws_secret_access_key = a=b\n",
    );
    dir.write(
        ".aws/config",
        "[profile ci]\nregion = eu-north-1\naws_access_key_id = LATE\ns3 =\n  region = nested\n[profile conf]\n\
         aws_access_key_id = CONF\naws_secret_access_key = s\n[profile empty]\nregion = r\n[profile half]\naws_access_key_id = x\n",
    );
    let ci = Credentials::new(dir.env(&[("AWS_PROFILE", "ci")]));
    assert_eq!((ci.get().unwrap().access.as_str(), ci.get().unwrap().secret.as_str()), ("CI", "a=b"));
    assert_eq!(ci.profile_region().as_deref(), Some("eu-north-1"));
    let of = |name: &str| access(dir.env(&[("AWS_PROFILE", name)]));
    assert_eq!(of("conf").unwrap(), "CONF");
    assert!(of("empty").unwrap_err().contains("holds no credentials"));
    assert!(of("half").unwrap_err().contains("but not"));
    let absent = of("absent").unwrap_err();
    assert!(absent.contains("\"absent\" is neither in") && absent.contains(".aws/config"), "{absent}");
    let other = dir.write("elsewhere", "[default]\naws_access_key_id=E\naws_secret_access_key=s\n");
    assert_eq!(access(dir.env(&[("AWS_SHARED_CREDENTIALS_FILE", &other)])).unwrap(), "E");
}

#[test]
fn a_process_is_asked() {
    let dir = Dir::new();
    dir.write(
        ".aws/config",
        "[default]\ncredential_process = printf '{\"Version\":1,\"AccessKeyId\":\"P\",\"SecretAccessKey\":\"s\",\"SessionToken\":\"t\"}'\n\
         [profile bad]\ncredential_process = false\n[profile text]\ncredential_process = echo hello\n",
    );
    let found = Credentials::new(dir.env(&[])).get().unwrap();
    assert_eq!((found.access.as_str(), found.token.as_deref()), ("P", Some("t")));
    assert!(access(dir.env(&[("AWS_PROFILE", "bad")])).unwrap_err().contains("exit status: 1"));
    assert!(access(dir.env(&[("AWS_PROFILE", "text")])).unwrap_err().contains("no credentials document"));
}

#[test]
fn web_identity_goes_through_sts() {
    let dir = Dir::new();
    let token = dir.write("token", "the token\n");
    let (url, _) = serve(|head, body| {
        assert!(head.starts_with("POST / "), "{head}");
        if !body.contains("WebIdentityToken=the+token") || !body.contains("RoleArn=arn%3Aok") {
            let error = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>";
            return (403, error.into());
        }
        let end = in_seconds(3600);
        let keys = "<AccessKeyId>STS</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>";
        (200, format!("<R><Credentials>{keys}<Expiration>{end}</Expiration></Credentials></R>"))
    });
    let vars = |role| {
        [("AWS_WEB_IDENTITY_TOKEN_FILE", &*token), ("AWS_ROLE_ARN", role), ("AWS_ENDPOINT_URL_STS", &*url)].to_vec()
    };
    let found = Credentials::new(dir.env(&vars("arn:ok"))).get().unwrap();
    assert_eq!(found.access, "STS");
    assert!(found.expires.unwrap() > SystemTime::now() + Duration::from_secs(3500));
    let refused = access(dir.env(&vars("arn:bad"))).unwrap_err();
    assert!(refused.contains("refuses role arn:bad: status 403 AccessDenied no"), "{refused}");
}

#[test]
fn containers_and_instances_are_asked() {
    let dir = Dir::new();
    let (url, _) = serve(|head, _| {
        let line = head.lines().next().unwrap();
        let keys = |name: &str| {
            let end = in_seconds(9999);
            format!("{{\"AccessKeyId\":\"{name}\",\"SecretAccessKey\":\"s\",\"Token\":\"t\",\"Expiration\":\"{end}\"}}")
        };
        match line.split(' ').nth(1).unwrap() {
            "/creds" if head.contains("authorization: secret") => (200, keys("CONTAINER")),
            "/latest/api/token" if line.starts_with("PUT") => (200, "imds-token".into()),
            _ if !head.contains("imds-token") => (401, String::new()),
            "/latest/meta-data/iam/security-credentials/" => (200, "my-role\n".into()),
            "/latest/meta-data/iam/security-credentials/my-role" => (200, keys("EC2")),
            _ => (404, String::new()),
        }
    });
    let full = format!("{url}/creds");
    let token = dir.write("token", "secret\n");
    let vars = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*full), ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &*token)];
    assert_eq!(access(dir.env(&vars)).unwrap(), "CONTAINER");
    assert!(access(dir.env(&vars[..1])).unwrap_err().contains("status 401"));
    let foreign = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://example.com/creds")];
    assert!(access(dir.env(&foreign)).unwrap_err().contains("neither https nor"));
    let vars = [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*url)];
    assert_eq!(access(dir.env(&vars)).unwrap(), "EC2");
}

#[test]
fn an_empty_chain_says_what_was_tried_and_is_not_asked_again() {
    let dir = Dir::new();
    let (url, count) = serve(|_, _| (404, String::new()));
    let vars = [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*url)];
    let credentials = Credentials::new(dir.env(&vars));
    for _ in 0..3 {
        let e = credentials.get().unwrap_err().to_string();
        for part in ["AWS_ACCESS_KEY_ID", ".aws/credentials", "web identity", "container", "status 404", "AWS_PROFILE"]
        {
            assert!(e.contains(part), "{part}: {e}");
        }
        assert!(!e.contains('\n'));
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn keys_near_their_end_are_renewed_by_one_while_others_go_on() {
    let dir = Dir::new();
    // first keys for a minute, then, once it is let go, keys for an hour
    let (release, released) = std::sync::mpsc::channel::<()>();
    let served = AtomicUsize::new(0);
    let (url, count) = serve(move |_, _| {
        let n = served.fetch_add(1, Ordering::SeqCst);
        if n > 0 {
            let _ = released.recv();
        }
        let end = in_seconds(if n == 0 { 60 } else { 3600 });
        (200, format!("{{\"AccessKeyId\":\"K{n}\",\"SecretAccessKey\":\"s\",\"Expiration\":\"{end}\"}}"))
    });
    let credentials = Credentials::new(dir.env(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url)]));
    assert_eq!(credentials.get().unwrap().access, "K0");
    assert_eq!(credentials.get().unwrap().access, "K0", "renewals are spaced");
    credentials.lock().asked = None;
    std::thread::scope(|scope| {
        let renewer = scope.spawn(|| credentials.get().unwrap().access.clone());
        while count.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        assert_eq!(credentials.get().unwrap().access, "K0", "others do not wait");
        release.send(()).unwrap();
        assert_eq!(renewer.join().unwrap(), "K1");
    });
    let used = credentials.get().unwrap();
    assert_eq!(used.access, "K1");
    release.send(()).unwrap();
    assert!(credentials.renew(&used), "keys called expired are asked for anew");
    assert_eq!(credentials.get().unwrap().access, "K2");
}

#[test]
fn a_source_out_of_reach_is_not_asked_by_every_request() {
    let dir = Dir::new();
    let (url, count) = serve(|_, _| (503, String::new()));
    let credentials = Credentials::new(dir.env(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url)]));
    for _ in 0..5 {
        assert!(matches!(credentials.get(), Err(CredentialError::Unreachable(w)) if w.contains("503")));
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
    credentials.lock().asked = None;
    assert!(credentials.get().is_err());
    assert_eq!(count.load(Ordering::SeqCst), 2, "but again after a while");
}
