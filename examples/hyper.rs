//! A plain hyper 1 server, without a framework, whose rows are kept in its own memory.
//!
//! It shows the layer around a service made by hand, a rule that reads the body (a batch of names is charged whole or
//! not at all), counts by a closure, and how abandoned requests are settled where nothing is ever left half-done.
//!
//! ```text
//! cargo run --example hyper
//!
//! # creates two segments: 201
//! curl -i 127.0.0.1:3001/workspaces/acme/segments -d '["Big spenders", "Newcomers"]'
//! # lists them
//! curl -i 127.0.0.1:3001/workspaces/acme/segments
//! # two more, and there is room for one: 429, and nothing is created
//! curl -i 127.0.0.1:3001/workspaces/acme/segments -d '["Regulars", "Sleepers"]'
//! # another workspace has a quota of its own: 201
//! curl -i 127.0.0.1:3001/workspaces/globex/segments -d '["Regulars", "Sleepers"]'
//! # removes all: 204, and the units are free again
//! curl -i -X DELETE 127.0.0.1:3001/workspaces/acme/segments
//! ```
//!
//! `LISTEN_ADDR` is another address than `127.0.0.1:3001`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tower::{ServiceBuilder, service_fn};
use tower_quota::{
    Amount, Charge, ClosureUsage, Limit, MemoryStore, Operation, Quota, QuotaLayer, RequestBody, ResourceCatalog,
    ResourceSpec, RouteMap, Rule, Settling, WorkspaceSource,
};

/// The names of the segments, by workspace.
#[derive(Clone, Default)]
struct Segments(Arc<Mutex<HashMap<String, Vec<String>>>>);

impl Segments {
    fn rows(&self) -> MutexGuard<'_, HashMap<String, Vec<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, workspace: &str) -> u64 {
        self.rows().get(workspace).map_or(0, |rows| u64::try_from(rows.len()).unwrap_or(u64::MAX))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let segments = Segments::default();

    // One resource type, of which a workspace may have three.
    let catalog =
        ResourceCatalog::empty().resource(ResourceSpec::new("segments", "maxSegments", Limit::of(3))).build()?;
    let path = "/workspaces/{workspace}/segments";
    let routes = RouteMap::builder(&catalog)
        .workspace(WorkspaceSource::path("workspace"))
        .rule(
            // The body is an array: as many units as it has elements.
            Rule::new("create-segments", Method::POST, path).charge(Charge::of("segments").amount(Amount::length(""))),
        )
        .rule(
            Rule::new("delete-segments", Method::DELETE, path)
                .operation(Operation::Delete)
                .charge(Charge::of("segments")),
        )
        .build()?;

    let counted = segments.clone();
    let quota = Quota::builder(catalog)
        .store(MemoryStore::new())
        .usage(ClosureUsage::new(move |workspace, _resource, _at_most| {
            let rows = counted.count(workspace.as_str());
            async move { Ok::<_, Infallible>(rows) }
        }))
        // A handler that is dropped has either made its rows or never will: there is nothing to wait for.
        .settling(Settling::barrier(|| async { Ok::<_, Infallible>(()) }))
        .build()?;

    let service = ServiceBuilder::new().layer(QuotaLayer::reading_bodies(quota, routes)?).service(service_fn(
        move |request: Request<RequestBody<Incoming>>| {
            let segments = segments.clone();
            async move { Ok::<_, Infallible>(handle(segments, request).await) }
        },
    ));

    let listener = TcpListener::bind(env::var("LISTEN_ADDR").unwrap_or_else(|_| "127.0.0.1:3001".to_owned())).await?;
    println!("listening on http://{}, 3 segments per workspace", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            let connection =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                eprintln!("a connection broke off: {error}");
            }
        });
    }
}

/// The host's own router and handlers. They know nothing of quotas.
async fn handle(segments: Segments, request: Request<RequestBody<Incoming>>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let path: Vec<&str> = parts.uri.path().split('/').collect();
    let ["", "workspaces", workspace, "segments"] = path[..] else {
        return answer(StatusCode::NOT_FOUND, String::new());
    };
    match parts.method {
        Method::GET => {
            let rows = segments.rows().get(workspace).cloned().unwrap_or_default();
            answer(StatusCode::OK, serde_json::json!(rows).to_string())
        }
        Method::POST => {
            let Ok(body) = body.collect().await else { return answer(StatusCode::BAD_REQUEST, String::new()) };
            match serde_json::from_slice::<Vec<String>>(&body.to_bytes()) {
                Ok(names) => {
                    let created = serde_json::json!(names).to_string();
                    segments.rows().entry(workspace.to_owned()).or_default().extend(names);
                    answer(StatusCode::CREATED, created)
                }
                // A 4xx says that nothing was created: the units are given back.
                Err(error) => {
                    answer(StatusCode::UNPROCESSABLE_ENTITY, serde_json::json!(error.to_string()).to_string())
                }
            }
        }
        Method::DELETE => {
            segments.rows().remove(workspace);
            answer(StatusCode::NO_CONTENT, String::new())
        }
        _ => answer(StatusCode::METHOD_NOT_ALLOWED, String::new()),
    }
}

fn answer(status: StatusCode, json: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(json));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
