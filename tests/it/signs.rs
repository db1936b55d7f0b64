//! Signs of life: what the program says of itself, and what a run, a session and a job came to.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use rustix::process::Signal;

use super::bucket::Store;
use super::modules::Server;
use crate::support::client::Client;
use crate::support::env::{Output, Plugin, TempDir, binary, free_port, poll, run, scrubbed};
use crate::support::fault::{Fault, FaultProxy};
use crate::support::go::{self, Work};
use crate::support::origin::{Origin, answer, self_signed};
use crate::support::s3::S3Server;
use crate::support::script::{Session, action, holds, noise, said};

/// The rows of a table, wherever it stands.
pub fn table(text: &str) -> HashMap<String, String> {
    let cells = |line: &str| {
        let (name, value) = line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | ")?;
        Some((name.trim().to_string(), value.trim().to_string()))
    };
    text.lines().filter_map(cells).collect()
}

/// The table that `summary` prints of `file`.
fn summed_up(dir: &TempDir, file: &Path) -> HashMap<String, String> {
    let out = Plugin::new(dir).arg("summary").arg(file).output().ok().quiet();
    let lines: Vec<usize> = out.stdout.lines().map(|line| line.chars().count()).collect();
    assert!(lines.windows(2).all(|pair| pair[0] == pair[1]), "columns{}", out.describe());
    table(&out.stdout)
}

#[test]
fn a_job_of_thirty_go_commands_is_summed_up_to_the_last_get() {
    let (go, work, dir) = (go::any(), Work::new(), TempDir::new());
    work.source("go.mod", "module example.com/job\n\ngo 1.24\n");
    for n in 0..10 {
        work.source(&format!("p{n}/p.go"), &format!("package p{n}\n\nfunc F() int {{ return {n} }}\n"));
    }
    let (file, bucket) = (dir.join("summary"), dir.dir("bucket"));
    let job = |n: usize| {
        let mut command = go.cached(&work, binary());
        // its lines of --debug are another count
        command.env("GOCACHE_DEBUG", "1").env("GOCACHE_SUMMARY", &file).env("GOCACHE_DIR", dir.join("cache"));
        command.env("GOCACHE_S3_BUCKET", format!("file://{}", bucket.display()));
        run({
            command.args(["build", &format!("./p{}", n % 10)]);
            command
        })
        .ok()
        .stderr
    };
    let stderr: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..3).map(|at| scope.spawn(move || (at * 10..at * 10 + 10).map(job).collect())).collect();
        workers
            .into_iter()
            .flat_map(|worker: std::thread::ScopedJoinHandle<'_, Vec<_>>| worker.join().unwrap())
            .collect()
    });
    let lines: Vec<&str> = stderr.iter().flat_map(|text| text.lines()).collect();
    let ends = |command: &str, outcome: &str| {
        let (command, outcome) = (format!(": E {command} #"), format!(" {outcome},"));
        lines.iter().filter(|line| line.contains(&command) && line.contains(&outcome)).count().to_string()
    };
    assert!(lines.iter().all(|line| !line.contains("  ") && !line.contains(" ,") && !line.contains(" bytes")));
    let rows = summed_up(&dir, &file);
    let begun = lines.iter().filter(|line| line.contains(": B get #")).count();
    assert!(begun >= 30, "{begun}");
    assert_eq!(rows["processes"], "30");
    assert_eq!(rows["gets"], begun.to_string());
    assert_eq!((rows["hits"].split(' ').next(), &rows["misses"]), (Some(&*ends("get", "hit")), &ends("get", "miss")));
    assert_eq!(rows["puts"], ends("put", "stored"));
    assert_eq!((&rows["uploads"], &*rows["uploads owed"]), (&rows["puts"], "0"));
}

#[test]
fn a_line_is_there_before_the_close_is_answered() {
    let dir = TempDir::new();
    let file = dir.write("summary", "");
    let mut s = Session::start(Plugin::new(&dir).env("GOCACHE_SUMMARY", &file));
    s.client.put(&action(1), b"body");
    assert!(s.client.get(&action(1)).is_some() && s.client.get(&action(2)).is_none());
    s.client.close();
    let rows = summed_up(&dir, &file);
    assert_eq!(
        ["processes", "gets", "hits", "misses", "puts"].map(|row| &*rows[row]),
        ["1", "2", "1 (50.0 %)", "1", "1"]
    );
    assert!(!rows.contains_key("uploads"), "no bucket, nothing of one: {rows:?}");
    s.child.wait().ok().quiet();
    // one that is ended by a signal counts too
    let mut s = Session::start(Plugin::new(&dir).env("GOCACHE_SUMMARY", &file));
    assert!(s.client.get(&action(1)).is_some());
    s.child.signal(Signal::TERM);
    s.child.wait().ok();
    assert_eq!(summed_up(&dir, &file)["gets"], "3");
    let out = Plugin::new(&dir).env("GOCACHE_SUMMARY", "summary").output().code(2);
    assert!(out.stderr.contains("GOCACHE_SUMMARY \"summary\": relative"), "{}", out.describe());
    // a file that cannot be written changes nothing but for a line
    let mut s = Session::start(Plugin::new(&dir).arg(format!("--summary={}", dir.path().display())));
    assert!(s.client.get(&action(1)).is_some());
    let out = s.end();
    assert!(said(&out).len() == 1 && out.stderr.contains("see --summary or GOCACHE_SUMMARY"), "{}", out.describe());
}

#[test]
fn summary_adds_up_what_is_there() {
    let dir = TempDir::new();
    assert_eq!(summed_up(&dir, &dir.join("none"))["processes"], "0");
    let cache = dir.path().display();
    let server = r#""gocache_server":{"get_requests":3,"get_hits":2,"new":7}"#;
    let whole = format!(r#"{{"cache":"{cache}",{server},"bucket":{{"wait_nanos":1500000000}},"has_bucket":true}}"#);
    let file = dir.write("summary", &format!("{whole}\n\n{whole}\n{{\"cache\":\"/x\",\"ge\n[]\n"));
    let out = Plugin::new(&dir).arg("summary").env("GOCACHE_SUMMARY", &file).output().ok();
    assert!(out.stderr.contains("2 lines left out") && out.stderr.lines().count() == 1, "{}", out.describe());
    let rows = table(&out.stdout);
    assert_eq!(
        (&*rows["gets"], &*rows["hits"], &*rows["gets waited for the bucket, added up"]),
        ("6", "4 (66.7 %)", "3.0 s")
    );
    assert_eq!(rows["uploads owed"], "0");
    // what is owed there cannot be known here
    dir.write("summary", r#"{"cache":"/nonexistent","has_bucket":true}"#);
    assert!(!summed_up(&dir, &file).contains_key("uploads owed"));
    Plugin::new(&dir).arg("summary").output().code(2);
    Plugin::new(&dir).arg("summary").arg(dir.path()).output().code(1);
    // where CI systems look
    let page = dir.write("page.md", "before\n");
    let out = Plugin::new(&dir).arg("summary").arg(&file).env("GITHUB_STEP_SUMMARY", &page).output().ok().quiet();
    assert!(out.stdout.is_empty());
    let text = fs::read_to_string(&page).unwrap();
    assert!(text.starts_with("before\n\n| build cache ") && table(&text)["processes"] == "1", "{text}");
    let out = Plugin::new(&dir).arg("summary").arg(&file).env("GITLAB_CI", "true").output().ok().quiet();
    in_a_section(&out.stdout);
}

/// Panics unless the table in `text` is GitLab's collapsed section.
fn in_a_section(text: &str) {
    let (_, rest) = text.split_once("\x1b[0Ksection_start:").expect("a start");
    let (head, rest) = rest.split_once("[collapsed=true]\r\x1b[0K").expect("collapsed");
    let (body, end) = rest.split_once("\x1b[0Ksection_end:").expect("an end");
    let name = |text: &str| text.split(':').nth(1).unwrap().split('\r').next().unwrap().to_string();
    assert_eq!(name(head), name(end));
    assert!(table(body).contains_key("gets"), "{text}");
}

#[test]
fn run_puts_its_table_where_the_ci_looks() {
    let (dir, store) = (TempDir::new(), Store::dir());
    let run = |name: &str, value: &Path| {
        let plugin = Plugin::new(&dir).envs(&store.vars()).args(["run", "true"]).env(name, value);
        plugin.output().ok()
    };
    let page = dir.join("page.md");
    for times in 1..3 {
        let out = run("GITHUB_STEP_SUMMARY", &page);
        assert_eq!(out.stderr.lines().count(), 1, "{}", out.describe());
        let text = fs::read_to_string(&page).unwrap();
        assert_eq!(text.matches("\n\n| build cache ").count() + 1, times, "{text}");
        assert_eq!((&*table(&text)["gets"], &*table(&text)["uploads owed"]), ("0", "0"));
    }
    in_a_section(&run("GITLAB_CI", Path::new("true")).stderr);
    // a page that cannot be written is no failure
    let out = run("GITHUB_STEP_SUMMARY", dir.path());
    assert!(out.stderr.contains("GITHUB_STEP_SUMMARY /"), "{}", out.describe());
    // in a job that is summed up as a whole, it is a part
    let (file, unwritten) = (dir.join("summary"), dir.join("none.md"));
    let plugin = Plugin::new(&dir).envs(&store.vars()).args(["run", "true"]).env("GOCACHE_SUMMARY", &file);
    plugin.env("GITHUB_STEP_SUMMARY", &unwritten).output().ok();
    assert_eq!((&*summed_up(&dir, &file)["processes"], unwritten.exists()), ("1", false));
}

#[test]
fn a_session_tells_where_it_is_and_what_it_came_to() {
    let server = S3Server::in_process();
    let bodies: Vec<Vec<u8>> = (0..2).map(|n| noise(n, 2000)).collect();
    let verbose = |dir: &TempDir| {
        dir.write("go.mod", "module example.com/told\n");
        Session::start(Plugin::new(dir).envs(&server.env()).arg("-v"))
    };
    let told = |out: &Output, what: &str| out.stderr.lines().filter(|line| line.contains(what)).count();
    let (one, two) = (TempDir::new(), TempDir::new());
    let mut s = verbose(&one);
    s.put_all(&bodies);
    let out = s.end();
    let cache = one.join("cache");
    let where_it_is = format!(
        "info: cache={} bucket=\"s3://cache-bucket/pre/fix at {} (us-east-1)\" layout=single access=read-write \
         scope=example.com/told",
        cache.display(),
        server.endpoint
    );
    assert_eq!(told(&out, &where_it_is), 1, "{where_it_is}{}", out.describe());
    assert_eq!(told(&out, "info: AWS credentials: key "), 1, "{}", out.describe());
    assert_eq!(told(&out, " from AWS_ACCESS_KEY_ID"), 1, "{}", out.describe());
    assert_eq!(
        told(&out, "info: 0 gets, 0 hits (–), 0 misses, 2 puts; 0 B served, 3.9 KiB stored; "),
        1,
        "{}",
        out.describe()
    );
    assert_eq!(told(&out, " up, 2 uploads, 0 owed, "), 1, "{}", out.describe());
    let mut s = verbose(&two);
    assert!(s.client.get(&action(0)).is_some() && s.client.get(&action(0)).is_some());
    assert!(s.client.get(&action(7)).is_none());
    let out = s.end();
    assert_eq!(told(&out, "info: 3 gets, 2 hits (66.7 %), 1 miss, 0 puts; "), 1, "{}", out.describe());
    assert_eq!(told(&out, "; bucket: 1 hit, "), 1, "{}", out.describe());
    // without a bucket, and with nobody to ask
    let dir = TempDir::new();
    let out = Session::start(Plugin::new(&dir).arg("-v").arg("--scope=a b")).end();
    assert_eq!(told(&out, " bucket=none scope=\"a b\""), 1, "{}", out.describe());
}

#[test]
fn serve_says_where_it_listens_for_a_script_to_read() {
    let dir = TempDir::new();
    let bucket = dir.dir("a bucket");
    let args = ["serve", "--plugin=0", "--http=localhost:0", "--modproxy", "--read-only"];
    let plugin = Plugin::new(&dir).args(args).arg(format!("--bucket=file://{}", bucket.display()));
    let mut server = plugin.spawn();
    let line = poll("its line", || {
        server.stderr().lines().next().filter(|_| server.stderr().ends_with('\n')).map(str::to_string)
    });
    let words = line.strip_prefix("go-cache-plugin: listening ").expect("its line");
    // as a shell reads it
    let mut shell = scrubbed("sh", dir.path());
    shell.args([
        "-c",
        &format!("export {words}; printf '%s\\n' \"$plugin\" \"$http\" \"$cache\" \"$bucket\" \"$layout\" \"$access\""),
    ]);
    let told = run(shell).ok().stdout;
    let told: Vec<&str> = told.lines().collect();
    let [plugin, http, cache, at, "single", "read-only"] = told[..] else { panic!("{told:?}") };
    assert_eq!(Path::new(cache), dir.join("cache"));
    assert_eq!(at, format!("file://{}/", bucket.display()));
    let mut s = Session::start(Plugin::new(&dir).args(["connect", plugin]));
    s.client.put(&action(1), b"body");
    s.end().quiet();
    let mut healthy = String::new();
    let mut got = ureq::get(format!("http://{http}/healthz")).config().proxy(None).build().call().expect("it answers");
    got.body_mut().as_reader().read_to_string(&mut healthy).unwrap();
    assert_eq!(got.status(), 200, "{healthy}");
    server.signal(Signal::TERM);
    let out = server.wait().ok();
    assert_eq!(out.stderr.lines().count(), 1, "{}", out.describe());

    let socket = dir.join("plugin.sock");
    let mut server = Plugin::new(&dir).arg("serve").arg(format!("--plugin={}", socket.display())).spawn();
    let want = format!(
        "go-cache-plugin: listening plugin={} http=none cache={} bucket=none\n",
        socket.display(),
        dir.join("cache").display()
    );
    poll("its line", || (server.stderr() == want).then_some(()));
    server.signal(Signal::TERM);
    server.wait().ok();
}

#[test]
fn connect_goes_on_alone_where_no_server_answers() {
    let dir = TempDir::new();
    // one goes away without a greeting, the other waits for ever
    let [gone, silent] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port().to_string();
    let addresses = [port(&silent), free_port().to_string(), port(&gone), "./no.sock".into(), "none.invalid:1".into()];
    std::thread::spawn(move || gone.incoming().for_each(drop));
    for (n, address) in (0..).zip(addresses) {
        let mut s = Session::start(Plugin::new(&dir).args(["connect", &address]));
        s.client.put(&action(n), b"body");
        holds(&s.client.get(&action(0)).expect("a hit of the local cache"), b"body");
        let out = s.end();
        assert!(said(&out).len() == 1 && out.stderr.contains("building with the local cache"), "{}", out.describe());
        if n > 0 {
            let strict = if n == 1 { ("--strict", "0") } else { ("-v=false", "1") };
            let plugin = Plugin::new(&dir).args(["connect", &address, strict.0]).env("GOCACHE_STRICT", strict.1);
            let out = plugin.output().code(1);
            assert!(said(&out).len() == 1 && out.stderr.contains("`go-cache-plugin serve`"), "{}", out.describe());
        }
    }
    drop(silent);
    // nor does one that is no server of ours: go would take what it says for answers
    for words in [
        "SSH-2.0-OpenSSH_10.0\r\n",
        "{\"ID\":0,\"KnownCommands\":[\"get\"",
        "{\"ID\":0,\"KnownCommands\":[]}\n",
        "[]\n",
    ] {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = port(&other);
        std::thread::spawn(move || other.accept().unwrap().0.write_all(words.as_bytes()).unwrap());
        let mut s = Session::start(Plugin::new(&dir).args(["connect", &address]));
        holds(&s.client.get(&action(0)).expect("a hit of the local cache"), b"body");
        let out = s.end();
        assert!(said(&out).len() == 1 && out.stderr.contains("building with the local cache"), "{}", out.describe());
    }
    // what matters to the cache alone does not matter where there is a server
    let socket = dir.join("plugin.sock");
    let mut server = Plugin::new(&dir).arg("serve").arg(format!("--plugin={}", socket.display())).spawn();
    drop(Client::unix(&socket));
    let connect = || Plugin::new(&dir).args(["connect", "./plugin.sock"]).env("GOCACHE_EXPIRY", "nonsense");
    Session::start(connect()).end().quiet();
    server.signal(Signal::TERM);
    server.wait().ok();
    let out = connect().output().code(2);
    assert!(out.stderr.contains("GOCACHE_EXPIRY"), "{}", out.describe());
}

#[test]
fn errors_say_where_and_what() {
    let (dir, server) = (TempDir::new(), S3Server::in_process());
    let pem = dir.write("ca.pem", &self_signed(&["localhost"]).1);
    let refused = format!("http://127.0.0.1:{}", free_port());
    let secure = server.endpoint.replace("http://", "https://");
    let (stranger, _) = Origin::https(dir.path(), |_| answer("", ""));
    let stranger = format!("https://localhost:{}", stranger.port());
    let other = Origin::http(|_| answer("content-type: text/plain", "hello"));
    let other = format!("http://127.0.0.1:{}", other.port());
    for (endpoint, want) in [
        (&*stranger, format!(": {stranger}: no trusted authority has signed its certificate: name a PEM file")),
        (&other, ": status 200: not an answer of S3's, which has an ETag: hello".into()),
        (refused.as_str(), format!(": {refused}: Connection refused")),
        (&secure, format!(": {secure}: what answers there speaks no TLS: perhaps it is http://")),
        ("http://no-such-host.invalid:9", ": http://no-such-host.invalid:9: ".into()),
    ] {
        let plugin = Plugin::new(&dir).envs(&server.env_through(endpoint));
        // the stranger is to be unknown to the machine's own authorities
        let plugin = if endpoint == stranger { plugin } else { plugin.env("SSL_CERT_FILE", &pem) };
        let out = plugin.arg("status").output().code(1);
        assert!(out.stdout.contains(&want), "{want}{}", out.describe());
    }
    let plugin = Plugin::new(&dir).envs(&server.env_through("http://bucket.test:9")).env("HTTP_PROXY", &refused);
    let out = plugin.arg("status").output().code(1);
    let want = format!(" through the proxy {}: Connection refused", refused.trim_start_matches("http://"));
    assert!(out.stdout.contains(&want), "{want}{}", out.describe());
    // modules
    let upstream = format!("--upstream={refused}");
    let modules = Server::start(&dir, &["--modproxy", "--mod-verify=off", &upstream]);
    let (_, text) = modules.get("example.com/m/@v/v1.0.0.zip");
    assert!(text.contains(&format!("{refused}/example.com/m/@v/v1.0.0.zip: Connection refused")), "{text}");
    // what is not uploaded, and why
    let proxy = FaultProxy::start(&server.endpoint);
    proxy.only("PUT");
    for (fault, timeout, bodies, count, why) in [
        (Fault::BlackHole, "0", 1, "1 upload stays", "took no more uploads within --close-timeout (0ns)"),
        (Fault::Status(403), "30s", 2, "2 uploads stay", "takes no writes: status 403"),
    ] {
        proxy.set(fault);
        let plugin = Plugin::new(&TempDir::new()).envs(&server.env_through(&proxy.endpoint)).arg("--no-readahead");
        let mut s = Session::start(plugin.arg(format!("--close-timeout={timeout}")));
        s.put_all(&(0..bodies).map(|n| noise(n, 100)).collect::<Vec<_>>());
        let out = s.end();
        let want = format!("bucket s3://cache-bucket/pre/fix at {} (us-east-1): {why}", proxy.endpoint);
        let [line] = said(&out)[..] else { panic!("{}", out.describe()) };
        let left = format!("; {count} marked for the next start");
        assert!(line.contains(&want) && line.ends_with(&left), "{want}{left}{}", out.describe());
    }
}
