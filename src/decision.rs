//! Demands, and what is decided about them: pure values, no clock, no I/O.

use std::sync::Arc;
use std::time::Duration;

use crate::limit::Limit;
use crate::mode::Promise;
use crate::resource::{ResourceId, ResourceType};
use crate::workspace::WorkspaceId;

/// Units of one resource type that a request may turn into rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Demand {
    /// Of what.
    pub resource: ResourceId,
    /// How many rows at most.
    pub units: u64,
}

impl Demand {
    /// A demand for `units` rows of `resource`.
    pub const fn new(resource: ResourceId, units: u64) -> Self {
        Self { resource, units }
    }

    /// A demand for one row of `resource`.
    pub const fn one(resource: ResourceId) -> Self {
        Self::new(resource, 1)
    }
}

/// A demand of a request, and what may be there already.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResolvedCharge {
    /// Of what.
    pub resource: ResourceId,
    /// How many, or how many at most.
    pub units: u64,
    /// What may be there already.
    pub existing: Existing,
    /// Whether only a count after the response can tell how many of the units became rows.
    pub settle_by_count: bool,
}

impl ResolvedCharge {
    /// A charge for rows that are new.
    pub const fn new(demand: Demand) -> Self {
        Self { resource: demand.resource, units: demand.units, existing: Existing::No, settle_by_count: false }
    }

    /// What it comes to if none of its rows is there already.
    pub const fn demand(&self) -> Demand {
        Demand::new(self.resource, self.units)
    }
}

/// Rows that may be there already, so that making them makes nothing new.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Existing {
    /// There is nothing to look up.
    No,
    /// All of the units are one row, if there is one with this value.
    Row {
        /// The column to look in.
        column: Arc<str>,
        /// The value to look for.
        value: String,
        /// Whether a row that isn't counted is one, too.
        uncounted: bool,
    },
    /// Each of the units is a row of its own, if there is one with its value.
    Rows {
        /// The column to look in.
        column: Arc<str>,
        /// The values to look for, as many as there are units. They are all different, but for numbers and strings that
        /// are spelled alike, such as `1` and `"1"`.
        values: Vec<String>,
    },
}

/// How many rows there are, beside how many there may be.
///
/// ```
/// use tower_quota::{Limit, Usage};
///
/// let usage = Usage { current: 45, limit: Limit::of(50) };
/// assert_eq!((usage.percent(), usage.remaining()), (90, Some(5)));
/// assert!(!usage.would_exceed(5) && usage.would_exceed(6));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Rows that exist.
    pub current: u64,
    /// The limit in force.
    pub limit: Limit,
}

impl Usage {
    /// Usage in whole percent of the limit, rounded down: 100 appears only at the limit or above it. A limit of 0 is
    /// always 100, unlimited is always 0.
    pub fn percent(self) -> u64 {
        match self.limit.rows() {
            None => 0,
            Some(0) => 100,
            Some(limit) => {
                let percent = u128::from(self.current) * 100 / u128::from(limit);
                u64::try_from(percent).unwrap_or(u64::MAX)
            }
        }
    }

    /// How many more rows the limit allows; `None` without a limit, 0 at the limit and above it.
    pub fn remaining(self) -> Option<u64> {
        self.limit.rows().map(|limit| limit.saturating_sub(self.current))
    }

    /// Whether `units` more rows would be over the limit.
    pub fn would_exceed(self, units: u64) -> bool {
        self.remaining().is_some_and(|remaining| units > remaining)
    }
}

/// Why a demand was refused, with the evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// Whose limit it is.
    pub workspace: WorkspaceId,
    /// What was asked for.
    pub resource: Arc<ResourceType>,
    /// Rows that exist, by a count made in this decision.
    pub current_usage: u64,
    /// The limit in force.
    pub limit: u64,
    /// Units asked for.
    pub requested: u64,
    /// Units that are left, beside rows and reservations.
    pub remaining: u64,
    /// The workspace whose cap on itself and all below it is in the way: usage and limit are theirs together. `None` where it
    /// is the workspace's own limit.
    pub cap: Option<WorkspaceId>,
    /// Units held by requests still in flight, where only those stand in the way.
    pub reserved: Option<u64>,
    /// When to try again, where trying again may help.
    pub retry_after: Option<Duration>,
    /// What it was decided by.
    pub receipt: DecisionReceipt,
}

/// What a decision was made by, for whoever asks why.
///
/// The layer puts it into the extensions of refusals, and, where
/// [`QuotaLayer::receipts`](crate::QuotaLayer::receipts) says so, of all responses to requests that were to make rows.
/// [`Quota::receipt`](crate::Quota::receipt) has it for reservations. `tracing` tells it on level `DEBUG`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DecisionReceipt {
    /// Whose limits they are.
    pub workspace: WorkspaceId,
    /// Whether the units were granted, be it past the limit, as modes and failures may have it.
    pub admitted: bool,
    /// What is promised of the limits in this set-up.
    pub promise: Promise,
    /// By resource type, in the catalog's order: all that was granted, or what was refused.
    pub evidence: Vec<Evidence>,
}

/// What is known of a resource type of a workspace.
///
/// No more rows than `counted + posted + leased` can come of what was granted, its own units included. For a request that
/// was admitted, the numbers are of just after that. Where a [`PostgresLedger`](crate::PostgresLedger) keeps the limits, they
/// are those of its last answer to this process, and others may have been granted more since.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evidence {
    /// Of what.
    pub resource: Arc<ResourceType>,
    /// Units that the request needs.
    pub requested: u64,
    /// The limit in force; `None` where it is not known, and the request passes undecided.
    pub limit: Option<Limit>,
    /// The version of the quota record that says so. `None` where the default is in force, or another replica changed the
    /// limit a moment ago.
    pub limit_version: Option<u64>,
    /// Rows at the last count; `None` before the first, which limits can't do without.
    pub counted: Option<u64>,
    /// Units that became rows, or may have, since that count began.
    pub posted: u64,
    /// Units that requests in flight, of all replicas, may still turn into rows, and that replicas have in store.
    pub leased: u64,
    /// How long ago that count began, give or take a tenth of a second. Another replica may have counted since.
    pub count_age: Option<Duration>,
}

impl DecisionReceipt {
    /// Where it is logged.
    pub(crate) const TARGET: &'static str = "tower_quota::decision";

    pub(crate) fn log(&self) {
        for of in &self.evidence {
            tracing::debug!(
                target: DecisionReceipt::TARGET,
                workspace = %self.workspace,
                resource_type = of.resource.name(),
                admitted = self.admitted,
                requested = of.requested,
                limit = of.limit.map(tracing::field::display),
                limit_version = of.limit_version,
                counted = of.counted,
                posted = of.posted,
                leased = of.leased,
                count_age = ?of.count_age,
                promise = ?self.promise,
                "decided"
            );
        }
    }
}

impl Refusal {
    /// The message of the wire contract, for example `Segment quota exceeded`.
    pub fn message(&self) -> String {
        format!("{} quota exceeded", self.resource.label())
    }
}

/// An answer to "would this be allowed now?": advice, since only a reservation makes a creation safe.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Check {
    /// Rows and limit, before the demand.
    pub usage: Usage,
    /// Why a reservation would be refused now, in a mode that refuses; `None` when it would be granted.
    pub refusal: Option<Refusal>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(current: u64, limit: Limit) -> Usage {
        Usage { current, limit }
    }

    #[test]
    fn percent_is_rounded_down_and_saturates() {
        assert_eq!(usage(999, Limit::of(1000)).percent(), 99);
        assert_eq!(usage(1000, Limit::of(1000)).percent(), 100);
        assert_eq!(usage(75, Limit::of(50)).percent(), 150);
        assert_eq!(usage(0, Limit::of(0)).percent(), 100);
        assert_eq!(usage(u64::MAX, Limit::Unlimited).percent(), 0);
        assert_eq!(usage(u64::MAX, Limit::of(1)).percent(), u64::MAX);
    }

    #[test]
    fn remaining_never_wraps() {
        assert_eq!(usage(60, Limit::of(50)).remaining(), Some(0));
        assert!(usage(60, Limit::of(50)).would_exceed(1));
        assert!(!usage(u64::MAX, Limit::Unlimited).would_exceed(u64::MAX));
        assert!(usage(1, Limit::finite(Limit::MAX).unwrap()).would_exceed(u64::MAX));
    }
}
