//! Exact count quotas for multi-tenant services: a [Tower](tower) layer that refuses the one creation too many.
//!
//! A *workspace* (a tenant) may have so many rows of each *resource type*: 50 segments, 1000 users. [`QuotaLayer`]
//! stands in front of an existing service, recognises the requests that create rows, and answers the one that would
//! exceed the limit with 429 `QUOTA_EXCEEDED`. It is for limits on what exists, not on requests per second.
//!
//! # Why it is exact
//!
//! Rows in the host's own tables are the truth; beside them, a ledger in memory knows how many units the requests in
//! flight may still turn into rows. A unit is granted in one atomic step before the handler runs, and only where rows
//! and units together stay within the limit, however many requests come at once; it is given back only when no row can
//! come of it any more. A request is refused only by a count of the rows that was begun after the request came in.
//!
//! The common decision is a map look-up and a compare-and-swap: no I/O, no lock, and no more work for a million rows
//! than for fifty.
//!
//! # Ten lines
//!
//! ```
//! # #[cfg(all(feature = "sqlite", feature = "axum"))]
//! # mod guarded {
//! use axum::Router;
//! use http::Method;
//! use sqlx::SqlitePool;
//! use tower_quota::{
//!     Charge, Limit, Quota, QuotaLayer, ResourceCatalog, ResourceSpec, RouteMap, Rule, SqliteStore, SqliteUsage,
//!     WorkspaceSource,
//! };
//!
//! /// `app` creates rows of the table `Segment`, whose column `workspaceId` says whose they are.
//! pub async fn guard(app: Router, pool: SqlitePool) -> Result<Router, tower_quota::Error> {
//!     let segments = ResourceSpec::new("segments", "maxSegments", Limit::of(50)).table("Segment");
//!     let catalog = ResourceCatalog::empty().resource(segments).build()?;
//!     let store = SqliteStore::new(pool.clone(), &catalog).await?;
//!     let usage = SqliteUsage::builder(pool, &catalog).build()?;
//!     let create = Rule::new("create-segment", Method::POST, "/workspaces/{workspace}/segments")
//!         .workspace(WorkspaceSource::path("workspace"))
//!         .charge(Charge::of("segments"));
//!     let routes = RouteMap::builder(&catalog).rule(create).build()?;
//!     let quota = Quota::builder(catalog).store(store).usage(usage).build()?;
//!     Ok(app.layer(QuotaLayer::for_axum(quota, routes)?))
//! }
//! # }
//! #
//! # #[cfg(all(feature = "sqlite", feature = "axum"))]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! #     use axum::body::Body;
//! #     use tower::ServiceExt;
//! #     let directory = tempfile::tempdir()?;
//! #     let options = sqlx::sqlite::SqliteConnectOptions::new().filename(directory.path().join("app.db"));
//! #     let pool = sqlx::SqlitePool::connect_with(options.create_if_missing(true)).await?;
//! #     sqlx::raw_sql("CREATE TABLE Segment (workspaceId TEXT); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL
//! #         SELECT i + 1 FROM n WHERE i < 50) INSERT INTO Segment SELECT 'acme' FROM n").execute(&pool).await?;
//! #     let create = axum::routing::post(|| async { http::StatusCode::CREATED });
//! #     let app = axum::Router::new().route("/workspaces/{workspace}/segments", create);
//! #     let app = guarded::guard(app, pool).await?;
//! #     let post = |path: &str| http::Request::post(path).body(Body::empty());
//! #     let created = app.clone().oneshot(post("/workspaces/globex/segments")?).await?;
//! #     assert_eq!(created.status(), 201);
//! #     let refused = app.oneshot(post("/workspaces/acme/segments")?).await?;
//! #     assert_eq!(refused.status(), 429);
//! #     Ok(())
//! # }
//! # #[cfg(not(all(feature = "sqlite", feature = "axum")))]
//! # fn main() {}
//! ```
//!
//! # What is promised
//!
//! | set-up | promise |
//! |---|---|
//! | one process, rows in an embedded SQLite database, [`Settling::barrier`] | exact |
//! | one process, rows in another database | exact while nothing abandoned commits after it was settled ([`Settling`]), nor anything of a killed process after [`first_count_after`](QuotaBuilder::first_count_after) |
//! | several processes, `PostgresLedger`, every transaction that makes rows holds its `Fence` | exact |
//! | several processes, `PostgresLedger`, no fences | exact while every commit comes within `longest_handler` of its admission: [`Promise::Bounded`] |
//! | an API behind Envoy or nginx, which ask here first (`ExtAuthz`, `AuthRequest`) | exact while each row is there within [`Settling::After`](Settling) of its request |
//! | rows also written around the layer | seen by the next count: at each refusal, and when limits are [refreshed][r] |
//! | the same, with a `Backstop` in Postgres, and fences where there is a `PostgresLedger` | exact |
//!
//! [r]: QuotaBuilder::refresh_after
//!
//! *Exact* means that rows never exceed the limit in force when the last unit was granted. Lowering a limit keeps the
//! rows that exist, and refuses new ones at once. Requests that pass over it, in [mode](EnforcementMode) `warn` or because
//! a failure lets them, are in the books like others; those in mode `off` are not.
//!
//! Two things are the host's part. A handler must create its rows before it is done: one that leaves them to a task of
//! its own, which outlives the request, reserves its units itself with [`Quota::reserve`]. And without a
//! `PostgresLedger`, two processes that create rows of the same workspaces keep two ledgers: have one process at a time,
//! and let the old one end before the new one starts.
//!
//! # Where to go next
//!
//! - [The guide](guide): from five minutes to see it, by set-ups, rules and failures, to what to do at night.
//! - [`QuotaLayer`]: the middleware, where to put it, and what a response says about a row.
//! - [`RouteMap`]: which requests create what, for whom; in code, or from a TOML or JSON file.
//! - [`Quota`]: the engine, for code without HTTP: check, reserve, usage, recount.
//! - [`Admin`]: what limits come from (plans, parents, caps, overrides, grace), and how they come to be where there were none.
//! - [`QuotaStore`]: where limits are kept. [`UsageSource`]: how rows are counted, of any database.
//! - [`ResourceCatalog`]: what is limited. [`EnforcementMode`]: how strictly.
//! - `Gateway` (feature `gateway`): a reverse proxy to put behind the layer, for APIs that are not written in Rust.
//! - `ExtAuthz` and `AuthRequest` (feature `authz`): the same limits [behind Envoy and nginx](guide::proxies).
//! - `QuotaApi` (feature `api`): the HTTP API to read and set limits, as an axum router. `client` (the feature of that name): a
//!   client of it; and `quotactl` (feature `cli`), a program.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `sqlite` | yes | `SqliteStore` and `SqliteUsage`, through sqlx 0.9 |
//! | `postgres` | yes | `PostgresStore`, `PostgresUsage`, `PostgresLedger`, `Fence` and `Backstop`, through sqlx 0.9 |
//! | `api` | yes | `QuotaApi`, `AuthLayer`, `StaticTokens`; implies `axum` |
//! | `toml` | yes | route maps from TOML files (JSON always works) |
//! | `dashboard` | no | `Dashboard`: pages for people, as an axum router; implies `api` and `insight` |
//! | `insight` | no | `SnapshotOptions`, `Quota::analytics`, `Quota::reports`: usage over time, when it will reach the limits, and reports; `trend`, `forecast` and `ReportRow` as pure values |
//! | `webhooks` | no | `WebhookOptions`, `WebhookSecret`: notices to HTTP endpoints, signed, over rustls |
//! | `email` | no | `EmailOptions`, `AdminContacts`: notices by e-mail, through lettre |
//! | `metrics` | no | what the engine does in numbers, to the recorder of the [`metrics`](https://docs.rs/metrics) facade |
//! | `openapi` | no | `/openapi.json` and `/docs` in `QuotaApi`: its description in OpenAPI 3.1, and a page to browse it |
//! | `client` | no | the module `client`: a client of the HTTP API, over rustls |
//! | `cli` | no | the program `quotactl`, on that client |
//! | `authz` | no | `ExtAuthz` and `AuthRequest`: decisions for Envoy and nginx, which ask before they forward; implies `axum` |
//! | `serve` | no | `quotactl serve`: the API and the metrics as a service, without a layer in front of anything |
//! | `axum` | with `api` | `QuotaLayer::for_axum`; the layer goes by axum 0.8's `MatchedPath` |
//! | `full` | no | all of them |
//!
//! Without features there are the layer, the engine, `MemoryStore` and `ClosureUsage`.

#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::future::Future;
use std::pin::Pin;

#[cfg(feature = "api")]
mod api;
#[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "the one authority that there is needs Postgres"))]
mod authority;
#[cfg(feature = "authz")]
mod authz;
mod body;
#[cfg(feature = "client")]
pub mod client;
mod clock;
#[cfg(feature = "dashboard")]
mod dashboard;
mod decision;
mod engine;
mod error;
#[cfg_attr(
    not(all(any(feature = "sqlite", feature = "postgres"), feature = "webhooks", feature = "email")),
    allow(dead_code, unused_imports, reason = "what is kept needs a database, and what is delivered an outlet")
)]
mod events;
#[cfg(feature = "postgres")]
mod fence;
#[cfg(feature = "gateway")]
mod gateway;
// Its examples need all features; to be read, it needs none.
#[cfg(any(all(doc, not(doctest)), all(doctest, feature = "full")))]
pub mod guide;
#[cfg(any(feature = "insight", feature = "client"))]
mod insight;
mod layer;
mod ledger;
mod limit;
mod metrics;
mod mode;
#[cfg(any(feature = "webhooks", feature = "email", feature = "client", feature = "gateway"))]
mod peer;
mod policy;
mod principal;
mod problem;
mod resource;
mod rules;
mod spans;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql;
mod store;
mod sync;
mod usage;
mod workspace;

#[cfg(feature = "api")]
pub use api::{
    Auth, AuthLayer, Authenticator, QuotaApi, StaticTokens, StaticTokensBuilder, TrustExtension, bearer_token,
};
#[cfg(feature = "postgres")]
pub use authority::PostgresLedger;
#[cfg(feature = "authz")]
pub use authz::{AuthRequest, ExtAuthz};
#[cfg(feature = "dashboard")]
pub use dashboard::Dashboard;
pub use decision::{Check, DecisionReceipt, Demand, Evidence, Existing, Refusal, ResolvedCharge, Usage};
#[cfg(any(feature = "webhooks", feature = "email"))]
pub use engine::DeliveryRetries;
#[cfg(feature = "webhooks")]
pub use engine::EndpointChange;
pub use engine::{
    Admin, CleanupOptions, CleanupReport, Correction, Decision, Import, ImportOptions, ImportSummary, LedgerKind,
    PolicyChange, Proposal, Provisioning, Quota, QuotaBuilder, QuotaView, Readiness, Recount, ReplicaConfig,
    ReplicaStatus, Reservation, Settling, SettlingBarrier, ShadowRefusals, ShadowReport, StoreStatus, SystemStatus,
    TypeConfig, TypeReadiness,
};
#[cfg(feature = "insight")]
pub use engine::{Analytics, ReportPages, SnapshotOptions, SnapshotSummary, TypeAnalytics};
pub use error::Error;
#[cfg(feature = "email")]
pub use events::{AdminContacts, EmailOptions};
pub use events::{
    Attempt, Delivery, DeliveryFilter, DeliveryPage, DeliveryStatus, Endpoint, EndpointStatus, EventKind, Notice,
    Threshold, Thresholds,
};
#[cfg(feature = "webhooks")]
pub use events::{WebhookOptions, WebhookSecret};
#[cfg(feature = "postgres")]
pub use fence::Fence;
#[cfg(feature = "gateway")]
pub use gateway::{
    ClientConnection, Gateway, GatewayBody, GatewayOptions, GuardedFuture, GuardedService, GuardedStream, PacedBody,
};
#[cfg(any(feature = "insight", feature = "client"))]
pub use insight::Period;
#[cfg(feature = "insight")]
pub use insight::{
    Forecast, ForecastReason, Granularity, Predicted, ReportRow, Snapshot, TrendPoint, forecast, predict, trend,
};
#[cfg(feature = "axum")]
pub use layer::AxumBody;
pub use layer::{
    BodyMode, QuotaLayer, QuotaService, RefusalResponse, Replayed, RequestBody, ResponseBody, ResponseFuture,
    ResponseMode, RowOutcome, Untouched,
};
pub use limit::{FiniteLimit, Limit, LimitSet};
#[cfg(feature = "metrics")]
pub use metrics::DECISION_SECONDS_BUCKETS;
pub use mode::{EnforcementMode, MODE_VARIABLE, ModeSource, Promise};
pub use policy::{
    Actor, AuditAction, AuditEntry, AuditFilter, AuditPage, CapOver, Grace, GraceUse, IncreaseRequest, Kin,
    LimitSource, Lineage, Plan, RequestStatus, Settings, TemporaryOverride, Trace, TraceStep,
};
pub use principal::{Principal, Role, Workspaces};
pub use problem::{ErrorCode, Problem, ProblemFormat};
pub use resource::{ResourceCatalog, ResourceCatalogBuilder, ResourceId, ResourceSpec, ResourceType};
pub use rules::{
    Amount, Charge, Decoding, Direct, MappedRule, Match, OnFailure, Operation, PathReading, Predicate, Probe, Resolved,
    RouteMap, RouteMapBuilder, Rule, WorkspaceClaim, WorkspaceResolver, WorkspaceSource,
};
#[cfg(feature = "postgres")]
pub use store::PostgresStore;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use store::SqlStore;
#[cfg(feature = "sqlite")]
pub use store::SqliteStore;
pub use store::{Expect, MemoryStore, QuotaRecord, QuotaStore, SchemaVersions, StoreKind, StoreTransaction};
#[cfg(feature = "sqlite")]
pub use usage::SqliteUsage;
#[cfg(feature = "postgres")]
pub use usage::{Backstop, PostgresUsage};
pub use usage::{
    Cleaned, Cleanup, CleanupPolicy, ClosureUsage, CountSql, Excess, Recording, UsageByType, UsagePages, UsageSource,
    WorkspaceUsage,
};
#[cfg(feature = "gateway")]
pub use usage::{HttpUsage, HttpUsageBuilder};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use usage::{SqlTable, SqlUsage, SqlUsageBuilder};
pub use workspace::{WorkspaceFormat, WorkspaceId};

#[cfg(all(
    doctest,
    feature = "sqlite",
    feature = "postgres",
    feature = "axum",
    feature = "webhooks",
    feature = "email",
    feature = "dashboard",
    feature = "insight",
    feature = "client"
))]
#[doc = include_str!("../README.md")]
struct Readme;

/// A boxed future, as the crate's object-safe traits return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
