//! A look into a host's SQLite file that goes past the host.

use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, SqliteConnection};
use tokio::runtime::{Builder, Runtime};

/// A connection of its own.
pub(crate) struct Database {
    runtime: Runtime,
    connection: SqliteConnection,
}

impl Database {
    pub(crate) fn open(path: &Path) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let connection = runtime.block_on(SqliteConnectOptions::new().filename(path).connect()).unwrap();
        Self { runtime, connection }
    }

    pub(crate) fn run(&mut self, sql: String) {
        self.runtime.block_on(sqlx::query(AssertSqlSafe(sql)).execute(&mut self.connection)).unwrap();
    }

    /// The result of a query that has one number, for one workspace.
    pub(crate) fn number(&mut self, sql: String, workspace: &str) -> i64 {
        let number = sqlx::query_scalar(AssertSqlSafe(sql)).bind(workspace).fetch_one(&mut self.connection);
        self.runtime.block_on(number).unwrap()
    }

    pub(crate) fn rows(&mut self, table: &str, workspace: &str) -> i64 {
        self.number(format!(r#"SELECT count(*) FROM "{table}" WHERE "workspaceId" = $1"#), workspace)
    }

    pub(crate) fn names(&mut self, table: &str, workspace: &str) -> Vec<String> {
        let sql = format!(r#"SELECT "name" FROM "{table}" WHERE "workspaceId" = $1 ORDER BY "name""#);
        let names = sqlx::query_scalar(AssertSqlSafe(sql)).bind(workspace).fetch_all(&mut self.connection);
        self.runtime.block_on(names).unwrap()
    }

    /// Makes the database itself note the most rows of a table that a workspace ever had: no moment is missed, as it
    /// would be between two looks from outside.
    pub(crate) fn watch(&mut self, table: &str) {
        self.run(
            r#"CREATE TABLE IF NOT EXISTS "Peak" ("table" TEXT, "workspaceId" TEXT, "rows" INTEGER,
               PRIMARY KEY ("table", "workspaceId"))"#
                .to_owned(),
        );
        self.run(format!(
            r#"CREATE TRIGGER IF NOT EXISTS "{table}Peak" AFTER INSERT ON "{table}" BEGIN
                 INSERT INTO "Peak" VALUES ('{table}', NEW."workspaceId",
                   (SELECT count(*) FROM "{table}" WHERE "workspaceId" = NEW."workspaceId"))
                 ON CONFLICT DO UPDATE SET "rows" = max("rows", excluded."rows");
               END"#
        ));
    }

    /// The most rows that a watched table ever had for a workspace.
    pub(crate) fn peak(&mut self, table: &str, workspace: &str) -> i64 {
        self.number(
            format!(r#"SELECT coalesce(max("rows"), 0) FROM "Peak" WHERE "table" = '{table}' AND "workspaceId" = $1"#),
            workspace,
        )
    }
}
