//! Exact count quotas for multi-tenant services.

use std::future::Future;
use std::pin::Pin;

#[cfg(feature = "api")]
mod api;
mod decision;
mod engine;
mod error;
mod limit;
mod mode;
mod principal;
mod problem;
mod resource;
mod store;
mod usage;
mod workspace;

#[cfg(feature = "api")]
pub use api::{
    Auth, AuthLayer, Authenticator, QuotaApi, StaticTokens, StaticTokensBuilder, TrustExtension, bearer_token,
};
pub use decision::{Check, Demand, Refusal, Usage};
pub use engine::{Correction, Quota, QuotaView, Recount};
pub use error::Error;
pub use limit::{FiniteLimit, Limit, LimitSet};
pub use mode::{EnforcementMode, MODE_VARIABLE, ModeSource};
pub use principal::{Principal, Role, Workspaces};
pub use problem::{ErrorCode, Problem, ProblemFormat};
pub use resource::{ResourceCatalog, ResourceCatalogBuilder, ResourceId, ResourceSpec, ResourceType};
#[cfg(feature = "sqlite")]
pub use store::SqliteStore;
pub use store::{Expect, MemoryStore, QuotaRecord, QuotaStore};
pub use usage::{ClosureUsage, UsageSource};
#[cfg(feature = "sqlite")]
pub use usage::{SqlTable, SqliteUsage};
pub use workspace::{WorkspaceFormat, WorkspaceId};

/// A boxed future, as the crate's object-safe traits return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
