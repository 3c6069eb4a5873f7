//! The library's ledger, file by file. Only its property tests are left out: loom's primitives work in models only.
#![allow(dead_code, reason = "the checks need less of the ledger than the engine does")]

#[path = "../../src/ledger/book.rs"]
mod book;
#[path = "../../src/ledger/cell.rs"]
mod cell;
#[path = "../../src/ledger/key.rs"]
mod key;
#[path = "../../src/ledger/lease.rs"]
mod lease;
#[path = "../../src/ledger/pool.rs"]
mod pool;

pub(crate) use cell::{Admission, Cell, Step, Verdict, retire_all};
pub(crate) use lease::{Answer, Ask, Known, LeaseState, Totals};
