//! A process: an engine on a runtime of its own, with a clock of its own, and clients. It is stopped, and killed, as a
//! whole.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::link::{Clock, Link, Rows};
use super::plan::Mutation;
use super::world::{LONGEST_DELAY, Order, Shared, Time, World, lock};
use crate::authority::{Notice, Times};
use crate::decision::{Demand, Existing, ResolvedCharge};
use crate::engine::{Decision, Quota, Reservation, Settling};
use crate::error::Error;
use crate::limit::LimitSet;
use crate::mode::EnforcementMode;
use crate::store::Expect;

pub(super) struct Host {
    runtime: Runtime,
    pub(super) client: Client,
    /// How far it has come.
    pub(super) at: Time,
    pub(super) paused: bool,
}

impl Host {
    pub(super) fn start(world: &Shared, index: usize) -> Self {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (client, clients) = runtime.block_on(async { Client::new(world, index) });
        for _ in 0..clients {
            runtime.spawn(client.clone().work());
        }
        Self { runtime, at: client.link.clock.base, client, paused: false }
    }

    /// Goes on until `time`, or until it has sent something.
    pub(super) fn run(&mut self, time: Time) {
        let clock = self.client.link.clock;
        let sent = Arc::clone(&self.client.link.sent);
        self.at = self.runtime.block_on(async move {
            tokio::select! {
                biased;
                () = sent.notified() => {}
                () = sleep_until(clock.shows(time)) => {}
            }
            clock.now()
        });
    }

    /// Finds that it is `time`, after it stood still.
    pub(super) fn wake(&mut self, time: Time) {
        let clock = self.client.link.clock;
        self.at = self.runtime.block_on(async move {
            tokio::time::advance(clock.shows(time).saturating_duration_since(Instant::now())).await;
            clock.now()
        });
        self.paused = false;
    }

    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(work);
    }
}

/// A client of one host, and the host's handlers.
#[derive(Clone)]
pub(super) struct Client {
    link: Link,
    quota: Quota,
}

/// What a client does.
enum Work {
    Create(Vec<Demand>),
    Upsert(usize, Vec<u64>),
    Delete(usize),
    Limit(usize),
    Recount,
    Shutdown,
}

impl Client {
    fn new(shared: &Shared, index: usize) -> (Self, usize) {
        let (sender, notices) = mpsc::unbounded_channel();
        let mut world = lock(shared);
        let _ = sender.send(Ok(Notice::Lost));
        world.hosts[index].notices = Some(sender);
        world.hosts[index].closing = false;
        let drift = if world.plan.clocks_differ { u32::try_from(world.random.below(10_000)).unwrap() } else { 0 };
        let clock = Clock { base: world.now, start: Instant::now(), rate: 995_000 + drift };
        let (sent, notices) = (Arc::new(Notify::new()), Arc::new(Mutex::new(notices)));
        let link = Link { world: Arc::clone(shared), host: index, clock, sent, notices };
        let plan = world.plan.clone();
        let ignorant = index == 0 && plan.mutation == Some(Mutation::IgnoresItsDeadline);
        let times = Times {
            time_to_live: plan.time_to_live * if ignorant { 40 } else { 1 },
            longest_handler: plan.longest_handler,
            fenced: plan.fenced,
        };
        let mut builder = Quota::builder(world.catalog.clone())
            .store(link.clone())
            .usage(Rows { link: link.clone(), elsewhere: plan.counts_elsewhere })
            .mode(EnforcementMode::Enforce)
            .settling(Settling::After(plan.longest_handler))
            .max_wait(Duration::from_millis(200))
            .io_timeout(Duration::from_millis(1000))
            .refresh_after(Duration::from_secs(3));
        builder.authority = Some((Arc::new(link.clone()), times));
        world.note(format_args!("host {index} starts"));
        drop(world);
        (Self { link, quota: builder.build().unwrap() }, plan.clients)
    }

    fn with<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut lock(&self.link.world))
    }

    /// Has `work` done at the database, as the host's own driver does. An error leaves open what became of it.
    async fn database<T: Send + 'static>(
        &self,
        work: impl Fn(&mut World) -> T + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let silent = Error::unavailable("the database gives no answer");
        timeout(Duration::from_secs(1), self.link.call(work)).await.unwrap_or(Err(silent))
    }

    async fn pause(&self, most: Duration) {
        let time = self.with(|world| world.some_time(most));
        sleep(time).await;
    }

    /// Handlers are quick as a rule, and some take for ever.
    async fn think(&self) {
        let most = self.with(|world| match world.chance(60) {
            true => Duration::from_millis(50),
            false => world.plan.time_to_live * 4,
        });
        self.pause(most).await;
    }

    /// Makes one request after another.
    async fn work(self) {
        loop {
            self.pause(Duration::from_millis(250)).await;
            if !self.with(|world| world.load && !world.hosts[self.link.host].closing) {
                return;
            }
            let _request = Request::new(&self.link.world);
            let work = self.with(Work::any);
            let abandoned = !matches!(work, Work::Shutdown);
            let patience = self.with(|world| match abandoned && world.plan.abandons && world.chance(15) {
                true => world.some_time(Duration::from_millis(300)),
                false => Duration::from_secs(60),
            });
            // The client hangs up: all that is done for it is dropped where it stands.
            let _ = timeout(patience, self.serve(work)).await;
        }
    }

    async fn serve(&self, work: Work) {
        let workspace = &self.quota.workspace("acme").unwrap();
        match work {
            Work::Create(demands) => {
                let (since, decision) = self.decide(demands[0].resource.index());
                let decided = self.quota.reserve(workspace, &demands).await;
                let rows = self.with(|world| {
                    let mut rows = Vec::new();
                    for demand in &demands {
                        rows.extend((0..demand.units).map(|_| (demand.resource.index(), world.number())));
                    }
                    rows
                });
                // What is refused of several is not followed up.
                if let Some(reservation) = self.hear(decision, decided, demands.len() == 1) {
                    self.handle(reservation, since, rows, true).await;
                }
            }
            Work::Upsert(resource, names) => {
                let (since, decision) = self.decide(resource);
                let id = self.with(|world| world.resource(resource));
                let values = names.iter().map(u64::to_string).collect();
                let existing = Existing::Rows { column: "id".into(), values };
                let demand = Demand::new(id, names.len() as u64);
                let charge = ResolvedCharge { existing, ..ResolvedCharge::new(demand) };
                let decided = self.quota.0.admit(workspace, &[charge]).await;
                if let Some(mut reservation) = self.hear(decision, decided, true) {
                    reservation.begin();
                    let rows = names.into_iter().map(|row| (resource, row)).collect();
                    self.handle(reservation, since, rows, false).await;
                }
            }
            Work::Delete(resource) => {
                let deleted = self.database(move |world| world.delete(resource)).await;
                let tells = self.with(|world| world.chance(50));
                if let (Ok(true), true) = (deleted, tells) {
                    let resource = self.with(|world| world.resource(resource));
                    self.quota
                        .0
                        .deleted(&self.quota.workspace("acme").unwrap(), std::iter::once(Demand::one(resource)));
                }
            }
            Work::Limit(resource) => {
                let changes = self.with(|world| LimitSet::new().with(world.resource(resource), world.any_limit()));
                let _ = self.quota.update_limits(workspace, &changes, &Expect::Anything).await;
            }
            Work::Recount => {
                let _ = self.quota.recount(workspace).await;
            }
            Work::Shutdown => {
                let host = self.link.host;
                self.with(|world| world.hosts[host].closing = true);
                let closed = self.quota.shutdown(LONGEST_DELAY).await;
                self.with(|world| {
                    world.note(format_args!("host {host} shuts down: {}", closed.is_ok()));
                    world.orders.push_back(Order::Crash(host));
                    world.after(Duration::from_millis(50), move |world| world.orders.push_back(Order::Start(host)));
                });
                self.link.sent.notify_one();
            }
        }
    }

    fn decide(&self, resource: usize) -> (Time, Deciding) {
        let id = self.with(|world| world.begin_decision(resource));
        (self.link.clock.now(), Deciding { world: Arc::clone(&self.link.world), id })
    }

    #[allow(clippy::needless_pass_by_value, reason = "the decision has been made")]
    fn hear(&self, decision: Deciding, decided: Result<Decision, Error>, checked: bool) -> Option<Reservation> {
        match decided {
            Ok(Decision::Admitted(reservation)) => {
                self.with(|world| {
                    world.seen.admitted += 1;
                    world.note(format_args!("host {} admits", self.link.host));
                });
                Some(reservation)
            }
            Ok(Decision::Refused(refusal)) => {
                if checked {
                    self.with(|world| world.refused(decision.id, &refusal));
                }
                None
            }
            Err(error) => {
                self.with(|world| {
                    world.seen.errors += 1;
                    world.note(format_args!("host {}: {error}", self.link.host));
                });
                None
            }
        }
    }

    /// A handler. Its transaction may make only some of its rows, where they are `new`.
    async fn handle(&self, mut reservation: Reservation, since: Time, mut rows: Vec<(usize, u64)>, new: bool) {
        let fate = self.with(|world| world.random.below(20));
        self.think().await;
        match fate {
            0 => return reservation.void(),
            // It panics.
            1 => return,
            _ => {}
        }
        let leases: Vec<u128> = match self.with(|world| world.plan.fenced) {
            true => reservation.fence().leases().iter().map(|lease| lease.as_u128()).collect(),
            false => Vec::new(),
        };
        let not_after = self.with(|world| (!world.plan.fenced).then(|| since + world.plan.longest_handler));
        // A transaction whose client is not heard of again is rolled back by the database.
        let Ok(begun) = self.database(move |world| world.begin(&leases, not_after)).await else { return };
        let Some(transaction) = begun else { return reservation.void() };
        self.think().await;
        if fate == 2 {
            if self.database(move |world| world.end(transaction)).await.is_ok() {
                reservation.void();
            }
            return;
        }
        let all = rows.len();
        if fate == 3 && new {
            rows.truncate(all / 2);
        }
        let some = rows.clone();
        let Ok(committed) = self.database(move |world| world.commit(transaction, &some)).await else { return };
        match committed {
            false => reservation.void(),
            true if rows.len() == all => reservation.post(),
            true => {
                let ids = self.with(|world| world.catalog.iter().map(|resource| resource.id()).collect::<Vec<_>>());
                for (index, id) in ids.into_iter().enumerate() {
                    let made = rows.iter().filter(|(resource, _)| *resource == index).count();
                    reservation.post_some(id, made as u64);
                }
            }
        }
    }

    /// Makes one row when all is calm; answers whether there was room.
    pub(super) async fn fill(self, resource: usize) -> Result<bool, String> {
        let _request = Request::new(&self.link.world);
        let (id, workspace) = self.with(|world| (world.resource(resource), world.workspace.clone()));
        match self.quota.reserve(&workspace, &[Demand::one(id)]).await {
            Ok(Decision::Admitted(reservation)) => {
                let leases: Vec<u128> = reservation.fence().leases().iter().map(|lease| lease.as_u128()).collect();
                let made = self.database(move |world| {
                    let row = world.number();
                    world.begin(&leases, None).is_some_and(|transaction| world.commit(transaction, &[(resource, row)]))
                });
                match made.await {
                    Ok(true) => reservation.post(),
                    other => return Err(format!("no row was made: {other:?}")),
                }
                Ok(true)
            }
            Ok(Decision::Refused(refusal)) if refusal.reserved.is_none() => Ok(false),
            Ok(Decision::Refused(refusal)) => Err(format!("units never came back: {refusal:?}")),
            Err(error) => Err(format!("nothing fails any more, but {error}")),
        }
    }

    pub(super) async fn shut_down(self) -> Result<bool, String> {
        let _request = Request::new(&self.link.world);
        self.quota.shutdown(Duration::from_secs(1)).await.map(|()| true).map_err(|error| error.to_string())
    }

    pub(super) fn sent(&self) {
        self.link.sent.notify_one();
    }
}

impl Work {
    fn any(world: &mut World) -> Self {
        let resource = world.random.below(world.tables.len());
        let units = |world: &mut World| if world.chance(80) { 1 } else { 2 + world.random.below(2) as u64 };
        match world.random.below(40) {
            0..9 if world.plan.deletes => Self::Delete(resource),
            9..11 if world.plan.limits_change => Self::Limit(resource),
            11 => Self::Recount,
            12 if world.plan.shutdowns && world.chance(30) => Self::Shutdown,
            13..18 if world.plan.upserts => {
                let mut names = vec![world.any_name(), world.any_name()];
                names.dedup();
                names.truncate(1 + world.random.below(2));
                Self::Upsert(resource, names)
            }
            18..22 => {
                let all = 0..world.tables.len();
                Self::Create(all.map(|index| Demand::new(world.resource(index), units(world))).collect())
            }
            _ => Self::Create(vec![Demand::new(world.resource(resource), units(world))]),
        }
    }
}

/// A request under way.
struct Request(Shared);

impl Request {
    fn new(world: &Shared) -> Self {
        lock(world).requests += 1;
        Self(Arc::clone(world))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        lock(&self.0).requests -= 1;
    }
}

/// A decision under way.
struct Deciding {
    world: Shared,
    id: u64,
}

impl Drop for Deciding {
    fn drop(&mut self) {
        lock(&self.world).end_decision(self.id);
    }
}
