//! Works over all workspaces in memory that doesn't grow with their number. It is alone in its process, whose memory is measured.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(target_os = "linux")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use axum::Router;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, SqlitePool};
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use tower_quota::{Quota, QuotaApi, ResourceCatalog, SqlTable, SqliteStore, SqliteUsage, StaticTokens};

// More than are read at once.
const FEW: u32 = 6_000;
const MANY: u32 = 30_000;

/// The most memory that the process has had since the last call, in KiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak = line.trim().trim_end_matches(" kB").parse().unwrap();
    // https://man7.org/linux/man-pages/man5/proc_pid_clear_refs.5.html
    fs::write("/proc/self/clear_refs", "5").unwrap();
    peak
}

/// Each workspace has a row of each type.
async fn fill(pool: &SqlitePool, from: u32, until: u32) {
    sqlx::query(AssertSqlSafe(format!(
        r#"WITH RECURSIVE n(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {until})
        INSERT INTO "All" SELECT 'workspace-' || i FROM n"#
    )))
    .execute(pool)
    .await
    .unwrap();
}

/// Reads a report to its end; how long it was, and whether it ended as it should.
fn read(address: SocketAddr, format: &str) -> (usize, bool) {
    let mut stream = TcpStream::connect(address).unwrap();
    let path = format!("/api/system/quota-report?format={format}");
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer root\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let (mut bytes, mut end, mut buffer) = (0, Vec::new(), vec![0; 64 * 1024]);
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => return (bytes, end.ends_with(b"\r\n0\r\n\r\n")),
            read => {
                bytes += read;
                end.extend_from_slice(&buffer[..read]);
                end.drain(..end.len().saturating_sub(16));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_times_the_workspaces_take_no_more_memory() {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new().filename(directory.path().join("host.db")).create_if_missing(true);
    let pool = SqlitePoolOptions::new().max_connections(2).connect_with(options.journal_mode(SqliteJournalMode::Wal));
    let pool = pool.await.unwrap();
    sqlx::query(r#"CREATE TABLE "All" ("workspaceId" TEXT PRIMARY KEY)"#).execute(&pool).await.unwrap();
    let catalog = ResourceCatalog::default();
    let store = SqliteStore::new(pool.clone(), &catalog).await.unwrap();
    let tables = catalog.iter().map(|resource| (resource.name().to_owned(), SqlTable::new("All")));
    let usage = SqliteUsage::builder(pool.clone(), &catalog).tables(tables).build().unwrap();
    let quota = Quota::builder(catalog).store(store).usage(usage).snapshots(None).build().unwrap();
    let tokens = StaticTokens::builder().admin("root").build().unwrap();
    let app = Router::new().nest("/api", QuotaApi::new(quota.clone(), tokens).into_router());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });

    let mut peaks = Vec::new();
    let mut lengths = Vec::new();
    for (from, until) in [(0, FEW), (FEW, MANY)] {
        fill(&pool, from, until).await;
        peak();
        let summary = quota.take_snapshots().await.unwrap();
        assert_eq!(summary.workspaces, u64::from(until));
        let taken = peak();
        for format in ["json", "csv"] {
            let (bytes, ended) = spawn_blocking(move || read(address, format)).await.unwrap();
            assert!(ended, "{format} with {until} workspaces");
            lengths.push(bytes);
        }
        let told = peak();
        println!("{until} workspaces: {taken} KiB to take snapshots, {told} KiB to report {lengths:?} bytes");
        peaks.push((taken, told));
    }
    // All snapshots together, and all of a report, are more than what the process may grow by.
    const MARGIN: u64 = 16 * 1024;
    assert!(lengths[2] > 30_000_000 && lengths[2] > 4 * lengths[0], "{lengths:?}");
    assert!(peaks[1].0 < peaks[0].0 + MARGIN, "to take snapshots: {peaks:?}");
    assert!(peaks[1].1 < peaks[0].1 + MARGIN, "to report: {peaks:?}");
}
