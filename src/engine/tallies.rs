//! Rows of resource types that nobody can count: what was posted, less what was deleted, is all that is known of them.
//!
//! With a ledger that several processes share, the authority tallies what is posted, in the step that hears of it; here are only
//! the deletes that it hasn't heard of. A process with books of its own tallies here, and tells the store *before* a unit is
//! handed out that a row may come of it. So what a crash loses errs to one side: too many rows are believed in, never too few.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::Inner;
use super::replica::Replica;
use super::reservation::Unit;
use crate::BoxFuture;
use crate::authority::AHEAD_OF_TALLY;
use crate::decision::Demand;
use crate::error::Error;
use crate::policy::{Actor, AuditAction, AuditEntry};
use crate::resource::{ResourceCatalog, ResourceId, ResourceType};
use crate::store::{QuotaStore, TallyStore};
use crate::usage::{CountSql, UsageSource};
use crate::workspace::WorkspaceId;

/// How often it is looked what the store believes in too many.
const LOOKS: Duration = Duration::from_secs(1);

/// Which part of the room below the limit the store is told of ahead.
const SHARE_AHEAD: u64 = 8;

/// The tallies that something is known of in this process.
pub(crate) struct Tallies {
    store: Arc<dyn QuotaStore>,
    /// By resource type: whether it is tallied.
    types: Box<[bool]>,
    /// Another place tallies what is posted.
    elsewhere: bool,
    known: Mutex<HashMap<(WorkspaceId, ResourceId), Arc<Tally>>>,
}

/// The tally of a resource type of a workspace.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    state: Mutex<State>,
    /// Only one at a time talks to the store, or to the authority.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct State {
    /// The store was read.
    loaded: bool,
    /// Rows; before the store was read, those that were posted since.
    rows: u64,
    /// Units that may become rows.
    in_flight: u64,
    /// Deletes of which nobody was told who keeps the rows.
    deleted: u64,
    /// Deletes of rows whose units are in flight still.
    early: u64,
    /// Units ever posted.
    posts: u64,
    /// What the store says, or is being told: no unit is handed out past it.
    ceiling: u64,
    /// What the store says; `None` while it is being told.
    kept: Option<u64>,
}

impl State {
    /// The most rows that there may be.
    fn bound(&self) -> u64 {
        self.rows.saturating_add(self.in_flight)
    }

    fn is_covered(&self) -> bool {
        self.loaded && self.bound() <= self.ceiling
    }

    /// `units` are not in flight any more.
    fn land(&mut self, units: u64) {
        self.in_flight = self.in_flight.saturating_sub(units);
        self.early = self.early.min(self.in_flight);
    }

    /// Never less than none: of what is in flight some may be rows already.
    fn delete(&mut self, rows: u64) {
        let early = rows.saturating_sub(self.rows);
        self.rows = self.rows.saturating_sub(rows);
        self.early = self.early.saturating_add(early).min(self.in_flight);
    }

    fn telling(&mut self, ceiling: u64) {
        (self.kept, self.ceiling) = (None, self.ceiling.min(ceiling));
    }

    fn told(&mut self, ceiling: u64) {
        (self.kept, self.ceiling) = (Some(ceiling), ceiling);
    }

    /// There are so many rows by now, since `mark`, and the store was told. Nobody knows what it has without a number.
    fn set(&mut self, rows: Option<u64>, mark: &Self) {
        match rows {
            Some(rows) => {
                // What was posted meanwhile may or may not be among them.
                self.rows = rows.saturating_add(self.posts.saturating_sub(mark.posts));
                self.told(mark.ceiling);
            }
            None => (self.loaded, self.rows) = (false, 0),
        }
    }

    /// Nothing is known here that the store doesn't know.
    fn is_idle(&self) -> bool {
        self.in_flight == 0
            && self.deleted == 0
            && if self.loaded { self.kept == Some(self.rows) } else { self.rows == 0 }
    }
}

impl Tally {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `units` are handed out.
    pub(super) fn take(&self, units: u64) {
        let mut state = self.state();
        state.in_flight = state.in_flight.saturating_add(units);
    }

    /// They became rows, or may have.
    pub(super) fn post(&self, units: u64) {
        let mut state = self.state();
        let gone = state.early.min(units);
        state.early -= gone;
        state.rows = state.rows.saturating_add(units - gone);
        state.posts = state.posts.saturating_add(units);
        state.land(units);
    }

    /// They can't become rows any more.
    pub(super) fn void(&self, units: u64) {
        self.state().land(units);
    }

    /// Whether the store knows of all rows that may come of what is handed out.
    pub(super) fn is_covered(&self) -> bool {
        self.state().is_covered()
    }

    fn delete(&self, rows: u64) {
        let mut state = self.state();
        match state.loaded {
            true => state.delete(rows),
            false => state.deleted = state.deleted.saturating_add(rows),
        }
    }
}

impl Tallies {
    /// The types of these names are tallied; with `elsewhere`, by an authority.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] for a name that the catalog doesn't have, and for a store that keeps no tallies.
    pub(super) fn new(
        names: &[String],
        catalog: &ResourceCatalog,
        store: &Arc<dyn QuotaStore>,
        elsewhere: bool,
    ) -> Result<Self, Error> {
        let mut types = vec![false; catalog.len()].into_boxed_slice();
        for name in names {
            let resource =
                catalog.by_name(name).map_err(|error| Error::config(format!("the tally: {}", error.message())))?;
            types[resource.id().index()] = true;
            if store.tallies().is_none() {
                return Err(Error::config(format!(
                    "{name} can't be counted by the ledger alone: this store keeps no tallies; take a SqliteStore or a \
                     PostgresStore"
                )));
            }
        }
        Ok(Self { store: Arc::clone(store), types, elsewhere, known: Mutex::default() })
    }

    pub(super) fn any(&self) -> bool {
        self.types.contains(&true)
    }

    #[inline]
    pub(super) fn has(&self, resource: ResourceId) -> bool {
        self.has_at(resource.index())
    }

    /// The same by the index of a type.
    #[inline]
    pub(super) fn has_at(&self, index: usize) -> bool {
        self.types[index]
    }

    /// The tally of a key, where this process keeps it. Books of a workspace and all below it have none of their own.
    pub(super) fn of(&self, workspace: &WorkspaceId, resource: ResourceId) -> Option<Arc<Tally>> {
        (self.has(resource) && !self.elsewhere && workspace.top().is_none()).then(|| self.entry(workspace, resource))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<(WorkspaceId, ResourceId), Arc<Tally>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, workspace: &WorkspaceId, resource: ResourceId) -> Arc<Tally> {
        Arc::clone(self.known().entry((workspace.clone(), resource)).or_default())
    }

    fn find(&self, workspace: &WorkspaceId, resource: ResourceId) -> Option<Arc<Tally>> {
        self.known().get(&(workspace.clone(), resource)).cloned()
    }

    fn store(&self) -> Result<&dyn TallyStore, Error> {
        self.store.tallies().ok_or_else(|| Error::config("this store keeps no tallies"))
    }

    /// Reads the store, if it wasn't. Whoever calls it has the turn.
    async fn load(&self, tally: &Tally, workspace: &WorkspaceId, name: &str) -> Result<(), Error> {
        if tally.state().loaded {
            return Ok(());
        }
        let kept = self.store()?.tally(workspace, name).await?;
        let mut state = tally.state();
        let deleted = std::mem::take(&mut state.deleted);
        state.rows = state.rows.saturating_add(kept);
        state.delete(deleted);
        (state.loaded, state.kept, state.ceiling) = (true, Some(kept), kept);
        Ok(())
    }

    /// Sees to it that the store knows of all rows that may come of what is handed out, and, below the limit, of some more.
    async fn cover(&self, tally: &Tally, workspace: &WorkspaceId, name: &str, limit: Option<u64>) -> Result<(), Error> {
        let _turn = tally.turn.lock().await;
        self.load(tally, workspace, name).await?;
        let ceiling = {
            // Under one lock: what is handed out once it is known what to tell goes by that.
            let mut state = tally.state();
            if state.is_covered() {
                return Ok(());
            }
            let bound = state.bound();
            let room = limit.map_or(u64::MAX, |limit| limit.saturating_sub(bound));
            let ceiling = bound.saturating_add(AHEAD_OF_TALLY.min(room / SHARE_AHEAD));
            state.telling(ceiling);
            ceiling
        };
        self.keep(tally, workspace, name, ceiling).await
    }

    /// Tells the store what the state says that it is being told. Until it surely knows, no unit is handed out past what it knew
    /// before, or knows then.
    async fn keep(&self, tally: &Tally, workspace: &WorkspaceId, name: &str, ceiling: u64) -> Result<(), Error> {
        self.store()?.keep_tally(workspace, name, ceiling).await?;
        tally.state().told(ceiling);
        Ok(())
    }

    /// Tells the store that there are no more rows than there are.
    async fn settle(&self, tally: &Tally, workspace: &WorkspaceId, name: &str) -> Result<(), Error> {
        let _turn = tally.turn.lock().await;
        self.load(tally, workspace, name).await?;
        let bound = {
            let mut state = tally.state();
            let bound = state.bound();
            if state.kept == Some(bound) {
                return Ok(());
            }
            state.telling(bound);
            bound
        };
        self.keep(tally, workspace, name, bound).await
    }

    /// How many rows there are.
    async fn count(&self, workspace: &WorkspaceId, resource: &ResourceType) -> Result<u64, Error> {
        if self.elsewhere {
            return self.store()?.tally(workspace, resource.name()).await;
        }
        let tally = self.entry(workspace, resource.id());
        if !tally.state().loaded {
            let _turn = tally.turn.lock().await;
            self.load(&tally, workspace, resource.name()).await?;
        }
        let rows = tally.state().rows;
        Ok(rows)
    }

    async fn page(
        &self,
        resource: &ResourceType,
        after: Option<&str>,
        at_most: usize,
    ) -> Result<Vec<(String, u64)>, Error> {
        let mut page = self.store()?.tallied(resource.name(), after, at_most).await?;
        let known = self.known();
        for (workspace, rows) in &mut page {
            let key = (WorkspaceId::canonical(workspace), resource.id());
            if let Some(state) = known.get(&key).map(|tally| *tally.state()).filter(|state| state.loaded) {
                *rows = state.rows;
            }
        }
        Ok(page)
    }

    /// What the store believes in too many, or too few where requests passed over the limit, since the last look.
    fn unsettled(
        &self,
        seen: &mut HashMap<(WorkspaceId, ResourceId), State>,
    ) -> Vec<(WorkspaceId, ResourceId, Arc<Tally>)> {
        let mut known = self.known();
        // What somebody has in hand would live on beside a new one.
        known.retain(|_, tally| Arc::strong_count(tally) > 1 || !tally.state().is_idle());
        let mut unsettled = Vec::new();
        let mut now = HashMap::new();
        for (key, tally) in known.iter() {
            let state = *tally.state();
            let differs = if state.loaded { state.kept != Some(state.bound()) } else { !state.is_idle() };
            // What changes all the time is left alone, but for what the store doesn't know of.
            if differs && (seen.get(key) == Some(&state) || !state.is_covered()) {
                unsettled.push((key.0.clone(), key.1, Arc::clone(tally)));
            }
            now.insert(key.clone(), state);
        }
        *seen = now;
        unsettled
    }
}

impl fmt::Debug for Tallies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tallies").field("types", &self.types).finish_non_exhaustive()
    }
}

impl Inner {
    /// Sees to it that a crash doesn't lose what becomes of a unit that is about to be handed out.
    pub(super) async fn cover(self: &Arc<Self>, unit: &Unit) -> Result<(), Error> {
        let uncovered = unit.tenant().zip(unit.tally()).filter(|(_, tally)| !tally.is_covered());
        let Some((tenant, tally)) = uncovered else { return Ok(()) };
        let (quota, tenant, tally) = (Arc::clone(self), Arc::clone(tenant), Arc::clone(tally));
        let resource = unit.resource();
        let limit = tenant.limits().and_then(|limits| limits.by_resource[resource.index()].rows());
        self.tell_store(async move {
            quota.tallies.cover(&tally, &tenant.id, quota.catalog.get(resource).name(), limit).await
        })
        .await
    }

    /// In a task of its own: what the store is told last must be what it was told last, whoever stays to hear it.
    async fn tell_store(&self, work: impl Future<Output = Result<(), Error>> + Send + 'static) -> Result<(), Error> {
        let task = self.runtime.spawn(work);
        let broke_off = |error| Error::unavailable("the tally broke off").with_source(error);
        self.within("tally rows", || async { task.await.map_err(broke_off)? }).await
    }

    /// Notes that rows were deleted that are tallied; whoever keeps them is told behind the request.
    pub(super) fn untally(self: &Arc<Self>, workspace: &WorkspaceId, demand: Demand) {
        if !self.tallies.has(demand.resource) {
            return;
        }
        let tally = self.tallies.entry(workspace, demand.resource);
        tally.delete(demand.units);
        if tally.state().deleted > 0 {
            let (quota, workspace) = (Arc::clone(self), workspace.clone());
            self.runtime.spawn(async move {
                if let Err(error) = quota.tell_deletes(&workspace, demand.resource).await {
                    tracing::warn!(%error, %workspace, "rows that were deleted are counted still");
                }
            });
        }
    }

    /// Tells whoever keeps the rows of a key of those that were deleted; waits for whoever does so already.
    pub(super) async fn tell_deletes(
        self: &Arc<Self>,
        workspace: &WorkspaceId,
        resource: ResourceId,
    ) -> Result<(), Error> {
        let Some(tally) = self.tallies.find(workspace, resource) else { return Ok(()) };
        let _turn = tally.turn.lock().await;
        let resource_type = self.catalog.get(resource);
        let Some(replica) = &self.replica else {
            let load = || self.tallies.load(&tally, workspace, resource_type.name());
            self.within("tally rows", load).await?;
            self.wake_for_room(workspace, resource);
            return Ok(());
        };
        if tally.state().deleted == 0 {
            return Ok(());
        }
        self.flush_tally(replica, &tally, workspace, resource).await?;
        self.wake_for_room(workspace, resource);
        Ok(())
    }

    /// Tells the authority what it hasn't heard of a key. Whoever calls it has the turn.
    async fn flush_tally(
        self: &Arc<Self>,
        replica: &Replica,
        tally: &Tally,
        workspace: &WorkspaceId,
        resource: ResourceId,
    ) -> Result<(), Error> {
        // Rows that nobody was told of yet may be among those that were deleted.
        self.within("tell the ledger", || self.flush_key(workspace, resource)).await?;
        let deleted = std::mem::take(&mut tally.state().deleted);
        if deleted == 0 {
            return Ok(());
        }
        // Not again where nobody knows what came of it: too many is safe, too few is not.
        let resource = self.catalog.get(resource);
        self.within("tell the ledger", || replica.authority.deleted(workspace, resource, deleted)).await
    }

    fn wake_for_room(&self, workspace: &WorkspaceId, resource: ResourceId) {
        if let Some(tenant) = self.tenants.get(workspace.as_str())
            && let Some(key) = tenant.key(resource)
        {
            key.wake_if(key.cell.hint());
        }
    }

    /// Has the store know what there is, no more and no less.
    pub(super) async fn settle_tallies(self: &Arc<Self>) -> Result<(), Error> {
        let known: Vec<_> = self.tallies.known().iter().map(|(key, tally)| (key.clone(), Arc::clone(tally))).collect();
        for ((workspace, resource), tally) in known {
            match &self.replica {
                Some(_) => self.tell_deletes(&workspace, resource).await?,
                None => self.settle_one(workspace, resource, tally).await?,
            }
        }
        Ok(())
    }

    async fn settle_one(
        self: &Arc<Self>,
        workspace: WorkspaceId,
        resource: ResourceId,
        tally: Arc<Tally>,
    ) -> Result<(), Error> {
        let quota = Arc::clone(self);
        self.tell_store(
            async move { quota.tallies.settle(&tally, &workspace, quota.catalog.get(resource).name()).await },
        )
        .await
    }

    /// Refuses a resource type that is counted otherwise.
    pub(super) fn check_tallied(&self, resource: ResourceId) -> Result<(), Error> {
        match self.tallies.has(resource) {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "{} is not counted by the ledger alone: its rows are counted where they are, and can't be set",
                self.catalog.get(resource).name()
            ))),
        }
    }

    /// Sets the rows of tallied types, and tells it in the audit log; answers how many there were.
    pub(super) async fn set_rows(
        self: &Arc<Self>,
        workspace: &WorkspaceId,
        actor: &Actor,
        rows: &[(ResourceId, u64)],
        reason: Option<String>,
    ) -> Result<Vec<u64>, Error> {
        // One order for all, in which keys are locked, too.
        let mut order: Vec<_> = rows.iter().zip(0_usize..).collect();
        order.sort_by_key(|((resource, _), _)| self.catalog.get(*resource).name());
        let tallies: Vec<_> = order.iter().map(|((resource, _), _)| self.tallies.entry(workspace, *resource)).collect();
        let mut turns = Vec::with_capacity(tallies.len());
        for tally in &tallies {
            turns.push(tally.turn.lock().await);
        }
        if let Some(replica) = &self.replica {
            // Whatever is told after that counts on top, and comes off.
            for (tally, ((resource, _), _)) in tallies.iter().zip(&order) {
                self.flush_tally(replica, tally, workspace, *resource).await?;
            }
        }
        let mut before = vec![0; rows.len()];
        let mut marks = Vec::with_capacity(tallies.len());
        let mut transaction = self.store.inner().begin().await?;
        for (tally, ((resource, rows), place)) in tallies.iter().zip(&order) {
            let name = self.catalog.get(*resource).name();
            let mark = match &self.replica {
                Some(_) => State { ceiling: *rows, ..State::default() },
                None => {
                    self.tallies.load(tally, workspace, name).await?;
                    let mut state = tally.state();
                    let ceiling = rows.saturating_add(state.in_flight);
                    state.telling(ceiling);
                    State { ceiling, ..*state }
                }
            };
            let kept = transaction.set_tally(workspace, name, mark.ceiling).await?;
            before[*place] = if mark.loaded { mark.rows } else { kept };
            marks.push(mark);
            let entry = AuditEntry::new(actor, AuditAction::TallySet).workspace(workspace.as_str()).resource(name);
            let entry = entry.change(json!(before[*place]), json!(rows)).reason(reason.clone());
            transaction.audit(&entry).await?;
        }
        let done = transaction.commit().await;
        for ((tally, ((resource, rows), _)), mark) in tallies.iter().zip(&order).zip(marks) {
            if mark.loaded {
                tally.state().set(done.is_ok().then_some(*rows), &mark);
            }
            if let Some(tenant) = self.tenants.get(workspace.as_str())
                && let Some(key) = tenant.key(*resource)
            {
                key.wake_if(key.cell.forget());
            }
        }
        drop(turns);
        self.look_again(workspace);
        done.map(|()| before)
    }
}

/// Keeps the store from believing in too many rows for long.
pub(super) async fn keep(quota: Weak<Inner>) {
    let mut seen = HashMap::new();
    loop {
        sleep(LOOKS).await;
        let Some(quota) = quota.upgrade() else { return };
        for (workspace, resource, tally) in quota.tallies.unsettled(&mut seen) {
            let settled = match &quota.replica {
                Some(_) => quota.tell_deletes(&workspace, resource).await,
                None => quota.settle_one(workspace.clone(), resource, tally).await,
            };
            if let Err(error) = settled {
                tracing::warn!(%error, %workspace, "rows could not be tallied");
            }
        }
    }
}

/// Counts what is tallied, and asks another source about all else.
pub(super) struct Tallied {
    pub(super) tallies: Arc<Tallies>,
    pub(super) others: Option<Arc<dyn UsageSource>>,
}

impl Tallied {
    fn others(&self, resource: &ResourceType) -> Result<&dyn UsageSource, Error> {
        self.others.as_deref().ok_or_else(|| {
            Error::config(format!("nothing counts {}: call `usage` on the quota's builder", resource.name()))
        })
    }

    /// Asks the source behind whether rows exist.
    fn look_up<'a>(
        &'a self,
        resource: &'a ResourceType,
        column: &'a str,
        ask: impl FnOnce(&'a dyn UsageSource) -> BoxFuture<'a, Result<Vec<bool>, Error>> + Send + 'a,
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        Box::pin(async move {
            let found = match self.others(resource) {
                Ok(others) => ask(others).await,
                Err(error) => Err(error),
            };
            found.map_err(|error| self.unknown(resource, column, error))
        })
    }

    /// What is wrong where rows of a type are looked up, which the source behind may not know of.
    fn unknown(&self, resource: &ResourceType, column: &str, error: Error) -> Error {
        if !self.tallies.has(resource.id()) || !error.is_config() {
            return error;
        }
        let message = format!(
            "a rule looks {} up by {column:?}, which the ledger alone counts: give the quota's builder a usage source that \
             tells whether a row exists, such as an HttpUsage, or take the existence probe out of the rule",
            resource.name()
        );
        Error::config(message).with_source(error)
    }
}

impl UsageSource for Tallied {
    fn count<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        at_most: Option<u64>,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        Box::pin(async move {
            match self.tallies.has(resource.id()) {
                true => self.tallies.count(workspace, resource).await,
                false => self.others(resource)?.count(workspace, resource, at_most).await,
            }
        })
    }

    fn existing<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        column: &'a str,
        values: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        self.look_up(resource, column, move |others| others.existing(workspace, resource, column, values))
    }

    fn existing_or_uncounted<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        column: &'a str,
        values: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        self.look_up(resource, column, move |others| others.existing_or_uncounted(workspace, resource, column, values))
    }

    fn page<'a>(
        &'a self,
        resource: &'a ResourceType,
        after: Option<&'a str>,
        at_most: usize,
    ) -> BoxFuture<'a, Result<Vec<(String, u64)>, Error>> {
        Box::pin(async move {
            match self.tallies.has(resource.id()) {
                true => self.tallies.page(resource, after, at_most).await,
                false => self.others(resource)?.page(resource, after, at_most).await,
            }
        })
    }

    fn count_sql(&self, resource: &ResourceType) -> Option<CountSql> {
        match self.tallies.has(resource.id()) {
            #[cfg(feature = "postgres")]
            true => Some(CountSql::tally(resource)),
            #[cfg(not(feature = "postgres"))]
            true => None,
            false => self.others(resource).ok()?.count_sql(resource),
        }
    }
}
