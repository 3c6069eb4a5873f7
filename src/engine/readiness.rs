//! Whether the next step on the way to enforced limits would refuse anybody.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use jiff::Timestamp;

use super::listing::Listing;
use super::{Inner, Quota};
use crate::error::Error;
use crate::mode::EnforcementMode;
use crate::policy::{Kin, Lineage};
use crate::resource::{ResourceId, ResourceType};
use crate::store::QuotaStore;
use crate::workspace::WorkspaceId;

/// How many records are read at a time.
const PAGE: usize = 1000;

/// Whether creations would be refused, were limits enforced now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Readiness {
    /// Workspaces that have rows.
    pub workspaces: u64,
    /// By resource type, in the catalog's order.
    pub types: Vec<TypeReadiness>,
}

/// The same of one resource type.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TypeReadiness {
    /// Which.
    pub resource: Arc<ResourceType>,
    /// Workspaces at their limit: the next creation would be refused.
    pub full: u64,
    /// Workspaces above it: the same, and cleanup would take rows.
    pub over: u64,
    /// Workspaces at their limit or above it that a mode of their own, or of the type, lets pass all the same.
    pub exempt: u64,
    /// Those that are furthest above, or at it, with what they have and their limit. Without those that are exempt.
    pub worst: Vec<(WorkspaceId, u64, u64)>,
    /// Caps that are reached: on a workspace and all below it, of which one at least is not exempt.
    pub caps: u64,
    /// Those of them that are furthest above, or at it, with what there is and the cap.
    pub worst_caps: Vec<(WorkspaceId, u64, u64)>,
}

impl Readiness {
    /// Whether the next creation of somebody would be refused.
    pub fn would_refuse(&self) -> bool {
        self.types.iter().any(|of| of.full + of.over + of.caps > 0)
    }
}

/// What counts in a cap.
#[derive(Default)]
struct Capped {
    rows: u64,
    /// The cap is for some who are refused by it.
    refuses: bool,
}

/// A report in the making.
struct Report<'a> {
    quota: &'a Inner,
    most: usize,
    readiness: Readiness,
    /// By whose they are, and of what.
    caps: HashMap<(WorkspaceId, ResourceId), (u64, Capped)>,
}

impl Report<'_> {
    /// Adds what a workspace has of a resource type; `None` where that was told, or is not known to be nothing.
    fn add(&mut self, workspace: &WorkspaceId, lineage: &Lineage, resource: &Arc<ResourceType>, rows: Option<u64>) {
        let refuses = self.quota.would_refuse(lineage, resource);
        for kin in lineage.kin() {
            let cap = kin.record.settings.caps.get(resource.name()).and_then(|cap| cap.rows());
            if let Some(cap) = cap {
                let capped = self.caps.entry((kin.record.workspace.clone(), resource.id()));
                let (_, capped) = capped.or_insert_with(|| (cap, Capped::default()));
                capped.rows = capped.rows.saturating_add(rows.unwrap_or(0));
                capped.refuses |= refuses;
            }
        }
        let (Some(rows), Some(limit)) = (rows, lineage.limit(resource, Timestamp::now()).rows()) else { return };
        let of = &mut self.readiness.types[resource.id().index()];
        match rows {
            rows if rows < limit => return,
            _ if !refuses => {
                of.exempt += 1;
                return;
            }
            rows if rows > limit => of.over += 1,
            _ => of.full += 1,
        }
        insert(&mut of.worst, (workspace.clone(), rows, limit), self.most);
    }

    fn end(mut self) -> Readiness {
        for ((workspace, resource), (cap, capped)) in self.caps {
            if capped.refuses && capped.rows >= cap {
                let of = &mut self.readiness.types[resource.index()];
                of.caps += 1;
                insert(&mut of.worst_caps, (workspace, capped.rows, cap), self.most);
            }
        }
        self.readiness
    }
}

/// Keeps those that are furthest above their limit; among equals, in the order of their ids.
fn insert(worst: &mut Vec<(WorkspaceId, u64, u64)>, one: (WorkspaceId, u64, u64), most: usize) {
    let above = |(_, rows, limit): &(WorkspaceId, u64, u64)| rows - limit;
    let before =
        |other: &(WorkspaceId, u64, u64)| above(other) > above(&one) || above(other) == above(&one) && other.0 < one.0;
    worst.insert(worst.partition_point(before), one);
    worst.truncate(most);
}

impl Inner {
    /// Whether a creation over the limit would be refused, were the mode of all `enforce`.
    fn would_refuse(&self, lineage: &Lineage, resource: &ResourceType) -> bool {
        let own = lineage.record().and_then(|record| record.settings.mode_of(resource.name()));
        let of_type = || {
            let modes = self.type_modes.read().unwrap_or_else(PoisonError::into_inner);
            modes.get(resource.id().index()).copied().flatten()
        };
        own.or_else(of_type).unwrap_or(EnforcementMode::Enforce).refuses()
    }
}

impl Quota {
    /// Compares what all workspaces have with their limits and caps, to know whether the next step, from `warn` to `enforce` or
    /// from there to `strict`, would refuse anybody; names up to `most` workspaces per resource type, and as many caps. Who has
    /// a mode of its own that lets requests pass is told apart. A workspace without rows counts where it has a record, and a
    /// limit of 0.
    ///
    /// Memory grows with the number of caps, not with that of workspaces. It is no picture of one moment: rows and limits are
    /// read while others change them.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`]; [`Error::is_config`] where the usage source can't list workspaces.
    pub async fn readiness(&self, most: usize) -> Result<Readiness, Error> {
        let quota = &self.0;
        let of = |resource: &Arc<ResourceType>| TypeReadiness {
            resource: Arc::clone(resource),
            full: 0,
            over: 0,
            exempt: 0,
            worst: Vec::new(),
            caps: 0,
            worst_caps: Vec::new(),
        };
        let readiness = Readiness { workspaces: 0, types: quota.catalog.iter().map(of).collect() };
        let mut report = Report { quota, most, readiness, caps: HashMap::new() };
        let mut listing = Listing::new(quota);
        loop {
            let batch = listing.next().await?;
            if batch.is_empty() {
                break;
            }
            for usage in batch {
                let Ok(workspace) = quota.config.workspace_format.parse(&usage.workspace) else { continue };
                report.readiness.workspaces += 1;
                let lineage = quota.within("read the record", || quota.store.inner().lineage(&workspace)).await?;
                for (resource, rows) in quota.catalog.iter().zip(usage.rows) {
                    // Those without are looked at below.
                    report.add(&workspace, &lineage, resource, Some(rows).filter(|rows| *rows > 0));
                }
            }
        }
        self.those_without_rows(&mut report).await?;
        Ok(report.end())
    }

    /// Looks at those that have a record: of which there may be no rows to be refused, or no rows yet.
    async fn those_without_rows(&self, report: &mut Report<'_>) -> Result<(), Error> {
        let quota = &self.0;
        let mut after = None;
        loop {
            let page = || quota.store.inner().records(after.as_deref(), PAGE);
            let records = match quota.within("read the records", page).await {
                // A store that keeps limits only lists nothing.
                Err(error) if error.is_config() => return Ok(()),
                records => records?,
            };
            let Some(last) = records.last() else { return Ok(()) };
            after = Some(last.workspace.as_str().to_owned());
            for record in records {
                let workspace = record.workspace.clone();
                let alone = Lineage::new(vec![Kin::new(record, None)]);
                let lineage = match alone.is_plain() {
                    true => alone,
                    false => quota.within("read the record", || quota.store.inner().lineage(&workspace)).await?,
                };
                for resource in quota.catalog.iter() {
                    let mut rows = None;
                    if lineage.limit(resource, Timestamp::now()).rows() == Some(0) {
                        let any = quota.count_rows(&workspace, resource.id(), Some(1)).await?;
                        rows = Some(0).filter(|_| any == 0);
                    }
                    report.add(&workspace, &lineage, resource, rows);
                }
            }
        }
    }
}
