//! axum routers in and around the layer.

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::routing::{any, post};
use tokio::net::TcpListener;
use tower_quota::{Charge, QuotaLayer, RouteMap, Rule, WorkspaceSource};

use crate::rows::{World, blocking};
use crate::support::client::{Connection, request};

fn routes(world: &World) -> RouteMap {
    RouteMap::builder(world.quota.catalog())
        .rule(
            Rule::new("create", Method::POST, "/v1/{ws}/segments")
                .workspace(WorkspaceSource::path("ws"))
                .charge(Charge::of("segments")),
        )
        .build()
        .unwrap()
}

async fn created() -> StatusCode {
    StatusCode::CREATED
}

/// At a limit of 0: whatever leads to the handler of `/v1/acme/segments` must be refused.
async fn is_refused(what: &str, app: impl FnOnce(QuotaLayer<tower_quota::AxumBody>) -> Router) {
    let world = World::new(&[("segments", 0)], |builder| builder).await;
    let layer = QuotaLayer::for_axum(world.quota.clone(), routes(&world)).unwrap();
    let app = app(layer);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let send = |method: &'static str, path: &'static str| {
        blocking(move || {
            let mut connection = Connection::open(address).unwrap();
            connection.send_raw(&request(method, path, None, &[], "")).unwrap();
            connection.read().unwrap()
        })
    };
    for path in ["/v1/acme/segments", "/v1/acme/segments?x=1", "/v1/acm%65/segments"] {
        let refused = send("POST", path).await;
        assert_eq!(refused.status, 429, "{what}: {path}: {refused}");
        refused.refused(429, "QUOTA_EXCEEDED");
    }
    // The rule is for no other path and method.
    for (method, path) in [("GET", "/v1/acme/segments"), ("POST", "/v1/acme/journeys"), ("POST", "/acme/segments")] {
        let other = send(method, path).await;
        assert_ne!(other.status, 429, "{what}: {method} {path}: {other}");
    }
}

#[tokio::test]
async fn a_rule_holds_wherever_the_layer_is() {
    let inner = || Router::new().route("/{workspace}/segments", post(created)).route("/{a}/journeys", post(created));
    is_refused("around a nest", |quota| Router::new().nest("/v1", inner()).layer(quota)).await;
    is_refused("inside of a nest", |quota| Router::new().nest("/v1", inner().layer(quota))).await;
    is_refused("around routes of a nest", |quota| Router::new().nest("/v1", inner().route_layer(quota))).await;
    is_refused("around a merge", |quota| Router::new().merge(Router::new().nest("/v1", inner())).layer(quota)).await;
    is_refused("around a nested service", |quota| Router::new().nest_service("/v1", inner()).layer(quota)).await;
    is_refused("inside of a nested service", |quota| Router::new().nest_service("/v1", inner().layer(quota))).await;
    is_refused("in two nests", |quota| {
        let deep = Router::new().nest("/{workspace}", Router::new().route("/segments", post(created)).layer(quota));
        Router::new().nest("/v1", deep)
    })
    .await;
    is_refused("around a method", |quota| Router::new().route("/v1/{workspace}/segments", post(created).layer(quota)))
        .await;
}

#[tokio::test]
async fn a_rule_holds_before_routes_that_take_everything() {
    is_refused("before a proxy's catch-all", |quota| Router::new().route("/{*path}", any(created)).layer(quota)).await;
    is_refused("before a fallback", |quota| Router::new().fallback(created).layer(quota)).await;
    is_refused("before a wider route", |quota| Router::new().route("/v1/{a}/{b}", any(created)).layer(quota)).await;
    is_refused("before a nested catch-all", |quota| {
        Router::new().nest("/v1", Router::new().route("/{*path}", any(created))).layer(quota)
    })
    .await;
}
