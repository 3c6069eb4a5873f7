//! Workspaces that are in use: their limits, their keys, and the bounded cache of them.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use foldhash::fast::RandomState;
use moka::policy::EvictionPolicy;
use tokio::sync::{Notify, mpsc};

use super::abandoned::Abandoned;
use super::admit::Waiter;
use crate::ledger::{Cell, retire_all};
use crate::limit::Limit;
use crate::resource::ResourceId;
use crate::workspace::WorkspaceId;

/// One resource type of one workspace.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) cell: Cell<Waiter>,
    /// Wakes the resolver of the cell's queue.
    pub(crate) wake: Notify,
}

impl Key {
    fn new(limit: Limit) -> Self {
        Self { cell: Cell::new(limit.rows()), wake: Notify::new() }
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
    pub(crate) abandoned: mpsc::UnboundedSender<Abandoned>,
    /// When the limits are due to be read again, by the coarse clock; 0 before the first reading.
    due: AtomicU64,
    refreshing: AtomicBool,
    state: Mutex<State>,
    keys: Box<[OnceLock<Box<Key>>]>,
}

#[derive(Debug, Default)]
struct State {
    limits: Option<Limits>,
    retired: bool,
}

/// The limits in force, and the version of the record that says so.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// 0 where there is no record, and the defaults are in force.
    pub(crate) version: u64,
    pub(crate) by_resource: Arc<[Limit]>,
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
    fn new(id: WorkspaceId, resources: usize, abandoned: mpsc::UnboundedSender<Abandoned>) -> Self {
        Self {
            id,
            abandoned,
            due: AtomicU64::new(0),
            refreshing: AtomicBool::new(false),
            state: Mutex::default(),
            keys: (0..resources).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The key of `resource`, if it is in use.
    #[inline]
    pub(crate) fn key(&self, resource: ResourceId) -> Option<&Key> {
        self.keys[resource.index()].get().map(|key| &**key)
    }

    /// The key of `resource`, taken into use; `None` when the tenant is out of use or its limits were never read.
    pub(crate) fn use_key(&self, resource: ResourceId) -> Option<&Key> {
        let state = self.lock();
        let limits = state.limits.as_ref().filter(|_| !state.retired)?;
        let limit = limits.by_resource[resource.index()];
        Some(self.keys[resource.index()].get_or_init(|| Box::new(Key::new(limit))))
    }

    /// The keys in use.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (usize, &Key)> + Clone {
        self.keys.iter().enumerate().filter_map(|(index, key)| Some((index, &**key.get()?)))
    }

    pub(crate) fn limits(&self) -> Option<Limits> {
        self.lock().limits.clone()
    }

    pub(crate) fn retired(&self) -> bool {
        self.lock().retired
    }

    /// Puts limits in force, unless those in force are of a newer version: a slow reading never undoes an update.
    pub(crate) fn install(&self, limits: Limits) {
        let mut state = self.lock();
        if state.limits.as_ref().is_some_and(|current| current.version > limits.version) {
            return;
        }
        for (index, key) in self.keys() {
            let limit = limits.by_resource[index];
            let before = state.limits.as_ref().map(|current| current.by_resource[index]);
            if before != Some(limit) {
                key.wake_if(key.cell.set_limit(limit.rows()));
            }
        }
        state.limits = Some(limits);
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

    pub(crate) fn set_due(&self, due: u64) {
        self.due.store(due, Ordering::Relaxed);
    }

    /// Whether the caller is the one to refresh; it must call [`Self::refreshed`] at the end.
    pub(crate) fn begin_refresh(&self) -> bool {
        !self.refreshing.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn refreshed(&self) {
        self.refreshing.store(false, Ordering::Release);
    }

    /// Takes the tenant out of use, unless units are out or somebody waits.
    fn retire(&self) -> bool {
        let mut state = self.lock();
        state.retired = state.retired || retire_all(self.keys().map(|(_, key)| &key.cell));
        state.retired
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Index = papaya::HashMap<WorkspaceId, Arc<Tenant>, RandomState>;

/// The workspaces in use: a lock-free index for the hot path, and a bounded cache that says who has to leave.
///
/// A tenant leaves only when it is idle, since what its ledger knows must not be lost while a request is in flight. So
/// the index can exceed the capacity by those that are at work.
pub(crate) struct Tenants {
    index: Arc<Index>,
    recent: moka::sync::Cache<WorkspaceId, Arc<Tenant>>,
    lingering: Arc<Mutex<Vec<Arc<Tenant>>>>,
    /// One load per workspace at a time, without a lock in every tenant.
    loading: Box<[tokio::sync::Mutex<()>]>,
    hasher: RandomState,
    resources: usize,
    abandoned: mpsc::UnboundedSender<Abandoned>,
}

impl Tenants {
    pub(crate) fn new(capacity: u64, resources: usize, abandoned: mpsc::UnboundedSender<Abandoned>) -> Self {
        const LOADING_STRIPES: usize = 256;
        let index = Arc::new(Index::default());
        let lingering = Arc::new(Mutex::new(Vec::new()));
        let evict = {
            let (index, lingering) = (Arc::clone(&index), Arc::clone(&lingering));
            move |_: Arc<WorkspaceId>, tenant: Arc<Tenant>, _| {
                if !leave(&index, &tenant) {
                    lingering.lock().unwrap_or_else(PoisonError::into_inner).push(tenant);
                }
            }
        };
        let recent = moka::sync::Cache::builder()
            .max_capacity(capacity)
            // Reads on the hot path go by the index, so that frequencies would be told wrong; recency is refreshed
            // whenever the limits are.
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(evict)
            .build();
        let loading = (0..LOADING_STRIPES).map(|_| tokio::sync::Mutex::default()).collect();
        Self { index, recent, lingering, loading, hasher: RandomState::default(), resources, abandoned }
    }

    /// The tenant, if it is in use: the one map look-up of the common decision.
    #[inline]
    pub(crate) fn get(&self, workspace: &str) -> Option<Arc<Tenant>> {
        self.index.pin().get(workspace).cloned()
    }

    /// The tenant, taken into use.
    pub(crate) fn get_or_create(&self, workspace: &WorkspaceId) -> Arc<Tenant> {
        loop {
            let create = || Arc::new(Tenant::new(workspace.clone(), self.resources, self.abandoned.clone()));
            let mut created = false;
            let tenant = Arc::clone(self.index.pin().get_or_insert_with(workspace.clone(), || {
                created = true;
                create()
            }));
            if created {
                self.recent.insert(workspace.clone(), Arc::clone(&tenant));
            }
            if !tenant.retired() {
                return tenant;
            }
            leave(&self.index, &tenant);
        }
    }

    /// Tells the cache that the tenant is still in use.
    pub(crate) fn touch(&self, tenant: &Tenant) {
        self.recent.get(&tenant.id);
    }

    /// Only one task at a time loads what belongs to this workspace.
    pub(crate) async fn loading(&self, workspace: &WorkspaceId) -> tokio::sync::MutexGuard<'_, ()> {
        let stripes = u64::try_from(self.loading.len()).unwrap_or(u64::MAX);
        let stripe = self.hasher.hash_one(workspace) % stripes;
        self.loading[usize::try_from(stripe).unwrap_or_default()].lock().await
    }

    /// Does what the cache has put off, and lets those leave who could not when their time came.
    pub(crate) fn maintain(&self) {
        self.recent.run_pending_tasks();
        let mut lingering = self.lingering.lock().unwrap_or_else(PoisonError::into_inner);
        lingering.retain(|tenant| !leave(&self.index, tenant));
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

/// Takes a tenant out of the index if it is idle.
fn leave(index: &Index, tenant: &Arc<Tenant>) -> bool {
    let idle = tenant.retire();
    if idle {
        // Another tenant may stand in its place by now.
        let _ = index.pin().remove_if(tenant.id.as_str(), |_, current| Arc::ptr_eq(current, tenant));
    }
    idle
}
