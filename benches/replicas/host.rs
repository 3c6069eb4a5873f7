//! A replica of a host that keeps limits in several ways, each under a path of its own.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use axum::routing::post;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, query, query_scalar};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tower_quota::{
    Charge, Fence, Limit, PostgresLedger, PostgresStore, PostgresUsage, Quota, QuotaLayer, ResourceCatalog,
    ResourceSpec, RouteMap, RouteMapBuilder, Rule, SqlTable, WorkspaceSource,
};
use uuid::Uuid;

use crate::support::database::Database;

/// No benchmark comes to it, but where it says so.
pub(crate) const LARGE: i64 = 1_000_000_000;
/// Connections to the database that a replica's handlers have.
const POOL: u32 = 8;

/// A process of its own, but for its memory: with an engine, pools and a runtime of its own. It ends when it is dropped,
/// without a word to the others.
pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    pub(crate) quota: Quota,
    pub(crate) pool: PgPool,
    pub(crate) runtime: Runtime,
}

pub(crate) fn catalog() -> ResourceCatalog {
    let limit = Limit::finite(LARGE.unsigned_abs()).unwrap();
    let segments = ResourceSpec::new("segments", "maxSegments", limit).table("Segment");
    ResourceCatalog::empty().resource(segments).build().unwrap()
}

pub(crate) fn make_tables(url: &str) -> Database {
    let mut database = Database::postgres(url);
    database.run(
        r#"CREATE TABLE "Segment" ("id" uuid PRIMARY KEY, "workspaceId" text NOT NULL);
           CREATE INDEX "byWorkspace" ON "Segment" ("workspaceId");
           CREATE TABLE "Counter" ("workspaceId" text PRIMARY KEY, "rows" bigint NOT NULL DEFAULT 0)
             WITH (fillfactor = 50)"#
            .to_owned(),
    );
    database
}

impl Replica {
    pub(crate) fn start(url: &str) -> Self {
        // Longer than by default: between two of its signs of life, all variants have their turn. A lease that isn't used
        // meanwhile would be given back, and every turn of ours would begin with nothing.
        Self::with(url, |ledger| ledger.fenced().time_to_live(Duration::from_secs(30)))
    }

    pub(crate) fn with(url: &str, ledger: impl FnOnce(PostgresLedger) -> PostgresLedger) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (address, quota, pool) = runtime.block_on(async {
            let store = PostgresStore::connect(url, &catalog()).await.unwrap();
            let pool = PgPoolOptions::new().max_connections(POOL).connect(url).await.unwrap();
            let usage = PostgresUsage::builder(pool.clone(), &catalog())
                .table("segments", SqlTable::new("Segment"))
                .build()
                .unwrap();
            let ledger = ledger(PostgresLedger::new(&store));
            let quota = Quota::builder(catalog()).store(store).usage(usage).ledger(ledger).build().unwrap();
            let rule = |name: &str| {
                Rule::new(name, Method::POST, format!("/{name}/{{limit}}/{{workspace}}"))
                    .workspace(WorkspaceSource::path("workspace"))
                    .charge(Charge::of("segments"))
            };
            let rules = ["ours", "ours_in_one", "ours_unfenced"].map(rule).into_iter();
            let routes = rules.fold(RouteMap::builder(quota.catalog()), RouteMapBuilder::rule).build().unwrap();
            let ours = Router::new()
                .route("/ours/{limit}/{workspace}", post(ours))
                .route("/ours_in_one/{limit}/{workspace}", post(ours_in_one))
                .route("/ours_unfenced/{limit}/{workspace}", post(insert_only))
                .layer(QuotaLayer::for_axum(quota.clone(), routes).unwrap());
            let app = Router::new()
                .route("/insert_only/{limit}/{workspace}", post(insert_only))
                .route("/naive/{limit}/{workspace}", post(naive))
                .route("/fused/{limit}/{workspace}", post(fused))
                .route("/three_commits/{limit}/{workspace}", post(three_commits))
                .merge(ours)
                .with_state(pool.clone());
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
            (address, quota, pool)
        });
        Self { address, quota, pool, runtime }
    }
}

const INSERT: &str = r#"INSERT INTO "Segment" VALUES ($1, $2)"#;

async fn insert(connection: &mut PgConnection, workspace: &str) {
    query(INSERT).bind(Uuid::now_v7()).bind(workspace).execute(connection).await.unwrap();
}

async fn insert_only(Path((_, workspace)): Path<(i64, String)>, State(pool): State<PgPool>) -> StatusCode {
    let mut transaction = pool.begin().await.unwrap();
    insert(&mut transaction, &workspace).await;
    transaction.commit().await.unwrap();
    StatusCode::CREATED
}

/// Counts, and then inserts.
async fn naive(Path((limit, workspace)): Path<(i64, String)>, State(pool): State<PgPool>) -> StatusCode {
    let mut transaction = pool.begin().await.unwrap();
    let count = query_scalar(r#"SELECT count(*) FROM "Segment" WHERE "workspaceId" = $1"#).bind(&workspace);
    let rows: i64 = count.fetch_one(&mut *transaction).await.unwrap();
    if rows >= limit {
        return StatusCode::TOO_MANY_REQUESTS;
    }
    insert(&mut transaction, &workspace).await;
    transaction.commit().await.unwrap();
    StatusCode::CREATED
}

/// Counts up a row of its workspace, if that is below the limit, in the statement that inserts.
async fn fused(Path((limit, workspace)): Path<(i64, String)>, State(pool): State<PgPool>) -> StatusCode {
    let mut transaction = pool.begin().await.unwrap();
    let statement = query(
        r#"WITH "counted" AS (
             UPDATE "Counter" SET "rows" = "rows" + 1 WHERE "workspaceId" = $2 AND "rows" < $3 RETURNING "workspaceId"
           ) INSERT INTO "Segment" SELECT $1, "workspaceId" FROM "counted""#,
    );
    let statement = statement.bind(Uuid::now_v7()).bind(&workspace).bind(limit);
    if statement.execute(&mut *transaction).await.unwrap().rows_affected() == 0 {
        return StatusCode::TOO_MANY_REQUESTS;
    }
    transaction.commit().await.unwrap();
    StatusCode::CREATED
}

/// Reserves, inserts, and releases the reservation, each in a transaction of its own.
async fn three_commits(Path((limit, workspace)): Path<(i64, String)>, State(pool): State<PgPool>) -> StatusCode {
    let reserve = query(r#"UPDATE "Counter" SET "rows" = "rows" + 1 WHERE "workspaceId" = $1 AND "rows" < $2"#);
    if reserve.bind(&workspace).bind(limit).execute(&pool).await.unwrap().rows_affected() == 0 {
        return StatusCode::TOO_MANY_REQUESTS;
    }
    let mut transaction = pool.begin().await.unwrap();
    insert(&mut transaction, &workspace).await;
    transaction.commit().await.unwrap();
    let release = query(r#"UPDATE "Counter" SET "rows" = "rows" - 1 WHERE "workspaceId" = $1"#);
    release.bind(&workspace).execute(&pool).await.unwrap();
    StatusCode::CREATED
}

/// Behind the layer, with the fence as a statement of its own.
async fn ours(Path((_, workspace)): Path<(i64, String)>, State(pool): State<PgPool>, fence: Fence) -> StatusCode {
    let mut transaction = pool.begin().await.unwrap();
    if fence.hold(&mut *transaction).await.is_err() {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    insert(&mut transaction, &workspace).await;
    transaction.commit().await.unwrap();
    StatusCode::CREATED
}

/// The same, in one statement.
async fn ours_in_one(
    Path((_, workspace)): Path<(i64, String)>,
    State(pool): State<PgPool>,
    fence: Fence,
) -> StatusCode {
    let mut transaction = pool.begin().await.unwrap();
    let statement = format!(
        r#"WITH "held" AS ({}) INSERT INTO "Segment"
           SELECT $3, $4 WHERE (SELECT count(*) FROM "held") = cardinality($1)"#,
        Fence::SQL
    );
    let statement = query(AssertSqlSafe(statement)).bind(fence.leases()).bind(fence.note());
    let statement = statement.bind(Uuid::now_v7()).bind(&workspace);
    if statement.execute(&mut *transaction).await.unwrap().rows_affected() == 0 {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    transaction.commit().await.unwrap();
    StatusCode::CREATED
}
