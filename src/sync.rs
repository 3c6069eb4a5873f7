//! The synchronisation primitives of the ledger, under one name: the interleaving checks compile the ledger with
//! instrumented ones in their place.

pub(crate) use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) mod atomic {
    pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
}
