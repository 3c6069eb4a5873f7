//! Proxies that ask before they forward: a real nginx, a real Envoy, and what else Envoy could send over gRPC.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(unix)]

#[path = "../support/mod.rs"]
mod support;

mod envoy;
mod envoy_proxy;
mod files;
#[path = "../serve/host.rs"]
#[allow(dead_code, reason = "the tests of `serve` need more of it")]
mod host;
mod keeper;
mod nginx;
mod refusals;
mod serve;
