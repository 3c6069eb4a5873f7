//! Postgres.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Column, Postgres, Row, Transaction};
use tokio::task::JoinHandle;
use tower_quota::{
    Cleaned, Cleanup, CleanupPolicy, Error, Excess, Expect, Limit, PostgresStore, PostgresUsage, QuotaStore,
    ResourceCatalog, ResourceSpec, SqlTable, UsagePages, UsageSource, WorkspaceFormat,
};

use crate::cleanup;
use crate::counts::{Host, TABLES, count, counts, host, metered, segments};
use crate::schema::{self, hosts_migrations};
use crate::support::postgres::{Durability, Server, shared};
use crate::{catalog, limits, workspace};

async fn own_database() -> (PostgresStore, String) {
    let url = shared().database();
    (PostgresStore::connect(&url, &catalog()).await.unwrap(), url)
}

pub(crate) async fn pool(url: &str) -> PgPool {
    PgPoolOptions::new().max_connections(5).connect(url).await.unwrap()
}

async fn hosts_pool() -> (PostgresStore, String) {
    let url = shared().database();
    // A host's own default, under which concurrent updates would fail.
    run(
        &pool(&url).await,
        r#"DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation =
        serializable', current_database()); END $$"#,
    )
    .await;
    (PostgresStore::new(pool(&url).await, &catalog()).await.unwrap(), url)
}

conforms!(own_database_conforms, own_database());
conforms!(hosts_pool_conforms, hosts_pool());

pub(crate) async fn run(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await.unwrap();
}

pub(crate) async fn number(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn the_guides_query_answers() {
    let (store, _url) = own_database().await;
    let changes = limits(
        &catalog(),
        &[("maxSegments", Limit::of(75)), ("maxJourneys", Limit::Unlimited), ("maxCustomMetrics", Limit::of(0))],
    );
    let record = store.update(&workspace("acme"), &changes, &Expect::Anything).await.unwrap();

    let query = r#"SELECT *, "id"::text AS "idText", "updatedAt" = to_timestamp($1) AS "same" FROM "WorkspaceQuota" WHERE "workspaceId" = 'acme';"#;
    let rows = sqlx::query(query).bind(record.updated_at.as_second() as f64).fetch_all(store.pool()).await.unwrap();
    assert_eq!(rows.len(), 1);
    let columns: Vec<&str> = rows[0].columns().iter().map(Column::name).collect();
    assert_eq!(columns[..5], ["id", "workspaceId", "version", "createdAt", "updatedAt"]);
    assert_eq!(columns.len(), 5 + 3 + catalog().len() + 2);
    assert_eq!(rows[0].get::<&str, _>("idText"), record.id.to_string());
    assert_eq!(rows[0].get::<i64, _>("version"), 1);
    assert_eq!(rows[0].get::<i64, _>("maxSegments"), 75);
    assert_eq!(rows[0].get::<i64, _>("maxJourneys"), -1);
    assert_eq!(rows[0].get::<i64, _>("maxCustomMetrics"), 0);
    assert_eq!(rows[0].get::<Option<i64>, _>("maxUsers"), None);
    assert!(rows[0].get::<bool, _>("same"));
}

#[tokio::test]
async fn an_operator_can_only_write_what_can_be_read() {
    let (store, _url) = own_database().await;
    store.provision(&workspace("acme")).await.unwrap();
    for sql in [
        r#"UPDATE "WorkspaceQuota" SET "maxUsers" = -2"#,
        r#"UPDATE "WorkspaceQuota" SET "version" = 0"#,
        r#"UPDATE "WorkspaceQuota" SET "updatedAt" = 'many'"#,
    ] {
        assert!(sqlx::raw_sql(sql).execute(store.pool()).await.is_err(), "{sql}");
    }
    // With fractions of a second, which a record doesn't show.
    run(store.pool(), r#"UPDATE "WorkspaceQuota" SET "maxUsers" = 12, "updatedAt" = '2999-01-01 00:00:00.75+00'"#)
        .await;
    let record = store.load(&workspace("acme")).await.unwrap().unwrap();
    assert_eq!(record.limits, limits(&catalog(), &[("maxUsers", Limit::of(12))]));
    // The time of change never goes back.
    let changes = limits(&catalog(), &[("maxUsers", Limit::of(1))]);
    for expect in [Expect::Anything, Expect::Existing] {
        let record = store.update(&workspace("acme"), &changes, &expect).await.unwrap();
        assert_eq!(record.updated_at.to_string(), "2999-01-01T00:00:00Z");
    }
    run(store.pool(), r#"UPDATE "WorkspaceQuota" SET "updatedAt" = 'infinity'"#).await;
    let error = store.load(&workspace("acme")).await.unwrap_err();
    assert!(error.is_unavailable() && error.message().contains("acme"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_replicas_start_at_once() {
    for _ in 0..5 {
        let url = shared().database();
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let url = url.clone();
                tokio::spawn(async move {
                    let store = PostgresStore::connect(&url, &catalog()).await.unwrap();
                    let made = store.provision(&workspace("acme")).await.unwrap();
                    let changes = limits(&catalog(), &[("maxUsers", Limit::of(7))]);
                    store.update(&workspace("acme"), &changes, &Expect::Anything).await.unwrap();
                    store.pool().close().await;
                    made.id
                })
            })
            .collect();
        let mut ids = Vec::new();
        for task in tasks {
            ids.push(task.await.unwrap());
        }
        ids.dedup();
        assert_eq!(ids.len(), 1);
        let store = PostgresStore::connect(&url, &catalog()).await.unwrap();
        assert_eq!(store.load(&workspace("acme")).await.unwrap().unwrap().version, 17);
        assert_eq!(number(store.pool(), "SELECT count(*) FROM _tower_quota_migrations").await, schema_versions());
    }
}

/// How many there are.
fn schema_versions() -> i64 {
    i64::try_from(std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/postgres")).unwrap().count())
        .unwrap()
}

#[tokio::test]
async fn the_hosts_migrations_are_left_alone() {
    for host_first in [true, false] {
        let pool = pool(&shared().database()).await;
        if host_first {
            hosts_migrations().run(&pool).await.unwrap();
        }
        PostgresStore::new(pool.clone(), &catalog()).await.unwrap();
        hosts_migrations().run(&pool).await.unwrap();
        let store = PostgresStore::new(pool.clone(), &catalog()).await.unwrap();
        store.provision(&workspace("acme")).await.unwrap();
        let hosts: Vec<i64> =
            sqlx::query_scalar("SELECT version FROM _sqlx_migrations ORDER BY 1").fetch_all(&pool).await.unwrap();
        assert_eq!(hosts, [1, 2]);
    }
}

#[tokio::test]
async fn a_newer_schema_or_a_table_of_the_host_is_refused() {
    let (store, url) = own_database().await;
    run(store.pool(), "INSERT INTO _tower_quota_migrations VALUES (99, '2999-01-01T00:00:00Z')").await;
    let error = PostgresStore::connect(&url, &catalog()).await.unwrap_err();
    assert!(error.is_config() && error.message().contains("schema version 99"), "{error}");

    let pool = pool(&shared().database()).await;
    run(&pool, r#"CREATE TABLE "WorkspaceQuota" ("id" TEXT)"#).await;
    let error = PostgresStore::new(pool.clone(), &catalog()).await.unwrap_err();
    assert!(error.is_config() && error.message().contains("rename it"), "{error}");
    // All or nothing.
    let ours = r#"SELECT count(*) FROM pg_class WHERE relname = '_tower_quota_migrations'"#;
    assert_eq!(number(&pool, ours).await, 0);
}

#[tokio::test]
async fn types_come_and_go_and_data_stays() {
    let url = shared().database();
    schema::types_come_and_go_and_data_stays(async |catalog: &ResourceCatalog| {
        PostgresStore::connect(&url, catalog).await.unwrap()
    })
    .await;
}

#[tokio::test]
async fn a_role_needs_few_rights_and_is_told_which() {
    let url = shared().database();
    let owner = pool(&url).await;
    let database: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&owner).await.unwrap();
    let role = format!("{database}_App");
    run(&owner, &format!(r#"CREATE ROLE "{role}" LOGIN"#)).await;
    let url_of_role = shared().url_of(&role, &database);

    // In Postgres 15, nobody but the owner may create in `public`.
    let error = PostgresStore::connect(&url_of_role, &catalog()).await.unwrap_err();
    let says = format!(r#"GRANT CREATE ON SCHEMA public TO "{role}""#);
    assert!(error.is_config() && error.message().contains(&says), "{error}");

    run(&owner, &format!(r#"ALTER ROLE "{role}" SET search_path = nowhere"#)).await;
    let error = PostgresStore::connect(&url_of_role, &catalog()).await.unwrap_err();
    assert!(error.is_config() && error.message().contains("search_path"), "{error}");
    run(&owner, &format!(r#"ALTER ROLE "{role}" RESET search_path"#)).await;

    // Tables that the owner has made are enough.
    PostgresStore::new(owner.clone(), &catalog()).await.unwrap();
    let error = PostgresStore::connect(&url_of_role, &catalog()).await.unwrap_err();
    assert!(error.is_config() && error.message().contains("GRANT SELECT ON"), "{error}");
    run(&owner, &format!(r#"GRANT SELECT ON "_tower_quota_migrations", "QuotaPlan" TO "{role}""#)).await;
    let store = PostgresStore::connect(&url_of_role, &catalog()).await.unwrap();
    let error = store.provision(&workspace("acme")).await.unwrap_err();
    assert!(error.is_unavailable() && error.message().contains("GRANT SELECT, INSERT, UPDATE"), "{error}");
    run(&owner, &format!(r#"GRANT SELECT, INSERT, UPDATE ON "WorkspaceQuota" TO "{role}""#)).await;
    store.provision(&workspace("acme")).await.unwrap();

    // A column is added by the owner.
    let larger = ResourceCatalog::builder().resource(ResourceSpec::new("hooks", "maxHooks", Limit::of(1))).build();
    run(&owner, &format!(r#"GRANT CREATE ON SCHEMA public TO "{role}""#)).await;
    let error = PostgresStore::connect(&url_of_role, &larger.unwrap()).await.unwrap_err();
    assert!(error.is_config() && error.message().contains("owner"), "{error}");

    let usage = PostgresUsage::builder(pool(&url_of_role).await, &metered()).table("segments", segments());
    run(&owner, TABLES).await;
    let error = usage.build().unwrap().check().await.unwrap_err();
    assert!(error.message().contains("GRANT SELECT"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_opened_says_how_to_fix_it_and_keeps_the_password() {
    let here = shared().url_of("postgres", "absent");
    let folder = tempfile::tempdir().unwrap();
    let nobody = format!("postgres://app:sesame@localhost/app?host={}", folder.path().display());
    let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = format!("postgres://app:sesame@{refused}/app");
    let stranger = shared().url_of("stranger", "postgres").replace("stranger@", "stranger:sesame@");
    for (url, config, says) in [
        (here.as_str(), true, "has no database \"absent\""),
        (&stranger, true, "refuses role \"stranger\""),
        ("sqlite://app:sesame.db", true, "postgres://"),
        ("postgres://app:sesame@[::1/app", true, "can't be read"),
        ("postgres://app:sesame@localhost/app?sslmode=sesame", true, "can't be read"),
        (&nobody, false, "no Postgres server answers"),
        (&refused, false, "no Postgres server answers at 127.0.0.1:"),
    ] {
        let error = PostgresStore::connect(url, &catalog()).await.unwrap_err();
        assert_eq!((error.is_config(), error.is_unavailable()), (config, !config), "{url}: {error:?}");
        assert!(error.message().contains(says), "{url}: {error:?}");
        assert!(!format!("{error:?}").contains("sesame@") && !error.message().contains("sesame"), "{url}: {error:?}");
    }
}

#[tokio::test]
async fn a_lost_table_or_pool_is_told() {
    let (store, url) = own_database().await;
    run(store.pool(), r#"DROP TABLE "WorkspaceQuota""#).await;
    let changes = limits(&catalog(), &[("maxUsers", Limit::of(5))]);
    for error in [
        store.load(&workspace("acme")).await.unwrap_err(),
        store.provision(&workspace("acme")).await.unwrap_err(),
        store.update(&workspace("acme"), &changes, &Expect::Anything).await.unwrap_err(),
    ] {
        assert!(error.is_unavailable() && error.message().contains("is gone"), "{error}");
        assert!(std::error::Error::source(&error).is_some());
    }
    let error = PostgresStore::connect(&url, &catalog()).await.unwrap_err();
    assert!(error.is_config() && error.message().contains("_tower_quota_migrations"), "{error}");
    store.ping().await.unwrap();
    store.pool().close().await;
    assert!(store.ping().await.unwrap_err().is_unavailable());
    assert!(store.load(&workspace("acme")).await.unwrap_err().is_unavailable());
}

#[tokio::test]
async fn a_read_only_server_is_told() {
    let (store, _url) = own_database().await;
    run(
        store.pool(),
        r#"DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on',
        current_database()); END $$"#,
    )
    .await;
    let pool = pool(&_url).await;
    let again = PostgresStore::new(pool, &catalog()).await.unwrap();
    let error = again.provision(&workspace("acme")).await.unwrap_err();
    assert!(error.is_unavailable() && error.message().contains("primary"), "{error}");
    let larger = ResourceCatalog::builder().resource(ResourceSpec::new("hooks", "maxHooks", Limit::of(1))).build();
    let error = PostgresStore::connect(&_url, &larger.unwrap()).await.unwrap_err();
    assert!(error.is_config() && error.message().contains("primary"), "{error}");
}

#[tokio::test]
async fn nobody_waits_for_a_lock_for_ever() {
    let (store, url) = own_database().await;
    store.provision(&workspace("acme")).await.unwrap();
    let hog = pool(&url).await;
    let mut transaction = hog.begin().await.unwrap();
    sqlx::raw_sql(r#"LOCK TABLE "WorkspaceQuota""#).execute(&mut *transaction).await.unwrap();
    assert!(store.load(&workspace("acme")).await.unwrap_err().is_unavailable());
    transaction.rollback().await.unwrap();
    store.load(&workspace("acme")).await.unwrap().unwrap();
}

/// What a pooler that hands out connections per transaction does to a session: nothing prepared or set in it is there
/// the next time.
async fn forgetful(url: &str) -> PgPool {
    PgPoolOptions::new()
        .max_connections(4)
        .after_release(|connection, _| {
            Box::pin(async move {
                sqlx::raw_sql("DISCARD ALL").execute(connection).await?;
                Ok(true)
            })
        })
        .connect(url)
        .await
        .unwrap()
}

#[tokio::test]
async fn nothing_is_kept_in_a_session() {
    let url = shared().database();
    let pool = forgetful(&url).await;
    let store = PostgresStore::new(pool.clone(), &catalog()).await.unwrap();
    run(&pool, TABLES).await;
    let usage = PostgresUsage::builder(pool.clone(), &metered()).table("segments", segments()).build().unwrap();
    for rows in 0..8 {
        let changes = limits(&catalog(), &[("maxUsers", Limit::of(rows))]);
        store.update(&workspace("acme"), &changes, &Expect::Anything).await.unwrap();
        assert_eq!(store.load(&workspace("acme")).await.unwrap().unwrap().limits, changes);
        assert_eq!(count(&usage, "acme", Some(51)).await.unwrap(), 51);
        // Nor left behind there for others.
        let mut connection = pool.acquire().await.unwrap();
        let left = "SELECT count(*), current_setting('statement_timeout') FROM pg_prepared_statements";
        let left: (i64, String) = sqlx::query_as(left).persistent(false).fetch_one(&mut *connection).await.unwrap();
        assert_eq!(left, (0, "0".to_owned()));
    }
}

#[tokio::test]
async fn a_change_is_committed_where_somebody_left_a_transaction_open() {
    let (observer, url) = own_database().await;
    let single = PgPoolOptions::new().max_connections(1).connect(&url).await.unwrap();
    let store = PostgresStore::new(single.clone(), &catalog()).await.unwrap();
    run(&single, "BEGIN").await;
    let made = store.provision(&workspace("acme")).await.unwrap();
    assert_eq!(observer.load(&workspace("acme")).await.unwrap(), Some(made));
    run(&single, "BEGIN").await;
    let changes = limits(&catalog(), &[("maxUsers", Limit::of(5))]);
    let changed = store.update(&workspace("acme"), &changes, &Expect::Anything).await.unwrap();
    assert_eq!(observer.load(&workspace("acme")).await.unwrap(), Some(changed));
}

#[tokio::test]
async fn it_goes_on_after_the_server_has_crashed() {
    let server = tokio::task::spawn_blocking(|| Server::start(Durability::Full)).await.unwrap();
    let store = PostgresStore::connect(&server.database(), &catalog()).await.unwrap();
    let made = store.provision(&workspace("acme")).await.unwrap();
    let before = server.pid();
    server.restart_immediate();
    assert_ne!(server.pid(), before);
    // A connection that is gone is noticed when it is next used.
    assert_eq!(store.load(&workspace("acme")).await.unwrap().unwrap(), made);
    server.stop();
    assert!(store.load(&workspace("acme")).await.unwrap_err().is_unavailable());
    server.start_again();
    assert_eq!(store.load(&workspace("acme")).await.unwrap().unwrap(), made);
}

#[tokio::test]
async fn it_can_be_opened_before_the_database_is_there() {
    let server = tokio::task::spawn_blocking(|| Server::start(Durability::Full)).await.unwrap();
    let url = server.database();
    server.stop();
    let store = PostgresStore::connect_lazy(&url, &catalog()).unwrap();
    for error in [store.load(&workspace("acme")).await.unwrap_err(), store.ping().await.unwrap_err()] {
        assert!(error.is_unavailable(), "{error}");
    }
    server.start_again();
    assert_eq!(store.load(&workspace("acme")).await.unwrap(), None);
    assert_eq!(store.provision(&workspace("acme")).await.unwrap().version, 1);
    assert!(PostgresStore::connect_lazy("sqlite://quota.db", &catalog()).unwrap_err().is_config());
}

pub(crate) struct Hosted {
    pub(crate) pool: PgPool,
}

impl Host for Hosted {
    const FILTERS: &'static [(&'static str, u64)] = &[
        (r#""name" = ANY (ARRAY['s1', 's[2'']', 's3'])"#, 2),
        (r#""archived"::text = '1' AND 1 = ("ws" <> 'x')::int"#, 200),
    ];

    const ARCHIVE: &'static str = include_str!("../../migrations/postgres/0005_archive.sql");
    const BYTES: [&'static str; 3] = ["bytea", r"'\x00ff'", r#""\\x00ff""#];
    const COLLATED: &'static str = r#"text COLLATE "und-x-icu""#;

    async fn start() -> Self {
        let pool = pool(&shared().database()).await;
        run(&pool, TABLES).await;
        Self { pool }
    }

    host!(PostgresUsage);
}

counts!(Hosted);

#[tokio::test]
async fn ids_of_another_type_are_cast_so_that_an_index_serves() {
    let host = Hosted::start().await;
    let id = "0190163d-8694-739b-aea5-966c26f8ad91";
    run(
        &host.pool,
        &format!(
            r#"CREATE TABLE "Journey" ("id" uuid PRIMARY KEY DEFAULT gen_random_uuid(), "workspaceId" uuid);
        CREATE INDEX "byWorkspace" ON "Journey" ("workspaceId");
        INSERT INTO "Journey" ("workspaceId") SELECT '{id}' FROM generate_series(1, 3);
        INSERT INTO "Journey" ("workspaceId") SELECT gen_random_uuid() FROM generate_series(1, 2000);
        ANALYZE "Journey""#
        ),
    )
    .await;
    let catalog = metered();
    let segments = catalog.by_name("segments").unwrap();
    let of_uuids = || SqlTable::new("Journey").workspace_type("uuid");
    host.check(of_uuids()).await.unwrap();
    let usage = host.usage(of_uuids()).unwrap();
    let workspace_id = WorkspaceFormat::Uuid.parse(&id.to_uppercase()).unwrap();
    assert_eq!(usage.count(&workspace_id, segments, None).await.unwrap(), 3);
    let ids: Vec<String> =
        sqlx::query_scalar(r#"SELECT "id"::text FROM "Journey" ORDER BY "workspaceId" = $1::uuid DESC LIMIT 4"#)
            .bind(id)
            .fetch_all(&host.pool)
            .await
            .unwrap();
    let found = usage.existing(&workspace_id, segments, "id", &ids).await.unwrap();
    assert_eq!(found, [true, true, true, false]);

    let sql = usage.count_sql(segments).unwrap();
    let plan: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!("EXPLAIN {}", sql.bounded())))
        .bind(id)
        .bind(51_i64)
        .fetch_all(&host.pool)
        .await
        .unwrap();
    assert!(plan.concat().contains("byWorkspace"), "{plan:#?}");

    let error = count(&*usage, "acme", None).await.unwrap_err();
    assert!(error.is_unavailable() && error.message().contains("workspace_format"), "{error}");
    let error = host.check(SqlTable::new("Journey")).await.unwrap_err();
    assert!(error.is_config() && error.message().contains("workspace_type"), "{error}");
    let Err(error) = host.usage(SqlTable::new("Journey").workspace_type("uuid; --")) else { panic!("it was taken") };
    assert!(error.is_config() && error.message().contains("not an identifier"), "{error}");
}

#[tokio::test]
async fn uuids_are_listed_like_texts() {
    let host = Hosted::start().await;
    run(&host.pool, r#"CREATE TABLE "Journey" ("workspaceId" uuid); CREATE TABLE "Hook" ("workspaceId" text)"#).await;
    let mut ids: Vec<String> = Vec::new();
    for number in 0..40_u128 {
        let id = uuid::Uuid::from_u128(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834)).to_string();
        run(&host.pool, &format!(r#"INSERT INTO "Journey" VALUES ('{id}'); INSERT INTO "Hook" VALUES ('{id}')"#)).await;
        ids.push(id);
    }
    run(&host.pool, r#"INSERT INTO "Journey" VALUES (NULL)"#).await;
    ids.sort();
    let of = |name, field| ResourceSpec::new(name, field, Limit::of(1));
    let catalog = ResourceCatalog::empty().resource(of("journeys", "maxJourneys")).resource(of("hooks", "maxHooks"));
    let catalog = catalog.build().unwrap();
    let tables = [("journeys", SqlTable::new("Journey").workspace_type("uuid")), ("hooks", SqlTable::new("Hook"))];
    let usage = host.usage_of(&catalog, tables).unwrap();
    let upper = ids[20].to_uppercase();
    for after in [None, Some(ids[7].as_str()), Some("8"), Some("zebra"), Some(&upper)] {
        let mut pages = UsagePages::new(Arc::clone(&usage), &catalog).page(NonZeroUsize::new(7).unwrap());
        if let Some(after) = after {
            pages = pages.after(after);
        }
        let mut listed = Vec::new();
        loop {
            let batch = pages.next().await.unwrap();
            if batch.is_empty() {
                break;
            }
            assert!(batch.iter().all(|usage| usage.rows == [1, 1]));
            listed.extend(batch.into_iter().map(|usage| usage.workspace));
        }
        let behind: Vec<&String> = ids.iter().filter(|id| Some(id.as_str()) > after).collect();
        assert_eq!(listed.iter().collect::<Vec<_>>(), behind, "{after:?}");
    }
}

/// Waits until another session waits for a lock of that kind.
async fn until_one_waits(pool: &PgPool, kind: &str) -> i32 {
    let waiting = r#"SELECT l.pid FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE NOT l.granted AND l.locktype = $1 AND a.datname = current_database()"#;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let pid: Option<i32> = sqlx::query_scalar(waiting).bind(kind).fetch_optional(pool).await.unwrap();
        if let Some(pid) = pid {
            return pid;
        }
        assert!(Instant::now() < deadline, "nobody waits for a lock of kind {kind}");
        tokio::task::yield_now().await;
    }
}

/// A cleanup that is held up where it has removed rows, and hasn't committed.
struct HeldUp {
    host: Hosted,
    holder: Transaction<'static, Postgres>,
    cleaning: JoinHandle<Result<Cleaned, Error>>,
    session: i32,
}

impl HeldUp {
    async fn start() -> Self {
        let host = Hosted::start().await;
        cleanup::fill(&host, 20).await;
        run(&host.pool, Hosted::ARCHIVE).await;
        let mut holder = host.pool.begin().await.unwrap();
        sqlx::raw_sql(r#"LOCK TABLE "Log""#).execute(&mut *holder).await.unwrap();
        let removes = host.cleanup(cleanup::table()).unwrap();
        let cleaning = tokio::spawn(async move { cleanup::clean_and_log(&*removes, 10, 4).await });
        let session = until_one_waits(&host.pool, "relation").await;
        Self { host, holder, cleaning, session }
    }
}

#[tokio::test]
async fn a_cleanup_that_is_killed_in_the_middle_has_changed_nothing() {
    for by_the_server in [true, false] {
        let HeldUp { host, holder, cleaning, session } = HeldUp::start().await;
        if by_the_server {
            let killed: bool = sqlx::query_scalar("SELECT pg_terminate_backend($1)")
                .bind(session)
                .fetch_one(&host.pool)
                .await
                .unwrap();
            assert!(killed);
            let error = cleaning.await.unwrap().unwrap_err();
            assert!(error.is_unavailable(), "{error}");
        } else {
            cleaning.abort();
            assert!(cleaning.await.unwrap_err().is_cancelled());
        }
        holder.rollback().await.unwrap();
        assert_eq!(cleanup::left(&host).await.len(), 20);
        assert_eq!(cleanup::archived(&host).await, (vec![], vec![]));
        let removes = host.cleanup(cleanup::table()).unwrap();
        while !cleanup::clean_and_log(&*removes, 10, 4).await.unwrap().rows.is_empty() {}
        let (mut moved, logged) = cleanup::archived(&host).await;
        moved.sort_unstable_by(|one, other| other.cmp(one));
        let newest: Vec<u32> = (11..=20).rev().collect();
        assert_eq!((moved, logged), (newest.clone(), newest), "each once");
        assert_eq!(cleanup::left(&host).await, (1..=10).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn cleanups_of_the_same_rows_take_turns() {
    let HeldUp { host, holder, cleaning, .. } = HeldUp::start().await;
    // Newer than all that the first has locked.
    run(&host.pool, r#"INSERT INTO "Event" VALUES (31, 'acme', '2027', 0), (32, 'acme', '2027', 0)"#).await;
    let removes = host.cleanup(cleanup::table()).unwrap();
    let second = tokio::spawn(async move { cleanup::clean(&*removes, 10, 100, CleanupPolicy::Delete).await });
    until_one_waits(&host.pool, "advisory").await;
    // Another workspace's rows are nobody's turn.
    let removes = host.cleanup(cleanup::table()).unwrap();
    let (other, catalog) = (workspace("other"), metered());
    let excess = Excess::new(&other, catalog.by_name("segments").unwrap(), 2, 9).policy(CleanupPolicy::Delete);
    assert_eq!(removes.clean(excess).await.unwrap().rows, ["20003"]);
    holder.rollback().await.unwrap();
    assert_eq!(cleaning.await.unwrap().unwrap().rows, ["20", "19", "18", "17"]);
    let second = second.await.unwrap().unwrap();
    assert_eq!((second.above, second.rows.len(), &*second.rows[0], &*second.rows[2]), (8, 8, "32", "16"));
    assert_eq!(cleanup::left(&host).await, (1..=10).collect::<Vec<_>>());
}

#[tokio::test]
async fn rows_that_the_host_deletes_meanwhile_are_not_removed_twice() {
    let host = Hosted::start().await;
    cleanup::fill(&host, 12).await;
    let mut deletes = host.pool.begin().await.unwrap();
    sqlx::raw_sql(r#"DELETE FROM "Event" WHERE "id" IN (11, 12)"#).execute(&mut *deletes).await.unwrap();
    let removes = host.cleanup(cleanup::table()).unwrap();
    let cleaning = tokio::spawn(async move { cleanup::clean(&*removes, 10, 5, CleanupPolicy::Delete).await });
    until_one_waits(&host.pool, "transactionid").await;
    deletes.commit().await.unwrap();
    let cleaned = cleaning.await.unwrap().unwrap();
    assert_eq!((cleaned.above, cleaned.rows), (0, vec![]));
    assert_eq!(cleanup::left(&host).await, (1..=10).collect::<Vec<_>>());
}

#[tokio::test]
async fn ids_of_another_type_are_removed_too() {
    let host = Hosted::start().await;
    let id = "0190163d-8694-739b-aea5-966c26f8ad91";
    run(
        &host.pool,
        &format!(
            r#"CREATE TABLE "Journey" ("id" uuid PRIMARY KEY DEFAULT gen_random_uuid(), "workspaceId" uuid, "made" timestamptz,
                 "more" jsonb);
               INSERT INTO "Journey" ("workspaceId", "made", "more")
                 SELECT '{id}', now() + i * interval '1 second', '{{"a": [1, null]}}' FROM generate_series(1, 5) i"#
        ),
    )
    .await;
    run(&host.pool, Hosted::ARCHIVE).await;
    let expected = host.texts(r#"SELECT "id"::text FROM "Journey" ORDER BY "made" DESC LIMIT 3"#).await;
    let removes = host.cleanup(SqlTable::new("Journey").workspace_type("uuid").newest_first("made", "id")).unwrap();
    let (owner, catalog) = (WorkspaceFormat::Uuid.parse(id).unwrap(), metered());
    let excess = Excess::new(&owner, catalog.by_name("segments").unwrap(), 2, 9).policy(CleanupPolicy::Archive);
    assert_eq!(removes.clean(excess).await.unwrap().rows, expected);
    let same = r#"SELECT "row" ->> 'id' FROM "QuotaArchive" WHERE "row" -> 'more' -> 'a' ->> 0 = '1' AND "workspaceId" = "row" ->> 'workspaceId'"#;
    assert_eq!(host.texts(same).await.len(), 3);
}

#[tokio::test]
async fn rows_that_a_trigger_keeps_are_told() {
    let host = Hosted::start().await;
    cleanup::fill(&host, 12).await;
    run(&host.pool, Hosted::ARCHIVE).await;
    run(
        &host.pool,
        r#"CREATE FUNCTION keeps() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
           CREATE TRIGGER keeps BEFORE DELETE ON "Event" FOR EACH ROW WHEN (OLD."id" = 11) EXECUTE FUNCTION keeps()"#,
    )
    .await;
    let removes = host.cleanup(cleanup::table()).unwrap();
    let error = cleanup::clean(&*removes, 10, 5, CleanupPolicy::Archive).await.unwrap_err();
    assert!(error.is_config() && error.message().contains("trigger"), "{error}");
    assert_eq!((cleanup::left(&host).await.len(), cleanup::archived(&host).await), (12, (vec![], vec![])));
}

#[tokio::test]
async fn the_database_can_count_by_itself() {
    let host = Hosted::start().await;
    let usage: Arc<dyn UsageSource> = host.usage(segments().filter("archived = 0")).unwrap();
    let usage = Arc::new(usage);
    let catalog = metered();
    let sql = usage.count_sql(catalog.by_name("segments").unwrap()).unwrap();
    run(
        &host.pool,
        r#"CREATE FUNCTION counted(query text, workspace text, bound bigint) RETURNS bigint LANGUAGE plpgsql AS
        $$ DECLARE found bigint; BEGIN EXECUTE query INTO found USING workspace, bound; RETURN found; END $$"#,
    )
    .await;
    for (query, rows) in [(sql.all(), 1800), (sql.bounded(), 51)] {
        let counted: i64 =
            sqlx::query_scalar("SELECT counted($1, 'acme', 51)").bind(query).fetch_one(&host.pool).await.unwrap();
        assert_eq!(counted, rows);
    }
    assert_eq!(usage.count_sql(ResourceCatalog::default().by_name("journeys").unwrap()), None);
}

#[tokio::test]
async fn an_old_snapshot_is_never_counted() {
    let host = Hosted::start().await;
    let url = shared().database();
    let single = PgPoolOptions::new().max_connections(1).connect(&url).await.unwrap();
    run(&single, TABLES).await;
    let usage = PostgresUsage::builder(single.clone(), &metered()).table("segments", segments()).build().unwrap();
    let writer = pool(&url).await;
    assert_eq!(count(&usage, "acme", None).await.unwrap(), 2000);
    // A host that begins by hand and forgets the end leaves an old snapshot in its pool.
    run(&single, r#"BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM "Segment""#).await;
    run(&writer, r#"DELETE FROM "Segment" WHERE "id" = 7"#).await;
    let error = count(&usage, "acme", None).await.unwrap_err();
    assert!(error.is_unavailable() && error.message().contains("transaction open"), "{error}");
    run(&single, "ROLLBACK").await;
    assert_eq!(count(&usage, "acme", None).await.unwrap(), 1999);
    drop(host);
}
