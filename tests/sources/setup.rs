//! What the builder refuses, and what can't be looked up.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::put;
use tower::ServiceExt;
use tower_quota::{
    Charge, EnforcementMode, Limit, MemoryStore, Operation, Probe, Promise, Quota, QuotaLayer, ResourceCatalog,
    ResourceSpec, RouteMap, Rule, SqliteStore, WorkspaceSource,
};

fn catalog() -> ResourceCatalog {
    ResourceCatalog::empty().resource(ResourceSpec::new("segments", "maxSegments", Limit::of(5))).build().unwrap()
}

#[tokio::test]
async fn what_cannot_be_tallied_is_refused() {
    let builder = || Quota::builder(catalog()).store(MemoryStore::new());
    for (builder, says) in [
        (builder().tally(["segments"]), "this store keeps no tallies"),
        (builder().tally(["zebras"]), "zebras"),
        (builder(), "call `usage`"),
    ] {
        let error = builder.build().unwrap_err();
        assert!(error.is_config() && error.message().contains(says), "{error}");
    }
}

#[tokio::test]
async fn nobody_can_look_up_what_the_ledger_alone_counts() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("quota.db").display());
    let store = SqliteStore::connect(&url, &catalog()).await.unwrap();
    // Without any usage source, since there is nothing else to be counted.
    let quota = Quota::builder(catalog()).store(store).tally(["segments"]).mode(EnforcementMode::Strict);
    let quota = quota.build().unwrap();
    assert_eq!(quota.promise(), Promise::Bounded);
    let upsert = Rule::new("upsert", "PUT".parse().unwrap(), "/{ws}/segments/{id}")
        .workspace(WorkspaceSource::path("ws"))
        .operation(Operation::Upsert)
        .charge(Charge::of("segments").probe(Probe::path("id", "id")));
    let routes = RouteMap::builder(quota.catalog()).rule(upsert).build().unwrap();
    let app = Router::new()
        .route("/{ws}/segments/{id}", put(|| async { StatusCode::OK }))
        .layer(QuotaLayer::for_axum(quota, routes).unwrap());
    let request = Request::put("/acme/segments/1").body(Body::empty()).unwrap();
    let answer = app.oneshot(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
}
