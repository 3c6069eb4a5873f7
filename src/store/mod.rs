//! Where quota records are kept.

use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use crate::BoxFuture;
use crate::error::Error;
use crate::limit::LimitSet;
use crate::workspace::WorkspaceId;

mod memory;
#[cfg(feature = "sqlite")]
mod sqlite;

pub use memory::MemoryStore;
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
pub enum Expect {
    /// Any record, or none yet.
    #[default]
    Anything,
    /// There is a record, of whatever version.
    Existing,
    /// The record has one of these versions.
    Versions(Vec<u64>),
}

/// Keeps quota records.
///
/// Every call is one atomic step: of two concurrent updates, the later sees what the earlier wrote. A call that fails
/// has changed nothing. Errors are [`Error::is_unavailable`], but for a condition that doesn't hold
/// ([`Error::is_conflict`]) and a record that isn't there ([`Error::is_not_found`]).
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
