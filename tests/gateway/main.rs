//! The gateway, with the layer around it, between real sockets: upstreams and clients that are nothing but bytes, and `quotactl
//! serve` in front of an API.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

#[path = "../layer/rows.rs"]
#[allow(dead_code)]
mod rows;

#[path = "../layer/shop.rs"]
mod shop;

#[path = "../serve/host.rs"]
#[allow(dead_code)]
mod host;

mod failures;
mod forwarding;
mod front;
mod grpc;
mod serve;
mod smuggling;
mod upgrades;
mod upstream;
mod versions;
