//! A look into a host's database that goes past the host.

use sqlx::AssertSqlSafe;
#[cfg(feature = "postgres")]
use sqlx::postgres::{PgConnectOptions, PgConnection};
#[cfg(feature = "sqlite")]
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::runtime::{Builder, Runtime};

/// A connection of its own.
pub(crate) struct Database {
    runtime: Runtime,
    connection: Connection,
}

enum Connection {
    #[cfg(feature = "sqlite")]
    Sqlite(SqliteConnection),
    #[cfg(feature = "postgres")]
    Postgres(PgConnection),
}

/// The same on either connection.
macro_rules! on {
    ($database:expr, $connection:ident => $work:expr) => {{
        let Database { runtime, connection } = $database;
        match connection {
            #[cfg(feature = "sqlite")]
            Connection::Sqlite($connection) => runtime.block_on($work).unwrap(),
            #[cfg(feature = "postgres")]
            Connection::Postgres($connection) => runtime.block_on($work).unwrap(),
        }
    }};
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

impl Database {
    #[cfg(feature = "sqlite")]
    pub(crate) fn open(path: &std::path::Path) -> Self {
        let runtime = runtime();
        let options = SqliteConnectOptions::new().filename(path);
        let connection = Connection::Sqlite(runtime.block_on(sqlx::ConnectOptions::connect(&options)).unwrap());
        Self { runtime, connection }
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn postgres(url: &str) -> Self {
        let runtime = runtime();
        let options: PgConnectOptions = url.parse().unwrap();
        let connection = Connection::Postgres(runtime.block_on(sqlx::ConnectOptions::connect(&options)).unwrap());
        Self { runtime, connection }
    }

    /// Runs statements.
    pub(crate) fn run(&mut self, sql: String) {
        on!(self, connection => async { sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop) });
    }

    /// The result of a query that has one number, for one workspace.
    pub(crate) fn number(&mut self, sql: String, workspace: &str) -> i64 {
        on!(self, connection => sqlx::query_scalar(AssertSqlSafe(sql)).bind(workspace).fetch_one(connection))
    }

    pub(crate) fn rows(&mut self, table: &str, workspace: &str) -> i64 {
        self.number(format!(r#"SELECT count(*) FROM "{table}" WHERE "workspaceId" = $1"#), workspace)
    }

    /// The results of a query that has one text in each row, for one workspace.
    pub(crate) fn texts(&mut self, sql: String, workspace: &str) -> Vec<String> {
        on!(self, connection => sqlx::query_scalar(AssertSqlSafe(sql)).bind(workspace).fetch_all(connection))
    }

    pub(crate) fn names(&mut self, table: &str, workspace: &str) -> Vec<String> {
        self.texts(format!(r#"SELECT "name" FROM "{table}" WHERE "workspaceId" = $1 ORDER BY "name""#), workspace)
    }

    /// Makes the database itself note the most rows of a table that a workspace ever had: no moment is missed, as it
    /// would be between two looks from outside.
    pub(crate) fn watch(&mut self, table: &str) {
        self.watch_where(table, "true");
    }

    /// The same of rows for which a condition holds; on Postgres, rows that come to fulfil it are noted, too.
    pub(crate) fn watch_where(&mut self, table: &str, condition: &str) {
        self.run(
            r#"CREATE TABLE IF NOT EXISTS "Peak" ("table" TEXT, "workspaceId" TEXT, "rows" BIGINT,
               PRIMARY KEY ("table", "workspaceId"))"#
                .to_owned(),
        );
        let trigger = match &self.connection {
            #[cfg(feature = "sqlite")]
            Connection::Sqlite(_) => format!(
                r#"CREATE TRIGGER IF NOT EXISTS "{table}Peak" AFTER INSERT ON "{table}" BEGIN
                     INSERT INTO "Peak" VALUES ('{table}', NEW."workspaceId",
                       (SELECT count(*) FROM "{table}" WHERE "workspaceId" = NEW."workspaceId" AND {condition}))
                     ON CONFLICT DO UPDATE SET "rows" = max("rows", excluded."rows");
                   END"#
            ),
            // Two transactions don't see each other's rows: they count when they commit, one after the other.
            #[cfg(feature = "postgres")]
            Connection::Postgres(_) => format!(
                r#"CREATE OR REPLACE FUNCTION "{table}Peak"() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN
                     PERFORM pg_advisory_xact_lock(hashtext('{table}'), hashtext(NEW."workspaceId"::text));
                     INSERT INTO "Peak" VALUES ('{table}', NEW."workspaceId"::text,
                       (SELECT count(*) FROM "{table}" WHERE "workspaceId" = NEW."workspaceId" AND {condition}))
                     ON CONFLICT ("table", "workspaceId") DO UPDATE
                       SET "rows" = greatest("Peak"."rows", excluded."rows");
                     RETURN NULL;
                   END $body$;
                   DROP TRIGGER IF EXISTS "{table}Peak" ON "{table}";
                   CREATE CONSTRAINT TRIGGER "{table}Peak" AFTER INSERT OR UPDATE ON "{table}"
                     DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION "{table}Peak"()"#
            ),
        };
        self.run(trigger);
    }

    /// The most rows that a watched table ever had for a workspace.
    pub(crate) fn peak(&mut self, table: &str, workspace: &str) -> i64 {
        self.number(
            format!(r#"SELECT coalesce(max("rows"), 0) FROM "Peak" WHERE "table" = '{table}' AND "workspaceId" = $1"#),
            workspace,
        )
    }
}
