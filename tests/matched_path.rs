//! axum tells the layer which of its routes it has chosen; not always is that the route that decides.

#![allow(clippy::unwrap_used)]

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::routing::{any, post};
use http::{Method, Request, Response, StatusCode};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;
use tower_quota::{
    AxumBody, Charge, ClosureUsage, Decoding, MemoryStore, PathReading, Quota, QuotaLayer, ResourceCatalog, RouteMap,
    Rule, WorkspaceSource,
};

/// As many segments as a workspace may have by default.
const LIMIT: u64 = 50;

/// A layer for creations of segments, of which every workspace has as many as it may have.
fn full(reading: PathReading) -> QuotaLayer<AxumBody> {
    let catalog = ResourceCatalog::default();
    let routes = RouteMap::builder(&catalog)
        .path_reading(reading)
        .rule(
            Rule::new("create-segment", Method::POST, "/api/{ws}/segments")
                .workspace(WorkspaceSource::path("ws"))
                .charge(Charge::of("segments")),
        )
        .build()
        .unwrap();
    let usage = ClosureUsage::new(|_workspace, _resource, _at_most| async { Ok::<_, Infallible>(LIMIT) });
    let quota = Quota::builder(catalog).store(MemoryStore::new()).usage(usage).build().unwrap();
    QuotaLayer::for_axum(quota, routes).unwrap()
}

fn raw() -> QuotaLayer<AxumBody> {
    full(PathReading::Raw)
}

async fn create(router: Router, path: &str) -> StatusCode {
    let request = Request::post(path).body(Body::empty()).unwrap();
    router.oneshot(request).await.unwrap().status()
}

async fn ok() -> StatusCode {
    StatusCode::CREATED
}

/// The routes of a service that the quota is for.
fn api() -> Router {
    Router::new().route("/api/{workspace}/segments", post(ok)).route("/api/{workspace}/other", post(ok))
}

/// A service of which axum doesn't know that it is a router.
fn opaque(router: Router) -> BoxCloneSyncService<Request<Body>, Response<Body>, Infallible> {
    BoxCloneSyncService::new(router)
}

#[tokio::test]
async fn a_route_that_leads_to_another_service_lets_no_creation_past() {
    let decoded = || full(PathReading::Decoded(Decoding::new()));
    let below = || Router::new().route("/{workspace}/segments", post(ok));
    let outer = Router::new;
    let set_ups = [
        ("routes", api().layer(raw())),
        ("a proxy", outer().route("/{*path}", any(ok)).layer(raw())),
        ("a proxy below a prefix", outer().route("/api/{*path}", any(ok)).layer(raw())),
        ("a handler for several types", outer().route("/api/{ws}/{type}", any(ok)).layer(raw())),
        ("a proxy to a router that decodes", outer().route("/{*path}", any(ok)).layer(decoded())),
        ("routes before a router that decodes", outer().route("/api/acme/segments", any(ok)).layer(decoded())),
        ("a service", outer().route_service("/{*path}", opaque(api())).layer(raw())),
        ("inside a service", outer().route_service("/{*path}", opaque(api().layer(raw())))),
        ("inside two", {
            let inner = outer().route_service("/{*path}", opaque(api().layer(raw())));
            outer().route_service("/{*path}", opaque(inner))
        }),
        ("inside a service at one path", { outer().route_service("/api/acme/segments", opaque(api().layer(raw()))) }),
        ("a fallback inside a service", {
            outer().route_service("/{*path}", opaque(outer().fallback(ok).layer(raw())))
        }),
        ("a fallback", outer().fallback_service(opaque(api())).layer(raw())),
        ("inside a fallback", outer().fallback_service(opaque(api().layer(raw())))),
        ("a nested service", outer().nest_service("/api", opaque(below())).layer(raw())),
        ("inside a nested service", outer().nest_service("/api", opaque(below().layer(raw())))),
        ("a fallback inside a nested service", {
            outer().nest_service("/api", opaque(outer().fallback(ok).layer(raw())))
        }),
        ("nested routes", outer().nest("/api", below()).layer(raw())),
        ("inside nested routes", outer().nest("/api", below().layer(raw()))),
    ];
    let mut past = Vec::new();
    for (set_up, router) in set_ups {
        if create(router, "/api/acme/segments").await != StatusCode::TOO_MANY_REQUESTS {
            past.push(set_up);
        }
    }
    assert!(past.is_empty(), "{past:?}");
}

#[tokio::test]
async fn a_route_of_its_own_is_left_alone() {
    let router = api().route("/api/public/segments", post(ok)).layer(raw());
    assert_eq!(create(router.clone(), "/api/public/segments").await, StatusCode::CREATED);
    assert_eq!(create(router.clone(), "/api/acme/other").await, StatusCode::CREATED);
    assert_eq!(create(router, "/api/acme/segments").await, StatusCode::TOO_MANY_REQUESTS);
}
