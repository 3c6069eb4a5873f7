//! The books of one key: at the authority itself, or at a replica that has units on lease.

use super::key::KeyState;
use super::lease::LeaseState;

#[derive(Debug)]
pub(crate) enum Book {
    /// This process grants units by what it counted.
    Own(KeyState),
    /// Another place does, for all replicas.
    // Boxed so that it takes no room where there are no replicas.
    Leased(Box<LeaseState>),
}

impl Book {
    /// Rows by the last count and those posted since; `None` before the first count.
    pub(crate) fn rows(&self) -> Option<u64> {
        match self {
            Self::Own(key) => key.rows(),
            Self::Leased(lease) => lease.known().map(|known| known.counted.saturating_add(known.posted)),
        }
    }

    /// Rows at the last count; `None` before the first.
    pub(crate) fn counted(&self) -> Option<u64> {
        match self {
            Self::Own(key) => key.counted(),
            Self::Leased(lease) => lease.known().map(|known| known.counted),
        }
    }

    /// Units of requests in flight, beside the rows.
    pub(crate) fn reserved(&self) -> u64 {
        match self {
            Self::Own(key) => key.reserved(),
            Self::Leased(lease) => lease.known().map_or(lease.held(), |known| known.reserved),
        }
    }

    /// Rows and units of requests in flight, but for what others have in store.
    pub(crate) fn used(&self) -> u64 {
        match self {
            Self::Own(key) => key.rows().unwrap_or(0).saturating_add(key.reserved()),
            Self::Leased(lease) => lease.used(),
        }
    }

    /// Whether no request of this process is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        match self {
            Self::Own(key) => key.is_idle(),
            Self::Leased(lease) => lease.is_idle(),
        }
    }

    /// Whether a request of any process is in flight, as far as is known.
    pub(crate) fn in_flight(&self) -> bool {
        match self {
            Self::Own(key) => !key.is_idle(),
            Self::Leased(lease) => lease.others_in_flight(),
        }
    }

    /// How many units can be handed out now.
    pub(crate) fn headroom(&self, limit: Option<u64>) -> u64 {
        match self {
            Self::Own(key) => key.headroom(limit),
            Self::Leased(lease) => lease.headroom(),
        }
    }

    /// How many units could be granted, as far as is known.
    pub(crate) fn remaining(&self, limit: Option<u64>) -> u64 {
        match self {
            Self::Own(key) => key.headroom(limit),
            Self::Leased(lease) => lease.known().map_or(0, |known| {
                let taken = known.counted.saturating_add(known.posted).saturating_add(known.reserved);
                known.limit.map_or(u64::MAX, |limit| limit.saturating_sub(taken)).saturating_add(lease.headroom())
            }),
        }
    }

    /// The limit in force: the authority's, where there is another.
    pub(crate) fn limit(&self, limit: Option<u64>) -> Option<u64> {
        match self {
            Self::Own(_) => limit,
            Self::Leased(lease) => lease.known().map_or(limit, |known| known.limit),
        }
    }

    /// Hands out `units`, all or none.
    pub(crate) fn grant(&mut self, units: u64, limit: Option<u64>) -> bool {
        match self {
            Self::Own(key) => key.grant(units, limit),
            Self::Leased(lease) => {
                let fits = units <= lease.headroom();
                if fits {
                    lease.hold(units);
                }
                fits
            }
        }
    }

    /// Hands out `units`, whether there are that many or not.
    pub(crate) fn force(&mut self, units: u64) {
        match self {
            Self::Own(key) => key.force(units),
            Self::Leased(lease) => lease.hold(units),
        }
    }

    /// `units` became rows, or may have.
    pub(crate) fn post(&mut self, units: u64) {
        match self {
            Self::Own(key) => key.post(units),
            Self::Leased(lease) => lease.post(units),
        }
    }

    /// `units` can't become rows any more.
    pub(crate) fn give_back(&mut self, units: u64) {
        match self {
            Self::Own(key) => key.give_back(units),
            Self::Leased(lease) => lease.give_back(units),
        }
    }

    /// An edit of `units` rows begins.
    pub(crate) fn begin_edit(&mut self, units: u64) {
        match self {
            Self::Own(key) => key.begin_edit(units),
            Self::Leased(lease) => lease.begin_edit(units),
        }
    }

    /// The edit of `units` rows has ended.
    pub(crate) fn end_edit(&mut self, units: u64) {
        match self {
            Self::Own(key) => key.end_edit(units),
            Self::Leased(lease) => lease.end_edit(units),
        }
    }

    /// `rows` were deleted, by the word of whoever did it.
    pub(crate) fn delete(&mut self, rows: u64) {
        match self {
            Self::Own(key) => key.delete(rows),
            // Who waits asks again, and the authority counts.
            Self::Leased(_) => {}
        }
    }

    /// The limit has changed.
    pub(crate) fn limit_changed(&mut self) {
        match self {
            Self::Own(_) => {}
            Self::Leased(lease) => lease.limit_changed(),
        }
    }

    /// Nothing is known of the rows any more.
    pub(crate) fn forget(&mut self) {
        match self {
            Self::Own(key) => key.forget(),
            Self::Leased(lease) => lease.forget(),
        }
    }
}
