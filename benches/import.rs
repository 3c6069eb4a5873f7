//! The way from unlimited to limited, at 10,000 and at 100,000 workspaces: `cargo bench --bench import`.
//!
//! Each workspace has rows of three types. Time, and the most memory that the process has had by then, which must not grow
//! with the number of workspaces: the database is another process' affair, or in a file.

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

use std::fs;
use std::time::Instant;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::runtime::Builder;
use tower_quota::{
    Actor, ImportOptions, Limit, PostgresStore, PostgresUsage, Quota, ResourceCatalog, ResourceSpec, SqliteStore,
    SqliteUsage,
};

use support::postgres::{Durability, Server};

const TYPES: [(&str, &str, &str); 3] =
    [("segments", "maxSegments", "Segment"), ("users", "maxUsers", "User"), ("journeys", "maxJourneys", "Journey")];

fn main() {
    // Not under `cargo test`, which doesn't say `--bench`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = Server::start(Durability::None);
    println!("database, workspaces: analysed in s, imported in s, the most memory so far in MiB");
    for workspaces in [10_000, 100_000] {
        let quota = runtime.block_on(on_sqlite(workspaces));
        runtime.block_on(import("sqlite", workspaces, &quota.0));
        let url = server.database();
        let quota = runtime.block_on(on_postgres(&url, workspaces));
        runtime.block_on(import("postgres", workspaces, &quota));
    }
}

fn catalog() -> ResourceCatalog {
    let spec =
        |(name, field, table): &(&str, &str, &str)| ResourceSpec::new(*name, *field, Limit::of(10)).table(*table);
    TYPES.iter().map(spec).fold(ResourceCatalog::empty(), |catalog, spec| catalog.resource(spec)).build().unwrap()
}

/// A table with one to five rows for each workspace.
fn table(name: &str, numbers: &str) -> String {
    format!(
        r#"CREATE TABLE "{name}" ("workspaceId" TEXT NOT NULL);
           INSERT INTO "{name}" {numbers};
           CREATE INDEX "by{name}" ON "{name}" ("workspaceId")"#
    )
}

async fn on_sqlite(workspaces: u32) -> (Quota, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new().filename(directory.path().join("host.db")).create_if_missing(true);
    let options = options.journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.unwrap();
    for (_, _, name) in TYPES {
        let numbers = format!(
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {workspaces} * 3 - 1)
             SELECT printf('w%06d', i % {workspaces}) FROM n"
        );
        sqlx::raw_sql(AssertSqlSafe(table(name, &numbers))).execute(&pool).await.unwrap();
    }
    let store = SqliteStore::new(pool.clone(), &catalog()).await.unwrap();
    let usage = SqliteUsage::builder(pool, &catalog()).build().unwrap();
    (Quota::builder(catalog()).store(store).usage(usage).snapshots(None).build().unwrap(), directory)
}

async fn on_postgres(url: &str, workspaces: u32) -> Quota {
    let pool = PgPool::connect(url).await.unwrap();
    for (_, _, name) in TYPES {
        let numbers = format!(
            "SELECT 'w' || lpad((i % {workspaces})::text, 6, '0') FROM generate_series(0, {workspaces} * 3 - 1) AS i"
        );
        sqlx::raw_sql(AssertSqlSafe(table(name, &numbers))).execute(&pool).await.unwrap();
    }
    let store = PostgresStore::connect(url, &catalog()).await.unwrap();
    let usage = PostgresUsage::builder(pool, &catalog()).build().unwrap();
    Quota::builder(catalog()).store(store).usage(usage).snapshots(None).build().unwrap()
}

async fn import(database: &str, workspaces: u32, quota: &Quota) {
    let admin = quota.admin(Actor::library());
    let mut times = Vec::new();
    for apply in [false, true] {
        let start = Instant::now();
        let mut import = admin.import(ImportOptions::new().apply(apply)).await.unwrap();
        while import.next().await.unwrap().is_some() {}
        times.push(start.elapsed().as_secs_f64());
        assert_eq!(import.summary().workspaces, u64::from(workspaces));
        assert_eq!(import.summary().set, u64::from(workspaces) * 3);
    }
    println!("{database}, {workspaces}: {:.1}, {:.1}, {}", times[0], times[1], most_memory());
}

/// In MiB.
fn most_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib / 1024)
}
