//! What several of the end-to-end tests need: a client that is nothing but a socket, reproducible randomness, a Postgres
//! server, and a database that remembers the most rows that it ever held.

#![allow(dead_code)]

pub(crate) mod client;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) mod database;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
pub(crate) mod random;
