//! Set-ups that could not keep the promise are refused at the start.

use http::Method;
use tower_quota::{
    AuthRequest, Charge, ExtAuthz, PostgresLedger, PostgresStore, Quota, QuotaLayer, ResourceCatalog, RouteMap, Rule,
    Settling, WorkspaceSource,
};

use crate::files::Files;
use crate::support::postgres;

/// What both say to the same.
#[track_caller]
fn refused(quota: &Quota, routes: &RouteMap) -> String {
    let nginx = AuthRequest::new(QuotaLayer::new(quota.clone(), routes.clone()).unwrap()).unwrap_err();
    let envoy = ExtAuthz::new(QuotaLayer::reading_bodies(quota.clone(), routes.clone()).unwrap()).unwrap_err();
    assert!(nginx.is_config() && envoy.is_config());
    assert_eq!(nginx.to_string(), envoy.to_string());
    nginx.to_string()
}

#[tokio::test]
async fn a_barrier_can_not_tell() {
    let files = Files::new(|builder| builder.settling(Settling::barrier(|| async { Ok::<_, std::io::Error>(()) })));
    let message = refused(&files.quota, &files.routes);
    assert!(message.contains("Settling::After"), "{message}");
}

#[tokio::test]
async fn fences_are_held_by_nobody() {
    let store = PostgresStore::connect(&postgres::shared().database(), &ResourceCatalog::default()).await.unwrap();
    let fenced = Files::new(|builder| builder.ledger(PostgresLedger::new(&store).fenced()));
    let message = refused(&fenced.quota, &fenced.routes);
    assert!(message.contains("longest_handler"), "{message}");
    let files = Files::new(|builder| builder.ledger(PostgresLedger::new(&store)));
    AuthRequest::new(QuotaLayer::new(files.quota, files.routes).unwrap()).unwrap();
}

#[tokio::test]
async fn what_no_proxy_sends_can_not_name_the_workspace() {
    let files = Files::new(|builder| builder);
    let rule = |source| {
        let rule = Rule::new("write", Method::PUT, "/{workspace}/{name}").charge(Charge::of("files"));
        RouteMap::builder(files.routes.catalog()).rule(rule.workspace(source)).build().unwrap()
    };
    let message = refused(&files.quota, &rule(WorkspaceSource::Extension));
    assert!(message.contains("extension"), "{message}");
    // nginx hands on no body. That its layer reads none, its type says.
    let bodies = rule(WorkspaceSource::body("/workspace"));
    assert!(QuotaLayer::new(files.quota.clone(), bodies.clone()).unwrap_err().is_config());
    ExtAuthz::new(QuotaLayer::reading_bodies(files.quota, bodies).unwrap()).unwrap();
}
