//! What we build on is named, with its licences; .ci/deny says which of them are allowed.

use std::collections::BTreeSet;
use std::process::Command;

use crate::support::env::{Plugin, TempDir};

/// `flag` with each target that a release is built for.
fn each_target(flag: &'static str) -> impl Iterator<Item = &'static str> {
    let (_, targets) = include_str!("../../.ci/targets").split_once("TARGETS='").expect("the list of targets");
    targets.split('\'').next().unwrap().split_whitespace().flat_map(move |target| [flag, target])
}

fn cargo(args: &[&str]) -> String {
    let out = Command::new(env!("CARGO"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap_or_else(|e| panic!("cargo {args:?}: {e}"));
    assert!(out.status.success(), "cargo {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("cargo writes UTF-8")
}

#[test]
fn version_names_every_package_that_is_linked_and_its_licence() {
    let dir = TempDir::new();
    let said = Plugin::new(&dir).args(["version", "--licenses"]).output().ok().quiet().stdout;
    let (_, table) = said.split_once("\n\n").expect("a table after the first line");
    let (table, texts) = table.split_once("\n\n").expect("texts after the table");
    // not cargo's: the standard library and what a static binary has of the system
    let mine = |line: &&str| !line.starts_with("rust-std  ") && !line.starts_with("musl  ");
    let listed: BTreeSet<&str> = table.lines().map(str::trim_start).filter(mine).collect();

    let mut args = vec!["tree", "--locked", "-e", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}  {l}"];
    args.extend(each_target("--target"));
    let tree = cargo(&args).replace(" (*)", "");
    // "name v1.2.3  LICENCE"; a path dependency, ourselves, has its path in between
    let linked: BTreeSet<String> = tree
        .lines()
        .filter(|line| line.contains("  ") && !line.contains(" (/"))
        .map(|line| line.replacen(" v", " ", 1))
        .collect();
    let linked: BTreeSet<&str> = linked.iter().map(String::as_str).collect();
    let differ: Vec<_> = linked.symmetric_difference(&listed).collect();
    assert!(differ.is_empty(), "run .ci/licenses: it and cargo differ in {differ:?}");
    for package in listed {
        let name = package.split("  ").next().unwrap();
        let whose =
            |line: &str| line.strip_prefix("  ").is_some_and(|l| l == name || l.starts_with(&format!("{name}: ")));
        assert!(texts.lines().any(whose), "a text is said to be that of {name}");
    }
}
