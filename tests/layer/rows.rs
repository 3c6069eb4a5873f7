//! Rows that a test sets, and what the ledger makes of requests.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower_quota::{
    ClosureUsage, Demand, EnforcementMode, Expect, Limit, LimitSet, MemoryStore, Quota, QuotaBuilder, ResourceCatalog,
    Settling,
};

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) quota: Quota,
    pub(crate) rows: Arc<Mutex<HashMap<String, u64>>>,
    /// Abandoned units are settled, one batch for each permit.
    pub(crate) barrier: Arc<Semaphore>,
}

/// What is known of a resource type, after some requests.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// Rows that the ledger believes to exist.
    pub(crate) believed: u64,
    /// Units that somebody may still turn into rows.
    pub(crate) reserved: u64,
}

impl World {
    pub(crate) async fn new(limits: &[(&str, u32)], set_up: impl FnOnce(QuotaBuilder) -> QuotaBuilder) -> Self {
        let rows: Arc<Mutex<HashMap<String, u64>>> = Arc::default();
        let barrier = Arc::new(Semaphore::new(0));
        let (counted, passes) = (Arc::clone(&rows), Arc::clone(&barrier));
        let usage = ClosureUsage::new(move |_, resource, _| {
            let found = counted.lock().unwrap().get(resource.name()).copied().unwrap_or(0);
            async move { Ok::<_, Infallible>(found) }
        });
        let settling = Settling::barrier(move || {
            let passes = Arc::clone(&passes);
            async move { passes.acquire().await.map(|permit| permit.forget()) }
        });
        let builder = Quota::builder(ResourceCatalog::default())
            .store(MemoryStore::new())
            .usage(usage)
            .mode(EnforcementMode::Enforce)
            .max_wait(Duration::from_millis(20))
            .settling(settling);
        let world = Self { quota: set_up(builder).build().unwrap(), rows, barrier };
        for (resource, limit) in limits {
            world.limit(resource, *limit).await;
        }
        world
    }

    pub(crate) async fn limit(&self, resource: &str, limit: u32) {
        let changes = LimitSet::new().with(self.quota.catalog().by_name(resource).unwrap().id(), Limit::of(limit));
        let acme = self.quota.workspace("acme").unwrap();
        self.quota.update_limits(&acme, &changes, &Expect::Anything).await.unwrap();
    }

    pub(crate) fn set(&self, resource: &str, rows: u64) {
        self.rows.lock().unwrap().insert(resource.to_owned(), rows);
    }

    /// Looks, and has the ledger count again, so that what it believed is only seen once.
    pub(crate) async fn state(&self, resource: &str) -> State {
        self.states(&[resource]).await.remove(0)
    }

    pub(crate) async fn states(&self, resources: &[&str]) -> Vec<State> {
        let mut states = Vec::new();
        for resource in resources {
            states.push(State { believed: 0, reserved: self.reserved(resource).await });
        }
        let acme = self.quota.workspace("acme").unwrap();
        let recount = self.quota.recount(&acme).await.unwrap();
        for (state, resource) in states.iter_mut().zip(resources) {
            let corrected = recount.corrections.iter().find(|correction| correction.resource.name() == *resource);
            let id = self.quota.catalog().by_name(resource).unwrap().id();
            state.believed = corrected.map_or(recount.usage[id.index()].current, |correction| correction.cached);
        }
        states
    }

    /// Units that stand in the way of somebody who wants all that the rows leave.
    async fn reserved(&self, resource: &str) -> u64 {
        let acme = self.quota.workspace("acme").unwrap();
        let id = self.quota.catalog().by_name(resource).unwrap().id();
        let usage = self.quota.check(&acme, Demand::one(id)).await.unwrap().usage;
        let all = Demand::new(id, usage.remaining().unwrap());
        let refusal = self.quota.check(&acme, all).await.unwrap().refusal;
        refusal.map_or(0, |refusal| refusal.reserved.unwrap())
    }

    /// Lets abandoned units be settled, and waits until they are.
    pub(crate) async fn settled(&self, resource: &str) {
        self.barrier.add_permits(100);
        until("the abandoned units are settled", || async { self.reserved(resource).await == 0 }).await;
    }
}

/// Tries until `condition` holds, and fails when it never does.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Runs blocking client code beside the server.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}
