//! What we build on: no async runtime in the product, one TLS stack, and licences that deny.toml
//! allows. Advisories need a database from the network: `cargo deny`, see README.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::support::env::{Plugin, TempDir};

const DENY: &str = include_str!("../../.ci/deny.toml");

/// `flag` with each target that a release is built for.
fn each_target(flag: &'static str) -> impl Iterator<Item = &'static str> {
    let (_, targets) = include_str!("../../.ci/targets").split_once("TARGETS='").expect("the list of targets");
    targets.split('\'').next().unwrap().split_whitespace().flat_map(move |target| [flag, target])
}

/// Crates of the product, by name: their versions.
fn normal() -> BTreeMap<String, BTreeSet<String>> {
    let mut args = vec!["tree", "--locked", "-e", "normal", "--prefix", "none", "--format", "{p}"];
    args.extend(each_target("--target"));
    let mut crates: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in cargo(&args).lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            crates.entry(name.to_string()).or_default().insert(version.to_string());
        }
    }
    assert!(crates.contains_key("rust-s3"), "cargo tree lists our dependencies: {crates:?}");
    crates
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

/// The quoted strings of the list `name = [...]` in deny.toml.
fn listed(name: &str) -> Vec<&'static str> {
    let (_, after) = DENY.split_once(&format!("\n{name} = [")).unwrap_or_else(|| panic!("no list {name}"));
    let (list, _) = after.split_once("\n]").expect("the list ends");
    list.lines().filter_map(|line| line.split('"').nth(1)).collect()
}

/// Whether a licence expression can be met with the licences of `allow`. Parentheses are ignored,
/// which asks for more than the expression does, never for less.
fn allowed(expression: &str, allow: &[&str]) -> bool {
    let flat = expression.replace(['(', ')'], "").replace('/', " OR ");
    flat.split(" AND ").all(|part| part.split(" OR ").any(|one| allow.contains(&one.trim())))
}

#[test]
fn the_product_has_no_async_runtime_and_one_tls_stack() {
    let crates = normal();
    for banned in listed("deny") {
        assert!(!crates.contains_key(banned), "{banned} is a dependency of the product");
    }
    for single in ["rustls", "ring", "ureq"] {
        assert_eq!(crates.get(single).map(BTreeSet::len), Some(1), "versions of {single}");
    }
}

#[test]
fn every_licence_is_allowed() {
    let allow = listed("allow");
    assert!(each_target("").filter(|word| !word.is_empty()).eq(listed("targets")), "deny.toml has other targets");
    let mut args = vec!["metadata", "--locked", "--format-version", "1"];
    args.extend(each_target("--filter-platform"));
    let metadata: Value = serde_json::from_str(&cargo(&args)).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 50, "metadata lists them all");
    let refused: Vec<String> = packages
        .iter()
        .filter(|p| !p["license"].as_str().is_some_and(|expression| allowed(expression, &allow)))
        .map(|p| format!("{}: {}", p["name"], p["license"]))
        .collect();
    assert!(refused.is_empty(), "licences that deny.toml does not allow: {refused:#?}");
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

#[test]
fn licence_expressions() {
    let allow = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"];
    for yes in ["MIT", "GPL-3.0 OR MIT", "MIT/Apache-2.0", "(MIT OR X) AND ISC", "Apache-2.0 WITH LLVM-exception OR X"]
    {
        assert!(allowed(yes, &allow), "{yes}");
    }
    for no in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND X", "Apache-2.0", ""] {
        assert!(!allowed(no, &allow), "{no}");
    }
}
