//! The integration tests: one binary, one file for each side of the program.

#![allow(clippy::print_stderr)] // tests say what they leave behind, and what cannot be tried here

mod action;
mod blobs;
mod bucket;
mod cli;
mod connections;
mod credentials;
mod dependencies;
mod direct;
mod disk;
mod doctor;
mod environment;
mod faults;
mod firstday;
mod guard;
mod httpcache;
mod install;
mod kill;
mod life;
mod modproxy;
mod modules;
mod packs;
mod pages;
mod recipes;
mod release;
mod remote;
mod revproxy;
mod run;
mod settle;
mod shells;
mod shutdown;
mod signing;
mod signs;
mod status;
mod streams;
mod sums;
mod support;
mod toolchain;
mod truth;
mod tunnel;
mod web;
