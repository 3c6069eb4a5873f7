//! Quota records in a SQL database: what the dialects have in common.

use std::error::Error as StdError;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use sqlx::Pool;
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::{Expect, QuotaRecord, QuotaStore, now};
use crate::BoxFuture;
use crate::error::Error;
use crate::limit::{Limit, LimitSet};
use crate::resource::ResourceCatalog;
use crate::sql::{Dialect, Statement, Trouble, Value, quoted};
use crate::workspace::WorkspaceId;

/// The parameter of an update that takes the first of its numbers.
const FIRST_NUMBER: usize = 3;

/// How an unlimited resource type is stored; NULL is one whose limit was never set.
const UNLIMITED: i64 = -1;

/// Keeps quota records in a SQL database.
///
/// They are in the table `"WorkspaceQuota"`, one row per workspace, with a column for each limit field of the catalog:
/// `NULL` where none was set (the default applies), -1 for unlimited, else the limit. Opening a store makes or
/// upgrades the table, and adds the columns of resource types that are new in the catalog; a column is never dropped.
/// The versions applied are kept in `"_tower_quota_migrations"`, apart from the host's own migrations.
///
/// An update is one SQL statement, so that concurrent ones, of other processes too, can't lose each other's changes.
pub struct SqlStore<DB: Records> {
    pool: Pool<DB>,
    catalog: ResourceCatalog,
    /// Every column that makes up a record, in the order in which `read` takes them.
    columns: String,
    load: Arc<str>,
    provision: Arc<str>,
    /// Set once the tables are up to date.
    ready: OnceCell<()>,
    /// What the store holds for as long as it lives.
    _guard: DB::Guard,
}

/// How a dialect keeps records.
pub trait Records: Dialect {
    /// The schema's versions, oldest first: the first is version 1. A released one is never edited.
    const SCHEMA: &'static [&'static str];

    /// Id, version, time of creation and of change: a number and texts, whatever the columns are.
    const READ: &'static str;

    /// What makes a UUID or a time of a text.
    const AS_UUID: &'static str;
    const AS_TIME: &'static str;

    /// The type of a limit's column.
    const NUMBER: &'static str;

    /// Names the columns that `"WorkspaceQuota"` has; none when there is no such table.
    const PRESENT: &'static str;

    /// What ends with the store.
    type Guard: fmt::Debug + Send + Sync + 'static;

    /// Whether a column of that name is the catalog's.
    fn same_column(present: &str, field: &str) -> bool;

    /// Brings the tables up to date.
    fn prepare<'a>(pool: &'a Pool<Self>, catalog: &'a ResourceCatalog) -> BoxFuture<'a, Result<(), Error>>;

    /// Runs a statement that is a transaction by itself.
    fn run<'a>(pool: &'a Pool<Self>, statement: Statement<'a>) -> BoxFuture<'a, Result<Vec<Self::Row>, sqlx::Error>>;

    /// Runs one that only reads.
    fn fetch<'a>(pool: &'a Pool<Self>, statement: Statement<'a>) -> BoxFuture<'a, Result<Vec<Self::Row>, sqlx::Error>> {
        Self::run(pool, statement)
    }

    /// The error for tables that can't be prepared.
    fn preparing(error: sqlx::Error) -> Error;
}

impl<DB: Records> SqlStore<DB> {
    /// A store in a database whose tables are brought up to date by this.
    pub(super) async fn prepared(pool: Pool<DB>, catalog: &ResourceCatalog, guard: DB::Guard) -> Result<Self, Error> {
        let store = Self::unprepared(pool, catalog, guard);
        store.prepare().await?;
        Ok(store)
    }

    /// The same, but by the first call.
    pub(super) fn unprepared(pool: Pool<DB>, catalog: &ResourceCatalog, guard: DB::Guard) -> Self {
        let (uuid, time) = (DB::AS_UUID, DB::AS_TIME);
        let mut columns = DB::READ.to_owned();
        for resource in catalog.iter() {
            columns.push_str(", ");
            columns.push_str(&quoted(resource.limit_field()));
        }
        Self {
            load: format!(r#"SELECT {columns} FROM "WorkspaceQuota" WHERE "workspaceId" = $1"#).into(),
            // A conflicting row would not be returned by DO NOTHING, but is by an update that changes nothing.
            provision: format!(
                r#"INSERT INTO "WorkspaceQuota" ("id", "workspaceId", "version", "createdAt", "updatedAt")
VALUES ($1{uuid}, $2, 1, $3{time}, $3{time})
ON CONFLICT ("workspaceId") DO UPDATE SET "workspaceId" = excluded."workspaceId"
RETURNING {columns}"#
            )
            .into(),
            columns,
            pool,
            catalog: catalog.clone(),
            ready: OnceCell::new(),
            _guard: guard,
        }
    }

    async fn prepare(&self) -> Result<(), Error> {
        self.ready.get_or_try_init(|| DB::prepare(&self.pool, &self.catalog)).await.map(drop)
    }

    async fn run(
        &self,
        statement: Statement<'_>,
        failed: impl FnOnce(sqlx::Error) -> Error,
    ) -> Result<Vec<DB::Row>, Error> {
        self.prepare().await?;
        DB::run(&self.pool, statement).await.map_err(failed)
    }

    async fn fetch(
        &self,
        statement: Statement<'_>,
        failed: impl FnOnce(sqlx::Error) -> Error,
    ) -> Result<Vec<DB::Row>, Error> {
        self.prepare().await?;
        DB::fetch(&self.pool, statement).await.map_err(failed)
    }

    /// The connections: to close them in an orderly shutdown, or to count the rows of the same database.
    pub fn pool(&self) -> &Pool<DB> {
        &self.pool
    }

    async fn find(&self, workspace: &WorkspaceId) -> Result<Option<QuotaRecord>, Error> {
        let statement = Statement::recurring(&self.load, vec![Value::Text(workspace.as_str())]);
        let rows = self.fetch(statement, |error| failed::<DB>("reading", workspace, error)).await?;
        rows.first().map(|row| self.record(workspace, row)).transpose()
    }

    async fn find_or_insert(&self, workspace: &WorkspaceId) -> Result<QuotaRecord, Error> {
        // Records are never deleted, so that the insert is needed once, and the lock it takes only then.
        if let Some(record) = self.find(workspace).await? {
            return Ok(record);
        }
        let values = vec![
            Value::Owned(Uuid::now_v7().to_string()),
            Value::Text(workspace.as_str()),
            Value::Owned(now().to_string()),
        ];
        let statement = Statement::recurring(&self.provision, values);
        let rows = self.run(statement, |error| failed::<DB>("making", workspace, error)).await?;
        match rows.first() {
            Some(row) => self.record(workspace, row),
            None => Err(failed::<DB>("making", workspace, sqlx::Error::RowNotFound)),
        }
    }

    async fn change(&self, workspace: &WorkspaceId, changes: &LimitSet, expect: &Expect) -> Result<QuotaRecord, Error> {
        let update = Update::new::<DB>(&self.catalog, changes, expect, &self.columns)?;
        let mut values = vec![Value::Text(workspace.as_str()), Value::Owned(now().to_string())];
        values.extend(update.numbers.into_iter().map(Value::Number));
        if update.inserts {
            values.push(Value::Owned(Uuid::now_v7().to_string()));
        }
        // Updates are rare, and their texts many.
        let update = Statement::once(update.sql, values);
        let rows = self.run(update, |error| failed::<DB>("changing", workspace, error)).await?;
        match rows.first() {
            Some(row) => self.record(workspace, row),
            None => Err(expect.unmet(workspace)),
        }
    }

    fn record(&self, workspace: &WorkspaceId, row: &DB::Row) -> Result<QuotaRecord, Error> {
        self.read(workspace, row).map_err(|cause| {
            Error::unavailable(format!(
                "the quota record of workspace {workspace:?} can't be read: put its row in \"WorkspaceQuota\" right"
            ))
            .with_source(cause)
        })
    }

    fn read(&self, workspace: &WorkspaceId, row: &DB::Row) -> Result<QuotaRecord, Box<dyn StdError + Send + Sync>> {
        const FIXED: usize = 4;
        let mut limits = LimitSet::new();
        for (column, resource) in (FIXED..).zip(self.catalog.iter()) {
            match DB::number(row, column)? {
                None => {}
                Some(UNLIMITED) => limits.set(resource.id(), Limit::Unlimited),
                Some(rows) => limits.set(resource.id(), Limit::finite(u64::try_from(rows)?)?),
            }
        }
        Ok(QuotaRecord::new(
            Uuid::try_parse(&DB::text(row, 0)?)?,
            workspace.clone(),
            u64::try_from(DB::number(row, 1)?.unwrap_or_default())?,
            limits,
            DB::text(row, 2)?.parse()?,
            DB::text(row, 3)?.parse()?,
        ))
    }
}

impl<DB: Records> fmt::Debug for SqlStore<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStore").field("pool", &self.pool).field("catalog", &self.catalog).finish_non_exhaustive()
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
    fn new<DB: Records>(
        catalog: &ResourceCatalog,
        changes: &LimitSet,
        expect: &Expect,
        returning: &str,
    ) -> Result<Self, Error> {
        let (uuid, time) = (DB::AS_UUID, DB::AS_TIME);
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
        let mut assignments = format!(
            r#""version" = "WorkspaceQuota"."version" + 1, "updatedAt" =
    CASE WHEN "WorkspaceQuota"."updatedAt" > $2{time} THEN "WorkspaceQuota"."updatedAt" ELSE $2{time} END"#
        );
        for (parameter, column) in (FIRST_NUMBER..).zip(&columns) {
            assignments.push_str(&format!(", {column} = ${parameter}"));
        }

        let condition = match expect {
            Expect::Anything => {
                let names: String = columns.iter().map(|column| format!(", {column}")).collect();
                let sql = format!(
                    r#"INSERT INTO "WorkspaceQuota" ("workspaceId", "version", "createdAt", "updatedAt"{names}, "id")
VALUES ($1, 1, $2{time}, $2{time}{}, ${next}{uuid})
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

impl<DB: Records> QuotaStore for SqlStore<DB> {
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
            let silent = "the database of the quota records doesn't answer";
            let failed = |error| Error::unavailable(silent).with_source(error);
            self.fetch(Statement::once("SELECT 1", Vec::new()), failed).await.map(drop)
        })
    }
}

const GONE: &str = ": the table \"WorkspaceQuota\" is gone; restore it from a backup, or drop \
                    \"_tower_quota_migrations\" too and start again without records";

/// Whose versions of the schema have been applied.
///
/// sqlx's own migrator is not used: its table is the host's, which would find our versions in it and refuse to run. On
/// SQLite it takes no lock, and a future that awaits it is not `Send`; on Postgres it takes one that a pooler loses.
pub(super) async fn applied<DB: Records>(connection: &mut DB::Connection) -> Result<usize, Error> {
    let latest = r#"SELECT coalesce(max("version"), 0) FROM "_tower_quota_migrations""#;
    let rows = DB::rows(connection, Statement::once(latest, Vec::new())).await.map_err(DB::preparing)?;
    let latest = match rows.first() {
        Some(row) => DB::number(row, 0).map_err(DB::preparing)?.unwrap_or_default(),
        None => 0,
    };
    usize::try_from(latest).ok().filter(|applied| *applied <= DB::SCHEMA.len()).ok_or_else(|| {
        Error::config(format!(
            "the quota tables have schema version {latest}, and this version of tower-quota knows up to {}: run the \
             version that upgraded them, or a later one",
            DB::SCHEMA.len()
        ))
    })
}

/// Applies the versions of the schema that the database doesn't have, and adds the columns of new resource types.
///
/// In a transaction that keeps others out.
pub(super) async fn upgrade<DB: Records>(
    connection: &mut DB::Connection,
    catalog: &ResourceCatalog,
) -> Result<(), Error> {
    let versions = r#"CREATE TABLE IF NOT EXISTS "_tower_quota_migrations" ("version" BIGINT PRIMARY KEY, "appliedAt" TEXT NOT NULL)"#;
    DB::script(connection, versions).await.map_err(DB::preparing)?;
    let applied = applied::<DB>(connection).await?;
    for (version, sql) in (1_i64..).zip(DB::SCHEMA).skip(applied) {
        DB::script(connection, sql).await.map_err(|error| match DB::trouble(&error) {
            Some(Trouble::TableExists) => Error::config(
                "the database has a table \"WorkspaceQuota\" that tower-quota didn't make: rename it, or keep the \
                 quota records in a database of their own",
            )
            .with_source(error),
            _ => DB::preparing(error),
        })?;
        let values = vec![Value::Number(version), Value::Owned(now().to_string())];
        let note = r#"INSERT INTO "_tower_quota_migrations" ("version", "appliedAt") VALUES ($1, $2)"#;
        DB::rows(connection, Statement::once(note, values)).await.map_err(DB::preparing)?;
    }
    for field in missing_columns::<DB>(connection, catalog).await? {
        let (column, number) = (quoted(field), DB::NUMBER);
        let sql =
            format!(r#"ALTER TABLE "WorkspaceQuota" ADD COLUMN {column} {number} CHECK ({column} >= {UNLIMITED})"#);
        DB::rows(connection, Statement::once(sql, Vec::new())).await.map_err(DB::preparing)?;
    }
    Ok(())
}

/// Limit fields that the catalog has and the table doesn't. Those that only the table has may come back one day.
pub(super) async fn missing_columns<'a, DB: Records>(
    connection: &mut DB::Connection,
    catalog: &'a ResourceCatalog,
) -> Result<Vec<&'a str>, Error> {
    let rows = DB::rows(connection, Statement::once(DB::PRESENT, Vec::new())).await.map_err(DB::preparing)?;
    let present: Vec<String> =
        rows.iter().map(|row| DB::text(row, 0)).collect::<Result<_, _>>().map_err(DB::preparing)?;
    if present.is_empty() {
        // Not made anew in silence: every limit that was set would be back at its default.
        return Err(Error::config(format!("the quota records are missing{GONE}")));
    }
    let missing = catalog.iter().map(|resource| resource.limit_field());
    Ok(missing.filter(|field| !present.iter().any(|column| DB::same_column(column, field))).collect())
}

fn failed<DB: Records>(attempt: &str, workspace: &WorkspaceId, error: sqlx::Error) -> Error {
    let fix = match DB::trouble(&error) {
        Some(Trouble::NoTable) => GONE,
        #[cfg(feature = "postgres")]
        Some(Trouble::ReadOnly) => ": the server is read-only; connect to the primary",
        #[cfg(feature = "postgres")]
        Some(Trouble::Denied) => {
            ": the role needs GRANT SELECT, INSERT, UPDATE ON \"WorkspaceQuota\" from the table's owner"
        }
        _ => "",
    };
    Error::unavailable(format!("{attempt} the quota record of workspace {workspace:?} failed{fix}")).with_source(error)
}
