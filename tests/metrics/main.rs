//! What the engine tells of itself: each metric, after what it tells of has happened.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod decisions;
mod deliveries;
mod holdings;
mod host;
mod replicas;
mod rows;
