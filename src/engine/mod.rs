//! The engine: limits, units and rows brought together into decisions. Works without HTTP.

use std::sync::Arc;

use crate::decision::{Check, Demand, Usage};
use crate::error::Error;
use crate::limit::{Limit, LimitSet};
use crate::mode::{EnforcementMode, ModeSource};
use crate::resource::{ResourceCatalog, ResourceType};
use crate::store::{Expect, QuotaRecord};
use crate::workspace::WorkspaceId;

/// The engine. Cloning is cheap, and clones share everything.
#[derive(Clone)]
pub struct Quota(Arc<()>);

/// A quota record with the limits in force.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct QuotaView {
    /// The record.
    pub record: QuotaRecord,
    /// The limit in force by resource type, in the catalog's order.
    pub limits: Arc<[Limit]>,
}

/// What a recount found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Recount {
    /// Rows and limits by resource type, in the catalog's order.
    pub usage: Vec<Usage>,
    /// Where the ledger believed something else.
    pub corrections: Vec<Correction>,
}

/// One wrong belief of the ledger, corrected.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Correction {
    /// Of which resource type.
    pub resource: Arc<ResourceType>,
    /// What the ledger believed.
    pub cached: u64,
    /// What the count found.
    pub actual: u64,
}

#[allow(missing_docs, unused_variables, clippy::missing_errors_doc, clippy::unimplemented)]
impl Quota {
    pub fn catalog(&self) -> &ResourceCatalog {
        unimplemented!()
    }
    pub fn workspace(&self, raw: &str) -> Result<WorkspaceId, Error> {
        unimplemented!()
    }
    /// The record; made if there is none and provisioning is automatic, else `is_not_found`.
    pub async fn record(&self, workspace: &WorkspaceId) -> Result<QuotaView, Error> {
        unimplemented!()
    }
    pub async fn update_limits(
        &self,
        workspace: &WorkspaceId,
        changes: &LimitSet,
        expect: &Expect,
    ) -> Result<QuotaView, Error> {
        unimplemented!()
    }
    /// Live counts and limits of all types, in the catalog's order.
    pub async fn usage(&self, workspace: &WorkspaceId) -> Result<Vec<Usage>, Error> {
        unimplemented!()
    }
    pub async fn check(&self, workspace: &WorkspaceId, demand: Demand) -> Result<Check, Error> {
        unimplemented!()
    }
    pub async fn recount(&self, workspace: &WorkspaceId) -> Result<Recount, Error> {
        unimplemented!()
    }
    pub fn mode(&self) -> EnforcementMode {
        unimplemented!()
    }
    pub fn mode_source(&self) -> ModeSource {
        unimplemented!()
    }
    pub fn set_mode(&self, mode: EnforcementMode) {
        unimplemented!()
    }
    pub async fn ping(&self) -> Result<(), Error> {
        unimplemented!()
    }
}
