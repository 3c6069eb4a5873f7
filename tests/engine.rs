//! The engine without HTTP.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, timeout};
use tower_quota::{
    Actor, BoxFuture, ClosureUsage, Decision, Demand, EnforcementMode, Error, Expect, LedgerKind, Limit, LimitSet,
    MemoryStore, Provisioning, Quota, QuotaBuilder, QuotaRecord, QuotaStore, Refusal, Reservation, ResourceCatalog,
    ResourceId, Settling, StoreKind, WorkspaceId,
};

/// The host's rows by workspace and resource type.
#[derive(Clone, Default)]
struct Rows {
    rows: Arc<Mutex<HashMap<(String, String), u64>>>,
    counts: Arc<AtomicUsize>,
    /// Counts read the rows, and then stop here, if there is a gate.
    gate: Option<Arc<Semaphore>>,
}

impl Rows {
    fn held(gate: &Arc<Semaphore>) -> Self {
        Self { gate: Some(Arc::clone(gate)), ..Self::default() }
    }

    fn change(&self, workspace: &str, resource: &str, by: i64) -> u64 {
        let mut rows = self.rows.lock().unwrap();
        let rows = rows.entry((workspace.to_owned(), resource.to_owned())).or_default();
        *rows = rows.checked_add_signed(by).unwrap();
        *rows
    }

    fn of(&self, workspace: &str, resource: &str) -> u64 {
        self.change(workspace, resource, 0)
    }

    fn source(&self) -> ClosureUsage {
        let rows = self.clone();
        ClosureUsage::new(move |workspace, resource, _| {
            rows.counts.fetch_add(1, Ordering::SeqCst);
            let (found, gate) = (rows.of(workspace.as_str(), resource.name()), rows.gate.clone());
            async move {
                if let Some(gate) = gate {
                    gate.acquire().await?.forget();
                }
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(found)
            }
        })
    }
}

fn engine(rows: &Rows, set_up: impl FnOnce(QuotaBuilder) -> QuotaBuilder) -> Quota {
    let builder = Quota::builder(ResourceCatalog::default())
        .store(MemoryStore::new())
        .usage(rows.source())
        .mode(EnforcementMode::Enforce)
        .max_wait(Duration::from_millis(30));
    set_up(builder).build().unwrap()
}

fn id(quota: &Quota, resource: &str) -> ResourceId {
    quota.catalog().by_name(resource).unwrap().id()
}

fn segments(quota: &Quota) -> Demand {
    Demand::one(id(quota, "segments"))
}

async fn set(quota: &Quota, workspace: &WorkspaceId, resource: &str, limit: u32) {
    let changes = LimitSet::new().with(id(quota, resource), Limit::of(limit));
    quota.update_limits(workspace, &changes, &Expect::Anything).await.unwrap();
}

async fn admitted(quota: &Quota, workspace: &WorkspaceId, demands: &[Demand]) -> Reservation {
    match quota.reserve(workspace, demands).await.unwrap() {
        Decision::Admitted(reservation) => reservation,
        Decision::Refused(refusal) => panic!("{refusal:?}"),
    }
}

async fn refused(quota: &Quota, workspace: &WorkspaceId, demands: &[Demand]) -> Refusal {
    match quota.reserve(workspace, demands).await.unwrap() {
        Decision::Admitted(reservation) => panic!("{reservation:?}"),
        Decision::Refused(refusal) => refusal,
    }
}

/// Tries until `condition` holds, and fails when it never does.
async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A lost answer fails a test instead of hanging it.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), work).await.expect("it hangs")
}

// Reservations

#[tokio::test]
async fn the_four_ends_of_a_reservation() {
    let rows = Rows::default();
    let barrier = Arc::new(Semaphore::new(0));
    let passes = Arc::clone(&barrier);
    let settling = Settling::barrier(move || {
        let passes = Arc::clone(&passes);
        async move { passes.acquire().await.map(|permit| permit.forget()) }
    });
    let quota = engine(&rows, |builder| builder.settling(settling));
    let acme = quota.workspace("acme").unwrap();
    let one = segments(&quota);
    let ten = Demand::new(one.resource, 10);
    let left = || async {
        quota
            .check(&acme, one)
            .await
            .unwrap()
            .refusal
            .map_or_else(|| "some".to_owned(), |it| format!("{:?}", it.reserved))
    };

    // Posted: its rows are in the way of others.
    let reservation = admitted(&quota, &acme, &[Demand::new(one.resource, 40)]).await;
    rows.change("acme", "segments", 40);
    reservation.post();
    assert_eq!(refused(&quota, &acme, &[Demand::new(one.resource, 11)]).await.current_usage, 40);
    // Voided: nothing is.
    for _ in 0..100 {
        admitted(&quota, &acme, &[ten]).await.void();
    }
    // In part: four rows of ten, the other six are free at once.
    let mut reservation = admitted(&quota, &acme, &[ten]).await;
    rows.change("acme", "segments", 4);
    reservation.post_some(one.resource, 4);
    drop(reservation);
    admitted(&quota, &acme, &[Demand::new(one.resource, 6)]).await.void();
    assert_eq!(refused(&quota, &acme, &[Demand::new(one.resource, 7)]).await.remaining, 6);
    assert_eq!(left().await, "some");
    // Dropped: unknown, and so taken until nothing can commit any more. A recount doesn't release it.
    drop(admitted(&quota, &acme, &[Demand::new(one.resource, 6)]).await);
    for _ in 0..3 {
        let refusal = refused(&quota, &acme, &[one]).await;
        assert_eq!((refusal.current_usage, refusal.reserved, refusal.remaining), (44, Some(6), 0));
        assert!(refusal.retry_after.is_some());
        quota.recount(&acme).await.unwrap();
    }
    assert_eq!(left().await, "Some(6)");
    // Two of the six committed late.
    rows.change("acme", "segments", 2);
    barrier.add_permits(1);
    until("the unknown units are settled", || async {
        match quota.reserve(&acme, &[Demand::new(one.resource, 4)]).await.unwrap() {
            Decision::Admitted(reservation) => {
                reservation.void();
                true
            }
            Decision::Refused(_) => false,
        }
    })
    .await;
    assert_eq!(refused(&quota, &acme, &[Demand::new(one.resource, 5)]).await.current_usage, 46);
    assert_eq!(quota.usage(&acme).await.unwrap()[one.resource.index()].current, 46);
}

#[tokio::test]
async fn a_reservation_that_waits_gets_what_is_given_back() {
    let rows = Rows::default();
    let quota = engine(&rows, |builder| builder.max_wait(Duration::from_secs(30)));
    let acme = quota.workspace("acme").unwrap();
    let one = segments(&quota);
    set(&quota, &acme, "segments", 2).await;
    let (first, second) = (admitted(&quota, &acme, &[one]).await, admitted(&quota, &acme, &[one]).await);
    let waits = tokio::spawn({
        let (quota, acme) = (quota.clone(), acme.clone());
        async move { admitted(&quota, &acme, &[one]).await }
    });
    yield_now().await;
    first.void();
    let third = soon(waits).await.unwrap();
    rows.change("acme", "segments", 2);
    second.post();
    third.post();
    // At the limit by rows: no waiting, however long it might be.
    let refusal = soon(refused(&quota, &acme, &[one])).await;
    assert_eq!((refusal.reserved, refusal.retry_after), (None, None));
    // A row that is deleted.
    rows.change("acme", "segments", -1);
    soon(admitted(&quota, &acme, &[one])).await.void();
}

#[tokio::test]
async fn who_is_over_the_limit_does_not_wait_for_others() {
    let rows = Rows::default();
    let quota = engine(&rows, |builder| builder.max_wait(Duration::from_secs(3600)));
    let acme = quota.workspace("acme").unwrap();
    let one = segments(&quota);
    let held = admitted(&quota, &acme, &[Demand::new(one.resource, 50)]).await;
    let counts = rows.counts.load(Ordering::SeqCst);
    let waiter = tokio::spawn({
        let (quota, acme) = (quota.clone(), acme.clone());
        async move { admitted(&quota, &acme, &[one]).await }
    });
    until("it has been counted for who waits", || async { rows.counts.load(Ordering::SeqCst) > counts }).await;
    // It comes later, and behind.
    assert_eq!(soon(refused(&quota, &acme, &[Demand::new(one.resource, 51)])).await.reserved, None);
    held.void();
    soon(waiter).await.unwrap().void();
}

#[tokio::test]
async fn a_limit_that_is_raised_serves_those_who_wait() {
    let rows = Rows::default();
    let quota = engine(&rows, |builder| builder.max_wait(Duration::from_secs(30)));
    let acme = quota.workspace("acme").unwrap();
    let one = segments(&quota);
    set(&quota, &acme, "segments", 1).await;
    let held = admitted(&quota, &acme, &[one]).await;
    let waits = tokio::spawn({
        let (quota, acme) = (quota.clone(), acme.clone());
        async move { admitted(&quota, &acme, &[one]).await }
    });
    yield_now().await;
    set(&quota, &acme, "segments", 2).await;
    soon(waits).await.unwrap().void();
    held.void();
}

#[tokio::test]
async fn several_demands_are_reserved_all_or_none() {
    let rows = Rows::default();
    let quota = engine(&rows, |builder| builder);
    let acme = quota.workspace("acme").unwrap();
    let (users, segments) = (id(&quota, "users"), id(&quota, "segments"));
    set(&quota, &acme, "users", 5).await;
    set(&quota, &acme, "segments", 3).await;
    // The same type twice is one demand.
    let refusal =
        refused(&quota, &acme, &[Demand::new(users, 3), Demand::new(segments, 1), Demand::new(users, 3)]).await;
    assert_eq!((refusal.requested, refusal.resource.name()), (6, "users"));
    for _ in 0..20 {
        let refusal = refused(&quota, &acme, &[Demand::new(segments, 4), Demand::new(users, 5)]).await;
        assert_eq!(refusal.resource.name(), "segments");
    }
    // Of what was refused nothing is held.
    let all = admitted(&quota, &acme, &[Demand::new(segments, 3), Demand::new(users, 5)]).await;
    assert_eq!(refused(&quota, &acme, &[Demand::one(users)]).await.reserved, Some(5));
    all.void();
    admitted(&quota, &acme, &[Demand::new(users, 5)]).await.void();
    // Nothing costs nothing, whatever the limit.
    set(&quota, &acme, "users", 0).await;
    admitted(&quota, &acme, &[]).await.post();
    admitted(&quota, &acme, &[Demand::new(users, 0)]).await.post();
    refused(&quota, &acme, &[Demand::one(users)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demands_in_any_order_block_nobody_for_ever() {
    let rows = Rows::default();
    let quota = engine(&rows, |builder| builder.max_wait(Duration::from_millis(5)));
    let acme = quota.workspace("acme").unwrap();
    let (users, segments) = (id(&quota, "users"), id(&quota, "segments"));
    set(&quota, &acme, "users", 3).await;
    set(&quota, &acme, "segments", 3).await;
    let mut tasks = JoinSet::new();
    for task in 0..32_u64 {
        let (quota, acme, rows) = (quota.clone(), acme.clone(), rows.clone());
        tasks.spawn(async move {
            for at in 0..40 {
                let both = [Demand::new(users, 1 + at % 2), Demand::new(segments, 1 + task % 2)];
                let demands = if task % 3 == 0 { [both[1], both[0]] } else { both };
                if let Decision::Admitted(reservation) = quota.reserve(&acme, &demands).await.unwrap() {
                    for (resource, demand) in [("users", both[0]), ("segments", both[1])] {
                        let units = i64::try_from(demand.units).unwrap();
                        assert!(rows.change("acme", resource, units) <= 3);
                    }
                    yield_now().await;
                    reservation.post();
                    for (resource, demand) in [("users", both[0]), ("segments", both[1])] {
                        rows.change("acme", resource, -i64::try_from(demand.units).unwrap());
                    }
                }
            }
        });
    }
    soon(async {
        while let Some(done) = tasks.join_next().await {
            done.unwrap()
        }
    })
    .await;
    soon(admitted(&quota, &acme, &[Demand::new(users, 3), Demand::new(segments, 3)])).await.void();
}

// Counts

#[tokio::test]
async fn a_crowd_is_refused_by_one_count_that_began_after_it_came() {
    let gate = Arc::new(Semaphore::new(1));
    let rows = Rows::held(&gate);
    let quota = engine(&rows, |builder| builder);
    let acme = quota.workspace("acme").unwrap();
    let one = segments(&quota);
    rows.change("acme", "segments", 50);
    refused(&quota, &acme, &[one]).await;
    rows.counts.store(0, Ordering::SeqCst);
    // The first begins a count, which is held up.
    let reserve = || {
        let (quota, acme) = (quota.clone(), acme.clone());
        tokio::spawn(async move { quota.reserve(&acme, &[one]).await.unwrap() })
    };
    let first = reserve();
    until("the count begins", || async { rows.counts.load(Ordering::SeqCst) == 1 }).await;
    // A row goes, and a crowd comes: the count that is under way can't have seen it.
    rows.change("acme", "segments", -1);
    let crowd: Vec<_> = (0..99).map(|_| reserve()).collect();
    for _ in 0..10 {
        yield_now().await;
    }
    gate.add_permits(1);
    assert!(matches!(soon(first).await.unwrap(), Decision::Refused(_)));
    gate.add_permits(1000);
    let mut granted = Vec::new();
    for waiting in crowd {
        match soon(waiting).await.unwrap() {
            Decision::Admitted(reservation) => granted.push(reservation),
            Decision::Refused(refusal) => assert_eq!((refusal.current_usage, refusal.reserved), (49, Some(1))),
        }
    }
    assert_eq!(granted.len(), 1);
    assert_eq!(rows.counts.load(Ordering::SeqCst), 2);
    granted.pop().unwrap().void();
}

#[tokio::test]
async fn a_recount_corrects_what_was_believed() {
    let rows = Rows::default();
    let quota = engine(&rows, |builder| builder);
    let acme = quota.workspace("acme").unwrap();
    let one = segments(&quota);
    admitted(&quota, &acme, &[one]).await.void();
    // Rows that came around the engine.
    rows.change("acme", "segments", 50);
    rows.change("acme", "users", 7);
    let recount = quota.recount(&acme).await.unwrap();
    let found: Vec<_> = recount.corrections.iter().map(|it| (it.resource.name(), it.cached, it.actual)).collect();
    assert_eq!(found, [("segments", 0, 50)]);
    assert_eq!(recount.usage.iter().map(|usage| usage.current).sum::<u64>(), 57);
    refused(&quota, &acme, &[one]).await;
    assert!(quota.recount(&acme).await.unwrap().corrections.is_empty());
    // A check is advice, by a live count, and holds nothing.
    rows.change("acme", "segments", -1);
    for _ in 0..3 {
        let check = quota.check(&acme, one).await.unwrap();
        assert_eq!((check.usage.current, check.refusal), (49, None));
    }
    assert_eq!(quota.check(&acme, Demand::new(one.resource, 2)).await.unwrap().refusal.unwrap().requested, 2);
}

#[tokio::test]
async fn drift_is_told_and_nothing_is_changed() {
    let rows = Rows::default();
    let quota = engine(&rows, |builder| builder);
    let acme = quota.workspace("acme").unwrap();
    let one = segments(&quota);
    // What nobody has counted, nobody believes.
    assert!(quota.drift(&acme).await.unwrap().corrections.is_empty());
    let in_flight = admitted(&quota, &acme, &[one]).await;
    rows.change("acme", "segments", 1);
    assert!(quota.drift(&acme).await.unwrap().corrections.is_empty(), "the row of a request in flight");
    in_flight.post();
    assert!(quota.drift(&acme).await.unwrap().corrections.is_empty());
    // Rows that came around the engine.
    rows.change("acme", "segments", 99);
    for _ in 0..2 {
        let drift = quota.drift(&acme).await.unwrap();
        let found: Vec<_> = drift.corrections.iter().map(|it| (it.resource.name(), it.cached, it.actual)).collect();
        assert_eq!(found, [("segments", 1, 100)]);
        assert_eq!(drift.usage[one.resource.index()].current, 100);
    }
    // The books are as they were: what they had left is admitted.
    admitted(&quota, &acme, &[one]).await.void();
    assert_eq!(quota.recount(&acme).await.unwrap().corrections.len(), 1);
    assert!(quota.drift(&acme).await.unwrap().corrections.is_empty());
    refused(&quota, &acme, &[one]).await;
}

#[tokio::test]
async fn one_process_is_a_set_up_of_one() {
    let quota = engine(&Rows::default(), |builder| builder.mode(EnforcementMode::Warn));
    let segments = segments(&quota).resource;
    quota.admin(Actor::library()).set_mode_of(segments, Some(EnforcementMode::Strict)).await.unwrap();
    let status = quota.status().await.unwrap();
    assert_eq!((status.store.kind, status.store.schema, status.ledger), (StoreKind::Other, None, LedgerKind::Process));
    let [this] = &status.replicas[..] else { panic!("{status:?}") };
    assert_eq!((this.id, this.this, this.seen_at), (None, true, None));
    let config = this.config.as_ref().unwrap();
    assert_eq!((config.mode, config.schema), (EnforcementMode::Warn, None));
    assert_eq!(config.modes.iter().collect::<Vec<_>>(), [(&"segments".to_owned(), &EnforcementMode::Strict)]);
    assert_eq!(
        (&*config.types["segments"].limit_field, config.types["segments"].default_limit),
        ("maxSegments", Limit::of(50))
    );
    assert_eq!(config.types.len(), quota.catalog().len());
}

// Modes

#[tokio::test]
async fn warn_and_off_let_everything_pass() {
    let rows = Rows::default();
    let quota = engine(&rows, |builder| builder.mode(EnforcementMode::Warn));
    let acme = quota.workspace("acme").unwrap();
    let one = segments(&quota);
    rows.change("acme", "segments", 50);
    let reservation = admitted(&quota, &acme, &[one]).await;
    assert_eq!(reservation.warnings()[0].current_usage, 50);
    rows.change("acme", "segments", 1);
    reservation.post();
    // Back in a mode that refuses, what passed is in the books.
    quota.set_mode(EnforcementMode::Enforce);
    assert_eq!(refused(&quota, &acme, &[one]).await.current_usage, 51);
    quota.set_mode(EnforcementMode::Off);
    let counts = rows.counts.load(Ordering::SeqCst);
    let reservation = admitted(&quota, &acme, &[one]).await;
    assert_eq!((reservation.warnings().len(), rows.counts.load(Ordering::SeqCst)), (0, counts));
    reservation.post();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_sees_enforcement_on_finds_nothing_left_from_before() {
    let rows = Rows::default();
    let quota = engine(&rows, |builder| builder);
    let one = segments(&quota);
    // Many workspaces have free units in memory.
    let workspaces: Vec<_> = (0..4000).map(|at| quota.workspace(&format!("ws-{at}")).unwrap()).collect();
    for workspace in &workspaces {
        admitted(&quota, workspace, &[one]).await.void();
    }
    for round in 0..3 {
        quota.set_mode(EnforcementMode::Off);
        for workspace in &workspaces {
            let found = i64::try_from(rows.of(workspace.as_str(), "segments")).unwrap();
            rows.change(workspace.as_str(), "segments", 50 - found);
        }
        let (watcher, workspace) = (quota.clone(), workspaces[round].clone());
        let all = workspaces.clone();
        let watching = Arc::new(Semaphore::new(0));
        let ready = Arc::clone(&watching);
        let task = tokio::spawn(async move {
            ready.add_permits(1);
            while watcher.mode() == EnforcementMode::Off {
                std::hint::spin_loop();
            }
            for workspace in [&workspace].into_iter().chain(&all) {
                refused(&watcher, workspace, &[one]).await;
            }
        });
        watching.acquire().await.unwrap().forget();
        quota.set_mode(EnforcementMode::Enforce);
        soon(task).await.unwrap();
        for workspace in &workspaces {
            rows.change(workspace.as_str(), "segments", -50);
            admitted(&quota, workspace, &[one]).await.void();
        }
    }
}

// Limits

/// A [`MemoryStore`] whose loads can be held up, and can fail.
#[derive(Clone, Default)]
struct Store(Arc<Inner>);

#[derive(Default)]
struct Inner {
    memory: MemoryStore,
    loads: AtomicUsize,
    /// Loads have read the record, and stop before they hand it on.
    held: AtomicBool,
    gate: Option<Semaphore>,
    down: AtomicBool,
}

impl Store {
    fn gated() -> Self {
        Self(Arc::new(Inner { gate: Some(Semaphore::new(0)), ..Inner::default() }))
    }

    fn loads(&self) -> usize {
        self.0.loads.load(Ordering::SeqCst)
    }

    fn hold(&self) {
        self.0.held.store(true, Ordering::SeqCst);
    }

    /// Lets the loads on that are held, and does not hold others.
    fn release(&self) {
        self.0.held.store(false, Ordering::SeqCst);
        self.0.gate.as_ref().unwrap().add_permits(1);
    }

    fn fail(&self, down: bool) {
        self.0.down.store(down, Ordering::SeqCst);
    }
}

impl QuotaStore for Store {
    fn load<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<Option<QuotaRecord>, Error>> {
        Box::pin(async move {
            let read = self.0.memory.load(workspace).await;
            let held = self.0.held.load(Ordering::SeqCst);
            self.0.loads.fetch_add(1, Ordering::SeqCst);
            if self.0.down.load(Ordering::SeqCst) {
                return Err(Error::unavailable("down").with_source(io::Error::other("down")));
            }
            if held {
                self.0.gate.as_ref().unwrap().acquire().await.unwrap().forget();
            }
            read
        })
    }

    fn provision<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<QuotaRecord, Error>> {
        self.0.memory.provision(workspace)
    }

    fn update<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        changes: &'a LimitSet,
        expect: &'a Expect,
    ) -> BoxFuture<'a, Result<QuotaRecord, Error>> {
        self.0.memory.update(workspace, changes, expect)
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.0.memory.ping()
    }
}

/// Reserves until one is refused, and tells how many were granted.
async fn room(quota: &Quota, workspace: &WorkspaceId) -> usize {
    let one = segments(quota);
    let mut held = Vec::new();
    while let Decision::Admitted(reservation) = quota.reserve(workspace, &[one]).await.unwrap() {
        held.push(reservation);
    }
    let granted = held.len();
    held.into_iter().for_each(Reservation::void);
    granted
}

#[tokio::test]
async fn a_slow_load_never_undoes_an_update() {
    for (before, after) in [(5, 2), (2, 5), (3, 0)] {
        let (store, rows) = (Store::gated(), Rows::default());
        let quota = engine(&rows, |builder| builder.store(store.clone()));
        let acme = quota.workspace("acme").unwrap();
        // Not by the engine, which would know it then.
        store
            .update(&acme, &LimitSet::new().with(id(&quota, "segments"), Limit::of(before)), &Expect::Anything)
            .await
            .unwrap();
        // The first load has read the old limit, and takes its time.
        store.hold();
        let task = tokio::spawn({
            let (quota, acme) = (quota.clone(), acme.clone());
            async move { room(&quota, &acme).await }
        });
        until("the load has read", || async { store.loads() == 1 }).await;
        set(&quota, &acme, "segments", after).await;
        store.release();
        assert_eq!(soon(task).await.unwrap(), usize::try_from(after).unwrap(), "{before} to {after}");
        assert_eq!(room(&quota, &acme).await, usize::try_from(after).unwrap());
    }
}

#[tokio::test]
async fn a_slow_refresh_never_undoes_an_update() {
    let (store, rows) = (Store::gated(), Rows::default());
    let refresh = Duration::from_millis(300);
    let quota =
        engine(&rows, |builder| builder.store(store.clone()).refresh_after(refresh).max_wait(Duration::from_millis(1)));
    let acme = quota.workspace("acme").unwrap();
    for (before, after) in [(5, 2), (2, 5)] {
        set(&quota, &acme, "segments", before).await;
        assert_eq!(room(&quota, &acme).await, before as usize);
        store.hold();
        let loads = store.loads();
        // While the workspace is in use its limits are read again in the background.
        until("a refresh has read", || async {
            admitted(&quota, &acme, &[segments(&quota)]).await.void();
            store.loads() > loads
        })
        .await;
        set(&quota, &acme, "segments", after).await;
        assert_eq!(room(&quota, &acme).await, after as usize);
        store.release();
        // The refresh ends by counting.
        let counts = rows.counts.load(Ordering::SeqCst);
        until("the refresh is over", || async { rows.counts.load(Ordering::SeqCst) > counts }).await;
        assert_eq!(room(&quota, &acme).await, after as usize);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stampede_makes_one_load_per_workspace() {
    let (store, rows) = (Store::gated(), Rows::default());
    let quota = engine(&rows, |builder| builder.store(store.clone()));
    store.hold();
    let mut tasks = JoinSet::new();
    let arrived = Arc::new(AtomicUsize::new(0));
    for task in 0..100 {
        let (quota, arrived) = (quota.clone(), Arc::clone(&arrived));
        tasks.spawn(async move {
            let workspace = quota.workspace(if task % 2 == 0 { "acme" } else { "globex" }).unwrap();
            arrived.fetch_add(1, Ordering::SeqCst);
            admitted(&quota, &workspace, &[segments(&quota)]).await
        });
    }
    until("all are there, and the loads are under way", || async {
        arrived.load(Ordering::SeqCst) == 100 && store.loads() >= 1
    })
    .await;
    store.release();
    store.release();
    let mut held = Vec::new();
    soon(async {
        while let Some(reservation) = tasks.join_next().await {
            held.push(reservation.unwrap())
        }
    })
    .await;
    assert_eq!((held.len(), store.loads()), (100, 2));
    held.into_iter().for_each(Reservation::void);
}

#[tokio::test]
async fn the_last_known_limits_stay_in_force_when_the_store_fails() {
    let (store, rows) = (Store::gated(), Rows::default());
    let quota = engine(&rows, |builder| {
        let times = (Duration::from_millis(20), Duration::from_millis(1));
        builder.store(store.clone()).refresh_after(times.0).max_wait(times.1)
    });
    let (acme, globex) = (quota.workspace("acme").unwrap(), quota.workspace("globex").unwrap());
    set(&quota, &acme, "segments", 3).await;
    assert_eq!(room(&quota, &acme).await, 3);
    store.fail(true);
    let loads = store.loads();
    until("several refreshes have failed", || async {
        assert_eq!(room(&quota, &acme).await, 3);
        store.loads() > loads + 3
    })
    .await;
    // What was never known can't be decided about, and is no refusal.
    assert!(quota.reserve(&globex, &[segments(&quota)]).await.unwrap_err().is_unavailable());
    store.fail(false);
    until("it is back", || async { quota.reserve(&globex, &[segments(&quota)]).await.is_ok() }).await;
    assert_eq!(room(&quota, &acme).await, 3);
}

#[tokio::test]
async fn strict_decides_nothing_by_what_was_known_before_the_store_failed() {
    let (store, rows) = (Store::gated(), Rows::default());
    let quota = engine(&rows, |builder| {
        builder.store(store.clone()).mode(EnforcementMode::Strict).refresh_after(Duration::from_millis(20))
    });
    let acme = quota.workspace("acme").unwrap();
    set(&quota, &acme, "segments", 3).await;
    assert_eq!(room(&quota, &acme).await, 3);
    store.fail(true);
    until("the failure is noticed", || async {
        match quota.reserve(&acme, &[segments(&quota)]).await {
            Ok(Decision::Admitted(reservation)) => {
                reservation.void();
                false
            }
            Ok(Decision::Refused(refusal)) => panic!("a fault is no refusal: {refusal:?}"),
            Err(error) => error.is_unavailable(),
        }
    })
    .await;
    store.fail(false);
    until("it is back", || async { quota.reserve(&acme, &[segments(&quota)]).await.is_ok() }).await;
}

#[tokio::test]
async fn a_store_that_is_down_has_nothing_counted_anew() {
    let (store, rows) = (Store::gated(), Rows::default());
    let quota = engine(&rows, |builder| {
        let times = (Duration::from_millis(20), Duration::from_millis(300));
        builder.store(store.clone()).mode(EnforcementMode::Strict).refresh_after(times.0).max_wait(times.1)
    });
    let acme = quota.workspace("acme").unwrap();
    let one = segments(&quota);
    set(&quota, &acme, "segments", 3).await;
    let held = admitted(&quota, &acme, &[Demand::new(one.resource, 3)]).await;
    store.fail(true);
    let counts = rows.counts.load(Ordering::SeqCst);
    let waiter = tokio::spawn({
        let (quota, acme) = (quota.clone(), acme.clone());
        async move { quota.reserve(&acme, &[one]).await }
    });
    until("it has been counted for who waits", || async { rows.counts.load(Ordering::SeqCst) > counts }).await;
    // Too much to wait for: only the fault keeps it from being refused at once.
    let four = Demand::new(one.resource, 4);
    until("the failure is noticed", || async { quota.reserve(&acme, &[four]).await.is_err() }).await;
    let counts = rows.counts.load(Ordering::SeqCst);
    for _ in 0..100 {
        assert!(quota.reserve(&acme, &[one]).await.unwrap_err().is_unavailable());
        // On one thread, the resolver has its turn, and begins a count if there is to be one.
        for _ in 0..10 {
            yield_now().await;
        }
    }
    assert_eq!(rows.counts.load(Ordering::SeqCst), counts);
    match soon(waiter).await.unwrap().unwrap() {
        Decision::Refused(refusal) => assert_eq!(refusal.reserved, Some(3)),
        Decision::Admitted(reservation) => panic!("{reservation:?}"),
    }
    held.void();
}

#[tokio::test]
async fn explicit_provisioning_decides_nothing_without_a_record() {
    let rows = Rows::default();
    let quota = engine(&rows, |builder| builder.provisioning(Provisioning::Explicit));
    let acme = quota.workspace("acme").unwrap();
    let one = segments(&quota);
    for _ in 0..3 {
        assert!(quota.reserve(&acme, &[one]).await.unwrap_err().is_not_found());
        assert!(quota.check(&acme, one).await.unwrap_err().is_not_found());
        assert!(quota.usage(&acme).await.unwrap_err().is_not_found());
        assert!(quota.record(&acme).await.unwrap_err().is_not_found());
    }
    set(&quota, &acme, "segments", 1).await;
    let reservation = admitted(&quota, &acme, &[one]).await;
    rows.change("acme", "segments", 1);
    reservation.post();
    refused(&quota, &acme, &[one]).await;
    assert_eq!(quota.record(&acme).await.unwrap().record.version, 1);
}

// Memory

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_cache_stays_exact_and_small() {
    const WORKSPACES: usize = 1000;
    const LIMIT: u64 = 3;
    let rows = Rows::default();
    let quota = engine(&rows, |builder| {
        builder.capacity(10).max_wait(Duration::from_millis(1)).settling(Settling::After(Duration::from_millis(1)))
    });
    let limit = LimitSet::new().with(id(&quota, "segments"), Limit::of(3));
    for at in 0..WORKSPACES {
        let workspace = quota.workspace(&format!("ws-{at}")).unwrap();
        quota.update_limits(&workspace, &limit, &Expect::Anything).await.unwrap();
    }
    let mut tasks = JoinSet::new();
    for task in 0..16_usize {
        let (quota, rows) = (quota.clone(), rows.clone());
        tasks.spawn(async move {
            let mut state = task;
            for _ in 0..1500 {
                state = (state * 1_103_515_245 + 12_345) % (1 << 31);
                // Half of the requests are for a few workspaces, which the others push out time and again.
                let at = if state % 2 == 0 { (state >> 8) % 8 } else { (state >> 8) % WORKSPACES };
                let workspace = quota.workspace(&format!("ws-{at}")).unwrap();
                let Decision::Admitted(reservation) = quota.reserve(&workspace, &[segments(&quota)]).await.unwrap()
                else {
                    rows.change(
                        workspace.as_str(),
                        "segments",
                        -i64::from(rows.of(workspace.as_str(), "segments") == 3),
                    );
                    continue;
                };
                match state % 5 {
                    0 => reservation.void(),
                    1 => drop(reservation),
                    _ => {
                        yield_now().await;
                        assert!(rows.change(workspace.as_str(), "segments", 1) <= LIMIT);
                        reservation.post();
                    }
                }
            }
        });
    }
    let mut most = 0;
    soon(async {
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
            most = most.max(quota.workspaces_in_memory());
        }
    })
    .await;
    until("the cache has shrunk to its capacity", || async { quota.workspaces_in_memory() <= 10 }).await;
    // Every unit that is free can be had.
    for at in 0..WORKSPACES {
        let workspace = quota.workspace(&format!("ws-{at}")).unwrap();
        let free = LIMIT - rows.of(workspace.as_str(), "segments");
        let free = usize::try_from(free).unwrap();
        // Units that were dropped a moment ago are still to be settled.
        until("every free unit can be had", || async { room(&quota, &workspace).await == free }).await;
    }
}
