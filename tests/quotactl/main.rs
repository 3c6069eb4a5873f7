//! `quotactl` as its users run it: a process, beside servers that are processes or sockets, too.
//!
//! What it prints is held against `transcripts`; `SNAPSHOTS=overwrite` writes those anew, to be read before they are
//! committed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod client;
mod commands;
mod connect;
mod files;
mod host;
#[cfg(unix)]
mod monitor;
#[cfg(unix)]
#[path = "../serve/host.rs"]
#[allow(dead_code, reason = "the tests of `serve` need more of it")]
mod service;
mod transcript;
