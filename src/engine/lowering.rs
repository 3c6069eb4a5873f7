//! Limits that become lower in mode `strict`: once such a change is answered, no row comes to exist above them any more.
//!
//! Grants go by a limit as soon as it is written. What was granted before may still become rows: in other modes it does. Here
//! it is waited for, after all processes were asked to give back what they have in store. A lease that stays, because its
//! process stands still or its requests take too long, is ended then: a transaction that holds on to it commits before that,
//! and no other one can take hold of it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::Inner;
use super::replica::Replica;
use super::tenant::Tenant;
use crate::authority::Changed;
use crate::error::Error;
use crate::limit::{Limit, LimitSet};
use crate::mode::EnforcementMode;
use crate::policy::Lineage;
use crate::resource::{ResourceCatalog, ResourceId, ResourceType};
use crate::store::QuotaStore;
use crate::workspace::WorkspaceId;

/// How often it is looked whether all is done.
const PAUSE: Duration = Duration::from_millis(10);

impl Inner {
    /// Waits until nothing that was admitted before can become a row above a limit of what has changed, where the mode is
    /// `strict`.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] when that takes too long. The limits are in force all the same.
    pub(super) async fn lowered(self: &Arc<Self>, changed: &Changed) -> Result<(), Error> {
        let concerned = |id: ResourceId| changed.resources.as_ref().is_none_or(|lower| lower.contains(&id));
        let types = self.catalog.iter().filter(|resource| concerned(resource.id()));
        let types: Vec<Type<'_>> = types.map(|resource| (&**resource, self.mode_over(None, resource.id()))).collect();
        if self.mode() == EnforcementMode::Off || types.is_empty() {
            return Ok(());
        }
        let begun = Instant::now();
        // The caller is told of a time-out by then.
        let patience = self.config.io_timeout / 4 * 3;
        let mut here = Vec::new();
        match &self.replica {
            None => here = self.in_flight(changed, &types),
            // A grant that has read the limit of before shows only when it is done.
            Some(replica) if replica.fenced() => {
                self.within("wait for grants", || replica.authority.outlast(changed, &types)).await?;
            }
            // Nothing keeps handlers that don't fence from what they were admitted for.
            Some(_) => return Ok(()),
        }
        loop {
            let done = match &self.replica {
                None => self.is_lowered_here(&mut here, &types).await?,
                Some(replica) => self.is_lowered_everywhere(replica, changed, &types, begun).await?,
            };
            if done {
                return Ok(());
            }
            if begun.elapsed() >= patience {
                return Err(Error::unavailable(
                    "the limit is in force, but requests that were admitted before it may still make rows: try again",
                ));
            }
            sleep(PAUSE).await;
        }
    }

    /// The workspaces of this process in mode `strict` whose limits may be others now, or the caps above them, and that have
    /// requests in flight. No others can come to be above what is in force already.
    fn in_flight(&self, changed: &Changed, types: &[Type<'_>]) -> Vec<WorkspaceId> {
        let changed_ids: HashSet<&str> = changed.workspaces.iter().map(WorkspaceId::as_str).collect();
        let concerned = |tenant: &Arc<Tenant>| {
            let limits = tenant.limits();
            let strict = |(resource, mode): &Type<'_>| {
                let own = limits.as_ref().and_then(|limits| limits.mode(resource.id()));
                own.unwrap_or(*mode) == EnforcementMode::Strict
            };
            // What a workspace says of its own mode isn't among the limits of its cap.
            if tenant.id.top().is_none() && !types.iter().any(strict) {
                return false;
            }
            let policy = limits.as_ref().and_then(|limits| limits.policy.as_ref());
            let mut kin = policy.iter().flat_map(|policy| policy.lineage.kin());
            // With caps, the books of all above are concerned: those are few.
            let touched = changed.moved && tenant.id.top().is_some()
                || changed_ids.contains(tenant.id.as_str())
                || kin.any(|kin| changed_ids.contains(kin.record.workspace.as_str()))
                || changed.plan.iter().any(|plan| limits.iter().any(|limits| limits.depends_on_plan(plan)));
            touched
                && types
                    .iter()
                    .filter_map(|(resource, _)| tenant.key(resource.id()))
                    .any(|key| key.cell.in_flight() > 0)
        };
        self.tenants.all().into_iter().filter(concerned).map(|tenant| tenant.id.clone()).collect()
    }

    /// Whether no request of this process may still make a row above such a limit. Those are left over that may have some.
    async fn is_lowered_here(self: &Arc<Self>, here: &mut Vec<WorkspaceId>, types: &[Type<'_>]) -> Result<bool, Error> {
        while let Some(id) = here.last() {
            // Its limits may be those of before.
            let tenant = self.fresh(id).await?;
            let over = types.iter().map(|(resource, _)| resource.id()).filter(|resource| {
                let Some(key) = tenant.key(*resource).filter(|key| key.cell.in_flight() > 0) else { return false };
                let now = key.cell.standing();
                let rows = now.counted.map(|rows| rows.saturating_add(now.posted).saturating_add(now.reserved));
                now.limit.is_some_and(|limit| rows.is_none_or(|rows| rows > limit))
            });
            for resource in over.collect::<Vec<_>>() {
                if self.is_strict(id, resource).await? {
                    return Ok(false);
                }
            }
            here.pop();
        }
        Ok(true)
    }

    /// The same of all processes.
    async fn is_lowered_everywhere(
        &self,
        replica: &Replica,
        changed: &Changed,
        types: &[Type<'_>],
        begun: Instant,
    ) -> Result<bool, Error> {
        let leases = self.within("ask the ledger", || replica.authority.above(changed, types)).await?;
        if leases.is_empty() {
            return Ok(true);
        }
        if begun.elapsed() < self.config.max_wait.min(self.config.io_timeout / 4) {
            self.within("call units back", || replica.authority.recall(&leases)).await?;
        } else {
            let ids: Vec<Uuid> = leases.iter().map(|lease| lease.lease).collect();
            self.within("end leases", || replica.authority.end(&ids)).await?;
        }
        Ok(false)
    }

    async fn is_strict(&self, whose: &WorkspaceId, resource: ResourceId) -> Result<bool, Error> {
        let workspace = whose.top().unwrap_or_else(|| whose.clone());
        let lineage = self.within("read the record", || self.store.inner().lineage(&workspace)).await?;
        let own = lineage.record().and_then(|record| record.settings.mode_of(self.catalog.get(resource).name()));
        Ok(self.mode_over(own, resource) == EnforcementMode::Strict)
    }
}

/// A resource type, and its mode in workspaces that have none of their own.
type Type<'a> = (&'a ResourceType, EnforcementMode);

/// Of which resource types the limit of a workspace, and of those below it, or its cap has become lower, where it was changed;
/// `None` for all: where rows count elsewhere now, and where nothing has changed, as when what was asked for before is asked for
/// again.
pub(super) fn lower(catalog: &ResourceCatalog, before: &Lineage, after: &Lineage) -> Option<BTreeSet<ResourceId>> {
    let parent = |lineage: &Lineage| lineage.record().and_then(|record| record.parent.clone());
    if before == after || parent(before) != parent(after) {
        return None;
    }
    let at = Timestamp::now();
    let rows = |limit: Limit| limit.rows().unwrap_or(u64::MAX);
    let cap = |lineage: &Lineage, resource: &ResourceType| {
        let cap = lineage.record().and_then(|record| record.settings.caps.get(resource.name()).copied());
        rows(cap.unwrap_or(Limit::Unlimited))
    };
    let is_lower = |resource: &&Arc<ResourceType>| {
        rows(after.limit(resource, at)) < rows(before.limit(resource, at))
            || cap(after, resource) < cap(before, resource)
    };
    Some(catalog.iter().filter(is_lower).map(|resource| resource.id()).collect())
}

/// The same of a plan.
pub(super) fn lower_of_plan(catalog: &ResourceCatalog, before: &LimitSet, after: &LimitSet) -> BTreeSet<ResourceId> {
    let is_lower = |id: &ResourceId| match (before.get(*id), after.get(*id)) {
        // Something else says what it is then, or did before.
        (Some(_), None) => true,
        (None, Some(after)) => after != Limit::Unlimited,
        (Some(before), Some(after)) => {
            after.rows().is_some_and(|after| before.rows().is_none_or(|before| after < before))
        }
        (None, None) => false,
    };
    catalog.iter().map(|resource| resource.id()).filter(is_lower).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Kin;
    use crate::store::QuotaRecord;

    #[test]
    fn what_has_become_lower_is_told_by_type() {
        let catalog = ResourceCatalog::default();
        let segments = catalog.by_name("segments").unwrap().clone();
        let others = catalog.iter().find(|resource| resource.id() != segments.id()).unwrap().clone();
        let lineage = |change: &dyn Fn(&mut QuotaRecord)| {
            let limits = LimitSet::new().with(segments.id(), Limit::of(5)).with(others.id(), Limit::of(5));
            let (acme, made) = (WorkspaceId::canonical("acme"), Timestamp::UNIX_EPOCH);
            let mut record = QuotaRecord::new(Uuid::nil(), acme, 1, limits, made, made);
            change(&mut record);
            Lineage::new(vec![Kin::new(record, None)])
        };
        let before = lineage(&|_| {});
        let lower = |change: &dyn Fn(&mut QuotaRecord)| {
            let lower = lower(&catalog, &before, &lineage(change))?;
            Some(lower.into_iter().collect::<Vec<_>>())
        };
        assert_eq!(lower(&|_| {}), None, "said again");
        assert_eq!(lower(&|record| record.parent = Some(WorkspaceId::canonical("top"))), None);
        assert_eq!(lower(&|record| record.limits.set(segments.id(), Limit::of(4))), Some(vec![segments.id()]));
        assert_eq!(lower(&|record| record.limits.set(segments.id(), Limit::of(6))), Some(vec![]));
        assert_eq!(lower(&|record| record.limits.set(segments.id(), Limit::Unlimited)), Some(vec![]));
        assert_eq!(lower(&|record| record.settings.mode = Some(EnforcementMode::Strict)), Some(vec![]));
        let cap = |record: &mut QuotaRecord| {
            record.settings.caps.insert(others.name().to_owned(), Limit::of(9));
        };
        assert_eq!(lower(&cap), Some(vec![others.id()]));
    }

    #[test]
    fn a_plan_that_says_nothing_any_more_may_have_become_lower() {
        let catalog = ResourceCatalog::default();
        let segments = catalog.by_name("segments").unwrap().id();
        let of = |limit| LimitSet::new().with(segments, limit);
        let lower = |before: &LimitSet, after: &LimitSet| !lower_of_plan(&catalog, before, after).is_empty();
        let (none, five, all) = (LimitSet::new(), of(Limit::of(5)), of(Limit::Unlimited));
        for (before, after, is_lower) in [
            (&five, &five, false),
            (&five, &all, false),
            (&all, &five, true),
            (&five, &none, true),
            (&none, &five, true),
            (&none, &all, false),
        ] {
            assert_eq!(lower(before, after), is_lower, "{before:?} {after:?}");
        }
    }
}
