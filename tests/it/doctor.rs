//! `doctor` says whether builds will use the cache, and what to set; `doctor` and `status` say what the bucket
//! answered, to a read and to a write.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::thread;

use crate::support::env::{Output, Plugin, TempDir, binary, free_port, program};
use crate::support::fault::{Fault, FaultProxy};
use crate::support::go;
use crate::support::s3::S3Server;
use crate::support::upstream::{self, Tree, Upstream};

/// Runs both with these variables and flags; both end with `code`.
fn both(vars: &[(String, String)], flags: &[&str], code: i32) -> [Output; 2] {
    ["doctor", "status"].map(|command| {
        let dir = TempDir::new();
        let path = std::env::join_paths([go::any().root.join("bin")]).unwrap();
        let out = Plugin::new(&dir).arg(command).args(flags).envs(vars).env("PATH", path).output().code(code);
        if command == "doctor" {
            assert_eq!(out.stdout.contains("FAIL"), code == 1, "{}", out.describe());
        }
        assert!(!out.stdout.contains("answers"), "{}", out.describe());
        out
    })
}

/// The lines about the bucket itself.
fn lines(out: &Output) -> Vec<&str> {
    out.stdout.lines().filter(|l| ["reading", "writing", "deleting"].iter().any(|w| l.contains(w))).collect()
}

#[track_caller]
fn say(outs: &[Output], all: &[&str]) {
    for out in outs {
        let lines = lines(out);
        assert!(!lines.is_empty(), "{}", out.describe());
        for part in all {
            assert!(lines.iter().any(|line| line.contains(part)), "{part}{}", out.describe());
        }
    }
}

#[test]
fn a_bucket_that_works_is_read_and_written() {
    let server = S3Server::in_process();
    let outs = both(&server.env(), &[], 0);
    say(&outs, &["can be read", "was put", "came back", "was deleted"]);
    for out in &outs {
        for line in lines(out) {
            assert!(line.contains(&server.endpoint) && line.contains("s3://cache-bucket/pre/fix"), "{line}");
        }
    }
    assert!(server.keys().is_empty(), "nothing stays");
    say(&both(&server.env(), &["--read-only"], 0), &["can be read", "not tried"]);
    assert_eq!(server.count("PUT"), 2);
    // where the program will write
    both(&server.env(), &["--write-prefix=pr/7"], 0);
    let put = server.requests().into_iter().rfind(|r| r.method == "PUT").unwrap();
    assert!(put.path.contains("/pr/7/doctor/"), "{put:?}");
}

#[test]
fn an_endpoint_that_is_no_s3_is_named_with_its_status() {
    let server = S3Server::in_process();
    let proxy = FaultProxy::start(&server.endpoint);
    for fault in [301, 400, 405, 501, 503].map(Fault::Status).into_iter().chain([200, 404].map(Fault::Page)) {
        proxy.set(fault.clone());
        let (Fault::Status(code) | Fault::Page(code)) = fault else { unreachable!() };
        for flags in [&[][..], &["--read-only"]] {
            let outs = both(&server.env_through(&proxy.endpoint), flags, 1);
            say(&outs, &[&format!("status {code}"), &proxy.endpoint, "cache-bucket"]);
            if code < 500 {
                say(&outs, &["see --s3-endpoint-url or GOCACHE_S3_ENDPOINT_URL"]);
            }
        }
    }
}

#[test]
fn refusals_are_told_from_what_cannot_be_known() {
    let server = S3Server::in_process();
    let proxy = FaultProxy::start(&server.endpoint);
    let vars = server.env_through(&proxy.endpoint);
    // it may be that there is nothing, or no permission
    proxy.set(Fault::Refuse("AccessDenied"));
    say(&both(&vars, &["--read-only"], 1), &["refused to tell", "s3:ListBucket", &proxy.endpoint]);
    say(&both(&vars, &[], 1), &["refused to tell", "AccessDenied", "writing"]);
    // what was put is read: then all is well
    proxy.only("GET");
    proxy.series([(Fault::Refuse("AccessDenied"), 2), (Fault::None, 2), (Fault::Refuse("AccessDenied"), 2)]);
    say(&both(&vars, &[], 0), &["refused to tell", "came back"]);
    proxy.only("PUT");
    proxy.set(Fault::Refuse("AccessDenied"));
    say(&both(&vars, &[], 1), &["can be read", "status 403: AccessDenied"]);
    proxy.only("DELETE");
    say(&both(&vars, &[], 0), &["only `clear` needs this: status 403"]);
}

#[test]
fn a_wrong_secret_a_missing_bucket_and_a_missing_folder_are_noticed() {
    let server = S3Server::in_process();
    let with = |name: &str, value: &str| {
        let mut vars = server.env();
        vars.iter_mut().filter(|(n, _)| n == name).for_each(|(_, v)| *v = value.to_string());
        vars
    };
    let dir = TempDir::new();
    let typo = format!("file://{}/typo", dir.path().display());
    let file = format!("file://{}", dir.write("file", "mine").display());
    for flags in [&[][..], &["--read-only"]] {
        let wrong = both(&with("AWS_SECRET_ACCESS_KEY", "wrong"), flags, 1);
        say(&wrong, &["SignatureDoesNotMatch", &server.endpoint, "see AWS_SECRET_ACCESS_KEY"]);
        let wrong = both(&with("GOCACHE_S3_BUCKET", "no-such"), flags, 1);
        say(&wrong, &["no such bucket", "s3://no-such", "see --bucket or GOCACHE_S3_BUCKET"]);
        say(&both(&with("AWS_ACCESS_KEY_ID", ""), flags, 1), &["AWS_ACCESS_KEY_ID", &server.endpoint]);
        for bucket in [&typo, &file] {
            let flags = [&["--bucket", bucket.as_str()], flags].concat();
            say(&both(&[], &flags, 1), &["no such directory", bucket]);
        }
    }
    assert!(!dir.join("typo").exists(), "and not made");
}

#[test]
fn what_earlier_processes_learnt_does_not_count() {
    let server = S3Server::in_process();
    let proxy = FaultProxy::start(&server.endpoint);
    proxy.set(Fault::Page(405));
    let dir = TempDir::new();
    let plugin = || Plugin::new(&dir).envs(&server.env_through(&proxy.endpoint));
    let mut s = crate::support::script::Session::start(plugin().arg("--no-readahead"));
    for n in 0..12 {
        s.client.get(&crate::support::script::action(n));
    }
    s.end();
    proxy.set(Fault::None);
    say(&[plugin().arg("status").output().ok()], &["can be read", "was put"]);
}

/// A machine for `doctor`: HOME, a PATH with the program and `go` in it, and a file of `go env -w`.
struct Machine {
    dir: TempDir,
}

impl Machine {
    fn new() -> Self {
        let dir = TempDir::new();
        symlink(binary(), dir.dir("bin").join("go-cache-plugin")).unwrap();
        dir.write("go.mod", "module example.com/m\n\ngo 1.24\n");
        Machine { dir }
    }

    /// Puts a program there.
    fn program(&self, name: &str, script: &str) {
        program(&self.dir.join(&format!("bin/{name}")), script);
    }

    /// What `go env -w` sets.
    fn set(&self, text: &str) {
        self.dir.write("goenv", text);
    }

    #[track_caller]
    fn doctor(&self, vars: &[(&str, &str)], flags: &[&str], code: i32) -> Output {
        let dirs = [self.dir.join("bin"), go::any().root.join("bin"), "/bin".into(), "/usr/bin".into()];
        let mut plugin = Plugin::new(&self.dir).arg("doctor").args(flags).env("CC", "none").env("CGO_ENABLED", "0");
        plugin = plugin.env("PATH", std::env::join_paths(dirs).unwrap()).env("GOENV", self.dir.join("goenv"));
        plugin = plugin.env("GOTOOLCHAIN", "local").env("GOPROXY", "off");
        for (name, value) in vars {
            plugin = plugin.env(name, value);
        }
        plugin.output().code(code).quiet()
    }
}

/// Panics unless there is a line that begins with `start` and contains `part`.
#[track_caller]
fn tells(out: &Output, start: &str, part: &str) {
    let found = out.stdout.lines().any(|line| line.starts_with(start) && line.contains(part));
    assert!(found, "{start}: {part}{}", out.describe());
}

#[test]
fn doctor_says_whether_builds_use_the_cache_and_what_to_set_next() {
    let machine = Machine::new();
    let out = machine.doctor(&[], &[], 0);
    tells(&out, "ok    go: go1.", "");
    tells(&out, "note  builds: GOCACHEPROG is not set", "");
    tells(&out, "note  bucket: none", "");
    tells(&out, "next  export GOCACHEPROG=go-cache-plugin, or go-cache-plugin run CMD", "");
    tells(&out, "next  to share it, export GOCACHE_S3_BUCKET=NAME", "");
    // what was given here is what is to be typed
    let out = machine.doctor(&[], &["--scope", "mine too", "-v=false", "--metrics", "--modproxy", "--offline"], 0);
    let typed = "'--scope=mine too' -v=false --metrics";
    tells(&out, &format!("next  export GOCACHEPROG=\"go-cache-plugin {typed}\", or go-cache-plugin run {typed} "), "");
    tells(&out, "ok    settings: scope mine too", "");
    tells(&out, "note  modules: no upstream is asked", "");

    // go env -w counts, and flags in it
    let bucket = format!("--bucket=file://{}", machine.dir.dir("bucket").display());
    let out = machine.doctor(&[], &[&bucket, "--prefix=team", "--read-only"], 0);
    tells(&out, &format!("next  export GOCACHEPROG=\"go-cache-plugin {bucket} --prefix=team --read-only\", or"), "");
    machine.set(&format!("GOCACHEPROG=go-cache-plugin {bucket} '--prefix=a b'\n"));
    let out = machine.doctor(&[], &[], 1);
    tells(&out, "FAIL  builds: GOCACHEPROG", "--prefix \"a b\": not a key prefix");
    machine.set(&format!("GOCACHEPROG=go-cache-plugin {bucket} --prefix=team --read-only --scope=s\n"));
    let out = machine.doctor(&[], &[], 0);
    tells(&out, "ok    builds: go starts", "--prefix=team");
    tells(&out, "ok    settings: scope s, layout single, read below \"team\", not written", "");
    tells(&out, "ok    reading: ", "bucket/team: can be read");
    assert!(!out.stdout.contains("next"), "{}", out.describe());
    // a flag of its own wins, as does a variable over what was set for good
    let out = machine.doctor(&[("GOCACHEPROG", "go-cache-plugin")], &["--scope=t", &bucket], 0);
    tells(&out, "ok    settings: scope t, layout single, read and written below \"\"", "");
    tells(&out, "note  GOCACHEPROG: the variable says", "--prefix=team");

    // what go would start and that does not serve it
    let nobody = format!("go-cache-plugin connect {}", free_port());
    for (program, mark, why) in [
        (nobody.as_str(), "note", "which says: go-cache-plugin: "),
        ("no-such-program --x", "FAIL", "is it on PATH?"),
        ("go-cache-plugin --bukcet=x", "FAIL", "did you mean --bucket?"),
        ("go-cache-plugin serve --plugin=1", "FAIL", "does not speak with go"),
        ("go-cache-plugin 'x", "FAIL", "no second '"),
        ("true", "FAIL", "it does not speak with go"),
        ("other", "note", "by its name not this program"),
        ("noisy", "note", "which says: what a day"),
    ] {
        machine.program("other", "echo '{\"ID\":0,\"KnownCommands\":[\"get\"]}'; exec cat >/dev/null");
        machine.program(
            "noisy",
            "echo what a day >&2; echo '{\"ID\":0,\"KnownCommands\":[\"get\"]}'; exec cat >/dev/null",
        );
        let out = machine.doctor(&[("GOCACHEPROG", program)], &[], i32::from(mark == "FAIL"));
        tells(&out, &format!("{mark}  builds: "), why);
    }
    // and a go that cannot
    machine.program("go", "echo '{\"GOVERSION\":\"go1.23.4\"}'");
    tells(&machine.doctor(&[], &[], 1), "FAIL  go: go1.23.4 is too old", "go1.24");
    machine.program("go", "echo 'go: parsing $GOFLAGS: nonsense' >&2; exit 1");
    tells(&machine.doctor(&[], &[], 1), "FAIL  go: ", "parsing $GOFLAGS");
}

#[test]
fn doctor_warns_of_what_makes_sharing_useless_or_unsound() {
    let machine = Machine::new();
    let bucket = format!("--bucket=file://{}", machine.dir.dir("bucket").display());
    machine.set("GOFLAGS=-trimpath\n");
    let out = machine.doctor(&[("GOFLAGS", "-tags=x")], &[&bucket], 0);
    tells(&out, "note  paths: ", "GOFLAGS=-trimpath");
    tells(&out, "note  GOFLAGS: the variable says \"-tags=x\" and hides", "\"-trimpath\"");
    let out = machine.doctor(&[], &[&bucket], 0);
    assert!(!out.stdout.contains("  paths: ") && !out.stdout.contains("  cgo: "), "{}", out.describe());

    // cgo: the same compiler, libc and loader give the same name, others another
    let cgo = [("CGO_ENABLED", "1"), ("CC", "cc -m64")];
    let name = |out: &Output| {
        let line = out.stdout.lines().find(|line| line.contains("cgo: ")).unwrap().to_string();
        line.split_once("--prefix=p/").unwrap().1.split(' ').next().unwrap().to_string()
    };
    // the compiler's own words come after its flags
    machine.program("cc", "for last; do :; done; case $last in --version) echo 'cc 1.2';; *) echo x;; esac");
    let first = machine.doctor(&cgo, &[&bucket, "--prefix=p"], 0);
    tells(&first, "note  cgo: cc 1.2: ", "--prefix=p/cgo-");
    let name_one = name(&first);
    assert_eq!(name(&machine.doctor(&cgo, &[&bucket, "--prefix=p"], 0)), name_one);
    let prefixed = format!("--prefix=p/{name_one}");
    tells(&machine.doctor(&cgo, &[&bucket, &prefixed], 0), "ok    cgo: cc 1.2: the prefix is that of", "");
    machine.program("cc", "for last; do :; done; case $last in --version) echo 'cc 1.3';; *) echo x;; esac");
    tells(&machine.doctor(&cgo, &[&bucket, &prefixed], 1), "FAIL  cgo: the prefix says", &name_one);
    assert_ne!(name(&machine.doctor(&cgo, &[&bucket, "--prefix=p"], 0)), name_one);
    let missing = [("CGO_ENABLED", "1"), ("CC", "no-such-cc")];
    tells(&machine.doctor(&missing, &[&bucket], 0), "note  cgo: CC \"no-such-cc\" cannot be started", "");
}

#[test]
fn doctor_names_the_proxy_and_the_clock_that_stand_between() {
    let machine = Machine::new();
    let keys = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("GOCACHE_S3_REGION", "us-east-1")];
    let proxy = format!("http://127.0.0.1:{}", free_port());
    let vars = [&keys[..], &[("HTTP_PROXY", proxy.as_str())]].concat();
    let flags = ["--bucket=some", "--s3-endpoint-url=http://bucket.example:9000", "--s3-path-style"];
    let out = machine.doctor(&vars, &flags, 1);
    tells(&out, "note  proxy: ", "as HTTP_PROXY says");
    tells(&out, "note  proxy: ", "NO_PROXY=bucket.example leaves it out");
    tells(&out, "FAIL  reading: ", "http://bucket.example:9000");

    // a bucket whose day is another
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("--s3-endpoint-url=http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let head = "HTTP/1.1 403 Forbidden\r\nDate: Mon, 06 Jan 2020 10:00:00 GMT\r\nConnection: close\r\n";
            let _ = write!(stream, "{head}Content-Length: 0\r\n\r\n");
        }
    });
    let out = machine.doctor(&keys, &["--bucket=some", &endpoint], 1);
    tells(&out, "note  clock: this machine's is ", "days ahead of the bucket's");
}

#[test]
fn doctor_asks_the_upstreams_where_modules_are_proxied() {
    let machine = Machine::new();
    let upstream = Upstream::start(&Tree::new(machine.dir.dir("tree")).root);
    let list = |urls: &[&str]| format!("--upstream={}", urls.join(","));
    let dead = format!("http://127.0.0.1:{}", free_port());
    let off = "--mod-verify=off";
    let out = machine.doctor(&[], &["--modproxy", &list(&[&upstream.url(), &dead]), off], 1);
    tells(&out, "ok    modules: ", &format!("{} answers", upstream.url()));
    tells(&out, "FAIL  modules: ", &format!("{dead} does not answer, see --upstream"));
    upstream.set(upstream::Fault::Status(500));
    let out = machine.doctor(&[("GOCACHE_MODPROXY", "1"), ("GOCACHE_UPSTREAM", &upstream.url())], &[off], 1);
    tells(&out, "FAIL  modules: ", "made to say 500");
    // where go asks one like ours, and nowhere else
    let ours = format!("{}/mod,direct", upstream.url());
    tells(&machine.doctor(&[("GOPROXY", &ours)], &[], 1), "FAIL  modules: ", "/mod does not answer, see GOPROXY");
    let before = upstream.seen().len();
    assert!(!machine.doctor(&[("GOPROXY", &upstream.url())], &[], 0).stdout.contains("  modules: "));
    assert_eq!(upstream.seen().len(), before);
}

#[test]
fn doctor_fails_where_the_directory_go_or_the_bucket_do() {
    let machine = Machine::new();
    let endpoint = format!("--s3-endpoint-url=http://127.0.0.1:{}", free_port());
    let file = machine.dir.write("file", "");
    let vars = [
        ("GOCACHE_DIR", file.join("cache").display().to_string()),
        ("PATH", machine.dir.path().display().to_string()),
        ("AWS_ACCESS_KEY_ID", "id".into()),
        ("AWS_SECRET_ACCESS_KEY", "secret".into()),
    ];
    let vars: Vec<(&str, &str)> = vars.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let out = machine.doctor(&vars, &["--bucket=some", "--region=us-east-1", &endpoint], 1);
    for (what, flag) in [
        ("FAIL  cache directory: ", "GOCACHE_DIR"),
        ("FAIL  go: ", "is it on PATH?"),
        ("FAIL  reading: ", "GOCACHE_S3_ENDPOINT_URL"),
        ("FAIL  writing: ", "not tried"),
    ] {
        tells(&out, what, flag);
    }
}
