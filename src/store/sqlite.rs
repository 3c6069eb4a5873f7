//! Quota records in a SQLite database, through sqlx.

use std::error::Error as StdError;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, Row};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Expect, QuotaRecord, QuotaStore, now};
use crate::BoxFuture;
use crate::error::Error;
use crate::limit::{Limit, LimitSet};
use crate::resource::ResourceCatalog;
use crate::workspace::WorkspaceId;

/// The schema's versions, oldest first: the first is version 1. A released one is never edited.
const SCHEMA: [&str; 1] = [include_str!("../../migrations/sqlite/0001_workspace_quota.sql")];

/// The parameter of an update that takes the first of its numbers.
const FIRST_NUMBER: usize = 3;

/// How an unlimited resource type is stored; NULL is one whose limit was never set.
const UNLIMITED: i64 = -1;

/// How long a call waits for a connection, and a statement for the write lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// Readers share a database in WAL mode and writers take turns, so that more connections would only wait.
const CONNECTIONS: u32 = 4;

/// Keeps quota records in a SQLite database: the host's own, or a file of their own.
///
/// They are in the table `"WorkspaceQuota"`, one row per workspace, with a column for each limit field of the catalog:
/// `NULL` where none was set (the default applies), -1 for unlimited, else the limit. Opening a store makes or
/// upgrades the table, and adds the columns of resource types that are new in the catalog; a column is never dropped.
/// The versions applied are kept in `"_tower_quota_migrations"`, apart from the host's own migrations.
///
/// An update is one SQL statement, so that concurrent ones, of other processes too, can't lose each other's changes.
///
/// ```
/// use tower_quota::{QuotaStore, ResourceCatalog, SqliteStore, WorkspaceFormat};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("sqlite://{}", directory.path().join("quota.db").display());
/// // let url = "sqlite:///var/lib/app/quota.db";
/// let store = SqliteStore::connect(&url, &ResourceCatalog::default()).await?;
/// let acme = WorkspaceFormat::Verbatim.parse("acme")?;
/// assert_eq!(store.provision(&acme).await?.version, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SqliteStore {
    pool: SqlitePool,
    catalog: ResourceCatalog,
    /// Every column that makes up a record, in the order in which `read` takes them.
    columns: String,
    load: Arc<str>,
    provision: Arc<str>,
}

impl SqliteStore {
    /// Opens the database file that `url` names, such as `sqlite:///var/lib/app/quota.db`, and makes it if there is
    /// none.
    ///
    /// The store's connections use write-ahead logging, and wait up to five seconds for each other.
    ///
    /// # Errors
    ///
    /// When the file can't be opened or made, when its tables can't be prepared (see [`SqliteStore::new`]), and for a
    /// database in memory: it would be gone with the last idle connection. [`MemoryStore`](crate::MemoryStore) keeps
    /// records in memory.
    pub async fn connect(url: &str, catalog: &ResourceCatalog) -> Result<Self, Error> {
        let options = SqliteConnectOptions::from_str(url)
            .map_err(|error| {
                Error::config(format!("{url:?} is not the URL of a SQLite file: write sqlite:///path/to/quota.db"))
                    .with_source(error)
            })?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(PATIENCE);
        let pool = open(options).await.map_err(|error| opening(url, error))?;

        // The database's own word: there are several ways to write such a URL.
        let file: String = sqlx::query_scalar("SELECT file FROM pragma_database_list WHERE name = 'main'")
            .fetch_one(&pool)
            .await
            .map_err(|error| opening(url, error))?;
        if file.is_empty() {
            pool.close().await;
            return Err(Error::config(format!(
                "{url:?} names a database without a file, which is lost with its last connection: write \
                 sqlite:///path/to/quota.db, or take a MemoryStore"
            )));
        }
        Self::new(pool, catalog).await
    }

    /// A store in a database that the host has opened.
    ///
    /// How long a call waits is the pool's affair: for a connection up to its `acquire_timeout`, for the write lock up
    /// to the connection's `busy_timeout`. Every connection must see the same database, and may write to it.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] when the tables were made by a newer version of this crate, or when a table of the host is
    /// called `"WorkspaceQuota"`; [`Error::is_unavailable`] when the database doesn't answer.
    pub async fn new(pool: SqlitePool, catalog: &ResourceCatalog) -> Result<Self, Error> {
        prepare(&pool, catalog).await?;

        let mut columns = r#""id", "version", "createdAt", "updatedAt""#.to_owned();
        for resource in catalog.iter() {
            columns.push_str(", ");
            columns.push_str(&quoted(resource.limit_field()));
        }
        Ok(Self {
            load: format!(r#"SELECT {columns} FROM "WorkspaceQuota" WHERE "workspaceId" = $1"#).into(),
            // A conflicting row would not be returned by DO NOTHING, but is by an update that changes nothing.
            provision: format!(
                r#"INSERT INTO "WorkspaceQuota" ("id", "workspaceId", "version", "createdAt", "updatedAt")
VALUES ($1, $2, 1, $3, $3)
ON CONFLICT ("workspaceId") DO UPDATE SET "workspaceId" = excluded."workspaceId"
RETURNING {columns}"#
            )
            .into(),
            columns,
            pool,
            catalog: catalog.clone(),
        })
    }

    /// The connections: to close them in an orderly shutdown, or to count the rows of the same file with a
    /// [`SqliteUsage`](crate::SqliteUsage).
    pub fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    async fn find(&self, workspace: &WorkspaceId) -> Result<Option<QuotaRecord>, Error> {
        let row = sqlx::query(AssertSqlSafe(Arc::clone(&self.load)))
            .bind(workspace.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(|error| failed("reading", workspace, error))?;
        row.map(|row| self.record(workspace, &row)).transpose()
    }

    async fn find_or_insert(&self, workspace: &WorkspaceId) -> Result<QuotaRecord, Error> {
        // Records are never deleted, so that the insert is needed once, and the write lock it takes only then.
        if let Some(record) = self.find(workspace).await? {
            return Ok(record);
        }
        // As in `change`, all rows are fetched to learn of a failed commit.
        let rows = sqlx::query(AssertSqlSafe(Arc::clone(&self.provision)))
            .bind(Uuid::now_v7().to_string())
            .bind(workspace.as_str())
            .bind(now().to_string())
            .fetch_all(&self.pool)
            .await
            .map_err(|error| failed("making", workspace, error))?;
        match rows.first() {
            Some(row) => self.record(workspace, row),
            None => Err(failed("making", workspace, sqlx::Error::RowNotFound)),
        }
    }

    async fn change(&self, workspace: &WorkspaceId, changes: &LimitSet, expect: &Expect) -> Result<QuotaRecord, Error> {
        let statement = Update::new(&self.catalog, changes, expect, &self.columns)?;
        let mut query = sqlx::query(AssertSqlSafe(statement.sql))
            // Updates are rare and their texts many: they would push the others out of the statement cache.
            .persistent(false)
            .bind(workspace.as_str())
            .bind(now().to_string());
        for number in statement.numbers {
            query = query.bind(number);
        }
        if statement.inserts {
            query = query.bind(Uuid::now_v7().to_string());
        }
        // SQLite commits when a statement has been stepped to its end. Fetching one row would stop before, and the
        // driver would drop the error of a commit that failed.
        let rows = query.fetch_all(&self.pool).await.map_err(|error| failed("changing", workspace, error))?;
        match rows.first() {
            Some(row) => self.record(workspace, row),
            None => Err(expect.unmet(workspace)),
        }
    }

    fn record(&self, workspace: &WorkspaceId, row: &SqliteRow) -> Result<QuotaRecord, Error> {
        self.read(workspace, row).map_err(|cause| {
            Error::unavailable(format!(
                "the quota record of workspace {workspace:?} can't be read: put its row in \"WorkspaceQuota\" right"
            ))
            .with_source(cause)
        })
    }

    fn read(&self, workspace: &WorkspaceId, row: &SqliteRow) -> Result<QuotaRecord, Box<dyn StdError + Send + Sync>> {
        const FIXED: usize = 4;
        let mut limits = LimitSet::new();
        for (column, resource) in (FIXED..).zip(self.catalog.iter()) {
            match row.try_get::<Option<i64>, _>(column)? {
                None => {}
                Some(UNLIMITED) => limits.set(resource.id(), Limit::Unlimited),
                Some(rows) => limits.set(resource.id(), Limit::finite(u64::try_from(rows)?)?),
            }
        }
        Ok(QuotaRecord::new(
            Uuid::try_parse(row.try_get(0)?)?,
            workspace.clone(),
            u64::try_from(row.try_get::<i64, _>(1)?)?,
            limits,
            row.try_get::<&str, _>(2)?.parse()?,
            row.try_get::<&str, _>(3)?.parse()?,
        ))
    }
}

/// The one statement of an update. Its parameters are the workspace, the time, `numbers`, and the new record's id if it
/// `inserts`.
struct Update {
    sql: String,
    numbers: Vec<i64>,
    inserts: bool,
}

impl Update {
    fn new(catalog: &ResourceCatalog, changes: &LimitSet, expect: &Expect, returning: &str) -> Result<Self, Error> {
        let (mut columns, mut numbers) = (Vec::new(), Vec::new());
        for (id, limit) in changes.iter() {
            let Some(resource) = catalog.iter().nth(id.index()) else {
                return Err(Error::unknown_resource(format!(
                    "the changes name resource type number {} of another catalog: the store's has {}",
                    id.index(),
                    catalog.names()
                )));
            };
            columns.push(quoted(resource.limit_field()));
            numbers.push(stored(limit)?);
        }
        let next = FIRST_NUMBER + numbers.len();

        // The clock of this process may be behind that of the one that wrote last.
        let mut assignments = r#""version" = "WorkspaceQuota"."version" + 1, "updatedAt" =
    CASE WHEN "WorkspaceQuota"."updatedAt" > $2 THEN "WorkspaceQuota"."updatedAt" ELSE $2 END"#
            .to_owned();
        for (parameter, column) in (FIRST_NUMBER..).zip(&columns) {
            assignments.push_str(&format!(", {column} = ${parameter}"));
        }

        let condition = match expect {
            Expect::Anything => {
                let names: String = columns.iter().map(|column| format!(", {column}")).collect();
                let sql = format!(
                    r#"INSERT INTO "WorkspaceQuota" ("workspaceId", "version", "createdAt", "updatedAt"{names}, "id")
VALUES ($1, 1, $2, $2{}, ${next})
ON CONFLICT ("workspaceId") DO UPDATE SET {assignments}
RETURNING {returning}"#,
                    parameters(FIRST_NUMBER..next)
                );
                return Ok(Self { sql, numbers, inserts: true });
            }
            Expect::Existing => String::new(),
            Expect::Versions(versions) => {
                // No record has a version that doesn't fit its column.
                numbers.extend(versions.iter().filter_map(|version| i64::try_from(*version).ok()));
                // The NULL equals nothing, and spares the list a special case for its first.
                format!(r#" AND "version" IN (NULL{})"#, parameters(next..FIRST_NUMBER + numbers.len()))
            }
        };
        let sql = format!(
            r#"UPDATE "WorkspaceQuota" SET {assignments}
WHERE "workspaceId" = $1{condition}
RETURNING {returning}"#
        );
        Ok(Self { sql, numbers, inserts: false })
    }
}

/// `, $3, $4` and so on.
fn parameters(range: Range<usize>) -> String {
    range.map(|parameter| format!(", ${parameter}")).collect()
}

fn stored(limit: Limit) -> Result<i64, Error> {
    match limit.rows() {
        None => Ok(UNLIMITED),
        Some(rows) => i64::try_from(rows).map_err(|error| Error::invalid("a limit is too large").with_source(error)),
    }
}

/// Catalog and configuration take nothing but letters, digits and underscores as identifiers.
fn quoted(identifier: &str) -> String {
    format!("\"{identifier}\"")
}

impl QuotaStore for SqliteStore {
    fn load<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<Option<QuotaRecord>, Error>> {
        Box::pin(self.find(workspace))
    }

    fn provision<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<QuotaRecord, Error>> {
        Box::pin(self.find_or_insert(workspace))
    }

    fn update<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        changes: &'a LimitSet,
        expect: &'a Expect,
    ) -> BoxFuture<'a, Result<QuotaRecord, Error>> {
        Box::pin(async move {
            if !changes.is_empty() {
                return self.change(workspace, changes, expect).await;
            }
            let found = match expect {
                Expect::Anything => Some(self.find_or_insert(workspace).await?),
                Expect::Existing | Expect::Versions(_) => self.find(workspace).await?,
            };
            found.filter(|record| expect.holds(Some(record.version))).ok_or_else(|| expect.unmet(workspace))
        })
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            sqlx::query("SELECT 1").execute(&self.pool).await.map_err(|error| {
                Error::unavailable("the database of the quota records doesn't answer").with_source(error)
            })?;
            Ok(())
        })
    }
}

async fn open(options: SqliteConnectOptions) -> Result<SqlitePool, sqlx::Error> {
    const PAUSE: Duration = Duration::from_millis(10);
    let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(PATIENCE);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match pool.clone().connect_with(options.clone()).await {
            // Of two that switch a fresh file to write-ahead logging at once, SQLite fails one without waiting.
            Err(error) if primary_code(&error) == Some(BUSY) && Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            opened => return opened,
        }
    }
}

/// Brings the tables up to date, in one transaction: whoever opens the same database meanwhile waits.
async fn prepare(pool: &SqlitePool, catalog: &ResourceCatalog) -> Result<(), Error> {
    // A plain BEGIN would take the write lock only at the first write, and fail if another had come in between.
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await.map_err(preparing)?;
    migrate(&mut transaction).await?;
    add_missing_columns(&mut transaction, catalog).await?;
    transaction.commit().await.map_err(preparing)
}

/// Applies the versions of the schema that the database doesn't have.
///
/// sqlx's own migrator is not used: on SQLite it takes no lock, and a future that awaits it is not `Send`. Its table is
/// the host's, which would find our versions in it and refuse to run.
async fn migrate(connection: &mut SqliteConnection) -> Result<(), Error> {
    sqlx::raw_sql(
        r#"CREATE TABLE IF NOT EXISTS "_tower_quota_migrations" ("version" INTEGER PRIMARY KEY, "appliedAt" TEXT NOT NULL)"#,
    )
    .execute(&mut *connection)
    .await
    .map_err(preparing)?;
    let latest: i64 = sqlx::query_scalar(r#"SELECT coalesce(max("version"), 0) FROM "_tower_quota_migrations""#)
        .fetch_one(&mut *connection)
        .await
        .map_err(preparing)?;
    let applied = usize::try_from(latest).ok().filter(|applied| *applied <= SCHEMA.len()).ok_or_else(|| {
        Error::config(format!(
            "the quota tables have schema version {latest}, and this version of tower-quota knows up to {}: run the \
             version that upgraded them, or a later one",
            SCHEMA.len()
        ))
    })?;
    for (version, sql) in (1_i64..).zip(SCHEMA).skip(applied) {
        sqlx::raw_sql(sql).execute(&mut *connection).await.map_err(upgrading)?;
        sqlx::query(r#"INSERT INTO "_tower_quota_migrations" ("version", "appliedAt") VALUES ($1, $2)"#)
            .bind(version)
            .bind(now().to_string())
            .execute(&mut *connection)
            .await
            .map_err(preparing)?;
    }
    Ok(())
}

/// Limit fields that the catalog has and the table doesn't. Those that only the table has may come back one day.
async fn add_missing_columns(connection: &mut SqliteConnection, catalog: &ResourceCatalog) -> Result<(), Error> {
    let present: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info('WorkspaceQuota')")
        .fetch_all(&mut *connection)
        .await
        .map_err(preparing)?;
    if present.is_empty() {
        // Not made anew in silence: every limit that was set would be back at its default.
        return Err(Error::config(format!("the quota records are missing{GONE}")));
    }
    for resource in catalog.iter() {
        let field = resource.limit_field();
        if present.iter().any(|column| column.eq_ignore_ascii_case(field)) {
            continue;
        }
        let column = quoted(field);
        let sql =
            format!(r#"ALTER TABLE "WorkspaceQuota" ADD COLUMN {column} INTEGER CHECK ({column} >= {UNLIMITED})"#);
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *connection).await.map_err(preparing)?;
    }
    Ok(())
}

const GONE: &str = ": the table \"WorkspaceQuota\" is gone; restore it from a backup, or drop \
                    \"_tower_quota_migrations\" too and start again without records";

// Result codes: https://sqlite.org/rescode.html
const BUSY: i32 = 5;
const READ_ONLY: i32 = 8;
const CANNOT_OPEN: i32 = 14;
const NOT_A_DATABASE: i32 = 26;

fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let extended: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}

fn opening(url: &str, error: sqlx::Error) -> Error {
    let opened = match primary_code(&error) {
        Some(READ_ONLY | CANNOT_OPEN) => Error::config(format!(
            "can't open the SQLite database {url:?}: its directory must exist, and the process must be allowed to \
             write to it and to the file"
        )),
        Some(NOT_A_DATABASE) => {
            Error::config(format!("can't open the SQLite database {url:?}: the file is something else"))
        }
        _ => Error::unavailable(format!("can't open the SQLite database {url:?}")),
    };
    opened.with_source(error)
}

fn upgrading(error: sqlx::Error) -> Error {
    if error.as_database_error().is_some_and(|error| error.message().contains("already exists")) {
        return Error::config(
            "the database has a table \"WorkspaceQuota\" that tower-quota didn't make: rename it, or keep the quota \
             records in a file of their own",
        )
        .with_source(error);
    }
    preparing(error)
}

fn preparing(error: sqlx::Error) -> Error {
    Error::unavailable(
        "can't prepare the quota tables: the process must be allowed to write to the database, and no one else may \
         keep it locked",
    )
    .with_source(error)
}

fn failed(attempt: &str, workspace: &WorkspaceId, error: sqlx::Error) -> Error {
    let missing = error.as_database_error().is_some_and(|error| error.message().contains("no such table"));
    let fix = if missing { GONE } else { "" };
    Error::unavailable(format!("{attempt} the quota record of workspace {workspace:?} failed{fix}")).with_source(error)
}
