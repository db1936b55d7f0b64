//! The integration tests: one binary, one file for each side of the program.

mod blobs;
mod bucket;
mod cli;
mod dependencies;
mod direct;
mod doctor;
mod faults;
mod guard;
mod kill;
mod modproxy;
mod remote;
mod revproxy;
mod shutdown;
mod signing;
mod status;
mod support;
mod toolchain;
mod truth;
