//! Proxies that ask before they forward: a real nginx, and what Envoy sends over gRPC.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(unix)]

#[path = "../support/mod.rs"]
mod support;

mod contrib;
mod envoy;
mod files;
mod nginx;
mod refusals;
