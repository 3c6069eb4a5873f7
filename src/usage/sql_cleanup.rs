//! Removes rows above a limit from the host's tables.

use sqlx::{Pool, Transaction};

use super::cleanup::{Cleaned, Cleanup, CleanupPolicy, Excess};
use super::sql::{Counts, LONGEST, LOOKED_UP_AT_ONCE, Newest, SqlTable, SqlUsage, Statements};
use crate::BoxFuture;
use crate::error::Error;
use crate::sql::{Statement, Trouble, Value};

/// How a dialect removes rows.
pub trait Cleans: Counts {
    /// What locks the rows of a SELECT.
    const LOCKING: &'static str;

    const NOW: &'static str;

    /// Begins a transaction that has `key` to itself.
    fn begin_alone(pool: &Pool<Self>, key: String) -> BoxFuture<'_, Result<Transaction<'static, Self>, sqlx::Error>>;

    /// The expression for a whole row of a table, as JSON.
    fn as_json<'a>(
        connection: &'a mut Self::Connection,
        table: &'a SqlTable,
    ) -> BoxFuture<'a, Result<String, sqlx::Error>>;
}

#[cfg(feature = "sqlite")]
impl Cleans for sqlx::Sqlite {
    const LOCKING: &'static str = "";
    const NOW: &'static str = "strftime('%Y-%m-%dT%H:%M:%SZ', 'now')";

    // There is one writer at a time.
    fn begin_alone(pool: &Pool<Self>, _key: String) -> BoxFuture<'_, Result<Transaction<'static, Self>, sqlx::Error>> {
        Box::pin(pool.begin_with("BEGIN IMMEDIATE"))
    }

    // Piece by piece: a function takes a limited number of arguments, JSON has no blobs, and SQLite's own rounds to
    // 15 digits, which are too few for some numbers.
    fn as_json<'a>(
        connection: &'a mut Self::Connection,
        table: &'a SqlTable,
    ) -> BoxFuture<'a, Result<String, sqlx::Error>> {
        use crate::sql::Dialect;

        Box::pin(async move {
            let columns = Statement::once("SELECT name FROM pragma_table_info($1)", vec![Value::Text(&table.name)]);
            let mut pieces = Vec::new();
            for row in Self::rows(connection, columns).await? {
                let name = Self::text(&row, 0)?;
                let key = serde_json::Value::from(name.as_str()).to_string().replace('\'', "''");
                let column = table.column(&name.replace('"', "\"\""));
                pieces.push(format!(
                    r#"'{key}:' || CASE typeof({column}) WHEN 'blob' THEN '{{"blob":"' || hex({column}) || '"}}'
WHEN 'real' THEN iif(CAST(json_quote({column}) AS REAL) = {column}, json_quote({column}), printf('%!.17g', {column}))
ELSE json_quote({column}) END"#
                ));
            }
            Ok(format!("'{{' || {} || '}}'", pieces.join(" || ',' || ")))
        })
    }
}

#[cfg(feature = "postgres")]
impl Cleans for sqlx::Postgres {
    const LOCKING: &'static str = " FOR UPDATE";
    const NOW: &'static str = "now()";

    fn begin_alone(pool: &Pool<Self>, key: String) -> BoxFuture<'_, Result<Transaction<'static, Self>, sqlx::Error>> {
        use crate::sql::Dialect;

        Box::pin(async move {
            let mut transaction = Self::begin(pool, LONGEST).await?;
            // Two keys of one hash take turns for nothing, which is all.
            let lock = "SELECT 1 FROM pg_advisory_xact_lock(hashtextextended($1, 0))";
            Self::rows(&mut transaction, Statement::once(lock, vec![Value::Owned(key)])).await?;
            Ok(transaction)
        })
    }

    fn as_json<'a>(
        _connection: &'a mut Self::Connection,
        table: &'a SqlTable,
    ) -> BoxFuture<'a, Result<String, sqlx::Error>> {
        Box::pin(async move { Ok(format!(r#"row_to_json("{}".*)"#, table.name)) })
    }
}

impl<DB: Cleans> Cleanup for SqlUsage<DB> {
    fn clean<'a>(&'a self, excess: Excess<'a>) -> BoxFuture<'a, Result<Cleaned, Error>> {
        Box::pin(async move {
            let statements = self.statements(excess.resource)?;
            let Some(newest) = &statements.table.newest else {
                return Err(Error::config(format!(
                    "{} can't be cleaned up: name the columns that tell which rows are the newest with \
                     SqlTable::newest_first",
                    excess.resource.name()
                )));
            };
            let batch = Batch { excess, statements, newest };
            match excess.policy {
                CleanupPolicy::Report => batch.report(&self.pool).await,
                CleanupPolicy::Archive | CleanupPolicy::Delete => batch.remove(&self.pool).await,
            }
        })
    }

    fn place(&self) -> Option<String> {
        Some(DB::database(&self.pool))
    }
}

struct Batch<'a> {
    excess: Excess<'a>,
    statements: &'a Statements,
    newest: &'a Newest,
}

impl Batch<'_> {
    async fn report<DB: Cleans>(&self, pool: &Pool<DB>) -> Result<Cleaned, Error> {
        let told = |error| self.failed::<DB>(error);
        let mut transaction = DB::begin(pool, LONGEST).await.map_err(told)?;
        let above = self.above::<DB>(&mut transaction).await?;
        let rows = self.newest::<DB>(&mut transaction, above, "").await?;
        transaction.commit().await.map_err(told)?;
        Ok(Cleaned { above, rows })
    }

    async fn remove<DB: Cleans>(&self, pool: &Pool<DB>) -> Result<Cleaned, Error> {
        let told = |error| self.failed::<DB>(error);
        let Excess { workspace, resource, .. } = self.excess;
        let key = format!("tower-quota cleanup of {} {workspace}", resource.name());
        let mut transaction = DB::begin_alone(pool, key).await.map_err(told)?;
        let above = self.above::<DB>(&mut transaction).await?;
        let mut rows = self.newest::<DB>(&mut transaction, above, DB::LOCKING).await?;
        if rows.is_empty() {
            return Ok(Cleaned { above, rows });
        }
        // Others may have deleted rows while these were being locked, which they now can't any more.
        let above = self.above::<DB>(&mut transaction).await?;
        rows.truncate(usize::try_from(above).unwrap_or(usize::MAX));
        for ids in rows.chunks(LOOKED_UP_AT_ONCE) {
            if self.excess.policy == CleanupPolicy::Archive {
                self.archive::<DB>(&mut transaction, ids).await?;
            }
            self.delete::<DB>(&mut transaction, ids).await?;
        }
        let cleaned = Cleaned { above, rows };
        if let Some(record) = self.excess.record.filter(|_| !cleaned.rows.is_empty()) {
            for (sql, values) in record(&cleaned) {
                let statement = Statement::once(sql, values.into_iter().map(Value::Owned).collect());
                DB::rows(&mut transaction, statement).await.map_err(|error| {
                    Error::unavailable(format!("recording the cleanup of {} failed", resource.name()))
                        .with_source(error)
                })?;
            }
        }
        transaction.commit().await.map_err(told)?;
        Ok(cleaned)
    }

    /// How many rows there are above those that are kept.
    async fn above<DB: Cleans>(&self, connection: &mut DB::Connection) -> Result<u64, Error> {
        let count = Statement::recurring(&self.statements.count.all, vec![self.workspace()]);
        let counted = DB::rows(connection, count).await.and_then(|rows| {
            let counted = rows.first().map(|row| DB::number(row, 0)).transpose()?.flatten();
            counted.ok_or(sqlx::Error::RowNotFound)
        });
        let counted = counted.map_err(|error| self.failed::<DB>(error))?;
        Ok(counted.unsigned_abs().saturating_sub(self.excess.keep))
    }

    /// The ids of the newest rows.
    async fn newest<DB: Cleans>(
        &self,
        connection: &mut DB::Connection,
        above: u64,
        locking: &str,
    ) -> Result<Vec<String>, Error> {
        let (table, counted) = (&self.statements.table, &self.statements.counted);
        let (order, id) = (table.column(&self.newest.order), table.column(&self.newest.id));
        // The databases disagree on where NULLs stand.
        let sql = format!(
            "SELECT CAST({id} AS TEXT) {counted} ORDER BY {order} DESC NULLS LAST, {id} DESC LIMIT $2{locking}"
        );
        let limit = i64::try_from(above.min(self.excess.at_most)).unwrap_or(i64::MAX);
        let values = vec![self.workspace(), Value::Number(limit)];
        let rows = DB::rows(connection, Statement::once(sql, values)).await;
        let ids = rows.and_then(|rows| rows.iter().map(|row| DB::text(row, 0)).collect());
        ids.map_err(|error| self.failed::<DB>(error))
    }

    async fn archive<DB: Cleans>(&self, connection: &mut DB::Connection, ids: &[String]) -> Result<(), Error> {
        let json = DB::as_json(connection, &self.statements.table).await.map_err(|error| self.failed::<DB>(error))?;
        let (counted, now) = (&self.statements.counted, DB::NOW);
        let (one_of, ids_bound) = self.one_of::<DB>(ids, 3);
        let values = [self.workspace(), Value::Text(self.excess.resource.name())].into_iter().chain(ids_bound);
        let sql = format!(
            r#"INSERT INTO "QuotaArchive" ("workspaceId", "resourceType", "row", "archivedAt")
SELECT $1, $2, {json}, {now} {counted} AND {one_of} RETURNING 1"#
        );
        let archived = DB::rows(connection, Statement::once(sql, values.collect())).await.map_err(|error| {
            match DB::trouble(&error) {
                Some(Trouble::NoTable) => Error::config(
                    "the table \"QuotaArchive\" is missing, to which rows are archived: run the migrations of its store",
                )
                .with_source(error),
                _ => self.failed::<DB>(error),
            }
        })?;
        self.check(archived.len(), ids)
    }

    async fn delete<DB: Cleans>(&self, connection: &mut DB::Connection, ids: &[String]) -> Result<(), Error> {
        let (one_of, ids_bound) = self.one_of::<DB>(ids, 2);
        let values = [self.workspace()].into_iter().chain(ids_bound).collect();
        let sql = format!("DELETE {} AND {one_of} RETURNING 1", self.statements.counted);
        let deleted = DB::rows(connection, Statement::once(sql, values)).await;
        let deleted = deleted.map_err(|error| self.failed::<DB>(error))?;
        self.check(deleted.len(), ids)
    }

    /// The condition that a row has one of these ids, which the parameters from `first` on stand for.
    fn one_of<'a, DB: Cleans>(
        &self,
        ids: &'a [String],
        first: usize,
    ) -> (String, impl Iterator<Item = Value<'a>> + use<'a, DB>) {
        let parameters: Vec<String> = (first..first + ids.len()).map(|parameter| format!("${parameter}")).collect();
        let condition = DB::one_of(&self.statements.table.column(&self.newest.id), &parameters.join(", "));
        (condition, ids.iter().map(|id| Value::Text(id)))
    }

    /// What isn't exactly the rows that were chosen is undone.
    fn check(&self, rows: usize, ids: &[String]) -> Result<(), Error> {
        if rows == ids.len() {
            return Ok(());
        }
        Err(Error::config(format!(
            "of {} {} that were chosen, {rows} would be removed: the column {:?} must be an id of its own for each row, and \
             no trigger of the table \"{}\" may keep rows from being deleted",
            ids.len(),
            self.excess.resource.name(),
            self.newest.id,
            self.statements.table.name
        )))
    }

    fn workspace(&self) -> Value<'_> {
        Value::Text(self.excess.workspace.as_str())
    }

    fn failed<DB: Cleans>(&self, error: sqlx::Error) -> Error {
        let (resource, table) = (self.excess.resource.name(), &self.statements.table.name);
        let database = error.as_database_error();
        if database.is_some_and(|error| error.is_foreign_key_violation()) {
            return Error::config(format!(
                "{resource} can't be removed from the table \"{table}\": rows of other tables refer to them; declare those \
                 foreign keys ON DELETE CASCADE or SET NULL, or remove those rows before"
            ))
            .with_source(error);
        }
        let fix = match DB::trouble(&error) {
            Some(Trouble::NoTable) => ": the database has no such table; run the host's migrations",
            Some(Trouble::NoColumn) => {
                ": a column is missing; name columns that it has with workspace_column, filter and newest_first"
            }
            #[cfg(feature = "postgres")]
            Some(Trouble::Denied) => {
                ": the role needs GRANT SELECT, UPDATE, DELETE on it from the table's owner, and INSERT on \"QuotaArchive\""
            }
            _ if database.is_some_and(|error| error.message().contains("readonly")) => {
                ": its pool only reads; build the SqlUsage that cleans up on one that writes"
            }
            _ => "",
        };
        Error::unavailable(format!("cleaning up {resource} in the table \"{table}\" failed{fix}")).with_source(error)
    }
}
