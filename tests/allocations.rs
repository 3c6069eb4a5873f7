//! What the layer costs in memory: allocations per request, and bytes per workspace.
//!
//! The counting allocator counts by thread, and everything here runs on the thread of its test.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use allocation_counter::{AllocationInfo, measure};
use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use http::{Method, Request, Response, StatusCode};
use tokio::runtime::{Builder, Runtime};
use tower::layer::layer_fn;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_quota::{
    BoxFuture, Charge, ClosureUsage, Decision, Demand, EnforcementMode, Error, MemoryStore, Quota, QuotaBuilder,
    QuotaLayer, ResourceCatalog, ResourceId, ResourceType, RouteMap, Rule, UsagePages, UsageSource, WorkspaceId,
    WorkspaceSource,
};

const CREATE: &str = "/workspaces/0190163d-8694-739b-aea5-966c26f8ad91/segments";
const OTHER: &str = "/workspaces/0190163d-8694-739b-aea5-966c26f8ad91/exports";

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn builder() -> QuotaBuilder {
    Quota::builder(ResourceCatalog::default())
        .store(MemoryStore::new())
        .usage(ClosureUsage::new(|_workspace, _resource, _at_most| async { Ok::<_, Infallible>(0) }))
        .mode(EnforcementMode::Enforce)
}

fn routes(quota: &Quota) -> RouteMap {
    let rule = Rule::new("create-segment", Method::POST, "/workspaces/{id}/segments")
        .workspace(WorkspaceSource::path("id"))
        .charge(Charge::of("segments"));
    RouteMap::builder(quota.catalog()).rule(rule).build().unwrap()
}

fn request(method: &Method, path: &str) -> Request<Body> {
    Request::builder().method(method).uri(path).body(Body::empty()).unwrap()
}

/// The allocations of one request, once all that is made once has been made.
fn allocations<S, B>(runtime: &Runtime, service: &mut S, method: &Method, path: &str) -> u64
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
{
    let mut send = |request: Request<Body>| {
        let answered = runtime.block_on(async {
            let Ok(service) = service.ready().await;
            let Ok(response) = service.call(request).await;
            response.status()
        });
        assert_eq!(answered, StatusCode::CREATED);
    };
    for _ in 0..3 {
        send(request(method, path));
    }
    let counted = request(method, path);
    measure(|| send(counted)).count_total
}

fn create(_: Request<Body>) -> Ready<Result<Response<Body>, Infallible>> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::CREATED;
    ready(Ok(response))
}

fn router() -> Router {
    let created = || ready(StatusCode::CREATED);
    Router::new()
        .route("/workspaces/{id}/segments", post(created).get(created))
        .route("/workspaces/{id}/exports", post(created))
        .route("/health", get(created))
}

/// As `axum::serve` serves it: before it has its state, a router puts its layers on for every request.
fn served(router: Router) -> Router {
    router.with_state(())
}

/// An unmapped method, an unmapped path, and a creation that is admitted.
const REQUESTS: [(Method, &str); 3] = [(Method::GET, CREATE), (Method::POST, OTHER), (Method::POST, CREATE)];

#[test]
fn a_request_that_takes_no_count_allocates_nothing() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let quota = builder().build().unwrap();
    let layer = QuotaLayer::new(quota.clone(), routes(&quota)).unwrap();
    let reading = QuotaLayer::for_axum(quota.clone(), routes(&quota)).unwrap();
    for (method, path) in &REQUESTS {
        let bare = allocations(&runtime, &mut service_fn(create), method, path);
        assert_eq!(allocations(&runtime, &mut layer.layer(service_fn(create)), method, path), bare, "{method} {path}");
        assert_eq!(
            allocations(&runtime, &mut reading.layer(service_fn(create)), method, path),
            bare,
            "{method} {path}"
        );
    }
}

#[test]
fn in_a_router_it_allocates_no_more_than_a_layer_that_does_nothing() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let quota = builder().build().unwrap();
    // `Router::layer` boxes the service and its future, whatever the layer is.
    let mut idle = served(router().layer(layer_fn(|service| service)));
    let mut limited = served(router().layer(QuotaLayer::for_axum(quota.clone(), routes(&quota)).unwrap()));
    for (method, path) in &REQUESTS {
        let base = allocations(&runtime, &mut idle, method, path);
        assert_eq!(allocations(&runtime, &mut limited, method, path), base, "{method} {path}");
    }
}

const WORKSPACES: u64 = 100_000;

/// Makes a quota remember workspaces with the first `types` resource types each, one row of each admitted.
fn remember(quota: &Quota, types: usize, workspaces: u64, capacity: u64) -> impl Future<Output = ()> {
    let resources: Vec<ResourceId> = quota.catalog().iter().take(types).map(|resource| resource.id()).collect();
    let demands: Vec<Demand> = resources.into_iter().map(Demand::one).collect();
    let quota = quota.clone();
    async move {
        for number in 0..workspaces {
            let workspace = quota.workspace(&format!("0190163d-8694-739b-aea5-{number:012}")).unwrap();
            match quota.reserve(&workspace, &demands).await.unwrap() {
                Decision::Admitted(reservation) => reservation.post(),
                refused @ Decision::Refused(_) => panic!("{refused:?}"),
            }
        }
        // Whoever was in flight when others came leaves soon after.
        let deadline = Instant::now() + Duration::from_secs(30);
        while quota.workspaces_in_memory() > usize::try_from(capacity).unwrap() {
            assert!(Instant::now() < deadline, "{} workspaces stay in memory", quota.workspaces_in_memory());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn memory(quota: &Quota, runtime: &Runtime, types: usize, workspaces: u64, capacity: u64) -> AllocationInfo {
    let work = remember(quota, types, workspaces, capacity);
    measure(|| {
        runtime.block_on(work);
    })
}

#[track_caller]
fn assert_bytes_per_key(types: usize) {
    /// The most that one resource type of one workspace may take, with its share of all structures.
    const MOST: f64 = 536.0;
    let runtime = runtime();
    let quota = {
        let _inside = runtime.enter();
        builder().capacity(2 * WORKSPACES).build().unwrap()
    };
    let held = memory(&quota, &runtime, types, WORKSPACES, 2 * WORKSPACES);
    assert_eq!(quota.workspaces_in_memory(), 100_000);
    let keys = WORKSPACES * u64::try_from(types).unwrap();
    let bytes = held.bytes_current as f64 / keys as f64;
    println!("{types} types: {bytes:.0} bytes and {:.2} allocations per key", held.count_current as f64 / keys as f64);
    assert!(bytes <= MOST, "{bytes:.0} bytes per workspace and resource type");
    black_box(quota);
}

#[test]
fn bytes_per_workspace_with_one_resource_type() {
    assert_bytes_per_key(1);
}

#[test]
fn bytes_per_resource_type_with_all_eight() {
    assert_bytes_per_key(8);
}

#[test]
fn more_workspaces_than_the_capacity_take_no_more_memory() {
    const CAPACITY: u64 = 1_000;
    let runtime = runtime();
    let quota = {
        let _inside = runtime.enter();
        builder().capacity(CAPACITY).build().unwrap()
    };
    let held = memory(&quota, &runtime, 1, WORKSPACES, CAPACITY);
    assert!(quota.workspaces_in_memory() <= 1_000, "{} workspaces", quota.workspaces_in_memory());
    let bytes = held.bytes_current;
    println!("{bytes} bytes with a capacity of {CAPACITY}");
    assert!(bytes < 4_000_000, "{bytes} bytes");
    black_box(quota);
}

/// Lists so many workspaces, with a few rows each.
struct Many(usize);

impl UsageSource for Many {
    fn count<'a>(
        &'a self,
        _: &'a WorkspaceId,
        _: &'a ResourceType,
        _: Option<u64>,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        unreachable!("nobody counts")
    }

    fn existing<'a>(
        &'a self,
        _: &'a WorkspaceId,
        _: &'a ResourceType,
        _: &'a str,
        _: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        unreachable!("nobody asks")
    }

    fn page<'a>(
        &'a self,
        resource: &'a ResourceType,
        after: Option<&'a str>,
        at_most: usize,
    ) -> BoxFuture<'a, Result<Vec<(String, u64)>, Error>> {
        // Each type has workspaces of its own, and some that others have too.
        let step = resource.id().index() + 1;
        let first = after.map_or(0, |after| after.parse::<usize>().unwrap() + 1).next_multiple_of(step);
        let listed = (first..self.0).step_by(step).take(at_most);
        Box::pin(async move { Ok(listed.map(|number| (format!("{number:08}"), 3)).collect()) })
    }
}

#[test]
fn going_through_all_workspaces_takes_no_more_memory_for_more_of_them() {
    let (runtime, catalog) = (runtime(), ResourceCatalog::default());
    let peak = |workspaces| {
        let mut seen = 0;
        let allocated = measure(|| {
            let mut pages = UsagePages::new(Many(workspaces), &catalog).page(NonZeroUsize::new(100).unwrap());
            loop {
                let batch = runtime.block_on(pages.next()).unwrap();
                if batch.is_empty() {
                    break;
                }
                seen += batch.len();
            }
        });
        assert_eq!(seen, workspaces);
        allocated.bytes_max
    };
    let (few, many) = (peak(1_000), peak(100_000));
    assert!(many <= few + few / 10, "{few} bytes for 1000 workspaces, {many} for 100000");
}
