//! The engine: limits, units and rows brought together into decisions. Works without HTTP.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, Weak};
use std::time::Duration;

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use crate::authority::Books;
use crate::clock::{CoarseClock, millis};
use crate::decision::{Check, DecisionReceipt, Demand, Refusal, ResolvedCharge, Usage};
use crate::error::Error;
use crate::ledger::Standing;
use crate::limit::{Limit, LimitSet};
use crate::metrics::Metrics;
use crate::mode::{EnforcementMode, ModeSource, Promise};
use crate::policy::{Actor, AuditFilter, AuditPage, IncreaseRequest, Plan, RequestStatus, Trace};
use crate::resource::{ResourceCatalog, ResourceId, ResourceType};
use crate::store::{CachedStore, Expect, QuotaRecord, QuotaStore};
use crate::usage::UsageSource;
use crate::workspace::{WorkspaceFormat, WorkspaceId};

mod abandoned;
mod admin;
mod admit;
#[cfg(feature = "insight")]
mod analytics;
mod builder;
mod cleanup;
#[cfg(any(feature = "webhooks", feature = "email"))]
mod endpoints;
mod import;
mod life;
mod listing;
mod lowering;
#[cfg(feature = "metrics")]
mod measure;
mod outlets;
#[cfg(feature = "dashboard")]
mod overview;
mod readiness;
mod receipt;
mod replica;
#[cfg(feature = "insight")]
mod reports;
mod reservation;
mod shadow;
#[cfg(test)]
#[cfg(feature = "postgres")]
mod simulation;
#[cfg(feature = "insight")]
mod snapshots;
mod status;
mod sweep;
mod tallies;
mod tenant;
mod watch;

pub use abandoned::{Settling, SettlingBarrier};
pub use admin::{Admin, PolicyChange};
pub use admit::Decision;
#[cfg(feature = "insight")]
pub use analytics::{Analytics, TypeAnalytics};
pub use builder::{Provisioning, QuotaBuilder};
pub use cleanup::{CleanupOptions, CleanupReport};
#[cfg(feature = "webhooks")]
pub use endpoints::EndpointChange;
pub use import::{Import, ImportOptions, ImportSummary, Proposal};
#[cfg(any(feature = "webhooks", feature = "email"))]
pub use outlets::DeliveryRetries;
pub use readiness::{Readiness, TypeReadiness};
#[cfg(feature = "insight")]
pub use reports::ReportPages;
pub use reservation::Reservation;
pub(crate) use reservation::Unit;
pub use shadow::{ShadowRefusals, ShadowReport};
#[cfg(feature = "insight")]
pub use snapshots::{SnapshotOptions, SnapshotSummary};
pub use status::{LedgerKind, ReplicaConfig, ReplicaStatus, StoreStatus, SystemStatus, TypeConfig};

use builder::Config;
use cleanup::Cleaner;
use replica::Replica;
use shadow::Shadow;
use tallies::Tallies;
use tenant::{Age, Key, Limits, Refreshing, Tenant, Tenants};
use watch::Changed;

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
    store: CachedStore<Arc<dyn QuotaStore>>,
    usage: Arc<dyn UsageSource>,
    tallies: Arc<Tallies>,
    /// `None` where this process grants units by itself.
    replica: Option<Replica>,
    mode: ModeCell,
    tenants: Tenants,
    /// By resource type: its mode in all workspaces that have none of their own for it.
    type_modes: RwLock<Vec<Option<EnforcementMode>>>,
    /// One workspace at a time goes from some caps to others.
    moves: Mutex<()>,
    /// Workspaces that others depend on, of those that were ever in memory.
    parents: Mutex<HashSet<WorkspaceId>>,
    /// Limits are tried out.
    shadowing: AtomicBool,
    shadow: RwLock<Option<Arc<Shadow>>>,
    cleaner: Option<Cleaner>,
    clock: CoarseClock,
    /// Before this, rows are not counted.
    first_count: Instant,
    /// Rows that were found beyond what the books allowed.
    breaches: AtomicU64,
    /// Workspaces that were counted or whose limits were changed, and whose thresholds weren't looked at since.
    changed: Mutex<Changed>,
    /// All workspaces are to be looked at.
    sweep: AtomicBool,
    /// Knows where webhooks may go.
    #[cfg(feature = "webhooks")]
    webhooks: Option<crate::events::WebhookClient>,
    /// There is something to be delivered.
    told: Arc<Notify>,
    #[cfg(feature = "insight")]
    snapshots: snapshots::Snapshots,
    metrics: Arc<Metrics>,
    runtime: Handle,
    config: Config,
}

/// How soon something that failed in the background is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A quota record with the limits in force.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct QuotaView {
    /// The record.
    pub record: QuotaRecord,
    /// The limit in force by resource type, in the catalog's order.
    pub limits: Arc<[Limit]>,
}

/// What a count found beside what the ledger believed: a [recount](Quota::recount), which corrects that, or a
/// [comparison](Quota::drift), which doesn't.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Recount {
    /// Rows and limits by resource type, in the catalog's order.
    pub usage: Vec<Usage>,
    /// Where the ledger believed something else.
    pub corrections: Vec<Correction>,
}

/// One wrong belief of the ledger.
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
        if before == EnforcementMode::Off {
            self.0.forget_all();
        }
        self.0.mode.set(mode, ModeSource::Runtime);
        if before == EnforcementMode::Off {
            // What was counted meanwhile was counted without those that still passed.
            self.0.forget_all();
        }
        self.0.mode_changed();
        tracing::info!(%before, now = %mode, "enforcement mode changed");
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
    /// [`Error::is_not_found`] when there is no record and records are provisioned explicitly,
    /// [`Error::is_unknown_resource`] for a resource type of another catalog.
    pub async fn reserve(&self, workspace: &WorkspaceId, demands: &[Demand]) -> Result<Decision, Error> {
        for demand in demands {
            self.0.catalog.check(demand.resource)?;
        }
        let demands = merged(demands);
        if self.mode() == EnforcementMode::Off {
            return Ok(Decision::Admitted(Reservation::nothing()));
        }
        if let Some(mut reservation) = self.0.try_admit(workspace.as_str(), demands.iter().copied()) {
            reservation.begin();
            self.0.explain(&reservation, false);
            return Ok(Decision::Admitted(reservation));
        }
        let charges: Vec<ResolvedCharge> = demands.iter().copied().map(ResolvedCharge::new).collect();
        let decision = match self.0.admit(workspace, &charges).await {
            Err(error) if !demands.iter().any(|demand| self.0.mode_in(workspace, demand.resource).refuses()) => {
                tracing::warn!(error = %error, %workspace, "the quota can't be checked: passes, as the mode says");
                Ok(Decision::Admitted(self.0.admit_undecided(workspace, &charges)))
            }
            decision => decision,
        };
        match decision.inspect_err(|error| self.0.not_decided(&charges, error))? {
            Decision::Admitted(mut reservation) => {
                reservation.begin();
                self.0.explain(&reservation, false);
                Ok(Decision::Admitted(reservation))
            }
            refused => Ok(refused),
        }
    }

    /// Tells that rows were deleted: whoever waits for room looks again, and what the [ledger alone](QuotaBuilder::tally) counts is
    /// less by that. A rule of the operation `delete` does so by itself.
    ///
    /// Other replicas hear of it a moment later.
    ///
    /// # Errors
    ///
    /// [`Error::is_unknown_resource`] for a resource type of another catalog.
    pub fn deleted(&self, workspace: &WorkspaceId, demands: &[Demand]) -> Result<(), Error> {
        for demand in demands {
            self.0.catalog.check(demand.resource)?;
        }
        self.0.deleted(workspace, demands.iter().copied());
        Ok(())
    }

    /// What a reservation was granted by, as the books stand now; `None` when it is for no new rows.
    pub fn receipt(&self, reservation: &Reservation) -> Option<DecisionReceipt> {
        self.0.receipt(reservation)
    }

    /// Whether a demand would be admitted now: advice, by a live count. Only a reservation makes a creation safe.
    ///
    /// # Errors
    ///
    /// As [`reserve`](Self::reserve), in every mode.
    pub async fn check(&self, workspace: &WorkspaceId, demand: Demand) -> Result<Check, Error> {
        self.0.catalog.check(demand.resource)?;
        let tenant = self.0.fresh(workspace).await?;
        let (usage, mut refusal) = self.0.check_books(&tenant, workspace, demand).await?;
        for books in Inner::charged_above(tenant.limits().as_ref(), demand.resource) {
            if refusal.is_none() {
                let tenant = self.0.fresh(&books).await?;
                refusal = self.0.check_books(&tenant, workspace, demand).await?.1;
            }
        }
        Ok(Check { usage, refusal })
    }

    /// Live counts beside the limits in force, by resource type in the catalog's order.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub async fn usage(&self, workspace: &WorkspaceId) -> Result<Vec<Usage>, Error> {
        let tenant = self.0.fresh(workspace).await?;
        let all = self.0.catalog.iter().map(|resource| resource.id());
        let count = |quota: Arc<Inner>, tenant: Arc<Tenant>, resource| async move {
            quota.count(&tenant, resource, None).await
        };
        let rows = self.0.each(&tenant, all, count).await?;
        let limits = self.0.limits_of(&tenant)?;
        Ok(rows
            .into_iter()
            .zip(limits.by_resource.iter())
            .map(|(current, limit)| Usage { current, limit: *limit })
            .collect())
    }

    /// Counts all rows of a workspace anew, and corrects what the ledger believed.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check). What was counted before the failure is corrected.
    pub async fn recount(&self, workspace: &WorkspaceId) -> Result<Recount, Error> {
        let tenant = self.0.fresh(workspace).await?;
        let all = self.0.catalog.iter().map(|resource| resource.id());
        let counted = self.0.each(&tenant, all, Inner::recount_one).await?;
        let limits = self.0.limits_of(&tenant)?;
        let usage = counted.iter().zip(limits.by_resource.iter());
        let usage: Vec<_> = usage.map(|((current, _), limit)| Usage { current: *current, limit: *limit }).collect();
        self.0.look_again(workspace);
        #[cfg(feature = "insight")]
        self.0.note_recount(workspace, &usage);
        Ok(Recount { usage, corrections: counted.into_iter().filter_map(|(_, correction)| correction).collect() })
    }

    /// Counts all rows of a workspace, and tells where the ledger believes something else: what a [`recount`](Self::recount)
    /// would correct. Nothing is changed.
    ///
    /// Rows that requests in flight may have made are no drift. With a ledger that several processes share, neither are as many
    /// as there are units on lease.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub async fn drift(&self, workspace: &WorkspaceId) -> Result<Recount, Error> {
        let tenant = self.0.fresh(workspace).await?;
        let all = self.0.catalog.iter().map(|resource| resource.id());
        let before = self.0.books(workspace).await?;
        let counted = self.0.each(&tenant, all, Inner::compare_one).await?;
        let after = self.0.books(workspace).await?;
        let limits = self.0.limits_of(&tenant)?;
        let usage = counted.iter().zip(limits.by_resource.iter());
        let usage = usage.map(|((current, _), limit)| Usage { current: *current, limit: *limit }).collect();
        let corrections = self.0.catalog.iter().zip(&counted).filter_map(|(resource, (actual, wrong))| {
            let books = || {
                let of = |books: &HashMap<String, Books>| books.get(resource.name()).cloned();
                misjudged(&of(&before)?, &of(&after)?, *actual)
            };
            let cached = wrong.or_else(books)?;
            Some(Correction { resource: Arc::clone(resource), cached, actual: *actual })
        });
        Ok(Recount { usage, corrections: corrections.collect() })
    }

    /// The quota record of a workspace; made if there is none and records are provisioned automatically.
    ///
    /// # Errors
    ///
    /// [`Error::is_not_found`] when there is none and records are provisioned explicitly, [`Error::is_unavailable`].
    pub async fn record(&self, workspace: &WorkspaceId) -> Result<QuotaView, Error> {
        let mut lineage = self.0.reread(workspace).await?;
        if lineage.record().is_none() && self.0.config.provisioning == Provisioning::Automatic {
            self.0.within("make the record", || self.0.store.provision(workspace)).await?;
            lineage = self.0.reread(workspace).await?;
        }
        self.0.view(workspace, &lineage)
    }

    /// Why the limits of a workspace are what they are, by resource type in the catalog's order.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`].
    pub async fn explain(&self, workspace: &WorkspaceId) -> Result<Vec<Trace>, Error> {
        let lineage = self.0.reread(workspace).await?;
        let now = Timestamp::now();
        Ok(self.0.catalog.iter().map(|resource| lineage.trace(resource, now)).collect())
    }

    /// The workspace above, as the store has it now.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`].
    pub async fn parent(&self, workspace: &WorkspaceId) -> Result<Option<WorkspaceId>, Error> {
        let lineage = self.0.reread(workspace).await?;
        Ok(lineage.record().and_then(|record| record.parent.clone()))
    }

    /// All plans, by name.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`]; [`Error::is_config`] for a store that keeps limits only.
    pub async fn plans(&self) -> Result<Vec<Plan>, Error> {
        self.0.within("read the plans", || self.0.store.inner().plans()).await
    }

    /// Requests for more; see [`QuotaStore::requests`].
    ///
    /// # Errors
    ///
    /// As [`plans`](Self::plans).
    pub async fn requests(
        &self,
        workspace: Option<&WorkspaceId>,
        status: Option<RequestStatus>,
        before: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<IncreaseRequest>, Error> {
        self.0.within("read the requests", || self.0.store.inner().requests(workspace, status, before, limit)).await
    }

    /// Entries of the audit log, the newest first.
    ///
    /// # Errors
    ///
    /// As [`plans`](Self::plans).
    pub async fn audit(&self, filter: &AuditFilter) -> Result<AuditPage, Error> {
        self.0.within("read the audit log", || self.0.store.inner().audit(filter)).await
    }

    /// The mode of a resource type of a workspace, as far as its limits are in memory; else that of all.
    pub fn mode_of(&self, workspace: &WorkspaceId, resource: ResourceId) -> EnforcementMode {
        self.0.mode_in(workspace, resource)
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
        self.admin(Actor::library()).set_limits(workspace, changes, expect, None).await
    }

    /// Whether the store answers.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] when it doesn't.
    pub async fn ping(&self) -> Result<(), Error> {
        self.0.within("reach the store", || self.0.store.ping()).await
    }

    /// What is promised of limits in this set-up.
    pub fn promise(&self) -> Promise {
        self.0.promise()
    }

    /// How many rows this process found that the ledger hadn't allowed: created around it, or by a replica that went on
    /// after it was taken for dead. Each is logged too.
    pub fn breaches(&self) -> u64 {
        self.0.breaches.load(Ordering::Relaxed)
    }

    /// Ends this process's part in keeping limits: hands out no more units, waits for requests in flight, and gives back
    /// what it has on lease, so that other replicas need not wait for it. Without a
    /// [`ledger`](QuotaBuilder::ledger) there is nothing to give back. With the feature `insight`, it also writes the refusals of
    /// the last seconds.
    ///
    /// Call it when the server has stopped to take requests. From then on nothing is admitted.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] when requests are still in flight after `patience`, or the ledger doesn't answer: the
    /// others reclaim the leases then.
    pub async fn shutdown(&self, patience: Duration) -> Result<(), Error> {
        let ended = self.0.shut_down(patience).await;
        if let Err(error) = self.0.settle_tallies().await {
            tracing::warn!(error = %error, "more rows than there are may be tallied from now on");
        }
        #[cfg(feature = "insight")]
        if let Err(error) = self.0.write_noted().await {
            tracing::warn!(error = %error, "the last refusals could not be written into snapshots");
        }
        ended
    }

    /// How many workspaces are in memory.
    pub fn workspaces_in_memory(&self) -> usize {
        self.0.tenants.len()
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

/// What the books had before a count and after it, if that can't have been `actual` at any time in between.
fn misjudged(before: &Books, after: &Books, actual: u64) -> Option<u64> {
    let most = |books: &Books| books.rows.saturating_add(books.reserved);
    let right = before.rows.min(after.rows)..=most(before).max(most(after));
    (!right.contains(&actual)).then_some(before.rows)
}

fn no_record(workspace: &WorkspaceId) -> Error {
    Error::not_found(format!("workspace {workspace} has no quota record: set its limits to make one"))
}

impl Inner {
    #[inline]
    pub(crate) fn mode(&self) -> EnforcementMode {
        self.mode.get().0
    }

    fn promise(&self) -> Promise {
        match &self.replica {
            _ if self.tallies.any() => Promise::Bounded,
            Some(replica) if !replica.fenced() => Promise::Bounded,
            _ => Promise::Exact,
        }
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
            self.within("read the limits", || self.load_expired(&tenant)).await?;
            // Something may have changed meanwhile.
            if !tenant.retired() && self.age(&tenant) != Age::Expired {
                return Ok(tenant);
            }
        }
    }

    /// Whether a demand for rows of `workspace` fits into the books of a tenant now.
    async fn check_books(
        &self,
        tenant: &Arc<Tenant>,
        workspace: &WorkspaceId,
        demand: Demand,
    ) -> Result<(Usage, Option<Refusal>), Error> {
        let current = self.count(tenant, demand.resource, None).await?;
        let limit = self.limits_of(tenant)?.by_resource[demand.resource.index()];
        let usage = Usage { current, limit };
        let Some(limit) = limit.rows() else { return Ok((usage, None)) };
        let reserved = tenant.key(demand.resource).map_or(0, |key| key.cell.reserved());
        let remaining = limit.saturating_sub(current.saturating_add(reserved));
        let (counted, counted_at) = (Some(current), self.clock.ticks());
        let standing = Standing { counted, posted: 0, reserved, limit: Some(limit), remaining, counted_at };
        let refusal = if usage.would_exceed(demand.units) {
            Some(self.refusal(&tenant.id, workspace, demand, standing))
        } else {
            (demand.units > remaining).then(|| self.blocked(&tenant.id, workspace, demand, standing))
        };
        Ok((usage, refusal))
    }

    /// Reads limits that are not known or too old, and has rows counted anew before anything is granted.
    async fn load_expired(self: &Arc<Self>, tenant: &Arc<Tenant>) -> Result<(), Error> {
        let _one_at_a_time = self.tenants.loading(&tenant.id).await;
        if self.age(tenant) != Age::Expired {
            return Ok(());
        }
        let changes = tenant.changes();
        let good_for = self.load(tenant).await?;
        // Not before the load: a store that is down would have counts begin anew with every request.
        for (_, key) in tenant.keys() {
            key.wake_if(key.cell.forget());
        }
        tenant.set_due(self.clock.after(good_for), changes);
        Ok(())
    }

    /// Refreshes a tenant that is in use without making anybody wait.
    fn refresh_behind(self: &Arc<Self>, tenant: &Arc<Tenant>) {
        let Some(refreshing) = Refreshing::begin(tenant) else { return };
        let quota = Arc::clone(self);
        tokio::spawn(async move {
            let tenant = refreshing.tenant();
            let one_at_a_time = quota.tenants.loading(&tenant.id).await;
            let changes = tenant.changes();
            let loaded = quota.load(tenant).await;
            if let Ok(good_for) = loaded {
                tenant.set_due(quota.clock.after(good_for), changes);
            }
            drop(one_at_a_time);
            // A failure is logged there.
            if loaded.is_ok()
                && let Err(error) = quota.recount(tenant).await
            {
                tracing::error!(error = %error, workspace = %tenant.id, "the rows could not be counted again");
                tenant.make_due(quota.clock.after(RETRY));
            }
        });
    }

    /// Where what nobody waits for goes on, wherever it is begun.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Counts the rows of some resource types again without making anybody wait.
    pub(crate) fn count_behind(self: &Arc<Self>, workspace: &WorkspaceId, resources: Vec<ResourceId>) {
        let Some(tenant) = self.tenants.get(workspace.as_str()) else { return };
        let quota = Arc::clone(self);
        self.runtime.spawn(async move {
            if let Err(error) = quota.each(&tenant, resources.into_iter(), Self::recount_one).await {
                // The units stay posted: too many rather than too few, until the next count.
                tracing::warn!(error = %error, workspace = %tenant.id, "the rows could not be counted again");
            }
        });
    }

    /// Reads the limits of a tenant; answers how long they are good for.
    ///
    /// # Errors
    ///
    /// When they can't be read and were never known, or in a mode that doesn't go by the last known ones.
    async fn load(self: &Arc<Self>, tenant: &Arc<Tenant>) -> Result<Duration, Error> {
        let (since, changes) = (tenant.installs(), self.store.changes());
        let top = tenant.id.top();
        let workspace = top.as_ref().unwrap_or(&tenant.id);
        // What is read again is read from the store itself: it is to show what changed there.
        let read = async || match tenant.limits() {
            None => self.store.load(workspace).await,
            Some(_) => Ok((self.store.reload(workspace).await?, Duration::ZERO)),
        };
        let loaded = match self.within("read the record", read).await {
            Ok((lineage, _)) if lineage.record().is_none() && self.config.provisioning == Provisioning::Explicit => {
                Err(no_record(workspace))
            }
            loaded => loaded,
        };
        Ok(match loaded {
            Ok((lineage, age)) => {
                self.put_in_force(tenant, &lineage, Some(since));
                if changes == self.store.changes() {
                    return Ok(self.config.refresh_after.saturating_sub(age));
                }
                // What has changed meanwhile may be what this depends on: nobody could know that it does.
                if !lineage.is_plain() {
                    tenant.outdate();
                }
                Duration::ZERO
            }
            Err(error) => {
                let known = tenant.limits().filter(|_| !error.is_not_found());
                let Some(known) = known.filter(|_| self.mode() != EnforcementMode::Strict) else {
                    tenant.expire();
                    return Err(error);
                };
                tracing::error!(error = %error, workspace = %tenant.id, "the last known limits stay in force");
                if let Some(policy) = known.policy {
                    // What is in force for a time may be over.
                    self.put_in_force(tenant, &policy.lineage, Some(since));
                }
                RETRY.min(self.config.refresh_after)
            }
        })
    }

    /// The rows of all keys must be counted anew before anything is granted.
    fn forget_all(&self) {
        for tenant in self.tenants.all() {
            for (_, key) in tenant.keys() {
                key.wake_if(key.cell.forget());
            }
        }
    }

    /// Counts those keys again of which something is believed: the others are counted before anything is granted.
    async fn recount(self: &Arc<Self>, tenant: &Arc<Tenant>) -> Result<(), Error> {
        let believed: Vec<_> =
            tenant.keys().filter(|(_, key)| key.cell.standing().counted.is_some()).map(|(index, _)| index).collect();
        let resources = self.catalog.iter().map(|resource| resource.id()).filter(|id| believed.contains(&id.index()));
        self.each(tenant, resources, Self::recount_one).await.map(drop)
    }

    /// Counts the rows of one resource type, and tells the ledger; answers what it believed wrongly.
    async fn recount_one(
        self: Arc<Self>,
        tenant: Arc<Tenant>,
        resource: ResourceId,
    ) -> Result<(u64, Option<Correction>), Error> {
        // Before the first count is due, a count answers, but grants nothing.
        let Some(key) = tenant.key(resource).filter(|_| Instant::now() >= self.first_count) else {
            return Ok((self.count(&tenant, resource, None).await?, None));
        };
        let Some(round) = key.cell.begin_count() else {
            return self.recount_at_authority(&tenant, resource, key).await;
        };
        let begun = self.clock.ticks();
        let actual = self.count(&tenant, resource, round.limit).await?;
        let (cached, resolving) = key.cell.finish_count(&round, actual);
        key.cell.counted_at(begun);
        key.wake_if(resolving);
        let wrong = cached.filter(|cached| *cached != actual);
        Ok((actual, wrong.map(|cached| self.correction(resource, cached, actual))))
    }

    /// The same, where the authority counts.
    async fn recount_at_authority(
        self: &Arc<Self>,
        tenant: &Arc<Tenant>,
        resource: ResourceId,
        key: &Key,
    ) -> Result<(u64, Option<Correction>), Error> {
        let Some(ask) = key.cell.report(true) else { return Ok((self.count(tenant, resource, None).await?, None)) };
        let begun = self.clock.ticks();
        let Some((answer, believed)) = self.ask(tenant, resource, key, &ask).await? else {
            return Ok((self.count(tenant, resource, None).await?, None));
        };
        key.wake_if(key.cell.reported(&ask, &answer));
        if answer.counted {
            key.cell.counted_at(begun);
        }
        let actual = answer.known.counted;
        // Rows of requests in flight are no error of anybody's.
        let right = |believed: u64| (believed..=believed.saturating_add(answer.known.reserved)).contains(&actual);
        let wrong = believed.filter(|believed| !right(*believed));
        Ok((actual, wrong.map(|cached| self.correction(resource, cached, actual))))
    }

    /// Counts the rows of one resource type, and tells the ledger nothing; answers what it believes wrongly.
    async fn compare_one(
        self: Arc<Self>,
        tenant: Arc<Tenant>,
        resource: ResourceId,
    ) -> Result<(u64, Option<u64>), Error> {
        let key = tenant.key(resource);
        let round = key.and_then(|key| key.cell.begin_count());
        let actual = self.count(&tenant, resource, None).await?;
        let wrong = key.zip(round).and_then(|(key, round)| key.cell.compare_count(&round, actual));
        Ok((actual, wrong))
    }

    /// The books of a workspace by resource type, where they are kept elsewhere.
    async fn books(&self, workspace: &WorkspaceId) -> Result<HashMap<String, Books>, Error> {
        let Some(replica) = &self.replica else { return Ok(HashMap::new()) };
        let books = self.within("read the ledger", || replica.authority.books(workspace)).await?;
        Ok(books.into_iter().map(|books| (books.resource.clone(), books)).collect())
    }

    fn correction(&self, resource: ResourceId, cached: u64, actual: u64) -> Correction {
        self.metrics.corrected(resource, cached, actual);
        Correction { resource: Arc::clone(self.catalog.get(resource)), cached, actual }
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

    fn limits_of(&self, tenant: &Tenant) -> Result<Limits, Error> {
        tenant.limits().ok_or_else(|| Error::unavailable("the limits are not known yet"))
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
