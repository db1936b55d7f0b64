//! The integration tests: one binary, one file for each side of the program.

mod modproxy;
mod remote;
mod support;
