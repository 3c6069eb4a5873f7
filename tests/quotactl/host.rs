//! A host that is set up otherwise than the quickstart: one resource type, mode `strict`, a clean-up that deletes, records that
//! are provisioned explicitly.

use std::net::SocketAddr;

use axum::Router;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tower_quota::{
    CleanupPolicy, EnforcementMode, Limit, Provisioning, Quota, QuotaApi, ResourceCatalog, ResourceSpec, SqlTable,
    SqliteStore, SqliteUsage, StaticTokens, WebhookOptions,
};

use crate::support::quickstart::{ACME, ADMIN};

pub(crate) struct Host {
    pub(crate) runtime: Runtime,
    pub(crate) address: SocketAddr,
    pool: SqlitePool,
    _folder: TempDir,
}

impl Host {
    pub(crate) fn start(provisioning: Provisioning) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (address, pool) = runtime.block_on(async {
            let options = SqliteConnectOptions::new().filename(folder.path().join("host.db")).create_if_missing(true);
            let pool = SqlitePoolOptions::new().max_connections(2).connect_with(options).await.unwrap();
            let table =
                r#"CREATE TABLE "Segment" ("id" TEXT PRIMARY KEY, "workspaceId" TEXT NOT NULL, "createdAt" INTEGER)"#;
            sqlx::query(table).execute(&pool).await.unwrap();
            let segments = ResourceSpec::new("segments", "maxSegments", Limit::of(2)).label("Segment");
            let catalog = ResourceCatalog::empty().resource(segments).build().unwrap();
            let store = SqliteStore::new(pool.clone(), &catalog).await.unwrap();
            let table = SqlTable::new("Segment").newest_first("createdAt", "id");
            let usage = SqliteUsage::builder(pool.clone(), &catalog).table("segments", table);
            let quota = Quota::builder(catalog)
                .store(store)
                .usage(usage.clone().build().unwrap())
                .cleanup(usage.build().unwrap(), [("segments", CleanupPolicy::Delete)])
                .provisioning(provisioning)
                .mode(EnforcementMode::Strict)
                .webhooks(WebhookOptions::new().allow_networks(["127.0.0.0/8"]))
                .build()
                .unwrap();
            let tokens = StaticTokens::builder().admin(ADMIN).member(ACME, ["acme"]).build().unwrap();
            let app = Router::new().nest("/api", QuotaApi::new(quota, tokens).into_router());
            (serve(app).await, pool)
        });
        Self { runtime, address, pool, _folder: folder }
    }

    /// Makes rows around the layer: `first` to `last`, each newer than the one before.
    pub(crate) fn insert(&self, workspace: &str, rows: std::ops::RangeInclusive<u32>) {
        self.runtime.block_on(async {
            for row in rows {
                let sql = r#"INSERT INTO "Segment" VALUES ($1, $2, $3)"#;
                let insert = sqlx::query(sql).bind(format!("segment-{row}")).bind(workspace).bind(row);
                insert.execute(&self.pool).await.unwrap();
            }
        });
    }
}

/// Serves on a port of the system's choice.
pub(crate) async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}
