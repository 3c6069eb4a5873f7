//! What holds of the tables in either database.

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use tower_quota::{Expect, Limit, QuotaStore, ResourceCatalog, RouteMap};

use crate::{limits, workspace};

/// Migrations that a host has of its own.
pub(crate) fn hosts_migrations() -> Migrator {
    let up = |version, sql: &'static str| {
        Migration::new(version, "host".into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(vec![
        up(1, r#"CREATE TABLE "Segment" ("workspaceId" TEXT NOT NULL)"#),
        up(2, r#"ALTER TABLE "Segment" ADD COLUMN "name" TEXT"#),
    ])
}

/// The catalogs that a file of rules makes which declares `customMetrics`, and one that doesn't.
fn declared() -> [ResourceCatalog; 2] {
    let file = r#"{ "resource": [{ "name": "customMetrics", "limit_field": "maxCustomMetrics", "default": 50 }] }"#;
    [file, "{}"].map(|file| RouteMap::with_types_from_json(file, ResourceCatalog::builder()).unwrap().catalog().clone())
}

/// The same database, opened with more resource types and with fewer.
pub(crate) async fn types_come_and_go_and_data_stays<S: QuotaStore>(open: impl AsyncFn(&ResourceCatalog) -> S) {
    let ([large, small], acme) = (declared(), workspace("acme"));
    let users = [("maxUsers", Limit::of(5))];
    let made = open(&small).await.update(&acme, &limits(&small, &users), &Expect::Anything).await.unwrap();
    let store = open(&large).await;
    assert_eq!(store.load(&acme).await.unwrap().unwrap(), made);
    let metrics = limits(&large, &[("maxCustomMetrics", Limit::of(9))]);
    store.update(&acme, &metrics, &Expect::Versions(vec![1])).await.unwrap();
    // One at a time may have a SQLite file open.
    drop(store);

    let record = open(&small).await.load(&acme).await.unwrap().unwrap();
    assert_eq!((record.version, record.limits), (2, limits(&small, &users)));
    let record = open(&large).await.load(&acme).await.unwrap().unwrap();
    assert_eq!(record.limits, limits(&large, &[users[0], ("maxCustomMetrics", Limit::of(9))]));
}
