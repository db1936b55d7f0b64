//! The integration tests: one binary, one file for each side of the program.

#![allow(clippy::print_stderr)] // tests say what they leave behind, and what cannot be tried here

mod bucket;
mod cli;
mod connections;
mod dependencies;
mod direct;
mod faults;
mod modproxy;
mod remote;
mod revproxy;
mod shutdown;
mod status;
mod streams;
mod support;
mod toolchain;
