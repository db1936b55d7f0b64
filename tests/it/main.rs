//! The integration tests: one binary, one file for each side of the program.

mod cli;
mod dependencies;
mod modproxy;
mod remote;
mod revproxy;
mod status;
mod support;
mod toolchain;
