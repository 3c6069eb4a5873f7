//! Workspaces that are in use: their limits, their keys, and the bounded cache of them.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use once_cell::race::OnceBox;
use tokio::sync::Notify;
use uuid::Uuid;

use super::abandoned::Outlet;
use super::admit::Waiter;
use super::reservation::Unit;
use super::tallies::Tally;
use crate::ledger::{Cell, retire_all};
use crate::limit::Limit;
use crate::mode::EnforcementMode;
use crate::policy::{Above, Lineage, Resolution};
use crate::resource::ResourceId;
use crate::workspace::WorkspaceId;

/// The ring comes by to see who may leave.
const RING: u8 = 1;
/// Somebody comes by to see whether thresholds are reached.
const WATCH: u8 = 2;
/// Somebody comes by to see what is in flight.
const MEASURE: u8 = 4;
/// The same, once more.
const MEASURE_AGAIN: u8 = 8;
const ALL: u8 = RING | WATCH | MEASURE | MEASURE_AGAIN;

/// One resource type of one workspace.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) cell: Cell<Waiter>,
    /// Wakes the resolver of the cell's queue.
    pub(crate) wake: Notify,
    /// Where rows are tallied that nobody can count, if this process does that.
    pub(super) tally: Option<Arc<Tally>>,
}

impl Key {
    fn new(limit: Limit, leased: bool, tally: Option<Arc<Tally>>) -> Self {
        let cell = match leased {
            false => Cell::new(limit.rows()),
            true => Cell::leased(Uuid::now_v7().as_u128(), limit.rows()),
        };
        Self { cell, wake: Notify::new(), tally }
    }

    /// The lease that its units are of, where an authority elsewhere grants them.
    pub(crate) fn lease(&self) -> Option<Uuid> {
        self.cell.lease().map(Uuid::from_u128)
    }

    /// Passes on what a cell says: whether a resolver waits to hear of the change.
    #[inline]
    pub(crate) fn wake_if(&self, resolving: bool) {
        if resolving {
            self.wake.notify_one();
        }
    }
}

/// A workspace in use.
pub(crate) struct Tenant {
    pub(crate) id: WorkspaceId,
    pub(crate) outlet: Arc<Outlet>,
    /// When the limits are due to be read again, by the coarse clock; 0 before the first reading.
    due: AtomicU64,
    refreshing: AtomicBool,
    /// Who has not come by since it was last looked up: see `RING`, `WATCH`, `MEASURE` and `MEASURE_AGAIN`.
    used: AtomicU8,
    /// Requests have more to do than to take units: see [`Limits::is_special`].
    special: AtomicBool,
    /// How often something has changed that the limits depend on.
    changes: AtomicU32,
    state: Mutex<State>,
    /// Units are on lease.
    pub(crate) leased: bool,
    keys: Box<[OnceBox<Key>]>,
}

#[derive(Debug, Default)]
struct State {
    limits: Option<Limits>,
    /// How often limits were put in force.
    installs: u32,
    retired: bool,
}

impl State {
    /// Whether what is in force is newer than `limits`, whose reading began when there had been `since` installs.
    fn is_newer(&self, limits: &Limits, since: Option<u32>) -> bool {
        let meanwhile = since.is_some_and(|since| since != self.installs);
        self.limits.as_ref().is_some_and(|current| {
            if current.record == limits.record {
                // What it inherits has no version of its own.
                (current.version, meanwhile) > (limits.version, false)
            } else {
                meanwhile
            }
        })
    }
}

/// The limits in force, and the version of the record that says so.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// `None` where there is no record, and the defaults are in force.
    pub(crate) record: Option<Uuid>,
    pub(crate) version: u64,
    pub(crate) by_resource: Arc<[Limit]>,
    /// What else follows from the lineage; `None` where that has nothing but limits of its own.
    pub(crate) policy: Option<Arc<Policy>>,
}

/// What is in force beside limits.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) lineage: Arc<Lineage>,
    pub(crate) resolution: Resolution,
}

impl Limits {
    /// The defaults.
    pub(crate) fn without_record(by_resource: Arc<[Limit]>) -> Self {
        Self { record: None, version: 0, by_resource, policy: None }
    }

    /// The limit of a resource type, without grace.
    pub(super) fn base(&self, resource: ResourceId) -> Limit {
        self.resolution().map_or(&self.by_resource, |resolution| &resolution.bases)[resource.index()]
    }

    /// What else is in force.
    pub(crate) fn resolution(&self) -> Option<&Resolution> {
        self.policy.as_ref().map(|policy| &policy.resolution)
    }

    /// The mode of a resource type here, where it has one of its own.
    pub(crate) fn mode(&self, resource: ResourceId) -> Option<EnforcementMode> {
        *self.resolution()?.modes.as_ref()?.get(resource.index())?
    }

    /// The workspaces above whose caps a row counts in.
    pub(crate) fn above(&self) -> &[Above] {
        self.resolution().map_or(&[], |resolution| &resolution.above)
    }

    /// Whether requests have more to do than to take units.
    fn is_special(&self) -> bool {
        self.resolution()
            .is_some_and(|resolution| !resolution.above.is_empty() || resolution.in_grace || resolution.modes.is_some())
    }

    /// The workspaces above, which the limits depend on.
    pub(crate) fn ancestors(&self) -> impl Iterator<Item = &WorkspaceId> {
        let kin = self.policy.iter().flat_map(|policy| policy.lineage.kin().iter().skip(1));
        kin.map(|kin| &kin.record.workspace)
    }

    /// Whether something that `workspace` has is of consequence here.
    pub(crate) fn depends_on(&self, workspace: &str) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.lineage.has(workspace))
    }

    pub(crate) fn depends_on_plan(&self, plan: &str) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.lineage.has_plan(plan))
    }
}

/// How old a tenant's limits are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    Fresh,
    /// Good enough to decide by while they are read again.
    Due,
    /// Never read, or too old to decide by.
    Expired,
}

impl Tenant {
    fn new(id: WorkspaceId, of: &Tenants) -> Self {
        Self {
            id,
            outlet: Arc::clone(&of.outlet),
            due: AtomicU64::new(0),
            refreshing: AtomicBool::new(false),
            used: AtomicU8::new(0),
            special: AtomicBool::new(false),
            changes: AtomicU32::new(0),
            state: Mutex::default(),
            leased: of.leased,
            keys: (0..of.resources).map(|_| OnceBox::new()).collect(),
        }
    }

    /// No request of it is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.keys().all(|(_, key)| key.cell.is_idle())
    }

    /// The key of `resource`, if it is in use.
    #[inline]
    pub(crate) fn key(&self, resource: ResourceId) -> Option<&Key> {
        self.keys[resource.index()].get()
    }

    /// The key of `resource`, taken into use; `None` when the tenant is out of use.
    ///
    /// Until the limits are known nothing is granted: but requests that pass undecided are in the books.
    pub(crate) fn use_key(&self, resource: ResourceId) -> Option<&Key> {
        // Whoever does so may have waited since it looked the tenant up.
        self.mark_used();
        let state = self.lock();
        if state.retired {
            return None;
        }
        let limit = state.limits.as_ref().map_or(Limit::of(0), |limits| limits.by_resource[resource.index()]);
        // Under the lock nobody else makes one, so that none is made in vain.
        let key = || Box::new(Key::new(limit, self.leased, self.outlet.tallies.of(&self.id, resource)));
        Some(self.keys[resource.index()].get_or_init(key))
    }

    /// The keys in use.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (usize, &Key)> + Clone {
        self.keys.iter().enumerate().filter_map(|(index, key)| Some((index, key.get()?)))
    }

    pub(crate) fn limits(&self) -> Option<Limits> {
        self.lock().limits.clone()
    }

    pub(crate) fn retired(&self) -> bool {
        self.lock().retired
    }

    /// How often limits were put in force: to be asked before they are read.
    pub(crate) fn installs(&self) -> u32 {
        self.lock().installs
    }

    /// Puts limits in force, unless those in force are newer: a slow reading never undoes an update.
    ///
    /// Versions tell that within one record. Between two (a record was deleted or restored around the engine), a reading
    /// counts only if nothing was put in force since it began, when there had been `since` installs.
    ///
    /// Answers how often limits were put in force by now; `None` where these were not.
    pub(crate) fn install(&self, limits: Limits, since: Option<u32>) -> Option<u32> {
        let mut state = self.lock();
        // Requests in flight of one that is out of use end in the books in which they began.
        if state.retired || state.is_newer(&limits, since) {
            return None;
        }
        for (index, key) in self.keys() {
            let limit = limits.by_resource[index];
            let before = state.limits.as_ref().map(|current| current.by_resource[index]);
            if before != Some(limit) {
                key.wake_if(key.cell.set_limit(limit.rows()));
            }
        }
        let special = limits.is_special();
        self.special.store(special, Ordering::Release);
        state.limits = Some(limits);
        state.installs = state.installs.wrapping_add(1);
        Some(state.installs)
    }

    /// Whether rows would be charged to other books by `limits`, were they put in force, than they are now.
    pub(crate) fn would_move(&self, limits: &Limits, since: Option<u32>) -> bool {
        let state = self.lock();
        !state.retired
            && !state.is_newer(limits, since)
            && match &state.limits {
                Some(current) => current.above() != limits.above(),
                None => !limits.above().is_empty() && self.keys().next().is_some(),
            }
    }

    /// Whether requests have more to do than to take units.
    #[inline]
    pub(crate) fn is_special(&self) -> bool {
        self.special.load(Ordering::Acquire)
    }

    /// How often something has changed that the limits depend on: to be asked before they are read.
    pub(crate) fn changes(&self) -> u32 {
        self.changes.load(Ordering::Acquire)
    }

    /// What the limits depend on has changed: nothing is granted before they were read again.
    pub(crate) fn outdate(&self) {
        {
            let _not_while_it_is_set = self.lock();
            self.changes.fetch_add(1, Ordering::AcqRel);
            self.expire();
        }
        for (_, key) in self.keys() {
            key.wake_if(key.cell.outdate());
        }
    }

    #[inline]
    pub(crate) fn age(&self, now: u64, tolerance: u64) -> Age {
        match self.due.load(Ordering::Relaxed) {
            0 => Age::Expired,
            due if now < due => Age::Fresh,
            due if now < due.saturating_add(tolerance) => Age::Due,
            _ => Age::Expired,
        }
    }

    /// What was read is good until then, unless something has changed since there had been `changes`.
    pub(crate) fn set_due(&self, due: u64, changes: u32) {
        let _not_while_it_is_outdated = self.lock();
        self.due.store(if self.changes() == changes { due } else { 0 }, Ordering::Release);
    }

    /// What is known is too old to decide by.
    pub(crate) fn expire(&self) {
        self.due.store(0, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn mark_used(&self) {
        // Nearly always set already: a write would take the line from the other cores.
        if self.used.load(Ordering::Relaxed) != ALL {
            self.used.store(ALL, Ordering::Relaxed);
        }
    }

    /// Whether it was looked up since `who` last came by.
    fn take_used(&self, who: u8) -> bool {
        self.used.load(Ordering::Relaxed) & who != 0 && self.used.fetch_and(!who, Ordering::Relaxed) & who != 0
    }

    /// The limits may have changed: they are to be read again, if they ever were.
    pub(crate) fn make_due(&self, now: u64) {
        let earlier = |due: u64| (due != 0).then(|| due.min(now));
        let _ = self.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earlier);
    }

    /// Takes the tenant out of use, unless units are out or somebody waits.
    fn retire(&self) -> bool {
        let mut state = self.lock();
        state.retired = state.retired || retire_all(self.keys().map(|(_, key)| &key.cell));
        state.retired
    }

    /// Takes the tenant out of use whatever is in flight; answers who waited.
    fn retire_now(&self) -> Vec<Waiter> {
        // No key comes into use any more.
        self.lock().retired = true;
        self.keys().flat_map(|(_, key)| key.cell.retire()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to refresh a tenant, which one task at a time has; it ends with the task, however that ends.
pub(crate) struct Refreshing(Arc<Tenant>);

impl Refreshing {
    pub(crate) fn begin(tenant: &Arc<Tenant>) -> Option<Self> {
        (!tenant.refreshing.swap(true, Ordering::AcqRel)).then(|| Self(Arc::clone(tenant)))
    }

    pub(crate) fn tenant(&self) -> &Arc<Tenant> {
        &self.0
    }
}

impl Drop for Refreshing {
    fn drop(&mut self) {
        self.0.refreshing.store(false, Ordering::Release);
    }
}

type Index = papaya::HashMap<WorkspaceId, Arc<Tenant>, RandomState>;

/// The workspaces in use: a lock-free index for all look-ups, and a bound on how many there are.
///
/// Who has to leave is told by a clock (a ring with second chances): a look-up leaves no more than a flag, where a list
/// in order of use would have to be changed under a lock.
///
/// A tenant leaves only when it is idle, since what its ledger knows must not be lost while a request is in flight. So
/// the index can exceed the capacity by those that are at work.
pub(crate) struct Tenants {
    index: Index,
    /// All tenants of the index, the one to look at next at the front.
    ring: Mutex<VecDeque<Arc<Tenant>>>,
    capacity: usize,
    /// One load per workspace at a time, without a lock in every tenant.
    loading: Box<[tokio::sync::Mutex<()>]>,
    hasher: RandomState,
    resources: usize,
    leased: bool,
    outlet: Arc<Outlet>,
    /// Tenants that are out of use, and have leases to be ended.
    parted: Mutex<Vec<Arc<Tenant>>>,
    /// Tenants that are out of use, with what their requests in flight may still become, in books that they were not charged to.
    indebted: Mutex<Vec<(Arc<Tenant>, Vec<Unit>)>>,
}

impl Tenants {
    pub(crate) fn new(capacity: u64, resources: usize, leased: bool, outlet: Arc<Outlet>) -> Self {
        const LOADING_STRIPES: usize = 256;
        Self {
            index: Index::default(),
            ring: Mutex::default(),
            capacity: usize::try_from(capacity).unwrap_or(usize::MAX),
            loading: (0..LOADING_STRIPES).map(|_| tokio::sync::Mutex::default()).collect(),
            hasher: RandomState::default(),
            resources,
            leased,
            outlet,
            parted: Mutex::default(),
            indebted: Mutex::default(),
        }
    }

    /// The tenant, if it is in use: the one map look-up of the common decision.
    #[inline]
    pub(crate) fn get(&self, workspace: &str) -> Option<Arc<Tenant>> {
        let index = self.index.pin();
        let tenant = index.get(workspace)?;
        tenant.mark_used();
        Some(Arc::clone(tenant))
    }

    /// The tenant, taken into use.
    pub(crate) fn get_or_create(&self, workspace: &WorkspaceId) -> Arc<Tenant> {
        loop {
            if let Some(tenant) = self.get(workspace.as_str()).filter(|tenant| !tenant.retired()) {
                return tenant;
            }
            let created = Arc::new(Tenant::new(workspace.clone(), self));
            let tenant = Arc::clone(self.index.pin().get_or_insert_with(workspace.clone(), || Arc::clone(&created)));
            // Of several that come at once, the map takes one.
            if Arc::ptr_eq(&tenant, &created) {
                self.enter(Arc::clone(&tenant));
                return tenant;
            }
            if !tenant.retired() {
                tenant.mark_used();
                return tenant;
            }
            self.leave(&tenant);
        }
    }

    /// Takes a new tenant into the ring, and makes room for it.
    fn enter(&self, tenant: Arc<Tenant>) {
        /// How many tenants are looked at for the sake of one that comes: more than one, so that the index shrinks again
        /// after it had to grow, and not many, since a request waits for it.
        const LOOKS: usize = 4;
        let mut ring = self.ring();
        self.evict(&mut ring, LOOKS);
        ring.push_back(tenant);
    }

    /// Lets idle tenants leave while there are too many; looks at no more than `looks`.
    fn evict(&self, ring: &mut VecDeque<Arc<Tenant>>, looks: usize) {
        for _ in 0..looks {
            if self.index.len() <= self.capacity {
                return;
            }
            let Some(tenant) = ring.pop_front() else { return };
            if tenant.take_used(RING) || !self.leave(&tenant) {
                ring.push_back(tenant);
            }
        }
    }

    /// Takes a tenant out of the index if it is idle.
    fn leave(&self, tenant: &Arc<Tenant>) -> bool {
        let idle = tenant.retire();
        if idle {
            self.remove(tenant);
        }
        idle
    }

    /// Takes a tenant out of the index whatever is in flight; who waits there has to begin anew.
    pub(crate) fn give_up(&self, tenant: &Arc<Tenant>) {
        let waiters = tenant.retire_now();
        self.remove(tenant);
        waiters.into_iter().for_each(Waiter::move_on);
    }

    /// Puts a new tenant in the place of one that is in use. `hand_over` is done after nothing more is granted there, and
    /// before anything is granted in its place.
    ///
    /// It answers units that are owed for what requests in flight there may still become.
    pub(crate) fn replace(&self, tenant: &Arc<Tenant>, hand_over: impl FnOnce(&Arc<Tenant>) -> Vec<Unit>) {
        let new = Arc::new(Tenant::new(tenant.id.clone(), self));
        // Whoever finds the old one out of use waits here.
        let mut state = tenant.lock();
        if std::mem::replace(&mut state.retired, true) {
            return;
        }
        let waiters: Vec<_> = tenant.keys().flat_map(|(_, key)| key.cell.retire()).collect();
        let dues = hand_over(&new);
        if !dues.is_empty() {
            self.indebted.lock().unwrap_or_else(PoisonError::into_inner).push((Arc::clone(tenant), dues));
        }
        self.index.pin().insert(tenant.id.clone(), Arc::clone(&new));
        drop(state);
        self.ring().push_back(new);
        waiters.into_iter().for_each(Waiter::move_on);
    }

    fn remove(&self, tenant: &Arc<Tenant>) {
        // Another tenant may stand in its place by now.
        let index = self.index.pin();
        let removed = index.remove_if(tenant.id.as_str(), |_, current| Arc::ptr_eq(current, tenant));
        if self.leased && matches!(removed, Ok(Some(_))) {
            self.parted.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(tenant));
        }
    }

    /// Those that went out of use since the last call, whose leases have to be ended.
    pub(crate) fn take_parted(&self) -> Vec<Arc<Tenant>> {
        std::mem::take(&mut *self.parted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ring(&self) -> MutexGuard<'_, VecDeque<Arc<Tenant>>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only one task at a time loads what belongs to this workspace.
    pub(crate) async fn loading(&self, workspace: &WorkspaceId) -> tokio::sync::MutexGuard<'_, ()> {
        let stripes = u64::try_from(self.loading.len()).unwrap_or(u64::MAX);
        let stripe = self.hasher.hash_one(workspace) % stripes;
        self.loading[usize::try_from(stripe).unwrap_or_default()].lock().await
    }

    /// Lets those leave who could not when others came.
    pub(crate) fn maintain(&self) {
        /// At a hundred nanoseconds each, the lock is held for less than a millisecond.
        const LOOKS: usize = 4096;
        let mut indebted = self.indebted.lock().unwrap_or_else(PoisonError::into_inner);
        let paid: Vec<_> = indebted.extract_if(.., |(tenant, _)| tenant.is_idle()).collect();
        drop(indebted);
        // They may be rows by now: a count is to tell.
        paid.into_iter().flat_map(|(_, dues)| dues).for_each(Unit::post);
        let mut ring = self.ring();
        let looks = ring.len().min(LOOKS);
        self.evict(&mut ring, looks);
    }

    /// Those that were looked up since the last call.
    pub(super) fn take_active(&self) -> Vec<Arc<Tenant>> {
        self.index.pin().values().filter(|tenant| tenant.take_used(WATCH)).cloned().collect()
    }

    /// Those that were looked up since the call before the last of this, and have something in flight: units are taken a moment
    /// after a tenant was looked up, when it may have been called already.
    #[cfg(feature = "metrics")]
    pub(super) fn take_busy(&self) -> Vec<Arc<Tenant>> {
        let looked_up = |tenant: &Tenant| tenant.take_used(MEASURE) || tenant.take_used(MEASURE_AGAIN);
        let busy = |tenant: &&Arc<Tenant>| looked_up(tenant) && !tenant.is_idle();
        self.index.pin().values().filter(busy).cloned().collect()
    }

    /// How many keys of all tenants in use have a lease, or are asking for one.
    #[cfg(feature = "metrics")]
    pub(super) fn leases(&self) -> usize {
        if self.leased { self.index.pin().values().map(|tenant| tenant.keys().count()).sum() } else { 0 }
    }

    /// All tenants in use.
    pub(crate) fn all(&self) -> Vec<Arc<Tenant>> {
        self.index.pin().values().cloned().collect()
    }

    /// How many tenants are in use.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tallies::Tallies;
    use crate::metrics::Metrics;
    use crate::resource::ResourceCatalog;
    use crate::store::{MemoryStore, QuotaStore};
    use crate::workspace::WorkspaceFormat;

    const CAPACITY: usize = 10;

    fn tenants() -> Tenants {
        let catalog = ResourceCatalog::default();
        let metrics = Arc::new(Metrics::new(&catalog, false));
        let store: Arc<dyn QuotaStore> = Arc::new(MemoryStore::new());
        let tallies = Arc::new(Tallies::new(&[], &catalog, &store, false).unwrap());
        Tenants::new(10, 8, false, Outlet::new(metrics, tallies).0)
    }

    fn workspace(number: usize) -> WorkspaceId {
        WorkspaceFormat::Verbatim.parse(&format!("workspace-{number}")).unwrap()
    }

    #[test]
    fn what_is_looked_up_stays() {
        let tenants = tenants();
        let hot = tenants.get_or_create(&workspace(0));
        for number in 1..1000 {
            tenants.get_or_create(&workspace(number));
            let found = tenants.get("workspace-0").unwrap();
            assert!(Arc::ptr_eq(&found, &hot));
            assert!(tenants.len() <= CAPACITY + 1, "{}", tenants.len());
        }
    }

    #[test]
    fn what_is_at_work_stays_until_it_is_done() {
        let tenants = tenants();
        let catalog = ResourceCatalog::default();
        let segments = catalog.by_name("segments").unwrap().id();
        let busy: Vec<_> = (0..100).map(|number| tenants.get_or_create(&workspace(number))).collect();
        assert!(tenants.len() <= CAPACITY + 1);
        let busy: Vec<_> = busy.into_iter().filter(|tenant| !tenant.retired()).collect();
        for tenant in &busy {
            tenant.install(Limits::without_record(catalog.default_limits()), None);
            assert!(tenant.use_key(segments).unwrap().cell.force(1));
        }
        for number in 100..200 {
            tenants.get_or_create(&workspace(number));
        }
        assert!(busy.iter().all(|tenant| !tenant.retired()));
        for tenant in &busy {
            tenant.key(segments).unwrap().cell.give_back(1);
        }
        for number in 200..300 {
            tenants.get_or_create(&workspace(number));
        }
        tenants.maintain();
        assert!(busy.iter().all(|tenant| tenant.retired()));
        assert!(tenants.len() <= CAPACITY, "{}", tenants.len());
    }

    #[test]
    fn a_workspace_that_comes_back_is_a_new_tenant() {
        let tenants = tenants();
        let first = tenants.get_or_create(&workspace(0));
        assert!(tenants.leave(&first));
        let second = tenants.get_or_create(&workspace(0));
        assert!(!Arc::ptr_eq(&first, &second) && !second.retired());
        // The first one's place in the ring doesn't cost the second one its own.
        assert!(tenants.leave(&first));
        assert!(tenants.get("workspace-0").is_some_and(|found| Arc::ptr_eq(&found, &second)));
    }
}
