//! Whether thresholds are reached: looked at off the path of requests, at workspaces that are in use.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Inner;
use super::sweep::Sweeps;
use super::tenant::Tenant;
use crate::decision::Usage;
use crate::error::Error;
use crate::events::{Marks, Notice, Threshold, Thresholds};
use crate::limit::Limit;
use crate::mode::EnforcementMode;
use crate::resource::ResourceId;
use crate::store::EventStore;
use crate::workspace::WorkspaceId;

/// How often it is looked.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// How long marks are good for that another process may change.
const GOOD_FOR: Duration = Duration::from_secs(60);

/// The same where several processes have units of the workspace, and none knows what the others make of them.
const SHARED_GOOD_FOR: Duration = Duration::from_secs(2);

/// How long after its last request a workspace is looked at: until all that it has made is in the books of all.
const AFTERWARDS: Duration = Duration::from_secs(15);

/// How many workspaces that were changed are looked at each time: each of them is counted, and those in use wait meanwhile.
const CHANGED: usize = 100;

/// How many of them wait at most. Where there are more, all workspaces are looked at instead.
const MOST_CHANGED: usize = 10_000;

/// After how many failures the rest is left for the next time: each may take as long as a call may, and one workspace that
/// can't be counted is not to keep the others waiting.
const FAILURES: usize = 8;

/// Workspaces that are to be looked at, each once, in the order in which that was asked for.
#[derive(Default)]
pub(super) struct Changed {
    order: VecDeque<WorkspaceId>,
    waiting: HashSet<WorkspaceId>,
}

impl Changed {
    /// Puts one behind all others, unless it waits already; `false` where there is no room for it.
    fn push(&mut self, workspace: &WorkspaceId) -> bool {
        if self.waiting.contains(workspace) {
            return true;
        }
        if self.order.len() >= MOST_CHANGED {
            return false;
        }
        self.waiting.insert(workspace.clone());
        self.order.push_back(workspace.clone());
        true
    }

    fn pop(&mut self) -> Option<WorkspaceId> {
        let first = self.order.pop_front()?;
        self.waiting.remove(&first);
        Some(first)
    }
}

/// What is known of a workspace that is in use.
pub(super) struct Seen {
    tenant: Arc<Tenant>,
    /// By resource type.
    marks: Box<[Marks]>,
    /// Rows by the books of all processes, where there are such.
    books: Box<[Option<u64>]>,
    /// Until when these are good.
    until: Instant,
    last_used: Instant,
    /// There is something to be told later.
    waits: bool,
    /// All resource types are counted once, those that are not in use too, whatever the books say.
    all: bool,
    /// It could not be looked at, and is the next time.
    failed: bool,
    #[cfg(feature = "dashboard")]
    pub(super) figures: super::overview::Figures,
}

impl Seen {
    fn new(tenant: &Arc<Tenant>, resources: usize, now: Instant) -> Self {
        Self {
            tenant: Arc::clone(tenant),
            marks: vec![Marks::default(); resources].into(),
            books: vec![None; resources].into(),
            until: now,
            last_used: now,
            waits: false,
            all: false,
            failed: false,
            #[cfg(feature = "dashboard")]
            figures: super::overview::Figures::new(resources),
        }
    }
}

/// Looks for as long as there is an engine.
pub(super) async fn watch(quota: Weak<Inner>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = HashMap::new();
    let mut failing = false;
    let Some(mut sweeps) = quota.upgrade().map(|quota| Sweeps::of(&quota)) else { return };
    loop {
        ticks.tick().await;
        let Some(quota) = quota.upgrade() else { return };
        sweeps.go_on(&quota);
        let (Some(thresholds), Some(events)) = (&quota.config.thresholds, quota.store.inner().events()) else { return };
        let looked = quota.look_at_thresholds(thresholds, events, &mut seen).await;
        // What wasn't seen now is seen the next time: once is enough to tell of it.
        if let Err(error) = &looked
            && !failing
        {
            tracing::error!(error = %error, "whether thresholds are reached can't be told now");
        }
        failing = looked.is_err();
    }
}

impl Inner {
    async fn look_at_thresholds(
        self: &Arc<Self>,
        thresholds: &[Thresholds],
        events: &dyn EventStore,
        seen: &mut HashMap<WorkspaceId, Seen>,
    ) -> Result<(), Error> {
        let now = Instant::now();
        let (mut failed, mut again) = (Vec::new(), Vec::new());
        for _ in 0..CHANGED {
            if failed.len() >= FAILURES {
                break;
            }
            let Some(id) = self.next_changed() else { break };
            match self.fresh(&id).await {
                Ok(tenant) => {
                    seen.entry(id).or_insert_with(|| Seen::new(&tenant, thresholds.len(), now)).all = true;
                }
                // There is nothing to be told of it.
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    again.push(id);
                    failed.push(error);
                }
            }
        }
        again.iter().for_each(|id| self.look_again(id));
        for tenant in self.tenants.take_active() {
            if tenant.id.top().is_some() {
                continue;
            }
            let known = seen.entry(tenant.id.clone()).or_insert_with(|| Seen::new(&tenant, thresholds.len(), now));
            (known.tenant, known.last_used) = (tenant, now);
        }
        self.read_marks(events, seen, now).await?;
        let mut due = Vec::new();
        for known in seen.values_mut() {
            (known.waits, known.failed) = (false, false);
            for resource in self.catalog.iter().map(|resource| resource.id()) {
                // What the books say may be the very thing that is wrong there.
                let usage = match known.all {
                    false => self.usage_by_the_books(known, resource),
                    true if failed.len() >= FAILURES => {
                        known.failed = true;
                        None
                    }
                    true => self.usage_by_a_count(&known.tenant, resource).await.unwrap_or_else(|error| {
                        known.failed = true;
                        failed.push(error);
                        None
                    }),
                };
                let Some(usage) = usage else { continue };
                #[cfg(feature = "dashboard")]
                known.figures.take(resource, usage);
                let (thresholds, marks) = (&thresholds[resource.index()], &known.marks[resource.index()]);
                if thresholds.differ(marks, usage, Timestamp::now()) {
                    due.push((known.tenant.id.clone(), resource));
                }
                known.waits |= thresholds.waits(marks, usage);
            }
            // What could not be counted is counted the next time.
            known.all = known.failed;
        }
        for (workspace, resource) in due {
            let judged = match failed.len() {
                ..FAILURES => Some(self.judge(&thresholds[resource.index()], events, &workspace, resource).await),
                _ => None,
            };
            let Some(known) = seen.get_mut(&workspace) else { continue };
            match judged {
                Some(Ok(marks)) => known.marks[resource.index()] = marks,
                Some(Err(error)) => {
                    known.failed = true;
                    failed.push(error);
                }
                None => known.failed = true,
            }
        }
        #[cfg(feature = "dashboard")]
        self.note_figures(seen, now).await;
        seen.retain(|_, known| {
            let in_use = now.duration_since(known.last_used) < AFTERWARDS || !known.tenant.is_idle();
            #[cfg(feature = "dashboard")]
            let in_use = in_use || known.figures.waits();
            in_use || known.waits || known.failed
        });
        failed.pop().map_or(Ok(()), Err)
    }

    /// Reads anew what is too old.
    async fn read_marks(
        &self,
        events: &dyn EventStore,
        seen: &mut HashMap<WorkspaceId, Seen>,
        now: Instant,
    ) -> Result<(), Error> {
        let old: Vec<_> = seen.iter().filter(|(_, known)| known.until <= now).map(|(id, _)| id.clone()).collect();
        if old.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = old.iter().map(WorkspaceId::as_str).collect();
        let marks = self.within("read thresholds", || events.marks(&names)).await?;
        let books = match &self.replica {
            Some(_) => self.within("read the books", || events.books(&names)).await?,
            None => Vec::new(),
        };
        for id in &old {
            let Some(known) = seen.get_mut(id) else { continue };
            known.marks.fill(Marks::default());
            known.books.fill(None);
            known.until = now + if self.replica.is_some() { SHARED_GOOD_FOR } else { GOOD_FOR };
        }
        for (workspace, name, marks) in marks {
            // Types that the catalog doesn't have any more may come back.
            let Ok(resource) = self.catalog.by_name(&name) else { continue };
            if let Some(known) = seen.get_mut(workspace.as_str()) {
                known.marks[resource.id().index()] = marks;
            }
        }
        for (workspace, name, rows) in books {
            let Ok(resource) = self.catalog.by_name(&name) else { continue };
            if let Some(known) = seen.get_mut(workspace.as_str()) {
                known.books[resource.id().index()] = Some(rows);
            }
        }
        Ok(())
    }

    /// The thresholds of a workspace are to be looked at, in use or not.
    pub(super) fn look_again(&self, workspace: &WorkspaceId) {
        if self.config.thresholds.is_some()
            && !self.changed.lock().unwrap_or_else(PoisonError::into_inner).push(workspace)
        {
            self.sweep_soon();
        }
    }

    fn next_changed(&self) -> Option<WorkspaceId> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Whether the next look has enough to do: whoever isn't in a hurry waits, so that others don't wait behind it.
    pub(super) fn is_much_changed(&self) -> bool {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).order.len() >= CHANGED
    }

    /// The limit that usage is held against, where it is enforced.
    fn limit_to_watch(&self, tenant: &Tenant, resource: ResourceId) -> Option<Limit> {
        let limits = tenant.limits()?;
        let enforced = self.mode_of(Some(&limits), resource) != EnforcementMode::Off;
        enforced.then(|| limits.base(resource))
    }

    async fn usage_by_a_count(&self, tenant: &Tenant, resource: ResourceId) -> Result<Option<Usage>, Error> {
        let Some(limit) = self.limit_to_watch(tenant, resource) else { return Ok(None) };
        let current = match limit {
            // No threshold is reached, whatever there is.
            Limit::Unlimited => 0,
            _ => self.count(tenant, resource, None).await?,
        };
        Ok(Some(Usage { current, limit }))
    }

    /// Rows and limit as far as they are known without a count; `None` where they are not.
    fn usage_by_the_books(&self, known: &Seen, resource: ResourceId) -> Option<Usage> {
        let limit = self.limit_to_watch(&known.tenant, resource)?;
        let own = known.tenant.key(resource).and_then(|key| {
            let standing = key.cell.standing();
            Some(standing.counted?.saturating_add(standing.posted))
        });
        let current = own.max(known.books[resource.index()])?;
        Some(Usage { current, limit })
    }

    /// Counts, and tells of what is reached then.
    async fn judge(
        self: &Arc<Self>,
        thresholds: &Thresholds,
        events: &dyn EventStore,
        workspace: &WorkspaceId,
        resource: ResourceId,
    ) -> Result<Marks, Error> {
        let tenant = self.fresh(workspace).await?;
        // First the books, so that one that they have wrong is not looked at again and again; then all rows, where the count
        // may have stopped above the limit.
        Self::recount_one(Arc::clone(self), Arc::clone(&tenant), resource).await?;
        let current = self.count(&tenant, resource, None).await?;
        let usage = Usage { current, limit: self.limits_of(&tenant)?.base(resource) };
        let resource = self.catalog.get(resource);
        let now = Timestamp::now();
        let judge = |marks: &mut Marks| {
            let told = thresholds.judge(marks, usage, now).into_iter();
            told.map(|threshold| Notice::new(workspace, resource.name(), threshold, usage, now)).collect()
        };
        let email = self.config.writes_to_admins;
        let (marks, notices) =
            self.within("tell of thresholds", || events.judge(workspace, resource.name(), email, &judge)).await?;
        for notice in &notices {
            self.metrics.noticed(notice.threshold);
            log(notice);
        }
        if !notices.is_empty() {
            self.told.notify_one();
        }
        Ok(marks)
    }
}

fn log(notice: &Notice) {
    let (workspace, resource_type) = (notice.workspace.as_str(), notice.resource_type.as_str());
    let (current_usage, limit) = (notice.usage.current, notice.usage.limit.rows());
    let percent_used = notice.usage.percent();
    let what = match notice.threshold {
        Threshold::Exceeded => "quota exceeded",
        Threshold::Critical => "quota nearly exceeded",
        Threshold::Warning => "quota warning",
    };
    tracing::warn!(
        workspace,
        resource_type,
        current_usage,
        limit,
        percent_used,
        threshold = notice.threshold.as_str(),
        notice = %notice.id,
        "{what}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::WorkspaceFormat;

    #[test]
    fn who_waits_to_be_looked_at_is_bounded_and_first_come_first_served() {
        let id = |n: usize| WorkspaceFormat::Verbatim.parse(&format!("w{n}")).unwrap();
        let mut changed = Changed::default();
        for n in 0..MOST_CHANGED {
            assert!(changed.push(&id(n)));
        }
        assert!(changed.push(&id(0)), "it waits already");
        assert!(!changed.push(&id(MOST_CHANGED)));
        let order: Vec<_> = std::iter::from_fn(|| changed.pop()).collect();
        assert_eq!(order, (0..MOST_CHANGED).map(id).collect::<Vec<_>>());
        assert!(changed.push(&id(0)), "it doesn't wait any more");
        assert_eq!(changed.pop(), Some(id(0)));
    }
}
