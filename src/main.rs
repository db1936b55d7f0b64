//! The executable: parses the command line, runs the command, and maps its outcome to an exit code.

use std::process::ExitCode;

use go_cache_plugin::cli::{self, PROGRAM};
use go_cache_plugin::command;
use go_cache_plugin::error::Error;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let env = std::env::vars_os().collect();
    let outcome = std::env::current_dir()
        .map_err(|e| Error::failed(format!("working directory: {e}")))
        .and_then(|cwd| cli::parse(&args, &env, &cwd))
        .and_then(command::execute);
    match outcome {
        Ok(exit) => exit,
        Err(e) => {
            command::say(format_args!("{PROGRAM}: {e}"));
            e.exit()
        }
    }
}
