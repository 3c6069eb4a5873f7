//! The product's rows: ten tables of one shape, in SQLite or in Postgres.

use std::time::Duration;

use serde::Serialize;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Error, Postgres, Sqlite, Transaction};
use tower_quota::Fence;
use uuid::Uuid;

use crate::host::COLLECTIONS;

#[derive(Clone)]
pub(crate) enum Database {
    /// SQLite has one writer at a time anyway: with one connection for all writes, they queue in the pool instead of
    /// polling a lock.
    Sqlite {
        writer: SqlitePool,
        readers: SqlitePool,
    },
    Postgres(PgPool),
}

#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) name: String,
}

impl Row {
    pub(crate) fn new(name: &str) -> Self {
        Self { id: Uuid::now_v7().to_string(), name: name.to_owned() }
    }
}

/// Postgres ends a transaction of this product when one of its statements takes that long, waits that long for a lock, or
/// doesn't come for that long. Nobody waits longer for a connection, either.
const TIME_OUT: Duration = Duration::from_secs(3);

/// Begins a transaction that makes rows.
trait Begin {
    type Database: sqlx::Database;

    async fn begin_fenced(&self, fence: &Fence) -> Result<Transaction<'static, Self::Database>, Error>;
}

impl Begin for SqlitePool {
    type Database = Sqlite;

    async fn begin_fenced(&self, _: &Fence) -> Result<Transaction<'static, Sqlite>, Error> {
        self.begin().await
    }
}

impl Begin for PgPool {
    type Database = Postgres;

    /// It holds on to the units that its rows were admitted on, so that no other replica can have them.
    async fn begin_fenced(&self, fence: &Fence) -> Result<Transaction<'static, Postgres>, Error> {
        let mut transaction = self.begin().await?;
        fence.hold(&mut *transaction).await.map_err(|error| Error::Protocol(error.to_string()))?;
        Ok(transaction)
    }
}

/// The same statements on either database, with one of its connections.
macro_rules! on {
    ($database:expr, $($pool:ident)|+, $connections:ident => $work:expr) => {
        match $database {
            on!(@sqlite $($pool)|+, $connections) => $work,
            Database::Postgres($connections) => $work,
        }
    };
    (@sqlite writer, $connections:ident) => { Database::Sqlite { writer: $connections, .. } };
    (@sqlite readers, $connections:ident) => { Database::Sqlite { readers: $connections, .. } };
}

impl Database {
    pub(crate) async fn open(url: &str) -> Result<Self, Error> {
        match url.starts_with("postgres") {
            true => Self::open_postgres(url).await,
            false => Self::open_sqlite(url).await,
        }
    }

    async fn open_sqlite(url: &str) -> Result<Self, Error> {
        let options = url
            .parse::<SqliteConnectOptions>()?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal);
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        sqlx::raw_sql(AssertSqlSafe(tables())).execute(&writer).await?;
        let readers = SqlitePoolOptions::new().max_connections(4).connect_with(options.read_only(true)).await?;
        Ok(Self::Sqlite { writer, readers })
    }

    async fn open_postgres(url: &str) -> Result<Self, Error> {
        let time_out = TIME_OUT.as_millis();
        let options = url.parse::<PgConnectOptions>()?.options([
            ("statement_timeout", time_out),
            ("lock_timeout", time_out),
            ("idle_in_transaction_session_timeout", time_out),
        ]);
        let pool = PgPoolOptions::new().max_connections(16).acquire_timeout(TIME_OUT).connect_with(options).await?;
        // Several processes may start at once: they make the tables one after the other.
        let mut transaction = pool.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock(20260101)").execute(&mut *transaction).await?;
        sqlx::raw_sql(AssertSqlSafe(tables())).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(Self::Postgres(pool))
    }

    /// Inserts rows, all or none.
    pub(crate) async fn insert(&self, table: &str, workspace: &str, rows: &[Row], fence: &Fence) -> Result<(), Error> {
        let insert = format!(r#"INSERT INTO "{table}" ("id", "workspaceId", "name") VALUES ($1, $2, $3)"#);
        on!(self, writer, connections => {
            let mut transaction = connections.begin_fenced(fence).await?;
            for row in rows {
                let insert = sqlx::query(AssertSqlSafe(insert.as_str())).bind(&row.id).bind(workspace).bind(&row.name);
                insert.execute(&mut *transaction).await?;
            }
            transaction.commit().await
        })
    }

    pub(crate) async fn list(&self, table: &str, workspace: &str) -> Result<Vec<Row>, Error> {
        let select = format!(r#"SELECT "id", "name" FROM "{table}" WHERE "workspaceId" = $1 ORDER BY "id""#);
        let rows: Vec<(String, String)> = on!(self, readers, connections => {
            sqlx::query_as(AssertSqlSafe(select)).bind(workspace).fetch_all(connections).await?
        });
        Ok(rows.into_iter().map(|(id, name)| Row { id, name }).collect())
    }

    /// Deletes a row; `false` when there is none.
    pub(crate) async fn delete(&self, table: &str, workspace: &str, id: &str) -> Result<bool, Error> {
        let delete = format!(r#"DELETE FROM "{table}" WHERE "workspaceId" = $1 AND "id" = $2"#);
        let deleted = on!(self, writer, connections => {
            sqlx::query(AssertSqlSafe(delete)).bind(workspace).bind(id).execute(connections).await?.rows_affected()
        });
        Ok(deleted > 0)
    }

    /// Renames the segment with this id, or makes it; without an id, makes one of that name if there is none. `None` when
    /// the id is another workspace's.
    pub(crate) async fn upsert_segment(
        &self,
        workspace: &str,
        id: Option<String>,
        name: &str,
        fence: &Fence,
    ) -> Result<Option<Row>, Error> {
        let conflict = match id {
            Some(_) => {
                r#"("id") DO UPDATE SET "name" = excluded."name" WHERE "Segment"."workspaceId" = excluded."workspaceId""#
            }
            None => r#"("workspaceId", "name") DO UPDATE SET "name" = excluded."name""#,
        };
        let insert = format!(
            r#"INSERT INTO "Segment" ("id", "workspaceId", "name") VALUES ($1, $2, $3)
               ON CONFLICT {conflict} RETURNING "id", "name""#
        );
        let id = id.unwrap_or_else(|| Uuid::now_v7().to_string());
        // All rows, since a driver that is told to stop at the first may never hear of a failed commit.
        let rows: Vec<(String, String)> = on!(self, writer, connections => {
            let mut transaction = connections.begin_fenced(fence).await?;
            let upserted = sqlx::query_as(AssertSqlSafe(insert)).bind(id).bind(workspace).bind(name);
            let rows = upserted.fetch_all(&mut *transaction).await?;
            transaction.commit().await?;
            rows
        });
        Ok(rows.into_iter().next().map(|(id, name)| Row { id, name }))
    }
}

fn tables() -> String {
    let tables = COLLECTIONS.map(|(_, _, table)| {
        format!(
            r#"CREATE TABLE IF NOT EXISTS "{table}" (
                "id" TEXT PRIMARY KEY,
                "workspaceId" TEXT NOT NULL,
                "name" TEXT NOT NULL,
                UNIQUE ("workspaceId", "name")
            );"#
        )
    });
    tables.concat()
}
