//! What a store keeps of usage over time.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::QuotaRecord;
use super::events::OfKey;
use crate::BoxFuture;
use crate::error::Error;
use crate::insight::{Granularity, Snapshot};
use crate::policy::AuditEntry;

/// Keeps snapshots, in the database of the quota records.
///
/// Not for others to implement: it grows with what there is to be told.
pub trait SnapshotStore: Send + Sync {
    /// Adds readings of hours: each is merged with what there is of its hour. No two are of the same hour and key.
    fn add<'a>(&'a self, readings: &'a [Reading<'a>]) -> BoxFuture<'a, Result<(), Error>>;

    /// Puts readings in the place of what there is of the same hour or day, hours of that day included, and tells it in the
    /// audit log, in one transaction. No two are of the same bucket and key.
    fn replace<'a>(
        &'a self,
        granularity: Granularity,
        readings: &'a [Reading<'a>],
        entry: &'a AuditEntry,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// What there is of a workspace of the hours and days that begin in a time, and of each resource type the last one
    /// before it. In the order of time, with the names of resource types.
    fn series<'a>(
        &'a self,
        workspace: &'a str,
        from: Timestamp,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<(String, Snapshot)>, Error>>;

    /// Workspaces behind `after` of which there is anything, in the order of the bytes of their ids.
    fn workspaces<'a>(&'a self, after: Option<&'a str>, limit: usize) -> BoxFuture<'a, Result<Vec<String>, Error>>;

    /// Of some workspaces, what the hours and days that begin in a time come to, by resource type.
    fn totals<'a>(
        &'a self,
        workspaces: &'a [&'a str],
        from: Timestamp,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<OfKey<Snapshot>>, Error>>;

    /// What the audit log has of grace and of changed limits of some workspaces in a time.
    fn audited<'a>(
        &'a self,
        workspaces: &'a [&'a str],
        from: Timestamp,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<Audited>, Error>>;

    /// The records of some workspaces, where there are any.
    fn records_of<'a>(&'a self, workspaces: &'a [&'a str]) -> BoxFuture<'a, Result<Vec<QuotaRecord>, Error>>;

    /// Those of some workspaces of which as many resource types were read since then.
    fn read_since<'a>(
        &'a self,
        workspaces: &'a [&'a str],
        since: Timestamp,
        types: usize,
    ) -> BoxFuture<'a, Result<Vec<String>, Error>>;

    /// Takes the turn to take snapshots, for the time of `lease`, where it is due and nobody has it.
    fn take_turn(&self, lease: Duration) -> BoxFuture<'_, Result<Turn, Error>>;

    /// Keeps the turn for another `lease`; whether it still was the caller's.
    fn keep_turn(&self, turn: Uuid, lease: Duration) -> BoxFuture<'_, Result<bool, Error>>;

    /// Gives the turn back: when done, until the middle of the next of the times `every` that follow each other since
    /// 1970, and at once otherwise. Whether it still was the caller's.
    fn end_turn(&self, turn: Uuid, done: Option<Duration>) -> BoxFuture<'_, Result<bool, Error>>;

    /// Merges hours that begin before then into their days, some at a time; how many there were.
    fn condense(&self, before: Timestamp, limit: usize) -> BoxFuture<'_, Result<usize, Error>>;

    /// Deletes days that begin before then, some at a time; how many there were.
    fn forget(&self, before: Timestamp, limit: usize) -> BoxFuture<'_, Result<usize, Error>>;
}

/// What was read of a key, in the hour or day of its time.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    pub(crate) workspace: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) snapshot: Snapshot,
}

/// How often something is told of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audited {
    pub(crate) workspace: String,
    /// `None` where it is about all of them.
    pub(crate) resource: Option<String>,
    /// Grace was used, or else a limit was changed.
    pub(crate) grace: bool,
    pub(crate) times: u64,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The caller's.
    Mine(Uuid),
    /// Nobody's, or another's, before so much time has passed.
    In(Duration),
}
