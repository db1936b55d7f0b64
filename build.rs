//! Tells the program which target it is built for, which `version` prints.

fn main() {
    let target = std::env::var("TARGET").expect("cargo sets TARGET for build scripts");
    println!("cargo::rustc-env=GO_CACHE_PLUGIN_TARGET={target}");
    println!("cargo::rerun-if-changed=build.rs");
}
