//! What ties the host's transactions to the leases of their requests.

use std::sync::Arc;

use sqlx::PgExecutor;
use uuid::Uuid;

use crate::error::Error;

/// Holds on to a request's units until a transaction has ended.
///
/// With a [`PostgresLedger`](crate::PostgresLedger), a replica that stands still for too long is taken for dead, and its
/// units go to others. If it then goes on, a request of before could still make rows. A transaction that holds on to
/// its units can't: either it commits before they go, or it is refused. So where each transaction that makes rows of a
/// resource type calls [`hold`](Self::hold), limits are exact through any pause, crash and loss of messages.
///
/// The layer puts a `Fence` into the extensions of each request that it admits on units of a lease; axum handlers take it
/// as an argument. Without leases it is empty, and holds nothing.
///
/// ```no_run
/// use tower_quota::Fence;
///
/// async fn create(pool: sqlx::PgPool, fence: Fence) -> Result<(), Box<dyn std::error::Error>> {
///     let mut transaction = pool.begin().await?;
///     fence.hold(&mut *transaction).await?;
///     sqlx::query(r#"INSERT INTO "Segment" ("workspaceId") VALUES ('acme')"#).execute(&mut *transaction).await?;
///     transaction.commit().await?;
///     Ok(())
/// }
/// ```
///
/// It has to be called at the top level of the transaction, not within a savepoint, which drops it when it is rolled
/// back.
#[derive(Debug, Clone, Default)]
pub struct Fence {
    leases: Option<Arc<[Uuid]>>,
}

impl Fence {
    /// What [`hold`](Self::hold) runs, for hosts on another driver. Its one parameter, an array of UUIDs, are the
    /// [`leases`](Self::leases). It must return as many rows as there are leases; else the transaction must roll back.
    ///
    /// It can be a part of the statement that makes the row, which makes none then, and saves a round trip:
    ///
    /// ```
    /// use tower_quota::Fence;
    ///
    /// let insert = format!(
    ///     r#"WITH "held" AS ({}) INSERT INTO "Segment" ("id", "workspaceId")
    ///        SELECT $2, $3 WHERE (SELECT count(*) FROM "held") = cardinality($1)"#,
    ///     Fence::SQL
    /// );
    /// ```
    // The array stands in a query of its own, which hides how long it is: by that, every run would be planned anew, or by
    // reading the whole table.
    pub const SQL: &'static str = r#"SELECT "held"."id" FROM unnest((SELECT $1::uuid[])) AS "of" ("id"), LATERAL
           (SELECT "id" FROM "_tower_quota_lease" WHERE "id" = "of"."id" AND "live" FOR KEY SHARE) AS "held""#;

    pub(crate) fn new(leases: Vec<Uuid>) -> Self {
        Self { leases: (!leases.is_empty()).then(|| leases.into()) }
    }

    /// The leases that the request's units are of; none where limits are kept without leases.
    pub fn leases(&self) -> &[Uuid] {
        self.leases.as_deref().unwrap_or_default()
    }

    /// Holds on to the units until the transaction has ended. `executor` is a connection with an open transaction to the
    /// database of the ledger.
    ///
    /// # Errors
    ///
    /// [`Error::is_conflict`] when the units have gone to others: roll back, and answer with a server error.
    /// [`Error::is_unavailable`] when the database fails.
    pub async fn hold(&self, executor: impl PgExecutor<'_>) -> Result<(), Error> {
        let leases = self.leases();
        if leases.is_empty() {
            return Ok(());
        }
        let held = sqlx::query(Self::SQL)
            .bind(leases)
            .execute(executor)
            .await
            .map_err(|error| Error::unavailable("could not hold on to the request's units").with_source(error))?;
        if held.rows_affected() == leases.len() as u64 {
            return Ok(());
        }
        Err(Error::conflict(
            "the request's units have gone to other replicas, since this one was taken for dead: roll back",
        ))
    }
}

#[cfg(feature = "axum")]
impl<S: Sync> axum::extract::FromRequestParts<S> for Fence {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}
