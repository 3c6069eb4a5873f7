//! What several of the end-to-end tests need: a client that is nothing but a socket, reproducible randomness, and a
//! database that remembers the most rows that it ever held.

#![allow(dead_code)]

pub(crate) mod client;
pub(crate) mod database;
pub(crate) mod random;
