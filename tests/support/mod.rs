//! What several of the end-to-end tests need: a client that is nothing but a socket, reproducible randomness, a Postgres
//! server, a pooler and a network that fails in front of it, a database that remembers the most rows that it ever held, and hosts.

#![allow(dead_code)]

use std::env;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) mod client;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) mod database;
#[cfg(feature = "metrics")]
pub(crate) mod exported;
#[cfg(feature = "postgres")]
pub(crate) mod pooler;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "postgres")]
pub(crate) mod proxy;
pub(crate) mod python;
#[cfg(all(feature = "sqlite", feature = "postgres", feature = "api", feature = "toml"))]
pub(crate) mod quickstart;
pub(crate) mod random;
#[cfg(all(feature = "api", feature = "webhooks"))]
pub(crate) mod receiver;
#[cfg(all(feature = "postgres", feature = "axum"))]
pub(crate) mod replica;
#[cfg(feature = "email")]
pub(crate) mod smtp;

/// An example's binary, which cargo puts beside the folder of the tests. `cargo test` builds it; `cargo test --test
/// NAME` does not, and would test an old one: run `cargo build --example` before that.
pub(crate) fn example(name: &str) -> PathBuf {
    let tests = env::current_exe().unwrap();
    let profile = tests.parent().and_then(Path::parent).unwrap();
    let binary = profile.join("examples").join(format!("{name}{}", env::consts::EXE_SUFFIX));
    assert!(binary.exists(), "{} is missing: run `cargo build --example {name}`", binary.display());
    binary
}

/// Tries until `condition` holds, and fails when it never does.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
