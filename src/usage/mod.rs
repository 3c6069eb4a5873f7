//! Live counts of the host's rows, which are the truth that limits are held against.

use std::sync::Arc;

use crate::BoxFuture;
use crate::error::Error;
use crate::resource::ResourceType;
use crate::workspace::WorkspaceId;

#[cfg(feature = "postgres")]
mod backstop;
mod by_type;
mod cleanup;
mod closure;
#[cfg(feature = "gateway")]
mod http;
mod pages;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql_cleanup;

#[cfg(feature = "postgres")]
pub use backstop::Backstop;
pub use by_type::UsageByType;
pub use cleanup::{Cleaned, Cleanup, CleanupPolicy, Excess, Recording};
pub use closure::ClosureUsage;
#[cfg(feature = "gateway")]
pub use http::{HttpUsage, HttpUsageBuilder};
pub use pages::{UsagePages, WorkspaceUsage};
#[cfg(feature = "postgres")]
pub use sql::PostgresUsage;
#[cfg(feature = "sqlite")]
pub use sql::SqliteUsage;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use sql::{SqlTable, SqlUsage, SqlUsageBuilder};

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

    /// The same of rows that are not counted, too, such as archived ones: only probes that say so ask
    /// ([`Probe::or_uncounted`](crate::Probe::or_uncounted)). A source that doesn't provide it finds those that are counted, so
    /// that the edit of another row is charged.
    fn existing_or_uncounted<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        column: &'a str,
        values: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        self.existing(workspace, resource, column, values)
    }

    /// Workspaces that have rows of `resource`, each with their number: those whose id is greater than `after`, in the order
    /// of the bytes of their ids, up to `at_most` of them; fewer only where there are no more. [`UsagePages`] goes through
    /// all of them.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] of a source that can't list workspaces, as it is when it doesn't provide this method.
    fn page<'a>(
        &'a self,
        resource: &'a ResourceType,
        after: Option<&'a str>,
        at_most: usize,
    ) -> BoxFuture<'a, Result<Vec<(String, u64)>, Error>> {
        let _ = (after, at_most);
        Box::pin(async move {
            Err(Error::config(format!(
                "the workspaces that have {} can't be listed: this usage source only counts; take a SqlUsage, or                  implement UsageSource::page",
                resource.name()
            )))
        })
    }

    /// How the database itself counts the rows of `resource`, where it is Postgres: for a ledger that lives in the same
    /// database, and counts in the same statement in which it decides. `None` for any other source.
    fn count_sql(&self, resource: &ResourceType) -> Option<CountSql> {
        let _ = resource;
        None
    }
}

/// Two SELECTs of Postgres that count the rows of a resource type, and answer one `bigint`.
///
/// Both run with the rights of whoever runs them, and read nothing but committed rows: see [`UsageSource::count_sql`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountSql {
    all: Arc<str>,
    bounded: Arc<str>,
    /// The database that they are for, where that is known.
    place: Option<Arc<str>>,
    /// They read what the ledger tallies itself.
    #[cfg_attr(
        not(feature = "postgres"),
        allow(dead_code, reason = "the one ledger that counts by itself needs Postgres")
    )]
    tallied: bool,
}

impl CountSql {
    /// `all` has the parameter `$1`, the workspace as `text`. `bounded` has a second one, `$2`, a `bigint`: it may stop
    /// counting there, and reads no more rows than it needs for that.
    ///
    /// ```
    /// use tower_quota::CountSql;
    ///
    /// let count = CountSql::new(
    ///     "SELECT count(*) FROM segments WHERE workspace_id = $1",
    ///     "SELECT count(*) FROM (SELECT 1 FROM segments WHERE workspace_id = $1 LIMIT $2) AS counted",
    /// );
    /// assert!(count.bounded().ends_with("counted"));
    /// ```
    pub fn new(all: impl Into<Arc<str>>, bounded: impl Into<Arc<str>>) -> Self {
        Self { all: all.into(), bounded: bounded.into(), place: None, tallied: false }
    }

    /// Reads what the ledger tallies.
    #[cfg(feature = "postgres")]
    pub(crate) fn tally(resource: &ResourceType) -> Self {
        let resource = crate::sql::postgres::literal(resource.name());
        let tally: Arc<str> = format!(
            r#"SELECT coalesce((SELECT greatest("rows", 0) FROM "QuotaTally" WHERE "resource" = {resource} AND "workspaceId" = $1), 0)"#
        )
        .into();
        Self { tallied: true, ..Self::new(Arc::clone(&tally), tally) }
    }

    /// Whether they read what the ledger tallies.
    #[cfg(feature = "postgres")]
    pub(crate) fn is_tally(&self) -> bool {
        self.tallied
    }

    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn at(self, place: String) -> Self {
        Self { place: Some(place.into()), ..self }
    }

    /// Whether the database at `place` can run them.
    #[cfg(feature = "postgres")]
    pub(crate) fn serves(&self, place: &str) -> bool {
        self.place.as_deref().is_none_or(|own| own == place)
    }

    /// Counts all rows of the workspace `$1`.
    pub fn all(&self) -> &str {
        &self.all
    }

    /// Counts rows of the workspace `$1`, up to `$2` of them.
    pub fn bounded(&self) -> &str {
        &self.bounded
    }
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

    fn existing_or_uncounted<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        column: &'a str,
        values: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        (**self).existing_or_uncounted(workspace, resource, column, values)
    }

    fn page<'a>(
        &'a self,
        resource: &'a ResourceType,
        after: Option<&'a str>,
        at_most: usize,
    ) -> BoxFuture<'a, Result<Vec<(String, u64)>, Error>> {
        (**self).page(resource, after, at_most)
    }

    fn count_sql(&self, resource: &ResourceType) -> Option<CountSql> {
        (**self).count_sql(resource)
    }
}
