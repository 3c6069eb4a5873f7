//! What ties the host's transactions to the leases of their requests.

use std::fmt::Write as _;
use std::sync::Arc;

use sqlx::{AssertSqlSafe, PgExecutor};
use uuid::Uuid;

use crate::error::Error;
use crate::sql::postgres::{array, literal};

/// Holds on to a request's units until a transaction has ended.
///
/// With a [`PostgresLedger`](crate::PostgresLedger), a replica that stands still for too long is taken for dead, and its
/// units go to others. If it then goes on, a request of before could still make rows. A transaction that holds on to
/// its units can't: either it commits before they go, or it is refused. So it is when the database fails over to a copy that
/// has lost commits: units from before then are void. So where each transaction that makes rows of a
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
/// back. In a transaction stricter than `READ COMMITTED` it is also safe, but often fails with a serialization error (40001),
/// as the lease is written to all the time. With a [`Backstop`](crate::Backstop) it has to be called before the rows are made,
/// since that goes by what the transaction holds. To call it again in the same transaction changes nothing.
#[derive(Debug, Clone, Default)]
pub struct Fence {
    held: Option<Arc<Held>>,
}

#[derive(Debug)]
struct Held {
    reservation: u64,
    leases: Box<[Uuid]>,
    units: Box<[Units]>,
}

/// Units of one lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Units {
    /// For new rows.
    pub(crate) made: u64,
    /// For rows that existed when their edit began.
    pub(crate) edited: u64,
}

impl Fence {
    /// What [`hold`](Self::hold) runs, for hosts on another driver, at the top level of the transaction. Its first parameter,
    /// an array of UUIDs, are the [`leases`](Self::leases), its second one, a text, is the [`note`](Self::note). It fails
    /// with [`GONE`](Self::GONE) when the units have gone to others; the transaction must roll back then. Without leases it
    /// need not be run.
    ///
    /// It can be a part of the statement that makes the row, which saves a round trip:
    ///
    /// ```
    /// use tower_quota::Fence;
    ///
    /// let insert = format!(
    ///     r#"INSERT INTO "Segment" ("id", "workspaceId") SELECT $3, $4 FROM ({}) AS "held""#,
    ///     Fence::SQL
    /// );
    /// ```
    pub const SQL: &'static str = r#"SELECT "_tower_quota_hold"($1, $2)"#;

    /// The `SQLSTATE` of a fence that fails.
    pub const GONE: &'static str = "TQ001";

    /// Of a reservation, whose number no other reservation of this process has.
    pub(crate) fn new(reservation: u64, units: impl IntoIterator<Item = (Uuid, Units)>) -> Self {
        let mut held: Vec<(Uuid, Units)> = units.into_iter().collect();
        held.sort_unstable_by_key(|(lease, _)| *lease);
        held.dedup_by(|(next, more), (lease, units)| {
            let same = next == lease;
            if same {
                units.made = units.made.saturating_add(more.made);
                units.edited = units.edited.saturating_add(more.edited);
            }
            same
        });
        if held.is_empty() {
            return Self::default();
        }
        let (leases, units): (Vec<_>, Vec<_>) = held.into_iter().unzip();
        Self { held: Some(Arc::new(Held { reservation, leases: leases.into(), units: units.into() })) }
    }

    /// The leases that the request's units are of; none where limits are kept without leases.
    pub fn leases(&self) -> &[Uuid] {
        self.held.as_ref().map_or(&[], |held| &held.leases)
    }

    /// What a transaction notes of the units that it holds: which reservation, on which leases, how many. Its form may
    /// change.
    pub fn note(&self) -> String {
        let mut note = String::new();
        for held in self.held.iter() {
            for (lease, units) in held.leases.iter().zip(&held.units) {
                // Writing to a string doesn't fail.
                let _ = write!(note, "{} {lease} {} {};", held.reservation, number(units.made), number(units.edited));
            }
        }
        note
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
        // As one plain message, which needs nothing prepared: a pooler may stand in between.
        let hold = format!(r#"SELECT "_tower_quota_hold"({}, {})"#, array(leases), literal(&self.note()));
        match executor.execute(sqlx::raw_sql(AssertSqlSafe(hold))).await {
            Ok(_) => Ok(()),
            Err(error)
                if error.as_database_error().is_some_and(|error| error.code().as_deref() == Some(Self::GONE)) =>
            {
                let gone =
                    "the request's units have gone to other replicas, since this one was taken for dead: roll back";
                Err(Error::conflict(gone).with_source(error))
            }
            Err(error) => Err(Error::unavailable("could not hold on to the request's units").with_source(error)),
        }
    }
}

/// More than a database can hold is as good as all of it.
fn number(units: u64) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX)
}

#[cfg(feature = "axum")]
impl<S: Sync> axum::extract::FromRequestParts<S> for Fence {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}
