//! What a store keeps of rows that nobody can count.

use crate::BoxFuture;
use crate::error::Error;
use crate::workspace::WorkspaceId;

/// Keeps tallies of rows, in the database of the quota records.
///
/// Not for others to implement: it grows with what there is to be tallied.
pub trait TallyStore: Send + Sync {
    /// How many rows of a resource type a workspace has; none where nobody has told of any.
    fn tally<'a>(&'a self, workspace: &'a WorkspaceId, resource: &'a str) -> BoxFuture<'a, Result<u64, Error>>;

    /// Sets a tally, for whoever alone keeps it.
    fn keep_tally<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a str,
        rows: u64,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// The workspaces that have rows of a resource type: as [`UsageSource::page`](crate::UsageSource::page).
    fn tallied<'a>(
        &'a self,
        resource: &'a str,
        after: Option<&'a str>,
        at_most: usize,
    ) -> BoxFuture<'a, Result<Vec<(String, u64)>, Error>>;
}
