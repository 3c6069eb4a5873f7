//! Handlers that fail, panic, hang and are cut off, and counts that can't be had, behind the layer, over real sockets, on
//! a real SQLite file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod edits;
mod faults;
mod handlers;
mod host;
