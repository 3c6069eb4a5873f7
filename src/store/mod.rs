//! Where quota records are kept.

use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use crate::BoxFuture;
use crate::error::Error;
use crate::limit::{Limit, LimitSet};
use crate::policy::{AuditEntry, AuditFilter, AuditPage, IncreaseRequest, Kin, Lineage, Plan, RequestStatus, Settings};
use crate::resource::{ResourceCatalog, ResourceType};
use crate::workspace::WorkspaceId;

mod cached;
#[cfg_attr(
    not(all(any(feature = "sqlite", feature = "postgres"), feature = "webhooks", feature = "email")),
    allow(dead_code, reason = "what is kept needs a database, and what is delivered an outlet")
)]
mod events;
mod memory;
#[cfg(feature = "dashboard")]
mod overview;
#[cfg(feature = "postgres")]
mod postgres;
mod schema;
#[cfg(feature = "insight")]
#[cfg_attr(
    not(any(feature = "sqlite", feature = "postgres")),
    allow(dead_code, reason = "what is kept needs a database")
)]
mod snapshots;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql_events;
#[cfg(all(any(feature = "postgres", feature = "sqlite"), feature = "dashboard"))]
mod sql_overview;
#[cfg(all(any(feature = "postgres", feature = "sqlite"), feature = "insight"))]
mod sql_snapshots;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql_tally;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql_texts;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql_transaction;
#[cfg(feature = "sqlite")]
mod sqlite;
mod tally;

pub(crate) use cached::CachedStore;
pub(crate) use events::EventStore;
#[cfg(any(feature = "webhooks", feature = "email"))]
pub(crate) use events::{Channels, Settled, Standing};
pub use memory::MemoryStore;
#[cfg(feature = "dashboard")]
pub(crate) use overview::{Fullness, Overview, OverviewStore, Wanted, fullness};
#[cfg(feature = "postgres")]
pub use postgres::PostgresStore;
pub(crate) use schema::SchemaStore;
pub use schema::{SchemaVersions, StoreKind};
#[cfg(feature = "insight")]
pub(crate) use snapshots::{Reading, SnapshotStore, Turn};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use sql::SqlStore;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteStore;
pub(crate) use tally::TallyStore;

/// The quota record of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuotaRecord {
    /// The record's own id (a UUID of version 7).
    pub id: Uuid,
    /// Whose record it is.
    pub workspace: WorkspaceId,
    /// 1 when made, and one more with every change.
    pub version: u64,
    /// The limits that were set for the workspace itself.
    pub limits: LimitSet,
    /// The plan that is assigned to it.
    pub plan: Option<Arc<str>>,
    /// The workspace above it.
    pub parent: Option<WorkspaceId>,
    /// What else is set for it.
    pub settings: Settings,
    /// When it was made (UTC).
    pub created_at: Timestamp,
    /// When it was last changed (UTC).
    pub updated_at: Timestamp,
}

impl QuotaRecord {
    /// A record as a store holds it, of a workspace without plan, parent and settings.
    pub fn new(
        id: Uuid,
        workspace: WorkspaceId,
        version: u64,
        limits: LimitSet,
        created_at: Timestamp,
        updated_at: Timestamp,
    ) -> Self {
        let (plan, parent, settings) = (None, None, Settings::default());
        Self { id, workspace, version, limits, plan, parent, settings, created_at, updated_at }
    }

    /// The caps on the workspace and all below it, by resource type in the catalog's order.
    pub(crate) fn caps(&self, catalog: &ResourceCatalog) -> Arc<[Limit]> {
        let cap = |resource: &Arc<ResourceType>| self.settings.caps.get(resource.name()).copied();
        catalog.iter().map(|resource| cap(resource).unwrap_or(Limit::Unlimited)).collect()
    }
}

/// A condition on the record's version, checked in the same step as the change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Expect {
    /// Any record, or none yet.
    #[default]
    Anything,
    /// There is a record, of whatever version.
    Existing,
    /// The record has one of these versions.
    Versions(Vec<u64>),
}

impl Expect {
    /// Whether the condition holds for a record of `version`, or for a record that isn't there.
    pub(crate) fn holds(&self, version: Option<u64>) -> bool {
        match self {
            Self::Anything => true,
            Self::Existing => version.is_some(),
            Self::Versions(versions) => version.is_some_and(|version| versions.contains(&version)),
        }
    }

    /// The error for a condition that doesn't hold.
    pub(crate) fn unmet(&self, workspace: &WorkspaceId) -> Error {
        // The versions come from a caller's header, of which a message repeats a few.
        const SHOWN: usize = 8;
        match self {
            Self::Anything | Self::Existing => Error::conflict(format!(
                "the update expects a quota record of workspace {workspace:?}, and there is none"
            )),
            Self::Versions(versions) => {
                let mut named: Vec<String> = versions.iter().take(SHOWN).map(u64::to_string).collect();
                if versions.len() > SHOWN {
                    named.push("…".to_owned());
                }
                Error::conflict(format!(
                    "the update expects the quota record of workspace {workspace:?} to have version {}, and it has \
                     another or isn't there: read it again",
                    if named.is_empty() { "(none named)".to_owned() } else { named.join(" or ") }
                ))
            }
        }
    }
}

/// The time of a change, in whole seconds: what clients of the quota API have always been sent, and, as text of one
/// length, what SQL can compare.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Keeps quota records.
///
/// Every call is one atomic step: of two concurrent updates, the later sees what the earlier wrote. A call that fails
/// has changed nothing. Errors are [`Error::is_unavailable`], but for a condition that doesn't hold
/// ([`Error::is_conflict`]) and a record that isn't there ([`Error::is_not_found`]).
///
/// Methods that later versions add have defaults.
pub trait QuotaStore: Send + Sync + 'static {
    /// The record of `workspace`, or `None` when there is none.
    fn load<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<Option<QuotaRecord>, Error>>;

    /// The record of `workspace`, made without limits of its own if there is none.
    fn provision<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<QuotaRecord, Error>>;

    /// Sets the limits in `changes` and leaves the others as they are; makes the record if there is none and
    /// `expect` allows it. An update without changes leaves the version as it is.
    fn update<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        changes: &'a LimitSet,
        expect: &'a Expect,
    ) -> BoxFuture<'a, Result<QuotaRecord, Error>>;

    /// Whether the store answers.
    fn ping(&self) -> BoxFuture<'_, Result<(), Error>>;

    /// The record with its plan, and those of its ancestors, as they are at one moment. By default there are no ancestors.
    fn lineage<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<Lineage, Error>> {
        Box::pin(async move {
            let record = self.load(workspace).await?;
            Ok(Lineage::new(record.into_iter().map(|record| Kin::new(record, None)).collect()))
        })
    }

    /// The workspaces whose ancestor `workspace` is, and itself. By default there are no others.
    fn members<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<Vec<WorkspaceId>, Error>> {
        Box::pin(async move { Ok(vec![workspace.clone()]) })
    }

    /// Begins a change of more than limits, which is done as a whole or not at all. By default there is none to be had, and
    /// the store keeps limits only.
    fn begin(&self) -> BoxFuture<'_, Result<Box<dyn StoreTransaction>, Error>> {
        Box::pin(async { Err(limits_only()) })
    }

    /// All plans, by name.
    fn plans(&self) -> BoxFuture<'_, Result<Vec<Plan>, Error>> {
        Box::pin(async { Err(limits_only()) })
    }

    /// Requests for more, the newest first: of a workspace or of all, in a state or in any, made before the one with this
    /// id; at most `limit`.
    fn requests<'a>(
        &'a self,
        workspace: Option<&'a WorkspaceId>,
        status: Option<RequestStatus>,
        before: Option<Uuid>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<IncreaseRequest>, Error>> {
        let _ = (workspace, status, before, limit);
        Box::pin(async { Err(limits_only()) })
    }

    /// Entries of the audit log, the newest first.
    fn audit<'a>(&'a self, filter: &'a AuditFilter) -> BoxFuture<'a, Result<AuditPage, Error>> {
        let _ = filter;
        Box::pin(async { Err(limits_only()) })
    }

    /// Records after the one of `after` in the order of their workspaces' bytes, at most `limit`.
    fn records<'a>(&'a self, after: Option<&'a str>, limit: usize) -> BoxFuture<'a, Result<Vec<QuotaRecord>, Error>> {
        let _ = (after, limit);
        Box::pin(async { Err(limits_only()) })
    }

    /// The statement that adds an entry to the audit log, with the texts of its parameters: for a transaction of somebody
    /// else in the database of this store. `None` where the database at `place` is another one, and by default.
    fn audit_sql(&self, entry: &AuditEntry, place: &str) -> Option<(String, Vec<String>)> {
        let _ = (entry, place);
        None
    }

    /// In which version the tables are. Only those of a [`SqlStore`] have one.
    #[doc(hidden)]
    fn schema(&self) -> Option<&dyn SchemaStore> {
        None
    }

    /// Where notices are kept. Without such a place, which only a [`SqlStore`] has, nothing is told of thresholds.
    #[doc(hidden)]
    fn events(&self) -> Option<&dyn EventStore> {
        None
    }

    /// Where rows are tallied that nobody can count. Without such a place, which only a [`SqlStore`] has, there are no such
    /// resource types.
    #[doc(hidden)]
    fn tallies(&self) -> Option<&dyn TallyStore> {
        None
    }

    /// Where it is kept how full workspaces are. Without such a place, which only a [`SqlStore`] has, the dashboard doesn't
    /// list them.
    #[cfg(feature = "dashboard")]
    #[doc(hidden)]
    fn overview(&self) -> Option<&dyn OverviewStore> {
        None
    }

    /// Where snapshots of usage are kept. Without such a place, which only a [`SqlStore`] has, none are taken.
    #[cfg(feature = "insight")]
    #[doc(hidden)]
    fn snapshots(&self) -> Option<&dyn SnapshotStore> {
        None
    }
}

fn limits_only() -> Error {
    Error::config(
        "this store keeps limits only: plans, parents, overrides and all that is told in the audit log need a SqliteStore or a \
         PostgresStore",
    )
}

/// A change of a store's contents, in the making. Dropped, it has changed nothing.
///
/// What it has read of a workspace stays as it is until it ends.
pub trait StoreTransaction: Send {
    /// The record of `workspace`, made if there is none; whether it was.
    fn record<'a>(&'a mut self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<(QuotaRecord, bool), Error>>;

    /// As [`QuotaStore::lineage`].
    fn lineage<'a>(&'a mut self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<Lineage, Error>>;

    /// As [`QuotaStore::members`], with how far below each is. Nobody becomes one, or ceases to be one, until the end of the transaction.
    fn members<'a>(&'a mut self, workspace: &'a WorkspaceId)
    -> BoxFuture<'a, Result<Vec<(WorkspaceId, usize)>, Error>>;

    /// The same workspaces in the order in which all changes of many take them, so that no two wait for each other. By default
    /// the one in which they come.
    fn in_order<'a>(&'a mut self, workspaces: Vec<WorkspaceId>) -> BoxFuture<'a, Result<Vec<WorkspaceId>, Error>> {
        Box::pin(async { Ok(workspaces) })
    }

    /// Writes a record of a workspace that was read by [`record`](Self::record).
    fn save<'a>(&'a mut self, record: &'a QuotaRecord) -> BoxFuture<'a, Result<(), Error>>;

    /// Deletes a record, with all that is kept of the workspace beside requests for more, notices and the audit log; how
    /// many of what that was.
    fn remove<'a>(&'a mut self, workspace: &'a WorkspaceId)
    -> BoxFuture<'a, Result<Vec<(&'static str, usize)>, Error>>;

    /// A plan.
    fn plan<'a>(&'a mut self, name: &'a str) -> BoxFuture<'a, Result<Option<Plan>, Error>>;

    /// Writes a plan.
    fn save_plan<'a>(&'a mut self, plan: &'a Plan) -> BoxFuture<'a, Result<(), Error>>;

    /// Deletes a plan.
    fn remove_plan<'a>(&'a mut self, name: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// How many workspaces have a plan.
    fn assigned<'a>(&'a mut self, plan: &'a str) -> BoxFuture<'a, Result<u64, Error>>;

    /// A request for more.
    fn request(&mut self, id: Uuid) -> BoxFuture<'_, Result<Option<IncreaseRequest>, Error>>;

    /// Writes a request for more.
    fn save_request<'a>(&'a mut self, request: &'a IncreaseRequest) -> BoxFuture<'a, Result<(), Error>>;

    /// Sets the tally of a resource type, and has it counted before more is granted; answers what it was. By default there are
    /// no tallies.
    fn set_tally<'a>(
        &'a mut self,
        workspace: &'a WorkspaceId,
        resource: &'a str,
        rows: u64,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        let _ = (workspace, resource, rows);
        Box::pin(async { Err(limits_only()) })
    }

    /// Adds to the audit log.
    fn audit<'a>(&'a mut self, entry: &'a AuditEntry) -> BoxFuture<'a, Result<(), Error>>;

    /// How far a work of many steps has come; `None` before the first.
    fn progress<'a>(&'a mut self, work: &'a str) -> BoxFuture<'a, Result<Option<String>, Error>>;

    /// Notes how far it has come.
    fn save_progress<'a>(&'a mut self, work: &'a str, progress: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// Does it.
    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<(), Error>>;
}

impl<S: QuotaStore + ?Sized> QuotaStore for Arc<S> {
    fn load<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<Option<QuotaRecord>, Error>> {
        (**self).load(workspace)
    }

    fn provision<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<QuotaRecord, Error>> {
        (**self).provision(workspace)
    }

    fn update<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        changes: &'a LimitSet,
        expect: &'a Expect,
    ) -> BoxFuture<'a, Result<QuotaRecord, Error>> {
        (**self).update(workspace, changes, expect)
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), Error>> {
        (**self).ping()
    }

    fn lineage<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<Lineage, Error>> {
        (**self).lineage(workspace)
    }

    fn members<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<Vec<WorkspaceId>, Error>> {
        (**self).members(workspace)
    }

    fn begin(&self) -> BoxFuture<'_, Result<Box<dyn StoreTransaction>, Error>> {
        (**self).begin()
    }

    fn plans(&self) -> BoxFuture<'_, Result<Vec<Plan>, Error>> {
        (**self).plans()
    }

    fn requests<'a>(
        &'a self,
        workspace: Option<&'a WorkspaceId>,
        status: Option<RequestStatus>,
        before: Option<Uuid>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<IncreaseRequest>, Error>> {
        (**self).requests(workspace, status, before, limit)
    }

    fn audit<'a>(&'a self, filter: &'a AuditFilter) -> BoxFuture<'a, Result<AuditPage, Error>> {
        (**self).audit(filter)
    }

    fn records<'a>(&'a self, after: Option<&'a str>, limit: usize) -> BoxFuture<'a, Result<Vec<QuotaRecord>, Error>> {
        (**self).records(after, limit)
    }

    fn audit_sql(&self, entry: &AuditEntry, place: &str) -> Option<(String, Vec<String>)> {
        (**self).audit_sql(entry, place)
    }

    fn schema(&self) -> Option<&dyn SchemaStore> {
        (**self).schema()
    }

    fn tallies(&self) -> Option<&dyn TallyStore> {
        (**self).tallies()
    }

    fn events(&self) -> Option<&dyn EventStore> {
        (**self).events()
    }

    #[cfg(feature = "dashboard")]
    fn overview(&self) -> Option<&dyn OverviewStore> {
        (**self).overview()
    }

    #[cfg(feature = "insight")]
    fn snapshots(&self) -> Option<&dyn SnapshotStore> {
        (**self).snapshots()
    }
}
