//! What ties the host's transactions to the leases of their requests.

use std::fmt::Write as _;
use std::sync::Arc;

use sqlx::postgres::PgQueryResult;
use sqlx::{AssertSqlSafe, PgExecutor, Postgres};
use uuid::Uuid;

use crate::error::Error;
use crate::sql::postgres::{array, literal};
use crate::sql::{Dialect, Trouble};

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
    /// What [`hold`](Self::hold) runs, for hosts on another driver, as one statement at the top level of the transaction. Its
    /// first parameter, an array of UUIDs, are the [`leases`](Self::leases), its second one, a text, is the
    /// [`note`](Self::note). It must return as many rows as there are leases; else the transaction must roll back. Without
    /// leases it need not be run.
    ///
    /// It locks the leases, and leaves the note where a [`Backstop`](crate::Backstop) finds it until the transaction ends:
    /// in the parameter `tower_quota.fence`.
    ///
    /// It can be a part of the statement that makes the row, which makes none then, and saves a round trip:
    ///
    /// ```
    /// use tower_quota::Fence;
    ///
    /// let insert = format!(
    ///     r#"WITH "held" AS ({}) INSERT INTO "Segment" ("id", "workspaceId")
    ///        SELECT $3, $4 WHERE (SELECT count(*) FROM "held") = cardinality($1)"#,
    ///     Fence::SQL
    /// );
    /// ```
    // The array stands in a query of its own, which hides how long it is: by that, every run would be planned anew, or by
    // reading the whole table.
    pub const SQL: &'static str = r#"SELECT set_config(
    'tower_quota.fence', concat(replace(current_setting('tower_quota.fence', true), $2, ''), $2), true) IS NOT NULL
FROM unnest((SELECT $1::uuid[])) AS "of" ("id"), LATERAL (
    SELECT FROM "_tower_quota_lease"
    WHERE "id" = "of"."id" AND "live" AND "epoch" = "_tower_quota_epoch"() FOR KEY SHARE) AS "held""#;

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
                let _ = write!(note, ";{} {lease} {} {};", held.reservation, number(units.made), number(units.edited));
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
        self.held(sqlx::query(Self::SQL).bind(leases).bind(self.note()).execute(executor).await)
    }

    /// The same as one plain message, which needs nothing prepared: for hosts behind a pooler that hands out connections per
    /// transaction. Elsewhere it is slower.
    ///
    /// # Errors
    ///
    /// As [`hold`](Self::hold).
    pub async fn hold_unprepared(&self, executor: impl PgExecutor<'_>) -> Result<(), Error> {
        let leases = self.leases();
        if leases.is_empty() {
            return Ok(());
        }
        let hold = Self::SQL.replace("$1", &array(leases)).replace("$2", &literal(&self.note()));
        self.held(executor.execute(sqlx::raw_sql(AssertSqlSafe(hold))).await)
    }

    fn held(&self, held: Result<PgQueryResult, sqlx::Error>) -> Result<(), Error> {
        match held {
            Ok(held) if held.rows_affected() == self.leases().len() as u64 => Ok(()),
            Ok(_) => Err(Error::conflict(
                "the request's units have gone to other replicas, since this one was taken for dead: roll back",
            )),
            Err(error) => {
                let what = match Postgres::trouble(&error) {
                    Some(Trouble::Denied) => {
                        "the role may not hold on to the request's units: have the ledger's owner run GRANT SELECT, UPDATE ON \
                         \"_tower_quota_lease\" to the role"
                    }
                    _ => "could not hold on to the request's units",
                };
                Err(Error::unavailable(what).with_source(error))
            }
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
