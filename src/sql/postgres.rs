//! Postgres, also behind a pooler that hands out a connection per transaction.
//!
//! Behind such a pooler, two statements in a row may run in two sessions: nothing is kept in one. A statement is
//! parsed and run inside a transaction, and its time-outs are the transaction's own.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::{AssertSqlSafe, Connection, Pool, Postgres, Transaction};

use super::{Dialect, PATIENCE, Statement, Trouble, Value, through_sqlx};
use crate::BoxFuture;

/// For so long a connection is taken to be there still.
const FRESH: Duration = Duration::from_secs(1);

/// How the pools go that are this crate's own.
pub(crate) fn pool_options(connections: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(PATIENCE)
        // To ask each time would cost a way to the server and back.
        .test_before_acquire(false)
        .before_acquire(|connection, metadata| {
            Box::pin(async move { Ok(metadata.idle_for <= FRESH || connection.ping().await.is_ok()) })
        })
}

/// Runs statements, which bind nothing, in one message, and so in one transaction and one way to the server and back.
///
/// A connection that turns out to be gone is another's turn: what the statements do may be done twice.
pub(crate) async fn one_message(pool: &PgPool, statements: &str) -> Result<Vec<PgRow>, sqlx::Error> {
    // The level is named, since a role or a database may have another one by default.
    let message: Arc<str> = format!("SET TRANSACTION ISOLATION LEVEL READ COMMITTED; {statements}").into();
    // After a crash, all of them are gone.
    let mut more = pool.size();
    loop {
        match sqlx::raw_sql(AssertSqlSafe(Arc::clone(&message))).fetch_all(pool).await {
            Err(error) if more > 0 && is_gone(&error) => more -= 1,
            answer => return answer,
        }
    }
}

/// Whether the connection is, by the end of it or by what the server says before it ends it.
fn is_gone(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        sqlx::Error::Database(error) => matches!(error.code().as_deref(), Some("57P01" | "57P02")),
        _ => false,
    }
}

/// How long the statements of a transaction may take, from here on.
pub(crate) fn time_outs(limit: Duration) -> String {
    let (statement, lock) = (limit.as_millis(), limit.min(PATIENCE).as_millis());
    format!("SET LOCAL statement_timeout = {statement}; SET LOCAL lock_timeout = {lock}")
}

/// The statement with its values in it, for a message that binds nothing. A `$` stands in it before parameters only.
pub(crate) fn inlined(statement: &Statement<'_>) -> String {
    let mut pieces = statement.sql.split('$');
    let mut sql = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let digits = piece.bytes().take_while(u8::is_ascii_digit).count();
        let (parameter, rest) = piece.split_at(digits);
        let value = parameter.parse::<usize>().ok().and_then(|number| statement.values.get(number.checked_sub(1)?));
        sql.push_str(&match value {
            Some(Value::Null) => "NULL".to_owned(),
            Some(Value::Text(text)) => literal(text),
            Some(Value::Owned(text)) => literal(text),
            // A cast binds tighter than a sign.
            Some(Value::Number(number)) => format!("({number})"),
            // For the server to tell.
            None => format!("${parameter}"),
        });
        sql.push_str(rest);
    }
    sql
}

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

/// An array of texts.
pub(crate) fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let texts: Vec<_> = texts.into_iter().map(literal).collect();
    format!("ARRAY[{}]::text[]", texts.join(", "))
}

/// An array of such values.
pub(crate) fn array(values: impl IntoIterator<Item = impl Display>) -> String {
    let values: Vec<_> = values.into_iter().map(|value| value.to_string()).collect();
    quoted(format_args!("{{{}}}", values.join(",")))
}

impl Dialect for Postgres {
    fn database(pool: &Pool<Self>) -> String {
        place(&pool.connect_options())
    }

    fn begin(pool: &Pool<Self>, limit: Duration) -> BoxFuture<'_, Result<Transaction<'static, Self>, sqlx::Error>> {
        Box::pin(async move {
            // One message, and so one way to the server and back. The level is named, since a database may have
            // another by default: each statement sees what was committed before it, and an update waits for another
            // where a stricter level would fail. Where somebody left a transaction of a stricter level open, naming
            // it fails.
            let begin = format!(
                "BEGIN ISOLATION LEVEL READ COMMITTED; {}; SET LOCAL idle_in_transaction_session_timeout = {}",
                time_outs(limit),
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
    use super::{inlined, literal};
    use crate::sql::{Statement, Value};

    #[test]
    fn texts_are_quoted() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\'b"), r"E'a\\''b'");
    }

    #[test]
    fn values_take_the_place_of_parameters() {
        let mut values = vec![Value::Text("it's $2"), Value::Owned(r"\$1".to_owned()), Value::Null, Value::Number(-1)];
        values.extend((5..=10).map(Value::Number));
        let statement = Statement::once("SELECT $2, $1::text || $10, ($3), $4::bigint,$1 FROM t$11$", values);
        let inlined = inlined(&statement);
        assert_eq!(inlined, r"SELECT E'\\$1', 'it''s $2'::text || (10), (NULL), (-1)::bigint,'it''s $2' FROM t$11$");
    }
}
