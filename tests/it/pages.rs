//! README and the help pages: what they tell users to type is typed here.
//!
//! Every line of a fence of README, and every line below "Examples:" of a page, is run by a shell in a Go
//! module, with `go`, the program and a bucket called some-bucket, or is one of [`NOT_RUN`].

use std::fmt::Write as _;
use std::os::unix::fs::symlink;
use std::{env, fs};

use crate::support::env::{Plugin, binary, free_port, program, run, scrubbed};
use crate::support::go::{self, Work};
use crate::support::s3::S3Server;
use crate::support::upstream::{Tree, Upstream};

/// What lines begin with that are not run here, and why.
const NOT_RUN: [(&str, &str); 7] = [
    ("cargo ", "builds or tests this program, as .ci/run does; it is on PATH already"),
    ("rustup ", ".ci/static does"),
    ("CC_x86_64_unknown_linux_musl=", ".ci/static does"),
    ("aws ", "another program; the rules that it is given are read here"),
    ("curl -fsSL https://github.com/OWNER/", "the tests of install run the script, against a server of their own"),
    ("permissions:", "a workflow; the tests of action run the action as GitHub would"),
    ("https_proxy=", "the tests of revproxy do, with a host of their own"),
];

const README: &str = include_str!("../../README.md");

/// Where the examples are typed.
struct World {
    work: Work,
    server: S3Server,
    upstream: Upstream,
    shells: u32,
}

impl World {
    fn new() -> Self {
        let (work, server) = (Work::new(), S3Server::in_process());
        fs::create_dir(server.root().join("some-bucket")).unwrap();
        let mut tree = Tree::new(work.dir.dir("upstream"));
        tree.add("example.com/dep", "v1.0.0", &[("dep.go", b"package dep\n")]);
        let upstream = Upstream::start(&tree.root);
        symlink(binary(), work.dir.dir("bin").join("go-cache-plugin")).unwrap();
        // any command that starts go
        program(&work.dir.join("bin/make"), "exec go build ./...");
        World { work, server, upstream, shells: 0 }
    }

    /// Runs `lines` in a folder of their own; panics where one fails.
    fn shell(&mut self, what: &str, lines: &[String]) {
        let ports = [free_port(), free_port()].map(|port| port.to_string());
        // servers stand in the background, and are waited for
        let mut script = String::from(
            "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n\
             tcp() { until (exec 3<>/dev/tcp/127.0.0.1/$1) 2>/dev/null; do kill -0 $! || exit 1; sleep 0.01; done; }\n\
             sock() { until [ -S $1 ]; do kill -0 $! || exit 1; sleep 0.01; done; }\n",
        );
        for line in lines {
            if line.contains("settle") {
                let commit = "git -c user.name=x -c user.email=x@example.com commit -qm x";
                writeln!(script, "git init -q && git add . && {commit} || true").unwrap();
            }
            let line =
                line.replace("5930", &ports[0]).replace("5970", &ports[1]).replace("--http=:", "--http=127.0.0.1:");
            if !line.starts_with("go-cache-plugin serve ") {
                writeln!(script, "{line}").unwrap();
                continue;
            }
            writeln!(script, "{} &", line.trim_end().trim_end_matches('&')).unwrap();
            for flag in line.split_whitespace() {
                match flag.split_once('=') {
                    Some(("--plugin", path)) if path.contains('/') => writeln!(script, "sock {path}").unwrap(),
                    Some(("--plugin", port)) => writeln!(script, "tcp {port}").unwrap(),
                    Some(("--http", addr)) => writeln!(script, "tcp {}", addr.rsplit(':').next().unwrap()).unwrap(),
                    _ => {}
                }
            }
        }
        self.shells += 1;
        let dir = self.work.dir.dir(&format!("shell-{}", self.shells));
        fs::write(dir.join("go.mod"), "module example.com/module\n\ngo 1.24\n\nrequire example.com/dep v1.0.0\n")
            .unwrap();
        // it needs nothing compiled, so that what takes time is the program
        fs::write(dir.join("module.go"), "package module\n").unwrap();
        fs::write(dir.join("tokens.txt"), format!("ci modules {}\n", "ab".repeat(32))).unwrap();
        let made = rcgen::generate_simple_self_signed(["cache.corp.example".to_string()]).unwrap();
        fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
        fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let mut command = scrubbed("bash", self.work.dir.path());
        let path = env::var_os("PATH").unwrap_or_default();
        let bin = [self.work.dir.join("bin"), go::any().root.join("bin")];
        let path = env::join_paths(bin.into_iter().chain(env::split_paths(&path))).unwrap();
        let bucket = ["GOCACHE_S3_BUCKET", "GOCACHE_KEY_PREFIX"];
        command
            .args(["-eu", "-c", &script])
            .current_dir(&dir)
            .envs(self.server.env().into_iter().filter(|(name, _)| !bucket.contains(&name.as_str())))
            .env("PATH", path)
            .env("GOCACHE_UPSTREAM", self.upstream.url())
            .env("GOCACHE_MOD_VERIFY", "off")
            .envs([
                ("GOFLAGS", "-mod=mod -modcacherw -trimpath"),
                ("GOSUMDB", "off"),
                ("GOTOOLCHAIN", "local"),
                ("GOTELEMETRY", "off"),
            ])
            .env("GOPROXY", self.upstream.url());
        let out = run(command);
        assert!(out.status.success(), "{what}:\n{script}{}", out.describe());
    }
}

/// The lines of a shell that are run, where one that ends with a backslash goes on in the next.
fn runnable(text: &str) -> Vec<String> {
    let text = text.replace("\\\n", " ");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.filter(|line| NOT_RUN.iter().all(|(start, _)| !line.starts_with(start))).map(str::to_string).collect()
}

/// The fences of README: language and text.
fn fences() -> Vec<(String, String)> {
    let (mut found, mut open) = (Vec::new(), None);
    for line in README.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some((language.to_string(), String::new())),
            (Some(_), Some(_)) => found.extend(open.take()),
            (None, Some((_, text))) => *text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    found
}

#[test]
fn readme_leads_to_a_cached_build_with_a_bucket_in_25_lines() {
    let lines: Vec<&str> = README.lines().collect();
    let set = lines.iter().position(|line| line.contains("GOCACHEPROG=") && line.contains("--bucket=")).unwrap();
    let build = set + lines[set..].iter().position(|line| line.starts_with("go ")).unwrap() + 1;
    assert!(build <= 25, "the first build with a bucket is line {build}");
    for command in ["cargo run ", "cargo test"] {
        assert!(lines[..25].iter().any(|line| line.starts_with(command)), "{command}");
    }
}

#[test]
fn what_readme_and_the_pages_tell_to_type_works() {
    let mut world = World::new();
    let mut scripts = Vec::new();
    for (language, text) in fences() {
        match language.as_str() {
            "sh" => scripts.push(("README".to_string(), runnable(&text))),
            "yaml" if NOT_RUN.iter().any(|(start, _)| text.starts_with(start)) => {}
            "yaml" => {
                let set = text.lines().filter_map(|line| line.strip_prefix("  ")?.split_once(": "));
                let set = set.map(|(name, value)| format!("export {name}={value}"));
                scripts.push(("README".into(), set.chain(["go build ./...".into()]).collect()));
            }
            "json" => drop(serde_json::from_str::<serde_json::Value>(&text).unwrap()),
            "text" => {}
            other => panic!("README: what is to be done with a fence of {other:?}?"),
        }
    }
    let dir = world.work.dir.clone();
    let help = |name: &str| Plugin::new(&dir).args(["help", name]).output().ok().quiet().stdout;
    let overview = Plugin::new(&dir).arg("help").output().ok().quiet().stdout;
    let listed = overview.split_once("\nCommands").unwrap().1.lines().filter_map(|line| line.strip_prefix("  "));
    let names: Vec<&str> = listed.map(|line| line.split(' ').next().unwrap().trim_matches(['(', ')'])).collect();
    assert!(names.len() > 20, "{overview}");
    let names: Vec<&str> = names.into_iter().filter(|name| !["man", "bash", "zsh", "fish"].contains(name)).collect();
    for (name, page) in names.iter().map(|name| (*name, help(name))).chain([("", overview.clone())]) {
        let (text, examples) = page.split_once("\nExamples:\n").unwrap_or((&page, ""));
        let examples = examples.split("\n\n").next().unwrap();
        let after = page.rsplit_once(examples).map_or("", |(_, after)| after);
        for line in text.lines().chain(after.lines()) {
            let starts = ["  go-cache-plugin ", "  export GO", "  GOCACHEPROG="];
            let typed = starts.iter().any(|start| line.starts_with(start));
            assert!(!typed, "{name}: only what stands below Examples: is run: {line}");
        }
        let mut lines = runnable(examples);
        if name == "connect" {
            let servers = ["5930", "./cache.sock"].map(|at| format!("go-cache-plugin serve --plugin={at}"));
            lines.splice(0..0, servers);
        }
        scripts.push((format!("help {name}"), lines));
    }
    // what is cleared is built again
    scripts.sort_by_key(|(_, lines)| lines.iter().any(|line| line.contains(" clear ")));
    for (what, lines) in scripts.iter().filter(|(_, lines)| !lines.is_empty()) {
        world.shell(what, lines);
    }
    for (start, why) in NOT_RUN {
        let pages = names.iter().map(|name| help(name)).collect::<String>();
        let somewhere = fences().iter().any(|(_, text)| text.lines().any(|line| line.starts_with(start)));
        assert!(somewhere || pages.contains(&format!("  {start}")), "{start} is nowhere: {why}");
    }
    assert!(world.server.root().join("some-bucket").read_dir().unwrap().next().is_some(), "the bucket was used");
}
