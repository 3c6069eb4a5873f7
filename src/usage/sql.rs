//! Counts by SQL over the host's tables.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::Duration;

use sqlx::Pool;

use super::{CountSql, UsageSource};
use crate::BoxFuture;
use crate::error::Error;
use crate::resource::{ResourceCatalog, ResourceType, check_identifier};
use crate::sql::{Dialect, Statement, Trouble, Value};
use crate::workspace::WorkspaceId;

/// Values looked up by one statement; an old SQLite takes no more than 999 parameters.
pub(super) const LOOKED_UP_AT_ONCE: usize = 500;

/// How long a server goes on with a statement that nobody may be waiting for any more.
pub(super) const LONGEST: Duration = Duration::from_secs(30);

/// The same for a page of workspaces, which may take a walk through a large table.
const LONGEST_LISTING: Duration = Duration::from_secs(300);

/// Where the rows of a resource type are.
#[derive(Debug, Clone)]
pub struct SqlTable {
    pub(super) name: String,
    pub(super) workspace_column: String,
    pub(super) workspace_type: Option<String>,
    pub(super) filter: Option<String>,
    pub(super) newest: Option<Newest>,
}

/// The columns that tell which rows are the newest.
#[derive(Debug, Clone)]
pub(super) struct Newest {
    pub(super) order: String,
    pub(super) id: String,
}

impl SqlTable {
    /// All rows of the table `name`, whose column `workspaceId` tells whose they are.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            workspace_column: "workspaceId".to_owned(),
            workspace_type: None,
            filter: None,
            newest: None,
        }
    }

    /// The column that holds the workspace id, as text in its canonical form.
    #[must_use]
    pub fn workspace_column(mut self, column: impl Into<String>) -> Self {
        self.workspace_column = column.into();
        self
    }

    /// The type of the column that holds the workspace id, where it isn't text: on Postgres, for example `uuid`.
    ///
    /// Ids are cast to it, so that an index on the column serves. An id that can't be cast fails the count: where ids
    /// are UUIDs, take [`WorkspaceFormat::Uuid`](crate::WorkspaceFormat::Uuid), which refuses others before.
    #[must_use]
    pub fn workspace_type(mut self, name: impl Into<String>) -> Self {
        self.workspace_type = Some(name.into());
        self
    }

    /// Counts only rows for which `condition` holds, for example `"archived" = 0`.
    ///
    /// The condition is SQL and is run as it is: it must come from the operator, never from a request. It has no
    /// parameters and no comments. A name in double quotes is always a column, though SQLite on its own takes one that
    /// it doesn't find for a text, with which a misspelt condition would hold for no row and count 0.
    #[must_use]
    pub fn filter(mut self, condition: impl Into<String>) -> Self {
        self.filter = Some(condition.into());
        self
    }

    /// Lets a [`Cleanup`](crate::Cleanup) remove rows above a limit: those first that are greatest by the column `order`, such
    /// as the time at which they were made, and among equals by `id`, which identifies a row. Rows without an order are the
    /// oldest.
    #[must_use]
    pub fn newest_first(mut self, order: impl Into<String>, id: impl Into<String>) -> Self {
        self.newest = Some(Newest { order: order.into(), id: id.into() });
        self
    }

    /// A quoted column that doesn't exist is a text to SQLite, unless its table is named too.
    pub(super) fn column(&self, name: &str) -> String {
        format!(r#""{}"."{name}""#, self.name)
    }

    fn statements<DB: Counts>(&self, resource: &ResourceType) -> Result<Statements, Error> {
        check_identifier("table", &self.name)?;
        check_identifier("workspace column", &self.workspace_column)?;
        if let Some(newest) = &self.newest {
            check_identifier("order column", &newest.order)?;
            check_identifier("id column", &newest.id)?;
        }
        let mut all = format!(r#"FROM "{}" WHERE {} = $1"#, self.name, self.column(&self.workspace_column));
        if let Some(workspace_type) = &self.workspace_type {
            check_identifier("workspace type", workspace_type)?;
            all.push_str(&DB::cast(workspace_type)?);
        }
        let mut filter = String::new();
        if let Some(written) = &self.filter {
            let condition = DB::condition(written).map_err(|problem| {
                Error::config(format!("the filter {written:?} of {}: {problem}", resource.name()))
            })?;
            filter = format!(" AND ({condition})");
        }
        let counted = format!("{all}{filter}");
        Ok(Statements {
            table: self.clone(),
            filter,
            count: CountSql::new(
                format!("SELECT count(*) {counted}"),
                format!(r#"SELECT count(*) FROM (SELECT 1 {counted} LIMIT $2) AS "counted""#),
            ),
            all,
            counted,
        })
    }
}

/// How a dialect counts.
pub trait Counts: Dialect {
    /// What turns the text before it into `type_name`.
    fn cast(type_name: &str) -> Result<String, Error>;

    /// The condition of a filter as it is run.
    fn condition(filter: &str) -> Result<String, &'static str>;

    /// The condition that a column has one of the values that `parameters` lists.
    fn one_of(column: &str, parameters: &str) -> String;

    /// Whether a column can hold that text at all.
    fn can_hold(value: &str) -> bool;

    /// How the workspaces of a table are listed behind `after`.
    fn listing<'a>(
        connection: &'a mut Self::Connection,
        table: &'a SqlTable,
        after: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Listing, sqlx::Error>>;

    /// Which database the pool leads to, where [`CountSql`] can have the statements.
    fn place(pool: &Pool<Self>) -> Option<String>;
}

/// Pieces of SQL by which workspaces are listed in the order of the bytes of their ids.
#[derive(Debug)]
pub struct Listing {
    /// What makes a workspace, and puts it in its place.
    key: String,
    /// What the parameter `$1` is to the key.
    bound: &'static str,
    /// The condition that a row has a workspace.
    placed: String,
}

#[cfg(feature = "sqlite")]
impl Counts for sqlx::Sqlite {
    fn cast(type_name: &str) -> Result<String, Error> {
        Err(Error::config(format!("the workspace type {type_name:?} is for Postgres: leave it out, SQLite needs none")))
    }

    fn condition(filter: &str) -> Result<String, &'static str> {
        rewritten(filter, &[('\'', '\''), ('`', '`'), ('"', '"'), ('[', ']')], true)
    }

    // The bare column, so that an index on it serves; its affinity turns the texts into what it holds.
    fn one_of(column: &str, parameters: &str) -> String {
        format!("{column} IN ({parameters})")
    }

    fn can_hold(_value: &str) -> bool {
        true
    }

    // A column of text holds no numbers, and an index on it serves. Numbers have an order of their own, which isn't that of
    // their texts.
    fn listing<'a>(
        connection: &'a mut Self::Connection,
        table: &'a SqlTable,
        _after: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Listing, sqlx::Error>> {
        const TYPE: &str = "SELECT type FROM pragma_table_info($1) WHERE name = $2 COLLATE NOCASE";
        Box::pin(async move {
            let values = vec![Value::Text(&table.name), Value::Text(&table.workspace_column)];
            let declared = Self::rows(connection, Statement::once(TYPE, values)).await?;
            let declared = declared.first().map(|row| Self::text(row, 0)).transpose()?.unwrap_or_default();
            let declared = declared.to_ascii_uppercase();
            // https://www.sqlite.org/datatype3.html#determination_of_column_affinity
            let is_text =
                !declared.contains("INT") && ["CHAR", "CLOB", "TEXT"].iter().any(|text| declared.contains(text));
            let column = table.column(&table.workspace_column);
            let placed = format!("typeof({column}) NOT IN ('null', 'blob')");
            let text = if is_text { column } else { format!("CAST({column} AS TEXT)") };
            Ok(Listing { key: format!("{text} COLLATE BINARY"), bound: "$1", placed })
        })
    }

    fn place(_: &Pool<Self>) -> Option<String> {
        None
    }
}

#[cfg(feature = "postgres")]
impl Counts for sqlx::Postgres {
    fn cast(type_name: &str) -> Result<String, Error> {
        Ok(format!("::{type_name}"))
    }

    // An unknown name is an error by itself.
    fn condition(filter: &str) -> Result<String, &'static str> {
        rewritten(filter, &[('\'', '\''), ('"', '"')], false)
    }

    // Of a column of text the cast is nothing, and an index serves.
    fn one_of(column: &str, parameters: &str) -> String {
        format!("CAST({column} AS TEXT) IN ({parameters})")
    }

    fn can_hold(value: &str) -> bool {
        !value.contains('\0')
    }

    // UUIDs have the order of their texts, and an index on the column serves. The order of texts is a matter of their
    // collation.
    fn listing<'a>(
        _connection: &'a mut Self::Connection,
        table: &'a SqlTable,
        after: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Listing, sqlx::Error>> {
        let column = table.column(&table.workspace_column);
        let is_uuid = table.workspace_type.as_deref().is_some_and(|name| name.eq_ignore_ascii_case("uuid"));
        use crate::workspace::WorkspaceFormat;

        let uuid = |text: &str| WorkspaceFormat::Uuid.parse(text).is_ok_and(|id| id.as_str() == text);
        let placed = format!("{column} IS NOT NULL");
        let listing = match is_uuid && after.is_none_or(uuid) {
            true => Listing { key: column, bound: "$1::uuid", placed },
            false => Listing { key: format!(r#"CAST({column} AS TEXT) COLLATE "C""#), bound: "$1", placed },
        };
        Box::pin(async move { Ok(listing) })
    }

    fn place(pool: &Pool<Self>) -> Option<String> {
        Some(crate::sql::postgres::place(&pool.connect_options()))
    }
}

/// The condition, checked for what would change the statement around it. `quotes` open and close; with `strict`, names
/// are put in backticks, where SQLite doesn't take an unknown one for a text.
fn rewritten(condition: &str, quotes: &[(char, char)], strict: bool) -> Result<String, &'static str> {
    const OPEN: &str = "a quote is not closed";
    let mut written = String::with_capacity(condition.len());
    let mut rest = condition;
    while let Some(letter) = rest.chars().next() {
        if rest.starts_with("--") || rest.starts_with("/*") {
            return Err("leave comments out");
        }
        let after = &rest[letter.len_utf8()..];
        let Some((_, end)) = quotes.iter().find(|(open, _)| *open == letter) else {
            written.push(letter);
            rest = after;
            continue;
        };
        let (mut inside, mut beyond) = after.split_once(*end).ok_or(OPEN)?;
        if strict && letter == '"' {
            let mut name = inside.replace('`', "``");
            while let Some(doubled) = beyond.strip_prefix('"') {
                (inside, beyond) = doubled.split_once('"').ok_or(OPEN)?;
                name.push('"');
                name.push_str(&inside.replace('`', "``"));
            }
            written.push_str(&format!("`{name}`"));
        } else {
            // One with a doubled quote inside is copied as two pieces side by side.
            written.push(letter);
            written.push_str(inside);
            written.push(*end);
        }
        rest = beyond;
    }
    Ok(written)
}

#[derive(Debug)]
pub(super) struct Statements {
    pub(super) table: SqlTable,
    pub(super) count: CountSql,
    /// The filter, with an `AND` before it.
    filter: String,
    /// From `FROM` on: which rows there are.
    all: String,
    /// From `FROM` on: which rows are counted.
    pub(super) counted: String,
}

/// Counts the rows in the host's SQL database, with one query per count.
///
/// Each resource type has a table: the catalog's, or that of [`SqlUsageBuilder::table`]. An index that starts with the
/// workspace column keeps a count cheap.
pub struct SqlUsage<DB: Counts> {
    pub(super) pool: Pool<DB>,
    // By name, not by id: an id of another catalog would count another type's rows.
    tables: BTreeMap<String, Statements>,
}

/// A [`SqlUsage`] of a SQLite database.
///
/// ```
/// use sqlx::SqlitePool;
/// use tower_quota::{Limit, ResourceCatalog, ResourceSpec, SqlTable, SqliteUsage, UsageSource, WorkspaceFormat};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let options = sqlx::sqlite::SqliteConnectOptions::new().filename(directory.path().join("app.db"));
/// # let pool = SqlitePool::connect_with(options.create_if_missing(true)).await?;
/// # sqlx::raw_sql("CREATE TABLE Webhook (workspaceId TEXT); CREATE TABLE Segment (ws TEXT, archived INTEGER);
/// #     INSERT INTO Segment VALUES ('acme', 0), ('acme', 1), ('other', 0);").execute(&pool).await?;
/// let catalog = ResourceCatalog::empty()
///     .resource(ResourceSpec::new("segments", "maxSegments", Limit::of(50)))
///     .resource(ResourceSpec::new("webhooks", "maxWebhooks", Limit::of(20)).table("Webhook"))
///     .build()?;
/// let usage = SqliteUsage::builder(pool, &catalog)
///     .table("segments", SqlTable::new("Segment").workspace_column("ws").filter("\"archived\" = 0"))
///     .build()?;
/// usage.check().await?;
///
/// let acme = WorkspaceFormat::Verbatim.parse("acme")?;
/// assert_eq!(usage.count(&acme, catalog.by_name("segments")?, None).await?, 1);
/// # Ok(())
/// # }
/// ```
#[cfg(feature = "sqlite")]
pub type SqliteUsage = SqlUsage<sqlx::Sqlite>;

/// A [`SqlUsage`] of a Postgres database.
///
/// Give it a pool of the primary: a replica may lag. A pooler that hands out connections per transaction may stand in
/// between. The server ends a count after 30 seconds, and one that waits for a lock after five.
///
/// ```no_run
/// use sqlx::PgPool;
/// use tower_quota::{PostgresUsage, ResourceCatalog, SqlTable};
///
/// # async fn usage() -> Result<(), Box<dyn std::error::Error>> {
/// let catalog = ResourceCatalog::default();
/// let pool = PgPool::connect("postgres://app@db.internal/app").await?;
/// // All types in one table, by the column `kind`; the workspace column is a `uuid`.
/// let tables = catalog.iter().map(|resource| {
///     let table = SqlTable::new("Resource").workspace_type("uuid");
///     (resource.name(), table.filter(format!("kind = '{}'", resource.name())))
/// });
/// let usage = PostgresUsage::builder(pool, &catalog).tables(tables).build()?;
/// usage.check().await?;
/// # Ok(())
/// # }
/// ```
///
/// Values that a rule looks up are compared as text: an index on a column of text serves, on one of another type only
/// where it is on the cast, such as `(("id")::text)`.
#[cfg(feature = "postgres")]
pub type PostgresUsage = SqlUsage<sqlx::Postgres>;

/// Builds a [`SqlUsage`].
#[must_use]
pub struct SqlUsageBuilder<DB: Counts> {
    pool: Pool<DB>,
    catalog: ResourceCatalog,
    // `None` for a type that is left out.
    tables: BTreeMap<String, Option<SqlTable>>,
}

impl<DB: Counts> SqlUsageBuilder<DB> {
    /// Names the table that holds the rows of `resource`.
    pub fn table(mut self, resource: impl Into<String>, table: SqlTable) -> Self {
        self.tables.insert(resource.into(), Some(table));
        self
    }

    /// Names several of them: pairs of resource type and table.
    pub fn tables<R: Into<String>>(self, tables: impl IntoIterator<Item = (R, SqlTable)>) -> Self {
        tables.into_iter().fold(self, |builder, (resource, table)| builder.table(resource, table))
    }

    /// Leaves `resource` out: a count of it is an error.
    pub fn without(mut self, resource: impl Into<String>) -> Self {
        self.tables.insert(resource.into(), None);
        self
    }

    /// Checks the tables and writes the queries. The database is not asked: see [`SqlUsage::check`].
    ///
    /// # Errors
    ///
    /// When a resource type has no table and was not left out, when one is named that the catalog doesn't have, or when
    /// a table or column is not an identifier.
    pub fn build(mut self) -> Result<SqlUsage<DB>, Error> {
        for name in self.tables.keys() {
            self.catalog.by_name(name).map_err(|error| Error::config(error.message()))?;
        }
        let mut tables = BTreeMap::new();
        let mut homeless = Vec::new();
        for resource in self.catalog.iter() {
            let table = match self.tables.remove(resource.name()) {
                Some(None) => continue,
                Some(Some(table)) => Some(table),
                None => resource.table().map(SqlTable::new),
            };
            match table {
                Some(table) => {
                    tables.insert(resource.name().to_owned(), table.statements::<DB>(resource)?);
                }
                None => homeless.push(resource.name()),
            }
        }
        if !homeless.is_empty() {
            return Err(Error::config(format!(
                "no table is known for {}: name it with table(\"{}\", SqlTable::new(…)), or leave the type out with \
                 without(\"{}\")",
                homeless.join(", "),
                homeless[0],
                homeless[0]
            )));
        }
        Ok(SqlUsage { pool: self.pool, tables })
    }
}

impl<DB: Counts> SqlUsage<DB> {
    /// Counts on `pool` the resource types of `catalog`. The pool is only read from, but for a [`Cleanup`](crate::Cleanup).
    pub fn builder(pool: Pool<DB>, catalog: &ResourceCatalog) -> SqlUsageBuilder<DB> {
        SqlUsageBuilder { pool, catalog: catalog.clone(), tables: BTreeMap::new() }
    }

    /// Has the database check every query, so that a misspelt table or column is found at the start.
    ///
    /// # Errors
    ///
    /// When a table or a column isn't there, or isn't of the type that it is compared with ([`Error::is_config`]); or the
    /// database doesn't answer.
    pub async fn check(&self) -> Result<(), Error> {
        for (resource, statements) in &self.tables {
            // NULL is of any type.
            let Err(error) = self.count_rows(statements, Value::Null, Some(0)).await else { continue };
            let message = reading_failed::<DB>(resource, statements, &error);
            let failed = match DB::trouble(&error) {
                Some(Trouble::NoTable | Trouble::NoColumn) => Error::config(message),
                #[cfg(feature = "postgres")]
                Some(Trouble::OtherType) => Error::config(message),
                _ => Error::unavailable(message),
            };
            return Err(failed.with_source(error));
        }
        Ok(())
    }

    pub(super) fn statements(&self, resource: &ResourceType) -> Result<&Statements, Error> {
        self.tables.get(resource.name()).ok_or_else(|| {
            Error::config(format!(
                "{} can't be counted: its SqlUsage was built without a table for that resource type",
                resource.name()
            ))
        })
    }

    #[cfg(feature = "postgres")]
    pub(super) fn table_of(&self, resource: &ResourceType) -> Result<&SqlTable, Error> {
        self.statements(resource).map(|statements| &statements.table)
    }

    async fn count_rows(
        &self,
        statements: &Statements,
        workspace: Value<'_>,
        at_most: Option<u64>,
    ) -> Result<i64, sqlx::Error> {
        let CountSql { all, bounded, .. } = &statements.count;
        let mut values = vec![workspace];
        let sql = match at_most {
            None => all,
            Some(bound) => {
                // There are never more rows than that.
                values.push(Value::Number(i64::try_from(bound).unwrap_or(i64::MAX)));
                bounded
            }
        };
        let mut transaction = DB::begin(&self.pool, LONGEST).await?;
        let rows = DB::rows(&mut transaction, Statement::recurring(sql, values)).await?;
        transaction.commit().await?;
        let counted = rows.first().map(|row| DB::number(row, 0)).transpose()?.flatten();
        counted.ok_or(sqlx::Error::RowNotFound)
    }

    async fn list_workspaces(
        &self,
        statements: &Statements,
        after: Option<&str>,
        at_most: usize,
    ) -> Result<Vec<(String, i64)>, sqlx::Error> {
        let Statements { table, filter, .. } = statements;
        let mut transaction = DB::begin(&self.pool, LONGEST_LISTING).await?;
        let Listing { key, bound, placed } = DB::listing(&mut transaction, table, after).await?;
        let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
        let (behind, values) = match after {
            None => (String::new(), Vec::new()),
            Some(after) => (format!(" AND {key} > {bound}"), vec![Value::Text(after)]),
        };
        let sql = format!(
            r#"SELECT CAST({key} AS TEXT), count(*) FROM "{}" WHERE {placed}{behind}{filter} GROUP BY {key}
ORDER BY {key} LIMIT {at_most}"#,
            table.name
        );
        let rows = DB::rows(&mut transaction, Statement::once(sql, values)).await?;
        transaction.commit().await?;
        let counted = |row| Ok((DB::text(row, 0)?, DB::number(row, 1)?.ok_or(sqlx::Error::RowNotFound)?));
        rows.iter().map(counted).collect()
    }

    async fn find_rows(
        &self,
        table: &SqlTable,
        rows: &str,
        workspace: &str,
        column: &str,
        values: &[String],
    ) -> Result<HashSet<String>, sqlx::Error> {
        let column = table.column(column);
        let mut found = HashSet::with_capacity(values.len());
        let possible: Vec<&String> = values.iter().filter(|value| DB::can_hold(value)).collect();
        let mut transaction = DB::begin(&self.pool, LONGEST).await?;
        for chunk in possible.chunks(LOOKED_UP_AT_ONCE) {
            let parameters: Vec<String> = (2..chunk.len() + 2).map(|parameter| format!("${parameter}")).collect();
            let one_of = DB::one_of(&column, &parameters.join(", "));
            let sql = format!("SELECT DISTINCT CAST({column} AS TEXT) {rows} AND {one_of}");
            let bound = [workspace].into_iter().chain(chunk.iter().map(|value| value.as_str())).map(Value::Text);
            for row in DB::rows(&mut transaction, Statement::once(sql, bound.collect())).await? {
                found.insert(DB::text(&row, 0)?);
            }
        }
        transaction.commit().await?;
        Ok(found)
    }

    /// Which of `values` are in `column`, of the rows that `rows` says.
    async fn look_up(
        &self,
        workspace: &WorkspaceId,
        resource: &ResourceType,
        column: &str,
        values: &[String],
        rows: fn(&Statements) -> &str,
    ) -> Result<Vec<bool>, Error> {
        check_identifier("column", column)?;
        let statements = self.statements(resource)?;
        if values.is_empty() {
            return Ok(Vec::new());
        }
        let found = self.find_rows(&statements.table, rows(statements), workspace.as_str(), column, values);
        let found = found.await.map_err(|error| failed::<DB>(resource.name(), statements, error))?;
        Ok(values.iter().map(|value| found.contains(value)).collect())
    }
}

impl<DB: Counts> UsageSource for SqlUsage<DB> {
    fn count<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        at_most: Option<u64>,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        Box::pin(async move {
            let statements = self.statements(resource)?;
            let counted = self
                .count_rows(statements, Value::Text(workspace.as_str()), at_most)
                .await
                .map_err(|error| failed::<DB>(resource.name(), statements, error))?;
            u64::try_from(counted).map_err(|error| {
                Error::unavailable(format!("the count of {} is negative", resource.name())).with_source(error)
            })
        })
    }

    /// Values are compared byte for byte with the column as text, so that `"42"` finds the number 42.
    fn existing<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        column: &'a str,
        values: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        Box::pin(self.look_up(workspace, resource, column, values, |statements| &statements.counted))
    }

    fn existing_or_uncounted<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        column: &'a str,
        values: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        Box::pin(self.look_up(workspace, resource, column, values, |statements| &statements.all))
    }

    /// On SQLite, an index that starts with the workspace column keeps a page cheap, where that is a column of text. So it does
    /// on Postgres for a [`workspace_type`](SqlTable::workspace_type) of `uuid`. For other types each page goes through the
    /// whole table, unless there is an index on the text of the column by its bytes, `("workspaceId" COLLATE "C")`.
    fn page<'a>(
        &'a self,
        resource: &'a ResourceType,
        after: Option<&'a str>,
        at_most: usize,
    ) -> BoxFuture<'a, Result<Vec<(String, u64)>, Error>> {
        Box::pin(async move {
            let statements = self.statements(resource)?;
            let listed = self
                .list_workspaces(statements, after, at_most)
                .await
                .map_err(|error| failed::<DB>(resource.name(), statements, error))?;
            // A count is never negative.
            Ok(listed.into_iter().map(|(workspace, rows)| (workspace, rows.unsigned_abs())).collect())
        })
    }

    fn count_sql(&self, resource: &ResourceType) -> Option<CountSql> {
        let statements = self.tables.get(resource.name())?;
        DB::place(&self.pool).map(|place| statements.count.clone().at(place))
    }
}

impl<DB: Counts> fmt::Debug for SqlUsage<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlUsage").field("pool", &self.pool).field("tables", &self.tables).finish()
    }
}

impl<DB: Counts> Clone for SqlUsageBuilder<DB> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), catalog: self.catalog.clone(), tables: self.tables.clone() }
    }
}

impl<DB: Counts> fmt::Debug for SqlUsageBuilder<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlUsageBuilder")
            .field("pool", &self.pool)
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}

fn failed<DB: Counts>(resource: &str, statements: &Statements, error: sqlx::Error) -> Error {
    Error::unavailable(reading_failed::<DB>(resource, statements, &error)).with_source(error)
}

/// What can be done about it, in words that both the builder and configurations have.
fn reading_failed<DB: Counts>(resource: &str, statements: &Statements, error: &sqlx::Error) -> String {
    let table = &statements.table.name;
    let fix = match DB::trouble(error) {
        Some(Trouble::NoTable) => {
            ": the database has no such table; run the host's migrations, or name another `table`"
        }
        Some(Trouble::NoColumn) => {
            ": a column is missing; set `workspace_column` and `filter` of that table, or the column of the rule's \
             existence probe, to columns that it has"
        }
        Some(Trouble::OpenTransaction) => {
            ": a connection came back to the pool with its transaction open; end every BEGIN that the host runs itself"
        }
        #[cfg(feature = "postgres")]
        Some(Trouble::Denied) => ": the role needs GRANT SELECT on it from the table's owner",
        #[cfg(feature = "postgres")]
        Some(Trouble::OtherType) => {
            ": a column isn't text; set `workspace_type` of that table to the type of the workspace column, and a \
             `workspace_format` that takes only ids of that type"
        }
        _ => "",
    };
    format!("reading {resource} from the table \"{table}\" failed{fix}")
}
