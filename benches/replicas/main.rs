//! What exactness over several replicas costs: `cargo bench --bench replicas`.
//!
//! Two replicas on a Postgres server that keeps what was committed, with requests over sockets. Other ways to keep a limit
//! stand beside ours, in the same processes and on the same pools, and take turns in short batches, so that a machine that
//! slows down for a while slows all of them down.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark that can't be set up has nothing to measure"
)]

#[allow(dead_code, reason = "the drain takes from it what it needs")]
#[path = "../../checks/src/authority.rs"]
mod authority;
mod decisions;
mod drain;
mod host;
mod inserts;
mod ledger;
#[allow(dead_code, reason = "the checks need more of it")]
#[path = "../../checks/src/round_trips.rs"]
mod round_trips;
#[allow(dead_code, reason = "the benchmarks take from it what each needs")]
#[path = "../rounds.rs"]
mod rounds;
#[allow(dead_code, reason = "the tests need more of it")]
mod support;

use host::Replica;
use rounds::Ratios;
use support::postgres::{Durability, Server};

fn main() {
    // Not under `cargo test`, which doesn't say `--bench`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let server = Server::start(Durability::Full);
    let url = server.database();
    host::make_tables(&url);
    let replicas: Vec<_> = (0..2).map(|_| Replica::start(&url)).collect();
    let mut ratios = Ratios::default();
    inserts::ratios(&url, &replicas, &mut ratios);
    decisions::ratios(&url, &replicas, &mut ratios);
    drop(replicas);
    drain::table();

    println!();
    ratios.print();
}
