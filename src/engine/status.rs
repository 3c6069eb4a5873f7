//! How a set-up stands: its tables, and the processes that enforce limits in it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Inner, Quota};
use crate::error::Error;
use crate::limit::Limit;
use crate::mode::{EnforcementMode, Promise};
use crate::store::{QuotaStore, SchemaVersions, StoreKind};
use crate::workspace::WorkspaceFormat;

/// How a set-up stands, as one of its processes sees it: see [`Quota::status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SystemStatus {
    /// Where quota records are kept.
    pub store: StoreStatus,
    /// Where units are granted.
    pub ledger: LedgerKind,
    /// What is promised of limits.
    pub promise: Promise,
    /// The processes that enforce limits and are alive, the oldest first. One that was killed is among them until its leases
    /// have ended.
    pub replicas: Vec<ReplicaStatus>,
}

/// The store of a set-up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct StoreStatus {
    /// What it is.
    pub kind: StoreKind,
    /// In which version its tables are; `None` where they have none.
    pub schema: Option<SchemaVersions>,
}

/// Where units are granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LedgerKind {
    /// In the memory of the one process that there is.
    Process,
    /// In a Postgres database, for several processes.
    Postgres,
}

/// A process that enforces limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ReplicaStatus {
    /// The id under which it is known to the ledger; `None` where there is one process.
    pub id: Option<Uuid>,
    /// It is the one that answers.
    pub this: bool,
    /// When it came, by the database's clock.
    pub joined_at: Option<Timestamp>,
    /// When it last showed life, by the database's clock.
    pub seen_at: Option<Timestamp>,
    /// What it enforces; `None` where it doesn't tell, as one of another version may.
    pub config: Option<ReplicaConfig>,
}

/// What a process enforces: replicas that don't have the same don't limit the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ReplicaConfig {
    /// The version of this crate.
    pub version: String,
    /// The newest version of the quota tables that it knows.
    pub schema: Option<u64>,
    /// The enforcement mode.
    pub mode: EnforcementMode,
    /// The modes of resource types that have their own.
    pub modes: BTreeMap<String, EnforcementMode>,
    /// Which spellings name the same workspace.
    pub workspace_format: WorkspaceFormat,
    /// What is limited.
    pub types: BTreeMap<String, TypeConfig>,
}

/// A resource type as a process knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct TypeConfig {
    /// The name of its limit.
    pub limit_field: String,
    /// The limit where nothing else is said.
    pub default_limit: Limit,
}

impl Quota {
    /// How the set-up stands: in which version its tables are, and which processes enforce limits in it.
    ///
    /// With a [`ledger`](super::QuotaBuilder::ledger), each process writes what it enforces beside its signs of life, so that
    /// it can be seen whether all of them enforce the same. Without, there is this process.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] when the store or the ledger doesn't answer.
    pub async fn status(&self) -> Result<SystemStatus, Error> {
        let quota = &self.0;
        let store = match quota.store.inner().schema() {
            None => StoreStatus { kind: StoreKind::Other, schema: None },
            Some(store) => {
                let applied = quota.within("read the version of the tables", || store.applied()).await?;
                StoreStatus { kind: store.kind(), schema: Some(SchemaVersions::new(applied, store.known())) }
            }
        };
        let config = quota.replica_config();
        let (ledger, replicas) = match &quota.replica {
            None => {
                let this = ReplicaStatus { id: None, this: true, joined_at: None, seen_at: None, config: Some(config) };
                (LedgerKind::Process, vec![this])
            }
            Some(replica) => {
                let (me, _) = quota.within("reach the ledger", || replica.ready()).await?;
                let all = quota.within("read the replicas", || replica.authority.introductions()).await?;
                let status = all.into_iter().map(|of| ReplicaStatus {
                    id: Some(of.replica),
                    this: of.replica == me,
                    joined_at: of.joined_at,
                    seen_at: of.seen_at,
                    config: match of.replica == me {
                        // Its next sign of life tells the others.
                        true => Some(config.clone()),
                        false => of.config.and_then(|config| serde_json::from_str(&config).ok()),
                    },
                });
                (LedgerKind::Postgres, status.collect())
            }
        };
        Ok(SystemStatus { store, ledger, promise: self.promise(), replicas })
    }
}

impl Inner {
    /// What this process enforces.
    pub(super) fn replica_config(&self) -> ReplicaConfig {
        let modes = self.catalog.iter().zip(self.modes_by_type());
        let modes = modes.filter_map(|(resource, mode)| Some((resource.name().to_owned(), mode?)));
        let types = self.catalog.iter().map(|resource| {
            let (limit_field, default_limit) = (resource.limit_field().to_owned(), resource.default_limit());
            (resource.name().to_owned(), TypeConfig { limit_field, default_limit })
        });
        ReplicaConfig {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            schema: self.store.inner().schema().map(|store| store.known()),
            mode: self.mode(),
            modes: modes.collect(),
            workspace_format: self.workspace_format(),
            types: types.collect(),
        }
    }
}
