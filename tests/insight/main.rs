//! Usage over time: who takes snapshots, what is kept of them, and what is told, on SQLite and on replicas that share a
//! Postgres database.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod analytics;
mod example;
mod host;
mod reports;
mod snapshots;
