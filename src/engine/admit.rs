//! The decision: from the pool where that is enough, else by a count.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use super::Inner;
use super::reservation::{Reservation, Unit, Units};
use super::tenant::{Age, Key, Tenant};
use crate::decision::{Demand, Existing, Refusal, ResolvedCharge};
use crate::error::Error;
use crate::ledger::{Admission, Round, Standing, Step, Verdict};
use crate::resource::ResourceId;
use crate::workspace::WorkspaceId;

/// What became of a demand.
#[derive(Debug)]
pub enum Decision {
    /// The units are the caller's.
    Admitted(Reservation),
    /// They would be over the limit.
    Refused(Refusal),
}

/// Somebody in a key's queue.
#[derive(Debug)]
pub(crate) struct Waiter {
    answer: oneshot::Sender<Result<Unit, Denial>>,
    units: u64,
    deadline: Instant,
}

/// Why a waiter gets no units.
#[derive(Debug)]
enum Denial {
    Over(Standing),
    Blocked(Standing),
    Failed(Error),
}

impl Inner {
    /// Admits new rows at once if the workspace is in use, its limits are fresh and the pools hold enough: no I/O,
    /// nothing awaited. `None` means that [`admit`](Self::admit) has to decide.
    #[inline]
    pub(crate) fn try_admit(
        self: &Arc<Self>,
        workspace: &str,
        mut demands: impl Iterator<Item = Demand>,
    ) -> Option<Reservation> {
        let tenant = self.tenants.get(workspace)?;
        match self.age(&tenant) {
            Age::Fresh => {}
            Age::Due => self.refresh_behind(&tenant),
            Age::Expired => return None,
        }
        let take = |demand: Demand, tenant: Arc<Tenant>| {
            tenant.key(demand.resource)?.cell.try_take(demand.units)?;
            Some(Unit::taken(tenant, demand.resource, demand.units))
        };
        let Some(first) = demands.next() else { return Some(Reservation::nothing()) };
        let mut units = Units::None;
        for demand in demands {
            // What was taken before goes back by being dropped.
            units.push(take(demand, Arc::clone(&tenant))?);
        }
        units.push(take(first, tenant)?);
        Some(Reservation::new(units, Vec::new()))
    }

    /// Decides about several charges, all or none. They must be sorted by resource type: one order for all, so that no
    /// two requests wait for each other.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        workspace: &WorkspaceId,
        charges: &[ResolvedCharge],
    ) -> Result<Decision, Error> {
        let mut units = Units::None;
        let mut warnings = Vec::new();
        for charge in charges {
            match self.admit_one(workspace, charge, &mut units).await? {
                None => {}
                Some(refusal) if self.mode().refuses() => {
                    tracing::info!(
                        workspace = %workspace,
                        resource_type = refusal.resource.name(),
                        current_usage = refusal.current_usage,
                        limit = refusal.limit,
                        requested = refusal.requested,
                        "quota exceeded: refused"
                    );
                    return Ok(Decision::Refused(refusal));
                }
                Some(refusal) => {
                    tracing::warn!(
                        workspace = %workspace,
                        resource_type = refusal.resource.name(),
                        current_usage = refusal.current_usage,
                        limit = refusal.limit,
                        requested = refusal.requested,
                        "quota exceeded: passes, since enforcement is off"
                    );
                    units.push(self.take_anyway(workspace, charge.demand()).await?);
                    warnings.push(refusal);
                }
            }
        }
        Ok(Decision::Admitted(Reservation::new(units, warnings)))
    }

    async fn admit_one(
        self: &Arc<Self>,
        workspace: &WorkspaceId,
        charge: &ResolvedCharge,
        units: &mut Units,
    ) -> Result<Option<Refusal>, Error> {
        let resource = charge.resource;
        let edits = match &charge.existing {
            Existing::No => 0,
            Existing::Row { column, value } => {
                let row = std::slice::from_ref(value);
                match self.admit_edits(workspace, resource, column, row, units).await? {
                    0 => 0,
                    _ => charge.units,
                }
            }
            Existing::Rows { column, values } => self.admit_edits(workspace, resource, column, values, units).await?,
        };
        let demand = Demand::new(resource, charge.units.saturating_sub(edits));
        if demand.units == 0 {
            return Ok(None);
        }
        match self.take(workspace, demand).await {
            Ok(unit) => {
                units.push(unit);
                Ok(None)
            }
            Err(Denial::Failed(error)) => Err(error),
            Err(Denial::Over(standing)) => Ok(Some(self.refusal(workspace, demand, standing, None))),
            Err(Denial::Blocked(standing)) => {
                Ok(Some(self.refusal(workspace, demand, standing, Some(self.config.max_wait))))
            }
        }
    }

    /// Finds out which rows exist already, and holds units for those past any limit; answers how many.
    ///
    /// An edit is held too: its row may be deleted and counted as gone before the edit makes it anew. The units are
    /// taken before the rows are looked up, so that a count can't come between.
    async fn admit_edits(
        self: &Arc<Self>,
        workspace: &WorkspaceId,
        resource: ResourceId,
        column: &str,
        values: &[String],
        units: &mut Units,
    ) -> Result<u64, Error> {
        let all = u64::try_from(values.len()).unwrap_or(u64::MAX);
        let (tenant, counts) = loop {
            let tenant = self.fresh(workspace).await?;
            let Some(key) = tenant.use_key(resource) else { continue };
            let counts = key.cell.counts();
            if key.cell.force(all) {
                break (tenant, counts);
            }
        };
        let held = Unit::taken(Arc::clone(&tenant), resource, all);
        let resource_type = self.catalog.get(resource);
        let found = self.within("look up existing rows", self.usage.existing(workspace, resource_type, column, values));
        let found = found.await?;
        let edits = u64::try_from(found.iter().filter(|exists| **exists).count()).unwrap_or(u64::MAX);
        if edits > 0 {
            units.push(held.split_edit(edits, counts));
        }
        Ok(edits)
    }

    /// Takes units for new rows, by way of the queue if the pool has too few.
    async fn take(self: &Arc<Self>, workspace: &WorkspaceId, demand: Demand) -> Result<Unit, Denial> {
        loop {
            let tenant = self.fresh(workspace).await.map_err(Denial::Failed)?;
            // Out of use since it was looked up: there is another one by now, or will be.
            let Some(key) = tenant.use_key(demand.resource) else { continue };
            if key.cell.try_take(demand.units).is_some() {
                return Ok(Unit::taken(Arc::clone(&tenant), demand.resource, demand.units));
            }
            let (answer, verdict) = oneshot::channel();
            // A request that passes anyway need not wait for others.
            let patience = if self.mode().refuses() { self.config.max_wait } else { Duration::ZERO };
            let deadline = Instant::now() + patience;
            match key.cell.admit(demand.units, Waiter { answer, units: demand.units, deadline }) {
                Admission::Granted => return Ok(Unit::taken(Arc::clone(&tenant), demand.resource, demand.units)),
                Admission::Retired => continue,
                Admission::Queued { resolve: false } => {}
                Admission::Queued { resolve: true } => {
                    tokio::spawn(resolve(Arc::clone(self), Arc::clone(&tenant), demand.resource));
                }
            }
            let leaving = WakeOnDrop(key);
            let verdict = verdict.await;
            drop(leaving);
            return match verdict {
                Ok(verdict) => verdict,
                Err(_) => Err(Denial::Failed(Error::unavailable("the count was cut off before it was done"))),
            };
        }
    }

    /// Takes units past the limit, for a request that passes anyway.
    async fn take_anyway(self: &Arc<Self>, workspace: &WorkspaceId, demand: Demand) -> Result<Unit, Error> {
        loop {
            let tenant = self.fresh(workspace).await?;
            let Some(key) = tenant.use_key(demand.resource) else { continue };
            if key.cell.force(demand.units) {
                return Ok(Unit::taken(Arc::clone(&tenant), demand.resource, demand.units));
            }
        }
    }

    /// Lets a request pass that could not be decided about, and keeps its units in the bound where the key is known.
    pub(crate) fn admit_undecided(&self, workspace: &str, charges: &[ResolvedCharge]) -> Reservation {
        let mut units = Units::None;
        if let Some(tenant) = self.tenants.get(workspace) {
            for demand in charges.iter().map(ResolvedCharge::demand) {
                if tenant.use_key(demand.resource).is_some_and(|key| key.cell.force(demand.units)) {
                    units.push(Unit::taken(Arc::clone(&tenant), demand.resource, demand.units));
                }
            }
        }
        Reservation::new(units, Vec::new())
    }

    /// Rows may have been deleted: whoever waits for room should look again.
    pub(crate) fn deleted(&self, workspace: &str, resources: impl Iterator<Item = ResourceId>) {
        let Some(tenant) = self.tenants.get(workspace) else { return };
        for key in resources.filter_map(|resource| tenant.key(resource)) {
            key.wake_if(key.cell.touch());
        }
    }

    pub(crate) fn refusal(
        &self,
        workspace: &WorkspaceId,
        demand: Demand,
        standing: Standing,
        retry_after: Option<Duration>,
    ) -> Refusal {
        let limit = standing.limit.unwrap_or(u64::MAX);
        let over = standing.rows.saturating_add(demand.units) > limit;
        Refusal {
            workspace: workspace.clone(),
            resource: Arc::clone(self.catalog.get(demand.resource)),
            current_usage: standing.rows,
            limit,
            requested: demand.units,
            remaining: if over { limit.saturating_sub(standing.rows) } else { standing.remaining },
            reserved: (!over).then_some(standing.reserved),
            retry_after: if over { None } else { retry_after },
        }
    }

    /// Counts the rows of a key; exactly where there are more than `limit`, or no limit is given.
    pub(crate) async fn count(&self, tenant: &Tenant, resource: ResourceId, limit: Option<u64>) -> Result<u64, Error> {
        let resource_type = self.catalog.get(resource);
        let at_most = limit.map(|limit| limit.saturating_add(1));
        let rows = self.within("count rows", self.usage.count(&tenant.id, resource_type, at_most)).await?;
        if at_most.is_some_and(|at_most| rows >= at_most) {
            // Above the limit the bounded count stopped early, and a refusal should tell how many there are.
            return self.within("count rows", self.usage.count(&tenant.id, resource_type, None)).await;
        }
        Ok(rows)
    }

    /// Nothing waits forever.
    pub(crate) async fn within<T>(&self, what: &str, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match timeout(self.config.io_timeout, work).await {
            Ok(done) => done,
            Err(_) => {
                let limit = self.config.io_timeout;
                Err(Error::unavailable(format!("time-out: could not {what} within {limit:?}")))
            }
        }
    }
}

/// Tells the resolver that a waiter may have left the queue.
struct WakeOnDrop<'a>(&'a Key);

impl Drop for WakeOnDrop<'_> {
    fn drop(&mut self) {
        self.0.wake.notify_one();
    }
}

/// Serves a key's queue until it is empty. One at a time works on a key.
///
/// It is a task of its own, and not one of the waiters, since any of those may be dropped at any time.
async fn resolve(quota: Arc<Inner>, tenant: Arc<Tenant>, resource: ResourceId) {
    let Some(key) = tenant.key(resource) else { return };
    let mut duty = AbortOnDrop(Some(key));
    let mut verdicts = Vec::new();
    loop {
        let step = key.cell.step(&mut verdicts);
        deliver(&tenant, resource, &mut verdicts);
        match step {
            Step::Done => break,
            Step::Count(round) => count_round(&quota, &tenant, resource, key, &round, &mut verdicts).await,
            Step::Wait => {
                let now = Instant::now();
                let deadline = key.cell.peek(|waiter| waiter.deadline).unwrap_or(now);
                tokio::select! {
                    () = key.wake.notified() => {}
                    () = sleep_until(deadline) => {}
                }
                let now = Instant::now();
                key.cell.expire(|waiter| waiter.deadline <= now || waiter.answer.is_closed(), &mut verdicts);
            }
        }
        deliver(&tenant, resource, &mut verdicts);
    }
    duty.0 = None;
}

async fn count_round(
    quota: &Inner,
    tenant: &Tenant,
    resource: ResourceId,
    key: &Key,
    round: &Round,
    verdicts: &mut Vec<(Waiter, Verdict)>,
) {
    match quota.count(tenant, resource, round.limit).await {
        Ok(rows) => key.cell.resolve(round, rows, verdicts),
        Err(error) => {
            for waiter in key.cell.fail() {
                let _ = waiter.answer.send(Err(Denial::Failed(error.clone())));
            }
        }
    }
}

fn deliver(tenant: &Arc<Tenant>, resource: ResourceId, verdicts: &mut Vec<(Waiter, Verdict)>) {
    for (waiter, verdict) in verdicts.drain(..) {
        let answer = match verdict {
            Verdict::Granted => Ok(Unit::taken(Arc::clone(tenant), resource, waiter.units)),
            Verdict::Over(standing) => Err(Denial::Over(standing)),
            Verdict::Blocked(standing) => Err(Denial::Blocked(standing)),
        };
        // A waiter that has left gives its units back: they come back with the answer, and are dropped.
        let _ = waiter.answer.send(answer);
    }
}

/// A resolver that ends early (a count that panics, a runtime that shuts down) leaves no queue behind.
struct AbortOnDrop<'a>(Option<&'a Key>);

impl Drop for AbortOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.0 {
            key.cell.abort();
        }
    }
}
