//! Exact count quotas for multi-tenant services.

use std::future::Future;
use std::pin::Pin;

mod clock;
mod decision;
mod engine;
mod error;
mod ledger;
mod limit;
mod mode;
mod problem;
mod resource;
mod rules;
mod store;
mod sync;
mod usage;
mod workspace;

pub use decision::{Check, Demand, Refusal, Usage};
pub use engine::{
    Correction, Decision, Provisioning, Quota, QuotaBuilder, QuotaView, Recount, Reservation, Settling, SettlingBarrier,
};
pub use error::Error;
pub use limit::{FiniteLimit, Limit, LimitSet};
pub use mode::{EnforcementMode, MODE_VARIABLE, ModeSource};
pub use problem::{ErrorCode, Problem, ProblemFormat};
pub use resource::{ResourceCatalog, ResourceCatalogBuilder, ResourceId, ResourceSpec, ResourceType};
pub use rules::{
    Amount, Charge, Decoding, Direct, Existing, MappedRule, Match, OnFailure, Operation, PathReading, Predicate, Probe,
    Resolved, ResolvedCharge, RouteMap, RouteMapBuilder, Rule, WorkspaceClaim, WorkspaceResolver, WorkspaceSource,
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
