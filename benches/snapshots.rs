//! How long it takes to take snapshots of eight types of 10,000 and of 100,000 workspaces, and to report on all of them:
//! `cargo bench --bench snapshots`.
//!
//! Each workspace has a row of each type, and a record. Taken for the first time, snapshots are new rows; the second time,
//! they are merged with those of the same hour.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark that can't be set up has nothing to measure"
)]

#[allow(dead_code, reason = "the tests need more of it")]
#[path = "replicas/support.rs"]
mod support;

use std::time::Instant;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::runtime::Builder;
use tower_quota::{
    Granularity, Period, PostgresStore, PostgresUsage, Quota, ResourceCatalog, SqlTable, SqliteStore, SqliteUsage,
};

use support::postgres::{Durability, Server};

fn main() {
    // Not under `cargo test`, which doesn't say `--bench`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = Server::start(Durability::None);
    println!("database, workspaces: taken in s, taken again in s, reported in s");
    for workspaces in [10_000, 100_000] {
        let quota = runtime.block_on(on_sqlite(workspaces));
        runtime.block_on(measure("sqlite", workspaces, &quota.0));
        let url = server.database();
        let quota = runtime.block_on(on_postgres(&url, workspaces));
        runtime.block_on(measure("postgres", workspaces, &quota));
    }
}

fn tables() -> Vec<(String, SqlTable)> {
    ResourceCatalog::default().iter().map(|resource| (resource.name().to_owned(), SqlTable::new("All"))).collect()
}

const TABLE: &str = r#"CREATE TABLE "All" ("workspaceId" TEXT NOT NULL)"#;

async fn on_sqlite(workspaces: u32) -> (Quota, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new().filename(directory.path().join("host.db")).create_if_missing(true);
    let options = options.journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.unwrap();
    let catalog = ResourceCatalog::default();
    let store = SqliteStore::new(pool.clone(), &catalog).await.unwrap();
    let fill = format!(
        r#"{TABLE};
           WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {workspaces})
           INSERT INTO "All" SELECT printf('w%06d', i) FROM n;
           CREATE INDEX "byWorkspace" ON "All" ("workspaceId");
           INSERT INTO "WorkspaceQuota" ("id", "workspaceId", "version", "createdAt", "updatedAt")
           SELECT lower(hex(randomblob(16))), "workspaceId", 1, '2024-01-01T00:00:00Z', '2024-01-01T00:00:00Z' FROM "All""#
    );
    sqlx::raw_sql(AssertSqlSafe(fill)).execute(&pool).await.unwrap();
    let usage = SqliteUsage::builder(pool, &catalog).tables(tables()).build().unwrap();
    (Quota::builder(catalog).store(store).usage(usage).snapshots(None).build().unwrap(), directory)
}

async fn on_postgres(url: &str, workspaces: u32) -> Quota {
    let pool = PgPool::connect(url).await.unwrap();
    let catalog = ResourceCatalog::default();
    let store = PostgresStore::connect(url, &catalog).await.unwrap();
    let fill = format!(
        r#"{TABLE};
           INSERT INTO "All" SELECT 'w' || lpad(i::text, 6, '0') FROM generate_series(1, {workspaces}) AS i;
           CREATE INDEX "byWorkspace" ON "All" ("workspaceId" COLLATE "C");
           INSERT INTO "WorkspaceQuota" ("id", "workspaceId", "version", "createdAt", "updatedAt")
           SELECT gen_random_uuid(), "workspaceId", 1, now(), now() FROM "All";
           ANALYZE"#
    );
    sqlx::raw_sql(AssertSqlSafe(fill)).execute(&pool).await.unwrap();
    let usage = PostgresUsage::builder(pool, &catalog).tables(tables()).build().unwrap();
    Quota::builder(catalog).store(store).usage(usage).snapshots(None).build().unwrap()
}

async fn measure(database: &str, workspaces: u32, quota: &Quota) {
    let mut times = Vec::new();
    for _ in 0..2 {
        let start = Instant::now();
        let summary = quota.take_snapshots().await.unwrap();
        times.push(start.elapsed().as_secs_f64());
        assert_eq!(summary.snapshots, u64::from(workspaces) * 8);
    }
    let start = Instant::now();
    let day = Granularity::Day.label(Granularity::Day.start(jiff::Timestamp::now())).parse().unwrap();
    let mut pages = quota.reports(Period::Monthly, day).unwrap();
    let mut rows = 0;
    while let Some(page) = pages.next().await.unwrap() {
        rows += page.len();
    }
    assert_eq!(rows, workspaces as usize * 8);
    println!("{database}, {workspaces}: {:.1}, {:.1}, {:.1}", times[0], times[1], start.elapsed().as_secs_f64());
}
