//! Live counts of the host's rows, which are the truth that limits are held against.

use std::sync::Arc;

use crate::BoxFuture;
use crate::error::Error;
use crate::resource::ResourceType;
use crate::workspace::WorkspaceId;

mod closure;
#[cfg(feature = "sqlite")]
mod sql;

pub use closure::ClosureUsage;
#[cfg(feature = "sqlite")]
pub use sql::{SqlTable, SqliteUsage, SqliteUsageBuilder};

/// Counts the rows that exist.
///
/// A source that can't answer returns an error, never 0. A count sees every row committed before the call began: read
/// the primary, not a replica that lags.
pub trait UsageSource: Send + Sync + 'static {
    /// The number of rows of `resource` in `workspace`. With `at_most`, counting may stop there: any number from
    /// `at_most` up means "at least that many".
    fn count<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        at_most: Option<u64>,
    ) -> BoxFuture<'a, Result<u64, Error>>;

    /// Which of `values` name a row that exists and is counted, looked up in `column`: one answer per value, in order.
    /// Only route maps with an existence probe ask.
    fn existing<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        column: &'a str,
        values: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>>;
}

impl<S: UsageSource + ?Sized> UsageSource for Arc<S> {
    fn count<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        at_most: Option<u64>,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        (**self).count(workspace, resource, at_most)
    }

    fn existing<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        column: &'a str,
        values: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        (**self).existing(workspace, resource, column, values)
    }
}
