//! Quota records in a SQL database: what the dialects have in common.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use sqlx::{Pool, Transaction};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::sql_texts::{
    Query, Texts, WORKSPACE, audit_columns, audit_entry, audit_values, document, moment, refused, text,
};
use super::sql_transaction::SqlTransaction;
use super::{EventStore, Expect, QuotaRecord, QuotaStore, SchemaStore, StoreKind, StoreTransaction, now};
use crate::BoxFuture;
use crate::error::Error;
use crate::limit::{Limit, LimitSet};
use crate::policy::{AuditEntry, AuditFilter, AuditPage, IncreaseRequest, Lineage, Plan, RequestStatus};
use crate::resource::ResourceCatalog;
use crate::sql::{Dialect, Statement, Trouble, Value, quoted};
use crate::workspace::WorkspaceId;

/// The parameter of an update that takes the first of its numbers.
const FIRST_NUMBER: usize = 3;

/// How an unlimited resource type is stored; NULL is one whose limit was never set.
pub(super) const UNLIMITED: i64 = -1;

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
    pub(super) texts: Arc<Texts<DB>>,
    /// Set once the tables are up to date.
    ready: OnceCell<()>,
    /// What the store holds for as long as it lives.
    _guard: DB::Guard,
}

/// How a dialect keeps records.
pub trait Records: Dialect {
    /// Which dialect it is.
    const KIND: StoreKind;

    /// The schema's versions, oldest first: the first is version 1. A released one is never edited.
    const SCHEMA: &'static [&'static str];

    /// Id, version, time of creation and of change: a number and texts, whatever the columns are.
    const READ: &'static str;

    /// What makes a UUID or a time of a text.
    const AS_UUID: &'static str;
    const AS_TIME: &'static str;
    const AS_JSON: &'static str;

    /// What makes a time of a record's a text.
    const TIME_AS: (&'static str, &'static str);

    /// What keeps a row that was read as it is, and what keeps all parents as they are, until the transaction ends.
    const LOCKED: &'static str;
    const LOCK_PARENTS: Option<&'static str>;

    /// What keeps rows that were read from being deleted until the transaction ends, and others from taking deliveries.
    const SHARED: &'static str;
    const LOCK_CLAIMS: Option<&'static str>;
    /// What sorts the texts of a JSON array as the ledger sorts its keys, where several write at a time.
    const SORTED: Option<&'static str>;

    /// What leaves out the rows (of `d`) that another transaction has locked.
    const UNCLAIMED: &'static str;

    /// The database's clock, in milliseconds since 1970.
    const NOW: &'static str;

    /// Workspaces, resource types and rows by the books that several processes share, up to a list of workspaces.
    const BOOKS: Option<&'static str>;

    /// What has the rows of a workspace and resource type counted before more is granted, where several processes share books.
    const FORGET: Option<&'static str>;

    /// A column of JSON as a text, and the order of a text's bytes.
    const DOCUMENT: &'static str;
    const BYTES: &'static str;

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

    /// Begins a transaction that writes.
    fn change(pool: &Pool<Self>) -> BoxFuture<'_, Result<Transaction<'static, Self>, sqlx::Error>>;

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
        Self { texts: Arc::new(Texts::new(catalog)), pool, ready: OnceCell::new(), _guard: guard }
    }

    pub(super) async fn prepare(&self) -> Result<(), Error> {
        self.ready.get_or_try_init(|| DB::prepare(&self.pool, &self.texts.catalog)).await.map(drop)
    }

    pub(super) async fn run(
        &self,
        statement: Statement<'_>,
        failed: impl FnOnce(sqlx::Error) -> Error,
    ) -> Result<Vec<DB::Row>, Error> {
        self.prepare().await?;
        DB::run(&self.pool, statement).await.map_err(failed)
    }

    pub(super) async fn fetch(
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
        let statement = Statement::recurring(&self.texts.load, vec![Value::Text(workspace.as_str())]);
        let rows = self.fetch(statement, |error| failed::<DB>("reading", workspace, error)).await?;
        rows.first().map(|row| self.texts.record(workspace, row)).transpose()
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
        let statement = Statement::recurring(&self.texts.provision, values);
        let rows = self.run(statement, |error| failed::<DB>("making", workspace, error)).await?;
        match rows.first() {
            Some(row) => self.texts.record(workspace, row),
            None => Err(failed::<DB>("making", workspace, sqlx::Error::RowNotFound)),
        }
    }

    async fn change(&self, workspace: &WorkspaceId, changes: &LimitSet, expect: &Expect) -> Result<QuotaRecord, Error> {
        let update = Update::new::<DB>(&self.texts.catalog, changes, expect, &self.texts.columns)?;
        let mut values = vec![Value::Text(workspace.as_str()), Value::Owned(now().to_string())];
        values.extend(update.numbers.into_iter().map(Value::Number));
        if update.inserts {
            values.push(Value::Owned(Uuid::now_v7().to_string()));
        }
        // Updates are rare, and their texts many.
        let update = Statement::once(update.sql, values);
        let rows = self.run(update, |error| failed::<DB>("changing", workspace, error)).await?;
        match rows.first() {
            Some(row) => self.texts.record(workspace, row),
            None => Err(expect.unmet(workspace)),
        }
    }
}

impl<DB: Records> fmt::Debug for SqlStore<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStore")
            .field("pool", &self.pool)
            .field("catalog", &self.texts.catalog)
            .finish_non_exhaustive()
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

pub(super) fn stored(limit: Limit) -> Result<i64, Error> {
    match limit.rows() {
        None => Ok(UNLIMITED),
        Some(rows) => i64::try_from(rows).map_err(|error| Error::invalid("a limit is too large").with_source(error)),
    }
}

impl<DB: Records> QuotaStore for SqlStore<DB> {
    fn lineage<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<Lineage, Error>> {
        Box::pin(async move {
            let statement = Statement::recurring(&self.texts.lineage, vec![Value::Text(workspace.as_str())]);
            let rows = self.fetch(statement, |error| failed::<DB>("reading", workspace, error)).await?;
            self.texts.kin(workspace, &rows)
        })
    }

    fn members<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<Vec<WorkspaceId>, Error>> {
        Box::pin(async move {
            let statement = Statement::recurring(&self.texts.members, vec![Value::Text(workspace.as_str())]);
            let rows = self.fetch(statement, |error| failed::<DB>("reading", workspace, error)).await?;
            Ok(self.texts.members(&rows)?.into_iter().map(|(member, _)| member).collect())
        })
    }

    fn begin(&self) -> BoxFuture<'_, Result<Box<dyn StoreTransaction>, Error>> {
        Box::pin(async move {
            self.prepare().await?;
            let transaction = DB::change(&self.pool).await.map_err(refused::<DB>)?;
            let transaction: Box<dyn StoreTransaction> =
                Box::new(SqlTransaction::new(transaction, Arc::clone(&self.texts)));
            Ok(transaction)
        })
    }

    fn plans(&self) -> BoxFuture<'_, Result<Vec<Plan>, Error>> {
        Box::pin(async move {
            let plans = format!(r#"SELECT "name", {} FROM "QuotaPlan" ORDER BY "name""#, DB::DOCUMENT);
            let statement = Statement::once(plans, Vec::new());
            let rows = self.fetch(statement, refused::<DB>).await?;
            rows.iter().map(|row| self.texts.plan(&text::<DB>(row, 0)?, &text::<DB>(row, 1)?)).collect()
        })
    }

    fn requests<'a>(
        &'a self,
        workspace: Option<&'a WorkspaceId>,
        status: Option<RequestStatus>,
        before: Option<Uuid>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<IncreaseRequest>, Error>> {
        Box::pin(async move {
            let mut query = Query::new(format!(r#"SELECT {} FROM "QuotaRequest""#, DB::DOCUMENT));
            query.add(r#""workspaceId" = "#, workspace.map(|workspace| Value::Text(workspace.as_str())), "");
            query.add(r#""status" = "#, status.map(|status| Value::Text(status.as_str())), "");
            query.add(r#""id" < "#, before.map(|id| Value::Owned(id.to_string())), DB::AS_UUID);
            let rows = self.fetch(query.end(r#"ORDER BY "id" DESC"#, limit), refused::<DB>).await?;
            rows.iter().map(|row| document(&text::<DB>(row, 0)?)).collect()
        })
    }

    fn audit<'a>(&'a self, filter: &'a AuditFilter) -> BoxFuture<'a, Result<AuditPage, Error>> {
        Box::pin(async move {
            let mut query = Query::new(audit_columns::<DB>());
            query.add(r#""workspaceId" = "#, filter.workspace.as_deref().map(Value::Text), "");
            query.add(r#""resourceType" = "#, filter.resource.as_deref().map(Value::Text), "");
            query.add(r#""at" >= "#, filter.since.map(|at| Value::Owned(moment(at))), DB::AS_TIME);
            query.add(r#""at" < "#, filter.until.map(|at| Value::Owned(moment(at))), DB::AS_TIME);
            query.add(
                r#""seq" < "#,
                filter.before.map(|seq| Value::Number(i64::try_from(seq).unwrap_or(i64::MAX))),
                "",
            );
            // One more, to know whether there are more.
            let rows =
                self.fetch(query.end(r#"ORDER BY "seq" DESC"#, filter.limit.saturating_add(1)), refused::<DB>).await?;
            let mut entries = rows.iter().map(audit_entry::<DB>).collect::<Result<Vec<_>, _>>()?;
            let more = entries.len() > filter.limit;
            entries.truncate(filter.limit);
            let next = entries.last().filter(|_| more).map(|entry| entry.seq);
            Ok(AuditPage { entries, next })
        })
    }

    fn records<'a>(&'a self, after: Option<&'a str>, limit: usize) -> BoxFuture<'a, Result<Vec<QuotaRecord>, Error>> {
        Box::pin(async move {
            let mut query = Query::new(format!(r#"SELECT {} FROM "WorkspaceQuota""#, self.texts.columns));
            query.add(&format!(r#""workspaceId"{} > "#, DB::BYTES), after.map(Value::Text), "");
            let order = format!(r#"ORDER BY "workspaceId"{}"#, DB::BYTES);
            let rows = self.fetch(query.end(&order, limit), refused::<DB>).await?;
            rows.iter()
                .map(|row| self.texts.record(&WorkspaceId::canonical(&text::<DB>(row, WORKSPACE)?), row))
                .collect()
        })
    }

    fn schema(&self) -> Option<&dyn SchemaStore> {
        Some(self)
    }

    fn events(&self) -> Option<&dyn EventStore> {
        Some(self)
    }

    #[cfg(feature = "dashboard")]
    fn overview(&self) -> Option<&dyn super::OverviewStore> {
        Some(self)
    }

    #[cfg(feature = "insight")]
    fn snapshots(&self) -> Option<&dyn super::SnapshotStore> {
        Some(self)
    }

    fn tallies(&self) -> Option<&dyn super::TallyStore> {
        Some(self)
    }

    fn audit_sql(&self, entry: &AuditEntry, place: &str) -> Option<(String, Vec<String>)> {
        (DB::database(&self.pool) == place).then(|| (self.texts.audit.to_string(), audit_values(entry).into()))
    }

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

impl<DB: Records> SchemaStore for SqlStore<DB> {
    fn kind(&self) -> StoreKind {
        DB::KIND
    }

    fn known(&self) -> u64 {
        DB::SCHEMA.len() as u64
    }

    fn applied(&self) -> BoxFuture<'_, Result<u64, Error>> {
        Box::pin(async move {
            let failed = |error| Error::unavailable("the version of the quota tables can't be read").with_source(error);
            // Nothing is prepared for it: where that fails, this is asked to know why.
            match DB::fetch(&self.pool, Statement::once(LATEST, Vec::new())).await {
                Ok(rows) => latest::<DB>(&rows).map_err(failed).map(|latest| u64::try_from(latest).unwrap_or(0)),
                Err(error) if DB::trouble(&error) == Some(Trouble::NoTable) => Ok(0),
                Err(error) => Err(failed(error)),
            }
        })
    }
}

const GONE: &str = ": the table \"WorkspaceQuota\" is gone; restore it from a backup, or drop \
                    \"_tower_quota_migrations\" and the \"Quota…\" tables too and start again without records";

const LATEST: &str = r#"SELECT coalesce(max("version"), 0) FROM "_tower_quota_migrations""#;

/// What [`LATEST`] has found.
fn latest<DB: Records>(rows: &[DB::Row]) -> Result<i64, sqlx::Error> {
    rows.first().map_or(Ok(0), |row| Ok(DB::number(row, 0)?.unwrap_or_default()))
}

/// Whose versions of the schema have been applied.
///
/// sqlx's own migrator is not used: its table is the host's, which would find our versions in it and refuse to run. On
/// SQLite it takes no lock, and a future that awaits it is not `Send`; on Postgres it takes one that a pooler loses.
pub(super) async fn applied<DB: Records>(connection: &mut DB::Connection) -> Result<usize, Error> {
    let rows = DB::rows(connection, Statement::once(LATEST, Vec::new())).await.map_err(DB::preparing)?;
    let latest = latest::<DB>(&rows).map_err(DB::preparing)?;
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

pub(super) fn failed<DB: Records>(attempt: &str, workspace: &WorkspaceId, error: sqlx::Error) -> Error {
    let fix = match DB::trouble(&error) {
        Some(Trouble::NoTable) => GONE,
        #[cfg(feature = "postgres")]
        Some(Trouble::ReadOnly) => ": the server is read-only; connect to the primary",
        #[cfg(feature = "postgres")]
        Some(Trouble::Denied) => {
            ": the role needs GRANT SELECT, INSERT, UPDATE ON \"WorkspaceQuota\" and GRANT SELECT ON \"QuotaPlan\" from their \
             owner"
        }
        _ => "",
    };
    Error::unavailable(format!("{attempt} the quota record of workspace {workspace:?} failed{fix}")).with_source(error)
}
