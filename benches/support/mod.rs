//! What the benches share.
#![allow(dead_code, reason = "every bench is a crate of its own and uses a part of this")]

pub mod args;
pub mod bodies;
pub mod change;
pub mod client;
pub mod crowd;
pub mod files;
pub mod golang;
pub mod memory;
pub mod plugin;
pub mod s3;
pub mod s3server;
pub mod scratch;
pub mod setup;
pub mod shim;
pub mod sigv4;
pub mod table;
pub mod tarball;
pub mod turns;
pub mod wire;

/// Errors end a bench; there is nothing to tell apart.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The program under test: under `cargo bench`, the release build.
pub const PLUGIN: &str = env!("CARGO_BIN_EXE_go-cache-plugin");

/// Runs a bench's main function, or one of the helper processes that the bench starts itself as.
pub fn main(bench: fn(&args::Args) -> Result<()>) -> std::process::ExitCode {
    let argv: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match argv.first().map(String::as_str) {
        Some(s3server::SERVE) => s3server::serve().map_err(Into::into),
        Some(memory::MEMORY) => memory::serve(&argv[1]),
        Some(plugin::WATCH) => return plugin::watch(&argv[1..]),
        // `cargo test --all-targets` starts benches without this: nothing to do there
        _ if !argv.iter().any(|a| a == "--bench") => Ok(()),
        _ => args::Args::new(argv).and_then(|a| {
            turns::choose(&a)?;
            bench(&a)?;
            table::worst();
            Ok(())
        }),
    };
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            table::progress(&format!("bench: {e}"));
            std::process::ExitCode::FAILURE
        }
    }
}
