//! Quota records in a SQLite database, through sqlx.

use std::fs::{File, OpenOptions, TryLockError};
use std::str::FromStr;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Pool, Sqlite, Transaction};
use tokio::time::Instant;

use super::StoreKind;
use super::sql::{Records, SqlStore, upgrade};
use crate::BoxFuture;
use crate::error::Error;
use crate::resource::ResourceCatalog;
use crate::sql::{Dialect, PATIENCE, Statement};

/// Readers share a database in WAL mode and writers take turns, so that more connections would only wait.
const CONNECTIONS: u32 = 4;

/// A [`SqlStore`] in a SQLite database: the host's own, or a file of their own.
///
/// SQLite is for one process: each process, and each engine, keeps its own ledger, and two of them could grant the same
/// unit. So a store holds a lock for as long as it lives, on a file beside the database with `-quota-lock` after its
/// name, and a second store on the same database is refused. Several processes need a Postgres database.
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
pub type SqliteStore = SqlStore<Sqlite>;

impl SqlStore<Sqlite> {
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
        if file(&pool).await.map_err(|error| opening(url, error))?.is_none() {
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
    /// [`Error::is_config`] when another store, of this process or of another one, has the same file open, when the
    /// tables were made by a newer version of this crate, or when a table of the host is called `"WorkspaceQuota"`;
    /// [`Error::is_unavailable`] when the database doesn't answer.
    pub async fn new(pool: SqlitePool, catalog: &ResourceCatalog) -> Result<Self, Error> {
        let guard = match file(&pool).await.map_err(Sqlite::preparing)? {
            Some(file) => Some(lock(&file)?),
            None => None,
        };
        Self::prepared(pool, catalog, guard).await
    }
}

impl Records for Sqlite {
    const KIND: StoreKind = StoreKind::Sqlite;
    const SCHEMA: &'static [&'static str] = &[
        include_str!("../../migrations/sqlite/0001_workspace_quota.sql"),
        include_str!("../../migrations/sqlite/0002_policy.sql"),
        include_str!("../../migrations/sqlite/0003_archive.sql"),
        include_str!("../../migrations/sqlite/0004_events.sql"),
        include_str!("../../migrations/sqlite/0005_snapshots.sql"),
        include_str!("../../migrations/sqlite/0006_overview.sql"),
        include_str!("../../migrations/sqlite/0007_audit_at.sql"),
        include_str!("../../migrations/sqlite/0008_tally.sql"),
    ];
    const READ: &'static str = r#""id", "version", "createdAt", "updatedAt""#;
    const AS_UUID: &'static str = "";
    const AS_TIME: &'static str = "";
    const AS_JSON: &'static str = "";
    const TIME_AS: (&'static str, &'static str) = ("", "");
    // Whoever writes has the whole database.
    const LOCKED: &'static str = "";
    const LOCK_PARENTS: Option<&'static str> = None;
    const SHARED: &'static str = "";
    const LOCK_CLAIMS: Option<&'static str> = None;
    const SORTED: Option<&'static str> = None;
    const UNCLAIMED: &'static str = "";
    const NOW: &'static str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";
    // There are no books but in memory.
    const BOOKS: Option<&'static str> = None;
    const FORGET: Option<&'static str> = None;
    const DOCUMENT: &'static str = "\"document\"";
    const BYTES: &'static str = "";
    const NUMBER: &'static str = "INTEGER";
    const PRESENT: &'static str = "SELECT name FROM pragma_table_info('WorkspaceQuota')";

    /// The locked file; none beside a database in memory, which no other process sees.
    type Guard = Option<File>;

    fn same_column(present: &str, field: &str) -> bool {
        present.eq_ignore_ascii_case(field)
    }

    fn prepare<'a>(pool: &'a Pool<Self>, catalog: &'a ResourceCatalog) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            // In one transaction. A plain BEGIN would take the write lock only at the first write, and fail if another
            // had come in between.
            let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await.map_err(Self::preparing)?;
            upgrade::<Self>(&mut transaction, catalog).await?;
            transaction.commit().await.map_err(Self::preparing)
        })
    }

    fn run<'a>(pool: &'a Pool<Self>, statement: Statement<'a>) -> BoxFuture<'a, Result<Vec<SqliteRow>, sqlx::Error>> {
        Box::pin(async move {
            let mut connection = pool.acquire().await?;
            Self::rows(&mut connection, statement).await
        })
    }

    fn change(pool: &Pool<Self>) -> BoxFuture<'_, Result<Transaction<'static, Self>, sqlx::Error>> {
        Box::pin(pool.begin_with("BEGIN IMMEDIATE"))
    }

    fn preparing(error: sqlx::Error) -> Error {
        Error::unavailable(
            "can't prepare the quota tables: the process must be allowed to write to the database, and no one else \
             may keep it locked",
        )
        .with_source(error)
    }
}

/// The file of a database, by its own word: there are several ways to name one.
async fn file(pool: &SqlitePool) -> Result<Option<String>, sqlx::Error> {
    let file: String =
        sqlx::query_scalar("SELECT file FROM pragma_database_list WHERE name = 'main'").fetch_one(pool).await?;
    Ok(Some(file).filter(|file| !file.is_empty()))
}

/// Sees to it that no two ledgers grant units of the same rows. The system ends the lock with the process, however that
/// ends; the file stays, since another may have opened it already.
fn lock(database: &str) -> Result<File, Error> {
    let path = format!("{database}-quota-lock");
    let file = OpenOptions::new().create(true).append(true).open(&path).map_err(|error| {
        Error::config(format!("can't make the lock file {path:?}: the process must be allowed to write there"))
            .with_source(error)
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::config(format!(
            "another process, or another engine in this one, enforces quotas on {database:?} already, as its lock \
             {path:?} tells, and two of them would grant the same units twice: run one, and let it end before the \
             next one starts, or keep rows and quota records in a Postgres database"
        ))),
        Err(TryLockError::Error(error)) => Err(Error::config(format!(
            "can't lock the file {path:?}: keep the database on a local disk, where files can be locked"
        ))
        .with_source(error)),
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
