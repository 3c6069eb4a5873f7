//! SQLite.

use std::path::Path;
use std::sync::Arc;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use sqlx::{Column, Row};
use tempfile::TempDir;
use tower_quota::{
    Cleanup, CleanupPolicy, Error, Excess, Expect, Limit, QuotaStore, ResourceCatalog, ResourceSpec, SqlTable,
    SqliteStore, SqliteUsage, UsageSource,
};

use crate::counts::{Host, TABLES, count, counts, host, metered, segments};
use crate::schema::{self, hosts_migrations};
use crate::{catalog, limits, workspace};

fn url(directory: &TempDir) -> String {
    format!("sqlite://{}", directory.path().join("quota.db").display())
}

async fn own_file() -> (SqliteStore, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (SqliteStore::connect(&url(&directory), &catalog()).await.unwrap(), directory)
}

/// A pool as a host makes it, in SQLite's default journal mode.
async fn pool(path: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    SqlitePool::connect_with(options).await.unwrap()
}

async fn hosts_file() -> (SqliteStore, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let pool = pool(&directory.path().join("host.db")).await;
    (SqliteStore::new(pool, &catalog()).await.unwrap(), directory)
}

/// As hosts do in their own tests.
async fn hosts_memory() -> (SqliteStore, ()) {
    let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await.unwrap();
    (SqliteStore::new(pool, &catalog()).await.unwrap(), ())
}

conforms!(own_file_conforms, own_file());
conforms!(hosts_file_conforms, hosts_file());
conforms!(hosts_memory_conforms, hosts_memory());

async fn run(pool: &SqlitePool, sql: &'static str) {
    sqlx::raw_sql(sql).execute(pool).await.unwrap();
}

#[tokio::test]
async fn the_guides_query_answers() {
    let (store, _directory) = own_file().await;
    let changes = limits(
        &catalog(),
        &[("maxSegments", Limit::of(75)), ("maxJourneys", Limit::Unlimited), ("maxCustomMetrics", Limit::of(0))],
    );
    let record = store.update(&workspace("acme"), &changes, &Expect::Anything).await.unwrap();

    let query = r#"SELECT * FROM "WorkspaceQuota" WHERE "workspaceId" = 'acme';"#;
    let rows = sqlx::raw_sql(query).fetch_all(store.pool()).await.unwrap();
    assert_eq!(rows.len(), 1);
    let columns: Vec<&str> = rows[0].columns().iter().map(Column::name).collect();
    assert_eq!(columns[..5], ["id", "workspaceId", "version", "createdAt", "updatedAt"]);
    assert_eq!(columns.len(), 5 + 3 + catalog().len());
    assert_eq!(rows[0].get::<&str, _>("id"), record.id.to_string());
    assert_eq!(rows[0].get::<i64, _>("version"), 1);
    assert_eq!(rows[0].get::<i64, _>("maxSegments"), 75);
    assert_eq!(rows[0].get::<i64, _>("maxJourneys"), -1);
    assert_eq!(rows[0].get::<i64, _>("maxCustomMetrics"), 0);
    assert_eq!(rows[0].get::<Option<i64>, _>("maxUsers"), None);
    let updated_at: &str = rows[0].get("updatedAt");
    assert_eq!((updated_at.len(), &updated_at[10..11], &updated_at[19..]), (20, "T", "Z"));
}

#[tokio::test]
async fn an_operator_can_only_write_limits() {
    let (store, _directory) = own_file().await;
    store.provision(&workspace("acme")).await.unwrap();
    for sql in [
        r#"UPDATE "WorkspaceQuota" SET "maxUsers" = -2"#,
        r#"UPDATE "WorkspaceQuota" SET "maxUsers" = 'many'"#,
        r#"UPDATE "WorkspaceQuota" SET "version" = 0"#,
    ] {
        assert!(sqlx::raw_sql(sql).execute(store.pool()).await.is_err(), "{sql}");
    }
    run(store.pool(), r#"UPDATE "WorkspaceQuota" SET "maxUsers" = 12"#).await;
    let record = store.load(&workspace("acme")).await.unwrap().unwrap();
    assert_eq!(record.limits, limits(&catalog(), &[("maxUsers", Limit::of(12))]));

    run(store.pool(), r#"UPDATE "WorkspaceQuota" SET "createdAt" = 'yesterday'"#).await;
    let error = store.load(&workspace("acme")).await.unwrap_err();
    assert!(error.is_unavailable() && error.message().contains("acme"), "{error}");
}

#[tokio::test]
async fn the_time_of_change_never_goes_back() {
    let (store, _directory) = own_file().await;
    store.provision(&workspace("acme")).await.unwrap();
    run(store.pool(), r#"UPDATE "WorkspaceQuota" SET "updatedAt" = '2999-01-01T00:00:00Z'"#).await;
    let changes = limits(&catalog(), &[("maxUsers", Limit::of(1))]);
    for expect in [Expect::Anything, Expect::Existing] {
        let record = store.update(&workspace("acme"), &changes, &expect).await.unwrap();
        assert_eq!(record.updated_at.to_string(), "2999-01-01T00:00:00Z");
    }
}

#[tokio::test]
async fn changes_of_a_larger_catalog_are_refused() {
    let (store, _directory) = own_file().await;
    let larger = ResourceCatalog::builder()
        .resource(ResourceSpec::new("customMetrics", "maxCustomMetrics", Limit::of(50)))
        .resource(ResourceSpec::new("webhooks", "maxWebhooks", Limit::of(20)))
        .build()
        .unwrap();
    let changes = limits(&larger, &[("maxWebhooks", Limit::of(1))]);
    let error = store.update(&workspace("acme"), &changes, &Expect::Anything).await.unwrap_err();
    assert!(error.is_unknown_resource(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_open_a_file_one_gets_it() {
    for _ in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        let open = || {
            let url = url(&directory);
            tokio::spawn(async move { SqliteStore::connect(&url, &catalog()).await })
        };
        let (one, two, three) = (open(), open(), open());
        let opened = [one.await.unwrap(), two.await.unwrap(), three.await.unwrap()];
        assert_eq!(opened.iter().filter(|opened| opened.is_ok()).count(), 1, "{opened:?}");
    }
}

#[tokio::test]
async fn a_second_engine_is_refused_and_told_why() {
    let directory = tempfile::tempdir().unwrap();
    let first = SqliteStore::connect(&url(&directory), &catalog()).await.unwrap();
    let file = directory.path().join("quota.db");
    std::os::unix::fs::symlink(&file, directory.path().join("other.db")).unwrap();
    for path in ["quota.db", "../quota.db", "other.db"] {
        std::fs::create_dir_all(directory.path().join("sub")).unwrap();
        let base = if path.starts_with("..") { directory.path().join("sub") } else { directory.path().to_owned() };
        let pool = pool(&base.join(path)).await;
        let error = SqliteStore::new(pool, &catalog()).await.unwrap_err();
        assert!(error.is_config(), "{error}");
        for says in [file.to_str().unwrap(), "another process, or another engine", "run one", "Postgres"] {
            assert!(error.message().contains(says), "{path}: {error}");
        }
    }
    // The one that has it goes on, and hands over when it ends.
    first.provision(&workspace("acme")).await.unwrap();
    drop(first);
    SqliteStore::connect(&url(&directory), &catalog()).await.unwrap();
}

#[tokio::test]
async fn the_hosts_migrations_are_left_alone() {
    for host_first in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let pool = pool(&directory.path().join("host.db")).await;
        if host_first {
            hosts_migrations().run(&pool).await.unwrap();
        }
        SqliteStore::new(pool.clone(), &catalog()).await.unwrap();
        hosts_migrations().run(&pool).await.unwrap();
        let store = SqliteStore::new(pool.clone(), &catalog()).await.unwrap();
        store.provision(&workspace("acme")).await.unwrap();

        let hosts: Vec<i64> =
            sqlx::query_scalar("SELECT version FROM _sqlx_migrations ORDER BY 1").fetch_all(&pool).await.unwrap();
        assert_eq!(hosts, [1, 2]);
        let ours: Vec<i64> =
            sqlx::query_scalar("SELECT version FROM _tower_quota_migrations").fetch_all(&pool).await.unwrap();
        assert_eq!(ours, [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let (store, directory) = own_file().await;
    run(store.pool(), "INSERT INTO _tower_quota_migrations VALUES (99, '2999-01-01T00:00:00Z')").await;
    drop(store);
    let error = SqliteStore::connect(&url(&directory), &catalog()).await.unwrap_err();
    assert!(error.is_config() && error.message().contains("schema version 99"), "{error}");
}

#[tokio::test]
async fn a_table_of_the_host_is_not_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let pool = pool(&directory.path().join("host.db")).await;
    run(&pool, r#"CREATE TABLE "WorkspaceQuota" ("id" TEXT)"#).await;
    let error = SqliteStore::new(pool.clone(), &catalog()).await.unwrap_err();
    assert!(error.is_config() && error.message().contains("rename it"), "{error}");
    let columns: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pragma_table_info('WorkspaceQuota')").fetch_one(&pool).await.unwrap();
    assert_eq!(columns, 1);
}

#[tokio::test]
async fn types_come_and_go_and_data_stays() {
    let directory = tempfile::tempdir().unwrap();
    schema::types_come_and_go_and_data_stays(async |catalog: &ResourceCatalog| {
        SqliteStore::connect(&url(&directory), catalog).await.unwrap()
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_opened_says_how_to_fix_it() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("notes.txt");
    std::fs::write(&text, "not a database, but long enough to be looked at: ".repeat(40)).unwrap();
    let missing = format!("sqlite://{}", directory.path().join("missing/quota.db").display());
    for (url, says) in [
        (missing.as_str(), "its directory must exist"),
        (&format!("sqlite://{}", text.display()), "something else"),
        (&format!("{}?mode=nonsense", url(&directory)), "is not the URL"),
        (&format!("{}?mode=ro", url(&directory)), "allowed to write"),
        ("sqlite::memory:", "MemoryStore"),
        ("sqlite://quota?mode=memory", "MemoryStore"),
        ("sqlite://", "MemoryStore"),
    ] {
        let error = SqliteStore::connect(url, &catalog()).await.unwrap_err();
        assert!(error.is_config() && error.message().contains(says), "{url}: {error:?}");
    }
}

#[tokio::test]
async fn a_lost_table_or_pool_is_told() {
    let (store, directory) = own_file().await;
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
    // The host's own pool, which outlives the store.
    let pool = store.pool().clone();
    drop(store);
    let error = SqliteStore::connect(&url(&directory), &catalog()).await.unwrap_err();
    assert!(error.is_config() && error.message().contains("_tower_quota_migrations"), "{error}");
    run(
        &pool,
        r#"DROP TABLE _tower_quota_migrations; DROP TABLE "QuotaPlan"; DROP TABLE "QuotaRequest";
        DROP TABLE "QuotaAudit"; DROP TABLE "QuotaProgress"; DROP TABLE "QuotaArchive"; DROP TABLE "QuotaThreshold";
        DROP TABLE "QuotaNotice"; DROP TABLE "QuotaEndpoint"; DROP TABLE "QuotaDelivery"; DROP TABLE "QuotaContact";
        DROP TABLE "QuotaSnapshot"; DROP TABLE "QuotaTask"; DROP TABLE "QuotaOverview"; DROP TABLE "QuotaTally""#,
    )
    .await;
    let again = SqliteStore::connect(&url(&directory), &catalog()).await.unwrap();
    assert_eq!(again.load(&workspace("acme")).await.unwrap(), None);

    again.ping().await.unwrap();
    again.pool().close().await;
    assert!(again.ping().await.unwrap_err().is_unavailable());
    assert!(again.load(&workspace("acme")).await.unwrap_err().is_unavailable());
}

struct File {
    pool: SqlitePool,
    _directory: TempDir,
}

impl Host for File {
    const FILTERS: &'static [(&'static str, u64)] = &[(r#"[archived] = 1 AND `name` LIKE 's%'"#, 200)];

    const COLLATED: &'static str = "TEXT COLLATE NOCASE";
    const ARCHIVE: &'static str = include_str!("../../migrations/sqlite/0003_archive.sql");
    const BYTES: [&'static str; 3] = ["BLOB", "x'00ff'", r#"{"blob":"00FF"}"#];

    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pool = pool(&directory.path().join("host.db")).await;
        run(&pool, TABLES).await;
        Self { pool, _directory: directory }
    }

    host!(SqliteUsage);
}

counts!(File);

#[tokio::test]
async fn a_type_of_ids_is_for_postgres() {
    let host = File::start().await;
    let Err(error) = host.usage(segments().workspace_type("uuid")) else { panic!("it was taken") };
    assert!(error.is_config() && error.message().contains("Postgres"), "{error}");
    let catalog = metered();
    let segments = catalog.by_name("segments").unwrap();
    assert_eq!(host.usage(SqlTable::new("Segment")).unwrap().count_sql(segments), None);
}

#[tokio::test]
async fn a_pool_that_only_reads_is_told() {
    let host = File::start().await;
    let options = SqliteConnectOptions::new().filename(host._directory.path().join("host.db")).read_only(true);
    let reader =
        File { pool: SqlitePool::connect_with(options).await.unwrap(), _directory: tempfile::tempdir().unwrap() };
    let cleanup = reader.cleanup(segments().newest_first("id", "id")).unwrap();
    let (acme, catalog) = (workspace("acme"), metered());
    let excess = Excess::new(&acme, catalog.by_name("segments").unwrap(), 1999, 5);
    assert_eq!(cleanup.clean(excess).await.unwrap().rows, ["1999"]);
    let error = cleanup.clean(excess.policy(CleanupPolicy::Delete)).await.unwrap_err();
    assert!(error.is_unavailable() && error.message().contains("only reads"), "{error}");
}

#[tokio::test]
async fn an_old_snapshot_is_never_counted() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::connect(&url(&directory), &metered()).await.unwrap();
    run(store.pool(), r#"CREATE TABLE "Segment" ("ws" TEXT); CREATE TABLE "CustomMetric" ("workspaceId" TEXT)"#).await;
    let options = SqliteConnectOptions::new().filename(directory.path().join("quota.db"));
    let single = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    let usage = SqliteUsage::builder(single.clone(), &metered()).table("segments", segments()).build().unwrap();

    // A host that begins by hand and forgets the end leaves an old snapshot in its pool.
    run(&single, r#"BEGIN; SELECT count(*) FROM "Segment""#).await;
    run(store.pool(), r#"INSERT INTO "Segment" VALUES ('acme')"#).await;
    let error = count(&usage, "acme", None).await.unwrap_err();
    assert!(error.is_unavailable() && error.message().contains("transaction open"), "{error}");
    run(&single, "COMMIT").await;
    assert_eq!(count(&usage, "acme", None).await.unwrap(), 1);

    // One that drops its transaction leaves none.
    let mut transaction = single.begin().await.unwrap();
    sqlx::query(r#"SELECT count(*) FROM "Segment""#).execute(&mut *transaction).await.unwrap();
    drop(transaction);
    run(store.pool(), r#"INSERT INTO "Segment" VALUES ('acme')"#).await;
    assert_eq!(count(&usage, "acme", None).await.unwrap(), 2);
}
