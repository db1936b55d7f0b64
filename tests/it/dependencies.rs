//! What we build on: no async runtime in the product, one TLS stack, and licences that deny.toml
//! allows. Advisories need a database from the network: `cargo deny`, see README.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

const DENY: &str = include_str!("../../.ci/deny.toml");
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Crates of the product, by name: their versions.
fn normal() -> BTreeMap<String, BTreeSet<String>> {
    let args = ["tree", "--locked", "-e", "normal", "--prefix", "none", "--format", "{p}", "--target", TARGET];
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
    let args = ["metadata", "--locked", "--format-version", "1", "--filter-platform", TARGET];
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
