//! SQL databases, as far as stores and counts go the same way in each of them.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Database, Pool, Transaction};

use crate::BoxFuture;

#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;

/// How long a call waits for a connection, and a statement for a lock.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// What a driver does. Statements with `$1` are understood by all of them, and what they bind is text or numbers.
///
/// The methods are those that generic code can't call on sqlx's own traits without a page of bounds.
pub trait Dialect: Database {
    /// Which database the pool leads to: pools of which this is the same lead to the same.
    fn database(pool: &Pool<Self>) -> String;

    /// Begins a transaction that sees all that was committed before, and in which a statement may take `limit`.
    ///
    /// A connection on which somebody left a transaction with an older snapshot open is an error.
    fn begin(pool: &Pool<Self>, limit: Duration) -> BoxFuture<'_, Result<Transaction<'static, Self>, sqlx::Error>>;

    /// Runs a statement to its end.
    fn rows<'a>(
        connection: &'a mut Self::Connection,
        statement: Statement<'a>,
    ) -> BoxFuture<'a, Result<Vec<Self::Row>, sqlx::Error>>;

    /// Runs several statements, which bind nothing.
    fn script<'a>(
        connection: &'a mut Self::Connection,
        statements: &'static str,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>>;

    fn number(row: &Self::Row, column: usize) -> Result<Option<i64>, sqlx::Error>;

    fn text(row: &Self::Row, column: usize) -> Result<String, sqlx::Error>;

    /// What an operator can do something about.
    fn trouble(error: &sqlx::Error) -> Option<Trouble>;
}

/// One statement and what it binds.
#[derive(Debug)]
pub struct Statement<'a> {
    pub(crate) sql: Arc<str>,
    pub(crate) values: Vec<Value<'a>>,
    /// The same text comes again and again, so that a prepared statement pays where the dialect can keep one.
    pub(crate) recurs: bool,
}

impl<'a> Statement<'a> {
    /// A statement that runs often.
    pub(crate) fn recurring(sql: &Arc<str>, values: Vec<Value<'a>>) -> Self {
        Self { sql: Arc::clone(sql), values, recurs: true }
    }

    /// A statement with a text of its own: kept prepared, it would only push out others.
    pub(crate) fn once(sql: impl Into<Arc<str>>, values: Vec<Value<'a>>) -> Self {
        Self { sql: sql.into(), values, recurs: false }
    }
}

#[derive(Debug)]
pub(crate) enum Value<'a> {
    Null,
    Text(&'a str),
    Owned(String),
    Number(i64),
}

/// Troubles that the dialects tell in words of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    NoTable,
    NoColumn,
    /// A table is there already.
    TableExists,
    /// A connection came back to its pool in the midst of a transaction.
    OpenTransaction,
    /// The role has no right to do that.
    #[cfg(feature = "postgres")]
    Denied,
    /// The server, or the session, doesn't write.
    #[cfg(feature = "postgres")]
    ReadOnly,
    /// A text was compared with a column of another type, or isn't of the type that it was cast to.
    #[cfg(feature = "postgres")]
    OtherType,
}

/// Catalog and configuration take nothing but letters, digits and underscores as identifiers.
pub(crate) fn quoted(identifier: &str) -> String {
    format!("\"{identifier}\"")
}

/// What sqlx has the same words for in each driver. `$kept` tells whether recurring statements are kept prepared.
macro_rules! through_sqlx {
    (prepared: $kept:literal) => {
        fn rows<'a>(
            connection: &'a mut Self::Connection,
            statement: $crate::sql::Statement<'a>,
        ) -> $crate::BoxFuture<'a, Result<Vec<Self::Row>, sqlx::Error>> {
            let mut query = sqlx::query::<Self>(sqlx::AssertSqlSafe(statement.sql));
            for value in statement.values {
                query = match value {
                    $crate::sql::Value::Null => query.bind(None::<&str>),
                    $crate::sql::Value::Text(text) => query.bind(text),
                    $crate::sql::Value::Owned(text) => query.bind(text),
                    $crate::sql::Value::Number(number) => query.bind(number),
                };
            }
            // All rows, where one would do: a driver that stops at the first may never tell of a commit that failed.
            Box::pin(query.persistent($kept && statement.recurs).fetch_all(connection))
        }

        fn script<'a>(
            connection: &'a mut Self::Connection,
            statements: &'static str,
        ) -> $crate::BoxFuture<'a, Result<(), sqlx::Error>> {
            Box::pin(async move {
                sqlx::raw_sql(statements).execute(connection).await?;
                Ok(())
            })
        }

        fn number(row: &Self::Row, column: usize) -> Result<Option<i64>, sqlx::Error> {
            sqlx::Row::try_get(row, column)
        }

        fn text(row: &Self::Row, column: usize) -> Result<String, sqlx::Error> {
            sqlx::Row::try_get(row, column)
        }
    };
}
pub(crate) use through_sqlx;
