//! The authority in a Postgres database.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPool, PgPoolOptions, PgRow};
use sqlx::{Executor, Postgres, Row};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{Authority, BooksMark, Heard, LeaseOf, News, Notice, Peer, Reply, Times};
use crate::BoxFuture;
use crate::error::Error;
use crate::ledger::{Answer, Ask, Known};
use crate::sql::postgres::place;
use crate::sql::{Dialect, PATIENCE, Trouble};
use crate::store::PostgresStore;
use crate::usage::UsageSource;

/// Beats, chores, and a few requests for units: those that wait for one key ask together.
const CONNECTIONS: u32 = 6;

/// The channel of all notices.
const CHANNEL: &str = "_tower_quota";

const ASK: &str = r#"SELECT * FROM "_tower_quota_ask"(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)"#;
const FLUSH: &str = r#"SELECT * FROM "_tower_quota_flush"($1, $2, $3, $4, $5, $6, $7)"#;

/// The role or the database may have another level by default. A call has to see what was committed while it waited for
/// the lock of its key; at a stricter level it fails instead, or goes by a limit of before.
const READ_COMMITTED: &str = "SELECT set_config('default_transaction_isolation', 'read committed', false)
    WHERE current_setting('default_transaction_isolation') <> 'read committed'";

/// Keeps the limits of several processes together exactly, in a Postgres database.
///
/// Give it to [`QuotaBuilder::ledger`](crate::QuotaBuilder::ledger), together with the [`PostgresStore`] that it was
/// made of. Each process that does so is a *replica*: it has units on lease, hands them out without asking, and asks for
/// more when it runs out. A replica that doesn't show life loses its leases to the others.
#[derive(Debug, Clone)]
#[must_use]
pub struct PostgresLedger {
    pool: PgPool,
    times: Times,
    listens: bool,
}

impl PostgresLedger {
    /// The ledger in the database of `store`.
    ///
    /// It has up to seven connections of its own, so that it shows life even where the host has none to spare. They have not
    /// been tried behind a pooler that hands out connections per transaction.
    ///
    /// The role needs `SELECT`, `INSERT`, `UPDATE` and `DELETE` on the tables `"_tower_quota_replica"`, `"_tower_quota_key"`,
    /// `"_tower_quota_lease"` and `"_tower_quota_ended"`, which the store has made; a role that only fences `SELECT` and
    /// `UPDATE` on `"_tower_quota_lease"`.
    pub fn new(store: &PostgresStore) -> Self {
        let options = (*store.pool().connect_options()).clone();
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(PATIENCE)
            .after_connect(|connection, _| Box::pin(async { connection.execute(READ_COMMITTED).await.map(drop) }))
            .connect_lazy_with(options);
        Self {
            pool,
            times: Times {
                time_to_live: Duration::from_secs(4),
                longest_handler: Duration::from_secs(30),
                fenced: false,
            },
            listens: true,
        }
    }

    /// How long a replica that can't reach the database may still hand out units; four seconds by default. Units of a
    /// replica that was killed are free again after one and a quarter of it, and [`longest_handler`](Self::longest_handler)
    /// where handlers don't fence.
    pub fn time_to_live(mut self, time: Duration) -> Self {
        self.times.time_to_live = time;
        self
    }

    /// How long after its admission a request may still make rows, in a host whose handlers don't fence; thirty seconds by
    /// default. The database must enforce it, by its time-outs for a statement, a lock and an idle transaction.
    pub fn longest_handler(mut self, time: Duration) -> Self {
        self.times.longest_handler = time;
        self
    }

    /// Promises that every transaction that makes rows calls [`Fence::hold`](crate::Fence::hold) before it commits. Then
    /// limits are exact through any pause, crash and loss.
    pub fn fenced(mut self) -> Self {
        self.times.fenced = true;
        self
    }

    /// Whether to listen for notices of other replicas; yes by default. Without, or where they get lost, all works, but
    /// slower.
    pub fn listens(mut self, yes: bool) -> Self {
        self.listens = yes;
        self
    }

    pub(crate) fn open(self) -> (Arc<dyn Authority>, Times) {
        let authority = PostgresAuthority { pool: self.pool, listener: self.listens.then(Mutex::default) };
        (Arc::new(authority), self.times)
    }
}

struct PostgresAuthority {
    pool: PgPool,
    listener: Option<Mutex<Option<Listening>>>,
}

/// A listener, which sqlx lets go of only inside a runtime: wherever the engine is dropped, it is dropped in its own.
struct Listening {
    listener: Option<PgListener>,
    runtime: Handle,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        self.listener.take();
    }
}

impl PostgresAuthority {
    async fn ask(
        &self,
        of: LeaseOf<'_>,
        ask: &Ask,
        usage: &dyn UsageSource,
        counted: Option<(BooksMark, u64)>,
    ) -> Result<Reply, Error> {
        // Rows in another database are counted there, between two calls.
        let place = place(&self.pool.connect_options());
        let sql = usage.count_sql(of.resource).filter(|sql| sql.serves(&place));
        let (bounded, all) = sql.as_ref().map_or((None, None), |sql| (Some(sql.bounded()), Some(sql.all())));
        let row = sqlx::query(ASK)
            .bind(of.lease)
            .bind(of.replica)
            .bind(number(of.beats))
            .bind(of.workspace.as_str())
            .bind(of.resource.name())
            .bind(number(ask.totals.posted))
            .bind(number(ask.totals.returned))
            .bind(number(ask.totals.edits))
            .bind(number(ask.totals.edits_ended))
            .bind(number(ask.seq))
            .bind(number(ask.need))
            .bind(number(ask.queued))
            .bind(number(ask.spare))
            .bind(number(of.replicas))
            .bind(ask.recount)
            .bind(of.resource.limit_field())
            .bind(of.resource.default_limit().rows().map_or(-1, number))
            .bind(bounded)
            .bind(all)
            .bind(counted.map(|(_, rows)| number(rows)))
            .bind(counted.map(|(mark, _)| number(mark.posts)))
            .bind(counted.map(|(mark, _)| number(mark.edits_ended)))
            .fetch_one(&self.pool)
            .await
            .map_err(failed)?;
        reply(&row).map_err(failed)
    }

    async fn flush(&self, news: &[News]) -> Result<Vec<Heard>, Error> {
        let numbers = |of: fn(&News) -> u64| news.iter().map(|news| number(of(news))).collect::<Vec<i64>>();
        let rows = sqlx::query(FLUSH)
            .bind(news.iter().map(|news| news.lease).collect::<Vec<Uuid>>())
            .bind(numbers(|news| news.totals.posted))
            .bind(numbers(|news| news.totals.returned))
            .bind(numbers(|news| news.totals.edits))
            .bind(numbers(|news| news.totals.edits_ended))
            .bind(news.iter().map(|news| news.waits).collect::<Vec<bool>>())
            .bind(news.iter().map(|news| news.ends).collect::<Vec<bool>>())
            .fetch_all(&self.pool)
            .await
            .map_err(failed)?;
        let heard = |row: &PgRow| {
            Ok(Heard {
                lease: row.try_get("lease")?,
                seq: units(row, "asked")?,
                granted: units(row, "answer")?,
                wanted: row.try_get("wanted")?,
            })
        };
        rows.iter().map(heard).collect::<Result<_, _>>().map_err(failed)
    }

    async fn end(&self, lease: Uuid) -> Result<u64, Error> {
        sqlx::query(r#"SELECT "_tower_quota_kill"($1)"#).bind(lease).execute(&self.pool).await.map_err(failed)?;
        // Waits for those who took hold of it before: nobody can any more.
        sqlx::query(r#"SELECT FROM "_tower_quota_lease" WHERE "id" = $1 FOR UPDATE"#)
            .bind(lease)
            .execute(&self.pool)
            .await
            .map_err(failed)?;
        let settled: Option<i64> = sqlx::query_scalar(r#"SELECT "_tower_quota_settle"($1)"#)
            .bind(lease)
            .fetch_one(&self.pool)
            .await
            .map_err(failed)?;
        Ok(settled.and_then(|units| u64::try_from(units).ok()).unwrap_or(0))
    }

    async fn notice(&self) -> Result<Notice, Error> {
        let Some(listener) = &self.listener else { return std::future::pending().await };
        let mut listener = listener.lock().await;
        let Some(connected) = listener.as_mut().and_then(|listening| listening.listener.as_mut()) else {
            let new = PgListener::connect_with(&self.pool).await.map_err(failed)?;
            let listening = listener.insert(Listening { listener: Some(new), runtime: Handle::current() });
            let listens = match &mut listening.listener {
                Some(new) => new.listen(CHANNEL).await.map_err(failed),
                None => Ok(()),
            };
            if listens.is_err() {
                *listener = None;
            }
            return listens.map(|()| Notice::Lost);
        };
        match connected.try_recv().await {
            Ok(Some(notice)) => Ok(read_notice(notice.payload())),
            // It connects again by itself.
            Ok(None) => Ok(Notice::Lost),
            Err(error) => {
                *listener = None;
                Err(failed(error))
            }
        }
    }
}

impl Authority for PostgresAuthority {
    fn ask<'a>(
        &'a self,
        of: LeaseOf<'a>,
        ask: &'a Ask,
        usage: &'a dyn UsageSource,
        counted: Option<(BooksMark, u64)>,
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        Box::pin(self.ask(of, ask, usage, counted))
    }

    fn flush<'a>(&'a self, news: &'a [News]) -> BoxFuture<'a, Result<Vec<Heard>, Error>> {
        Box::pin(self.flush(news))
    }

    fn join(&self, replica: Uuid) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let join = sqlx::query(r#"INSERT INTO "_tower_quota_replica" ("id") VALUES ($1) ON CONFLICT DO NOTHING"#);
            self.pool.execute(join.bind(replica)).await.map(drop).map_err(failed)
        })
    }

    fn leave(&self, replica: Uuid) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let leave = sqlx::query(
                r#"DELETE FROM "_tower_quota_replica" WHERE "id" = $1
                   AND NOT EXISTS (SELECT FROM "_tower_quota_lease" WHERE "replica" = $1)"#,
            );
            self.pool.execute(leave.bind(replica)).await.map(drop).map_err(failed)
        })
    }

    fn beat(&self, replica: Uuid) -> BoxFuture<'_, Result<Vec<Peer>, Error>> {
        Box::pin(async move {
            let rows =
                sqlx::query(r#"SELECT * FROM "_tower_quota_beat"($1)"#).bind(replica).fetch_all(&self.pool).await;
            let peer = |row: &PgRow| {
                Ok(Peer { replica: row.try_get("id")?, beats: units(row, "beats")?, live: row.try_get("live")? })
            };
            rows.map_err(failed)?.iter().map(peer).collect::<Result<_, _>>().map_err(failed)
        })
    }

    fn bury<'a>(&'a self, replica: Uuid, beats: u64) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let bury =
                sqlx::query(r#"UPDATE "_tower_quota_replica" SET "live" = false WHERE "id" = $1 AND "beats" = $2"#);
            self.pool.execute(bury.bind(replica).bind(number(beats))).await.map(drop).map_err(failed)
        })
    }

    fn orphans(&self) -> BoxFuture<'_, Result<Vec<Uuid>, Error>> {
        Box::pin(async move {
            let orphans = sqlx::query_scalar(
                r#"SELECT l."id" FROM "_tower_quota_lease" l WHERE NOT l."live" OR NOT EXISTS
                   (SELECT FROM "_tower_quota_replica" r
                    WHERE r."id" = l."replica" AND r."live" AND r."epoch" = "_tower_quota_epoch"())"#,
            );
            orphans.fetch_all(&self.pool).await.map_err(failed)
        })
    }

    fn end(&self, lease: Uuid) -> BoxFuture<'_, Result<u64, Error>> {
        Box::pin(self.end(lease))
    }

    fn notice(&self) -> BoxFuture<'_, Result<Notice, Error>> {
        Box::pin(self.notice())
    }
}

fn reply(row: &PgRow) -> Result<Reply, sqlx::Error> {
    let verdict: &str = row.try_get("verdict")?;
    let limit = || Ok::<_, sqlx::Error>(u64::try_from(row.try_get::<i64, _>("limit")?).ok());
    Ok(match verdict {
        "dead" => Reply::Dead,
        "count" => Reply::Count(BooksMark {
            posts: units(row, "posts")?,
            edits_ended: units(row, "edits_ended")?,
            limit: limit()?,
        }),
        verdict => Reply::Answer {
            answer: Answer {
                granted: units(row, "granted")?,
                waits: verdict == "blocked",
                counted: row.try_get("counted")?,
                known: Known {
                    // Nothing was counted yet where nothing was needed yet.
                    counted: row
                        .try_get::<Option<i64>, _>("rows")?
                        .and_then(|rows| u64::try_from(rows).ok())
                        .unwrap_or(0),
                    posted: units(row, "posted")?,
                    reserved: units(row, "reserved")?,
                    limit: limit()?,
                },
            },
            believed: row.try_get::<Option<i64>, _>("believed")?.and_then(|rows| u64::try_from(rows).ok()),
            breach: row.try_get::<Option<i64>, _>("breach")?.and_then(|rows| u64::try_from(rows).ok()).unwrap_or(0),
        },
    })
}

fn units(row: &PgRow, column: &str) -> Result<u64, sqlx::Error> {
    let number: i64 = row.try_get(column)?;
    u64::try_from(number)
        .map_err(|error| sqlx::Error::ColumnDecode { index: column.to_owned(), source: Box::new(error) })
}

/// More than a database can hold is as good as unlimited.
fn number(units: u64) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX)
}

fn failed(error: sqlx::Error) -> Error {
    let what = match Postgres::trouble(&error) {
        Some(Trouble::Denied) => {
            "the role may not use the ledger: have its owner run GRANT SELECT, INSERT, UPDATE, DELETE ON \
             \"_tower_quota_replica\", \"_tower_quota_key\", \"_tower_quota_lease\", \"_tower_quota_ended\" to the role"
        }
        Some(Trouble::ReadOnly) => "the ledger's server is read-only: connect to the primary",
        Some(Trouble::NoTable | Trouble::NoColumn | Trouble::OtherType) => {
            "the ledger's tables or functions (\"_tower_quota_…\") are gone or altered: restore them from a backup, or              stop all processes, drop them and \"WorkspaceQuota\" with \"_tower_quota_migrations\", and start again"
        }
        _ => "the ledger in Postgres doesn't answer",
    };
    Error::unavailable(what).with_source(error)
}

/// `recall RESOURCE WORKSPACE`, `free RESOURCE WORKSPACE` or `limits WORKSPACE`. What a newer version sends is as good as
/// lost.
fn read_notice(payload: &str) -> Notice {
    let key = |rest: &str| {
        let (resource, workspace) = rest.split_once(' ')?;
        Some((resource.to_owned(), workspace.to_owned()))
    };
    let read = payload.split_once(' ').and_then(|(kind, rest)| match kind {
        "recall" => key(rest).map(|(resource, workspace)| Notice::Recall { resource, workspace }),
        "free" => key(rest).map(|(resource, workspace)| Notice::Free { resource, workspace }),
        "limits" => Some(Notice::Limits { workspace: rest.to_owned() }),
        _ => None,
    });
    read.unwrap_or(Notice::Lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_read() {
        let key = ("segments".to_owned(), "a b".to_owned());
        let (resource, workspace) = key.clone();
        assert_eq!(read_notice("recall segments a b"), Notice::Recall { resource, workspace });
        let (resource, workspace) = key;
        assert_eq!(read_notice("free segments a b"), Notice::Free { resource, workspace });
        assert_eq!(read_notice("limits a b"), Notice::Limits { workspace: "a b".to_owned() });
        for other in ["", "free", "free segments", "later x"] {
            assert_eq!(read_notice(other), Notice::Lost, "{other}");
        }
    }
}
