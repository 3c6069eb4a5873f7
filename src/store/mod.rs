//! Where quota records are kept.

use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use crate::BoxFuture;
use crate::error::Error;
use crate::limit::LimitSet;
use crate::workspace::WorkspaceId;

mod cached;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql;
#[cfg(feature = "sqlite")]
mod sqlite;

pub(crate) use cached::CachedStore;
pub use memory::MemoryStore;
#[cfg(feature = "postgres")]
pub use postgres::PostgresStore;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use sql::SqlStore;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteStore;

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
    /// The limits that were set; the others are the catalog's defaults.
    pub limits: LimitSet,
    /// When it was made (UTC).
    pub created_at: Timestamp,
    /// When it was last changed (UTC).
    pub updated_at: Timestamp,
}

impl QuotaRecord {
    /// A record as a store holds it.
    pub fn new(
        id: Uuid,
        workspace: WorkspaceId,
        version: u64,
        limits: LimitSet,
        created_at: Timestamp,
        updated_at: Timestamp,
    ) -> Self {
        Self { id, workspace, version, limits, created_at, updated_at }
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
    fn holds(&self, version: Option<u64>) -> bool {
        match self {
            Self::Anything => true,
            Self::Existing => version.is_some(),
            Self::Versions(versions) => version.is_some_and(|version| versions.contains(&version)),
        }
    }

    /// The error for a condition that doesn't hold.
    fn unmet(&self, workspace: &WorkspaceId) -> Error {
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
fn now() -> Timestamp {
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
}
