//! Counts by SQL over the host's tables.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqlitePool;

use super::UsageSource;
use crate::BoxFuture;
use crate::error::Error;
use crate::resource::{ResourceCatalog, ResourceType, check_identifier};
use crate::workspace::WorkspaceId;

/// Values looked up by one statement; an old SQLite takes no more than 999 parameters.
const LOOKED_UP_AT_ONCE: usize = 500;

/// Where the rows of a resource type are.
#[derive(Debug, Clone)]
pub struct SqlTable {
    name: String,
    workspace_column: String,
    filter: Option<String>,
}

impl SqlTable {
    /// All rows of the table `name`, whose column `workspaceId` tells whose they are.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), workspace_column: "workspaceId".to_owned(), filter: None }
    }

    /// The column that holds the workspace id, as text in its canonical form.
    #[must_use]
    pub fn workspace_column(mut self, column: impl Into<String>) -> Self {
        self.workspace_column = column.into();
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

    fn statements(&self, resource: &ResourceType) -> Result<Statements, Error> {
        check_identifier("table", &self.name)?;
        check_identifier("workspace column", &self.workspace_column)?;
        let Self { name, workspace_column, .. } = self;
        // A quoted column that doesn't exist is a text to SQLite, unless its table is named too.
        let mut counted = format!(r#"FROM "{name}" WHERE "{name}"."{workspace_column}" = $1"#);
        if let Some(filter) = &self.filter {
            let condition = with_strict_names(filter)
                .map_err(|problem| Error::config(format!("the filter {filter:?} of {}: {problem}", resource.name())))?;
            counted.push_str(&format!(" AND ({condition})"));
        }
        Ok(Statements {
            table: name.clone(),
            all: format!("SELECT count(*) {counted}").into(),
            bounded: format!(r#"SELECT count(*) FROM (SELECT 1 {counted} LIMIT $2) AS "counted""#).into(),
            counted,
        })
    }
}

/// The condition with its names in backticks, where SQLite doesn't take an unknown one for a text.
fn with_strict_names(condition: &str) -> Result<String, &'static str> {
    const OPEN: &str = "a quote is not closed";
    let mut strict = String::with_capacity(condition.len());
    let mut rest = condition;
    while let Some(letter) = rest.chars().next() {
        if rest.starts_with("--") || rest.starts_with("/*") {
            return Err("leave comments out");
        }
        let after = &rest[letter.len_utf8()..];
        let end = match letter {
            '\'' | '`' | '"' => letter,
            '[' => ']',
            _ => {
                strict.push(letter);
                rest = after;
                continue;
            }
        };
        let (mut inside, mut beyond) = after.split_once(end).ok_or(OPEN)?;
        if letter == '"' {
            let mut name = inside.replace('`', "``");
            while let Some(doubled) = beyond.strip_prefix('"') {
                (inside, beyond) = doubled.split_once('"').ok_or(OPEN)?;
                name.push('"');
                name.push_str(&inside.replace('`', "``"));
            }
            strict.push_str(&format!("`{name}`"));
        } else {
            // One with a doubled quote inside is copied as two pieces side by side.
            strict.push(letter);
            strict.push_str(inside);
            strict.push(end);
        }
        rest = beyond;
    }
    Ok(strict)
}

#[derive(Debug)]
struct Statements {
    table: String,
    all: Arc<str>,
    bounded: Arc<str>,
    /// From `FROM` on: which rows are counted.
    counted: String,
}

/// Counts the rows in the host's SQLite database, with one query per count.
///
/// Each resource type has a table: the catalog's, or that of [`SqliteUsageBuilder::table`].
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
///
/// An index that starts with the workspace column keeps a count cheap.
#[derive(Debug)]
pub struct SqliteUsage {
    pool: SqlitePool,
    // By name, not by id: an id of another catalog would count another type's rows.
    tables: BTreeMap<String, Statements>,
}

/// Builds a [`SqliteUsage`].
#[derive(Debug, Clone)]
#[must_use]
pub struct SqliteUsageBuilder {
    pool: SqlitePool,
    catalog: ResourceCatalog,
    // `None` for a type that is left out.
    tables: BTreeMap<String, Option<SqlTable>>,
}

impl SqliteUsageBuilder {
    /// Names the table that holds the rows of `resource`.
    pub fn table(mut self, resource: impl Into<String>, table: SqlTable) -> Self {
        self.tables.insert(resource.into(), Some(table));
        self
    }

    /// Leaves `resource` out: a count of it is an error.
    pub fn without(mut self, resource: impl Into<String>) -> Self {
        self.tables.insert(resource.into(), None);
        self
    }

    /// Checks the tables and writes the queries. The database is not asked: see [`SqliteUsage::check`].
    ///
    /// # Errors
    ///
    /// When a resource type has no table and was not left out, when one is named that the catalog doesn't have, or when
    /// a table or column is not an identifier.
    pub fn build(mut self) -> Result<SqliteUsage, Error> {
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
                    tables.insert(resource.name().to_owned(), table.statements(resource)?);
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
        Ok(SqliteUsage { pool: self.pool, tables })
    }
}

impl SqliteUsage {
    /// Counts on `pool` the resource types of `catalog`. The pool is only read from.
    pub fn builder(pool: SqlitePool, catalog: &ResourceCatalog) -> SqliteUsageBuilder {
        SqliteUsageBuilder { pool, catalog: catalog.clone(), tables: BTreeMap::new() }
    }

    /// Has the database check every query, so that a misspelt table or column is found at the start.
    ///
    /// # Errors
    ///
    /// When a table or a column isn't there, or the database doesn't answer.
    pub async fn check(&self) -> Result<(), Error> {
        for (resource, statements) in &self.tables {
            self.count_rows(statements, "", Some(0)).await.map_err(|error| failed(resource, statements, error))?;
        }
        Ok(())
    }

    fn statements(&self, resource: &ResourceType) -> Result<&Statements, Error> {
        self.tables.get(resource.name()).ok_or_else(|| {
            Error::config(format!(
                "{} can't be counted: the SqliteUsage was built without a table for that resource type",
                resource.name()
            ))
        })
    }

    async fn count_rows(
        &self,
        statements: &Statements,
        workspace: &str,
        at_most: Option<u64>,
    ) -> Result<i64, sqlx::Error> {
        let sql = if at_most.is_some() { &statements.bounded } else { &statements.all };
        let mut query = sqlx::query_scalar(AssertSqlSafe(Arc::clone(sql))).bind(workspace);
        if let Some(bound) = at_most {
            // There are never more rows than that.
            query = query.bind(i64::try_from(bound).unwrap_or(i64::MAX));
        }
        // A transaction of its own begins a new snapshot. On a connection that came back to the pool with a transaction
        // still open, BEGIN fails, where a bare query would count rows as they were when that one began.
        let mut transaction = self.pool.begin().await?;
        let counted = query.fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(counted)
    }

    async fn find_rows(
        &self,
        statements: &Statements,
        workspace: &str,
        column: &str,
        values: &[String],
    ) -> Result<HashSet<String>, sqlx::Error> {
        let Statements { table, counted, .. } = statements;
        let text = format!(r#"CAST("{table}"."{column}" AS TEXT)"#);
        let mut found = HashSet::with_capacity(values.len());
        // One snapshot for all chunks.
        let mut transaction = self.pool.begin().await?;
        for chunk in values.chunks(LOOKED_UP_AT_ONCE) {
            let parameters: Vec<String> = (2..chunk.len() + 2).map(|parameter| format!("${parameter}")).collect();
            // The bare column, so that an index on it serves; its affinity turns the texts into what it holds.
            let sql =
                format!(r#"SELECT DISTINCT {text} {counted} AND "{table}"."{column}" IN ({})"#, parameters.join(", "));
            let mut query = sqlx::query_scalar(AssertSqlSafe(sql)).persistent(false).bind(workspace);
            for value in chunk {
                query = query.bind(value);
            }
            found.extend(query.fetch_all(&mut *transaction).await?);
        }
        transaction.commit().await?;
        Ok(found)
    }
}

impl UsageSource for SqliteUsage {
    fn count<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        at_most: Option<u64>,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        Box::pin(async move {
            let statements = self.statements(resource)?;
            let counted = self
                .count_rows(statements, workspace.as_str(), at_most)
                .await
                .map_err(|error| failed(resource.name(), statements, error))?;
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
        Box::pin(async move {
            check_identifier("column", column)?;
            let statements = self.statements(resource)?;
            if values.is_empty() {
                return Ok(Vec::new());
            }
            let found = self
                .find_rows(statements, workspace.as_str(), column, values)
                .await
                .map_err(|error| failed(resource.name(), statements, error))?;
            Ok(values.iter().map(|value| found.contains(value)).collect())
        })
    }
}

fn failed(resource: &str, statements: &Statements, error: sqlx::Error) -> Error {
    let table = &statements.table;
    let message = error.as_database_error().map_or("", |error| error.message());
    let fix = if message.contains("no such table") {
        ": the database has no such table; run the host's migrations, or name another with SqliteUsageBuilder::table"
    } else if message.contains("no such column") {
        ": a column is missing; set workspace_column and filter of its SqlTable, or the column of the rule's \
         existence probe, to columns that it has"
    } else if message.contains("within a transaction") {
        ": a connection came back to the pool with its transaction open; end every BEGIN that the host runs itself"
    } else {
        ""
    };
    Error::unavailable(format!("reading {resource} from the table \"{table}\" failed{fix}")).with_source(error)
}
