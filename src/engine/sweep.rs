//! Whether thresholds are reached where nobody is at work: rows of a process that died before it looked, or that were made
//! around the engine, and limits that are others' affair.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use jiff::Timestamp;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep};

use super::listing::Listing;
use super::watch::EVERY;
use super::{Inner, RETRY};
use crate::decision::Usage;
use crate::error::Error;
use crate::events::Marks;
use crate::mode::EnforcementMode;
use crate::store::QuotaStore;
use crate::usage::WorkspaceUsage;
use crate::workspace::WorkspaceId;

/// How many workspaces are looked at in one step.
const STEP: usize = 500;

/// When all workspaces are looked at, in use or not. It takes its time, and workspaces in use don't wait for it.
pub(super) struct Sweeps {
    due: Option<Instant>,
    running: JoinSet<Result<(), Error>>,
}

impl Sweeps {
    /// The first is not before transactions have ended that a process before this one may have left.
    pub(super) fn of(quota: &Inner) -> Self {
        Self { due: quota.config.sweep_every.map(|_| quota.first_count), running: JoinSet::new() }
    }

    /// Begins what is due, and takes note of what has ended.
    pub(super) fn go_on(&mut self, quota: &Arc<Inner>) {
        while let Some(ended) = self.running.try_join_next() {
            self.ended(quota, ended);
        }
        if !self.running.is_empty() || quota.config.sweep_every.is_none() {
            return;
        }
        let asked = quota.sweep.swap(false, Ordering::Relaxed);
        if asked || self.due.is_some_and(|due| due <= Instant::now()) {
            self.due = None;
            self.running.spawn(sweep(Arc::downgrade(quota)));
        }
    }

    fn ended(&mut self, quota: &Inner, ended: Result<Result<(), Error>, JoinError>) {
        let now = Instant::now();
        self.due = match ended {
            Ok(Ok(())) => quota.config.sweep_every.map(|every| now + every),
            Ok(Err(error)) if error.is_config() => {
                tracing::info!(error = %error, "thresholds are looked at only where workspaces are in use");
                None
            }
            Ok(Err(error)) => {
                tracing::warn!(error = %error, "the thresholds of all workspaces can't be looked at now");
                Some(now + RETRY * 10)
            }
            Err(panic) => {
                tracing::error!(error = %panic, "the thresholds of all workspaces could not be looked at");
                Some(now + RETRY * 10)
            }
        };
    }
}

impl Inner {
    /// All workspaces are to be looked at soon.
    pub(super) fn sweep_soon(&self) {
        self.sweep.store(true, Ordering::Relaxed);
    }

    /// Those of some workspaces that don't seem to be where their marks say. Where any threshold was reached, they are noted.
    async fn differing(
        &self,
        usage: &[WorkspaceUsage],
        reached: &mut HashSet<String>,
    ) -> Result<Vec<WorkspaceId>, Error> {
        let (Some(thresholds), Some(events)) = (&self.config.thresholds, self.store.inner().events()) else {
            return Ok(Vec::new());
        };
        // Rows that spell it in another way are none of a workspace: no count finds them.
        let parsed = |raw: &str| self.config.workspace_format.parse(raw).ok().filter(|parsed| parsed.as_str() == raw);
        let usage: Vec<_> = usage.iter().filter_map(|usage| Some((parsed(&usage.workspace)?, &usage.rows))).collect();
        let names: Vec<_> = usage.iter().map(|(workspace, _)| workspace.as_str()).collect();
        let marks = self.within("read thresholds", || events.marks(&names)).await?;
        let of_reached = marks.iter().filter(|(_, _, marks)| marks.any());
        reached.extend(of_reached.map(|(workspace, ..)| workspace.clone()));
        let marks: HashMap<_, _> =
            marks.into_iter().map(|(workspace, resource, marks)| ((workspace, resource), marks)).collect();
        let mut differing = Vec::new();
        for (workspace, rows) in usage {
            let lineage = self.within("read the record", || self.store.inner().lineage(&workspace)).await?;
            let now = Timestamp::now();
            let differ = self.catalog.iter().zip(rows).zip(thresholds).any(|((resource, rows), thresholds)| {
                let usage = Usage { current: *rows, limit: lineage.limit(resource, now) };
                let key = (workspace.as_str().to_owned(), resource.name().to_owned());
                let marks = marks.get(&key).copied().unwrap_or_else(Marks::default);
                thresholds.differ(&marks, usage, now)
            });
            if differ {
                differing.push(workspace);
            }
        }
        Ok(differing)
    }

    /// Workspaces in which any threshold is marked as reached, behind `after`.
    async fn reached(&self, after: &str) -> Result<Vec<String>, Error> {
        let Some(events) = self.store.inner().events() else { return Ok(Vec::new()) };
        self.within("read thresholds", || events.reached(after, STEP)).await
    }
}

/// Has those workspaces looked at that don't seem to be where their marks say. The engine is held for some of them at a time: it
/// may end meanwhile.
async fn sweep(quota: Weak<Inner>) -> Result<(), Error> {
    let on = |quota: &Arc<Inner>| quota.mode() != EnforcementMode::Off;
    let Some(mut listing) = quota.upgrade().filter(on).map(|quota| Listing::new(&quota)) else { return Ok(()) };
    let mut reached = HashSet::new();
    loop {
        let page = listing.next().await?;
        if page.is_empty() {
            break;
        }
        for some in page.chunks(STEP) {
            let differing = match quota.upgrade() {
                Some(quota) => quota.differing(some, &mut reached).await?,
                None => return Ok(()),
            };
            for workspace in differing {
                look(&quota, &workspace).await;
            }
        }
    }
    // What was reached in a workspace that has no rows any more is to be armed again.
    let mut after = String::new();
    loop {
        let some = match quota.upgrade() {
            Some(quota) => quota.reached(&after).await?,
            None => return Ok(()),
        };
        for workspace in some.iter().filter(|workspace| !reached.contains(*workspace)) {
            let parsed = quota.upgrade().and_then(|quota| quota.config.workspace_format.parse(workspace).ok());
            if let Some(workspace) = parsed {
                look(&quota, &workspace).await;
            }
        }
        let Some(last) = some.last() else { return Ok(()) };
        after.clone_from(last);
    }
}

/// Has a workspace looked at when those that were asked for before have been.
async fn look(quota: &Weak<Inner>, workspace: &WorkspaceId) {
    while let Some(quota) = quota.upgrade() {
        if !quota.is_much_changed() {
            return quota.look_again(workspace);
        }
        drop(quota);
        sleep(EVERY).await;
    }
}
