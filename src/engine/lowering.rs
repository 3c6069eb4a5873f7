//! Limits that become lower in mode `strict`: once such a change is answered, no row comes to exist above them any more.
//!
//! Grants go by a limit as soon as it is written. What was granted before may still become rows: in other modes it does. Here
//! it is waited for, after all processes were asked to give back what they have in store. A lease that stays, because its
//! process stands still or its requests take too long, is ended then: a transaction that holds on to it commits before that,
//! and no other one can take hold of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::Inner;
use super::replica::Replica;
use super::tenant::Tenant;
use crate::authority::Changed;
use crate::error::Error;
use crate::mode::EnforcementMode;
use crate::resource::{ResourceId, ResourceType};
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
        if self.mode() == EnforcementMode::Off {
            return Ok(());
        }
        let begun = Instant::now();
        // The caller is told of a time-out by then.
        let patience = self.config.io_timeout / 4 * 3;
        let types: Vec<(&ResourceType, EnforcementMode)> =
            self.catalog.iter().map(|resource| (&**resource, self.mode_over(None, resource.id()))).collect();
        if let Some(replica) = &self.replica {
            if !replica.fenced() {
                // Nothing keeps handlers that don't fence from what they were admitted for.
                return Ok(());
            }
            // A grant that has read the limit of before shows only when it is done.
            self.within("wait for grants", || replica.authority.outlast(changed, &types)).await?;
        }
        loop {
            let done = match &self.replica {
                None => self.is_lowered_here(changed).await?,
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

    /// Whether no request of this process may still make a row above such a limit.
    async fn is_lowered_here(self: &Arc<Self>, changed: &Changed) -> Result<bool, Error> {
        for tenant in self.tenants.all().into_iter().filter(|tenant| concerns(changed, tenant)) {
            if tenant.keys().all(|(_, key)| key.cell.in_flight() == 0) {
                continue;
            }
            // Its limits may be those of before.
            let tenant = self.fresh(&tenant.id).await?;
            let mut over = Vec::new();
            for resource in self.catalog.iter().map(|resource| resource.id()) {
                let Some(key) = tenant.key(resource).filter(|key| key.cell.in_flight() > 0) else { continue };
                let now = key.cell.standing();
                let rows = now.counted.map(|rows| rows.saturating_add(now.posted).saturating_add(now.reserved));
                if now.limit.is_some_and(|limit| rows.is_none_or(|rows| rows > limit)) {
                    over.push(resource);
                }
            }
            for resource in over {
                if self.is_strict(&tenant.id, resource).await? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The same of all processes.
    async fn is_lowered_everywhere(
        &self,
        replica: &Replica,
        changed: &Changed,
        types: &[(&ResourceType, EnforcementMode)],
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

/// Whether the limits of a tenant may be others now, or the caps above it.
fn concerns(changed: &Changed, tenant: &Tenant) -> bool {
    let limits = tenant.limits();
    let of = |workspace: &WorkspaceId| {
        // With caps, the books of all above are concerned: those are few.
        tenant.id == *workspace
            || changed.moved && tenant.id.top().is_some()
            || limits.as_ref().is_some_and(|limits| limits.depends_on(workspace.as_str()))
    };
    let of_plan = |plan: &String| limits.as_ref().is_some_and(|limits| limits.depends_on_plan(plan));
    changed.workspaces.iter().any(of) || changed.plan.iter().any(of_plan)
}
