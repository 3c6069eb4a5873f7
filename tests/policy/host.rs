//! A host with the quota API, in front of rows in a real database, behind real sockets.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, PgPool, SqlitePool, query, query_scalar};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tower_quota::{
    Charge, CleanupPolicy, Fence, Limit, PostgresLedger, PostgresStore, PostgresUsage, Quota, QuotaApi, QuotaBuilder,
    QuotaLayer, ResourceCatalog, ResourceSpec, RouteMap, Rule, Settling, SqlTable, SqliteStore, SqliteUsage,
    StaticTokens, WorkspaceSource,
};
use uuid::Uuid;

use crate::support::postgres::shared;

/// An admin of all workspaces, one of `acme` alone, a member of `acme`, and one of `globex`.
pub(crate) const ROOT: &str = "root";
pub(crate) const ADMIN: &str = "admin-of-acme";
pub(crate) const MEMBER: &str = "member-of-acme";
pub(crate) const STRANGER: &str = "member-of-globex";

pub(crate) struct Host {
    addresses: Vec<SocketAddr>,
    pub(crate) quotas: Vec<Quota>,
    client: Client,
    pub(crate) rows: Rows,
    servers: Vec<JoinHandle<()>>,
    directory: Option<TempDir>,
}

#[derive(Clone)]
pub(crate) enum Rows {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) tag: Option<String>,
    pub(crate) warning: Option<String>,
    pub(crate) body: Value,
}

impl Answer {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    /// Checks an error answer, and returns its message.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str) -> String {
        assert_eq!((self.status, self.body["error"].as_str()), (status, Some(code)), "{}", self.body);
        self.body["message"].as_str().unwrap().to_owned()
    }
}

/// What becomes of rows above a limit.
const POLICIES: [(&str, CleanupPolicy); 1] = [("segments", CleanupPolicy::Archive)];

/// Ids are in the order of time.
fn segments() -> SqlTable {
    SqlTable::new("Segment").newest_first("id", "id")
}

pub(crate) fn catalog() -> ResourceCatalog {
    ResourceCatalog::empty()
        .resource(ResourceSpec::new("segments", "maxSegments", Limit::of(5)).table("Segment"))
        .resource(ResourceSpec::new("users", "maxUsers", Limit::of(100)).table("User"))
        .build()
        .unwrap()
}

impl Host {
    /// One process with its own books.
    pub(crate) async fn sqlite() -> Self {
        Self::sqlite_in(tempfile::tempdir().unwrap()).await
    }

    /// The same process, started again on what it has left.
    pub(crate) async fn restarted(mut self) -> Self {
        for server in self.servers.drain(..) {
            server.abort();
            let _ = server.await;
        }
        self.quotas.clear();
        // With it end its connections, and so what the server still has of them.
        self.client = Client::new();
        Self::sqlite_in(self.directory.take().unwrap()).await
    }

    async fn sqlite_in(directory: TempDir) -> Self {
        let options = SqliteConnectOptions::new().filename(directory.path().join("host.db")).create_if_missing(true);
        let options = options.journal_mode(SqliteJournalMode::Wal).busy_timeout(Duration::from_secs(20));
        let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.unwrap();
        let rows = Rows::Sqlite(pool.clone());
        rows.make_tables().await;
        // One that was here before lets go of the file when the last of its requests has.
        let mut store = None;
        until("the file is free", async || {
            store = SqliteStore::new(pool.clone(), &catalog()).await.ok();
            store.is_some()
        })
        .await;
        let store = store.unwrap();
        let usage = || SqliteUsage::builder(pool.clone(), &catalog()).table("segments", segments()).build().unwrap();
        let quota = Quota::builder(catalog()).store(store).usage(usage()).cleanup(usage(), POLICIES);
        let quota = built(quota);
        Self::serve(vec![quota], rows, Some(directory)).await
    }

    /// So many replicas of one service.
    pub(crate) async fn postgres(replicas: usize) -> Self {
        Self::postgres_at(&shared().database(), replicas).await
    }

    pub(crate) async fn postgres_at(url: &str, replicas: usize) -> Self {
        let rows = Rows::Postgres(PgPool::connect(url).await.unwrap());
        rows.make_tables().await;
        let mut quotas = Vec::new();
        for _ in 0..replicas {
            let store = PostgresStore::connect(url, &catalog()).await.unwrap();
            let pool = PgPool::connect(url).await.unwrap();
            let usage =
                || PostgresUsage::builder(pool.clone(), &catalog()).table("segments", segments()).build().unwrap();
            let ledger = PostgresLedger::new(&store).fenced();
            let quota = Quota::builder(catalog()).store(store).usage(usage()).cleanup(usage(), POLICIES);
            quotas.push(built(quota.ledger(ledger)));
        }
        Self::serve(quotas, rows, None).await
    }

    async fn serve(quotas: Vec<Quota>, rows: Rows, directory: Option<TempDir>) -> Self {
        let (mut addresses, mut servers) = (Vec::new(), Vec::new());
        for quota in &quotas {
            let tokens = StaticTokens::builder()
                .token(ROOT, tower_quota::Principal::admin("root"))
                .token(ADMIN, tower_quota::Principal::admin_of("ada", ["acme", "child"]))
                .token(MEMBER, tower_quota::Principal::member("mel", ["acme"]))
                .token(STRANGER, tower_quota::Principal::member("gus", ["globex"]))
                .build()
                .unwrap();
            let rule = |table: &str| {
                Rule::new(table, Method::POST, format!("/{{ws}}/{table}"))
                    .workspace(WorkspaceSource::path("ws"))
                    .charge(Charge::of(table))
            };
            let routes = RouteMap::builder(quota.catalog()).rule(rule("segments")).rule(rule("users")).build().unwrap();
            let app = Router::new()
                .route("/{ws}/segments", post(|place, rows, fence| create("Segment", place, rows, fence)))
                .route("/{ws}/users", post(|place, rows, fence| create("User", place, rows, fence)))
                .with_state(rows.clone())
                .layer(QuotaLayer::for_axum(quota.clone(), routes).unwrap());
            let api = QuotaApi::new(quota.clone(), tokens).origin(|_| "test".to_owned());
            let app = app.nest("/api", api.with_not_found().into_router());
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            servers.push(tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }));
        }
        Self { addresses, quotas, client: Client::new(), rows, servers, directory }
    }

    /// How many processes there are.
    pub(crate) fn replicas(&self) -> usize {
        self.addresses.len()
    }

    /// A request to one of the processes.
    pub(crate) async fn send_to(
        &self,
        replica: usize,
        token: &str,
        method: &str,
        path: &str,
        tag: Option<&str>,
        body: Option<Value>,
    ) -> Answer {
        let url = format!("http://{}{path}", self.addresses[replica % self.addresses.len()]);
        let mut request = self.client.request(method.parse().unwrap(), url).bearer_auth(token);
        if let Some(tag) = tag {
            request = request.header("if-match", tag);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (status, tag, warning) = (response.status().as_u16(), header("etag"), header("quota-warning"));
        let body = response.bytes().await.unwrap();
        Answer { status, tag, warning, body: serde_json::from_slice(&body).unwrap_or_default() }
    }

    pub(crate) async fn get(&self, token: &str, path: &str) -> Answer {
        self.send_to(0, token, "GET", path, None, None).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send_to(0, ROOT, "PUT", path, None, Some(body)).await
    }

    pub(crate) async fn post(&self, token: &str, path: &str, body: Value) -> Answer {
        self.send_to(0, token, "POST", path, None, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send_to(0, ROOT, "DELETE", path, None, None).await
    }

    /// Changes what is set for a workspace.
    pub(crate) async fn settings(&self, workspace: &str, body: Value) {
        self.put(&format!("/api/workspaces/{workspace}/quota/settings"), body).await.expect(200);
    }

    /// Sets the limit of segments.
    pub(crate) async fn limit(&self, workspace: &str, limit: u64) {
        self.put(&format!("/api/workspaces/{workspace}/quota"), json!({ "maxSegments": limit })).await.expect(200);
    }

    /// A creation of a segment at one of the processes.
    pub(crate) async fn create(&self, replica: usize, workspace: &str) -> Answer {
        self.send_to(replica, ROOT, "POST", &format!("/{workspace}/segments"), None, None).await
    }

    /// So many segments can be created, in turns, and no more anywhere.
    pub(crate) async fn admits(&self, workspace: &str, rows: usize) {
        for turn in 0..rows {
            let made = self.create(turn, workspace).await;
            assert_eq!(made.status, 201, "{turn} of {rows}: {}", made.body);
        }
        for replica in 0..self.replicas() {
            self.create(replica, workspace).await.refused(429, "QUOTA_EXCEEDED");
        }
    }

    /// The limit of segments in force, as one of the processes tells.
    pub(crate) async fn limit_at(&self, replica: usize, workspace: &str) -> Value {
        let path = format!("/api/workspaces/{workspace}/quota");
        let answer = self.send_to(replica, ROOT, "GET", &path, None, None).await.expect(200);
        answer.body["quota"]["maxSegments"].clone()
    }

    /// Why the limit of segments is what it is.
    pub(crate) async fn explained(&self, workspace: &str) -> Value {
        let path = format!("/api/workspaces/{workspace}/quota?explain=true");
        self.get(ROOT, &path).await.expect(200).body["explain"]["segments"].clone()
    }

    /// The audit log of a workspace, the oldest first.
    pub(crate) async fn audited(&self, workspace: &str) -> Vec<Value> {
        let path = format!("/api/workspaces/{workspace}/quota/audit?limit=1000");
        let mut entries = self.get(ROOT, &path).await.expect(200).body["entries"].as_array().unwrap().clone();
        entries.reverse();
        entries
    }

    /// How often something was done to a workspace.
    pub(crate) async fn told(&self, workspace: &str, action: &str) -> usize {
        self.audited(workspace).await.iter().filter(|entry| entry["action"] == action).count()
    }

    pub(crate) async fn rows(&self, workspace: &str) -> u64 {
        self.rows_in("Segment", workspace).await
    }

    pub(crate) async fn rows_in(&self, table: &str, workspace: &str) -> u64 {
        let count = AssertSqlSafe(format!(r#"SELECT count(*) FROM "{table}" WHERE "workspaceId" = $1"#));
        let rows: i64 = match &self.rows {
            Rows::Sqlite(pool) => query_scalar(count).bind(workspace).fetch_one(pool).await.unwrap(),
            Rows::Postgres(pool) => query_scalar(count).bind(workspace).fetch_one(pool).await.unwrap(),
        };
        u64::try_from(rows).unwrap()
    }

    /// Makes a segment; answers whether it may.
    pub(crate) async fn insert(&self, workspace: &str, fence: &Fence) -> bool {
        create("Segment", Path(workspace.to_owned()), State(self.rows.clone()), fence.clone()).await
            == StatusCode::CREATED
    }

    /// Deletes so many segments around the layer.
    pub(crate) async fn delete_rows(&self, workspace: &str, rows: u64) {
        self.rows
            .run(format!(
                r#"DELETE FROM "Segment" WHERE "id" IN
                   (SELECT "id" FROM "Segment" WHERE "workspaceId" = '{workspace}' LIMIT {rows})"#
            ))
            .await
            .unwrap();
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn built(builder: QuotaBuilder) -> Quota {
    let builder = builder.settling(Settling::After(Duration::from_millis(200)));
    builder.max_wait(Duration::from_millis(1500)).build().unwrap()
}

impl Rows {
    async fn make_tables(&self) {
        for table in ["Segment", "User"] {
            let table =
                format!(r#"CREATE TABLE IF NOT EXISTS "{table}" ("id" TEXT PRIMARY KEY, "workspaceId" TEXT NOT NULL)"#);
            self.run(table).await.unwrap();
        }
    }

    pub(crate) async fn run(&self, sql: String) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(pool) => query(AssertSqlSafe(sql)).execute(pool).await.map(drop),
            Self::Postgres(pool) => query(AssertSqlSafe(sql)).execute(pool).await.map(drop),
        }
    }
}

async fn create(table: &str, Path(workspace): Path<String>, State(rows): State<Rows>, fence: Fence) -> StatusCode {
    let insert = format!(r#"INSERT INTO "{table}" VALUES ($1, $2)"#);
    let id = Uuid::now_v7().to_string();
    match rows {
        Rows::Sqlite(pool) => {
            query(AssertSqlSafe(insert)).bind(id).bind(workspace).execute(&pool).await.unwrap();
        }
        Rows::Postgres(pool) => {
            let mut transaction = pool.begin().await.unwrap();
            if fence.hold(&mut *transaction).await.is_err() {
                return StatusCode::SERVICE_UNAVAILABLE;
            }
            query(AssertSqlSafe(insert)).bind(id).bind(workspace).execute(&mut *transaction).await.unwrap();
            transaction.commit().await.unwrap();
        }
    }
    StatusCode::CREATED
}
