//! The library's own state of a lease, which it keeps to itself.
#![allow(dead_code, reason = "a drain needs less of it than the engine does")]

#[path = "../../src/ledger/lease.rs"]
mod lease;

pub(crate) use lease::{Answer, Ask, Known, LeaseState, Totals};
