//! An axum server's router on a SQLite file, and what its engine tells.

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::routing::{post, put};
use http::{HeaderMap, Method, Request, StatusCode};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, SqlitePool, query};
use tempfile::TempDir;
use tower::ServiceExt;
use tower_quota::{
    Charge, Decision, Demand, EnforcementMode, Expect, Limit, LimitSet, Operation, Probe, Quota, QuotaBuilder,
    QuotaLayer, Reservation, ResourceCatalog, ResourceId, ResourceSpec, RouteMap, Rule, SqliteStore, SqliteUsage,
    WorkspaceId, WorkspaceSource,
};

use crate::support::exported::Recorder;

pub(crate) struct Host {
    pub(crate) quota: Quota,
    pub(crate) told: Recorder,
    app: Router,
    pool: SqlitePool,
    _folder: TempDir,
}

pub(crate) fn catalog() -> ResourceCatalog {
    let segments = ResourceSpec::new("segments", "maxSegments", Limit::of(3)).label("Segment").table("Segment");
    ResourceCatalog::empty().resource(segments).build().unwrap()
}

pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn create(Path(workspace): Path<String>, State(pool): State<SqlitePool>, headers: HeaderMap) -> StatusCode {
    match headers.get("x-fate").map(|fate| fate.to_str().unwrap()) {
        Some("fails") => return StatusCode::INTERNAL_SERVER_ERROR,
        Some("refuses") => return StatusCode::CONFLICT,
        _ => {}
    }
    let insert = r#"INSERT INTO "Segment" ("workspaceId") VALUES ($1)"#;
    query(insert).bind(workspace).execute(&pool).await.unwrap();
    StatusCode::CREATED
}

async fn upsert(Path((workspace, id)): Path<(String, i64)>, State(pool): State<SqlitePool>) -> StatusCode {
    let upsert = r#"INSERT INTO "Segment" ("id", "workspaceId") VALUES ($1, $2) ON CONFLICT ("id") DO NOTHING"#;
    query(upsert).bind(id).bind(workspace).execute(&pool).await.unwrap();
    StatusCode::OK
}

impl Host {
    pub(crate) async fn new() -> Self {
        Self::with(|builder| builder, |layer| layer).await
    }

    pub(crate) async fn with(
        set_up: impl FnOnce(QuotaBuilder) -> QuotaBuilder,
        layer: impl FnOnce(QuotaLayer<tower_quota::AxumBody>) -> QuotaLayer<tower_quota::AxumBody>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new().filename(folder.path().join("host.db")).create_if_missing(true);
        let options = options.busy_timeout(Duration::from_secs(20));
        let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.unwrap();
        let make = r#"CREATE TABLE "Segment" ("id" INTEGER PRIMARY KEY, "workspaceId" TEXT NOT NULL)"#;
        query(make).execute(&pool).await.unwrap();
        let store = SqliteStore::new(pool.clone(), &catalog()).await.unwrap();
        let usage = SqliteUsage::builder(pool.clone(), &catalog()).build().unwrap();
        let builder = Quota::builder(catalog()).store(store).usage(usage).mode(EnforcementMode::Enforce);
        // Nothing but what the tests do is to be told.
        let builder = builder.threshold_sweeps(None);
        #[cfg(feature = "insight")]
        let builder = builder.snapshots(None);
        let told = Recorder::new();
        let quota = told.told_by(|| set_up(builder.max_wait(Duration::from_millis(50))).build()).unwrap();
        let workspace = || WorkspaceSource::path("ws");
        let routes = RouteMap::builder(quota.catalog())
            .rule(
                Rule::new("create", Method::POST, "/{ws}/segments")
                    .workspace(workspace())
                    .charge(Charge::of("segments")),
            )
            .rule(
                Rule::new("upsert", Method::PUT, "/{ws}/segments/{id}")
                    .operation(Operation::Upsert)
                    .workspace(workspace())
                    .charge(Charge::of("segments").probe(Probe::path("id", "id"))),
            )
            .build()
            .unwrap();
        let app = Router::new()
            .route("/{ws}/segments", post(create))
            .route("/{ws}/segments/{id}", put(upsert))
            .with_state(pool.clone())
            .layer(layer(QuotaLayer::for_axum(quota.clone(), routes).unwrap()));
        Self { quota, told, app, pool, _folder: folder }
    }

    pub(crate) async fn send(&self, method: Method, path: &str, fate: &str) -> u16 {
        let request = Request::builder().method(method).uri(path).header("x-fate", fate).body(Body::empty()).unwrap();
        self.app.clone().oneshot(request).await.unwrap().status().as_u16()
    }

    pub(crate) async fn create(&self, workspace: &str) -> u16 {
        self.send(Method::POST, &format!("/{workspace}/segments"), "").await
    }

    pub(crate) async fn upsert(&self, workspace: &str, id: i64) -> u16 {
        self.send(Method::PUT, &format!("/{workspace}/segments/{id}"), "").await
    }

    pub(crate) async fn run(&self, sql: &str) {
        query(AssertSqlSafe(sql)).execute(&self.pool).await.unwrap();
    }

    pub(crate) fn workspace(&self, name: &str) -> WorkspaceId {
        self.quota.workspace(name).unwrap()
    }

    pub(crate) fn segments(&self) -> ResourceId {
        self.quota.catalog().by_name("segments").unwrap().id()
    }

    pub(crate) async fn limit(&self, workspace: &str, limit: u32) {
        let changes: LimitSet = [(self.segments(), Limit::of(limit))].into_iter().collect();
        self.quota.update_limits(&self.workspace(workspace), &changes, &Expect::Anything).await.unwrap();
    }

    pub(crate) async fn reserve(&self, workspace: &str, units: u64) -> Reservation {
        let demand = Demand::new(self.segments(), units);
        match self.quota.reserve(&self.workspace(workspace), &[demand]).await.unwrap() {
            Decision::Admitted(reservation) => reservation,
            Decision::Refused(refusal) => panic!("{refusal:?}"),
        }
    }

    pub(crate) fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// Waits until a series has a value, which it may take the engine a second to tell.
    pub(crate) async fn tells(&self, series: &str, value: f64) {
        until(&format!("{series} {value}, but {:?}", self.told.exported()), async || self.told.value(series) == value)
            .await;
    }

    /// How many decisions had this outcome.
    pub(crate) async fn decided(&self, outcome: &str, times: f64) {
        self.tells(&decisions(outcome), times).await;
    }
}

pub(crate) fn decisions(outcome: &str) -> String {
    format!(r#"tower_quota_decisions_total{{resource_type="segments",outcome="{outcome}"}}"#)
}
