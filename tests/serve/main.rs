//! `quotactl serve` as its users run it: a process, on a real database, told what to do by signals.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(unix)]

#[path = "../support/mod.rs"]
mod support;

mod claims;
mod contrib;
mod dashboard;
mod files;
mod host;
mod kubernetes;
mod life;
mod options;
mod reload;
mod sources;
mod starts;
mod tls;
