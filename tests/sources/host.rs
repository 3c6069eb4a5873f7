//! A host in front of an API that it can't count the rows of.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::{delete, post};
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt;
use tower_quota::{
    Actor, Charge, Expect, HttpUsage, Limit, LimitSet, Operation, PostgresLedger, PostgresStore, Probe, Quota,
    QuotaLayer, ResourceCatalog, ResourceId, ResourceSpec, RouteMap, Rule, Settling, SqliteStore, UsageByType,
    WorkspaceId, WorkspaceSource,
};
use uuid::Uuid;

use crate::support::postgres::shared;
use crate::upstream::{Rows, Upstream};

pub(crate) struct Host {
    pub(crate) replicas: Vec<Replica>,
    pub(crate) upstream: Upstream,
    place: Place,
}

#[derive(Clone)]
enum Place {
    Sqlite(Arc<TempDir>),
    Postgres(String, usize),
}

pub(crate) struct Replica {
    pub(crate) quota: Quota,
    app: Router,
}

fn catalog() -> ResourceCatalog {
    ResourceCatalog::empty()
        .resource(ResourceSpec::new("segments", "maxSegments", Limit::of(5)))
        .resource(ResourceSpec::new("journeys", "maxJourneys", Limit::of(5)))
        .build()
        .unwrap()
}

impl Host {
    pub(crate) async fn sqlite() -> Self {
        Self::on(Place::Sqlite(Arc::new(tempfile::tempdir().unwrap()))).await
    }

    /// So many replicas; one process with its own books where that is none.
    pub(crate) async fn postgres(replicas: usize) -> Self {
        Self::on(Place::Postgres(shared().database(), replicas)).await
    }

    async fn on(place: Place) -> Self {
        let upstream = Upstream::start();
        let replicas = place.start(&upstream).await;
        Self { replicas, upstream, place }
    }

    /// Ends all processes in an orderly way, and starts others.
    pub(crate) async fn restart(&mut self) {
        for replica in std::mem::take(&mut self.replicas) {
            replica.quota.shutdown(Duration::from_secs(30)).await.unwrap();
            drop(replica);
        }
        self.replicas = self.place.start(&self.upstream).await;
    }

    /// Whether the processes keep the rows together, in the database.
    pub(crate) fn shares(&self) -> bool {
        matches!(self.place, Place::Postgres(_, 1..))
    }

    pub(crate) fn rows(&self) -> usize {
        self.upstream.rows.count("acme", "segments")
    }

    pub(crate) fn replica(&self, turn: usize) -> &Replica {
        &self.replicas[turn % self.replicas.len()]
    }

    pub(crate) async fn limit(&self, limit: Limit) {
        let quota = &self.replicas[0].quota;
        let changes = LimitSet::new().with(segments(quota), limit);
        quota.update_limits(&acme(quota), &changes, &Expect::Anything).await.unwrap();
    }

    pub(crate) async fn set(&self, rows: u64) -> u64 {
        let quota = &self.replicas[0].quota;
        let admin = quota.admin(Actor::new("ann", "test"));
        admin.set_tally(&acme(quota), &[(segments(quota), rows)], None).await.unwrap()[0]
    }

    /// So many can be created, and no more anywhere.
    pub(crate) async fn admits(&self, rows: usize) {
        for turn in 0..rows {
            assert_eq!(self.replica(turn).create("done").await, StatusCode::CREATED, "{turn} of {rows}");
        }
        for replica in &self.replicas {
            assert_eq!(replica.create("done").await, StatusCode::TOO_MANY_REQUESTS);
        }
    }
}

pub(crate) fn acme(quota: &Quota) -> WorkspaceId {
    quota.workspace("acme").unwrap()
}

pub(crate) fn segments(quota: &Quota) -> ResourceId {
    quota.catalog().by_name("segments").unwrap().id()
}

impl Place {
    async fn start(&self, upstream: &Upstream) -> Vec<Replica> {
        let count = match self {
            Self::Sqlite(_) => 1,
            Self::Postgres(_, replicas) => (*replicas).max(1),
        };
        let mut replicas = Vec::new();
        for _ in 0..count {
            replicas.push(self.replica(upstream).await);
        }
        replicas
    }

    async fn replica(&self, upstream: &Upstream) -> Replica {
        let http = HttpUsage::builder(upstream.url(), &catalog())
            .exists("segments", "id", "/workspaces/{workspace}/segments/{value}", None)
            .count("journeys", "/workspaces/{workspace}/journeys", "/total")
            .build()
            .unwrap();
        let builder = Quota::builder(catalog()).usage(UsageByType::new().others(http)).tally(["segments"]);
        let builder = match self {
            Self::Sqlite(folder) => {
                let url = format!("sqlite://{}", folder.path().join("quota.db").display());
                builder.store(SqliteStore::connect(&url, &catalog()).await.unwrap())
            }
            Self::Postgres(url, replicas) => {
                let store = PostgresStore::connect(url, &catalog()).await.unwrap();
                let builder = match replicas {
                    0 => builder,
                    _ => builder.ledger(PostgresLedger::new(&store)),
                };
                builder.store(store)
            }
        };
        let builder = builder.settling(Settling::After(Duration::from_millis(200)));
        let quota = builder.max_wait(Duration::from_secs(5)).build().unwrap();
        let rule = |name: &str, method: &str, path: &str| {
            Rule::new(name, method.parse().unwrap(), path).workspace(WorkspaceSource::path("ws"))
        };
        let one = "/{ws}/segments/{id}";
        let known = Charge::of("segments").probe(Probe::path("id", "id"));
        let routes = RouteMap::builder(quota.catalog())
            .rule(rule("create", "POST", "/{ws}/segments").charge(Charge::of("segments")))
            .rule(rule("upsert", "PUT", one).operation(Operation::Upsert).charge(known))
            .rule(rule("delete", "DELETE", one).operation(Operation::Delete).charge(Charge::of("segments")))
            .build()
            .unwrap();
        let app = Router::new()
            .route("/{ws}/segments", post(create))
            .route("/{ws}/segments/{id}", delete(remove).put(upsert))
            .with_state(Arc::clone(&upstream.rows))
            .layer(QuotaLayer::for_axum(quota.clone(), routes).unwrap());
        Replica { quota, app }
    }
}

impl Replica {
    async fn send(&self, method: &str, path: &str, fate: &str) -> StatusCode {
        let request = Request::builder().method(method).uri(path).header("x-fate", fate).body(Body::empty()).unwrap();
        self.app.clone().oneshot(request).await.unwrap().status()
    }

    /// A creation, whose handler does what `fate` says.
    pub(crate) async fn create(&self, fate: &str) -> StatusCode {
        self.send("POST", "/acme/segments", fate).await
    }

    pub(crate) async fn create_in(&self, workspace: &str) -> StatusCode {
        self.send("POST", &format!("/{workspace}/segments"), "done").await
    }

    pub(crate) async fn upsert(&self, id: &str) -> StatusCode {
        self.send("PUT", &format!("/acme/segments/{id}"), "done").await
    }

    pub(crate) async fn delete(&self, id: &str) -> StatusCode {
        self.send("DELETE", &format!("/acme/segments/{}", id.replace(' ', "%20")), "done").await
    }

    pub(crate) async fn usage(&self) -> u64 {
        self.quota.usage(&acme(&self.quota)).await.unwrap()[segments(&self.quota).index()].current
    }
}

async fn create(Path(workspace): Path<String>, State(rows): State<Arc<Rows>>, headers: HeaderMap) -> StatusCode {
    match headers["x-fate"].to_str().unwrap() {
        "conflict" => return StatusCode::CONFLICT,
        "error before" => return StatusCode::INTERNAL_SERVER_ERROR,
        _ => {}
    }
    tokio::task::yield_now().await;
    rows.insert(&workspace, "segments", &Uuid::now_v7().to_string());
    StatusCode::CREATED
}

async fn upsert(Path((workspace, id)): Path<(String, String)>, State(rows): State<Arc<Rows>>) -> StatusCode {
    rows.insert(&workspace, "segments", &id);
    StatusCode::OK
}

async fn remove(Path((workspace, id)): Path<(String, String)>, State(rows): State<Arc<Rows>>) -> StatusCode {
    if id == "error before" {
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    match rows.remove(&workspace, "segments", &id) || id == "nothing" {
        true => StatusCode::NO_CONTENT,
        false => StatusCode::NOT_FOUND,
    }
}

/// What the audit log has of a workspace, the newest first.
pub(crate) async fn audited(quota: &Quota, action: &str) -> Vec<(Value, Value)> {
    let mut filter = tower_quota::AuditFilter::default();
    (filter.workspace, filter.limit) = (Some("acme".to_owned()), 100);
    let page = quota.audit(&filter).await.unwrap();
    let of = page.entries.into_iter().filter(|entry| serde_json::to_value(entry.action).unwrap() == action);
    of.map(|entry| (entry.old, entry.new)).collect()
}
