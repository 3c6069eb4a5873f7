//! The place that grants units to replicas: what is asked of it.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use crate::BoxFuture;
use crate::error::Error;
use crate::ledger::{Answer, Ask, Totals};
use crate::mode::EnforcementMode;
use crate::resource::{ResourceId, ResourceType};
use crate::usage::UsageSource;
use crate::workspace::WorkspaceId;

#[cfg(feature = "postgres")]
mod postgres;

#[cfg(feature = "postgres")]
pub use postgres::PostgresLedger;

/// For how many beats of its replica a request may be under way and still begin a lease, as the authority has it.
pub(crate) const BEATS_TO_BEGIN: u64 = 64;

/// How many units may be granted ahead of the requests for them, where nobody can count what became of them: after a crash
/// they count as rows until somebody says otherwise.
pub(crate) const AHEAD_OF_TALLY: u64 = 16;

/// A resource type of a workspace, with the units that a replica has on lease of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeaseOf<'a> {
    pub(crate) lease: Uuid,
    pub(crate) replica: Uuid,
    /// How often the replica has shown life, as far as it knows: so that a request that comes too late begins no lease.
    pub(crate) beats: u64,
    pub(crate) workspace: &'a WorkspaceId,
    pub(crate) resource: &'a ResourceType,
    /// How many replicas share what is left.
    pub(crate) replicas: u64,
    /// The books that its units are charged to as well.
    pub(crate) charges: &'a [WorkspaceId],
    /// Whether grace counts.
    pub(crate) grace: bool,
}

/// Where the books stood before rows were counted elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BooksMark {
    pub(crate) posts: u64,
    pub(crate) edits_ended: u64,
    /// The limit in force then: counting may stop above it.
    pub(crate) limit: Option<u64>,
    /// Of a workspace with all below it: who those are, and what is on lease there that isn't charged to it.
    pub(crate) below: Option<i64>,
}

/// What an authority says to an [`Ask`].
#[derive(Debug)]
pub(crate) enum Reply {
    Answer {
        answer: Answer,
        /// How many rows the books had before the count.
        believed: Option<u64>,
        /// How many rows were found beyond what the books allow: they came to exist around them.
        breach: u64,
    },
    /// The rows must be counted first, which the authority can't do itself.
    Count(BooksMark),
    /// The workspace counts in other books than those that the units are charged to.
    Moved,
    /// The lease has ended.
    Dead,
}

/// What became of the units of a lease.
#[derive(Debug, Clone, Copy)]
pub(crate) struct News {
    pub(crate) lease: Uuid,
    pub(crate) totals: Totals,
    /// Somebody waits for units.
    pub(crate) waits: bool,
    /// The lease is of no more use.
    pub(crate) ends: bool,
}

/// That the authority has heard of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard {
    pub(crate) lease: Uuid,
    /// The last request for units that was granted, and what it was granted.
    pub(crate) seq: u64,
    pub(crate) granted: u64,
    /// Another replica waits for units of this key.
    pub(crate) wanted: bool,
}

/// What the books have of a resource type of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Books {
    pub(crate) resource: String,
    /// Rows by the last count and those posted since.
    pub(crate) rows: u64,
    /// Units that may still become rows, or have become some that nobody has told of yet.
    pub(crate) reserved: u64,
}

/// A live replica, for those who look after it: times are those of the authority's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Introduction {
    pub(crate) replica: Uuid,
    pub(crate) joined_at: Option<Timestamp>,
    pub(crate) seen_at: Option<Timestamp>,
    /// What it tells of itself; `None` where its version tells nothing.
    pub(crate) config: Option<String>,
}

/// A replica, as the authority sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) replica: Uuid,
    pub(crate) beats: u64,
    pub(crate) live: bool,
}

/// What replicas tell each other. It may be lost, and costs no more than time then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Somebody waits for units of this key.
    Recall { resource: String, workspace: String },
    /// Units of this key were given back.
    Free { resource: String, workspace: String },
    /// The limits of this workspace have changed, and those of all that depend on it.
    Limits { workspace: String },
    /// Other rows count in the books of this workspace and all below it.
    Moved { workspace: String },
    /// The limits of this plan have changed.
    Plan { name: String },
    /// Any of them may have been missed.
    Lost,
}

/// What a change has changed the limits of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    /// These, and all below them.
    pub(crate) workspaces: Vec<WorkspaceId>,
    /// All that have it, and all below them.
    pub(crate) plan: Option<String>,
    /// The caps above count other rows, or are others.
    pub(crate) moved: bool,
    /// The resource types whose limits or caps may have become lower; `None` for all.
    pub(crate) resources: Option<BTreeSet<ResourceId>>,
}

impl Changed {
    /// Nothing yet.
    pub(crate) fn nothing() -> Self {
        Self { resources: Some(BTreeSet::new()), ..Self::default() }
    }

    /// With limits of a workspace that may have become lower; `None` for all of them.
    pub(crate) fn add(&mut self, workspace: &WorkspaceId, lower: Option<BTreeSet<ResourceId>>) {
        if lower.as_ref().is_some_and(BTreeSet::is_empty) {
            return;
        }
        self.workspaces.push(workspace.clone());
        self.resources = self.resources.take().zip(lower).map(|(one, other)| &one | &other);
    }
}

/// A lease with units that may still become rows above a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Above {
    pub(crate) lease: Uuid,
    pub(crate) workspace: WorkspaceId,
    pub(crate) resource: String,
}

/// The one place that grants units of a key.
///
/// Whoever implements it takes each call as one atomic step.
pub(crate) trait Authority: Send + Sync + 'static {
    /// Hears what became of units, and grants more; see [`Ask`]. `counted` are rows that were counted since a
    /// [`Reply::Count`], for the mark that came with it.
    fn ask<'a>(
        &'a self,
        of: LeaseOf<'a>,
        ask: &'a Ask,
        usage: &'a dyn UsageSource,
        counted: Option<(BooksMark, u64)>,
    ) -> BoxFuture<'a, Result<Reply, Error>>;

    /// Hears what became of the units of many leases. Those that are not in the answer have ended.
    fn flush<'a>(&'a self, news: &'a [News]) -> BoxFuture<'a, Result<Vec<Heard>, Error>>;

    /// So many rows of a resource type that the authority tallies were deleted. It must not be told twice of them.
    fn deleted<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        rows: u64,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// What the books have of the rows of a workspace. Nothing is changed by asking.
    fn books<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<Vec<Books>, Error>>;

    /// A new replica, under an id that was never used, and what it tells of itself.
    fn join<'a>(&'a self, replica: Uuid, config: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// What a replica that has joined tells of itself has changed.
    fn introduce<'a>(&'a self, replica: Uuid, config: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// All live replicas, the oldest first.
    fn introductions(&self) -> BoxFuture<'_, Result<Vec<Introduction>, Error>>;

    /// The replica is gone, and has no leases left.
    fn leave(&self, replica: Uuid) -> BoxFuture<'_, Result<(), Error>>;

    /// A sign of life; answers all replicas.
    fn beat(&self, replica: Uuid) -> BoxFuture<'_, Result<Vec<Peer>, Error>>;

    /// Ends a replica that has shown no more life since `beats`.
    fn bury<'a>(&'a self, replica: Uuid, beats: u64) -> BoxFuture<'a, Result<(), Error>>;

    /// Leases that have to be ended: their replica has, or somebody has begun to.
    fn orphans(&self) -> BoxFuture<'_, Result<Vec<Uuid>, Error>>;

    /// Ends leases, and takes all their units for rows until a count tells; answers how many those were. Leases that
    /// transactions still hold on to stay among the [`orphans`](Self::orphans).
    fn end<'a>(&'a self, leases: &'a [Uuid]) -> BoxFuture<'a, Result<u64, Error>>;

    /// The leases whose units, with those of all others, may become rows above a limit or a cap that is in force now, where
    /// the mode of its workspace is `strict`. With each type comes its mode in workspaces that have none of their own.
    fn above<'a>(
        &'a self,
        changed: &'a Changed,
        types: &'a [(&'a ResourceType, EnforcementMode)],
    ) -> BoxFuture<'a, Result<Vec<Above>, Error>>;

    /// Waits until no grant is under way, to a workspace in mode `strict`, that may go by a limit of before the change.
    fn outlast<'a>(
        &'a self,
        changed: &'a Changed,
        types: &'a [(&'a ResourceType, EnforcementMode)],
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// Asks whoever has these leases to give back what is in store.
    fn recall<'a>(&'a self, leases: &'a [Above]) -> BoxFuture<'a, Result<(), Error>>;

    /// The next notice.
    fn notice(&self) -> BoxFuture<'_, Result<Notice, Error>>;
}

/// How long things take among replicas.
#[derive(Debug, Clone)]
pub(crate) struct Times {
    /// How long a replica may hand out units after it last showed life.
    pub(crate) time_to_live: Duration,
    /// How long a request may go on after its units were handed out, and still make rows, in a host that doesn't fence.
    pub(crate) longest_handler: Duration,
    /// Every transaction that makes rows holds on to its lease.
    pub(crate) fenced: bool,
}

impl Times {
    /// A beat needs the time of a round trip to the database, and of a process that is busy.
    pub(crate) const SHORTEST: Duration = Duration::from_millis(100);

    /// How often a replica shows life.
    pub(crate) fn beat(&self) -> Duration {
        self.time_to_live / 8
    }

    /// How long one beat may take: so that one that fails is made good by the next.
    pub(crate) fn patience(&self) -> Duration {
        self.time_to_live / 4
    }

    /// After what time without a sign of life, by the clock of whoever watches, a replica's leases end. A quarter more
    /// than it may use them, for clocks that run apart.
    pub(crate) fn given_up_after(&self) -> Duration {
        let handler = if self.fenced { Duration::ZERO } else { self.longest_handler };
        self.time_to_live + self.time_to_live / 4 + handler
    }
}
