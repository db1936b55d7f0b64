//! The integration tests: one binary, one file for each side of the program.

mod bucket;
mod cli;
mod dependencies;
mod direct;
mod doctor;
mod faults;
mod guard;
mod modproxy;
mod remote;
mod revproxy;
mod shutdown;
mod status;
mod support;
mod toolchain;
