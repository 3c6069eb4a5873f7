//! The engine: limits, units and rows brought together into decisions. Works without HTTP.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::clock::{CoarseClock, millis};
use crate::decision::{Check, Demand, ResolvedCharge, Usage};
use crate::error::Error;
use crate::ledger::Standing;
use crate::limit::{Limit, LimitSet};
use crate::mode::{EnforcementMode, ModeSource};
use crate::resource::{ResourceCatalog, ResourceId, ResourceType};
use crate::store::{Expect, QuotaRecord, QuotaStore};
use crate::usage::UsageSource;
use crate::workspace::{WorkspaceFormat, WorkspaceId};

mod abandoned;
mod admit;
mod builder;
mod reservation;
mod tenant;

pub use abandoned::{Settling, SettlingBarrier};
pub use admit::Decision;
pub use builder::{Provisioning, QuotaBuilder};
pub use reservation::Reservation;

use builder::Config;
use tenant::{Age, Limits, Tenant, Tenants};

/// The engine. Cloning is cheap, and clones share everything.
///
/// ```
/// use tower_quota::{ClosureUsage, Decision, Demand, Limit, LimitSet, MemoryStore, Quota, ResourceCatalog};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_quota::Error> {
/// let catalog = ResourceCatalog::default();
/// let segments = catalog.by_name("segments")?.id();
/// let quota = Quota::builder(catalog)
///     .store(MemoryStore::new())
///     .usage(ClosureUsage::new(|_workspace, _resource, _at_most| async { Ok::<_, std::io::Error>(49) }))
///     .build()?;
/// let acme = quota.workspace("acme")?;
///
/// // 49 rows exist, and the default limit is 50.
/// let Decision::Admitted(reservation) = quota.reserve(&acme, &[Demand::one(segments)]).await? else { panic!() };
/// // The last unit is taken: another request for it waits a moment, and is refused.
/// assert!(matches!(quota.reserve(&acme, &[Demand::one(segments)]).await?, Decision::Refused(_)));
/// // ... the row is created, and committed ...
/// reservation.post();
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Quota(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    catalog: ResourceCatalog,
    store: Arc<dyn QuotaStore>,
    usage: Arc<dyn UsageSource>,
    mode: ModeCell,
    tenants: Tenants,
    clock: CoarseClock,
    config: Config,
}

/// A quota record with the limits in force.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct QuotaView {
    /// The record.
    pub record: QuotaRecord,
    /// The limit in force by resource type, in the catalog's order.
    pub limits: Arc<[Limit]>,
}

/// What a recount found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Recount {
    /// Rows and limits by resource type, in the catalog's order.
    pub usage: Vec<Usage>,
    /// Where the ledger believed something else.
    pub corrections: Vec<Correction>,
}

/// One wrong belief of the ledger, corrected.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Correction {
    /// Of which resource type.
    pub resource: Arc<ResourceType>,
    /// Rows that the ledger believed to exist.
    pub cached: u64,
    /// Rows that the count found.
    pub actual: u64,
}

impl Quota {
    /// Starts to set up an engine for the resource types of `catalog`.
    pub fn builder(catalog: ResourceCatalog) -> QuotaBuilder {
        QuotaBuilder::new(catalog)
    }

    /// The resource types.
    pub fn catalog(&self) -> &ResourceCatalog {
        &self.0.catalog
    }

    /// The canonical form of a workspace id that came in from outside.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid`] when `raw` is no id of the engine's format.
    pub fn workspace(&self, raw: &str) -> Result<WorkspaceId, Error> {
        self.0.config.workspace_format.parse(raw)
    }

    /// The enforcement mode in force.
    pub fn mode(&self) -> EnforcementMode {
        self.0.mode()
    }

    /// Where the mode in force came from.
    pub fn mode_source(&self) -> ModeSource {
        self.0.mode.get().1
    }

    /// Changes the enforcement mode at run time.
    ///
    /// In mode `off` rows come to exist that the ledger doesn't see, so that leaving it makes the engine count anew
    /// before it grants anything. Requests that were in flight at that moment are not in its books: let them end first
    /// where that matters.
    pub fn set_mode(&self, mode: EnforcementMode) {
        let (before, _) = self.0.mode.get();
        self.0.mode.set(mode, ModeSource::Runtime);
        tracing::info!(%before, now = %mode, "enforcement mode changed");
        if before == EnforcementMode::Off {
            for tenant in self.0.tenants.all() {
                for (_, key) in tenant.keys() {
                    key.wake_if(key.cell.forget());
                }
            }
        }
    }

    /// Reserves units for several demands, all or none.
    ///
    /// Admission takes no I/O while the workspace has units to spare. A refusal is made by a count that began after
    /// this call; where only requests in flight stand in the way, it waits for them, bounded by
    /// [`QuotaBuilder::max_wait`]. In modes `off` and `warn` the answer is always [`Decision::Admitted`].
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] when no decision can be made (not in modes `off` and `warn`),
    /// [`Error::is_not_found`] when there is no record and records are provisioned explicitly.
    pub async fn reserve(&self, workspace: &WorkspaceId, demands: &[Demand]) -> Result<Decision, Error> {
        let demands = merged(demands);
        if self.mode() == EnforcementMode::Off {
            return Ok(Decision::Admitted(Reservation::nothing()));
        }
        if let Some(mut reservation) = self.0.try_admit(workspace.as_str(), demands.iter().copied()) {
            reservation.begin();
            return Ok(Decision::Admitted(reservation));
        }
        let charges: Vec<ResolvedCharge> = demands.into_iter().map(ResolvedCharge::new).collect();
        let decision = match self.0.admit(workspace, &charges).await {
            Err(error) if !self.mode().refuses() => {
                tracing::warn!(error = %error, %workspace, "the quota can't be checked: passes, as the mode says");
                Ok(Decision::Admitted(self.0.admit_undecided(workspace.as_str(), &charges)))
            }
            decision => decision,
        };
        match decision? {
            Decision::Admitted(mut reservation) => {
                reservation.begin();
                Ok(Decision::Admitted(reservation))
            }
            refused => Ok(refused),
        }
    }

    /// Whether a demand would be admitted now: advice, by a live count. Only a reservation makes a creation safe.
    ///
    /// # Errors
    ///
    /// As [`reserve`](Self::reserve), in every mode.
    pub async fn check(&self, workspace: &WorkspaceId, demand: Demand) -> Result<Check, Error> {
        let tenant = self.0.fresh(workspace).await?;
        let current = self.0.count(&tenant, demand.resource, None).await?;
        let limit = self.0.limits_of(&tenant)?.by_resource[demand.resource.index()];
        let usage = Usage { current, limit };
        let Some(limit) = limit.rows() else { return Ok(Check { usage, refusal: None }) };
        let reserved = tenant.key(demand.resource).map_or(0, |key| key.cell.reserved());
        let remaining = limit.saturating_sub(current.saturating_add(reserved));
        let refusal = (demand.units > remaining).then(|| {
            let standing = Standing { rows: current, reserved, limit: Some(limit), remaining };
            self.0.refusal(workspace, demand, standing, Some(self.0.config.max_wait))
        });
        Ok(Check { usage, refusal })
    }

    /// Live counts beside the limits in force, by resource type in the catalog's order.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub async fn usage(&self, workspace: &WorkspaceId) -> Result<Vec<Usage>, Error> {
        let tenant = self.0.fresh(workspace).await?;
        let rows = self.count_all(&tenant).await?;
        let limits = self.0.limits_of(&tenant)?;
        Ok(rows.into_iter().map(|row| Usage { current: row.1, limit: limits.by_resource[row.0] }).collect())
    }

    /// Counts all rows of a workspace anew, and corrects what the ledger believed.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check). What was counted before the failure is corrected.
    pub async fn recount(&self, workspace: &WorkspaceId) -> Result<Recount, Error> {
        let tenant = self.0.fresh(workspace).await?;
        let corrections = self.0.recount(&tenant).await?;
        let rows = self.count_all(&tenant).await?;
        let limits = self.0.limits_of(&tenant)?;
        let usage = rows.into_iter().map(|row| Usage { current: row.1, limit: limits.by_resource[row.0] }).collect();
        Ok(Recount { usage, corrections })
    }

    /// The quota record of a workspace; made if there is none and records are provisioned automatically.
    ///
    /// # Errors
    ///
    /// [`Error::is_not_found`] when there is none and records are provisioned explicitly, [`Error::is_unavailable`].
    pub async fn record(&self, workspace: &WorkspaceId) -> Result<QuotaView, Error> {
        let record = match self.0.config.provisioning {
            Provisioning::Automatic => self.0.within("make the record", self.0.store.provision(workspace)).await?,
            Provisioning::Explicit => {
                let record = self.0.within("read the record", self.0.store.load(workspace)).await?;
                record.ok_or_else(|| no_record(workspace))?
            }
        };
        Ok(self.0.adopt(record))
    }

    /// Changes the limits in `changes` and leaves the others as they are; makes the record if there is none.
    ///
    /// A new limit is in force when this returns. A lowered one keeps rows that exist, and refuses new ones.
    ///
    /// # Errors
    ///
    /// [`Error::is_conflict`] when the record is not what `expect` says, [`Error::is_unavailable`].
    pub async fn update_limits(
        &self,
        workspace: &WorkspaceId,
        changes: &LimitSet,
        expect: &Expect,
    ) -> Result<QuotaView, Error> {
        match self.0.within("change the record", self.0.store.update(workspace, changes, expect)).await {
            Ok(record) => Ok(self.0.adopt(record)),
            Err(error) => {
                // It may have been changed all the same: a time-out says nothing about that.
                if let Some(tenant) = self.0.tenants.get(workspace.as_str()) {
                    tenant.set_due(self.0.clock.now());
                }
                Err(error)
            }
        }
    }

    /// Whether the store answers.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] when it doesn't.
    pub async fn ping(&self) -> Result<(), Error> {
        self.0.within("reach the store", self.0.store.ping()).await
    }

    /// How many workspaces are in memory.
    pub fn workspaces_in_memory(&self) -> usize {
        self.0.tenants.len()
    }

    async fn count_all(&self, tenant: &Arc<Tenant>) -> Result<Vec<(usize, u64)>, Error> {
        let resources = self.0.catalog.iter().map(|resource| resource.id());
        self.0
            .each(tenant, resources, |quota, tenant, resource| async move {
                Ok((resource.index(), quota.count(&tenant, resource, None).await?))
            })
            .await
    }
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quota").field("mode", &self.mode()).field("resources", &self.0.catalog).finish_non_exhaustive()
    }
}

/// Demands by resource type in their global order, one for each.
fn merged(demands: &[Demand]) -> Vec<Demand> {
    let mut merged: Vec<Demand> = Vec::with_capacity(demands.len());
    for demand in demands.iter().filter(|demand| demand.units > 0) {
        match merged.iter_mut().find(|other| other.resource == demand.resource) {
            Some(other) => other.units = other.units.saturating_add(demand.units),
            None => merged.push(*demand),
        }
    }
    merged.sort_unstable_by_key(|demand| demand.resource);
    merged
}

fn no_record(workspace: &WorkspaceId) -> Error {
    Error::not_found(format!("workspace {workspace} has no quota record: make one with PUT"))
}

impl Inner {
    #[inline]
    pub(crate) fn mode(&self) -> EnforcementMode {
        self.mode.get().0
    }

    #[inline]
    pub(crate) fn workspace_format(&self) -> WorkspaceFormat {
        self.config.workspace_format
    }

    #[inline]
    fn age(&self, tenant: &Tenant) -> Age {
        tenant.age(self.clock.now(), millis(self.config.refresh_after))
    }

    /// The tenant with limits that are fresh enough to decide by.
    async fn fresh(self: &Arc<Self>, workspace: &WorkspaceId) -> Result<Arc<Tenant>, Error> {
        loop {
            let tenant = self.tenants.get_or_create(workspace);
            match self.age(&tenant) {
                Age::Fresh => return Ok(tenant),
                Age::Due => {
                    self.refresh_behind(&tenant);
                    return Ok(tenant);
                }
                Age::Expired => {}
            }
            let _one_at_a_time = self.tenants.loading(workspace).await;
            if self.age(&tenant) == Age::Expired {
                self.refresh(&tenant).await?;
            }
            if !tenant.retired() {
                return Ok(tenant);
            }
        }
    }

    /// Refreshes a tenant that is in use without making anybody wait.
    fn refresh_behind(self: &Arc<Self>, tenant: &Arc<Tenant>) {
        if !tenant.begin_refresh() {
            return;
        }
        let (quota, tenant) = (Arc::clone(self), Arc::clone(tenant));
        tokio::spawn(async move {
            let _one_at_a_time = quota.tenants.loading(&tenant.id).await;
            // Failures are logged there; the last known limits stay in force.
            let _ = quota.refresh(&tenant).await;
            tenant.refreshed();
        });
    }

    /// Counts the rows of a workspace again without making anybody wait.
    pub(crate) fn count_behind(self: &Arc<Self>, workspace: &WorkspaceId) {
        let Some(tenant) = self.tenants.get(workspace.as_str()) else { return };
        let quota = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = quota.recount(&tenant).await {
                // The units stay posted: too many rather than too few, until the next count.
                tracing::warn!(error = %error, workspace = %tenant.id, "the rows could not be counted again");
            }
        });
    }

    /// Reads the limits again, and counts again what is in use.
    ///
    /// # Errors
    ///
    /// Only when the limits were never known: otherwise the last known ones stay in force.
    async fn refresh(self: &Arc<Self>, tenant: &Arc<Tenant>) -> Result<(), Error> {
        /// How soon to try again after a failure.
        const RETRY: Duration = Duration::from_secs(1);
        let loaded = match self.within("read the record", self.store.load(&tenant.id)).await {
            Ok(Some(record)) => Ok(self.limits(&record)),
            Ok(None) if self.config.provisioning == Provisioning::Explicit => return Err(no_record(&tenant.id)),
            Ok(None) => Ok(Limits { version: 0, by_resource: self.catalog.default_limits() }),
            Err(error) => Err(error),
        };
        let again = match loaded {
            Ok(limits) => {
                tenant.install(limits);
                match self.recount(tenant).await {
                    Ok(_) => self.config.refresh_after,
                    Err(error) => {
                        tracing::error!(error = %error, workspace = %tenant.id, "the rows could not be counted again");
                        RETRY
                    }
                }
            }
            Err(error) if tenant.limits().is_none() => return Err(error),
            Err(error) => {
                tracing::error!(error = %error, workspace = %tenant.id, "the last known limits stay in force");
                RETRY
            }
        };
        tenant.set_due(self.clock.now().saturating_add(millis(again.min(self.config.refresh_after))));
        Ok(())
    }

    /// Counts the keys in use again.
    async fn recount(self: &Arc<Self>, tenant: &Arc<Tenant>) -> Result<Vec<Correction>, Error> {
        let in_use = tenant.keys().map(|(index, _)| index).collect::<Vec<_>>();
        let resources = self.catalog.iter().map(|resource| resource.id()).filter(|id| in_use.contains(&id.index()));
        let corrections = self.each(tenant, resources, |quota, tenant, resource| async move {
            let Some(key) = tenant.key(resource) else { return Ok(None) };
            let round = key.cell.begin_count();
            let actual = quota.count(&tenant, resource, round.limit).await?;
            let (cached, resolving) = key.cell.finish_count(&round, actual);
            key.wake_if(resolving);
            let wrong = cached.filter(|cached| *cached != actual);
            let resource = Arc::clone(quota.catalog.get(resource));
            Ok(wrong.map(|cached| Correction { resource, cached, actual }))
        });
        Ok(corrections.await?.into_iter().flatten().collect())
    }

    /// Does something for several resource types at once; the results are in the catalog's order.
    async fn each<T, F>(
        self: &Arc<Self>,
        tenant: &Arc<Tenant>,
        resources: impl Iterator<Item = ResourceId>,
        work: impl Fn(Arc<Self>, Arc<Tenant>, ResourceId) -> F,
    ) -> Result<Vec<T>, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let mut running = JoinSet::new();
        for resource in resources {
            let work = work(Arc::clone(self), Arc::clone(tenant), resource);
            running.spawn(async move { (resource, work.await) });
        }
        let mut results = Vec::with_capacity(running.len());
        while let Some(ended) = running.join_next().await {
            let (resource, result) =
                ended.map_err(|error| Error::unavailable("a count broke off").with_source(error))?;
            results.push((resource, result?));
        }
        results.sort_unstable_by_key(|(resource, _)| *resource);
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }

    fn limits(&self, record: &QuotaRecord) -> Limits {
        Limits { version: record.version, by_resource: self.catalog.effective(&record.limits) }
    }

    fn limits_of(&self, tenant: &Tenant) -> Result<Limits, Error> {
        tenant.limits().ok_or_else(|| Error::unavailable("the limits are not known yet"))
    }

    /// Puts the limits of a record in force.
    fn adopt(&self, record: QuotaRecord) -> QuotaView {
        let limits = self.limits(&record);
        let by_resource = Arc::clone(&limits.by_resource);
        if let Some(tenant) = self.tenants.get(record.workspace.as_str()) {
            tenant.install(limits);
        }
        QuotaView { record, limits: by_resource }
    }
}

/// Keeps the coarse clock going and the cache in bounds, as long as there is an engine.
async fn maintain(quota: Weak<Inner>) {
    let mut ticks = tokio::time::interval(CoarseClock::TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(quota) = quota.upgrade() else { return };
        quota.clock.tick();
        quota.tenants.maintain();
    }
}

/// The mode and where it came from, in one word: they are never seen apart.
struct ModeCell(AtomicU8);

impl ModeCell {
    const SOURCES: [ModeSource; 4] =
        [ModeSource::Default, ModeSource::Environment, ModeSource::Code, ModeSource::Runtime];

    fn new(mode: EnforcementMode, source: ModeSource) -> Self {
        Self(AtomicU8::new(Self::encode(mode, source)))
    }

    #[inline]
    fn get(&self) -> (EnforcementMode, ModeSource) {
        let word = self.0.load(Ordering::Relaxed);
        (EnforcementMode::ALL[usize::from(word & 3)], Self::SOURCES[usize::from(word >> 2 & 3)])
    }

    fn set(&self, mode: EnforcementMode, source: ModeSource) {
        self.0.store(Self::encode(mode, source), Ordering::Relaxed);
    }

    fn encode(mode: EnforcementMode, source: ModeSource) -> u8 {
        let mode = match mode {
            EnforcementMode::Off => 0,
            EnforcementMode::Warn => 1,
            EnforcementMode::Enforce => 2,
            EnforcementMode::Strict => 3,
        };
        let source = match source {
            ModeSource::Default => 0,
            ModeSource::Environment => 1,
            ModeSource::Code => 2,
            ModeSource::Runtime => 3,
        };
        mode | source << 2
    }
}
