//! The decision: from the pool where that is enough, else by a count.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{Instrument, Span};

use super::reservation::{Reservation, Unit, Units};
use super::tenant::{Age, Key, Tenant};
use super::{Inner, merged};
use crate::authority::{LeaseOf, Reply};
use crate::decision::{DecisionReceipt, Demand, Existing, Refusal, ResolvedCharge};
use crate::error::Error;
use crate::ledger::{Admission, Answer, Ask, Round, Standing, Step, Verdict};
use crate::metrics::{Metrics, Outcome, Stopwatch};
use crate::mode::EnforcementMode;
use crate::resource::ResourceId;
use crate::spans;
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
    /// What it is a part of.
    span: Span,
}

impl Waiter {
    /// The key is out of use: there is another one by now, or will be.
    pub(crate) fn move_on(self) {
        let _ = self.answer.send(Err(Denial::Retired));
    }
}

/// Which rows of some charges exist.
struct Look {
    /// By charge: units that would be new rows.
    new: Vec<u64>,
    /// The others, whose edits have begun.
    edits: Units,
}

/// Why a waiter gets no units.
#[derive(Debug)]
enum Denial {
    Over(Standing),
    Blocked(Standing),
    Retired,
    Failed(Error),
}

impl Inner {
    /// Admits new rows at once if the workspace is in use, its limits are fresh and the pools hold enough: no I/O,
    /// nothing awaited. `None` means that [`admit`](Self::admit) has to decide.
    #[inline]
    pub(crate) fn try_admit(
        self: &Arc<Self>,
        workspace: &str,
        demands: impl Iterator<Item = Demand>,
    ) -> Option<Reservation> {
        let reservation = self.try_take(workspace, demands)?;
        for unit in reservation.units() {
            self.metrics.admitted(unit.resource());
        }
        Some(reservation)
    }

    /// Takes units for new rows as [`try_admit`](Self::try_admit) does, as a part of a decision.
    #[inline]
    fn try_take(self: &Arc<Self>, workspace: &str, mut demands: impl Iterator<Item = Demand>) -> Option<Reservation> {
        if self.replica.as_ref().is_some_and(|replica| !replica.is_alive()) {
            return None;
        }
        let tenant = self.tenants.get(workspace)?;
        if tenant.is_special() {
            return None;
        }
        match self.age(&tenant) {
            Age::Fresh => {}
            Age::Due => self.refresh_behind(&tenant),
            Age::Expired => return None,
        }
        let Some(first) = demands.next() else { return Some(Reservation::nothing()) };
        let mut units = Units::None;
        for demand in demands {
            // What was taken before goes back by being dropped.
            units.push(Unit::try_take(Arc::clone(&tenant), demand)?);
        }
        units.push(Unit::try_take(tenant, first)?);
        Some(Reservation::of(units))
    }

    /// Decides about several charges, all or none. They must be sorted by resource type: one order for all, so that no
    /// two requests wait for each other.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        workspace: &WorkspaceId,
        charges: &[ResolvedCharge],
    ) -> Result<Decision, Error> {
        let begun = Stopwatch::start();
        let decision = self.decide(workspace, charges).await;
        self.measure(begun, charges, &decision);
        if let Ok(Decision::Refused(refusal)) = &decision {
            #[cfg(feature = "insight")]
            self.note_refusal(refusal);
            if self.shadowing.load(Ordering::Relaxed) {
                self.shadow_refused(refusal);
            }
        }
        decision
    }

    /// Tells what became of a decision, and how long it took. What becomes of a request when there is none is for its caller to
    /// say.
    fn measure(&self, begun: Stopwatch, charges: &[ResolvedCharge], decision: &Result<Decision, Error>) {
        match decision {
            Ok(Decision::Admitted(reservation)) => {
                self.metrics.took(begun, Outcome::Admitted);
                for charge in charges {
                    let resource = charge.resource;
                    let warned = reservation.warnings().iter().any(|warning| warning.resource.id() == resource);
                    self.metrics.decided(
                        resource,
                        match charge.existing {
                            _ if warned => Outcome::Warned,
                            Existing::No => Outcome::Admitted,
                            _ if reservation.makes(resource) => Outcome::Admitted,
                            _ => Outcome::Edited,
                        },
                    );
                }
            }
            Ok(Decision::Refused(refusal)) => {
                let outcome = Outcome::of_refusal(refusal);
                self.metrics.took(begun, outcome);
                self.metrics.decided(refusal.resource.id(), outcome);
            }
            Err(_) => self.metrics.took(begun, Outcome::Failed),
        }
    }

    /// A request is answered with an error, since nothing could be decided.
    pub(crate) fn not_decided(&self, charges: &[ResolvedCharge], error: &Error) {
        for charge in charges {
            self.metrics.decided(charge.resource, Outcome::of_error(error));
        }
    }

    async fn decide(self: &Arc<Self>, workspace: &WorkspaceId, charges: &[ResolvedCharge]) -> Result<Decision, Error> {
        if charges.iter().any(|charge| charge.existing != Existing::No) {
            return self.admit_upsert(workspace, charges).await;
        }
        let demands: Vec<_> = charges.iter().map(ResolvedCharge::demand).collect();
        Ok(match self.take_all(workspace, &demands).await? {
            Ok(reservation) => Decision::Admitted(reservation),
            Err(refusal) => refuse(refusal),
        })
    }

    /// Decides about charges some of whose rows may exist: edits, which cost nothing.
    ///
    /// No request waits in a queue while it holds edits, since they can be in the way of its own new rows. So it looks
    /// which rows exist, takes units for the others, and looks again.
    async fn admit_upsert(
        self: &Arc<Self>,
        workspace: &WorkspaceId,
        charges: &[ResolvedCharge],
    ) -> Result<Decision, Error> {
        // What was new when last looked for: the next try is for no less, so that trying comes to an end.
        let mut least = vec![0; charges.len()];
        let mut refused: Option<(u64, Refusal)> = None;
        let mut last_try = false;
        loop {
            let look = self.look(workspace, charges).await?;
            if let Some((new, refusal)) = refused.take() {
                if total(&look.new) >= new {
                    return Ok(refuse(refusal));
                }
                last_try = true;
            }
            let new: Vec<u64> = look.new.iter().zip(&least).map(|(new, least)| *new.max(least)).collect();
            let demands = merged(&demands(charges, &new));
            if let Some(reservation) = self.try_take(workspace.as_str(), demands.iter().copied()) {
                return Ok(Decision::Admitted(reservation.and(look.edits)));
            }
            drop(look.edits);
            let mut reservation = match self.take_all(workspace, &demands).await? {
                Ok(reservation) => reservation,
                Err(refusal) if last_try => return Ok(refuse(refusal)),
                Err(refusal) => {
                    // Another request may have made a row meanwhile, which this one would only edit: look once more.
                    refused = Some((total(&new), refusal));
                    least.fill(0);
                    continue;
                }
            };
            let look = self.look(workspace, charges).await?;
            if reservation.shrink_to(&merged(&self::demands(charges, &look.new))) {
                return Ok(Decision::Admitted(reservation.and(look.edits)));
            }
            // Rows are gone meanwhile, which this request makes anew.
            least = look.new;
        }
    }

    /// Takes units for all demands, or answers the first refusal. In a mode that lets requests pass, it takes what is over
    /// the limit too, with a warning.
    async fn take_all(
        self: &Arc<Self>,
        workspace: &WorkspaceId,
        demands: &[Demand],
    ) -> Result<Result<Reservation, Refusal>, Error> {
        let (mut units, mut warnings) = (Units::None, Vec::new());
        // One demand for each key: two that each hold a part of what they need would wait for each other.
        for demand in merged(demands) {
            let own = match self.take_or_pass(workspace, workspace, demand, &mut warnings).await? {
                Ok(unit) => unit,
                Err(refusal) => return Ok(Err(refusal)),
            };
            self.cover(&own).await?;
            let limits = own.tenant().filter(|tenant| tenant.is_special()).and_then(|tenant| tenant.limits());
            units.push(own);
            // From the workspace up, which is one order for all below the same top.
            for books in Self::charged_above(limits.as_ref(), demand.resource) {
                match self.take_or_pass(&books, workspace, demand, &mut warnings).await? {
                    Ok(unit) => units.push(unit),
                    Err(refusal) => return Ok(Err(refusal)),
                }
            }
            if let Some(limits) = limits {
                self.heed_grace(workspace, demand, &limits, &mut warnings).await?;
            }
        }
        Ok(Ok(Reservation::warned(units, warnings.into_boxed_slice())))
    }

    /// Takes units in the books of `of`, for new rows of `workspace`: what is over the limit only in a mode that lets it
    /// pass.
    async fn take_or_pass(
        self: &Arc<Self>,
        of: &WorkspaceId,
        workspace: &WorkspaceId,
        demand: Demand,
        warnings: &mut Vec<Refusal>,
    ) -> Result<Result<Unit, Refusal>, Error> {
        let mut graced = false;
        loop {
            let mode = match self.fresh(workspace).await?.limits() {
                Some(limits) => self.mode_of(Some(&limits), demand.resource),
                None => self.mode(),
            };
            if mode == EnforcementMode::Off {
                return self.take_anyway(of, demand).await.map(Ok);
            }
            let refusal = match self.take(of, demand, mode).await {
                Ok(unit) => return Ok(Ok(unit)),
                Err(Denial::Failed(error)) => return Err(error),
                // `take` begins anew then.
                Err(Denial::Retired) => return Err(cut_off()),
                Err(Denial::Over(standing)) => {
                    let own = of == workspace && mode == EnforcementMode::Enforce && !graced;
                    if own && self.begin_grace(workspace, demand, standing).await? {
                        graced = true;
                        continue;
                    }
                    self.refusal(of, workspace, demand, standing)
                }
                Err(Denial::Blocked(standing)) => self.blocked(of, workspace, demand, standing),
            };
            if mode.refuses() {
                return Ok(Err(refusal));
            }
            tracing::warn!(
                workspace = %workspace,
                resource_type = refusal.resource.name(),
                current_usage = refusal.current_usage,
                limit = refusal.limit,
                requested = refusal.requested,
                "quota exceeded: passes, as the mode says"
            );
            let unit = self.take_anyway(of, demand).await?;
            let receipt = DecisionReceipt { admitted: true, ..refusal.receipt };
            warnings.push(Refusal { receipt, ..refusal });
            return Ok(Ok(unit));
        }
    }

    /// Finds out which rows of the charges exist, and begins to edit those.
    async fn look(self: &Arc<Self>, workspace: &WorkspaceId, charges: &[ResolvedCharge]) -> Result<Look, Error> {
        let mut look = Look { new: Vec::with_capacity(charges.len()), edits: Units::None };
        for charge in charges {
            let edited = self.begin_edits(workspace, charge, &mut look.edits).await?;
            look.new.push(charge.units.saturating_sub(edited));
        }
        Ok(look)
    }

    /// Finds out which rows of a charge exist already, and begins to edit them; answers how many units they are.
    ///
    /// An edit is in the books too: its row may be deleted and counted as gone before the edit makes it anew. It begins
    /// before the rows are looked up, so that no count can come between.
    async fn begin_edits(
        self: &Arc<Self>,
        workspace: &WorkspaceId,
        charge: &ResolvedCharge,
        units: &mut Units,
    ) -> Result<u64, Error> {
        let resource = charge.resource;
        let (column, values, uncounted) = match &charge.existing {
            Existing::No => return Ok(0),
            Existing::Row { column, value, uncounted } => (column, std::slice::from_ref(value), *uncounted),
            Existing::Rows { column, values } => (column, values.as_slice(), false),
        };
        let mut announced = vec![self.begin_edit(workspace, charge).await?];
        let limits = announced[0].tenant().and_then(|tenant| tenant.limits());
        for books in Self::charged_above(limits.as_ref(), resource) {
            announced.push(self.begin_edit(&books, charge).await?);
        }
        let resource_type = self.catalog.get(resource);
        let look_up = || match uncounted {
            true => self.usage.existing_or_uncounted(workspace, resource_type, column, values),
            false => self.usage.existing(workspace, resource_type, column, values),
        };
        let found = self.within("look up existing rows", look_up).await?;
        let found = found.iter().filter(|exists| **exists).count();
        let edits = match &charge.existing {
            Existing::Row { .. } if found > 0 => charge.units,
            _ => u64::try_from(found).unwrap_or(u64::MAX).min(charge.units),
        };
        for mut edit in announced {
            edit.shrink_to(edits);
            if edits > 0 {
                units.push(edit);
            }
        }
        Ok(edits)
    }

    /// Begins to edit rows, as far as the books of `of` are concerned.
    async fn begin_edit(self: &Arc<Self>, of: &WorkspaceId, charge: &ResolvedCharge) -> Result<Unit, Error> {
        let resource = charge.resource;
        loop {
            let tenant = self.fresh(of).await?;
            let Some(key) = tenant.use_key(resource).filter(|key| key.cell.begin_edit(charge.units)) else { continue };
            let edit = Unit::edit(Arc::clone(&tenant), resource, charge.units);
            if self.announce(&tenant, resource, key).await? {
                return Ok(edit);
            }
        }
    }

    /// Takes units for new rows, by way of the queue if the pool has too few.
    async fn take(
        self: &Arc<Self>,
        workspace: &WorkspaceId,
        demand: Demand,
        mode: EnforcementMode,
    ) -> Result<Unit, Denial> {
        loop {
            // First the limits: the store prepares the tables of the ledger, too.
            let tenant = self.fresh(workspace).await.map_err(Denial::Failed)?;
            self.leases().await.map_err(Denial::Failed)?;
            // Out of use since it was looked up: there is another one by now, or will be.
            let Some(key) = tenant.use_key(demand.resource) else { continue };
            if key.cell.try_take(demand.units).is_some() {
                return Ok(Unit::taken(Arc::clone(&tenant), demand.resource, demand.units));
            }
            // Before there is a queue, since who is in it may have rows counted at once.
            let full = self.metrics.is_on() && key.cell.standing().would_exceed(demand.units);
            let (answer, verdict) = oneshot::channel();
            // A request that passes anyway need not wait for others.
            let patience = if mode.refuses() { self.config.max_wait } else { Duration::ZERO };
            let deadline = Instant::now() + patience;
            match key.cell.admit(demand.units, Waiter { answer, units: demand.units, deadline, span: Span::current() })
            {
                Admission::Granted => return Ok(Unit::taken(Arc::clone(&tenant), demand.resource, demand.units)),
                Admission::Retired => continue,
                // It may be over the limit whatever those do who are waited for: a count is to tell now.
                Admission::Queued { resolve: false } => key.wake.notify_one(),
                Admission::Queued { resolve: true } => {
                    let duty = Duty { tenant: Arc::clone(&tenant), resource: demand.resource, discharged: false };
                    self.runtime.spawn(resolve(Arc::clone(self), duty));
                }
            }
            let leaving = WakeOnDrop(key);
            let verdict = verdict.await;
            drop(leaving);
            return match verdict {
                Ok(Err(Denial::Retired)) => continue,
                Ok(verdict) => {
                    if full && verdict.is_ok() {
                        self.metrics.refusal_averted(demand.resource);
                    }
                    verdict
                }
                Err(_) => Err(Denial::Failed(cut_off())),
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

    /// Lets a request pass that could not be decided about, and keeps its units in the bound.
    pub(crate) fn admit_undecided(&self, workspace: &WorkspaceId, charges: &[ResolvedCharge]) -> Reservation {
        // Its rows may be counted by nobody else.
        self.look_again(workspace);
        let mut units = Units::None;
        for demand in charges.iter().map(ResolvedCharge::demand) {
            self.metrics.decided(demand.resource, Outcome::Undecided);
            let own = self.force(workspace, demand);
            let limits = own.tenant().and_then(|tenant| tenant.limits());
            units.push(own);
            for books in Self::charged_above(limits.as_ref(), demand.resource) {
                units.push(self.force(&books, demand));
            }
        }
        Reservation::of(units)
    }

    /// Takes units in the books of `of`, whatever their limit.
    pub(crate) fn force(&self, of: &WorkspaceId, demand: Demand) -> Unit {
        loop {
            let tenant = self.tenants.get_or_create(of);
            if tenant.use_key(demand.resource).is_some_and(|key| key.cell.force(demand.units)) {
                return Unit::taken(tenant, demand.resource, demand.units);
            }
        }
    }

    /// Rows were deleted.
    pub(crate) fn deleted(self: &Arc<Self>, workspace: &WorkspaceId, demands: impl Iterator<Item = Demand> + Clone) {
        demands.clone().for_each(|demand| self.untally(workspace, demand));
        self.may_be_deleted(workspace, demands);
    }

    /// Rows may have been deleted: whoever waits for room should look again.
    pub(crate) fn may_be_deleted(&self, workspace: &WorkspaceId, demands: impl Iterator<Item = Demand>) {
        let tenant = self.tenants.get(workspace.as_str());
        let limits = tenant.as_ref().filter(|tenant| tenant.is_special()).and_then(|tenant| tenant.limits());
        for demand in demands {
            let above = Self::charged_above(limits.as_ref(), demand.resource);
            let above = above.iter().filter_map(|books| self.tenants.get(books.as_str()));
            for tenant in above.chain(tenant.clone()) {
                if let Some(key) = tenant.key(demand.resource) {
                    key.wake_if(key.cell.delete(demand.units));
                }
            }
        }
    }

    /// The refusal of a demand for rows of `workspace` that is over the limit of the books of `of` together with the rows.
    pub(crate) fn refusal(
        &self,
        of: &WorkspaceId,
        workspace: &WorkspaceId,
        demand: Demand,
        standing: Standing,
    ) -> Refusal {
        let limit = standing.limit.unwrap_or(u64::MAX);
        let rows = standing.counted.unwrap_or(0);
        Refusal {
            workspace: workspace.clone(),
            resource: Arc::clone(self.catalog.get(demand.resource)),
            current_usage: rows,
            limit,
            requested: demand.units,
            remaining: limit.saturating_sub(rows),
            cap: of.top(),
            reserved: None,
            retry_after: None,
            receipt: self.refusal_receipt(of, demand, standing),
        }
    }

    /// The refusal of a demand that only requests in flight stand in the way of.
    pub(crate) fn blocked(
        &self,
        of: &WorkspaceId,
        workspace: &WorkspaceId,
        demand: Demand,
        standing: Standing,
    ) -> Refusal {
        Refusal {
            remaining: standing.remaining,
            // What was posted since the last count may or may not be rows: a count is to tell.
            reserved: Some(standing.reserved.saturating_add(standing.posted)),
            retry_after: Some(self.config.max_wait),
            ..self.refusal(of, workspace, demand, standing)
        }
    }

    /// Counts the rows of a key; exactly where there are more than `limit`, or no limit is given.
    pub(crate) async fn count(&self, tenant: &Tenant, resource: ResourceId, limit: Option<u64>) -> Result<u64, Error> {
        let at_most = limit.map(|limit| limit.saturating_add(1));
        let Some(top) = tenant.id.top() else {
            let rows = self.count_rows(&tenant.id, resource, at_most).await?;
            return match at_most {
                // Above the limit the bounded count stopped early, and a refusal should tell how many there are.
                Some(at_most) if rows >= at_most => self.count_rows(&tenant.id, resource, None).await,
                _ => Ok(rows),
            };
        };
        let members = self.within("read who is below", || self.store.inner().members(&top)).await?;
        let mut rows = 0_u64;
        for member in &members {
            rows = rows.saturating_add(self.count_rows(member, resource, None).await?);
        }
        Ok(rows)
    }

    pub(crate) async fn count_rows(
        &self,
        workspace: &WorkspaceId,
        resource: ResourceId,
        at_most: Option<u64>,
    ) -> Result<u64, Error> {
        let count = || self.usage.count(workspace, self.catalog.get(resource), at_most);
        let rows = self.within("count rows", count).await?;
        self.metrics.counted(resource);
        Ok(rows)
    }

    /// Waits until this replica may hand out units, where an authority elsewhere grants them.
    async fn leases(&self) -> Result<(), Error> {
        match &self.replica {
            Some(replica) if !replica.is_alive() => self.within("reach the ledger", || replica.ready()).await.map(drop),
            _ => Ok(()),
        }
    }

    /// Tells the authority that an edit has begun, before its row is looked up. `false` when the lease has ended.
    async fn announce(self: &Arc<Self>, tenant: &Arc<Tenant>, resource: ResourceId, key: &Key) -> Result<bool, Error> {
        let Some(ask) = key.cell.report(false) else { return Ok(true) };
        let told = self.ask(tenant, resource, key, &ask).await?;
        if let Some((answer, _)) = &told {
            key.wake_if(key.cell.reported(&ask, answer));
        }
        Ok(told.is_some())
    }

    /// Asks the authority; has rows counted where it can't count them itself. Answers what it said, and how many rows it
    /// believed in before a count. `None` when the lease has ended: the tenant is out of use then.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        tenant: &Arc<Tenant>,
        resource: ResourceId,
        key: &Key,
        ask: &Ask,
    ) -> Result<Option<(Answer, Option<u64>)>, Error> {
        let (Some(replica), Some(lease)) = (&self.replica, key.lease()) else { return Ok(None) };
        if self.tallies.has(resource) {
            // What was deleted has made room.
            self.tell_deletes(&tenant.id, resource).await?;
            if tenant.id.top().is_some() {
                // What it is told of has to be told of below first, where it is counted.
                self.within("tell the ledger", || self.flush_key(&tenant.id, resource)).await?;
            }
        }
        let resource_type = self.catalog.get(resource);
        let mut counted = None;
        loop {
            let (me, beats) = self.within("reach the ledger", || replica.ready()).await?;
            if tenant.retired() {
                // Its lease has ended, or is about to: it must not begin anew, least of all under another replica's id.
                return Ok(None);
            }
            let limits = tenant.limits();
            let of = LeaseOf {
                lease,
                replica: me,
                beats,
                workspace: &tenant.id,
                resource: resource_type,
                replicas: replica.peers(),
                charges: &Self::charged_above(limits.as_ref(), resource),
                grace: self.mode_of(limits.as_ref(), resource) != EnforcementMode::Strict,
            };
            let ask = || replica.authority.ask(of, ask, &*self.usage, counted);
            match self.within("ask the ledger", ask).await? {
                Reply::Answer { answer, believed, breach } => {
                    // What it has others count was told of there.
                    if answer.counted && counted.is_none() {
                        self.metrics.counted(resource);
                    }
                    if breach > 0 {
                        self.breaches.fetch_add(breach, Ordering::Relaxed);
                        self.metrics.breached(resource, breach);
                        tracing::error!(
                            workspace = %tenant.id,
                            resource_type = resource_type.name(),
                            rows = answer.known.counted,
                            breach,
                            "more rows than the ledger allowed: something creates them around it"
                        );
                    }
                    return Ok(Some((answer, believed)));
                }
                Reply::Count(mark) => counted = Some((mark, self.count(tenant, resource, mark.limit).await?)),
                Reply::Moved => {
                    self.store.forget(&tenant.id);
                    self.tenants.give_up(tenant);
                    replica.parted();
                    return Ok(None);
                }
                Reply::Dead => {
                    replica.suspect();
                    self.metrics.leases_lost(tenant.keys().count());
                    self.tenants.give_up(tenant);
                    return Ok(None);
                }
            }
        }
    }

    /// Nothing waits forever, and a panic in the host's code is a failure like any other.
    pub(crate) async fn within<T, F>(&self, what: &str, work: impl FnOnce() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        guarded(what, &self.metrics, self.config.io_timeout, work).await
    }
}

/// The same for calls that may take another time, and that don't hold the engine; see [`Inner::within`].
pub(super) async fn guarded<T, F>(
    what: &str,
    metrics: &Metrics,
    longest: Duration,
    work: impl FnOnce() -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut work = pin!(async { work().await });
    let caught = poll_fn(|context| {
        // After a panic nothing of it is used again: it is only dropped.
        catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)))
            .unwrap_or_else(|_| Poll::Ready(Err(Error::unavailable(format!("panic: could not {what}")))))
    });
    let span = spans::call(what);
    match timeout(longest, caught).instrument(span.clone()).await {
        Ok(done) => done.inspect_err(|error| {
            metrics.failed(what, error);
            spans::call_failed(&span, "failure", error);
        }),
        Err(_) => {
            let error = Error::unavailable(format!("time-out: could not {what} within {longest:?}"));
            metrics.timed_out(what);
            spans::call_failed(&span, "timeout", &error);
            Err(error)
        }
    }
}

/// The demand of each charge, where `new` of its rows don't exist.
fn demands(charges: &[ResolvedCharge], new: &[u64]) -> Vec<Demand> {
    charges.iter().zip(new).map(|(charge, units)| Demand::new(charge.resource, *units)).collect()
}

fn total(units: &[u64]) -> u64 {
    units.iter().fold(0, |total, units| total.saturating_add(*units))
}

fn cut_off() -> Error {
    Error::unavailable("the count was cut off before it was done")
}

fn refuse(refusal: Refusal) -> Decision {
    tracing::info!(
        workspace = %refusal.workspace,
        resource_type = refusal.resource.name(),
        current_usage = refusal.current_usage,
        limit = refusal.limit,
        requested = refusal.requested,
        "quota exceeded: refused"
    );
    refusal.receipt.log();
    Decision::Refused(refusal)
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
async fn resolve(quota: Arc<Inner>, mut duty: Duty) {
    let (tenant, resource) = (Arc::clone(&duty.tenant), duty.resource);
    let Some(key) = tenant.key(resource) else { return };
    let mut verdicts = Vec::new();
    loop {
        let step = key.cell.step(&mut verdicts);
        deliver(&tenant, resource, &mut verdicts);
        match step {
            Step::Done => break,
            // It is done for all who wait, and told as a part of what the first of them does.
            Step::Count(round) => {
                let count = count_round(&quota, &tenant, resource, key, &round, &mut verdicts);
                count.instrument(first_of(key)).await;
            }
            Step::Ask(ask) => {
                let asking = ask_round(&quota, &tenant, resource, key, &ask, &mut verdicts);
                asking.instrument(first_of(key)).await;
            }
            Step::Wait => {
                let deadline = key.cell.peek(|waiter| waiter.deadline).unwrap_or_else(Instant::now);
                tokio::select! {
                    biased;
                    () = key.wake.notified() => {}
                    () = sleep_until(deadline) => {}
                    () = sleep(ASK_AGAIN), if quota.replica.is_some() => {
                        key.cell.hint();
                    }
                }
            }
        }
        // After a count, too: changes that never stop must not keep anybody waiting.
        let now = Instant::now();
        key.cell.expire(|waiter| waiter.deadline <= now || waiter.answer.is_closed(), &mut verdicts);
        deliver(&tenant, resource, &mut verdicts);
    }
    duty.discharged = true;
}

/// What the first in a queue is a part of.
fn first_of(key: &Key) -> Span {
    key.cell.peek(|waiter| waiter.span.clone()).unwrap_or_else(Span::none)
}

/// How often who waits for units of other replicas asks for them, should notices get lost.
const ASK_AGAIN: Duration = Duration::from_millis(50);

async fn ask_round(
    quota: &Arc<Inner>,
    tenant: &Arc<Tenant>,
    resource: ResourceId,
    key: &Key,
    ask: &Ask,
    verdicts: &mut Vec<(Waiter, Verdict)>,
) {
    let begun = quota.clock.ticks();
    match quota.ask(tenant, resource, key, ask).await {
        Ok(Some((answer, _))) => {
            key.cell.answered(ask, &answer, verdicts);
            if answer.counted {
                key.cell.counted_at(begun);
            }
        }
        Ok(None) => {}
        Err(error) => {
            for waiter in key.cell.fail() {
                let _ = waiter.answer.send(Err(Denial::Failed(error.clone())));
            }
            if ask.need == 0 {
                // It gives up a place in the authority's queue, and must not be repeated without a pause.
                let _ = timeout(ASK_AGAIN, key.wake.notified()).await;
            }
        }
    }
}

async fn count_round(
    quota: &Inner,
    tenant: &Tenant,
    resource: ResourceId,
    key: &Key,
    round: &Round,
    verdicts: &mut Vec<(Waiter, Verdict)>,
) {
    // Transactions of a process that was here before may still commit.
    sleep_until(quota.first_count).await;
    let begun = quota.clock.ticks();
    match quota.count(tenant, resource, round.limit).await {
        Ok(rows) => {
            key.cell.counted_at(begun);
            key.cell.resolve(round, rows, verdicts);
        }
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
            Verdict::Granted => {
                // It may have waited for long.
                tenant.mark_used();
                Ok(Unit::taken(Arc::clone(tenant), resource, waiter.units))
            }
            Verdict::Over(standing) => Err(Denial::Over(standing)),
            Verdict::Blocked(standing) => Err(Denial::Blocked(standing)),
        };
        // A waiter that has left gives its units back: they come back with the answer, and are dropped.
        let _ = waiter.answer.send(answer);
    }
}

/// The duty to resolve a queue. A resolver that ends early (a count that panics, a runtime that shuts down, even before
/// it began) leaves no queue behind.
struct Duty {
    tenant: Arc<Tenant>,
    resource: ResourceId,
    discharged: bool,
}

impl Drop for Duty {
    fn drop(&mut self) {
        if let Some(key) = self.tenant.key(self.resource).filter(|_| !self.discharged) {
            key.cell.abort();
        }
    }
}
