//! Rows above a limit, and what becomes of them.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use serde_json::json;

use super::{Admin, Inner};
use crate::error::Error;
use crate::limit::Limit;
use crate::mode::EnforcementMode;
use crate::policy::{Actor, AuditAction, AuditEntry};
use crate::resource::{ResourceId, ResourceType};
use crate::store::QuotaStore;
use crate::usage::{Cleaned, Cleanup, CleanupPolicy, Excess};
use crate::workspace::WorkspaceId;

/// How many rows are handled in one transaction, unless [`CleanupOptions::batch`] says otherwise.
const BATCH: NonZeroU64 = NonZeroU64::MIN.saturating_add(99);

/// How many ids are told.
const SHOWN: usize = 1000;

/// What removes rows, and what becomes of them by resource type.
pub(crate) struct Cleaner {
    pub(crate) source: Arc<dyn Cleanup>,
    pub(crate) policies: BTreeMap<String, CleanupPolicy>,
}

/// How a cleanup is done; see [`Admin::clean`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct CleanupOptions {
    dry_run: bool,
    batch: NonZeroU64,
}

impl Default for CleanupOptions {
    fn default() -> Self {
        Self { dry_run: true, batch: BATCH }
    }
}

impl CleanupOptions {
    /// Tells what would be done, and changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing is changed; yes by default.
    pub fn dry_run(mut self, yes: bool) -> Self {
        self.dry_run = yes;
        self
    }

    /// How many rows are handled in one transaction; 100 by default.
    pub fn batch(mut self, rows: NonZeroU64) -> Self {
        self.batch = rows;
        self
    }
}

/// What came of a cleanup.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CleanupReport {
    /// What was done, or would be, to the rows.
    pub policy: CleanupPolicy,
    /// Nothing was changed.
    pub dry_run: bool,
    /// Rows above the limit, before anything was done.
    pub above: u64,
    /// Rows that were removed.
    pub removed: u64,
    /// The ids of the rows that were removed, or would be, the newest first; at most a thousand.
    pub rows: Vec<String>,
}

impl Admin {
    /// Handles rows above the limit in force, the newest first, as the policy of their resource type says: `report` unless
    /// [`QuotaBuilder::cleanup`](crate::QuotaBuilder::cleanup) chose another.
    ///
    /// Each batch is one transaction. Its entry in the audit log is written in the same one where the rows are in the database
    /// of the store, and right after it elsewhere: there, a crash in between loses the entry.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid`] where rows would be removed and the mode isn't `strict`, or not any more; [`Error::is_config`] where nothing can
    /// remove rows; [`Error::is_unavailable`]. What was done before the failure is done.
    pub async fn clean(
        &self,
        workspace: &WorkspaceId,
        resource: ResourceId,
        options: CleanupOptions,
    ) -> Result<CleanupReport, Error> {
        let quota = &self.quota.0;
        quota.catalog.check(resource)?;
        let of_type = quota.catalog.get(resource);
        let cleaner = quota.cleaner()?;
        let policy = cleaner.policies.get(of_type.name()).copied().unwrap_or_default();
        let dry_run = options.dry_run || policy == CleanupPolicy::Report;
        let mut report = CleanupReport { policy, dry_run, above: 0, removed: 0, rows: Vec::new() };
        if dry_run {
            let Some(limit) = quota.limit_now(workspace, resource).await?.0.rows() else { return Ok(report) };
            let most = u64::try_from(SHOWN).unwrap_or(u64::MAX);
            let excess = Excess::new(workspace, of_type, limit, most);
            let found = quota.within("look for rows above the limit", || cleaner.source.clean(excess)).await?;
            return Ok(CleanupReport { above: found.above, rows: found.rows, ..report });
        }
        loop {
            // In a task of its own: what is removed is told, whether or not the caller stays to hear it.
            let (admin, workspace) = (self.clone(), workspace.clone());
            let batch =
                tokio::spawn(async move { admin.clean_some(&workspace, resource, policy, options.batch).await });
            let cleaned =
                batch.await.map_err(|error| Error::unavailable("the cleanup broke off").with_source(error))??;
            report.above = report.above.max(report.removed.saturating_add(cleaned.above));
            let removed = u64::try_from(cleaned.rows.len()).unwrap_or(u64::MAX);
            if removed == 0 {
                return Ok(report);
            }
            report.removed = report.removed.saturating_add(removed);
            report.rows.extend(cleaned.rows);
            report.rows.truncate(SHOWN);
        }
    }

    /// One batch, by the limit and the mode that are in the store now.
    async fn clean_some(
        &self,
        workspace: &WorkspaceId,
        resource: ResourceId,
        policy: CleanupPolicy,
        batch: NonZeroU64,
    ) -> Result<Cleaned, Error> {
        let quota = &self.quota.0;
        let (cleaner, of_type) = (quota.cleaner()?, quota.catalog.get(resource));
        let (limit, mode) = quota.limit_now(workspace, resource).await?;
        if mode != EnforcementMode::Strict {
            return Err(Error::invalid(format!(
                "rows are only removed in mode strict, and {} of this workspace are not in it",
                of_type.name()
            )));
        }
        let Some(keep) = limit.rows() else { return Ok(Cleaned::nothing()) };
        let entry = |cleaned: &Cleaned| told(&self.actor, workspace, of_type, policy, keep, cleaned);
        let place = cleaner.source.place();
        let sql = |cleaned: &Cleaned| quota.store.inner().audit_sql(&entry(cleaned), place.as_deref()?);
        let record = |cleaned: &Cleaned| sql(cleaned).into_iter().collect::<Vec<_>>();
        let excess = Excess::new(workspace, of_type, keep, batch.get()).policy(policy).record(&record);
        let cleaned = quota.within("remove rows above the limit", || cleaner.source.clean(excess)).await?;
        if cleaned.rows.is_empty() {
            return Ok(cleaned);
        }
        if sql(&cleaned).is_none() {
            self.tell(entry(&cleaned)).await?;
        }
        quota.count_behind(workspace, vec![resource]);
        Ok(cleaned)
    }
}

impl Inner {
    fn cleaner(&self) -> Result<&Cleaner, Error> {
        let none = || Error::config("nothing can remove rows: call `cleanup` on the builder of the quota");
        self.cleaner.as_ref().ok_or_else(none)
    }

    /// The limit and the mode of a resource type by what is in the store now.
    async fn limit_now(
        self: &Arc<Self>,
        workspace: &WorkspaceId,
        resource: ResourceId,
    ) -> Result<(Limit, EnforcementMode), Error> {
        let lineage = self.reread(workspace).await?;
        let limits = self.resolve(workspace, &lineage);
        Ok((limits.by_resource[resource.index()], self.mode_of(Some(&limits), resource)))
    }
}

fn told(
    actor: &Actor,
    workspace: &WorkspaceId,
    resource: &ResourceType,
    policy: CleanupPolicy,
    keep: u64,
    cleaned: &Cleaned,
) -> AuditEntry {
    let entry = AuditEntry::new(actor, AuditAction::Cleanup).workspace(workspace.as_str()).resource(resource.name());
    entry.change(json!({"above": cleaned.above, "limit": keep}), json!({"policy": policy, "rows": cleaned.rows}))
}
