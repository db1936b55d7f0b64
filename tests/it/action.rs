//! The GitHub action `.github/actions/setup`, its two programs run by node as a runner would.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::install::Release;
use crate::support::env::{Output, run, scrubbed};
use crate::support::go;

/// A job on a runner: its variables, and the files by which an action speaks with the runner.
struct Job {
    release: Release,
    variables: BTreeMap<String, String>,
}

impl Job {
    /// On a push to the default branch, with a directory for a bucket.
    fn new() -> Self {
        let release = Release::new();
        let dir = &release.dir;
        for file in ["env", "path", "state", "steps.md"] {
            dir.write(file, "");
        }
        dir.write("work/go.mod", "module example.com/m\n\ngo 1.24\n");
        dir.write("work/m.go", "package m\n\nconst X = 1\n");
        let at = |name: &str| dir.join(name).display().to_string();
        let path = std::env::var("PATH").unwrap();
        let go = go::any().root.join("bin");
        let variables = [
            ("GITHUB_ENV", at("env")),
            ("GITHUB_PATH", at("path")),
            ("GITHUB_STATE", at("state")),
            ("GITHUB_STEP_SUMMARY", at("steps.md")),
            ("GITHUB_ACTIONS", "true".into()),
            ("GITHUB_EVENT_PATH", at("event.json")),
            ("GITHUB_EVENT_NAME", "push".into()),
            ("GITHUB_REF", "refs/heads/main".into()),
            ("GITHUB_RUN_ID", "17".into()),
            ("GITHUB_WORKSPACE", at("work")),
            ("RUNNER_TEMP", dir.dir("a runner's temp").display().to_string()),
            ("GO_CACHE_PLUGIN_TARGET", "x86_64-unknown-linux-musl".into()),
            ("GOCACHE_DIR", at("cache")),
            ("GOCACHE", at("gocache")),
            ("GOTOOLCHAIN", "local".into()),
            ("PATH", format!("{}:{path}", go.display())),
            ("INPUT_RELEASES", format!("{}/releases", release.server.url())),
            ("INPUT_BUCKET", format!("file://{}", dir.dir("bucket").display())),
            ("INPUT_SETTLE", "false".into()),
        ];
        let job = Job { variables: variables.map(|(name, value)| (name.to_string(), value)).into(), release };
        job.event(r#"{ "repository": { "full_name": "o/r", "default_branch": "main" } }"#);
        job
    }

    fn event(&self, json: &str) {
        self.release.dir.write("event.json", json);
    }

    fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Runs a command in the work tree, with what was said of variables so far.
    fn step(&self, program: &str, args: &[&str]) -> Output {
        let mut command: Command = scrubbed(program, &self.release.dir.dir("home"));
        command.args(args).envs(&self.variables).envs(self.said("env")).current_dir(self.release.dir.join("work"));
        for (name, value) in self.said("state") {
            command.env(format!("STATE_{name}"), value);
        }
        run(command)
    }

    /// One of the action's programs.
    fn action(&self, program: &str) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".github/actions/setup").join(program);
        self.step("node", &[script.to_str().unwrap()])
    }

    /// What was told to the runner by `file`, as `NAME<<END`, lines, `END`.
    fn said(&self, file: &str) -> BTreeMap<String, String> {
        let text = std::fs::read_to_string(self.release.dir.join(file)).unwrap();
        let (mut said, mut lines) = (BTreeMap::new(), text.lines());
        while let Some((name, end)) = lines.next().and_then(|line| line.split_once("<<")) {
            let value: Vec<&str> = lines.by_ref().take_while(|line| *line != end).collect();
            said.insert(name.to_string(), value.join("\n"));
        }
        said
    }

    fn summary(&self) -> String {
        std::fs::read_to_string(self.release.dir.join("steps.md")).unwrap()
    }

    fn objects(&self) -> usize {
        fn count(dir: &Path) -> usize {
            let all = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
            all.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
        }
        count(&self.release.dir.join("bucket"))
    }
}

#[test]
fn a_job_on_the_default_branch_fills_the_bucket_and_ends_with_a_summary() {
    let job = Job::new().set("INPUT_PREFIX", "team").set("INPUT_SETTLE", "true");
    let commit = "git init -q && git add . && git -c user.name=u -c user.email=u@example.com commit -qm all";
    job.step("sh", &["-c", commit]).ok();
    job.action("main.js").ok();
    let settled = std::fs::metadata(job.release.dir.join("work/m.go")).unwrap().modified().unwrap();
    assert!(settled < SystemTime::UNIX_EPOCH + Duration::from_secs(50 * 365 * 86_400), "{settled:?}");
    let said = job.said("env");
    let program = job.release.dir.join("a runner's temp/go-cache-plugin/go-cache-plugin");
    assert_eq!(said["GOCACHEPROG"], format!("\"{}\"", program.display()));
    assert_eq!(
        std::fs::read_to_string(job.release.dir.join("path")).unwrap().trim(),
        program.parent().unwrap().to_str().unwrap()
    );
    assert_eq!(said["GOCACHE_KEY_PREFIX"], "team");
    for absent in ["GOCACHE_READ_ONLY", "GOCACHE_WRITE_PREFIX", "GOCACHE_S3_REGION", "GOPROXY"] {
        assert!(!said.contains_key(absent), "{said:?}");
    }
    job.step("go", &["build", "./..."]).ok();
    assert!(job.objects() > 0, "the build went to the bucket");
    assert_eq!(job.summary(), "");
    job.action("post.js").ok();
    assert!(job.summary().contains('|'), "a table: {:?}", job.summary());
}

#[test]
fn who_may_write_where() {
    let job = Job::new().set("INPUT_PREFIX", "team/main/");
    let settings = |job: &Job| {
        std::fs::write(job.release.dir.join("env"), "").unwrap();
        job.action("main.js").ok();
        let said = job.said("env");
        (said.get("GOCACHE_READ_ONLY").cloned(), said.get("GOCACHE_WRITE_PREFIX").cloned())
    };
    let pull = |from: &str| {
        let repository = r#""repository": { "full_name": "o/r", "default_branch": "main" }"#;
        format!(r#"{{ {repository}, "pull_request": {{ "number": 7, "head": {{ "repo": {from} }} }} }}"#)
    };
    let (read_only, own) = ((Some("true".into()), None), (None, Some("team/pr/7".to_string())));
    let job = job.set("GITHUB_EVENT_NAME", "pull_request").set("GITHUB_REF", "refs/pull/7/merge");
    job.event(&pull(r#"{ "full_name": "o/r" }"#));
    assert_eq!(settings(&job), own);
    let job = job.set("INPUT_PREFIX", "");
    assert_eq!(settings(&job), (None, Some("pr/7".to_string())));
    for fork in [r#"{ "full_name": "fork/r" }"#, "null"] {
        job.event(&pull(fork));
        assert_eq!(settings(&job), read_only, "{fork}");
    }
    // runs with the base's rights, and with the base's ref
    let job = job.set("GITHUB_EVENT_NAME", "pull_request_target").set("GITHUB_REF", "refs/heads/main");
    assert_eq!(settings(&job), read_only);
    assert_eq!(settings(&Job::new().set("GITHUB_EVENT_NAME", "workflow_run")), read_only);
    let job = job.set("GITHUB_EVENT_NAME", "push");
    assert_eq!(settings(&job), (None, None));
    for other in ["refs/heads/feature", "refs/tags/main", "refs/heads/main/x"] {
        assert_eq!(settings(&Job::new().set("GITHUB_REF", other)), read_only, "{other}");
    }
    let job = job.set("GITHUB_EVENT_NAME", "schedule");
    job.event("{}");
    assert_eq!(settings(&job), (None, None));
}

#[test]
fn with_modules_one_server_lasts_as_long_as_the_job() {
    let job = Job::new();
    // longer than a socket's path may be
    let temp = job.release.dir.dir(&format!("a runner's {}", "temp".repeat(25))).display().to_string();
    let job = job.set("INPUT_MODULES", "true").set("RUNNER_TEMP", &temp);
    job.action("main.js").ok();
    let said = job.said("env");
    let (ours, others) = said["GOPROXY"].split_once('|').expect("others, should ours be gone");
    assert_eq!(others, "https://proxy.golang.org,direct");
    let address = ours.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/mod")).expect(ours);
    TcpStream::connect(address).expect("the server listens");
    let (_, socket) = said["GOCACHEPROG"].split_once("/go-cache-plugin\" connect ").expect("a server");
    let folder = Path::new(socket).parent().unwrap();
    assert_eq!(std::fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
    job.step("go", &["build", "./..."]).ok();
    job.action("post.js").ok();
    assert!(TcpStream::connect(address).is_err() && !folder.exists(), "the server is gone");
    assert!(job.objects() > 0, "it sent what it had");
    assert!(job.summary().contains('|'), "{:?}", job.summary());
}

#[test]
fn a_role_is_taken_by_the_token_of_the_job() {
    let job = Job::new().set("INPUT_ROLE", "arn:aws:iam::1:role/cache");
    job.release.dir.write("token?v=1&audience=sts.amazonaws.com", r#"{ "value": "who I am" }"#);
    let answer =
        "<R><AccessKeyId>AKIA</AccessKeyId><SecretAccessKey>s/+=</SecretAccessKey><SessionToken>t</SessionToken></R>";
    job.release.dir.write("sts", answer);
    let url = job.release.server.url();
    let job = job.set("AWS_ENDPOINT_URL_STS", &format!("{url}/sts"));

    let out = job.action("main.js").ok();
    assert!(out.stdout.contains("::warning::") && out.stdout.contains("id-token: write"), "{}", out.describe());
    assert!(!job.said("env").contains_key("AWS_ACCESS_KEY_ID"));

    let job = job.set("ACTIONS_ID_TOKEN_REQUEST_URL", &format!("{url}/token?v=1"));
    let job = job.set("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "bearer");
    let out = job.action("main.js").ok();
    let said = job.said("env");
    assert_eq!((said["AWS_ACCESS_KEY_ID"].as_str(), said["AWS_SECRET_ACCESS_KEY"].as_str()), ("AKIA", "s/+="));
    assert!(out.stdout.contains("::add-mask::s/+=\n"), "{}", out.describe());
    let asked = job.release.server.seen();
    assert!(asked.iter().any(|(path, auth)| path.starts_with("/token") && auth.as_deref() == Some("Bearer bearer")));

    job.release.dir.write("sts", "<Error><Message>no</Message></Error>");
    let out = job.action("main.js").ok();
    assert!(out.stdout.contains("::warning::go-cache-plugin: arn:aws:iam::1:role/cache: "), "{}", out.describe());
}

#[test]
fn what_cannot_be_installed_fails_the_step_and_leaves_go_alone() {
    let job = Job::new().set("INPUT_VERSION", "9.9.9");
    let out = job.action("main.js").code(1);
    assert!(out.stdout.contains("::error::go-cache-plugin was not installed"), "{}", out.describe());
    assert!(job.said("env").is_empty());
    job.action("post.js").ok();
    assert_eq!((job.summary().as_str(), PathBuf::from(&job.variables["RUNNER_TEMP"]).exists()), ("", true));
}
