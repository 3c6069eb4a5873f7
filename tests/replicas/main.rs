//! Several replicas on one Postgres database, over real sockets: no row too many, and no unit that can't be used.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

use support::replica as host;

mod backstop;
mod failover;
mod limits;
mod pooler;
mod statements;
mod storms;
