//! The integration tests: one binary, one file for each side of the program.

mod remote;
mod support;
