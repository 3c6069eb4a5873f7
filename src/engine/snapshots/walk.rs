//! One look at all workspaces.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{BATCH, FAILURES, reading};
use crate::decision::Usage;
use crate::engine::Inner;
use crate::engine::listing::Listing;
use crate::engine::tenant::Tenant;
use crate::error::Error;
use crate::limit::Limit;
use crate::policy::{Kin, Lineage};
use crate::store::{QuotaRecord, QuotaStore, Reading};
use crate::usage::WorkspaceUsage;
use crate::workspace::WorkspaceId;

/// How many workspaces are looked at in one step.
const STEP: usize = 500;

/// How many of them where each has to be counted by itself.
const COUNTED: usize = 50;

/// In what time before a look there was another: they are a day apart at most, and the last one may have been held up.
const LAST_READ: SignedDuration = SignedDuration::from_hours(48);

/// What a look at all workspaces came to; see [`Quota::take_snapshots`](crate::Quota::take_snapshots).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SnapshotSummary {
    /// Workspaces that were looked at.
    pub workspaces: u64,
    /// Snapshots that were taken of them, one for each resource type.
    pub snapshots: u64,
    /// Statements that they were written with.
    pub batches: u64,
}

/// Goes through all workspaces, some at a time, in memory that doesn't grow with their number.
pub(super) struct Walk {
    begun: Timestamp,
    listing: Listing,
    stage: Stage,
    summary: SnapshotSummary,
}

enum Stage {
    /// Those that have rows, as they are listed: read, and not looked at yet; the next one last.
    Rows(Vec<WorkspaceUsage>),
    /// Those that only have a record.
    Records {
        after: Option<String>,
    },
    /// Those that had rows when they were last looked at, and have neither rows nor a record any more.
    Gone {
        after: Option<String>,
    },
    /// They can't be listed.
    Unlisted,
    /// Those in memory, where the others can't be listed.
    InMemory(Vec<Arc<Tenant>>),
    Done,
}

impl Walk {
    pub(super) fn new(quota: &Inner) -> Result<Self, Error> {
        quota.kept_snapshots()?;
        Ok(Self {
            begun: Timestamp::now(),
            listing: Listing::new(quota),
            stage: Stage::Rows(Vec::new()),
            summary: SnapshotSummary::default(),
        })
    }

    pub(super) fn summary(&self) -> SnapshotSummary {
        self.summary
    }

    /// Reads which workspaces are next. It is the host's code that is asked, and may take its time: the engine isn't held.
    pub(super) async fn read(&mut self) -> Result<(), Error> {
        let Stage::Rows(read) = &mut self.stage else { return Ok(()) };
        if !read.is_empty() {
            return Ok(());
        }
        match self.listing.next().await {
            Ok(page) => {
                *read = page;
                read.reverse();
            }
            Err(error) if error.is_config() && self.summary.workspaces == 0 => {
                tracing::debug!(error = %error, "snapshots are taken of the workspaces in memory only");
                self.stage = Stage::Unlisted;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Looks at those that were read, or that need no reading; whether there may be more.
    pub(super) async fn step(&mut self, quota: &Arc<Inner>) -> Result<bool, Error> {
        match &mut self.stage {
            Stage::Rows(read) => {
                let some = read.split_off(read.len().saturating_sub(STEP));
                if some.is_empty() {
                    self.stage = Stage::Records { after: None };
                    return Ok(true);
                }
                // Rows that spell it in another way are none of a workspace: no count finds them.
                let parsed = |usage: WorkspaceUsage| {
                    let workspace = quota.config.workspace_format.parse(&usage.workspace).ok()?;
                    (workspace.as_str() == usage.workspace).then_some((workspace, usage.rows))
                };
                let rows: BTreeMap<_, _> = some.into_iter().filter_map(parsed).collect();
                if let Some(store) = quota.store.inner().snapshots().filter(|_| !rows.is_empty()) {
                    let names: Vec<_> = rows.keys().map(WorkspaceId::as_str).collect();
                    let records = quota.within("read records", || store.records_of(&names)).await?;
                    let read = with_limits(quota, rows, records).await?;
                    self.write(quota, &read).await?;
                }
            }
            Stage::Records { after } => {
                let read = || quota.store.inner().records(after.as_deref(), STEP);
                let mut records = quota.within("read records", read).await?;
                let Some(last) = records.last().map(|record| record.workspace.as_str().to_owned()) else {
                    self.stage = Stage::Gone { after: None };
                    return Ok(true);
                };
                let names: Vec<_> = records.iter().map(|record| record.workspace.as_str()).collect();
                let (begun, types) = (self.begun, quota.catalog.len());
                let store = quota.kept_snapshots()?;
                let seen = quota.within("read snapshots", || store.read_since(&names, begun, types)).await?;
                let seen: HashSet<_> = seen.into_iter().collect();
                records.retain(|record| !seen.contains(record.workspace.as_str()));
                let rows: BTreeMap<_, _> =
                    records.iter().map(|record| (record.workspace.clone(), vec![0; types])).collect();
                let read = with_limits(quota, rows, records).await?;
                self.write(quota, &read).await?;
                self.stage = Stage::Records { after: Some(last) };
            }
            Stage::Gone { after } => {
                let store = quota.kept_snapshots()?;
                let read = || store.workspaces(after.as_deref(), STEP);
                let all = quota.within("read snapshots", read).await?;
                let Some(last) = all.last().cloned() else {
                    self.stage = Stage::Done;
                    return Ok(false);
                };
                let all: Vec<_> = all.iter().map(String::as_str).collect();
                let (begun, types) = (self.begun, quota.catalog.len());
                let seen = quota.within("read snapshots", || store.read_since(&all, begun, types)).await?;
                let seen: HashSet<_> = seen.iter().map(String::as_str).collect();
                let unseen: Vec<_> = all.into_iter().filter(|workspace| !seen.contains(workspace)).collect();
                let mut rows = BTreeMap::new();
                if !unseen.is_empty() {
                    let from = begun.checked_sub(LAST_READ).unwrap_or(Timestamp::MIN);
                    let read = quota.within("read snapshots", || store.totals(&unseen, from, begun)).await?;
                    for (workspace, _, of) in read {
                        if of.last > 0
                            && let Ok(workspace) = quota.config.workspace_format.parse(&workspace)
                        {
                            rows.insert(workspace, vec![0; types]);
                        }
                    }
                }
                let read = with_limits(quota, rows, Vec::new()).await?;
                self.write(quota, &read).await?;
                self.stage = Stage::Gone { after: Some(last) };
            }
            Stage::Unlisted => {
                let mut tenants = quota.tenants.all();
                tenants.retain(|tenant| tenant.id.top().is_none());
                self.stage = Stage::InMemory(tenants);
            }
            Stage::InMemory(tenants) => {
                let some = tenants.split_off(tenants.len().saturating_sub(COUNTED));
                if some.is_empty() {
                    self.stage = Stage::Done;
                    return Ok(false);
                }
                let read = counted(quota, some).await?;
                self.write(quota, &read).await?;
            }
            Stage::Done => return Ok(false),
        }
        Ok(true)
    }

    async fn write(&mut self, quota: &Inner, read: &[(WorkspaceId, Vec<Usage>)]) -> Result<(), Error> {
        let store = quota.kept_snapshots()?;
        let at = Timestamp::now();
        let readings = read.iter().flat_map(|(workspace, usage)| {
            quota.catalog.iter().zip(usage).map(move |(resource, usage)| Reading {
                workspace: workspace.as_str(),
                resource: resource.name(),
                snapshot: reading(at, *usage),
            })
        });
        let readings: Vec<_> = readings.collect();
        for some in readings.chunks(BATCH) {
            quota.within("write snapshots", || store.add(some)).await?;
            self.summary.batches += 1;
            self.summary.snapshots += some.len() as u64;
        }
        self.summary.workspaces += read.len() as u64;
        Ok(())
    }
}

/// Rows beside the limits in force, which are as [`Inner::resolve`] has them, without a statement for each workspace.
async fn with_limits(
    quota: &Arc<Inner>,
    rows: BTreeMap<WorkspaceId, Vec<u64>>,
    records: Vec<QuotaRecord>,
) -> Result<Vec<(WorkspaceId, Vec<Usage>)>, Error> {
    let store = quota.store.inner();
    let plans = if records.iter().any(|record| record.plan.is_some()) {
        quota.within("read the plans", || store.plans()).await?
    } else {
        Vec::new()
    };
    let mut parents: HashMap<WorkspaceId, Lineage> = HashMap::new();
    let mut lineages = HashMap::new();
    for record in records {
        let ancestors = match &record.parent {
            None => &[],
            Some(parent) => {
                if !parents.contains_key(parent) {
                    let lineage = quota.within("read the record", || store.lineage(parent)).await?;
                    parents.insert(parent.clone(), lineage);
                }
                parents.get(parent).map_or(&[][..], Lineage::kin)
            }
        };
        let plan = record.plan.as_deref().and_then(|name| plans.iter().find(|plan| *plan.name == *name).cloned());
        let workspace = record.workspace.clone();
        let kin = [&[Kin::new(record, plan)], ancestors].concat();
        lineages.insert(workspace, Arc::new(Lineage::new(kin)));
    }
    let none = Arc::new(Lineage::default());
    let with_limits = rows.into_iter().map(|(workspace, rows)| {
        let limits = quota.resolve(&workspace, lineages.get(&workspace).unwrap_or(&none)).by_resource;
        (workspace, beside(rows, &limits))
    });
    Ok(with_limits.collect())
}

fn beside(rows: Vec<u64>, limits: &[Limit]) -> Vec<Usage> {
    rows.into_iter().zip(limits).map(|(current, limit)| Usage { current, limit: *limit }).collect()
}

/// Counts the rows of some workspaces, one after the other.
async fn counted(quota: &Arc<Inner>, tenants: Vec<Arc<Tenant>>) -> Result<Vec<(WorkspaceId, Vec<Usage>)>, Error> {
    let (mut counted, mut failures) = (Vec::with_capacity(tenants.len()), 0);
    for tenant in tenants {
        let usage = async {
            let tenant = quota.fresh(&tenant.id).await?;
            let mut rows = Vec::with_capacity(quota.catalog.len());
            for resource in quota.catalog.iter() {
                rows.push(quota.count_rows(&tenant.id, resource.id(), None).await?);
            }
            Ok::<_, Error>(beside(rows, &quota.limits_of(&tenant)?.by_resource))
        };
        match usage.await {
            Ok(usage) => counted.push((tenant.id.clone(), usage)),
            Err(error) => {
                failures += 1;
                if failures >= FAILURES {
                    return Err(error);
                }
                tracing::warn!(error = %error, workspace = %tenant.id, "no snapshot could be taken of a workspace");
            }
        }
    }
    Ok(counted)
}
