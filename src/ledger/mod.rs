//! Who may still create: the bookkeeping that keeps a limit exact.
//!
//! Rows in the host's tables are the truth. Beside them a *key* (one resource type of one workspace) has units that
//! requests in flight may still turn into rows. The upper bound of rows, `counted + posted + leased`, never passes the
//! limit, and moves only when a count of the rows says so or a unit is given back unused.
//!
//! Layers, none of which does I/O or reads a clock:
//!
//! - [`KeyState`]: the rules as a pure state machine;
//! - [`LeaseState`](lease::LeaseState): the same at a replica, which has units on lease from an authority elsewhere;
//! - [`Pool`]: units leased in advance, in one atomic word, so that the common admission is one compare-and-swap;
//! - [`Cell`]: both together with the queue of those who must wait for a count.

mod book;
mod cell;
mod key;
mod lease;
mod pool;

pub(crate) use cell::{Admission, Cell, Round, Standing, Step, Verdict, retire_all};
#[cfg(feature = "postgres")]
pub(crate) use lease::Known;
pub(crate) use lease::{Answer, Ask, Totals};

#[cfg(test)]
mod tests;
