//! Spans for OpenTelemetry: some requests in this process, and what is exported of them, on the standard output.
//!
//! `cargo run --example otel` prints each span as it ends: decisions, with what they were made by; the calls of the store and the
//! counts below them; and requests to the quota API. `RUST_LOG` says which are wanted, `tower_quota=debug` by default. On
//! `info` there are no calls; on `trace` also those requests that were admitted by a look into memory.
//!
//! To send them to a collector, put the `SpanExporter` of `opentelemetry-otlp` in the place of this one, with
//! `with_batch_exporter`.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use axum::routing::post;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tower::ServiceExt;
use tower_quota::{
    Charge, ClosureUsage, Limit, MemoryStore, Quota, QuotaApi, QuotaLayer, ResourceCatalog, ResourceSpec, RouteMap,
    Rule, StaticTokens, WorkspaceSource,
};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let provider = SdkTracerProvider::builder()
        .with_resource(Resource::builder().with_service_name("segments").build())
        .with_simple_exporter(opentelemetry_stdout::SpanExporter::default())
        .build();
    let wanted = EnvFilter::try_from_default_env().unwrap_or_else(|_| "tower_quota=debug".into());
    let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("tower-quota"));
    let spans = spans.with_location(false).with_threads(false).with_tracked_inactivity(false);
    tracing_subscriber::registry().with(wanted).with(spans).init();

    let app = app()?;
    // The first is decided by a count, the second by what that has left, and the third is one too many.
    for _ in 0..3 {
        let request = Request::post("/workspaces/acme/segments").body(Body::empty())?;
        println!("POST /workspaces/acme/segments: {}", app.clone().oneshot(request).await?.status());
    }
    let request = Request::get("/api/workspaces/acme/quota").header(header::AUTHORIZATION, "Bearer token");
    println!("GET /api/workspaces/acme/quota: {}", app.oneshot(request.body(Body::empty())?).await?.status());

    provider.shutdown()?;
    Ok(())
}

/// Two segments for each workspace, and no more.
fn app() -> Result<Router, Box<dyn Error>> {
    let catalog =
        ResourceCatalog::empty().resource(ResourceSpec::new("segments", "maxSegments", Limit::of(2))).build()?;
    let create = Rule::new("create-segment", Method::POST, "/workspaces/{workspace}/segments")
        .workspace(WorkspaceSource::path("workspace"))
        .charge(Charge::of("segments"));
    let routes = RouteMap::builder(&catalog).rule(create).build()?;
    let rows = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&rows);
    let usage = ClosureUsage::new(move |_workspace, _resource, _at_most| {
        let rows = counted.load(Ordering::SeqCst);
        async move { Ok::<_, Infallible>(rows) }
    });
    let quota = Quota::builder(catalog).store(MemoryStore::new()).usage(usage).build()?;
    let make = move || async move {
        rows.fetch_add(1, Ordering::SeqCst);
        StatusCode::CREATED
    };
    let tokens = StaticTokens::builder().admin("token").build()?;
    Ok(Router::new()
        .route("/workspaces/{workspace}/segments", post(make))
        .layer(QuotaLayer::for_axum(quota.clone(), routes)?)
        .nest("/api", QuotaApi::new(quota, tokens).into_router()))
}
