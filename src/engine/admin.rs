//! Changes of what limits come from, each in one transaction with its entries in the audit log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::tenant::Tenant;
use super::{Inner, Quota, QuotaView, Recount, lowering};
use crate::authority::Changed;
use crate::error::Error;
use crate::limit::{Limit, LimitSet};
use crate::mode::EnforcementMode;
use crate::policy::{
    Actor, AuditAction, AuditEntry, Grace, IncreaseRequest, Kin, Lineage, MAX_ANCESTORS, Plan, RequestStatus,
    TemporaryOverride,
};
use crate::resource::{ResourceCatalog, ResourceId, shown};
use crate::store::{Expect, QuotaRecord, StoreTransaction, now};
use crate::workspace::WorkspaceId;

/// The longest reason or note, in bytes.
const LONGEST_REASON: usize = 2000;
/// The most requests of a workspace that wait for a decision.
const MOST_PENDING: usize = 100;
/// The most temporary overrides that a workspace has at a time.
const MOST_OVERRIDES: usize = 100;

/// Changes what limits come from, in somebody's name. [`Quota::admin`] has it.
///
/// A change is in force, in this process, when its method returns; on other replicas as soon as they hear of it, and nothing
/// is granted by what was before. What was admitted before may still become rows. In mode `strict` it can't any more: a method
/// that has made a limit or a cap lower returns when no row can come to exist above it. It waits for requests in flight, and,
/// with a fenced `PostgresLedger`, takes units from processes that don't give them back, so that their handlers' `Fence` fails.
/// Where they can't be taken, within one process, or where a transaction holds on to them for too long, it is
/// [`Error::is_unavailable`] after some seconds. With a `PostgresLedger` that isn't fenced nothing is waited for: the method
/// returns at once in each mode.
///
/// Each change is told in the audit log, in the same transaction. One that fails has changed nothing, but for
/// [`Error::is_unavailable`]: then it may be stored, and is in force if it is. To wait for a lower limit again, make the same
/// change again: it is waited for though there is nothing left to change. Where that is refused, since it was made (its version
/// is another one now, the override has ended), any change of the workspace that changes nothing does the same.
///
/// They need a store with transactions, a `SqliteStore` or a `PostgresStore`: with another all but
/// [`set_limits`](Self::set_limits) fail with [`Error::is_config`].
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_quota::{Actor, ClosureUsage, Expect, Limit, LimitSet, PolicyChange, Quota, ResourceCatalog, SqliteStore};
///
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("sqlite://{}", directory.path().join("quota.db").display());
/// let catalog = ResourceCatalog::default();
/// let segments = catalog.by_name("segments")?.id();
/// let quota = Quota::builder(catalog.clone())
///     .store(SqliteStore::connect(&url, &catalog).await?)
///     .usage(ClosureUsage::new(|_workspace, _resource, _at_most| async { Ok::<_, std::io::Error>(0) }))
///     .build()?;
/// let acme = quota.workspace("acme")?;
///
/// let ann = quota.admin(Actor::new("ann", "billing"));
/// ann.put_plan("pro", &LimitSet::new().with(segments, Limit::of(200)), &Expect::Anything).await?;
/// ann.configure(&acme, PolicyChange::new().plan("pro"), &Expect::Anything).await?;
/// assert_eq!(quota.usage(&acme).await?[segments.index()].limit, Limit::of(200));
/// # Ok(()) }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Admin {
    pub(super) quota: Quota,
    pub(super) actor: Actor,
}

/// A change of what is set for a workspace; what it doesn't name stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use]
pub struct PolicyChange {
    plan: Option<Option<String>>,
    parent: Option<Option<WorkspaceId>>,
    shares: BTreeMap<String, Option<u32>>,
    caps: BTreeMap<String, Limit>,
    mode: Option<Option<EnforcementMode>>,
    modes: BTreeMap<String, Option<EnforcementMode>>,
    grace: Option<Option<Grace>>,
    reason: Option<String>,
}

impl PolicyChange {
    /// Changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Assigns a plan, or none.
    pub fn plan<'a>(mut self, name: impl Into<Option<&'a str>>) -> Self {
        self.plan = Some(name.into().map(str::to_owned));
        self
    }

    /// Puts the workspace below another, or below none.
    pub fn parent(mut self, parent: impl Into<Option<WorkspaceId>>) -> Self {
        self.parent = Some(parent.into());
        self
    }

    /// The share of the parent's limit, in percent of 0 to 100; none with `None`.
    pub fn share(mut self, resource: impl Into<String>, percent: impl Into<Option<u32>>) -> Self {
        self.shares.insert(resource.into(), percent.into());
        self
    }

    /// The cap on the workspace and all below it; none with [`Limit::Unlimited`].
    pub fn cap(mut self, resource: impl Into<String>, cap: Limit) -> Self {
        self.caps.insert(resource.into(), cap);
        self
    }

    /// The enforcement mode of the workspace, or that of all.
    pub fn mode(mut self, mode: impl Into<Option<EnforcementMode>>) -> Self {
        self.mode = Some(mode.into());
        self
    }

    /// The enforcement mode of one of its resource types, or that of the workspace.
    pub fn mode_of(mut self, resource: impl Into<String>, mode: impl Into<Option<EnforcementMode>>) -> Self {
        self.modes.insert(resource.into(), mode.into());
        self
    }

    /// The grace of the workspace, or that of the engine.
    pub fn grace(mut self, grace: impl Into<Option<Grace>>) -> Self {
        self.grace = Some(grace.into());
        self
    }

    /// Why.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Whether rows count in other books after it.
    fn moves(&self) -> bool {
        self.parent.is_some() || !self.caps.is_empty()
    }

    fn check(&self, catalog: &ResourceCatalog) -> Result<(), Error> {
        let named = self.shares.keys().chain(self.caps.keys()).chain(self.modes.keys());
        for name in named.chain(self.grace.iter().flatten().flat_map(|grace| &grace.resources)) {
            catalog.by_name(name)?;
        }
        if let Some((name, percent)) =
            self.shares.iter().find(|(_, percent)| percent.is_some_and(|percent| percent > 100))
        {
            let percent = percent.unwrap_or_default();
            return Err(Error::invalid(format!(
                "the share of {name} is an integer of 0 to 100, in percent; got {percent}"
            )));
        }
        if let Some(grace) = self.grace.iter().flatten().next() {
            grace.check()?;
        }
        self.reason.as_deref().map_or(Ok(()), |reason| check_reason("reason", reason))
    }

    /// Changes the record; answers what is to be told of it.
    fn apply(&self, record: &mut QuotaRecord, actor: &Actor) -> Vec<AuditEntry> {
        let mut told = Vec::new();
        let mut tell = |action, resource: Option<&str>, old: Value, new: Value| {
            if old == new {
                return;
            }
            let entry = AuditEntry::new(actor, action).workspace(record.workspace.as_str()).change(old, new);
            let entry = entry.reason(self.reason.clone());
            told.push(match resource {
                Some(resource) => entry.resource(resource),
                None => entry,
            });
        };
        if let Some(plan) = &self.plan {
            tell(AuditAction::PlanAssigned, None, json!(record.plan.as_deref()), json!(plan));
            record.plan = plan.as_deref().map(Into::into);
        }
        if let Some(parent) = &self.parent {
            let name = |parent: &Option<WorkspaceId>| json!(parent.as_ref().map(WorkspaceId::as_str));
            tell(AuditAction::ParentSet, None, name(&record.parent), name(parent));
            record.parent.clone_from(parent);
        }
        let settings = &mut record.settings;
        for (name, share) in &self.shares {
            let before = put(&mut settings.shares, name, *share);
            tell(AuditAction::ShareSet, Some(name), json!(before), json!(share));
        }
        for (name, cap) in &self.caps {
            let before = put(&mut settings.caps, name, cap.rows().map(|_| *cap));
            tell(AuditAction::CapSet, Some(name), json!(before), json!(cap));
        }
        if let Some(mode) = self.mode {
            tell(AuditAction::ModeSet, None, json!(settings.mode), json!(mode));
            settings.mode = mode;
        }
        for (name, mode) in &self.modes {
            let before = put(&mut settings.modes, name, *mode);
            tell(AuditAction::ModeSet, Some(name), json!(before), json!(mode));
        }
        if let Some(grace) = &self.grace {
            tell(AuditAction::GraceSet, None, json!(settings.grace), json!(grace));
            settings.grace.clone_from(grace);
        }
        told
    }
}

/// Sets an entry of a map, or takes it out; answers what was there.
fn put<T: Copy>(map: &mut BTreeMap<String, T>, name: &str, value: Option<T>) -> Option<T> {
    match value {
        Some(value) => map.insert(name.to_owned(), value),
        None => map.remove(name),
    }
}

fn check_reason(what: &str, reason: &str) -> Result<(), Error> {
    if reason.trim().is_empty() {
        return Err(Error::invalid(format!("`{what}` is empty: say why")));
    }
    if reason.len() > LONGEST_REASON {
        return Err(Error::invalid(format!("`{what}` has at most {LONGEST_REASON} bytes; got {}", reason.len())));
    }
    Ok(())
}

/// A limit in the audit log, where there may be none of its own.
fn told(limit: Option<Limit>) -> Value {
    limit.map_or_else(|| json!("unset"), |limit| json!(limit))
}

/// A limit with so many rows more.
fn with_more(limit: Limit, amount: u64) -> Result<Limit, Error> {
    let Some(rows) = limit.rows() else {
        return Err(Error::invalid("there is no limit that could be raised: it is unlimited"));
    };
    if amount == 0 {
        return Err(Error::invalid("`amount` is an integer of 1 or more: by how many rows the limit is to grow"));
    }
    rows.checked_add(amount).filter(|rows| *rows <= Limit::MAX).map_or_else(
        || {
            Err(Error::invalid(format!(
                "`amount` is too large: with the limit of {rows} it is more than {}",
                Limit::MAX
            )))
        },
        Limit::finite,
    )
}

impl Quota {
    /// What somebody may change; whether they may is for the caller to know.
    pub fn admin(&self, actor: Actor) -> Admin {
        Admin { quota: self.clone(), actor }
    }
}

impl Admin {
    /// Changes the limits in `changes` and leaves the others as they are; makes the record if there is none.
    ///
    /// # Errors
    ///
    /// As [`Quota::update_limits`].
    pub async fn set_limits(
        &self,
        workspace: &WorkspaceId,
        changes: &LimitSet,
        expect: &Expect,
        reason: Option<String>,
    ) -> Result<QuotaView, Error> {
        let (changes, expect) = (changes.clone(), expect.clone());
        if let Some(reason) = &reason {
            check_reason("reason", reason)?;
        }
        self.change(workspace, move |on: Change| async move {
            let transaction = if changes.is_empty() { Ok(None) } else { on.begin().await.map(Some) };
            let mut transaction = match transaction {
                Ok(Some(transaction)) => transaction,
                // A store that keeps limits only, or nothing to be told.
                Ok(None) => return on.update(&changes, &expect).await,
                Err(error) if error.is_config() => return on.update(&changes, &expect).await,
                Err(error) => return Err(error),
            };
            let before = on.limits(&mut *transaction, &changes, &expect, reason.as_deref()).await?;
            on.commit(transaction, &before).await
        })
        .await
    }

    /// The same changes to many workspaces, of all or of none.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid`] for no workspace or more than [`Admin::MOST_AT_ONCE`], [`Error::is_unavailable`].
    pub async fn set_limits_of_all(
        &self,
        workspaces: &[WorkspaceId],
        changes: &LimitSet,
        reason: Option<String>,
    ) -> Result<(), Error> {
        let workspaces: BTreeSet<WorkspaceId> = workspaces.iter().cloned().collect();
        if workspaces.is_empty() || workspaces.len() > Self::MOST_AT_ONCE {
            return Err(Error::invalid(format!("`workspaces` lists 1 to {} workspaces", Self::MOST_AT_ONCE)));
        }
        if let Some(reason) = &reason {
            check_reason("reason", reason)?;
        }
        let (quota, actor, changes) = (Arc::clone(&self.quota.0), self.actor.clone(), changes.clone());
        self.in_a_task(async move {
            let mut transaction = quota.store.inner().begin().await?;
            let workspaces = transaction.in_order(workspaces.into_iter().collect()).await?;
            let on = |workspace: &WorkspaceId| Change {
                quota: Arc::clone(&quota),
                actor: actor.clone(),
                workspace: workspace.clone(),
            };
            let mut lower = Changed::nothing();
            for workspace in &workspaces {
                let on = on(workspace);
                let before = on.limits(&mut *transaction, &changes, &Expect::Anything, reason.as_deref()).await?;
                let after = transaction.lineage(workspace).await?;
                lower.add(workspace, lowering::lower(&quota.catalog, &before, &after));
            }
            let done = transaction.commit().await;
            for workspace in &workspaces {
                quota.changed(workspace, None);
            }
            done?;
            quota.lowered(&lower).await
        })
        .await
    }

    /// How many workspaces can be changed at once.
    pub const MOST_AT_ONCE: usize = 1000;

    /// Takes limits back that were set for the workspace itself: its plan, its parent or the default says what they are.
    ///
    /// # Errors
    ///
    /// As [`Quota::update_limits`].
    pub async fn clear_limits(
        &self,
        workspace: &WorkspaceId,
        resources: &[ResourceId],
        expect: &Expect,
    ) -> Result<QuotaView, Error> {
        let (resources, expect) = (resources.to_vec(), expect.clone());
        self.change(workspace, move |on: Change| async move {
            on.record(&expect, |record, told| {
                for resource in resources.iter().map(|id| on.quota.catalog.get(*id)) {
                    if let Some(limit) = record.limits.remove(resource.id()) {
                        let entry = on.entry(AuditAction::LimitSet).resource(resource.name());
                        told.push(entry.change(json!(limit), self::told(None)));
                    }
                }
                Ok(())
            })
            .await
        })
        .await
    }

    /// Changes what is set for a workspace beside its limits; makes the record if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid`] for an unknown plan or parent, a parent that would make a cycle or too deep a tree (the message
    /// names the path), a percentage above 100; [`Error::is_unknown_resource`]; [`Error::is_conflict`] when the record is not
    /// what `expect` says; [`Error::is_unavailable`].
    pub async fn configure(
        &self,
        workspace: &WorkspaceId,
        change: PolicyChange,
        expect: &Expect,
    ) -> Result<QuotaView, Error> {
        change.check(&self.quota.0.catalog)?;
        let expect = expect.clone();
        self.change_or_move(workspace, change.moves(), move |on: Change| async move {
            let mut transaction = on.begin().await?;
            if change.moves() {
                // One of those at a time, and before anything else is locked.
                let below = transaction.members(&on.workspace).await?;
                if let Some(Some(parent)) = &change.parent {
                    on.check_parent(&mut *transaction, parent, &below).await?;
                }
            }
            if let Some(Some(name)) = &change.plan
                && transaction.plan(name).await?.is_none()
            {
                return Err(Error::invalid(format!("there is no plan {}: make it first", shown(name))));
            }
            let mut draft = Draft::new(&mut *transaction, &on.workspace, &expect).await?;
            let told = change.apply(&mut draft.record, &on.actor);
            let before = draft.save(&mut *transaction, &told).await?;
            let moved = if change.moves() { on.moved(&mut *transaction).await? } else { Vec::new() };
            let done = on.commit(transaction, &before).await?;
            if change.moves() {
                on.moves(moved, &done.lineage).await;
            }
            Ok(done)
        })
        .await
    }

    /// Makes a plan, or gives it other limits; those that are not among `limits` it has no more.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid`] for a name that can't be one, [`Error::is_conflict`] when the plan is not what `expect` says,
    /// [`Error::is_unavailable`].
    pub async fn put_plan(&self, name: &str, limits: &LimitSet, expect: &Expect) -> Result<Plan, Error> {
        Plan::check_name(name)?;
        let (name, limits, expect) = (name.to_owned(), limits.clone(), expect.clone());
        let (quota, actor) = (Arc::clone(&self.quota.0), self.actor.clone());
        self.in_a_task(async move {
            let mut transaction = quota.store.inner().begin().await?;
            let before = transaction.plan(&name).await?;
            if !expect.holds(before.as_ref().map(|plan| plan.version)) {
                return Err(Error::conflict(format!("plan {} has another version, or isn't there", shown(&name))));
            }
            let now = now();
            let (version, made) = before.as_ref().map_or((0, now), |plan| (plan.version, plan.created_at));
            if let Some(before) = before.as_ref().filter(|before| before.limits == limits) {
                // It may have been put before, and not have been waited for to the end.
                drop(transaction);
                quota.lowered(&Changed { plan: Some(name), ..Changed::default() }).await?;
                return Ok(before.clone());
            }
            let plan = Plan::new(name.as_str().into(), version + 1, limits, made, now);
            let action = if before.is_some() { AuditAction::PlanChanged } else { AuditAction::PlanCreated };
            let limits = |plan: &Plan| quota.named(&plan.limits);
            let old = before.as_ref().map_or(Value::Null, limits);
            let entry = AuditEntry::new(&actor, action).change(old, limits(&plan));
            let none = LimitSet::new();
            let limits_before = before.as_ref().map_or(&none, |before| &before.limits);
            let lower = lowering::lower_of_plan(&quota.catalog, limits_before, &plan.limits);
            transaction.save_plan(&plan).await?;
            transaction.audit(&entry.reason(format!("plan {name}"))).await?;
            let done = transaction.commit().await;
            quota.outdate(|tenant| tenant.limits().is_some_and(|limits| limits.depends_on_plan(&name)));
            quota.sweep_soon();
            done?;
            quota.lowered(&Changed { plan: Some(name), resources: Some(lower), ..Changed::default() }).await?;
            Ok(plan)
        })
        .await
    }

    /// Deletes a plan that no workspace has.
    ///
    /// # Errors
    ///
    /// [`Error::is_not_found`], [`Error::is_conflict`] when workspaces have it, [`Error::is_unavailable`].
    pub async fn delete_plan(&self, name: &str) -> Result<(), Error> {
        let (name, quota, actor) = (name.to_owned(), Arc::clone(&self.quota.0), self.actor.clone());
        self.in_a_task(async move {
            let mut transaction = quota.store.inner().begin().await?;
            let plan = transaction.plan(&name).await?;
            let plan = plan.ok_or_else(|| Error::not_found(format!("there is no plan {}", shown(&name))))?;
            let assigned = transaction.assigned(&name).await?;
            if assigned > 0 {
                return Err(Error::conflict(format!(
                    "{assigned} workspaces have plan {}: give them another one first",
                    shown(&name)
                )));
            }
            transaction.remove_plan(&name).await?;
            let entry =
                AuditEntry::new(&actor, AuditAction::PlanDeleted).change(quota.named(&plan.limits), Value::Null);
            transaction.audit(&entry.reason(format!("plan {name}"))).await?;
            transaction.commit().await
        })
        .await
    }

    /// Sets a limit for a time; it reverts by itself.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid`] when it is over already, ends before it begins, has no reason, or overlaps with another one of
    /// the same resource type; [`Error::is_unknown_resource`]; [`Error::is_unavailable`].
    pub async fn add_override(
        &self,
        workspace: &WorkspaceId,
        mut temporary: TemporaryOverride,
    ) -> Result<TemporaryOverride, Error> {
        self.quota.0.catalog.by_name(&temporary.resource_type)?;
        temporary.created_by = self.actor.subject().to_owned();
        let added = temporary.clone();
        self.change(workspace, move |on: Change| async move {
            on.record(&Expect::Anything, |record, told| on.add_override(record, temporary, told)).await
        })
        .await?;
        Ok(added)
    }

    /// Ends a temporary override before its time.
    ///
    /// # Errors
    ///
    /// [`Error::is_not_found`] when there is none with this id, or it is over; [`Error::is_unavailable`].
    pub async fn end_override(&self, workspace: &WorkspaceId, id: Uuid) -> Result<QuotaView, Error> {
        self.change(workspace, move |on: Change| async move {
            on.record(&Expect::Anything, |record, told| {
                on.retire_overrides(record, told);
                let overrides = &mut record.settings.overrides;
                let Some(at) = overrides.iter().position(|temporary| temporary.id == id) else {
                    return Err(Error::not_found(format!("there is no temporary override {id}, or it is over")));
                };
                let ended = overrides.remove(at);
                let entry = on.entry(AuditAction::OverrideEnded).resource(&ended.resource_type);
                told.push(entry.change(json!(ended), Value::Null));
                Ok(())
            })
            .await
        })
        .await
    }

    /// Takes out temporary overrides that are over.
    pub(crate) async fn retire_overrides(&self, workspace: &WorkspaceId) -> Result<(), Error> {
        let retired = self.change(workspace, move |on: Change| async move {
            on.record(&Expect::Existing, |record, told| {
                on.retire_overrides(record, told);
                Ok(())
            })
            .await
        });
        retired.await.map(drop)
    }

    /// Asks for a limit that is higher by `amount` rows.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid`] when there is no limit to raise, the amount is 0 or the sum too large, the reason is empty, or a
    /// hundred requests of the workspace wait already;
    /// [`Error::is_unavailable`].
    pub async fn request_increase(
        &self,
        workspace: &WorkspaceId,
        resource: ResourceId,
        amount: u64,
        reason: &str,
    ) -> Result<IncreaseRequest, Error> {
        self.quota.0.catalog.check(resource)?;
        check_reason("reason", reason)?;
        let resource = Arc::clone(self.quota.0.catalog.get(resource));
        let request = IncreaseRequest {
            id: Uuid::now_v7(),
            workspace_id: workspace.as_str().to_owned(),
            resource_type: resource.name().to_owned(),
            amount,
            reason: reason.to_owned(),
            status: RequestStatus::Pending,
            requested_by: self.actor.subject().to_owned(),
            created_at: now(),
            decided_by: None,
            decided_at: None,
            note: None,
            expires_at: None,
        };
        let pending = self.quota.requests(Some(workspace), Some(RequestStatus::Pending), None, MOST_PENDING).await?;
        if pending.len() >= MOST_PENDING {
            return Err(Error::invalid(format!(
                "{MOST_PENDING} requests of this workspace wait for a decision already: withdraw some first"
            )));
        }
        let on = self.on(workspace);
        self.in_a_task(async move {
            let mut transaction = on.begin().await?;
            let lineage = transaction.lineage(&on.workspace).await?;
            with_more(lineage.lasting_limit(&resource, Timestamp::now()), amount)?;
            transaction.save_request(&request).await?;
            let entry = on.entry(AuditAction::RequestMade).resource(&request.resource_type);
            let entry = entry.change(Value::Null, json!({"id": request.id, "amount": amount}));
            transaction.audit(&entry.reason(request.reason.clone())).await?;
            transaction.commit().await?;
            Ok(request)
        })
        .await
    }

    /// Approves a request: raises the limit in the same transaction, for good or until `expires_at`.
    ///
    /// # Errors
    ///
    /// [`Error::is_not_found`] for an unknown request, [`Error::is_conflict`] for one that isn't pending any more,
    /// [`Error::is_invalid`] for an end in the past or one that overlaps with a temporary override,
    /// [`Error::is_unavailable`].
    pub async fn approve(
        &self,
        workspace: &WorkspaceId,
        request: Uuid,
        note: Option<String>,
        expires_at: Option<Timestamp>,
    ) -> Result<IncreaseRequest, Error> {
        let decided = Decided { status: RequestStatus::Approved, note, expires_at, by: None };
        self.decide(workspace, request, decided, AuditAction::RequestApproved).await
    }

    /// Denies a request.
    ///
    /// # Errors
    ///
    /// As [`approve`](Self::approve).
    pub async fn deny(
        &self,
        workspace: &WorkspaceId,
        request: Uuid,
        note: Option<String>,
    ) -> Result<IncreaseRequest, Error> {
        let decided = Decided { status: RequestStatus::Denied, note, expires_at: None, by: None };
        self.decide(workspace, request, decided, AuditAction::RequestDenied).await
    }

    /// Withdraws a request; only one that was made by `by`, where that is given.
    ///
    /// # Errors
    ///
    /// As [`approve`](Self::approve).
    pub async fn withdraw(
        &self,
        workspace: &WorkspaceId,
        request: Uuid,
        by: Option<&str>,
    ) -> Result<IncreaseRequest, Error> {
        let by = by.map(str::to_owned);
        let decided = Decided { status: RequestStatus::Withdrawn, note: None, expires_at: None, by };
        self.decide(workspace, request, decided, AuditAction::RequestWithdrawn).await
    }

    async fn decide(
        &self,
        workspace: &WorkspaceId,
        id: Uuid,
        decided: Decided,
        action: AuditAction,
    ) -> Result<IncreaseRequest, Error> {
        if let Some(note) = &decided.note {
            check_reason("note", note)?;
        }
        let on = self.on(workspace);
        self.in_a_task(async move {
            let mut transaction = on.begin().await?;
            let request =
                transaction.request(id).await?.filter(|request| request.workspace_id == on.workspace.as_str());
            let request = request.filter(|request| decided.by.as_ref().is_none_or(|by| *by == request.requested_by));
            let mut request =
                request.ok_or_else(|| Error::not_found(format!("there is no request {id} of this workspace")))?;
            if request.status != RequestStatus::Pending {
                return Err(Error::conflict(format!("request {id} is {} already", request.status.as_str())));
            }
            request.status = decided.status;
            request.decided_by = Some(on.actor.subject().to_owned());
            request.decided_at = Some(now());
            request.note = decided.note;
            request.expires_at = decided.expires_at;
            let mut change = Value::Null;
            if request.status == RequestStatus::Approved {
                change = on.raise(&mut *transaction, &request).await?;
            }
            transaction.save_request(&request).await?;
            let entry = on.entry(action).resource(&request.resource_type);
            let entry = entry.change(json!({"id": id, "amount": request.amount}), change);
            transaction.audit(&entry.reason(request.note.clone())).await?;
            let done = transaction.commit().await;
            if request.status == RequestStatus::Approved {
                on.quota.changed(&on.workspace, None);
            }
            done.map(|()| request)
        })
        .await
    }

    /// Deletes the record of a workspace: what was set for it is gone, and its rows count below no other any more. So that
    /// whoever is called so next finds nothing of it, its contacts, its own endpoints with their deliveries, the thresholds
    /// that it had reached, and its snapshots go as well; how many there were is told in the audit log. Requests for more,
    /// notices and the audit log stay.
    ///
    /// It may have rows all the same: they are the host's, and stay. Then it goes on with the defaults, is told of thresholds
    /// anew, and its history begins anew.
    ///
    /// # Errors
    ///
    /// [`Error::is_not_found`] when there is none, [`Error::is_conflict`] when other workspaces are below it or the record is
    /// not what `expect` says, [`Error::is_unavailable`].
    pub async fn delete_workspace(&self, workspace: &WorkspaceId, expect: &Expect) -> Result<(), Error> {
        let (on, expect) = (self.on(workspace), expect.clone());
        self.in_a_task(async move {
            let mut transaction = on.begin().await?;
            let below = transaction.members(&on.workspace).await?.len().saturating_sub(1);
            if below > 0 {
                return Err(Error::conflict(format!(
                    "{below} workspaces are below {:?}: put them elsewhere first",
                    on.workspace
                )));
            }
            let (record, made) = transaction.record(&on.workspace).await?;
            if made {
                return Err(super::no_record(&on.workspace));
            }
            if !expect.holds(Some(record.version)) {
                return Err(expect.unmet(&on.workspace));
            }
            let kept: serde_json::Map<_, _> = transaction
                .remove(&on.workspace)
                .await?
                .into_iter()
                .map(|(what, rows)| (what.to_owned(), json!(rows)))
                .collect();
            let before = json!({
                "limits": on.quota.named(&record.limits),
                "plan": record.plan.as_deref(),
                "parent": record.parent.as_ref().map(WorkspaceId::as_str),
                "settings": record.settings,
                "kept": kept,
            });
            transaction.audit(&on.entry(AuditAction::WorkspaceDeleted).change(before, Value::Null)).await?;
            let done = transaction.commit().await;
            on.quota.changed(&on.workspace, None);
            done?;
            let workspaces = vec![on.workspace];
            on.quota.lowered(&Changed { workspaces, ..Changed::default() }).await
        })
        .await
    }

    /// Changes the enforcement mode of all workspaces, in this process.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] when it can't be told in the audit log: then it stays as it was.
    pub async fn set_mode(&self, mode: EnforcementMode) -> Result<(), Error> {
        let before = self.quota.mode();
        self.tell(AuditEntry::new(&self.actor, AuditAction::ModeSet).change(json!(before), json!(mode))).await?;
        self.quota.set_mode(mode);
        Ok(())
    }

    /// Changes the enforcement mode of a resource type in all workspaces that have none of their own for it, in this
    /// process; `None` for that of all.
    ///
    /// # Errors
    ///
    /// As [`set_mode`](Self::set_mode).
    pub async fn set_mode_of(&self, resource: ResourceId, mode: Option<EnforcementMode>) -> Result<(), Error> {
        let name = self.quota.0.catalog.get(resource).name();
        let before = self.quota.modes_by_type()[resource.index()];
        let entry = AuditEntry::new(&self.actor, AuditAction::ModeSet).resource(name);
        self.tell(entry.change(json!(before), json!(mode))).await?;
        self.quota.0.type_modes.write().unwrap_or_else(PoisonError::into_inner)[resource.index()] = mode;
        self.quota.0.mode_changed();
        Ok(())
    }

    /// As [`Quota::recount`], and told in the audit log where something else was believed.
    ///
    /// # Errors
    ///
    /// As [`Quota::recount`].
    pub async fn recount(&self, workspace: &WorkspaceId) -> Result<Recount, Error> {
        let recount = self.quota.recount(workspace).await?;
        for wrong in &recount.corrections {
            let entry = AuditEntry::new(&self.actor, AuditAction::RecountDrift).workspace(workspace.as_str());
            let entry = entry.resource(wrong.resource.name()).change(json!(wrong.cached), json!(wrong.actual));
            self.tell(entry).await?;
        }
        Ok(recount)
    }

    /// Sets how many rows a workspace has of types that are counted by the [ledger alone](crate::QuotaBuilder::tally): all of
    /// them or none. Answers how many the ledger had before, in the same order.
    ///
    /// Rows of requests that are in flight meanwhile count on top. To set the same twice changes nothing the second time, but for
    /// what was posted in between: take numbers that were counted a moment ago.
    ///
    /// With several processes, deletions that another one couldn't tell the database of before, such as one that is cut off from it,
    /// come off what was set when it can: by so many, there may be more rows then than the ledger knows. Set it again once all
    /// processes reach the database.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid`] for no type or one that is not counted so, for one that is named twice, and for more than
    /// [`Limit::MAX`] rows; [`Error::is_unknown_resource`]; [`Error::is_unavailable`].
    pub async fn set_tally(
        &self,
        workspace: &WorkspaceId,
        rows: &[(ResourceId, u64)],
        reason: Option<String>,
    ) -> Result<Vec<u64>, Error> {
        let quota = Arc::clone(&self.quota.0);
        if rows.is_empty() {
            return Err(Error::invalid("no resource type is named: say how many rows there are of one"));
        }
        let mut named = BTreeSet::new();
        for (resource, rows) in rows {
            quota.catalog.check(*resource)?;
            quota.check_tallied(*resource)?;
            let name = quota.catalog.get(*resource).name();
            if !named.insert(*resource) {
                return Err(Error::invalid(format!("{name} is named twice")));
            }
            if *rows > Limit::MAX {
                return Err(Error::invalid(format!("the rows of {name} are an integer of 0 to {}", Limit::MAX)));
            }
        }
        if let Some(reason) = &reason {
            check_reason("reason", reason)?;
        }
        let (on, rows) = (self.on(workspace), rows.to_vec());
        self.in_a_task(async move { on.quota.set_rows(&on.workspace, &on.actor, &rows, reason).await }).await
    }

    /// An entry that stands for itself. A store that keeps limits only has no log.
    pub(super) async fn tell(&self, entry: AuditEntry) -> Result<(), Error> {
        let quota = &self.quota.0;
        let told = quota.within("write the audit log", || async move {
            let mut transaction = quota.store.inner().begin().await?;
            transaction.audit(&entry).await?;
            transaction.commit().await
        });
        match told.await {
            Err(error) if error.is_config() => Ok(()),
            told => told,
        }
    }

    fn on(&self, workspace: &WorkspaceId) -> Change {
        Change { quota: Arc::clone(&self.quota.0), actor: self.actor.clone(), workspace: workspace.clone() }
    }

    /// Changes one workspace, and puts that in force.
    async fn change<F>(
        &self,
        workspace: &WorkspaceId,
        change: impl FnOnce(Change) -> F + Send + 'static,
    ) -> Result<QuotaView, Error>
    where
        F: Future<Output = Result<Done, Error>> + Send,
    {
        self.change_or_move(workspace, false, change).await
    }

    /// The same; `moves` where rows count in other books after it.
    async fn change_or_move<F>(
        &self,
        workspace: &WorkspaceId,
        moves: bool,
        change: impl FnOnce(Change) -> F + Send + 'static,
    ) -> Result<QuotaView, Error>
    where
        F: Future<Output = Result<Done, Error>> + Send,
    {
        let on = self.on(workspace);
        self.in_a_task(async move {
            match change(on.clone()).await {
                Ok(Done { lineage, lower }) => {
                    on.quota.changed(&on.workspace, Some(&lineage));
                    let mut changed = Changed { moved: moves, ..Changed::nothing() };
                    changed.add(&on.workspace, lower);
                    on.quota.lowered(&changed).await?;
                    on.quota.view(&on.workspace, &lineage)
                }
                Err(error) => {
                    if error.is_unavailable() {
                        // It may have been stored all the same, and have moved the workspace below any other.
                        on.quota.changed(&on.workspace, None);
                        on.quota.outdate(|tenant| tenant.id.top().is_some());
                    }
                    Err(error)
                }
            }
        })
        .await
    }

    /// In a task of its own: a change that is stored must come in force, whether or not the caller stays to hear it.
    async fn in_a_task<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let task = tokio::spawn(work);
        let broke_off = |error| Error::unavailable("the change broke off").with_source(error);
        self.quota.0.within("make the change", || async { task.await.map_err(broke_off)? }).await
    }
}

/// How a request ends.
struct Decided {
    status: RequestStatus,
    note: Option<String>,
    expires_at: Option<Timestamp>,
    /// Only where it was made by this one.
    by: Option<String>,
}

/// A change of a workspace by somebody.
#[derive(Clone)]
struct Change {
    quota: Arc<Inner>,
    actor: Actor,
    workspace: WorkspaceId,
}

/// A change of a workspace that is stored.
struct Done {
    /// What its limits come from now.
    lineage: Arc<Lineage>,
    /// Of which resource types they may have become lower: see [`lowering::lower`].
    lower: Option<BTreeSet<ResourceId>>,
}

/// A record that is being changed.
struct Draft {
    record: QuotaRecord,
    before: QuotaRecord,
    /// What the limits came from before, by the record that is locked.
    lineage: Lineage,
    made: bool,
}

impl Draft {
    async fn new(
        transaction: &mut dyn StoreTransaction,
        workspace: &WorkspaceId,
        expect: &Expect,
    ) -> Result<Self, Error> {
        let (record, made) = transaction.record(workspace).await?;
        if !expect.holds((!made).then_some(record.version)) {
            return Err(expect.unmet(workspace));
        }
        let lineage = transaction.lineage(workspace).await?;
        Ok(Self { before: record.clone(), record, lineage, made })
    }

    /// Writes what has changed, if something has. Answers what the limits came from before.
    async fn save(mut self, transaction: &mut dyn StoreTransaction, told: &[AuditEntry]) -> Result<Lineage, Error> {
        if self.record != self.before {
            self.record.version += u64::from(!self.made);
            self.record.updated_at = self.record.updated_at.max(now());
            transaction.save(&self.record).await?;
        }
        for entry in told {
            transaction.audit(entry).await?;
        }
        Ok(self.lineage)
    }
}

impl Change {
    async fn begin(&self) -> Result<Box<dyn StoreTransaction>, Error> {
        self.quota.store.inner().begin().await
    }

    fn entry(&self, action: AuditAction) -> AuditEntry {
        AuditEntry::new(&self.actor, action).workspace(self.workspace.as_str())
    }

    /// Changes the record and nothing else.
    async fn record(
        &self,
        expect: &Expect,
        change: impl FnOnce(&mut QuotaRecord, &mut Vec<AuditEntry>) -> Result<(), Error> + Send,
    ) -> Result<Done, Error> {
        let mut transaction = self.begin().await?;
        let mut draft = Draft::new(&mut *transaction, &self.workspace, expect).await?;
        let mut told = Vec::new();
        change(&mut draft.record, &mut told)?;
        let before = draft.save(&mut *transaction, &told).await?;
        self.commit(transaction, &before).await
    }

    async fn commit(&self, mut transaction: Box<dyn StoreTransaction>, before: &Lineage) -> Result<Done, Error> {
        let lineage = transaction.lineage(&self.workspace).await?;
        transaction.commit().await?;
        let lower = lowering::lower(&self.quota.catalog, before, &lineage);
        Ok(Done { lineage: Arc::new(lineage), lower })
    }

    /// By the store's own means.
    async fn update(&self, changes: &LimitSet, expect: &Expect) -> Result<Done, Error> {
        let record = self.quota.store.update(&self.workspace, changes, expect).await?;
        let lineage = Arc::new(Lineage::new(vec![Kin::new(record, None)]));
        let lineage = if lineage.is_plain() { lineage } else { self.quota.store.reload(&self.workspace).await? };
        Ok(Done { lineage, lower: None })
    }

    async fn limits(
        &self,
        transaction: &mut dyn StoreTransaction,
        changes: &LimitSet,
        expect: &Expect,
        reason: Option<&str>,
    ) -> Result<Lineage, Error> {
        let mut draft = Draft::new(transaction, &self.workspace, expect).await?;
        let mut told = Vec::new();
        for (id, limit) in changes.iter() {
            self.quota.catalog.check(id)?;
            let before = draft.record.limits.get(id);
            draft.record.limits.set(id, limit);
            if before != Some(limit) {
                let entry = self.entry(AuditAction::LimitSet).resource(self.quota.catalog.get(id).name());
                told.push(entry.change(self::told(before), json!(limit)).reason(reason.map(str::to_owned)));
            }
        }
        draft.save(transaction, &told).await
    }

    fn add_override(
        &self,
        record: &mut QuotaRecord,
        temporary: TemporaryOverride,
        told: &mut Vec<AuditEntry>,
    ) -> Result<(), Error> {
        check_reason("reason", &temporary.reason)?;
        let (from, until) = (temporary.starts_at, temporary.expires_at);
        if until <= Timestamp::now() {
            return Err(Error::invalid(format!("`expiresAt` is in the past: {until}")));
        }
        if until <= from {
            return Err(Error::invalid(format!("`expiresAt` {until} is not after `startsAt` {from}")));
        }
        self.retire_overrides(record, told);
        let overrides = &mut record.settings.overrides;
        if let Some(other) = overrides.iter().find(|other| other.overlaps(&temporary)) {
            return Err(Error::invalid(format!(
                "it overlaps with temporary override {} of {} from {} to {}: end that one, or choose another time",
                other.id, other.resource_type, other.starts_at, other.expires_at
            )));
        }
        if overrides.len() >= MOST_OVERRIDES {
            return Err(Error::invalid(format!("a workspace has at most {MOST_OVERRIDES} temporary overrides")));
        }
        let entry = self.entry(AuditAction::OverrideCreated).resource(&temporary.resource_type);
        told.push(entry.change(Value::Null, json!(temporary)).reason(temporary.reason.clone()));
        overrides.push(temporary);
        Ok(())
    }

    /// Takes out temporary overrides that are over.
    fn retire_overrides(&self, record: &mut QuotaRecord, told: &mut Vec<AuditEntry>) {
        let now = Timestamp::now();
        record.settings.overrides.retain(|temporary| {
            let over = temporary.expires_at <= now;
            if over {
                let mut entry = AuditEntry::new(&Actor::engine(), AuditAction::OverrideExpired);
                entry.at = temporary.expires_at;
                let entry = entry.workspace(self.workspace.as_str()).resource(&temporary.resource_type);
                told.push(entry.change(json!(temporary), Value::Null));
            }
            !over
        });
    }

    /// Raises a limit as a request asks for; answers what was done.
    async fn raise(&self, transaction: &mut dyn StoreTransaction, request: &IncreaseRequest) -> Result<Value, Error> {
        let resource = Arc::clone(self.quota.catalog.by_name(&request.resource_type)?);
        let mut draft = Draft::new(transaction, &self.workspace, &Expect::Anything).await?;
        let before = draft.lineage.lasting_limit(&resource, Timestamp::now());
        let after = with_more(before, request.amount)?;
        let mut told = Vec::new();
        match request.expires_at {
            None => {
                draft.record.limits.set(resource.id(), after);
                let entry = self.entry(AuditAction::LimitSet).resource(resource.name());
                told.push(entry.change(json!(before), json!(after)).reason(format!("request {}", request.id)));
            }
            Some(until) => {
                let reason = format!("request {}: {}", request.id, request.reason);
                let reason = reason.chars().take(LONGEST_REASON / 4).collect::<String>();
                let mut temporary = TemporaryOverride::new(resource.name(), after, now(), until, reason);
                temporary.created_by = self.actor.subject().to_owned();
                self.add_override(&mut draft.record, temporary, &mut told)?;
            }
        }
        draft.save(transaction, &told).await?;
        Ok(json!({"limit": after, "until": request.expires_at}))
    }

    /// Refuses a parent that isn't there, that is below the workspace, or that is too far down.
    async fn check_parent(
        &self,
        transaction: &mut dyn StoreTransaction,
        parent: &WorkspaceId,
        below: &[(WorkspaceId, usize)],
    ) -> Result<(), Error> {
        let above = transaction.lineage(parent).await?;
        let path = |top: &[&str]| [&[self.workspace.as_str()], top].concat().join(" -> ");
        if below.iter().any(|(member, _)| member == parent) {
            let mut up = above.path();
            up.truncate(up.iter().position(|id| *id == self.workspace.as_str()).map_or(up.len(), |at| at + 1));
            return Err(Error::invalid(format!("{parent} can't be the parent of {}: {}", self.workspace, path(&up))));
        }
        if above.record().is_none() {
            return Err(Error::invalid(format!(
                "there is no workspace {parent:?} that could be the parent: make its quota first"
            )));
        }
        let height = below.iter().map(|(_, depth)| *depth).max().unwrap_or(0);
        if height + above.kin().len() > MAX_ANCESTORS {
            return Err(Error::invalid(format!(
                "a workspace has at most {MAX_ANCESTORS} above it; below {parent} there would be {}: {}",
                height + above.kin().len(),
                path(&above.path())
            )));
        }
        Ok(())
    }

    /// The workspace and those below it, as far as they are in memory.
    fn concerned(&self) -> Vec<Arc<Tenant>> {
        let id = self.workspace.as_str();
        let concerned = |tenant: &Arc<Tenant>| {
            tenant.id == self.workspace || tenant.limits().is_some_and(|limits| limits.depends_on(id))
        };
        self.quota.tenants.all().into_iter().filter(concerned).collect()
    }

    /// Who in memory counts in other books after this transaction, and by what.
    async fn moved(&self, transaction: &mut dyn StoreTransaction) -> Result<Vec<(Arc<Tenant>, Arc<Lineage>)>, Error> {
        let mut moved = Vec::new();
        for tenant in self.concerned() {
            let lineage = transaction.lineage(&tenant.id).await?;
            moved.push((tenant, Arc::new(lineage)));
        }
        Ok(moved)
    }

    /// Puts that in force.
    async fn moves(&self, moved: Vec<(Arc<Tenant>, Arc<Lineage>)>, lineage: &Lineage) {
        for (tenant, lineage) in moved {
            self.quota.put_in_force(&tenant, &lineage, None);
        }
        // Rows that were counted elsewhere count there now.
        let above = lineage.kin().iter().map(|kin| kin.record.workspace.subtree());
        above.filter_map(|books| self.quota.tenants.get(books.as_str())).for_each(|books| books.outdate());
        // Some may have been read just before the change was there.
        self.quota.outdate_dependents([&self.workspace]);
        for tenant in self.concerned() {
            if let Err(error) = self.quota.fresh(&tenant.id).await {
                tracing::warn!(error = %error, workspace = %tenant.id, "the limits could not be read again");
            }
        }
    }
}

impl Inner {
    /// Limits by their fields, for the audit log.
    fn named(&self, limits: &LimitSet) -> Value {
        let field = |(id, limit): (ResourceId, Limit)| (self.catalog.get(id).limit_field().to_owned(), json!(limit));
        Value::Object(limits.iter().map(field).collect())
    }

    /// As [`Quota::modes_by_type`].
    pub(super) fn modes_by_type(&self) -> Vec<Option<EnforcementMode>> {
        self.type_modes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Quota {
    /// The enforcement mode of each resource type in all workspaces that have none of their own, in the catalog's order;
    /// `None` where it is that of all.
    pub fn modes_by_type(&self) -> Vec<Option<EnforcementMode>> {
        self.0.modes_by_type()
    }
}
