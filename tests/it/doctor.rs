//! `doctor` and `status` say what the bucket answered, to a read and to a write.

use crate::support::env::{Output, Plugin, TempDir};
use crate::support::fault::{Fault, FaultProxy};
use crate::support::go;
use crate::support::s3::S3Server;

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
        say(&both(&with("AWS_SECRET_ACCESS_KEY", "wrong"), flags, 1), &["SignatureDoesNotMatch", &server.endpoint]);
        say(&both(&with("GOCACHE_S3_BUCKET", "no-such"), flags, 1), &["no such bucket", "s3://no-such"]);
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
