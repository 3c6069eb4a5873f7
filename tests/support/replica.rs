//! Replicas of one host: each with an engine, pools and a runtime of its own, as in a process of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgConnection, PgPool, query};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tower_quota::{
    Backstop, Charge, Expect, Fence, Limit, LimitSet, Operation, PostgresLedger, PostgresStore, PostgresUsage, Probe,
    Quota, QuotaBuilder, QuotaLayer, ResourceCatalog, ResourceSpec, RouteMap, Rule, SqlTable, WorkspaceSource,
};
use uuid::Uuid;

use super::client::{self, Answer, Connection};
use super::database::Database;
use super::random::Random;

pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    pub(crate) quota: Quota,
    pub(crate) runtime: Runtime,
    pub(crate) gate: Arc<Gate>,
    /// The handlers' own.
    pub(crate) pool: PgPool,
    /// How often the backstop refused rows of a handler.
    pub(crate) refused: Arc<AtomicUsize>,
}

/// Where requests wait that were admitted and have not begun.
pub(crate) struct Gate {
    pub(crate) waiting: AtomicUsize,
    pub(crate) turns: Semaphore,
}

#[derive(Clone)]
struct Rows {
    pool: PgPool,
    fenced: bool,
    gate: Arc<Gate>,
    refused: Arc<AtomicUsize>,
}

pub(crate) fn catalog() -> ResourceCatalog {
    ResourceCatalog::empty()
        .resource(ResourceSpec::new("segments", "maxSegments", Limit::of(50)).table("Segment"))
        .build()
        .unwrap()
}

/// A look at the database, with the host's table in it.
pub(crate) fn database(url: &str) -> Database {
    let mut database = Database::postgres(url);
    database.run(
        r#"CREATE TABLE IF NOT EXISTS "Segment" ("id" text PRIMARY KEY, "workspaceId" text NOT NULL);
           CREATE INDEX IF NOT EXISTS "byWorkspace" ON "Segment" ("workspaceId")"#
            .to_owned(),
    );
    database
}

/// How the rows of the host's table are counted.
pub(crate) fn usage(pool: &PgPool) -> PostgresUsage {
    PostgresUsage::builder(pool.clone(), &catalog()).table("segments", SqlTable::new("Segment")).build().unwrap()
}

impl Replica {
    pub(crate) fn start(url: &str) -> Self {
        Self::with(url, |ledger| ledger, |builder| builder)
    }

    pub(crate) fn with(
        url: &str,
        ledger: impl FnOnce(PostgresLedger) -> PostgresLedger,
        set_up: impl FnOnce(QuotaBuilder) -> QuotaBuilder,
    ) -> Self {
        Self::on(url, url, true, |books| ledger(books.fenced()), set_up)
    }

    /// With the books in one database and the rows in one that may be another: fences are of no use then.
    pub(crate) fn unfenced(
        url: &str,
        rows: &str,
        ledger: impl FnOnce(PostgresLedger) -> PostgresLedger,
        set_up: impl FnOnce(QuotaBuilder) -> QuotaBuilder,
    ) -> Self {
        Self::on(url, rows, false, ledger, set_up)
    }

    fn on(
        url: &str,
        rows: &str,
        fenced: bool,
        ledger: impl FnOnce(PostgresLedger) -> PostgresLedger,
        set_up: impl FnOnce(QuotaBuilder) -> QuotaBuilder,
    ) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let gate = Arc::new(Gate { waiting: AtomicUsize::new(0), turns: Semaphore::new(0) });
        let (address, quota, pool, refused) = runtime.block_on(async {
            let store = PostgresStore::connect(url, &catalog()).await.unwrap();
            let pool = PgPoolOptions::new().max_connections(8).connect(rows).await.unwrap();
            let usage = usage(&pool);
            let ledger = ledger(PostgresLedger::new(&store).time_to_live(Duration::from_secs(2)));
            let builder = Quota::builder(catalog()).store(store).usage(usage).ledger(ledger);
            let quota = set_up(builder.max_wait(Duration::from_secs(5))).build().unwrap();
            let refused = Arc::new(AtomicUsize::new(0));
            let state = Rows { pool: pool.clone(), fenced, gate: Arc::clone(&gate), refused: Arc::clone(&refused) };
            let app = Router::new()
                .route("/{ws}/segments", post(insert).put(replace))
                .with_state(state)
                .layer(QuotaLayer::for_axum(quota.clone(), routes(&quota)).unwrap())
                .route("/breaches", get(breaches).with_state(quota.clone()));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
            (address, quota, pool, refused)
        });
        Self { address, quota, runtime, gate, pool, refused }
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.address).unwrap()
    }

    pub(crate) fn set_limit(&self, workspace: &str, limit: u32) {
        let workspace = self.quota.workspace(workspace).unwrap();
        let segments = self.quota.catalog().by_name("segments").unwrap().id();
        let changes = LimitSet::new().with(segments, Limit::of(limit));
        self.runtime.block_on(self.quota.update_limits(&workspace, &changes, &Expect::Anything)).unwrap();
    }
}

/// So many replicas, and a connection to each.
pub(crate) fn start(url: &str, replicas: usize) -> (Vec<Replica>, Vec<Connection>) {
    let replicas: Vec<_> = (0..replicas).map(|_| Replica::start(url)).collect();
    let connections = replicas.iter().map(Replica::connect).collect();
    (replicas, connections)
}

/// Creates rows at all replicas in turn until one refuses for good, and checks that there are then `limit`.
#[track_caller]
pub(crate) fn fill(replicas: &[Replica], database: &mut Database, workspace: &str, limit: i64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut connections: Vec<_> = replicas.iter().map(Replica::connect).collect();
    for turn in 0.. {
        let count = connections.len();
        let answer = create(&mut connections[turn % count], workspace);
        match answer.status {
            201 => {}
            429 if answer.json()["details"].get("reserved").is_none() => break,
            429 => assert!(Instant::now() < deadline, "units never came back: {answer}"),
            _ => panic!("{answer}"),
        }
    }
    assert_eq!(database.rows("Segment", workspace), limit, "refused for good below the limit");
}

fn path(workspace: &str) -> String {
    format!("/{workspace}/segments")
}

pub(crate) fn creation(workspace: &str, fate: &str) -> Vec<u8> {
    client::request("POST", &path(workspace), None, &[("x-fate", fate)], "")
}

#[track_caller]
pub(crate) fn create(connection: &mut Connection, workspace: &str) -> Answer {
    connection.send_raw(&creation(workspace, "done")).unwrap();
    connection.read().unwrap()
}

/// A creation whose handler does well or not, by a client that may hang up: no answer then.
pub(crate) fn create_somehow(
    replica: &Replica,
    connection: &mut Connection,
    workspace: &str,
    random: &mut Random,
) -> Option<Answer> {
    let fates = ["done", "done", "refused", "rolled back", "error inside", "error after", "hang after", "hang before"];
    let fate = random.pick(&fates);
    connection.send_raw(&creation(workspace, fate)).unwrap();
    if fate.starts_with("hang") || random.below(8) == 0 {
        // At any moment of the handler's.
        thread::sleep(Duration::from_millis(random.next() % 20));
        *connection = replica.connect();
        return None;
    }
    Some(connection.read().unwrap())
}

#[track_caller]
pub(crate) fn upsert(connection: &mut Connection, workspace: &str, id: &str) -> Answer {
    let headers = [("content-type", "application/json")];
    let body = serde_json::json!({ "id": id }).to_string();
    connection.send_raw(&client::request("PUT", &path(workspace), None, &headers, &body)).unwrap();
    connection.read().unwrap()
}

fn routes(quota: &Quota) -> RouteMap {
    let rule = |name: &str, method: &str| {
        Rule::new(name, method.parse().unwrap(), "/{ws}/segments").workspace(WorkspaceSource::path("ws"))
    };
    RouteMap::builder(quota.catalog())
        .rule(rule("create", "POST").charge(Charge::of("segments")))
        .rule(
            rule("upsert", "PUT")
                .operation(Operation::Upsert)
                .charge(Charge::of("segments").probe(Probe::body("/id", "id"))),
        )
        .build()
        .unwrap()
}

async fn breaches(State(quota): State<Quota>) -> String {
    quota.breaches().to_string()
}

/// What a handler whose fate is `held` waits for, before it fences and inserts.
pub(crate) const HELD: i64 = 7;

impl Rows {
    /// Runs the statement that makes a row; what to answer where the backstop refuses it.
    async fn make(
        &self,
        connection: &mut PgConnection,
        sql: &'static str,
        id: &str,
        workspace: &str,
    ) -> Result<(), StatusCode> {
        match query(sql).bind(id).bind(workspace).persistent(false).execute(connection).await {
            Ok(_) => Ok(()),
            Err(error) if Backstop::refused(&error) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Err(StatusCode::CONFLICT)
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn insert(
    Path(workspace): Path<String>,
    State(rows): State<Rows>,
    fence: Fence,
    headers: HeaderMap,
) -> StatusCode {
    let fate = headers.get("x-fate").unwrap().to_str().unwrap();
    match fate {
        "refused" => return StatusCode::CONFLICT,
        "hang before" => return std::future::pending().await,
        "wait" => {
            rows.gate.waiting.fetch_add(1, Ordering::Relaxed);
            rows.gate.turns.acquire().await.unwrap().forget();
        }
        _ => {}
    }
    let mut transaction = rows.pool.begin().await.unwrap();
    if fate == "held" {
        query("SELECT pg_advisory_xact_lock_shared($1)").bind(HELD).execute(&mut *transaction).await.unwrap();
    }
    if rows.fenced && fence.hold_unprepared(&mut *transaction).await.is_err() {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let id = Uuid::now_v7().to_string();
    let insert = r#"INSERT INTO "Segment" VALUES ($1, $2)"#;
    if let Err(answer) = rows.make(&mut transaction, insert, &id, &workspace).await {
        return answer;
    }
    match fate {
        "rolled back" => {
            transaction.rollback().await.unwrap();
            return StatusCode::UNPROCESSABLE_ENTITY;
        }
        "error inside" => return StatusCode::INTERNAL_SERVER_ERROR,
        _ => {}
    }
    transaction.commit().await.unwrap();
    match fate {
        "error after" => StatusCode::INTERNAL_SERVER_ERROR,
        "hang after" => std::future::pending().await,
        _ => StatusCode::CREATED,
    }
}

async fn replace(
    Path(workspace): Path<String>,
    State(rows): State<Rows>,
    fence: Fence,
    axum::Json(row): axum::Json<serde_json::Value>,
) -> StatusCode {
    let mut transaction = rows.pool.begin().await.unwrap();
    if rows.fenced && fence.hold_unprepared(&mut *transaction).await.is_err() {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let insert = r#"INSERT INTO "Segment" VALUES ($1, $2) ON CONFLICT ("id") DO NOTHING"#;
    if let Err(answer) = rows.make(&mut transaction, insert, row["id"].as_str().unwrap(), &workspace).await {
        return answer;
    }
    transaction.commit().await.unwrap();
    StatusCode::OK
}
