//! Postgres, also behind a pooler that hands out a connection per transaction.
//!
//! Behind such a pooler, two statements in a row may run in two sessions: nothing is kept in one. A statement is
//! parsed and run inside a transaction, and its time-outs are the transaction's own.

use std::fmt::Display;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Pool, Postgres, Transaction};

use super::{Dialect, PATIENCE, Trouble, through_sqlx};
use crate::BoxFuture;

/// Which database a connection leads to, as far as its options tell: two that are the same lead to the same.
pub(crate) fn place(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or(options.get_username());
    format!("{} {:?} {} {database}", options.get_host(), options.get_socket(), options.get_port())
}

/// A text in SQL, whatever `standard_conforming_strings` is.
pub(crate) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', r"\\")) } else { format!("'{quoted}'") }
}

/// A value that needs no quotes of its own.
pub(crate) fn quoted(plain: impl Display) -> String {
    format!("'{plain}'")
}

/// An array of such values.
pub(crate) fn array(values: impl IntoIterator<Item = impl Display>) -> String {
    let values: Vec<_> = values.into_iter().map(|value| value.to_string()).collect();
    quoted(format_args!("{{{}}}", values.join(",")))
}

impl Dialect for Postgres {
    fn begin(pool: &Pool<Self>, limit: Duration) -> BoxFuture<'_, Result<Transaction<'static, Self>, sqlx::Error>> {
        Box::pin(async move {
            // One message, and so one way to the server and back. The level is named, since a database may have
            // another by default: each statement sees what was committed before it, and an update waits for another
            // where a stricter level would fail. Where somebody left a transaction of a stricter level open, naming
            // it fails.
            let begin = format!(
                "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}; \
                 SET LOCAL idle_in_transaction_session_timeout = {}",
                limit.as_millis(),
                limit.min(PATIENCE).as_millis(),
                (2 * PATIENCE).as_millis()
            );
            pool.begin_with(AssertSqlSafe(begin)).await
        })
    }

    // Poolers lose prepared statements, or lend them to others.
    through_sqlx!(prepared: false);

    fn trouble(error: &sqlx::Error) -> Option<Trouble> {
        // https://www.postgresql.org/docs/current/errcodes-appendix.html
        match &*error.as_database_error()?.code()? {
            "42P01" => Some(Trouble::NoTable),
            "42703" => Some(Trouble::NoColumn),
            "42P07" => Some(Trouble::TableExists),
            "25001" | "25P02" => Some(Trouble::OpenTransaction),
            "42501" => Some(Trouble::Denied),
            "25006" => Some(Trouble::ReadOnly),
            "42883" | "22P02" => Some(Trouble::OtherType),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::literal;

    #[test]
    fn texts_are_quoted() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\'b"), r"E'a\\''b'");
    }
}
