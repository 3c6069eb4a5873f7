//! The layer around servers other than the quickstart's: plain hyper, tonic, nested axum routers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod grpc;
mod http1;
mod nested;
mod rows;
mod shop;
