//! How limits change while they are in force: by a change of what they come from, or by themselves.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::reservation::Unit;
use super::tenant::{Limits, Policy, Tenant};
use super::{Inner, Quota, QuotaView};
use crate::decision::{DecisionReceipt, Demand, Refusal};
use crate::error::Error;
use crate::ledger::Standing;
use crate::limit::Limit;
use crate::mode::EnforcementMode;
use crate::policy::{Actor, AuditAction, AuditEntry, GraceUse, Kin, Lineage, raised};
use crate::resource::ResourceId;
use crate::store::{QuotaStore, now};
use crate::workspace::WorkspaceId;

/// The longest that the clock is not looked at: it may be set.
const LONGEST_NAP: Duration = Duration::from_secs(60);

impl Inner {
    /// The mode of a resource type where `limits` are in force. Where the mode of all is `off`, it is that.
    pub(crate) fn mode_of(&self, limits: Option<&Limits>, resource: ResourceId) -> EnforcementMode {
        self.mode_over(limits.and_then(|limits| limits.mode(resource)), resource)
    }

    /// The mode of a resource type where a workspace has this one for it, or none.
    pub(super) fn mode_over(&self, of_workspace: Option<EnforcementMode>, resource: ResourceId) -> EnforcementMode {
        let mode = self.mode();
        if mode == EnforcementMode::Off {
            return mode;
        }
        let of_type = || {
            let modes = self.type_modes.read().unwrap_or_else(PoisonError::into_inner);
            modes.get(resource.index()).copied().flatten()
        };
        of_workspace.or_else(of_type).unwrap_or(mode)
    }

    /// Grace counts where it didn't, or doesn't any more: a mode has changed.
    pub(crate) fn mode_changed(&self) {
        // So may what usage is held against.
        self.sweep_soon();
        self.outdate(|tenant| {
            let limits = tenant.limits();
            limits.as_ref().and_then(Limits::resolution).is_some_and(|resolution| resolution.in_grace)
        });
    }

    /// The mode of a resource type of a workspace, as far as its limits are known.
    pub(crate) fn mode_in(&self, workspace: &WorkspaceId, resource: ResourceId) -> EnforcementMode {
        let limits = self.tenants.get(workspace.as_str()).and_then(|tenant| tenant.limits());
        self.mode_of(limits.as_ref(), resource)
    }

    /// What follows from a lineage now.
    pub(crate) fn resolve(&self, whose: &WorkspaceId, lineage: &Arc<Lineage>) -> Limits {
        let Some(record) = lineage.record() else {
            return Limits::without_record(match whose.top() {
                None => self.catalog.default_limits(),
                Some(_) => self.catalog.iter().map(|_| Limit::Unlimited).collect(),
            });
        };
        if whose.top().is_some() {
            let by_resource = record.caps(&self.catalog);
            return Limits { record: Some(record.id), version: record.version, by_resource, policy: None };
        }
        let grace = |mode, resource| self.mode_over(mode, resource) != EnforcementMode::Strict;
        let resolution = lineage.resolve(&self.catalog, Timestamp::now(), grace);
        let by_resource = Arc::clone(&resolution.limits);
        let policy = (!lineage.is_plain()).then(|| Arc::new(Policy { lineage: Arc::clone(lineage), resolution }));
        Limits { record: Some(record.id), version: record.version, by_resource, policy }
    }

    /// Puts in force what follows from a lineage, unless what is in force is newer; see [`Tenant::install`].
    pub(crate) fn put_in_force(self: &Arc<Self>, tenant: &Arc<Tenant>, lineage: &Arc<Lineage>, since: Option<u32>) {
        let limits = self.resolve(&tenant.id, lineage);
        if lineage.kin().len() > 1 {
            let ancestors = lineage.kin()[1..].iter().map(|kin| kin.record.workspace.clone());
            self.parents.lock().unwrap_or_else(PoisonError::into_inner).extend(ancestors);
        }
        {
            let _one_at_a_time = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
            if tenant.would_move(&limits, since) {
                return self.move_tenant(tenant, &limits);
            }
        }
        self.retire_overrides(lineage);
        let until = limits.resolution().and_then(|resolution| resolution.until);
        if let (Some(install), Some(until)) = (tenant.install(limits, since), until) {
            let work = change_at(until, install, Arc::downgrade(tenant), Arc::downgrade(self));
            self.runtime.spawn(work);
        }
    }

    /// Takes out temporary overrides that are over, and tells that they are. They count no more in any case.
    fn retire_overrides(self: &Arc<Self>, lineage: &Lineage) {
        let now = Timestamp::now();
        let over = |kin: &&Kin| kin.record.settings.overrides.iter().any(|temporary| temporary.expires_at <= now);
        for kin in lineage.kin().iter().filter(over) {
            let admin = Quota(Arc::clone(self)).admin(Actor::engine());
            let workspace = kin.record.workspace.clone();
            self.runtime.spawn(async move {
                if let Err(error) = admin.retire_overrides(&workspace).await {
                    tracing::warn!(error = %error, %workspace, "overrides that are over could not be taken out");
                }
            });
        }
    }

    /// The rows of a workspace count in other books from now on. Requests in flight end where they began: what they may still
    /// become is held in the books that don't know of them.
    fn move_tenant(self: &Arc<Self>, tenant: &Arc<Tenant>, limits: &Limits) {
        tracing::info!(workspace = %tenant.id, "the caps above the workspace are others now");
        if let Some(replica) = &self.replica {
            // The authority knows what is on lease.
            self.tenants.give_up(tenant);
            return replica.parted();
        }
        let before = tenant.limits();
        let charged = |above: &WorkspaceId, resource: usize| {
            let before = before.as_ref().map(Limits::above).unwrap_or_default();
            before.iter().any(|before| before.workspace == *above && before.capped[resource])
        };
        // A unit in each of the new books keeps those in use. They are looked up before anything is locked.
        let mut books = Vec::new();
        for resource in self.catalog.iter().map(|resource| resource.id()) {
            for above in limits.above().iter().filter(|above| above.capped[resource.index()]) {
                if !charged(&above.workspace, resource.index()) {
                    books.push((resource, self.force(&above.workspace.subtree(), Demand::one(resource))));
                }
            }
        }
        self.tenants.replace(tenant, |new| {
            // Else it would be moved itself, when it is loaded with units in its books.
            new.install(limits.clone(), None);
            let mut dues = Vec::new();
            let mut owe = |to: &Arc<Tenant>, resource: ResourceId, units: u64| {
                if let Some(key) = to.use_key(resource) {
                    if key.cell.force(units) {
                        dues.push(Unit::owed(Arc::clone(to), resource, units));
                    }
                    // Rows that were not counted there.
                    key.wake_if(key.cell.forget());
                }
            };
            let in_flight = |resource| tenant.key(resource).map_or(0, |key| key.cell.in_flight());
            for resource in self.catalog.iter().map(|resource| resource.id()) {
                if in_flight(resource) > 0 {
                    owe(new, resource, in_flight(resource));
                }
            }
            for (resource, unit) in &books {
                if let Some(to) = unit.tenant() {
                    owe(to, *resource, in_flight(*resource));
                }
            }
            dues
        });
    }

    /// Reads what the limits of a workspace come from, and puts it in force.
    pub(crate) async fn reread(self: &Arc<Self>, workspace: &WorkspaceId) -> Result<Arc<Lineage>, Error> {
        let own = self.tenants.get(workspace.as_str()).map(|tenant| (tenant.installs(), tenant));
        let lineage = self.within("read the record", || self.store.reload(workspace)).await?;
        if let Some((since, tenant)) = own
            && lineage.record().is_some()
        {
            self.put_in_force(&tenant, &lineage, Some(since));
        } else {
            self.retire_overrides(&lineage);
        }
        Ok(lineage)
    }

    /// What a caller sees of a lineage.
    pub(crate) fn view(&self, workspace: &WorkspaceId, lineage: &Arc<Lineage>) -> Result<QuotaView, Error> {
        let record = lineage.record().cloned().ok_or_else(|| super::no_record(workspace))?;
        Ok(QuotaView { record, limits: self.resolve(workspace, lineage).by_resource })
    }

    /// A workspace was changed, its limits come from `lineage` now: it, and all that depends on it, goes by that from now on.
    /// Where the lineage isn't known, it is read before anything is granted.
    pub(crate) fn changed(self: &Arc<Self>, workspace: &WorkspaceId, lineage: Option<&Arc<Lineage>>) {
        self.look_again(workspace);
        self.changed_among_many(workspace, lineage);
    }

    /// The same where so many are changed that all workspaces will be looked at: see [`Inner::sweep_soon`].
    pub(super) fn changed_among_many(self: &Arc<Self>, workspace: &WorkspaceId, lineage: Option<&Arc<Lineage>>) {
        self.store.forget(workspace);
        if let (Some(tenant), Some(lineage)) = (self.tenants.get(workspace.as_str()), lineage) {
            self.put_in_force(&tenant, lineage, None);
        }
        if lineage.is_none()
            && let Some(tenant) = self.tenants.get(workspace.as_str())
        {
            tenant.outdate();
        }
        self.outdate_dependents([workspace]);
    }

    /// Workspaces were changed: all that depends on them reads its limits again before it grants anything.
    pub(crate) fn outdate_dependents<'a>(&self, changed: impl IntoIterator<Item = &'a WorkspaceId>) {
        let mut parents = HashSet::new();
        {
            let known = self.parents.lock().unwrap_or_else(PoisonError::into_inner);
            for workspace in changed {
                if let Some(subtree) = self.tenants.get(workspace.subtree().as_str()) {
                    subtree.outdate();
                }
                if known.contains(workspace) {
                    parents.insert(workspace);
                }
            }
        }
        // Few are, and all tenants would have to be looked at.
        if !parents.is_empty() {
            self.outdate(|tenant| {
                let limits = tenant.limits();
                limits.as_ref().is_some_and(|limits| limits.ancestors().any(|ancestor| parents.contains(ancestor)))
            });
        }
    }

    /// Has those tenants read their limits again before they grant anything, and what is in memory beside them.
    pub(crate) fn outdate(&self, which: impl Fn(&Tenant) -> bool) {
        // What isn't in use may be there, too.
        self.store.forget_all();
        for tenant in self.tenants.all().into_iter().filter(|tenant| which(tenant)) {
            tenant.outdate();
        }
    }

    /// Where rows of `resource` are charged to beside the workspace's own books.
    pub(crate) fn charged_above(limits: Option<&Limits>, resource: ResourceId) -> Vec<WorkspaceId> {
        let above = limits.map(Limits::above).unwrap_or_default();
        above.iter().filter(|above| above.capped[resource.index()]).map(|above| above.workspace.subtree()).collect()
    }

    /// Lets grace begin for a demand that is over the limit; whether there is more now than before.
    pub(crate) async fn begin_grace(
        self: &Arc<Self>,
        workspace: &WorkspaceId,
        demand: Demand,
        standing: Standing,
    ) -> Result<bool, Error> {
        let limits = self.tenants.get(workspace.as_str()).and_then(|tenant| tenant.limits());
        let own = limits.as_ref().and_then(|limits| limits.policy.as_ref()?.lineage.record());
        let settings = own.map(|record| &record.settings);
        let name = self.catalog.get(demand.resource).name();
        let grace = settings.and_then(|settings| settings.grace.as_ref()).or(self.config.grace.as_ref());
        let Some(grace) = grace.filter(|grace| grace.covers(name)).cloned() else { return Ok(false) };
        // It has begun, and is used up or over.
        if settings.is_some_and(|settings| settings.grace_uses.contains_key(name)) {
            return Ok(false);
        }
        let Some(base) = standing.limit.map(Limit::finite).transpose()? else { return Ok(false) };
        let needed = standing.counted.unwrap_or(0).saturating_add(demand.units);
        if raised(base, grace.percentage).rows().is_some_and(|most| needed > most) {
            return Ok(false);
        }
        let begun = self.within("begin grace", || async {
            let mut transaction = self.store.inner().begin().await?;
            let (mut record, made) = transaction.record(workspace).await?;
            if record.settings.grace_uses.contains_key(name) {
                // By another request, or another replica.
                return Ok(());
            }
            let begun = GraceUse::begin(&grace, Timestamp::now());
            let entry = AuditEntry::new(&Actor::engine(), AuditAction::GraceStarted).workspace(workspace.as_str());
            let entry = entry.resource(name).change(json!({"limit": base, "usage": standing.counted}), json!(begun));
            record.settings.grace_uses.insert(name.to_owned(), begun);
            record.version += u64::from(!made);
            record.updated_at = record.updated_at.max(now());
            transaction.save(&record).await?;
            transaction.audit(&entry).await?;
            transaction.commit().await
        });
        match begun.await {
            Ok(()) => {}
            Err(error) if error.is_config() => {
                tracing::warn!(error = %error, "there can be no grace");
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        tracing::warn!(%workspace, resource_type = name, "Grace period started");
        self.changed(workspace, None);
        Ok(true)
    }

    /// A demand was met in a workspace where grace has begun: it was used, or isn't needed any more.
    pub(crate) async fn heed_grace(
        self: &Arc<Self>,
        workspace: &WorkspaceId,
        demand: Demand,
        limits: &Limits,
        warnings: &mut Vec<Refusal>,
    ) -> Result<(), Error> {
        let resource = self.catalog.get(demand.resource);
        let Some(policy) = limits.policy.as_ref().filter(|policy| policy.resolution.in_grace) else { return Ok(()) };
        let grace = policy.lineage.record().and_then(|record| record.settings.grace_uses.get(resource.name()));
        let (Some(grace), Some(base)) = (grace, policy.resolution.bases[demand.resource.index()].rows()) else {
            return Ok(());
        };
        let Some(tenant) = self.tenants.get(workspace.as_str()) else { return Ok(()) };
        let Some(standing) = tenant.key(demand.resource).map(|key| key.cell.standing()) else { return Ok(()) };
        let rows = standing.counted.unwrap_or(0).saturating_add(standing.posted);
        if rows.saturating_add(standing.reserved) <= base {
            return self.rearm_grace(workspace, demand.resource, base).await;
        }
        if !grace.is_active(Timestamp::now()) {
            return Ok(());
        }
        tracing::warn!(
            %workspace,
            resource_type = resource.name(),
            usage = rows,
            limit = base,
            until = %grace.ends_at,
            "Grace period active"
        );
        let entry = AuditEntry::new(&Actor::engine(), AuditAction::GraceUsed).workspace(workspace.as_str());
        let entry =
            entry.resource(resource.name()).change(json!(base), json!({"usage": rows, "requested": demand.units}));
        self.within("write the audit log", || async {
            let mut transaction = self.store.inner().begin().await?;
            transaction.audit(&entry).await?;
            transaction.commit().await
        })
        .await?;
        let standing = Standing { limit: Some(base), ..standing };
        let refusal = self.refusal(workspace, workspace, demand, standing);
        let receipt = DecisionReceipt { admitted: true, ..refusal.receipt };
        warnings.push(Refusal { receipt, ..refusal });
        Ok(())
    }

    /// Usage may have fallen below the limit: if it has, grace can begin anew.
    async fn rearm_grace(
        self: &Arc<Self>,
        workspace: &WorkspaceId,
        resource: ResourceId,
        base: u64,
    ) -> Result<(), Error> {
        // The books of a replica may be behind: rows are the truth.
        if self.count_rows(workspace, resource, Some(base)).await? >= base {
            return Ok(());
        }
        let name = self.catalog.get(resource).name();
        let rearmed = self.within("arm grace again", || async {
            let mut transaction = self.store.inner().begin().await?;
            let (mut record, _) = transaction.record(workspace).await?;
            let Some(used) = record.settings.grace_uses.remove(name) else { return Ok(()) };
            record.version += 1;
            record.updated_at = record.updated_at.max(now());
            transaction.save(&record).await?;
            let entry = AuditEntry::new(&Actor::engine(), AuditAction::GraceRearmed).workspace(workspace.as_str());
            transaction.audit(&entry.resource(name).change(json!(used), Value::Null)).await?;
            transaction.commit().await
        });
        rearmed.await?;
        self.changed(workspace, None);
        tracing::info!(%workspace, resource_type = name, "grace can begin again");
        Ok(())
    }
}

/// Something of what limits come from begins or ends at `until`.
async fn change_at(until: Timestamp, install: u32, tenant: Weak<Tenant>, quota: Weak<Inner>) {
    loop {
        let left = until.duration_since(Timestamp::now());
        match Duration::try_from(left) {
            Ok(left) if !left.is_zero() => sleep(left.min(LONGEST_NAP)).await,
            _ => break,
        }
        // Others are in force: they have a task of their own.
        if tenant.upgrade().is_none_or(|tenant| tenant.installs() != install || tenant.retired()) {
            return;
        }
    }
    let (Some(tenant), Some(quota)) = (tenant.upgrade(), quota.upgrade()) else { return };
    if tenant.installs() == install {
        quota.store.forget(&tenant.id);
        tenant.outdate();
        if let Err(error) = quota.fresh(&tenant.id).await {
            tracing::warn!(error = %error, workspace = %tenant.id, "the limits could not be read again");
        }
    }
}
