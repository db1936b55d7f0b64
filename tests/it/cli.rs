//! The command line of the real binary: exit codes and what goes to which stream.

use crate::support::env::{Plugin, TempDir};

#[test]
fn a_wrong_command_line_is_one_line_and_exit_code_2() {
    let dir = TempDir::new();
    for args in [
        &["--bukcet=x"][..],
        &["frobnicate"],
        &["serve"],
        &["serve", "--plugin=1", "--modproxy"],
        &["run"],
        &["connect"],
        &["--plugin=1"],
        &["--expiry=1d"],
        &["--bucket=some", "--signing-key-file=/nonexistent"],
        &["help", "frobnication"],
    ] {
        let out = Plugin::new(&dir).args(args).output().code(2);
        assert!(out.stdout.is_empty(), "{}", out.describe());
        assert!(out.stderr.starts_with("go-cache-plugin: "), "{}", out.describe());
        assert_eq!(out.stderr.lines().count(), 1, "{}", out.describe());
    }
    let out = Plugin::new(&dir).env("GOCACHE_S3_CONCURRENCY", "many").output().code(2);
    assert!(out.stderr.starts_with("go-cache-plugin: GOCACHE_S3_CONCURRENCY \"many\": "), "{}", out.describe());
    assert!(!dir.join("cache").exists(), "a wrong command line leaves no trace");
}

#[test]
fn help_and_version_go_to_stdout() {
    let dir = TempDir::new();
    for args in [&["help"][..], &["--help"], &["-h"], &["serve", "--help"], &["help", "configure"]] {
        let out = Plugin::new(&dir).args(args).output().ok().quiet();
        assert!(out.stdout.contains("go-cache-plugin"), "{}", out.describe());
    }
    let out = Plugin::new(&dir).arg("version").output().ok().quiet();
    assert_eq!(out.stdout.lines().count(), 1);
    assert!(out.stdout.starts_with(concat!("go-cache-plugin ", env!("CARGO_PKG_VERSION"), " (")), "{}", out.describe());
    assert!(!dir.join("cache").exists());
}

#[test]
fn an_unset_home_asks_for_a_directory() {
    let dir = TempDir::new();
    let out = Plugin::new(&dir).env("GOCACHE_DIR", "").env("HOME", "").arg("status").output().code(2);
    assert!(out.stderr.contains("give --cache-dir"), "{}", out.describe());
}
