//! A host whose rows are in a database, and whose books are wherever.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::post;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, PgPool, SqlitePool, query, query_scalar};
use tempfile::TempDir;
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;
use tower_quota::{
    Charge, Expect, Fence, Limit, LimitSet, Operation, PostgresLedger, PostgresStore, PostgresUsage, Probe, Quota,
    QuotaBuilder, QuotaLayer, ResourceCatalog, ResourceSpec, RouteMap, Rule, Settling, SqliteStore, SqliteUsage,
    WorkspaceSource,
};
use uuid::Uuid;

use crate::support::postgres::shared;

/// How many workspaces each process keeps in memory.
pub(crate) const CAPACITY: u64 = 4;

const TABLES: [&str; 2] = ["Segment", "User"];

pub(crate) struct Host {
    pub(crate) replicas: Vec<Replica>,
    pub(crate) rows: Rows,
    _directory: Option<TempDir>,
}

pub(crate) struct Replica {
    pub(crate) quota: Quota,
    app: Router,
}

#[derive(Clone)]
pub(crate) enum Rows {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

fn catalog() -> ResourceCatalog {
    ResourceCatalog::empty()
        .resource(ResourceSpec::new("segments", "maxSegments", Limit::of(5)).table("Segment"))
        .resource(ResourceSpec::new("users", "maxUsers", Limit::of(1)).table("User"))
        .build()
        .unwrap()
}

impl Host {
    /// One process with its own books.
    pub(crate) async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new().filename(directory.path().join("host.db")).create_if_missing(true);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
        let rows = Rows::Sqlite(pool.clone());
        rows.make_tables().await;
        let store = SqliteStore::new(pool.clone(), &catalog()).await.unwrap();
        let usage = SqliteUsage::builder(pool, &catalog()).build().unwrap();
        let replicas = vec![Replica::start(Quota::builder(catalog()).store(store).usage(usage), &rows)];
        Self { replicas, rows, _directory: Some(directory) }
    }

    /// So many replicas; one process with its own books where that is none.
    pub(crate) async fn postgres(replicas: usize) -> Self {
        let url = shared().database();
        let rows = Rows::Postgres(PgPool::connect(&url).await.unwrap());
        rows.make_tables().await;
        let mut started = Vec::new();
        for _ in 0..replicas.max(1) {
            let store = PostgresStore::connect(&url, &catalog()).await.unwrap();
            let pool = PgPool::connect(&url).await.unwrap();
            let usage = PostgresUsage::builder(pool, &catalog()).build().unwrap();
            let mut builder = Quota::builder(catalog());
            if replicas > 0 {
                let ledger = PostgresLedger::new(&store).fenced();
                builder = builder.ledger(ledger);
            }
            started.push(Replica::start(builder.store(store).usage(usage), &rows));
        }
        Self { replicas: started, rows, _directory: None }
    }

    /// Sets a limit at the first replica.
    pub(crate) async fn limit(&self, workspace: &str, resource: &str, limit: Limit) {
        let quota = &self.replicas[0].quota;
        let changes = LimitSet::new().with(quota.catalog().by_name(resource).unwrap().id(), limit);
        let workspace = quota.workspace(workspace).unwrap();
        quota.update_limits(&workspace, &changes, &Expect::Anything).await.unwrap();
    }
}

impl Replica {
    fn start(builder: QuotaBuilder, rows: &Rows) -> Self {
        let builder = builder.capacity(CAPACITY).settling(Settling::After(Duration::from_millis(200)));
        let quota = builder.max_wait(Duration::from_secs(5)).build().unwrap();
        let rule = |name: &str, method: &str| {
            Rule::new(name, method.parse().unwrap(), "/{ws}/segments").workspace(WorkspaceSource::path("ws"))
        };
        let edit = Charge::of("segments").probe(Probe::body("/id", "id"));
        let routes = RouteMap::builder(quota.catalog())
            .rule(rule("create", "POST").charge(Charge::of("segments")))
            .rule(rule("upsert", "PUT").operation(Operation::Upsert).charge(edit))
            .build()
            .unwrap();
        let app = Router::new()
            .route("/{ws}/segments", post(create).put(upsert))
            .with_state(rows.clone())
            .layer(QuotaLayer::for_axum(quota.clone(), routes).unwrap())
            .layer(CatchPanicLayer::new());
        Self { quota, app }
    }

    /// A creation, whose handler does what `fate` says.
    pub(crate) async fn create(&self, workspace: &str, fate: &str) -> StatusCode {
        let request = Request::post(format!("/{workspace}/segments")).header("x-fate", fate);
        self.app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
    }

    pub(crate) async fn upsert(&self, workspace: &str, id: &str) -> StatusCode {
        let request = Request::put(format!("/{workspace}/segments")).header("content-type", "application/json");
        let body = serde_json::json!({ "id": id }).to_string();
        self.app.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap().status()
    }
}

/// The same on either pool.
macro_rules! on {
    ($rows:expr, $pool:ident => $work:expr) => {
        match $rows {
            Rows::Sqlite($pool) => $work,
            Rows::Postgres($pool) => $work,
        }
    };
}

impl Rows {
    async fn make_tables(&self) {
        for table in TABLES {
            let table = format!(r#"CREATE TABLE "{table}" ("id" TEXT PRIMARY KEY, "workspaceId" TEXT NOT NULL)"#);
            on!(self, pool => query(AssertSqlSafe(table)).execute(pool).await.map(|_| ()).unwrap());
        }
    }

    /// Makes a row, around the layer if there is no fence; answers whether it may.
    pub(crate) async fn insert(&self, table: &str, workspace: &str, id: &str, fence: &Fence) -> bool {
        let insert = format!(r#"INSERT INTO "{table}" VALUES ($1, $2) ON CONFLICT DO NOTHING"#);
        match self {
            Self::Sqlite(pool) => {
                query(AssertSqlSafe(insert)).bind(id).bind(workspace).execute(pool).await.unwrap();
            }
            Self::Postgres(pool) => {
                let mut transaction = pool.begin().await.unwrap();
                if fence.hold(&mut *transaction).await.is_err() {
                    return false;
                }
                query(AssertSqlSafe(insert)).bind(id).bind(workspace).execute(&mut *transaction).await.unwrap();
                transaction.commit().await.unwrap();
            }
        }
        true
    }

    /// Deletes all rows of a workspace around the layer.
    pub(crate) async fn delete(&self, table: &str, workspace: &str) {
        let delete = format!(r#"DELETE FROM "{table}" WHERE "workspaceId" = $1"#);
        on!(self, pool => query(AssertSqlSafe(delete)).bind(workspace).execute(pool).await.map(|_| ()).unwrap());
    }

    pub(crate) async fn count(&self, table: &str, workspace: &str) -> i64 {
        let count = format!(r#"SELECT count(*) FROM "{table}" WHERE "workspaceId" = $1"#);
        on!(self, pool => query_scalar(AssertSqlSafe(count)).bind(workspace).fetch_one(pool).await.unwrap())
    }
}

pub(crate) fn new_id() -> String {
    Uuid::now_v7().to_string()
}

async fn create(
    Path(workspace): Path<String>,
    State(rows): State<Rows>,
    headers: HeaderMap,
    fence: Fence,
) -> StatusCode {
    let fate = headers["x-fate"].to_str().unwrap();
    match fate {
        "conflict" => return StatusCode::CONFLICT,
        "error before" => return StatusCode::INTERNAL_SERVER_ERROR,
        "panic" => panic!("as it was told to"),
        "hang before" => {
            rows.insert("User", &workspace, &new_id(), &Fence::default()).await;
            return std::future::pending().await;
        }
        _ => {}
    }
    if !rows.insert("Segment", &workspace, &new_id(), &fence).await {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    match fate {
        "error after" => StatusCode::INTERNAL_SERVER_ERROR,
        "hang after" => std::future::pending().await,
        _ => StatusCode::CREATED,
    }
}

async fn upsert(
    Path(workspace): Path<String>,
    State(rows): State<Rows>,
    fence: Fence,
    axum::Json(row): axum::Json<serde_json::Value>,
) -> StatusCode {
    match rows.insert("Segment", &workspace, row["id"].as_str().unwrap(), &fence).await {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    }
}
