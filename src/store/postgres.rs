//! Quota records in a Postgres database, through sqlx.

use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgRow};
use sqlx::{ConnectOptions, Connection, Pool, Postgres, Transaction};

use super::StoreKind;
use super::sql::{Records, SqlStore, applied, missing_columns, upgrade};
use crate::BoxFuture;
use crate::error::Error;
use crate::resource::ResourceCatalog;
use crate::sql::postgres::{inlined, one_message, pool_options, time_outs};
use crate::sql::{Dialect, PATIENCE, Statement, Trouble};

/// Records are cached, and calls are short.
const CONNECTIONS: u32 = 4;

/// Many replicas that start together prepare the tables one after the other. The number is this crate's own: `tquota`.
const TAKE_TURNS: &str =
    "SET LOCAL lock_timeout = '30s'; SELECT pg_advisory_xact_lock(128060827661409); SET LOCAL lock_timeout = '5s'";

/// A [`SqlStore`] in a Postgres database, version 15 or newer.
///
/// Any number of processes may open the same one, at the same time too. The tables are made in the first schema of the
/// role's `search_path`, and the role needs the right to create there; where they are up to date, it needs no more than
/// `SELECT`, `INSERT` and `UPDATE` on `"WorkspaceQuota"` and `SELECT` on `"QuotaPlan"` and `"_tower_quota_migrations"`.
/// [`Admin`](crate::Admin) needs `SELECT`, `INSERT`, `UPDATE` and `DELETE` on `"WorkspaceQuota"`, `"QuotaPlan"`,
/// `"QuotaRequest"` and `"QuotaProgress"`, and `SELECT` and `INSERT` on `"QuotaAudit"`. Notices need all four on
/// `"QuotaThreshold"`, `"QuotaNotice"`, `"QuotaEndpoint"`, `"QuotaDelivery"` and `"QuotaContact"`.
///
/// Nothing is kept in a session, so that a pooler that hands out connections per transaction, such as PgBouncer, may
/// stand in between. A call waits up to five seconds for a connection, a statement as long for its end and for locks.
/// For TLS, turn on one of sqlx's `tls-*` features, and set `sslmode` in the URL.
///
/// ```no_run
/// use tower_quota::{PostgresStore, QuotaStore, ResourceCatalog, WorkspaceFormat};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let url = "postgres://app@db.internal/app?sslmode=verify-full";
/// let store = PostgresStore::connect(url, &ResourceCatalog::default()).await?;
/// let acme = WorkspaceFormat::Verbatim.parse("acme")?;
/// assert_eq!(store.provision(&acme).await?.version, 1);
/// # Ok(())
/// # }
/// ```
pub type PostgresStore = SqlStore<Postgres>;

impl SqlStore<Postgres> {
    /// Connects to the database that `url` names, such as `postgres://user:password@host:5432/database`.
    ///
    /// What the URL leaves out comes from the variables of libpq: `PGPASSWORD`, `PGPASSFILE`, `PGSSLMODE` and so on.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] when the URL isn't one, when there is no such database or the server refuses the role, and
    /// when the tables can't be prepared (see [`PostgresStore::new`]); [`Error::is_unavailable`] when no server answers
    /// within five seconds. No message has the password.
    pub async fn connect(url: &str, catalog: &ResourceCatalog) -> Result<Self, Error> {
        Self::new(open(url).await?, catalog).await
    }

    /// The same for a database that may not be there yet: whatever needs it fails until it is, and the tables are prepared
    /// by the first call that reaches it. Until then a [`QuotaLayer`](crate::QuotaLayer) does what its
    /// [`on_failure`](crate::QuotaLayer::on_failure) says.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] when the URL isn't one.
    pub fn connect_lazy(url: &str, catalog: &ResourceCatalog) -> Result<Self, Error> {
        let options = options(url)?;
        Ok(Self::unprepared(pool_options(CONNECTIONS).connect_lazy_with(options), catalog, ()))
    }

    /// A store in a database that the host has connected to.
    ///
    /// How long a call waits for a connection is the pool's affair: its `acquire_timeout`. Every connection must be to
    /// the primary.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] when the server is older than version 15, when the tables were made by a newer version of this
    /// crate, when a table of the host is called `"WorkspaceQuota"`, or when the role has no right to make or to use the
    /// tables; [`Error::is_unavailable`] when the database doesn't answer.
    pub async fn new(pool: PgPool, catalog: &ResourceCatalog) -> Result<Self, Error> {
        Self::prepared(pool, catalog, ()).await
    }
}

impl Records for Postgres {
    const KIND: StoreKind = StoreKind::Postgres;
    const SCHEMA: &'static [&'static str] = &[
        include_str!("../../migrations/postgres/0001_workspace_quota.sql"),
        include_str!("../../migrations/postgres/0002_ledger.sql"),
        include_str!("../../migrations/postgres/0003_backstop.sql"),
        include_str!("../../migrations/postgres/0004_policy.sql"),
        include_str!("../../migrations/postgres/0005_archive.sql"),
        include_str!("../../migrations/postgres/0006_events.sql"),
        include_str!("../../migrations/postgres/0007_snapshots.sql"),
        include_str!("../../migrations/postgres/0008_overview.sql"),
        include_str!("../../migrations/postgres/0009_audit_at.sql"),
        include_str!("../../migrations/postgres/0010_replicas.sql"),
        include_str!("../../migrations/postgres/0011_tally.sql"),
    ];
    const READ: &'static str = r#""id"::text, "version",
    to_char("createdAt" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
    to_char("updatedAt" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')"#;
    const AS_UUID: &'static str = "::uuid";
    const AS_TIME: &'static str = "::timestamptz";
    const AS_JSON: &'static str = "::jsonb";
    const TIME_AS: (&'static str, &'static str) =
        ("to_char(", " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')");
    const LOCKED: &'static str = " FOR UPDATE";
    // The number is this crate's own: `tqtree`.
    const LOCK_PARENTS: Option<&'static str> = Some("SELECT pg_advisory_xact_lock(128060827788645)");
    const SHARED: &'static str = " FOR KEY SHARE";
    // So is this one: `tqmail`.
    const LOCK_CLAIMS: Option<&'static str> = Some("SELECT pg_advisory_xact_lock(128030515226988)");
    // By the collation of the database, as the functions do.
    const SORTED: Option<&'static str> =
        Some(r#"SELECT "id" FROM jsonb_array_elements_text($1::jsonb) AS "id" ORDER BY "id""#);
    const UNCLAIMED: &'static str = " FOR UPDATE OF d SKIP LOCKED";
    const NOW: &'static str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    const BOOKS: Option<&'static str> = Some(
        r#"SELECT "workspace", "resource", "counted" + "posted" FROM "_tower_quota_key"
WHERE "counted" IS NOT NULL AND "workspace" IN "#,
    );
    const FORGET: Option<&'static str> = Some(r#"SELECT "_tower_quota_forget"($1, $2)"#);
    const DOCUMENT: &'static str = "\"document\"::text";
    const BYTES: &'static str = " COLLATE \"C\"";
    const NUMBER: &'static str = "BIGINT";
    const PRESENT: &'static str = r#"SELECT attname::text FROM pg_attribute
WHERE attrelid = to_regclass('"WorkspaceQuota"') AND attnum > 0 AND NOT attisdropped"#;

    type Guard = ();

    fn same_column(present: &str, field: &str) -> bool {
        present == field
    }

    fn prepare<'a>(pool: &'a Pool<Self>, catalog: &'a ResourceCatalog) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(prepare(pool, catalog))
    }

    // Not in one message: on a connection on which somebody left a transaction open, nobody would commit it.
    fn run<'a>(pool: &'a Pool<Self>, statement: Statement<'a>) -> BoxFuture<'a, Result<Vec<PgRow>, sqlx::Error>> {
        Box::pin(async move {
            let mut transaction = Self::begin(pool, PATIENCE).await?;
            let rows = Self::rows(&mut transaction, statement).await?;
            transaction.commit().await?;
            Ok(rows)
        })
    }

    fn fetch<'a>(pool: &'a Pool<Self>, statement: Statement<'a>) -> BoxFuture<'a, Result<Vec<PgRow>, sqlx::Error>> {
        Box::pin(async move { one_message(pool, &format!("{}; {}", time_outs(PATIENCE), inlined(&statement))).await })
    }

    fn change(pool: &Pool<Self>) -> BoxFuture<'_, Result<Transaction<'static, Self>, sqlx::Error>> {
        Self::begin(pool, PATIENCE)
    }

    fn preparing(error: sqlx::Error) -> Error {
        let prepared = match Self::trouble(&error) {
            Some(Trouble::Denied) => Error::config(
                "the role may not prepare or use the quota tables: start once as their owner, who adds what is new, \
                 and have the owner run GRANT SELECT, INSERT, UPDATE ON \"WorkspaceQuota\" and GRANT SELECT ON \
                 \"QuotaPlan\", \"_tower_quota_migrations\" to the role",
            ),
            Some(Trouble::ReadOnly) => {
                Error::config("can't prepare the quota tables: the server is read-only; connect to the primary")
            }
            _ => {
                Error::unavailable("can't prepare the quota tables: the database failed, or somebody keeps them locked")
            }
        };
        prepared.with_source(error)
    }
}

async fn open(url: &str) -> Result<PgPool, Error> {
    let options = options(url)?;
    match pool_options(CONNECTIONS).connect_with(options.clone()).await {
        Ok(pool) => Ok(pool),
        Err(error) => Err(opening(&options, reason(&options, error).await)),
    }
}

fn options(url: &str) -> Result<PgConnectOptions, Error> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(Error::config("the URL of a Postgres database begins with postgres://, and the one given doesn't"));
    }
    let options = PgConnectOptions::from_str(url).map_err(|error| {
        Error::config(
            "the URL of the Postgres database can't be read: write postgres://user:password@host:5432/database, with \
             special characters of user and password as %XX",
        )
        .with_source(error)
    })?;
    // A pooler refuses a session parameter that it doesn't know.
    let options = options.extra_float_digits(None);
    Ok(match options.get_application_name() {
        Some(_) => options,
        None => options.application_name(env!("CARGO_PKG_NAME")),
    })
}

/// What stands behind a time-out of the pool, which tries again where nobody listens, and then tells only the time-out.
async fn reason(options: &PgConnectOptions, error: sqlx::Error) -> sqlx::Error {
    if !matches!(error, sqlx::Error::PoolTimedOut) {
        return error;
    }
    match tokio::time::timeout(PATIENCE, options.connect()).await {
        Ok(Err(reason)) => reason,
        Ok(Ok(connection)) => {
            let _ = connection.close().await;
            error
        }
        Err(_) => error,
    }
}

fn opening(options: &PgConnectOptions, error: sqlx::Error) -> Error {
    let (database, role) = (options.get_database().unwrap_or(options.get_username()), options.get_username());
    let server = match options.get_socket() {
        Some(socket) => format!("socket {} port {}", socket.display(), options.get_port()),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default();
    let opened = match (&*code, &error) {
        ("3D000", _) => Error::config(format!(
            "the Postgres server at {server} has no database {database:?}: make it, with CREATE DATABASE, or name \
             another in the URL"
        )),
        ("28P01" | "28000", _) => Error::config(format!(
            "the Postgres server at {server} refuses role {role:?} for database {database:?}: check the user and the \
             password of the URL, and the server's pg_hba.conf"
        )),
        ("42501", _) => Error::config(format!(
            "role {role:?} may not connect to database {database:?} of the Postgres server at {server}: GRANT CONNECT \
             ON DATABASE to it"
        )),
        (_, sqlx::Error::Tls(_)) => Error::config(format!(
            "no TLS with the Postgres server at {server}: turn on one of sqlx's features tls-rustls-* or \
             tls-native-tls, or set another sslmode in the URL"
        )),
        (_, sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut) => Error::unavailable(format!(
            "no Postgres server answers at {server} (database {database:?}, role {role:?}): is it running, and \
             reachable from here?"
        )),
        _ => Error::unavailable(format!(
            "can't connect to the Postgres server at {server} (database {database:?}, role {role:?})"
        )),
    };
    opened.with_source(error)
}

/// Brings the tables up to date. Where they are, nothing is locked or written, and no more rights are needed.
async fn prepare(pool: &PgPool, catalog: &ResourceCatalog) -> Result<(), Error> {
    let mut transaction = Postgres::begin(pool, PATIENCE).await.map_err(Postgres::preparing)?;
    if is_ready(&mut transaction, catalog).await? {
        return transaction.commit().await.map_err(Postgres::preparing);
    }
    transaction.commit().await.map_err(Postgres::preparing)?;

    let mut transaction = Postgres::begin(pool, 6 * PATIENCE).await.map_err(Postgres::preparing)?;
    check_version(&mut transaction).await?;
    Postgres::script(&mut transaction, TAKE_TURNS).await.map_err(Postgres::preparing)?;
    // Another may have done it meanwhile.
    if !is_ready(&mut transaction, catalog).await? {
        check_rights(&mut transaction).await?;
        upgrade::<Postgres>(&mut transaction, catalog).await?;
    }
    transaction.commit().await.map_err(Postgres::preparing)
}

async fn is_ready(connection: &mut PgConnection, catalog: &ResourceCatalog) -> Result<bool, Error> {
    let known: bool = sqlx::query_scalar(r#"SELECT to_regclass('"_tower_quota_migrations"') IS NOT NULL"#)
        .persistent(false)
        .fetch_one(&mut *connection)
        .await
        .map_err(Postgres::preparing)?;
    Ok(known
        && applied::<Postgres>(connection).await? == Postgres::SCHEMA.len()
        && missing_columns::<Postgres>(connection, catalog).await?.is_empty())
}

/// The oldest version that the functions are made for and tested with.
const OLDEST: i32 = 15;

async fn check_version(connection: &mut PgConnection) -> Result<(), Error> {
    let version = "SELECT current_setting('server_version_num')::int, current_setting('server_version')";
    let (number, version): (i32, String) =
        sqlx::query_as(version).persistent(false).fetch_one(connection).await.map_err(Postgres::preparing)?;
    supported(number, &version)
}

fn supported(number: i32, version: &str) -> Result<(), Error> {
    if number / 10_000 >= OLDEST {
        return Ok(());
    }
    Err(Error::config(format!("the Postgres server is version {version}: upgrade it to {OLDEST} or newer")))
}

/// Says which right is missing before Postgres says only that one is.
async fn check_rights(connection: &mut PgConnection) -> Result<(), Error> {
    let rights = "SELECT quote_ident(current_user), quote_ident(current_schema()), \
                  has_schema_privilege(current_schema(), 'CREATE')";
    let (role, schema, may_create): (String, Option<String>, Option<bool>) =
        sqlx::query_as(rights).persistent(false).fetch_one(&mut *connection).await.map_err(Postgres::preparing)?;
    match (schema, may_create) {
        (Some(_), Some(true)) => Ok(()),
        (Some(schema), _) => Err(Error::config(format!(
            "the quota tables are not there or not up to date, and role {role} may not make them: have the schema's \
             owner run GRANT CREATE ON SCHEMA {schema} TO {role}, or start once as a role that may"
        ))),
        (None, _) => Err(Error::config(format!(
            "the search_path of role {role} names no schema that exists, so that the quota tables have no place: \
             create one, or ALTER ROLE {role} SET search_path"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_servers_are_refused() {
        assert!(supported(150_000, "15.0").is_ok() && supported(180_001, "18.1").is_ok());
        let error = supported(140_023, "14.23").unwrap_err();
        assert!(error.is_config() && error.message().contains("is version 14.23: upgrade it to 15"), "{error}");
    }
}
