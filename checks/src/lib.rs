//! Interleaving checks: the ledger's own source, compiled with loom's synchronisation primitives, and run through every
//! order in which its threads can meet.
//!
//! `cargo test -p tower-quota-checks`

#[cfg(test)]
mod authority;
#[cfg(test)]
mod costs;
#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod ledger;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod round_trips;
#[cfg(test)]
mod sync;
