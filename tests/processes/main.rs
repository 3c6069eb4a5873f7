//! Copies of the example `quickstart` on one Postgres server, as processes that are killed, paused, cut off and replaced:
//! never a row too many, never a 429 for a fault, and no unit that is lost for good. And works over many rows that outlive
//! their processes, on SQLite, too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod crashes;
mod database;
mod fleet;
mod network;
mod pauses;
mod rolling;
mod storms;
#[cfg(all(feature = "webhooks", feature = "email"))]
mod warnings;
mod works;
