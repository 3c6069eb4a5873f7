//! Limits for an API whose tables can't be read, by a program in front of it.
//!
//! What comes in is sent on to `UPSTREAM_URL`. Journeys are counted by asking the API; segments by the ledger alone: what was
//! created less what was deleted, since an API may tell of no number. Of both, the API is asked whether a row exists that a `PUT`
//! would only change. The ledger, and limits, are in `DATABASE_URL`: a SQLite file for one process, Postgres for several.
//!
//! ```console
//! $ export UPSTREAM_URL=http://127.0.0.1:8080 DATABASE_URL=sqlite://quota.db ADMIN_TOKEN=s3cret
//! $ cargo run --all-features --example in_front
//! listening on http://127.0.0.1:3000
//! ```
//!
//! With the token, `/quota` has the API of limits. What is there already is told to the ledger first:
//!
//! ```console
//! $ curl -X PUT -H "authorization: Bearer s3cret" -d '{"rows": {"segments": 45}}' \
//!     http://127.0.0.1:3000/quota/workspaces/acme/quota/tally
//! ```

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use reqwest::Client;
use tokio::net::TcpListener;
use tokio::signal;
use tower_quota::{
    Charge, HttpUsage, Limit, Operation, PostgresLedger, PostgresStore, Probe, Quota, QuotaApi, QuotaLayer,
    ResourceCatalog, ResourceSpec, RouteMap, Rule, SqliteStore, StaticTokens, WorkspaceSource,
};

/// How long the API may take. What it does later than that may be a row too many.
const LONGEST: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let upstream = variable("UPSTREAM_URL")?;
    let quota = quota(&variable("DATABASE_URL")?, &upstream).await?;
    let tokens = StaticTokens::builder().admin(variable("ADMIN_TOKEN")?).build()?;
    let client = Client::builder().timeout(LONGEST).build()?;
    let app = Router::new()
        .fallback(pass_on)
        .with_state((client, upstream))
        .layer(QuotaLayer::for_axum(quota.clone(), routes(quota.catalog())?)?)
        .nest("/quota", QuotaApi::new(quota.clone(), tokens).into_router());

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).with_graceful_shutdown(async { drop(signal::ctrl_c().await) }).await?;
    quota.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

fn variable(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("set {name}: see the top of examples/in_front.rs"))
}

async fn quota(database: &str, upstream: &str) -> Result<Quota, tower_quota::Error> {
    let catalog = ResourceCatalog::empty()
        .resource(ResourceSpec::new("segments", "maxSegments", Limit::of(50)))
        .resource(ResourceSpec::new("journeys", "maxJourneys", Limit::of(20)))
        .build()?;
    let usage = HttpUsage::builder(upstream, &catalog)
        .count("journeys", "/workspaces/{workspace}/journeys", "/items")
        .exists("journeys", "id", "/workspaces/{workspace}/journeys/{value}", None)
        .exists("segments", "id", "/workspaces/{workspace}/segments/{value}", None)
        .timeout(LONGEST)
        .build()?;
    let builder = Quota::builder(catalog.clone()).usage(usage).tally(["segments"]);
    let builder = if database.starts_with("sqlite:") {
        builder.store(SqliteStore::connect(database, &catalog).await?)
    } else {
        let store = PostgresStore::connect(database, &catalog).await?;
        // No transaction of the API's can be tied to a lease: what it may still do has to be waited for.
        let ledger = PostgresLedger::new(&store).time_to_live(Duration::from_secs(2)).longest_handler(LONGEST);
        builder.store(store).ledger(ledger)
    };
    builder.build()
}

fn routes(catalog: &ResourceCatalog) -> Result<RouteMap, tower_quota::Error> {
    let mut routes = RouteMap::builder(catalog);
    for resource in catalog.iter().map(|resource| resource.name()) {
        let all = format!("/workspaces/{{workspace}}/{resource}");
        let one = format!("{all}/{{id}}");
        let rule = |name: &str, method, path: &str| {
            Rule::new(format!("{name}-{resource}"), method, path).workspace(WorkspaceSource::path("workspace"))
        };
        let known = Charge::of(resource).probe(Probe::path("id", "id"));
        routes = routes
            .rule(rule("create", Method::POST, &all).charge(Charge::of(resource)))
            .rule(rule("replace", Method::PUT, &one).operation(Operation::Upsert).charge(known))
            .rule(rule("delete", Method::DELETE, &one).operation(Operation::Delete).charge(Charge::of(resource)));
    }
    routes.build()
}

async fn pass_on(State((client, upstream)): State<(Client, String)>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return StatusCode::BAD_REQUEST.into_response() };
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let sent = client.request(parts.method, format!("{upstream}{path}")).body(body.to_bytes()).send().await;
    let answered = match sent {
        Ok(answer) => {
            let status = answer.status();
            answer.bytes().await.map(|body: Bytes| (status, Body::from(body)).into_response())
        }
        Err(error) => Err(error),
    };
    // Nobody knows what the API did: the unit counts as a row.
    answered.unwrap_or_else(|_| StatusCode::BAD_GATEWAY.into_response())
}
