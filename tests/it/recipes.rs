//! `tests/recipes`: what is in those files is run as far as it can be, each with a bucket of the test's.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::env::{Output, Plugin, Running, TempDir, binary, free_port, poll, run, scrubbed};
use crate::support::go;
use crate::support::moto::{Moto, yaml};
use crate::support::origin::Origin;
use crate::support::s3::S3Server;
use crate::support::script::{Session, action};

type Vars = BTreeMap<String, String>;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recipes").join(name)
}

fn recipe(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A module of one package that is built in no time.
fn module(dir: &TempDir, at: &str, name: &str) {
    dir.write(&format!("{at}/go.mod"), &format!("module {name}\n\ngo 1.24\n"));
    dir.write(&format!("{at}/lib/lib.go"), "package lib\n\nfunc Twice(n int) int { return n + n }\n");
}

/// Runs a script in `dir` as CI does, with go and the program on PATH, and the bucket's endpoint beside `vars`.
fn shell(server: &S3Server, dir: &TempDir, at: &str, vars: &Vars, script: &str) -> Output {
    let mut command = scrubbed("bash", dir.path());
    let ours = Path::new(binary()).parent().unwrap();
    let path = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect::<Vec<_>>();
    let path = [vec![ours.to_path_buf(), go::any().root.join("bin")], path].concat();
    command.args(["-euo", "pipefail", "-c", script]).current_dir(dir.dir(at));
    command.env("PATH", std::env::join_paths(path).unwrap()).env("GOCACHE_DIR", dir.join("cache"));
    command.env("GOPATH", dir.join("gopath")).env("GOFLAGS", "").env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("GOCACHE_S3_ENDPOINT_URL", &server.endpoint).envs(vars);
    run(command).ok()
}

fn strings(map: &Value) -> Vars {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    map.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), text(value))).collect()
}

/// How many objects were put below `prefix`.
fn puts(server: &S3Server, prefix: &str) -> usize {
    let below = format!("/{}/{prefix}", server.bucket);
    server.requests().iter().filter(|seen| seen.method == "PUT" && seen.path.starts_with(&below)).count()
}

#[test]
fn every_file_is_run_or_says_why_not() {
    let tests = include_str!("recipes.rs");
    for entry in fs::read_dir(path("")).unwrap().chain(fs::read_dir(path("iam")).unwrap()) {
        let (name, text) = match entry.unwrap().path() {
            dir if dir.is_dir() => continue,
            file => (file.file_name().unwrap().to_str().unwrap().to_string(), fs::read_to_string(&file).unwrap()),
        };
        let stem = name.trim_end_matches(".json");
        let known = [&name, stem].iter().any(|name| tests.contains(&format!("\"{name}\""))) || stem.ends_with(".trust");
        assert!(known || text.contains("not run: "), "tests/recipes/{name}: no test runs it, and it does not say why");
    }
}

/// Runs a job of the workflow, what others' actions do left to the test; returns what the job said.
fn github_job(server: &S3Server, dir: &TempDir, name: &str, outside: &dyn Fn(&str) -> String) -> String {
    let workflow = &yaml(&path("github.yml"))[0];
    let told = |vars: &Value| -> Vars {
        let mut vars = strings(vars);
        for value in vars.values_mut() {
            if let Some(expression) = value.strip_prefix("${{ ").and_then(|v| v.strip_suffix(" }}")) {
                *value = outside(expression);
            }
            assert!(!value.contains("${{"), "{value}");
        }
        vars
    };
    let (mut vars, mut said) = (told(&workflow["env"]), String::new());
    vars.extend(
        [("RUNNER_TEMP", dir.dir("runner")), ("GITHUB_ENV", dir.write("github.env", ""))]
            .map(|(name, path)| (name.to_string(), path.display().to_string())),
    );
    for step in workflow["jobs"][name]["steps"].as_array().unwrap() {
        let uses = step["uses"].as_str().map(|uses| uses.split('@').next().unwrap());
        match uses {
            Some("actions/checkout" | "actions/setup-go") => {}
            Some("aws-actions/configure-aws-credentials") => {
                told(&step["with"]);
                vars.extend(server.env().into_iter().filter(|(name, _)| name.starts_with("AWS_")));
            }
            Some("OWNER/go-cache-plugin/.github/actions/setup") => {
                vars.insert("GOCACHEPROG".into(), "go-cache-plugin".into());
            }
            Some(other) => panic!("what does {other} do?"),
            None => {
                let mut now = vars.clone();
                now.extend(told(&step["env"]));
                said += &shell(server, dir, "src", &now, step["run"].as_str().unwrap()).stderr;
            }
        }
        let exported = fs::read_to_string(dir.join("github.env")).unwrap();
        vars.extend(exported.lines().map(|line| line.split_once('=').unwrap()).map(|(n, v)| (n.into(), v.into())));
    }
    said
}

#[test]
fn github_main_signs_and_pull_requests_verify() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    let key = dir.join("pair");
    Plugin::new(&dir).arg("keygen").arg(&key).output().ok();
    let [private, public] = ["pair", "pair.pub"].map(|name| fs::read_to_string(dir.join(name)).unwrap());
    let outside = |expression: &str| match expression {
        "vars.CACHE_BUCKET" => server.bucket.clone(),
        "vars.CACHE_REGION" => "us-east-1".into(),
        "vars.CACHE_WRITER_ROLE" | "vars.CACHE_PULL_REQUEST_ROLE" => "arn".into(),
        "secrets.CACHE_SIGNING_KEY" => private.trim().into(),
        "vars.CACHE_VERIFY_KEY" => public.trim().into(),
        "github.event.number" => "7".into(),
        other => panic!("{other}"),
    };
    let main = TempDir::new();
    module(&main, "src", "corp.example/m");
    assert_eq!(github_job(&server, &main, "main", &outside), "");
    let all = puts(&server, "main/v1/");
    assert!(all > 0 && puts(&server, "") == puts(&server, "main/"));
    // the same tree is built from what main has signed; what a change adds lies apart
    server.clear_log();
    let request = TempDir::new();
    module(&request, "src", "corp.example/m");
    assert_eq!(github_job(&server, &request, "pull-request", &outside), "");
    assert!(puts(&server, "pr/7/v1/") < all, "it was built anew: {:?}", server.requests());
    server.clear_log();
    request.write("src/lib/lib.go", "package lib\n\nfunc Thrice(n int) int { return 3 * n }\n");
    github_job(&server, &request, "pull-request", &outside);
    assert!(puts(&server, "pr/7/v1/") > 0);
    assert_eq!(puts(&server, "main/"), 0);
    // and main believes none of it
    server.clear_log();
    let main = TempDir::new();
    module(&main, "src", "corp.example/m");
    main.write("src/lib/lib.go", "package lib\n\nfunc Thrice(n int) int { return 3 * n }\n");
    github_job(&server, &main, "main", &outside);
    assert!(puts(&server, "main/v1/") > 0);
}

#[test]
fn gitlab_jobs_get_keys_for_their_token() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    module(&dir, "builds", "corp.example/m");
    let job = yaml(&path("gitlab.yml"))[0]["test"].clone();
    let project = dir.join("builds").display().to_string();
    let mut vars = strings(&job["variables"]);
    for value in vars.values_mut() {
        *value = value.replace("$CI_PROJECT_DIR", &project).replace("$CI_JOB_ID", "42");
        *value = value.replace("some-bucket", &server.bucket).replace("eu-west-1", "us-east-1");
    }
    let token = job["id_tokens"].as_object().unwrap().keys().next().unwrap();
    let keys = (server.access_key.clone(), server.secret_key.clone());
    let asked = AtomicU32::new(0);
    let sts = Origin::http(move |request| {
        assert!(request.contains("WebIdentityToken=the.job.token") && request.contains("RoleSessionName=gitlab-42"));
        let (access, secret) = (&keys.0, &keys.1);
        let (status, text) = match asked.fetch_add(1, Ordering::SeqCst) {
            0 => (400, "<Error><Code>InvalidIdentityToken</Code></Error>".to_string()),
            _ => (
                200,
                format!(
                    "<C><AccessKeyId>{access}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>\
                 <SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></C>"
                ),
            ),
        };
        format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len()).into_bytes()
    });
    vars.extend(
        [
            (token.as_str(), "the.job.token".to_string()),
            ("CI_PROJECT_DIR", project),
            ("AWS_ENDPOINT_URL_STS", format!("http://{}", sts.host())),
        ]
        .map(|(name, value)| (name.to_string(), value)),
    );
    let lines = |name: &str| {
        job[name].as_array().unwrap().iter().map(|l| format!("{}\n", l.as_str().unwrap())).collect::<String>()
    };
    let said = shell(&server, &dir, "builds", &vars, &(lines("before_script") + &lines("script"))).stderr;
    assert_eq!(said, "");
    assert!(puts(&server, "main/v1/") > 0);
    assert!(sts.seen().len() >= 2);
}

#[test]
fn a_step_of_an_image_build_runs() {
    // the image itself takes a builder and a base image: tried by hand with buildah
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    module(&dir, "src", "corp.example/m");
    let text = recipe("Dockerfile").replace("\\\n", " ");
    let words = |name: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(name));
        lines.flat_map(str::split_whitespace).map(str::to_string).collect()
    };
    let args: Vars =
        words("ARG ").iter().filter_map(|arg| arg.split_once('=')).map(|(n, v)| (n.into(), v.into())).collect();
    let mut vars = args.clone();
    for (name, value) in words("ENV ").iter().map(|word| word.split_once('=').unwrap()) {
        let known = value.replace("$BUCKET", &server.bucket).replace("$ENDPOINT", &server.endpoint);
        vars.insert(name.into(), args.iter().fold(known, |text, (arg, value)| text.replace(&format!("${arg}"), value)));
    }
    vars.insert("GOCACHE_DIR".into(), dir.join("cache").display().to_string());
    let [access, secret] = [&server.access_key, &server.secret_key];
    dir.write("secret", &format!("[default]\naws_access_key_id={access}\naws_secret_access_key={secret}\n"));
    let mounted = vars.insert("AWS_SHARED_CREDENTIALS_FILE".into(), dir.join("secret").display().to_string());
    let step: Vec<String> = words("RUN ").into_iter().filter(|word| !word.starts_with("--mount=")).collect();
    assert!(text.contains(&format!("id=aws,target={} ", mounted.unwrap())) && !text.contains("ARG AWS"));
    let step = step.join(" ").replace("-o /app .", "./...");
    assert_eq!(shell(&server, &dir, "src", &vars, &step).stderr, "");
    assert!(puts(&server, "v1/") > 0);
}

#[test]
fn a_workspace_is_one_scope_unless_it_is_told_otherwise() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    module(&dir, "mono/api", "corp.example/api");
    module(&dir, "mono/web", "corp.example/web");
    let mut vars: Vars = server.env().into_iter().collect();
    vars.insert("GOFLAGS".into(), "-trimpath".into());
    shell(&server, &dir, "mono", &vars, &recipe("workspace.sh"));
    let lists = server.keys().into_iter().filter(|key| key.starts_with("manifest/")).count();
    assert!(lists >= 2, "one of the workspace, one of GOCACHE_SCOPE: {:?}", server.keys());
}

/// Starts `serve` with these arguments and waits for its socket.
fn serve(server: &S3Server, dir: &TempDir, args: &[String], socket: &Path) -> Running {
    let running = Plugin::new(dir).envs(&server.env()).args(args).spawn();
    poll("the server's socket", || socket.exists().then_some(()));
    running
}

fn ends(mut server: Running) {
    server.signal(Signal::TERM);
    server.wait().ok();
}

#[test]
fn pods_share_a_nodes_server() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    module(&dir, "src", "corp.example/m");
    let documents = yaml(&path("kubernetes.yaml"));
    let (node, build) = (&documents[0]["spec"]["template"]["spec"], &documents[1]["spec"]);
    let (from, to) = (&node["containers"][0], &build["containers"][0]);
    let place = node["volumes"][0]["hostPath"]["path"].as_str().unwrap();
    assert_eq!(build["volumes"][0]["hostPath"]["path"], place);
    for container in [from, to, &node["initContainers"][0]] {
        assert_eq!(container["volumeMounts"][0]["mountPath"], place, "one path for all");
    }
    assert_eq!(from["securityContext"]["runAsUser"], to["securityContext"]["runAsUser"]);
    let here = dir.dir("node").display().to_string();
    let local = |text: &Value| {
        let text = text.as_str().unwrap().replace(place, &here);
        text.replace("some-bucket", &server.bucket).replace("eu-west-1", "us-east-1")
    };
    let args: Vec<String> = from["args"].as_array().unwrap().iter().map(local).collect();
    let running = serve(&server, &dir, &args, &dir.join("node/plugin.sock"));
    let vars =
        to["env"].as_array().unwrap().iter().map(|var| (var["name"].as_str().unwrap().into(), local(&var["value"])));
    let command: Vec<&str> = to["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(shell(&server, &dir, "src", &vars.collect(), &command.join(" ")).stderr, "");
    ends(running);
    assert!(puts(&server, "pre/fix/v1/") > 0);
}

#[test]
fn a_users_unit_serves() {
    let (server, dir) = (S3Server::in_process(), TempDir::new());
    module(&dir, "src", "corp.example/m");
    let unit = recipe("go-cache-plugin.service");
    let port = free_port().to_string();
    let local = |text: &str| {
        text.replace("%t", "$XDG_RUNTIME_DIR")
            .replace("$XDG_RUNTIME_DIR", &dir.path().display().to_string())
            .replace("5970", &port)
    };
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=%h/.local/bin/go-cache-plugin ")).unwrap();
    let args: Vec<String> = start.split(' ').map(local).collect();
    let running = serve(&server, &dir, &args, &dir.join("go-cache-plugin.sock"));
    let settings: String = unit
        .lines()
        .filter_map(|line| line.strip_prefix("#   "))
        .filter(|line| line.starts_with("go "))
        .map(|line| local(line) + "\n")
        .collect();
    assert_eq!(settings.lines().count(), 2);
    // as the last of them says, modules come from the server, which here has none
    shell(&server, &dir, "src", &Vars::new(), &(settings + "go build ./..."));
    ends(running);
    assert!(puts(&server, "pre/fix/v1/") > 0);
}

/// Makes a bucket, a role for each policy, a user that may take them on, and the life-cycle rules; then moto
/// enforces. Arguments: the folder of the policies.
const SET_UP: &str = r#"
import json, pathlib, sys, urllib.request
import boto3
endpoint, folder = sys.argv[1], pathlib.Path(sys.argv[2])
at = lambda name: boto3.client(name, endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y")
s3, iam = at("s3"), at("iam")
s3.create_bucket(Bucket="cache-bucket")
rules = json.loads((folder / "lifecycle.json").read_text())
s3.put_bucket_lifecycle_configuration(Bucket="cache-bucket", LifecycleConfiguration=rules)
assert len(s3.get_bucket_lifecycle_configuration(Bucket="cache-bucket")["Rules"]) == len(rules["Rules"])
user = iam.create_user(UserName="ci")["User"]["Arn"]
allow = lambda **more: json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", **more}]})
iam.put_user_policy(UserName="ci", PolicyName="roles", PolicyDocument=allow(Resource="*"))
trust = allow(Principal={"AWS": user})
for file in folder.glob("*.trust.json"):
    iam.create_role(RoleName=file.stem, AssumeRolePolicyDocument=file.read_text())
key = iam.create_access_key(UserName="ci")["AccessKey"]
print(f'[ci]\naws_access_key_id={key["AccessKeyId"]}\naws_secret_access_key={key["SecretAccessKey"]}')
for name in ["reader", "writer", "pull-request", "maintainer"]:
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    policy = (folder / f"{name}.json").read_text().replace("BUCKET", "cache-bucket")
    iam.put_role_policy(RoleName=name, PolicyName="cache", PolicyDocument=policy)
    print(f"[{name}]\nrole_arn={role}\nsource_profile=ci")
enforce = urllib.request.Request(endpoint + "/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}, method="POST")
urllib.request.urlopen(enforce)
"#;

#[test]
fn each_role_may_do_what_it_needs_and_no_more() {
    let moto = Moto::start();
    let profiles = moto.script(SET_UP, &[path("iam").to_str().unwrap()]);
    let plugin = |role: &str, flags: &[&str]| {
        let dir = TempDir::new();
        dir.write(".aws/credentials", &profiles);
        let plugin = Plugin::new(&dir).env("AWS_PROFILE", role).env("AWS_ENDPOINT_URL", &moto.endpoint);
        plugin.env("GOCACHE_S3_PATH_STYLE", "true").env("AWS_EC2_METADATA_DISABLED", "true").args(flags)
    };
    let bucket = "--bucket=cache-bucket";
    // puts `put`, then gets `get`; whether that hit, and what was said
    let session = |role: &str, flags: &[&str], put: Option<u32>, get: u32| {
        let mut session = Session::start(plugin(role, &[&[bucket, "--no-readahead"], flags].concat()));
        let hit = session.client.get(&action(get)).is_some();
        if let Some(n) = put {
            session.client.put(&action(n), format!("body {n}").as_bytes());
        }
        (hit, session.end().stderr)
    };
    let refused = |(_, said): (bool, String)| {
        assert!(said.contains("takes no writes") && said.contains("AccessDenied"), "{said}")
    };
    let quiet = (true, String::new());
    assert_eq!(session("writer", &["--prefix=main"], Some(1), 9).1, "");
    assert_eq!(session("writer", &["--prefix=main"], None, 1), quiet);
    refused(session("writer", &["--prefix=pr/7"], Some(2), 9));
    assert_eq!(session("reader", &["--prefix=main", "--read-only"], None, 1), quiet);
    assert_eq!(
        session("reader", &["--prefix=main", "--read-only"], None, 9),
        (false, String::new()),
        "absent, not refused"
    );
    refused(session("reader", &["--prefix=main"], Some(3), 1));
    let apart = ["--prefix=main", "--write-prefix=pr/7"];
    assert_eq!(session("pull-request", &apart, Some(4), 1), quiet);
    assert_eq!(session("pull-request", &apart, None, 4), quiet);
    refused(session("pull-request", &["--prefix=main"], Some(5), 1));
    // who reads main alone does not see it
    assert!(!session("reader", &["--prefix=main", "--read-only"], None, 4).0);
    let clear = |role: &str, code: i32| plugin(role, &["clear", bucket, "--prefix=pr/7"]).output().code(code);
    clear("pull-request", 1);
    clear("maintainer", 0);
    assert!(!session("pull-request", &apart, None, 4).0);
    refused(session("maintainer", &["--prefix=main"], Some(6), 1));
}
