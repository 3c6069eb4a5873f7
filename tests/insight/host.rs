//! Processes with the quota API, in front of rows in a real database, behind real sockets.

use std::future::pending;
use std::net::SocketAddr;
use std::path::Path as File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use jiff::Timestamp;
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, PgPool, SqlitePool, query, query_scalar};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tower_quota::{
    Actor, BoxFuture, Charge, CountSql, Error, Fence, Granularity, Limit, PostgresLedger, PostgresStore, PostgresUsage,
    Principal, Quota, QuotaApi, QuotaLayer, ResourceCatalog, ResourceSpec, ResourceType, RouteMap, Rule, Snapshot,
    SnapshotOptions, SqliteStore, SqliteUsage, StaticTokens, UsageSource, WorkspaceId, WorkspaceSource,
};

use crate::support::postgres::shared;

/// An admin of all workspaces, one of `acme` alone, a member of `acme`, and one of `globex`.
pub(crate) const ROOT: &str = "root";
pub(crate) const ADMIN: &str = "admin-of-acme";
pub(crate) const MEMBER: &str = "member-of-acme";
pub(crate) const STRANGER: &str = "member-of-globex";

/// Where rows and records are.
#[derive(Clone)]
pub(crate) enum Place {
    Sqlite(SqlitePool, Arc<TempDir>),
    Postgres(PgPool, String),
}

pub(crate) struct Host {
    pub(crate) processes: Vec<Process>,
    client: Client,
}

pub(crate) struct Process {
    pub(crate) quota: Quota,
    pub(crate) address: SocketAddr,
    looks: Arc<Looks>,
}

/// How a process looks at all workspaces.
#[derive(Default)]
pub(crate) struct Looks {
    pub(crate) begun: AtomicUsize,
    /// It never comes to an end.
    pub(crate) hangs: AtomicBool,
    /// Thresholds have it look, too.
    pub(crate) sweeps: AtomicBool,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) media_type: String,
    pub(crate) disposition: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Checks an error answer, and returns its message.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str) -> String {
        let body = self.json();
        assert_eq!((self.status, body["error"].as_str()), (status, Some(code)), "{body}");
        body["message"].as_str().unwrap().to_owned()
    }
}

/// One test on SQLite and on two replicas.
macro_rules! both {
    ($name:ident, $place:ident, $test:block) => {
        mod $name {
            use super::*;

            async fn test($place: Place) $test

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                test(Place::sqlite().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                test(Place::postgres().await).await;
            }
        }
    };
}
pub(crate) use both;

pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn catalog() -> ResourceCatalog {
    ResourceCatalog::empty()
        .resource(ResourceSpec::new("segments", "maxSegments", Limit::of(5)).label("Segment").table("Segment"))
        .resource(ResourceSpec::new("users", "maxUsers", Limit::of(100)).label("User").table("User"))
        .build()
        .unwrap()
}

impl Place {
    pub(crate) async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pool = Self::open(&directory.path().join("host.db")).await;
        Self::Sqlite(pool, Arc::new(directory)).made().await
    }

    async fn open(file: &File) -> SqlitePool {
        let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
        let options = options.journal_mode(SqliteJournalMode::Wal).busy_timeout(Duration::from_secs(20));
        SqlitePoolOptions::new().max_connections(4).connect_with(options).await.unwrap()
    }

    pub(crate) async fn postgres() -> Self {
        let url = shared().database();
        Self::Postgres(PgPool::connect(&url).await.unwrap(), url).made().await
    }

    async fn made(self) -> Self {
        for table in ["Segment", "User"] {
            self.run(
                format!(r#"CREATE TABLE "{table}" ("id" INTEGER PRIMARY KEY, "workspaceId" TEXT NOT NULL)"#)
                    .replace("INTEGER", if matches!(self, Self::Sqlite(..)) { "INTEGER" } else { "SERIAL" }),
            )
            .await;
            self.run(format!(r#"CREATE INDEX "{table}Workspace" ON "{table}" ("workspaceId")"#)).await;
        }
        // The tables of the store.
        match &self {
            Self::Sqlite(pool, _) => drop(SqliteStore::new(pool.clone(), &catalog()).await.unwrap()),
            Self::Postgres(_, url) => drop(PostgresStore::connect(url, &catalog()).await.unwrap()),
        }
        self
    }

    /// The same database with connections of the runtime that asks for them.
    pub(crate) async fn reopened(&self) -> Self {
        match self {
            Self::Sqlite(_, directory) => {
                Self::Sqlite(Self::open(&directory.path().join("host.db")).await, Arc::clone(directory))
            }
            Self::Postgres(_, url) => Self::Postgres(PgPool::connect(url).await.unwrap(), url.clone()),
        }
    }

    pub(crate) async fn run(&self, sql: String) {
        match self {
            Self::Sqlite(pool, _) => sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.map(drop),
            Self::Postgres(pool, _) => sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.map(drop),
        }
        .unwrap();
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let query = query_scalar(AssertSqlSafe(sql.to_owned()));
        match self {
            Self::Sqlite(pool, _) => query.fetch_one(pool).await.unwrap(),
            Self::Postgres(pool, _) => query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(pool).await.unwrap(),
        }
    }

    /// Rows that no request makes.
    pub(crate) async fn insert(&self, table: &str, workspace: &str, rows: usize) {
        let values = vec![format!("('{}')", workspace.replace('\'', "''")); rows].join(", ");
        self.run(format!(r#"INSERT INTO "{table}" ("workspaceId") VALUES {values}"#)).await;
    }

    /// An engine on it. Another on the same SQLite file may have to let go of it first.
    pub(crate) async fn quota(&self, options: Option<SnapshotOptions>, looks: &Arc<Looks>) -> Quota {
        let counted = |source: Arc<dyn UsageSource>| Watched { source, looks: Arc::clone(looks) };
        let sweeps = looks.sweeps.load(Ordering::SeqCst).then_some(Duration::from_secs(3600));
        let builder = Quota::builder(catalog()).snapshots(options).threshold_sweeps(sweeps);
        let builder = builder.max_wait(Duration::from_millis(500));
        match self {
            Self::Sqlite(pool, _) => {
                let mut store = None;
                until("the file is free", async || {
                    store = SqliteStore::new(pool.clone(), &catalog()).await.ok();
                    store.is_some()
                })
                .await;
                let usage = SqliteUsage::builder(pool.clone(), &catalog()).build().unwrap();
                builder.store(store.unwrap()).usage(counted(Arc::new(usage))).build().unwrap()
            }
            Self::Postgres(pool, url) => {
                let store = PostgresStore::connect(url, &catalog()).await.unwrap();
                let ledger = PostgresLedger::new(&store).fenced();
                let usage = PostgresUsage::builder(pool.clone(), &catalog()).build().unwrap();
                builder.store(store).usage(counted(Arc::new(usage))).ledger(ledger).build().unwrap()
            }
        }
    }

    /// One process with its own books, or two replicas.
    pub(crate) async fn start(&self, options: impl Into<Option<SnapshotOptions>>) -> Host {
        let options = options.into();
        let mut processes = Vec::new();
        for _ in 0..match self {
            Self::Sqlite(..) => 1,
            Self::Postgres(..) => 2,
        } {
            let looks = Arc::new(Looks::default());
            let quota = self.quota(options.clone(), &looks).await;
            let address = serve(&quota, self).await;
            processes.push(Process { quota, address, looks });
        }
        Host { processes, client: Client::new() }
    }

    /// The same once all workspaces have been looked at for the first time, so that no look comes in between.
    pub(crate) async fn settled(&self, options: SnapshotOptions) -> Host {
        let host = self.start(options).await;
        until("all were looked at", async || {
            self.number(r#"SELECT coalesce(max("nextAt"), 0) FROM "QuotaTask""#).await > 0
        })
        .await;
        host
    }
}

async fn serve(quota: &Quota, place: &Place) -> SocketAddr {
    let tokens = StaticTokens::builder()
        .token(ROOT, Principal::admin("root"))
        .token(ADMIN, Principal::admin_of("ada", ["acme"]))
        .token(MEMBER, Principal::member("mel", ["acme"]))
        .token(STRANGER, Principal::member("gus", ["globex"]))
        .build()
        .unwrap();
    let rule = Rule::new("segments", Method::POST, "/{ws}/segments")
        .workspace(WorkspaceSource::path("ws"))
        .charge(Charge::of("segments"));
    let routes = RouteMap::builder(quota.catalog()).rule(rule).build().unwrap();
    let app = Router::new()
        .route("/{ws}/segments", post(create))
        .with_state(place.clone())
        .layer(QuotaLayer::for_axum(quota.clone(), routes).unwrap())
        .nest("/api", QuotaApi::new(quota.clone(), tokens).with_not_found().into_router());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

async fn create(Path(workspace): Path<String>, State(place): State<Place>, fence: Fence) -> StatusCode {
    let insert = r#"INSERT INTO "Segment" ("workspaceId") VALUES ($1)"#;
    match place {
        Place::Sqlite(pool, _) => {
            query(insert).bind(workspace).execute(&pool).await.unwrap();
        }
        Place::Postgres(pool, _) => {
            let mut transaction = pool.begin().await.unwrap();
            fence.hold(&mut *transaction).await.unwrap();
            query(insert).bind(workspace).execute(&mut *transaction).await.unwrap();
            transaction.commit().await.unwrap();
        }
    }
    StatusCode::CREATED
}

impl Host {
    pub(crate) fn quota(&self) -> &Quota {
        &self.processes[0].quota
    }

    /// How often all workspaces were looked at.
    pub(crate) fn looks(&self) -> usize {
        self.processes.iter().map(|process| process.looks.begun.load(Ordering::SeqCst)).sum()
    }

    pub(crate) async fn open(
        &self,
        replica: usize,
        token: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Response {
        let url = format!("http://{}{path}", self.processes[replica % self.processes.len()].address);
        let mut request = self.client.request(method.parse().unwrap(), url).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.unwrap()
    }

    pub(crate) async fn send(
        &self,
        replica: usize,
        token: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let response = self.open(replica, token, method, path, body).await;
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (status, disposition) = (response.status().as_u16(), header("content-disposition"));
        let media_type = header("content-type").unwrap_or_default();
        Answer { status, media_type, disposition, body: response.bytes().await.unwrap().to_vec() }
    }

    pub(crate) async fn get(&self, token: &str, path: &str) -> Answer {
        self.send(0, token, "GET", path, None).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) {
        self.send(0, ROOT, "PUT", path, Some(body)).await.expect(200);
    }

    /// A creation of a segment at one of the processes.
    pub(crate) async fn create(&self, replica: usize, workspace: &str) -> u16 {
        self.send(replica, ROOT, "POST", &format!("/{workspace}/segments"), None).await.status
    }

    /// Sets the limit of segments.
    pub(crate) async fn limit(&self, workspace: &str, limit: u64) {
        self.put(&format!("/api/workspaces/{workspace}/quota"), json!({ "maxSegments": limit })).await;
    }

    /// What today's report says of the segments of a workspace.
    pub(crate) async fn today(&self, workspace: &str) -> Value {
        let path = format!("/api/workspaces/{workspace}/quota/report?period=daily");
        let answer = self.get(ROOT, &path).await.expect(200).json();
        answer["rows"].as_array().unwrap().iter().find(|row| row["resourceType"] == "segments").unwrap().clone()
    }

    /// Brings in the history of the segments of a workspace.
    pub(crate) async fn import(&self, workspace: &str, granularity: Granularity, history: &[Snapshot]) {
        let id: WorkspaceId = self.quota().workspace(workspace).unwrap();
        let segments = self.quota().catalog().by_name("segments").unwrap().id();
        let history: Vec<_> = history.iter().map(|snapshot| (id.clone(), segments, *snapshot)).collect();
        let admin = self.quota().admin(Actor::new("ann", "test"));
        admin.import_snapshots(granularity, &history).await.unwrap();
    }
}

pub(crate) fn snapshot(at: &str, min: u64, last: u64, max: u64) -> Snapshot {
    let at: Timestamp = at.parse().unwrap();
    Snapshot { at, last, min, max, limit: Limit::of(50), refusals: 2 }
}

/// A real source, of which it is known how often it was gone through.
struct Watched {
    source: Arc<dyn UsageSource>,
    looks: Arc<Looks>,
}

impl UsageSource for Watched {
    fn count<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        at_most: Option<u64>,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        self.source.count(workspace, resource, at_most)
    }

    fn existing<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        column: &'a str,
        values: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        self.source.existing(workspace, resource, column, values)
    }

    fn page<'a>(
        &'a self,
        resource: &'a ResourceType,
        after: Option<&'a str>,
        at_most: usize,
    ) -> BoxFuture<'a, Result<Vec<(String, u64)>, Error>> {
        if after.is_none() && resource.name() == "segments" {
            self.looks.begun.fetch_add(1, Ordering::SeqCst);
        }
        if self.looks.hangs.load(Ordering::SeqCst) {
            return Box::pin(pending());
        }
        self.source.page(resource, after, at_most)
    }

    fn count_sql(&self, resource: &ResourceType) -> Option<CountSql> {
        self.source.count_sql(resource)
    }
}
