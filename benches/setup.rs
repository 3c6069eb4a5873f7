//! Services, requests and quotas: the same for all variants.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::IntoResponse;
use axum::routing::{Route, post};
use http::{Method, Request, Response, StatusCode, header};
use sqlx::sqlite::SqlitePoolOptions;
use tokio::runtime::Runtime;
use tokio::task::yield_now;
use tower::util::ServiceFn;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_quota::{
    Actor, AxumBody, Charge, ClosureUsage, EnforcementMode, Expect, Limit, LimitSet, MemoryStore, PolicyChange, Quota,
    QuotaLayer, ResourceCatalog, ResourceSpec, RouteMap, Rule, SqliteStore, WorkspaceSource,
};

use crate::peers::{LimitadorLayer, NoopLayer, governor, governor_by_workspace};
use crate::rounds::Variant;

pub(crate) const WORKSPACE: &str = "0190163d-8694-739b-aea5-966c26f8ad91";

/// What ours is measured as, and the bare variant with the same requests.
pub(crate) const OURS: [(&str, &str); 13] = [
    ("unmapped_method", "bare_unmapped_method"),
    ("unmapped_path", "bare_unmapped_path"),
    ("admitted", "bare"),
    ("admitted_with_metrics", "bare"),
    ("admitted_with_metrics_and_thresholds", "bare"),
    ("admitted_with_plan_and_parent", "bare"),
    ("admitted_under_cap", "bare"),
    ("admitted_unlimited", "bare"),
    ("admitted_voided", "bare_conflict"),
    ("admitted_with_headers", "bare"),
    ("refused", "bare"),
    ("refused_with_metrics", "bare"),
    ("admitted_reading_body", "bare_body"),
];

pub(crate) fn noop_of(bare: &str) -> &'static str {
    match bare {
        "bare_unmapped_method" => "noop_unmapped_method",
        "bare_unmapped_path" => "noop_unmapped_path",
        "bare_conflict" => "noop_conflict",
        "bare_body" => "noop_body",
        _ => "noop",
    }
}

/// What the layers are put around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    ServiceFn,
    Axum,
}

impl Over {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ServiceFn => "service_fn",
            Self::Axum => "axum",
        }
    }
}

/// The kinds of requests.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    Create,
    /// Its method has no rule.
    UnmappedMethod,
    /// Its method has rules, none of them for this path.
    UnmappedPath,
    /// A creation that the service answers with 409.
    Conflict,
    /// The workspace is named in the body.
    Body,
}

impl Shape {
    pub(crate) fn request(self, workspace: &str) -> Request<Body> {
        let (method, path) = match self {
            Self::Create => (Method::POST, format!("/workspaces/{workspace}/segments")),
            Self::UnmappedMethod => (Method::GET, format!("/workspaces/{workspace}/segments")),
            Self::UnmappedPath => (Method::POST, format!("/workspaces/{workspace}/exports")),
            Self::Conflict => (Method::POST, format!("/workspaces/{workspace}/journeys")),
            Self::Body => (Method::POST, "/segments".to_owned()),
        };
        let body =
            format!(r#"{{"workspaceId":"{workspace}","name":"Big spenders","definition":{{"type":"everyone"}}}}"#);
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, body.len())
            // What axum leaves for `tower_governor`.
            .extension(ConnectInfo(SocketAddr::from(([192, 0, 2, 7], 50_000))))
            .body(Body::from(body))
            .expect("a request")
    }

    fn status(self) -> StatusCode {
        match self {
            Self::Conflict => StatusCode::CONFLICT,
            _ => StatusCode::CREATED,
        }
    }
}

/// The types of the catalog under their names in paths.
const TYPES: [&str; 8] =
    ["segments", "journeys", "templates", "broadcasts", "computed-properties", "webhooks", "integrations", "users"];

pub(crate) fn catalog(limit: Limit) -> ResourceCatalog {
    let specs = TYPES.iter().map(|name| {
        let name = name.replace('-', "_");
        ResourceSpec::new(name.clone(), format!("max_{name}"), limit).table(name)
    });
    specs.fold(ResourceCatalog::empty(), |catalog, spec| catalog.resource(spec)).build().expect("a catalog")
}

/// A creation per type, and one whose workspace is in its body.
pub(crate) fn routes(catalog: &ResourceCatalog) -> RouteMap {
    let by_path = TYPES.iter().fold(RouteMap::builder(catalog), |routes, name| {
        let rule = Rule::new(format!("create-{name}"), Method::POST, format!("/workspaces/{{id}}/{name}"));
        routes.rule(rule.workspace(WorkspaceSource::path("id")).charge(Charge::of(name.replace('-', "_"))))
    });
    let by_body = Rule::new("create-by-body", Method::POST, "/segments")
        .workspace(WorkspaceSource::body("/workspaceId"))
        .charge(Charge::of("segments"));
    by_path.rule(by_body).build().expect("a map")
}

/// A quota whose workspaces have `rows` rows of each type.
pub(crate) fn quota(limit: Limit, rows: u64) -> Quota {
    told(limit, rows, false)
}

/// The same, that tells a recorder what it does, where `metrics` says so.
fn told(limit: Limit, rows: u64, metrics: bool) -> Quota {
    let usage = ClosureUsage::new(move |_workspace, _resource, _at_most| async move { Ok::<_, Infallible>(rows) });
    Quota::builder(catalog(limit))
        .store(MemoryStore::new())
        .usage(usage)
        .mode(EnforcementMode::Enforce)
        .metrics(metrics)
        .build()
        .expect("a quota")
}

/// A quota that tells a recorder what it does, and watches thresholds: a store that keeps notices makes it do so.
async fn watched() -> Quota {
    let catalog = catalog(large());
    let usage = ClosureUsage::new(|_workspace, _resource, _at_most| async { Ok::<_, Infallible>(0) });
    let store = in_memory(&catalog).await;
    Quota::builder(catalog).store(store).usage(usage).mode(EnforcementMode::Enforce).build().expect("a quota")
}

async fn in_memory(catalog: &ResourceCatalog) -> SqliteStore {
    let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await.expect("a database");
    SqliteStore::new(pool, catalog).await.expect("a store")
}

/// A quota whose workspace has its limit from its parent, which has it from a plan; and maybe a cap above.
async fn inherited(cap: Limit) -> Quota {
    let catalog = catalog(Limit::of(1));
    let usage = ClosureUsage::new(|_workspace, _resource, _at_most| async { Ok::<_, Infallible>(0) });
    let store = in_memory(&catalog).await;
    let quota = Quota::builder(catalog).store(store).usage(usage).mode(EnforcementMode::Enforce).metrics(false).build();
    let quota = quota.expect("a quota");
    let (child, parent) = (quota.workspace(WORKSPACE).expect("an id"), quota.workspace("parent").expect("an id"));
    let segments = quota.catalog().by_name("segments").expect("a type").id();
    let admin = quota.admin(Actor::library());
    admin.put_plan("large", &LimitSet::new().with(segments, large()), &Expect::Anything).await.expect("a plan");
    let above = PolicyChange::new().plan("large").cap("segments", cap);
    admin.configure(&parent, above, &Expect::Anything).await.expect("a parent");
    let below = PolicyChange::new().parent(parent).share("segments", 50);
    admin.configure(&child, below, &Expect::Anything).await.expect("a child");
    quota
}

fn handler(status: StatusCode) -> impl Fn() -> Ready<StatusCode> + Clone + Send + Sync + 'static {
    move || ready(status)
}

fn router() -> Router {
    let routes = TYPES.iter().chain(&["exports"]).fold(Router::new(), |router, name| {
        let status = if *name == "journeys" { StatusCode::CONFLICT } else { StatusCode::CREATED };
        router.route(&format!("/workspaces/{{id}}/{name}"), post(handler(status)).get(handler(status)))
    });
    routes.route("/segments", post(handler(StatusCode::CREATED)))
}

type Function = ServiceFn<fn(Request<Body>) -> Ready<Result<Response<Body>, Infallible>>>;

fn answer(status: StatusCode) -> Ready<Result<Response<Body>, Infallible>> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    ready(Ok(response))
}

pub(crate) fn answer_created(_: Request<Body>) -> Ready<Result<Response<Body>, Infallible>> {
    answer(StatusCode::CREATED)
}

fn answer_conflict(_: Request<Body>) -> Ready<Result<Response<Body>, Infallible>> {
    answer(StatusCode::CONFLICT)
}

fn function(shape: Shape) -> Function {
    match shape {
        Shape::Conflict => service_fn(answer_conflict),
        _ => service_fn(answer_created),
    }
}

/// As `axum::serve` serves it: before it has its state, a router puts its layers on for every request.
fn served(router: Router) -> Router {
    router.with_state(())
}

/// All variants over one kind of service.
pub(crate) fn variants(runtime: &Rc<Runtime>, over: Over) -> Vec<Variant> {
    let _inside = runtime.enter();
    let large = large();
    let bed = Bed { runtime: Rc::clone(runtime), over };
    let finite = layer(&quota(large, 0));
    let unlimited = layer(&quota(Limit::Unlimited, 0));
    let with_headers = layer(&quota(large, 0)).rate_limit_headers(true);
    let with_parent = layer(&runtime.block_on(inherited(Limit::Unlimited)));
    let under_cap = layer(&runtime.block_on(inherited(large)));
    let full = layer(&quota(Limit::of(50), 50));
    let finite_told = layer(&told(large, 0, true));
    let finite_watched = layer(&runtime.block_on(watched()));
    let full_told = layer(&told(Limit::of(50), 50, true));
    vec![
        bed.bare("bare", Shape::Create),
        bed.under(NoopLayer, "noop", Shape::Create),
        bed.under(governor(), "governor", Shape::Create),
        bed.under(governor_by_workspace(), "governor_by_workspace", Shape::Create),
        bed.under(LimitadorLayer::new(), "limitador", Shape::Create),
        bed.under(finite.clone(), "admitted", Shape::Create),
        bed.under(finite_told, "admitted_with_metrics", Shape::Create),
        bed.under(finite_watched, "admitted_with_metrics_and_thresholds", Shape::Create),
        bed.under(with_parent, "admitted_with_plan_and_parent", Shape::Create),
        bed.under(under_cap, "admitted_under_cap", Shape::Create),
        bed.under(unlimited, "admitted_unlimited", Shape::Create),
        bed.under(with_headers, "admitted_with_headers", Shape::Create),
        bed.refused(full, "refused", Shape::Create),
        bed.refused(full_told, "refused_with_metrics", Shape::Create),
        bed.bare("bare_unmapped_method", Shape::UnmappedMethod),
        bed.under(NoopLayer, "noop_unmapped_method", Shape::UnmappedMethod),
        bed.under(finite.clone(), "unmapped_method", Shape::UnmappedMethod),
        bed.bare("bare_unmapped_path", Shape::UnmappedPath),
        bed.under(NoopLayer, "noop_unmapped_path", Shape::UnmappedPath),
        bed.under(finite.clone(), "unmapped_path", Shape::UnmappedPath),
        bed.bare("bare_conflict", Shape::Conflict),
        bed.under(NoopLayer, "noop_conflict", Shape::Conflict),
        bed.under(finite.clone(), "admitted_voided", Shape::Conflict),
        bed.bare("bare_body", Shape::Body),
        bed.under(NoopLayer, "noop_body", Shape::Body),
        bed.under(finite, "admitted_reading_body", Shape::Body),
    ]
}

/// A finite limit that no benchmark reaches.
pub(crate) fn large() -> Limit {
    Limit::finite(1 << 62).expect("a limit")
}

pub(crate) fn layer(quota: &Quota) -> QuotaLayer<AxumBody> {
    QuotaLayer::for_axum(quota.clone(), routes(quota.catalog())).expect("a layer")
}

struct Bed {
    runtime: Rc<Runtime>,
    over: Over,
}

impl Bed {
    fn bare(&self, name: &'static str, shape: Shape) -> Variant {
        match self.over {
            Over::ServiceFn => self.variant(function(shape), name, shape, shape.status()),
            Over::Axum => self.variant(served(router()), name, shape, shape.status()),
        }
    }

    fn under<L, B>(&self, layer: L, name: &'static str, shape: Shape) -> Variant
    where
        L: Layer<Function> + Layer<Route> + Clone + Send + Sync + 'static,
        <L as Layer<Function>>::Service: Service<Request<Body>, Response = Response<B>, Error = Infallible> + 'static,
        <L as Layer<Route>>::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        <<L as Layer<Route>>::Service as Service<Request<Body>>>::Error: Into<Infallible>,
        <<L as Layer<Route>>::Service as Service<Request<Body>>>::Future: Send,
        Response<B>: IntoResponse + 'static,
    {
        self.answering(layer, name, shape, shape.status())
    }

    fn refused(&self, layer: QuotaLayer<AxumBody>, name: &'static str, shape: Shape) -> Variant {
        self.answering(layer, name, shape, StatusCode::TOO_MANY_REQUESTS)
    }

    fn answering<L, B>(&self, layer: L, name: &'static str, shape: Shape, expected: StatusCode) -> Variant
    where
        L: Layer<Function> + Layer<Route> + Clone + Send + Sync + 'static,
        <L as Layer<Function>>::Service: Service<Request<Body>, Response = Response<B>, Error = Infallible> + 'static,
        <L as Layer<Route>>::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        <<L as Layer<Route>>::Service as Service<Request<Body>>>::Error: Into<Infallible>,
        <<L as Layer<Route>>::Service as Service<Request<Body>>>::Future: Send,
        Response<B>: IntoResponse + 'static,
    {
        match self.over {
            Over::ServiceFn => {
                let service = <L as Layer<Function>>::layer(&layer, function(shape));
                self.variant(service, name, shape, expected)
            }
            Over::Axum => self.variant(served(router().layer(layer)), name, shape, expected),
        }
    }

    fn variant<S, B>(&self, service: S, name: &'static str, shape: Shape, expected: StatusCode) -> Variant
    where
        S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + 'static,
        B: 'static,
    {
        let runtime = Rc::clone(&self.runtime);
        let mut caller = Caller { service, shape, workspace: WORKSPACE.to_owned() };
        let first = runtime.block_on(caller.first());
        assert_eq!(first, expected, "{name} isn't what it says");
        Variant::new(name, move |requests| runtime.block_on(caller.batch(requests)))
    }
}

/// Sends requests of one shape to a service.
pub(crate) struct Caller<S> {
    pub(crate) service: S,
    pub(crate) shape: Shape,
    pub(crate) workspace: String,
}

impl<S, B> Caller<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
{
    /// The status of one request.
    pub(crate) async fn first(&mut self) -> StatusCode {
        let Ok(service) = self.service.ready().await;
        let Ok(response) = service.call(self.shape.request(&self.workspace)).await;
        response.status()
    }

    /// The time that so many requests take one after the other. They are made before it starts.
    pub(crate) async fn batch(&mut self, requests: u64) -> Duration {
        let requests: Vec<_> = (0..requests).map(|_| self.shape.request(&self.workspace)).collect();
        // What runs in the background has its turn.
        yield_now().await;
        let start = Instant::now();
        for request in requests {
            let Ok(service) = self.service.ready().await;
            let Ok(response) = service.call(request).await;
            black_box(response);
        }
        start.elapsed()
    }
}
