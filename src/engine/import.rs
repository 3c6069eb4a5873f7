//! The way from unlimited to limited: limits by what there is, and whether the next step would refuse anybody.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Admin, Inner};
use crate::authority::Changed;
use crate::error::Error;
use crate::limit::Limit;
use crate::policy::{Actor, AuditAction, AuditEntry, Lineage};
use crate::resource::ResourceType;
use crate::store::{QuotaStore, StoreTransaction, now};
use crate::usage::{UsagePages, UsageSource, WorkspaceUsage};
use crate::workspace::WorkspaceId;

/// How many workspaces are changed in one transaction, unless [`ImportOptions::batch`] says otherwise.
const BATCH: NonZeroUsize = NonZeroUsize::MIN.saturating_add(499);

/// How many ids that are none are named.
const INVALID_SHOWN: usize = 10;

/// How limits are proposed by what there is; see [`Admin::import`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct ImportOptions {
    percent: u32,
    floor: u64,
    allow_lowering: bool,
    apply: bool,
    batch: NonZeroUsize,
    name: String,
    after: Option<String>,
}

impl Default for ImportOptions {
    fn default() -> Self {
        let (percent, floor, allow_lowering, apply) = (120, 0, false, false);
        Self { percent, floor, allow_lowering, apply, batch: BATCH, name: "import".to_owned(), after: None }
    }
}

impl ImportOptions {
    /// Proposes 120 percent of what there is, rounded up, and applies nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many percent of what there is a limit is, rounded up.
    pub fn percent(mut self, percent: u32) -> Self {
        self.percent = percent;
        self
    }

    /// The least that a limit is; with 0, the default, a resource type without rows gets none.
    pub fn floor(mut self, rows: u64) -> Self {
        self.floor = rows;
        self
    }

    /// Whether a limit that is there already may become lower; no by default.
    pub fn allow_lowering(mut self, yes: bool) -> Self {
        self.allow_lowering = yes;
        self
    }

    /// Whether the limits are set; no by default.
    pub fn apply(mut self, yes: bool) -> Self {
        self.apply = yes;
        self
    }

    /// How many workspaces are changed in one transaction; 500 by default.
    pub fn batch(mut self, workspaces: NonZeroUsize) -> Self {
        self.batch = workspaces;
        self
    }

    /// By what name the run is known, so that it goes on where it was broken off; `import` by default.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Where a run that applies nothing begins: behind the workspace with this id.
    pub fn after(mut self, workspace: impl Into<String>) -> Self {
        self.after = Some(workspace.into());
        self
    }

    fn check(&self) -> Result<(), Error> {
        const MOST: u32 = 100_000;
        if !(1..=MOST).contains(&self.percent) {
            return Err(Error::invalid(format!("`percent` is an integer of 1 to {MOST}; got {}", self.percent)));
        }
        if self.floor > Limit::MAX {
            return Err(Error::invalid(format!("`floor` is an integer of 0 to {}", Limit::MAX)));
        }
        if self.name.is_empty() || self.name.len() > 100 {
            return Err(Error::invalid("`name` has 1 to 100 bytes"));
        }
        Ok(())
    }

    /// The limit for so many rows.
    fn proposal(&self, rows: u64) -> Option<Limit> {
        let needed = (u128::from(rows) * u128::from(self.percent)).div_ceil(100);
        let needed = u64::try_from(needed).unwrap_or(u64::MAX).clamp(self.floor, Limit::MAX.max(self.floor));
        if rows == 0 && self.floor == 0 { None } else { Limit::finite(needed.min(Limit::MAX)).ok() }
    }
}

/// A limit that was proposed for a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Proposal {
    /// For whom.
    pub workspace: WorkspaceId,
    /// For what.
    pub resource: Arc<ResourceType>,
    /// Rows that there are.
    pub rows: u64,
    /// What there was: a limit of its own, of its plan or of its parent; `None` where the default is in force.
    pub existing: Option<Limit>,
    /// The limit for those rows.
    pub proposed: Limit,
    /// Whether it takes the place of what there was.
    pub taken: bool,
}

/// How far a run has come.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct ImportSummary {
    /// Workspaces that were looked at.
    pub workspaces: u64,
    /// Limits that were set where there was none, or would be.
    pub set: u64,
    /// Limits that were raised.
    pub raised: u64,
    /// Limits that were lowered.
    pub lowered: u64,
    /// Limits that were left as they are.
    pub kept: u64,
    /// Ids in the host's rows that are none of a workspace.
    pub invalid: u64,
    /// The first of them.
    pub invalid_ids: Vec<String>,
    /// The last workspace that was looked at.
    pub after: Option<String>,
    /// All were looked at.
    pub done: bool,
}

/// A run over all workspaces that have rows, a batch at a time: see [`Admin::import`].
pub struct Import {
    quota: Arc<Inner>,
    actor: Actor,
    options: ImportOptions,
    pages: UsagePages<Arc<dyn UsageSource>>,
    /// Read, and not looked at yet; the next one last.
    read: Vec<WorkspaceUsage>,
    summary: ImportSummary,
}

impl fmt::Debug for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Import").field("options", &self.options).field("summary", &self.summary).finish_non_exhaustive()
    }
}

impl Admin {
    /// Proposes limits for all workspaces by what they have, or sets them, in memory that doesn't grow with their number.
    ///
    /// A limit that is there, of the workspace itself, of its plan or of its parent, is never lowered unless
    /// [`allow_lowering`](ImportOptions::allow_lowering) says so. A run that applies its limits notes how far it has come in
    /// the transaction of each batch: one of the same [`name`](ImportOptions::name) goes on there, and begins anew where the
    /// last one was done.
    ///
    /// ```
    /// use tower_quota::{Actor, Error, ImportOptions, Quota};
    ///
    /// async fn migrate(quota: &Quota) -> Result<u64, Error> {
    ///     let mut import = quota.admin(Actor::new("ann", "shell")).import(ImportOptions::new().apply(true)).await?;
    ///     while let Some(proposals) = import.next().await? {
    ///         println!("{} limits looked at", proposals.len());
    ///     }
    ///     Ok(import.summary().set)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid`] for options out of range, [`Error::is_unavailable`]; [`Error::is_config`] where the usage source
    /// can't list workspaces, or the store keeps limits only.
    pub async fn import(&self, options: ImportOptions) -> Result<Import, Error> {
        options.check()?;
        let quota = Arc::clone(&self.quota.0);
        let mut summary = ImportSummary { after: options.after.clone(), ..ImportSummary::default() };
        if options.apply {
            summary.after = None;
            let begun = quota.within("begin the import", || async {
                let mut transaction = quota.store.inner().begin().await?;
                let kept = read_progress(&mut *transaction, &options.name).await?;
                if let Some(kept) = kept.filter(|kept| !kept.done) {
                    return Ok(kept);
                }
                // From here on there is something that runs of this name wait for each other by.
                write_progress(&mut *transaction, &options.name, &summary).await?;
                transaction.commit().await?;
                Ok(summary.clone())
            });
            summary = begun.await?;
        }
        let mut pages = UsagePages::new(Arc::clone(&quota.usage), &quota.catalog);
        if let Some(after) = &summary.after {
            pages = pages.after(after.clone());
        }
        Ok(Import { quota, actor: self.actor.clone(), options, pages, read: Vec::new(), summary })
    }
}

impl Import {
    /// How far it has come.
    pub fn summary(&self) -> &ImportSummary {
        &self.summary
    }

    /// Looks at the next workspaces; `None` when all were looked at.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`]; [`Error::is_conflict`] when the batch was done already: by another run of the same name, or
    /// by a call of this one that was given up. After either, a new [`Admin::import`] goes on where it was. In mode `strict` that
    /// is behind a batch whose limits are in force, though what was admitted before may still make rows above those that became
    /// lower: see [`Admin`]. A change of such a workspace that changes nothing waits for that again.
    pub async fn next(&mut self) -> Result<Option<Vec<Proposal>>, Error> {
        if self.summary.done {
            return Ok(None);
        }
        if self.read.is_empty() {
            self.read = self.pages.next().await?;
            self.read.reverse();
        }
        let from = self.read.len().saturating_sub(self.options.batch.get());
        let batch: Vec<_> = self.read[from..].iter().rev().cloned().collect();
        let mut summary = self.summary.clone();
        summary.done = batch.is_empty();
        summary.after = batch.last().map(|usage| usage.workspace.clone()).or(summary.after);
        let proposals = if self.options.apply {
            let applied = self.apply(&batch, &mut summary).await;
            if summary.done || applied.is_err() {
                // Limits may have changed all over: one look at all of them is less than a look at each.
                self.quota.sweep_soon();
            }
            applied?
        } else {
            let mut proposals = Vec::new();
            for (workspace, rows) in self.valid(&batch, &mut summary) {
                let lineage =
                    self.quota.within("read the record", || self.quota.store.inner().lineage(&workspace)).await?;
                self.propose(&workspace, &rows, &lineage, &mut summary, &mut proposals);
            }
            proposals
        };
        self.read.truncate(from);
        self.summary = summary;
        Ok((!self.summary.done).then_some(proposals))
    }

    /// In a transaction, and in a task of its own: what is stored must come in force, whoever stays to hear it.
    async fn apply(&self, batch: &[WorkspaceUsage], summary: &mut ImportSummary) -> Result<Vec<Proposal>, Error> {
        let mut transaction = self.quota.store.inner().begin().await?;
        if read_progress(&mut *transaction, &self.options.name).await?.as_ref() != Some(&self.summary) {
            return Err(Error::conflict(format!("another run of {:?} has gone on meanwhile", self.options.name)));
        }
        let mut proposals = Vec::new();
        let (mut changed, mut lower) = (HashSet::new(), Changed::nothing());
        let mut valid = self.valid(batch, summary);
        let order = transaction.in_order(valid.iter().map(|(workspace, _)| workspace.clone()).collect()).await?;
        let place: HashMap<_, _> = order.into_iter().zip(0_usize..).collect();
        valid.sort_by_key(|(workspace, _)| place.get(workspace).copied());
        for (workspace, rows) in valid {
            let first = proposals.len();
            let (mut record, made) = transaction.record(&workspace).await?;
            let lineage = transaction.lineage(&workspace).await?;
            self.propose(&workspace, &rows, &lineage, summary, &mut proposals);
            let taken: Vec<_> = proposals[first..].iter().filter(|proposal| proposal.taken).collect();
            if taken.is_empty() {
                continue;
            }
            // Where nothing was set, the default was in force.
            let is_lower = |proposal: &&&Proposal| {
                let before = proposal.existing.unwrap_or(proposal.resource.default_limit()).rows();
                proposal.proposed.rows().is_some_and(|rows| before.is_none_or(|before| rows < before))
            };
            let types = taken.iter().filter(is_lower).map(|proposal| proposal.resource.id());
            lower.add(&workspace, Some(types.collect()));
            for proposal in taken {
                record.limits.set(proposal.resource.id(), proposal.proposed);
                let entry = AuditEntry::new(&self.actor, AuditAction::Imported).workspace(workspace.as_str());
                let old = proposal.existing.map_or_else(|| json!("unset"), |limit| json!(limit));
                let entry = entry.resource(proposal.resource.name()).change(old, json!(proposal.proposed));
                transaction.audit(&entry.reason(format!("{} rows", proposal.rows))).await?;
            }
            record.version += u64::from(!made);
            record.updated_at = record.updated_at.max(now());
            transaction.save(&record).await?;
            changed.insert(workspace);
        }
        write_progress(&mut *transaction, &self.options.name, summary).await?;
        let quota = Arc::clone(&self.quota);
        let done = tokio::spawn(async move {
            let done = transaction.commit().await;
            for workspace in &changed {
                quota.changed_among_many(workspace, None);
            }
            done?;
            quota.lowered(&lower).await
        });
        done.await.map_err(|error| Error::unavailable("the import broke off").with_source(error))??;
        Ok(proposals)
    }

    fn valid(&self, batch: &[WorkspaceUsage], summary: &mut ImportSummary) -> Vec<(WorkspaceId, Vec<u64>)> {
        let mut valid: Vec<(WorkspaceId, Vec<u64>)> = Vec::with_capacity(batch.len());
        for usage in batch {
            summary.workspaces += 1;
            match self.quota.config.workspace_format.parse(&usage.workspace) {
                Ok(workspace) => valid.push((workspace, usage.rows.clone())),
                Err(_) => {
                    summary.invalid += 1;
                    if summary.invalid_ids.len() < INVALID_SHOWN {
                        summary.invalid_ids.push(usage.workspace.chars().take(64).collect());
                    }
                }
            }
        }
        valid
    }

    fn propose(
        &self,
        workspace: &WorkspaceId,
        rows: &[u64],
        lineage: &Lineage,
        summary: &mut ImportSummary,
        proposals: &mut Vec<Proposal>,
    ) {
        let at = Timestamp::now();
        for (resource, rows) in self.quota.catalog.iter().zip(rows.iter().copied()) {
            let Some(proposed) = self.options.proposal(rows) else { continue };
            let existing = lineage.lasting_limit_set(resource, at);
            let higher = |than: Limit| match (proposed.rows(), than.rows()) {
                (Some(proposed), Some(than)) => proposed > than,
                (_, than) => than.is_some(),
            };
            let taken = match existing {
                None => {
                    summary.set += 1;
                    true
                }
                Some(existing) if higher(existing) => {
                    summary.raised += 1;
                    true
                }
                Some(existing) if existing != proposed && self.options.allow_lowering => {
                    summary.lowered += 1;
                    true
                }
                Some(_) => {
                    summary.kept += 1;
                    false
                }
            };
            let (workspace, resource) = (workspace.clone(), Arc::clone(resource));
            proposals.push(Proposal { workspace, resource, rows, existing, proposed, taken });
        }
    }
}

async fn read_progress(transaction: &mut dyn StoreTransaction, name: &str) -> Result<Option<ImportSummary>, Error> {
    let kept = transaction.progress(name).await?;
    let broken = |error| Error::unavailable(format!("the progress of {name:?} can't be read")).with_source(error);
    kept.map(|kept| serde_json::from_str(&kept).map_err(broken)).transpose()
}

async fn write_progress(
    transaction: &mut dyn StoreTransaction,
    name: &str,
    summary: &ImportSummary,
) -> Result<(), Error> {
    let progress = serde_json::to_string(summary)
        .map_err(|error| Error::unavailable("the progress can't be written").with_source(error))?;
    transaction.save_progress(name, &progress).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proposals_are_rounded_up_and_never_below_the_floor() {
        let rows = |options: &ImportOptions, rows| options.proposal(rows).map(|limit| limit.rows().unwrap());
        let options = ImportOptions::new();
        let expected =
            [(0, None), (1, Some(2)), (5, Some(6)), (6, Some(8)), (50, Some(60)), (u64::MAX, Some(Limit::MAX))];
        for (there, limit) in expected {
            assert_eq!(rows(&options, there), limit, "{there}");
        }
        let options = options.percent(100).floor(10);
        assert_eq!([rows(&options, 0), rows(&options, 9), rows(&options, 11)], [Some(10), Some(10), Some(11)]);
        for bad in
            [ImportOptions::new().percent(0), ImportOptions::new().name(""), ImportOptions::new().floor(u64::MAX)]
        {
            assert!(bad.check().unwrap_err().is_invalid());
        }
    }
}
