//! SQLite.

use std::fs;
use std::time::Duration;

use sqlx::{Pool, Sqlite, Transaction};

use super::{Dialect, Trouble, through_sqlx};
use crate::BoxFuture;

impl Dialect for Sqlite {
    // A database in memory has a name of its own, too.
    fn database(pool: &Pool<Self>) -> String {
        let options = pool.connect_options();
        let file = options.get_filename();
        format!("sqlite {}", fs::canonicalize(file).unwrap_or_else(|_| file.to_owned()).display())
    }

    // On a connection that came back to the pool with a transaction still open, BEGIN fails, where a bare query would
    // read rows as they were when that one began. What a statement may take is the affair of whoever awaits it: the
    // database is in this process.
    fn begin(pool: &Pool<Self>, _limit: Duration) -> BoxFuture<'_, Result<Transaction<'static, Self>, sqlx::Error>> {
        Box::pin(pool.begin())
    }

    through_sqlx!(prepared: true);

    fn trouble(error: &sqlx::Error) -> Option<Trouble> {
        let message = error.as_database_error()?.message();
        [
            ("no such table", Trouble::NoTable),
            ("no such column", Trouble::NoColumn),
            ("already exists", Trouble::TableExists),
            ("within a transaction", Trouble::OpenTransaction),
        ]
        .into_iter()
        .find_map(|(words, trouble)| message.contains(words).then_some(trouble))
    }
}
