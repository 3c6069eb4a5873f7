//! Exact count quotas for multi-tenant services.

#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::future::Future;
use std::pin::Pin;

#[cfg(feature = "api")]
mod api;
mod clock;
mod decision;
mod engine;
mod error;
mod layer;
mod ledger;
mod limit;
mod mode;
mod principal;
mod problem;
mod resource;
mod rules;
mod store;
mod sync;
mod usage;
mod workspace;

#[cfg(feature = "api")]
pub use api::{
    Auth, AuthLayer, Authenticator, QuotaApi, StaticTokens, StaticTokensBuilder, TrustExtension, bearer_token,
};
pub use decision::{Check, Demand, Existing, Refusal, ResolvedCharge, Usage};
pub use engine::{
    Correction, Decision, Provisioning, Quota, QuotaBuilder, QuotaView, Recount, Reservation, Settling, SettlingBarrier,
};
pub use error::Error;
#[cfg(feature = "axum")]
pub use layer::AxumBody;
pub use layer::{
    BodyMode, QuotaLayer, QuotaService, RefusalResponse, Replayed, RequestBody, ResponseBody, ResponseFuture,
    ResponseMode, Untouched,
};
pub use limit::{FiniteLimit, Limit, LimitSet};
pub use mode::{EnforcementMode, MODE_VARIABLE, ModeSource};
pub use principal::{Principal, Role, Workspaces};
pub use problem::{ErrorCode, Problem, ProblemFormat};
pub use resource::{ResourceCatalog, ResourceCatalogBuilder, ResourceId, ResourceSpec, ResourceType};
pub use rules::{
    Amount, Charge, Decoding, Direct, MappedRule, Match, OnFailure, Operation, PathReading, Predicate, Probe, Resolved,
    RouteMap, RouteMapBuilder, Rule, WorkspaceClaim, WorkspaceResolver, WorkspaceSource,
};
#[cfg(feature = "sqlite")]
pub use store::SqliteStore;
pub use store::{Expect, MemoryStore, QuotaRecord, QuotaStore};
pub use usage::{ClosureUsage, UsageSource};
#[cfg(feature = "sqlite")]
pub use usage::{SqlTable, SqliteUsage, SqliteUsageBuilder};
pub use workspace::{WorkspaceFormat, WorkspaceId};

/// A boxed future, as the crate's object-safe traits return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
