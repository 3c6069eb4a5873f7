//! A host whose requests say themselves how their handlers end.

use std::net::SocketAddr;
use std::panic;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Deserialize;
use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{SqlitePool, query};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;
use tower_quota::{
    Amount, BoxFuture, Charge, Error, Limit, MemoryStore, OnFailure, Operation, Probe, Quota, QuotaBuilder, QuotaLayer,
    ResourceCatalog, ResourceSpec, ResourceType, RouteMap, Rule, Settling, SqlTable, SqliteUsage, UsageSource,
    WorkspaceId, WorkspaceSource,
};
use uuid::Uuid;

use crate::support::client::{self, Answer, Connection};
use crate::support::database::Database;

pub(crate) const LIMIT: i64 = 50;

/// For how long a handler may hang.
const TIME_OUT: Duration = Duration::from_millis(20);

/// How a handler ends. It creates a row, or deletes one, unless its fate prevents that.
pub(crate) const WELL_BEHAVED: &[&str] = &[
    "done",
    "refused",
    "rolled back",
    "error before",
    "error after",
    "redirected after",
    "panic before",
    "panic after",
    "hang before",
    "hang after",
];

/// Handlers that are cut off, or end, while their transaction is still at work. No commit comes after the one that the
/// single writer connection is free for next.
pub(crate) const CARELESS: &[&str] =
    &["hang inside", "panic inside", "cut", "commit in a task", "hang while a task commits"];

/// Where the time-out and the catching of panics stand: outside of the quota layer, or inside.
pub(crate) const PLACES: &[&str] = &["outside", "inside"];

/// Whether the rule reads the body before the decision.
pub(crate) const RULES: &[&str] = &["direct", "reading"];

pub(crate) struct Host {
    pub(crate) address: SocketAddr,
    runtime: Runtime,
    gate: Arc<Gate>,
    counts: Arc<AtomicUsize>,
    file: PathBuf,
    _folder: TempDir,
}

pub(crate) fn catalog() -> ResourceCatalog {
    ResourceCatalog::empty().resource(ResourceSpec::new("segments", "maxSegments", Limit::of(50))).build().unwrap()
}

#[derive(Clone)]
pub(crate) struct Pools {
    pub(crate) writer: SqlitePool,
    pub(crate) readers: SqlitePool,
    gate: Arc<Gate>,
}

/// A usage source that tells how many counts have begun.
struct Counting<U> {
    usage: U,
    counts: Arc<AtomicUsize>,
}

impl<U: UsageSource> UsageSource for Counting<U> {
    fn count<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        at_most: Option<u64>,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        self.counts.fetch_add(1, Ordering::SeqCst);
        self.usage.count(workspace, resource, at_most)
    }

    fn existing<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        column: &'a str,
        values: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        self.usage.existing(workspace, resource, column, values)
    }
}

/// Where handlers stop that are told to.
struct Gate {
    reached: Semaphore,
    open: Semaphore,
}

impl Pools {
    /// As in the quickstart: whoever gets the one writer connection next knows that what was sent before has ended.
    pub(crate) fn barrier(&self) -> Settling {
        let writer = self.writer.clone();
        Settling::barrier(move || {
            let writer = writer.clone();
            async move { writer.acquire().await.map(drop) }
        })
    }
}

impl Host {
    pub(crate) fn start<U: UsageSource>(
        usage: impl FnOnce(SqliteUsage) -> U,
        set_up: impl FnOnce(QuotaBuilder, &Pools) -> QuotaBuilder,
    ) -> Self {
        silence_fates();
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("chaos.db");
        let counts = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Gate { reached: Semaphore::new(0), open: Semaphore::new(0) });
        let address = runtime.block_on(async {
            let options = SqliteConnectOptions::new()
                .filename(&file)
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Normal);
            let writer = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await.unwrap();
            let create = r#"CREATE TABLE "Segment" ("id" TEXT PRIMARY KEY, "workspaceId" TEXT NOT NULL) STRICT"#;
            query(create).execute(&writer).await.unwrap();
            query(r#"CREATE INDEX "byWorkspace" ON "Segment" ("workspaceId")"#).execute(&writer).await.unwrap();
            let readers = SqlitePoolOptions::new().max_connections(3).connect_with(options.read_only(true)).await;
            let pools = Pools { writer, readers: readers.unwrap(), gate: Arc::clone(&gate) };
            let rows = SqliteUsage::builder(pools.readers.clone(), &catalog())
                .table("segments", SqlTable::new("Segment"))
                .build()
                .unwrap();
            let builder = Quota::builder(catalog())
                .store(MemoryStore::new())
                .usage(Counting { usage: usage(rows), counts: Arc::clone(&counts) });
            let quota = set_up(builder, &pools).build().unwrap();
            let app = app(&quota, &pools);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
            address
        });
        let host = Self { address, runtime, gate, counts, file, _folder: folder };
        host.database().watch("Segment");
        host
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.address).unwrap()
    }

    pub(crate) fn database(&self) -> Database {
        Database::open(&self.file)
    }

    /// How many counts have begun so far.
    pub(crate) fn counts(&self) -> usize {
        self.counts.load(Ordering::SeqCst)
    }

    /// Waits until a handler has stopped at the gate.
    pub(crate) fn wait_at_gate(&self) {
        self.runtime.block_on(self.gate.reached.acquire()).unwrap().forget();
    }

    /// Lets one handler through the gate.
    pub(crate) fn open_gate(&self) {
        self.gate.open.add_permits(1);
    }

    /// Creates rows until one creation is refused for good, and checks that there are then as many as the limit says.
    #[track_caller]
    pub(crate) fn fill(&self, workspace: &str) {
        const TRIES: usize = 100;
        let mut connection = self.connect();
        let mut waited = 0;
        loop {
            let answer = create(&mut connection, "calm", "direct", workspace, "done");
            match answer.status {
                201 => {}
                429 if answer.json()["details"].get("reserved").is_none() => break,
                429 => {
                    waited += 1;
                    assert!(waited < TRIES, "units never came back: {answer}");
                }
                _ => panic!("{answer}"),
            }
        }
        assert_eq!(self.database().rows("Segment", workspace), LIMIT, "refused for good below the limit");
    }
}

fn path(place: &str, rule: &str, workspace: &str) -> String {
    format!("/{place}/{workspace}/segments/{rule}")
}

pub(crate) fn request(method: &str, place: &str, rule: &str, workspace: &str, fate: &str, patience: usize) -> Vec<u8> {
    let body = json!({ "workspaceId": workspace }).to_string();
    let headers = [("x-fate", fate), ("x-patience", &patience.to_string())];
    client::request(method, &path(place, rule, workspace), None, &headers, &body)
}

#[track_caller]
pub(crate) fn create(connection: &mut Connection, place: &str, rule: &str, workspace: &str, fate: &str) -> Answer {
    connection.send_raw(&request("POST", place, rule, workspace, fate, 0)).unwrap();
    connection.read().unwrap()
}

/// The request that updates the row with this id, or makes it; with a stop at the gate before it does.
pub(crate) fn upsertion(workspace: &str, id: &str, gate: bool) -> Vec<u8> {
    let body = json!({ "id": id }).to_string();
    let headers = [("content-type", "application/json"), ("x-gate", if gate { "stop" } else { "pass" })];
    client::request("PUT", &path("calm", "reading", workspace), None, &headers, &body)
}

/// Sends a request that makes those rows that are not there yet.
#[track_caller]
pub(crate) fn batch(connection: &mut Connection, workspace: &str, ids: &[&str]) -> Answer {
    let headers = [("content-type", "application/json")];
    let path = path("calm", "batch", workspace);
    connection.send_raw(&client::request("POST", &path, None, &headers, &json!({ "ids": ids }).to_string())).unwrap();
    connection.read().unwrap()
}

#[track_caller]
pub(crate) fn upsert(connection: &mut Connection, workspace: &str, id: &str) -> Answer {
    connection.send_raw(&upsertion(workspace, id, false)).unwrap();
    connection.read().unwrap()
}

fn routes(quota: &Quota) -> RouteMap {
    let places = ["calm", "outside", "inside"];
    let rule = |name: &str, method: &str, template: &dyn Fn(&str) -> String| {
        let rule = Rule::new(name, method.parse().unwrap(), template(places[0])).workspace(WorkspaceSource::path("ws"));
        places[1..].iter().fold(rule, |rule, place| rule.path(template(place)))
    };
    let direct = |place: &str| format!("/{place}/{{ws}}/segments/direct");
    let reading = |place: &str| format!("/{place}/{{ws}}/segments/reading");
    RouteMap::builder(quota.catalog())
        .rule(rule("direct", "POST", &direct).charge(Charge::of("segments")))
        .rule(
            rule("reading", "POST", &reading)
                .workspace(WorkspaceSource::body("/workspaceId"))
                .charge(Charge::of("segments")),
        )
        .rule(rule("delete", "DELETE", &direct).operation(Operation::Delete).charge(Charge::of("segments")))
        .rule(
            rule("upsert", "PUT", &reading)
                .operation(Operation::Upsert)
                .charge(Charge::of("segments").probe(Probe::body("/id", "id"))),
        )
        .rule(
            Rule::new("batch", "POST".parse().unwrap(), "/calm/{ws}/segments/batch")
                .workspace(WorkspaceSource::path("ws"))
                .charge(Charge::of("segments").amount(Amount::distinct_unknown("/ids", [""], "id"))),
        )
        .rule(
            Rule::new("closed", "POST".parse().unwrap(), "/calm/{ws}/segments/closed")
                .workspace(WorkspaceSource::path("ws"))
                .on_failure(OnFailure::Closed)
                .charge(Charge::of("segments")),
        )
        .build()
        .unwrap()
}

fn app(quota: &Quota, pools: &Pools) -> Router {
    let quota = QuotaLayer::for_axum(quota.clone(), routes(quota)).unwrap();
    let handlers = |place: &str| {
        Router::new()
            .route(&format!("/{place}/{{ws}}/segments/direct"), post(insert).delete(remove))
            .route(&format!("/{place}/{{ws}}/segments/reading"), post(insert).put(replace))
            .route(&format!("/{place}/{{ws}}/segments/closed"), post(insert))
            .route(&format!("/{place}/{{ws}}/segments/batch"), post(replace_all))
            .with_state(pools.clone())
    };
    let time_out = TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, TIME_OUT);
    let outside = handlers("outside").layer(quota.clone()).layer(time_out);
    let inside = handlers("inside").layer(CatchPanicLayer::new()).layer(time_out).layer(quota.clone());
    let calm = handlers("calm").layer(quota);
    Router::new().merge(outside).merge(inside).merge(calm).layer(CatchPanicLayer::new())
}

/// What a handler does in its transaction.
enum Change {
    Insert,
    Remove,
}

impl Change {
    async fn make(&self, connection: &mut sqlx::SqliteConnection, workspace: &str) {
        match self {
            Self::Insert => query(r#"INSERT INTO "Segment" VALUES ($1, $2)"#).bind(Uuid::now_v7().to_string()),
            Self::Remove => query(
                r#"DELETE FROM "Segment" WHERE "id" = (SELECT "id" FROM "Segment" WHERE "workspaceId" = $1 LIMIT 1)"#,
            ),
        }
        .bind(workspace.to_owned())
        .execute(connection)
        .await
        .unwrap();
    }
}

async fn insert(Path(workspace): Path<String>, State(pools): State<Pools>, headers: HeaderMap) -> Response {
    fulfil(Change::Insert, workspace, pools, &headers).await
}

async fn remove(Path(workspace): Path<String>, State(pools): State<Pools>, headers: HeaderMap) -> Response {
    fulfil(Change::Remove, workspace, pools, &headers).await
}

async fn replace(
    Path(workspace): Path<String>,
    State(pools): State<Pools>,
    headers: HeaderMap,
    axum::Json(row): axum::Json<serde_json::Value>,
) -> StatusCode {
    if headers.get("x-gate").unwrap() == "stop" {
        pools.gate.reached.add_permits(1);
        pools.gate.open.acquire().await.unwrap().forget();
    }
    query(r#"INSERT INTO "Segment" VALUES ($1, $2) ON CONFLICT ("id") DO NOTHING"#)
        .bind(row["id"].as_str().unwrap())
        .bind(workspace)
        .execute(&pools.writer)
        .await
        .unwrap();
    StatusCode::OK
}

#[derive(Deserialize)]
struct Batch {
    ids: Vec<String>,
}

async fn replace_all(
    Path(workspace): Path<String>,
    State(pools): State<Pools>,
    axum::Json(batch): axum::Json<Batch>,
) -> StatusCode {
    let mut transaction = pools.writer.begin().await.unwrap();
    for id in batch.ids {
        query(r#"INSERT INTO "Segment" VALUES ($1, $2) ON CONFLICT ("id") DO NOTHING"#)
            .bind(id)
            .bind(&workspace)
            .execute(&mut *transaction)
            .await
            .unwrap();
    }
    transaction.commit().await.unwrap();
    StatusCode::OK
}

async fn fulfil(change: Change, workspace: String, pools: Pools, headers: &HeaderMap) -> Response {
    let fate = headers.get("x-fate").unwrap().to_str().unwrap();
    match fate {
        "refused" => return StatusCode::CONFLICT.into_response(),
        "error before" => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        "panic before" => panic::panic_any(Fate),
        "hang before" => hang().await,
        _ => {}
    }
    let mut transaction = pools.writer.begin().await.unwrap();
    if fate == "commit in a task" || fate == "hang while a task commits" {
        // It holds the connection already, so that nobody gets past it.
        tokio::spawn(async move {
            change.make(&mut transaction, &workspace).await;
            // Long enough for others to look at the rows as they are before the commit.
            tokio::time::sleep(Duration::from_millis(2)).await;
            transaction.commit().await.unwrap();
        });
        if fate == "commit in a task" {
            return StatusCode::BAD_GATEWAY.into_response();
        }
        hang().await;
        unreachable!();
    }
    if fate == "cut" {
        // Ends at some moment of the work, and lets the driver see to it.
        let work = async {
            change.make(&mut transaction, &workspace).await;
            transaction.commit().await.unwrap();
        };
        let patience: u64 = headers.get("x-patience").unwrap().to_str().unwrap().parse().unwrap();
        let patience = Duration::from_micros(patience);
        let _ = tokio::time::timeout(patience, work).await;
        return StatusCode::GATEWAY_TIMEOUT.into_response();
    }
    change.make(&mut transaction, &workspace).await;
    match fate {
        "rolled back" => {
            transaction.rollback().await.unwrap();
            return StatusCode::UNPROCESSABLE_ENTITY.into_response();
        }
        "hang inside" => hang().await,
        "panic inside" => panic::panic_any(Fate),
        _ => {}
    }
    transaction.commit().await.unwrap();
    match fate {
        "done" => StatusCode::CREATED.into_response(),
        "error after" => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        "redirected after" => StatusCode::SEE_OTHER.into_response(),
        "panic after" => panic::panic_any(Fate),
        "hang after" => {
            hang().await;
            unreachable!()
        }
        other => unreachable!("{other}"),
    }
}

/// Until somebody's time-out.
async fn hang() {
    std::future::pending().await
}

/// The payload of panics that are meant.
struct Fate;

fn silence_fates() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            if !payload.is::<Fate>() && payload.downcast_ref::<&str>() != Some(&"the count panics") {
                usual(info);
            }
        }));
    });
}
