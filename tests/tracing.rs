//! Spans as OpenTelemetry exports them: their names, kinds, fields and parents.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use http::{Method, Request, StatusCode, header};
use opentelemetry::Value;
use opentelemetry::trace::{SpanId, SpanKind, Status, TracerProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tower::ServiceExt;
use tower_quota::{
    Amount, Charge, ClosureUsage, EnforcementMode, MemoryStore, Quota, QuotaApi, QuotaLayer, ResourceCatalog, RouteMap,
    Rule, StaticTokens, WorkspaceSource,
};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// An app on the runtime of its test, which is one thread: so all that runs there is seen.
struct World {
    app: Router,
    quota: Quota,
    rows: Arc<AtomicI64>,
    exporter: InMemorySpanExporter,
    _seen: DefaultGuard,
}

/// That of a database that is gone.
const GONE: i64 = -1;

impl World {
    fn new(wanted: &str) -> Self {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("test")).with_location(false);
        let subscriber = tracing_subscriber::registry().with(EnvFilter::new(wanted)).with(spans);
        let seen = subscriber.set_default();
        let catalog = ResourceCatalog::default();
        let workspace = || WorkspaceSource::path("ws");
        let create = Rule::new("create-segment", Method::POST, "/{ws}/segments");
        let batch = Rule::new("create-users", Method::POST, "/{ws}/users");
        let routes = RouteMap::builder(&catalog)
            .rule(create.workspace(workspace()).charge(Charge::of("segments")))
            .rule(batch.workspace(workspace()).charge(Charge::of("users").amount(Amount::length("/users"))))
            .build()
            .unwrap();
        let rows = Arc::new(AtomicI64::new(49));
        let counted = Arc::clone(&rows);
        let usage = ClosureUsage::new(move |_, _, _| {
            let rows = counted.load(Ordering::SeqCst);
            async move { u64::try_from(rows).map_err(|_| Error::new(ErrorKind::NotConnected, "the database is gone")) }
        });
        let builder = Quota::builder(catalog).store(MemoryStore::new()).usage(usage).mode(EnforcementMode::Enforce);
        let quota = builder.build().unwrap();
        let tokens = StaticTokens::builder().admin("token").build().unwrap();
        let created = || async { StatusCode::CREATED };
        let app = Router::new()
            .route("/{ws}/segments", post(created))
            .route("/{ws}/users", post(created))
            .layer(QuotaLayer::for_axum(quota.clone(), routes).unwrap())
            .nest("/api", QuotaApi::new(quota.clone(), tokens).into_router());
        Self { app, quota, rows, exporter, _seen: seen }
    }

    async fn send(&self, method: Method, path: &str, body: &str) -> u16 {
        let request = Request::builder().method(method).uri(path).header(header::AUTHORIZATION, "Bearer token");
        let request = request.body(Body::from(body.to_owned())).unwrap();
        self.app.clone().oneshot(request).await.unwrap().status().as_u16()
    }

    async fn create(&self) -> u16 {
        self.send(Method::POST, "/acme/segments", "").await
    }

    /// The spans that have ended since the last call, the first that ended first.
    fn ended(&self) -> Vec<SpanData> {
        let spans = self.exporter.get_finished_spans().unwrap();
        self.exporter.reset();
        spans
    }

    /// Those of one name.
    fn named(&self, name: &str) -> Vec<SpanData> {
        self.ended().into_iter().filter(|span| span.name == name).collect()
    }
}

/// The fields that are the conventions' or this crate's, as they are exported.
fn fields(span: &SpanData) -> BTreeMap<&str, String> {
    let ours = |key: &str| ["http.", "url.", "error.", "tower_quota."].iter().any(|prefix| key.starts_with(prefix));
    let shown = |value: &Value| match value {
        Value::I64(number) => number.to_string(),
        Value::String(text) => format!("{:?}", text.as_str()),
        other => format!("{other:?}"),
    };
    let fields = span.attributes.iter().filter(|field| ours(field.key.as_str()));
    fields.map(|field| (field.key.as_str(), shown(&field.value))).collect()
}

#[track_caller]
fn assert_fields(span: &SpanData, expected: &[(&str, &str)]) {
    let expected: BTreeMap<_, _> = expected.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    assert_eq!(fields(span), expected);
}

#[tokio::test]
async fn a_decision_by_a_count_is_told_with_its_numbers() {
    let world = World::new("tower_quota=info");
    assert_eq!(world.create().await, 201);
    let [decision] = &world.ended()[..] else { panic!("not one span") };
    assert_eq!((decision.name.as_ref(), &decision.span_kind), ("quota create-segment", &SpanKind::Internal));
    let request = [
        ("http.request.method", r#""POST""#),
        ("url.path", r#""/acme/segments""#),
        ("http.route", r#""/{ws}/segments""#),
        ("tower_quota.rule", r#""create-segment""#),
        ("tower_quota.workspace", r#""acme""#),
        ("tower_quota.resource_type", r#""segments""#),
        ("tower_quota.requested", "1"),
        ("tower_quota.limit", "50"),
    ];
    let admitted = [("tower_quota.outcome", r#""admitted""#), ("tower_quota.usage", "49")];
    assert_fields(decision, &[&request[..], &admitted].concat());
    world.rows.store(50, Ordering::SeqCst);
    assert_eq!(world.create().await, 429);
    let [decision] = &world.ended()[..] else { panic!("not one span") };
    let refused =
        [("tower_quota.outcome", r#""refused""#), ("tower_quota.usage", "50"), ("http.response.status_code", "429")];
    assert_fields(decision, &[&request[..], &refused].concat());
    // That is what it is there for, and no error.
    assert_eq!(decision.status, Status::Unset);
}

#[tokio::test]
async fn what_can_not_be_decided_is_an_error_where_it_is_answered_with_one() {
    let world = World::new("tower_quota=info");
    world.rows.store(GONE, Ordering::SeqCst);
    assert_eq!(world.create().await, 201);
    let [passed] = &world.ended()[..] else { panic!("not one span") };
    assert_eq!(fields(passed)["tower_quota.outcome"], r#""undecided""#);
    assert!(!fields(passed).contains_key("http.response.status_code"), "the handler's is not this span's");
    world.quota.set_mode(EnforcementMode::Strict);
    assert_eq!(world.create().await, 503);
    let [failed] = &world.ended()[..] else { panic!("not one span") };
    assert_eq!(fields(failed)["tower_quota.outcome"], r#""failed""#);
    assert_eq!(fields(failed)["http.response.status_code"], "503");
    assert_eq!(fields(failed)["error.type"], r#""503""#);
    assert!(matches!(failed.status, Status::Error { .. }), "{:?}", failed.status);
}

#[tokio::test]
async fn a_batch_is_told_by_its_units() {
    let world = World::new("tower_quota=info");
    assert_eq!(world.send(Method::POST, "/acme/users", r#"{"users": [1, 2, 3]}"#).await, 201);
    let [decision] = &world.named("quota create-users")[..] else { panic!("not one span") };
    assert_eq!(fields(decision)["tower_quota.requested"], "3");
    assert_eq!(world.send(Method::POST, "/acme/users", "no JSON").await, 400);
    let [decision] = &world.named("quota create-users")[..] else { panic!("not one span") };
    assert_eq!(fields(decision)["http.response.status_code"], "400");
    assert!(!fields(decision).contains_key("tower_quota.outcome"));
}

#[tokio::test]
async fn calls_are_below_the_decision_that_made_them() {
    let world = World::new("tower_quota=debug");
    assert_eq!(world.create().await, 201);
    let spans = world.ended();
    let decision = spans.iter().find(|span| span.name == "quota create-segment").unwrap();
    let [limits, record, count] = ["read the limits", "read the record", "count rows"].map(|name| {
        spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no span {name:?} in {spans:#?}"))
    });
    assert_eq!(limits.parent_span_id, decision.span_context.span_id());
    assert_eq!(record.parent_span_id, limits.span_context.span_id());
    // Another task made it, for all that wait.
    assert_eq!(count.parent_span_id, decision.span_context.span_id());
    assert_eq!(decision.parent_span_id, SpanId::INVALID);
    assert_eq!(count.span_kind, SpanKind::Client);
    assert_fields(count, &[("tower_quota.operation", r#""count rows""#)]);
    world.rows.store(GONE, Ordering::SeqCst);
    world.quota.set_mode(EnforcementMode::Off);
    world.quota.set_mode(EnforcementMode::Enforce);
    assert_eq!(world.create().await, 201);
    let [count] = &world.named("count rows")[..] else { panic!("not one count") };
    assert_fields(count, &[("tower_quota.operation", r#""count rows""#), ("error.type", r#""failure""#)]);
    assert!(matches!(&count.status, Status::Error { .. }), "{:?}", count.status);
}

#[tokio::test]
async fn who_is_admitted_at_once_has_a_span_only_where_all_are_wanted() {
    for (wanted, spans) in [("tower_quota=debug", 0), ("tower_quota=trace", 1)] {
        let world = World::new(wanted);
        world.rows.store(0, Ordering::SeqCst);
        assert_eq!(world.create().await, 201);
        world.ended();
        assert_eq!(world.create().await, 201);
        let decisions = world.named("quota create-segment");
        assert_eq!(decisions.len(), spans, "{wanted}");
        for decision in decisions {
            assert_eq!(fields(&decision)["tower_quota.outcome"], r#""admitted""#);
            assert_eq!(fields(&decision)["tower_quota.workspace"], r#""acme""#);
        }
    }
}

#[tokio::test]
async fn requests_to_the_api_are_told_by_their_route() {
    let world = World::new("tower_quota=info");
    assert_eq!(world.send(Method::GET, "/api/workspaces/acme/quota", "").await, 200);
    let [request] = &world.ended()[..] else { panic!("not one span") };
    assert_eq!(request.name, "GET /api/workspaces/{workspaceId}/quota");
    assert_eq!(request.span_kind, SpanKind::Server);
    assert_fields(
        request,
        &[
            ("http.request.method", r#""GET""#),
            ("url.path", r#""/api/workspaces/acme/quota""#),
            ("http.route", r#""/api/workspaces/{workspaceId}/quota""#),
            ("http.response.status_code", "200"),
            ("tower_quota.workspace", r#""acme""#),
        ],
    );
    assert_eq!(world.send("BREW".parse().unwrap(), "/api/workspaces/acme/quota", "").await, 405);
    let [request] = &world.ended()[..] else { panic!("not one span") };
    assert_eq!(request.name, "_OTHER /api/workspaces/{workspaceId}/quota");
    assert_eq!(fields(request)["http.response.status_code"], "405");
    world.rows.store(GONE, Ordering::SeqCst);
    assert_eq!(world.send(Method::GET, "/api/workspaces/acme/quota", "").await, 503);
    let [request] = &world.ended()[..] else { panic!("not one span") };
    assert_eq!(fields(request)["error.type"], r#""503""#);
    assert!(matches!(request.status, Status::Error { .. }), "{:?}", request.status);
}

#[test]
fn the_example_exports_them() {
    let binary = std::env::current_exe().unwrap();
    let binary = binary
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples")
        .join(format!("otel{}", std::env::consts::EXE_SUFFIX));
    assert!(binary.exists(), "{} is missing: run `cargo build --example otel`", binary.display());
    let mut example = Command::new(binary);
    example.env_remove("RUST_LOG").env_remove("QUOTA_ENFORCEMENT_MODE");
    let output = example.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    for told in [
        "POST /workspaces/acme/segments: 429 Too Many Requests",
        "quota create-segment",
        "GET /api/workspaces/{workspaceId}/quota",
        "count rows",
        "tower_quota.outcome",
        "http.response.status_code",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
}
