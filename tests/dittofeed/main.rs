//! `maps/dittofeed.toml` and its configuration, as they are put into force: two gateways on one Postgres, in front of a
//! stand-in for Dittofeed that checks nothing and has races of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(unix)]

#[path = "../support/mod.rs"]
mod support;

mod host;
mod paths;
mod rows;
mod storms;
mod users;
