//! Removes rows above a limit, newest first.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::BoxFuture;
use crate::error::Error;
use crate::resource::ResourceType;
use crate::workspace::WorkspaceId;

/// What becomes of rows above a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CleanupPolicy {
    /// They are told, and stay.
    #[default]
    Report,
    /// They are moved to the table `"QuotaArchive"`, each as a JSON object.
    Archive,
    /// They are deleted.
    Delete,
}

impl CleanupPolicy {
    /// `report`, `archive` or `delete`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Archive => "archive",
            Self::Delete => "delete",
        }
    }
}

impl fmt::Display for CleanupPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Says what else is to be written, of what is removed: statements, each with the texts that its parameters `$1`, `$2`, …
/// stand for.
pub type Recording<'a> = dyn Fn(&Cleaned) -> Vec<(String, Vec<String>)> + Send + Sync + 'a;

/// A batch of rows to be removed: the newest ones above a number that is kept.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Excess<'a> {
    /// Whose rows they are.
    pub workspace: &'a WorkspaceId,
    /// Their type.
    pub resource: &'a ResourceType,
    /// How many are kept.
    pub keep: u64,
    /// How many are removed at most.
    pub at_most: u64,
    /// What becomes of them.
    pub policy: CleanupPolicy,
    /// What is written in the transaction that removes them.
    pub record: Option<&'a Recording<'a>>,
}

impl<'a> Excess<'a> {
    /// The rows above `keep`, up to `at_most` of them, which are told and stay.
    pub fn new(workspace: &'a WorkspaceId, resource: &'a ResourceType, keep: u64, at_most: u64) -> Self {
        Self { workspace, resource, keep, at_most, policy: CleanupPolicy::Report, record: None }
    }

    /// What becomes of them.
    #[must_use]
    pub fn policy(mut self, policy: CleanupPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Has more written in the transaction that removes them, such as an entry in a log. Nothing is, where nothing is removed.
    #[must_use]
    pub fn record(mut self, record: &'a Recording<'a>) -> Self {
        self.record = Some(record);
        self
    }
}

impl fmt::Debug for Excess<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Excess")
            .field("workspace", &self.workspace)
            .field("resource", &self.resource.name())
            .field("keep", &self.keep)
            .field("at_most", &self.at_most)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// What came of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cleaned {
    /// How many rows there were above the number that is kept, before anything was removed.
    pub above: u64,
    /// The ids of those that were removed, or that were told, newest first.
    pub rows: Vec<String>,
}

impl Cleaned {
    /// There was nothing above.
    pub(crate) fn nothing() -> Self {
        Self { above: 0, rows: Vec::new() }
    }
}

/// Removes rows above a limit.
pub trait Cleanup: Send + Sync + 'static {
    /// Handles one batch, all of it or nothing: what is removed is archived and recorded in the same transaction. Several at
    /// once take turns, and never leave less than is kept. All is done when no row is above, or none was removed.
    ///
    /// # Errors
    ///
    /// Nothing is changed then. [`Error::is_config`] where the rows of that type can't be removed: their table doesn't tell
    /// what is newest (`SqlTable::newest_first`), the archive is missing, or rows of other tables refer to them.
    fn clean<'a>(&'a self, excess: Excess<'a>) -> BoxFuture<'a, Result<Cleaned, Error>>;

    /// In which database the rows are, for [`QuotaStore::audit_sql`](crate::QuotaStore::audit_sql) to compare with its own:
    /// where it is the same, the entry in the audit log is written in the transaction that removes rows. By default nobody
    /// knows.
    fn place(&self) -> Option<String> {
        None
    }
}
