//! What `.github/release.py` makes of built binaries, installed and looked at. `.ci/release` does it with real ones.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::env::{TempDir, binary, run, scrubbed};
use crate::support::upstream::Upstream;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs a program of the repository, or of the machine.
fn command(dir: &TempDir, program: &str) -> Command {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join(program);
    let mut command = scrubbed(if ours.exists() { ours.as_path() } else { Path::new(program) }, &dir.dir("home"));
    command.env("SOURCE_DATE_EPOCH", "1700000000").env("PIP_DISABLE_PIP_VERSION_CHECK", "1").current_dir(dir.path());
    command
}

#[test]
fn archives_wheels_checksums_and_the_sbom_of_a_release() {
    let dir = TempDir::new();
    let server = Upstream::start(dir.path());
    // the binary under test is not static: beside what it says of itself, that matters to nobody here
    for target in ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"] {
        let said = format!("go-cache-plugin {VERSION} ({target})");
        let script = format!("#!/bin/sh\n[ \"$*\" != version ] || exec echo '{said}'\nexec '{}' \"$@\"\n", binary());
        let path = dir.write(&format!("binaries/{target}/go-cache-plugin"), &script);
        fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap(); // as artifacts lose it
    }
    // what is for Windows runs nowhere here
    dir.write("binaries/x86_64-pc-windows-gnu/go-cache-plugin.exe", "MZ");
    let releases = format!("{}/releases", server.url());
    let release = |out: &str| {
        let mut command = command(&dir, ".github/release.py");
        command.args(["binaries", out, &releases]);
        run(command).ok().quiet();
    };
    let made = format!("releases/download/v{VERSION}");
    release(&made);
    release("again");
    let mut diff = command(&dir, "diff");
    diff.args(["-r", &made, "again"]);
    run(diff).ok();

    // the installer of the release needs no variable; of another build it must not say that it runs
    let mut install = command(&dir, "sh");
    install.arg(dir.join(&made).join("install.sh"));
    let out = run(install).ok();
    let program = dir.join("home/.local/bin/go-cache-plugin");
    assert!(out.stdout.ends_with(&format!("{}\n", program.display())), "{}", out.describe());
    for (target, program) in
        [("aarch64-unknown-linux-musl", "go-cache-plugin"), ("x86_64-pc-windows-gnu", "go-cache-plugin.exe")]
    {
        let mut tar = command(&dir, "tar");
        tar.arg("-tzf").arg(dir.join(&made).join(format!("go-cache-plugin-{target}.tar.gz")));
        let list = run(tar).ok().stdout;
        for name in ["LICENSE", "README.md", program, "go-cache-plugin.1", "completions/_go-cache-plugin"] {
            assert!(list.contains(&format!("go-cache-plugin-{target}/{name}\n")), "{name}: {list}");
        }
    }

    // pip chooses the wheel of this machine; on Windows it is told its program by name
    let mut wheel = command(&dir, "python3");
    let name = format!("{made}/wheels/go_cache_plugin-{VERSION}-py3-none-win_amd64.whl");
    wheel.args(["-m", "zipfile", "--list", &name]);
    assert!(run(wheel).ok().stdout.contains(".data/scripts/go-cache-plugin.exe "));
    let mut pip = command(&dir, "python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-warn-script-location",
        "--root-user-action=ignore",
    ]);
    pip.args(["--target", "pip", "--find-links", &format!("{made}/wheels"), "go-cache-plugin"]);
    run(pip).ok();
    let out = run(command(&dir, dir.join("pip/bin/go-cache-plugin").to_str().unwrap())).ok();
    assert!(out.stdout.contains("KnownCommands"), "it speaks the protocol: {}", out.describe());

    let sbom: Value = serde_json::from_slice(&fs::read(dir.join(&made).join("sbom.cdx.json")).unwrap()).unwrap();
    let components = sbom["components"].as_array().unwrap();
    let zstd = components.iter().find(|c| c["name"] == "zstd-sys").expect("zstd-sys is linked");
    assert_eq!(zstd["hashes"][0]["content"].as_str().map(str::len), Some(64), "{zstd}");
    assert!(components.iter().all(|c| c["name"] != "tokio"), "only tests use it");
    for name in ["amd64/go-cache-plugin", "arm64/go-cache-plugin", "ca-certificates.crt"] {
        assert!(dir.join(&made).join("image").join(name).is_file(), "{name}");
    }
}

#[test]
fn the_workflow_builds_what_install_and_wheels_know() {
    let read = |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let workflow = read(".github/workflows/release.yml");
    let targets: Vec<&str> = workflow
        .lines()
        .filter_map(|l| l.split("target: ").nth(1)?.split(',').next())
        .filter(|t| !t.contains('$'))
        .collect();
    assert_eq!(targets.len(), 5, "{targets:?}");
    let (release, check) = (read(".github/release.py"), read(".ci/targets"));
    for target in targets {
        assert!(release.contains(&format!("\"{target}\": \"")) && check.contains(target), "{target}");
    }
}
