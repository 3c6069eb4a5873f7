//! The example `quickstart`, as a process, over real sockets, on a real SQLite file or a real Postgres server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod input;
mod limits;
mod paths;
mod process;
mod starts;
mod storms;
