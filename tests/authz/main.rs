//! Proxies that ask before they forward: a real nginx, and what Envoy sends over gRPC.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(unix)]

#[path = "../support/mod.rs"]
mod support;

mod contrib;
mod envoy;
mod files;
#[path = "../serve/host.rs"]
#[allow(dead_code, reason = "the tests of `serve` need more of it")]
mod host;
mod nginx;
mod refusals;
mod serve;
