//! What the engine tells of itself: each metric, after what it tells of has happened.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod decisions;
mod deliveries;
mod holdings;
mod host;
#[path = "../events/receiver.rs"]
#[allow(dead_code, reason = "these tests need less of it")]
mod receiver;
mod replicas;
mod rows;
