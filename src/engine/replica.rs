//! This process as a replica: the leases it has from an authority, and the signs of life by which it keeps them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::Inner;
use super::tenant::{Key, Tenant};
use crate::authority::{Authority, BEATS_TO_BEGIN, News, Notice, Peer, Times};
use crate::error::Error;
use crate::ledger::Totals;
use crate::metrics::Metrics;
use crate::resource::ResourceId;
use crate::workspace::WorkspaceId;

/// How many leases are told of, or ended, in one message: their keys are locked for as long as it takes.
const TOLD_AT_ONCE: usize = 100;

/// The replica that this process is.
pub(crate) struct Replica {
    pub(crate) authority: Arc<dyn Authority>,
    times: Times,
    start: Instant,
    /// Until when units may be handed out, in nanoseconds since `start`.
    until: AtomicU64,
    /// How many replicas are alive.
    peers: AtomicU64,
    state: Mutex<State>,
    signals: Arc<Signals>,
    /// Out of use, with leases that still have to be ended.
    parting: Mutex<Vec<Parting>>,
    /// Its end ends the tasks.
    running: watch::Sender<()>,
}

/// What the tasks wait for, who must not hold the engine meanwhile.
#[derive(Default)]
struct Signals {
    /// A beat has ended, well or not.
    beaten: Notify,
    /// The next beat must not wait for its time.
    hurry: Notify,
    /// It is time to tell the authority what is new.
    chores: Notify,
}

#[derive(Default)]
struct State {
    /// The id under which leases are held. A replica that lost them comes back under a new one.
    me: Option<Uuid>,
    /// What the authority knows of this process, under that id.
    told: String,
    /// Why there are none.
    failure: Option<Error>,
    seen: Vec<Peer>,
    closing: bool,
}

impl State {
    /// The id under which leases are held, and how often it has beaten.
    fn now(&self) -> Option<(Uuid, u64)> {
        let me = self.me?;
        Some((me, self.seen.iter().find(|peer| peer.replica == me)?.beats))
    }
}

/// A tenant out of use.
struct Parting {
    tenant: Arc<Tenant>,
    /// The replica's id and beats at that time.
    since: Option<(Uuid, u64)>,
}

/// A key with news of its lease.
struct Told {
    tenant: Arc<Tenant>,
    index: usize,
    news: News,
}

impl Replica {
    pub(crate) fn new(authority: Arc<dyn Authority>, times: Times) -> Self {
        Self {
            authority,
            times,
            start: Instant::now(),
            until: AtomicU64::new(0),
            peers: AtomicU64::new(1),
            state: Mutex::default(),
            signals: Arc::default(),
            parting: Mutex::default(),
            running: watch::Sender::new(()),
        }
    }

    /// Whether units may be handed out.
    // By the clock itself, since a coarse one stands still with the process.
    #[inline]
    pub(crate) fn is_alive(&self) -> bool {
        nanos(self.start.elapsed()) < self.until.load(Ordering::Acquire)
    }

    pub(crate) fn fenced(&self) -> bool {
        self.times.fenced
    }

    pub(crate) fn peers(&self) -> u64 {
        self.peers.load(Ordering::Relaxed)
    }

    /// The id under which leases are held now, and how often it has beaten; waits for the first beat.
    pub(crate) async fn ready(&self) -> Result<(Uuid, u64), Error> {
        loop {
            let beaten = self.signals.beaten.notified();
            {
                let state = self.state();
                if let (Some(now), true) = (state.now(), self.is_alive()) {
                    return Ok(now);
                }
                if let Some(failure) = &state.failure {
                    return Err(failure.clone());
                }
            }
            beaten.await;
        }
    }

    /// A lease has ended that should not have: nothing is handed out before the next beat has told who is alive.
    pub(crate) fn suspect(&self) {
        self.until.store(0, Ordering::Release);
        self.signals.hurry.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parting(&self) -> MutexGuard<'_, Vec<Parting>> {
        self.parting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands out nothing any more.
    fn close(&self) {
        let mut state = self.state();
        state.closing = true;
        state.failure = Some(Error::unavailable("this process is shutting down"));
        self.until.store(0, Ordering::Release);
    }

    /// A sign of life, and what this process tells of itself where that is new. `true` when the leases under the old id are
    /// lost.
    async fn beat(&self, config: &str) -> bool {
        let (me, joined, told) = {
            let mut state = self.state();
            let me = state.me.unwrap_or_else(|| {
                // It joins with this, or has done so already where the answer was lost.
                config.clone_into(&mut state.told);
                Uuid::now_v7()
            });
            state.me = Some(me);
            (me, state.seen.iter().any(|peer| peer.replica == me), state.told == config)
        };
        // What it may be used for counts from here.
        let sent = Instant::now();
        let beat = async {
            if !joined {
                self.authority.join(me, config).await?;
            } else if !told {
                self.authority.introduce(me, config).await?;
            }
            self.authority.beat(me).await
        };
        let peers = within(self.times.patience(), beat).await;
        let mut state = self.state();
        let lost = match peers {
            Ok(peers) => {
                let live = |peer: &&Peer| peer.live;
                let lost = !peers.iter().filter(live).any(|peer| peer.replica == me);
                self.peers.store(peers.iter().filter(live).count().max(1) as u64, Ordering::Relaxed);
                state.seen = peers;
                if joined {
                    config.clone_into(&mut state.told);
                }
                if lost {
                    state.me = None;
                    self.until.store(0, Ordering::Release);
                } else if !state.closing {
                    state.failure = None;
                    let until = sent.duration_since(self.start) + self.times.time_to_live;
                    self.until.store(nanos(until), Ordering::Release);
                }
                lost
            }
            Err(error) => {
                if state.failure.is_none() {
                    tracing::error!(error = %error, "the ledger can't be reached: units are handed out for a while yet");
                }
                state.failure = Some(error);
                false
            }
        };
        drop(state);
        self.signals.beaten.notify_waiters();
        lost
    }

    /// The authority's answer. On a connection that is lost none may ever come, and all that has to be told would wait.
    async fn told<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        within(self.times.time_to_live, call).await
    }

    /// Ends replicas that have shown no life for too long, and leases without a replica.
    async fn reclaim(&self, watched: &mut HashMap<Uuid, (u64, Instant)>) -> Result<(), Error> {
        let (me, seen) = {
            let state = self.state();
            (state.me, state.seen.clone())
        };
        watched.retain(|replica, _| seen.iter().any(|peer| peer.replica == *replica));
        for peer in seen.iter().filter(|peer| Some(peer.replica) != me) {
            let now = Instant::now();
            let (beats, since) = watched.entry(peer.replica).or_insert((peer.beats, now));
            if *beats != peer.beats {
                (*beats, *since) = (peer.beats, now);
            }
            if peer.live && since.elapsed() >= self.times.given_up_after() {
                tracing::warn!(replica = %peer.replica, "a replica shows no life any more: its leases end");
                self.told(self.authority.bury(peer.replica, peer.beats)).await?;
            }
        }
        for leases in self.told(self.authority.orphans()).await?.chunks(TOLD_AT_ONCE) {
            let units = self.told(self.authority.end(leases)).await?;
            if units > 0 {
                tracing::info!(
                    units,
                    "leases ended with their replica: their units count as rows until the next count"
                );
            }
        }
        for peer in seen.iter().filter(|peer| !peer.live) {
            self.told(self.authority.leave(peer.replica)).await?;
        }
        Ok(())
    }

    /// There are tenants that have gone out of use.
    pub(super) fn parted(&self) {
        self.signals.chores.notify_one();
    }

    /// Sees to it that the leases of tenants out of use are ended.
    fn part(&self, tenants: Vec<Arc<Tenant>>) {
        let since = self.state().now();
        self.parting().extend(tenants.into_iter().map(|tenant| Parting { tenant, since }));
    }
}

impl Parting {
    /// No request of it is in flight.
    fn is_idle(&self) -> bool {
        self.tenant.keys().all(|(_, key)| key.cell.is_idle())
    }

    /// All its leases have ended, and with them what nobody would ever have told of.
    fn tell(&self, metrics: &Metrics) {
        for (index, key) in self.tenant.keys() {
            metrics.settled(index, key.cell.lost());
        }
    }

    /// Whether one of its leases may still begin: one of an earlier id can't, nor can one by a request that is too old.
    fn may_begin(&self, now: Option<(Uuid, u64)>) -> bool {
        let (Some((before, since)), Some((me, beats))) = (self.since, now) else { return false };
        before == me
            && beats <= since.saturating_add(BEATS_TO_BEGIN)
            && self.tenant.keys().any(|(_, key)| key.cell.may_begin())
    }
}

impl Told {
    fn ends(mut self, ends: bool) -> Self {
        self.news.ends = ends;
        self
    }

    fn of(tenant: &Arc<Tenant>, index: usize, key: &Key, all: bool) -> Option<Self> {
        let (totals, waits) = key.cell.news(all)?;
        Some(Self::new(tenant, index, key.lease()?, totals, waits))
    }

    fn new(tenant: &Arc<Tenant>, index: usize, lease: Uuid, totals: Totals, waits: bool) -> Self {
        Self { tenant: Arc::clone(tenant), index, news: News { lease, totals, waits, ends: false } }
    }
}

impl Inner {
    pub(super) async fn shut_down(self: &Arc<Self>, patience: Duration) -> Result<(), Error> {
        let Some(replica) = &self.replica else { return Ok(()) };
        replica.close();
        let deadline = Instant::now() + patience;
        for tenant in self.tenants.all() {
            self.tenants.give_up(&tenant);
        }
        loop {
            replica.part(self.tenants.take_parted());
            self.within("give back leases", || self.see_off(replica)).await?;
            // What may still begin can't once the replica has left.
            if replica.parting().iter().all(Parting::is_idle) {
                break;
            }
            if Instant::now() >= deadline {
                return Err(Error::unavailable(
                    "requests are still in flight: their leases are left to the other replicas",
                ));
            }
            sleep(Duration::from_millis(10)).await;
        }
        let me = replica.state().me.take();
        replica.running.send_replace(());
        match me {
            Some(me) => self.within("leave the ledger", || replica.authority.leave(me)).await,
            None => Ok(()),
        }
    }

    /// Tells the authority what it hasn't heard; calls idle units back where another replica waits for them.
    async fn flush(&self, replica: &Replica, told: Vec<Told>) -> Result<(), Error> {
        let mut told = told;
        while !told.is_empty() {
            self.add_below(&mut told);
            let mut more = Vec::new();
            for some in told.chunks(TOLD_AT_ONCE) {
                let news: Vec<News> = some.iter().map(|told| told.news).collect();
                let heard = replica.told(replica.authority.flush(&news)).await?;
                let mut heard: HashMap<Uuid, _> = heard.into_iter().map(|heard| (heard.lease, heard)).collect();
                for told in some {
                    let Some((_, key)) = told.tenant.keys().find(|(index, _)| *index == told.index) else { continue };
                    match heard.remove(&told.news.lease) {
                        Some(heard) => {
                            key.cell.heard(told.news.totals, heard.seq, heard.granted);
                            if heard.wanted || told.news.ends {
                                // Units that were granted by a request that was lost may have come to light.
                                let again = Told::of(&told.tenant, told.index, key, true);
                                // Only with units to give back: a lost request for units is news until it is settled.
                                let again = again.filter(|again| again.news.totals != told.news.totals);
                                more.extend(again.map(|again| again.ends(told.news.ends)));
                            }
                        }
                        None => {
                            let late = key.cell.unheard(told.news.totals);
                            if late > 0 {
                                // A hint, and no proof: the rows may be older than the end of the lease.
                                tracing::warn!(
                                    workspace = %told.tenant.id,
                                    units = late,
                                    "rows were created on a lease that has ended"
                                );
                            }
                        }
                    }
                }
            }
            told = more;
        }
        Ok(())
    }

    /// Ends the leases of those that are out of use, as far as nothing of them is in use any more.
    async fn see_off(&self, replica: &Replica) -> Result<(), Error> {
        let parting = std::mem::take(&mut *replica.parting());
        let (ready, waiting): (Vec<_>, Vec<_>) = parting.into_iter().partition(Parting::is_idle);
        let mut told = Vec::new();
        // What they have in store is of use to others meanwhile.
        for Parting { tenant, .. } in &waiting {
            told.extend(tenant.keys().filter_map(|(index, key)| Told::of(tenant, index, key, true)));
        }
        replica.parting().extend(waiting);
        let mut lost = Vec::new();
        for Parting { tenant, .. } in &ready {
            for (index, key) in tenant.keys() {
                let Some(lease) = key.lease() else { continue };
                let totals = key.cell.news(true).map_or_else(|| key.cell.totals(), |(totals, _)| totals);
                let news = News { lease, totals, waits: false, ends: true };
                told.push(Told { tenant: Arc::clone(tenant), index, news });
                if key.cell.lost() > 0 {
                    lost.push(lease);
                }
            }
        }
        let now = replica.state().now();
        // Asked before it is told: what begins while the authority is told may be news to it that it answered too early for.
        let began: Vec<bool> = ready.iter().map(|parting| !parting.may_begin(now)).collect();
        let done = async {
            self.flush(replica, told).await?;
            for leases in lost.chunks(TOLD_AT_ONCE) {
                replica.told(replica.authority.end(leases)).await?;
            }
            Ok(())
        };
        let done = done.await;
        let (gone, again): (Vec<_>, Vec<_>) =
            ready.into_iter().zip(began).partition(|(_, began)| done.is_ok() && *began);
        replica.parting().extend(again.into_iter().map(|(parting, _)| parting));
        gone.into_iter().for_each(|(parting, _)| parting.tell(&self.metrics));
        done
    }

    fn all_news(&self) -> Vec<Told> {
        let mut news = Vec::new();
        for tenant in self.tenants.all() {
            for (index, key) in tenant.keys() {
                news.extend(Told::of(&tenant, index, key, false));
            }
        }
        news
    }

    /// Puts before what is told of a workspace and all below it what became of the units of the workspaces themselves, by which it
    /// is counted where rows are tallied: no row is told of above that isn't below.
    fn add_below(&self, told: &mut Vec<Told>) {
        let above = |told: &Told| told.tenant.id.top().is_some();
        let tallied: BTreeSet<_> = told
            .iter()
            .filter(|told| above(told))
            .map(|told| told.index)
            .filter(|of| self.tallies.has_at(*of))
            .collect();
        if tallied.is_empty() {
            return;
        }
        let tenants = self.tenants.all().into_iter().filter(|tenant| tenant.id.top().is_none());
        let below: Vec<_> = tenants
            .flat_map(|tenant| {
                let keys = tenant.keys().filter(|(index, _)| tallied.contains(index));
                keys.filter_map(|(index, key)| Told::of(&tenant, index, key, false)).collect::<Vec<_>>()
            })
            .collect();
        // Each lease is told of once.
        let again: HashSet<_> = below.iter().map(|told| told.news.lease).collect();
        told.retain(|told| told.news.ends || !again.contains(&told.news.lease));
        let ends: HashSet<_> = told.iter().map(|told| told.news.lease).collect();
        told.extend(below.into_iter().filter(|told| !ends.contains(&told.news.lease)));
        told.sort_by_key(above);
    }

    /// Tells the authority what became of the units of a key.
    pub(super) async fn flush_key(&self, workspace: &WorkspaceId, resource: ResourceId) -> Result<(), Error> {
        let (Some(replica), Some(tenant)) = (&self.replica, self.tenants.get(workspace.as_str())) else {
            return Ok(());
        };
        let told = tenant.key(resource).and_then(|key| Told::of(&tenant, resource.index(), key, false));
        self.flush(replica, told.into_iter().collect()).await
    }

    async fn heed(self: &Arc<Self>, replica: &Replica, notice: Notice) -> Result<(), Error> {
        match notice {
            Notice::Recall { resource, workspace } => {
                let tenant = self.tenants.get(&workspace);
                if let (Some(tenant), Ok(resource)) = (tenant, self.catalog.by_name(&resource))
                    && let Some(key) = tenant.key(resource.id())
                {
                    let told = Told::of(&tenant, resource.id().index(), key, true);
                    self.flush(replica, told.into_iter().collect()).await?;
                }
            }
            Notice::Free { resource, workspace } => {
                if let (Some(tenant), Ok(resource)) = (self.tenants.get(&workspace), self.catalog.by_name(&resource))
                    && let Some(key) = tenant.key(resource.id())
                {
                    key.wake_if(key.cell.hint());
                }
            }
            Notice::Limits { workspace } => {
                if let Ok(id) = self.config.workspace_format.parse(&workspace) {
                    self.store.forget(&id);
                    self.outdate_dependents([&id]);
                }
                if let Some(tenant) = self.tenants.get(&workspace) {
                    // At once: what is in store is not handed out until the limits were read.
                    tenant.outdate();
                }
            }
            Notice::Moved { workspace } => {
                if let Some(subtree) = self.tenants.get(&workspace) {
                    subtree.outdate();
                }
            }
            Notice::Plan { name } => {
                self.outdate(|tenant| tenant.limits().is_some_and(|limits| limits.depends_on_plan(&name)));
            }
            Notice::Lost => {
                self.store.forget_all();
                for tenant in self.tenants.all() {
                    tenant.make_due(self.clock.now());
                }
            }
        }
        Ok(())
    }
}

/// Starts what keeps a replica alive. It ends with the engine.
pub(super) fn start(quota: &Arc<Inner>, replica: &Replica) {
    let running = || replica.running.subscribe();
    let signals = || Arc::clone(&replica.signals);
    quota.runtime.spawn(until_gone(running(), beats(Arc::downgrade(quota), signals())));
    quota.runtime.spawn(until_gone(running(), chores(Arc::downgrade(quota), signals())));
    quota.runtime.spawn(until_gone(running(), notices(Arc::downgrade(quota), Arc::clone(&replica.authority))));
}

async fn until_gone(mut running: watch::Receiver<()>, work: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        _ = running.changed() => {}
        () = work => {}
    }
}

async fn beats(quota: Weak<Inner>, signals: Arc<Signals>) {
    loop {
        let pause = {
            let Some(quota) = quota.upgrade() else { return };
            let Some(replica) = &quota.replica else { return };
            let lost = replica.beat(&json!(quota.replica_config()).to_string()).await;
            if lost {
                tracing::warn!("this replica was taken for dead: it begins anew");
                for tenant in quota.tenants.all() {
                    quota.metrics.leases_lost(tenant.keys().count());
                    quota.tenants.give_up(&tenant);
                }
            }
            signals.chores.notify_one();
            if lost { Duration::ZERO } else { replica.times.beat() }
        };
        // Either way it is time.
        let _ = timeout(pause, signals.hurry.notified()).await;
    }
}

async fn chores(quota: Weak<Inner>, signals: Arc<Signals>) {
    let mut watched = HashMap::new();
    loop {
        signals.chores.notified().await;
        let Some(quota) = quota.upgrade() else { return };
        let Some(replica) = &quota.replica else { return };
        let done = async {
            quota.flush(replica, quota.all_news()).await?;
            replica.part(quota.tenants.take_parted());
            quota.see_off(replica).await?;
            replica.reclaim(&mut watched).await
        };
        // It is tried again with the next beat.
        if let Err(error) = done.await {
            quota.metrics.failed("tell the ledger", &error);
            tracing::warn!(error = %error, "the ledger could not be told all");
        }
    }
}

async fn notices(quota: Weak<Inner>, authority: Arc<dyn Authority>) {
    const PAUSE: Duration = Duration::from_secs(1);
    loop {
        let heeded = match authority.notice().await {
            Ok(notice) => {
                let Some(quota) = quota.upgrade() else { return };
                let Some(replica) = &quota.replica else { return };
                quota.heed(replica, notice).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = heeded {
            tracing::warn!(error = %error, "notices of other replicas are lost for a while");
            sleep(PAUSE).await;
        }
    }
}

async fn within<T>(time: Duration, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = |_| Err(Error::unavailable(format!("time-out: the ledger gave no answer within {time:?}")));
    timeout(time, call).await.unwrap_or_else(late)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
