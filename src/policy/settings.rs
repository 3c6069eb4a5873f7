//! What is set for a workspace beside its limits.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Grace, GraceUse};
use crate::limit::Limit;
use crate::mode::EnforcementMode;

/// What is set for a workspace beside its limits, plan and parent. Resource types are named: what is set for a type stays
/// when the catalog loses it, and is in force again when it comes back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Settings {
    /// By resource type: the share of its parent's limit, in percent of 0 to 100, that the workspace has where nothing else
    /// says what its limit is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub shares: BTreeMap<String, u32>,
    /// By resource type: how many rows the workspace and all below it may have together.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub caps: BTreeMap<String, Limit>,
    /// The enforcement mode of the workspace; `None` for that of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<EnforcementMode>,
    /// By resource type: its enforcement mode here, which counts more than the workspace's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub modes: BTreeMap<String, EnforcementMode>,
    /// Limits that are in force for a time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<TemporaryOverride>,
    /// The grace of the workspace; `None` for that of the engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace: Option<Grace>,
    /// By resource type: the grace that has begun, and is not over or not armed again.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub grace_uses: BTreeMap<String, GraceUse>,
}

impl Settings {
    /// The enforcement mode of a resource type here; `None` for that of all.
    pub(crate) fn mode_of(&self, resource: &str) -> Option<EnforcementMode> {
        self.modes.get(resource).copied().or(self.mode)
    }
}

/// A limit that is in force for a time, before all others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct TemporaryOverride {
    /// Its id (a UUID of version 7).
    pub id: Uuid,
    /// Of which resource type.
    pub resource_type: String,
    /// The limit meanwhile.
    pub limit: Limit,
    /// From when on.
    pub starts_at: Timestamp,
    /// From when on not any more.
    pub expires_at: Timestamp,
    /// Why.
    pub reason: String,
    /// Who made it.
    pub created_by: String,
}

impl TemporaryOverride {
    /// A limit of `resource_type` from `starts_at` up to `expires_at`.
    pub fn new(
        resource_type: impl Into<String>,
        limit: Limit,
        starts_at: Timestamp,
        expires_at: Timestamp,
        reason: impl Into<String>,
    ) -> Self {
        let (resource_type, reason) = (resource_type.into(), reason.into());
        Self { id: Uuid::now_v7(), resource_type, limit, starts_at, expires_at, reason, created_by: String::new() }
    }

    /// Whether it is in force.
    pub fn is_active(&self, at: Timestamp) -> bool {
        self.starts_at <= at && at < self.expires_at
    }

    /// Whether there is a moment at which both would be in force.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.resource_type == other.resource_type
            && self.starts_at < other.expires_at
            && other.starts_at < self.expires_at
    }
}
